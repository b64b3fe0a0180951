//! The usher: a process that enters network namespaces, opens the gateway's listeners and resolver there, and comes back.
//!
//! Entering one takes CAP_SYS_ADMIN, which is the whole machine. So the witness, which reads what agents can shape, has not got
//! it; the usher has, and it reads nothing but the number of two ports, from the witness, and a descriptor that the kernel knows
//! to be a namespace. It ends when the witness ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::WitnessError;
use super::kernel::{at, io_error, netns_cookie};
use super::privileges::{Capability, close_memory, keep_only};
use crate::intercept::Doors;
use crate::packets;

const KEPT: [Capability; 2] = [Capability::SysAdmin, Capability::NetAdmin];
/// The witness does not wait longer: it has other questions to answer.
const PATIENCE: Duration = Duration::from_secs(1);

const GONE: &str = "it is gone: agents in network namespaces that are not known yet are shut out. It needs CAP_SYS_ADMIN; restart \
                    weir.service to start it again";

/// Ports to open in the namespace whose descriptor comes along, unless it is one of those that are `served`.
#[derive(Debug, Serialize, Deserialize)]
struct Open {
    id: u64,
    port: u16,
    dns_port: u16,
    served: Vec<u64>,
}

/// The namespace's cookie, if it could be entered, and whether the sockets come along, if there are any.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    id: u64,
    cookie: Option<u64>,
    result: Result<(), WitnessError>,
}

/// What was found behind a namespace's descriptor.
pub(super) struct Visited {
    pub(super) cookie: u64,
    /// None where the gateway has them.
    pub(super) sockets: Result<Option<[OwnedFd; Doors::COUNT]>, WitnessError>,
}

/// The witness's end.
pub(super) struct Usher {
    socket: OwnedFd,
    last_id: u64,
}

impl Usher {
    /// Starts the process. Call it before the witness gives up its capabilities.
    pub(super) fn start() -> Result<Self, WitnessError> {
        let (ours, theirs) = packets::pair().map_err(at("the usher's socket pair"))?;
        let mut command = packets::same_program();
        command.arg("usher").stdin(Stdio::from(theirs)).spawn().map_err(at("starting the usher"))?;
        packets::set_receive_timeout(&ours, PATIENCE).map_err(at("the usher"))?;
        Ok(Self { socket: ours, last_id: 0 })
    }

    /// Ends it.
    pub(super) fn dismiss(&self) {
        // An error means that it has ended by itself.
        let _ = nix::sys::socket::shutdown(self.socket.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Whether it still runs.
    pub(super) fn check(&self) -> Result<(), WitnessError> {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::empty())];
        match poll(&mut polled, PollTimeout::ZERO) {
            Ok(0) => Ok(()),
            _ => Err(io_error("the usher", GONE)),
        }
    }

    /// Opens the gateway's ports in a namespace, unless it is one of those that are `served`.
    pub(super) fn visit(
        &mut self,
        namespace: &File,
        (port, dns_port): (u16, u16),
        served: &[u64],
    ) -> Result<Visited, WitnessError> {
        self.last_id += 1;
        let id = self.last_id;
        self.check()?;
        packets::send(
            self.socket.as_fd(),
            &Open { id, port, dns_port, served: served.to_vec() },
            &[namespace.as_fd()],
            false,
        )
        .map_err(at("the usher"))?;
        loop {
            let received = packets::receive::<Opened>(self.socket.as_fd()).map_err(at("the usher"))?;
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
        let sockets = opened.result.and_then(|()| match descriptors {
            none if none.is_empty() => Ok(None),
            all => all.try_into().map(Some).map_err(|_| io_error("the usher", "sockets are missing")),
        });
        Ok(Self { cookie, sockets })
    }
}

/// The process's main loop, with the socket as its standard input. It returns when the witness is gone.
pub(super) fn run() -> io::Result<()> {
    prctl::set_name(c"weir-usher")?;
    close_memory()?;
    super::serve::ignore_signals()?;
    keep_only(&KEPT)?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let home = File::open("/proc/self/ns/net")?;
    while let Some((Open { id, port, dns_port, served }, descriptors)) = packets::receive::<Open>(socket.as_fd())? {
        let [namespace] =
            <[OwnedFd; 1]>::try_from(descriptors).map_err(|_| io::Error::other("no namespace came along"))?;
        let mut cookie = None;
        let opened = setns(namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from).and_then(|()| {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            let found = netns_cookie(&socket)?;
            cookie = Some(found);
            if served.contains(&found) {
                return Ok(Vec::new());
            }
            loopback_up(&socket)?;
            Ok(Vec::from(<[OwnedFd; Doors::COUNT]>::from(Doors::open(port, dns_port)?)))
        });
        // Whoever cannot come back must not go on: what it opens next would be in the wrong place.
        setns(&home, CloneFlags::CLONE_NEWNET)?;
        let (result, sockets) = match opened {
            Ok(sockets) => (Ok(()), sockets),
            Err(error) => (Err(at("listening in a network namespace")(error)), Vec::new()),
        };
        let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        packets::send(socket.as_fd(), &Opened { id, cookie, result }, &borrowed, true)?;
    }
    Ok(())
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
