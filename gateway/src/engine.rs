//! What all sessions share: the configuration of the moment, the store, approvals, the witness, the live sessions. It
//! has the steps between an accepted connection and its session.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use crate::accept::{Reason, Refusal};
use crate::admission::Admission;
use crate::approval::{Approvals, Ledger, LedgerError, Transition};
use crate::config::{self, Config, Mode, TargetMatch};
use crate::dns::{self, Dns};
use crate::handover::Predecessors;
use crate::identity::{Identifier, Principal};
use crate::ids::{SessionId, SessionIds};
use crate::live::LiveSessions;
use crate::mask::{HashKey, Masker};
use crate::origin::{Evidence, Origin};
use crate::protocol;
use crate::rds_iam::Roles;
use crate::record::event::{self, Event, GatewayStarted};
use crate::record::{Limits, RecordError, Recorder, Store};
use crate::session::Session;
use crate::target::{CredentialSource, Target, Upstream};
use crate::tls::TlsError;
use crate::verdicts::VerdictTimes;
use crate::witness::Witness;

/// What all sessions share.
pub struct Engine {
    in_force: ArcSwap<InForce>,
    /// Says that there was a reload, to those who wait for one.
    reloads: watch::Sender<u64>,
    config_path: PathBuf,
    started: Instant,
    /// Held while the files are read again: of two reloads at once the later one must see what the earlier one put in force.
    reloading: tokio::sync::Mutex<()>,
    store: Store,
    admission: Arc<Admission>,
    approvals: Approvals,
    witness: Witness,
    identifier: Identifier,
    dns: Dns,
    protocols: protocol::State,
    roles: Roles,
    predecessors: Predecessors,
    ids: SessionIds,
    live: LiveSessions,
    verdict_times: VerdictTimes,
}

/// The configuration of a moment, with its numbers: a reload replaces all of it at once.
#[derive(Debug)]
pub struct InForce {
    pub config: Arc<Config>,
    /// Counts configurations; a judgement made under another one is made again.
    pub epoch: u64,
    /// Counts changes of masks; sessions that began under another one end.
    pub masks_version: u64,
    /// Counts changes of `[identity]`; so do sessions that were identified by another one.
    pub identity_version: u64,
}

impl InForce {
    fn first(config: Arc<Config>) -> Self {
        Self { config, epoch: 1, masks_version: 1, identity_version: 1 }
    }

    fn next(&self, config: Arc<Config>) -> Self {
        let old = &self.config;
        let masks_changed = old.masks != config.masks || old.gateway.mode != config.gateway.mode;
        let identity_changed = old.identity != config.identity;
        Self {
            config,
            epoch: self.epoch + 1,
            masks_version: self.masks_version + u64::from(masks_changed),
            identity_version: self.identity_version + u64::from(identity_changed),
        }
    }
}

impl Engine {
    /// What is in force at this moment.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    pub fn epoch(&self) -> u64 {
        self.in_force.load().epoch
    }

    pub fn masks_version(&self) -> u64 {
        self.in_force.load().masks_version
    }

    /// Tells of reloads from now on.
    pub fn reloads(&self) -> watch::Receiver<u64> {
        self.reloads.subscribe()
    }

    pub fn recorder(&self) -> &Recorder {
        self.store.recorder()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    pub fn approvals(&self) -> &Approvals {
        &self.approvals
    }

    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// How long verdicts take.
    pub fn verdict_times(&self) -> &VerdictTimes {
        &self.verdict_times
    }

    pub fn dns(&self) -> &Dns {
        &self.dns
    }

    pub(crate) fn predecessors(&self) -> &Predecessors {
        &self.predecessors
    }

    pub fn protocols(&self) -> &protocol::State {
        &self.protocols
    }

    /// Whose keys sign tokens of logins that have none of their own.
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// The masks of a target, without the keys that some of them need.
    pub fn masker(config: &Config, target: &Target) -> Masker {
        let masker = Masker::for_target(&config.masks, &target.name);
        if config.gateway.mode == Mode::Observe { masker.observing() } else { masker }
    }

    /// The same with their keys.
    async fn masker_with_keys(&self, config: &Config, target: &Target) -> Result<Masker, Refusal> {
        let masker = Self::masker(config, target);
        // What is passed on as it is has no values, and needs no keys.
        let needs_keys = masker.applies() && target.protocol.logs_in();
        let sources: Vec<&CredentialSource> = if needs_keys { masker.key_sources().collect() } else { Vec::new() };
        let mut keys: Vec<(CredentialSource, HashKey)> = Vec::new();
        for source in sources {
            if keys.iter().any(|(known, _)| known == source) {
                continue;
            }
            let refused = |why: String| Refusal::new(Reason::Gateway, format!("a mask's key cannot be had: {why}"));
            let secret = self.witness.credential(source).await.map_err(|error| refused(error.to_string()))?;
            let key = HashKey::new(&secret).map_err(|weak| refused(format!("{source} {weak}")))?;
            keys.push((source.clone(), key));
        }
        Ok(masker.with_keys(&keys))
    }

    /// Whether a refusal is only recorded, and the connection passed through. Never one whose origin is unknown, nor one to
    /// where the gateway's own keys are to be had.
    pub fn only_observes(&self, refusal: &Refusal, destination: SocketAddr) -> bool {
        let config = self.config();
        let gateway = &config.gateway;
        match refusal.reason {
            _ if config.has_keys_from(destination) => false,
            Reason::Unlisted => gateway.unlisted == Mode::Observe || gateway.mode == Mode::Observe,
            Reason::Target | Reason::Identity | Reason::Policy => gateway.mode == Mode::Observe,
            Reason::Origin | Reason::Gateway => false,
        }
    }

    pub fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
    }

    pub fn new_session_id(&self) -> SessionId {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.ids.next(u64::try_from(now.as_millis()).unwrap_or(u64::MAX), random_u32)
    }

    /// The one target at the origin's destination, by the names that this agent looked up.
    pub fn resolve(&self, config: &Config, origin: &Origin) -> Result<(Arc<Target>, Upstream), Refusal> {
        let names = self.dns.names_for(dns::agent_key(origin), origin.destination.ip());
        match config.targets_for(origin.destination, &names) {
            TargetMatch::One(target) => {
                let server_name = names.into_iter().find(|name| target.has_name(name));
                Ok((target, Upstream { address: origin.destination, server_name }))
            }
            TargetMatch::None => {
                Err(Refusal::new(Reason::Unlisted, format!("no target is configured at {}", origin.destination)))
            }
            TargetMatch::Ambiguous(targets) => Err(Refusal::new(
                Reason::Target,
                format!("{} is the address of several targets: {}", origin.destination, targets.join(", ")),
            )),
        }
    }

    pub async fn evidence(&self, origin: &Origin) -> Result<Evidence, Refusal> {
        self.witness.evidence(origin).await.map_err(|error| Refusal::new(Reason::Origin, error.to_string()))
    }

    pub async fn identify(&self, config: &Config, origin: &Origin, evidence: &Evidence) -> Result<Principal, Refusal> {
        self.identifier
            .identify(origin, evidence, config, &self.witness)
            .await
            .map_err(|error| Refusal::new(Reason::Identity, error.to_string()))
    }

    /// Opens the session: its masks, then its record, durable before anything is served. None: what it was admitted under is not in
    /// force any more.
    pub async fn open(
        self: &Arc<Self>,
        id: SessionId,
        in_force: &InForce,
        (origin, evidence): (Origin, Evidence),
        principal: Principal,
        (target, upstream): (Arc<Target>, Upstream),
    ) -> Result<Option<Session>, Refusal> {
        let config = &in_force.config;
        let masks = self.masker_with_keys(config, &target).await?;
        if self.epoch() != in_force.epoch {
            return Ok(None);
        }
        let event = Event::SessionOpened(event::SessionOpened {
            id,
            origin: origin.clone(),
            evidence: evidence.clone(),
            principal: principal.clone(),
            target: target.name.clone(),
            protocol: target.protocol,
            config_version: config.version.clone(),
            observe: config.gateway.mode == Mode::Observe,
        });
        let admitted = self.live.admit(id, &principal.agent, config.gateway.max_sessions_per_agent);
        let live = admitted.map_err(|no_room| Refusal::new(Reason::Gateway, no_room.to_string()))?;
        let recorded = self.recorder().append_durable(event).await;
        if let Err(error) = recorded {
            self.live.forget(id);
            return Err(Refusal::new(Reason::Gateway, format!("the recording cannot be written: {error}")));
        }
        let admitted = (in_force, masks);
        Ok(Some(Session::new(Arc::clone(self), id, live, (origin, evidence), principal, (target, upstream), admitted)))
    }

    pub fn live(&self) -> &LiveSessions {
        &self.live
    }

    /// Ends a session at its next step, also one that goes on in a gateway that was replaced; false if there is none of that
    /// ID.
    pub fn kill(&self, id: SessionId, by: &str) -> bool {
        self.live.kill(id, by) || self.predecessors.kill(id, by)
    }

    /// Verifies the agent's token again, after the one that opened the session has expired. The principal must be the
    /// same; returns when the new token expires, in Unix seconds.
    pub async fn renew(&self, session: &Session) -> Result<u64, String> {
        let renewed = self.identify(&self.config(), &session.origin, &session.evidence).await;
        let renewed = renewed.map_err(|refusal| refusal.message)?;
        let old = &session.principal;
        let same = renewed.agent == old.agent && renewed.subject == old.subject && renewed.issuer == old.issuer;
        if !same || renewed.groups != old.groups {
            return Err("the renewed token names another principal or other groups; connect again".to_owned());
        }
        Ok(renewed.expires_at)
    }
}

impl Engine {
    /// Opens the store (recovering what a dead gateway left open) and makes ready what sessions share. `living`: sessions that
    /// go on in gateways that this one replaces.
    pub fn start(
        config_path: &Path,
        config: Config,
        witness: Witness,
        living: &HashSet<SessionId>,
    ) -> Result<Arc<Self>, StartError> {
        let started = started(&config, living.len());
        let store = Store::open(&config.recording, Limits::default(), started, living)?;
        let ledger = Arc::new(store.recorder().clone());
        let approvals = Approvals::new(store.next_approval_number()?, ledger);
        let config = Arc::new(config);
        Ok(Arc::new(Self {
            config_path: config_path.to_owned(),
            started: Instant::now(),
            reloading: tokio::sync::Mutex::default(),
            identifier: Identifier::new(&config)?,
            dns: Dns::new(Arc::clone(&config)),
            protocols: protocol::State::new(&config)?,
            roles: Roles::default(),
            in_force: ArcSwap::from_pointee(InForce::first(config)),
            reloads: watch::Sender::new(1),
            store,
            admission: Arc::default(),
            approvals,
            witness,
            predecessors: Predecessors::default(),
            ids: SessionIds::default(),
            live: LiveSessions::default(),
            verdict_times: VerdictTimes::default(),
        }))
    }

    /// The configuration of this moment.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.in_force.load().config)
    }

    pub fn started(&self) -> Instant {
        self.started
    }

    /// Reads the files again; all or nothing. Returns the new version.
    pub async fn reload(&self) -> Result<String, String> {
        let reloading = self.reloading.lock().await;
        let outcome = self.try_reload().await;
        drop(reloading);
        let event = match &outcome {
            Ok(version) => Event::ConfigReloaded { version: version.clone() },
            Err(error) => Event::ConfigRejected { error: error.clone() },
        };
        if let Err(error) = self.recorder().append_durable(event).await {
            tracing::error!(%error, "the reload could not be recorded");
        }
        if outcome.is_ok() {
            self.predecessors.reload();
        }
        outcome
    }

    /// Reads the files again for the sessions that go on here after the gateway was replaced. Where that fails they end: the
    /// policy that they began with is nobody's any more.
    pub(crate) async fn follow(&self) {
        let _reloading = self.reloading.lock().await;
        if let Err(error) = self.try_reload().await {
            tracing::error!(%error, "sessions end, since the new configuration cannot be had for them");
            self.live.kill_all("the gateway, whose configuration was replaced");
        }
    }

    async fn try_reload(&self) -> Result<String, String> {
        let config = config::load(&self.config_path).map_err(|error| error.to_string())?;
        let old = self.config();
        if let Some(fixed) = fixed_setting(&old, &config) {
            return Err(format!("{fixed} cannot be changed while the gateway runs; restart it"));
        }
        // What can fail comes first, and what has to be undone then comes last.
        let identity = self.identifier.prepare(&config).map_err(|error| error.to_string())?;
        let number = self.epoch() + 1;
        if let Err(error) = self.witness.reload(number, &config.version).await {
            // It may have taken up a part, or all of it by the time that this comes.
            if let Err(error) = self.witness.go_back(number).await {
                tracing::error!(%error, "the witness may act by a configuration that was rejected; reload again");
            }
            return Err(error.to_string());
        }
        let config = Arc::new(config);
        let version = config.version.clone();
        self.identifier.take_up(identity);
        self.dns.reload(Arc::clone(&config));
        let next = Arc::new(self.in_force.load().next(config));
        let epoch = next.epoch;
        self.in_force.store(next);
        self.reloads.send_replace(epoch);
        Ok(version)
    }

    /// Whether there are sessions, or connections that are becoming some.
    pub fn has_sessions(&self) -> bool {
        // In this order: a connection gives its place up when it is a session.
        !self.admission.is_empty() || !self.live.is_empty()
    }
}

/// Why the shared state could not be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the recording store: {0}")]
    Record(#[from] RecordError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Protocols(#[from] protocol::StateError),
}

/// Recording lets approvals write to it, and nothing else.
impl Ledger for Recorder {
    fn record(&self, transition: Transition) -> Pin<Box<dyn Future<Output = Result<(), LedgerError>> + Send + '_>> {
        Box::pin(async move { Ok(self.append_durable(Event::Approval(transition)).await?) })
    }

    fn note(&self, transition: Transition) {
        self.append_now(&Event::Approval(transition));
    }
}

fn started(config: &Config, sessions_going_on: usize) -> GatewayStarted {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
    GatewayStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: read("/proc/sys/kernel/hostname"),
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        config_version: config.version.clone(),
        sessions_going_on,
    }
}

/// The first setting that differs although it was taken up for good at start.
fn fixed_setting(old: &Config, new: &Config) -> Option<&'static str> {
    let (a, b) = (&old.gateway, &new.gateway);
    [
        ("[gateway] port", a.port != b.port),
        ("[gateway] dns_port", a.dns_port != b.dns_port),
        ("[gateway] attach", a.attach != b.attach),
        ("[gateway] user", a.user != b.user),
        ("[gateway] runtime_dir", a.runtime_dir != b.runtime_dir),
        ("[gateway] state_dir", a.state_dir != b.state_dir),
        ("[gateway] bpf_dir", a.bpf_dir != b.bpf_dir),
        ("[gateway] shards", a.shards != b.shards),
        ("[recording] directory", old.recording.directory != new.recording.directory),
    ]
    .into_iter()
    .find_map(|(name, differs)| differs.then_some(name))
}

/// 32 bits from the kernel's random source; zero if it has none, where IDs are still told apart by their time.
pub(crate) fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    if random(&mut bytes).is_err() { 0 } else { u32::from_ne_bytes(bytes) }
}

/// Fills the buffer from the kernel's random source.
pub(crate) fn random(bytes: &mut [u8]) -> std::io::Result<()> {
    File::open("/dev/urandom")?.read_exact(bytes)
}
