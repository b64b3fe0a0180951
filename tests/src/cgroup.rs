//! A ground of its own for every test that needs the kernel half: a cgroup below the cgroup2 mount with `agents`,
//! `gateway` and `bystanders` in it, to which the programs are attached, and a pin directory. Both go when it is dropped;
//! [`clean`] removes what killed runs left. Nothing is ever attached to the real root.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use weir::witness::KernelConfig;

const PREFIX: &str = "weir-test-";
const BPF_MOUNT: &str = "/sys/fs/bpf";
/// First of the ports that grounds use: below the ephemeral range, so that nobody is given one by chance.
const FIRST_PORT: u16 = 14_000;
const PORTS: u32 = 16_000;

/// One test's cgroups and pins.
#[derive(Debug)]
pub struct Ground {
    mount: PathBuf,
    /// Path below the mount.
    name: String,
    pub port: u16,
    pub dns_port: u16,
    bpf_dir: PathBuf,
    /// cgroup from which [`Ground::enter`] moved this process.
    home: Option<PathBuf>,
}

impl Ground {
    /// Makes the cgroups. Panics with the reason where that is impossible: a kernel test cannot be skipped.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (pid, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mount = mount_point();
        let name = format!("{PREFIX}{pid}-{number}");
        for part in ["agents", "gateway", "bystanders"] {
            let path = mount.join(&name).join(part);
            fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        let offset = u16::try_from((pid * 16 + number * 2) % PORTS).expect("below 16,000");
        let bpf_dir = Path::new(BPF_MOUNT).join(&name);
        Self { mount, name, port: FIRST_PORT + offset, dns_port: FIRST_PORT + offset + 1, bpf_dir, home: None }
    }

    /// What the kernel half is told, with this process's gateway cgroup.
    pub fn kernel_config(&self) -> KernelConfig {
        KernelConfig {
            cgroup_mount: self.mount.clone(),
            attach: self.name.clone(),
            agents: vec![self.below("agents")],
            agent_uids: Vec::new(),
            agent_names: [].into(),
            subuid: "/nowhere".into(),
            listen: Vec::new(),
            gateway_cgroup: Some(self.below("gateway")),
            port: self.port,
            dns_port: self.dns_port,
            bpf_dir: self.bpf_dir.clone(),
            hold_without_gateway: false,
        }
    }

    /// The path below the mount of a cgroup of this ground.
    pub fn below(&self, cgroup: &str) -> String {
        format!("{}/{cgroup}", self.name)
    }

    /// The directory of a cgroup of this ground, made if it is missing.
    pub fn directory(&self, cgroup: &str) -> PathBuf {
        let path = self.mount.join(self.below(cgroup));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    /// Moves this whole process into the ground's gateway cgroup, until the ground is dropped.
    pub fn enter(&mut self) {
        let own = fs::read_to_string("/proc/self/cgroup").expect("/proc/self/cgroup");
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup2 cgroup").to_owned();
        self.home = Some(self.mount.join(own));
        join(&self.directory("gateway"), std::process::id()).expect("enter the gateway's cgroup");
    }

    /// A command that runs in a cgroup of this ground from its first instruction on.
    pub fn command(&self, cgroup: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
        command.arg(self.directory(cgroup).join("cgroup.procs")).arg(program);
        command
    }
}

impl Default for Ground {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let _ = join(home, std::process::id());
        }
        let _ = weir::witness::clean(&self.bpf_dir);
        remove(&self.mount.join(&self.name));
    }
}

/// Removes the pins and the cgroups of test runs that are over. Those of living processes stay.
pub fn clean() -> io::Result<()> {
    for directory in [Path::new(BPF_MOUNT), &mount_point()] {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
            let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
            if Path::new("/proc").join(pid).exists() {
                continue;
            }
            if directory == Path::new(BPF_MOUNT) {
                weir::witness::clean(&path).map_err(io::Error::other)?;
            } else {
                remove(&path);
            }
        }
    }
    Ok(())
}

fn join(cgroup: &Path, pid: u32) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), pid.to_string())
}

/// Kills what still runs there and removes the cgroup with all below it.
fn remove(cgroup: &Path) {
    let _ = fs::write(cgroup.join("cgroup.kill"), "1");
    let deadline = Instant::now() + Duration::from_secs(5);
    while remove_tree(cgroup).is_err() && Instant::now() < deadline {
        // The killed are gone from the cgroup only when the kernel has buried them.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

fn mount_point() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc/self/mounts");
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let path = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .expect("a cgroup2 mount")
}
