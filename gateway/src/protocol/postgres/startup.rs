//! How a client's connection begins: encryption, and what it asks for.
//!
//! Every byte is read exactly, none ahead, so that plaintext which somebody slipped in behind a request for encryption can
//! only end up in the TLS handshake, and fails there. No password is asked for: who the client is, the kernel and the token
//! have told already. See the PostgreSQL manual, "Message Flow", sections "Start-up" and "SSL Session Encryption".

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::operation;
use super::stream::{Socket, Stream};
use super::wire::{self, Malformed, Report, Severity, Startup};

/// A client must have said what it wants by then.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that is told why it is sent away may take this long to read it.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that is still sending when it is sent away: this much is read and thrown away, so that it gets to reading.
const FAREWELL_BYTES: usize = 256 << 20;
/// A client that has sent nothing for so long is done sending, and waits for an answer.
const QUIET: Duration = Duration::from_millis(200);
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;
/// The name of this protocol inside TLS.
pub(super) const ALPN: &[u8] = b"postgresql";
/// Start-up parameters that are no settings (PostgreSQL, "Message Formats": StartupMessage).
const RESERVED: [&str; 4] = ["user", "database", "options", "replication"];
/// How names of the protocol's own options begin.
const PROTOCOL_OPTION: &str = "_pq_.";
/// Settings that clients bring along by themselves, by which none can do more: no rule must let them. All others are judged as
/// the SET that they would be.
const USUAL_SETTINGS: &[&str] = &[
    "application_name",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "search_path",
    "statement_timeout",
    "timezone",
];

/// What a client's connection is for.
#[derive(Debug)]
pub(super) enum Request {
    Session(Wish),
    /// A session as no client gets one here: who asks, and what is wrong.
    Unfit {
        user: String,
        reason: String,
    },
    Cancel {
        process: u32,
        key: Vec<u8>,
    },
}

/// The session that a client asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// What the client calls itself. The login is the gateway's own; this is for the record.
    pub(super) user: String,
    pub(super) database: Option<String>,
    /// Settings to begin with, checked.
    pub(super) settings: Vec<(String, String)>,
    /// The minor version of the protocol that is spoken.
    pub(super) minor: u16,
    /// The options that NegotiateProtocolVersion has to tell; None if all is spoken that was asked for.
    pub(super) unsupported: Option<Vec<String>>,
}

/// Why a client's connection does not begin.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartupError {
    #[error("the client hung up before its session began")]
    Gone(#[source] io::Error),
    #[error("the client did not finish its start-up in {} s", STARTUP_TIMEOUT.as_secs())]
    Late,
    #[error("the client does not speak PostgreSQL's protocol: {0}")]
    Malformed(#[from] Malformed),
    #[error("the client asked for encryption once more than it may")]
    Again,
    #[error("the client sent more behind a request for encryption, before it was answered")]
    Ahead,
    #[error("the client's TLS handshake failed: {0}; does it trust the gateway's CA? (`weir trust`)")]
    Tls(#[source] io::Error),
    #[error("the client's TLS does not name the protocol \"postgresql\"")]
    Alpn,
}

impl StartupError {
    fn report(&self) -> Report {
        Report::new(Severity::Fatal, "08P01", self.to_string())
    }
}

/// Reads what the client wants. A client that cannot be served has been told so when this fails.
pub(super) async fn accept(stream: TcpStream, tls: &Arc<ServerConfig>) -> Result<(Stream, Request), StartupError> {
    let mut stream = Some(Stream::Plain(stream));
    let request = match timeout(STARTUP_TIMEOUT, negotiate(&mut stream, tls)).await {
        Ok(request) => request,
        Err(_elapsed) => Err(StartupError::Late),
    };
    match (request, stream) {
        (Ok(request), Some(stream)) => Ok((stream, request)),
        (Err(error), Some(stream)) => {
            turn_away(stream, &error.report()).await;
            Err(error)
        }
        (Err(error), None) => Err(error),
        (Ok(_), None) => Err(StartupError::Gone(io::ErrorKind::NotConnected.into())),
    }
}

/// Tells a client that gets no session why, in the words that its own error line shows, encrypted if it asks for that.
pub(super) async fn refuse(stream: TcpStream, tls: &Arc<ServerConfig>, message: &str) {
    if let Ok((stream, Request::Session(_) | Request::Unfit { .. })) = accept(stream, tls).await {
        turn_away(stream, &Report::new(Severity::Fatal, "28000", message)).await;
    }
}

/// Sends a client away that has no session. It is told that its login is fine first: libpq takes an error before that as a
/// reason to try once more without TLS, and shows the same words twice.
pub(super) async fn turn_away(stream: Stream, report: &Report) {
    let mut out = Vec::new();
    wire::authentication_ok(&mut out);
    dismiss(stream, out, report).await;
}

/// Ends a session with a message.
pub(super) async fn farewell(stream: Stream, report: &Report) {
    dismiss(stream, Vec::new(), report).await;
}

/// The same for a client that has not been sent all that must come before.
pub(super) async fn dismiss(stream: Stream, mut unsent: Vec<u8>, report: &Report) {
    report.write(&mut unsent);
    last_words(stream, &unsent).await;
}

/// What a client that asks for a session is told before anything else: of the protocol, and that its login is fine. libpq takes
/// nothing else for a server's first words.
pub(super) fn welcome(wish: &Wish) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(unknown) = &wish.unsupported {
        let unknown: Vec<&str> = unknown.iter().map(String::as_str).collect();
        wire::negotiate_protocol_version(&mut out, wish.minor, &unknown);
    }
    wire::authentication_ok(&mut out);
    out
}

/// Ends a session whose client has been told why: at once, as whoever told it would.
pub(super) async fn close(mut stream: Stream) {
    let closing = async {
        stream.shutdown().await?;
        until_closed(&mut stream, &mut [0; 1 << 10], FAREWELL_BYTES).await
    };
    if let Ok(Err(error)) = timeout(FAREWELL_TIMEOUT, closing).await {
        tracing::debug!(%error, "a client left before it read why");
    }
}

/// Sends a last message and sees to it that the client can read it: closing with unread bytes would throw it away.
async fn last_words(mut stream: Stream, out: &[u8]) {
    let told = async {
        stream.write_all(out).await?;
        linger(&mut stream).await
    };
    match timeout(FAREWELL_TIMEOUT, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a client left before it read why"),
        Err(_elapsed) => tracing::debug!("a client did not read why it was sent away"),
    }
}

/// Reads until the client is done sending, closes our side, and reads until the client has closed its. A client that finds
/// the connection closed while it is still sending shows that, and not what it was told.
async fn linger(stream: &mut Stream) -> io::Result<()> {
    let mut scratch = [0; 8 << 10];
    let mut left = FAREWELL_BYTES;
    while left > 0 {
        match timeout(QUIET, stream.read(&mut scratch)).await {
            Ok(read) => match read? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read),
            },
            Err(_quiet) => {
                stream.shutdown().await?;
                return until_closed(stream, &mut scratch, left).await;
            }
        }
    }
    Ok(())
}

/// Reads until the client has closed its side, or has sent that much.
async fn until_closed(stream: &mut Stream, scratch: &mut [u8], mut left: usize) -> io::Result<()> {
    while left > 0 {
        match stream.read(scratch).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}

/// The client's requests for encryption, then what it is here for. `stream` is taken while a handshake owns it.
async fn negotiate(stream: &mut Option<Stream>, tls: &Arc<ServerConfig>) -> Result<Request, StartupError> {
    // Each is asked for once, and nothing more once a handshake has been asked for, as at the server (`ProcessStartupPacket`).
    let (mut may_ask_tls, mut may_ask_gss) = (true, true);
    if direct_tls(stream.as_ref()).await? {
        encrypt(stream, tls).await?;
        require_alpn(stream.as_ref())?;
    }
    loop {
        let Some(open) = stream.as_mut() else { return Err(StartupError::Gone(io::ErrorKind::NotConnected.into())) };
        let packet = read_packet(open).await?;
        match wire::startup(&packet)? {
            Startup::GssEncryption if may_ask_gss => {
                may_ask_gss = false;
                refuse_encryption(open).await?;
            }
            // It came in TLS, which it began without a request.
            Startup::Tls if may_ask_tls && open.is_tls() => {
                may_ask_tls = false;
                refuse_encryption(open).await?;
            }
            Startup::Tls if may_ask_tls => {
                (may_ask_tls, may_ask_gss) = (false, false);
                open.write_all(b"S").await.map_err(StartupError::Gone)?;
                encrypt(stream, tls).await?;
            }
            Startup::GssEncryption | Startup::Tls => return Err(StartupError::Again),
            Startup::Cancel { process, key } => return Ok(Request::Cancel { process, key: key.to_vec() }),
            Startup::Session { minor, parameters } => {
                let user = parameters.iter().find(|(name, _)| *name == "user").map_or("", |(_, user)| user);
                return Ok(wish(minor, &parameters)
                    .map_or_else(|reason| Request::Unfit { user: user.to_owned(), reason }, Request::Session));
            }
        }
    }
}

async fn direct_tls(stream: Option<&Stream>) -> Result<bool, StartupError> {
    let Some(Stream::Plain(tcp)) = stream else { return Ok(false) };
    let mut first = [0];
    match tcp.peek(&mut first).await {
        Ok(1) => Ok(first[0] == TLS_HANDSHAKE),
        Ok(_) => Err(StartupError::Gone(io::ErrorKind::UnexpectedEof.into())),
        Err(error) => Err(StartupError::Gone(error)),
    }
}

/// Says no to a request for encryption. Nothing can be behind it yet: it would be somebody else's who wants it taken for the
/// client's (CVE-2021-23214). Where the answer is yes, what is there is taken for the handshake, and fails as that.
async fn refuse_encryption(stream: &mut Stream) -> Result<(), StartupError> {
    if let Stream::Plain(tcp) = stream
        && recv(tcp.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).is_ok_and(|bytes| bytes > 0)
    {
        return Err(StartupError::Ahead);
    }
    stream.write_all(b"N").await.map_err(StartupError::Gone)
}

async fn encrypt(stream: &mut Option<Stream>, tls: &Arc<ServerConfig>) -> Result<(), StartupError> {
    let Some(Stream::Plain(tcp)) = stream.take() else { return Err(StartupError::Again) };
    let encrypted = TlsAcceptor::from(Arc::clone(tls)).accept(Socket(tcp)).await.map_err(StartupError::Tls)?;
    *stream = Some(Stream::Tls(Box::new(encrypted.into())));
    Ok(())
}

/// Without the protocol's name, bytes meant for another protocol could be replayed here (the ALPACA attack).
fn require_alpn(stream: Option<&Stream>) -> Result<(), StartupError> {
    match stream {
        Some(Stream::Tls(tls)) if tls.get_ref().1.alpn_protocol() == Some(ALPN) => Ok(()),
        _ => Err(StartupError::Alpn),
    }
}

async fn read_packet(stream: &mut Stream) -> Result<Vec<u8>, StartupError> {
    let mut first = [0; 4];
    stream.read_exact(&mut first).await.map_err(StartupError::Gone)?;
    let mut packet = vec![0; wire::startup_length(first)?];
    packet[..4].copy_from_slice(&first);
    stream.read_exact(&mut packet[4..]).await.map_err(StartupError::Gone)?;
    Ok(packet)
}

/// What the start-up parameters ask for, or what is wrong with them.
fn wish(minor: u16, parameters: &[(&str, &str)]) -> Result<Wish, String> {
    let spoken = minor.min(wire::NEWEST_MINOR);
    let mut wish = Wish { user: String::new(), database: None, settings: Vec::new(), minor: spoken, unsupported: None };
    let mut unknown = Vec::new();
    for &(name, value) in parameters {
        match name {
            "user" => value.clone_into(&mut wish.user),
            "database" => wish.database = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "replication" if matches!(value, "false" | "off" | "no" | "0") => {}
            "replication" => return Err("replication connections do not go through Weir".to_owned()),
            "options" => {
                for (name, value) in options(value)? {
                    setting(&mut wish.settings, &name, &value)?;
                }
            }
            _ if name.starts_with(PROTOCOL_OPTION) => unknown.push(name.to_owned()),
            _ => setting(&mut wish.settings, name, value)?,
        }
    }
    wish.unsupported = (minor > spoken || !unknown.is_empty()).then_some(unknown);
    Ok(wish)
}

/// Takes one setting; the last one of a name counts.
fn setting(settings: &mut Vec<(String, String)>, name: &str, value: &str) -> Result<(), String> {
    let name = name.to_ascii_lowercase();
    // Written as a parameter of its own, it would be one of these and not a setting.
    if RESERVED.contains(&name.as_str()) || name.starts_with(PROTOCOL_OPTION) {
        return Err(format!("the start-up parameter {name:?} is no setting"));
    }
    if name.ends_with("preload_libraries") {
        return Err(format!(
            "the start-up parameter {name:?} does not pass through Weir: it brings code into the server"
        ));
    }
    if let Some(reason) = operation::pinned(&name, Some(value)) {
        return Err(format!("the start-up parameter {name:?} does not pass through Weir with {value:?}: {reason}"));
    }
    settings.retain(|(known, _)| *known != name);
    settings.push((name, value.to_owned()));
    Ok(())
}

impl Wish {
    /// The settings of the wish that some rule must let, each as a statement.
    pub(super) fn as_statements(&self) -> Vec<String> {
        let judged = self.settings.iter().filter(|(name, value)| !is_usual(name, value));
        judged.map(|(name, value)| as_statement(name, value)).collect()
    }
}

/// A path that names the server's own schema may have names mean something else.
fn is_usual(name: &str, value: &str) -> bool {
    USUAL_SETTINGS.contains(&name) && !(name == "search_path" && value.to_ascii_lowercase().contains("pg_catalog"))
}

/// `SET "app"."user" TO '...'`.
fn as_statement(name: &str, value: &str) -> String {
    let name: Vec<String> = name.split('.').map(|it| format!("\"{}\"", it.replace('"', "\"\""))).collect();
    format!("SET {} TO '{}'", name.join("."), value.replace('\'', "''"))
}

/// Reads the `options` parameter as the server would: words as `pg_split_opts` splits them, of which only settings
/// (`-c name=value`, `--name=value`) are understood.
fn options(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut settings = Vec::new();
    let mut words = split_options(text).into_iter();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().unwrap_or_default(),
            Some(rest) => rest.to_owned(),
            None => {
                return Err(format!("the start-up option {word:?} does not pass through Weir; `-c name=value` does"));
            }
        };
        let Some((name, value)) = assignment.split_once('=') else {
            return Err(format!("the start-up option {assignment:?} is no `name=value`"));
        };
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

/// Words are set apart by white space; a backslash takes the next character as it is.
fn split_options(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(letters.next()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_taken_as_the_server_takes_them() {
        let wished = wish(
            2,
            &[
                ("user", "a"),
                ("database", ""),
                ("TimeZone", "UTC"),
                ("options", r"-c statement_timeout=5s -csearch_path=a\ b --geqo=off"),
                ("_pq_.x", "1"),
                ("timezone", "CET"),
            ],
        );
        let settings = [("statement_timeout", "5s"), ("search_path", "a b"), ("geqo", "off"), ("timezone", "CET")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let unsupported = Some(vec!["_pq_.x".to_owned()]);
        assert_eq!(wished, Ok(Wish { user: "a".to_owned(), database: None, settings, minor: 2, unsupported }));
    }

    #[test]
    fn unusual_settings_are_statements() {
        let asked = [
            ("DateStyle", "ISO"),
            ("search_path", "app, PG_Catalog"),
            ("Work_Mem", "1MB"),
            ("options", r"--app.who=it's\\"),
        ];
        let path = r#"SET "search_path" TO 'app, PG_Catalog'"#;
        let statements = [path, r#"SET "work_mem" TO '1MB'"#, r#"SET "app"."who" TO 'it''s\'"#];
        assert_eq!(wish(0, &asked).map(|it| it.as_statements()), Ok(statements.map(str::to_owned).to_vec()));
        assert_eq!(as_statement(r#"a"; DROP TABLE x"#, ""), r#"SET "a""; DROP TABLE x" TO ''"#);
    }

    #[test]
    fn what_cannot_be_judged_is_refused() {
        for (name, value) in [
            ("session_preload_libraries", "x"),
            ("local_preload_libraries", "x"),
            ("replication", "database"),
            ("client_encoding", "LATIN1"),
            ("Database", "hr"),
            ("OPTIONS", "-c role=admin"),
            ("_PQ_.x", "1"),
            ("options", "-c database=hr"),
            ("options", "-c User=postgres"),
            ("options", "-c options=-crole=admin"),
            ("options", "--replication=off"),
            ("options", "-c _pq_.x=1"),
            ("options", "-c standard_conforming_strings=off"),
            ("options", "-B 5"),
            ("options", "-c"),
        ] {
            assert!(wish(0, &[("user", "a"), (name, value)]).is_err(), "{name}={value}");
        }
    }
}
