//! What `init` and `doctor` read of other processes. For a person's eyes only: nothing here decides about anybody.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use procfs::net::TcpState;
use procfs::process::{FDTarget, Process, all_processes};

use super::output::Error;

/// Processes that are looked at; a host has fewer.
const MAX_PROCESSES: usize = 100_000;

/// A process at the moment of the look.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) pid: i32,
    pub(super) parent: i32,
    pub(super) name: String,
    pub(super) argv: Vec<String>,
    /// Real uid.
    pub(super) uid: u32,
    /// In the cgroup2 hierarchy, with a leading slash; empty where it could not be read.
    pub(super) cgroup: String,
    /// Permitted or effective: what it does not use now, it raises at will.
    pub(super) capabilities: u64,
    pub(super) no_new_privileges: bool,
    /// A filter of system calls is in force. Which one cannot be seen.
    pub(super) filtered: bool,
    pub(super) gids: Vec<u32>,
}

/// All processes that can be read.
pub(super) fn processes() -> Result<Vec<Seen>, Error> {
    let all = all_processes().map_err(Error::other)?;
    Ok(all.take(MAX_PROCESSES).filter_map(|process| seen(&process.ok()?)).collect())
}

fn seen(process: &Process) -> Option<Seen> {
    let status = process.status().ok()?;
    let cgroups = process.cgroups().ok();
    let unified = cgroups.and_then(|groups| groups.0.into_iter().find(|group| group.hierarchy == 0));
    Some(Seen {
        pid: process.pid(),
        parent: status.ppid,
        name: status.name,
        argv: process.cmdline().unwrap_or_default(),
        uid: status.ruid,
        cgroup: unified.map(|group| group.pathname).unwrap_or_default(),
        capabilities: status.capprm | status.capeff,
        no_new_privileges: status.nonewprivs == Some(1),
        filtered: status.seccomp == Some(2),
        gids: status.groups.iter().copied().chain([status.egid]).collect(),
    })
}

/// Children and their children, the process itself included.
pub(super) fn tree(processes: &[Seen], root: i32) -> BTreeSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = BTreeSet::new();
    let mut waiting = vec![root];
    while let Some(pid) = waiting.pop() {
        if found.insert(pid) {
            waiting.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// Where the process is connected to now, in its own network namespace. Empty where it may not be read.
pub(super) fn connections(pid: i32) -> BTreeSet<SocketAddr> {
    let read = || {
        let process = Process::new(pid).ok()?;
        let sockets: BTreeSet<u64> = process
            .fd()
            .ok()?
            .filter_map(|fd| match fd.ok()?.target {
                FDTarget::Socket(inode) => Some(inode),
                _ => None,
            })
            .collect();
        let entries = process.tcp().unwrap_or_default().into_iter().chain(process.tcp6().unwrap_or_default());
        let mut listening = BTreeSet::new();
        let mut open = Vec::new();
        for entry in entries {
            match entry.state {
                TcpState::Listen => drop(listening.insert(entry.local_address.port())),
                TcpState::Established | TcpState::SynSent if sockets.contains(&entry.inode) => open.push(entry),
                _ => {}
            }
        }
        // A connection to a port that listens here was accepted, not made.
        let made = open.into_iter().filter(|entry| !listening.contains(&entry.local_address.port()));
        Some(made.map(|entry| canonical(entry.remote_address)).collect())
    };
    read().unwrap_or_default()
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The component of a cgroup's path that systemd made for a unit: `coder@a.service`.
pub(super) fn unit(cgroup: &str) -> Option<&str> {
    cgroup.rsplit('/').find(|part| {
        Path::new(part).extension().is_some_and(|extension| extension == "service" || extension == "scope")
    })
}

/// Processes by the cgroup they are in.
pub(super) fn by_cgroup(processes: &[Seen]) -> BTreeMap<&str, Vec<&Seen>> {
    let mut groups: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for process in processes {
        groups.entry(&process.cgroup).or_default().push(process);
    }
    groups
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn this_process_is_seen_with_its_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let found = connections(pid);
        assert!(found.contains(&address), "{found:?}");
        let processes = processes().unwrap();
        assert!(processes.iter().any(|process| process.pid == pid && !process.argv.is_empty()));
        assert!(tree(&processes, pid).contains(&pid));
        assert!(!tree(&processes, pid).contains(&1));
    }

    #[test]
    fn units_are_found_in_paths() {
        assert_eq!(unit("/agents.slice/coder@a.service/run-1"), Some("coder@a.service"));
        assert_eq!(unit("/user.slice/user-0.slice/session-3.scope"), Some("session-3.scope"));
        assert_eq!(unit("/agents.slice"), None);
    }
}
