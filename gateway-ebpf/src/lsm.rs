//! The layer for kernels with the BPF LSM: what no cgroup hook sees. An agent gets no socket of somebody outside, sends
//! nothing by one that it had before it was an agent and lets nobody in by it, makes none of a family that cannot be
//! redirected, and lays hands on no process but its own.
//!
//! A socket is an agent's if it has a note: every IP socket of an agent has one from `socket()` on.

use core::ffi::c_void;

use aya_ebpf::bindings::{bpf_sock, socket};
use aya_ebpf::helpers::generated::bpf_sock_from_file;
use aya_ebpf::programs::LsmContext;
use gateway_common::{Counter, Endpoint, SOCK_FAMILY, SOCKET_FILE, SOCKET_SK};

use crate::agent::{self, Task};
use crate::maps::{NOTES, count, detached, report, settings};
use crate::structures::Cgroup;

const EPERM: i32 = 1;
const EAFNOSUPPORT: i32 = 97;
const AF_UNIX: i32 = 1;
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const AF_NETLINK: i32 = 16;
const ALLOW: i32 = 0;

/// A descriptor comes in: by SCM_RIGHTS, pidfd_getfd(2), or a tracer's hand.
#[inline(always)]
pub fn file_receive(ctx: &LsmContext) -> i32 {
    if !is_agent() {
        return ALLOW;
    }
    // SAFETY: the hook's first argument is the file, which lives as long as the call.
    let socket = unsafe { bpf_sock_from_file(ctx.arg(0)) };
    if socket.is_null() || !is_foreign(socket) {
        return ALLOW;
    }
    refuse(Counter::DeniedForeign, EPERM)
}

/// Anything leaves by a socket. One without a file is the kernel's own: a network file system works for whoever uses it.
#[inline(always)]
pub fn socket_sendmsg(ctx: &LsmContext) -> i32 {
    let socket: *mut socket = ctx.arg(0);
    if !is_foreign(socket) || !is_agent() || field::<u64>(socket.cast(), SOCKET_FILE) == 0 {
        return ALLOW;
    }
    refuse(Counter::DeniedForeign, EPERM)
}

/// Somebody is let in by a socket that listened before it was an agent's. What an agent has listen itself has a note.
#[inline(always)]
pub fn socket_accept(ctx: &LsmContext) -> i32 {
    if !is_foreign(ctx.arg(0)) || !is_agent() {
        return ALLOW;
    }
    refuse(Counter::DeniedForeign, EPERM)
}

/// Refused as by `RestrictAddressFamilies=`, so that programs fall back.
#[inline(always)]
pub fn socket_create(ctx: &LsmContext) -> i32 {
    let family: i32 = ctx.arg(0);
    let by_kernel: i32 = ctx.arg(3);
    if by_kernel != 0 || matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK) || !is_agent() {
        return ALLOW;
    }
    refuse(Counter::DeniedProtocol, EAFNOSUPPORT)
}

/// ptrace(2), process_vm_writev(2), pidfd_getfd(2), /proc/PID/mem: an agent may do so to its own processes, those of its cgroup and
/// below it, and to nobody else's. What only looks (`PTRACE_MODE_READ`) is left to the kernel's own rules.
#[inline(always)]
pub fn ptrace_access_check(ctx: &LsmContext) -> i32 {
    const PTRACE_MODE_ATTACH: u32 = 2;
    let task: *const c_void = ctx.arg(0);
    let mode: u32 = ctx.arg(1);
    if mode & PTRACE_MODE_ATTACH == 0 || !is_agent() {
        return ALLOW;
    }
    let own = Task::current().cgroup_id;
    if Cgroup::of_task(task).is_some_and(|cgroup| cgroup.is_within(own)) {
        return ALLOW;
    }
    refuse(Counter::DeniedTrace, EPERM)
}

#[inline(always)]
fn is_agent() -> bool {
    settings().is_some_and(agent::is_current) && !detached()
}

/// An IP socket that no agent made.
#[inline(always)]
fn is_foreign(socket: *mut socket) -> bool {
    let sk: *mut bpf_sock = field(socket.cast(), SOCKET_SK);
    if sk.is_null() {
        return false;
    }
    let family = i32::from(field::<u16>(sk.cast(), SOCK_FAMILY));
    (family == AF_INET || family == AF_INET6) && NOTES.get(sk).is_none()
}

/// A field of a kernel structure. The verifier knows the structure's type, and so the type of what is read; the witness has
/// compared the offset with the running kernel's.
#[inline(always)]
fn field<T>(structure: *const u8, offset: usize) -> T {
    // SAFETY: the verifier lets the program load only if the field lies within the structure.
    unsafe { structure.add(offset).cast::<T>().read_volatile() }
}

#[inline(always)]
fn refuse(counter: Counter, errno: i32) -> i32 {
    let wanted = Endpoint { address: [0; 4], port: 0, protocol: 0 };
    // No helper tells this hook the network namespace.
    report(counter, &Task::current(), 0, wanted);
    count(counter);
    -errno
}
