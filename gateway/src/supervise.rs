//! `weir serve --replaceable`: the process that the service manager knows, with the gateway as its child.
//!
//! A service manager takes a service for stopped when its main process ends, and only then starts the next one. So that a
//! gateway can go on with its sessions meanwhile, it is not the main process. This one does nothing but pass signals on: at
//! SIGTERM it asks the gateway to be replaced, and ends when the gateway says that it stands on its own. In every other case
//! the gateway ends with it, by the kernel's doing. And it passes on what the gateway has to say to the service manager, which
//! listens to nobody else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, getpid, getppid};

use crate::config::{self, ConfigErrors};
use crate::gateway::notify::Notifier;
use crate::intercept::drop_privileges;
use crate::packets;

/// Sent to the gateway: to be replaced; sent by it: that it stands on its own.
pub(crate) const HAND_OVER: Signal = Signal::SIGUSR1;

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SuperviseError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("{what}")]
    Io { what: &'static str, source: io::Error },
    #[error("the gateway ended: {0}")]
    Ended(ExitStatus),
}

/// Runs a gateway until it has ended, or stands on its own. The gateway is told its supervisor by `--supervised-by`.
pub(crate) fn run(config_path: &Path) -> Result<(), SuperviseError> {
    let failed = |what| move |source| SuperviseError::Io { what, source };
    let user = config::load(config_path)?.gateway.user;
    let own = getpid().to_string();
    let notifier = Notifier::of_service_manager().map_err(failed("cannot find the service manager"))?;
    let (ours, theirs) = UnixDatagram::pair().map_err(failed("cannot make a pair of sockets"))?;
    let mut gateway = packets::same_program()
        .args(["serve", "--supervised-by", &own, "--config"])
        .arg(config_path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .map_err(failed("cannot start the gateway"))?;
    // The gateway's own user may send it signals, and more is not needed.
    drop_privileges(&user).map_err(failed("cannot become the gateway's user"))?;
    match pass_signals_on(&mut gateway, &ours, &notifier).map_err(failed("cannot wait for signals"))? {
        Some(status) if !status.success() => Err(SuperviseError::Ended(status)),
        _ => Ok(()),
    }
}

/// Returns how the gateway ended, or `None` when it stands on its own.
fn pass_signals_on(gateway: &mut Child, said: &UnixDatagram, notifier: &Notifier) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_raw(gateway.id().cast_signed());
    let waited_for = [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM, HAND_OVER];
    let signals: SigSet = waited_for.into_iter().collect();
    signals.thread_block()?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
    loop {
        // Before the first signal too: it may have ended before there was anything to wait for.
        if let Some(status) = gateway.try_wait()? {
            return Ok(Some(status));
        }
        let mut polled = [said.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut polled, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            result => result?,
        };
        let [says, signalled] = polled.map(|fd| fd.any().unwrap_or(true));
        if says {
            notifier.pass_on(said);
        }
        if !signalled {
            continue;
        }
        let Some(received) = signals.read_signal()? else { continue };
        let is_from_gateway = received.ssi_pid == gateway.id();
        let passed_on = match i32::try_from(received.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
            Some(HAND_OVER) if is_from_gateway => return Ok(None),
            Some(Signal::SIGTERM) => HAND_OVER,
            Some(signal @ (Signal::SIGINT | Signal::SIGHUP)) => signal,
            _ => continue,
        };
        // An error means that it has ended, or still has its first user and starts: then it ends when this process does.
        if kill(pid, passed_on).is_err() && passed_on == HAND_OVER {
            return Ok(None);
        }
    }
}

/// The gateway's view of its supervisor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Supervisor(Pid);

impl Supervisor {
    pub(crate) fn new(pid: i32) -> Self {
        Self(Pid::from_raw(pid))
    }

    /// From now on this process ends with its supervisor, and speaks by it to the service manager. Call it on the main thread,
    /// after the privileges are dropped, which would undo it.
    pub(crate) fn hold_on(self) -> io::Result<Notifier> {
        prctl::set_name(c"weir")?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != self.0 {
            return Err(io::Error::other("the supervisor is gone"));
        }
        Ok(Notifier::by(io::stdin().as_fd().try_clone_to_owned()?.into()))
    }

    /// Stands on its own, and lets the supervisor end. On the main thread.
    pub(crate) fn let_go(self) -> io::Result<()> {
        prctl::set_pdeathsig(None)?;
        Ok(kill(self.0, HAND_OVER)?)
    }
}
