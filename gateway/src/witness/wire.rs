//! What goes over the socket pair between gateway and witness: one MessagePack message a packet (SOCK_SEQPACKET keeps
//! their bounds), no longer than [`MAX_MESSAGE`]. Descriptors travel once, with the message that says the witness is
//! ready.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{AttachmentReport, CredentialName, WitnessConfig, WitnessError};
use crate::origin::{Evidence, Origin};
use crate::secret::Secret;

/// A token of 64 KiB, and what goes around it.
pub(super) const MAX_MESSAGE: usize = 96 * 1024;
/// Descriptors in the first message.
pub(super) const DESCRIPTORS: usize = 3;
/// Sockets of a network namespace.
pub(super) const SOCKETS: usize = 4;
/// Descriptors in any message.
const MAX_DESCRIPTORS: usize = 4;
/// The number of a reply that nobody asked for, after the first one.
pub(super) const UNASKED: u64 = 0;

/// A question of the gateway. The first of all is the configuration, whose reply is [`Answer::Ready`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) question: Question,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    Configure(WitnessConfig),
    Evidence(Origin),
    TokenFile(PathBuf),
    TokenEnvironment(Origin, String),
    Credential(CredentialName),
    Attachments,
    /// `hints`: processes that were seen in a network namespace that nobody knows. `serving`: cookies of those that the gateway
    /// has sockets in, whatever it was answered before.
    Namespaces {
        hints: Vec<u32>,
        serving: Vec<u64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    pub(super) answer: Result<Answer, WitnessError>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Ready(AttachmentReport),
    Evidence(Evidence),
    Secret(SecretBytes),
    Attachments(AttachmentReport),
    /// The cookie of a namespace whose sockets come along, and those that were left.
    Namespaces {
        opened: Option<u64>,
        left: Vec<u64>,
    },
    /// Agents' cgroups have changed. Nobody asks for it.
    CgroupsChanged,
}

/// A secret on its way between the two processes, and nowhere else.
#[derive(Debug)]
pub(super) struct SecretBytes(pub(super) Secret);

impl Serialize for SecretBytes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for SecretBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_bytes::ByteBuf::deserialize(deserializer).map(|bytes| Self(Secret::new(bytes.into_vec())))
    }
}

/// The two ends; close-on-exec.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message. A full socket buffer is an error where `wait` is false.
pub(super) fn send<T: Serialize>(
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
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = Zeroizing::new(vec![0u8; MAX_MESSAGE + 1]);
    let mut control = nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let (length, descriptors) = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            Err(nix::errno::Errno::ECONNRESET) => return Ok(None),
            Err(error) => return Err(error.into()),
            Ok(message) => break (message.bytes, received(&message)?),
        }
    };
    match length {
        0 => Ok(None),
        length if length > MAX_MESSAGE => Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long")),
        length => rmp_serde::from_slice(&buffer[..length])
            .map(|message| Some((message, descriptors)))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
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
pub(super) fn set_receive_timeout(socket: &impl AsFd, timeout: std::time::Duration) -> io::Result<()> {
    let time = nix::sys::time::TimeVal::new(i64::try_from(timeout.as_secs()).unwrap_or(0), 0);
    Ok(nix::sys::socket::setsockopt(&socket.as_fd(), nix::sys::socket::sockopt::ReceiveTimeout, &time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_descriptors_and_the_end_cross_the_pair() {
        let (left, right) = pair().unwrap();
        let reply = Reply { id: 7, answer: Ok(Answer::Secret(SecretBytes(Secret::new(b"geheim".to_vec())))) };
        send(left.as_fd(), &reply, &[left.as_fd()], true).unwrap();
        let (reply, descriptors): (Reply, _) = receive(right.as_fd()).unwrap().unwrap();
        assert_eq!((reply.id, descriptors.len()), (7, 1));
        assert!(matches!(reply.answer, Ok(Answer::Secret(SecretBytes(secret))) if secret.expose() == b"geheim"));
        drop((left, descriptors));
        assert!(receive::<Reply>(right.as_fd()).unwrap().is_none());
    }

    #[test]
    fn what_is_too_long_or_no_message_is_an_error() {
        let (left, right) = pair().unwrap();
        let long = Reply { id: 0, answer: Err(WitnessError::Missing("x".repeat(MAX_MESSAGE))) };
        assert!(send(left.as_fd(), &long, &[], true).is_err());
        nix::unistd::write(&left, b"\xc1 nonsense").unwrap();
        assert!(receive::<Reply>(right.as_fd()).is_err());
    }
}
