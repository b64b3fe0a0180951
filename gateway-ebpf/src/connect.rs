//! connect4/6 and getpeername4/6: notes who connects where, rewrites the address to the gateway, and shows the agent the
//! address that it asked for.

use aya_ebpf::bindings::{BPF_F_CURRENT_NETNS, bpf_sock, bpf_sock_addr, bpf_sock_tuple, sockaddr};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::{bpf_bind, bpf_get_prandom_u32, bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::error;
use gateway_common::{
    Address, Counter, DNS_PORT, Endpoint, MAPPED, NETNS_SERVED, NOTE_DNS, NOTE_LISTENING, NOTE_OWN, NOTE_REDIRECTED,
    SOURCE_NETWORK, SOURCES, Settings,
};

use crate::agent::{self, Task};
use crate::dns;
use crate::maps::{NOTES, count, detached, field, netns, netns_cookie, refuse, refuse_loudly, report, settings};

pub const ALLOW: i32 = 1;
pub const ECONNREFUSED: i32 = 111;
pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;

const LOCALHOST: u32 = 0x7f00_0001_u32.to_be();
const TCP_LISTEN: u32 = 10;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The family of the hook. An IPv4 hook may only touch the IPv4 fields, an IPv6 hook only the others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    V4,
    V6,
}

#[inline(always)]
pub fn connect(ctx: &SockAddrContext, hook: Hook) -> i32 {
    let Some(settings) = settings() else { return 0 };
    let sk = socket(ctx);
    if !agent::is_current_or_socket(settings, sk) {
        return dns::keep_others_out(ctx, hook, settings);
    }
    if detached() {
        return leave_alone(sk, Counter::Detached);
    }
    let destination = read_address(ctx.sock_addr, hook);
    let task = Task::current();
    let cookie = netns_cookie(ctx);
    match u32::from(destination.protocol) {
        IPPROTO_TCP => {
            if is_loopback(&destination.address) && is_own_server(ctx, settings, &task, &destination) {
                return let_to_own_server(ctx, sk, &task, cookie, destination);
            }
            if !is_served_or_held(settings, &task, cookie, destination) {
                return refuse_loudly(Counter::DeniedNetns, ECONNREFUSED, &task, cookie, destination);
            }
            if !take_note(sk, &task, cookie, destination, NOTE_REDIRECTED) {
                error!(ctx, "no note could be made for pid {}: connect refused", task.pid);
                return refuse(Counter::DeniedNote, ECONNREFUSED);
            }
            spread(ctx, sk, hook, &destination.address);
            write_address(ctx.sock_addr, hook, gateway_address(&destination.address), settings.port);
            count(Counter::Redirected);
            ALLOW
        }
        IPPROTO_UDP if destination.port == DNS_PORT => {
            dns::redirect(ctx, hook, settings, &task, cookie, destination, NOTE_REDIRECTED | NOTE_DNS)
        }
        IPPROTO_UDP => refuse(Counter::DeniedUdpConnect, ECONNREFUSED),
        _ => refuse_loudly(Counter::DeniedProtocol, ECONNREFUSED, &task, cookie, destination),
    }
}

/// Must always return 1.
#[inline(always)]
pub fn getpeername(ctx: &SockAddrContext, hook: Hook) -> i32 {
    if let Some(note) = NOTES.get(socket(ctx))
        && note.flags & NOTE_REDIRECTED != 0
    {
        write_address(ctx.sock_addr, hook, note.destination.address, note.destination.port);
    }
    ALLOW
}

#[inline(always)]
pub fn socket(ctx: &SockAddrContext) -> *mut bpf_sock {
    field!(ctx.sock_addr, __bindgen_anon_1.sk)
}

/// Whether the gateway listens in this network namespace, or will find out at once whether it can: user space is told, and
/// what the agent sends is dropped at the second gate until then (TCP sends it again).
#[inline(always)]
pub fn is_served_or_held(settings: &Settings, task: &Task, netns_cookie: u64, destination: Endpoint) -> bool {
    match netns(netns_cookie) {
        Some(state) => state == NETNS_SERVED,
        // Before the first gateway nobody would listen.
        None if settings.gateway_cgroup == 0 => settings.hold_without_gateway != 0,
        None => {
            report(Counter::HeldNetns, task, netns_cookie, destination);
            count(Counter::HeldNetns);
            true
        }
    }
}

/// Writes the note, whole, over whatever an earlier connect left.
#[inline(always)]
pub fn take_note(sk: *mut bpf_sock, task: &Task, netns_cookie: u64, destination: Endpoint, flags: u32) -> bool {
    let Some(note) = NOTES.get_or_insert(sk) else { return false };
    // SAFETY: a helper without arguments.
    note.connected_at = unsafe { bpf_ktime_get_boot_ns() };
    note.cgroup_id = task.cgroup_id;
    note.netns_cookie = netns_cookie;
    note.pid = task.pid;
    note.uid = task.uid;
    note.gid = task.gid;
    note.flags = flags;
    note.destination = destination;
    // Sock_ops knows, where the SYN leaves.
    note.started_at = 0;
    true
}

/// A connect to a server of the same agent goes there; the second gate sees by the note that it may.
#[inline(always)]
fn let_to_own_server(ctx: &SockAddrContext, sk: *mut bpf_sock, task: &Task, cookie: u64, destination: Endpoint) -> i32 {
    if !take_note(sk, task, cookie, destination, NOTE_OWN) {
        error!(ctx, "no note could be made for pid {}: connect refused", task.pid);
        return refuse(Counter::DeniedNote, ECONNREFUSED);
    }
    count(Counter::OwnServer);
    ALLOW
}

/// A direct connect: nothing of an earlier, redirected one may stay.
#[inline(always)]
fn leave_alone(sk: *mut bpf_sock, counter: Counter) -> i32 {
    if let Some(note) = NOTES.get(sk) {
        note.flags = 0;
    }
    count(counter);
    ALLOW
}

/// A socket of the same agent listens there: the very one that would take this connection.
#[inline(always)]
fn is_own_server(ctx: &SockAddrContext, settings: &Settings, task: &Task, destination: &Endpoint) -> bool {
    // SAFETY: a union of integers.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let port = destination.port.to_be();
    let size = if is_v4(&destination.address) {
        tuple.__bindgen_anon_1.ipv4.daddr = destination.address[3];
        tuple.__bindgen_anon_1.ipv4.dport = port;
        // SAFETY: the union's field was just written.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv4 })
    } else {
        tuple.__bindgen_anon_1.ipv6.daddr = [0, 0, 0, 1_u32.to_be()];
        tuple.__bindgen_anon_1.ipv6.dport = port;
        // SAFETY: as above.
        size_of_val(unsafe { &tuple.__bindgen_anon_1.ipv6 })
    };
    // SAFETY: the verifier checks that the reference is released on every path.
    let listener = unsafe {
        bpf_sk_lookup_tcp(ctx.sock_addr.cast(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as i64 as u64, 0)
    };
    if listener.is_null() {
        return false;
    }
    let own = field!(listener, state) == TCP_LISTEN
        && NOTES
            .get(listener)
            .is_some_and(|note| note.flags & NOTE_LISTENING != 0 && agent::made_by_same_agent(settings, note, task));
    // SAFETY: not null, and not used afterwards.
    unsafe { bpf_sk_release(listener.cast()) };
    own
}

/// Gives an IPv4 connect one of several source addresses, so that more connections are open at once than one has ports. A socket
/// that is bound keeps its address, and where this fails the connect is as good: then it comes from 127.0.0.1.
#[inline(always)]
fn spread(ctx: &SockAddrContext, sk: *mut bpf_sock, hook: Hook, destination: &Address) {
    if !is_v4(destination) || sk.is_null() {
        return;
    }
    // SAFETY: a helper without arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let source = (SOURCE_NETWORK | (random & (SOURCES - 1))).to_be();
    match hook {
        Hook::V4 if field!(sk, src_ip4) == 0 => {
            let address = Sockaddr4 { family: AF_INET, port: 0, address: source, zero: [0; 2] };
            bind(ctx, &address);
        }
        Hook::V6 if field!(sk, src_ip6[3]) == 0 => {
            let address = Sockaddr6 { family: AF_INET6, port: 0, flow: 0, address: v4(source), scope: 0 };
            bind(ctx, &address);
        }
        _ => {}
    }
}

/// `struct sockaddr_in`.
#[repr(C)]
struct Sockaddr4 {
    family: u16,
    port: u16,
    address: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
struct Sockaddr6 {
    family: u16,
    port: u16,
    flow: u32,
    address: Address,
    scope: u32,
}

#[inline(always)]
fn bind<T>(ctx: &SockAddrContext, address: &T) {
    let address = (&raw const *address).cast_mut().cast::<sockaddr>();
    // SAFETY: the verifier checks that there are so many bytes on the stack; the helper only reads them.
    unsafe { bpf_bind(ctx.sock_addr, address, size_of::<T>() as i32) };
}

/// The gateway's address in the family of the agent's: a plain IPv4 listener takes v4-mapped connects too.
#[inline(always)]
fn gateway_address(destination: &Address) -> Address {
    if is_v4(destination) { v4(LOCALHOST) } else { [0, 0, 0, 1_u32.to_be()] }
}

#[inline(always)]
pub fn v4(address: u32) -> Address {
    [0, 0, MAPPED, address]
}

#[inline(always)]
pub fn is_v4(address: &Address) -> bool {
    address[0] == 0 && address[1] == 0 && address[2] == MAPPED
}

/// 127/8, ::1, and the unspecified addresses, which the kernel connects to the loopback.
#[inline(always)]
pub fn is_loopback(address: &Address) -> bool {
    if is_v4(address) {
        return u32::from_be(address[3]) >> 24 == 127;
    }
    address[0] == 0 && address[1] == 0 && address[2] == 0 && address[3] == 1_u32.to_be()
}

#[inline(always)]
pub fn read_address(address: *mut bpf_sock_addr, hook: Hook) -> Endpoint {
    let ip = match hook {
        Hook::V4 => v4(field!(address, user_ip4)),
        Hook::V6 => [
            field!(address, user_ip6[0]),
            field!(address, user_ip6[1]),
            field!(address, user_ip6[2]),
            field!(address, user_ip6[3]),
        ],
    };
    Endpoint {
        address: ip,
        port: u16::from_be(field!(address, user_port) as u16),
        protocol: field!(address, protocol) as u16,
    }
}

#[inline(always)]
pub fn write_address(address: *mut bpf_sock_addr, hook: Hook, ip: Address, port: u16) {
    // SAFETY: the kernel hands the program a valid context; the fields may be written in all hooks that call this. One
    // store for each word: the verifier refuses merged ones.
    unsafe {
        match hook {
            Hook::V4 => (&raw mut (*address).user_ip4).write_volatile(ip[3]),
            Hook::V6 => {
                let words = (&raw mut (*address).user_ip6).cast::<u32>();
                words.write_volatile(ip[0]);
                words.add(1).write_volatile(ip[1]);
                words.add(2).write_volatile(ip[2]);
                words.add(3).write_volatile(ip[3]);
            }
        }
        (&raw mut (*address).user_port).write_volatile(u32::from(port.to_be()));
    }
}
