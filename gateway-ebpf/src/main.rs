//! The kernel half: every outbound connection of an agent is rewritten to the gateway, with a note on the socket that
//! says who asked for what; what cannot be rewritten is refused. The entry points are here, thin; the work is in the
//! modules: [`agent`] tells agents from everybody else, [`connect`] rewrites, [`carry`] brings the note over to the
//! socket that the gateway accepts, [`dns`] does the same for resolvers, [`gate`] refuses the ways around, and [`mod@lsm`] those
//! that no cgroup hook sees, where the kernel has the BPF LSM. [`made`] knows agents' cgroups as they are made.
//!
//! Every program runs for every process below the attach point, so all of them let non-agents go first of all. All
//! failures refuse.
#![no_std]
#![no_main]

mod agent;
mod carry;
mod connect;
mod dns;
mod gate;
mod lsm;
mod made;
mod maps;
mod structures;

use aya_ebpf::macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, lsm, sock_ops};
use aya_ebpf::programs::{
    BtfTracePointContext, LsmContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext,
};

use crate::connect::Hook;

#[cgroup_sock_addr(connect4)]
pub fn weir_connect4(ctx: SockAddrContext) -> i32 {
    connect::connect(&ctx, Hook::V4)
}

#[cgroup_sock_addr(connect6)]
pub fn weir_connect6(ctx: SockAddrContext) -> i32 {
    connect::connect(&ctx, Hook::V6)
}

#[cgroup_sock_addr(getpeername4)]
pub fn weir_getpeername4(ctx: SockAddrContext) -> i32 {
    connect::getpeername(&ctx, Hook::V4)
}

#[cgroup_sock_addr(getpeername6)]
pub fn weir_getpeername6(ctx: SockAddrContext) -> i32 {
    connect::getpeername(&ctx, Hook::V6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn weir_sendmsg4(ctx: SockAddrContext) -> i32 {
    dns::sendmsg(&ctx, Hook::V4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn weir_sendmsg6(ctx: SockAddrContext) -> i32 {
    dns::sendmsg(&ctx, Hook::V6)
}

#[cgroup_sock_addr(recvmsg4)]
pub fn weir_recvmsg4(ctx: SockAddrContext) -> i32 {
    dns::recvmsg(&ctx, Hook::V4)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn weir_recvmsg6(ctx: SockAddrContext) -> i32 {
    dns::recvmsg(&ctx, Hook::V6)
}

#[cgroup_sock_addr(bind4)]
pub fn weir_bind4(ctx: SockAddrContext) -> i32 {
    gate::bind(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn weir_bind6(ctx: SockAddrContext) -> i32 {
    gate::bind(&ctx)
}

#[cgroup_sock(sock_create)]
pub fn weir_sock_create(ctx: SockContext) -> i32 {
    gate::sock_create(&ctx)
}

#[cgroup_sockopt(setsockopt)]
pub fn weir_setsockopt(ctx: SockoptContext) -> i32 {
    gate::setsockopt(&ctx)
}

#[cgroup_skb(egress)]
pub fn weir_egress(ctx: SkBuffContext) -> i32 {
    gate::egress(&ctx)
}

#[cgroup_skb(ingress)]
pub fn weir_ingress(ctx: SkBuffContext) -> i32 {
    gate::ingress(&ctx)
}

#[sock_ops]
pub fn weir_sock_ops(ctx: SockOpsContext) -> u32 {
    carry::sock_ops(&ctx)
}

#[lsm(hook = "file_receive")]
pub fn weir_file_receive(ctx: LsmContext) -> i32 {
    lsm::file_receive(&ctx)
}

#[lsm(hook = "socket_sendmsg")]
pub fn weir_socket_sendmsg(ctx: LsmContext) -> i32 {
    lsm::socket_sendmsg(&ctx)
}

#[lsm(hook = "socket_accept")]
pub fn weir_socket_accept(ctx: LsmContext) -> i32 {
    lsm::socket_accept(&ctx)
}

#[lsm(hook = "socket_create")]
pub fn weir_socket_create(ctx: LsmContext) -> i32 {
    lsm::socket_create(&ctx)
}

#[lsm(hook = "ptrace_access_check")]
pub fn weir_ptrace_access_check(ctx: LsmContext) -> i32 {
    lsm::ptrace_access_check(&ctx)
}

#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn weir_cgroup_made(ctx: BtfTracePointContext) -> i32 {
    made::cgroup_mkdir(&ctx)
}

/// Run by the witness, for each socket that has a note of another layout.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub fn weir_carry_notes(ctx: *mut carry::NotedSocket) -> i32 {
    carry::from_another_layout(ctx)
}

// The plain deny: attached before anything else on a first start, so that agents are closed in even if one of the programs
// above cannot be loaded.

#[cgroup_sock(sock_create)]
pub fn deny_sock_create(_: SockContext) -> i32 {
    gate::deny_sock_create()
}

#[cgroup_sock_addr(connect4)]
pub fn deny_connect4(_: SockAddrContext) -> i32 {
    gate::plain_deny()
}

#[cgroup_sock_addr(connect6)]
pub fn deny_connect6(_: SockAddrContext) -> i32 {
    gate::plain_deny()
}

#[cgroup_sock_addr(sendmsg4)]
pub fn deny_sendmsg4(_: SockAddrContext) -> i32 {
    gate::plain_deny()
}

#[cgroup_sock_addr(sendmsg6)]
pub fn deny_sendmsg6(_: SockAddrContext) -> i32 {
    gate::plain_deny()
}

#[cgroup_skb(egress)]
pub fn deny_egress(ctx: SkBuffContext) -> i32 {
    gate::deny_egress(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
