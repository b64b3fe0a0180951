//! The way to the target: connect, verified TLS, log in with the held credential.
//!
//! A password is proven by SCRAM and never sent: a server that asks for it in clear text, or hashed with MD5, is refused. An IAM
//! token is sent in clear text, as AWS wants it, to a server that has proven its name by TLS, and for nothing else. Where the server offers it, the proof is bound to its certificate (SCRAM-SHA-256-PLUS, `tls-server-end-point`). See the
//! PostgreSQL manual, "Message Flow", sections "Start-up" and "SASL Authentication".

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::operation::PINNED_SETTINGS;
use super::stream::{Socket, Stream};
use super::wire::{self, Fields, Handling, Inbox, Malformed, Piece, Report, STREAM_ABOVE, Severity};
use crate::rds_iam::{self, TokenError};
use crate::secret::Secret;
use crate::tls;

/// The target must have accepted the connection by then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The target must have let us in by then.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(20);
/// A cancel request must be through by then.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
/// More settings than any server reports at start-up.
const MAX_PARAMETERS: usize = 64;
/// What is said of a version that is not known, by those that do not negotiate: a violation of the protocol, no such feature.
const OTHER_VERSION: [&str; 2] = ["08P01", "0A000"];
/// Rounds of SCRAM. With fewer than RFC 7677 asks for, what proves the password is soon guessed by who has it; with more, the
/// other sessions of the thread would wait (`postgres_protocol` has this very limit).
const ROUNDS: RangeInclusive<u32> = 4_096..=100_000;
/// Text of the target's that is passed on when it refuses the login.
const MAX_REASON: usize = 500;

/// Of a token's signature: enough to know it by, also where the rest was cut off.
const KNOWN_BY: usize = 16;
/// In place of a text that may be let in with.
const WITHHELD: &str = "(its text is withheld, since it repeats the token)";

const CLEAR_TEXT: &str = "clear text";

/// Where the target is and how it must prove itself.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    /// None where the configuration says that this target has no TLS.
    pub(super) tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

/// Who the gateway is to the target, and what the session begins with.
pub(super) struct Login<'a> {
    pub(super) user: &'a str,
    pub(super) proof: &'a Proof,
    pub(super) database: &'a str,
    pub(super) settings: &'a [(String, String)],
    /// The minor version of the protocol that is asked for.
    pub(super) minor: u16,
}

/// What proves that the gateway may log in as the user.
#[derive(Clone)]
pub(super) enum Proof {
    Password(Secret),
    /// Makes a token for each login.
    RdsIam(Arc<rds_iam::Signer>),
}

/// A session at the target, before its first statement.
pub(super) struct Upstream {
    pub(super) stream: Stream,
    /// What was read behind the end of the login; nothing, with a server that keeps to the protocol.
    pub(super) inbox: Inbox,
    pub(super) parameters: Vec<(String, String)>,
    pub(super) process: u32,
    pub(super) key: Vec<u8>,
}

/// Why there is no session at the target. None of these texts holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    #[error("the target {0} cannot be reached: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the target did not answer in time")]
    Late,
    #[error("the target offers no TLS, and its configuration does not do without it")]
    NoTls,
    #[error("TLS with the target failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the target's certificate cannot be bound to: {0}")]
    Certificate(#[from] tls::TlsError),
    #[error("the connection to the target broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the target does not speak PostgreSQL's protocol: {0}")]
    Malformed(#[from] Malformed),
    #[error("the target sent a message of type {0:?} during the login")]
    Unexpected(char),
    #[error(
        "the target wants the password by {0}, which would give it away; set its password_encryption to scram-sha-256{asked}",
        asked = if *.0 == CLEAR_TEXT { ", or, if it asks for an IAM token, write login = { rds_iam = { … } }" } else { "" }
    )]
    WeakLogin(&'static str),
    #[error("the target offers no SCRAM-SHA-256")]
    NoScram,
    #[error("the target let the gateway in without a password: its pg_hba.conf trusts everybody")]
    NoProof,
    #[error("the target could not prove that it knows the password: {0}")]
    Scram(#[source] io::Error),
    #[error(
        "the target asks for {0} rounds of SCRAM; from {min} to {max} are done",
        min = ROUNDS.start(),
        max = ROUNDS.end()
    )]
    Rounds(u32),
    #[error(
        "the target asks for a password by {0}, and not for an IAM token: GRANT rds_iam TO the login's user there, and have IAM \
         database authentication enabled for the instance"
    )]
    NotIam(&'static str),
    #[error("the IAM token of the login cannot be made: {0}")]
    Token(#[from] TokenError),
    #[error(
        "the target refused the login's IAM token: {message}; check rds_iam's region and key, that the key may rds-db:connect \
         as this user, that the target's name is the instance's own, and this host's clock"
    )]
    TokenRefused { code: String, message: String },
    #[error("the target refused the session: {message}{}", of_a_pooler(message))]
    Refused { code: String, message: String },
    #[error(
        "the target has standard_conforming_strings off: set it on, or statements cannot be read as the target reads them"
    )]
    Strings,
    #[error("the target repeats the login's IAM token in a setting")]
    TokenShown,
    #[error("the target does not take client_encoding UTF8, which it was asked for")]
    Encoding,
}

impl UpstreamError {
    /// What agents are told: nothing of whence the gateway has its keys.
    pub(super) fn told(&self) -> String {
        match self {
            Self::Token(_) => "the IAM token of the login cannot be made; the gateway's log says why".to_owned(),
            other => other.to_string(),
        }
    }

    /// Whether, for the first answer, this may mean that another version of the protocol would be spoken.
    fn may_be_of_the_version(&self) -> bool {
        match self {
            Self::Refused { code, .. } => OTHER_VERSION.contains(&code.as_str()),
            Self::Broken(error) => {
                matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
            }
            _ => false,
        }
    }

    /// The same as the client is sent it.
    pub(super) fn report(&self) -> Report {
        let code = match self {
            Self::Refused { code, .. } | Self::TokenRefused { code, .. } => code,
            Self::Connect(..) | Self::Late => "08001",
            Self::Broken(_) => "08006",
            _ => "08004",
        };
        Report::new(Severity::Fatal, code, self.told())
    }
}

/// Opens a session at the target. Servers tell which version they speak; poolers are known that hang up instead, and are asked once
/// more, for 3.0.
pub(super) async fn connect(endpoint: &Endpoint, login: &Login<'_>) -> Result<Upstream, UpstreamError> {
    let answered = match ask(endpoint, login, login.minor).await {
        Err(error) if login.minor > 0 && error.may_be_of_the_version() => ask(endpoint, login, 0).await?,
        answered => answered?,
    };
    timeout(LOGIN_TIMEOUT, log_in(answered, login)).await.map_err(|_elapsed| UpstreamError::Late)?
}

/// Asks the target to cancel what a session of it does.
pub(super) async fn cancel(endpoint: &Endpoint, process: u32, key: &[u8]) -> Result<(), UpstreamError> {
    let mut stream = open(endpoint).await?;
    let mut request = Vec::new();
    wire::cancel_request(&mut request, process, key);
    let sent = async {
        stream.write_all(&request).await?;
        stream.flush().await?;
        // The server answers by closing, once it has acted.
        match stream.read(&mut [0; 16]).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        }
    };
    timeout(CANCEL_TIMEOUT, sent).await.map_err(|_elapsed| UpstreamError::Late)?.map_err(UpstreamError::Broken)
}

/// Connects, and encrypts unless the configuration says not to.
pub(super) async fn open(endpoint: &Endpoint) -> Result<Stream, UpstreamError> {
    let failed = |error| UpstreamError::Connect(endpoint.address, error);
    let connecting = TcpStream::connect(endpoint.address);
    let mut tcp =
        timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_elapsed| UpstreamError::Late)?.map_err(failed)?;
    tcp.set_nodelay(true)?;
    let Some((config, name)) = &endpoint.tls else { return Ok(Stream::Plain(tcp)) };
    let encrypted = async {
        let mut request = Vec::new();
        wire::tls_request(&mut request);
        tcp.write_all(&request).await?;
        // One byte and no more: what a stranger slips in behind it can only break the handshake.
        match tcp.read_u8().await? {
            b'S' => {}
            b'N' | b'E' => return Err(UpstreamError::NoTls),
            other => return Err(UpstreamError::Unexpected(char::from(other))),
        }
        let connector = TlsConnector::from(Arc::clone(config));
        let encrypted = connector.connect(name.clone(), Socket(tcp)).await.map_err(UpstreamError::Tls)?;
        Ok(Stream::Tls(Box::new(encrypted.into())))
    };
    timeout(LOGIN_TIMEOUT, encrypted).await.map_err(|_elapsed| UpstreamError::Late)?
}

/// Whether somebody answers in the server's place: a pooler gives a process's number of its own, and not that of whom a client is
/// served by. Asked before the session's first statement.
pub(super) async fn is_pooled(upstream: &mut Upstream) -> Result<bool, UpstreamError> {
    let Upstream { stream, inbox, process, .. } = upstream;
    let asked = async {
        let mut out = Vec::new();
        wire::message(&mut out, b'Q', |out| wire::put_string(out, b"SELECT pg_catalog.pg_backend_pid()"));
        stream.write_all(&out).await?;
        stream.flush().await?;
        let mut served_by = None;
        loop {
            let message = next_message(stream, inbox).await?;
            let mut fields = Fields::of(&message);
            match message[0] {
                b'D' => {
                    fields.count()?;
                    served_by = fields.value()?.and_then(|it| std::str::from_utf8(it).ok()?.parse::<u32>().ok());
                }
                b'S' => must_read_alike(fields.text()?, fields.text()?)?,
                b'T' | b'C' | b'N' => {}
                b'Z' if fields.rest() == b"I" => return Ok(served_by != Some(*process)),
                other => return Err(UpstreamError::Unexpected(char::from(other))),
            }
        }
    };
    timeout(LOGIN_TIMEOUT, asked).await.map_err(|_elapsed| UpstreamError::Late)?
}

/// A target that has answered the start-up packet.
struct Answered {
    stream: Stream,
    inbox: Inbox,
    /// The minor version of the protocol that it speaks.
    minor: u16,
    /// What it asks for to let us in.
    request: Vec<u8>,
}

/// Asks for a session of this minor version.
async fn ask(endpoint: &Endpoint, login: &Login<'_>, minor: u16) -> Result<Answered, UpstreamError> {
    let mut stream = open(endpoint).await?;
    let answered = async {
        let mut packet = Vec::new();
        let fixed = [("user", login.user), ("database", login.database), ("client_encoding", "UTF8")];
        // What is pinned the client may ask for, too. Of names that come twice the server takes the last, so that what is fixed stands there.
        let is_own = |name: &str| PINNED_SETTINGS.iter().any(|(pinned, _)| *pinned == name);
        let settings = login.settings.iter().filter(|(name, _)| !is_own(name));
        let parameters = settings.map(|(name, value)| (&**name, &**value)).chain(fixed);
        wire::session_startup(&mut packet, minor, parameters);
        stream.write_all(&packet).await?;
        stream.flush().await?;
        let mut inbox = Inbox::default();
        let first = next_message(&mut stream, &mut inbox).await?;
        let (minor, request) = match first[0] {
            b'v' if minor > 0 => {
                (wire::negotiated(&first, minor)?, next_authentication(&mut stream, &mut inbox).await?)
            }
            _ => (minor, authentication(first)?),
        };
        Ok(Answered { stream, inbox, minor, request })
    };
    timeout(LOGIN_TIMEOUT, answered).await.map_err(|_elapsed| UpstreamError::Late)?
}

async fn log_in(answered: Answered, login: &Login<'_>) -> Result<Upstream, UpstreamError> {
    let Answered { mut stream, mut inbox, minor, request } = answered;
    let sent = authenticate(&mut stream, &mut inbox, login, request).await?;
    let withheld = |error| match &sent {
        Some(sent) => sent.withheld(error),
        None => error,
    };
    let (parameters, process, key) = begin(&mut stream, &mut inbox, minor).await.map_err(withheld)?;
    if parameters.iter().any(|(_, value)| sent.as_ref().is_some_and(|sent| sent.is_in(value))) {
        return Err(UpstreamError::TokenShown);
    }
    for wanted in ["standard_conforming_strings", "client_encoding"] {
        let value = parameters.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value.as_str());
        must_read_alike(wanted, value)?;
    }
    Ok(Upstream { stream, inbox, parameters, process, key })
}

/// Settings under which the target reads statements as the gateway does. (While the session runs, `reply::texts` sees to that.)
fn must_read_alike(name: &str, value: &str) -> Result<(), UpstreamError> {
    match (name, value) {
        ("standard_conforming_strings", "on") | ("client_encoding", "UTF8" | "UNICODE") => Ok(()),
        ("standard_conforming_strings", _) => Err(UpstreamError::Strings),
        ("client_encoding", _) => Err(UpstreamError::Encoding),
        _ => Ok(()),
    }
}

/// What the target says once it has let us in: its settings, the process's number and its key for cancelling.
async fn begin(
    stream: &mut Stream,
    inbox: &mut Inbox,
    minor: u16,
) -> Result<(Vec<(String, String)>, u32, Vec<u8>), UpstreamError> {
    let mut parameters: Vec<(String, String)> = Vec::new();
    let (mut process, mut key) = (0, Vec::new());
    loop {
        let message = next_message(stream, inbox).await?;
        let mut fields = Fields::of(&message);
        match message[0] {
            b'S' if parameters.len() < MAX_PARAMETERS => {
                let (name, value) = (fields.text()?.to_owned(), fields.text()?.to_owned());
                // The last word counts.
                parameters.retain(|(known, _)| *known != name);
                parameters.push((name, value));
                fields.end()?;
            }
            b'K' if key.is_empty() => {
                let (number, told) = wire::backend_key(&message, minor)?;
                (process, key) = (number, told.to_vec());
            }
            b'N' => {}
            b'Z' if fields.rest() == b"I" => return Ok((parameters, process, key)),
            b'Z' => return Err(Malformed::Body.into()),
            other => return Err(UpstreamError::Unexpected(char::from(other))),
        }
    }
}

/// Returns what is known of a token that was sent.
async fn authenticate(
    stream: &mut Stream,
    inbox: &mut Inbox,
    login: &Login<'_>,
    request: Vec<u8>,
) -> Result<Option<Sent>, UpstreamError> {
    match login.proof {
        Proof::Password(password) => by_password(stream, inbox, password, request).await.map(|()| None),
        Proof::RdsIam(signer) => by_token(stream, inbox, signer, &request).await.map(Some),
    }
}

/// Proves the password by SCRAM, and has the target prove that it knows it too.
async fn by_password(
    stream: &mut Stream,
    inbox: &mut Inbox,
    password: &Secret,
    request: Vec<u8>,
) -> Result<(), UpstreamError> {
    let mut scram: Option<ScramSha256> = None;
    let mut proven = false;
    let mut message = request;
    loop {
        let mut fields = Fields::of(&message);
        match (fields.u32()?, &mut scram) {
            (0, _) if proven => return Ok(()),
            (0, _) => return Err(UpstreamError::NoProof),
            (3, _) => return Err(UpstreamError::WeakLogin(CLEAR_TEXT)),
            (5, _) => return Err(UpstreamError::WeakLogin("MD5")),
            (10, None) => {
                let (mechanism, binding) = choose(&mut fields, stream)?;
                let begun = ScramSha256::new(password.expose(), binding);
                send_initial(stream, mechanism, begun.message()).await?;
                scram = Some(begun);
            }
            (11, Some(scram)) if !proven => {
                let challenge = fields.rest();
                if let Some(rounds) = rounds(challenge).filter(|it| !ROUNDS.contains(it)) {
                    return Err(UpstreamError::Rounds(rounds));
                }
                scram.update(challenge).map_err(UpstreamError::Scram)?;
                let mut out = Vec::new();
                wire::message(&mut out, b'p', |out| out.extend_from_slice(scram.message()));
                stream.write_all(&out).await?;
                stream.flush().await?;
            }
            (12, Some(scram)) if !proven => {
                scram.finish(fields.rest()).map_err(UpstreamError::Scram)?;
                proven = true;
            }
            (2 | 7 | 8 | 9, _) => return Err(UpstreamError::NoScram),
            _ => return Err(UpstreamError::Unexpected('R')),
        }
        message = next_authentication(stream, inbox).await?;
    }
}

/// Sends a token where one is asked for in clear text. There is no proof of the target's: its certificate was one.
async fn by_token(
    stream: &mut Stream,
    inbox: &mut Inbox,
    signer: &rds_iam::Signer,
    request: &[u8],
) -> Result<Sent, UpstreamError> {
    match code(request)? {
        3 => {}
        0 => return Err(UpstreamError::NoProof),
        5 => return Err(UpstreamError::NotIam("MD5")),
        10 => return Err(UpstreamError::NotIam("SCRAM")),
        _ => return Err(UpstreamError::Unexpected('R')),
    }
    if matches!(stream, Stream::Plain(_)) {
        return Err(UpstreamError::NoTls);
    }
    let made = signer.token().await;
    let token = made.inspect_err(|error| tracing::warn!(%error, "the IAM token of a login cannot be made"))?;
    let sent = Sent::new(&token);
    let mut out = Zeroizing::new(Vec::with_capacity(token.expose().len() + 6));
    wire::message(&mut out, b'p', |out| wire::put_string(out, token.expose()));
    stream.write_all(&out).await?;
    stream.flush().await?;
    let answer = next_authentication(stream, inbox).await.map_err(|error| match sent.withheld(error) {
        UpstreamError::Refused { code, message } => {
            signer.refused();
            UpstreamError::TokenRefused { code, message }
        }
        other => other,
    })?;
    if code(&answer)? == 0 { Ok(sent) } else { Err(UpstreamError::Unexpected('R')) }
}

/// What the gateway knows of a token that it sent: nobody else is to be told of it by the target.
struct Sent {
    /// Of the signature, in lower case.
    begins: String,
}

impl Sent {
    fn new(token: &Secret) -> Self {
        let signature = rds_iam::signature(token).unwrap_or_default();
        Self { begins: signature.chars().take(KNOWN_BY).collect::<String>().to_ascii_lowercase() }
    }

    fn is_in(&self, text: &str) -> bool {
        let text = text.to_ascii_lowercase();
        text.contains("x-amz-") || !self.begins.is_empty() && text.contains(&self.begins)
    }

    fn withheld(&self, error: UpstreamError) -> UpstreamError {
        match error {
            UpstreamError::Refused { code, message } if self.is_in(&message) => {
                UpstreamError::Refused { code, message: WITHHELD.to_owned() }
            }
            other => other,
        }
    }
}

/// What an Authentication message asks for.
fn code(message: &[u8]) -> Result<u32, Malformed> {
    Fields::of(message).u32()
}

/// How many rounds a challenge asks for (RFC 5802, "iteration-count"), if it says so; without, there is no proof either.
fn rounds(challenge: &[u8]) -> Option<u32> {
    let attributes = std::str::from_utf8(challenge).ok()?.split(',');
    attributes.filter_map(|it| it.strip_prefix("i=")).next_back()?.parse().ok()
}

/// The strongest mechanism of those on offer.
fn choose(fields: &mut Fields<'_>, stream: &Stream) -> Result<(&'static str, ChannelBinding), UpstreamError> {
    let (mut plain, mut plus) = (false, false);
    loop {
        match fields.text()? {
            "" => break,
            SCRAM_SHA_256 => plain = true,
            SCRAM_SHA_256_PLUS => plus = true,
            _ => {}
        }
    }
    let certificate = match stream {
        Stream::Tls(tls) => tls.get_ref().1.peer_certificates().and_then(<[_]>::first),
        Stream::Plain(_) => None,
    };
    match certificate {
        Some(certificate) if plus => {
            let binding = ChannelBinding::tls_server_end_point(tls::server_end_point(certificate)?);
            Ok((SCRAM_SHA_256_PLUS, binding))
        }
        // "We could have bound": a stranger in the middle who took -PLUS off the offer is found out.
        Some(_) if plain => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if plain => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(UpstreamError::NoScram),
    }
}

async fn send_initial(stream: &mut Stream, mechanism: &str, first: &[u8]) -> Result<(), UpstreamError> {
    let mut out = Vec::new();
    wire::message(&mut out, b'p', |out| {
        wire::put_string(out, mechanism.as_bytes());
        out.extend_from_slice(&u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(first);
    });
    stream.write_all(&out).await?;
    Ok(stream.flush().await?)
}

/// The next message of the login, which must be an Authentication.
async fn next_authentication(stream: &mut Stream, inbox: &mut Inbox) -> Result<Vec<u8>, UpstreamError> {
    authentication(next_message(stream, inbox).await?)
}

fn authentication(message: Vec<u8>) -> Result<Vec<u8>, UpstreamError> {
    if message[0] == b'R' { Ok(message) } else { Err(UpstreamError::Unexpected(char::from(message[0]))) }
}

/// The next message of the login; an ErrorResponse is the target's refusal.
async fn next_message(stream: &mut Stream, inbox: &mut Inbox) -> Result<Vec<u8>, UpstreamError> {
    loop {
        // Nothing of a login is as large as what elsewhere could be passed on in parts: what comes before the login is done, from
        // whomever, takes no more memory than that.
        let mut large = None;
        let piece = inbox.next(|tag, length| {
            large = Some((tag, length));
            Handling::Whole
        })?;
        match piece {
            Piece::Message(b'E', range) => return Err(refused(inbox.bytes(range))?),
            Piece::Message(_, range) | Piece::Part(_, range) => return Ok(inbox.bytes(range).to_vec()),
            Piece::Incomplete => {
                if let Some((tag, length)) = large {
                    return Err(Malformed::TooLarge { tag, length, most: STREAM_ABOVE }.into());
                }
                inbox.compact();
                let read = stream.read(inbox.space().map_err(io::Error::other)?).await?;
                if read == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                inbox.filled(read);
            }
        }
    }
}

/// What to do about a refusal that a pooler of the target's is known for.
fn of_a_pooler(message: &str) -> &'static str {
    if message.starts_with("unsupported startup parameter: default_transaction_read_only") {
        "; a pooler does not pass on that sessions are to be read-only: set read_only_sessions = false for this target"
    } else {
        ""
    }
}

fn refused(message: &[u8]) -> Result<UpstreamError, Malformed> {
    let fields = wire::report_fields(message)?;
    let text = |letter| {
        let found = fields.iter().find(|(known, _)| *known == letter).map_or(&b""[..], |(_, text)| text);
        String::from_utf8_lossy(found).chars().filter(|c| !c.is_control()).take(MAX_REASON).collect::<String>()
    };
    let code = text(b'C');
    let code = if wire::is_sqlstate(&code) { code } else { "08004".to_owned() };
    Ok(UpstreamError::Refused { code, message: text(b'M') })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_that_repeats_the_token_is_withheld() {
        const SIGNATURE: &str = "462b6e10c135d4ad840562fe545fbdd00245718f4c892fed5c8a0069413bfaa9";
        let token = format!("db:5432/?Action=connect&DBUser=u&X-Amz-Expires=900&X-Amz-Signature={SIGNATURE}");
        let sent = Sent::new(&Secret::new(token.clone().into_bytes()));
        let told = |message: &str| {
            let error = UpstreamError::Refused { code: "28000".to_owned(), message: message.to_owned() };
            sent.withheld(error).to_string()
        };
        for echo in [
            &*token,
            &token.to_ascii_lowercase(),
            "no x-aMZ-algorithm",
            SIGNATURE,
            &format!("bad {}…", &SIGNATURE[..40]),
            &SIGNATURE.to_ascii_uppercase(),
        ] {
            assert_eq!(told(echo), format!("the target refused the session: {WITHHELD}"), "{echo}");
        }
        let failed = "PAM authentication failed for user \"u\"";
        assert!(told(failed).contains(failed));
    }
}
