//! Who acts: from what the kernel captured about a connection to a principal with verified claims.
//!
//! The origin's cgroup and uid say which agent it is; the configuration says where that agent's token lies; the witness
//! reads it; the [`Verifier`] checks it against the keys that its issuer publishes. No token, no session.
//!
//! `agent` finds the agent and its token's place, `token` judges claims, `keys` decides when to fetch (all three
//! without I/O), `fetch` does, and `verifier` puts them together.

mod agent;
mod fetch;
mod keys;
mod token;
mod verifier;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use serde::{Deserialize, Serialize};

pub use self::fetch::FetchError;
pub use self::keys::KeyError;
pub use self::token::ClaimError;
use self::verifier::Scope;
pub use self::verifier::{TokenError, Verifier};
use crate::config::{Config, TokenSource};
use crate::origin::{Evidence, Origin, Risk};
use crate::secret::Secret;
use crate::tls::TlsError;
use crate::witness::{Witness, WitnessError};

/// The authenticated actor of a session: an agent, and what its verified token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Name of the `[[agent]]`.
    pub agent: String,
    /// `sub`: whom the issuer says this is.
    pub subject: String,
    /// `preferred_username` and `email`, where the token has them: what people call the subject.
    #[serde(default)]
    pub names: Vec<String>,
    pub issuer: String,
    pub groups: Vec<String>,
    /// `exp`, in Unix seconds.
    pub expires_at: u64,
    /// `jti`, if the token has one.
    pub token_id: Option<String>,
    /// SHA-256 of the token: tells tokens apart without being one.
    pub token_digest: [u8; 32],
}

/// Why nobody was identified. The agent's own client shows these lines, so each says what to do; none holds a token.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("no [identity] is configured, so no agent can be identified; name the issuer of the agents' tokens")]
    NotConfigured,
    #[error(
        "no agent is configured for the cgroup {cgroup:?} and the uid {uid}; add an [[agent]] that matches one of them"
    )]
    NoAgent { cgroup: String, uid: u32 },
    #[error("the cgroup {cgroup:?} and the uid {uid} belong to the agents '{}' and '{}'; set their [[agent]]s apart",
        agents[0], agents[1])]
    Ambiguous { cgroup: String, uid: u32, agents: [String; 2] },
    #[error(
        "the process holds {}, which leads around the gateway: take that away from it (the drop-in weir-agent.conf does), \
         or name it in accept_risk of the agent '{agent}'",
        list(risks)
    )]
    Capable { agent: String, risks: Vec<Risk> },
    #[error("the path of the token of agent '{agent}' cannot be told: {why}")]
    TokenPath { agent: String, why: &'static str },
    #[error("the token of agent '{agent}' cannot be read: {why}")]
    Unreadable { agent: String, why: WitnessError },
    #[error("the token of agent '{agent}' ({place}) {why}")]
    Token { agent: String, place: String, why: TokenError },
}

/// The configured agent of an origin, for records of connections that are refused before they are identified.
pub fn agent_name(config: &Config, origin: &Origin, evidence: &Evidence) -> Option<String> {
    Some(agent::find(config, origin, evidence).ok()?.agent.name.clone())
}

/// The configured agent of an origin, and the cgroup that made it one: its unit's, however deep below it the origin is.
pub fn agent_and_scope(
    config: &Config,
    origin: &Origin,
    evidence: &Evidence,
) -> Result<(String, String), IdentityError> {
    let found = agent::find(config, origin, evidence)?;
    Ok((found.agent.name.clone(), found.cgroup.to_owned()))
}

/// Whether somebody who was identified would be the same agent under another configuration as well.
pub fn still_is(
    config: &Config,
    origin: &Origin,
    evidence: &Evidence,
    principal: &Principal,
) -> Result<(), IdentityError> {
    let found = admissible(config, origin, evidence)?;
    if found.agent.name == principal.agent {
        return Ok(());
    }
    Err(IdentityError::NoAgent { cgroup: evidence.cgroup.clone(), uid: origin.uid })
}

/// The agent of an origin, which holds nothing that leads around the gateway.
fn admissible<'a>(
    config: &'a Config,
    origin: &Origin,
    evidence: &'a Evidence,
) -> Result<agent::Found<'a>, IdentityError> {
    let found = agent::find(config, origin, evidence)?;
    let accepted = &found.agent.accept_risk;
    let risks: Vec<Risk> = evidence.risks.iter().filter(|risk| !accepted.contains(risk)).copied().collect();
    if risks.is_empty() {
        return Ok(found);
    }
    Err(IdentityError::Capable { agent: found.agent.name.clone(), risks })
}

/// Where an origin is, as far as it tells the instances of one agent apart: a unit, a container, what `weir run` made.
pub fn place(config: &Config, origin: &Origin, evidence: &Evidence) -> String {
    agent::find(config, origin, evidence)
        .map_or_else(|_| evidence.cgroup.clone(), |found| found.instance_place(evidence).to_owned())
}

/// Reads the tokens that the configuration names, and can do nothing else. The witness is one.
pub trait TokenReader {
    fn token_file(&self, path: &Path) -> impl Future<Output = Result<Secret, WitnessError>> + Send;

    fn token_environment(
        &self,
        origin: &Origin,
        name: &str,
    ) -> impl Future<Output = Result<Secret, WitnessError>> + Send;
}

impl TokenReader for Witness {
    async fn token_file(&self, path: &Path) -> Result<Secret, WitnessError> {
        Self::token_file(self, path).await
    }

    async fn token_environment(&self, origin: &Origin, name: &str) -> Result<Secret, WitnessError> {
        Self::token_environment(self, origin, name).await
    }
}

/// Turns origins into principals. One for the whole gateway: what it remembers of tokens outlives reloads.
#[derive(Debug, Default)]
pub struct Identifier {
    verifier: ArcSwapOption<Issuer>,
}

type Issuer = (crate::config::IdentityConfig, Verifier);

/// See [`Identifier::prepare`].
#[must_use]
pub struct Prepared(Option<Arc<Issuer>>);

impl Identifier {
    pub fn new(config: &Config) -> Result<Self, TlsError> {
        let identifier = Self::default();
        identifier.take_up(identifier.prepare(config)?);
        Ok(identifier)
    }

    /// What a new configuration takes. Verified tokens and their bindings are kept if `[identity]` is what it was. Changes
    /// nothing.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, TlsError> {
        let current = self.verifier.load_full();
        let Some(wanted) = &config.identity else { return Ok(Prepared(None)) };
        if current.as_ref().is_some_and(|current| current.0 == *wanted) {
            return Ok(Prepared(current));
        }
        Ok(Prepared(Some(Arc::new((wanted.clone(), Verifier::new(wanted)?)))))
    }

    /// Takes up what was prepared.
    pub fn take_up(&self, Prepared(verifier): Prepared) {
        self.verifier.store(verifier);
    }

    /// Says who stands behind an origin: finds the agent, reads its token, verifies it.
    pub async fn identify(
        &self,
        origin: &Origin,
        evidence: &Evidence,
        config: &Config,
        tokens: &impl TokenReader,
    ) -> Result<Principal, IdentityError> {
        let verifier = self.verifier.load_full().ok_or(IdentityError::NotConfigured)?;
        let found = admissible(config, origin, evidence)?;
        let agent = &found.agent.name;
        let source = found.token_source(evidence)?;
        let token = match &source {
            TokenSource::File(path) => tokens.token_file(Path::new(path)).await,
            TokenSource::Environment(name) => tokens.token_environment(origin, name).await,
        };
        let token = token.map_err(|why| IdentityError::Unreadable { agent: agent.clone(), why })?;
        let scope = Scope { cgroup: found.place(), uid: origin.uid };
        verifier.1.verify(&token, agent, &scope).await.map_err(|why| IdentityError::Token {
            agent: agent.clone(),
            place: match source {
                TokenSource::File(path) => path,
                TokenSource::Environment(name) => format!("variable {name}"),
            },
            why,
        })
    }
}

fn list(risks: &[Risk]) -> String {
    risks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Text from a token, fit to be shown: quoted, without control or bidirectional characters, and short.
fn escaped(text: &str) -> String {
    const SHOWN: usize = 64;
    let mut end = text.len().min(SHOWN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let ellipsis = if end < text.len() { "..." } else { "" };
    format!("{:?}{ellipsis}", &text[..end])
}

#[cfg(test)]
pub(crate) mod tests;
