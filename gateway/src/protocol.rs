//! The protocols of targets: one folder each. Only code below here knows wire bytes.

pub mod postgres;
pub mod tls_passthrough;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::engine::Engine;
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

/// Tells a refused client why, in its protocol's words.
pub async fn refuse(stream: TcpStream, target: &Target, _engine: &Engine, _message: &str) {
    match target.protocol {
        Protocol::Postgres => {}
        Protocol::TlsPassthrough => tls_passthrough::refuse(stream).await,
    }
}
