//! The agents: their users, tokens and processes, and the doors that are open to them.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Group, User};

use super::{Finding, ways};
use crate::cli::procfs::{self, Seen};
use crate::config::{AgentConfig, Config, TokenSource};
use crate::witness::{self, Subordinate, WitnessConfig};

/// Groups that are as good as root, or read what others keep to themselves.
const POWERFUL_GROUPS: &[&str] = &[
    "root",
    "sudo",
    "wheel",
    "admin",
    "adm",
    "docker",
    "lxd",
    "incus-admin",
    "libvirt",
    "kvm",
    "disk",
    "shadow",
    "systemd-journal",
    "podman",
    "microk8s",
];
/// Where programs look users up.
const NSSWITCH: &str = "/etc/nsswitch.conf";
/// Processes that are named in one finding.
const NAMED: usize = 5;

pub(super) fn users(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for agent in &config.agents {
        let Some(name) = &agent.user else {
            findings.push(Finding::warn(
                &agent.name,
                "has no user of its own: only its cgroup tells it from others",
                "useradd --system, User= in its unit, user = \"...\" in weir.toml",
            ));
            continue;
        };
        match User::from_name(name) {
            Ok(Some(user)) => findings.extend(user_findings(config, &agent.name, &user)),
            _ => findings.push(Finding::fail(
                &agent.name,
                format!("there is no user {name:?}"),
                format!("useradd --system {name}"),
            )),
        }
    }
    findings.extend(subordinates(config));
    findings
}

/// Whom agents' users may become in user namespaces of their own.
fn subordinates(config: &Config) -> Vec<Finding> {
    const SUBJECT: &str = "subordinate users";
    if config.agents.iter().all(|agent| agent.uid.is_none()) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let nsswitch = std::fs::read_to_string(NSSWITCH).unwrap_or_default();
    if let Some(source) = other_source(&nsswitch) {
        findings.push(Finding::fail(
            SUBJECT,
            format!("newuidmap(1) asks {source} whom an agent's user may become, and Weir reads /etc/subuid alone: outside agents' cgroups such a user is free"),
            format!("subid: files in {NSSWITCH}"),
        ));
    }
    match WitnessConfig::new(config).and_then(|witness| witness::subordinates(&witness)) {
        Ok(ranges) => findings.extend(held(config, &ranges)),
        Err(error) => findings.push(Finding::fail(SUBJECT, error.to_string(), "change the line; then weir reload")),
    }
    findings
}

/// One line for each agent whose user may become others.
fn held(config: &Config, ranges: &[Subordinate]) -> Vec<Finding> {
    let finding = |agent: &AgentConfig| {
        let own = ranges.iter().filter(|range| agent.uid == Some(range.owner));
        let own: Vec<String> = own.map(|range| format!("{}-{}", range.first, range.last)).collect();
        let message = format!(
            "its user may become others in user namespaces ({}, by /etc/subuid): outside the agents' cgroups these get no session",
            own.join(", ")
        );
        (!own.is_empty()).then(|| Finding::ok(&agent.name, message))
    };
    config.agents.iter().filter_map(finding).collect()
}

/// Where else than in /etc/subuid newuidmap(1) looks, by nsswitch.conf(5).
fn other_source(nsswitch: &str) -> Option<&str> {
    let sources = nsswitch.lines().find_map(|line| line.trim().strip_prefix("subid:"))?;
    let sources = sources.split('#').next()?.trim();
    (sources != "files" && !sources.is_empty()).then_some(sources)
}

fn user_findings(config: &Config, agent: &str, user: &User) -> Vec<Finding> {
    let mut findings = Vec::new();
    if user.uid.is_root() {
        findings.push(Finding::fail(agent, "its user is root", "give it a user of its own"));
        return findings;
    }
    let sharing: Vec<&str> = config
        .agents
        .iter()
        .filter(|other| other.name != agent && other.uid == Some(user.uid.as_raw()))
        .map(|other| other.name.as_str())
        .collect();
    if !sharing.is_empty() {
        let message =
            format!("shares the user {} with {}: each can read the other's token", user.name, sharing.join(", "));
        findings.push(Finding::fail(agent, message, "give each agent a user of its own"));
    }
    let groups = groups_of(user);
    let named = |all: &[&str]| {
        groups.iter().filter(|(name, _)| all.contains(&name.as_str())).map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let powerful = named(POWERFUL_GROUPS);
    if !powerful.is_empty() {
        let message = format!("its user {} is in {}", user.name, powerful.join(", "));
        findings.push(Finding::fail(agent, message, format!("gpasswd -d {} {}", user.name, powerful[0])));
    }
    let access: Vec<&str> = config
        .access
        .admin
        .iter()
        .chain(&config.access.audit)
        .chain(config.access.approve.values().flatten())
        .map(String::as_str)
        .collect();
    let trusted = named(&access);
    if !trusted.is_empty() {
        let message = format!("its user {} is in {}, a group of [access]", user.name, trusted.join(", "));
        findings.push(Finding::fail(agent, message, format!("gpasswd -d {} {}", user.name, trusted[0])));
    }
    let gids: Vec<u32> = groups.iter().map(|(_, gid)| *gid).collect();
    for socket in ways::RUNNERS.iter().filter(|path| can_connect(Path::new(path), user.uid.as_raw(), &gids)) {
        let message = format!("its user {} can talk to {socket}, and so run anything outside its cgroup", user.name);
        findings.push(Finding::fail(agent, message, "take the user out of the socket's group"));
    }
    findings.extend(sudo(agent, user));
    if findings.is_empty() {
        findings.push(Finding::ok(agent, format!("its user {} has no door that is known", user.name)));
    }
    findings
}

fn groups_of(user: &User) -> Vec<(String, u32)> {
    let Ok(name) = std::ffi::CString::new(user.name.as_str()) else { return Vec::new() };
    let gids = nix::unistd::getgrouplist(&name, user.gid).unwrap_or_default();
    let named = |gid: nix::unistd::Gid| {
        let group = Group::from_gid(gid).ok().flatten();
        (group.map_or_else(|| gid.to_string(), |group| group.name), gid.as_raw())
    };
    gids.into_iter().map(named).collect()
}

/// Connecting needs write permission on the socket's file; directories on the way are taken for open.
fn can_connect(path: &Path, uid: u32, gids: &[u32]) -> bool {
    let Ok(metadata) = std::fs::metadata(path) else { return false };
    metadata.file_type().is_socket() && may(&metadata, 0o2, uid, gids)
}

/// Whether the permission bit (4, 2, 1) is set for this user.
pub(super) fn may(metadata: &std::fs::Metadata, bit: u32, uid: u32, gids: &[u32]) -> bool {
    let mode = metadata.permissions().mode();
    let shift = if metadata.uid() == uid {
        6
    } else if gids.contains(&metadata.gid()) {
        3
    } else {
        0
    };
    mode & (bit << shift) != 0
}

/// Asks sudo itself, since its rules come from many places.
fn sudo(agent: &str, user: &User) -> Option<Finding> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let output = Command::new("sudo").args(["-n", "-l", "-U", &user.name]).env("LC_ALL", "C").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let may = said.lines().any(|line| line.contains("may run the following commands"));
    may.then(|| {
        let message = format!("sudo lets its user {} run commands", user.name);
        Finding::fail(agent, message, format!("sudo -l -U {} shows the rule: remove it", user.name))
    })
}

/// Token files: there, plain, nobody else's.
pub(super) fn tokens(config: &Config) -> Vec<Finding> {
    config
        .agents
        .iter()
        .flat_map(|agent| match &agent.token {
            TokenSource::Environment(name) => vec![Finding::warn(
                &agent.name,
                format!("its token is in the environment ({name}), where every process of its user can read it"),
                "token = { file = \"...\" } keeps it better",
            )],
            TokenSource::File(template) => {
                let path = PathBuf::from(template.replace("%u", agent.user.as_deref().unwrap_or("%u")));
                // %i is known only of instances that run.
                if template.contains("%i") { Vec::new() } else { vec![token_file(&agent.name, &path)] }
            }
        })
        .collect()
}

fn token_file(agent: &str, path: &Path) -> Finding {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::warn(
            agent,
            format!("its token {shown} is not there"),
            "whoever issues tokens has to write it before the agent connects",
        ),
        Err(error) => Finding::fail(agent, format!("its token {shown}: {error}"), "run as root"),
        Ok(metadata) if !metadata.is_file() => Finding::fail(
            agent,
            format!("its token {shown} is no plain file, and will not be read"),
            "replace it by a file",
        ),
        Ok(metadata) if metadata.permissions().mode() & 0o007 != 0 => {
            Finding::fail(agent, format!("its token {shown} can be read by everybody"), format!("chmod 0600 {shown}"))
        }
        Ok(_) => Finding::ok(agent, format!("its token {shown} is there")),
    }
}

/// What runs as an agent now.
pub(super) fn processes(config: &Config) -> Vec<Finding> {
    let processes = match procfs::processes() {
        Ok(processes) => processes,
        Err(error) => return vec![Finding::fail("processes", error.chain(), "")],
    };
    let inside =
        |process: &&Seen| {
            let path = process.cgroup.trim_start_matches('/');
            config.gateway.agents.iter().any(|agent| {
                path.strip_prefix(agent.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        };
    let agents: Vec<&Seen> = processes.iter().filter(inside).collect();
    let subordinates = WitnessConfig::new(config).and_then(|witness| witness::subordinates(&witness));
    // Of an error there is a finding.
    let subordinates = subordinates.unwrap_or_default();
    let is_agent_user = |process: &&Seen| {
        config.agents.iter().any(|agent| agent.uid == Some(process.uid))
            || subordinates.iter().any(|range| (range.first..=range.last).contains(&process.uid))
    };
    let outside: Vec<&Seen> = processes.iter().filter(is_agent_user).filter(|process| !inside(process)).collect();
    let mut findings = Vec::new();
    // What is an agent by its user alone has the same doors, and no unit's settings in front of them.
    let all: Vec<Seen> = agents.iter().chain(&outside).map(|&process| process.clone()).collect();
    for (cgroup, members) in procfs::by_cgroup(&all) {
        findings.extend(ways::findings(config, cgroup, &members));
        findings.extend(ways::foreign(config, cgroup, &members));
    }
    findings.extend(ways::shared_users(config, &agents, &processes));
    let kernel_half = WitnessConfig::new(config).and_then(|witness| witness::kernel_status(&witness));
    if !kernel_half.is_ok_and(|report| report.keeps_tracers_out()) {
        findings.extend(ways::traced(&agents, &processes));
    }
    if !outside.is_empty() {
        findings.push(Finding::warn(
            "processes",
            format!("run as an agent's user outside agents' cgroups: {}", named(&outside)),
            "they are intercepted by their user; start them in agents.slice",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("processes", format!("{} run as agents", agents.len())));
    }
    findings
}

pub(super) fn named(processes: &[&Seen]) -> String {
    let mut text: Vec<String> =
        processes.iter().take(NAMED).map(|process| format!("{} ({})", process.name, process.pid)).collect();
    if processes.len() > NAMED {
        text.push(format!("{} more", processes.len() - NAMED));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;
    use crate::config::AgentMatch;
    use crate::identity::tests::{agent, config, identity_config};

    #[test]
    fn whom_agents_users_may_become_is_told() {
        assert_eq!(other_source("passwd: files sss\nsubid: files\n"), None);
        assert_eq!(other_source("passwd: files\n#subid: sss\n"), None);
        assert_eq!(other_source("  subid:  sss # central\n"), Some("sss"));
        let mut config = config(identity_config("https://idp.example".to_owned()), Vec::new());
        config.agents = vec![AgentConfig { uid: Some(990), ..agent("coder", AgentMatch::UserOnly) }];
        let range = |owner| Subordinate { owner, first: 100_000, last: 165_535 };
        let found = held(&config, &[range(990)]);
        assert!(found[0].level == Level::Ok && found[0].message.contains("100000-165535"), "{found:?}");
        assert!(held(&config, &[range(991)]).is_empty());
    }

    #[test]
    fn permissions_are_the_owners_the_groups_or_everybodys() {
        let path = std::env::temp_dir().join(format!("weir-doctor-{}", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let with_mode = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            std::fs::metadata(&path).unwrap()
        };
        let owner = with_mode(0o600);
        let (uid, gid) = (owner.uid(), owner.gid());
        assert!(may(&owner, 2, uid, &[]) && !may(&owner, 2, uid + 1, &[gid]));
        let group = with_mode(0o060);
        assert!(!may(&group, 2, uid, &[gid]), "the owner's own bits come first");
        assert!(may(&group, 2, uid + 1, &[gid]) && !may(&group, 2, uid + 1, &[gid + 1]));
        assert!(may(&with_mode(0o002), 2, uid + 1, &[gid + 1]));
        assert_eq!(token_file("coder", &path).level, Level::Fail);
        with_mode(0o600);
        assert_eq!(token_file("coder", &path).level, Level::Ok);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(token_file("coder", &path).level, Level::Warn);
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(token_file("coder", &path).level, Level::Fail);
        std::fs::remove_file(&path).unwrap();
    }
}
