//! What capabilities of a process in a user namespace are worth. One that an agent made by itself leads nowhere: who leaves it does so by
//! processes of the agent's own. To one that somebody else made, as runtimes do that root runs (`userns-remap`, `--userns=auto`,
//! `--private-users`), a network was given that has a line to others, and whoever is root there has packet sockets on it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use procfs::ProcError;
use procfs::process::{Process, Status};

/// Who may do what in a process's user namespace, as far as it concerns this host's networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Worth {
    /// Its capabilities are about nothing that leads out.
    Nothing,
    /// They count, and whoever is this user has them all as soon as it executes something. None: nobody is root there.
    As(Option<u32>),
}

/// Of a process whose user namespace is this one's, or another one. `agent_uids` are users whose processes are agents wherever they are.
pub(super) fn worth(process: &Process, status: &Status, agent_uids: &[u32]) -> Result<Worth, ProcError> {
    let (own, theirs) = (Process::myself()?.open_relative("ns/user")?, process.open_relative("ns/user")?);
    if identity(&own)? == identity(&theirs)? {
        return Ok(Worth::As(Some(0)));
    }
    let owner = owner(&theirs)?;
    let is_users = [status.ruid, status.euid].contains(&owner) || agent_uids.contains(&owner);
    // Root makes them for others, and moves devices into them.
    if is_users && owner != 0 {
        return Ok(Worth::Nothing);
    }
    if identity(&namespace_of(&process.open_relative("ns/net")?)?)? == identity(&own)? {
        return Ok(Worth::Nothing);
    }
    let map = io::read_to_string(process.open_relative("uid_map")?)?;
    Ok(Worth::As(root_in(&map)))
}

fn identity(namespace: &File) -> io::Result<(u64, u64)> {
    let metadata = namespace.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// The user who made a user namespace, in the numbers of this one (ioctl_ns(2)).
fn owner(namespace: &impl AsFd) -> io::Result<u32> {
    const NS_GET_OWNER_UID: libc::Ioctl = 0xb704;
    let mut uid: libc::uid_t = 0;
    // SAFETY: it writes one uid, which is what the pointer points to.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if result == 0 { Ok(uid) } else { Err(io::Error::last_os_error()) }
}

/// The user namespace that another namespace belongs to: whose capabilities are about that (ioctl_ns(2)).
fn namespace_of(namespace: &impl AsFd) -> io::Result<File> {
    const NS_GET_USERNS: libc::Ioctl = 0xb701;
    // SAFETY: it takes nothing, and gives a descriptor.
    let result = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), NS_GET_USERNS) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(result) }.into())
}

/// Who is root there, in this namespace's numbers (user_namespaces(7)): a line has the first number inside, the first outside, and
/// how many there are.
fn root_in(uid_map: &str) -> Option<u32> {
    uid_map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace();
        (numbers.next()? == "0").then(|| numbers.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_whose_namespaces_these_are() {
        let process = Process::myself().unwrap();
        let (user, network) = ["ns/user", "ns/net"].map(|name| process.open_relative(name).unwrap()).into();
        assert_eq!(identity(&namespace_of(&network).unwrap()).unwrap(), identity(&user).unwrap());
        assert_eq!(owner(&user).unwrap(), 0);
        assert!(owner(&network).is_err(), "no user namespace");
        assert_eq!(worth(&process, &process.status().unwrap(), &[]).unwrap(), Worth::As(Some(0)));
    }

    #[test]
    fn root_of_a_namespace_is_whoever_its_zero_stands_for() {
        assert_eq!(root_in("         0     100000      65536\n"), Some(100_000));
        assert_eq!(root_in("      1000       1000          1\n         0     100000       1000\n"), Some(100_000));
        assert_eq!(root_in("      1000       1000          1\n"), None);
        assert_eq!(root_in(""), None);
    }
}
