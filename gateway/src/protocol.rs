//! The protocols of targets: one folder each. Only code below here knows wire bytes.

pub mod postgres;
pub mod tls_passthrough;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::engine::Engine;
use crate::policy::Operation;
use crate::session::Session;
use crate::target::{Protocol, Target};
use crate::tls::TlsError;

/// What the protocols share between sessions.
#[derive(Debug, Default)]
pub struct State {}

impl State {
    pub fn new(_config: &Config) -> Result<Self, TlsError> {
        Ok(Self::default())
    }
}

/// Serves a session to its end; the outcome is for its closing record.
pub async fn serve(stream: TcpStream, session: &Session) -> String {
    match session.target.protocol {
        Protocol::Postgres => "not served".to_owned(),
        Protocol::TlsPassthrough => tls_passthrough::serve(stream, session).await,
    }
}

/// What a text would do on a target, from the text alone: for `weir explain`. Blocks.
pub fn explain(target: &Target, database: Option<String>, text: &str) -> Result<Operation, String> {
    match target.protocol {
        Protocol::Postgres => Ok(postgres::explain(database, text)),
        Protocol::TlsPassthrough => Err(format!("target {:?} has no statements to explain", target.name)),
    }
}

/// What came back for an operation, as recorded, in lines for people. Whoever shows them escapes them.
pub fn render_reply(_protocol: Protocol, content: &[u8]) -> Vec<String> {
    vec![format!("{} bytes", content.len())]
}

/// Tells a refused client why, in its protocol's words.
pub async fn refuse(stream: TcpStream, target: &Target, _engine: &Engine, _message: &str) {
    match target.protocol {
        Protocol::Postgres => {}
        Protocol::TlsPassthrough => tls_passthrough::refuse(stream).await,
    }
}
