//! The calls of bpf(2) that aya has no safe form of: cgroup links that are created, pinned, opened and updated one by one
//! (an update swaps the program without a moment in which none is attached), the query for what is in effect, and opening
//! a pinned map for reading only.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const MAP_GET_NEXT_KEY: libc::c_long = 4;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const PROG_QUERY: libc::c_long = 16;
const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
const LINK_CREATE: libc::c_long = 28;
const LINK_UPDATE: libc::c_long = 29;
const ITER_CREATE: libc::c_long = 33;

/// `BPF_TRACE_ITER`.
const TRACE_ITER: u32 = 28;

const QUERY_EFFECTIVE: u32 = 1;
/// More programs than anybody attaches to one hook of one cgroup.
const MAX_EFFECTIVE: usize = 128;

/// How a pinned object is opened.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(super) enum Access {
    ReadWrite = 0,
    ReadOnly = 1 << 3,
}

/// A cgroup link, as BPF_OBJ_GET_INFO_BY_FD shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkInfo {
    pub(super) program_id: u32,
    /// 0 when the cgroup was removed.
    pub(super) cgroup_id: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    fd: u32,
    length: u32,
    info: u64,
}

/// `struct bpf_link_info`, as far as a cgroup link fills it.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program_id: u32,
    reserved: u32,
    cgroup_id: u64,
    attach_type: u32,
    reserved2: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    reserved: u32,
    attach_flags_list: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// The same for an iterator.
#[repr(C)]
#[derive(Default)]
struct IterLinkAttr {
    link: LinkCreateAttr,
    info: u64,
    info_length: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct IterAttr {
    link: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
#[derive(Default)]
struct RawTracepointAttr {
    name: u64,
    program: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct NextKeyAttr {
    map: u32,
    reserved: u32,
    key: u64,
    next: u64,
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: every `T` is the `#[repr(C)]` prefix of `union bpf_attr` that the command reads, with valid pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), mem::size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(libc::c_int::try_from(result).unwrap_or(0)) }
}

fn owned(fd: libc::c_int) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

fn path_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Opens a pinned map, program or link.
pub(super) fn open_pin(path: &Path, access: Access) -> io::Result<OwnedFd> {
    let path = path_string(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: 0, flags: access as u32 };
    bpf(OBJ_GET, &mut attr).map(owned)
}

pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = path_string(path)?;
    let mut attr = ObjectAttr { path: path.as_ptr() as u64, fd: raw(object), flags: 0 };
    bpf(OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program to a cgroup; other links on the same hook stay.
pub(super) fn create_link(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { program: raw(program), target: raw(cgroup), attach_type, flags: 0 };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Attaches a program to the hook of the BPF LSM, or the tracepoint, that it was loaded for.
pub(super) fn create_typed_link(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = RawTracepointAttr { program: raw(program), ..RawTracepointAttr::default() };
    bpf(RAW_TRACEPOINT_OPEN, &mut attr).map(owned)
}

/// Swaps the program of a link in one step.
pub(super) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr { link: raw(link), program: raw(program), ..LinkUpdateAttr::default() };
    bpf(LINK_UPDATE, &mut attr).map(drop)
}

pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = InfoAttr {
        fd: raw(link),
        length: u32::try_from(mem::size_of::<RawLinkInfo>()).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(LinkInfo { program_id: info.program_id, cgroup_id: info.cgroup_id })
}

/// IDs of the programs that run for this hook in this cgroup, inherited ones included.
pub(super) fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; MAX_EFFECTIVE];
    let mut attr = QueryAttr {
        target: raw(cgroup),
        attach_type,
        query_flags: QUERY_EFFECTIVE,
        ids: ids.as_mut_ptr() as u64,
        count: u32::try_from(MAX_EFFECTIVE).unwrap_or(0),
        ..QueryAttr::default()
    };
    bpf(PROG_QUERY, &mut attr)?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// Runs an iterator's program for each socket that has storage in a map; its output is what comes of reading.
pub(super) fn iterate_sockets(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<File> {
    // `union bpf_iter_link_info` begins with the map's descriptor.
    let info = [raw(map), 0, 0, 0];
    let mut attr = IterLinkAttr {
        link: LinkCreateAttr { program: raw(program), target: 0, attach_type: TRACE_ITER, flags: 0 },
        info: info.as_ptr() as u64,
        info_length: u32::try_from(mem::size_of_val(&info)).unwrap_or(0),
        reserved: 0,
    };
    let link = bpf(LINK_CREATE, &mut attr).map(owned)?;
    let mut attr = IterAttr { link: raw(link.as_fd()), flags: 0 };
    bpf(ITER_CREATE, &mut attr).map(owned).map(File::from)
}

/// Number of entries of a hash map with keys of `KEY` bytes, at most `limit`.
pub(super) fn count_keys<const KEY: usize>(map: BorrowedFd<'_>, limit: u64) -> io::Result<u64> {
    let (mut key, mut next) = ([0u8; KEY], [0u8; KEY]);
    let mut count = 0;
    while count < limit {
        let from = if count == 0 { 0 } else { key.as_ptr() as u64 };
        let mut attr = NextKeyAttr { map: raw(map), reserved: 0, key: from, next: next.as_mut_ptr() as u64 };
        match bpf(MAP_GET_NEXT_KEY, &mut attr) {
            Ok(_) => count += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        }
        key = next;
    }
    Ok(count)
}
