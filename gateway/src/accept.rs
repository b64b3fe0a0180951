//! The life of a connection, from the accepted socket to the closing record.
//!
//! The kernel has noted who connected and where to; here the note becomes an [`Origin`], which waits for its turn among those
//! of its kind (see [`crate::admission`]); the origin becomes a target and a principal, and these a session, which the target's protocol serves. Whatever fails on the way is a refusal: it is
//! recorded, told to the client in the protocol's own words where there are any, and the socket is closed.

use std::net::{SocketAddr, TcpStream as Accepted};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::TcpStream;

use crate::admission::Place;
use crate::dns;
use crate::engine::Engine;
use crate::identity;
use crate::ids::SessionId;
use crate::intercept::Interceptor;
use crate::origin::{Evidence, Origin};
use crate::protocol;
use crate::record::event::{ConnectionRefused, Event, SessionClosed};
use crate::session::Session;
use crate::splice::{self, splice};
use crate::target::{Target, Upstream};

/// A refused client gets this long to read why.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Reloads in the midst of which a connection is admitted.
const MAX_RELOADS: u32 = 3;
const DNS_PORT: u16 = 53;
const UNREGISTERED: &str = "the accepted connection cannot be served, and was closed";

/// Why a connection gets no session.
#[derive(Debug)]
pub struct Refusal {
    pub reason: Reason,
    /// For people: what is wrong and what to do about it. Never holds a secret.
    pub message: String,
    pub rule: Option<String>,
}

/// The stage that refused, for counters and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The kernel's note or the process's evidence could not be had.
    Origin,
    /// No target has the address.
    Unlisted,
    /// Several targets have the address.
    Target,
    /// Not an agent, or no valid token.
    Identity,
    /// No rule lets this principal connect.
    Policy,
    /// The gateway cannot do its part now: recording, limits.
    Gateway,
}

impl Reason {
    pub fn code(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Unlisted => "unlisted",
            Self::Target => "target",
            Self::Identity => "identity",
            Self::Policy => "policy",
            Self::Gateway => "gateway",
        }
    }
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), rule: None }
    }
}

/// What is known of a connection while it is being admitted; what a refusal's record can tell.
#[derive(Default)]
struct Known {
    target: Option<(Arc<Target>, Upstream)>,
    evidence: Option<Evidence>,
    agent: Option<String>,
}

/// Serves one accepted connection, which does not block, to its end. It is registered with the thread's runtime only when there
/// is something to read or to write: many a refused one never needs it.
pub async fn connection(engine: Arc<Engine>, interceptor: Interceptor, stream: Accepted, peer: SocketAddr) {
    let id = engine.new_session_id();
    let origin = match interceptor.origin(stream.as_fd(), peer) {
        Ok(origin) => origin,
        Err(error) => return Box::pin(reset(&engine, id, stream, None, Reason::Origin, &error.to_string())).await,
    };
    let place = match engine.admission().enter(dns::agent_key(&origin)) {
        Ok(place) => place,
        Err(crowded) => {
            return Box::pin(reset(&engine, id, stream, Some(origin), Reason::Gateway, &crowded.to_string())).await;
        }
    };
    if origin.destination.port() == DNS_PORT {
        let Some(stream) = registered(stream) else { return };
        return Box::pin(engine.dns().serve_tcp(stream, &origin, engine.witness())).await;
    }
    let mut known = Known::default();
    let Some(turn) = place.turn().await else { return };
    // Boxed, like all that a session which is served has no use for: a task is as large as the largest of what it awaits.
    let admitted = Box::pin(admit(&engine, id, &origin, &mut known)).await;
    drop(turn);
    match admitted {
        Ok(session) => {
            drop(place);
            let outcome = match registered(stream) {
                Some(stream) => Box::pin(protocol::serve(stream, &session)).await,
                None => UNREGISTERED.to_owned(),
            };
            Box::pin(session.close(&outcome)).await;
        }
        Err(refusal) => Box::pin(refuse(&engine, id, stream, origin, known, refusal, place)).await,
    }
}

/// Under one configuration from beginning to end: what is reloaded meanwhile begins anew.
async fn admit(engine: &Arc<Engine>, id: SessionId, origin: &Origin, known: &mut Known) -> Result<Session, Refusal> {
    for _ in 0..MAX_RELOADS {
        let in_force = engine.in_force();
        let config = &in_force.config;
        let destination = engine.resolve(config, origin);
        known.target = destination.as_ref().ok().cloned();
        let evidence = known.evidence.insert(engine.evidence(origin).await?).clone();
        known.agent = identity::agent_name(config, origin, &evidence);
        // Only now: that somebody wanted to go where there is no target is worth a record of who it was.
        let destination = destination?;
        let principal = engine.identify(config, origin, &evidence).await?;
        if let Some(session) = engine.open(id, &in_force, (origin.clone(), evidence), principal, destination).await? {
            return Ok(session);
        }
    }
    Err(Refusal::new(Reason::Gateway, "the configuration was reloaded again and again meanwhile; connect again"))
}

/// Records the refusal, then tells the client in its protocol's words. Of what cannot be recorded it hears just that.
async fn refuse(
    engine: &Engine,
    id: SessionId,
    stream: Accepted,
    origin: Origin,
    known: Known,
    refusal: Refusal,
    place: Place,
) {
    let destination = origin.destination;
    let observed = engine.only_observes(&refusal, destination);
    tracing::info!(session = %id, %destination, reason = refusal.reason.code(), observed, "connection refused");
    let target = known.target.map(|(target, _)| target);
    let mut message = format!("{} (ID {id})", refusal.message);
    let event = Event::ConnectionRefused(ConnectionRefused {
        id,
        origin: Some(origin),
        evidence: known.evidence,
        agent: known.agent,
        target: target.as_ref().map(|target| target.name.clone()),
        reason: refusal.reason.code().to_owned(),
        message: refusal.message,
        rule: refusal.rule,
        observed,
    });
    if let Err(error) = engine.recorder().append_durable(event).await {
        tracing::error!(session = %id, %error, "a refusal could not be recorded");
        message = format!("the gateway cannot record, and lets nobody in until it can: {error}");
    } else if observed {
        drop(place);
        return Box::pin(observe(engine, id, stream, destination)).await;
    }
    let Some(target) = target else { return close_hard(&stream) };
    let Some(stream) = registered(stream) else { return };
    let told = Box::pin(protocol::refuse(stream, &target, engine, &message));
    if tokio::time::timeout(REFUSAL_TIMEOUT, told).await.is_err() {
        tracing::debug!(session = %id, "the refused client did not read why");
    }
}

/// What policy would refuse is passed through where it says to observe only: bytes both ways, unread and counted.
async fn observe(engine: &Engine, id: SessionId, client: Accepted, destination: SocketAddr) {
    let Some(client) = registered(client) else { return };
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(destination)).await;
    let Ok(Ok(target)) = connected else {
        tracing::info!(session = %id, %destination, "an observed destination cannot be reached");
        return close_hard(&client);
    };
    let passed = splice(client, target, splice::LIMITS, std::future::pending()).await;
    let event = Event::SessionClosed(SessionClosed {
        id,
        outcome: format!("observed only: {}", passed.end),
        statements: 0,
        rows: 0,
        cells_masked: 0,
        bytes_up: passed.up,
        bytes_down: passed.down,
    });
    if let Err(error) = engine.recorder().append(event).await {
        tracing::error!(session = %id, %error, "the end of an observed connection was not recorded");
    }
}

/// Resets a connection without a word: one without the kernel's note, for nobody may reach the gateway but through
/// interception, or one more of an origin that has too many. There may be any number of them, so not each has its record.
async fn reset(engine: &Engine, id: SessionId, stream: Accepted, origin: Option<Origin>, reason: Reason, error: &str) {
    close_hard(&stream);
    drop(stream);
    let Some(passed_over) = engine.admission().may_record(Instant::now()) else { return };
    tracing::warn!(session = %id, %error, passed_over, "a connection was reset");
    let more = if passed_over == 0 {
        String::new()
    } else {
        format!(" ({passed_over} more were reset before it, and are not recorded)")
    };
    let event = Event::ConnectionRefused(ConnectionRefused {
        id,
        origin,
        evidence: None,
        agent: None,
        target: None,
        reason: reason.code().to_owned(),
        message: format!("{error}{more}"),
        rule: None,
        observed: false,
    });
    if let Err(error) = engine.recorder().append(event).await {
        tracing::error!(session = %id, %error, "a refusal could not be recorded");
    }
}

/// For the runtime of this thread; None: it was closed.
fn registered(stream: Accepted) -> Option<TcpStream> {
    TcpStream::from_std(stream).inspect_err(|error| tracing::error!(%error, "{UNREGISTERED}")).ok()
}

/// Closes with a reset, so that the client's next call fails at once.
fn close_hard(stream: &impl AsFd) {
    if let Err(error) = SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "no reset; the socket closes in the ordinary way");
    }
}
