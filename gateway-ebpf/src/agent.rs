//! Who is an agent: the current task's cgroup, its user, or the socket's cgroup says so. One of them is enough, so that
//! neither leaving the cgroup, nor changing the user, nor a socket handed over gets around.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use gateway_common::{MAX_LEVELS, Note, Settings};

use crate::maps::{AGENT_UIDS, NOTES, SUBORDINATES, is_agents};
use crate::structures::Current;

/// The current task, in the host's namespaces.
#[derive(Clone, Copy)]
pub struct Task {
    pub cgroup_id: u64,
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Task {
    #[inline(always)]
    pub fn current() -> Self {
        let ids = bpf_get_current_uid_gid();
        Self {
            // SAFETY: a helper without arguments.
            cgroup_id: unsafe { bpf_get_current_cgroup_id() },
            pid: (bpf_get_current_pid_tgid() >> 32) as u32,
            uid: ids as u32,
            gid: (ids >> 32) as u32,
        }
    }
}

/// The current task is an agent's.
#[inline(always)]
pub fn is_current(settings: &Settings) -> bool {
    (settings.agent_uids != 0 && is_agents_user(settings, bpf_get_current_uid_gid() as u32))
        || in_agent_cgroup(settings, current_ancestor)
}

/// The same where a program has no helper to ask. What cannot be read is taken for an agent's: a task has a user and a cgroup.
#[inline(always)]
pub fn is_by_structures(settings: &Settings, task: Current) -> bool {
    let has_agents_user = || task.user().is_none_or(|uid| is_agents_user(settings, uid));
    (settings.agent_uids != 0 && has_agents_user())
        || task.cgroup().is_none_or(|cgroup| cgroup.may_have_above(is_agents))
}

/// The user is an agent's, or one that an agent's user may become.
#[inline(always)]
fn is_agents_user(settings: &Settings, uid: u32) -> bool {
    AGENT_UIDS.get_ptr(uid).is_some() || (settings.subordinates != 0 && is_subordinate(settings, uid))
}

#[inline(always)]
fn is_subordinate(settings: &Settings, uid: u32) -> bool {
    let Some(all) = SUBORDINATES.get(0) else { return true };
    for (index, range) in all.ranges.iter().enumerate() {
        if index as u32 >= settings.subordinates {
            return false;
        }
        // One comparison: what lies in front of the range is far behind it.
        if uid.wrapping_sub(range.first) < range.count {
            return true;
        }
    }
    false
}

/// The current task or the socket is an agent's. Sockets that agents make have a note from `socket()` on.
#[inline(always)]
pub fn is_current_or_socket(settings: &Settings, sk: *mut bpf_sock) -> bool {
    is_current(settings) || NOTES.get(sk).is_some()
}

/// Looks at the few levels at which agents' cgroups lie.
#[inline(always)]
pub fn in_agent_cgroup(settings: &Settings, ancestor: impl Fn(u32) -> u64) -> bool {
    for level in 0..MAX_LEVELS {
        if settings.agent_levels & (1 << level) != 0 {
            let id = ancestor(level);
            if id != 0 && is_agents(id) {
                return true;
            }
        }
    }
    false
}

/// The current task is in the gateway's cgroup or below it.
#[inline(always)]
pub fn is_gateway(settings: &Settings) -> bool {
    settings.gateway_cgroup != 0 && current_ancestor(settings.gateway_level) == settings.gateway_cgroup
}

#[inline(always)]
pub fn current_ancestor(level: u32) -> u64 {
    // SAFETY: a helper with an integer.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Both sockets were made by the same agent: the rule of [`made_by_same_agent`], where no task can be asked.
#[inline(always)]
pub fn are_of_same_agent(one: &Note, other: &Note, in_agent_cgroup: bool) -> bool {
    one.socket_cgroup_id != 0
        && one.socket_cgroup_id == other.socket_cgroup_id
        && (one.socket_uid == other.socket_uid || in_agent_cgroup)
}

/// The socket behind `note` was made by the same agent as the current task: in the very same cgroup; an agent that is one
/// by its user alone, in a cgroup that it shares with others, must also be the same user.
#[inline(always)]
pub fn made_by_same_agent(settings: &Settings, note: &Note, task: &Task) -> bool {
    note.socket_cgroup_id == task.cgroup_id
        && (note.socket_uid == task.uid || in_agent_cgroup(settings, current_ancestor))
}
