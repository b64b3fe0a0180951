//! Letting go for good, when Weir is removed from a host: first the question whether anybody would be set free by it, then
//! the pins, and with them the programs and maps, and the agents' cgroups.

use std::fs;
use std::io;
use std::path::Path;

use super::kernel::{self, at, io_error};
use super::{KernelConfig, WitnessError, subordinates};

/// Deepest cgroup that is looked into (the kernel's own `cgroup.max.depth` is not limited by default).
const MAX_DEPTH: usize = 64;

/// Refuses while there are agents, unless a detach lets them pass anyway.
pub(super) fn check(config: &KernelConfig) -> Result<(), WitnessError> {
    kernel::refuse_agents(config)?;
    if kernel::is_detached(config)? {
        return Ok(());
    }
    for agents in &config.agents {
        let path = config.cgroup_mount.join(agents);
        if is_populated(&path)? {
            return Err(refused(&format!("processes run below the cgroup /{agents}")));
        }
    }
    let subordinates = subordinates::read(config)?;
    let is_agents = |uid: u32| {
        config.agent_uids.contains(&uid) || subordinates.iter().any(|range| (range.first..=range.last).contains(&uid))
    };
    if !config.agent_uids.is_empty()
        && let Some((pid, uid)) = process_of(is_agents)?
    {
        return Err(refused(&format!("process {pid} runs as the agent's user {uid}")));
    }
    Ok(())
}

/// [`check`], and then nothing stays.
pub(super) fn remove(config: &KernelConfig) -> Result<(), WitnessError> {
    check(config)?;
    super::pins::clean(&config.bpf_dir)?;
    for agents in &config.agents {
        remove_empty(&config.cgroup_mount.join(agents), MAX_DEPTH)?;
    }
    Ok(())
}

fn refused(who: &str) -> WitnessError {
    WitnessError::Refused(format!(
        "{who}, and would be free. Stop the agents (systemctl stop agents.slice), or let them go on purpose first: weir \
         detach --for 15m --reason 'removing weir'"
    ))
}

/// Whether a process is in the cgroup or below it, by `cgroup.events` (cgroup v2, "Basic Operations").
fn is_populated(cgroup: &Path) -> Result<bool, WitnessError> {
    let events = cgroup.join("cgroup.events");
    match fs::read_to_string(&events) {
        Ok(text) => Ok(!text.lines().any(|line| line == "populated 0")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(events.display())(error)),
    }
}

/// A process of such a user, anywhere on the host.
fn process_of(is_agents: impl Fn(u32) -> bool) -> Result<Option<(i32, u32)>, WitnessError> {
    let processes = procfs::process::all_processes().map_err(|error| io_error("/proc", &error.to_string()))?;
    // One that ends while it is looked at is no obstacle.
    let owned = processes.flatten().filter_map(|process| Some((process.pid, process.uid().ok()?)));
    Ok(owned.into_iter().find(|(_, uid)| is_agents(*uid)))
}

/// Removes the cgroup and what is below it, but for what is in use (by agents that a detach let go).
fn remove_empty(cgroup: &Path, depth: usize) -> Result<(), WitnessError> {
    let entries = match fs::read_dir(cgroup) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at(cgroup.display()))?,
    };
    for entry in entries.flatten().filter(|entry| depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_empty(&entry.path(), depth - 1)?;
    }
    match fs::remove_dir(cgroup) {
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ResourceBusy) => {
            Err(at(cgroup.display())(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_without_processes_is_no_obstacle_and_one_with_is() {
        let own = nix::unistd::getuid().as_raw();
        assert!(process_of(|uid| uid == own).unwrap().is_some_and(|(_, uid)| uid == own));
        assert_eq!(process_of(|uid| uid == u32::MAX - 7).unwrap(), None);
    }
}
