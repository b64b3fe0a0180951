//! The witness: the small privileged half of the daemon, and the gateway's client for it.
//!
//! `weir serve` starts as root or with a few capabilities, starts `weir witness` with one end of a socket pair, and gives up every privilege. The
//! witness loads and pins the eBPF programs, and answers a handful of typed questions: which processes stand behind an
//! origin, what a configured token or credential file holds, whether the programs are attached. It parses nothing that
//! comes from the network, it answers only what its configuration names, and it ends when the gateway ends.

mod bpf;
mod cgroup;
mod client;
mod container;
mod evidence;
mod files;
mod kernel;
mod looks;
mod lsm;
mod namespaces;
mod notes;
mod peer;
mod pins;
mod predecessor;
pub(crate) mod privileges;
mod recent;
mod redact;
mod removal;
mod requirements;
mod serve;
mod structures;
mod subordinates;
mod user_namespaces;
mod usher;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::notes::ForeignSocket;
pub use self::peer::Peer;
pub(crate) use self::peer::own_cgroup;
#[cfg(test)]
pub(crate) use self::peer::peer as read_peer;
pub use self::subordinates::Subordinate;
use self::wire::{Answer, Question, SecretBytes};
use crate::config::{AgentConfig, AgentMatch, Config, TokenSource, WithoutGateway};
use crate::intercept::{Doors, Interceptor};
use crate::origin::{Evidence, Origin};
use crate::packets;
use crate::secret::Secret;
use crate::target::{CredentialSource, Login};

/// What the witness does and answers, out of the configuration. It is sent at start, while the gateway has its privileges; at a reload
/// the witness reads the files itself: it does not let the process that it keeps within limits set them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessConfig {
    /// Where the programs are attached and whom they intercept.
    pub kernel: KernelConfig,
    /// Templates of token files; `%i` and `%u` stand for one path-component-safe word.
    pub token_files: Vec<String>,
    /// Names of environment variables that may be asked for.
    pub token_variables: Vec<String>,
    /// Held credentials that may be asked for.
    pub credentials: Vec<CredentialName>,
    /// An agent is a container: what runtimes say of theirs is evidence.
    pub containers: bool,
}

/// What the kernel half is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelConfig {
    /// Where cgroup2 is mounted.
    pub cgroup_mount: PathBuf,
    /// Attach point below it; "" is the root.
    pub attach: String,
    /// cgroups of agents below the mount.
    pub agents: Vec<String>,
    /// Users whose processes are agents wherever they run.
    pub agent_uids: Vec<u32>,
    /// Numbers of those that the configuration has by name.
    pub agent_names: BTreeMap<String, u32>,
    /// Where it says which users these may become: /etc/subuid. Read at start and at each reload.
    pub subuid: PathBuf,
    /// Users of agents, and ports at which others may reach their servers.
    pub listen: Vec<(u32, u16)>,
    /// cgroup of the gateway below the mount; `None` before it runs: then nobody may bind its ports.
    pub gateway_cgroup: Option<String>,
    pub port: u16,
    pub dns_port: u16,
    pub bpf_dir: PathBuf,
    /// What agents send first waits while there is no gateway; else it is refused at once.
    pub hold_without_gateway: bool,
}

/// `target::CredentialSource` as it crosses the socket pair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialName {
    Credential(String),
    File(PathBuf),
}

/// Why the witness has no answer. Every one of these denies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum WitnessError {
    #[error("the witness is gone; the gateway must be restarted")]
    Lost,
    #[error("the witness did not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("too many questions to the witness are waiting")]
    Busy,
    #[error("the process {pid} is not the one that connected: that is gone, and its number was used again")]
    Reused { pid: u32 },
    #[error("the process {pid} is gone")]
    Gone { pid: u32 },
    #[error("the process {pid} is not in the cgroup that connected")]
    OtherCgroup { pid: u32 },
    #[error("no cgroup has the id {0}: it was removed since the connect")]
    UnknownCgroup(u64),
    #[error("{0} is not named in the configuration")]
    NotConfigured(String),
    #[error("{0} does not exist")]
    Missing(String),
    #[error("{0}: a symbolic link is in the path, and links are not followed")]
    Symlink(String),
    #[error("{0} is not a regular file")]
    NotRegular(String),
    #[error("{path} is larger than {limit} bytes")]
    TooLarge { path: String, limit: usize },
    #[error("{0} is empty")]
    Empty(String),
    #[error("{path} may be read by others (mode {mode:o}); make it 0600 or 0400, owned by root")]
    Exposed { path: String, mode: u32 },
    #[error("refused: {0}")]
    Refused(String),
    #[error("{what}: {error}")]
    Io { what: String, error: String },
}

const SUBUID: &str = "/etc/subuid";

/// A question is not answered later than this.
pub const TIMEOUT: Duration = Duration::from_secs(5);

impl WitnessConfig {
    /// Takes what the witness needs from the configuration, and finds the cgroup2 mount and this process's own cgroup
    /// (the gateway's).
    pub fn new(config: &Config) -> Result<Self, WitnessError> {
        let kernel = KernelConfig {
            cgroup_mount: cgroup::mount_point().map_err(kernel::at("the cgroup2 mount"))?,
            attach: config.gateway.attach.trim_matches('/').to_owned(),
            agents: agent_cgroups(config),
            agent_uids: config.agents.iter().filter_map(|agent| agent.uid).collect(),
            agent_names: names_of_users(&config.agents)?,
            subuid: SUBUID.into(),
            listen: listen(config),
            gateway_cgroup: Some(cgroup::of_process("self").map_err(kernel::at("the gateway's cgroup"))?),
            port: config.gateway.port,
            dns_port: config.gateway.dns_port,
            bpf_dir: config.gateway.bpf_dir.clone(),
            hold_without_gateway: config.gateway.without_gateway == WithoutGateway::Wait,
        };
        if kernel.agent_uids.contains(&0) {
            return Err(WitnessError::Refused("root cannot be an agent's user".to_owned()));
        }
        let mut token_files = Vec::new();
        let mut token_variables = Vec::new();
        for agent in &config.agents {
            match &agent.token {
                TokenSource::File(template) => token_files.push(template.clone()),
                TokenSource::Environment(name) => token_variables.push(name.clone()),
            }
        }
        let logins = config.targets.iter().filter_map(|target| target.login.as_ref());
        let keys = config.masks.iter().filter_map(|mask| mask.with.key());
        let credentials = logins.flat_map(Login::credentials).chain(keys).map(CredentialName::from).collect();
        let containers = config.agents.iter().any(|agent| matches!(agent.matches, AgentMatch::Container(_)));
        Ok(Self { kernel, token_files, token_variables, credentials, containers })
    }
}

/// What agents' users are called, in the configuration and in whatever directory knows them.
fn names_of_users(agents: &[AgentConfig]) -> Result<BTreeMap<String, u32>, WitnessError> {
    let mut names = BTreeMap::new();
    for agent in agents {
        let Some(uid) = agent.uid else { continue };
        let known =
            nix::unistd::User::from_uid(uid.into()).map_err(|error| kernel::at("an agent's user")(error.into()))?;
        names.extend(agent.user.clone().into_iter().chain(known.map(|user| user.name)).map(|name| (name, uid)));
    }
    Ok(names)
}

fn listen(config: &Config) -> Vec<(u32, u16)> {
    let agents = config.agents.iter().filter_map(|agent| Some((agent.uid?, &agent.listen)));
    agents.flat_map(|(uid, ports)| ports.iter().map(move |port| (uid, *port))).collect()
}

/// `[gateway] agents`, and the cgroups of single agents that lie outside them.
fn agent_cgroups(config: &Config) -> Vec<String> {
    let mut cgroups: Vec<String> = config.gateway.agents.iter().map(|path| path.trim_matches('/').to_owned()).collect();
    for agent in &config.agents {
        if let AgentMatch::Cgroup(path) = &agent.matches
            && !cgroups.iter().any(|cgroup| Path::new(path.trim_matches('/')).starts_with(cgroup))
        {
            cgroups.push(path.trim_matches('/').to_owned());
        }
    }
    cgroups
}

impl From<&CredentialSource> for CredentialName {
    fn from(source: &CredentialSource) -> Self {
        match source {
            CredentialSource::Credential(name) => Self::Credential(name.clone()),
            CredentialSource::File(path) => Self::File(path.clone()),
        }
    }
}

/// Starts `weir witness` as a child, waits until the programs are attached, and takes the map descriptors that it hands
/// over. Call it as root, before any thread is started and before [`crate::intercept::drop_privileges`].
pub fn spawn(path: &Path, config: &Config) -> Result<WitnessProcess, WitnessError> {
    let mut command = packets::same_program();
    command.arg("witness");
    spawn_with_files(command, &WitnessConfig::new(config)?, path)
}

/// [`spawn`] with another program that calls [`run`], for tests.
pub fn spawn_with_files(command: Command, config: &WitnessConfig, path: &Path) -> Result<WitnessProcess, WitnessError> {
    let path = std::path::absolute(path).map_err(kernel::at("the configuration"))?;
    client::spawn(command, config, Some(path))
}

/// The same without any files, for tests: [`Witness::reconfigure`] takes their place.
pub fn spawn_as(command: Command, config: &WitnessConfig) -> Result<WitnessProcess, WitnessError> {
    client::spawn(command, config, None)
}

/// The child's main loop: what the hidden command `weir witness` runs, with the socket as its standard input. It returns
/// when the gateway is gone.
pub fn run() -> io::Result<()> {
    serve::run()
}

/// The usher's main loop: what the hidden command `weir usher` runs, with the socket as its standard input. It returns when
/// the witness is gone.
pub fn run_usher() -> io::Result<()> {
    usher::run()
}

/// A witness that has attached everything, as `spawn` returns it.
#[derive(Debug)]
pub struct WitnessProcess {
    socket: OwnedFd,
    interceptor: Interceptor,
    report: AttachmentReport,
    pid: u32,
}

impl WitnessProcess {
    /// What was attached at start.
    pub fn report(&self) -> &AttachmentReport {
        &self.report
    }

    /// Process number of the witness.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The client and the interceptor. Starts the thread that reads answers: call it after
    /// [`crate::intercept::drop_privileges`]. Needs no runtime, works on any number of them.
    pub fn into_parts(self) -> io::Result<(Witness, Interceptor)> {
        Ok((Witness { shared: client::start(self.socket)?, looks: Arc::default() }, self.interceptor))
    }
}

/// The gateway's client: cheap to clone, usable from every thread and runtime. Questions are pipelined, bounded in number,
/// and time out.
#[derive(Clone, Debug)]
pub struct Witness {
    shared: Arc<client::Shared>,
    looks: Arc<looks::Looks>,
}

impl Witness {
    /// What procfs and cgroupfs say about the process behind an origin.
    pub async fn evidence(&self, origin: &Origin) -> Result<Evidence, WitnessError> {
        let look = async || match self.shared.ask(Question::Evidence(origin.clone())).await? {
            Answer::Evidence(evidence) => Ok(evidence),
            _ => Err(WitnessError::Lost),
        };
        // Not this limit for each of those who wait for each other.
        tokio::time::timeout(TIMEOUT, self.looks.evidence(origin, look)).await.unwrap_or(Err(WitnessError::Timeout))
    }

    /// Reads a token file whose path matches a configured template.
    pub async fn token_file(&self, path: &Path) -> Result<Secret, WitnessError> {
        self.secret(Question::TokenFile(path.to_owned())).await
    }

    /// Reads a configured environment variable of the process that connected.
    pub async fn token_environment(&self, origin: &Origin, name: &str) -> Result<Secret, WitnessError> {
        self.secret(Question::TokenEnvironment(origin.clone(), name.to_owned())).await
    }

    /// Reads a held credential that a target names.
    pub async fn credential(&self, source: &CredentialSource) -> Result<Secret, WitnessError> {
        self.secret(Question::Credential(source.into())).await
    }

    async fn secret(&self, question: Question) -> Result<Secret, WitnessError> {
        match self.shared.ask(question).await? {
            Answer::Secret(SecretBytes(secret)) => Ok(secret),
            _ => Err(WitnessError::Lost),
        }
    }

    /// What /proc says of a process that asks the gateway something itself.
    pub async fn peer(&self, pid: i32) -> Result<Peer, WitnessError> {
        match self.shared.ask(Question::Peer(pid)).await? {
            Answer::Peer(peer) => Ok(peer),
            _ => Err(WitnessError::Lost),
        }
    }

    /// What is attached and counted now.
    pub async fn attachments(&self) -> Result<AttachmentReport, WitnessError> {
        match self.shared.ask(Question::Attachments).await? {
            Answer::Attachments(report) => Ok(report),
            _ => Err(WitnessError::Lost),
        }
    }

    /// New agents, users, cgroups, tokens and credentials: what the files say now, if they have that version.
    pub async fn reload(&self, number: u64, version: &str) -> Result<(), WitnessError> {
        self.shared.ask(Question::Reload { number, version: version.to_owned() }).await.map(drop)
    }

    /// Takes the reload of that number back, which was just asked for, whatever became of it.
    pub async fn go_back(&self, number: u64) -> Result<(), WitnessError> {
        self.shared.ask(Question::GoBack { number }).await.map(drop)
    }

    /// The same of a witness that was started without files, see [`spawn_as`].
    pub async fn reconfigure(&self, config: WitnessConfig) -> Result<(), WitnessError> {
        self.shared.ask(Question::Reconfigure(config)).await.map(drop)
    }

    /// Leaves the kernel half to the witness of another gateway, which takes over; answers to sessions go on.
    pub async fn retire(&self) -> Result<(), WitnessError> {
        self.shared.ask(Question::Retire).await.map(drop)
    }

    /// Looks for network namespaces of agents that the gateway does not listen in, or need not any more. `hints` are processes
    /// that were seen in an unknown one; `serving` are the cookies of those that it listens in, so that an answer that was lost
    /// is given again.
    pub async fn namespaces(&self, hints: Vec<u32>, serving: Vec<u64>) -> Result<NamespaceLook, WitnessError> {
        let (answer, descriptors) = self.shared.ask_for_descriptors(Question::Namespaces { hints, serving }).await?;
        let Answer::Namespaces { opened, left } = answer else { return Err(WitnessError::Lost) };
        let opened = match opened {
            Some(cookie) => Some(Namespace::new(cookie, descriptors).map_err(kernel::at("a namespace's sockets"))?),
            None => None,
        };
        Ok(NamespaceLook { opened, left })
    }

    /// Completes when agents' cgroups have changed, and a new look at namespaces may find something.
    pub async fn cgroups_changed(&self) {
        self.shared.cgroups_changed().await;
    }

    /// Completes when the witness has died. The gateway must stop then: nothing can be identified any more.
    pub async fn lost(&self) {
        self.shared.lost().await;
    }
}

/// What a look at agents' network namespaces found.
#[derive(Debug, Default)]
pub struct NamespaceLook {
    /// One to listen in from now on. There may be more: look again.
    pub opened: Option<Namespace>,
    /// Cookies of those that no agent is in any more.
    pub left: Vec<u64>,
}

/// The gateway's sockets in a network namespace.
#[derive(Debug)]
pub struct Namespace {
    pub cookie: u64,
    pub doors: Doors,
}

impl Namespace {
    pub(crate) fn new(cookie: u64, descriptors: Vec<OwnedFd>) -> io::Result<Self> {
        let descriptors = <[OwnedFd; Doors::COUNT]>::try_from(descriptors)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "they did not all arrive"))?;
        Ok(Self { cookie, doors: Doors::from_descriptors(descriptors)? })
    }
}

/// The state of the kernel half, for `weir status`, `weir doctor` and `weir kernel status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentReport {
    /// Where it is attached, below the cgroup2 mount; "/" is the root.
    pub attach: String,
    pub hooks: Vec<HookReport>,
    /// Of the layer on the BPF LSM, on kernels that have it. Not there in the answer of an older gateway.
    #[serde(default)]
    pub lsm: Vec<HookReport>,
    /// Counters by name, such as `redirected` or `denied_udp`.
    pub counters: std::collections::BTreeMap<String, u64>,
    /// Connects under way between the agent's SYN and the gateway's accept.
    pub pending: u64,
    /// Agents pass unjudged until then, by `weir detach`.
    pub detached: Option<Detached>,
    /// What an operator should know: a port in the ephemeral range, an agent cgroup that did not exist.
    pub warnings: Vec<String>,
    /// Ways around that stay open because programs do not find their way through this kernel's structures. Not there in the answer of an older gateway.
    #[serde(default)]
    pub gaps: Vec<String>,
}

impl AttachmentReport {
    /// Every hook is in effect and no detach is running.
    pub fn enforcing(&self) -> bool {
        !self.hooks.is_empty()
            && self.detached.is_none()
            && self.hooks.iter().chain(&self.lsm).all(|hook| hook.effective)
    }

    /// The BPF LSM keeps agents from tracing processes that are not their own.
    pub fn keeps_tracers_out(&self) -> bool {
        self.lsm.iter().any(|hook| hook.name == lsm::TRACING && hook.effective)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// `connect4`, `sock_ops` and so on.
    pub name: String,
    /// BPF_PROG_QUERY lists our program among the effective ones at the attach point; of a program on the BPF LSM, that its link
    /// is there and the LSM is active.
    pub effective: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Seconds until everything is enforced again.
    pub remaining: u64,
    /// The uid that asked.
    pub uid: u32,
    pub reason: String,
}

/// Attaches and pins everything (`weir kernel attach`, before any agent starts). The pins stay when this process ends.
pub fn kernel_attach(config: &WitnessConfig) -> Result<AttachmentReport, WitnessError> {
    kernel::Kernel::attach(KernelConfig { gateway_cgroup: None, ..config.kernel.clone() })?.report()
}

/// Reads the pins; changes nothing.
pub fn kernel_status(config: &WitnessConfig) -> Result<AttachmentReport, WitnessError> {
    kernel::status(&config.kernel)
}

/// The sockets that a process holds and no agent made; see [`ForeignSocket`]. For host root.
///
/// # Errors
///
/// The kernel half is not attached, or the process may not be looked at.
pub fn foreign_sockets(config: &WitnessConfig, pid: i32) -> io::Result<Vec<ForeignSocket>> {
    notes::foreign_sockets(&config.kernel, pid)
}

/// The users that agents' users may become in user namespaces of their own, and that are intercepted with them.
///
/// # Errors
///
/// /etc/subuid has a line that cannot be held: then no gateway starts.
pub fn subordinates(config: &WitnessConfig) -> Result<Vec<Subordinate>, WitnessError> {
    subordinates::ranges(&config.kernel)?;
    subordinates::read(&config.kernel)
}

/// Lets agents pass unjudged for a time, at most [`MAX_DETACH`]. The kernel itself ends it, whether the daemon lives or
/// not. Refused to callers in an agent's cgroup or with an agent's uid. Zero ends a running one.
pub fn detach(config: &WitnessConfig, duration: Duration, reason: &str) -> Result<AttachmentReport, WitnessError> {
    kernel::detach(&config.kernel, duration, reason)
}

/// Whether [`kernel_remove`] would be refused: agents run, and no detach lets them go.
pub fn check_remove(config: &WitnessConfig) -> Result<(), WitnessError> {
    removal::check(&config.kernel)
}

/// Whether a detach is in force.
pub fn is_detached(config: &WitnessConfig) -> Result<bool, WitnessError> {
    kernel::is_detached(&config.kernel)
}

/// Lets go for good: no program, no map, no pin, no empty cgroup of ours stays. The gateway must have ended, since its
/// witness would attach again.
pub fn kernel_remove(config: &WitnessConfig) -> Result<(), WitnessError> {
    removal::remove(&config.kernel)
}

/// Longest time that one `weir detach` may ask for.
pub const MAX_DETACH: Duration = Duration::from_hours(4);

pub(crate) use kernel::netns_cookie;
pub(crate) use requirements::Requirements;

/// Detaches and unpins everything below `bpf_dir`, whoever runs: for tests.
pub fn clean(bpf_dir: &Path) -> Result<(), WitnessError> {
    pins::clean(bpf_dir)
}
