//! What the program `storm` and the suite that starts it agree on.

use std::net::{Ipv4Addr, SocketAddrV4};

/// Addresses for benchmarks (RFC 2544), which lead nowhere.
const NETWORK: u32 = 0xc612_0000;
const FIRST_PORT: u32 = 1024;
const PORTS: u32 = 1 << 15;
/// Connections of one process.
pub const BATCH: u32 = 40;
/// Numbers that have an address of their own.
pub const MAX_NUMBER: u32 = PORTS << 16;

/// What was true of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    pub number: u32,
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    pub source_port: u16,
    /// Nanoseconds of CLOCK_BOOTTIME around the connect.
    pub before: u64,
    pub after: u64,
}

impl Truth {
    pub fn line(&self) -> String {
        let Self { number, pid, uid, gid, source_port, before, after } = self;
        format!("{number} {pid} {uid} {gid} {source_port} {before} {after}\n")
    }

    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next();
        Some(Self {
            number: next()?.parse().ok()?,
            pid: next()?.parse().ok()?,
            uid: next()?.parse().ok()?,
            gid: next()?.parse().ok()?,
            source_port: next()?.parse().ok()?,
            before: next()?.parse().ok()?,
            after: next()?.parse().ok()?,
        })
    }
}

/// Where the connection with this number goes.
pub fn destination(number: u32) -> SocketAddrV4 {
    let port = u16::try_from(FIRST_PORT + number % PORTS).unwrap_or(u16::MAX);
    SocketAddrV4::new(Ipv4Addr::from_bits(NETWORK + number / PORTS), port)
}

/// The number of the connection that went there.
pub fn number_of(address: SocketAddrV4) -> Option<u32> {
    let host = address.ip().to_bits().checked_sub(NETWORK)?;
    Some(host * PORTS + u32::from(address.port()).checked_sub(FIRST_PORT)?)
}
