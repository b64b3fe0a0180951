//! Tokens that AWS IAM's database authentication (RDS, Aurora) takes in a password's place. They are made for each login.
//!
//! A token is the URL of a request to the database that is signed and never sent (Signature Version 4, in the query), without its
//! `https://`. The server has AWS check the signature: the key never leaves the gateway, and a token is good for one user of
//! one instance, a quarter of an hour. See the RDS user guide, "IAM database authentication".
//!
//! The signature is made by AWS's own crate, which traces what it signs, a session token among it: here it has nobody to tell.

mod role;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningError, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::dispatcher::{self, Dispatch};

pub use self::role::{RoleError, Roles};

use self::role::Role;
use crate::engine::Engine;
use crate::secret::Secret;
use crate::target::{AwsKeys, RdsIam};
use crate::witness::WitnessError;

const SERVICE: &str = "rds-db";
const SCHEME: &str = "https://";
/// How long a token lets in; the longest that AWS takes.
const GOOD_FOR: Duration = Duration::from_mins(15);
/// What stands in a signed URL as it is (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no token. None of these texts holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0} of rds_iam is no text: is it the key as AWS gave it?")]
    NotText(&'static str),
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error("it cannot be signed: {0}")]
    Sign(#[from] SigningError),
    #[error("it cannot be signed: {0}")]
    Parameters(#[from] v4::signing_params::BuildError),
    #[error("it is no URL: {0}")]
    Url(#[from] hyper::http::Error),
}

/// An access key, and what it comes with if it is temporary.
struct Keys {
    access_key_id: String,
    secret_access_key: Secret,
    session_token: Option<Secret>,
}

/// Makes tokens for one user of one instance.
pub struct Signer {
    region: String,
    /// The request's URL before it is signed.
    url: String,
    keys: Source,
}

enum Source {
    Held(Arc<Keys>),
    Role(Arc<Role>),
}

impl Signer {
    /// Reads held keys. `instance`: the name and the port of the database as AWS knows it.
    pub async fn new(engine: &Engine, iam: &RdsIam, instance: (&str, u16), user: &str) -> Result<Self, WitnessError> {
        let keys = match &iam.keys {
            AwsKeys::Held { access_key_id, secret_access_key, session_token } => {
                let witness = engine.witness();
                let secret_access_key = witness.credential(secret_access_key).await?;
                let session_token = match session_token {
                    Some(token) => Some(witness.credential(token).await?),
                    None => None,
                };
                let access_key_id = access_key_id.clone();
                Source::Held(Arc::new(Keys { access_key_id, secret_access_key, session_token }))
            }
            AwsKeys::InstanceRole { metadata_service } => Source::Role(engine.roles().at(*metadata_service)),
        };
        Ok(Self { region: iam.region.clone(), url: url(instance, user), keys })
    }

    /// A token that is good from now on.
    pub async fn token(&self) -> Result<Secret, TokenError> {
        let now = SystemTime::now();
        let keys = match &self.keys {
            Source::Held(keys) => Arc::clone(keys),
            Source::Role(role) => role.keys(now).await?,
        };
        self.signed(&keys, now)
    }

    fn signed(&self, keys: &Keys, now: SystemTime) -> Result<Secret, TokenError> {
        let text = |secret: &Secret, name| secret.expose_str().map(str::to_owned).ok_or(TokenError::NotText(name));
        let mut credentials = Credentials::builder()
            .access_key_id(&keys.access_key_id)
            .secret_access_key(text(&keys.secret_access_key, "secret_access_key")?)
            .provider_name("weir");
        if let Some(token) = &keys.session_token {
            credentials = credentials.session_token(text(token, "session_token")?);
        }
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(GOOD_FOR);
        let identity = credentials.build().into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(SERVICE)
            .time(now)
            .settings(settings)
            .build()?
            .into();
        let mut request = hyper::Request::get(&self.url).body(())?;
        let signable = SignableRequest::new("GET", &self.url, std::iter::empty(), SignableBody::Bytes(&[]))?;
        let signed = dispatcher::with_default(&Dispatch::none(), || sign(signable, &parameters))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        let url = request.uri().to_string();
        Ok(Secret::new(url.strip_prefix(SCHEME).unwrap_or(&url).as_bytes().to_vec()))
    }
}

fn url((host, port): (&str, u16), user: &str) -> String {
    format!("{SCHEME}{host}:{port}/?Action=connect&DBUser={}", utf8_percent_encode(user, ESCAPED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-02-03, 04:05:06 UTC.
    const NOW: u64 = 1_770_091_506;
    /// The ones of AWS's documentation.
    const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
    const KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
    const SESSION_TOKEN: &str = "IQoJb3JpZ2luX2VjEJj//////////wEaDGV1+A/b==";

    fn keys(session_token: Option<&str>) -> Keys {
        Keys {
            access_key_id: KEY_ID.to_owned(),
            secret_access_key: Secret::new(KEY.into()),
            session_token: session_token.map(|it| Secret::new(it.into())),
        }
    }

    fn token(region: &str, keys: Keys, port: u16, user: &str) -> Result<String, TokenError> {
        let keys = Arc::new(keys);
        let signer = Signer {
            region: region.to_owned(),
            url: url(("orders.rds.example", port), user),
            keys: Source::Held(Arc::clone(&keys)),
        };
        let token = signer.signed(&keys, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))?;
        Ok(token.expose_str().unwrap().to_owned())
    }

    /// The order of a query's parts is not signed.
    fn parts(token: &str) -> (&str, Vec<&str>) {
        let (path, query) = token.split_once('?').unwrap();
        let mut parts: Vec<&str> = query.split('&').collect();
        parts.sort_unstable();
        (path, parts)
    }

    /// What `generate_db_auth_token` of botocore 1.44.8 makes of the same.
    #[test]
    fn tokens_are_those_of_the_python_sdk() {
        for (region, session_token, port, user, expected) in [
            (
                "eu-central-1",
                None,
                5432,
                "orders_rw",
                "orders.rds.example:5432/?Action=connect&DBUser=orders_rw&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260203%2Feu-central-1%2Frds-db%2Faws4_request\
                 &X-Amz-Date=20260203T040506Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature=febc2b5b25a28746c96a7ea27b995e24c6a09cf5134cca94db5a22c87108a8c3",
            ),
            (
                "eu-central-1",
                Some(SESSION_TOKEN),
                5432,
                "orders_rw",
                "orders.rds.example:5432/?Action=connect&DBUser=orders_rw&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260203%2Feu-central-1%2Frds-db%2Faws4_request\
                 &X-Amz-Date=20260203T040506Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Security-Token=IQoJb3JpZ2luX2VjEJj%2F%2F%2F%2F%2F%2F%2F%2F%2F%2FwEaDGV1%2BA%2Fb%3D%3D\
                 &X-Amz-Signature=462b6e10c135d4ad840562fe545fbdd00245718f4c892fed5c8a0069413bfaa9",
            ),
            (
                "us-gov-west-1",
                None,
                6432,
                "o'brien+a b/c%41&x=y~*é",
                "orders.rds.example:6432/?Action=connect&DBUser=o%27brien%2Ba%20b%2Fc%2541%26x%3Dy~%2A%C3%A9\
                 &X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260203%2Fus-gov-west-1%2Frds-db%2Faws4_request\
                 &X-Amz-Date=20260203T040506Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature=7fb6cd0a3b08ab80e54f9d9849a08a6ca09f2bafc58452342c552a94da8c4eed",
            ),
            // A port that the scheme has anyway is not in the host that is signed.
            (
                "us-east-1",
                None,
                443,
                "u",
                "orders.rds.example:443/?Action=connect&DBUser=u&X-Amz-Algorithm=AWS4-HMAC-SHA256\
                 &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20260203%2Fus-east-1%2Frds-db%2Faws4_request\
                 &X-Amz-Date=20260203T040506Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
                 &X-Amz-Signature=fc9e88a66517f0af3f397d182095240d32c3b1ac8b4aaafbdb025e6b45e688e3",
            ),
        ] {
            let token = token(region, keys(session_token), port, user).unwrap();
            assert_eq!(parts(&token), parts(expected), "{user}");
        }
    }

    #[test]
    fn a_key_that_is_no_text_is_said_to_be_none() {
        let keys = Keys { secret_access_key: Secret::new(vec![0xff; 40]), ..keys(None) };
        let error = token("eu-central-1", keys, 5432, "u").unwrap_err().to_string();
        assert!(error.starts_with("secret_access_key of rds_iam is no text"), "{error}");
    }

    /// The signer's crate would log the session token.
    #[test]
    fn nothing_is_traced() {
        #[derive(Clone, Default)]
        struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl std::io::Write for Lines {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::trace!("heard");
            token("eu-central-1", keys(Some(SESSION_TOKEN)), 5432, "u").unwrap();
        });
        let heard = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(heard.contains("heard") && heard.lines().count() == 1, "{heard}");
    }
}
