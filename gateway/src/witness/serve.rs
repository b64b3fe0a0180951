//! The witness process: one thread, one question after the other, and five times a second a look at the attachments.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, mpsc};
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
use super::wire::{self, Answer, Question, Reply, Request, SecretBytes};
use super::{KernelConfig, WitnessConfig, WitnessError, evidence, files, peer};
use crate::{config, packets};

/// Between two looks at the attachments. What somebody has taken away is back within a second, on a busy machine too.
const LOOK_AFTER: Duration = Duration::from_millis(200);
/// How often it is looked whether a configuration was read.
const LOADED_AFTER: Duration = Duration::from_millis(10);
/// A reload can be taken back for so long: the gateway waits no longer for its end.
const GO_BACK_WITHIN: Duration = Duration::from_secs(2 * super::TIMEOUT.as_secs());
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
    let Some((Request { id, question: Question::Configure { config, path } }, _)) = packets::receive(socket.as_fd())?
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first message must be the configuration"));
    };
    match Witness::start(config, path) {
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
    /// Where the configuration is read; None: it is told that.
    path: Option<PathBuf>,
    loading: Option<Loading>,
    before: Option<Before>,
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

/// A reload that is under way: users are looked up in directories that may be slow, and meanwhile there is other work.
struct Loading {
    /// Of the question.
    id: u64,
    number: u64,
    config: mpsc::Receiver<Result<WitnessConfig, WitnessError>>,
}

/// What was in force before a reload.
struct Before {
    /// Of the reload, and when it was taken up.
    number: u64,
    when: Instant,
    config: WitnessConfig,
}

impl Witness {
    fn start(config: WitnessConfig, path: Option<PathBuf>) -> Result<Self, WitnessError> {
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
            path,
            loading: None,
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
            self.finish_loading(socket)?;
            let longest = if self.loading.is_some() { LOADED_AFTER } else { LOOK_AFTER };
            let wait = next_look.saturating_duration_since(Instant::now()).min(longest);
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
        if let Question::Reload { number, version } = question {
            return match self.load(id, number, version) {
                Ok(()) => Ok(()),
                Err(error) => send(socket, &Reply { id, answer: Err(error) }, &[]),
            };
        }
        let (answer, descriptors) = match self.answer(question) {
            Ok((answer, descriptors)) => (Ok(answer), descriptors),
            Err(error) => (Err(error), Vec::new()),
        };
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        send(socket, &Reply { id, answer }, &descriptors)
    }

    /// The answer, and descriptors that go with it.
    fn answer(&mut self, question: Question) -> Result<(Answer, Vec<OwnedFd>), WitnessError> {
        let secret = |secret| Answer::Secret(SecretBytes(secret));
        let answer = match question {
            Question::Reconfigure(config) if self.path.is_none() => self.take_up(config)?,
            Question::Configure { .. } | Question::Reconfigure(_) | Question::Reload { .. } => return Err(not_told()),
            Question::GoBack { number } => self.go_back(number)?,
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
            Question::Peer(pid) => Answer::Peer(peer::peer(pid, |uid| self.kernel.is_subordinate(uid))?),
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

    /// Begins to read what the files say, which is taken up when it is there.
    fn load(&mut self, id: u64, number: u64, version: String) -> Result<(), WitnessError> {
        let Some(path) = self.path.clone() else { return Err(not_told()) };
        if self.loading.is_some() {
            return Err(WitnessError::Busy);
        }
        let gateway_cgroup = self.config.kernel.gateway_cgroup.clone();
        let (loaded, config) = mpsc::channel();
        let read = move || _ = loaded.send(read(&path, &version, gateway_cgroup));
        std::thread::Builder::new().name("loading".to_owned()).spawn(read).map_err(at("reading the configuration"))?;
        self.loading = Some(Loading { id, number, config });
        Ok(())
    }

    /// Takes up what was loaded, if it is there by now.
    fn finish_loading(&mut self, socket: &OwnedFd) -> io::Result<()> {
        let Some(loading) = &self.loading else { return Ok(()) };
        let loaded = match loading.config.try_recv() {
            Err(mpsc::TryRecvError::Empty) => return Ok(()),
            Err(mpsc::TryRecvError::Disconnected) => Err(WitnessError::Lost),
            Ok(loaded) => loaded,
        };
        let (id, number) = (loading.id, loading.number);
        self.loading = None;
        let answer = loaded.and_then(|config| {
            self.before = Some(Before { number, when: Instant::now(), config: self.config.clone() });
            self.take_up(config)
        });
        send(socket, &Reply { id, answer }, &[])
    }

    /// Only at once: nobody is to have an old configuration back when he likes.
    fn go_back(&mut self, number: u64) -> Result<Answer, WitnessError> {
        self.loading = None;
        match self.before.take() {
            Some(before) if before.number == number && before.when.elapsed() < GO_BACK_WITHIN => {
                self.take_up(before.config)
            }
            _ => Ok(Answer::Ready(self.kernel.report()?)),
        }
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

fn send(socket: &OwnedFd, reply: &Reply, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    match packets::send(socket.as_fd(), reply, descriptors, true) {
        // It is gone: the next receive says so.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        sent => sent,
    }
}

/// What the files say, but for the gateway's cgroup, which is not theirs to say.
fn read(path: &Path, version: &str, gateway_cgroup: Option<String>) -> Result<WitnessConfig, WitnessError> {
    let config = config::load(path).map_err(|error| WitnessError::Refused(error.to_string()))?;
    if config.version != version {
        return Err(WitnessError::Refused("the files changed while they were read; reload again".to_owned()));
    }
    let mut fresh = WitnessConfig::new(&config)?;
    fresh.kernel.gateway_cgroup = gateway_cgroup;
    Ok(fresh)
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
