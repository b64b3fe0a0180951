//! An identity provider of our own: the discovery document, a JWKS, and tokens good and bad.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

pub use jsonwebtoken::Algorithm;

use crate::Result;
use crate::ca::Ca;

/// The audience of its tokens, unless a test says otherwise.
pub const AUDIENCE: &str = "weir";
const JWKS: &str = "/jwks";
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Seconds that a token is good for.
const LIFETIME: i64 = 3600;

/// Serves until dropped.
pub struct Issuer {
    url: String,
    state: Arc<Mutex<State>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

struct State {
    url: String,
    /// The newest of each algorithm signs; all are published.
    keys: Vec<SigningKey>,
    down: bool,
    delay: Duration,
    requests: BTreeMap<String, usize>,
}

impl State {
    fn key_set(&self) -> Result<Value> {
        Ok(json!({ "keys": self.keys.iter().map(SigningKey::public).collect::<Result<Vec<_>>>()? }))
    }
}

/// OpenID Connect Discovery 1.0, section 3: the fields that it requires.
fn discovery(url: &str) -> Value {
    json!({
        "issuer": url,
        "jwks_uri": format!("{url}{JWKS}"),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "RS256"],
    })
}

struct SigningKey {
    id: String,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Issuer {
    /// `http://` on a free loopback port.
    pub fn start() -> Result<Self> {
        Self::start_on(None)
    }

    /// `https://localhost:PORT`, with a certificate by this authority.
    pub fn start_tls(ca: &Ca) -> Result<Self> {
        let leaf = ca.issue(&["localhost", "127.0.0.1"])?;
        let chain = vec![CertificateDer::from_pem_slice(leaf.certificate.as_bytes())?];
        let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Self::start_on(Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_on(tls: Option<TlsAcceptor>) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let url = if tls.is_some() { format!("https://localhost:{port}") } else { format!("http://127.0.0.1:{port}") };
        let keys = vec![SigningKey::new(Algorithm::ES256)?, SigningKey::new(Algorithm::RS256)?];
        let state = State { url: url.clone(), keys, down: false, delay: Duration::ZERO, requests: BTreeMap::new() };
        let state = Arc::new(Mutex::new(state));
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&state);
        let thread = thread::spawn(move || runtime.block_on(serve(listener, tls, shared, stopped)));
        Ok(Self { url, state, stop: Some(stop), thread: Some(thread) })
    }

    /// What goes into `[identity] issuer`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A good ES256 token; `claims` are added to, or replace, issuer, audience, subject and times.
    pub fn token(&self, claims: &Value) -> Result<String> {
        self.token_with(Algorithm::ES256, claims)
    }

    /// A good token of ES256 or RS256.
    pub fn token_with(&self, algorithm: Algorithm, claims: &Value) -> Result<String> {
        let state = self.lock();
        let key = state.keys.iter().rev().find(|key| key.algorithm == algorithm).ok_or("no key of that algorithm")?;
        sign(&key.id, key, &self.claims(claims))
    }

    /// A token that was good until a minute ago.
    pub fn expired_token(&self, claims: &Value) -> Result<String> {
        let mut claims = claims.clone();
        claims["exp"] = json!(now() - 60);
        self.token(&claims)
    }

    /// A token that names a published key but was signed by another.
    pub fn forged_token(&self, claims: &Value) -> Result<String> {
        let id = self.lock().keys.first().ok_or("no key")?.id.clone();
        sign(&id, &SigningKey::new(Algorithm::ES256)?, &self.claims(claims))
    }

    /// New keys from now on. The old ones stay published only if asked.
    pub fn rotate(&self, keep_old: bool) -> Result {
        let new = [SigningKey::new(Algorithm::ES256)?, SigningKey::new(Algorithm::RS256)?];
        let mut state = self.lock();
        if !keep_old {
            state.keys.clear();
        }
        state.keys.extend(new);
        Ok(())
    }

    /// While down, every connection is dropped without an answer.
    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
    }

    /// From now on every answer takes so long.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }

    /// The discovery document and the key set, for a server elsewhere that stands in for this one under another URL.
    pub fn documents(&self, url: &str) -> Result<[(&'static str, Value); 2]> {
        let state = self.lock();
        Ok([(DISCOVERY, discovery(url)), (JWKS, state.key_set()?)])
    }

    /// How often the key set was fetched.
    pub fn jwks_requests(&self) -> usize {
        self.lock().requests.get(JWKS).copied().unwrap_or(0)
    }

    fn claims(&self, given: &Value) -> Value {
        let mut claims = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": "agent-coder",
            "iat": now(), "nbf": now() - 5, "exp": now() + LIFETIME,
        });
        for (name, value) in given.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).unwrap_or_default(); // it ended by itself
        }
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl SigningKey {
    fn new(algorithm: Algorithm) -> Result<Self> {
        let (pair, key) = if algorithm == Algorithm::RS256 {
            let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
            let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
            (pair, key)
        } else {
            let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?;
            (pair, key)
        };
        // Unique, and the same for the same key: the end of the public key.
        let tail = pair.public_key_raw().iter().rev().skip(8).take(8);
        let id = tail.fold(format!("{algorithm:?}-"), |id, byte| format!("{id}{byte:02x}"));
        Ok(Self { id, algorithm, key })
    }

    fn public(&self) -> Result<Jwk> {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm)?;
        jwk.common.key_id = Some(self.id.clone());
        Ok(jwk)
    }
}

fn sign(id: &str, key: &SigningKey, claims: &Value) -> Result<String> {
    let mut header = Header::new(key.algorithm);
    header.kid = Some(id.to_owned());
    Ok(jsonwebtoken::encode(&header, claims, &key.key)?)
}

async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    state: Arc<Mutex<State>>,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => return eprintln!("test issuer: {e}"),
    };
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => return eprintln!("test issuer: {e}"),
            },
            _ = &mut stopped => return,
        };
        if state.lock().unwrap_or_else(PoisonError::into_inner).down {
            continue;
        }
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match tls {
                None => answer(stream, state).await,
                // A client that does not trust the certificate goes away: its side of the test sees why.
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, state).await;
                    }
                }
            }
        });
    }
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let delay = state.lock().unwrap_or_else(PoisonError::into_inner).delay;
        let reply = reply(request.uri().path(), &state).map_err(std::io::Error::other);
        async move {
            tokio::time::sleep(delay).await;
            reply
        }
    });
    // The client decides when the connection ends, also in the middle.
    drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

fn reply(path: &str, state: &Mutex<State>) -> Result<Response<Full<Bytes>>> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.down {
        return Err("down".into());
    }
    *state.requests.entry(path.to_owned()).or_default() += 1;
    let body = match path {
        DISCOVERY => discovery(&state.url),
        JWKS => state.key_set()?,
        _ => return Ok(Response::builder().status(StatusCode::NOT_FOUND).body(Full::default())?),
    };
    let response = Response::builder().header("content-type", "application/json");
    Ok(response.body(Full::new(Bytes::from(body.to_string())))?)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{DecodingKey, Validation};

    use super::*;

    fn get(issuer: &Issuer, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(issuer.url().trim_start_matches("http://"))?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    fn verify(issuer: &Issuer, token: &str) -> Result<Value> {
        let keys: JwkSet = serde_json::from_str(&get(issuer, JWKS)?)?;
        let header = jsonwebtoken::decode_header(token)?;
        let key = keys.find(&header.kid.ok_or("no kid")?).ok_or("unknown key")?;
        let mut rules = Validation::new(header.alg);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&[issuer.url()]);
        rules.leeway = 0;
        Ok(jsonwebtoken::decode::<Value>(token, &DecodingKey::from_jwk(key)?, &rules)?.claims)
    }

    #[test]
    fn its_good_tokens_verify_and_its_bad_ones_do_not() {
        let issuer = Issuer::start().unwrap();
        let discovery: Value = serde_json::from_str(&get(&issuer, DISCOVERY).unwrap()).unwrap();
        assert_eq!(discovery["issuer"], issuer.url());
        let claims = json!({ "groups": ["dev"] });
        for algorithm in [Algorithm::ES256, Algorithm::RS256] {
            let token = issuer.token_with(algorithm, &claims).unwrap();
            assert_eq!(verify(&issuer, &token).unwrap()["groups"], json!(["dev"]));
        }
        let old = issuer.token(&claims).unwrap();
        assert!(verify(&issuer, &issuer.expired_token(&claims).unwrap()).is_err());
        assert!(verify(&issuer, &issuer.forged_token(&claims).unwrap()).is_err());
        assert!(verify(&issuer, &issuer.token(&json!({ "aud": "other" })).unwrap()).is_err());
        issuer.rotate(true).unwrap();
        assert!(verify(&issuer, &old).is_ok(), "the old key is still published");
        issuer.rotate(false).unwrap();
        assert!(verify(&issuer, &old).is_err());
        assert!(verify(&issuer, &issuer.token(&claims).unwrap()).is_ok());
        let fetched = issuer.jwks_requests();
        issuer.set_down(true);
        assert!(get(&issuer, JWKS).unwrap_or_default().is_empty());
        assert_eq!(issuer.jwks_requests(), fetched);
    }
}
