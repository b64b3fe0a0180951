//! The witness process: one thread, one question after the other, and five times a second a look at the attachments.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};

use super::kernel::{Kernel, at};
use super::namespaces::{Look, Namespaces};
use super::privileges::{Capability, close_memory, keep_only};
use super::recent::Recent;
use super::wire::{self, Answer, Files, Question, Reply, Request, SecretBytes};
use super::{KernelConfig, WitnessConfig, WitnessError, evidence, files, peer};
use crate::{config, packets};

/// Between two looks at the attachments. What somebody has taken away is back within a second, on a busy machine too.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// Questions that are answered between two looks at what else is to be done.
const AT_ONCE: usize = 64;
/// Messages of the eBPF programs that are logged in a time.
const MAX_MESSAGES: u32 = 10;
const MESSAGES_WITHIN: Duration = Duration::from_secs(1);

const KEPT: [Capability; 4] = [Capability::Bpf, Capability::NetAdmin, Capability::SysPtrace, Capability::DacReadSearch];

/// Runs until the gateway is gone. The socket is standard input.
pub(super) fn run() -> io::Result<()> {
    prctl::set_name(c"weir-witness")?;
    close_memory()?;
    ignore_signals()?;
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let Some((Request { id, question: Question::Configure { config, files } }, _)) = packets::receive(socket.as_fd())?
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message must be the configuration"));
    };
    match Witness::start(config, files) {
        Ok(mut witness) => {
            let ready = witness.kernel.report().map(Answer::Ready);
            let descriptors = witness.kernel.descriptors().map_err(io::Error::other)?;
            let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            packets::send(socket.as_fd(), &Reply { id, answer: ready }, &borrowed, true)?;
            drop(descriptors);
            witness.answer_until_the_gateway_is_gone(&socket)
        }
        Err(error) => packets::send(socket.as_fd(), &Reply { id, answer: Err(error) }, &[], true),
    }
}

/// The gateway drains after a signal, and needs its witness until the end: only its own end ends this process.
pub(super) fn ignore_signals() -> io::Result<()> {
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    Ok(())
}

struct Witness {
    config: WitnessConfig,
    /// None: it is told the configuration.
    files: Option<Files>,
    /// What was in force before, and its version.
    before: Option<(String, WitnessConfig)>,
    kernel: Kernel,
    namespaces: Namespaces,
    logger: Option<EbpfLogger<Limited>>,
    /// Readable when a cgroup beside an agent's is made or removed: a new one has a new id, and its agents are known
    /// without waiting for the next look.
    cgroups: Inotify,
    recent: Recent,
    /// The last complaint of `look_after`, said once.
    complaint: Option<WitnessError>,
    /// The kernel half is another witness's.
    retired: bool,
}

impl Witness {
    fn start(config: WitnessConfig, files: Option<Files>) -> Result<Self, WitnessError> {
        let mut kernel = Kernel::attach(config.kernel.clone())?;
        kernel.begin_netns()?;
        let logger = EbpfLogger::init_with_logger(kernel.ebpf(), Limited::default())
            .inspect_err(|error| tracing::warn!(%error, "messages of the eBPF programs are not logged"))
            .ok();
        let cgroups = watch(&config.kernel)?;
        let namespaces = Namespaces::start()?;
        keep_only(&KEPT).map_err(at("dropping privileges"))?;
        Ok(Self {
            config,
            files,
            before: None,
            kernel,
            namespaces,
            logger,
            cgroups,
            recent: Recent::default(),
            complaint: None,
            retired: false,
        })
    }

    fn answer_until_the_gateway_is_gone(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let mut next_look = Instant::now() + LOOK_AFTER;
        loop {
            let now = Instant::now();
            if now >= next_look {
                self.look_after();
                next_look = Instant::now() + LOOK_AFTER;
            }
            let wait = next_look.saturating_duration_since(Instant::now());
            let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
            let mut polled = [socket.as_fd(), self.cgroups.as_fd(), self.namespaces.as_fd()]
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut polled, wait) {
                Ok(0) | Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            let [asked, cgroups_changed, processes_changed] = polled.map(|fd| fd.any().unwrap_or(true));
            if cgroups_changed {
                // What happened does not matter: everything is looked up anew.
                let _ = self.cgroups.read_events();
                self.look_after();
            }
            if processes_changed {
                self.namespaces.note_changes();
                // One that finds no room is one of many.
                let _ = packets::send(
                    socket.as_fd(),
                    &Reply { id: wire::UNASKED, answer: Ok(Answer::CgroupsChanged) },
                    &[],
                    false,
                );
            }
            if !asked {
                continue;
            }
            for _ in 0..AT_ONCE {
                match packets::receive_now(socket.as_fd()) {
                    Ok(Some((request, _))) => self.reply(socket, request)?,
                    Ok(None) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
    }

    fn reply(&mut self, socket: &OwnedFd, Request { id, question }: Request) -> io::Result<()> {
        let (answer, descriptors) = match self.answer(question) {
            Ok((answer, descriptors)) => (Ok(answer), descriptors),
            Err(error) => (Err(error), Vec::new()),
        };
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        match packets::send(socket.as_fd(), &Reply { id, answer }, &descriptors, true) {
            // It is gone: the next receive says so.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            sent => sent,
        }
    }

    /// The answer, and descriptors that go with it.
    fn answer(&mut self, question: Question) -> Result<(Answer, Vec<OwnedFd>), WitnessError> {
        let secret = |secret| Answer::Secret(SecretBytes(secret));
        let answer = match question {
            Question::Configure { .. } => return Err(not_told()),
            Question::Reconfigure(_) if self.files.is_some() => return Err(not_told()),
            Question::Reconfigure(config) => self.take_up(config)?,
            Question::Reload { version } => self.reload(version)?,
            Question::Retire => {
                self.retired = true;
                self.namespaces.retire();
                Answer::Retired
            }
            Question::Evidence(origin) => Answer::Evidence(self.recent.evidence(&self.config, &origin)?),
            Question::TokenFile(path) => secret(files::token(&self.config, &path)?),
            Question::TokenEnvironment(origin, name) => {
                secret(evidence::token_environment(&self.config, &origin, &name)?)
            }
            Question::Credential(name) => secret(files::credential(&self.config, &name)?),
            Question::Peer(pid) => Answer::Peer(peer::peer(pid)?),
            Question::Attachments => {
                let mut report = self.kernel.report()?;
                let complaints = self.complaint.iter().chain(self.namespaces.complaint());
                report.warnings.extend(complaints.map(ToString::to_string));
                Answer::Attachments(report)
            }
            Question::Namespaces { hints, serving } => {
                let Look { opened, left } =
                    self.namespaces.look(&self.config.kernel, &mut self.kernel, hints, &serving)?;
                let (opened, sockets) = opened.unzip();
                return Ok((Answer::Namespaces { opened, left }, sockets.map(Vec::from).unwrap_or_default()));
            }
        };
        Ok((answer, Vec::new()))
    }

    /// Takes up what the files say, if that is the version in question, or goes back to what was in force before.
    fn reload(&mut self, version: String) -> Result<Answer, WitnessError> {
        let Some(files) = &self.files else { return Err(not_told()) };
        let config = match &self.before {
            _ if files.version == version => self.config.clone(),
            Some((earlier, config)) if *earlier == version => config.clone(),
            _ => self.read(&files.path, &version)?,
        };
        let before = (files.version.clone(), self.config.clone());
        let answer = self.take_up(config)?;
        if let Some(files) = self.files.as_mut().filter(|files| files.version != version) {
            files.version = version;
            self.before = Some(before);
        }
        Ok(answer)
    }

    fn read(&self, path: &Path, version: &str) -> Result<WitnessConfig, WitnessError> {
        let config = config::load(path).map_err(|error| WitnessError::Refused(error.to_string()))?;
        if config.version != version {
            return Err(WitnessError::Refused("the files changed while they were read; reload again".to_owned()));
        }
        let mut fresh = WitnessConfig::new(&config)?;
        // Which is not this process's to say.
        fresh.kernel.gateway_cgroup.clone_from(&self.config.kernel.gateway_cgroup);
        Ok(fresh)
    }

    fn take_up(&mut self, config: WitnessConfig) -> Result<Answer, WitnessError> {
        if self.retired {
            self.config = config;
            self.recent.forget();
            return Ok(Answer::Retired);
        }
        let cgroups = watch(&config.kernel)?;
        self.kernel.reconfigure(config.kernel.clone())?;
        self.config = config;
        self.recent.forget();
        self.cgroups = cgroups;
        Ok(Answer::Ready(self.kernel.report()?))
    }

    fn look_after(&mut self) {
        self.recent.make_room(Instant::now());
        self.kernel.let_go_if_succeeded(self.retired);
        if self.retired || self.kernel.has_let_go() {
            return;
        }
        let complaint = self.kernel.look_after().err();
        if complaint != self.complaint {
            if let Some(error) = &complaint {
                tracing::error!(%error, "the kernel half is not as it should be");
            } else {
                tracing::info!("the kernel half is as it should be again");
            }
            self.complaint = complaint;
        }
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }
}

fn not_told() -> WitnessError {
    WitnessError::Refused("the witness reads its configuration itself, and is not told it".to_owned())
}

/// Watches the directories in which agents' cgroups lie.
fn watch(config: &KernelConfig) -> Result<Inotify, WitnessError> {
    let failed = |error: nix::errno::Errno| at("watching the agents' cgroups")(error.into());
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    for agents in &config.agents {
        if let Some(parent) = config.cgroup_mount.join(agents).parent() {
            inotify.add_watch(parent, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR).map_err(failed)?;
        }
    }
    Ok(inotify)
}

/// Passes messages of the eBPF programs on to tracing, a bounded number in a time: an agent can make them by the million.
#[derive(Default)]
struct Limited {
    count: AtomicU32,
    since: Mutex<Option<Instant>>,
}

impl log::Log for Limited {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut since = self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if since.is_none_or(|since| since.elapsed() >= MESSAGES_WITHIN) {
            *since = Some(Instant::now());
            self.count.store(0, Ordering::Relaxed);
        }
        match self.count.fetch_add(1, Ordering::Relaxed) {
            count if count < MAX_MESSAGES => tracing::warn!(target: "weir::kernel", "{}", record.args()),
            MAX_MESSAGES => tracing::warn!(target: "weir::kernel", "more messages in this second are not logged"),
            _ => {}
        }
    }

    fn flush(&self) {}
}
