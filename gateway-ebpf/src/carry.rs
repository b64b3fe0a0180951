//! sockops: brings the note from the agent's socket over to the one that the gateway accepts. Before the SYN leaves, the
//! client's note goes into `PENDING` under both ends' addresses; when the gateway's side is established, it is taken out
//! and put on the new socket. The entry is removed whenever the client's socket closes, however it does.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock, bpf_sock_ops};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use gateway_common::{
    Address, CARRIED_NOTE, Counter, Flow, NOTE_ACCEPTED, NOTE_LISTENING, NOTE_OWN, NOTE_REDIRECTED, Note, Settings,
};

use crate::agent;
use crate::connect::{is_loopback, v4};
use crate::maps::{NOTES, PENDING, count, field, netns, netns_cookie, settings};
use crate::structures::{Cgroup, Current};

const TIMEOUT_INIT: u32 = 1;
const TCP_CONNECT: u32 = 3;
const PASSIVE_ESTABLISHED: u32 = 5;
const STATE: u32 = 10;
const TCP_LISTEN: u32 = 11;
const TCP_CLOSE: u32 = 7;
const STATE_CALLBACK: i32 = 1 << 2;
const BPF_ANY: u64 = 0;
const AF_INET: u32 = 2;

#[inline(always)]
pub fn sock_ops(ctx: &SockOpsContext) -> u32 {
    let op = field!(ctx.ops, op);
    if op != TIMEOUT_INIT && op != TCP_CONNECT && op != PASSIVE_ESTABLISHED && op != STATE && op != TCP_LISTEN {
        return 1;
    }
    let Some(settings) = settings() else { return 1 };
    let sk = field!(ctx.ops, __bindgen_anon_2.sk);
    if sk.is_null() {
        return 1;
    }
    match op {
        TIMEOUT_INIT => hold(ctx, settings, sk),
        TCP_CONNECT => connecting(ctx, settings, sk),
        PASSIVE_ESTABLISHED => accepted(ctx, settings, sk),
        STATE => state_changed(ctx),
        _ => listening(ctx, settings, sk),
    }
    1
}

/// A held SYN is sent again soon, and not after the usual second; each time it takes twice as long. In a namespace that nobody has
/// looked at that is after 20 ms, and given up after 2.5 s, where the kernel has 250 ticks a second. Who waits for a gateway
/// waits for a process to start: after 200 ms, and given up after 25 s.
#[inline(always)]
fn hold(ctx: &SockOpsContext, settings: &Settings, sk: *mut bpf_sock) {
    const TICKS: u32 = 5;
    const TICKS_WITHOUT_GATEWAY: u32 = 50;
    let Some(note) = NOTES.get(sk) else { return };
    if note.flags & NOTE_REDIRECTED == 0 {
        return;
    }
    if netns(note.netns_cookie).is_none() && settings.gateway_cgroup != 0 {
        ctx.set_reply(TICKS);
    } else if settings.hold_without_gateway != 0 {
        ctx.set_reply(TICKS_WITHOUT_GATEWAY);
    }
}

/// Process context, just before the SYN.
#[inline(always)]
fn connecting(ctx: &SockOpsContext, settings: &Settings, sk: *mut bpf_sock) {
    let Some(note) = NOTES.get(sk) else { return };
    if note.flags & (NOTE_REDIRECTED | NOTE_OWN) == 0 {
        return;
    }
    let (local, remote) = addresses(ctx.ops);
    if !leads_there(settings, note, &remote, remote_port(ctx.ops)) {
        // The note is an earlier connect's, and nobody looked at this one: the second gate must not take it for that.
        note.flags = 0;
        return;
    }
    if note.flags & NOTE_REDIRECTED == 0 {
        return;
    }
    note.started_at = Current::get().and_then(Current::started_at).unwrap_or(0);
    let flow = Flow {
        client: local,
        server: remote,
        client_port: local_port(ctx.ops),
        server_port: remote_port(ctx.ops),
        reserved: 0,
        netns_cookie: netns_cookie(ctx),
    };
    // What is there, if anything is, was forgotten: these addresses are this connect's now.
    if PENDING.insert(flow, *note, BPF_ANY).is_err() {
        // The gateway will find nothing and reset the connection.
        count(Counter::PendingFull);
        warn!(ctx, "too many connects are under way");
        return;
    }
    let _ = ctx.set_cb_flags(field!(ctx.ops, bpf_sock_ops_cb_flags) as i32 | STATE_CALLBACK);
}

/// What the connect hook let this socket do is what it does.
#[inline(always)]
fn leads_there(settings: &Settings, note: &Note, address: &Address, port: u16) -> bool {
    if note.flags & NOTE_REDIRECTED != 0 {
        return port == settings.port && is_loopback(address);
    }
    let wanted = &note.destination;
    port == wanted.port
        && address[0] == wanted.address[0]
        && address[1] == wanted.address[1]
        && address[2] == wanted.address[2]
        && address[3] == wanted.address[3]
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext, settings: &Settings, sk: *mut bpf_sock) {
    let port = local_port(ctx.ops);
    if port != settings.port {
        return;
    }
    let (local, remote) = addresses(ctx.ops);
    let flow = Flow {
        client: remote,
        server: local,
        client_port: remote_port(ctx.ops),
        server_port: port,
        reserved: 0,
        netns_cookie: netns_cookie(ctx),
    };
    let Some(pending) = PENDING.get_ptr(flow) else { return count(Counter::Unattributed) };
    let Some(note) = NOTES.get_or_insert(sk) else { return count(Counter::DeniedNote) };
    // SAFETY: only this connection's two ends touch the entry, and it is removed below.
    *note = unsafe { *pending };
    note.flags = NOTE_ACCEPTED;
    let _ = PENDING.remove(flow);
}

#[inline(always)]
fn state_changed(ctx: &SockOpsContext) {
    if field!(ctx.ops, __bindgen_anon_1.args[1]) != TCP_CLOSE {
        return;
    }
    let (local, remote) = addresses(ctx.ops);
    let flow = Flow {
        client: local,
        server: remote,
        client_port: local_port(ctx.ops),
        server_port: remote_port(ctx.ops),
        reserved: 0,
        netns_cookie: netns_cookie(ctx),
    };
    let _ = PENDING.remove(flow);
}

/// An agent's socket listens; sockets accepted from it get a copy of the note, and with it this flag. Process context: a socket that
/// somebody else made is the agent's who has it listen, so that the gate knows whom others would get in to.
#[inline(always)]
fn listening(ctx: &SockOpsContext, settings: &Settings, sk: *mut bpf_sock) {
    if let Some(note) = NOTES.get(sk) {
        note.flags = NOTE_LISTENING;
        return;
    }
    let Some(task) = Current::get() else { return };
    if !agent::is_by_structures(settings, task) {
        return;
    }
    let Some(uid) = task.user() else { return };
    let Some(cgroup) = task.cgroup().and_then(Cgroup::id) else { return };
    let Some(note) = NOTES.get_or_insert(sk) else { return count(Counter::DeniedNote) };
    note.socket_cgroup_id = cgroup;
    note.socket_uid = uid;
    note.netns_cookie = netns_cookie(ctx);
    note.flags = NOTE_LISTENING;
}

/// `struct bpf_iter__bpf_sk_storage_map`: a socket, and its value in the map that is iterated; both null at the end.
#[repr(C)]
pub struct NotedSocket {
    meta: u64,
    map: u64,
    sk: *mut c_void,
    value: *const u64,
}

/// A socket's note of another layout becomes one of this, as far as it goes. What this layout has noted itself stays, unless it was the
/// other one's programs that saw the later connect.
#[inline(always)]
pub fn from_another_layout(ctx: *mut NotedSocket) -> i32 {
    let (sk, old) = (field!(ctx, sk), field!(ctx, value));
    if sk.is_null() || old.is_null() {
        return 0;
    }
    let mut note = Note::default();
    let words = (&raw mut note).cast::<u64>();
    for word in 0..CARRIED_NOTE / size_of::<u64>() {
        // SAFETY: both have as many bytes; the verifier checks the first, and a constant of `gateway-common` the second.
        unsafe { words.add(word).write(old.add(word).read()) };
    }
    if let Some(ours) = NOTES.get_or_insert_as(sk, &note)
        && ours.connected_at < note.connected_at
    {
        *ours = note;
    }
    0
}

/// Local and remote address; IPv4 in v4-mapped form, as a mapped IPv6 socket has it. All fields are read whatever the
/// family: loads in branches would be merged into one that the verifier refuses.
#[inline(always)]
fn addresses(ops: *mut bpf_sock_ops) -> (Address, Address) {
    let local4 = v4(field!(ops, local_ip4));
    let remote4 = v4(field!(ops, remote_ip4));
    let local6 =
        [field!(ops, local_ip6[0]), field!(ops, local_ip6[1]), field!(ops, local_ip6[2]), field!(ops, local_ip6[3])];
    let remote6 = [
        field!(ops, remote_ip6[0]),
        field!(ops, remote_ip6[1]),
        field!(ops, remote_ip6[2]),
        field!(ops, remote_ip6[3]),
    ];
    if field!(ops, family) == AF_INET { (local4, remote4) } else { (local6, remote6) }
}

/// Host order.
#[inline(always)]
fn local_port(ops: *mut bpf_sock_ops) -> u16 {
    field!(ops, local_port) as u16
}

/// Network order, in the upper half.
#[inline(always)]
fn remote_port(ops: *mut bpf_sock_ops) -> u16 {
    u16::from_be((field!(ops, remote_port) >> 16) as u16)
}
