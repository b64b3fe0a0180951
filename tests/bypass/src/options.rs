//! Socket options that change the way of packets or whose they are, and the gateway's own ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::datagram::{connected, send};
use crate::stream::{mapped, talk};
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

const SO_BINDTOIFINDEX: i32 = 62;
const IP_UNICAST_IF: i32 = 50;
const IPV6_UNICAST_IF: i32 = 76;
const TCP_REPAIR: i32 = 19;

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("option_device", |scene| {
        with(scene, |fd| sys::set(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, scene.text("device").as_bytes()))
    }),
    ("option_device_index", |scene| {
        with(scene, |fd| sys::set_int(fd, libc::SOL_SOCKET, SO_BINDTOIFINDEX, scene.number("interface").cast_signed()))
    }),
    ("option_mark", |scene| with(scene, |fd| sys::set_int(fd, libc::SOL_SOCKET, libc::SO_MARK, 1))),
    ("option_transparent", |scene| with(scene, |fd| sys::set_int(fd, libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1))),
    ("option_free_bind", |scene| with(scene, |fd| sys::set_int(fd, libc::IPPROTO_IP, libc::IP_FREEBIND, 1))),
    ("option_unicast_interface", |scene| {
        with(scene, |fd| sys::set(fd, libc::IPPROTO_IP, IP_UNICAST_IF, &scene.number("interface").to_be_bytes()))
    }),
    ("option_source_route", |scene| {
        with(scene, |fd| sys::set(fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &[0x83, 7, 4, 198, 51, 100, 66, 0]))
    }),
    ("option_repair", |scene| with(scene, |fd| sys::set_int(fd, libc::IPPROTO_TCP, TCP_REPAIR, 1))),
    ("option_device6", |scene| {
        with6(scene, |fd| sys::set(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, scene.text("device").as_bytes()))
    }),
    ("option_mark6", |scene| with6(scene, |fd| sys::set_int(fd, libc::SOL_SOCKET, libc::SO_MARK, 1))),
    ("option_transparent6", |scene| with6(scene, |fd| sys::set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT, 1))),
    ("option_free_bind6", |scene| with6(scene, |fd| sys::set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1))),
    ("option_unicast_interface6", |scene| {
        with6(scene, |fd| sys::set(fd, libc::IPPROTO_IPV6, IPV6_UNICAST_IF, &scene.number("interface").to_be_bytes()))
    }),
    ("option_route_header6", |scene| {
        // A routing header of type 4 (RFC 8754) with one segment.
        let Ok(IpAddr::V6(by)) = scene.text("canary6").parse() else { panic!("no IPv6 address") };
        let header = [&[0, 2, 4, 0, 0, 0, 0, 0][..], &by.octets()].concat();
        with6(scene, |fd| sys::set(fd, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header))
    }),
    ("option_packet_info6", |scene| {
        let info = [&[0; 16][..], &scene.number("interface").to_ne_bytes()].concat();
        with6(scene, |fd| sys::set(fd, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info))
    }),
    ("steal_port", |scene| steal(scene, Ipv4Addr::LOCALHOST, libc::SO_REUSEPORT)),
    ("steal_port_address", |scene| steal(scene, Ipv4Addr::LOCALHOST, libc::SO_REUSEADDR)),
    ("steal_port_any", |scene| steal(scene, Ipv4Addr::UNSPECIFIED, libc::SO_REUSEPORT)),
    ("steal_port_other", |scene| steal(scene, Ipv4Addr::new(127, 0, 0, 2), libc::SO_REUSEPORT)),
    ("steal_port6", |scene| steal(scene, Ipv6Addr::LOCALHOST, libc::SO_REUSEPORT)),
    ("steal_port_any6", |scene| steal(scene, Ipv6Addr::UNSPECIFIED, libc::SO_REUSEPORT)),
    ("steal_port_mptcp", |scene| {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 262)?;
        sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        sys::bind(&fd, &sys::address(gateway(scene), 0))?;
        Ok(Outcome::Done("bound"))
    }),
    ("steal_resolver_port", |scene| {
        let fd = sys::udp(&gateway(scene))?;
        sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        sys::bind(&fd, &sys::address(resolver(scene), 0))?;
        Ok(Outcome::Done("bound"))
    }),
    ("steal_resolver_port6", |scene| {
        let resolver = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), scene.port("resolver"));
        let fd = sys::udp(&resolver)?;
        sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        sys::bind(&fd, &sys::address(resolver, 0))?;
        Ok(Outcome::Done("bound"))
    }),
    ("gateway_port", |scene| to_gateway(gateway(scene))),
    ("gateway_port6", |scene| to_gateway(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), scene.port("gateway")))),
    // Past the hook that tells the resolver who asks.
    ("resolver_port", |scene| send(resolver(scene), 0)),
    ("resolver_port6", |scene| send(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), scene.port("resolver")), 0)),
    ("resolver_port_mapped", |scene| send(mapped(resolver(scene)), 0)),
    ("resolver_port_connected", |scene| connected(resolver(scene))),
    ("resolver_port_connected6", |scene| {
        connected(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), scene.port("resolver")))
    }),
    ("resolver_port_unspecified6", |scene| {
        send(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), scene.port("resolver")), 0)
    }),
];

fn gateway(scene: &Scene) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), scene.port("gateway"))
}

/// Where queries to the first of a socket's resolvers go.
fn resolver(scene: &Scene) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::new(127, 64, 0, 1).into(), scene.port("resolver"))
}

fn to_gateway(gateway: SocketAddr) -> Attempt<Outcome> {
    let fd = sys::tcp(&gateway)?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(gateway, 0))?;
    talk(&fd)
}

/// Sets it and goes on to the canary.
fn with(scene: &Scene, set: impl FnOnce(&OwnedFd) -> Attempt) -> Attempt<Outcome> {
    set_and_reach(scene.canary(), set)
}

fn with6(scene: &Scene, set: impl FnOnce(&OwnedFd) -> Attempt) -> Attempt<Outcome> {
    set_and_reach(scene.canary6(), set)
}

fn set_and_reach(to: SocketAddr, set: impl FnOnce(&OwnedFd) -> Attempt) -> Attempt<Outcome> {
    let fd = sys::tcp(&to)?;
    set(&fd)?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(to, 0))?;
    talk(&fd)
}

fn steal(scene: &Scene, ip: impl Into<IpAddr>, option: i32) -> Attempt<Outcome> {
    let address = SocketAddr::new(ip.into(), scene.port("gateway"));
    let fd = sys::tcp(&address)?;
    sys::set_int(&fd, libc::SOL_SOCKET, option, 1)?;
    sys::bind(&fd, &sys::address(address, 0))?;
    sys::listen(&fd)?;
    Ok(Outcome::Done("listens"))
}
