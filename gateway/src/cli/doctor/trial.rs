//! One process that is an agent for a moment: what the kernel says is attached is one thing, what happens another.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Socket, Type};

use super::Finding;
use crate::config::Config;
use crate::packets;
use crate::witness::{self, WitnessConfig, WitnessError};

/// Addresses for documentation (RFC 5737, RFC 3849): nobody is there, and no target should be.
const NOBODY: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// All tries together.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
const SUBJECT: &str = "trial";

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    /// A connection that ends on this host: the gateway's.
    Intercepted,
    Refused,
    /// It went its own way, however it ended.
    Free(String),
    NoSocket(String),
}

/// Starts a process among the agents that tries to get out.
pub(super) fn findings(config: &Config) -> Vec<Finding> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let tried = WitnessConfig::new(config).map_err(io::Error::other).and_then(|config| attempt(&config));
    match tried {
        Ok(Some(tried)) => tried.iter().map(|(what, outcome)| judge(what, outcome)).collect(),
        // A detach lets everybody pass, and is a finding of its own.
        Ok(None) => Vec::new(),
        Err(error) => vec![Finding::warn(SUBJECT, format!("an agent could not be tried: {error}"), "")],
    }
}

fn judge(what: &str, outcome: &Outcome) -> Finding {
    match outcome {
        Outcome::Intercepted => Finding::ok(SUBJECT, format!("{what} of an agent is intercepted")),
        Outcome::Refused => Finding::ok(SUBJECT, format!("{what} of an agent is refused")),
        Outcome::Free(how) => Finding::fail(
            SUBJECT,
            format!("{what} of an agent is not stopped: {how}"),
            "stop the agents; `weir kernel status` and `journalctl -u weir-kernel` tell more",
        ),
        Outcome::NoSocket(error) => Finding::fail(
            SUBJECT,
            format!("{what}: an agent gets no socket, so it cannot work: {error}"),
            "the programs do not run on this kernel and processor as they should; please report it",
        ),
    }
}

fn attempt(config: &WitnessConfig) -> io::Result<Option<Vec<(String, Outcome)>>> {
    if witness::is_detached(config).map_err(|error: WitnessError| io::Error::other(error))? {
        return Ok(None);
    }
    let agents = config.kernel.agents.first().ok_or_else(|| io::Error::other("no cgroup of agents is configured"))?;
    let place = Place::new(&config.kernel.cgroup_mount.join(agents))?;
    let mut child = packets::same_program().arg("trial").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let told = tell(&mut child, &place.0);
    let _ = child.kill();
    child.wait()?;
    told.map(Some)
}

/// Puts the child in its place, lets it go, and hears what it says.
fn tell(child: &mut Child, place: &Path) -> io::Result<Vec<(String, Outcome)>> {
    fs::write(place.join("cgroup.procs"), child.id().to_string())?;
    let missing = || io::Error::other("a pipe is missing");
    child.stdin.take().ok_or_else(missing)?.write_all(b"\n")?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not end"));
        }
        std::thread::sleep(POLL);
    }
    let mut said = String::new();
    child.stdout.take().ok_or_else(missing)?.read_to_string(&mut said)?;
    Ok(serde_json::from_str(&said)?)
}

/// A cgroup for the trial, gone with it.
struct Place(PathBuf);

impl Place {
    fn new(agents: &Path) -> io::Result<Self> {
        let place = agents.join(format!("weir-doctor-{}", std::process::id()));
        fs::create_dir(&place)?;
        Ok(Self(place))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Its process is dead; the kernel may need a moment to see that the cgroup is empty.
        let end = Instant::now() + Duration::from_secs(2);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(POLL);
        }
    }
}

/// What the hidden command `weir trial` runs, when it has been put among the agents: says what it could do.
pub(in crate::cli) fn run() -> io::Result<()> {
    io::stdin().read_exact(&mut [0])?;
    let mut tried = Vec::new();
    for address in NOBODY {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let version = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        match Socket::new(Domain::for_address(address), Type::STREAM, None) {
            // No IPv6 in this kernel is nothing that an agent lacks.
            Err(error) if address.is_ipv6() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
            Err(error) => tried.push((format!("TCP over {version}"), Outcome::NoSocket(error.to_string()))),
            Ok(_) => tried.push((format!("a connection over {version}"), connect(address))),
        }
    }
    tried.push(("a datagram".to_owned(), send()?));
    serde_json::to_writer(io::stdout().lock(), &tried)?;
    Ok(())
}

fn connect(address: SocketAddr) -> Outcome {
    match TcpStream::connect_timeout(&address, CONNECT_WITHIN) {
        Ok(stream) => match stream.local_addr() {
            Ok(own) if is_loopback(own.ip()) => Outcome::Intercepted,
            own => Outcome::Free(format!("{own:?} is connected to {address}")),
        },
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Outcome::Refused,
        Err(error) => Outcome::Free(error.to_string()),
    }
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

fn send() -> io::Result<Outcome> {
    let address: SocketAddr = NOBODY[0].parse().map_err(io::Error::other)?;
    let sent = UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"weir doctor", address));
    Ok(match sent {
        Ok(_) => Outcome::Free("it was sent".to_owned()),
        Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Outcome::Free(error.to_string()),
        Err(_) => Outcome::Refused,
    })
}
