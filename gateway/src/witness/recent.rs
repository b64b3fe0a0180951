//! What was seen of processes that connected a moment ago. A process that connects often is looked at as a whole once a
//! second; in between only what tells that it is still the same one, running the same program in the same cgroup.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use procfs::FromRead;
use procfs::process::{Process as Proc, Stat};

use super::evidence::{self, Examined};
use super::{WitnessConfig, WitnessError, cgroup};
use crate::origin::{Evidence, Origin};

/// How long arguments, ancestors and capabilities are taken to be as they were: only an exec changes the first, and then the
/// process is looked at anew.
const REMEMBERED_FOR: Duration = Duration::from_secs(1);
/// Processes that are remembered; three descriptors each.
const MAX_REMEMBERED: usize = 128;
/// Bytes of /proc/PID/stat and /proc/PID/cgroup that are read.
const MAX_TEXT: usize = 8 * 1024;

/// Who connected: process, user, captured cgroup.
type Key = (u32, u32, u64);

/// The processes that connected a moment ago.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<Key, Seen>);

#[derive(Debug)]
struct Seen {
    at: Instant,
    // Descriptors of files below /proc/PID read nothing once that process is gone, whoever has its number then.
    process: Proc,
    stat: File,
    cgroup: File,
    program: Program,
    evidence: Evidence,
}

/// What an exec changes, and who the parent is. The addresses are drawn by chance at each exec, unless the process has turned
/// that off; the executable tells then.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    executable: Option<PathBuf>,
    parent: i32,
    code: u64,
    stack: u64,
    arguments: Option<u64>,
}

impl Recent {
    /// [`evidence::examine`], or what that said within the last second if it still holds.
    pub(super) fn evidence(&mut self, config: &WitnessConfig, origin: &Origin) -> Result<Evidence, WitnessError> {
        let (key, now) = ((origin.pid, origin.uid, origin.cgroup_id), Instant::now());
        if let Some(seen) = self.0.get(&key)
            && seen.still_holds(origin, now)
        {
            return Ok(seen.evidence.clone());
        }
        self.0.remove(&key);
        let Examined { process, stat, evidence } = evidence::examine(config, origin)?;
        if let Some(seen) = Seen::new(process, &stat, evidence.clone(), now) {
            self.make_room(now);
            self.0.insert(key, seen);
        }
        Ok(evidence)
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Lets go of what is out of date. Called each second, so that no descriptor is held for longer.
    pub(super) fn make_room(&mut self, now: Instant) {
        self.0.retain(|_, seen| seen.is_fresh(now));
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
    }
}

impl Seen {
    /// None: it is gone, and nothing is worth remembering.
    fn new(process: Proc, stat: &Stat, evidence: Evidence, at: Instant) -> Option<Self> {
        let program = Program::new(&process, stat);
        let (stat, cgroup) = (process.open_relative("stat").ok()?, process.open_relative("cgroup").ok()?);
        Some(Self { at, process, stat, cgroup, program, evidence })
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < REMEMBERED_FOR
    }

    /// Whether it is the process that connected, still in its cgroup, and runs what it ran.
    fn still_holds(&self, origin: &Origin, now: Instant) -> bool {
        let mut buffer = [0; MAX_TEXT];
        let Some(stat) = read(&self.stat, &mut buffer).and_then(|text| Stat::from_read(text).ok()) else {
            return false;
        };
        if !self.is_fresh(now)
            || !origin.is_of_process_begun_at(evidence::started_at(&stat))
            || Program::new(&self.process, &stat) != self.program
        {
            return false;
        }
        let text = read(&self.cgroup, &mut buffer).and_then(|text| std::str::from_utf8(text).ok());
        text.and_then(cgroup::parse_proc) == self.evidence.cgroup.strip_prefix('/')
    }
}

impl Program {
    fn new(process: &Proc, stat: &Stat) -> Self {
        Self {
            executable: process.exe().ok(),
            parent: stat.ppid,
            code: stat.startcode,
            stack: stat.startstack,
            arguments: stat.arg_start,
        }
    }
}

/// The whole of a small file of /proc, as it is now: one read gives all of it, if there is room. None: it cannot be had, or
/// there is not.
fn read<'b>(file: &File, buffer: &'b mut [u8; MAX_TEXT]) -> Option<&'b [u8]> {
    let length = file.read_at(buffer, 0).ok()?;
    (length < MAX_TEXT).then(|| &buffer[..length])
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::witness::evidence::tests::own_origin;

    /// A process that becomes `cat` when it is told to.
    fn shell() -> Child {
        let script = "read line; exec cat";
        let child =
            Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let (arguments, deadline) = (format!("/proc/{}/cmdline", child.id()), Instant::now() + Duration::from_secs(20));
        // In the midst of becoming a shell it has none yet.
        while std::fs::read(&arguments).unwrap().is_empty() {
            assert!(Instant::now() < deadline);
        }
        child
    }

    #[test]
    fn a_process_is_looked_at_anew_when_it_has_become_another_program_and_never_when_it_is_gone() {
        let (config, mut origin) = own_origin();
        let mut child = shell();
        origin.pid = child.id();
        origin.connected_at = u64::MAX;
        let mut recent = Recent::default();
        let first = recent.evidence(&config, &origin).unwrap();
        assert_eq!(recent.evidence(&config, &origin).unwrap(), first);
        assert_eq!(recent.0.len(), 1);

        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let became = loop {
            let evidence = recent.evidence(&config, &origin).unwrap();
            // In the midst of it, it has no arguments yet.
            if evidence.tree[0].executable != first.tree[0].executable && !evidence.tree[0].argv.is_empty() {
                break evidence;
            }
            assert!(Instant::now() < deadline, "{evidence:?}");
        };
        assert_eq!(became.tree[0].argv, ["cat"]);

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(recent.evidence(&config, &origin), Err(WitnessError::Gone { pid: origin.pid }));
        assert!(recent.0.is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded_and_let_go() {
        let (config, origin) = own_origin();
        let mut recent = Recent::default();
        for uid in 0..1000 {
            recent.evidence(&config, &Origin { uid, ..origin.clone() }).unwrap();
            assert!(recent.0.len() <= MAX_REMEMBERED);
        }
        recent.make_room(Instant::now() + REMEMBERED_FOR);
        assert!(recent.0.is_empty());
    }

    #[test]
    fn a_process_that_took_over_the_number_is_refused_though_it_was_seen() {
        let (config, mut origin) = own_origin();
        let mut recent = Recent::default();
        recent.evidence(&config, &origin).unwrap();
        origin.connected_at = 1;
        assert_eq!(recent.evidence(&config, &origin), Err(WitnessError::Reused { pid: origin.pid }));
    }
}
