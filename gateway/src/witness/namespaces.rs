//! The network namespaces of agents: found by looking at agents' processes, opened by the usher, and let go when the last agent
//! there is gone, since a listener keeps its namespace alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use gateway_common::{MAX_NETNS, NETNS_CLOSED, NETNS_SERVED};

use super::KernelConfig;
use super::WitnessError;
use super::kernel::{Kernel, at, io_error};
use super::usher::{Usher, Visited};
use super::wire;

/// Agents' cgroups and processes that one look takes in. What is beyond is found when it connects.
const MAX_CGROUPS: usize = 10_000;
const MAX_PROCESSES: usize = 100_000;
/// Processes that made themselves known by a connect, and are no longer remembered when more come.
const MAX_HINTS: usize = 4096;

/// The inode of a network namespace. It belongs to one namespace as long as somebody holds that.
type Inode = u64;

/// The witness's knowledge of namespaces.
pub(super) struct Namespaces {
    usher: Usher,
    own: Inode,
    known: BTreeMap<Inode, Known>,
    /// Processes outside the agents' cgroups, which are agents by their user.
    hints: BTreeSet<u32>,
    /// Readable when a process came into an agents' cgroup, or the last one left, or a cgroup was made.
    changes: Inotify,
    /// Inodes of the cgroups that are watched.
    watched: BTreeSet<u64>,
    /// Why agents of a namespace were refused at the last look.
    complaint: Option<WitnessError>,
}

struct Known {
    cookie: u64,
    served: bool,
    /// The last look found nobody there. Only the second one counts: a process may be between two cgroups.
    empty: bool,
}

impl AsFd for Namespaces {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.changes.as_fd()
    }
}

/// What a look came to.
pub(super) struct Look {
    /// A namespace in which the gateway listens from now on. There may be more: look again.
    pub(super) opened: Option<(u64, [OwnedFd; wire::SOCKETS])>,
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

    pub(super) fn complaint(&self) -> Option<&WitnessError> {
        self.complaint.as_ref()
    }

    /// Forgets what has changed: a look is going to find it.
    pub(super) fn note_changes(&self) {
        let _ = self.changes.read_events();
    }

    /// Looks at the agents' processes, and at those of `hints`.
    pub(super) fn look(
        &mut self,
        config: &KernelConfig,
        kernel: &mut Kernel,
        hints: impl IntoIterator<Item = u32>,
    ) -> Result<Look, WitnessError> {
        self.hints.extend(hints);
        let mut walk = Walk {
            changes: &self.changes,
            before: std::mem::take(&mut self.watched),
            watched: BTreeSet::new(),
            present: BTreeMap::new(),
            processes: 0,
        };
        for agents in &config.agents {
            walk.visit(&config.cgroup_mount.join(agents));
        }
        let Walk { mut present, watched, .. } = walk;
        self.watched = watched;
        self.hints.retain(|pid| {
            let found = inode(&pid.to_string());
            if let Ok(inode) = found {
                present.insert(inode, *pid);
            }
            found.is_ok_and(|inode| inode != self.own)
        });
        while self.hints.len() > MAX_HINTS {
            self.hints.pop_first();
        }
        present.remove(&self.own);
        let left = self.leave(&present, kernel)?;
        self.complaint = None;
        let unknown: Vec<(Inode, u32)> =
            present.into_iter().filter(|(inode, _)| self.known.get(inode).is_none_or(|known| !known.served)).collect();
        for (inode, pid) in unknown {
            match self.open(config, kernel, inode, pid) {
                Ok(None) => {}
                Ok(opened) => return Ok(Look { opened, left }),
                Err(error) => self.complaint = Some(error),
            }
        }
        Ok(Look { opened: None, left })
    }

    /// Forgets the namespaces that nobody was found in for the second time.
    fn leave(&mut self, present: &BTreeMap<Inode, u32>, kernel: &mut Kernel) -> Result<Vec<u64>, WitnessError> {
        let mut left = Vec::new();
        for (inode, known) in &mut self.known {
            let empty = !present.contains_key(inode);
            if empty && known.empty {
                left.push(*inode);
            }
            known.empty = empty;
        }
        let mut cookies = Vec::new();
        for inode in left {
            if let Some(known) = self.known.remove(&inode) {
                kernel.set_netns(known.cookie, None)?;
                cookies.push(known.cookie);
            }
        }
        Ok(cookies)
    }

    /// `None`: the process is gone, or the gateway cannot listen there.
    fn open(
        &mut self,
        config: &KernelConfig,
        kernel: &mut Kernel,
        inode: Inode,
        pid: u32,
    ) -> Result<Option<(u64, [OwnedFd; wire::SOCKETS])>, WitnessError> {
        if self.known.len() >= MAX_NETNS - 1 && !self.known.contains_key(&inode) {
            return Err(io_error(
                "network namespaces",
                "agents are in more than the gateway can listen in; they are refused",
            ));
        }
        let Ok(namespace) = File::open(format!("/proc/{pid}/ns/net")) else { return Ok(None) };
        // The descriptor is what counts: the process may be another by now, or have gone elsewhere.
        if namespace.metadata().map_err(at("a network namespace"))?.ino() != inode {
            return Ok(None);
        }
        let Visited { cookie, sockets } = self.usher.visit(&namespace, config.port, config.dns_port)?;
        let served = sockets.is_ok();
        kernel.set_netns(cookie, Some(if served { NETNS_SERVED } else { NETNS_CLOSED }))?;
        self.known.insert(inode, Known { cookie, served, empty: false });
        sockets.map(|sockets| Some((cookie, sockets)))
    }
}

/// A walk through agents' cgroups.
struct Walk<'a> {
    changes: &'a Inotify,
    /// What was watched before, and is now.
    before: BTreeSet<u64>,
    watched: BTreeSet<u64>,
    /// The namespaces of the processes, each with one of them.
    present: BTreeMap<Inode, u32>,
    processes: usize,
}

impl Walk<'_> {
    fn visit(&mut self, cgroup: &Path) {
        let mut waiting = vec![cgroup.to_owned()];
        while let Some(directory) = waiting.pop() {
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
                    self.present.insert(inode, pid);
                }
            }
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            waiting.extend(below.map(|entry| entry.path()));
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
