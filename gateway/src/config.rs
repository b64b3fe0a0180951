//! The configuration as the rest of the gateway uses it: complete, resolved, valid. `raw` has the TOML shape, `load`
//! turns files into this or into a list of everything that is wrong with them; on the way, `schema` checks the shape and
//! `resolve` the meaning.

mod load;
mod raw;
mod resolve;
mod schema;
mod text;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::limit::LimitRule;
use crate::mask::MaskRule;
use crate::origin::Risk;
use crate::policy::{Policy, Subject};
use crate::target::{Login, Target};

pub use load::{ConfigErrors, Problem, Source, check, json_schema, load, parse};

/// Where EC2 has the metadata service of every instance.
const METADATA_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];

/// One loaded configuration. Replaced as a whole on reload, never changed.
#[derive(Debug)]
pub struct Config {
    pub gateway: GatewayConfig,
    pub access: Access,
    pub recording: RecordingConfig,
    pub identity: Option<IdentityConfig>,
    /// Recursive resolvers; empty: those of `/etc/resolv.conf`.
    pub dns_servers: Vec<SocketAddr>,
    pub agents: Vec<AgentConfig>,
    pub targets: Vec<Arc<Target>>,
    pub policy: Policy,
    pub masks: Vec<Arc<MaskRule>>,
    pub limits: Vec<Arc<LimitRule>>,
    /// SHA-256 over the files' bytes, hexadecimal, the first 16 digits: names the policy in records and approvals.
    pub version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    Observe,
}

/// What becomes of agents' connects while there is no gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutGateway {
    /// Refused at once.
    Refuse,
    /// They wait for the next one.
    Wait,
}

#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// cgroups of agents, as paths below the cgroup2 mount, without a leading slash.
    pub agents: Vec<String>,
    /// Where the programs are attached, below the cgroup2 mount; "" is the root.
    pub attach: String,
    pub mode: Mode,
    /// What happens to a destination that no target names.
    pub unlisted: Mode,
    /// The user that the gateway process becomes.
    pub user: String,
    /// `/run/weir`, `/var/lib/weir`, and the pins below the bpf mount (`/sys/fs/bpf/weir`).
    pub runtime_dir: PathBuf,
    pub state_dir: PathBuf,
    pub bpf_dir: PathBuf,
    /// TCP port of the gateway on the loopback addresses, and the UDP port of its resolver.
    pub port: u16,
    pub dns_port: u16,
    /// Runtimes, each on a thread of its own; 0 is one for each two cores.
    pub shards: usize,
    /// Sessions that one agent may have open at once.
    pub max_sessions_per_agent: usize,
    /// How long sessions go on in a gateway that was replaced.
    pub drain: Duration,
    /// What becomes of agents' connects while there is no gateway.
    pub without_gateway: WithoutGateway,
}

/// Who may use the admin socket: names of unix groups.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub admin: Vec<String>,
    /// Approver name -> unix groups.
    pub approve: BTreeMap<String, Vec<String>>,
    pub audit: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct RecordingConfig {
    pub directory: PathBuf,
    pub keep: Duration,
    /// Bytes.
    pub max_size: u64,
    /// Bytes of reply content kept for each operation; the rest is counted.
    pub reply_limit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityConfig {
    pub issuer: String,
    pub audience: String,
    /// The claim that lists groups; default `groups`.
    pub groups_claim: String,
    /// Trust anchors for the issuer's TLS (PEM); none is the system's.
    pub ca: Option<PathBuf>,
    /// Where an `http://` issuer is allowed (loopback only, for tests), the reason given for it.
    pub insecure: Option<String>,
}

#[derive(Clone, Debug)]
pub struct AgentConfig {
    pub name: String,
    pub matches: AgentMatch,
    /// Processes of this user count as the agent wherever they run.
    pub user: Option<String>,
    pub uid: Option<u32>,
    pub token: TokenSource,
    /// Capabilities that lead around the gateway, and with which its processes get sessions all the same.
    pub accept_risk: Vec<Risk>,
    /// TCP ports at which others may reach its servers. Only where it has a `uid`.
    pub listen: Vec<u16>,
}

/// How an agent is recognised by its cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentMatch {
    /// A systemd unit, `*` for the instance: matches a path component.
    Unit(String),
    /// A path below the cgroup2 mount; everything below it matches.
    Cgroup(String),
    /// A container, by what its runtime says of it.
    Container(ContainerMatch),
    /// Only the `user` decides.
    UserOnly,
}

/// What a container must be: all of what is given here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerMatch {
    /// Its name; `*` for any part, which is the instance then.
    pub name: Option<String>,
    /// A label and its value.
    pub label: Option<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// `%i` is the unit's instance, `%u` the user's name.
    File(String),
    /// Name of an environment variable of the connecting process.
    Environment(String),
}

/// The target at a destination.
#[derive(Clone, Debug)]
pub enum TargetMatch {
    One(Arc<Target>),
    None,
    /// Several targets have this address: their names.
    Ambiguous(Vec<String>),
}

impl Config {
    /// Whether a session of this subject's is held to reading by the target itself, too.
    pub fn reads_only(&self, subject: Subject<'_>, target: &Target) -> bool {
        self.gateway.mode != Mode::Observe && target.read_only_sessions && self.policy.only_reads(subject)
    }

    pub fn target(&self, name: &str) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| target.name == name)
    }

    /// Whether the gateway's own keys are to be had there by any process of this host: those of the EC2 instance's role.
    pub fn has_keys_from(&self, destination: SocketAddr) -> bool {
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        let logins = self.targets.iter().filter_map(|target| target.login.as_ref());
        let mut services = logins.filter_map(Login::metadata_service);
        services.any(|it| it == destination || METADATA_ADDRESSES.contains(&destination.ip()))
    }

    /// The target at `destination`: by a name that this agent looked up and was told this address for, or by address.
    pub fn targets_for(&self, destination: SocketAddr, names: &[String]) -> TargetMatch {
        let found: Vec<_> = self.targets.iter().filter(|target| target.is_at(destination, names)).collect();
        match found[..] {
            [] => TargetMatch::None,
            [target] => TargetMatch::One(Arc::clone(target)),
            _ => TargetMatch::Ambiguous(found.iter().map(|target| target.name.clone()).collect()),
        }
    }
}

#[cfg(test)]
mod tests;
