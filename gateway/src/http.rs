//! HTTP/1.1 as a client: one request on a connection of its own, and an answer of bounded size. Connecting, TLS and the time that
//! all of it may take are the caller's.

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// What requests say of their sender.
pub(crate) const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    #[error("the answer is too large")]
    TooLarge,
    #[error("{0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
}

/// Sends the request and reads the answer, of which the body has `most` bytes at most. One that says no is read no further.
pub(crate) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
    most: usize,
) -> Result<(StatusCode, Bytes), ExchangeError> {
    let broken = |error: hyper::Error| ExchangeError::Broken(error.into());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Ok((status, Bytes::new()));
        }
        match Limited::new(response.into_body(), most).collect().await {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(ExchangeError::TooLarge),
            Err(error) => Err(ExchangeError::Broken(error)),
        }
    };
    // The connection is driven for as long as the answer takes, and dropped with it.
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        driven = connection => match driven {
            Ok(()) => answer.await,
            Err(error) => Err(broken(error)),
        },
    }
}
