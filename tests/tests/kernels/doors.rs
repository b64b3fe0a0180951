//! What only the settings of an agent's unit close where the kernel has no BPF LSM: techniques of the attack corpus in units of a
//! real systemd, without the drop-in that is shipped and with it. One row for each that `tests/vm/door` tries.

use system_tests::vm::{Said, Tree};

use super::ways::Must::{Answered, Blocked, Harmless, Intercepted};
use super::ways::{self, Row, row};

/// `weir doctor` calls them so.
const FAMILIES: ways::Must = Answered("socket families");
const PRIVILEGES: ways::Must = Answered("new privileges");
const FILES: ways::Must = Answered("cgroup files");
const TRACED: ways::Must = Answered("traced");
const SHARED: ways::Must = Answered("shared user");

/// For an agent with a user of its own, whose processes outside are agents themselves; for one that shares its user; for root
/// without a capability.
const TABLE: [Row; 11] = [
    row("packet", [Blocked; 3]),
    row("vsock", [FAMILIES; 3]),
    row("setuid", [PRIVILEGES, PRIVILEGES, Blocked]),
    row("cgroup_leave", [Blocked, Blocked, FILES]),
    row("cgroup_leave_root", [Blocked, Blocked, FILES]),
    row("cgroup_fork_outside", [Blocked, Blocked, FILES]),
    row("user_namespace_packet", [Blocked; 3]),
    row("network_namespace", [Intercepted; 3]),
    row("ptrace_kin", [Harmless, SHARED, TRACED]),
    row("memory_kin", [Harmless, SHARED, TRACED]),
    row("take_from_kin", [Harmless, SHARED, TRACED]),
];

pub(crate) fn add(tree: &Tree) {
    for (name, text) in [("doors", include_str!("../../vm/doors")), ("door", include_str!("../../vm/door"))] {
        tree.put(&format!("opt/smoke/{name}"), 0o755, text).unwrap();
    }
}

pub(crate) fn judge(said: &Said) {
    // Without the BPF LSM a file of /proc leads to root's other processes, whatever the unit says.
    ways::judge_all(said, &TABLE, &["root", "traced"]);
}
