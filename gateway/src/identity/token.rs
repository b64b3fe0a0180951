//! What a token must say, once its signature is known to be good. Pure: the time is an argument.
//!
//! The rules are OpenID Connect Core's (section 3.1.3.7) and RFC 8725's: the pinned issuer, our exact audience, `azp`
//! where there are several audiences, both ends of the validity. A claim of the wrong type is a refusal, never
//! "absent".

use serde_json::{Map, Value};

use super::escaped;

/// How far the clocks of the issuer and of this host may be apart, in seconds.
pub(super) const LEEWAY: u64 = 30;
/// OpenID Connect Core, section 2: a subject has no more than 255 characters.
const MAX_SUBJECT: usize = 255;
const MAX_TOKEN_ID: usize = 255;
/// What else people call the subject (OpenID Connect Core, section 5.1), and the bytes of one such name.
const NAMES: [&str; 2] = ["preferred_username", "email"];
const MAX_NAME: usize = 320;
/// Groups in one token, and the bytes of one name.
const MAX_GROUPS: usize = 1000;
const MAX_GROUP: usize = 256;

/// What the configuration wants of every token.
#[derive(Clone, Debug)]
pub(super) struct Requirements {
    pub(super) issuer: String,
    pub(super) audience: String,
    pub(super) groups_claim: String,
}

/// The claims that the gateway goes by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) subject: String,
    pub(super) names: Vec<String>,
    pub(super) groups: Vec<String>,
    pub(super) expires_at: u64,
    pub(super) token_id: Option<String>,
}

/// Why a token is no good. Each reads on from "the token of agent 'coder' ...", and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("expired {} ago; renew it", duration(*ago))]
    Expired { ago: u64 },
    #[error("is not valid for another {}; compare this host's clock with the issuer's", duration(*wait))]
    NotYetValid { wait: u64 },
    #[error("is from issuer {found}, not from {wanted}; get one from the right issuer")]
    Issuer { found: String, wanted: String },
    #[error("is for audience {found}, not for {wanted}; ask the issuer for that audience")]
    Audience { found: String, wanted: String },
    #[error("is for several audiences and was not issued to {wanted} (azp); ask for one with that audience alone")]
    AuthorizedParty { wanted: String },
    #[error("lacks the claim {0:?}; have the issuer add it")]
    Missing(String),
    #[error("has a claim {0:?} that cannot be used; have the issuer correct it")]
    Malformed(String),
    #[error("lists no groups because there are too many for it; have the issuer send only those assigned to weir")]
    GroupOverage,
}

impl Claims {
    /// Judges a payload. `now` is Unix time in seconds.
    pub(super) fn judge(payload: &Map<String, Value>, wanted: &Requirements, now: u64) -> Result<Self, ClaimError> {
        let issuer = text(payload, "iss")?.ok_or_else(|| missing("iss"))?;
        if issuer != wanted.issuer {
            return Err(ClaimError::Issuer { found: escaped(issuer), wanted: wanted.issuer.clone() });
        }
        check_audience(payload, &wanted.audience)?;

        let expires_at = date(payload, "exp")?.ok_or_else(|| missing("exp"))?;
        check_not_expired(expires_at, now)?;
        if let Some(not_before) = date(payload, "nbf")?
            && not_before > now.saturating_add(LEEWAY)
        {
            return Err(ClaimError::NotYetValid { wait: not_before - now });
        }

        let subject = text(payload, "sub")?.ok_or_else(|| missing("sub"))?;
        let token_id = text(payload, "jti")?;
        if subject.is_empty() || subject.len() > MAX_SUBJECT {
            return Err(malformed("sub"));
        }
        if token_id.is_some_and(|id| id.len() > MAX_TOKEN_ID) {
            return Err(malformed("jti"));
        }
        Ok(Self {
            subject: subject.to_owned(),
            names: names(payload)?,
            groups: groups(payload, &wanted.groups_claim)?,
            expires_at,
            token_id: token_id.map(str::to_owned),
        })
    }
}

/// Also asked of a token that was verified before.
pub(super) fn check_not_expired(expires_at: u64, now: u64) -> Result<(), ClaimError> {
    if now > expires_at.saturating_add(LEEWAY) { Err(ClaimError::Expired { ago: now - expires_at }) } else { Ok(()) }
}

fn check_audience(payload: &Map<String, Value>, wanted: &str) -> Result<(), ClaimError> {
    let audiences = strings(payload, "aud")?.ok_or_else(|| missing("aud"))?;
    if !audiences.contains(&wanted) {
        let found = audiences.first().map_or_else(|| "nobody".to_owned(), |audience| escaped(audience));
        return Err(ClaimError::Audience { found, wanted: wanted.to_owned() });
    }
    if audiences.len() > 1 && text(payload, "azp")? != Some(wanted) {
        return Err(ClaimError::AuthorizedParty { wanted: wanted.to_owned() });
    }
    Ok(())
}

/// The groups, under whatever name. None at all is no groups; but Entra ID leaves the claim out when there are more
/// than fit and says so elsewhere: then nobody knows them.
fn groups(payload: &Map<String, Value>, claim: &str) -> Result<Vec<String>, ClaimError> {
    let elsewhere = payload.get("_claim_names").is_some_and(|names| names.get(claim).is_some());
    let overage = payload.get("hasgroups").is_some_and(|value| value != &Value::Bool(false));
    if elsewhere || overage {
        return Err(ClaimError::GroupOverage);
    }
    let groups = strings(payload, claim)?.unwrap_or_default();
    if groups.len() > MAX_GROUPS || groups.iter().any(|group| group.len() > MAX_GROUP) {
        return Err(malformed(claim));
    }
    Ok(groups.into_iter().map(str::to_owned).collect())
}

fn names(payload: &Map<String, Value>) -> Result<Vec<String>, ClaimError> {
    let mut names = Vec::new();
    for claim in NAMES {
        // Some issuers say so that there is none.
        if payload.get(claim).is_some_and(Value::is_null) {
            continue;
        }
        match text(payload, claim)? {
            Some(name) if name.len() > MAX_NAME => return Err(malformed(claim)),
            Some(name) if !name.is_empty() => names.push(name.to_owned()),
            _ => {}
        }
    }
    Ok(names)
}

fn text<'a>(payload: &'a Map<String, Value>, claim: &str) -> Result<Option<&'a str>, ClaimError> {
    payload.get(claim).map(|value| value.as_str().ok_or_else(|| malformed(claim))).transpose()
}

/// A string or an array of strings.
fn strings<'a>(payload: &'a Map<String, Value>, claim: &str) -> Result<Option<Vec<&'a str>>, ClaimError> {
    match payload.get(claim) {
        None => Ok(None),
        Some(Value::String(one)) => Ok(Some(vec![one])),
        Some(Value::Array(many)) => {
            let texts = many.iter().map(|value| value.as_str().ok_or_else(|| malformed(claim)));
            texts.collect::<Result<_, _>>().map(Some)
        }
        Some(_) => Err(malformed(claim)),
    }
}

/// A `NumericDate` (RFC 7519, section 2): seconds, perhaps with a fraction, which is cut off.
fn date(payload: &Map<String, Value>, claim: &str) -> Result<Option<u64>, ClaimError> {
    let Some(value) = payload.get(claim) else { return Ok(None) };
    if let Some(seconds) = value.as_u64() {
        return Ok(Some(seconds));
    }
    match value.as_f64() {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by the guard, and `as` saturates"
        )]
        Some(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Some(seconds as u64)),
        _ => Err(malformed(claim)),
    }
}

fn missing(claim: &str) -> ClaimError {
    ClaimError::Missing(claim.to_owned())
}

fn malformed(claim: &str) -> ClaimError {
    ClaimError::Malformed(claim.to_owned())
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn wanted() -> Requirements {
        Requirements {
            issuer: "https://idp.example/agents".to_owned(),
            audience: "weir".to_owned(),
            groups_claim: "groups".to_owned(),
        }
    }

    /// A good payload with some claims put in its place; null takes one away.
    fn judge(changes: Value) -> Result<Claims, ClaimError> {
        let mut payload = json!({
            "iss": "https://idp.example/agents", "aud": "weir", "sub": "agent-7", "exp": NOW + 300,
        });
        let payload = payload.as_object_mut().unwrap();
        let Value::Object(changes) = changes else { panic!("changes are an object") };
        for (claim, value) in changes {
            if value.is_null() {
                payload.remove(&claim)
            } else {
                payload.insert(claim, value)
            };
        }
        Claims::judge(payload, &wanted(), NOW)
    }

    fn refusal(changes: Value) -> String {
        judge(changes).unwrap_err().to_string()
    }

    #[test]
    fn a_good_token_is_taken_at_its_word() {
        let claims = judge(json!({ "jti": "t1", "groups": ["coders", "/team/a"] })).unwrap();
        assert_eq!(claims.subject, "agent-7");
        assert_eq!(claims.groups, ["coders", "/team/a"]);
        assert!(claims.names.is_empty());
        let named = judge(json!({ "email": "alice@example.com", "preferred_username": "alice" })).unwrap();
        assert_eq!(named.names, ["alice", "alice@example.com"]);
        assert!(judge(json!({ "email": null })).unwrap().names.is_empty());
        for bad in [json!({ "email": 7 }), json!({ "preferred_username": "x".repeat(321) })] {
            assert!(matches!(judge(bad), Err(ClaimError::Malformed(_))));
        }
        assert_eq!((claims.expires_at, claims.token_id.as_deref()), (NOW + 300, Some("t1")));
        assert_eq!(judge(json!({})).unwrap().groups, Vec::<String>::new());
        assert_eq!(judge(json!({ "groups": "coders" })).unwrap().groups, ["coders"]);
        assert_eq!(judge(json!({ "exp": 1_800_000_100.5 })).unwrap().expires_at, 1_800_000_100);
    }

    #[test]
    fn both_ends_of_the_validity_have_the_leeway_and_no_more() {
        assert!(judge(json!({ "exp": NOW - LEEWAY })).is_ok());
        assert_eq!(judge(json!({ "exp": NOW - LEEWAY - 1 })), Err(ClaimError::Expired { ago: LEEWAY + 1 }));
        assert!(judge(json!({ "nbf": NOW + LEEWAY })).is_ok());
        assert_eq!(judge(json!({ "nbf": NOW + LEEWAY + 1 })), Err(ClaimError::NotYetValid { wait: LEEWAY + 1 }));
        assert_eq!(refusal(json!({ "exp": NOW - 200 })), "expired 3 min ago; renew it");
        assert_eq!(refusal(json!({ "exp": 0 })), "expired 20833 days ago; renew it");
    }

    #[test]
    fn the_issuer_and_the_audience_are_exact() {
        for iss in ["https://idp.example/agents/", "https://idp.example", "HTTPS://idp.example/agents", ""] {
            assert!(matches!(judge(json!({ "iss": iss })), Err(ClaimError::Issuer { .. })), "{iss}");
        }
        for aud in [json!("Weir"), json!("weir "), json!([]), json!(["other"])] {
            assert!(matches!(judge(json!({ "aud": aud })), Err(ClaimError::Audience { .. })), "{aud}");
        }
        assert!(judge(json!({ "aud": ["weir"] })).is_ok());
    }

    #[test]
    fn several_audiences_need_the_authorized_party() {
        let several = json!(["other", "weir"]);
        assert!(matches!(judge(json!({ "aud": several })), Err(ClaimError::AuthorizedParty { .. })));
        assert!(matches!(judge(json!({ "aud": several, "azp": "other" })), Err(ClaimError::AuthorizedParty { .. })));
        assert!(judge(json!({ "aud": several, "azp": "weir" })).is_ok());
    }

    #[test]
    fn what_is_missing_or_of_the_wrong_type_is_named() {
        for claim in ["iss", "aud", "sub", "exp"] {
            assert_eq!(judge(json!({ claim: null })), Err(ClaimError::Missing(claim.to_owned())));
        }
        for (claim, value) in [
            ("iss", json!(["https://idp.example/agents"])),
            ("aud", json!(["weir", 1])),
            ("aud", json!({})),
            ("sub", json!(7)),
            ("sub", json!("")),
            ("exp", json!("1900000000")),
            ("exp", json!(-1)),
            ("nbf", json!("soon")),
            ("jti", json!(1)),
            ("groups", json!({ "coders": true })),
            ("groups", json!([1])),
            ("groups", json!(["x".repeat(MAX_GROUP + 1)])),
            ("groups", json!(vec!["x"; MAX_GROUPS + 1])),
        ] {
            assert_eq!(judge(json!({ claim: value })), Err(ClaimError::Malformed(claim.to_owned())), "{value}");
        }
    }

    #[test]
    fn groups_that_did_not_fit_are_no_groups() {
        let elsewhere = json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": { "src1": {} } });
        assert_eq!(judge(elsewhere), Err(ClaimError::GroupOverage));
        assert_eq!(judge(json!({ "hasgroups": true })), Err(ClaimError::GroupOverage));
        assert_eq!(judge(json!({ "hasgroups": "true" })), Err(ClaimError::GroupOverage));
        assert!(judge(json!({ "hasgroups": false, "_claim_names": { "address": "src1" } })).is_ok());
    }

    #[test]
    fn what_a_token_says_is_shown_escaped_and_cut() {
        let shown = refusal(json!({ "iss": format!("\u{1b}[2J\u{202e}{}", "x".repeat(500)) }));
        assert!(!shown.contains(['\u{1b}', '\u{202e}']) && shown.len() < 300, "{shown}");
    }
}
