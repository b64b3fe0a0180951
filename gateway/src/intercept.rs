//! The gateway's side of the interception, without any privilege: takes the kernel's note off an accepted socket, finds
//! who sent a DNS query, reads refused connects from the ring buffer, and makes the listeners. Also the function that
//! gives up every privilege.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf, SkStorage};
use gateway_common::{
    Address, COUNTER_NAMES, Counter, DNS_NETMASK, DNS_NETWORK, DnsFlow, Event, MAPPED, NOTE_ACCEPTED, NOTE_DNS, Note,
};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, sockopt};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::origin::Origin;

/// Connections that wait for accept, for each listener.
const BACKLOG: i32 = 1024;

/// The maps that the witness handed over. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Interceptor {
    maps: Arc<Maps>,
}

struct Maps {
    notes: SkStorage<MapData, Note>,
    dns_flows: HashMap<MapData, DnsFlow, Note>,
    events: Mutex<Option<RingBuf<MapData>>>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
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
    /// The descriptors in the witness's order: notes, DNS flows, events.
    pub(crate) fn new([notes, dns_flows, events]: [OwnedFd; 3]) -> io::Result<Self> {
        let open = |fd| MapData::from_fd(fd).map_err(io::Error::other);
        Ok(Self {
            maps: Arc::new(Maps {
                notes: SkStorage::try_from(Map::SkStorage(open(notes)?)).map_err(io::Error::other)?,
                dns_flows: HashMap::try_from(Map::LruHashMap(open(dns_flows)?)).map_err(io::Error::other)?,
                events: Mutex::new(Some(RingBuf::try_from(Map::RingBuf(open(events)?)).map_err(io::Error::other)?)),
            }),
        })
    }

    /// The origin of an accepted connection. `peer` is what accept returned.
    pub fn origin(&self, accepted: BorrowedFd<'_>, peer: SocketAddr) -> Result<Origin, InterceptError> {
        let note = self.maps.notes.get(&accepted, 0).map_err(InterceptError::from_map)?;
        if note.flags != NOTE_ACCEPTED {
            return Err(InterceptError::Mismatch("it was not put there at accept"));
        }
        Ok(origin_of(&note, canonical(peer)))
    }

    /// The origin of a DNS query, whose `destination` is the resolver that the agent asked.
    pub fn dns_origin(&self, peer: DnsPeer) -> Result<Origin, InterceptError> {
        let DnsPeer { source, local, netns_cookie } = peer;
        let rewritten = match local {
            IpAddr::V4(address) => address.to_bits() & DNS_NETMASK == DNS_NETWORK,
            IpAddr::V6(address) => address == Ipv6Addr::LOCALHOST,
        };
        if !rewritten {
            return Err(InterceptError::Mismatch("it was not sent to the resolver's address"));
        }
        let flow = DnsFlow {
            netns_cookie,
            source: address_words(source.ip()),
            source_port: u32::from(source.port()),
            destination: address_words(local)[3],
        };
        let note = self.maps.dns_flows.get(&flow, 0).map_err(InterceptError::from_map)?;
        if note.flags & NOTE_DNS == 0 {
            return Err(InterceptError::Mismatch("it is not about a query"));
        }
        Ok(origin_of(&note, canonical(source)))
    }

    /// Refused connects, as they happen. There is one reader: a second call is an error.
    pub fn denied_events(&self) -> io::Result<DeniedEvents> {
        let events = self.maps.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let events = events.ok_or_else(|| io::Error::new(io::ErrorKind::AlreadyExists, "there is a reader already"))?;
        Ok(DeniedEvents { events: Source::Idle(events) })
    }
}

impl InterceptError {
    fn from_map(error: MapError) -> Self {
        match error {
            MapError::KeyNotFound => Self::Unattributed,
            MapError::SyscallError(error) => Self::Map(error.io_error),
            error => Self::Map(io::Error::other(error)),
        }
    }
}

fn origin_of(note: &Note, source: SocketAddr) -> Origin {
    Origin {
        pid: note.pid,
        uid: note.uid,
        gid: note.gid,
        cgroup_id: note.cgroup_id,
        socket_cgroup_id: note.socket_cgroup_id,
        netns_cookie: note.netns_cookie,
        connected_at: note.connected_at,
        started_at: (note.started_at != 0).then_some(note.started_at),
        destination: SocketAddr::new(address_of(&note.destination.address), note.destination.port),
        source,
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn address_of(words: &Address) -> IpAddr {
    let mut octets = [0u8; 16];
    for (four, word) in octets.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

fn address_words(address: IpAddr) -> Address {
    match address.to_canonical() {
        IpAddr::V4(address) => [0, 0, MAPPED, u32::from_ne_bytes(address.octets())],
        IpAddr::V6(address) => {
            let octets = address.octets();
            std::array::from_fn(|word| u32::from_ne_bytes(std::array::from_fn(|byte| octets[4 * word + byte])))
        }
    }
}

/// Something that the kernel refused an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedEvent {
    /// `destination` is what the agent wanted to reach (unspecified where there was none, as for a socket type).
    pub origin: Origin,
    /// Stable word for records and counters, such as `denied_udp`, `denied_protocol` or `denied_netns`.
    pub reason: &'static str,
    /// IP protocol number, 6 for TCP.
    pub protocol: u16,
}

impl DeniedEvent {
    /// It is not refused (yet): the gateway does not listen in that network namespace, and the kernel half waits for it.
    pub fn is_held(&self) -> bool {
        self.reason == COUNTER_NAMES[Counter::HeldNetns as usize]
    }

    /// What was held in vain.
    pub(crate) fn refused(self) -> Self {
        Self { reason: COUNTER_NAMES[Counter::DeniedNetns as usize], ..self }
    }
}

/// The reader of the ring buffer.
pub struct DeniedEvents {
    events: Source,
}

/// A runtime is needed to wait, and there is none when the reader is made.
enum Source {
    Idle(RingBuf<MapData>),
    Registered(AsyncFd<RingBuf<MapData>>),
    Broken,
}

impl DeniedEvents {
    /// Waits for the next refused connect. Call it on a tokio runtime.
    pub async fn next(&mut self) -> io::Result<DeniedEvent> {
        if let Source::Idle(_) = self.events
            && let Source::Idle(ring) = std::mem::replace(&mut self.events, Source::Broken)
        {
            // SAFETY: the ring owns its descriptor, never changes it, and lives as long as the registration.
            let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?;
            self.events = Source::Registered(ring);
        }
        let Source::Registered(ring) = &mut self.events else { return Err(io::ErrorKind::BrokenPipe.into()) };
        loop {
            let mut ready = ring.readable_mut().await?;
            if let Some(item) = ready.get_inner_mut().next() {
                if let Some(event) = parse_event(&item) {
                    return Ok(event);
                }
                continue;
            }
            ready.clear_ready();
        }
    }
}

fn parse_event(bytes: &[u8]) -> Option<DeniedEvent> {
    if bytes.len() < size_of::<Event>() {
        return None;
    }
    // SAFETY: there are enough bytes, and every pattern of them is an `Event` (it is `aya::Pod`).
    let event: Event = unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() };
    let source = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    Some(DeniedEvent {
        origin: origin_of(&event.note, source),
        reason: COUNTER_NAMES.get(event.reason as usize).copied()?,
        protocol: event.note.destination.protocol,
    })
}

/// What the gateway is reached by in one network namespace: connections and queries.
#[derive(Debug)]
pub struct Doors {
    pub listeners: [TcpListener; 2],
    pub resolvers: [DnsSocket; 2],
}

impl Doors {
    /// In the network namespace of the calling thread.
    pub fn open(port: u16, dns_port: u16) -> io::Result<Self> {
        Ok(Self { listeners: listeners(port)?, resolvers: dns_sockets(dns_port)? })
    }

    /// TCP on IPv4 and IPv6, UDP on IPv4 and IPv6.
    pub(crate) fn from_descriptors([tcp4, tcp6, udp4, udp6]: [OwnedFd; Self::COUNT]) -> io::Result<Self> {
        Ok(Self {
            listeners: [tcp4.into(), tcp6.into()],
            resolvers: [DnsSocket::new(udp4.into())?, DnsSocket::new(udp6.into())?],
        })
    }

    /// Others that are the same sockets, in the order of [`Doors::from_descriptors`].
    pub(crate) fn copies(&self) -> io::Result<[OwnedFd; Self::COUNT]> {
        let [tcp4, tcp6] = &self.listeners;
        let [udp4, udp6] = &self.resolvers;
        let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        Ok([copy(tcp4.as_fd())?, copy(tcp6.as_fd())?, copy(udp4.socket.as_fd())?, copy(udp6.socket.as_fd())?])
    }

    pub(crate) const COUNT: usize = 4;

    /// The ports: connections', queries'.
    pub(crate) fn ports(&self) -> io::Result<(u16, u16)> {
        Ok((self.listeners[0].local_addr()?.port(), self.resolvers[0].socket.local_addr()?.port()))
    }
}

impl From<Doors> for [OwnedFd; Doors::COUNT] {
    fn from(Doors { listeners: [tcp4, tcp6], resolvers: [udp4, udp6] }: Doors) -> Self {
        [tcp4.into(), tcp6.into(), udp4.socket.into(), udp6.socket.into()]
    }
}

/// Listeners on 127.0.0.1 and ::1, non-blocking. The one on 127.0.0.1 also takes the v4-mapped connects of IPv6 sockets. On
/// a host without IPv6 both are on 127.0.0.1.
pub fn listeners(port: u16) -> io::Result<[TcpListener; 2]> {
    let second = if has_ipv6() { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    Ok([listener(Ipv4Addr::LOCALHOST.into(), port)?, listener(second, port)?])
}

/// A listener that gives connections away: unlike tokio's, it does not register each with its own thread first.
pub(crate) struct Ear(AsyncFd<TcpListener>);

impl Ear {
    /// `listener` does not block. Call it on a tokio runtime.
    pub(crate) fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: the listener owns its descriptor, never changes it, and lives as long as the registration.
        let registered = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// The next connection, which does not block, and its peer.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accept = |listener: &TcpListener| {
            let (stream, peer) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((stream, peer))
        };
        self.0.async_io(Interest::READABLE, accept).await
    }
}

/// Whether ::1 is there: IPv6 may be compiled out, turned off at boot, or by sysctl.
fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

fn listener(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = bound(address, Type::STREAM, None)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The resolver's two sockets: IPv4 for the whole of 127.64.0.0/24, bound to the loopback device, and ::1. On a host without
/// IPv6 both are for IPv4.
pub fn dns_sockets(port: u16) -> io::Result<[DnsSocket; 2]> {
    let second = if has_ipv6() { dns_socket_v6(port)? } else { dns_socket_v4(port)? };
    Ok([dns_socket_v4(port)?, second])
}

fn dns_socket_v4(port: u16) -> io::Result<DnsSocket> {
    let socket = bound(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port), Type::DGRAM, Some(b"lo"))?;
    nix::sys::socket::setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    DnsSocket::new(socket.into())
}

fn dns_socket_v6(port: u16) -> io::Result<DnsSocket> {
    let socket = bound(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port), Type::DGRAM, None)?;
    nix::sys::socket::setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    DnsSocket::new(socket.into())
}

fn bound(address: SocketAddr, kind: Type, device: Option<&[u8]>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_port(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if device.is_some() {
        socket.bind_device(device)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A UDP socket that knows the address a query was sent to, and answers from it.
#[derive(Debug)]
pub struct DnsSocket {
    socket: UdpSocket,
    netns_cookie: u64,
    registered: OnceLock<tokio::net::UdpSocket>,
}

/// One received query.
#[derive(Clone, Copy, Debug)]
pub struct DnsPeer {
    pub source: SocketAddr,
    /// Where it was sent to (IP_PKTINFO): 127.64.0.0/24 or ::1.
    pub local: IpAddr,
    /// Of the socket that received it.
    pub netns_cookie: u64,
}

impl DnsSocket {
    fn new(socket: UdpSocket) -> io::Result<Self> {
        Ok(Self { netns_cookie: crate::witness::netns_cookie(&socket)?, socket, registered: OnceLock::new() })
    }

    /// Call it on a tokio runtime, always the same. Datagrams longer than the buffer are cut.
    pub async fn recv(&self, buffer: &mut [u8]) -> io::Result<(usize, DnsPeer)> {
        self.registered()?.async_io(Interest::READABLE, || self.receive(buffer)).await
    }

    /// Answers from the address that was asked.
    pub async fn send(&self, answer: &[u8], to: DnsPeer) -> io::Result<()> {
        self.registered()?.async_io(Interest::WRITABLE, || send(&self.socket, answer, to)).await
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, DnsPeer)> {
        let mut control = nix::cmsg_space!(libc::in6_pktinfo);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(
            self.socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_DONTWAIT,
        )?;
        let local = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(IpAddr::V4(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr))))
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr))),
            _ => None,
        });
        let source = message.address.as_ref().and_then(|address| {
            address
                .as_sockaddr_in()
                .map(|v4| SocketAddr::from(std::net::SocketAddrV4::from(*v4)))
                .or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::from(std::net::SocketAddrV6::from(*v6))))
        });
        match (source, local) {
            (Some(source), Some(local)) => {
                Ok((message.bytes, DnsPeer { source, local, netns_cookie: self.netns_cookie }))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a datagram without its addresses")),
        }
    }

    fn registered(&self) -> io::Result<&tokio::net::UdpSocket> {
        if self.registered.get().is_none() {
            // Two at once: one of them is dropped again.
            let _ = self.registered.set(tokio::net::UdpSocket::from_std(self.socket.try_clone()?)?);
        }
        self.registered.get().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn send(socket: &UdpSocket, answer: &[u8], to: DnsPeer) -> io::Result<()> {
    let address = SockaddrStorage::from(to.source);
    let slices = [IoSlice::new(answer)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let descriptor = socket.as_raw_fd();
    match to.local {
        IpAddr::V4(local) => {
            let local = libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: local, ipi_addr: local };
            sendmsg(descriptor, &slices, &[ControlMessage::Ipv4PacketInfo(&info)], flags, Some(&address))?
        }
        IpAddr::V6(local) => {
            let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: local.octets() }, ipi6_ifindex: 0 };
            sendmsg(descriptor, &slices, &[ControlMessage::Ipv6PacketInfo(&info)], flags, Some(&address))?
        }
    };
    Ok(())
}

/// Lets the calling thread run where nobody else would (`SCHED_BATCH`): being woken, it interrupts no thread that runs.
pub(crate) fn take_no_cpu_from_others() -> io::Result<()> {
    // `struct sched_param`. musl's own function for this does nothing.
    let priority: libc::c_int = 0;
    // SAFETY: reads one sched_param; 0 is the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_BATCH, &raw const priority) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives up every privilege for good: supplementary groups, uid and gid, all capability sets and the bounding set, new
/// privileges by exec, core dumps and being traced. Call it before any thread is started.
pub fn drop_privileges(user: &str) -> io::Result<()> {
    crate::witness::privileges::become_user(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["192.0.2.7", "2001:db8::1", "::1", "127.0.0.1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(address_of(&address_words(address)), address);
        }
        assert_eq!(address_words("::ffff:192.0.2.7".parse().unwrap()), address_words("192.0.2.7".parse().unwrap()));
    }

    #[test]
    fn a_short_event_is_none() {
        const LENGTH: usize = size_of::<Event>();
        assert_eq!(parse_event(&[0; LENGTH - 1]), None);
        assert_eq!(parse_event(&[0; LENGTH]).unwrap().reason, "redirected");
    }
}
