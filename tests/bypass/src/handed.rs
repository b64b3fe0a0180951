//! Sockets that somebody else made: handed in over a unix socket, inherited, taken out of another process, or made before
//! the attacker became an agent.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use crate::datagram::SECRET;
use crate::stream::talk;
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("handed_tcp", |scene| connect(&ask(scene, "tcp")?, scene)),
    ("handed_tcp_connected", |scene| talk(&ask(scene, "tcp_connected")?)),
    ("handed_udp", |scene| send(&ask(scene, "udp")?, scene)),
    ("handed_udp_connected", |scene| send_connected(&ask(scene, "udp_connected")?)),
    ("handed_ping", |scene| ping(&ask(scene, "ping")?, scene)),
    ("handed_raw", |scene| send(&ask(scene, "raw")?, scene)),
    ("handed_reconnect", |scene| {
        let fd = ask(scene, "tcp_connected")?;
        sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, std::net::Ipv4Addr::UNSPECIFIED, 0))?;
        connect(&fd, scene)
    }),
    ("inherited", |scene| {
        let fd = i32::try_from(scene.number("fd")).expect("a descriptor");
        // SAFETY: the parent left this descriptor open for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        sys::connect(&fd, &sys::v4(libc::AF_UNSPEC, std::net::Ipv4Addr::UNSPECIFIED, 0)).expect("disconnected");
        connect(&fd, scene)
    }),
    ("moved_tcp", |scene| {
        let fd = sys::tcp(&scene.canary())?;
        become_agent(scene);
        connect(&fd, scene)
    }),
    ("moved_tcp_connected", |scene| {
        let fd = made(scene, "tcp_connected");
        become_agent(scene);
        talk(&fd)
    }),
    ("moved_udp", |scene| {
        let fd = sys::udp(&scene.canary())?;
        become_agent(scene);
        send(&fd, scene)
    }),
    ("moved_udp_connected", |scene| {
        let fd = made(scene, "udp_connected");
        become_agent(scene);
        send_connected(&fd)
    }),
    ("before_tcp", |scene| connect(&while_free(|| sys::tcp(&scene.canary()))?, scene)),
    ("before_tcp_connected", |scene| {
        let fd = while_free(|| Ok(made(scene, "tcp_connected")))?;
        // What could not leave must not be sent by the kernel when the test is over and no program is attached any more.
        sys::set(&fd, libc::SOL_SOCKET, libc::SO_LINGER, &[1i32.to_ne_bytes(), 0i32.to_ne_bytes()].concat())?;
        talk(&fd)
    }),
    ("before_udp", |scene| send(&while_free(|| sys::udp(&scene.canary()))?, scene)),
    ("before_udp_connected", |scene| send_connected(&while_free(|| Ok(made(scene, "udp_connected")))?)),
    ("before_ping", |scene| {
        ping(&while_free(|| sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP))?, scene)
    }),
    ("before_bind_shell", |scene| {
        let own = std::net::SocketAddr::new(std::net::Ipv4Addr::UNSPECIFIED.into(), scene.port("port"));
        let fd = while_free(|| {
            let fd = sys::tcp(&own)?;
            sys::bind(&fd, &sys::address(own, 0))?;
            sys::listen(&fd)?;
            Ok(fd)
        })?;
        crate::inbound::serve(&fd)
    }),
    ("take_from_gateway", |scene| take_any(scene.number("gateway_pid"))),
    ("take_from_witness", |scene| take_any(scene.number("witness_pid"))),
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

/// Runs this program again with the descriptor, and ends with it.
pub(crate) fn bequeath(fd: &OwnedFd, scene: &Scene) -> ! {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).expect("fcntl");
    let arguments = scene.arguments.iter().map(|(key, value)| format!("{key}={value}"));
    let mut child = Command::new("/proc/self/exe");
    child.arg("inherited").arg(format!("fd={}", fd.as_raw_fd())).args(arguments);
    let status = child.status().expect("a child");
    std::process::exit(status.code().unwrap_or(1));
}

/// Makes something while the programs are not attached yet; whoever started this one says when they are.
fn while_free<T>(make: impl FnOnce() -> Attempt<T>) -> Attempt<T> {
    let made = make()?;
    println!("made");
    std::io::stdout().flush().expect("standard output");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a word when the programs are attached");
    Ok(made)
}

/// Any descriptor of the process will do.
fn take_any(pid: u32) -> Attempt<Outcome> {
    sys::steal(pid, 0).map(|_| Outcome::Done("a descriptor of another process"))
}

/// From a place outside into the agents' cgroup: what an operator does to a running process.
fn become_agent(scene: &Scene) {
    std::fs::write(scene.text("agents"), std::process::id().to_string()).expect("moving to the agents' cgroup");
}

/// Asks the accomplice for a socket.
fn ask(scene: &Scene, what: &str) -> Attempt<OwnedFd> {
    let mut stream = UnixStream::connect(scene.text("accomplice")).expect("the accomplice");
    write!(stream, "{what} {}", scene.text("port")).expect("a request");
    stream.shutdown(std::net::Shutdown::Write).expect("shutdown");
    sys::take(stream.as_fd())
}

/// Has a connection of the accomplice's, and keeps it.
pub(crate) fn hold(scene: &Scene) -> ! {
    let fd = ask(scene, "tcp_connected").expect("a connection");
    println!("ready");
    let mut nothing = [0u8; 1];
    // Until the test ends it.
    while nix::unistd::read(&fd, &mut nothing) != Ok(0) {}
    std::process::exit(0);
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
        let fd = made(&Scene { arguments }, what);
        if let Err(errno) = sys::pass(stream.as_fd(), &[fd.as_raw_fd()]) {
            eprintln!("{what}: {errno}");
        }
    }
    unreachable!("a listener has no end");
}

fn made(scene: &Scene, what: &str) -> OwnedFd {
    let canary = scene.canary();
    let make = |kind, protocol| sys::socket(libc::AF_INET, kind, protocol).expect("a socket of somebody outside");
    let fd = match what {
        "tcp" | "tcp_connected" => make(libc::SOCK_STREAM, 0),
        "udp" | "udp_connected" => make(libc::SOCK_DGRAM, 0),
        "ping" => make(libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        "raw" => make(libc::SOCK_RAW, 253),
        other => panic!("no socket is called {other}"),
    };
    if what.ends_with("_connected") {
        // What it sends on its own account is told from what it is made to send.
        let own = std::net::SocketAddr::new(scene.text("accomplice_address").parse().expect("an address"), 0);
        sys::bind(&fd, &sys::address(own, 0)).expect("an address of its own");
        sys::connect(&fd, &sys::address(canary, 0)).expect("somebody outside connects freely");
    }
    fd
}
