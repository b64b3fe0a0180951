//! What a command under `weir run` may not ask of the kernel: the part of the drop-in `weir-agent.conf` that systemd would set as
//! a system call filter.
//!
//! Closed are the ways around a boundary that sees sockets and cgroups: sockets of families that no hook sees, io_uring (which
//! makes sockets past this filter), user namespaces (which bring capabilities), the memory and descriptors of other processes, names that the kernel's helper would look up
//! (`request_key`), and typing into the terminal that the
//! command shares with the root shell it was started from. Everything else stays as it is.

use std::io;

use libc::{
    BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO,
    sock_filter, sock_fprog,
};

/// `AUDIT_ARCH_*` of linux/audit.h: numbers of system calls mean nothing without it.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
/// Numbers from here on are another calling convention of the same architecture (x32).
const OTHER_CONVENTION: u32 = 0x4000_0000;

/// Offsets in `struct seccomp_data`; arguments are 64 bits, of which these calls use the low half, which is first.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const FIRST_ARGUMENT: u32 = 16;
const SECOND_ARGUMENT: u32 = 24;

/// asm-generic/ioctls.h: types into the terminal, pastes into the console.
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

/// Closes it for this thread and everything it starts, for good. Needs `no_new_privs`.
pub(super) fn seal() -> io::Result<()> {
    let mut filter = program();
    let length = u16::try_from(filter.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the program and its instructions outlive the call, which copies them.
    let result = unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, libc::c_ulong::from(libc::SECCOMP_MODE_FILTER), &raw const program)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Descriptors beyond the standard three end with the next exec: one of them may be a connection that leads past the gateway.
pub(super) fn leave_descriptors() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: a system call with integers; it closes nothing now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn program() -> Vec<sock_filter> {
    let mut program = vec![
        load(ARCH),
        skip_if(BPF_JEQ, ARCHITECTURE, 1),
        deny(libc::EPERM),
        load(NUMBER),
        skip_unless(BPF_JGE, OTHER_CONVENTION, 1),
        deny(libc::EPERM),
    ];
    let mut on_call = |number: libc::c_long, body: &[sock_filter]| {
        // Both fit: system calls are numbered from 0, and bodies are a few instructions.
        let (number, length) = (u32::try_from(number).unwrap_or(u32::MAX), u8::try_from(body.len()).unwrap_or(u8::MAX));
        program.extend([load(NUMBER), skip_unless(BPF_JEQ, number, length)]);
        program.extend_from_slice(body);
    };
    on_call(
        libc::SYS_ioctl,
        &[
            load(SECOND_ARGUMENT),
            skip_if(BPF_JEQ, TIOCSTI, 2),
            skip_if(BPF_JEQ, TIOCLINUX, 1),
            allow(),
            deny(libc::EPERM),
        ],
    );
    let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].map(i32::cast_unsigned);
    let socket = [
        load(FIRST_ARGUMENT),
        skip_if(BPF_JEQ, families[0], 3),
        skip_if(BPF_JEQ, families[1], 2),
        skip_if(BPF_JEQ, families[2], 1),
        deny(libc::EAFNOSUPPORT),
        allow(),
    ];
    on_call(libc::SYS_socket, &socket);
    on_call(libc::SYS_socketpair, &socket);
    let namespace = [
        load(FIRST_ARGUMENT),
        skip_unless(BPF_JSET, libc::CLONE_NEWUSER.cast_unsigned(), 1),
        deny(libc::EPERM),
        allow(),
    ];
    on_call(libc::SYS_unshare, &namespace);
    on_call(libc::SYS_clone, &namespace);
    // Its flags are in memory, which a filter cannot read; the C library then uses the older call.
    on_call(libc::SYS_clone3, &[deny(libc::ENOSYS)]);
    on_call(libc::SYS_setns, &[deny(libc::EPERM)]);
    let forbidden = [
        libc::SYS_io_uring_setup,
        libc::SYS_ptrace,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_request_key,
    ];
    for call in forbidden {
        on_call(call, &[deny(libc::EPERM)]);
    }
    program.push(allow());
    program
}

fn load(offset: u32) -> sock_filter {
    instruction(BPF_LD | BPF_W | BPF_ABS, offset, [0, 0])
}

fn allow() -> sock_filter {
    instruction(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, [0, 0])
}

fn deny(errno: i32) -> sock_filter {
    instruction(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | errno.cast_unsigned(), [0, 0])
}

fn skip_if(test: u32, value: u32, instructions: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, [instructions, 0])
}

fn skip_unless(test: u32, value: u32, instructions: u8) -> sock_filter {
    instruction(BPF_JMP | test | BPF_K, value, [0, instructions])
}

/// Codes are 16 bits wide, all of them.
const fn instruction(code: u32, k: u32, [jt, jf]: [u8; 2]) -> sock_filter {
    sock_filter { code: (code & 0xffff) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use nix::sched::{CloneFlags, unshare};
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};

    use super::*;

    /// A filter is a thread's own, so a thread can be sealed where a process is to live on.
    #[test]
    fn ways_around_are_closed_and_everything_else_is_open() {
        let sealed = std::thread::spawn(|| {
            nix::sys::prctl::set_no_new_privs().unwrap();
            seal().unwrap();
            let open = |family| socket(family, SockType::Datagram, SockFlag::empty(), None).map(drop);
            assert_eq!(open(AddressFamily::Inet), Ok(()));
            assert_eq!(open(AddressFamily::Inet6), Ok(()));
            assert_eq!(open(AddressFamily::Unix), Ok(()));
            for family in [AddressFamily::Packet, AddressFamily::Netlink, AddressFamily::Vsock, AddressFamily::Alg] {
                assert_eq!(open(family), Err(Errno::EAFNOSUPPORT), "{family:?}");
            }
            assert!(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).is_ok());
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER), Err(Errno::EPERM));
            assert_eq!(unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET), Err(Errno::EPERM));
            // Without the filter: it is no terminal.
            // SAFETY: the request reads one byte, which is there.
            let typed = unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) };
            assert_eq!((typed, Errno::last()), (-1, Errno::EPERM));
            // SAFETY: no pointer is followed: the call is refused or fails on the null pointer.
            let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, std::ptr::null::<u8>()) };
            assert_eq!((ring, Errno::last()), (-1, Errno::EPERM));
            let (kind, name) = (c"user", c"weir-seal");
            // SAFETY: both strings outlive the call.
            let key = unsafe { libc::syscall(libc::SYS_request_key, kind.as_ptr(), name.as_ptr(), 0, 0) };
            assert_eq!((key, Errno::last()), (-1, Errno::EPERM));
            // Without the filter: its own parent, which nobody forbids.
            // SAFETY: the request takes no pointer; the call is refused.
            let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME) };
            assert_eq!((traced, Errno::last()), (-1, Errno::EPERM));
            // Threads and processes still start.
            std::thread::spawn(|| ()).join().unwrap();
            assert!(std::process::Command::new("true").status().unwrap().success());
        });
        sealed.join().unwrap();
    }
}
