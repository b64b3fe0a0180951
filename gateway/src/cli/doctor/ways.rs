//! Ways around that agents which run now have, one finding for each, named by its subject. Each is what the attack corpus
//! (`tests/bypass`) got through, and says which setting of a unit closes it; the drop-in `weir-agent.conf` has them all.
//!
//! What a process can reach is looked up as it sees it: below `/proc/PID/root`, with the mounts of its own.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, User};

use super::Finding;
use super::agents::{may, named};
use super::locks::{self, Locks, Way};
use crate::cli::procfs::Seen;
use crate::config::Config;
use crate::origin::Risk;
use crate::witness::{self, ForeignSocket, WitnessConfig};

/// Whoever can talk to these runs what he likes, outside every agent's cgroup.
pub(super) const RUNNERS: &[&str] = &[
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/podman/podman.sock",
    "/run/crio/crio.sock",
    "/run/libvirt/libvirt-sock",
    "/run/incus/unix.socket",
    "/var/lib/incus/unix.socket",
    "/var/lib/incus/unix.socket.user",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/run/systemd/private",
];
/// Root may have systemd run anything; others are asked for a password.
const BUS: &str = "/run/dbus/system_bus_socket";
/// Whoever can talk to these has names looked up, which is a way out for what stands in the names.
const RESOLVERS: &[&str] = &["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/run/avahi-daemon/socket"];
/// Where database servers of this host listen beside their ports, how the names of their sockets begin, and what closes the place.
const SERVERS: &[(&str, &str, &str)] = &[
    ("/run/postgresql", ".s.PGSQL.", "InaccessiblePaths=-/run/postgresql"),
    ("/run/mysqld", "mysql", "InaccessiblePaths=-/run/mysqld"),
    ("/var/lib/mysql", "mysql", "InaccessiblePaths=-/var/lib/mysql"),
    ("/tmp", ".s.PGSQL.", "PrivateTmp=yes"),
    ("/tmp", "mysql", "PrivateTmp=yes"),
];
/// Names in one of these directories that are looked at: `/tmp` is everybody's.
const MAX_NAMES: usize = 10_000;
/// What lies in these is run by others sooner or later: units, jobs of cron, programs, what root's shell reads at a login.
const RUN_LATER: &[&str] = &["/etc", "/root", "/run/systemd", "/usr"];
/// Shells that let nobody in.
const NO_SHELLS: &[&str] = &["nologin", "false"];
/// Where the jobs that a user has left to cron lie, by its name.
const JOBS: &str = "/var/spool/cron/crontabs";
/// The capability that makes permissions of files no matter, as a bit (`linux/capability.h`).
const DAC_OVERRIDE: u64 = 1 << 1;
/// There where the machine is a guest with a line to its host, which no hook sees.
const VSOCK: &str = "/dev/vsock";
/// Families besides whose sockets anybody may make, which send what no hook sees: number, name, and where they lead.
const UNSEEN_FAMILIES: &[(u32, &str, &str)] = &[
    (21, "RDS", "other machines, by connections of the kernel's own"),
    (24, "PPPoX", "whatever station of the network, frame by frame"),
    (30, "TIPC", "the machines of a cluster"),
    (33, "RXRPC", "other machines, by packets that a thread of the kernel sends"),
];
/// Names of socket protocols that the kernel has loaded; and, by release, of the modules that it may load (modprobe(8)).
const LOADED_PROTOCOLS: &str = "/proc/net/protocols";
const MODULES: &str = "/lib/modules";
const RELEASE: &str = "/proc/sys/kernel/osrelease";
const FOREIGN_ADVICE: &str = "restart it: what it had before it was an agent, or what somebody handed in, is not judged. Start agents with \
                              none of either (no Sockets= in the unit), or have the BPF LSM (lsm=...,bpf on the kernel's command line)";
/// Whom the kernel asks for keys: with the type `dns_resolver`, for names.
const KEY_HELPER: &str = "/sbin/request-key";

/// All that stands open to the processes of one cgroup.
pub(super) fn findings(config: &Config, cgroup: &str, members: &[&Seen]) -> Vec<Finding> {
    let which =
        |test: &dyn Fn(&Seen) -> bool| members.iter().copied().filter(|process| test(process)).collect::<Vec<_>>();
    let locks = Locks::of(cgroup);
    let mut findings = Vec::new();
    let mut behind_filters = Vec::new();
    let mut add = |subject: &str, those: &[&Seen], message: &str, advice: &str| {
        if !those.is_empty() {
            findings.push(Finding::fail(subject, format!("{cgroup}: {message}: {}", named(those)), advice));
        }
    };
    add(
        "capabilities",
        &which(&|process| process.capabilities != 0),
        "with capabilities, which can lead out",
        "CapabilityBoundingSet= in the unit, and a User= beside it (weir-agent.conf)",
    );
    add(
        "new privileges",
        &which(&|process| !process.no_new_privileges && process.capabilities == 0),
        "may gain privileges by setuid programs",
        "NoNewPrivileges=yes in the unit (weir-agent.conf)",
    );
    let mut add_behind_filter =
        |subject: &'static str, way: &dyn Fn(&Seen) -> Way, message: &str, advice: &'static str| {
            add(subject, &which(&|process| way(process) == Way::Open), message, advice);
            let unknown = which(&|process| way(process) == Way::Unknown);
            if !unknown.is_empty() {
                let message =
                    format!("{cgroup}: {message}, unless their filter of system calls forbids it: {}", named(&unknown));
                behind_filters.push(Finding::warn(subject, message, advice));
            }
        };
    add_behind_filter(
        "cgroup files",
        &|process| if process.uid == 0 { reaches_cgroups(process, locks.as_ref()) } else { Way::Closed },
        "as root, which owns the cgroup files, may move itself out or start a child outside",
        "ProtectControlGroups=yes and RestrictNamespaces=yes in the unit (weir-agent.conf), and a User=",
    );
    for (name, leads) in families() {
        let family = format!("AF_{}", name.to_uppercase());
        add_behind_filter(
            "socket families",
            &|process| locks::way(process, locks.as_ref(), |locks| locks.close_family(&family)),
            &format!("may make {name} sockets, which lead to {leads}"),
            "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX in the unit (weir-agent.conf)",
        );
    }
    if Path::new(KEY_HELPER).exists() {
        add_behind_filter(
            "kernel keys",
            &|process| locks::way(process, locks.as_ref(), |locks| locks.close_call("request_key")),
            "may have the kernel look names up, by request_key(2)",
            "SystemCallFilter=~@keyring in the unit (weir-agent.conf)",
        );
    }
    add(
        "root",
        &which(&|process| process.uid == 0 && RUN_LATER.iter().any(|path| rewrites(process, Path::new(path)))),
        "as root, may change what this host's root runs outside its cgroup (files in /etc, /root or /run/systemd)",
        "User= in the unit, and user = \"...\" in weir.toml",
    );
    let pins = &config.gateway.bpf_dir;
    add(
        "pins",
        &which(&|process| {
            let there = std::fs::metadata(seen_by(process, pins));
            there.is_ok_and(|metadata| {
                process.capabilities & DAC_OVERRIDE != 0 || may(&metadata, 0o2, process.uid, &process.gids)
            })
        }),
        "may rewrite the pinned maps",
        "InaccessiblePaths=-/sys/fs/bpf in the unit (weir-agent.conf), and a User=",
    );
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
    for (directory, prefix, setting) in SERVERS {
        let those = which(&|process| talks_to_server(process, directory, prefix));
        let message = format!("can talk to a database server by its socket in {directory}, where no gateway listens");
        add("database sockets", &those, &message, &format!("{setting} in the unit (weir-agent.conf)"));
    }
    let those = which(&|process| process.uid == 0 && talks_to(process, BUS));
    let advice = format!("InaccessiblePaths=-{BUS} in the unit (weir-agent.conf), and a User=");
    add("sockets", &those, "as root, may have systemd run anything, by D-Bus", &advice);
    findings.extend(behind_filters);
    findings
}

/// Families of sockets that no hook sees, and that this kernel has or would load for whoever asks.
fn families() -> Vec<(&'static str, &'static str)> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let release = read(Path::new(RELEASE));
    let aliases = read(&Path::new(MODULES).join(release.trim()).join("modules.alias"));
    let vsock = Path::new(VSOCK).exists().then_some(("vsock", "this machine's own host"));
    vsock.into_iter().chain(unseen_families(&read(Path::new(LOADED_PROTOCOLS)), &aliases)).collect()
}

/// The same, from what the kernel has loaded and the aliases of what it may load.
fn unseen_families(loaded: &str, aliases: &str) -> Vec<(&'static str, &'static str)> {
    let is_loaded =
        |name: &str| loaded.lines().any(|line| line.starts_with(if name == "PPPoX" { "PPPOE " } else { name }));
    let is_offered = |number: u32| {
        let alias = format!("alias net-pf-{number}");
        aliases.lines().filter_map(|line| line.strip_prefix(&alias)).any(|rest| rest.starts_with([' ', '-']))
    };
    let there = UNSEEN_FAMILIES.iter().filter(|(number, name, _)| is_loaded(name) || is_offered(*number));
    there.map(|(_, name, leads)| (*name, *leads)).collect()
}

/// What processes of one cgroup hold and no agent made: nothing that goes by such a connection is judged, and who comes in at such a
/// server is let in. Root's look; others are told that they cannot see everything.
pub(super) fn foreign(config: &Config, cgroup: &str, members: &[&Seen]) -> Vec<Finding> {
    if !nix::unistd::geteuid().is_root() {
        return Vec::new();
    }
    let look = |process: &Seen| {
        let witness = WitnessConfig::new(config).map_err(std::io::Error::other)?;
        witness::foreign_sockets(&witness, process.pid)
    };
    let mut findings = Vec::new();
    let mut held = Vec::new();
    for process in members {
        match look(process) {
            Ok(sockets) => held.push((*process, sockets)),
            // Yama may forbid it to everybody (ptrace_scope 3), which agents have nothing to do with.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                let message = format!("{cgroup}: nobody may look at the sockets of {}: {error}", named(&[*process]));
                findings.push(Finding::warn("connections", message, "sysctl kernel.yama.ptrace_scope"));
            }
            Err(error) => {
                let message = format!("{cgroup}: the sockets of {} cannot be looked at: {error}", named(&[*process]));
                findings.push(Finding::fail("connections", message, "weir kernel status"));
            }
        }
    }
    findings.extend(held_by(config, cgroup, &held));
    findings
}

fn held_by(config: &Config, cgroup: &str, held: &[(&Seen, Vec<ForeignSocket>)]) -> Vec<Finding> {
    let is_named = |process: &Seen, port: u16| {
        config.agents.iter().any(|agent| agent.uid == Some(process.uid) && agent.listen.contains(&port))
    };
    // Servers that others may reach, wherever the cgroup's processes have them from.
    let allowed: Vec<u16> = held
        .iter()
        .flat_map(|(process, sockets)| sockets.iter().map(move |socket| (*process, socket)))
        .filter(|(_, socket)| socket.listens)
        .filter_map(|(process, socket)| socket.local.map(|local| local.port()).filter(|port| is_named(process, *port)))
        .collect();
    let is_allowed = |socket: &ForeignSocket| socket.local.is_some_and(|local| allowed.contains(&local.port()));
    // Of before the programs knew it, maybe.
    let is_gateways = |socket: &ForeignSocket| {
        socket.peer.is_some_and(|peer| peer.ip().is_loopback() && peer.port() == config.gateway.port)
    };
    let finding = |subject, (process, sockets): &(&Seen, Vec<ForeignSocket>), listens| {
        let those =
            sockets.iter().filter(|socket| socket.listens == listens && !is_allowed(socket) && !is_gateways(socket));
        let those: BTreeSet<String> = those.filter_map(described).collect();
        let all = those.into_iter().collect::<Vec<_>>().join(", ");
        let what = if listens {
            "listens by what somebody else made, and lets others in"
        } else {
            "connected past the gateway"
        };
        (!all.is_empty())
            .then(|| Finding::fail(subject, format!("{cgroup}: {what}: {} {all}", named(&[*process])), FOREIGN_ADVICE))
    };
    let connections = held.iter().filter_map(|held| finding("connections", held, false));
    connections.chain(held.iter().filter_map(|held| finding("listeners", held, true))).collect()
}

/// In words; none of a socket of TCP that is neither connected nor listens: what becomes of it is judged.
fn described(socket: &ForeignSocket) -> Option<String> {
    const IPPROTO_MPTCP: i32 = 262;
    match (socket.local, socket.peer) {
        (Some(local), None) if socket.listens => Some(format!("at {local}")),
        (_, Some(peer)) => Some(format!("to {peer}")),
        _ if matches!(socket.protocol, libc::IPPROTO_TCP | IPPROTO_MPTCP) => None,
        _ => Some(format!("by a socket of IP protocol {}", socket.protocol)),
    }
}

/// Who else is this user does what an agent of that user asks, or left behind: its ssh-agent, its tmux, its units, its jobs,
/// its next login.
pub(super) fn shared_users(config: &Config, agents: &[&Seen], all: &[Seen]) -> Vec<Finding> {
    let mut uids: Vec<u32> = agents.iter().map(|process| process.uid).collect();
    uids.sort_unstable();
    uids.dedup();
    // Root has findings of its own; a user that is an agent's is intercepted wherever it runs.
    uids.retain(|uid| *uid != 0 && !config.agents.iter().any(|agent| agent.uid == Some(*uid)));
    let inside = |process: &Seen| agents.iter().any(|agent| agent.pid == process.pid);
    let finding = |uid: u32| {
        let outside: Vec<&Seen> = all.iter().filter(|process| process.uid == uid && !inside(process)).collect();
        let mut also = Vec::new();
        if !outside.is_empty() {
            also.push(named(&outside));
        }
        if let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) {
            also.extend(later(config, &user));
        }
        (!also.is_empty()).then(|| {
            Finding::fail(
                "shared user",
                format!("agents run as uid {uid}, and so do, outside their cgroups: {}", also.join(", ")),
                "give the agent a user of its own: User= in its unit, user = \"...\" in weir.toml",
            )
        })
    };
    uids.into_iter().filter_map(finding).collect()
}

/// Root without capabilities is master of what else of root's has none (ptrace(2), "Ptrace access mode checking"). Other users are
/// their own agents, or shared ones.
pub(super) fn traced(agents: &[&Seen], all: &[Seen]) -> Vec<Finding> {
    let namespace = |process: &Seen| std::fs::read_link(format!("/proc/{}/ns/pid", process.pid)).ok();
    let inside = |process: &Seen| agents.iter().any(|agent| agent.pid == process.pid);
    let outside: Vec<&Seen> = all.iter().filter(|process| process.uid == 0 && !inside(process)).collect();
    let finding = |agent: &&Seen| {
        let is_weaker = |process: &&Seen| process.capabilities & !agent.capabilities == 0;
        let weaker: Vec<&Seen> = outside.iter().copied().filter(is_weaker).collect();
        // Looked up for few.
        let reached: Vec<&Seen> = weaker.into_iter().filter(|process| namespace(process) == namespace(agent)).collect();
        (!reached.is_empty()).then(|| {
            Finding::fail(
                "traced",
                format!(
                    "{}: {} may have these do what it wants, outside its cgroup: {}",
                    agent.cgroup,
                    named(&[*agent]),
                    named(&reached)
                ),
                "User= in the unit, and user = \"...\" in weir.toml; or the BPF LSM (lsm=...,bpf on the kernel's command line). \
                 SystemCallFilter=~@debug process_vm_writev (weir-agent.conf) closes the system calls, and not /proc/PID/mem",
            )
        })
    };
    agents.iter().filter(|agent| agent.uid == 0).filter_map(finding).collect()
}

/// What will run as this user, and finds what an agent left behind for it.
fn later(config: &Config, user: &User) -> Vec<String> {
    let mut found = Vec::new();
    if lets_in(&user.shell) {
        found.push(format!("whoever logs in as {} (~/.bashrc)", user.name));
    }
    if Path::new(JOBS).join(&user.name).exists() {
        found.push("cron".to_owned());
    }
    found.extend(units_of(config, user));
    found
}

fn lets_in(shell: &Path) -> bool {
    // No shell is /bin/sh (passwd(5)).
    !shell.file_name().is_some_and(|name| NO_SHELLS.iter().any(|no_shell| name == *no_shell))
}

/// Services of this user in other slices, as systemd has them loaded: not all of them need run now.
fn units_of(config: &Config, user: &User) -> Vec<String> {
    let words = ["show", "--property=Id,User,Slice", "*.service"];
    let Ok(output) = Command::new("systemctl").args(words).env("LC_ALL", "C").output() else { return Vec::new() };
    other_units(&String::from_utf8_lossy(&output.stdout), &config.gateway.agents, user)
}

/// The same, from what `systemctl show` prints: one paragraph for each unit.
fn other_units(shown: &str, agents: &[String], user: &User) -> Vec<String> {
    let uid = user.uid.to_string();
    let units = shown.split("\n\n").filter_map(|unit| {
        let value = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let (id, runs_as) = (value("Id")?, value("User")?);
        let cgroup = format!("{}{id}", slice_path(value("Slice").unwrap_or_default()));
        let is_below = |agent: &String| cgroup.strip_prefix(agent.trim_matches('/')).is_some_and(is_component_end);
        let is_agents = agents.iter().any(is_below);
        ((runs_as == user.name || runs_as == uid) && !is_agents).then(|| id.to_owned())
    });
    units.collect()
}

/// Where a slice's cgroup lies, with a slash at the end: `agents-x.slice` is `agents.slice/agents-x.slice/` (systemd.slice(5)).
fn slice_path(slice: &str) -> String {
    let Some(name) = slice.strip_suffix(".slice").filter(|name| *name != "-") else { return String::new() };
    let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
    ends.flat_map(|end| [&name[..end], ".slice/"]).collect()
}

fn is_component_end(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
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

/// What `InaccessiblePaths=` puts in a socket's place is a socket, too: root's, with no permission for anybody.
fn talks_to(process: &Seen, socket: &str) -> bool {
    let Ok(metadata) = std::fs::metadata(seen_by(process, Path::new(socket))) else { return false };
    let overrides = process.capabilities & DAC_OVERRIDE != 0 && metadata.mode() & 0o777 != 0;
    metadata.file_type().is_socket() && (overrides || may(&metadata, 0o2, process.uid, &process.gids))
}

/// Such a server's socket is there, and the server is not this user's own.
fn talks_to_server(process: &Seen, directory: &str, prefix: &str) -> bool {
    let entries = std::fs::read_dir(seen_by(process, Path::new(directory))).into_iter().flatten().flatten();
    entries.take(MAX_NAMES).any(|entry| {
        let name = entry.file_name();
        let is_others = || entry.metadata().is_ok_and(|metadata| metadata.uid() != process.uid);
        let is_named = name.to_str().is_some_and(|name| name.starts_with(prefix));
        is_named && is_others() && talks_to(process, &format!("{directory}/{}", name.display()))
    })
}

/// The host's own directory, and not one of a container's, in a mount that is writable.
fn rewrites(process: &Seen, path: &Path) -> bool {
    let seen = seen_by(process, path);
    let identity = |path: &Path| std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let is_hosts = identity(&seen).is_some_and(|identity_there| identity(path) == Some(identity_there));
    is_hosts && statvfs(&seen).is_ok_and(|file_system| !file_system.flags().contains(FsFlags::ST_RDONLY))
}

/// Whether it sees a cgroup2 mount that is writable; a read-only one does not stop clone3(2), but a filter of system calls may.
fn reaches_cgroups(process: &Seen, locks: Option<&Locks>) -> Way {
    let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap_or_default();
    let mut seen = mounts.lines().filter_map(cgroup2_options).peekable();
    if seen.peek().is_none() {
        return Way::Closed;
    }
    if seen.any(is_writable) { Way::Open } else { locks::way(process, locks, |locks| locks.namespaces) }
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
            let capabilities = if uid == 0 { DAC_OVERRIDE } else { 0 };
            talks_to(&Seen { uid, capabilities, gids, ..myself() }, path.to_str().unwrap())
        };
        let gid = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&path).unwrap());
        assert!(talks(0o666, 12345, vec![]) && !talks(0o660, 12345, vec![]) && talks(0o660, 12345, vec![gid]));
        assert!(talks(0o600, 0, vec![]), "root");
        assert!(!talks(0o000, 0, vec![]), "systemd put it there");
        std::fs::remove_file(&path).unwrap();
        assert!(!talks_to(&myself(), path.to_str().unwrap()));
    }

    #[test]
    fn the_drop_in_closes_what_it_is_said_to_close() {
        const DROP_IN: &str = include_str!("../../../../systemd/weir-agent.conf");
        let settings = |name: &str| DROP_IN.lines().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
        let hidden = settings("InaccessiblePaths=");
        let hidden: Vec<&str> =
            hidden.iter().flat_map(|paths| paths.split(' ')).map(|path| path.trim_start_matches('-')).collect();
        let closes = |path: &str| hidden.iter().any(|hidden| Path::new(path).starts_with(hidden));
        for path in RUNNERS.iter().chain(RESOLVERS).chain([&BUS]) {
            assert!(closes(path), "{path} is not hidden by weir-agent.conf");
        }
        for (directory, _, setting) in SERVERS {
            let is_private = *setting == "PrivateTmp=yes" && settings("PrivateTmp=") == ["yes"];
            assert!(is_private || closes(directory), "{directory} is not hidden by weir-agent.conf");
        }
    }

    #[test]
    fn a_database_servers_socket_is_a_door_unless_the_server_is_ones_own() {
        let directory = std::env::temp_dir().join(format!("weir-servers-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join(".s.PGSQL.5432");
        let uid = nix::unistd::geteuid().as_raw();
        let talks = |uid: u32| talks_to_server(&Seen { uid, ..myself() }, directory.to_str().unwrap(), ".s.PGSQL.");
        std::fs::write(directory.join(".s.PGSQL.5432.lock"), "").unwrap();
        assert!(!talks(uid + 1), "a lock is no socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(talks(uid + 1) && !talks(uid));
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(!talks(uid + 1));
    }

    #[test]
    fn a_filter_that_may_be_any_is_a_warning_and_none_a_failure() {
        let config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        let levels = |process: &Seen| {
            let found = findings(&config, "/agents.slice/x", &[process]).into_iter();
            found.filter(|finding| finding.subject == "cgroup files").map(|finding| finding.level).collect::<Vec<_>>()
        };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let is_writable = mounts.lines().filter_map(cgroup2_options).any(is_writable);
        let root = Seen { uid: 0, ..myself() };
        assert_eq!(levels(&root), [Level::Fail]);
        let with_any = if is_writable { Level::Fail } else { Level::Warn };
        assert_eq!(levels(&Seen { filtered: true, ..root }), [with_any]);
    }

    #[test]
    fn capable_agents_fail_and_so_do_those_that_may_become_so() {
        let config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        let quiet = Seen { filtered: true, ..myself() };
        let found = |process: &Seen| {
            let found = findings(&config, "/agents.slice/x", &[process]);
            found.into_iter().map(|finding| finding.subject).collect::<Vec<_>>()
        };
        let of_this_host = ["sockets", "resolvers", "database sockets", "socket families", "kernel keys"];
        assert!(found(&quiet).iter().all(|subject| of_this_host.contains(&subject.as_str())));
        assert!(found(&Seen { capabilities: 1, ..quiet.clone() }).contains(&"capabilities".to_owned()));
        assert!(found(&Seen { no_new_privileges: false, ..quiet }).contains(&"new privileges".to_owned()));
    }

    #[test]
    fn root_is_master_of_roots_processes_that_have_no_more_capabilities() {
        let agent = Seen { uid: 0, ..myself() };
        let outside = Seen { pid: nix::unistd::getppid().as_raw(), ..agent.clone() };
        let found = |agent: &Seen, outside: &Seen| traced(&[agent], &[agent.clone(), outside.clone()]).len();
        assert_eq!(found(&agent, &outside), 1);
        assert_eq!(found(&agent, &Seen { capabilities: 1, ..outside.clone() }), 0);
        assert_eq!(found(&Seen { capabilities: 1, ..agent.clone() }, &Seen { capabilities: 1, ..outside.clone() }), 1);
        assert_eq!(found(&agent, &Seen { uid: 1, ..outside.clone() }), 0);
        assert_eq!(found(&Seen { uid: 1, ..agent.clone() }, &outside), 0);
        assert_eq!(traced(&[&agent], std::slice::from_ref(&agent)).len(), 0, "its own");
    }

    #[test]
    fn families_that_no_hook_sees_are_those_that_the_kernel_has_or_loads() {
        let names = |loaded: &str, aliases: &str| {
            unseen_families(loaded, aliases).into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        assert_eq!(names("TIPC   1 -1 -1\nTCP    1 2 3\n", "alias net-pf-24 pppox\n"), ["PPPoX", "TIPC"]);
        assert_eq!(names("PPPOE  1\n", "alias net-pf-21-proto-0 rds\n"), ["RDS", "PPPoX"]);
        assert_eq!(names("RXRPC     1\n", ""), ["RXRPC"]);
        assert_eq!(names("", "alias net-pf-33 rxrpc\n"), ["RXRPC"]);
        assert!(names("AF_VSOCK  1\nTCPv6  1\n", "alias net-pf-38 af_alg\nalias net-pf-240 x\n").is_empty());
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
        let agent = Seen { pid: 7, uid: 4_000_000_000, ..Seen::default() }; // in no passwd file
        let tmux = Seen { pid: 8, ..agent.clone() };
        assert_eq!(shared_users(&config, &[&agent], &[agent.clone(), tmux])[0].level, Level::Fail);
        assert!(shared_users(&config, &[&agent], std::slice::from_ref(&agent)).is_empty());
    }

    #[test]
    fn a_user_is_shared_where_it_will_run_outside_later() {
        let user = User { uid: Uid::from_raw(1000), ..User::from_uid(Uid::from_raw(0)).unwrap().unwrap() };
        let user = User { name: "dev".to_owned(), ..user };
        let shown = "Id=backup.service\nUser=dev\nSlice=system.slice\n\n\
            Id=coder@a.service\nUser=dev\nSlice=agents.slice\n\n\
            Id=below.service\nUser=dev\nSlice=agents-x.slice\n\n\
            Id=by-number.service\nUser=1000\n\n\
            Id=cron.service\nUser=\nSlice=system.slice\n\nId=other.service\nUser=deva\nSlice=system.slice\n";
        let outside = |agents: &str| other_units(shown, &[agents.to_owned()], &user);
        assert_eq!(outside("agents.slice"), ["backup.service", "by-number.service"]);
        // One unit of a slice, and not the others in it.
        let others = ["backup.service", "below.service", "by-number.service"];
        assert_eq!(outside("/agents.slice/coder@a.service"), others);
        assert_eq!(slice_path("a-b-c.slice"), "a.slice/a-b.slice/a-b-c.slice/");
        assert_eq!(slice_path("-.slice"), "");
        assert!(lets_in(Path::new("/bin/bash")) && lets_in(Path::new("")));
        assert!(!lets_in(Path::new("/usr/sbin/nologin")) && !lets_in(Path::new("/bin/false")));
    }

    #[test]
    fn a_directory_that_is_seen_and_writable_can_be_rewritten() {
        assert!(rewrites(&myself(), Path::new("/etc")));
        assert!(!rewrites(&myself(), Path::new("/nowhere")));
    }
}
