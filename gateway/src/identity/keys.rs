//! The issuer's keys, and when to fetch them again. Pure: bytes in, keys out; the time is an argument.
//!
//! A set is fresh for five minutes. After that it is fetched anew, so that a removed key ages out; while the issuer
//! cannot be reached the old set serves, for an hour, and then nothing verifies any more. A key that the set lacks is
//! worth a fetch as well, but never more than one fetch in ten seconds: made-up key names cost the issuer nothing.

use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

use super::escaped;
use super::fetch::FetchError;

/// How long a fetched set is used without asking again.
pub(super) const FRESH: Duration = Duration::from_mins(5);
/// How long a set serves when the issuer cannot be reached.
pub(super) const STALE_LIMIT: Duration = Duration::from_hours(1);
/// Fetches are at least this far apart, whatever for.
pub(super) const REFETCH_INTERVAL: Duration = Duration::from_secs(10);
/// Keys of one set; the rest is not looked at.
const MAX_KEYS: usize = 64;

const RSA: &[Algorithm] =
    &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];

/// One public key and the algorithms that it may be used with: those of its type, or the one that the issuer names.
pub(super) struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) decoding: DecodingKey,
}

pub(super) struct KeySet(Vec<Key>);

/// Why there is no key for a token. Each reads on from "the token of agent 'coder' ...".
#[derive(Clone, Debug, thiserror::Error)]
pub enum KeyError {
    #[error("is signed by a key that its issuer does not publish ({0}); get a new one")]
    Unknown(String),
    #[error("does not say which of its issuer's keys signed it; have the issuer set `kid`")]
    Ambiguous,
    #[error("cannot be checked, because its issuer's keys could not be fetched: {0}")]
    Unavailable(FetchError),
}

impl KeySet {
    /// Reads a JWK set (RFC 7517). Keys of unknown types, for encryption, or for shared secrets are left out.
    pub(super) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let set: Set = serde_json::from_slice(json)?;
        Ok(Self(set.keys.into_iter().take(MAX_KEYS).filter_map(Key::parse).collect()))
    }

    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Result<&Key, KeyError> {
        let mut matching = self
            .0
            .iter()
            .filter(|key| key.algorithms.contains(&algorithm) && (id.is_none() || key.id.as_deref() == id));
        match (matching.next(), matching.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(KeyError::Ambiguous),
            (None, _) => Err(KeyError::Unknown(format!(
                "{algorithm:?}, kid {}",
                id.map_or_else(|| "not given".to_owned(), escaped)
            ))),
        }
    }
}

impl Key {
    fn parse(json: Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        let common = &jwk.common;
        let for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify));
        if !for_signatures {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA.to_vec(),
            AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
            AlgorithmParameters::EllipticCurve(point) if point.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
            AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
            _ => return None,
        };
        if let Some(named) = common.key_algorithm {
            algorithms.retain(|&algorithm| Algorithm::try_from(named).is_ok_and(|named| named == algorithm));
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then(|| Self { id: jwk.common.key_id.clone(), algorithms, decoding })
    }
}

/// The current set, and what became of the last fetch.
#[derive(Default)]
pub(super) struct KeyCache {
    current: Option<(KeySet, Instant)>,
    last: Option<(Instant, Result<(), FetchError>)>,
}

/// What to do about a token.
pub(super) enum Plan {
    Use(DecodingKey),
    /// Ask the issuer first. If that fails, or somebody else is about it, there may be a key that still serves.
    Fetch {
        stale: Option<DecodingKey>,
    },
    Refuse(KeyError),
}

impl KeyCache {
    pub(super) fn plan(&self, algorithm: Algorithm, id: Option<&str>, now: Instant) -> Plan {
        let since = |then: Instant| now.saturating_duration_since(then);
        let may_fetch = self.last.as_ref().is_none_or(|(at, _)| since(*at) >= REFETCH_INTERVAL);
        let Some((set, age)) =
            self.current.as_ref().map(|(set, at)| (set, since(*at))).filter(|(_, age)| *age < STALE_LIMIT)
        else {
            return if may_fetch { Plan::Fetch { stale: None } } else { Plan::Refuse(self.unavailable()) };
        };
        match set.find(algorithm, id) {
            Ok(key) if age < FRESH || !may_fetch => Plan::Use(key.decoding.clone()),
            Ok(key) => Plan::Fetch { stale: Some(key.decoding.clone()) },
            Err(_) if may_fetch => Plan::Fetch { stale: None },
            Err(error) => Plan::Refuse(error),
        }
    }

    pub(super) fn fetched(&mut self, result: Result<KeySet, FetchError>, now: Instant) {
        let outcome = match result {
            Ok(set) => {
                self.current = Some((set, now));
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.last = Some((now, outcome));
    }

    pub(super) fn unavailable(&self) -> KeyError {
        match &self.last {
            Some((_, Err(error))) => KeyError::Unavailable(error.clone()),
            _ => KeyError::Unavailable(FetchError::Aborted),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::SigningKey;
    use super::*;

    /// A public key as the issuer would publish it, with more members put in.
    fn jwk(algorithm: Algorithm, more: &Value) -> Value {
        let mut json = SigningKey::new(algorithm, None).public;
        json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json
    }

    fn set(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn es256(id: &str) -> Value {
        jwk(Algorithm::ES256, &json!({ "kid": id }))
    }

    /// `Plan` in a letter: use, fetch, fetch with a stale key at hand, refuse.
    fn plan(cache: &KeyCache, id: &str, now: Instant) -> char {
        match cache.plan(Algorithm::ES256, Some(id), now) {
            Plan::Use(_) => 'u',
            Plan::Fetch { stale: None } => 'f',
            Plan::Fetch { stale: Some(_) } => 's',
            Plan::Refuse(_) => 'r',
        }
    }

    #[test]
    fn only_keys_for_signatures_of_known_types_count() {
        let keys = set(&[
            es256("good"),
            jwk(Algorithm::ES256, &json!({ "kid": "enc", "use": "enc" })),
            jwk(Algorithm::ES256, &json!({ "kid": "sign-only", "key_ops": ["sign"] })),
            jwk(Algorithm::ES256, &json!({ "kid": "contradiction", "alg": "RS256" })),
            json!({ "kty": "oct", "kid": "secret", "k": "AAAA" }),
            json!({ "kty": "new", "kid": "new" }),
            json!("no key"),
        ]);
        assert_eq!(keys.0.iter().map(|key| key.id.clone().unwrap()).collect::<Vec<_>>(), ["good"]);
    }

    #[test]
    fn a_key_serves_its_own_algorithm_only() {
        let keys = set(&[
            es256("p256"),
            jwk(Algorithm::ES384, &json!({ "kid": "p384" })),
            jwk(Algorithm::EdDSA, &json!({ "kid": "ed" })),
        ]);
        assert!(keys.find(Algorithm::ES256, Some("p256")).is_ok());
        assert!(keys.find(Algorithm::ES384, Some("p384")).is_ok());
        assert!(keys.find(Algorithm::EdDSA, Some("ed")).is_ok());
        for (algorithm, id) in
            [(Algorithm::ES384, "p256"), (Algorithm::HS256, "p256"), (Algorithm::RS256, "ed"), (Algorithm::ES256, "ed")]
        {
            assert!(matches!(keys.find(algorithm, Some(id)), Err(KeyError::Unknown(_))), "{algorithm:?} {id}");
        }
    }

    #[test]
    fn without_a_kid_there_must_be_only_one_candidate() {
        assert!(set(&[es256("a")]).find(Algorithm::ES256, None).is_ok());
        assert!(set(&[es256("a"), jwk(Algorithm::EdDSA, &json!({}))]).find(Algorithm::ES256, None).is_ok());
        assert!(matches!(set(&[es256("a"), es256("b")]).find(Algorithm::ES256, None), Err(KeyError::Ambiguous)));
        assert!(matches!(set(&[es256("a"), es256("a")]).find(Algorithm::ES256, Some("a")), Err(KeyError::Ambiguous)));
    }

    #[test]
    fn unknown_keys_are_fetched_at_a_bounded_rate() {
        let (mut cache, start) = (KeyCache::default(), Instant::now());
        assert_eq!(plan(&cache, "a", start), 'f');
        cache.fetched(Ok(set(&[es256("a")])), start);
        assert_eq!(plan(&cache, "a", start), 'u');
        assert_eq!(plan(&cache, "b", start), 'r');
        assert_eq!(plan(&cache, "b", start + REFETCH_INTERVAL), 'f');
        cache.fetched(Ok(set(&[es256("b")])), start + REFETCH_INTERVAL);
        assert_eq!(plan(&cache, "b", start + REFETCH_INTERVAL), 'u');
        // The rotated key is gone at once.
        assert_eq!(plan(&cache, "a", start + REFETCH_INTERVAL), 'r');
    }

    #[test]
    fn stale_keys_serve_while_the_issuer_is_down_and_not_for_ever() {
        let (mut cache, start) = (KeyCache::default(), Instant::now());
        cache.fetched(Ok(set(&[es256("a")])), start);
        let later = start + FRESH;
        assert_eq!(plan(&cache, "a", later), 's');
        cache.fetched(Err(FetchError::Aborted), later);
        assert_eq!(plan(&cache, "a", later), 'u');
        assert_eq!(plan(&cache, "a", later + REFETCH_INTERVAL), 's');
        let end = start + STALE_LIMIT;
        assert_eq!(plan(&cache, "a", end), 'f');
        cache.fetched(Err(FetchError::Aborted), end);
        assert_eq!(plan(&cache, "a", end), 'r');
    }

    #[test]
    fn an_issuer_that_is_down_is_not_hammered() {
        let (mut cache, start) = (KeyCache::default(), Instant::now());
        cache.fetched(Err(FetchError::Aborted), start);
        assert_eq!(plan(&cache, "a", start), 'r');
        assert_eq!(plan(&cache, "a", start + REFETCH_INTERVAL), 'f');
    }

    #[test]
    fn sets_that_are_no_sets_are_errors() {
        for json in ["", "[]", "{}", "{\"keys\":1}", "{\"keys\":["] {
            assert!(KeySet::parse(json.as_bytes()).is_err(), "{json}");
        }
    }
}
