//! The whole way from an origin to a principal, against an issuer in this process that speaks real HTTP.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::ca::Authority;
use crate::ca::tests::scratch;
use crate::config::{Access, AgentConfig, AgentMatch, GatewayConfig, IdentityConfig, Mode, RecordingConfig};
use crate::origin::Risk;
use crate::policy::Policy;

/// A signing key, with its public half as a JWK.
pub(super) struct SigningKey {
    id: Option<&'static str>,
    algorithm: Algorithm,
    encoding: EncodingKey,
    pub(super) public: Value,
}

impl SigningKey {
    pub(super) fn new(algorithm: Algorithm, id: Option<&'static str>) -> Self {
        let (scheme, encode): (_, fn(&[u8]) -> EncodingKey) = match algorithm {
            Algorithm::EdDSA => (&rcgen::PKCS_ED25519, EncodingKey::from_ed_der),
            Algorithm::ES384 => (&rcgen::PKCS_ECDSA_P384_SHA384, EncodingKey::from_ec_der),
            Algorithm::ES256 => (&rcgen::PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_der),
            _ => (&rcgen::PKCS_RSA_SHA256, |pem| EncodingKey::from_rsa_pem(pem).unwrap()),
        };
        let pair = rcgen::KeyPair::generate_for(scheme).unwrap();
        let private =
            if scheme == &rcgen::PKCS_RSA_SHA256 { pair.serialize_pem().into() } else { pair.serialize_der() };
        let encoding = encode(&private);
        let jwk = if algorithm == Algorithm::EdDSA {
            Jwk::from_decoding_key(&DecodingKey::from_ed_der(pair.public_key_raw()), None)
        } else {
            Jwk::from_encoding_key(&encoding, algorithm)
        };
        let mut public = serde_json::to_value(jwk.unwrap()).unwrap();
        let members = public.as_object_mut().unwrap();
        members.remove("alg");
        if let Some(id) = id {
            members.insert("kid".to_owned(), json!(id));
        }
        Self { id, algorithm, encoding, public }
    }

    fn es256(id: &'static str) -> Self {
        Self::new(Algorithm::ES256, Some(id))
    }

    fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.id.map(str::to_owned);
        jsonwebtoken::encode(&header, claims, &self.encoding).unwrap()
    }
}

/// What the issuer says to everybody.
#[derive(Default)]
struct Published {
    keys: Mutex<Vec<Value>>,
    /// Answered instead, to every request.
    instead: Mutex<Option<(StatusCode, Bytes)>>,
    fetches: AtomicUsize,
}

impl Published {
    fn publish(&self, keys: &[&SigningKey]) {
        *self.keys.lock().unwrap() = keys.iter().map(|key| key.public.clone()).collect();
    }

    fn answer(&self, issuer: &str, path: &str) -> Response<Full<Bytes>> {
        let respond = |status, body| Response::builder().status(status).body(Full::new(body)).unwrap();
        if let Some((status, body)) = self.instead.lock().unwrap().clone() {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            return respond(status, body);
        }
        let body = match path {
            "/.well-known/openid-configuration" => json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }),
            "/keys" => {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                json!({ "keys": *self.keys.lock().unwrap() })
            }
            _ => return respond(StatusCode::NOT_FOUND, Bytes::new()),
        };
        respond(StatusCode::OK, Bytes::from(body.to_string()))
    }
}

/// Serves `published` on a port of its own until the test's runtime ends; the issuer's URL.
async fn issue(published: Arc<Published>, tls: Option<TlsAcceptor>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let issuer = format!("{scheme}://{}", listener.local_addr().unwrap());
    let url = issuer.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (published, issuer) = (Arc::clone(&published), issuer.clone());
            match &tls {
                None => {
                    tokio::spawn(answer(stream, published, issuer));
                }
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        tokio::spawn(answer(stream, published, issuer));
                    }
                }
            }
        }
    });
    url
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, published: Arc<Published>, issuer: String) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let response = published.answer(&issuer, request.uri().path());
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// The token files of the machine.
#[derive(Default)]
struct Tokens(Mutex<HashMap<PathBuf, String>>);

impl Tokens {
    fn put(&self, path: &str, token: &str) {
        self.0.lock().unwrap().insert(PathBuf::from(path), token.to_owned());
    }

    fn get(&self, path: &Path) -> Result<Secret, WitnessError> {
        let token = self.0.lock().unwrap().get(path).cloned();
        token
            .map(|token| Secret::new(token.into_bytes()))
            .ok_or_else(|| WitnessError::Missing(path.display().to_string()))
    }
}

impl TokenReader for Tokens {
    async fn token_file(&self, path: &Path) -> Result<Secret, WitnessError> {
        self.get(path)
    }

    async fn token_environment(&self, origin: &Origin, name: &str) -> Result<Secret, WitnessError> {
        self.get(Path::new(&format!("{}/{name}", origin.pid)))
    }
}

pub(crate) fn agent(name: &str, matches: AgentMatch) -> AgentConfig {
    let token = TokenSource::File("/run/agents/%i.token".to_owned());
    AgentConfig {
        name: name.to_owned(),
        matches,
        user: None,
        uid: None,
        token,
        accept_risk: Vec::new(),
        listen: Vec::new(),
    }
}

fn coder() -> AgentConfig {
    agent("coder", AgentMatch::Unit("coder@*.service".to_owned()))
}

pub(crate) fn config(identity: IdentityConfig, agents: Vec<AgentConfig>) -> Config {
    Config {
        gateway: GatewayConfig {
            agents: vec!["agents.slice".to_owned()],
            attach: String::new(),
            mode: Mode::Enforce,
            unlisted: Mode::Enforce,
            user: "weir".to_owned(),
            runtime_dir: PathBuf::new(),
            state_dir: PathBuf::new(),
            bpf_dir: PathBuf::new(),
            port: 0,
            dns_port: 0,
            shards: 1,
            max_sessions_per_agent: 1,
            drain: std::time::Duration::ZERO,
            without_gateway: crate::config::WithoutGateway::Refuse,
        },
        access: Access::default(),
        recording: RecordingConfig {
            directory: PathBuf::new(),
            keep: std::time::Duration::MAX,
            max_size: 0,
            reply_limit: 0,
        },
        identity: Some(identity),
        dns_servers: Vec::new(),
        agents,
        targets: Vec::new(),
        policy: Policy::default(),
        masks: Vec::new(),
        limits: Vec::new(),
        version: String::new(),
    }
}

pub(crate) fn identity_config(issuer: String) -> IdentityConfig {
    let insecure = issuer.starts_with("http:").then(|| "test".to_owned());
    IdentityConfig { issuer, audience: "weir".to_owned(), groups_claim: "groups".to_owned(), ca: None, insecure }
}

pub(crate) fn origin(uid: u32) -> Origin {
    let nowhere = "192.0.2.1:5432".parse().unwrap();
    Origin {
        pid: 7,
        uid,
        gid: 0,
        cgroup_id: 42,
        socket_cgroup_id: 42,
        netns_cookie: 1,
        connected_at: 1,
        started_at: None,
        destination: nowhere,
        source: nowhere,
    }
}

pub(crate) fn evidence(cgroup: &str) -> Evidence {
    Evidence { cgroup: cgroup.to_owned(), user: Some("agent-coder".to_owned()), ..Evidence::default() }
}

/// An issuer, an agent `coder`, and its token file.
struct Pair {
    published: Arc<Published>,
    key: SigningKey,
    config: Config,
    identifier: Identifier,
    tokens: Tokens,
}

impl Pair {
    async fn new() -> Self {
        Self::with(SigningKey::es256("k1")).await
    }

    async fn with(key: SigningKey) -> Self {
        let published = Arc::new(Published::default());
        published.publish(&[&key]);
        let config = config(identity_config(issue(Arc::clone(&published), None).await), vec![coder()]);
        let identifier = Identifier::new(&config).unwrap();
        Self { published, key, config, identifier, tokens: Tokens::default() }
    }

    /// Good claims with some put in their place.
    fn claims(&self, changes: &Value) -> Value {
        let issuer = &self.config.identity.as_ref().unwrap().issuer;
        let mut claims =
            json!({ "iss": issuer, "aud": "weir", "sub": "agent-7", "exp": now() + 300, "groups": ["coders"] });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    }

    fn token(&self, changes: &Value) -> String {
        self.key.sign(&self.claims(changes))
    }

    async fn identify(&self, token: &str) -> Result<Principal, IdentityError> {
        self.tokens.put("/run/agents/a.token", token);
        self.identify_in("/agents.slice/coder@a.service", 1001).await
    }

    async fn identify_in(&self, cgroup: &str, uid: u32) -> Result<Principal, IdentityError> {
        self.identifier.identify(&origin(uid), &evidence(cgroup), &self.config, &self.tokens).await
    }

    async fn refusal(&self, token: &str) -> String {
        let line = self.identify(token).await.unwrap_err().to_string();
        assert!(!line.contains('\n') && line.len() < 400, "{line}");
        for part in token.split('.').filter(|part| part.len() > 8) {
            assert!(!line.contains(part), "the token is in {line}");
        }
        line
    }

    fn fetches(&self) -> usize {
        self.published.fetches.load(Ordering::SeqCst)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn a_good_token_makes_a_principal() {
    let pair = Pair::new().await;
    let token = pair.token(&json!({ "jti": "t1" }));
    let principal = pair.identify(&format!("{token}\n")).await.unwrap();
    assert_eq!((principal.agent.as_str(), principal.subject.as_str()), ("coder", "agent-7"));
    assert_eq!((principal.groups, principal.token_id.as_deref()), (vec!["coders".to_owned()], Some("t1")));
    assert!(principal.expires_at >= now() + 290);
    let again = pair.identify(&token).await.unwrap();
    assert_eq!(again.token_digest, principal.token_digest);
    assert_eq!(pair.fetches(), 1);
    assert!(!serde_json::to_string(&again).unwrap().contains(&token));
}

#[tokio::test]
async fn every_asymmetric_algorithm_verifies() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    for algorithm in [ES256, ES384, EdDSA] {
        let pair = Pair::with(SigningKey::new(algorithm, Some("k"))).await;
        pair.identify(&pair.token(&json!({}))).await.unwrap();
    }
    let mut pair = Pair::with(SigningKey::new(RS256, Some("k"))).await;
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512] {
        pair.key.algorithm = algorithm;
        pair.identify(&pair.token(&json!({}))).await.unwrap();
    }
}

#[tokio::test]
async fn claims_that_will_not_do_are_refused_in_one_good_line() {
    let pair = Pair::new().await;
    let place = "the token of agent 'coder' (/run/agents/a.token)";
    let line = pair.refusal(&pair.token(&json!({ "exp": now() - 200 }))).await;
    assert_eq!(line, format!("{place} expired 3 min ago; renew it"));
    let line = pair.refusal(&pair.token(&json!({ "nbf": now() + 3000 }))).await;
    assert!(line.contains("is not valid for another"), "{line}");
    let line = pair.refusal(&pair.token(&json!({ "aud": "other" }))).await;
    assert!(line.contains("is for audience \"other\", not for weir"), "{line}");
    let line = pair.refusal(&pair.token(&json!({ "iss": "http://127.0.0.1:1" }))).await;
    assert!(line.contains("is from issuer \"http://127.0.0.1:1\", not from http://127.0.0.1"), "{line}");
    let line = pair.refusal(&pair.token(&json!({ "hasgroups": true }))).await;
    assert!(line.contains("there are too many"), "{line}");
}

#[tokio::test]
async fn signatures_that_prove_nothing_are_refused() {
    let pair = Pair::new().await;
    let good = pair.token(&json!({}));

    let wrong = SigningKey::es256("k1").sign(&pair.claims(&json!({})));
    assert!(pair.refusal(&wrong).await.contains("wrong signature"));
    let other = pair.token(&json!({ "sub": "somebody-else" }));
    let spliced = [good.split('.').next().unwrap(), other.split('.').nth(1).unwrap(), good.split('.').nth(2).unwrap()];
    assert!(pair.refusal(&spliced.join(".")).await.contains("wrong signature"));

    // {"alg":"none"}
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", good.split('.').nth(1).unwrap());
    assert!(pair.refusal(&unsigned).await.contains("not a JWT"));
    // The public key as a shared secret: the classic confusion.
    let secret = EncodingKey::from_secret(pair.key.public["x"].as_str().unwrap().as_bytes());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("k1".to_owned());
    let confused = jsonwebtoken::encode(&header, &pair.claims(&json!({})), &secret).unwrap();
    assert!(pair.refusal(&confused).await.contains("a shared secret"));
    // A key that the token brings along is not asked.
    let mut header = Header::new(Algorithm::ES256);
    let own = SigningKey::es256("own");
    header.jwk = Some(serde_json::from_value(own.public.clone()).unwrap());
    let self_made = jsonwebtoken::encode(&header, &pair.claims(&json!({})), &own.encoding).unwrap();
    assert!(pair.refusal(&self_made).await.contains("wrong signature"));
    let mut header = Header::new(Algorithm::ES256);
    header.crit = Some(vec!["b64".to_owned()]);
    let critical = jsonwebtoken::encode(&header, &pair.claims(&json!({})), &pair.key.encoding).unwrap();
    assert!(pair.refusal(&critical).await.contains("crit"));

    for nonsense in ["", ".", "..", "a.b.c", "a.b.c.d", &good[1..], &"x".repeat(20_000)] {
        assert!(pair.identify(nonsense).await.is_err(), "{nonsense:?}");
    }
    pair.identify(&good).await.unwrap();
}

#[tokio::test]
async fn without_a_kid_one_candidate_will_do_and_two_will_not() {
    let pair = Pair::with(SigningKey::new(Algorithm::ES256, None)).await;
    pair.identify(&pair.token(&json!({}))).await.unwrap();
    let pair = Pair::with(SigningKey::new(Algorithm::ES256, None)).await;
    pair.published.publish(&[&pair.key, &SigningKey::es256("k2")]);
    assert!(pair.refusal(&pair.token(&json!({}))).await.contains("does not say which"));
}

#[tokio::test]
async fn unknown_keys_cost_the_issuer_one_fetch_for_all() {
    let pair = Arc::new(Pair::new().await);
    let unknown = SigningKey::es256("k2").sign(&pair.claims(&json!({})));
    pair.tokens.put("/run/agents/a.token", &unknown);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let pair = Arc::clone(&pair);
        asking.spawn(
            async move { pair.identify_in("/agents.slice/coder@a.service", 1001).await.unwrap_err().to_string() },
        );
    }
    while let Some(line) = asking.join_next().await {
        assert!(line.unwrap().contains("does not publish (ES256, kid \"k2\")"));
    }
    assert_eq!(pair.fetches(), 1);
}

#[tokio::test]
async fn an_issuer_that_fails_denies_and_is_named() {
    for (status, body, expected) in [
        (StatusCode::SERVICE_UNAVAILABLE, Bytes::new(), "answered 503"),
        (StatusCode::FOUND, Bytes::new(), "answered 302"),
        (StatusCode::OK, Bytes::from(vec![b' '; (1 << 20) + 1]), "more than 1048576 bytes"),
        (StatusCode::OK, Bytes::from_static(b"<html>"), "not what was expected"),
        (StatusCode::OK, Bytes::from_static(b"{\"issuer\":\"x\",\"jwks_uri\":\"y\"}"), "names the issuer \"x\""),
    ] {
        let pair = Pair::new().await;
        *pair.published.instead.lock().unwrap() = Some((status, body));
        let token = pair.token(&json!({}));
        let line = pair.refusal(&token).await;
        assert!(line.contains("keys could not be fetched") && line.contains(expected), "{line}");
        // Back again at once, but not asked again for a while.
        *pair.published.instead.lock().unwrap() = None;
        assert!(pair.refusal(&token).await.contains(expected));
        assert_eq!(pair.fetches(), 1);
    }
}

#[tokio::test]
async fn an_issuer_that_is_not_there_denies() {
    let mut pair = Pair::new().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    pair.config.identity = Some(identity_config(format!("http://{free}")));
    pair.identifier.take_up(pair.identifier.prepare(&pair.config).unwrap());
    assert!(pair.refusal(&pair.token(&json!({}))).await.contains("cannot be reached"));
}

#[tokio::test]
async fn plain_http_needs_a_reason_and_this_host() {
    for (issuer, insecure) in [("http://127.0.0.1:1", None), ("http://192.0.2.1:1", Some("test".to_owned()))] {
        let mut pair = Pair::new().await;
        pair.config.identity = Some(IdentityConfig { insecure, ..identity_config(issuer.to_owned()) });
        pair.identifier.take_up(pair.identifier.prepare(&pair.config).unwrap());
        assert!(pair.refusal(&pair.token(&json!({}))).await.contains("plain HTTP"));
    }
}

#[tokio::test]
async fn an_issuer_over_tls_is_verified() {
    let (ours, theirs) = (scratch(), scratch());
    let authority = Arc::new(Authority::open(ours.path()).unwrap());
    let stranger = Authority::open(theirs.path()).unwrap();
    let acceptor = TlsAcceptor::from(crate::tls::server_config(&authority, "127.0.0.1").unwrap());
    let mut pair = Pair::new().await;
    let issuer = issue(Arc::clone(&pair.published), Some(acceptor)).await;
    for (ca, good) in [(stranger.certificate_path(), false), (authority.certificate_path(), true)] {
        pair.config.identity = Some(IdentityConfig { ca: Some(ca.to_owned()), ..identity_config(issuer.clone()) });
        pair.identifier.take_up(pair.identifier.prepare(&pair.config).unwrap());
        assert_eq!(pair.identify(&pair.token(&json!({}))).await.is_ok(), good);
    }
}

#[tokio::test]
async fn a_token_belongs_to_the_place_that_showed_it_first() {
    let pair = Pair::new().await;
    let token = pair.token(&json!({}));
    pair.identify(&token).await.unwrap();
    // Deeper in the same unit is the same place; so is the unit after a restart.
    pair.identify_in("/agents.slice/coder@a.service/child", 1001).await.unwrap();
    pair.tokens.put("/run/agents/b.token", &token);
    for (cgroup, uid) in [("/agents.slice/coder@b.service", 1001), ("/agents.slice/coder@a.service", 1002)] {
        let line = pair.identify_in(cgroup, uid).await.unwrap_err().to_string();
        assert!(line.contains("in use by agents.slice/coder@a.service (uid 1001)"), "{line}");
    }
    // A reload that changes nothing about identity forgets nothing.
    pair.identifier.take_up(pair.identifier.prepare(&pair.config).unwrap());
    assert!(pair.identify_in("/agents.slice/coder@b.service", 1001).await.is_err());
    pair.tokens.put("/run/agents/b.token", &pair.token(&json!({ "sub": "agent-8" })));
    pair.identify_in("/agents.slice/coder@b.service", 1001).await.unwrap();
}

#[tokio::test]
async fn capabilities_that_lead_around_are_refused_unless_they_are_accepted() {
    let mut pair = Pair::new().await;
    pair.tokens.put("/run/agents/a.token", &pair.token(&json!({})));
    let held = Evidence { risks: vec![Risk::NetRaw, Risk::Bpf], ..evidence("/agents.slice/coder@a.service") };
    for (accepted, refused) in [
        (vec![], "holds CAP_NET_RAW, CAP_BPF,"),
        (vec![Risk::Bpf, Risk::SysAdmin], "holds CAP_NET_RAW,"),
        (vec![Risk::NetRaw], "holds CAP_BPF,"),
    ] {
        pair.config.agents[0].accept_risk = accepted;
        let error = pair.identifier.identify(&origin(1001), &held, &pair.config, &pair.tokens).await.unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
    }
    pair.config.agents[0].accept_risk = vec![Risk::NetRaw, Risk::Bpf];
    pair.identifier.identify(&origin(1001), &held, &pair.config, &pair.tokens).await.unwrap();
}

#[tokio::test]
async fn agents_are_told_apart_by_cgroup_and_user() {
    let mut pair = Pair::new().await;
    let by_user = AgentConfig {
        uid: Some(2000),
        token: TokenSource::Environment("AGENT_TOKEN".to_owned()),
        ..agent("runner", AgentMatch::UserOnly)
    };
    let by_path = AgentConfig {
        token: TokenSource::File("/run/team.token".to_owned()),
        ..agent("team", AgentMatch::Cgroup("agents.slice/team".to_owned()))
    };
    let anybody = agent("anybody", AgentMatch::Cgroup("agents.slice".to_owned()));
    pair.config.agents.extend([by_user, by_path, anybody]);
    for (n, path) in ["7/AGENT_TOKEN", "/run/team.token", "/run/agents/a.token"].into_iter().enumerate() {
        pair.tokens.put(path, &pair.token(&json!({ "sub": format!("agent-{n}") })));
    }
    for (cgroup, uid, expected) in [
        ("/user.slice", 2000, "runner"),
        ("/agents.slice/team/x", 1001, "team"),
        ("/agents.slice/coder@a.service", 1001, "coder"),
    ] {
        assert_eq!(pair.identify_in(cgroup, uid).await.unwrap().agent, expected);
    }
    for (cgroup, uid, expected) in [
        ("/user.slice", 1001, "no agent is configured for the cgroup \"user.slice\" and the uid 1001"),
        ("/agents.slice/team", 2000, "belong to the agents 'team' and 'runner'"),
        ("/agents.slice/coder@none.service", 1001, "cannot be read: /run/agents/none.token does not exist"),
        ("/agents.slice/coder@...service", 1001, "is not fit for a path"),
        ("/agents.slice/other.service", 1001, "this cgroup's unit or container has no instance"),
    ] {
        let line = pair.identify_in(cgroup, uid).await.unwrap_err().to_string();
        assert!(line.contains(expected), "{line}");
    }
}

#[tokio::test]
async fn without_a_configured_issuer_nobody_is_anybody() {
    let mut pair = Pair::new().await;
    let token = pair.token(&json!({}));
    pair.config.identity = None;
    pair.identifier.take_up(pair.identifier.prepare(&pair.config).unwrap());
    assert!(matches!(pair.identify(&token).await, Err(IdentityError::NotConfigured)));
}
