//! Fetches the issuer's keys: discovery (OpenID Connect Discovery 1.0, section 4), then the JWK set that it points to.
//!
//! A client for two GETs: HTTP/1.1 over verified TLS, no redirects, nothing kept open. Plain HTTP only where the
//! configuration says why, and only to this very host.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, HOST, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::keys::KeySet;
use crate::config::IdentityConfig;
use crate::http::{self, ExchangeError};
use crate::tls::{self, TlsError};

/// One request, from name look-up to the body's last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 1 << 20;

/// Why the issuer's keys could not be fetched. Shared by everybody who waited for them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{0:?} is no URL that can be fetched")]
    Url(String),
    #[error("{0:?} is plain HTTP; only a loopback issuer may be, and only with `insecure` in [identity]")]
    PlainHttp(String),
    #[error("{host} cannot be reached: {error}")]
    Connect { host: String, error: String },
    #[error("{host} did not answer within {} s", TIMEOUT.as_secs())]
    Timeout { host: String },
    #[error("{host} broke the exchange off: {error}")]
    Http { host: String, error: String },
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("{url} sent more than {MAX_BODY} bytes")]
    TooLarge { url: String },
    #[error("{url} is not what was expected: {error}")]
    Malformed { url: String, error: String },
    #[error("discovery names the issuer {found:?}, and the configuration {wanted:?}")]
    OtherIssuer { found: String, wanted: String },
    #[error("the last attempt came to nothing")]
    Aborted,
}

/// Can fetch the keys of one issuer, and nothing else.
pub(super) struct Fetcher {
    issuer: String,
    tls: Arc<ClientConfig>,
    plain_on_loopback: bool,
}

impl Fetcher {
    pub(super) fn new(config: &IdentityConfig) -> Result<Self, TlsError> {
        Ok(Self {
            issuer: config.issuer.clone(),
            tls: tls::https_client(config.ca.as_deref())?,
            plain_on_loopback: config.insecure.is_some(),
        })
    }

    pub(super) async fn keys(&self) -> Result<KeySet, FetchError> {
        #[derive(Deserialize)]
        struct Discovery {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let body = self.get(&url).await?;
        let discovery: Discovery = serde_json::from_slice(&body).map_err(|error| malformed(&url, &error))?;
        if discovery.issuer != self.issuer {
            return Err(FetchError::OtherIssuer { found: discovery.issuer, wanted: self.issuer.clone() });
        }
        let body = self.get(&discovery.jwks_uri).await?;
        KeySet::parse(&body).map_err(|error| malformed(&discovery.jwks_uri, &error))
    }

    async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let invalid = || FetchError::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| invalid())?;
        let host = uri.host().ok_or_else(invalid)?.trim_matches(['[', ']']).to_owned();
        let answer = tokio::time::timeout(TIMEOUT, async {
            match uri.scheme_str() {
                Some("https") => {
                    let name = ServerName::try_from(host.clone()).map_err(|_| invalid())?;
                    let stream = connect(&host, uri.port_u16().unwrap_or(443), false).await?;
                    let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await;
                    exchange(stream.map_err(|error| unreachable(&host, &error))?, &uri, &host).await
                }
                Some("http") if self.plain_on_loopback => {
                    let stream = connect(&host, uri.port_u16().unwrap_or(80), true).await?;
                    exchange(stream, &uri, &host).await
                }
                Some("http") => Err(FetchError::PlainHttp(url.to_owned())),
                _ => Err(invalid()),
            }
        });
        answer.await.unwrap_or(Err(FetchError::Timeout { host: host.clone() }))
    }
}

/// Connects to one of the host's addresses; where only loopback will do, to one of those that are.
async fn connect(host: &str, port: u16, only_loopback: bool) -> Result<TcpStream, FetchError> {
    let addresses = tokio::net::lookup_host((host, port)).await.map_err(|error| unreachable(host, &error))?;
    let mut last = None;
    for address in addresses.filter(|address| !only_loopback || address.ip().is_loopback()) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(error) => unreachable(host, &error),
        None if only_loopback => FetchError::PlainHttp(host.to_owned()),
        None => unreachable(host, &std::io::ErrorKind::NotFound.into()),
    })
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    uri: &Uri,
    host: &str,
) -> Result<Bytes, FetchError> {
    let request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or(host, |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, http::USER_AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url(uri.to_string()))?;
    match http::exchange(stream, request, MAX_BODY).await {
        Ok((StatusCode::OK, body)) => Ok(body),
        Ok((status, _)) => Err(FetchError::Status { url: uri.to_string(), status }),
        Err(ExchangeError::TooLarge) => Err(FetchError::TooLarge { url: uri.to_string() }),
        Err(ExchangeError::Broken(error)) => Err(FetchError::Http { host: host.to_owned(), error: error.to_string() }),
    }
}

fn unreachable(host: &str, error: &std::io::Error) -> FetchError {
    FetchError::Connect { host: host.to_owned(), error: error.to_string() }
}

fn malformed(url: &str, error: &serde_json::Error) -> FetchError {
    FetchError::Malformed { url: url.to_owned(), error: error.to_string() }
}
