//! `cargo xtask clean-kernel`: what a killed test run can leave in the kernel: processes in its cgroups, pinned eBPF
//! programs that would go on refusing connections, and the cgroups themselves.
//!
//! Every test run marks what it makes with this prefix and its process id; runs that are alive are left alone.

use std::path::{Path, PathBuf};

use crate::{Result, setup, shell};

const PREFIX: &str = "weir-test-";

pub(crate) fn run() -> Result {
    let mut removed = 0;
    for pins in leftovers(Path::new("/sys/fs/bpf"))? {
        println!("    pins {}", pins.display());
        shell::run(&mut shell::as_root("rm", ["-rf".as_ref(), pins.as_os_str()]))?;
        removed += 1;
    }
    for group in leftovers(&setup::cgroup2_mount()?)? {
        println!("    cgroup {}", group.display());
        // Kills what still runs in the tree, then removes it from the leaves up; a killed process takes a moment to go.
        let script = r#"echo 1 > "$1/cgroup.kill"
            for try in 1 2 3 4 5 6 7 8 9 10; do
                find "$1" -depth -type d -exec rmdir {} + 2>/dev/null
                [ -e "$1" ] || exit 0
                sleep 0.2
            done
            exit 1"#;
        shell::run(shell::as_root("sh", ["-c", script, "sh"]).arg(&group))?;
        removed += 1;
    }
    println!("    {removed} left-overs removed");
    Ok(())
}

/// Entries of `dir` that a test run made whose process is gone. Listed by root: bpffs lets nobody else look.
fn leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    let listed = shell::output(shell::as_root("ls", ["-1", "--"]).arg(dir))?;
    let is_left = |name: &&str| maker(name).is_some_and(|pid| !Path::new("/proc").join(pid).exists());
    Ok(listed.lines().filter(is_left).map(|name| dir.join(name)).collect())
}

/// The process id in `weir-test-PID-N`.
fn maker(name: &str) -> Option<&str> {
    let pid = name.strip_prefix(PREFIX)?.split('-').next()?;
    (!pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())).then_some(pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_runs_leave_something_behind() {
        assert_eq!(maker("weir-test-4711-0"), Some("4711"));
        assert_eq!(maker("weir-test-4711"), Some("4711"));
        for other in ["weir", "weir-test-", "weir-test-x-1", "agents.slice"] {
            assert_eq!(maker(other), None, "{other}");
        }
    }
}
