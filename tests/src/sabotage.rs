//! What somebody does who has root and no good in mind, or what happens to programs by themselves: links of eBPF programs that are
//! detached, threads that stand still. System calls without a safe wrapper.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Result;

/// As `bpftool link detach pinned PATH` (bpf(2): BPF_OBJ_GET, BPF_LINK_DETACH).
pub fn detach_link(pin: &Path) -> Result {
    const LINK_DETACH: libc::c_long = 34;
    let link = open_pin(pin)?;
    bpf(LINK_DETACH, [u64::from(link.as_raw_fd().unsigned_abs()), 0])?;
    Ok(())
}

/// As `bpftool link pin pinned FROM TO`: somebody else holds it, too.
pub fn pin_link_again(from: &Path, to: &Path) -> Result {
    const OBJ_PIN: libc::c_long = 6;
    let link = open_pin(from)?;
    let path = CString::new(to.as_os_str().as_bytes())?;
    bpf(OBJ_PIN, [path.as_ptr() as u64, u64::from(link.as_raw_fd().unsigned_abs())])?;
    Ok(())
}

fn open_pin(pin: &Path) -> Result<OwnedFd> {
    const OBJ_GET: libc::c_long = 7;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let link = bpf(OBJ_GET, [path.as_ptr() as u64, 0]).map_err(|error| format!("{}: {error}", pin.display()))?;
    // SAFETY: the kernel has just returned it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}

fn bpf(command: libc::c_long, attribute: [u64; 2]) -> io::Result<i32> {
    // SAFETY: the attribute and what it points to outlive the call, which only reads them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_ptr(), size_of_val(&attribute)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(0)) }
}

/// A thread of another process that stands still, as in a deadlock, until this is dropped: on the thread that made it.
pub struct Stuck(i32);

impl Stuck {
    pub fn new(thread: i32) -> Result<Self> {
        ptrace(libc::PTRACE_SEIZE, thread)?;
        let stuck = Self(thread);
        ptrace(libc::PTRACE_INTERRUPT, thread)?;
        let mut status = 0;
        // SAFETY: the status is ours.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        if waited == thread { Ok(stuck) } else { Err(io::Error::last_os_error().into()) }
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        // An error means that the thread is gone.
        drop(ptrace(libc::PTRACE_DETACH, self.0));
    }
}

fn ptrace(request: libc::c_uint, thread: i32) -> io::Result<()> {
    // SAFETY: none of the requests above reads or writes memory.
    if unsafe { libc::ptrace(request, thread, 0, 0) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
