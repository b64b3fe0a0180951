//! Sockets in a process's hands that no agent made, by the kernel half's own word: every IP socket of an agent has a note from
//! `socket()` on, whoever holds it now. For `weir doctor`, as host root: it borrows each descriptor for the moment of the look.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use aya::maps::{Map, MapData, MapError, SkStorage};
use gateway_common::Note;
use nix::errno::Errno;
use nix::sys::socket::{SockaddrStorage, getpeername, getsockname};

use super::KernelConfig;
use super::bpf::{self, Access};
use super::pins::Pins;

/// Descriptors of one process that are looked at: more than the usual limit of them.
const MAX_DESCRIPTORS: usize = 65_536;

/// A connection-oriented IP socket without a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignSocket {
    /// IP protocol number.
    pub protocol: i32,
    pub listens: bool,
    pub local: Option<SocketAddr>,
    /// To whom it is connected, or who came in.
    pub peer: Option<SocketAddr>,
}

/// Those that the process has now; none of a process that is gone.
///
/// # Errors
///
/// The notes or the process cannot be looked at: the kernel half is not attached, or this is not root.
pub(super) fn foreign_sockets(config: &KernelConfig, pid: i32) -> io::Result<Vec<ForeignSocket>> {
    let map = MapData::from_fd(bpf::open_pin(&Pins::new(config).map("NOTES"), Access::ReadOnly)?);
    let notes =
        SkStorage::<_, Note>::try_from(Map::SkStorage(map.map_err(io::Error::other)?)).map_err(io::Error::other)?;
    match sockets_of(pid) {
        Ok(sockets) => sockets.iter().filter_map(|socket| look(&notes, socket).transpose()).collect(),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Borrowed from the process: its descriptors that are sockets.
fn sockets_of(pid: i32) -> io::Result<Vec<OwnedFd>> {
    // SAFETY: a system call with integers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let mut sockets = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.take(MAX_DESCRIPTORS) {
        let entry = entry?;
        let is_socket = fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else { continue };
        if !is_socket {
            continue;
        }
        // SAFETY: as above.
        match owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) }) {
            Ok(socket) => sockets.push(socket),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {} // closed meanwhile
            Err(error) => return Err(error),
        }
    }
    Ok(sockets)
}

/// None of a socket that is an agent's, or none that connections are made with.
fn look(notes: &SkStorage<MapData, Note>, socket: &OwnedFd) -> io::Result<Option<ForeignSocket>> {
    let domain = match option(socket, libc::SO_DOMAIN) {
        // Between the two looks at it, the number came to stand for another file.
        Err(error) if error.raw_os_error() == Some(libc::ENOTSOCK) => return Ok(None),
        domain => domain?,
    };
    let kind = option(socket, libc::SO_TYPE)?;
    if !matches!(domain, libc::AF_INET | libc::AF_INET6) || !matches!(kind, libc::SOCK_STREAM | libc::SOCK_SEQPACKET) {
        return Ok(None);
    }
    match notes.get(socket, 0) {
        Ok(_) => return Ok(None),
        Err(MapError::KeyNotFound) => {}
        Err(error) => return Err(io::Error::other(error)),
    }
    Ok(Some(ForeignSocket {
        protocol: option(socket, libc::SO_PROTOCOL)?,
        listens: option(socket, libc::SO_ACCEPTCONN)? != 0,
        local: address(getsockname(socket.as_raw_fd())),
        peer: address(getpeername(socket.as_raw_fd())),
    }))
}

fn address(found: Result<SockaddrStorage, Errno>) -> Option<SocketAddr> {
    let found = found.ok()?;
    let v4 = found.as_sockaddr_in().map(|address| SocketAddr::from((address.ip(), address.port())));
    let v6 = || found.as_sockaddr_in6().map(|address| SocketAddr::from((address.ip(), address.port())));
    let address = v4.or_else(v6)?;
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// An option of SOL_SOCKET that is an int.
fn option(socket: &OwnedFd, name: libc::c_int) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or(0);
    // SAFETY: the pointer and the length are those of one int.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length)
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
