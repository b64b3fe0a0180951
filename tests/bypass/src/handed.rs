//! Sockets that somebody else made: handed in over a unix socket, inherited, taken out of another process, or made before
//! the attacker became an agent.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::datagram::{IPPROTO_UDPLITE, SECRET};
use crate::stream::{IPPROTO_MPTCP, talk};
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("handed_tcp", |scene| connect(&ask(scene, "tcp")?, scene)),
    ("handed_tcp_connected", |scene| talk(&ask(scene, "tcp_connected")?)),
    ("handed_udp", |scene| send(&ask(scene, "udp")?, scene)),
    ("handed_udp_connected", |scene| send_connected(&ask(scene, "udp_connected")?)),
    ("handed_ping", |scene| ping(&ask(scene, "ping")?, scene)),
    ("handed_raw", |scene| send(&ask(scene, "raw")?, scene)),
    ("handed_mptcp", |scene| connect(&ask(scene, "mptcp")?, scene)),
    ("handed_udp_lite", |scene| send(&ask(scene, "udp_lite")?, scene)),
    ("handed_udp_lite_connected", |scene| send_connected(&ask(scene, "udp_lite_connected")?)),
    ("handed_sctp", |scene| connect(&ask(scene, "sctp")?, scene)),
    ("handed_bind_shell", |scene| bind_and_serve(&ask(scene, "tcp")?, scene)),
    ("handed_bind_shell_unbound", |scene| crate::inbound::serve(&ask(scene, "tcp")?)),
    ("handed_mptcp_bind_shell", |scene| bind_and_serve(&ask(scene, "mptcp")?, scene)),
    ("handed_listening", |scene| crate::inbound::serve(&ask(scene, "listening")?)),
    ("handed_reconnect", |scene| {
        let fd = ask(scene, "tcp_connected")?;
        sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, Ipv4Addr::UNSPECIFIED, 0))?;
        connect(&fd, scene)
    }),
    ("inherited", |scene| {
        let fd = i32::try_from(scene.number("fd")).expect("a descriptor");
        // SAFETY: the parent left this descriptor open for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, Ipv4Addr::UNSPECIFIED, 0)).expect("disconnected");
        connect(&fd, scene)
    }),
    // Made as somebody else, whom an operator then moves to the agents' cgroup.
    ("moved_tcp", |scene| connect(&while_free(|| made(scene, "tcp"))?, scene)),
    ("moved_tcp_connected", |scene| talk(&while_free(|| made(scene, "tcp_connected"))?)),
    ("moved_udp", |scene| send(&while_free(|| made(scene, "udp"))?, scene)),
    ("moved_udp_connected", |scene| send_connected(&while_free(|| made(scene, "udp_connected"))?)),
    ("moved_ping", |scene| ping(&while_free(|| made(scene, "ping"))?, scene)),
    ("moved_raw", |scene| send(&while_free(|| made(scene, "raw"))?, scene)),
    ("moved_bind_shell", |scene| bind_and_serve(&while_free(|| made(scene, "tcp"))?, scene)),
    ("moved_listening", |scene| crate::inbound::serve(&while_free(|| made(scene, "listening"))?)),
    // Made in the agents' cgroup, before the programs are attached for the first time.
    ("before_tcp", |scene| connect(&while_free(|| made(scene, "tcp"))?, scene)),
    ("before_tcp_connected", |scene| {
        let fd = while_free(|| made(scene, "tcp_connected"))?;
        // What could not leave must not be sent by the kernel when the test is over and no program is attached any more.
        sys::set(&fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat())?;
        talk(&fd)
    }),
    ("before_udp", |scene| send(&while_free(|| made(scene, "udp"))?, scene)),
    ("before_udp_connected", |scene| send_connected(&while_free(|| made(scene, "udp_connected"))?)),
    ("before_ping", |scene| ping(&while_free(|| made(scene, "ping"))?, scene)),
    ("before_bind_shell", |scene| crate::inbound::serve(&while_free(|| made(scene, "listening"))?)),
    ("take_from_gateway", |scene| take_any(scene.number("gateway_pid"))),
    ("take_from_witness", |scene| take_any(scene.number("witness_pid"))),
    ("take_from_usher", |scene| take_any(scene.number("usher_pid"))),
    ("take_from_accomplice", |scene| take_any(scene.number("accomplice_pid"))),
];

fn connect(fd: &OwnedFd, scene: &Scene) -> Attempt<Outcome> {
    sys::limit_waiting(fd)?;
    sys::connect(fd, &sys::address(scene.canary(), 0))?;
    talk(fd)
}

fn send(fd: &OwnedFd, scene: &Scene) -> Attempt<Outcome> {
    sys::send_to(fd, SECRET, 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent"))
}

fn send_connected(fd: &OwnedFd) -> Attempt<Outcome> {
    sys::send_to(fd, SECRET, 0, &[])?;
    Ok(Outcome::Done("sent"))
}

fn ping(fd: &OwnedFd, scene: &Scene) -> Attempt<Outcome> {
    let request = [&[8, 0, 0, 0, 0, 0, 0, 1][..], SECRET].concat();
    sys::send_to(fd, &request, 0, &sys::address(scene.canary(), 0))?;
    Ok(Outcome::Done("sent"))
}

fn bind_and_serve(fd: &OwnedFd, scene: &Scene) -> Attempt<Outcome> {
    bind_anywhere(fd, scene)?;
    crate::inbound::serve(fd)
}

/// At this attempt's own port of every address.
fn bind_anywhere(fd: &OwnedFd, scene: &Scene) -> Attempt {
    let own = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), scene.port("port"));
    sys::bind(fd, &sys::address(own, 0))
}

/// Runs this program again with the descriptor, and ends with it.
pub(crate) fn bequeath(fd: &OwnedFd, scene: &Scene) -> ! {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("fcntl");
    let arguments = scene.arguments.iter().map(|(key, value)| format!("{key}={value}"));
    let mut child = Command::new("/proc/self/exe");
    child.arg("inherited").arg(format!("fd={}", fd.as_raw_fd())).args(arguments);
    let status = child.status().expect("a child");
    std::process::exit(status.code().unwrap_or(1));
}

/// Makes something while nothing stands in its way; whoever started this one says when that is over.
fn while_free<T>(make: impl FnOnce() -> Attempt<T>) -> Attempt<T> {
    let made = make()?;
    println!("made");
    std::io::stdout().flush().expect("standard output");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a word when it is");
    Ok(made)
}

/// Any descriptor of the process will do.
fn take_any(pid: u32) -> Attempt<Outcome> {
    sys::steal(pid, 0).map(|_| Outcome::Done("a descriptor of another process"))
}

/// Asks the accomplice for a socket.
fn ask(scene: &Scene, what: &str) -> Attempt<OwnedFd> {
    let mut stream = UnixStream::connect(scene.text("accomplice")).expect("the accomplice");
    write!(stream, "{what} {}", scene.text("port")).expect("a request");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    sys::take(stream.as_fd())
}

/// Has a connection of the accomplice's and a server of his at the very same port, and keeps both.
pub(crate) fn hold(scene: &Scene) -> ! {
    let _connection = ask(scene, "tcp_bound_connected").expect("a connection");
    let _server = ask(scene, "listening").expect("a server");
    println!("ready");
    std::io::stdout().flush().expect("standard output");
    // Until the test ends it.
    loop {
        std::thread::park();
    }
}

/// A process that is no agent and hands out sockets of its own making, whatever an attacker asks for.
pub(crate) fn accomplice(scene: &Scene) -> ! {
    let path = scene.text("accomplice");
    let listener = UnixListener::bind(path).expect("a socket for requests");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("chmod");
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.expect("a request");
        let mut request = String::new();
        stream.read_to_string(&mut request).expect("a request");
        let (what, port) = request.split_once(' ').expect("what, and a port");
        let mut arguments = scene.arguments.clone();
        arguments.retain(|(key, _)| key != "port");
        arguments.push(("port".to_owned(), port.to_owned()));
        let given = match made(&Scene { arguments }, what) {
            Ok(fd) => sys::pass(stream.as_fd(), &[fd.as_raw_fd()]),
            Err(errno) => sys::pass_nothing(stream.as_fd(), errno),
        };
        if let Err(errno) = given {
            eprintln!("{what}: {errno}");
        }
    }
    unreachable!("a listener has no end");
}

/// A socket of whoever runs this: what the kernel does not let him have is an error.
fn made(scene: &Scene, what: &str) -> Attempt<OwnedFd> {
    let make = |kind, protocol| sys::socket(libc::AF_INET, kind, protocol);
    let fd = match what {
        "tcp" | "tcp_connected" | "tcp_bound_connected" | "listening" => make(libc::SOCK_STREAM, 0),
        "udp" | "udp_connected" => make(libc::SOCK_DGRAM, 0),
        "ping" => make(libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        "raw" => make(libc::SOCK_RAW, 253),
        "mptcp" => make(libc::SOCK_STREAM, IPPROTO_MPTCP),
        "udp_lite" | "udp_lite_connected" => make(libc::SOCK_DGRAM, IPPROTO_UDPLITE),
        "sctp" => make(libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        other => panic!("no socket is called {other}"),
    }?;
    sys::set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if what == "listening" {
        bind_anywhere(&fd, scene).expect("an attempt's port is free");
        sys::listen(&fd)?;
    }
    if what.ends_with("_connected") {
        // What it sends on its own account is told from what it is made to send.
        let port = if what == "tcp_bound_connected" { scene.port("port") } else { 0 };
        let own = SocketAddr::new(scene.text("accomplice_address").parse().expect("an address"), port);
        sys::bind(&fd, &sys::address(own, 0)).expect("an address of its own");
        sys::connect(&fd, &sys::address(scene.canary(), 0)).expect("somebody outside connects freely");
    }
    Ok(fd)
}
