//! The system calls of the corpus, with addresses and options as plain bytes: techniques need what no library offers.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// What the kernel let happen, or why not.
pub(crate) type Attempt<T = ()> = Result<T, Errno>;

/// Nobody waits longer than this for an answer.
const PATIENCE_SECONDS: i64 = 3;

pub(crate) fn socket(family: i32, kind: i32, protocol: i32) -> Attempt<OwnedFd> {
    // SAFETY: a system call with integers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) };
    owned(fd.into())
}

pub(crate) fn tcp(address: &SocketAddr) -> Attempt<OwnedFd> {
    socket(family(address), libc::SOCK_STREAM, 0)
}

pub(crate) fn udp(address: &SocketAddr) -> Attempt<OwnedFd> {
    socket(family(address), libc::SOCK_DGRAM, 0)
}

fn family(address: &SocketAddr) -> i32 {
    if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

pub(crate) fn set(fd: &OwnedFd, level: i32, name: i32, value: &[u8]) -> Attempt {
    let length = libc::socklen_t::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads as many bytes as there are.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), length) }.into()).map(drop)
}

pub(crate) fn set_int(fd: &OwnedFd, level: i32, name: i32, value: i32) -> Attempt {
    set(fd, level, name, &value.to_ne_bytes())
}

pub(crate) fn connect(fd: &OwnedFd, address: &[u8]) -> Attempt {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads as many bytes as there are.
    check(unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), length) }.into()).map(drop)
}

pub(crate) fn bind(fd: &OwnedFd, address: &[u8]) -> Attempt {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads as many bytes as there are.
    check(unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), length) }.into()).map(drop)
}

pub(crate) fn listen(fd: &OwnedFd) -> Attempt {
    // SAFETY: a system call with integers.
    check(unsafe { libc::listen(fd.as_raw_fd(), 8) }.into()).map(drop)
}

/// An empty address sends to whom the socket is connected.
pub(crate) fn send_to(fd: &OwnedFd, data: &[u8], flags: i32, address: &[u8]) -> Attempt {
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    let to = if address.is_empty() { std::ptr::null() } else { address.as_ptr() };
    let flags = flags | libc::MSG_NOSIGNAL;
    // SAFETY: the kernel reads as many bytes as there are, of both.
    let sent = unsafe { libc::sendto(fd.as_raw_fd(), data.as_ptr().cast(), data.len(), flags, to.cast(), length) };
    check(sent as libc::c_long).map(drop)
}

/// Sends with one control message (`cmsg(3)`).
pub(crate) fn send_with_control(
    fd: &OwnedFd,
    data: &[u8],
    address: &[u8],
    (level, kind): (i32, i32),
    value: &[u8],
) -> Attempt {
    let header = size_of::<libc::cmsghdr>();
    let mut control = vec![0u8; (header + value.len()).next_multiple_of(align_of::<libc::cmsghdr>())];
    control[..size_of::<usize>()].copy_from_slice(&(header + value.len()).to_ne_bytes());
    control[size_of::<usize>()..][..4].copy_from_slice(&level.to_ne_bytes());
    control[size_of::<usize>() + 4..][..4].copy_from_slice(&kind.to_ne_bytes());
    control[header..][..value.len()].copy_from_slice(value);
    let mut slice = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: a struct of integers and pointers.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len();
    // SAFETY: all that the message points to lives until the call returns; the kernel only reads it.
    check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) } as libc::c_long).map(drop)
}

/// `Ok(0)` is the other end's orderly end.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> Attempt<usize> {
    let time = nix::sys::time::TimeVal::new(PATIENCE_SECONDS, 0);
    nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::ReceiveTimeout, &time)?;
    nix::sys::socket::recv(fd.as_raw_fd(), buffer, MsgFlags::empty())
}

/// A connect that hangs must not hang the test.
pub(crate) fn limit_waiting(fd: &OwnedFd) -> Attempt {
    let time = nix::sys::time::TimeVal::new(PATIENCE_SECONDS, 0);
    nix::sys::socket::setsockopt(fd, nix::sys::socket::sockopt::SendTimeout, &time)
}

/// Turns on the loopback device of a namespace of one's own.
pub(crate) fn loopback_up() -> Attempt {
    const SIOCSIFFLAGS: libc::Ioctl = 0x8914;
    let device = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    // `struct ifreq`: a name and flags.
    let mut request = [0u8; 40];
    request[..2].copy_from_slice(b"lo");
    request[16] = 1;
    // SAFETY: the kernel reads one `ifreq` of 40 bytes.
    check(unsafe { libc::ioctl(device.as_raw_fd(), SIOCSIFFLAGS, request.as_ptr()) }.into()).map(drop)
}

pub(crate) fn pass(over: BorrowedFd<'_>, what: &[RawFd]) -> Attempt {
    let message = [IoSlice::new(b"x")];
    sendmsg::<()>(over.as_raw_fd(), &message, &[ControlMessage::ScmRights(what)], MsgFlags::empty(), None).map(drop)
}

/// Says why there is nothing to pass.
pub(crate) fn pass_nothing(over: BorrowedFd<'_>, why: Errno) -> Attempt {
    let number = u8::try_from(why as i32).unwrap_or(u8::MAX);
    sendmsg::<()>(over.as_raw_fd(), &[IoSlice::new(&[number])], &[], MsgFlags::empty(), None).map(drop)
}

pub(crate) fn take(from: BorrowedFd<'_>) -> Attempt<OwnedFd> {
    let mut byte = [0u8; 1];
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut slices = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(from.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let fds = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    owned(fds.ok_or_else(|| Errno::from_raw(byte[0].into()))?.into())
}

/// pidfd_open(2) and pidfd_getfd(2).
pub(crate) fn steal(pid: u32, fd: RawFd) -> Attempt<OwnedFd> {
    // SAFETY: system calls with integers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: as above.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) })
}

pub(crate) fn ptrace_seize(pid: u32) -> Attempt {
    // SAFETY: PTRACE_SEIZE takes no pointers.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) }).map(drop)
}

/// process_vm_writev(2) of one byte to the lowest page that programs have: whoever may is told EFAULT, not EPERM.
pub(crate) fn write_memory(pid: u32) -> Attempt {
    let byte = [0u8; 1];
    let local = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(0x1000), iov_len: 1 };
    let pid = pid.cast_signed();
    // SAFETY: one byte is read here; the other address belongs to the other process.
    check(unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) } as libc::c_long)
        .map(drop)
}

/// bpf(2) with the first words of its attribute.
pub(crate) fn bpf(command: i32, attribute: &[u64; 4]) -> Attempt<OwnedFd> {
    // SAFETY: the kernel reads the attribute, and what the caller made it point to.
    owned(unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(attribute)) })
}

/// BPF_OBJ_GET of a pin, for writing.
pub(crate) fn open_pin(path: &std::ffi::CStr) -> Attempt<OwnedFd> {
    bpf(7, &[path.as_ptr() as u64, 0, 0, 0])
}

/// request_key(2) of the type that the kernel asks a helper about, outside of every agent's cgroup.
pub(crate) fn request_dns_key(name: &std::ffi::CStr) -> Attempt {
    let (kind, info) = (c"dns_resolver", c"");
    // SAFETY: three strings that live until the call returns; -3 is the process's keyring.
    check(unsafe { libc::syscall(libc::SYS_request_key, kind.as_ptr(), name.as_ptr(), info.as_ptr(), -3) }).map(drop)
}

/// What a device of one's own carries: packets, or frames.
pub(crate) const IFF_TUN: u16 = 1;
pub(crate) const IFF_TAP: u16 = 2;

/// TUNSETIFF: a device of that kind by that name.
pub(crate) fn make_device(device: &std::fs::File, name: &[u8], kind: u16) -> Attempt {
    const IFF_NO_PI: u16 = 0x1000;
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name);
    request[16..18].copy_from_slice(&(IFF_NO_PI | kind).to_ne_bytes());
    // SAFETY: `struct ifreq` has 40 bytes, which are there.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }.into()).map(drop)
}

/// clone3(2) with CLONE_INTO_CGROUP; the child ends at once.
pub(crate) fn fork_into(cgroup: &std::fs::File) -> Attempt {
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let descriptor = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let attribute: [u64; 11] = [CLONE_INTO_CGROUP, 0, 0, 0, libc::SIGCHLD as u64, 0, 0, 0, 0, 0, descriptor];
    // SAFETY: without CLONE_VM this is a fork; the child, of a process with one thread, only ends.
    let child = check(unsafe { libc::syscall(libc::SYS_clone3, attribute.as_ptr(), size_of_val(&attribute)) })?;
    if child == 0 {
        std::process::exit(0);
    }
    Ok(())
}

pub(crate) fn owned(fd: libc::c_long) -> Attempt<OwnedFd> {
    let fd = check(fd)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_long) -> Attempt<libc::c_long> {
    if result < 0 { Err(Errno::last()) } else { Ok(result) }
}

/// `struct sockaddr_in` or `sockaddr_in6`, with the interface in the latter.
pub(crate) fn address(address: SocketAddr, scope: u32) -> Vec<u8> {
    match address.ip() {
        IpAddr::V4(ip) => v4(libc::AF_INET, ip, address.port()),
        IpAddr::V6(ip) => v6(ip, address.port(), scope),
    }
}

/// `struct sockaddr_in` of any family.
pub(crate) fn v4(family: i32, ip: Ipv4Addr, port: u16) -> Vec<u8> {
    let family = u16::try_from(family).unwrap_or(0);
    [&family.to_ne_bytes()[..], &port.to_be_bytes(), &ip.octets(), &[0; 8]].concat()
}

fn v6(ip: Ipv6Addr, port: u16, scope: u32) -> Vec<u8> {
    let family = u16::try_from(libc::AF_INET6).unwrap_or(0);
    [&family.to_ne_bytes()[..], &port.to_be_bytes(), &[0; 4], &ip.octets(), &scope.to_ne_bytes()].concat()
}
