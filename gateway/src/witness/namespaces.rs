//! The network namespaces of agents: found by looking at agents' processes, opened by the usher, and let go when the last agent
//! there is gone, since a listener keeps its namespace alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use gateway_common::{MAX_NETNS, NETNS_CLOSED, NETNS_SERVED};

use super::KernelConfig;
use super::WitnessError;
use super::kernel::{Kernel, at, io_error};
use super::usher::{Usher, Visited};
use crate::intercept::Doors;

/// Agents' cgroups and processes that one look takes in. What is beyond is found when it connects.
const MAX_CGROUPS: usize = 10_000;
const MAX_PROCESSES: usize = 100_000;
/// Processes that made themselves known by a connect, and are no longer remembered when more come.
const MAX_HINTS: usize = 4096;
/// Namespaces of one agent that the gateway listens in: none takes them all ([`MAX_NETNS`]) from the others.
const MAX_OF_ONE: usize = 128;
/// Namespaces that one look tries to open: the witness has other questions to answer.
const MAX_VISITS: usize = 16;

/// The inode of a network namespace. It belongs to one namespace as long as somebody holds that.
type Inode = u64;

/// The witness's knowledge of namespaces.
pub(super) struct Namespaces {
    usher: Usher,
    own: Inode,
    known: BTreeMap<Inode, Known>,
    /// Processes that a look at the agents' cgroups does not find: they are agents by their user.
    hints: BTreeSet<u32>,
    /// Readable when a process came into an agents' cgroup, or the last one left, or a cgroup was made.
    changes: Inotify,
    /// Inodes of the cgroups that are watched.
    watched: BTreeSet<u64>,
    /// What is wrong with the usher, or why agents of a namespace were refused at the last look.
    complaint: Option<WitnessError>,
}

struct Known {
    cookie: u64,
    owner: String,
    served: bool,
    /// When the usher was there last.
    visited: Instant,
    /// The last look found nobody there. Only the second one counts: a process may be between two cgroups.
    empty: bool,
}

impl AsFd for Namespaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

/// A process in a namespace, and whose it is: a cgroup right below the agents', or a user.
#[derive(Clone)]
struct Found {
    pid: u32,
    owner: String,
}

/// What came of trying to open one namespace.
enum Opening {
    /// Its process is gone, or went elsewhere: the next look knows more.
    Gone,
    Refused(WitnessError),
    /// The gateway has been listening there since before this witness: it took the sockets over from another gateway.
    Served,
    Open(u64, [OwnedFd; Doors::COUNT]),
}

/// What a look came to.
pub(super) struct Look {
    /// A namespace in which the gateway listens from now on. There may be more: look again.
    pub(super) opened: Option<(u64, [OwnedFd; Doors::COUNT])>,
    /// Namespaces that no agent is in any more; the gateway closes its sockets there.
    pub(super) left: Vec<u64>,
}

impl Namespaces {
    pub(super) fn start() -> Result<Self, WitnessError> {
        let own = inode("self").map_err(at("/proc/self/ns/net"))?;
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .map_err(|error| at("watching agents' cgroups")(error.into()))?;
        let (known, hints, watched) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        Ok(Self { usher: Usher::start()?, own, known, hints, changes, watched, complaint: None })
    }

    /// No namespace is looked for any more.
    pub(super) fn retire(&self) {
        self.usher.dismiss();
    }

    pub(super) fn complaint(&self) -> Option<&WitnessError> {
        self.complaint.as_ref()
    }

    /// Forgets what has changed: a look is going to find it.
    pub(super) fn note_changes(&self) {
        let _ = self.changes.read_events();
    }

    /// Looks at the agents' processes, and at those of `hints`. What the gateway is not `serving` is opened (again).
    pub(super) fn look(
        &mut self,
        config: &KernelConfig,
        kernel: &mut Kernel,
        hints: Vec<u32>,
        serving: &[u64],
    ) -> Result<Look, WitnessError> {
        let present = self.present(config, hints);
        for known in self.known.values_mut() {
            known.served &= serving.contains(&known.cookie);
        }
        self.forget_the_empty(&present, kernel)?;

        // Those that were never tried come first, then the one whose last try is longest ago.
        let visited = |inode: &Inode| self.known.get(inode).map(|known| known.visited);
        let is_served = |inode: &Inode| self.known.get(inode).is_some_and(|known| known.served);
        let mut waiting: Vec<(Inode, Found)> = present.into_iter().filter(|(inode, _)| !is_served(inode)).collect();
        waiting.sort_by_key(|(inode, _)| visited(inode));
        self.complaint = self.usher.check().err();
        // Where one was not looked at, it may be one that is served.
        let mut all_known = waiting.len() <= MAX_VISITS;
        let mut opened = None;
        for (inode, found) in waiting.into_iter().take(MAX_VISITS) {
            match self.open(config, kernel, inode, found, serving) {
                Ok(Opening::Gone | Opening::Served) => {}
                Ok(Opening::Open(cookie, sockets)) => {
                    opened = Some((cookie, sockets));
                    all_known = false;
                    break;
                }
                Ok(Opening::Refused(error)) => self.complaint = Some(error),
                // The usher's own trouble, which would be the same with the next.
                Err(error) => {
                    self.complaint = Some(error);
                    all_known = false;
                    break;
                }
            }
        }
        let is_known = |cookie: &&u64| self.known.values().any(|known| known.cookie == **cookie);
        let left = serving.iter().filter(|cookie| all_known && !is_known(cookie)).copied().collect();
        Ok(Look { opened, left })
    }

    /// The namespaces that agents are in, but for the gateway's own.
    fn present(&mut self, config: &KernelConfig, hints: Vec<u32>) -> BTreeMap<Inode, Found> {
        let mut walk = Walk {
            changes: &self.changes,
            before: std::mem::take(&mut self.watched),
            watched: BTreeSet::new(),
            present: BTreeMap::new(),
            processes: 0,
        };
        for agents in &config.agents {
            walk.visit(&config.cgroup_mount, agents);
        }
        let Walk { mut present, watched, .. } = walk;
        self.watched = watched;
        self.hints.extend(hints);
        self.hints.retain(|&pid| {
            let process = format!("/proc/{pid}");
            let (Ok(inode), Ok(metadata)) = (inode(&pid.to_string()), fs::metadata(process)) else { return false };
            let is_found = inode == self.own || present.contains_key(&inode);
            if !is_found {
                present.insert(inode, Found { pid, owner: format!("user {}", metadata.uid()) });
            }
            !is_found
        });
        while self.hints.len() > MAX_HINTS {
            self.hints.pop_first();
        }
        present.remove(&self.own);
        present
    }

    /// Forgets the namespaces that nobody was found in for the second time.
    fn forget_the_empty(&mut self, present: &BTreeMap<Inode, Found>, kernel: &mut Kernel) -> Result<(), WitnessError> {
        let mut forgotten = Vec::new();
        self.known.retain(|inode, known| {
            let empty = !present.contains_key(inode);
            let forget = empty && known.empty;
            known.empty = empty;
            if forget {
                forgotten.push(known.cookie);
            }
            !forget
        });
        forgotten.into_iter().try_for_each(|cookie| kernel.set_netns(cookie, None))
    }

    /// The error is the usher's own, and not the namespace's.
    fn open(
        &mut self,
        config: &KernelConfig,
        kernel: &mut Kernel,
        inode: Inode,
        Found { pid, owner }: Found,
        serving: &[u64],
    ) -> Result<Opening, WitnessError> {
        if !self.known.contains_key(&inode) {
            let of_owner = self.known.values().filter(|known| known.owner == owner).count();
            if of_owner >= MAX_OF_ONE || self.known.len() >= MAX_NETNS - 1 {
                let why = format!("{owner} is in more than the gateway listens in; what comes from the others is lost");
                return Ok(Opening::Refused(io_error("network namespaces", &why)));
            }
        }
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { return Ok(Opening::Gone) };
        // The descriptor is what counts: the process may be another by now, or have gone elsewhere.
        if !namespace.metadata().is_ok_and(|metadata| metadata.ino() == inode) {
            return Ok(Opening::Gone);
        }
        let Visited { cookie, sockets } = self.usher.visit(&namespace, (config.port, config.dns_port), serving)?;
        let served = sockets.is_ok();
        kernel.set_netns(cookie, Some(if served { NETNS_SERVED } else { NETNS_CLOSED }))?;
        let now = Known { cookie, owner, served, visited: Instant::now(), empty: false };
        if let Some(gone) = remember(&mut self.known, inode, now) {
            kernel.set_netns(gone, None)?;
        }
        Ok(match sockets {
            Ok(None) => Opening::Served,
            Ok(Some(sockets)) => Opening::Open(cookie, sockets),
            Err(error) => Opening::Refused(error),
        })
    }
}

/// A namespace in which nobody listens goes with its processes, and the next one may get its number at once. The cookie of the one
/// that had it before is told, which nobody has any more.
fn remember(known: &mut BTreeMap<Inode, Known>, inode: Inode, now: Known) -> Option<u64> {
    let cookie = now.cookie;
    known.insert(inode, now).map(|before| before.cookie).filter(|before| *before != cookie)
}

/// A walk through agents' cgroups.
struct Walk<'a> {
    changes: &'a Inotify,
    /// What was watched before, and is now.
    before: BTreeSet<u64>,
    watched: BTreeSet<u64>,
    /// The namespaces of the processes, each with one of them.
    present: BTreeMap<Inode, Found>,
    processes: usize,
}

impl Walk<'_> {
    /// Everything in `agents` and below it.
    fn visit(&mut self, mount: &Path, agents: &str) {
        let mut waiting = vec![(mount.join(agents), format!("/{agents}"), 0)];
        while let Some((directory, owner, depth)) = waiting.pop() {
            if self.watched.len() >= MAX_CGROUPS || self.processes >= MAX_PROCESSES {
                return;
            }
            // Watched before it is read: what comes in between is then seen twice, and not missed. Cgroups and processes
            // come and go; what cannot be read is gone.
            self.watch(&directory);
            let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines() {
                self.processes += 1;
                if let (Ok(inode), Ok(pid)) = (inode(pid), pid.parse()) {
                    self.present.insert(inode, Found { pid, owner: owner.clone() });
                }
            }
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(below.map(|entry| {
                let name = entry.file_name();
                let own = if depth == 0 { format!("{owner}/{}", name.to_string_lossy()) } else { owner.clone() };
                (entry.path(), own, depth + 1)
            }));
        }
    }

    /// The kernel forgets a watch with its cgroup.
    fn watch(&mut self, cgroup: &Path) {
        let Ok(metadata) = fs::metadata(cgroup) else { return };
        self.watched.insert(metadata.ino());
        if self.before.contains(&metadata.ino()) {
            return;
        }
        // Without a watch, what happens there is found a second later.
        let _ = self.changes.add_watch(cgroup, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_ONLYDIR);
        let _ = self.changes.add_watch(&cgroup.join("cgroup.events"), AddWatchFlags::IN_MODIFY);
    }
}

fn inode(pid: &str) -> io::Result<Inode> {
    Ok(fs::metadata(format!("/proc/{pid}/ns/net"))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_has_anothers_number_leaves_nothing_of_that() {
        let namespace = |cookie| Known {
            cookie,
            owner: "/agents.slice/one".to_owned(),
            served: false,
            visited: Instant::now(),
            empty: false,
        };
        let mut known = BTreeMap::new();
        assert_eq!(remember(&mut known, 7, namespace(1)), None);
        assert_eq!(remember(&mut known, 7, namespace(1)), None, "the same one, tried again");
        assert_eq!(remember(&mut known, 8, namespace(2)), None);
        assert_eq!(remember(&mut known, 7, namespace(3)), Some(1));
        assert_eq!(known.values().map(|known| known.cookie).collect::<Vec<_>>(), [3, 2]);
    }
}
