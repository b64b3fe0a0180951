//! What goes over the socket pair between gateway and witness, as [`crate::packets`].

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{AttachmentReport, CredentialName, Peer, WitnessConfig, WitnessError};
use crate::origin::{Evidence, Origin};
use crate::secret::Secret;

/// Descriptors in the first message.
pub(super) const DESCRIPTORS: usize = 3;
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
    /// The first of all, while the gateway still has its privileges.
    Configure {
        config: WitnessConfig,
        /// Where it comes from.
        path: Option<PathBuf>,
    },
    /// The same later: only to a witness that was told no path.
    Reconfigure(WitnessConfig),
    /// What is there now, if it is of this version, as the witness reads it itself.
    Reload {
        /// Which reload that is, for [`Question::GoBack`].
        number: u64,
        version: String,
    },
    /// What was in force before that reload, which the gateway could not take up.
    GoBack {
        number: u64,
    },
    Evidence(Origin),
    TokenFile(PathBuf),
    TokenEnvironment(Origin, String),
    Credential(CredentialName),
    Peer(i32),
    Attachments,
    /// Another witness takes care of the kernel half from now on; this one only answers the sessions that go on.
    Retire,
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
    Peer(Peer),
    Attachments(AttachmentReport),
    Retired,
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::packets;

    #[test]
    fn a_secret_crosses_the_pair() {
        let (left, right) = packets::pair().unwrap();
        let reply = Reply { id: 7, answer: Ok(Answer::Secret(SecretBytes(Secret::new(b"geheim".to_vec())))) };
        packets::send(left.as_fd(), &reply, &[], true).unwrap();
        let (reply, _): (Reply, _) = packets::receive(right.as_fd()).unwrap().unwrap();
        assert!(matches!(reply.answer, Ok(Answer::Secret(SecretBytes(secret))) if secret.expose() == b"geheim"));
    }
}
