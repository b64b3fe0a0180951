//! The host: what the kernel can do and does, the gateway, its directories.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::Finding;
use crate::admin::Status;
use crate::cli::run::cgroup2_mount;
use crate::config::{Config, Mode};
use crate::witness::{self, AttachmentReport, Requirements, WitnessConfig};

/// Below this, recording may stop and everything with it.
const LOW_DISK: u64 = 2 << 30;

pub(super) fn kernel() -> Vec<Finding> {
    let mut findings = requirements(&Requirements::look());
    findings.extend([bpffs(), cgroups(), unprivileged_bpf()]);
    findings
}

fn requirements(kernel: &Requirements) -> Vec<Finding> {
    let unmet =
        |sentence: &String| Finding::fail("kernel", sentence, "Debian 12 has one that will do, 6.1; newer is better");
    if !kernel.unmet.is_empty() {
        return kernel.unmet.iter().map(unmet).collect();
    }
    let options = Requirements::needed();
    let options = kernel.options.as_ref().map_or_else(
        || Finding::ok("kernel options", format!("not published by this kernel; needed are {options}")),
        |path| Finding::ok("kernel options", format!("{options} are set ({})", path.display())),
    );
    vec![Finding::ok("kernel", &kernel.release), options]
}

fn bpffs() -> Finding {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().any(|line| line.split(' ').nth(2) == Some("bpf"));
    if mounted {
        Finding::ok("bpffs", "mounted")
    } else {
        Finding::fail("bpffs", "not mounted: the programs cannot be pinned", "mount -t bpf bpf /sys/fs/bpf")
    }
}

fn cgroups() -> Finding {
    match cgroup2_mount() {
        Ok(path) => Finding::ok("cgroup2", format!("mounted at {}", path.display())),
        Err(error) => Finding::fail("cgroup2", error.to_string(), "boot with systemd.unified_cgroup_hierarchy=1"),
    }
}

fn unprivileged_bpf() -> Finding {
    match sysctl("kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => Finding::warn(
            "bpf",
            "unprivileged processes may load programs",
            "sysctl kernel.unprivileged_bpf_disabled=2, and in /etc/sysctl.d",
        ),
        _ => Finding::ok("bpf", "closed to unprivileged processes"),
    }
}

/// A user namespace gives its maker capabilities inside, and packet sockets with them. The agents' drop-in forbids it;
/// whoever runs agents otherwise depends on these.
pub(super) fn namespaces() -> Vec<Finding> {
    let allowed = sysctl("kernel/unprivileged_userns_clone").as_deref() != Some("0")
        && sysctl("kernel/apparmor_restrict_unprivileged_userns").as_deref() != Some("1")
        && sysctl("user/max_user_namespaces").as_deref() != Some("0");
    vec![if allowed {
        Finding::warn(
            "namespaces",
            "any process may make a user namespace of its own",
            "agents' units need the drop-in weir-agent.conf (RestrictNamespaces=yes), or kernel.unprivileged_userns_clone=0",
        )
    } else {
        Finding::ok("namespaces", "unprivileged user namespaces are off")
    }]
}

fn sysctl(name: &str) -> Option<String> {
    std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|value| value.trim().to_owned())
}

/// What the kernel itself says is in effect; and, by the witness, what of it this kernel did not take.
pub(super) fn attachments(config: &Config, witness: Option<&AttachmentReport>) -> Vec<Finding> {
    let report = WitnessConfig::new(config).and_then(|witness| witness::kernel_status(&witness));
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            return vec![Finding::fail("interception", error.to_string(), "systemctl start weir-kernel (as root)")];
        }
    };
    let mut findings = Vec::new();
    if let Some(detached) = &report.detached {
        findings.push(Finding::fail(
            "interception",
            format!("detached for another {} s by uid {}: {}", detached.remaining, detached.uid, detached.reason),
            "weir detach --for 0 --reason ... attaches again",
        ));
    }
    let missing: Vec<&str> =
        report.hooks.iter().chain(&report.lsm).filter(|hook| !hook.effective).map(|hook| hook.name.as_str()).collect();
    if report.hooks.is_empty() || !missing.is_empty() {
        let message = format!("not in effect: {}", if missing.is_empty() { "all".into() } else { missing.join(", ") });
        findings.push(Finding::fail("interception", message, "systemctl restart weir-kernel"));
    } else if report.detached.is_none() {
        let lsm = if report.lsm.is_empty() { "without the BPF LSM" } else { "the BPF LSM's among them" };
        let hooks = report.hooks.len() + report.lsm.len();
        findings.push(Finding::ok("interception", format!("{hooks} hooks in effect, {lsm}")));
    }
    let known = report.warnings.iter();
    let more = witness.into_iter().flat_map(|witness| &witness.warnings).filter(|more| !report.warnings.contains(more));
    findings.extend(known.chain(more).map(|warning| Finding::warn("interception", warning, "")));
    findings.extend(witness.map(gaps).unwrap_or_default());
    findings
}

/// Ways around, whoever runs now.
fn gaps(witness: &AttachmentReport) -> Vec<Finding> {
    let advice = "the BPF LSM closes it (lsm=...,bpf on the kernel's command line)";
    witness.gaps.iter().map(|gap| Finding::fail("interception", gap, advice)).collect()
}

pub(super) fn gateway(answer: Result<&Status, &String>, config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match answer {
        Ok(status) => {
            findings.push(Finding::ok("gateway", format!("runs, pid {}", status.pid)));
            if status.config != config.version {
                findings.push(Finding::warn(
                    "gateway",
                    "runs with another configuration than the files have",
                    "weir reload",
                ));
            }
            if status.kernel.is_none() {
                findings.push(Finding::fail("witness", "does not answer", "systemctl restart weir"));
            }
            let problem = |problem: &String| Finding::fail("gateway", problem, "see `journalctl -u weir`");
            findings.extend(status.problems.iter().map(problem));
        }
        Err(message) => {
            let (what, hint) = message.split_once('\n').unwrap_or((message, "systemctl start weir"));
            findings.push(Finding::fail("gateway", what, hint));
        }
    }
    if config.gateway.mode == Mode::Observe {
        let advice = "mode = \"enforce\" when the records look right";
        findings.push(Finding::warn("mode", "observe: nothing is refused and nothing masked", advice));
    } else if config.gateway.unlisted == Mode::Observe {
        let advice = "unlisted = \"deny\" when all targets are listed";
        findings.push(Finding::warn("mode", "destinations without a target are let through", advice));
    }
    findings
}

/// Recordings are nobody's but the gateway's, and have room.
pub(super) fn directories(config: &Config) -> Vec<Finding> {
    let path = &config.recording.directory;
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return vec![Finding::warn(
                "recordings",
                format!("{} is not there yet", path.display()),
                "the gateway makes it",
            )];
        }
        Err(error) => return vec![Finding::fail("recordings", format!("{}: {error}", path.display()), "run as root")],
    };
    let mut findings = Vec::new();
    let owner = nix::unistd::User::from_name(&config.gateway.user).ok().flatten().map(|user| user.uid.as_raw());
    if metadata.permissions().mode() & 0o077 != 0 || Some(metadata.uid()) != owner {
        findings.push(Finding::fail(
            "recordings",
            format!("{} is open to others", path.display()),
            format!("chown -R {} {1} && chmod 0700 {1}", config.gateway.user, path.display()),
        ));
    }
    match nix::sys::statvfs::statvfs(path) {
        Ok(disk) => {
            let free = disk.blocks_available() * disk.fragment_size();
            let message = format!("{} MiB free", free >> 20);
            findings.push(if free < LOW_DISK {
                Finding::warn("recordings", message, "when the disk is full, operations are refused: make room")
            } else {
                Finding::ok("recordings", message)
            });
        }
        Err(error) => findings.push(Finding::fail("recordings", format!("{}: {error}", path.display()), "")),
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn what_a_kernel_leaves_open_fails_and_says_what_closes_it() {
        let gaps = gaps(&AttachmentReport { gaps: vec!["open".to_owned()], ..AttachmentReport::default() });
        assert_eq!((gaps.len(), gaps[0].level, gaps[0].message.as_str()), (1, Level::Fail, "open"));
        assert!(gaps[0].advice.contains("bpf"));
    }
}
