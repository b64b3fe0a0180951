//! io_uring: system calls that a filter on system calls does not see, some of them made by kernel threads.

use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::{IoUring, opcode, squeue, types::Fd};
use nix::errno::Errno;

use crate::datagram::SECRET;
use crate::stream::talk;
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("uring_connect", |scene| connect(scene, &mut ring(false)?, sys::tcp)),
    ("uring_connect_polled", |scene| connect(scene, &mut ring(true)?, sys::tcp)),
    ("uring_socket", |scene| {
        let mut ring = ring(false)?;
        let fd = sys::owned(run(&mut ring, &opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build())?.into())?;
        connect(scene, &mut ring, |_| Ok(fd))
    }),
    ("uring_socket_raw", |_| {
        let made = opcode::Socket::new(libc::AF_INET, libc::SOCK_RAW, 253).build();
        run(&mut ring(false)?, &made).map(|_| Outcome::Done("a raw socket"))
    }),
    ("uring_option", |scene| {
        let fd = sys::tcp(&scene.canary())?;
        mark(&fd)?;
        connect(scene, &mut ring(false)?, |_| Ok(fd))
    }),
    ("uring_send_to", |scene| send_to(scene, &mut ring(false)?)),
    ("uring_send_to_polled", |scene| send_to(scene, &mut ring(true)?)),
    ("uring_send_message", |scene| {
        let fd = sys::udp(&scene.canary())?;
        let address = sys::address(scene.canary(), 0);
        let mut slice = libc::iovec { iov_base: SECRET.as_ptr().cast_mut().cast(), iov_len: SECRET.len() };
        // SAFETY: a struct of integers and pointers.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_namelen = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
        message.msg_iov = &raw mut slice;
        message.msg_iovlen = 1;
        run(&mut ring(false)?, &opcode::SendMsg::new(Fd(fd.as_raw_fd()), &raw const message).build())?;
        Ok(Outcome::Done("sent"))
    }),
];

/// setsockopt(2) by a command of the ring (Linux 6.7; before, it is no command).
fn mark(fd: &OwnedFd) -> Attempt {
    let value = 1i32.to_ne_bytes();
    let (level, name) = (libc::SOL_SOCKET.cast_unsigned(), libc::SO_MARK.cast_unsigned());
    let length = u32::try_from(value.len()).map_err(|_| Errno::EINVAL)?;
    let set = opcode::SetSockOpt::new(Fd(fd.as_raw_fd()), level, name, value.as_ptr().cast(), length);
    run(&mut ring(false)?, &set.build()).map(drop)
}

fn ring(polled: bool) -> Attempt<IoUring> {
    const ENTRIES: u32 = 4;
    const IDLE_MILLISECONDS: u32 = 100;
    let made =
        if polled { IoUring::builder().setup_sqpoll(IDLE_MILLISECONDS).build(ENTRIES) } else { IoUring::new(ENTRIES) };
    made.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
}

/// Runs one operation to its end.
fn run(ring: &mut IoUring, entry: &squeue::Entry) -> Attempt<i32> {
    // SAFETY: what the entry points to lives in the caller, which waits here for the end.
    unsafe { ring.submission().push(entry) }.expect("an empty queue");
    ring.submit_and_wait(1).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
    let result = ring.completion().next().expect("a completion").result();
    if result < 0 { Err(Errno::from_raw(-result)) } else { Ok(result) }
}

fn connect(
    scene: &Scene,
    ring: &mut IoUring,
    socket: impl FnOnce(&std::net::SocketAddr) -> Attempt<OwnedFd>,
) -> Attempt<Outcome> {
    let fd = socket(&scene.canary())?;
    sys::limit_waiting(&fd)?;
    let address = sys::address(scene.canary(), 0);
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    run(ring, &opcode::Connect::new(Fd(fd.as_raw_fd()), address.as_ptr().cast(), length).build())?;
    talk(&fd)
}

fn send_to(scene: &Scene, ring: &mut IoUring) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    let address = sys::address(scene.canary(), 0);
    let length = libc::socklen_t::try_from(address.len()).map_err(|_| Errno::EINVAL)?;
    let size = u32::try_from(SECRET.len()).map_err(|_| Errno::EINVAL)?;
    let send = opcode::Send::new(Fd(fd.as_raw_fd()), SECRET.as_ptr(), size);
    run(ring, &send.dest_addr(address.as_ptr().cast()).dest_addr_len(length).build())?;
    Ok(Outcome::Done("sent"))
}
