//! The admin socket: how people and their tools talk to the running gateway.
//!
//! `/run/weir/admin.sock`, one JSON object a line. A connection carries one request: the gateway greets with a nonce, the
//! client answers with the nonce and a [`Request`], and gets [`Reply`] lines until one of them is the last. Who may ask what
//! is decided from what the kernel says of the peer, never from what the peer says: its user, groups and cgroup ([`peer`],
//! [`rights`]). Agents are refused whatever their uid. Reading the recordings is itself recorded.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::approval::{Approver, LedgerError};
use crate::config::Config;
use crate::ids::{OperationId, SessionId};
use crate::witness::{Peer as Process, WitnessError};

mod acl;
mod backend;
pub mod client;
mod lines;
mod listener;
mod peer;
mod rights;
mod sys;

pub use backend::{Status, Step, Why};
pub use listener::Listener;
pub use peer::Facts;
pub(crate) use peer::cgroup_of;
pub use rights::{Refused, Rights};

/// Connections at once, over all peers that the socket's access list lets in, and of one user: nobody locks the others out.
const MAX_CONNECTIONS: usize = 64;
const MAX_CONNECTIONS_PER_USER: usize = 16;
/// A request has to be there this soon after the greeting.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// A client that does not read for so long is gone.
const WRITE_TIME: Duration = Duration::from_secs(30);
/// Replies that wait for a slow client.
const REPLY_QUEUE: usize = 16;
/// Refused requests that are recorded in a minute; more are only logged.
const RECORDED_REFUSALS: u32 = 60;
/// How soon groups of a new configuration may connect.
const ACCESS_CHECK_EVERY: Duration = Duration::from_secs(2);
/// Bytes of a text of a request's in the recording; reasons of votes are shorter.
const MAX_RECORDED: usize = 2 * 1024;
/// Groups of a request that are recorded.
const MAX_RECORDED_GROUPS: usize = 16;
/// Most lines that one listing has.
pub const MAX_LISTED: u32 = 10_000;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    Sessions {
        /// The newest so many.
        limit: u32,
        agent: Option<String>,
        target: Option<String>,
        /// Nanoseconds since the Unix epoch.
        since_ns: Option<u64>,
        refused_only: bool,
    },
    Denials {
        /// The newest so many.
        limit: u32,
        agent: Option<String>,
        target: Option<String>,
        /// Nanoseconds since the Unix epoch.
        since_ns: Option<u64>,
    },
    Session {
        id: SessionId,
    },
    Replay {
        id: SessionId,
    },
    Why {
        id: OperationId,
    },
    /// What would become of a text, by its target's catalog.
    Explain {
        target: String,
        agent: String,
        groups: Vec<String>,
        database: Option<String>,
        text: String,
    },
    Kill {
        id: SessionId,
    },
    Approvals,
    Approval {
        number: u64,
    },
    Approve {
        number: u64,
        reason: Option<String>,
    },
    Deny {
        number: u64,
        reason: Option<String>,
    },
    Reload,
    /// Records that the caller, host root, is about to let agents pass; the kernel half does it.
    Detach {
        seconds: u64,
        reason: String,
    },
}

impl Request {
    /// The same with texts of a length that nobody can fill the recording with.
    fn for_record(mut self) -> Self {
        let texts = match &mut self {
            Self::Sessions { agent, target, .. } | Self::Denials { agent, target, .. } => {
                vec![agent.as_mut(), target.as_mut()]
            }
            Self::Explain { target, agent, groups, database, text } => {
                groups.truncate(MAX_RECORDED_GROUPS);
                let others = [target, agent, text].map(Some);
                groups.iter_mut().map(Some).chain(others).chain([database.as_mut()]).collect()
            }
            Self::Approve { reason, .. } | Self::Deny { reason, .. } => vec![reason.as_mut()],
            Self::Detach { reason, .. } => vec![Some(reason)],
            Self::Status
            | Self::Session { .. }
            | Self::Replay { .. }
            | Self::Why { .. }
            | Self::Kill { .. }
            | Self::Approvals
            | Self::Approval { .. }
            | Self::Reload => Vec::new(),
        };
        texts.into_iter().flatten().for_each(|text| backend::cut(text, MAX_RECORDED));
        self
    }
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// One item of what was asked for; its shape depends on the request.
    Item { item: serde_json::Value },
    /// That was all.
    End,
    /// The last line: it was not done.
    Failed { failure: Failure },
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The caller may not ask this.
    Refused,
    /// There is no such thing, or it is over.
    NotFound,
    /// The request makes no sense.
    Invalid,
    /// The gateway could not.
    Failed,
}

/// Who asks, for records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub user: String,
    pub uid: u32,
    /// The uid that logged in, where the kernel keeps it: the person behind `sudo`.
    pub login_uid: Option<u32>,
    pub pid: i32,
}

/// Who asks, as far as an answer depends on it.
#[derive(Clone, Debug)]
pub struct Caller {
    pub by: Approver,
    /// Approvals that others decide, too.
    pub sees_all: bool,
}

/// What somebody asked of the gateway, for the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub actor: Actor,
    pub request: Request,
    /// Why it was refused; None: it was not.
    pub refused: Option<String>,
}

/// The gateway as the admin socket sees it.
pub trait Backend: Send + Sync + 'static {
    fn config(&self) -> Arc<Config>;

    /// What /proc says of a process.
    fn process(&self, pid: i32) -> impl Future<Output = Result<Process, WitnessError>> + Send;

    /// Why what was asked, by somebody who may, cannot be done, as far as it is known without doing it.
    fn check(&self, request: &Request, by: &Caller) -> Result<(), Failure>;

    /// Returns when the action is durable.
    fn record(&self, action: Action) -> impl Future<Output = Result<(), LedgerError>> + Send;

    /// Does what was asked, by somebody who may. Items go out as they come; an item that cannot be sent ends the work.
    fn answer(&self, request: Request, by: Caller, items: &Items) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Where a [`Backend`] puts the items of an answer.
#[derive(Clone, Debug)]
pub struct Items(mpsc::Sender<serde_json::Value>);

/// The client went away; nothing more needs to be done for it.
#[derive(Debug, thiserror::Error)]
#[error("the client went away")]
pub struct Gone;

impl Items {
    pub async fn send<T: Serialize>(&self, item: &T) -> Result<(), Failure> {
        self.0.send(value(item)?).await.map_err(|_| Gone.into())
    }

    /// For a thread that may block.
    pub fn blocking_send<T: Serialize>(&self, item: &T) -> Result<(), Failure> {
        self.0.blocking_send(value(item)?).map_err(|_| Gone.into())
    }
}

fn value<T: Serialize>(item: &T) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(item).map_err(|error| Failure::failed(format!("an answer could not be written: {error}")))
}

/// Serves the socket until the future is dropped.
pub async fn serve<B: Backend>(listener: Listener, backend: Arc<B>) {
    let slots = Slots::default();
    let refusals = Arc::new(rights::RefusalBudget::new(RECORDED_REFUSALS));
    let mut listener = match listener.start() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin socket cannot be used");
            return std::future::pending().await;
        }
    };
    let mut check = tokio::time::interval(ACCESS_CHECK_EVERY);
    loop {
        let stream = tokio::select! {
            stream = listener.accept() => stream,
            _ = check.tick() => {
                listener.follow(&backend.config());
                continue;
            }
        };
        let Some(slot) = stream.peer_cred().ok().and_then(|peer| slots.take(peer.uid())) else {
            tracing::warn!("too many connections to the admin socket; one was refused");
            continue;
        };
        let (backend, refusals) = (Arc::clone(&backend), Arc::clone(&refusals));
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &*backend, &refusals).await {
                tracing::debug!(%error, "a connection to the admin socket ended early");
            }
            drop(slot);
        });
    }
}

/// Which users hold connections.
#[derive(Clone, Debug, Default)]
struct Slots(Arc<Mutex<Vec<u32>>>);

/// One connection's place; free again when dropped.
#[derive(Debug)]
struct Slot {
    slots: Slots,
    uid: u32,
}

impl Slots {
    fn take(&self, uid: u32) -> Option<Slot> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_user = held.iter().filter(|&&holder| holder == uid).count();
        if held.len() >= MAX_CONNECTIONS || of_user >= MAX_CONNECTIONS_PER_USER {
            return None;
        }
        held.push(uid);
        Some(Slot { slots: self.clone(), uid })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.slots.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = held.iter().position(|&holder| holder == self.uid) {
            held.swap_remove(place);
        }
    }
}

/// One connection's life.
async fn connection<B: Backend>(
    stream: UnixStream,
    backend: &B,
    refusals: &rights::RefusalBudget,
) -> Result<(), ConnectionError> {
    let peer = peer::Peer::of(&stream)?;
    let nonce = lines::greet(&stream).await?;
    let request = match timeout(REQUEST_TIME, lines::read_request(&stream, &nonce, &peer)).await {
        Ok(read) => read?,
        Err(_) => return Err(ConnectionError::Silent),
    };
    let read = backend.process(peer.pid).await.map_err(io::Error::other);
    // The names of users and groups may come from a directory service: not on a thread that serves others.
    let config = backend.config();
    let examined = tokio::task::spawn_blocking(move || {
        let facts = peer.facts(read?)?;
        let allowed = rights::of(&facts, &rights::Groups::resolve(&config.access), &config);
        Ok::<_, io::Error>((facts, allowed))
    });
    let (facts, allowed) = match examined.await.map_err(io::Error::other)? {
        Ok(examined) => examined,
        Err(error) => {
            let message = format!("refused: the gateway could not find out who asks ({error})");
            return Ok(lines::fail(&stream, Failure::new(FailureKind::Refused, message)).await?);
        }
    };
    let allowed = allowed.and_then(|rights| rights.permit(&request).map(|()| rights.caller(&facts)));
    let allowed = allowed.map_err(|refused| Failure::new(FailureKind::Refused, refused.to_string()));
    let allowed = allowed.and_then(|by| backend.check(&request, &by).map(|()| by));
    let refused = allowed.as_ref().err().map(ToString::to_string);
    let action = Action { actor: facts.actor(), request: request.clone().for_record(), refused };
    match allowed {
        Ok(by) => {
            if let Err(failure) = record(backend, action).await {
                return Ok(lines::fail(&stream, failure).await?);
            }
            answer(&stream, backend, request, by).await
        }
        Err(refused) => {
            tracing::warn!(user = facts.user, pid = facts.pid, cgroup = facts.cgroup, %refused, "an admin request was refused");
            if refusals.take() {
                // The refusal stands whether or not it can be recorded.
                let _ = record(backend, action).await;
            }
            Ok(lines::fail(&stream, refused).await?)
        }
    }
}

/// Every request is recorded, but for those that only look at the state of the moment.
async fn record<B: Backend>(backend: &B, action: Action) -> Result<(), Failure> {
    let harmless = matches!(action.request, Request::Status | Request::Approvals | Request::Approval { .. });
    if harmless && action.refused.is_none() {
        return Ok(());
    }
    backend
        .record(action)
        .await
        .map_err(|error| Failure::failed(format!("not done, since it could not be recorded: {error}")))
}

async fn answer<B: Backend>(
    stream: &UnixStream,
    backend: &B,
    request: Request,
    by: Caller,
) -> Result<(), ConnectionError> {
    let (sender, mut receiver) = mpsc::channel(REPLY_QUEUE);
    let work = async move { backend.answer(request, by, &Items(sender)).await };
    // Moved: when writing fails, the receiver goes, and the work ends since it has nowhere to put its items.
    let write = async move {
        while let Some(item) = receiver.recv().await {
            lines::write(stream, &Reply::Item { item }).await?;
        }
        Ok::<_, io::Error>(())
    };
    let (done, written) = tokio::join!(work, write);
    written?;
    match done {
        Ok(()) => lines::write(stream, &Reply::End).await?,
        Err(failure) => lines::fail(stream, failure).await?,
    }
    Ok(())
}

/// Why a connection ended without an answer.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the client sent no request within {} s", REQUEST_TIME.as_secs())]
    Silent,
    #[error("the client is not the process that connected")]
    AnotherProcess,
    #[error("the client's request is malformed: {0}")]
    Malformed(String),
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Failed, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(FailureKind::NotFound, message)
    }
}

impl From<Gone> for Failure {
    fn from(gone: Gone) -> Self {
        Self::failed(gone.to_string())
    }
}

#[cfg(test)]
mod tests;
