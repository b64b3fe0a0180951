//! Who is at the other end of the socket, by the kernel's word.
//!
//! A process number alone proves little: it may be another process by the time one looks. So the gateway first takes a
//! pidfd of the process that connected, then greets with a nonce, and reads the answer with the sender's number attached by
//! the kernel. If that number is the same and the pidfd's process still lives when everything has been read, all of it is
//! about that one process: a forked child that holds the socket cannot borrow the number of somebody who came later.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::UnixStream;

use super::{Actor, sys};

/// Bytes read of a file in /proc; what is longer is not understood.
const MAX_PROC_FILE: u64 = 64 * 1024;
/// What the kernel shows where nobody logged in.
const NO_LOGIN: u32 = u32::MAX;

/// The process that connected, held.
pub(super) struct Peer {
    pub(super) pid: i32,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    pidfd: OwnedFd,
}

/// What is known of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub pid: i32,
    /// Effective user at connect.
    pub uid: u32,
    pub user: String,
    /// Primary and supplementary groups at connect.
    pub groups: Vec<u32>,
    /// Real, effective, saved and file system uid, and the one that logged in: none of them may be an agent's.
    pub uids: Vec<u32>,
    pub login_uid: Option<u32>,
    /// Path in the cgroup2 hierarchy, with a leading slash.
    pub cgroup: String,
}

impl Peer {
    /// Takes hold of the process that connected, and has the kernel attach the sender's number to what is read.
    pub(super) fn of(stream: &UnixStream) -> io::Result<Self> {
        let peer = Self::connected_to(stream)?;
        setsockopt(stream, sockopt::PassCred, &true)?;
        Ok(peer)
    }

    /// Takes hold of the process that connected.
    fn connected_to(socket: &impl AsFd) -> io::Result<Self> {
        let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
        if credentials.pid() <= 0 {
            return Err(io::Error::other("the client's process is not visible from here"));
        }
        Ok(Self {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
            groups: sys::peer_groups(socket.as_fd())?,
            pidfd: sys::pidfd_open(credentials.pid())?,
        })
    }

    /// Reads what /proc says, and makes sure that it was about this process. Blocks.
    pub(super) fn facts(&self) -> io::Result<Facts> {
        let status = self.read("status")?;
        let mut uids = real_uids(&status).ok_or_else(|| self.unreadable("status"))?;
        let cgroup = unified_cgroup(&self.read("cgroup")?).ok_or_else(|| self.unreadable("cgroup"))?;
        // Missing where the kernel has no audit support.
        let login_uid = match self.read("loginuid") {
            Ok(text) => Some(text.trim().parse().map_err(|_| self.unreadable("loginuid"))?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        }
        .filter(|&uid| uid != NO_LOGIN);
        uids.extend(login_uid);
        let user =
            nix::unistd::User::from_uid(self.uid.into())?.map_or_else(|| format!("#{}", self.uid), |user| user.name);
        if self.has_ended()? {
            return Err(io::Error::other("the client's process has ended"));
        }
        let mut groups = self.groups.clone();
        groups.push(self.gid);
        Ok(Facts { pid: self.pid, uid: self.uid, user, groups, uids, login_uid, cgroup })
    }

    fn has_ended(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    fn read(&self, file: &str) -> io::Result<String> {
        use io::Read as _;
        let path = format!("/proc/{}/{file}", self.pid);
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
        let mut text = String::new();
        std::fs::File::open(&path).map_err(explain)?.take(MAX_PROC_FILE).read_to_string(&mut text).map_err(explain)?;
        Ok(text)
    }

    fn unreadable(&self, file: &str) -> io::Error {
        io::Error::other(format!("/proc/{}/{file} does not have what it should", self.pid))
    }
}

/// The cgroup of the process that connected to this socket, where it lives and is visible. Blocks.
pub(crate) fn cgroup_of(socket: &impl AsFd) -> io::Result<String> {
    Ok(Peer::connected_to(socket)?.facts()?.cgroup)
}

/// The cgroup of this process.
pub(crate) fn own_cgroup() -> io::Result<String> {
    let file = std::fs::read_to_string("/proc/self/cgroup")?;
    unified_cgroup(&file).ok_or_else(|| io::Error::other("/proc/self/cgroup does not have what it should"))
}

impl Facts {
    pub(super) fn actor(&self) -> Actor {
        Actor { user: self.user.clone(), uid: self.uid, login_uid: self.login_uid, pid: self.pid }
    }
}

/// The four uids of a `status` file.
fn real_uids(status: &str) -> Option<Vec<u32>> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let uids: Vec<u32> = line.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
    (uids.len() == 4).then_some(uids)
}

/// The cgroup2 path of a `cgroup` file. A path that leads out of the gateway's cgroup namespace says nothing.
fn unified_cgroup(file: &str) -> Option<String> {
    let path = file.lines().find_map(|line| line.strip_prefix("0::"))?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    (path.starts_with('/') && !path.split('/').any(|part| part == "..")).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_strictly() {
        assert_eq!(real_uids("Name:\tx\nUid:\t1\t0\t1\t0\nGid:\t0\n"), Some(vec![1, 0, 1, 0]));
        assert_eq!(real_uids("Uid:\t1\t0\t1\n"), None);
        assert_eq!(real_uids("Uid:\t1\t0\t1\tx\n"), None);
        assert_eq!(real_uids(""), None);
        let hybrid = "1:cpu:/a\n0::/agents.slice/coder@a.service\n";
        assert_eq!(unified_cgroup(hybrid).as_deref(), Some("/agents.slice/coder@a.service"));
        assert_eq!(unified_cgroup("0::/agents.slice/x (deleted)\n").as_deref(), Some("/agents.slice/x"));
        assert_eq!(unified_cgroup("0::/../agents.slice\n"), None);
        assert_eq!(unified_cgroup("1:cpu:/\n"), None);
    }
}
