//! PostgreSQL: the gateway is the server to the client and the client to the server, and sees every message in between.
//!
//! `startup` receives a client, `upstream` logs in to the target with the held credential, and `relay` serves the session:
//! it has each statement understood ([`operation`], under the [`catalog`] that `shared` keeps), judged and decided, forwards
//! what is permitted, and hands what comes back to `reply`, which masks it. [`wire`] is the protocol's bytes, [`copy`] rows as COPY sends them, `statement` the
//! names of a session, `cancel` the keys that cancel it, `replay` a recorded reply for people.

mod cancel;
pub mod catalog;
pub mod copy;
mod explain;
mod forecast;
pub mod lineage;
mod lookups;
pub mod operation;
mod relay;
mod replay;
mod reply;
mod shared;
mod startup;
mod statement;
mod stream;
mod traced;
mod upstream;
pub mod wire;

use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

pub use self::explain::{explain, explain_at_target};
pub use self::replay::render as render_reply;
pub use self::shared::State;

use self::operation::Parsed;
use self::relay::{Encoding, Ends, Relay};
use self::shared::{Freshness, Way};
use self::startup::{Request, StartupError, Wish};
use self::statement::{Judged, Lifetime};
use self::stream::Stream;
use self::upstream::UpstreamError;
use self::wire::{Report, Severity};
use crate::ca::Authority;
use crate::engine::Engine;
use crate::policy::{Action, Kind};
use crate::record::forward::Cancel;
use crate::session::{Decision, Denial, Exact, HeldEvent, Judgement, ReplySummary, Session, SessionError};
use crate::target::{Host, Target};
use crate::tls::{self, TlsError};
use crate::witness::WitnessError;

/// Settings that a session may begin with beside the usual ones: each is judged and recorded by itself.
const MAX_SETTINGS: usize = 32;

/// Why a session did not get to its first statement.
#[derive(Debug, thiserror::Error)]
enum NotServed {
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("the target {0:?} has no login: give it one in the configuration")]
    NoLogin(String),
    #[error(
        "an IAM token is sent to a server of a verified name only: give the target tls with verify-full, and the instance's \
         host name in address or in tls = {{ server_name = … }}"
    )]
    Unverified,
    #[error("{0}")]
    Unfit(String),
    #[error("{}", .0.sentence())]
    Denied(Denial),
    #[error("the credential of this target cannot be read: {0}")]
    Credential(#[from] WitnessError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error("TLS: {0}")]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Keys(#[from] cancel::Full),
    #[error("no key can be made with which the session would be cancelled: {0}")]
    NoKey(#[from] std::io::Error),
}

impl NotServed {
    fn report(&self) -> Report {
        let code = match self {
            Self::Upstream(error) => return error.report(),
            Self::Denied(_) | Self::Unfit(_) => "42501",
            _ => "08004",
        };
        let report = Report::new(Severity::Fatal, code, self.to_string());
        if let Self::Denied(denial) = self { report.with_hint(denial.hint()) } else { report }
    }
}

/// Serves one connection to its end; the outcome is for the session's closing record.
pub async fn serve(stream: TcpStream, session: &Session) -> String {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "small messages may be late");
    }
    let opened = match client_tls(session.engine(), &session.target) {
        Ok(tls) => startup::accept(stream, &tls).await.map_err(NotServed::from),
        Err(error) => Err(error.into()),
    };
    match opened {
        Ok((mut client, Request::Session(wish))) => {
            let mut greeting = startup::welcome(&wish);
            match open(&mut client, &wish, session, &mut greeting).await {
                // By itself: what is large in it need not be there before.
                Ok(opened) => Box::pin(opened.serve(client, session)).await,
                Err(error) => {
                    startup::dismiss(client, greeting, &error.report()).await;
                    error.to_string()
                }
            }
        }
        Ok((client, Request::Unfit { user, reason })) => {
            let error = deny(session, format!("connect as {user:?}"), None, reason).await;
            startup::turn_away(client, &error.report()).await;
            error.to_string()
        }
        Ok((_, Request::Cancel { process, key })) => cancel(session, process, key).await,
        Err(error) => error.to_string(),
    }
}

/// Tells a client that gets no session why, as its own error line.
pub async fn refuse(stream: TcpStream, target: &Target, engine: &Engine, message: &str) {
    match client_tls(engine, target) {
        Ok(tls) => startup::refuse(stream, &tls, message).await,
        Err(error) => tracing::warn!(%error, "a refused client is not told why"),
    }
}

/// The gateway as a TLS server, with a certificate for the target's name.
fn client_tls(engine: &Engine, target: &Target) -> Result<Arc<ServerConfig>, TlsError> {
    let authority: &Arc<Authority> = engine.protocols().authority();
    let mut config = Arc::unwrap_or_clone(tls::server_config(authority, &fallback_name(target))?);
    config.alpn_protocols = vec![startup::ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// What a certificate is for where the client names nothing: the target's first name, or its address.
fn fallback_name(target: &Target) -> String {
    let name =
        target.address.iter().find_map(|it| if let Host::Name(name) = &it.host { Some(name.clone()) } else { None });
    let address =
        || target.address.iter().find_map(|it| if let Host::Network(ip, _) = it.host { Some(ip) } else { None });
    name.or_else(|| address().map(|ip| ip.to_string())).unwrap_or_else(|| target.name.clone())
}

async fn cancel(session: &Session, process: u32, key: Vec<u8>) -> String {
    let engine = Arc::clone(session.engine());
    let wanted = Cancel { cgroup_id: session.origin.cgroup_id, uid: session.origin.uid, process, key };
    match engine.protocols().postgres.keys.cancel(&wanted).await {
        Ok(true) => "a cancel request, done".to_owned(),
        Ok(false) => {
            let passed_on = tokio::task::spawn_blocking(move || engine.predecessors().cancel(&wanted)).await;
            let what = if passed_on.unwrap_or(false) { "passed on to replaced gateways" } else { "ignored" };
            format!("a cancel request without a session of this agent, {what}")
        }
        Err(error) => format!("a cancel request, not done: {error}"),
    }
}

/// Does what a cancel request asks for that came to the gateway which took over, if it is about a session of this one's.
pub(crate) fn cancel_for_another(state: &State, wanted: Cancel) -> impl Future<Output = ()> + use<> {
    let keys = Arc::clone(&state.keys);
    async move {
        if let Err(error) = keys.cancel(&wanted).await {
            tracing::warn!(%error, "a cancel request is not done");
        }
    }
}

/// A session at the target that waits for its client.
struct Opened {
    way: Way,
    upstream: upstream::Upstream,
    lifetime: Lifetime,
    handle: cancel::Handle,
    user: String,
    greeting: Vec<u8>,
}

/// From what the client asks for to a session at the target. `greeting` is what it has still to be told when this is done.
async fn open(
    client: &mut Stream,
    wish: &Wish,
    session: &Session,
    greeting: &mut Vec<u8>,
) -> Result<Opened, NotServed> {
    let target = &session.target;
    let database = match database(target, wish) {
        Ok(database) => database,
        Err(database) => {
            let text = connection(&database, wish);
            let has = target.databases.join(", ");
            let reason = format!("database {database:?} is not one of this target's; it has {has}");
            return Err(deny(session, text, Some(database), reason).await);
        }
    };
    connect_allowed(client, session, &database, wish, greeting).await?;
    let way = Way::new(session.engine(), target, &session.upstream, database).await?;
    settings_allowed(client, session, &way, wish, greeting).await?;
    let settings = settings(wish, session.reads_only);
    let mut upstream = upstream::connect(&way.endpoint, &way.login(&settings, wish.minor)).await?;
    let theirs = (upstream.process, std::mem::take(&mut upstream.key));
    let state = &session.engine().protocols().postgres;
    let lifetime = state.lifetime(session, &way, &mut upstream).await?;
    let keys = &state.keys;
    let key = cancel::Key::new(wish.minor)?;
    let handle = keys.issue(&session.origin, way.endpoint.clone(), theirs, key)?;
    Ok(Opened { way, upstream, lifetime, handle, user: wish.user.clone(), greeting: std::mem::take(greeting) })
}

/// The settings that the session begins with.
fn settings(wish: &Wish, reads_only: bool) -> Vec<(String, String)> {
    let mut settings = wish.settings.clone();
    if reads_only {
        settings.retain(|(name, _)| !operation::WRITING_SETTINGS.contains(&name.as_str()));
        settings.push((operation::WRITING_SETTINGS[0].to_owned(), "on".to_owned()));
    }
    settings
}

/// The database that the session is for: the one that the client names, if the target has it. Else it is the error.
fn database(target: &Target, wish: &Wish) -> Result<String, String> {
    let database = match (&wish.database, &target.databases[..]) {
        (Some(name), _) => name.clone(),
        (None, [only]) => only.clone(),
        // As the server does.
        (None, _) => wish.user.clone(),
    };
    if !target.databases.is_empty() && !target.databases.contains(&database) {
        return Err(database);
    }
    Ok(database)
}

fn connection(database: &str, wish: &Wish) -> String {
    format!("connect to database {database:?} as {:?}", wish.user)
}

/// Has a session denied that no rule can allow, so that it is recorded and told as every denial is.
async fn deny(session: &Session, text: String, database: Option<String>, reason: String) -> NotServed {
    let actions = vec![Action::of(Kind::Connect)];
    let operation = crate::policy::Operation {
        text,
        database,
        actions: actions.into(),
        statements: 1,
        refusal: Some(reason.clone()),
    };
    let judgement = session.judge(Arc::new(operation));
    match session.decide(&judgement, (), Exact::default()).await {
        Ok(Decision::Denial(denial)) => NotServed::Denied(denial),
        // Where policy only observes there is still nothing that could be forwarded.
        Ok(Decision::Permit(_) | Decision::Hold(_)) => NotServed::Unfit(reason),
        Err(error) => error.into(),
    }
}

/// Has the session itself decided: its first operation.
async fn connect_allowed(
    client: &mut Stream,
    session: &Session,
    database: &str,
    wish: &Wish,
    greeting: &mut Vec<u8>,
) -> Result<(), NotServed> {
    let text = connection(database, wish);
    let judgement = session.judge_connect(text, Some(database.to_owned()));
    allowed(client, session, &judgement, database.as_bytes(), "opened", greeting).await
}

/// Has each setting decided that is none of the usual ones, as the SET that it would be a moment later.
async fn settings_allowed(
    client: &mut Stream,
    session: &Session,
    way: &Way,
    wish: &Wish,
    greeting: &mut Vec<u8>,
) -> Result<(), NotServed> {
    let statements = wish.as_statements();
    if statements.is_empty() {
        return Ok(());
    }
    let refuse = async |reason: String| {
        let text = connection(&way.database, wish);
        Err(deny(session, text, Some(way.database.clone()), reason).await)
    };
    if statements.len() > MAX_SETTINGS {
        return refuse(format!("it begins with more than {MAX_SETTINGS} settings that are not the usual ones")).await;
    }
    let state = &session.engine().protocols().postgres;
    let catalog = match state.catalog(session, way, Freshness::Usual).await {
        Ok(catalog) => catalog,
        Err(why) => return refuse(format!("its settings cannot be judged: {why}")).await,
    };
    for text in statements {
        let text: Arc<str> = Arc::from(text);
        let parsed = catalog.understand(&state.analyser, &text).await;
        if !text.is_ascii() || !matches!(&*parsed, Parsed::Statements(statements) if statements.len() == 1) {
            return refuse("it begins with a setting that is not understood".to_owned()).await;
        }
        let judged = Judged::new(session, &way.database, text, parsed, Arc::clone(&catalog));
        allowed(client, session, &judged.judgement, judged.text.as_bytes(), "set", greeting).await?;
    }
    Ok(())
}

/// Has something decided before the session begins. A client that waits is greeted before it is told so.
async fn allowed(
    client: &mut Stream,
    session: &Session,
    judgement: &Judgement,
    exact: &[u8],
    outcome: &str,
    greeting: &mut Vec<u8>,
) -> Result<(), NotServed> {
    let exact = Exact { bytes: &[exact], ..Exact::default() };
    let permit = match session.decide(judgement, (), exact).await? {
        Decision::Permit(permit) => permit,
        Decision::Denial(denial) => return Err(NotServed::Denied(denial)),
        Decision::Hold(mut held) => loop {
            Report::new(Severity::Notice, "00000", held.notice()).write(greeting);
            client.write_all(greeting).await.map_err(StartupError::Gone)?;
            client.flush().await.map_err(StartupError::Gone)?;
            greeting.clear();
            match held.next(session).await {
                HeldEvent::StillWaiting(again) => held = again,
                HeldEvent::Permit(permit) => break permit,
                HeldEvent::Denial(denial) => return Err(NotServed::Denied(denial)),
            }
        },
    };
    let ((), forwarded) = permit.forward();
    Ok(session.replied(forwarded, ReplySummary { outcome: outcome.to_owned(), ..ReplySummary::default() }).await?)
}

impl Opened {
    async fn serve(self, client: Stream, session: &Session) -> String {
        let Self { way, upstream, lifetime, handle, user, mut greeting } = self;
        let encoding = upstream.parameters.iter().find(|(name, _)| name == "server_encoding");
        let encoding = Encoding::named(encoding.map(|(_, value)| value.as_str()));
        let (process, key) = handle.told();
        relay::greet(&mut greeting, &upstream.parameters, &user, process, key);
        let ends = Ends {
            client,
            target: upstream.stream,
            target_inbox: upstream.inbox,
            greeting,
            encoding,
            lifetime,
            waiting: handle.waiting(),
            canceller: handle.canceller(),
        };
        let end = Relay::new(session, &session.engine().protocols().postgres, &way, ends).run().await;
        drop(handle);
        end.to_string()
    }
}
