//! Who is at the other end of one of the gateway's own sockets, by what /proc says of the process. The gateway itself sees no
//! process but its own (`ProtectProc=`).

use std::fs::File;
use std::io::{self, Read};
use std::num::ParseIntError;

use serde::{Deserialize, Serialize};

use super::WitnessError;
use super::kernel::at;

/// Bytes read of a file in /proc; what is longer is not understood.
const MAX_PROC_FILE: u64 = 64 * 1024;
/// What the kernel shows where nobody logged in.
const NO_LOGIN: u32 = u32::MAX;

/// What is known of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Real, effective, saved and file system uid.
    pub uids: Vec<u32>,
    /// The user who logged in, where somebody did.
    pub login_uid: Option<u32>,
    /// Path in the cgroup2 hierarchy, with a leading slash.
    pub cgroup: String,
    /// One of the uids is one that an agent's user may become (/etc/subuid).
    pub is_subordinate: bool,
}

/// The process that has this number now: whoever asks must know that it is the one meant.
pub(crate) fn peer(pid: i32, is_subordinate: impl Fn(u32) -> bool) -> Result<Peer, WitnessError> {
    let peer = read_peer(pid).map_err(at("the process that asks"))?;
    Ok(Peer { is_subordinate: peer.uids.iter().chain(&peer.login_uid).any(|uid| is_subordinate(*uid)), ..peer })
}

/// The cgroup of this process, as [`Peer::cgroup`] has it.
pub(crate) fn own_cgroup() -> io::Result<String> {
    unified_cgroup(&read("self", "cgroup")?).ok_or_else(|| unreadable("self", "cgroup"))
}

fn read_peer(pid: i32) -> io::Result<Peer> {
    let pid = pid.to_string();
    let uids = real_uids(&read(&pid, "status")?).ok_or_else(|| unreadable(&pid, "status"))?;
    let cgroup = unified_cgroup(&read(&pid, "cgroup")?).ok_or_else(|| unreadable(&pid, "cgroup"))?;
    // Missing where the kernel has no audit support.
    let login_uid = match read(&pid, "loginuid") {
        Ok(text) => login_uid_in(&text).map_err(|_| unreadable(&pid, "loginuid"))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(Peer { uids, login_uid, cgroup, is_subordinate: false })
}

/// Who logged in, if somebody did, by a `loginuid` file.
pub(super) fn login_uid_in(file: &str) -> Result<Option<u32>, ParseIntError> {
    file.trim().parse().map(|uid| Some(uid).filter(|&uid| uid != NO_LOGIN))
}

fn read(pid: &str, file: &str) -> io::Result<String> {
    let path = format!("/proc/{pid}/{file}");
    let explain = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    let mut text = String::new();
    File::open(&path).map_err(explain)?.take(MAX_PROC_FILE).read_to_string(&mut text).map_err(explain)?;
    Ok(text)
}

fn unreadable(pid: &str, file: &str) -> io::Error {
    io::Error::other(format!("/proc/{pid}/{file} does not have what it should"))
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
        assert_eq!((login_uid_in("1001"), login_uid_in("4294967295\n")), (Ok(Some(1001)), Ok(None)));
        assert!(login_uid_in("-1").is_err() && login_uid_in("").is_err());
        let hybrid = "1:cpu:/a\n0::/agents.slice/coder@a.service\n";
        assert_eq!(unified_cgroup(hybrid).as_deref(), Some("/agents.slice/coder@a.service"));
        assert_eq!(unified_cgroup("0::/agents.slice/x (deleted)\n").as_deref(), Some("/agents.slice/x"));
        assert_eq!(unified_cgroup("0::/../agents.slice\n"), None);
        assert_eq!(unified_cgroup("1:cpu:/\n"), None);
    }
}
