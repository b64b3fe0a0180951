//! The protocols of targets: one folder each. Only code below here knows wire bytes.

pub mod postgres;

use tokio::net::TcpStream;

use crate::config::Config;
use crate::engine::Engine;
use crate::session::Session;
use crate::target::Target;
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
pub async fn serve(_stream: TcpStream, _session: &Session) -> String {
    "not served".to_owned()
}

/// Tells a refused client why, in its protocol's words.
pub async fn refuse(_stream: TcpStream, _target: &Target, _engine: &Engine, _message: &str) {}
