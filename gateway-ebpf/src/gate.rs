//! What is refused: socket types that nothing can redirect, binding the gateway's ports, socket options that change the
//! way of packets, and, at last, packets of agents that leave for anywhere but the loopback.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, SockoptContext};
use gateway_common::{
    Address, Counter, DNS_NETMASK, DNS_NETWORK, DnsFlow, Endpoint, NOTE_DNS, NOTE_LISTENING, Settings,
};

use crate::agent::{self, Task};
use crate::connect::{ALLOW, ECONNREFUSED, IPPROTO_TCP, IPPROTO_UDP, is_loopback, is_v4, v4};
use crate::maps::{DNS_FLOWS, NETNS, NOTES, count, detached, field, netns_cookie, refuse, refuse_loudly, settings};

const EPERM: i32 = 1;
const EPROTONOSUPPORT: i32 = 93;

const SOCK_RAW: u32 = 3;
const SOCK_PACKET: u32 = 10;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;
const LOOPBACK_DEVICE: u32 = 1;
const DROP: i32 = 0;
const PASS: i32 = 1;

/// The programs of a first start refuse all that agents send, until the real ones are attached.
#[inline(always)]
pub fn plain_deny() -> i32 {
    let Some(settings) = settings() else { return 0 };
    if agent::is_current(settings) { refuse(Counter::DeniedNetns, ECONNREFUSED) } else { ALLOW }
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
    if agent || (ours && NETNS.get_ptr(netns_cookie(ctx)).is_some()) {
        return refuse(Counter::DeniedBind, EPERM);
    }
    ALLOW
}

/// Options that let packets leave by another way, or with another address.
#[inline(always)]
fn is_forbidden_option(level: i32, name: i32) -> bool {
    const SOL_IP: i32 = 0;
    const SOL_SOCKET: i32 = 1;
    const SOL_TCP: i32 = 6;
    const SOL_IPV6: i32 = 41;
    matches!(
        (level, name),
        // SO_MARK, SO_BINDTODEVICE, SO_BINDTOIFINDEX
        (SOL_SOCKET, 36 | 25 | 62)
            // IP_OPTIONS, IP_FREEBIND, IP_TRANSPARENT, IP_UNICAST_IF
            | (SOL_IP, 4 | 15 | 19 | 50)
            // TCP_REPAIR
            | (SOL_TCP, 19)
            // IPV6_2292PKTOPTIONS, IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS, IPV6_TRANSPARENT,
            // IPV6_UNICAST_IF, IPV6_FREEBIND
            | (SOL_IPV6, 6 | 54 | 55 | 57 | 59 | 75 | 76 | 78)
    )
}

#[inline(always)]
pub fn setsockopt(ctx: &SockoptContext) -> i32 {
    let level = field!(ctx.sockopt, level);
    let name = field!(ctx.sockopt, optname);
    if !is_forbidden_option(level, name) {
        return ALLOW;
    }
    let Some(settings) = settings() else { return 0 };
    if !agent::is_current(settings) || detached() {
        return ALLOW;
    }
    let wanted = Endpoint { address: [0; 4], port: 0, protocol: 0 };
    refuse_loudly(Counter::DeniedSocketOption, EPERM, &Task::current(), netns_cookie(ctx), wanted)
}

/// The second gate, for what no other hook saw: packets of agents' sockets stay on the loopback, apart from the answers
/// of servers that an agent runs.
///
/// With `by_task`, a UDP datagram is judged by its sender too, so that a connected socket from outside the agent's cgroup
/// is seen: datagrams leave in the context of whoever sends them. Anything else may leave in anybody's (a TCP segment, the
/// kernel's own ICMP), and must not be judged by it. Linux before 6.12 cannot ask for the task here.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext, by_task: bool) -> i32 {
    let skb = ctx.skb.skb;
    let device = field!(skb, ifindex);
    let sk = field!(skb, __bindgen_anon_2.sk);
    let Some(settings) = settings() else { return DROP };
    // SAFETY: the kernel hands the program a valid context.
    let of_agent = agent::in_agent_cgroup(settings, |level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) });
    let Some(packet) = Packet::read(ctx) else { return if of_agent { drop_packet() } else { PASS } };
    let by_agent = by_task && packet.protocol == IPPROTO_UDP && agent::is_current(settings);
    if !of_agent && !by_agent {
        return PASS;
    }
    if detached() {
        return PASS;
    }
    if sk.is_null() {
        return drop_packet();
    }
    let note = NOTES.get(sk);
    let on_loopback = device == LOOPBACK_DEVICE && is_loopback(&packet.destination);
    let pass = match packet.protocol {
        IPPROTO_TCP => on_loopback || note.is_some_and(|note| note.flags & NOTE_LISTENING != 0),
        IPPROTO_UDP => on_loopback && note.is_some_and(|note| is_query(settings, &packet, note)),
        _ => false,
    };
    if pass { PASS } else { drop_packet() }
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
