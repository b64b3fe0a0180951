//! TLS that is not terminated: the name in the client's first message is judged and recorded, then bytes are passed
//! both ways.
//!
//! For services whose content the gateway has no business with, model APIs to begin with. The certificate is the
//! client's to check: to whom the bytes go is decided by the address that the agent connected to, which is the
//! target's.
//!
//! With an encrypted `ClientHello` the name judged is the outer one. What is inside is between the client and the
//! target, which the address has fixed already; the record says that it was so.

pub mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use self::wire::{Alert, ClientHello, HelloReader, Malformed};
use crate::policy::{Action, Kind, Operation};
use crate::session::{Decision, Denial, Exact, Forwarded, Held, HeldEvent, ReplySummary, Session, SessionError};
use crate::splice::{self, splice};
use crate::target::Target;

/// How long a client may take to say whom it wants, or to take an alert.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after its end a token that was not renewed is asked for again; clocks get some leeway.
const RENEWAL_INTERVAL: Duration = Duration::from_secs(5);

/// Serves one connection to its end; the outcome is for the session's closing record.
pub async fn serve(mut client: TcpStream, session: &Session) -> String {
    match admit(&mut client, session).await {
        Ok(admitted) => pass(client, admitted, session).await,
        Err(refused) => {
            if let Some(alert) = refused.alert() {
                send_alert(&mut client, alert).await;
            }
            refused.to_string()
        }
    }
}

/// Tells a client without a session that it is refused. It is heard out first: nobody listens before having spoken.
pub async fn refuse(mut client: TcpStream) {
    if let Ok(Ok(_)) = tokio::time::timeout(HELLO_TIMEOUT, read_hello(&mut client)).await {
        send_alert(&mut client, Alert::AccessDenied).await;
    }
}

/// Why a connection ended before any byte was passed.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the client did not begin a TLS handshake in time")]
    Timeout,
    #[error("the client left before it was answered")]
    Left,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the client's connection failed: {0}")]
    Io(#[from] io::Error),
    #[error("the client names no server (SNI), so there is nothing to judge")]
    NoName,
    #[error("{name} is not a name of the target {target}")]
    OtherName { name: String, target: String },
    #[error("{}", .0.sentence())]
    Denied(Denial),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("the target cannot be reached: {0}")]
    Unreachable(io::Error),
}

impl Refused {
    /// What to tell the client, if it listens.
    fn alert(&self) -> Option<Alert> {
        match self {
            Self::Timeout | Self::Left | Self::Io(_) => None,
            Self::Malformed(_) => Some(Alert::DecodeError),
            Self::NoName => Some(Alert::MissingExtension),
            Self::OtherName { .. } => Some(Alert::UnrecognizedName),
            Self::Denied(_) => Some(Alert::AccessDenied),
            Self::Session(_) | Self::Unreachable(_) => Some(Alert::InternalError),
        }
    }
}

/// What the client began with.
#[derive(Debug)]
struct Opening {
    name: String,
    hello: ClientHello,
    /// All that was read, to be passed on.
    bytes: Vec<u8>,
}

/// A connection that may go on to the target.
struct Admitted {
    opening: Opening,
    operation: Arc<Operation>,
    forwarded: Forwarded,
}

/// Reads the client's first message and has it decided. What is refused before there is anything to decide is recorded
/// all the same.
async fn admit(client: &mut TcpStream, session: &Session) -> Result<Admitted, Refused> {
    let opening = match open(client, &session.target, HELLO_TIMEOUT).await {
        Ok(opening) => opening,
        Err(refused) => {
            let operation = operation("TLS handshake".to_owned(), Some(refused.to_string()));
            let judgement = session.judge(Arc::new(operation));
            let exact = Exact::default();
            // Denied by the refusal that the operation carries; here that is only recorded.
            drop(session.decide(&judgement, (), exact).await?);
            return Err(refused);
        }
    };
    let operation = Arc::new(operation(opening.describe(), None));
    let judgement = session.judge(Arc::clone(&operation));
    let bytes = opening.name.clone();
    let exact = Exact { bytes: &[bytes.as_bytes()], ..Exact::default() };
    let permit = match session.decide(&judgement, opening, exact).await? {
        Decision::Permit(permit) => permit,
        Decision::Denial(denial) => return Err(Refused::Denied(denial)),
        Decision::Hold(held) => wait(client, held, session).await?,
    };
    let (opening, forwarded) = permit.forward();
    Ok(Admitted { opening, operation, forwarded })
}

impl Opening {
    /// For people: in records, approvals and `weir why`.
    fn describe(&self) -> String {
        let protocols = if self.hello.protocols.is_empty() { "none" } else { &self.hello.protocols.join(", ") };
        let outer = if self.hello.encrypted { ", the outer name of an encrypted hello" } else { "" };
        format!("TLS to {}{outer} (ALPN: {protocols})", self.name)
    }
}

fn operation(text: String, refusal: Option<String>) -> Operation {
    let connect = Action::of(Kind::Connect);
    Operation { text, database: None, actions: Arc::from([connect]), statements: 1, refusal }
}

/// Waits for people. The client's handshake hangs meanwhile; nothing can be said to it.
async fn wait<R>(
    client: &TcpStream,
    mut held: Held<R>,
    session: &Session,
) -> Result<crate::session::Permit<R>, Refused> {
    loop {
        let event = tokio::select! {
            event = held.next(session) => event,
            () = gone(client) => return Err(Refused::Left),
        };
        match event {
            HeldEvent::StillWaiting(still) => held = still,
            HeldEvent::Permit(permit) => return Ok(permit),
            HeldEvent::Denial(denial) => return Err(Refused::Denied(denial)),
        }
    }
}

/// Completes when the client has closed. One that has more to say is there.
async fn gone(client: &TcpStream) {
    if let Ok(1..) = client.peek(&mut [0]).await {
        std::future::pending::<()>().await;
    }
}

/// Connects to the target and passes bytes until the end.
async fn pass(mut client: TcpStream, admitted: Admitted, session: &Session) -> String {
    let Admitted { opening, operation, forwarded } = admitted;
    let target = match connect(session, &opening.bytes).await {
        Ok(target) => target,
        Err(error) => {
            send_alert(&mut client, Alert::InternalError).await;
            let outcome = Refused::Unreachable(error).to_string();
            return finish(session, forwarded, outcome, 0).await;
        }
    };
    let ended = async {
        tokio::select! {
            by = session.killed() => format!("ended by {by}"),
            why = token_lapsed(session) => why,
            why = session.overtaken(&operation) => why,
        }
    };
    let passed = splice(client, target, splice::LIMITS, ended).await;
    session.count_up(opening.bytes.len() as u64 + passed.up);
    finish(session, forwarded, passed.end.to_string(), passed.down).await
}

/// Completes when the agent has no valid token any more; says why. There is no operation here at which to ask for one.
async fn token_lapsed(session: &Session) -> String {
    let mut expires_at = session.principal.expires_at;
    loop {
        let left = expires_at.saturating_sub(session.engine().unix_seconds());
        tokio::time::sleep(Duration::from_secs(left).max(RENEWAL_INTERVAL)).await;
        match session.engine().renew(session).await {
            Ok(renewed) => expires_at = renewed,
            Err(why) => return why,
        }
    }
}

async fn connect(session: &Session, first: &[u8]) -> io::Result<TcpStream> {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(session.upstream.address));
    let mut target = connected.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    target.set_nodelay(true)?;
    target.write_all(first).await?;
    Ok(target)
}

async fn finish(session: &Session, forwarded: Forwarded, outcome: String, bytes: u64) -> String {
    let summary = ReplySummary { outcome: outcome.clone(), bytes, ..ReplySummary::default() };
    match session.replied(forwarded, summary).await {
        Ok(()) => outcome,
        Err(error) => error.to_string(),
    }
}

/// Reads the client's first message and checks its name against the target's.
async fn open(client: &mut (impl AsyncRead + Unpin), target: &Target, timeout: Duration) -> Result<Opening, Refused> {
    let (hello, bytes) = tokio::time::timeout(timeout, read_hello(client)).await.map_err(|_| Refused::Timeout)??;
    let name = hello.server_name.clone().ok_or(Refused::NoName)?;
    if !accepts(target, &name) {
        return Err(Refused::OtherName { name, target: target.name.clone() });
    }
    Ok(Opening { name, hello, bytes })
}

async fn read_hello(client: &mut (impl AsyncRead + Unpin)) -> Result<(ClientHello, Vec<u8>), Refused> {
    let mut reader = HelloReader::default();
    let mut bytes = Vec::new();
    loop {
        let start = bytes.len();
        // The reader refuses more than its bound, so this does not grow for ever.
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(Refused::Left);
        }
        if let Some(hello) = reader.feed(&bytes[start..])? {
            return Ok((hello, bytes));
        }
    }
}

/// Whether the target goes by this name: one of its `server_names`, or of the names of its addresses if there are none.
fn accepts(target: &Target, name: &str) -> bool {
    if !target.server_names.is_empty() {
        return target.server_names.iter().any(|pattern| name_matches(pattern, name));
    }
    target.has_name(name)
}

/// `*.example.com` stands for exactly one more label.
fn name_matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
        None => pattern.eq_ignore_ascii_case(name),
    }
}

/// Ends a handshake in TLS's own words.
async fn send_alert(client: &mut (impl AsyncWrite + Unpin), alert: Alert) {
    let told = async {
        client.write_all(&alert.record()).await?;
        client.shutdown().await
    };
    // Best effort: the client may have gone, or not read.
    let _ = tokio::time::timeout(HELLO_TIMEOUT, told).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::wire::tests::rustls_hello;
    use super::*;
    use crate::target::{Address, Host, Protocol, TlsMode};

    fn target(names: &[&str], server_names: &[&str]) -> Target {
        let address = |name: &&str| Address { host: Host::Name((*name).to_owned()), port: 443 };
        Target {
            name: "models".to_owned(),
            protocol: Protocol::TlsPassthrough,
            address: names.iter().map(address).collect(),
            resolve: Vec::new(),
            resolve_within: Vec::new(),
            databases: Vec::new(),
            read_only_sessions: true,
            pool_mode: None,
            tls: TlsMode::Disable { insecure: "test".to_owned() },
            login: None,
            server_names: server_names.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    async fn open_with(bytes: &[u8], target: &Target) -> Result<Opening, Refused> {
        let (mut client, mut gateway) = duplex(1 << 16);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        open(&mut gateway, target, HELLO_TIMEOUT).await
    }

    #[tokio::test]
    async fn the_name_must_be_the_targets() {
        let hello = rustls_hello("api.example.com");
        for (target, good) in [
            (target(&["api.example.com"], &[]), true),
            (target(&["example.com", "x.example.com"], &[]), false),
            (target(&["cdn.internal"], &["api.example.com"]), true),
            (target(&["api.example.com"], &["other.example.com"]), false),
            (target(&[], &["*.example.com"]), true),
            (target(&[], &["*.com"]), false),
            (target(&[], &["*.api.example.com"]), false),
            (target(&[], &[]), false),
        ] {
            let opened = open_with(&hello, &target).await;
            assert_eq!(opened.is_ok(), good, "{target:?}");
            match opened {
                Ok(opening) => assert_eq!((opening.name.as_str(), opening.bytes), ("api.example.com", hello.clone())),
                Err(error) => assert_eq!(error.alert(), Some(Alert::UnrecognizedName)),
            }
        }
    }

    #[tokio::test]
    async fn what_says_no_name_is_refused() {
        let target = target(&["api.example.com"], &[]);
        let alert = |opened: Result<Opening, Refused>| opened.unwrap_err().alert();
        assert_eq!(alert(open_with(&rustls_hello("192.0.2.1"), &target).await), Some(Alert::MissingExtension));
        assert_eq!(alert(open_with(b"GET / HTTP/1.1\r\n\r\n", &target).await), Some(Alert::DecodeError));
        assert_eq!(alert(open_with(b"", &target).await), None);
        assert_eq!(alert(open_with(&rustls_hello("api.example.com")[..99], &target).await), None);
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_is_not_waited_for() {
        let (mut client, mut gateway) = duplex(1 << 16);
        client.write_all(&rustls_hello("api.example.com")[..99]).await.unwrap();
        let soon = Duration::from_millis(10);
        let opened = open(&mut gateway, &target(&["api.example.com"], &[]), soon).await;
        assert!(matches!(opened, Err(Refused::Timeout)));
    }

    #[tokio::test]
    async fn alerts_are_what_tls_clients_understand() {
        let mut config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.enable_sni = true;
        let name = rustls::pki_types::ServerName::try_from("api.example.com").unwrap();
        let mut client = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
        client.read_tls(&mut &Alert::UnrecognizedName.record()[..]).unwrap();
        let error = client.process_new_packets().unwrap_err();
        assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::UnrecognisedName));
    }
}
