//! The gateway process: start-up order, its threads, reload, drain, and how it is replaced.
//!
//! It starts as root or with a few capabilities, starts the witness (which attaches the programs), drops every privilege before it reads a byte from
//! anybody, and opens its doors, or takes over those of the gateway that it replaces. Then connections are accepted and served by
//! threads of their own (see [`crate::shards`]); a control thread has the admin socket, the resolver, signals and the watchdog.
//! How it is replaced itself is in [`leave`].

mod leave;
pub(crate) mod notify;

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use self::notify::Notifier;
use crate::admin;
use crate::config::{self, Config, ConfigErrors};
use crate::engine::{Engine, StartError};
use crate::handover::{self, Estate, Predecessors, TakenOver};
use crate::intercept::{self, DnsSocket, Doors, Interceptor};
use crate::namespaces::{Hints, Places, listen_where_agents_are};
use crate::record::event::Event;
use crate::shards::{HEARTBEAT, Shards};
use crate::supervise::{self, Supervisor};
use crate::witness::{self, Witness, WitnessError};

/// How long sessions may go on after the gateway was told to stop.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// How long ended sessions may take to write their last words and their closing records: longer than any protocol waits for
/// its client to read them, or the records would not say what ended the sessions.
const CLOSING_TIME: Duration = Duration::from_secs(6);
/// How often the attachments are compared with what the kernel says is effective.
const ATTACHMENT_CHECK_EVERY: Duration = Duration::from_secs(5);
/// How often the recorder is asked whether it still writes.
const RECORDER_CHECK_EVERY: Duration = Duration::from_secs(5);
/// A witness or a recorder that has said nothing for so long is hung, and the watchdog is left to bite.
const HUNG_AFTER: Duration = Duration::from_secs(15);
/// How often recordings are held against the configured age and size.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Who ends the sessions that are open then.
const STOPPING: &str = "the gateway, which stops";
/// How often it is looked whether the last session ended.
const DRAIN_POLL: Duration = Duration::from_millis(50);

/// Why the daemon did not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error("the witness: {0}")]
    Witness(#[from] WitnessError),
    #[error("{what}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the witness died: nothing can be identified, so nothing is served")]
    WitnessLost,
    #[error("a serving thread ended by itself")]
    ShardLost,
}

/// Runs the daemon until it is told to stop, or replaced and without sessions. `supervised_by`: the process that lets it be
/// replaced, see [`crate::supervise`].
pub fn serve(config_path: &Path, supervised_by: Option<i32>) -> Result<(), ServeError> {
    let config = config::load(config_path)?;
    let witness = witness::spawn(config_path, &config)?;
    prepare(&config)?;
    intercept::drop_privileges(&config.gateway.user)
        .map_err(failed(format!("cannot become the user {:?} without privileges", config.gateway.user)))?;
    let supervisor = supervised_by.map(Supervisor::new);
    let notifier = match supervisor {
        Some(supervisor) => supervisor.hold_on(),
        None => Notifier::of_service_manager(),
    };
    let notifier = notifier.map_err(failed("cannot be bound to the supervisor, or to the service manager"))?;
    // Now, so that it is the gateway's own: the unit grants no right to give files away.
    let admin = admin::Listener::bind(&config).map_err(failed("cannot open the admin socket"))?;
    let (witness, interceptor) = witness.into_parts().map_err(failed("the witness's socket"))?;
    let taken_over = take_over(&config)?;
    let copies = taken_over.doors.copies().map_err(failed("cannot keep the listeners"))?;

    let runtime = runtime()?;
    let _inside = runtime.enter();
    let shard_count = shard_count(&config);
    let engine = Engine::start(config_path, config, witness.clone(), &taken_over.living())?;
    let TakenOver { doors: Doors { listeners, resolvers }, namespaces, names, predecessors } = taken_over;
    engine.dns().take_over(names);
    Predecessors::start(&engine, predecessors).map_err(failed("cannot start a thread"))?;
    let (stop, stopping) = watch::channel(None);
    let mut shards = Shards::start(&engine, &interceptor, listeners, shard_count, stopping)
        .map_err(failed("cannot start a thread"))?;
    let mut places = Places::taken_over(namespaces, &engine, &interceptor, &witness, shards.ears());
    let mut signals = StopSignals::new()?;
    let mut control = Control {
        engine: &engine,
        interceptor: &interceptor,
        witness: &witness,
        shards: &mut shards,
        notifier: &notifier,
    };
    let ended = runtime.block_on(control.run(resolvers, admin, &mut places, &mut signals));
    notifier.tell(&[NotifyState::Stopping]);
    let reason = match (&ended, supervisor) {
        (Ok(Ending::Replaced), Some(supervisor)) => {
            let estate = Estate { doors: copies, namespaces: places.leave() };
            runtime.block_on(leave::leave(&engine, &witness, supervisor, estate, &stop, &mut signals))
        }
        (ended, _) => {
            drop((copies, places));
            runtime.block_on(drain(&engine, &stop));
            if ended.is_ok() { "told to stop" } else { "failed" }
        }
    };
    shards.join();
    engine.store().close(reason);
    ended.map(drop)
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ServeError {
    let what = what.into();
    move |source| ServeError::Io { what, source }
}

/// What takes privileges.
fn prepare(config: &Config) -> Result<(), ServeError> {
    let gateway = &config.gateway;
    for (directory, mode) in
        [(&gateway.runtime_dir, 0o755), (&gateway.state_dir, 0o750), (&config.recording.directory, 0o700)]
    {
        owned_directory(directory, mode, &gateway.user)
            .map_err(failed(format!("cannot prepare the directory {}", directory.display())))?;
    }
    raise_descriptor_limit().map_err(failed("cannot raise the limit of open files"))
}

fn open_doors(config: &Config) -> Result<Doors, ServeError> {
    let (port, dns_port) = (config.gateway.port, config.gateway.dns_port);
    Doors::open(port, dns_port).map_err(failed(format!(
        "cannot listen on the ports {port} (TCP) and {dns_port} (UDP); is another gateway running? `weir status` tells"
    )))
}

/// What another gateway leaves, if one is being replaced; doors of its own if not, or if the ports are others by now.
fn take_over(config: &Config) -> Result<TakenOver, ServeError> {
    let taken_over = handover::take_over(&config.gateway.runtime_dir).map_err(failed(
        "cannot take over from the gateway that is being replaced; start again, and if it stays so, \
             `systemctl kill --signal=KILL weir` ends the old one",
    ))?;
    let Some(mut taken_over) = taken_over else { return Ok(TakenOver::nothing(open_doors(config)?)) };
    tracing::info!(sessions = taken_over.living().len(), "taking over from a gateway, whose sessions go on there");
    let ports = taken_over.doors.ports().map_err(failed("the listeners that were taken over"))?;
    if ports != (config.gateway.port, config.gateway.dns_port) {
        taken_over.doors = open_doors(config)?;
        taken_over.namespaces.clear();
    }
    Ok(taken_over)
}

/// By default half of the cores: the others are the agents'. A shard that has more sessions finds more to do each time it wakes up.
fn shard_count(config: &Config) -> usize {
    match config.gateway.shards {
        0 => std::thread::available_parallelism().map_or(1, usize::from).div_ceil(2),
        count => count,
    }
}

/// Makes the directory, and makes it the gateway's. One that is right already is left alone: under weir.service, nothing
/// else could be done, and tmpfiles.d has made them.
fn owned_directory(path: &Path, mode: u32, user: &str) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)?;
    let user = nix::unistd::User::from_name(user)?.ok_or_else(|| {
        io::Error::other(format!("there is no user {user:?}; `systemd-sysusers` or `useradd` makes it"))
    })?;
    let metadata = std::fs::metadata(path)?;
    if (metadata.uid(), metadata.gid()) != (user.uid.as_raw(), user.gid.as_raw()) {
        std::os::unix::fs::chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    }
    if metadata.mode() & 0o7777 != mode {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn raise_descriptor_limit() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn runtime() -> Result<tokio::runtime::Runtime, ServeError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ServeError::Io { what: "cannot start a runtime".to_owned(), source })
}

/// Everything that is not a connection.
struct Control<'a> {
    engine: &'a Arc<Engine>,
    interceptor: &'a Interceptor,
    witness: &'a Witness,
    shards: &'a mut Shards,
    notifier: &'a Notifier,
}

/// Why nothing is accepted any more.
enum Ending {
    Stopped,
    /// Another gateway is to go on.
    Replaced,
}

impl Control<'_> {
    /// Runs until the daemon is told to stop, is to be replaced, or has to end.
    async fn run(
        &mut self,
        resolvers: [DnsSocket; 2],
        admin: admin::Listener,
        places: &mut Places,
        stop: &mut StopSignals,
    ) -> Result<Ending, ServeError> {
        let Self { engine, interceptor, witness, shards, notifier } = self;
        let mut hup = signals(SignalKind::hangup())?;
        let mut hand_over = signals(SignalKind::from_raw(supervise::HAND_OVER as i32))?;
        let [dns4, dns6] = resolvers;
        let mut heartbeat = interval(2 * HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (hints, hinted) = Hints::new();
        let ears = shards.ears().clone();
        let (witness_spoke, recorder_spoke) = (Cell::new(Instant::now()), Cell::new(Instant::now()));
        let background = async {
            tokio::join!(
                engine.dns().serve_udp(dns4, interceptor.clone(), witness.clone()),
                engine.dns().serve_udp(dns6, interceptor.clone(), witness.clone()),
                admin::serve(admin, Arc::clone(engine)),
                record_denied(engine, interceptor, hints),
                listen_where_agents_are(engine, interceptor, witness, &ears, hinted, places),
                record_refused_names(engine),
                sweep(engine),
                watch_attachments(witness, &witness_spoke),
                watch_recorder(engine, &recorder_spoke),
            )
        };
        tokio::pin!(background);
        notifier.tell(&[NotifyState::Ready]);
        tracing::info!("ready");
        loop {
            tokio::select! {
                () = stop.told() => return Ok(Ending::Stopped),
                _ = hand_over.recv() => return Ok(Ending::Replaced),
                _ = hup.recv() => reload(engine, notifier).await,
                () = witness.lost() => return Err(ServeError::WitnessLost),
                _ = heartbeat.tick() => {
                    if shards.any_ended() {
                        return Err(ServeError::ShardLost);
                    }
                    let is_hung = |spoke: &Cell<Instant>| spoke.get().elapsed() >= HUNG_AFTER;
                    if !shards.all_beat() {
                        tracing::error!("a serving thread stands still");
                    } else if is_hung(&witness_spoke) {
                        tracing::error!("the witness stands still");
                    } else if is_hung(&recorder_spoke) {
                        tracing::error!("the recorder stands still");
                    } else {
                        notifier.tell(&[NotifyState::Watchdog]);
                    }
                }
                _ = &mut background => return Err(ServeError::ShardLost),
            }
        }
    }
}

/// SIGTERM and SIGINT, from the start of the daemon to its end.
struct StopSignals {
    term: Signal,
    int: Signal,
}

impl StopSignals {
    /// On the runtime of this moment.
    fn new() -> Result<Self, ServeError> {
        Ok(Self { term: signals(SignalKind::terminate())?, int: signals(SignalKind::interrupt())? })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

fn signals(kind: SignalKind) -> Result<Signal, ServeError> {
    signal(kind).map_err(failed("cannot wait for signals"))
}

async fn reload(engine: &Arc<Engine>, notifier: &Notifier) {
    notifier.tell(&[NotifyState::Reloading]);
    match engine.reload().await {
        Ok(version) => tracing::info!(%version, "configuration reloaded"),
        Err(error) => tracing::error!(%error, "the configuration was not reloaded; the one before stays in force"),
    }
    notifier.tell(&[NotifyState::Ready]);
}

/// What the kernel refused agents becomes records; what it holds is passed on to those who can help.
async fn record_denied(engine: &Engine, interceptor: &Interceptor, hints: Hints) {
    let mut events = match interceptor.denied_events() {
        Ok(events) => events,
        Err(error) => {
            tracing::error!(%error, "the kernel's refusals cannot be read");
            return std::future::pending().await;
        }
    };
    loop {
        let recorded = match events.next().await {
            Ok(event) if event.is_held() => {
                hints.send(event);
                continue;
            }
            Ok(denied) => engine.recorder().append(Event::from(denied)).await.map_err(io::Error::other),
            Err(error) => Err(error),
        };
        if let Err(error) = recorded {
            tracing::warn!(%error, "a refusal by the kernel was not recorded");
            tokio::time::sleep(HEARTBEAT).await;
        }
    }
}

/// What the resolver refused agents becomes records.
async fn record_refused_names(engine: &Engine) {
    loop {
        let event = Event::from(engine.dns().next_refusal().await);
        if let Err(error) = engine.recorder().append(event).await {
            tracing::warn!(%error, "a refused name was not recorded");
        }
    }
}

/// Keeps the recordings to their age and size.
async fn sweep(engine: &Arc<Engine>) {
    let mut tick = interval(SWEEP_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let engine = Arc::clone(engine);
        let swept = tokio::task::spawn_blocking(move || engine.store().sweep(&engine.config().recording)).await;
        if let Ok(Err(error)) = swept {
            tracing::error!(%error, "old recordings could not be deleted");
        }
    }
}

/// Healthy status with nothing attached has happened to others: the kernel is asked, all the time.
async fn watch_attachments(witness: &Witness, spoke: &Cell<Instant>) {
    let mut tick = interval(ATTACHMENT_CHECK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let report = witness.attachments().await;
        if !matches!(report, Err(WitnessError::Timeout)) {
            spoke.set(Instant::now());
        }
        match report {
            Ok(report) if report.enforcing() => {}
            Ok(report) => {
                tracing::error!(detached = ?report.detached, hooks = ?report.hooks, "agents are not intercepted");
            }
            Err(error) => tracing::error!(%error, "the attachments cannot be checked"),
        }
    }
}

/// Without the recorder nothing that must be recorded passes, and nobody is told why: a disk that does not answer, say. One that has
/// failed answers that it has.
async fn watch_recorder(engine: &Engine, spoke: &Cell<Instant>) {
    let mut tick = interval(RECORDER_CHECK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let _ = engine.recorder().flush().await;
        spoke.set(Instant::now());
    }
}

/// Stops accepting, lets sessions end, then ends them.
async fn drain(engine: &Engine, stop: &watch::Sender<Option<Duration>>) {
    let _ = stop.send(Some(DRAIN_TIME + CLOSING_TIME));
    if timeout(DRAIN_TIME, last_session(engine)).await.is_err() {
        engine.live().kill_all(STOPPING);
    }
}

async fn last_session(engine: &Engine) {
    while engine.has_sessions() {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}
