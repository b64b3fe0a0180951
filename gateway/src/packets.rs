//! Messages between the gateway's own processes: one MessagePack message a packet (SOCK_SEQPACKET keeps their bounds), no longer
//! than [`MAX_MESSAGE`], with descriptors.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize as _, Zeroizing};

/// A token of 64 KiB, and what goes around it.
pub(crate) const MAX_MESSAGE: usize = 96 * 1024;
/// Descriptors in any message.
const MAX_DESCRIPTORS: usize = 4;

/// This very program, as `ps` is to show it.
pub(crate) fn same_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("weir");
    command
}

/// The two ends; close-on-exec.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message. A full socket buffer is an error where `wait` is false.
pub(crate) fn send<T: Serialize>(
    socket: BorrowedFd<'_>,
    message: &T,
    descriptors: &[BorrowedFd<'_>],
    wait: bool,
) -> io::Result<()> {
    let bytes = Zeroizing::new(rmp_serde::to_vec(message).map_err(io::Error::other)?);
    if bytes.len() > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too long"));
    }
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | if wait { MsgFlags::empty() } else { MsgFlags::MSG_DONTWAIT };
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result.map(drop)?),
        }
    }
}

/// Receives one message and its descriptors; `None` when the other end is gone.
pub(crate) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_with(socket, MsgFlags::empty())
}

/// [`receive`] of what is there already; else an error of kind `WouldBlock`.
pub(crate) fn receive_now<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    receive_with(socket, MsgFlags::MSG_DONTWAIT)
}

fn receive_with<T: DeserializeOwned>(socket: BorrowedFd<'_>, flags: MsgFlags) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    // Taken, not borrowed: nothing that happens in decoding can find it in use.
    let mut buffer = BUFFER.take();
    buffer.resize(MAX_MESSAGE + 1, 0);
    let received = receive_into(socket, flags, &mut buffer);
    let length = received.as_ref().map_or(0, |received| received.as_ref().map_or(0, |(length, _)| *length));
    let message = received.and_then(|received| match received {
        None | Some((0, _)) => Ok(None),
        Some((length, _)) if length > MAX_MESSAGE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"))
        }
        Some((length, descriptors)) => rmp_serde::from_slice(&buffer[..length])
            .map(|message| Some((message, descriptors)))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
    });
    // It may have been a secret. Only what was written is wiped, since that costs more than all else here.
    buffer[..length].zeroize();
    BUFFER.set(buffer);
    message
}

/// The length of the next message, and its descriptors; `None` when the other end is gone.
fn receive_into(
    socket: BorrowedFd<'_>,
    flags: MsgFlags,
    buffer: &mut [u8],
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    loop {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = flags | MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
            // What is too much for our table of descriptors is cut off: then they are not those that were sent.
            Ok(message) => match received(&message) {
                Ok(descriptors) => return Ok(Some((message.bytes, descriptors))),
                Err(error) => {
                    buffer.zeroize();
                    return Err(error);
                }
            },
        }
    }
}

fn received(message: &nix::sys::socket::RecvMsg<'_, '_, ()>) -> io::Result<Vec<OwnedFd>> {
    let mut descriptors = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel has just put these descriptors into our table, for us alone.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok(descriptors)
}

/// A receive on this socket waits no longer than this.
pub(crate) fn set_receive_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let time = nix::sys::time::TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(0), 0);
    Ok(nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::ReceiveTimeout, &time)?)
}

/// A send on this socket waits no longer than this for room.
pub(crate) fn set_send_timeout(socket: &impl AsFd, timeout: Duration) -> io::Result<()> {
    let time = nix::sys::time::TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(0), 0);
    Ok(nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::SendTimeout, &time)?)
}

/// A receive and a send on this socket wait.
pub(crate) fn set_blocking(socket: &impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(socket.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(socket.as_fd(), FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_descriptors_and_the_end_cross_the_pair() {
        let (left, right) = pair().unwrap();
        send(left.as_fd(), &("hello", 7), &[left.as_fd()], true).unwrap();
        let (message, descriptors): ((String, u32), _) = receive(right.as_fd()).unwrap().unwrap();
        assert_eq!((message, descriptors.len()), (("hello".to_owned(), 7), 1));
        drop(descriptors);
        assert_eq!(receive_now::<u32>(left.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(left);
        assert!(receive::<u32>(right.as_fd()).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_or_no_message_is_an_error() {
        let (left, right) = pair().unwrap();
        assert!(send(left.as_fd(), &"x".repeat(MAX_MESSAGE), &[], true).is_err());
        nix::unistd::write(&left, b"\xc1 nonsense").unwrap();
        assert!(receive::<u32>(right.as_fd()).is_err());
    }
}
