//! Servers of the attacker's: who is not reached from outside cannot talk back.
//!
//! Each says `listening PORT` when it is ready, and then waits for somebody whom the test sends.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

use crate::datagram::SECRET;
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

/// Longer than a caller tries.
const PATIENCE_MILLISECONDS: u16 = 900;
const TCP_FASTOPEN: i32 = 23;

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("bind_shell", |scene| serve(&bound(scene, Ipv4Addr::UNSPECIFIED.into())?)),
    ("bind_shell6", |scene| serve(&bound(scene, Ipv6Addr::UNSPECIFIED.into())?)),
    ("bind_shell_address", |scene| serve(&bound(scene, scene.text("host").parse().expect("an address"))?)),
    ("bind_shell_loopback", |scene| serve(&bound(scene, Ipv4Addr::LOCALHOST.into())?)),
    ("bind_shell_unbound", |_| serve(&sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?)),
    ("bind_shell_fast_open", |scene| {
        let fd = bound(scene, Ipv4Addr::UNSPECIFIED.into())?;
        sys::set_int(&fd, libc::IPPROTO_TCP, TCP_FASTOPEN, 16)?;
        serve(&fd)
    }),
    ("bind_shell_udp", |scene| {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), scene.port("port"));
        let fd = sys::udp(&address)?;
        sys::bind(&fd, &sys::address(address, 0))?;
        wait(&fd)?;
        Ok(Outcome::Answer("a datagram came in".to_owned()))
    }),
];

fn bound(scene: &Scene, ip: IpAddr) -> Attempt<OwnedFd> {
    let address = SocketAddr::new(ip, scene.port("port"));
    let fd = sys::tcp(&address)?;
    sys::bind(&fd, &sys::address(address, 0))?;
    Ok(fd)
}

pub(crate) fn serve(fd: &OwnedFd) -> Attempt<Outcome> {
    sys::listen(fd)?;
    wait(fd)?;
    let taken = nix::sys::socket::accept(fd.as_raw_fd())?;
    let taken = sys::owned(taken.into())?;
    sys::send_to(&taken, SECRET, 0, &[])?;
    Ok(Outcome::Answer("somebody came in".to_owned()))
}

/// Until somebody comes; nobody is ETIMEDOUT.
fn wait(fd: &OwnedFd) -> Attempt {
    let own: nix::sys::socket::SockaddrStorage = nix::sys::socket::getsockname(fd.as_raw_fd())?;
    let port = own.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::port);
    let port = port.or_else(|| own.as_sockaddr_in6().map(nix::sys::socket::SockaddrIn6::port));
    println!("listening {}", port.expect("a port"));
    std::io::stdout().flush().expect("standard output");
    let ready = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MILLISECONDS))?;
    if ready == 0 { Err(Errno::ETIMEDOUT) } else { Ok(()) }
}
