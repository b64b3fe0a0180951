//! A machine of their own for container runtimes: its network, and the directories in which they keep what they know, which
//! are empty at first and gone with the process. So they meet no Docker or Podman of the machine's own, leave no rule, bridge,
//! image or container on it, and are still read where they are read everywhere.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::Result;

/// Docker's, containerd's, runc's and Podman's.
const DIRECTORIES: [&str; 10] = [
    "/var/lib/docker",
    "/run/docker",
    "/run/containerd",
    "/run/runc",
    "/var/lib/containers",
    "/run/containers",
    "/run/libpod",
    "/run/podman",
    "/var/lib/cni",
    "/run/netns",
];
/// Numbers of `tun` (Linux, admin-guide/devices.txt).
const TUN: (u64, u64) = (10, 200);

/// Puts this thread on that machine: what it starts from now on, threads and processes, is there too. Call it first of all in a
/// test. There is one such machine for the whole process, made by the first call: the thread that starts the fixtures' processes
/// stays where it was made.
pub fn enter() -> Result {
    static ONLY: Mutex<Option<[File; 2]>> = Mutex::new(None);
    let mut only = ONLY.lock().unwrap_or_else(PoisonError::into_inner);
    // Threads share a root and a working directory, which belong to one mount namespace.
    unshare(CloneFlags::CLONE_FS)?;
    if let Some([mounts, network]) = &*only {
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        setns(network.as_fd(), CloneFlags::CLONE_NEWNET)?;
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
    private_mounts()?;
    for directory in DIRECTORIES {
        fs::create_dir_all(directory)?;
        empty(directory)?;
    }
    open_tun()?;
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status()?;
    if !up.success() {
        return Err("the loopback device does not come up".into());
    }
    *only = Some([File::open("/proc/thread-self/ns/mnt")?, File::open("/proc/thread-self/ns/net")?]);
    Ok(())
}

/// Mounts from now on are this namespace's alone.
fn private_mounts() -> Result {
    Ok(mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?)
}

fn empty(directory: &str) -> Result {
    mount(Some("weir-test"), directory, Some("tmpfs"), MsFlags::empty(), Some("mode=755"))
        .map_err(|error| format!("{directory}: {error}").into())
}

/// Anybody may open `/dev/net/tun`, as udev has it.
fn open_tun() -> Result {
    empty("/dev/net")?;
    let everybody = Mode::from_bits_truncate(0o666);
    mknod("/dev/net/tun", SFlag::S_IFCHR, everybody, makedev(TUN.0, TUN.1))?;
    // Whatever the umask was.
    Ok(fs::set_permissions("/dev/net/tun", std::os::unix::fs::PermissionsExt::from_mode(0o666))?)
}
