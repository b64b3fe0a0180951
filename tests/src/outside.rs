//! The leak oracle: the agents' host is a network namespace of its own, whose only way out is one cable. At the other end
//! lies a second namespace with a server for every address and port that an attacker may try, and a capture of all
//! that arrives. What arrives and is not the gateway's is a leak.
//!
//! ```text
//! host namespace                                  outside namespace
//!   gateway ── 198.51.100.3 ─┐                       ┌─ 198.51.100.10  a target
//!   accomplice 198.51.100.4 ─┼─ wire ═══════ cable ──┼─ 198.51.100.66  the canary: no target, answers `direct`
//!   agents ─── 198.51.100.2 ─┘                       └─ 198.51.100.1   the router
//! ```
//!
//! The kernel gives the gateway's user and the accomplice's source addresses of their own (rules by uid), so that the
//! capture tells whose a packet is without trusting anybody. Neighbours are entered by hand and nobody solicits, so that
//! an idle host is silent: there is no noise to look past.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};

use crate::Result;
use crate::env::{GATEWAY_USER, user};
use crate::postgres::Network;
use crate::process::wait_until;

pub const ROUTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
pub const ACCOMPLICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 4);
pub const TARGET: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
pub const CANARY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
pub const ROUTER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const CANARY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66);
pub const HOST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
pub const ROUTER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The host's end of the cable, and the other one.
pub const WIRE: &str = "wire0";
const CABLE: &str = "cable0";
const WIRE_HARDWARE: &str = "02:00:00:00:00:02";
pub const CABLE_HARDWARE: &str = "02:00:00:00:00:01";
/// The user whom [`ACCOMPLICE`] belongs to. Debian has it.
pub const ACCOMPLICE_USER: &str = "daemon";

/// Frames that are kept; a leak is one.
const MAX_FRAMES: usize = 65_536;
const FRAME_BYTES: usize = 2048;

/// Two namespaces and a cable. They go with the process.
pub struct Outside {
    host: File,
    other_end: File,
    frames: Arc<Mutex<Vec<Frame>>>,
}

/// What arrived at the other end, as far as it can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub ether_type: u16,
    pub source: Option<IpAddr>,
    pub destination: Option<IpAddr>,
    pub protocol: u8,
    /// Destination port of TCP and UDP.
    pub port: u16,
    pub bytes: Vec<u8>,
}

impl Outside {
    /// Puts this thread on the agents' host: what it starts from now on, threads and processes, is there too. Call it first of
    /// all in a test. There is one such host for the whole process, made by the first call: the thread that starts the fixtures'
    /// processes stays where it was made.
    pub fn enter() -> Result<&'static Self> {
        static ONLY: Mutex<Option<&Outside>> = Mutex::new(None);
        let mut only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(world) = *only {
            setns(world.host.as_fd(), CloneFlags::CLONE_NEWNET)?;
            return Ok(world);
        }
        let world = &*Box::leak(Box::new(Self::lay()?));
        *only = Some(world);
        Ok(world)
    }

    /// Makes the namespaces and lays the cable.
    fn lay() -> Result<Self> {
        let (host, outside) = (namespace()?, namespace()?);
        setns(host.as_fd(), CloneFlags::CLONE_NEWNET)?;
        prepare()?;
        inside(&outside, prepare)?;
        lay_cable(&outside)?;
        inside(&outside, set_up_outside)?;
        set_up_host()?;
        let world = Self { host, other_end: outside, frames: Arc::default() };
        world.start_capture()?;
        world.wait_for_silence()?;
        Ok(world)
    }

    /// Runs something at the other end of the cable.
    pub fn outside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        inside(&self.other_end, work)
    }

    /// For servers of the other end: [`crate::postgres::Network`].
    pub fn network(&self, address: Ipv4Addr) -> Network {
        Network { namespace: self.other_end.as_raw_fd(), address }
    }

    /// A server at the other end that answers every line with `direct` and the line, on TCP, on a port of its own choice.
    pub fn answer_at(&self, address: Ipv4Addr) -> Result<u16> {
        let listener = self.outside(|| Ok(TcpListener::bind((address, 0))?))?;
        let port = listener.local_addr()?.port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer(stream));
            }
        });
        Ok(port)
    }

    /// Everything that has arrived since the last call.
    pub fn take(&self) -> Result<Vec<Frame>> {
        self.settle()?;
        Ok(std::mem::take(&mut *self.frames.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Until the capture has seen every packet that the device has counted.
    fn settle(&self) -> Result {
        wait_until("the capture", Duration::from_secs(5), || {
            let counted = self.outside(received);
            let seen = SEEN.load(Ordering::SeqCst);
            counted.is_ok_and(|counted| counted == seen)
        })
    }

    /// Reports of multicast groups follow the set-up for a while.
    fn wait_for_silence(&self) -> Result {
        let mut quiet = 0;
        wait_until("silence on the cable", Duration::from_secs(30), || {
            thread::sleep(Duration::from_millis(100));
            let frames = self.take().unwrap_or_default();
            quiet = if frames.is_empty() { quiet + 1 } else { 0 };
            quiet == 12
        })
    }

    fn start_capture(&self) -> Result {
        let (ready, started) = std::sync::mpsc::channel();
        let namespace = self.other_end.try_clone()?;
        let frames = Arc::clone(&self.frames);
        thread::spawn(move || {
            let opened = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into).and_then(|()| open_capture());
            match opened {
                Ok(socket) => {
                    drop(ready.send(Ok(())));
                    capture(&socket, &frames);
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
        started.recv()?
    }
}

/// A network namespace behind the agents' host, which forwards for it: a container's, say. It goes when it is dropped.
pub struct Branch {
    namespace: File,
    interface: u32,
}

impl Branch {
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
    const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
    /// The host's end, and the other one: one branch at a time.
    const ENDS: [&str; 2] = ["branch0", "eth0"];
    const HARDWARE: &str = "02:00:00:00:01:01";

    /// The caller's thread is on the agents' host ([`Outside::enter`]).
    pub fn new(_: &Outside) -> Result<Self> {
        let (namespace, [near, far]) = (self::namespace()?, Self::ENDS);
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        let other = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
        ip(&format!("link add {near} address {} type veth peer name {far} netns {other}", Self::HARDWARE))?;
        ip(&format!("addr add {}/24 dev {near}", Self::HOST))?;
        ip(&format!("link set {near} up"))?;
        let interface = inside(&namespace, || {
            ip(&format!("addr add {}/24 dev {far}", Self::ADDRESS))?;
            ip(&format!("link set {far} up"))?;
            ip(&format!("neigh add {} lladdr {} dev {far} nud permanent", Self::HOST, Self::HARDWARE))?;
            ip(&format!("route add default via {}", Self::HOST))?;
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
            Ok(nix::net::if_::if_nametoindex(far)?)
        })?;
        Ok(Self { namespace, interface })
    }

    /// For nsenter(1).
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd())
    }

    /// The device inside, by its number.
    pub fn interface(&self) -> u32 {
        self.interface
    }

    /// Where the host takes packets from there.
    pub fn hardware(&self) -> &str {
        Self::HARDWARE
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("link delete {}", Self::ENDS[0])) {
            eprintln!("left behind: {error}");
        }
    }
}

impl Frame {
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| bytes.get(at..at + 2).map_or(0, |word| u16::from_be_bytes([word[0], word[1]]));
        let mut frame =
            Self { ether_type: word(12), source: None, destination: None, protocol: 0, port: 0, bytes: bytes.to_vec() };
        let four = |at: usize| bytes.get(at..at + 4).and_then(|ip| <[u8; 4]>::try_from(ip).ok()).map(IpAddr::from);
        let sixteen = |at: usize| bytes.get(at..at + 16).and_then(|ip| <[u8; 16]>::try_from(ip).ok()).map(IpAddr::from);
        let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
        let header = match frame.ether_type {
            0x0800 => {
                (frame.source, frame.destination, frame.protocol) = (four(26), four(30), byte(23));
                14 + usize::from(byte(14) & 15) * 4
            }
            0x86dd => {
                (frame.source, frame.destination, frame.protocol) = (sixteen(22), sixteen(38), byte(20));
                54
            }
            _ => return frame,
        };
        if [6, 17].contains(&frame.protocol) {
            frame.port = word(header + 2);
        }
        frame
    }

    /// Whether these bytes are anywhere in it.
    pub fn holds(&self, what: &[u8]) -> bool {
        self.bytes.windows(what.len()).any(|window| window == what)
    }

    /// A packet of the gateway to the one target that there is.
    pub fn is_gateways(&self, port: u16) -> bool {
        self.source == Some(GATEWAY.into()) && self.destination == Some(TARGET.into()) && self.port == port
    }

    pub fn is_accomplices(&self) -> bool {
        self.source == Some(ACCOMPLICE.into())
    }
}

/// Frames that the capture has taken, kept or not.
static SEEN: AtomicU64 = AtomicU64::new(0);

fn open_capture() -> Result<std::os::fd::OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    // Whatever a burst brings: nothing may be lost unseen. `settle` would find it.
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    // What came before belongs to the set-up.
    SEEN.store(received()?, Ordering::SeqCst);
    Ok(socket)
}

fn capture(socket: &impl AsFd, frames: &Mutex<Vec<Frame>>) {
    const OUTGOING: u8 = 4;
    let mut buffer = [0u8; FRAME_BYTES];
    loop {
        let Ok((length, Some(from))) = recvfrom::<LinkAddr>(socket.as_fd().as_raw_fd(), &mut buffer) else { continue };
        // Its own answers, and its loopback device.
        if from.pkttype() == OUTGOING || from.hatype() == libc::ARPHRD_LOOPBACK {
            continue;
        }
        let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.len() < MAX_FRAMES {
            frames.push(Frame::read(&buffer[..length]));
        }
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
}

/// Packets that the cable's end has counted (proc_net_dev(5)).
fn received() -> Result<u64> {
    let devices = fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = devices.lines().find_map(|line| line.trim_start().strip_prefix(CABLE)?.strip_prefix(':'));
    let packets = line.and_then(|line| line.split_whitespace().nth(1)).ok_or("no counters of the cable")?;
    Ok(packets.parse()?)
}

fn answer(mut stream: TcpStream) {
    // Whoever asks may be gone at any moment.
    let mut line = [0u8; 256];
    if let Ok(length @ 1..) = stream.read(&mut line) {
        drop(stream.write_all(&[b"direct ", &line[..length]].concat()));
    }
}

fn namespace() -> Result<File> {
    let made = thread::spawn(|| -> Result<File> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?)
    });
    made.join().map_err(|_| "the thread that made a namespace panicked")?
}

/// Runs `work` on a thread in a namespace; processes that it starts are there, too.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let done = scope.spawn(|| -> Result<T> {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
            work()
        });
        done.join().map_err(|_| "a thread in another namespace panicked")?
    })
}

/// No address of its own choice, no solicitation, no search for duplicates.
fn prepare() -> Result {
    for (name, value) in [
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/router_solicitations", "0"),
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv4/ping_group_range", "0 2147483647"),
        ("net/ipv4/tcp_fastopen", "1027"),
    ] {
        fs::write(format!("/proc/sys/{name}"), value).map_err(|error| format!("{name}: {error}"))?;
    }
    ip("link set lo up")
}

fn lay_cable(outside: &File) -> Result {
    let other = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
    ip(&format!(
        "link add {WIRE} address {WIRE_HARDWARE} type veth peer name {CABLE} address {CABLE_HARDWARE} netns {other}"
    ))
}

fn set_up_outside() -> Result {
    ip(&format!("link set {CABLE} up"))?;
    for address in [ROUTER, TARGET, CANARY] {
        ip(&format!("addr add {address}/24 dev {CABLE}"))?;
    }
    for address in [ROUTER6, CANARY6, ROUTER_LINK_LOCAL] {
        ip(&format!("addr add {address}/64 dev {CABLE} nodad"))?;
    }
    for neighbour in [IpAddr::from(HOST), GATEWAY.into(), ACCOMPLICE.into(), HOST6.into(), HOST_LINK_LOCAL.into()] {
        ip(&format!("neigh add {neighbour} lladdr {WIRE_HARDWARE} dev {CABLE} nud permanent"))?;
    }
    Ok(())
}

fn set_up_host() -> Result {
    ip(&format!("link set {WIRE} up"))?;
    for address in [HOST, GATEWAY, ACCOMPLICE] {
        ip(&format!("addr add {address}/24 dev {WIRE}"))?;
    }
    for address in [HOST6, HOST_LINK_LOCAL] {
        ip(&format!("addr add {address}/64 dev {WIRE} nodad"))?;
    }
    for neighbour in
        [IpAddr::from(ROUTER), TARGET.into(), CANARY.into(), ROUTER6.into(), CANARY6.into(), ROUTER_LINK_LOCAL.into()]
    {
        ip(&format!("neigh add {neighbour} lladdr {CABLE_HARDWARE} dev {WIRE} nud permanent"))?;
    }
    ip(&format!("route add default via {ROUTER}"))?;
    ip(&format!("route add default via {ROUTER6}"))?;
    for (table, (name, source)) in (101..).zip([(GATEWAY_USER, GATEWAY), (ACCOMPLICE_USER, ACCOMPLICE)]) {
        let uid = user(name)?.uid;
        ip(&format!("rule add uidrange {uid}-{uid} lookup {table}"))?;
        ip(&format!("route add 198.51.100.0/24 dev {WIRE} src {source} table {table}"))?;
        ip(&format!("route add default via {ROUTER} dev {WIRE} src {source} table {table}"))?;
    }
    Ok(())
}

fn ip(words: &str) -> Result {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// Says something by UDP from this end or the other; for whoever tries to get in.
pub fn send_datagram(to: SocketAddr) -> Result {
    let from: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((from, 0))?.send_to(b"come in", to)?;
    Ok(())
}

/// Whether a TCP connection comes about within the limit.
pub fn can_connect(to: SocketAddr, limit: Duration) -> bool {
    TcpStream::connect_timeout(&to, limit).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_far_as_they_go() {
        let mut bytes = vec![0; 12];
        bytes.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 3, 198, 51, 100, 10, 0, 9, 21, 56]);
        let frame = Frame::read(&bytes);
        assert_eq!((frame.protocol, frame.port), (6, 5432));
        assert!(frame.is_gateways(5432) && !frame.is_gateways(5433) && !frame.is_accomplices());
        assert!(frame.holds(&[198, 51, 100, 3]) && !frame.holds(b"secret"));
        for length in 0..bytes.len() {
            assert!(!Frame::read(&bytes[..length]).is_gateways(5432), "{length} bytes");
        }
    }
}
