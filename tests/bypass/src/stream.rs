//! TCP and what is like it: plain, mapped, to odd addresses, fast open, connected again, other protocols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const IPPROTO_MPTCP: i32 = 262;
/// Shared memory by RDMA, or TCP where there is none.
const AF_SMC: i32 = 43;
const TCP_FASTOPEN_CONNECT: i32 = 30;

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("tcp", |scene| connect_and_talk(scene.canary(), 0)),
    ("tcp6", |scene| connect_and_talk(scene.canary6(), 0)),
    ("tcp_mapped", |scene| connect_and_talk(mapped(scene.canary()), 0)),
    ("tcp_unspecified", |scene| connect_and_talk(at(Ipv4Addr::UNSPECIFIED.into(), scene.port("bystander")), 0)),
    ("tcp_unspecified6", |scene| connect_and_talk(at(Ipv6Addr::UNSPECIFIED.into(), scene.port("bystander")), 0)),
    ("tcp_loopback", |scene| connect_and_talk(at(Ipv4Addr::LOCALHOST.into(), scene.port("bystander")), 0)),
    ("tcp_loopback_other", |scene| {
        connect_and_talk(at(Ipv4Addr::new(127, 9, 8, 7).into(), scene.port("bystander")), 0)
    }),
    ("tcp_link_local", |scene| connect_and_talk(link_local(scene), scene.number("interface"))),
    ("tcp_broadcast", |scene| connect_and_talk(at(Ipv4Addr::BROADCAST.into(), scene.port("port")), 0)),
    ("tcp_multicast", |scene| connect_and_talk(at(crate::datagram::MDNS.into(), scene.port("port")), 0)),
    ("tcp_fast_open", |scene| fast_open(scene.canary())),
    ("tcp6_fast_open", |scene| fast_open(scene.canary6())),
    ("tcp_fast_open_option", |scene| fast_open_option(scene.canary())),
    ("tcp6_fast_open_option", |scene| fast_open_option(scene.canary6())),
    ("tcp_reconnect", tcp_reconnect),
    ("tcp_reconnect_forked", tcp_reconnect_forked),
    ("tcp_bound_outside", |scene| bound_outside(scene, "host", scene.canary())),
    ("tcp6_bound_outside", |scene| bound_outside(scene, "host6", scene.canary6())),
    ("tcp_bound_link_local", tcp_bound_link_local),
    ("tcp_from_listener", tcp_from_listener),
    ("mptcp", |scene| protocol(scene, libc::SOCK_STREAM, IPPROTO_MPTCP)),
    ("sctp", |scene| protocol(scene, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    ("sctp_packets", |scene| protocol(scene, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP)),
    ("dccp", |scene| protocol(scene, libc::SOCK_DCCP, libc::IPPROTO_DCCP)),
    ("smc", |scene| {
        let fd = sys::socket(AF_SMC, libc::SOCK_STREAM, 0)?;
        talk_after_connect(&fd, scene.canary(), 0)
    }),
];

const fn at(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => at(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The other end of the cable.
pub(crate) fn link_local(scene: &Scene) -> SocketAddr {
    at(scene.text("neighbour").parse().expect("an address"), scene.port("port"))
}

fn connect_and_talk(to: SocketAddr, scope: u32) -> Attempt<Outcome> {
    let fd = sys::tcp(&to)?;
    talk_after_connect(&fd, to, scope)
}

fn talk_after_connect(fd: &OwnedFd, to: SocketAddr, scope: u32) -> Attempt<Outcome> {
    sys::limit_waiting(fd)?;
    sys::connect(fd, &sys::address(to, scope))?;
    talk(fd)
}

/// Says what must not be heard outside, and waits for an answer.
pub(crate) fn talk(fd: &OwnedFd) -> Attempt<Outcome> {
    sys::send_to(fd, crate::datagram::SECRET, 0, &[])?;
    let mut answer = [0u8; 64];
    match sys::receive(fd, &mut answer)? {
        0 => Ok(Outcome::Closed),
        length => Ok(Outcome::Answer(String::from_utf8_lossy(&answer[..length]).trim().to_owned())),
    }
}

fn protocol(scene: &Scene, kind: i32, protocol: i32) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_INET, kind, protocol)?;
    talk_after_connect(&fd, scene.canary(), 0)
}

/// Data in the SYN, and no connect(2) at all.
fn fast_open(to: SocketAddr) -> Attempt<Outcome> {
    let fd = sys::tcp(&to)?;
    sys::limit_waiting(&fd)?;
    sys::send_to(&fd, crate::datagram::SECRET, libc::MSG_FASTOPEN, &sys::address(to, 0))?;
    talk(&fd)
}

/// The SYN waits for the first write.
fn fast_open_option(to: SocketAddr) -> Attempt<Outcome> {
    let fd = sys::tcp(&to)?;
    sys::set_int(&fd, libc::IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
    talk_after_connect(&fd, to, 0)
}

/// One descriptor: connected, disconnected by AF_UNSPEC, connected again elsewhere.
fn tcp_reconnect(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::tcp(&scene.canary())?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(own_server(scene), 0)).expect("the attacker reaches its own server");
    sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, Ipv4Addr::UNSPECIFIED, 0)).expect("a socket can be disconnected");
    talk_after_connect(&fd, scene.canary(), 0)
}

/// The same with a child that has the descriptor by inheritance.
fn tcp_reconnect_forked(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::tcp(&scene.canary())?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(own_server(scene), 0)).expect("the attacker reaches its own server");
    crate::handed::bequeath(&fd, scene)
}

/// A server of the attacker's own on loopback, which it may reach.
fn own_server(_: &Scene) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    address
}

/// With the host's outer address as its own.
fn bound_outside(scene: &Scene, own: &str, to: SocketAddr) -> Attempt<Outcome> {
    let fd = sys::tcp(&to)?;
    sys::bind(&fd, &sys::address(at(scene.text(own).parse().expect("an address"), 0), 0))?;
    talk_after_connect(&fd, to, 0)
}

/// Binding to a link-local address ties a socket to that interface.
fn tcp_bound_link_local(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::tcp(&scene.canary6())?;
    let own = at(scene.text("host_link_local").parse().expect("an address"), 0);
    sys::bind(&fd, &sys::address(own, scene.number("interface")))?;
    talk_after_connect(&fd, scene.canary6(), 0)
}

/// A socket that listened, was shut down, and connects: its note said that it listens.
fn tcp_from_listener(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::tcp(&scene.canary())?;
    sys::listen(&fd)?;
    nix::sys::socket::shutdown(fd.as_raw_fd(), nix::sys::socket::Shutdown::Both)?;
    talk_after_connect(&fd, scene.canary(), 0)
}
