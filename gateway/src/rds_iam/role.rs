//! The keys of the role of the instance that this host is, from its metadata service (EC2 user guide, "Instance metadata", version 2).
//!
//! They last for hours. They are held by all sessions together, fetched by one while the others wait, and fetched anew before
//! they expire; in between the service is left alone, also when it does not answer.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::{Keys, MAX_KEY, MAX_KEY_ID};
use crate::http;
use crate::secret::Secret;

/// The three requests together. The service is in the host itself.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Before they expire; AWS has new ones by then.
const RENEW_BEFORE: Duration = Duration::from_mins(5);
/// Keys are used no longer than this, whatever they say: those of a role are good for hours.
const MAX_AGE: Duration = Duration::from_hours(12);
/// After a failure, and after keys that were not taken.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Far more than keys, and the token of a session, have.
const MAX_BODY: usize = 64 << 10;
/// IAM's names of roles.
const MAX_NAME: usize = 64;

const TOKEN: &str = "/latest/api/token";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";
const TOKEN_LIFETIME_HEADER: &str = "x-aws-ec2-metadata-token-ttl-seconds";
/// It is used at once.
const TOKEN_LIFETIME: &str = "60";

/// Why there are no keys of a role. Shared by everybody who waited for them, and without any of their bytes.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RoleError {
    #[error(
        "the instance's metadata service {0} cannot be reached: {1}; on a host that is no EC2 instance give access_key_id and secret_access_key"
    )]
    Connect(SocketAddr, String),
    #[error(
        "the instance's metadata service {0} did not answer within {seconds} s; on a host that is no EC2 instance give \
         access_key_id and secret_access_key, in a container give the instance a hop limit of 2 (HttpPutResponseHopLimit)",
        seconds = TIMEOUT.as_secs()
    )]
    Late(SocketAddr),
    #[error("the exchange with the instance's metadata service broke: {0}")]
    Broken(String),
    #[error("the instance's metadata service answered {status} to {path}")]
    Status { path: String, status: StatusCode },
    #[error("the instance has no role: give it an instance profile, or give access_key_id and secret_access_key")]
    NoRole,
    #[error("the instance's role gives no keys: {0}")]
    NoKeys(String),
    #[error("the instance's metadata service sent something else than {0}")]
    Malformed(&'static str),
    #[error("the keys of the instance's role expired; check this host's clock")]
    Expired,
}

/// The roles of all metadata services that the configuration names.
#[derive(Default)]
pub struct Roles(std::sync::Mutex<HashMap<SocketAddr, Arc<Role>>>);

impl Roles {
    pub(super) fn at(&self, service: SocketAddr) -> Arc<Role> {
        let mut roles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(roles.entry(service).or_insert_with(|| Arc::new(Role { service, state: Mutex::default() })))
    }
}

/// One instance's role.
pub(super) struct Role {
    service: SocketAddr,
    /// Held while keys are fetched.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<(Instant, RoleError)>,
}

struct Held {
    keys: Arc<Keys>,
    expires: SystemTime,
    since: Instant,
    /// A server did not take what was signed with them.
    doubted: bool,
}

/// When it is, by the clock that keys expire by, and by one that nobody sets.
#[derive(Clone, Copy)]
struct Moment {
    wall: SystemTime,
    steady: Instant,
}

impl Moment {
    fn now() -> Self {
        Self { wall: SystemTime::now(), steady: Instant::now() }
    }

    /// Whether it is too soon after this to ask the service again.
    fn is_soon_after(self, at: Instant) -> bool {
        self.steady.saturating_duration_since(at) < RETRY_AFTER
    }
}

/// What to do about keys that are asked for.
enum Plan {
    Use(Arc<Keys>),
    Fetch,
    Refuse(RoleError),
}

impl Role {
    pub(super) async fn keys(&self) -> Result<Arc<Keys>, RoleError> {
        self.keys_by(Moment::now).await
    }

    /// Has them fetched anew, if they are not so already; what is at hand will do until then.
    pub(super) fn refused(&self) {
        // Who has it locked fetches them.
        if let Ok(mut state) = self.state.try_lock() {
            state.refused(Moment::now());
        }
    }

    async fn keys_by(&self, clock: impl Fn() -> Moment) -> Result<Arc<Keys>, RoleError> {
        let mut state = self.state.lock().await;
        match state.plan(clock()) {
            Plan::Use(keys) => return Ok(keys),
            Plan::Refuse(error) => return Err(error),
            Plan::Fetch => {}
        }
        let fetched = tokio::time::timeout(TIMEOUT, self.fetch()).await;
        let now = clock();
        state.fetched(fetched.unwrap_or(Err(RoleError::Late(self.service))), now);
        match state.plan(now) {
            Plan::Use(keys) => Ok(keys),
            Plan::Refuse(error) => Err(error),
            Plan::Fetch => Err(RoleError::Expired),
        }
    }

    /// Keys, and when they expire.
    async fn fetch(&self) -> Result<(Keys, SystemTime), RoleError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Answer {
            code: String,
            access_key_id: Option<String>,
            secret_access_key: Option<String>,
            token: Option<String>,
            expiration: Option<String>,
        }
        let token = self.ask(Method::PUT, TOKEN, (TOKEN_LIFETIME_HEADER, TOKEN_LIFETIME.as_bytes())).await?;
        let header = (TOKEN_HEADER, &*token);
        let roles = self.ask(Method::GET, ROLES, header).await.map_err(|error| match error {
            RoleError::Status { status: StatusCode::NOT_FOUND, .. } => RoleError::NoRole,
            other => other,
        })?;
        let role = std::str::from_utf8(&roles).ok().and_then(|roles| roles.lines().next()).filter(|it| is_name(it));
        let role = role.ok_or(RoleError::Malformed("the name of a role"))?;
        let answer = self.ask(Method::GET, &format!("{ROLES}{role}"), header).await?;
        // What is wrong with it is not told: that may be a part of a key.
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| RoleError::Malformed("keys"))?;
        if answer.code != "Success" {
            return Err(RoleError::NoKeys(
                answer.code.chars().filter(char::is_ascii_alphanumeric).take(MAX_NAME).collect(),
            ));
        }
        let (Some(access_key_id), Some(key), Some(token), Some(expiration)) =
            (answer.access_key_id, answer.secret_access_key, answer.token, answer.expiration)
        else {
            return Err(RoleError::Malformed("keys"));
        };
        if access_key_id.len() > MAX_KEY_ID || key.len().max(token.len()) > MAX_KEY {
            return Err(RoleError::Malformed("keys"));
        }
        let expires = DateTime::from_str(&expiration, Format::DateTime).ok().and_then(|it| it.try_into().ok());
        let keys = Keys {
            access_key_id,
            secret_access_key: Secret::new(key.into_bytes()),
            session_token: Some(Secret::new(token.into_bytes())),
        };
        Ok((keys, expires.ok_or(RoleError::Malformed("a time"))?))
    }

    async fn ask(&self, method: Method, path: &str, (name, value): (&str, &[u8])) -> Result<Bytes, RoleError> {
        let request = Request::builder().method(method).uri(path).header(HOST, self.service.to_string());
        let request = request.header(USER_AGENT, http::USER_AGENT).header(name, value).body(Empty::<Bytes>::new());
        let request = request.map_err(|_| RoleError::Malformed("a token"))?;
        let stream = TcpStream::connect(self.service).await;
        let stream = stream.map_err(|error| RoleError::Connect(self.service, error.to_string()))?;
        match http::exchange(stream, request, MAX_BODY).await {
            Ok((StatusCode::OK, body)) => Ok(body),
            Ok((status, _)) => Err(RoleError::Status { path: path.to_owned(), status }),
            Err(error) => Err(RoleError::Broken(error.to_string())),
        }
    }
}

impl State {
    fn plan(&self, now: Moment) -> Plan {
        let good = self.held.as_ref().filter(|held| now.wall < held.expires);
        let failed = self.failed.as_ref().filter(|(at, _)| now.is_soon_after(*at));
        match (good, failed) {
            (Some(held), _) if !held.doubted && now.wall + RENEW_BEFORE < held.expires => {
                Plan::Use(Arc::clone(&held.keys))
            }
            (Some(held), Some(_)) => Plan::Use(Arc::clone(&held.keys)),
            (None, Some((_, error))) => Plan::Refuse(error.clone()),
            (_, None) => Plan::Fetch,
        }
    }

    fn fetched(&mut self, result: Result<(Keys, SystemTime), RoleError>, now: Moment) {
        match result {
            Ok((keys, expires)) => {
                let expires = expires.min(now.wall + MAX_AGE);
                // Keys that are as short-lived are not asked for again at each login.
                let failed = (expires <= now.wall + RENEW_BEFORE).then_some((now.steady, RoleError::Expired));
                let held = Held { keys: Arc::new(keys), expires, since: now.steady, doubted: false };
                *self = Self { held: Some(held), failed };
            }
            Err(error) => self.failed = Some((now.steady, error)),
        }
    }

    /// A server may refuse any number of logins for reasons of its own: only keys that are not of just now are doubted.
    fn refused(&mut self, now: Moment) {
        if let Some(held) = &mut self.held {
            held.doubted |= !now.is_soon_after(held.since);
        }
    }
}

fn is_name(text: &str) -> bool {
    let fits = (1..=MAX_NAME).contains(&text.len());
    fits && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"_+=,.@-".contains(&it))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::Full;
    use hyper::Response;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;

    use super::*;

    const KEYS: &str = r#"{ "Code": "Success", "LastUpdated": "2026-02-03T04:05:06Z", "Type": "AWS-HMAC",
        "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "Token": "IQoJb3JpZ2luX2VjEJj", "Expiration": "2026-02-03T10:05:06Z" }"#;

    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

    /// So long after 2026-02-03, 04:05:06 UTC, which is six hours before the keys expire.
    fn after(time: Duration) -> Moment {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_770_091_506);
        Moment { wall: begun + time, steady: *BEGUN + time }
    }

    fn minutes(minutes: u64) -> Moment {
        after(Duration::from_mins(minutes))
    }

    fn seconds(seconds: u64) -> Moment {
        after(Duration::from_secs(seconds))
    }

    /// A metadata service that gives this for the role "gateway", and who asks it. It counts how often keys were asked for.
    async fn service(keys: &'static str) -> (Arc<Role>, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let count = Arc::clone(&count);
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    let header = |name| request.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
                    let (status, body) = match (request.method(), request.uri().path()) {
                        (&Method::PUT, TOKEN) if header(TOKEN_LIFETIME_HEADER).is_some() => (200, "a-token"),
                        _ if header(TOKEN_HEADER).as_deref() != Some("a-token") => (401, ""),
                        (&Method::GET, ROLES) if keys.is_empty() => (404, ""),
                        (&Method::GET, ROLES) => (200, "gateway"),
                        (&Method::GET, "/latest/meta-data/iam/security-credentials/gateway") => {
                            count.fetch_add(1, Ordering::SeqCst);
                            (200, keys)
                        }
                        _ => (404, ""),
                    };
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(body)));
                    async move { Ok::<_, Infallible>(response.unwrap()) }
                });
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
        (Roles::default().at(at), asked)
    }

    #[tokio::test]
    async fn keys_are_fetched_once_for_all_who_wait() {
        let (role, asked) = service(KEYS).await;
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let role = Arc::clone(&role);
                tokio::spawn(async move { role.keys_by(|| minutes(0)).await })
            })
            .collect();
        for keys in waiting {
            let keys = keys.await.unwrap().unwrap();
            assert_eq!(keys.access_key_id, "ASIAIOSFODNN7EXAMPLE");
            assert_eq!(keys.secret_access_key.expose(), b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY");
            assert_eq!(keys.session_token.as_ref().unwrap().expose(), b"IQoJb3JpZ2luX2VjEJj");
        }
        let later = |time| role.keys_by(move || minutes(time));
        later(354).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        // They are still good for four minutes: used, while new ones are not there.
        later(356).await.unwrap();
        later(356).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        assert!(matches!(later(360).await, Err(RoleError::Expired)));
        assert!(matches!(later(360).await, Err(RoleError::Expired)));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_role_is_said_without_its_keys() {
        for (keys, expected) in [
            ("", "the instance has no role"),
            (r#"{ "Code": "AssumeRoleUnauthorizedAccess" }"#, "gives no keys: AssumeRoleUnauthorizedAccess"),
            (r#"{ "Code": "Success", "AccessKeyId": "hunter2" }"#, "something else than keys"),
            (
                r#"{ "Code": "Success", "AccessKeyId": "a", "SecretAccessKey": ["hunter2"] }"#,
                "something else than keys",
            ),
            ("hunter2", "something else than keys"),
            (
                r#"{ "Code": "Success", "AccessKeyId": "a", "SecretAccessKey": "hunter2", "Token": "b", "Expiration": "?" }"#,
                "something else than a time",
            ),
            (&*KEYS.replace("IQoJ", &"hunter2/".repeat(MAX_KEY / 8)).leak(), "something else than keys"),
        ] {
            let (role, _) = service(keys).await;
            let error = role.keys_by(|| minutes(0)).await.err().unwrap().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_service_that_is_silent_is_not_waited_for_by_each() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let role = Roles::default().at(listener.local_addr().unwrap());
        let begun = std::time::Instant::now();
        for time in 0..10 {
            assert!(matches!(role.keys_by(|| seconds(time)).await, Err(RoleError::Late(_))));
        }
        assert!(begun.elapsed() < TIMEOUT * 2);
        drop(listener);
        let gone = role.keys_by(|| after(RETRY_AFTER)).await.err().unwrap().to_string();
        assert!(gone.contains("cannot be reached") && gone.contains("give access_key_id"), "{gone}");
    }

    fn keys() -> Keys {
        Keys { access_key_id: String::new(), secret_access_key: Secret::new(Vec::new()), session_token: None }
    }

    #[test]
    fn keys_that_are_good_outlive_a_service_that_fails() {
        let mut state = State::default();
        state.fetched(Ok((keys(), minutes(10).wall)), minutes(0));
        let (soon, expired) = (minutes(6), minutes(10));
        assert!(matches!(state.plan(soon), Plan::Fetch));
        state.fetched(Err(RoleError::NoRole), soon);
        assert!(matches!(state.plan(soon), Plan::Use(_)));
        assert!(matches!(state.plan(after(Duration::from_mins(6) + RETRY_AFTER)), Plan::Fetch));
        assert!(matches!(state.plan(Moment { wall: minutes(5).wall, ..soon }), Plan::Use(_)), "the clock was set back");
        state.fetched(Err(RoleError::NoRole), expired);
        assert!(matches!(state.plan(expired), Plan::Refuse(RoleError::NoRole)));
        let set_back = Moment { steady: after(Duration::from_mins(10) + RETRY_AFTER).steady, ..expired };
        assert!(matches!(state.plan(set_back), Plan::Fetch), "however the clock was set");
    }

    #[test]
    fn keys_are_not_believed_for_ever() {
        let mut state = State::default();
        state.fetched(Ok((keys(), minutes(100 * 24 * 60).wall)), minutes(0));
        assert!(matches!(state.plan(minutes(11 * 60)), Plan::Use(_)));
        assert!(matches!(state.plan(minutes(12 * 60)), Plan::Fetch));
    }

    #[test]
    fn keys_that_a_server_does_not_take_are_fetched_anew() {
        let mut state = State::default();
        let good = |state: &mut State, now| state.fetched(Ok((keys(), minutes(360).wall)), now);
        good(&mut state, seconds(0));
        state.refused(seconds(1));
        assert!(matches!(state.plan(seconds(2)), Plan::Use(_)), "they are of just now");
        state.refused(seconds(60));
        assert!(matches!(state.plan(seconds(60)), Plan::Fetch));
        state.fetched(Err(RoleError::NoRole), seconds(60));
        assert!(matches!(state.plan(seconds(61)), Plan::Use(_)), "there are no others");
        assert!(matches!(state.plan(seconds(70)), Plan::Fetch));
        good(&mut state, seconds(70));
        assert!(matches!(state.plan(seconds(71)), Plan::Use(_)));
    }
}
