//! Checks tokens against the issuer's keys, and remembers the good ones.
//!
//! A token that was verified is known by its SHA-256 until it expires: later sessions cost a look-up, its signature is
//! checked again when the keys may have changed, and it stays bound to the place that showed it first. A copy that
//! turns up in another agent's hands is refused, until the gateway is started anew. What is bound is the text that was signed: ECDSA lets anybody make a
//! second signature of a first, and a token with that one is the same token.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::Principal;
use super::fetch::Fetcher;
use super::keys::{self, KeyCache, KeyError, Plan};
use super::token::{ClaimError, Claims, Requirements, check_not_expired};
use crate::config::IdentityConfig;
use crate::secret::Secret;
use crate::tls::TlsError;

/// A longer token is refused unread.
const MAX_TOKEN: usize = 16 << 10;
/// Tokens that are valid at the same time. One more is refused: forgetting another would unbind it.
const MAX_VERIFIED: usize = 16_384;
/// The same of one place: who can have tokens made without end takes no other's room. One a minute that is good for a day fits.
const MAX_OF_ONE: usize = 2_048;
/// After this long a known token's signature is checked again, so that removing a key from the issuer ends its tokens
/// too.
const RECHECK: Duration = keys::FRESH;

/// Where a token may be used from: the agent's cgroup (what the configuration matched of it) and the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) cgroup: String,
    pub(super) uid: u32,
}

/// Why a token is refused. Each reads on from "the token of agent 'coder' ...".
#[derive(Clone, Debug, thiserror::Error)]
pub enum TokenError {
    #[error("is larger than {MAX_TOKEN} bytes")]
    TooLarge,
    #[error("is not a JWT signed by a known algorithm; put one there, and nothing else")]
    NotJwt,
    #[error("is signed with {0:?}, a shared secret; have the issuer sign with a key pair (RS256, ES256, EdDSA)")]
    SharedSecret(Algorithm),
    #[error("has a header that must be understood (crit) and is not")]
    Critical,
    #[error("has a wrong signature; get a new one from the issuer")]
    Signature,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("is in use by {cgroup} (uid {uid}) already; give every agent a token of its own")]
    BoundElsewhere { cgroup: String, uid: u32 },
    #[error("is one too many: {MAX_VERIFIED} are in use already; wait for some to expire")]
    TooMany,
    #[error("is one too many: this agent has {MAX_OF_ONE} that have not expired; let tokens live for a shorter time")]
    TooManyOfOne,
}

/// Verifies the tokens of one issuer.
pub struct Verifier {
    shared: Arc<Shared>,
    wanted: Requirements,
    /// By the digest of the text that was signed.
    verified: Mutex<HashMap<Digest32, Verified>>,
}

/// What a fetch needs that goes on although nobody waits for it any more.
struct Shared {
    fetcher: Fetcher,
    keys: Mutex<KeyCache>,
    /// Held while fetching.
    fetching: Arc<tokio::sync::Mutex<()>>,
}

type Digest32 = [u8; 32];

struct Verified {
    /// Of the token with the signature that was checked.
    token: Digest32,
    claims: Claims,
    scope: Scope,
    checked_at: Instant,
}

impl Verifier {
    pub fn new(config: &IdentityConfig) -> Result<Self, TlsError> {
        Ok(Self {
            shared: Arc::new(Shared {
                fetcher: Fetcher::new(config)?,
                keys: Mutex::default(),
                fetching: Arc::default(),
            }),
            wanted: Requirements {
                issuer: config.issuer.clone(),
                audience: config.audience.clone(),
                groups_claim: config.groups_claim.clone(),
            },
            verified: Mutex::default(),
        })
    }

    /// Verifies `token`, which `agent` showed from `scope`, and binds it to that.
    pub(super) async fn verify(&self, token: &Secret, agent: &str, scope: &Scope) -> Result<Principal, TokenError> {
        if token.expose().len() > MAX_TOKEN {
            return Err(TokenError::TooLarge);
        }
        let token = token.expose().trim_ascii();
        let digest = Digest32::from(Sha256::digest(token));
        let signed = Digest32::from(Sha256::digest(signed_text(token)));
        let claims = if let Some(claims) = self.known(&signed, &digest, scope)? {
            claims
        } else {
            let claims = self.check(token).await?;
            self.remember(signed, digest, &claims, scope)?;
            claims
        };
        Ok(Principal {
            agent: agent.to_owned(),
            subject: claims.subject,
            names: claims.names,
            issuer: self.wanted.issuer.clone(),
            groups: claims.groups,
            expires_at: claims.expires_at,
            token_id: claims.token_id,
            token_digest: digest,
        })
    }

    /// What is known of a token; `None` where its signature has to be checked.
    fn known(&self, signed: &Digest32, token: &Digest32, scope: &Scope) -> Result<Option<Claims>, TokenError> {
        let verified = lock(&self.verified);
        let Some(entry) = verified.get(signed) else { return Ok(None) };
        check_not_expired(entry.claims.expires_at, unix_now())?;
        entry.admit(scope)?;
        let is_checked = entry.token == *token && entry.checked_at.elapsed() < RECHECK;
        Ok(is_checked.then(|| entry.claims.clone()))
    }

    async fn check(&self, token: &[u8]) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::NotJwt)?;
        if matches!(header.alg, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(TokenError::SharedSecret(header.alg));
        }
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        let key = self.shared.key(header.alg, header.kid.as_deref()).await?;
        let payload = check_signature(token, &key, header.alg)?;
        Ok(Claims::judge(&payload, &self.wanted, unix_now())?)
    }

    fn remember(&self, signed: Digest32, token: Digest32, claims: &Claims, scope: &Scope) -> Result<(), TokenError> {
        let mut verified = lock(&self.verified);
        if verified.len() >= MAX_OF_ONE && !verified.contains_key(&signed) {
            let now = unix_now();
            verified.retain(|_, entry| check_not_expired(entry.claims.expires_at, now).is_ok());
            if verified.len() >= MAX_VERIFIED {
                return Err(TokenError::TooMany);
            }
            if verified.values().filter(|entry| entry.scope == *scope).count() >= MAX_OF_ONE {
                return Err(TokenError::TooManyOfOne);
            }
        }
        match verified.entry(signed) {
            // Somebody else may have shown it while this one was being checked.
            Entry::Occupied(mut entry) => {
                entry.get().admit(scope)?;
                let entry = entry.get_mut();
                (entry.token, entry.checked_at) = (token, Instant::now());
            }
            Entry::Vacant(entry) => {
                let checked_at = Instant::now();
                entry.insert(Verified { token, claims: claims.clone(), scope: scope.clone(), checked_at });
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("wanted", &self.wanted).finish_non_exhaustive()
    }
}

impl Verified {
    fn admit(&self, scope: &Scope) -> Result<(), TokenError> {
        if self.scope == *scope {
            return Ok(());
        }
        Err(TokenError::BoundElsewhere { cgroup: self.scope.cgroup.clone(), uid: self.scope.uid })
    }
}

impl Shared {
    /// The key for a token, fetched if need be. There is one fetch at a time; who has a stale key need not wait for it.
    async fn key(self: &Arc<Self>, algorithm: Algorithm, id: Option<&str>) -> Result<DecodingKey, KeyError> {
        let plan = || lock(&self.keys).plan(algorithm, id, Instant::now());
        let turn = match plan() {
            Plan::Use(key) => return Ok(key),
            Plan::Refuse(error) => return Err(error),
            Plan::Fetch { stale: None } => Arc::clone(&self.fetching).lock_owned().await,
            Plan::Fetch { stale: Some(key) } => match Arc::clone(&self.fetching).try_lock_owned() {
                Ok(turn) => turn,
                Err(_) => return Ok(key),
            },
        };
        // It may have been fetched while this one waited for its turn.
        if let Plan::Fetch { .. } = plan() {
            self.fetch(turn).await;
        }
        match plan() {
            Plan::Use(key) | Plan::Fetch { stale: Some(key) } => Ok(key),
            Plan::Refuse(error) => Err(error),
            Plan::Fetch { stale: None } => Err(lock(&self.keys).unavailable()),
        }
    }

    /// In a task of its own: a client that goes away must not keep the keys from everybody else.
    async fn fetch(self: &Arc<Self>, turn: tokio::sync::OwnedMutexGuard<()>) {
        let shared = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = shared.fetcher.keys().await;
            if let Err(error) = &result {
                tracing::warn!(%error, "the issuer's keys could not be fetched");
            }
            lock(&shared.keys).fetched(result, Instant::now());
            drop(turn);
        });
        // A task that was cut off leaves the cache as it was, and the caller's plan says what that means.
        let _ = task.await;
    }
}

/// A JWT without its signature; all of what is none.
fn signed_text(token: &[u8]) -> &[u8] {
    token.iter().rposition(|&byte| byte == b'.').map_or(token, |end| &token[..end])
}

/// The payload, if the signature is good. Claims are judged elsewhere.
fn check_signature(token: &[u8], key: &DecodingKey, algorithm: Algorithm) -> Result<Map<String, Value>, TokenError> {
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    jsonwebtoken::decode(token, key, &validation).map(|token| token.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => TokenError::Signature,
        _ => TokenError::NotJwt,
    })
}

fn unix_now() -> u64 {
    // A clock before 1970 makes everything "not yet valid" or fresh; 0 leaves `exp` to decide, and the issuer's TLS
    // fails.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_does_not_take_all_the_room() {
        let config = IdentityConfig {
            issuer: "http://127.0.0.1:1".to_owned(),
            audience: "weir".to_owned(),
            groups_claim: "groups".to_owned(),
            ca: None,
            insecure: Some("a test's".to_owned()),
        };
        let verifier = Verifier::new(&config).unwrap();
        let claims = Claims {
            subject: "x".to_owned(),
            groups: Vec::new(),
            expires_at: unix_now() + 3600,
            token_id: None,
            names: Vec::new(),
        };
        let shown = |number: usize, scope: &Scope| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&(number as u64).to_le_bytes());
            verifier.remember(digest, digest, &claims, scope)
        };
        let [flood, other] = [1, 2].map(|uid| Scope { cgroup: "agents.slice/coder".to_owned(), uid });
        assert!((0..MAX_OF_ONE).all(|number| shown(number, &flood).is_ok()));
        assert!(matches!(shown(MAX_OF_ONE, &flood), Err(TokenError::TooManyOfOne)));
        assert!(shown(0, &flood).is_ok() && shown(MAX_OF_ONE, &other).is_ok());
    }
}
