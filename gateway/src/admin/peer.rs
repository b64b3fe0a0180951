//! Who is at the other end of the socket, by the kernel's word.
//!
//! A process number alone proves little: it may be another process by the time one looks. So the gateway first takes a
//! pidfd of the process that connected, then greets with a nonce, and reads the answer with the sender's number attached by
//! the kernel. If that number is the same and the pidfd's process still lives when the witness has read everything, all of it is
//! about that one process: a forked child that holds the socket cannot borrow the number of somebody who came later.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use tokio::net::UnixStream;

use super::{Actor, sys};
use crate::witness::{Peer as Process, Witness};

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
    /// That uid's name, if it has one.
    pub login_user: Option<String>,
    /// Path in the cgroup2 hierarchy, with a leading slash.
    pub cgroup: String,
    /// An agent's user may become one of the uids.
    pub is_subordinate: bool,
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

    /// What is known, with what the witness has `read` of this process's number since it was taken hold of. Blocks.
    pub(super) fn facts(&self, read: Process) -> io::Result<Facts> {
        let Process { mut uids, login_uid, cgroup, is_subordinate } = read;
        uids.extend(login_uid);
        let name = |uid: u32| nix::unistd::User::from_uid(uid.into()).map(|user| user.map(|user| user.name));
        let user = name(self.uid)?.unwrap_or_else(|| format!("#{}", self.uid));
        let login_user = login_uid.map(name).transpose()?.flatten();
        self.still_lives()?;
        let mut groups = self.groups.clone();
        groups.push(self.gid);
        Ok(Facts { pid: self.pid, uid: self.uid, user, groups, uids, login_uid, login_user, cgroup, is_subordinate })
    }

    /// The number is this process's to here.
    fn still_lives(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? > 0 {
            return Err(io::Error::other("the client's process has ended"));
        }
        Ok(())
    }
}

/// The cgroup of the process that connected to this socket, where it lives and is visible.
pub(crate) async fn cgroup_of(socket: &impl AsFd, witness: &Witness) -> io::Result<String> {
    let peer = Peer::connected_to(socket)?;
    let process = witness.peer(peer.pid).await.map_err(io::Error::other)?;
    peer.still_lives()?;
    Ok(process.cgroup)
}

impl Facts {
    pub(super) fn actor(&self) -> Actor {
        Actor { user: self.user.clone(), uid: self.uid, login_uid: self.login_uid, pid: self.pid }
    }
}
