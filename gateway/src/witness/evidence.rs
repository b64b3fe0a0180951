//! What procfs says about an origin. Every process is read through one descriptor of its /proc directory, so that a number
//! that is used again in between is noticed and not believed; a process that began at another time than the one that connected, or
//! sits in another cgroup, is an error.

use std::fs::File;
use std::io::Read;

use procfs::ProcError;
use procfs::process::{Process as Proc, Stat};

use super::cgroup;
use super::container::{self, Description};
use super::files::MAX_SECRET;
use super::kernel::io_error;
use super::peer::login_uid_in;
use super::redact::redact;
use super::user_namespaces::{self, Worth};
use super::{KernelConfig, WitnessConfig, WitnessError};
use crate::origin::{Evidence, Origin, Process, Risk, container_id};
use crate::secret::Secret;

/// Ancestors that are told, the process itself included.
const MAX_TREE: usize = 16;
/// Bytes of a command line that are read, arguments that are told, and bytes of each.
const MAX_COMMAND_LINE: u64 = 16 * 1024;
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT: usize = 512;
/// The kernel's own limit for the environment is larger; a token in front of that is found.
const MAX_ENVIRONMENT: u64 = 1024 * 1024;
const MAX_PASSWD: u64 = 1024 * 1024;

/// A process, and what is to be told of it.
pub(super) struct Examined {
    pub(super) process: Proc,
    pub(super) stat: Stat,
    pub(super) evidence: Evidence,
}

pub(super) fn examine(config: &WitnessConfig, origin: &Origin) -> Result<Examined, WitnessError> {
    let WitnessConfig { kernel: config, containers, .. } = config;
    let cgroup = captured_cgroup(config, origin)?;
    let (process, stat) = connected_process(origin, &cgroup)?;
    let mut tree = vec![describe(&process, &stat)];
    let mut parent = stat.ppid;
    while tree.len() < MAX_TREE && parent > 1 {
        let Ok(process) = Proc::new(parent) else { break };
        let Ok(stat) = process.stat() else { break };
        if cgroup_of(&process).as_deref() != Some(cgroup.as_str()) {
            break;
        }
        tree.push(describe(&process, &stat));
        parent = stat.ppid;
    }
    let login_uid = login_uid(&process).map_err(|error| gone(origin.pid, &error))?;
    // After that: a process that ended has no `loginuid` either, and is noticed here.
    let risks = risks(&process, &config.agent_uids).map_err(|error| gone(origin.pid, &error))?;
    let container = cgroup.split('/').find_map(container_id).map(str::to_owned);
    let Description { name, labels } =
        if *containers { container::describe(&config.cgroup_mount, &cgroup) } else { Description::default() };
    let evidence = Evidence {
        container,
        container_name: name,
        container_labels: labels,
        cgroup,
        user: user_name(origin.uid),
        login_uid,
        risks,
        tree,
    };
    Ok(Examined { process, stat, evidence })
}

/// Who logged in where the process was started. There is no such file where the kernel has no audit support.
fn login_uid(process: &Proc) -> Result<Option<u32>, ProcError> {
    match read(process, "loginuid", MAX_COMMAND_LINE) {
        Ok(text) => login_uid_in(&String::from_utf8_lossy(&text))
            .map_err(|_| ProcError::Other("its loginuid is no number".to_owned())),
        Err(ProcError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the process holds, or has back as soon as it executes something: root has its bounding set then, unless it may
/// gain nothing. It is the main thread's word: this is to find what was left open by mistake, while the kernel half stops what a
/// hostile thread tries.
fn risks(process: &Proc, agent_uids: &[u32]) -> Result<Vec<Risk>, ProcError> {
    let status = process.status()?;
    let Worth::As(root) = user_namespaces::worth(process, &status, agent_uids)? else { return Ok(Vec::new()) };
    let is_root = root.is_some_and(|root| [status.ruid, status.euid, status.suid].contains(&root));
    let held = status.capprm | status.capeff;
    let regains = is_root && status.nonewprivs != Some(1);
    Ok(Risk::among(if regains { held | status.capbnd.unwrap_or(u64::MAX) } else { held }))
}

/// A configured variable out of the environment that the process was started with.
pub(super) fn token_environment(config: &WitnessConfig, origin: &Origin, name: &str) -> Result<Secret, WitnessError> {
    if !config.token_variables.iter().any(|variable| variable == name) {
        return Err(WitnessError::NotConfigured(format!("the environment variable {name}")));
    }
    let cgroup = captured_cgroup(&config.kernel, origin)?;
    let (process, _) = connected_process(origin, &cgroup)?;
    let environment = read(&process, "environ", MAX_ENVIRONMENT).map_err(|error| gone(origin.pid, &error))?;
    let environment = zeroize::Zeroizing::new(environment);
    let value = environment
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
        .ok_or_else(|| WitnessError::Missing(format!("the environment variable {name} of process {}", origin.pid)))?;
    let value = value.trim_ascii();
    if value.is_empty() {
        return Err(WitnessError::Empty(format!("the environment variable {name} of process {}", origin.pid)));
    }
    if value.len() > MAX_SECRET {
        return Err(WitnessError::TooLarge { path: format!("the environment variable {name}"), limit: MAX_SECRET });
    }
    Ok(Secret::new(value.to_vec()))
}

/// The path of the cgroup whose id the kernel captured at connect.
fn captured_cgroup(config: &KernelConfig, origin: &Origin) -> Result<String, WitnessError> {
    cgroup::path_of_id(&config.cgroup_mount, origin.cgroup_id)
        .map_err(|error| io_error("the cgroup of the origin", &error.to_string()))?
        .ok_or(WitnessError::UnknownCgroup(origin.cgroup_id))
}

/// The process that connected, and not one that got its number, in the captured cgroup.
fn connected_process(origin: &Origin, cgroup: &str) -> Result<(Proc, Stat), WitnessError> {
    let pid = i32::try_from(origin.pid).map_err(|_| WitnessError::Gone { pid: origin.pid })?;
    let process = Proc::new(pid).map_err(|error| gone(origin.pid, &error))?;
    let stat = process.stat().map_err(|error| gone(origin.pid, &error))?;
    if !origin.is_of_process_begun_at(started_at(&stat)) {
        return Err(WitnessError::Reused { pid: origin.pid });
    }
    if cgroup_of(&process).as_deref() != Some(cgroup) {
        return Err(WitnessError::OtherCgroup { pid: origin.pid });
    }
    Ok((process, stat))
}

fn gone(pid: u32, error: &ProcError) -> WitnessError {
    match error {
        ProcError::NotFound(_) => WitnessError::Gone { pid },
        ProcError::Io(io, _) if io.raw_os_error() == Some(libc::ESRCH) => WitnessError::Gone { pid },
        error => io_error(&format!("process {pid}"), &error.to_string()),
    }
}

/// The start in nanoseconds of CLOCK_BOOTTIME; the kernel tells clock ticks, rounded down.
pub(super) fn started_at(stat: &Stat) -> u64 {
    let tick = 1_000_000_000 / procfs::ticks_per_second().max(1);
    stat.starttime.saturating_mul(tick)
}

/// With a leading slash, as [`Evidence::cgroup`] has it.
fn cgroup_of(process: &Proc) -> Option<String> {
    let text = String::from_utf8(read(process, "cgroup", MAX_COMMAND_LINE).ok()?).ok()?;
    cgroup::parse_proc(&text).map(|path| format!("/{path}"))
}

fn describe(process: &Proc, stat: &Stat) -> Process {
    let executable = process.exe().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    let command_line = read(process, "cmdline", MAX_COMMAND_LINE).unwrap_or_default();
    Process {
        pid: u32::try_from(stat.pid).unwrap_or(0),
        started_at: started_at(stat),
        executable,
        argv: redact(arguments(&command_line)),
    }
}

fn arguments(command_line: &[u8]) -> Vec<String> {
    let command_line = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    if command_line.is_empty() {
        return Vec::new();
    }
    let mut arguments: Vec<String> = command_line
        .split(|&byte| byte == 0)
        .take(MAX_ARGUMENTS)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect();
    for argument in &mut arguments {
        if argument.len() > MAX_ARGUMENT {
            argument.truncate(argument.floor_char_boundary(MAX_ARGUMENT));
            argument.push('…');
        }
    }
    arguments
}

fn read(process: &Proc, name: &str, limit: u64) -> Result<Vec<u8>, ProcError> {
    let mut bytes = Vec::new();
    process.open_relative(name)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// From /etc/passwd alone: the name service may ask the network, and this process does not listen to that.
fn user_name(uid: u32) -> Option<String> {
    let mut text = Vec::new();
    File::open("/etc/passwd").ok()?.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
    user_in(&String::from_utf8_lossy(&text), uid)
}

fn user_in(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn own_origin() -> (WitnessConfig, Origin) {
        let mount = cgroup::mount_point().unwrap();
        let own = cgroup::of_process("self").unwrap();
        let id = cgroup::look_up(&mount, &own).unwrap().id;
        let kernel = KernelConfig {
            cgroup_mount: mount,
            attach: String::new(),
            agents: Vec::new(),
            agent_uids: Vec::new(),
            agent_names: [].into(),
            subuid: "/nowhere".into(),
            listen: Vec::new(),
            gateway_cgroup: None,
            port: 0,
            dns_port: 0,
            bpf_dir: std::path::PathBuf::new(),
            hold_without_gateway: false,
        };
        let config = WitnessConfig {
            kernel,
            token_files: Vec::new(),
            token_variables: Vec::new(),
            credentials: Vec::new(),
            containers: true,
        };
        let address = "192.0.2.1:5432".parse().unwrap();
        let origin = Origin {
            pid: std::process::id(),
            uid: nix::unistd::getuid().as_raw(),
            gid: 0,
            cgroup_id: id,
            socket_cgroup_id: id,
            netns_cookie: 0,
            connected_at: super::super::kernel::boot_time(),
            started_at: None,
            destination: address,
            source: address,
        };
        (config, origin)
    }

    #[test]
    fn this_process_is_described_and_a_younger_one_refused() {
        let (config, mut origin) = own_origin();
        let Examined { evidence, .. } = examine(&config, &origin).unwrap();
        assert_eq!(evidence.tree[0].pid, origin.pid);
        assert_eq!(evidence.tree[0].executable, std::env::current_exe().unwrap().to_string_lossy());
        assert!(evidence.tree[0].started_at <= origin.connected_at && !evidence.tree[0].argv.is_empty());
        let peer = super::super::peer::peer(i32::try_from(origin.pid).unwrap(), |_| false).unwrap();
        assert_eq!(evidence.login_uid, peer.login_uid);
        origin.connected_at = 1;
        assert_eq!(examine(&config, &origin).err(), Some(WitnessError::Reused { pid: origin.pid }));
        // The kernel says when it began, so that the connect need not be compared with it.
        let began = evidence.tree[0].started_at;
        for (exactly, is_it) in
            [(began, true), (began + 9_999_999, true), (began + 10_000_000, false), (began - 1, false)]
        {
            origin.started_at = Some(exactly);
            assert_eq!(examine(&config, &origin).is_ok(), is_it, "{exactly}");
        }
    }

    #[test]
    fn an_unknown_cgroup_and_a_dead_process_are_refused() {
        let (config, mut origin) = own_origin();
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        origin.pid = child.id();
        assert_eq!(examine(&config, &origin).err(), Some(WitnessError::Gone { pid: child.id() }));
        origin.cgroup_id = u64::MAX;
        assert_eq!(examine(&config, &origin).err(), Some(WitnessError::UnknownCgroup(u64::MAX)));
    }

    #[test]
    fn arguments_are_bounded() {
        let long = [b"a".repeat(2000), b"\0".to_vec(), b"b\0".repeat(100)].concat();
        let arguments = arguments(&long);
        assert_eq!(arguments.len(), MAX_ARGUMENTS);
        assert!(arguments[0].len() < 600 && arguments[1] == "b");
    }

    #[test]
    fn user_names_come_from_the_third_field() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nagent:x:990:990::/:/bin/false\n";
        assert_eq!(user_in(passwd, 990).as_deref(), Some("agent"));
        assert_eq!(user_in(passwd, 1), None);
    }
}
