//! The gateway's side of the interception, without any privilege: takes the kernel's note off an accepted socket, finds
//! who sent a DNS query, reads refused connects from the ring buffer, and makes the listeners. Also the function that
//! gives up every privilege.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::origin::Origin;

/// The maps that the witness handed over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interceptor {
    maps: Arc<()>,
}

/// Why there is no origin. The caller resets the connection, or drops the query: never another source.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    #[error("the kernel attached no origin: the peer did not come through the interception")]
    Unattributed,
    #[error("the kernel's note is not for this peer: {0}")]
    Mismatch(&'static str),
    #[error("reading the kernel's note failed")]
    Map(#[source] io::Error),
}

impl Interceptor {
    /// The origin of an accepted connection. `peer` is what accept returned.
    pub fn origin(&self, accepted: BorrowedFd<'_>, peer: SocketAddr) -> Result<Origin, InterceptError> {
        let _ = (accepted, peer, &self.maps);
        Err(InterceptError::Unattributed)
    }

    /// The origin of a DNS query, whose `destination` is the resolver that the agent asked. `source` is the datagram's
    /// sender; `local` the address it was sent to (IP_PKTINFO): 127.64.0.0/10 or ::1.
    pub fn dns_origin(&self, source: SocketAddr, local: IpAddr) -> Result<Origin, InterceptError> {
        let _ = (source, local);
        Err(InterceptError::Unattributed)
    }

    /// Refused connects, as they happen. There is one reader: a second call is an error.
    pub fn denied_events(&self) -> io::Result<DeniedEvents> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Something that the kernel refused an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedEvent {
    /// `destination` is what the agent wanted to reach (unspecified where there was none, as for a socket type).
    pub origin: Origin,
    /// Stable word for records and counters: `udp`, `protocol`, `netns`, `socket_option` ...
    pub reason: &'static str,
    /// IP protocol number, 6 for TCP.
    pub protocol: u16,
}

/// The reader of the ring buffer.
#[derive(Debug)]
pub struct DeniedEvents {}

impl DeniedEvents {
    /// Waits for the next refused connect. Call it on a tokio runtime.
    pub async fn next(&mut self) -> io::Result<DeniedEvent> {
        std::future::pending().await
    }
}

/// `count` pairs of listeners (one pair a shard, SO_REUSEPORT) on 127.0.0.1 and ::1, non-blocking. The one on 127.0.0.1
/// also takes the v4-mapped connects of IPv6 sockets.
pub fn listeners(port: u16, count: usize) -> io::Result<Vec<[TcpListener; 2]>> {
    let _ = (port, count);
    Err(io::ErrorKind::Unsupported.into())
}

/// The resolver's two sockets: IPv4 for the whole of 127.64.0.0/10, bound to the loopback device, and ::1.
pub fn dns_sockets(port: u16) -> io::Result<[DnsSocket; 2]> {
    let _ = port;
    Err(io::ErrorKind::Unsupported.into())
}

/// A UDP socket that knows the address a query was sent to, and answers from it.
#[derive(Debug)]
pub struct DnsSocket {}

/// One received query.
#[derive(Clone, Copy, Debug)]
pub struct DnsPeer {
    pub source: SocketAddr,
    /// Where it was sent to: what [`Interceptor::dns_origin`] takes.
    pub local: IpAddr,
}

impl DnsSocket {
    /// Call it on a tokio runtime. Datagrams longer than the buffer are cut.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, DnsPeer)> {
        let _ = buffer;
        std::future::pending().await
    }

    /// Answers from the address that was asked.
    pub async fn send(&self, answer: &[u8], to: DnsPeer) -> io::Result<()> {
        let _ = (answer, to);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Gives up every privilege for good: supplementary groups, uid and gid, all capability sets and the bounding set, new
/// privileges by exec, core dumps and being traced. Call it before any thread is started.
pub fn drop_privileges(user: &str) -> io::Result<()> {
    let _ = user;
    Err(io::ErrorKind::Unsupported.into())
}
