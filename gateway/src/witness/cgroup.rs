//! cgroup2: where it is mounted, ids of paths, and paths of ids.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Type of a kernfs file handle, which is nothing but the id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// A cgroup that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cgroup {
    pub(super) id: u64,
    /// 0 is the root.
    pub(super) level: u32,
}

/// The cgroup2 mount of this process's mount namespace.
pub(super) fn mount_point() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            // Octal escapes stand for blanks, which no sane cgroup2 mount has.
            (kind == "cgroup2" && !path.contains('\\')).then(|| PathBuf::from(path))
        })
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))
}

/// The cgroup of a process as a path below the mount, without a leading slash.
pub(super) fn of_process(pid: &str) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    parse_proc(&text).map(str::to_owned).ok_or_else(|| io::Error::other("the process has no cgroup2 cgroup"))
}

/// The cgroup2 line of /proc/PID/cgroup, without the leading slash.
pub(super) fn parse_proc(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// A cgroup's path below the mount may hold plain components only.
pub(super) fn is_plain(path: &str) -> bool {
    Path::new(path).components().all(|component| matches!(component, Component::Normal(_)))
}

pub(super) fn look_up(mount: &Path, path: &str) -> io::Result<Cgroup> {
    let id = fs::metadata(mount.join(path))?.ino();
    Ok(Cgroup { id, level: level(path) })
}

/// How deep a cgroup of this path lies, whether there is one or not.
pub(super) fn level(path: &str) -> u32 {
    let level = path.split('/').filter(|part| !part.is_empty()).count();
    u32::try_from(level).unwrap_or(u32::MAX)
}

/// The path of a cgroup below the mount, with a leading slash, or `None` if it is gone.
pub(super) fn path_of_id(mount: &Path, id: u64) -> io::Result<Option<String>> {
    let root = File::open(mount)?;
    let directory = match open_by_id(root.as_fd(), id) {
        Ok(directory) => directory,
        Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
        Err(error) => return Err(error),
    };
    let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
    let path = path.to_string_lossy().into_owned();
    if path.ends_with(" (deleted)") {
        return Ok(None);
    }
    let below = path.strip_prefix(&*mount.to_string_lossy()).unwrap_or(&path);
    Ok(Some(if below.is_empty() { "/".to_owned() } else { below.to_owned() }))
}

fn open_by_id(mount: BorrowedFd<'_>, id: u64) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Handle {
        bytes: libc::c_uint,
        kind: libc::c_int,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: `Handle` is a `struct file_handle` with eight bytes of handle, which is what its header says.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_open_by_handle_at,
            mount.as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC | libc::O_DIRECTORY,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(libc::c_int::try_from(fd).unwrap_or(-1)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_line_is_found_among_the_others() {
        assert_eq!(parse_proc("8:pids:/x\n0::/agents.slice/a.service\n"), Some("agents.slice/a.service"));
        assert_eq!(parse_proc("0::/\n"), Some(""));
        assert_eq!(parse_proc("8:pids:/x\n"), None);
    }

    #[test]
    fn paths_that_climb_are_not_plain() {
        assert!(is_plain("agents.slice/a.service") && is_plain(""));
        assert!(!is_plain("../x") && !is_plain("/x") && !is_plain("a/../../x"));
    }
}
