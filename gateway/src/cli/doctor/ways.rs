//! Ways around that agents which run now have, one finding for each, named by its subject. Each is what the attack corpus
//! (`tests/bypass`) got through, and says which setting of a unit closes it; the drop-in `weir-agent.conf` has them all.
//!
//! What a process can reach is looked up as it sees it: below `/proc/PID/root`, with the mounts of its own.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use super::Finding;
use super::agents::{may, named};
use crate::cli::procfs::{self, Seen};
use crate::config::Config;
use crate::origin::Risk;

/// Whoever can talk to these runs what he likes, outside every agent's cgroup.
pub(super) const RUNNERS: &[&str] = &[
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/libvirt/libvirt-sock",
    "/var/lib/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/run/systemd/private",
];
/// Root may have systemd run anything; others are asked for a password.
const BUS: &str = "/run/dbus/system_bus_socket";
/// Whoever can talk to these has names looked up, which is a way out for what stands in the names.
const RESOLVERS: &[&str] = &["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket"];
/// There where the machine is a guest with a line to its host, which no hook sees.
const VSOCK: &str = "/dev/vsock";
/// Whom the kernel asks for keys: with the type `dns_resolver`, for names.
const KEY_HELPER: &str = "/sbin/request-key";

/// All that stands open to the processes of one cgroup.
pub(super) fn findings(config: &Config, cgroup: &str, members: &[&Seen]) -> Vec<Finding> {
    let which =
        |test: &dyn Fn(&Seen) -> bool| members.iter().copied().filter(|process| test(process)).collect::<Vec<_>>();
    let mut findings = Vec::new();
    let mut add = |subject: &str, those: &[&Seen], message: &str, advice: &str| {
        if !those.is_empty() {
            findings.push(Finding::fail(subject, format!("{cgroup}: {message}: {}", named(those)), advice));
        }
    };
    add(
        "capabilities",
        &which(&|process| process.effective_capabilities != 0),
        "with capabilities, which can lead out",
        "CapabilityBoundingSet= in the unit, and a User= beside it (weir-agent.conf)",
    );
    add(
        "new privileges",
        &which(&|process| !process.no_new_privileges && process.effective_capabilities == 0),
        "may gain privileges by setuid programs",
        "NoNewPrivileges=yes in the unit (weir-agent.conf)",
    );
    add(
        "cgroup files",
        &which(&|process| process.uid == 0 && reaches_cgroups(process)),
        "as root, which owns the cgroup files, may move itself out or start a child outside",
        "ProtectControlGroups=yes and RestrictNamespaces=yes in the unit (weir-agent.conf), and a User=",
    );
    let pins = &config.gateway.bpf_dir;
    add(
        "pins",
        &which(&|process| process.uid == 0 && seen_by(process, pins).exists()),
        "as root, may rewrite the pinned maps",
        "InaccessiblePaths=-/sys/fs/bpf in the unit (weir-agent.conf), and a User=",
    );
    if Path::new(VSOCK).exists() {
        add(
            "socket families",
            &which(&|process| !process.filtered),
            "may make vsock sockets, which lead to this machine's own host",
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX in the unit (weir-agent.conf)",
        );
    }
    if Path::new(KEY_HELPER).exists() {
        add(
            "kernel keys",
            &which(&|process| !process.filtered),
            "may have the kernel look names up, by request_key(2)",
            "SystemCallFilter=~@keyring in the unit (weir-agent.conf)",
        );
    }
    for (subject, sockets, consequence) in [
        ("sockets", RUNNERS, "and so run anything outside its cgroup"),
        ("resolvers", RESOLVERS, "and so have names looked up outside its cgroup"),
    ] {
        for socket in sockets {
            let those = which(&|process| talks_to(process, socket));
            let advice = format!("InaccessiblePaths=-{socket} in the unit (weir-agent.conf)");
            add(subject, &those, &format!("can talk to {socket}, {consequence}"), &advice);
        }
    }
    let those = which(&|process| process.uid == 0 && talks_to(process, BUS));
    let advice = format!("InaccessiblePaths=-{BUS} in the unit (weir-agent.conf), and a User=");
    add("sockets", &those, "as root, may have systemd run anything, by D-Bus", &advice);
    findings.extend(members.iter().copied().filter_map(|process| connections(cgroup, process)));
    findings
}

/// Connections that lead out are not the gateway's: made before the process was an agent, or handed in.
fn connections(cgroup: &str, process: &Seen) -> Option<Finding> {
    let past = procfs::connections(process.pid).into_iter().filter(|peer| !peer.ip().to_canonical().is_loopback());
    let past: Vec<String> = past.map(|peer| peer.to_string()).collect();
    if past.is_empty() {
        return None;
    }
    Some(Finding::fail(
        "connections",
        format!("{cgroup}: connected past the gateway: {} to {}", named(&[process]), past.join(", ")),
        "restart it: what it had before it was an agent, or what somebody handed in, is not judged",
    ))
}

/// A user's processes outside agents' cgroups do what an agent of that user asks: their ssh-agent, their tmux, their memory.
pub(super) fn shared_users(config: &Config, agents: &[&Seen], all: &[Seen]) -> Vec<Finding> {
    let mut uids: Vec<u32> = agents.iter().map(|process| process.uid).collect();
    uids.sort_unstable();
    uids.dedup();
    // Root has findings of its own; a user that is an agent's is intercepted wherever it runs.
    uids.retain(|uid| *uid != 0 && !config.agents.iter().any(|agent| agent.uid == Some(*uid)));
    let inside = |process: &Seen| agents.iter().any(|agent| agent.pid == process.pid);
    let finding = |uid: u32| {
        let outside: Vec<&Seen> = all.iter().filter(|process| process.uid == uid && !inside(process)).collect();
        (!outside.is_empty()).then(|| {
            Finding::fail(
                "shared user",
                format!("agents run as uid {uid}, and so do, outside their cgroups: {}", named(&outside)),
                "give the agent a user of its own: User= in its unit, user = \"...\" in weir.toml",
            )
        })
    };
    uids.into_iter().filter_map(finding).collect()
}

/// Capabilities that are accepted by configuration, and lead around all the same.
pub(super) fn accepted_risks(config: &Config) -> Vec<Finding> {
    let finding = |agent: &crate::config::AgentConfig| {
        let risks: Vec<String> = agent.accept_risk.iter().map(Risk::to_string).collect();
        (!risks.is_empty()).then(|| {
            let message = format!("sessions with {} are accepted, which leads around the gateway", risks.join(", "));
            Finding::warn(&agent.name, message, "take it out of accept_risk, and the capability from the unit")
        })
    };
    config.agents.iter().filter_map(finding).collect()
}

/// A path as the process sees it.
fn seen_by(process: &Seen, path: &Path) -> PathBuf {
    Path::new("/proc").join(process.pid.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
}

fn talks_to(process: &Seen, socket: &str) -> bool {
    let Ok(metadata) = std::fs::metadata(seen_by(process, Path::new(socket))) else { return false };
    metadata.file_type().is_socket() && (process.uid == 0 || may(&metadata, 0o2, process.uid, &process.gids))
}

/// It sees a cgroup2 mount that is writable; a read-only one does not stop clone3(2), but a filter of system calls may.
fn reaches_cgroups(process: &Seen) -> bool {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap_or_default();
    mounts.lines().filter_map(cgroup2_options).any(|options| is_writable(options) || !process.filtered)
}

/// The mount options of a line of mountinfo (proc_pid_mountinfo(5)), if it is of a cgroup2 file system.
fn cgroup2_options(line: &str) -> Option<&str> {
    let (mount, file_system) = line.split_once(" - ")?;
    file_system.starts_with("cgroup2 ").then(|| mount.split(' ').nth(5))?
}

fn is_writable(options: &str) -> bool {
    options.split(',').any(|option| option == "rw")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::identity::tests::{config, identity_config};

    fn myself() -> Seen {
        Seen { pid: i32::try_from(std::process::id()).unwrap(), uid: 1, no_new_privileges: true, ..Seen::default() }
    }

    #[test]
    fn a_socket_is_a_door_for_whom_it_is_open() {
        let path = std::env::temp_dir().join(format!("weir-door-{}", std::process::id()));
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let talks = |mode: u32, uid: u32, gids: Vec<u32>| {
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
            talks_to(&Seen { uid, gids, ..myself() }, path.to_str().unwrap())
        };
        let gid = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path).unwrap());
        assert!(talks(0o666, 12345, vec![]) && !talks(0o660, 12345, vec![]) && talks(0o660, 12345, vec![gid]));
        assert!(talks(0o600, 0, vec![]), "root");
        std::fs::remove_file(&path).unwrap();
        assert!(!talks_to(&myself(), path.to_str().unwrap()));
    }

    #[test]
    fn capable_agents_fail_and_so_do_those_that_may_become_so() {
        let config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        let quiet = Seen { filtered: true, ..myself() };
        let found = |process: &Seen| {
            let found = findings(&config, "/agents.slice/x", &[process]);
            found.into_iter().map(|finding| finding.subject).collect::<Vec<_>>()
        };
        assert!(found(&quiet).iter().all(|subject| subject == "sockets" || subject == "resolvers"), "of this host");
        assert!(found(&Seen { effective_capabilities: 1, ..quiet.clone() }).contains(&"capabilities".to_owned()));
        assert!(found(&Seen { no_new_privileges: false, ..quiet }).contains(&"new privileges".to_owned()));
    }

    #[test]
    fn a_mounts_options_are_its_own() {
        let line = "31 24 0:27 / /sys/fs/cgroup ro,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate";
        assert!(!is_writable(cgroup2_options(line).unwrap()));
        assert!(is_writable(cgroup2_options(&line.replace("ro,", "rw,")).unwrap()));
        assert_eq!(cgroup2_options(&line.replace("cgroup2 c", "tmpfs c")), None);
    }

    #[test]
    fn a_user_is_shared_where_it_runs_outside_too() {
        let config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        let agent = Seen { pid: 7, uid: 1000, ..Seen::default() };
        let tmux = Seen { pid: 8, ..agent.clone() };
        assert_eq!(shared_users(&config, &[&agent], &[agent.clone(), tmux])[0].level, Level::Fail);
        assert!(shared_users(&config, &[&agent], std::slice::from_ref(&agent)).is_empty());
    }
}
