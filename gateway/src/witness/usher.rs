//! The usher: a process that enters network namespaces, opens the gateway's listeners and resolver there, and comes back.
//!
//! Entering one takes CAP_SYS_ADMIN, which is the whole machine. So the witness, which reads what agents can shape, has not got
//! it; the usher has, and it reads nothing but the number of two ports, from the witness, and a descriptor that the kernel knows
//! to be a namespace. It ends when the witness ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::WitnessError;
use super::kernel::{at, io_error, netns_cookie};
use super::privileges::{Capability, close_memory, keep_only};
use super::wire;
use crate::intercept;

const KEPT: [Capability; 2] = [Capability::SysAdmin, Capability::NetAdmin];
/// The witness does not wait longer: it has other questions to answer.
const PATIENCE: Duration = Duration::from_secs(1);

const GONE: &str = "it is gone: agents in network namespaces that are not known yet are shut out. It needs CAP_SYS_ADMIN; restart \
                    weir.service to start it again";

/// Ports to open in the namespace whose descriptor comes along.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    id: u64,
    port: u16,
    dns_port: u16,
}

/// The namespace's cookie, if it could be entered, and whether the sockets come along.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    id: u64,
    cookie: Option<u64>,
    result: Result<(), WitnessError>,
}

/// What was found behind a namespace's descriptor.
pub(super) struct Visited {
    pub(super) cookie: u64,
    /// TCP on IPv4 and IPv6, UDP on IPv4 and IPv6.
    pub(super) sockets: Result<[OwnedFd; wire::SOCKETS], WitnessError>,
}

/// The witness's end.
pub(super) struct Usher {
    socket: OwnedFd,
    last_id: u64,
}

impl Usher {
    /// Starts the process. Call it before the witness gives up its capabilities.
    pub(super) fn start() -> Result<Self, WitnessError> {
        let (ours, theirs) = wire::pair().map_err(at("the usher's socket pair"))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg("usher").stdin(Stdio::from(theirs)).spawn().map_err(at("starting the usher"))?;
        wire::set_receive_timeout(&ours, PATIENCE).map_err(at("the usher"))?;
        Ok(Self { socket: ours, last_id: 0 })
    }

    /// Whether it still runs.
    pub(super) fn check(&self) -> Result<(), WitnessError> {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(0) => Ok(()),
            _ => Err(io_error("the usher", GONE)),
        }
    }

    /// Opens the gateway's ports in a namespace.
    pub(super) fn visit(&mut self, namespace: &File, port: u16, dns_port: u16) -> Result<Visited, WitnessError> {
        self.last_id += 1;
        let id = self.last_id;
        self.check()?;
        wire::send(self.socket.as_fd(), &Open { id, port, dns_port }, &[namespace.as_fd()], false)
            .map_err(at("the usher"))?;
        loop {
            let received = wire::receive::<Opened>(self.socket.as_fd()).map_err(at("the usher"))?;
            let Some((opened, descriptors)) = received else {
                return Err(io_error("the usher", GONE));
            };
            // An answer that came too late is to a question that nobody asks any more.
            if opened.id == id {
                return Visited::new(opened, descriptors);
            }
        }
    }
}

impl Visited {
    fn new(opened: Opened, descriptors: Vec<OwnedFd>) -> Result<Self, WitnessError> {
        let Some(cookie) = opened.cookie else {
            return Err(opened.result.err().unwrap_or_else(|| io_error("the usher", "it does not say where it was")));
        };
        let sockets = opened.result.and_then(|()| {
            <[OwnedFd; wire::SOCKETS]>::try_from(descriptors).map_err(|_| io_error("the usher", "sockets are missing"))
        });
        Ok(Self { cookie, sockets })
    }
}

/// The process's main loop, with the socket as its standard input. It returns when the witness is gone.
pub(super) fn run() -> io::Result<()> {
    close_memory()?;
    super::serve::ignore_signals()?;
    keep_only(&KEPT)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let home = File::open("/proc/self/ns/net")?;
    while let Some((Open { id, port, dns_port }, descriptors)) = wire::receive::<Open>(socket.as_fd())? {
        let [namespace] =
            <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| io::Error::other("no namespace came along"))?;
        let mut cookie = None;
        let opened = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            cookie = Some(netns_cookie(&socket)?);
            loopback_up(&socket)?;
            open(port, dns_port)
        });
        // Whoever cannot come back must not go on: what it opens next would be in the wrong place.
        setns(&home, CloneFlags::CLONE_NEWNET)?;
        let (result, sockets) = match opened {
            Ok(sockets) => (Ok(()), sockets),
            Err(error) => (Err(at("listening in a network namespace")(error)), Vec::new()),
        };
        let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        wire::send(socket.as_fd(), &Opened { id, cookie, result }, &borrowed, true)?;
    }
    Ok(())
}

fn open(port: u16, dns_port: u16) -> io::Result<Vec<OwnedFd>> {
    let listeners = intercept::listeners(port)?.into_iter().map(OwnedFd::from);
    let resolvers = intercept::dns_sockets(dns_port)?.into_iter().map(OwnedFd::from);
    Ok(listeners.chain(resolvers).collect())
}

/// A namespace begins with its loopback device down, and then not even a refusal would reach the agent.
fn loopback_up(socket: &Socket) -> io::Result<()> {
    // netdevice(7).
    const SIOCGIFFLAGS: libc::Ioctl = 0x8913;
    const SIOCSIFFLAGS: libc::Ioctl = 0x8914;
    // SAFETY: a struct of integers and arrays of them.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    for (operation, change) in [(SIOCGIFFLAGS, libc::IFF_UP), (SIOCSIFFLAGS, 0)] {
        // SAFETY: both read and write one `ifreq`, which is what the pointer points to.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: SIOCGIFFLAGS has filled in the flags, and SIOCSIFFLAGS leaves them.
        unsafe { request.ifr_ifru.ifru_flags |= libc::c_short::try_from(change).unwrap_or(0) };
    }
    Ok(())
}
