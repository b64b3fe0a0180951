//! What is refused: socket types that nothing can redirect, binding the gateway's ports, socket options that change the
//! way of packets, and, at last, packets of agents that leave for anywhere but the loopback, and connections that others
//! make to agents' servers.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{
    bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release, bpf_skb_ancestor_cgroup_id,
    bpf_skb_load_bytes,
};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockoptContext};
use gateway_common::{
    Address, Counter, DNS_NETMASK, DNS_NETWORK, DnsFlow, Endpoint, Listen, NETNS_SERVED, NOTE_ACCEPTED, NOTE_DNS,
    NOTE_LISTENING, NOTE_OWN, NOTE_REDIRECTED, Note, Settings,
};

use crate::agent::{self, Task};
use crate::connect::{ALLOW, ECONNREFUSED, IPPROTO_TCP, IPPROTO_UDP, is_loopback, is_v4, v4};
use crate::maps::{
    DNS_FLOWS, LISTEN, NOTES, count, detached, field, netns, netns_cookie, refuse, refuse_loudly, report,
    report_inbound, settings,
};
use crate::structures::Current;

const EPERM: i32 = 1;
const EPROTONOSUPPORT: i32 = 93;

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_IGMP: u32 = 2;
const IPPROTO_ICMPV6: u32 = 58;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
const LOOPBACK_DEVICE: u32 = 1;
const TCP_SYN_SENT: u32 = 2;
const TCP_LISTEN: u32 = 10;
const DROP: i32 = 0;
/// As if a queue were full: a datagram's sender hears nothing of it, unless it asked to (`IP_RECVERR`).
const DROP_UNHEARD: i32 = 2;
const PASS: i32 = 1;

/// The programs of a first start refuse all that agents send, until the real ones are attached.
#[inline(always)]
pub fn plain_deny() -> i32 {
    deny_agents(ECONNREFUSED)
}

#[inline(always)]
pub fn deny_sock_create() -> i32 {
    deny_agents(EPERM)
}

#[inline(always)]
fn deny_agents(errno: i32) -> i32 {
    let Some(settings) = settings() else { return 0 };
    if agent::is_current(settings) { refuse(Counter::DeniedNetns, errno) } else { ALLOW }
}

#[inline(always)]
pub fn deny_egress(ctx: &SkBuffContext) -> i32 {
    let sk = field!(ctx.skb.skb, __bindgen_anon_2.sk);
    let Some(settings) = settings() else { return DROP };
    let note = if sk.is_null() { None } else { NOTES.get(sk) };
    if is_sent_by_agent(ctx, settings, sk, note.as_deref()) { drop_packet() } else { PASS }
}

/// Agents make TCP and UDP sockets, nothing else. Every socket of an agent gets its note here.
#[inline(always)]
pub fn sock_create(ctx: &SockContext) -> i32 {
    let Some(settings) = settings() else { return 0 };
    if !agent::is_current(settings) {
        return ALLOW;
    }
    let kind = field!(ctx.sock, type_);
    let protocol = field!(ctx.sock, protocol);
    let task = Task::current();
    if !detached() && (kind == SOCK_RAW || kind == SOCK_PACKET || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
    {
        // Callers of MPTCP, UDP-Lite and the like fall back on "not supported"; ping and raw sockets are not allowed.
        let errno = if kind == SOCK_RAW || kind == SOCK_PACKET || protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6
        {
            EPERM
        } else {
            EPROTONOSUPPORT
        };
        let wanted = Endpoint { address: [0; 4], port: 0, protocol: protocol as u16 };
        return refuse_loudly(Counter::DeniedProtocol, errno, &task, netns_cookie(ctx), wanted);
    }
    let Some(note) = NOTES.get_or_insert(ctx.sock) else { return refuse(Counter::DeniedNote, EPERM) };
    note.socket_cgroup_id = task.cgroup_id;
    note.socket_uid = task.uid;
    let cookie = netns_cookie(ctx);
    if settings.gateway_cgroup != 0 && netns(cookie).is_none() {
        // Most agents have something to do between socket() and connect(): perhaps the gateway listens by then.
        report(Counter::HeldNetns, &task, cookie, Endpoint { address: [0; 4], port: 0, protocol: protocol as u16 });
    }
    ALLOW
}

/// Nobody but the gateway binds its ports where it listens, and agents nowhere; agents bind no privileged port either.
#[inline(always)]
pub fn bind(ctx: &SockAddrContext) -> i32 {
    let port = u16::from_be(field!(ctx.sock_addr, user_port) as u16);
    let Some(settings) = settings() else { return 0 };
    let ours = port != 0 && (port == settings.port || port == settings.dns_port);
    if !ours && (port == 0 || port >= FIRST_UNPRIVILEGED_PORT) {
        return ALLOW;
    }
    if ours && agent::is_gateway(settings) {
        return ALLOW;
    }
    let agent = agent::is_current(settings);
    if agent || (ours && netns(netns_cookie(ctx)) == Some(NETNS_SERVED)) {
        return refuse(Counter::DeniedBind, EPERM);
    }
    ALLOW
}

/// Options that let packets leave by another way or with another address, or make the kernel send some: joining a group is
/// told to the network, with bits of the agent's choice. AF_XDP sockets, which no hook sees made, send nothing without theirs.
#[inline(always)]
fn is_forbidden_option(level: i32, name: i32) -> bool {
    const SOL_IP: i32 = 0;
    const SOL_SOCKET: i32 = 1;
    const SOL_TCP: i32 = 6;
    const SOL_IPV6: i32 = 41;
    const SOL_XDP: i32 = 283;
    matches!(
        (level, name),
        // SO_MARK, SO_BINDTODEVICE, SO_BINDTOIFINDEX
        (SOL_SOCKET, 36 | 25 | 62)
            // IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_UNICAST_IF; IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP,
            // MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP
            | (SOL_IP, 4 | 15 | 19 | 50 | 35 | 39 | 42 | 46)
            // TCP_REPAIR
            | (SOL_TCP, 19)
            // IPV6_2292PKTOPTIONS, IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS, IPV6_TRANSPARENT,
            // IPV6_UNICAST_IF, IPV6_FREEBIND; IPV6_ADD_MEMBERSHIP, IPV6_JOIN_ANYCAST, MCAST_JOIN_GROUP,
            // MCAST_JOIN_SOURCE_GROUP
            | (SOL_IPV6, 6 | 54 | 55 | 57 | 59 | 75 | 76 | 78 | 20 | 27 | 42 | 46)
            | (SOL_XDP, _)
    )
}

/// Asks to hear of what becomes of datagrams.
#[inline(always)]
fn is_error_option(level: i32, name: i32) -> bool {
    // IP_RECVERR, IPV6_RECVERR
    matches!((level, name), (0, 11) | (41, 25))
}

#[inline(always)]
pub fn setsockopt(ctx: &SockoptContext) -> i32 {
    let level = field!(ctx.sockopt, level);
    let name = field!(ctx.sockopt, optname);
    let Some(settings) = settings() else { return 0 };
    if is_error_option(level, name) {
        // A resolver that hears of a held query gives the name up; one that hears nothing asks again.
        let is_held = || settings.hold_without_gateway != 0 || netns(netns_cookie(ctx)).is_none();
        if agent::is_current(settings) && is_held() {
            // SAFETY: the kernel hands the program a valid context, and takes -1 for "it is done".
            unsafe { (*ctx.sockopt).optlen = -1 };
        }
        return ALLOW;
    }
    if !is_forbidden_option(level, name) {
        return ALLOW;
    }
    if !agent::is_current(settings) || detached() {
        return ALLOW;
    }
    let wanted = Endpoint { address: [0; 4], port: 0, protocol: 0 };
    refuse_loudly(Counter::DeniedSocketOption, EPERM, &Task::current(), netns_cookie(ctx), wanted)
}

/// The second gate, for what no other hook saw: packets of agents' sockets stay on the loopback, apart from the answers
/// of servers that others may reach.
///
/// A datagram is judged by its sender too, so that a socket from outside the agent's cgroup is seen: datagrams leave in the
/// context of whoever sends them. Anything else may leave in anybody's (a TCP segment, the kernel's own ICMP), and must not be
/// judged by it. Linux 6.12 has no helper that tells of the task here.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let device = field!(skb, ifindex);
    let sk = field!(skb, __bindgen_anon_2.sk);
    let Some(settings) = settings() else { return DROP };
    let note = if sk.is_null() { None } else { NOTES.get(sk) };
    if !is_sent_by_agent(ctx, settings, sk, note.as_deref()) {
        return PASS;
    }
    if detached() {
        return PASS;
    }
    let Some(packet) = Packet::read(ctx) else { return drop_packet() };
    let on_loopback = device == LOOPBACK_DEVICE && is_loopback(&packet.destination);
    // Whatever way it would take: where the loopback device is down still, and there is another one, that is the other one.
    if note.as_ref().is_some_and(|note| is_held(sk, note, packet.protocol)) {
        return DROP_UNHEARD;
    }
    if on_loopback
        && settings.hold_without_gateway != 0
        && note.as_ref().is_some_and(|note| is_sent_first(sk, note, packet.protocol))
        && !is_anybody_there(ctx, &packet)
    {
        count(Counter::HeldDown);
        return DROP_UNHEARD;
    }
    let pass = match packet.protocol {
        IPPROTO_TCP => match note {
            Some(note) => on_loopback && may_be_on_loopback(note) || answers_others(note, packet.source_port),
            None => on_loopback && was_connected_before(sk),
        },
        IPPROTO_UDP => on_loopback && note.is_some_and(|note| is_query(settings, &packet, note)),
        _ => false,
    };
    if pass { PASS } else { drop_packet() }
}

/// It is an agent's socket, or an agent sends by somebody else's.
#[inline(always)]
fn is_sent_by_agent(ctx: &SkBuffContext, settings: &Settings, sk: *mut bpf_sock, note: Option<&Note>) -> bool {
    note.is_some_and(is_agents)
        || in_agent_cgroup(ctx, settings)
        || (leaves_with_its_sender(sk) && Current::get().is_some_and(|task| agent::is_by_structures(settings, task)))
}

/// A SYN to the gateway, or a query to its resolver, from a network namespace in which the gateway does not listen (yet): TCP
/// and resolvers send it again.
#[inline(always)]
fn is_held(sk: *mut bpf_sock, note: &Note, protocol: u32) -> bool {
    is_sent_first(sk, note, protocol) && netns(note.netns_cookie) != Some(NETNS_SERVED)
}

/// What somebody sends again who hears nothing.
#[inline(always)]
fn is_sent_first(sk: *mut bpf_sock, note: &Note, protocol: u32) -> bool {
    match protocol {
        IPPROTO_TCP => note.flags & NOTE_REDIRECTED != 0 && field!(sk, state) == TCP_SYN_SENT,
        IPPROTO_UDP => note.flags & NOTE_DNS != 0,
        _ => false,
    }
}

/// Somebody listens where the packet goes. It can be nobody but the gateway: these ports are nobody else's to bind.
#[inline(always)]
fn is_anybody_there(ctx: &SkBuffContext, packet: &Packet) -> bool {
    // SAFETY: a union of integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(&packet.destination) {
        tuple.__bindgen_anon_1.ipv4.daddr = packet.destination[3];
        tuple.__bindgen_anon_1.ipv4.dport = packet.destination_port.to_be();
        // SAFETY: the union's field was just written.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv4 })
    } else {
        tuple.__bindgen_anon_1.ipv6.daddr = packet.destination;
        tuple.__bindgen_anon_1.ipv6.dport = packet.destination_port.to_be();
        // SAFETY: as above.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv6 })
    };
    let netns = BPF_F_CURRENT_NETNS as i64 as u64;
    // SAFETY: the verifier checks that the reference is released on every path.
    let found = unsafe {
        if packet.protocol == IPPROTO_TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, netns, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), &raw mut tuple, size as u32, netns, 0)
        }
    };
    if found.is_null() {
        return false;
    }
    // SAFETY: not null, and not used afterwards.
    unsafe { bpf_sk_release(found.cast()) };
    true
}

/// The connect hook let it, or an agent's server answers. What has neither in its note was connected past the hook, or by nobody
/// knows whom.
#[inline(always)]
fn may_be_on_loopback(note: &Note) -> bool {
    note.flags & (NOTE_REDIRECTED | NOTE_OWN | NOTE_LISTENING) != 0
}

/// An agent's socket, and not the gateway's end of an agent's connection, which has a copy of the note.
#[inline(always)]
fn is_agents(note: &Note) -> bool {
    note.flags & NOTE_ACCEPTED == 0
}

/// The socket's cgroup is an agent's.
#[inline(always)]
fn in_agent_cgroup(ctx: &SkBuffContext, settings: &Settings) -> bool {
    // SAFETY: the kernel hands the program a valid context.
    agent::in_agent_cgroup(settings, |level| unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) })
}

/// A connection from before the programs were attached: at the first start, or by maps of another layout, in which its note is. A new
/// one has its note, or does not come about.
#[inline(always)]
fn was_connected_before(sk: *mut bpf_sock) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: not null; the verifier checks what comes back.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    !sk.is_null() && field!(sk, type_) == SOCK_STREAM && field!(sk, state) != TCP_SYN_SENT
}

/// UDP, ping and what else is made of datagrams, and raw sockets, apart from the protocols for which the kernel has raw sockets of
/// its own, to send from anybody's context: TCP resets, ICMP, neighbour discovery.
#[inline(always)]
fn leaves_with_its_sender(sk: *mut bpf_sock) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: not null; the verifier checks what comes back.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() {
        return false;
    }
    let kind = field!(sk, type_);
    let protocol = field!(sk, protocol);
    kind == SOCK_DGRAM
        || (kind == SOCK_RAW
            && protocol != IPPROTO_TCP
            && protocol != IPPROTO_ICMP
            && protocol != IPPROTO_ICMPV6
            && protocol != IPPROTO_IGMP)
}

/// A server that others may reach.
#[inline(always)]
fn answers_others(note: &Note, port: u16) -> bool {
    note.flags & NOTE_LISTENING != 0 && may_be_reached(note, port)
}

#[inline(always)]
fn may_be_reached(note: &Note, port: u16) -> bool {
    LISTEN.get_ptr(Listen { uid: note.socket_uid, port, reserved: 0 }).is_some()
}

/// Nobody gets in to an agent: its servers hear the agent itself, and others where `listen` names the port; its datagram
/// sockets hear the gateway's resolver. What does not listen is let through at once, so that data costs little.
#[inline(always)]
pub fn ingress(ctx: &SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    let device = field!(skb, ifindex);
    let sk = field!(skb, __bindgen_anon_2.sk);
    let Some(settings) = settings() else { return DROP };
    if sk.is_null() {
        return PASS;
    }
    let state = field!(sk, state);
    let note = NOTES.get(sk);
    let of_agent = match &note {
        Some(note) => is_agents(note),
        None => in_agent_cgroup(ctx, settings),
    };
    if !of_agent {
        return PASS;
    }
    if detached() {
        return PASS;
    }
    let Some(packet) = Packet::read(ctx) else { return drop_packet() };
    if packet.protocol == IPPROTO_TCP && state != TCP_LISTEN {
        return PASS;
    }
    let on_loopback = device == LOOPBACK_DEVICE && is_loopback(&packet.source);
    // Made before the programs were attached: nobody knows whose it is.
    let Some(note) = note else { return drop_packet() };
    let pass = match packet.protocol {
        IPPROTO_TCP => {
            may_be_reached(note, packet.destination_port)
                || on_loopback && is_from_same_agent(ctx, &packet, note, in_agent_cgroup(ctx, settings))
        }
        IPPROTO_UDP => on_loopback && packet.source_port == settings.dns_port,
        _ => false,
    };
    if pass {
        return PASS;
    }
    report_inbound(
        note,
        Endpoint { address: packet.source, port: packet.source_port, protocol: packet.protocol as u16 },
    );
    count(Counter::DeniedInbound);
    DROP
}

/// The other end of this connection, which is on this host, is a socket of the same agent.
#[inline(always)]
fn is_from_same_agent(ctx: &SkBuffContext, packet: &Packet, server: &Note, in_agent_cgroup: bool) -> bool {
    // SAFETY: a union of integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    // As a packet to that socket would have it: from the server, to the client.
    let size = if is_v4(&packet.source) {
        tuple.__bindgen_anon_1.ipv4.saddr = packet.destination[3];
        tuple.__bindgen_anon_1.ipv4.daddr = packet.source[3];
        tuple.__bindgen_anon_1.ipv4.sport = packet.destination_port.to_be();
        tuple.__bindgen_anon_1.ipv4.dport = packet.source_port.to_be();
        // SAFETY: the union's field was just written.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv4 })
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = packet.destination;
        tuple.__bindgen_anon_1.ipv6.daddr = packet.source;
        tuple.__bindgen_anon_1.ipv6.sport = packet.destination_port.to_be();
        tuple.__bindgen_anon_1.ipv6.dport = packet.source_port.to_be();
        // SAFETY: as above.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv6 })
    };
    // SAFETY: the verifier checks that the reference is released on every path.
    let client =
        unsafe { bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as i64 as u64, 0) };
    if client.is_null() {
        return false;
    }
    let same = NOTES.get(client).is_some_and(|note| agent::are_of_same_agent(note, server, in_agent_cgroup));
    // SAFETY: not null, and not used afterwards.
    unsafe { bpf_sk_release(client.cast()) };
    same
}

/// A rewritten DNS query, whose origin is remembered for the gateway.
#[inline(always)]
fn is_query(settings: &Settings, packet: &Packet, note: &gateway_common::Note) -> bool {
    let to_resolver = !is_v4(&packet.destination) || u32::from_be(packet.destination[3]) & DNS_NETMASK == DNS_NETWORK;
    if note.flags & NOTE_DNS == 0 || packet.destination_port != settings.dns_port || !to_resolver {
        return false;
    }
    let flow = DnsFlow {
        netns_cookie: note.netns_cookie,
        source: packet.source,
        source_port: u32::from(packet.source_port),
        destination: packet.destination[3],
    };
    DNS_FLOWS.insert(flow, *note, 0).is_ok()
}

#[inline(always)]
fn drop_packet() -> i32 {
    count(Counter::DeniedEgress);
    DROP
}

struct Packet {
    protocol: u32,
    source: Address,
    destination: Address,
    source_port: u16,
    destination_port: u16,
}

impl Packet {
    /// Packets are seen before they are cut, and the kernel sends agents' TCP and UDP without extension headers: a
    /// fragment or an unknown header is nothing that passes.
    #[inline(always)]
    fn read(ctx: &SkBuffContext) -> Option<Self> {
        const V4_HEADER: usize = 20;
        const V6_HEADER: usize = 40;
        let mut header = [0u32; 10];
        load(ctx, 0, &raw mut header, V4_HEADER)?;
        let version = u32::from_be(header[0]) >> 28;
        let (protocol, source, destination, offset) = if version == 4 {
            if u32::from_be(header[1]) & 0x3fff != 0 {
                return None;
            }
            let length = (u32::from_be(header[0]) >> 24 & 0xf) * 4;
            ((u32::from_be(header[2]) >> 16) & 0xff, v4(header[3]), v4(header[4]), length)
        } else if version == 6 {
            load(ctx, 0, &raw mut header, V6_HEADER)?;
            let next = (u32::from_be(header[1]) >> 8) & 0xff;
            (
                next,
                [header[2], header[3], header[4], header[5]],
                [header[6], header[7], header[8], header[9]],
                V6_HEADER as u32,
            )
        } else {
            return None;
        };
        let mut ports = [0u16; 2];
        if protocol == IPPROTO_TCP || protocol == IPPROTO_UDP {
            load(ctx, offset, &raw mut ports, 4)?;
        }
        Some(Self {
            protocol,
            source,
            destination,
            source_port: u16::from_be(ports[0]),
            destination_port: u16::from_be(ports[1]),
        })
    }
}

#[inline(always)]
fn load<T>(ctx: &SkBuffContext, offset: u32, to: *mut T, length: usize) -> Option<()> {
    if length > size_of::<T>() {
        return None;
    }
    // SAFETY: `to` has room for `length` bytes.
    let result = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, to.cast(), length as u32) };
    (result == 0).then_some(())
}
