//! The protocols of targets: one folder each. Only code below here knows wire bytes.

pub mod postgres;
pub mod tls_passthrough;

use std::io;
use std::sync::Arc;

use tokio::net::TcpStream;

use crate::ca::{Authority, CaError};
use crate::config::Config;
use crate::engine::Engine;
use crate::policy::{Operation, ResultColumn};
use crate::record::forward::Cancel;
use crate::session::Session;
use crate::target::{Protocol, Target};
use crate::tls::TlsError;

/// Below the state directory: the gateway's authority, whose certificate agents are told to trust.
const AUTHORITY: &str = "ca";
/// The same certificate below the runtime directory, for agents.
const PUBLISHED: &str = "ca.pem";

/// What the protocols share between sessions.
pub struct State {
    /// Signs for the targets' names where a client asks for TLS.
    authority: Arc<Authority>,
    postgres: postgres::State,
}

/// The protocols cannot be made ready.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("the gateway's CA: {0}")]
    Authority(#[from] CaError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the SQL parser's threads cannot be started: {0}")]
    Analyser(#[from] io::Error),
}

impl State {
    pub fn new(config: &Config) -> Result<Self, StateError> {
        let authority = Arc::new(Authority::open(&config.gateway.state_dir.join(AUTHORITY))?);
        authority.publish(&config.gateway.runtime_dir.join(PUBLISHED))?;
        Ok(Self { authority, postgres: postgres::State::new(config)? })
    }

    /// Targets that cannot be served now, and why. For people.
    pub fn problems(&self) -> Vec<String> {
        self.postgres.problems()
    }

    /// Cancels what a session of this gateway runs, for a client that asks the gateway which took over.
    pub(crate) fn cancel(&self, wanted: Cancel) -> impl Future<Output = ()> + use<> {
        postgres::cancel_for_another(&self.postgres, wanted)
    }

    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }
}

/// Serves a session to its end; the outcome is for its closing record.
pub async fn serve(stream: TcpStream, session: &Session) -> String {
    match session.target.protocol {
        Protocol::Postgres => postgres::serve(stream, session).await,
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

/// The same with what the target makes of it, where columns of its result come from included. Nothing of the text runs. The error is
/// for people.
pub async fn explain_at_target(
    engine: &Engine,
    target: &Target,
    database: &str,
    text: &str,
    reads_only: bool,
) -> Result<(Operation, Vec<ResultColumn>), String> {
    match target.protocol {
        Protocol::Postgres => postgres::explain_at_target(engine, target, database, text, reads_only).await,
        Protocol::TlsPassthrough => Err(format!("target {:?} has no statements to explain", target.name)),
    }
}

/// What came back for an operation, as recorded, in lines for people. Whoever shows them escapes them.
pub fn render_reply(protocol: Protocol, content: &[u8]) -> Vec<String> {
    match protocol {
        Protocol::Postgres => postgres::render_reply(content),
        Protocol::TlsPassthrough => vec![format!("{} bytes", content.len())],
    }
}

/// Tells a refused client why, in its protocol's words.
pub async fn refuse(stream: TcpStream, target: &Target, engine: &Engine, message: &str) {
    match target.protocol {
        Protocol::Postgres => postgres::refuse(stream, target, engine, message).await,
        Protocol::TlsPassthrough => tls_passthrough::refuse(stream).await,
    }
}
