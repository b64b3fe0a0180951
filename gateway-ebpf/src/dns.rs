//! DNS over UDP: queries of agents, whatever resolver they ask, go to the gateway's, and its answers look as if the asked
//! one had sent them. An IPv4 query is sent to 127.64.0.N, N being the resolver's number on its socket, so that one socket
//! may ask several. IPv6 has a single loopback address: a socket that asks two IPv6 resolvers at once sees both answer as
//! the one it asked last. Who asked travels by the packet's source, recorded as the packet leaves (`gate::egress`).

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockAddrContext;
use gateway_common::{
    Address, Counter, DNS_NETMASK, DNS_NETWORK, DNS_PORT, Endpoint, MAPPED, MAX_RESOLVERS, NETNS_SERVED, NOTE_DNS,
    NOTE_REDIRECTED, Settings,
};

use crate::agent::{self, Task};
use crate::connect::{
    ALLOW, ECONNREFUSED, Hook, IPPROTO_UDP, is_loopback, is_served_or_held, is_v4, read_address, socket, take_note, v4,
    write_address,
};
use crate::maps::{NOTES, RESOLVERS, count, detached, field, netns, netns_cookie, refuse, refuse_loudly, settings};

/// Unconnected sends: DNS is rewritten, everything else refused.
#[inline(always)]
pub fn sendmsg(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(settings) = settings() else { return 0 };
    if !agent::is_current_or_socket(settings, socket(ctx)) {
        return keep_others_out(ctx, hook, settings);
    }
    if detached() {
        count(Counter::Detached);
        return ALLOW;
    }
    let destination = read_address(ctx.sock_addr, hook);
    let task = Task::current();
    let cookie = netns_cookie(ctx);
    if destination.port == DNS_PORT {
        return redirect(ctx, hook, settings, &task, cookie, destination, NOTE_DNS);
    }
    if destination.port == settings.dns_port && is_rewritten(socket(ctx), &destination.address) {
        return ALLOW;
    }
    refuse_loudly(Counter::DeniedUdp, ECONNREFUSED, &task, cookie, destination)
}

/// Nobody asks the gateway's resolver but agents, whose queries are rewritten: it takes a datagram for one of the agent that had the sender's
/// port last. So no socket of somebody else gets there, by connect or sendmsg.
#[inline(always)]
pub fn keep_others_out(ctx: &SockAddrContext, hook: Hook, settings: &Settings) -> i32 {
    if u16::from_be(field!(ctx.sock_addr, user_port) as u16) != settings.dns_port {
        return ALLOW;
    }
    let Endpoint { address, protocol, .. } = read_address(ctx.sock_addr, hook);
    // The port is TCP's for others.
    if u32::from(protocol) != IPPROTO_UDP {
        return ALLOW;
    }
    let is_resolvers = is_v4(&address) && u32::from_be(address[3]) & DNS_NETMASK == DNS_NETWORK;
    // Where the gateway does not listen, somebody else may.
    if is_resolvers || (is_this_host(&address) && netns(netns_cookie(ctx)) == Some(NETNS_SERVED)) {
        return refuse(Counter::DeniedUdp, ECONNREFUSED);
    }
    ALLOW
}

/// The loopback addresses, and those that stand for one of them.
#[inline(always)]
fn is_this_host(address: &Address) -> bool {
    let is_unspecified =
        address[0] == 0 && address[1] == 0 && (address[2] == 0 || address[2] == MAPPED) && address[3] == 0;
    is_unspecified || is_loopback(address)
}

/// A v4-mapped socket that was connected to a resolver: the kernel sends with the address that connect6 wrote.
#[inline(always)]
fn is_rewritten(sk: *mut bpf_sock, destination: &Address) -> bool {
    is_v4(destination)
        && u32::from_be(destination[3]) & DNS_NETMASK == DNS_NETWORK
        && NOTES.get(sk).is_some_and(|note| note.flags == NOTE_DNS | NOTE_REDIRECTED)
}

#[inline(always)]
pub fn redirect(
    ctx: &SockAddrContext,
    hook: Hook,
    settings: &Settings,
    task: &Task,
    cookie: u64,
    destination: Endpoint,
    flags: u32,
) -> i32 {
    if !is_served_or_held(settings, task, cookie, destination) {
        return refuse_loudly(Counter::DeniedNetns, ECONNREFUSED, task, cookie, destination);
    }
    let sk = socket(ctx);
    if !take_note(sk, task, cookie, destination, flags) {
        return refuse(Counter::DeniedNote, ECONNREFUSED);
    }
    let address = if is_v4(&destination.address) {
        let Some(number) = resolver_number(sk, destination.address[3]) else {
            return refuse(Counter::DeniedNote, ECONNREFUSED);
        };
        v4((DNS_NETWORK | number).to_be())
    } else {
        [0, 0, 0, 1_u32.to_be()]
    };
    write_address(ctx.sock_addr, hook, address, settings.dns_port);
    count(Counter::Dns);
    ALLOW
}

/// Answers come from whom the agent asked. Must always return 1.
#[inline(always)]
pub fn recvmsg(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let port = u16::from_be(field!(ctx.sock_addr, user_port) as u16);
    let Some(settings) = settings() else { return ALLOW };
    if port != settings.dns_port {
        return ALLOW;
    }
    let sk = socket(ctx);
    let Some(note) = NOTES.get(sk) else { return ALLOW };
    if note.flags & NOTE_DNS == 0 {
        return ALLOW;
    }
    let source = read_address(ctx.sock_addr, hook).address;
    if !is_v4(&source) {
        write_address(ctx.sock_addr, hook, note.destination.address, DNS_PORT);
    } else if u32::from_be(source[3]) & DNS_NETMASK == DNS_NETWORK {
        let index = (u32::from_be(source[3]) & !DNS_NETMASK).wrapping_sub(1) as usize;
        match RESOLVERS.get(sk) {
            Some(resolvers) if index < MAX_RESOLVERS => {
                write_address(ctx.sock_addr, hook, v4(resolvers.address[index]), DNS_PORT);
            }
            Some(_) => {}
            // A socket of another layout, whose note alone came along: that has the last one that it asked.
            None => write_address(ctx.sock_addr, hook, note.destination.address, DNS_PORT),
        }
    }
    ALLOW
}

/// The resolver's number on this socket, from 1.
#[inline(always)]
fn resolver_number(sk: *mut bpf_sock, resolver: u32) -> Option<u32> {
    let resolvers = RESOLVERS.get_or_insert(sk)?;
    for index in 0..MAX_RESOLVERS {
        if resolvers.address[index] == resolver {
            return Some(index as u32 + 1);
        }
    }
    let index = resolvers.next as usize & (MAX_RESOLVERS - 1);
    resolvers.next = resolvers.next.wrapping_add(1);
    resolvers.address[index] = resolver;
    Some(index as u32 + 1)
}
