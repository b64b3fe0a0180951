//! Giving up privileges. The gateway keeps none; the witness keeps the few that its answers need, and no way to get
//! another.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, User, setgroups, setresgid, setresuid};

/// `linux/capability.h`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Capability {
    DacReadSearch = 2,
    NetAdmin = 12,
    SysPtrace = 19,
    SysAdmin = 21,
    Bpf = 39,
}

const HIGHEST_CAPABILITY: u32 = 63;
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// No core files, and nobody but root looks into this process.
pub(super) fn close_memory() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl::set_dumpable(false)?;
    Ok(())
}

/// Keeps these capabilities and loses all others for good.
pub(super) fn keep_only(capabilities: &[Capability]) -> io::Result<()> {
    let mask = capabilities.iter().fold(0u64, |mask, &capability| mask | 1 << capability as u32);
    drop_bounding(mask)?;
    clear_ambient()?;
    set_capabilities(mask)?;
    prctl::set_no_new_privs()?;
    Ok(())
}

/// Becomes `user`, without any capability, for good.
pub(crate) fn become_user(user: &str) -> io::Result<()> {
    refuse_threads()?;
    let user = User::from_name(user)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no user {user:?}")))?;
    if user.uid.is_root() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the gateway must not run as root"));
    }
    drop_bounding(0)?;
    clear_ambient()?;
    setgroups(&[user.gid])?;
    setresgid(user.gid, user.gid, user.gid)?;
    setresuid(user.uid, user.uid, user.uid)?;
    set_capabilities(0)?;
    prctl::set_no_new_privs()?;
    // After the change of the user, which resets it.
    close_memory()?;
    verify(user.uid, user.gid)
}

/// The system calls below work on the calling thread alone; another one would keep what it has.
fn refuse_threads() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 { Ok(()) } else { Err(io::Error::other("privileges must be dropped before threads are started")) }
}

/// A privilege that survived is a fault of ours, and better found here than by somebody else.
fn verify(uid: Uid, gid: Gid) -> io::Result<()> {
    let users = nix::unistd::getresuid()?;
    let groups = nix::unistd::getresgid()?;
    let user_stays = [users.real, users.effective, users.saved] == [uid; 3];
    let group_stays = [groups.real, groups.effective, groups.saved] == [gid; 3];
    let back = nix::unistd::setuid(Uid::from_raw(0)).is_ok();
    if !user_stays || !group_stays || back || capabilities()? != 0 {
        return Err(io::Error::other("privileges survived"));
    }
    Ok(())
}

fn drop_bounding(keep: u64) -> io::Result<()> {
    for capability in (0..=HIGHEST_CAPABILITY).filter(|capability| keep & (1 << capability) == 0) {
        // SAFETY: prctl with integers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
        if result != 0 {
            let error = io::Error::last_os_error();
            // Past the last capability that this kernel knows.
            return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

fn clear_ambient() -> io::Result<()> {
    // SAFETY: prctl with integers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_capabilities(mask: u64) -> io::Result<()> {
    let header = Header { version: VERSION_3, pid: 0 };
    let [low, high] = halves(mask);
    let sets = [
        Sets { effective: low, permitted: low, inheritable: 0 },
        Sets { effective: high, permitted: high, inheritable: 0 },
    ];
    // SAFETY: version 3 reads one header and two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn capabilities() -> io::Result<u64> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [Sets::default(); 2];
    // SAFETY: version 3 writes the header's version and two sets.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let all = sets.map(|set| u64::from(set.effective | set.permitted | set.inheritable));
    Ok(all[0] | all[1] << 32)
}

fn halves(mask: u64) -> [u32; 2] {
    [mask, mask >> 32].map(|half| u32::try_from(half & u64::from(u32::MAX)).unwrap_or(u32::MAX))
}
