//! Where a connection comes from: what the kernel captured, and what procfs says about it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the kernel saw at connect. Only this decides identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Thread group id in the host's pid namespace.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// cgroup2 id (inode) of the task that connected.
    pub cgroup_id: u64,
    /// cgroup2 id of the socket, fixed when it was made; 0 where the kernel could not tell.
    pub socket_cgroup_id: u64,
    pub netns_cookie: u64,
    /// Nanoseconds of CLOCK_BOOTTIME at connect.
    pub connected_at: u64,
    /// When the process that connected began, likewise. None: the kernel did not tell; it was before the connect.
    #[serde(default)]
    pub started_at: Option<u64>,
    /// What the agent wanted to reach.
    pub destination: SocketAddr,
    /// The agent's own end of the socket.
    pub source: SocketAddr,
}

/// The kernel tells user space in clock ticks when a process began: 100 a second on every architecture that Weir is built for.
const TICK: u64 = 10_000_000;

impl Origin {
    /// Whether a process of the number in question, of which procfs says that it began then (nanoseconds of CLOCK_BOOTTIME, rounded
    /// down to a tick), is the one that connected, and not a later one that got its number.
    pub fn is_of_process_begun_at(&self, started_at: u64) -> bool {
        match self.started_at {
            Some(exactly) => exactly.checked_sub(started_at).is_some_and(|since| since < TICK),
            None => started_at <= self.connected_at,
        }
    }
}

/// What the witness read in procfs and cgroupfs about an origin: evidence for the record, never identity, the cgroup's
/// path aside, which is resolved from the id that the kernel captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Path of the agent's cgroup below the cgroup2 mount, such as `/agents.slice/coder@a.service`.
    pub cgroup: String,
    /// Id of the container that the cgroup belongs to: see [`container_id`]. The outermost one, if there are more.
    #[serde(default)]
    pub container: Option<String>,
    /// What the container's runtime says of it, as root wrote it down.
    #[serde(default)]
    pub container_name: Option<String>,
    #[serde(default)]
    pub container_labels: BTreeMap<String, String>,
    /// User name of the origin's uid, if it has one.
    pub user: Option<String>,
    /// The uid that logged in where the process was started, if somebody did: `weir run` from a shell. A service has none.
    #[serde(default)]
    pub login_uid: Option<u32>,
    /// Capabilities of the process that lead around the gateway.
    #[serde(default)]
    pub risks: Vec<Risk>,
    /// The process and its ancestors, nearest first, up to the agent's cgroup's edge. Bounded by the witness.
    pub tree: Vec<Process>,
}

/// The container that a component of a cgroup's path is named after: `docker-ID.scope`, `cri-containerd-ID.scope`,
/// `crio-ID.scope`, `libpod-ID.scope` under systemd, and the bare ID elsewhere. 64 hexadecimal digits.
pub fn container_id(component: &str) -> Option<&str> {
    const DIGITS: usize = 64;
    let name = component.strip_suffix(".scope").unwrap_or(component);
    let id = name.rsplit('-').next().unwrap_or(name);
    (id.len() == DIGITS && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// A capability with which a process can send past the gateway, or change what Weir is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Risk {
    #[serde(rename = "CAP_NET_ADMIN")]
    NetAdmin,
    #[serde(rename = "CAP_NET_RAW")]
    NetRaw,
    #[serde(rename = "CAP_SYS_PTRACE")]
    SysPtrace,
    #[serde(rename = "CAP_SYS_ADMIN")]
    SysAdmin,
    #[serde(rename = "CAP_BPF")]
    Bpf,
}

impl Risk {
    pub const ALL: [Self; 5] = [Self::NetAdmin, Self::NetRaw, Self::SysPtrace, Self::SysAdmin, Self::Bpf];

    /// Its number (linux/capability.h).
    pub fn number(self) -> u32 {
        match self {
            Self::NetAdmin => 12,
            Self::NetRaw => 13,
            Self::SysPtrace => 19,
            Self::SysAdmin => 21,
            Self::Bpf => 39,
        }
    }

    /// Those in a set of capabilities, as procfs writes it.
    pub fn among(capabilities: u64) -> Vec<Self> {
        Self::ALL.into_iter().filter(|risk| capabilities & (1 << risk.number()) != 0).collect()
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// One process as procfs showed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    /// Nanoseconds of CLOCK_BOOTTIME, in steps of the clock tick.
    pub started_at: u64,
    pub executable: String,
    /// Arguments, secrets redacted, bounded.
    pub argv: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        let known = |cgroup: &str| cgroup.split('/').find_map(container_id).map(str::to_owned);
        for cgroup in
            ["/agents.slice/docker-ID.scope", "/docker/ID", "/kubepods.slice/pod1.slice/cri-containerd-ID.scope/init"]
        {
            assert_eq!(known(&cgroup.replace("ID", &id)), Some(id.clone()), "{cgroup}");
        }
        for cgroup in ["/agents.slice/coder@a.service", "/docker/ID0", "/", "/docker-x.scope"] {
            assert_eq!(known(&cgroup.replace("ID", &id)), None, "{cgroup}");
        }
    }
}
