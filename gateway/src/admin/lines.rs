//! Lines on the admin socket: bounded, with time-outs, and each byte of a request with its sender's number.

use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::peer::Peer;
use super::{ConnectionError, Failure, Reply, Request, WRITE_TIME};
use crate::record::segment;

/// Version of this protocol.
pub(super) const VERSION: u32 = 1;
/// Bytes of a request with everything around it.
pub(super) const MAX_REQUEST: usize = 64 * 1024;
/// Bytes of one line of an answer: any record fits, also where JSON needs six bytes for one, or an agent could make a session
/// that nobody can look at.
pub(super) const MAX_REPLY: usize = 6 * segment::MAX_PAYLOAD;

/// The gateway's first line.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) weir: u32,
    pub(super) nonce: String,
}

/// The client's only line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    pub(super) nonce: String,
    pub(super) ask: Request,
}

/// Sends the greeting; what the client says afterwards, it says after this moment.
pub(super) async fn greet(stream: &UnixStream) -> io::Result<String> {
    let mut random = [0u8; 16];
    let mut source = std::fs::File::open("/dev/urandom")?;
    io::Read::read_exact(&mut source, &mut random)?;
    let nonce = crate::approval::hex(&random);
    write_line(stream, &Hello { weir: VERSION, nonce: nonce.clone() }).await?;
    Ok(nonce)
}

/// Reads the request, every part of which the peer itself must have sent.
pub(super) async fn read_request(stream: &UnixStream, nonce: &str, peer: &Peer) -> Result<Request, ConnectionError> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let (bytes, sender) = receive(stream).await?;
        if bytes.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        if sender != Some(peer.pid) {
            return Err(ConnectionError::AnotherProcess);
        }
        line.extend_from_slice(&bytes);
        if line.len() > MAX_REQUEST {
            return Err(ConnectionError::Malformed(format!("it is longer than {MAX_REQUEST} bytes")));
        }
    }
    let asked: Asked = match serde_json::from_slice(&line) {
        Ok(asked) => asked,
        Err(error) => {
            let message = format!("the request is not understood: {error}; are `weir` and the gateway of one version?");
            fail(stream, Failure::new(super::FailureKind::Invalid, message)).await?;
            return Err(ConnectionError::Malformed(error.to_string()));
        }
    };
    if asked.nonce != nonce {
        return Err(ConnectionError::Malformed("it does not answer the greeting".to_owned()));
    }
    Ok(asked.ask)
}

/// Some bytes, and the number of the process that sent them.
async fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<i32>)> {
    loop {
        stream.readable().await?;
        let mut buffer = vec![0u8; 4096];
        let mut space = nix::cmsg_space!(UnixCredentials);
        let received = stream.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            let sender = message.cmsgs()?.find_map(|control| match control {
                ControlMessageOwned::ScmCredentials(credentials) => Some(credentials.pid()),
                _ => None,
            });
            Ok((message.bytes, sender))
        });
        match received {
            Ok((length, sender)) => {
                buffer.truncate(length);
                return Ok((buffer, sender));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn fail(stream: &UnixStream, failure: Failure) -> io::Result<()> {
    write(stream, &Reply::Failed { failure }).await
}

pub(super) async fn write(stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    write_line(stream, reply).await
}

async fn write_line<T: Serialize>(stream: &UnixStream, value: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    if line.len() > MAX_REPLY {
        return Err(io::Error::other(format!("a line of the answer is longer than {MAX_REPLY} bytes")));
    }
    let write = async {
        let mut rest = &line[..];
        while !rest.is_empty() {
            stream.writable().await?;
            match stream.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    timeout(WRITE_TIME, write).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
