//! The command line's end of the admin socket. Blocking: a command does one thing.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::lines::{Asked, Hello, MAX_REPLY, VERSION};
use super::listener::SOCKET;
use super::{Failure, Reply, Request};

/// The gateway answers a step within this time, or something is wrong with it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot reach {path}: {source}.\n{hint}", path = path.display(), hint = hint(source))]
    Unreachable { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("the gateway closed the connection: see its log (`journalctl -u weir`)")]
    Closed,
    #[error("the gateway did not answer: {0}")]
    Io(#[from] io::Error),
    #[error("the gateway's answer is not understood: {0}; are `weir` and the gateway of one version?")]
    Foreign(String),
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "You are in none of the groups of [access] in weir.toml (`id` shows yours); root may always."
        }
        _ => "Is weir.service running? `systemctl status weir` tells.",
    }
}

/// An answer under way.
pub struct Answer {
    lines: io::Take<BufReader<UnixStream>>,
}

/// Sends one request to the gateway whose runtime directory this is.
pub fn ask(runtime_dir: &Path, request: Request) -> Result<Answer, ClientError> {
    let path = runtime_dir.join(SOCKET);
    let stream = UnixStream::connect(&path).map_err(|source| ClientError::Unreachable { path, source })?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut answer = Answer { lines: BufReader::new(stream).take(0) };
    let hello: Hello = parse(&answer.line()?)?;
    if hello.weir != VERSION {
        return Err(ClientError::Foreign(format!("it speaks version {} of the protocol, not {VERSION}", hello.weir)));
    }
    let mut line = serde_json::to_vec(&Asked { nonce: hello.nonce, ask: request }).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut stream: &UnixStream = answer.lines.get_ref().get_ref();
    match stream.write_all(&line) {
        // The gateway may have refused already: what it says about that comes first.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    Ok(answer)
}

/// Asks for what has exactly one item.
pub fn ask_one<T: DeserializeOwned>(runtime_dir: &Path, request: Request) -> Result<T, ClientError> {
    let mut answer = ask(runtime_dir, request)?;
    let item = answer.next_item()?.ok_or_else(|| ClientError::Foreign("it has no item".to_owned()))?;
    match answer.next_item::<serde_json::Value>()? {
        None => Ok(item),
        Some(_) => Err(ClientError::Foreign("it has more than one item".to_owned())),
    }
}

/// Whether a gateway listens there at all.
pub fn is_listening(runtime_dir: &Path) -> bool {
    UnixStream::connect(runtime_dir.join(SOCKET)).is_ok()
}

/// Asks for a list.
pub fn ask_all<T: DeserializeOwned>(runtime_dir: &Path, request: Request) -> Result<Vec<T>, ClientError> {
    let mut answer = ask(runtime_dir, request)?;
    let mut items = Vec::new();
    while let Some(item) = answer.next_item()? {
        items.push(item);
    }
    Ok(items)
}

impl Answer {
    /// The next item; None after the last.
    pub fn next_item<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ClientError> {
        match parse(&self.line()?)? {
            Reply::Item { item } => {
                serde_json::from_value(item).map(Some).map_err(|error| ClientError::Foreign(error.to_string()))
            }
            Reply::End => Ok(None),
            Reply::Failed { failure } => Err(failure.into()),
        }
    }

    fn line(&mut self) -> Result<Vec<u8>, ClientError> {
        self.lines.set_limit(MAX_REPLY as u64 + 1);
        let mut line = Vec::new();
        match self.lines.read_until(b'\n', &mut line) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::Closed),
            result => result?,
        };
        if line.is_empty() {
            return Err(ClientError::Closed);
        }
        Ok(line)
    }
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(line).map_err(|error| ClientError::Foreign(error.to_string()))
}
