//! Tokens that AWS IAM's database authentication (RDS, Aurora) takes in a password's place. They are made for each login.
//!
//! A token is the URL of a request to the database that is signed and never sent (Signature Version 4, in the query), without its
//! `https://`. The server has AWS check the signature: the key never leaves the gateway, and a token is good for one user of
//! one instance, a quarter of an hour. See the RDS user guide, "IAM database authentication".
//!
//! The signature is made by AWS's own crate, which traces what it signs, a session token among it: here it has nobody to tell.

mod role;

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningError, SigningSettings, sign};
use aws_sigv4::sign::v4;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tracing::dispatcher::{self, Dispatch};
use zeroize::Zeroizing;

pub use self::role::{RoleError, Roles};

use self::role::Role;
use crate::engine::Engine;
use crate::secret::Secret;
use crate::target::{AwsKeys, CredentialSource, RdsIam};
use crate::witness::{Witness, WitnessError};

const SERVICE: &str = "rds-db";
const SCHEME: &str = "https://";
const SIGNATURE: &str = "X-Amz-Signature";
/// More than any secret part of a key has.
const MAX_KEY: usize = 16 << 10;
/// IAM's reference, "AccessKey".
pub const MAX_KEY_ID: usize = 128;
/// Of what is signed, but for what is of the same length always. The signer's crate panics at URLs of more than 65,534 bytes.
const MAX_URL: usize = 63 << 10;
/// How long a token lets in; the longest that AWS takes.
const GOOD_FOR: Duration = Duration::from_mins(15);
/// What stands in a signed URL as it is (RFC 3986, section 2.3).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why there is no token. None of these texts holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("{0} of rds_iam is no text: is it the key as AWS gave it?")]
    NotText(&'static str),
    #[error("{0} of rds_iam is too long: is it the key as AWS gave it?")]
    TooLong(&'static str),
    #[error("the user of rds_iam's login is too long for a URL")]
    TooLongUser,
    #[error("its key cannot be read: {0}")]
    Credential(#[from] WitnessError),
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error("it cannot be signed: {0}")]
    Sign(#[from] SigningError),
    #[error("it cannot be signed: {0}")]
    Parameters(#[from] v4::signing_params::BuildError),
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
    /// Read for each token: temporary keys are renewed while sessions last.
    Held {
        witness: Witness,
        access_key_id: String,
        secret_access_key: CredentialSource,
        session_token: Option<CredentialSource>,
    },
    Role(Arc<Role>),
}

impl Signer {
    /// `instance`: the name and the port of the database as AWS knows it.
    pub fn new(engine: &Engine, iam: &RdsIam, instance: (&str, u16), user: &str) -> Self {
        let keys = match iam.keys.clone() {
            AwsKeys::Held { access_key_id, secret_access_key, session_token } => {
                Source::Held { witness: engine.witness().clone(), access_key_id, secret_access_key, session_token }
            }
            AwsKeys::InstanceRole { metadata_service } => Source::Role(engine.roles().at(metadata_service)),
        };
        Self { region: iam.region.clone(), url: url(instance, user), keys }
    }

    /// A token that is good from now on.
    pub async fn token(&self) -> Result<Secret, TokenError> {
        let keys = self.keys.keys().await?;
        self.signed(&keys, SystemTime::now())
    }

    /// The server did not take a token.
    pub fn refused(&self) {
        if let Source::Role(role) = &self.keys {
            role.refused();
        }
    }

    fn signed(&self, keys: &Keys, now: SystemTime) -> Result<Secret, TokenError> {
        let text = |secret: &Secret, name| match secret.expose_str() {
            Some(text) if text.len() <= MAX_KEY => Ok(text.to_owned()),
            Some(_) => Err(TokenError::TooLong(name)),
            None => Err(TokenError::NotText(name)),
        };
        if keys.access_key_id.len() > MAX_KEY_ID {
            return Err(TokenError::TooLong("access_key_id"));
        }
        // Each byte of a key may become three.
        let escaped = 3 * keys.session_token.as_ref().map_or(0, |it| it.expose().len().min(MAX_KEY)) + 3 * MAX_KEY_ID;
        if self.url.len() + escaped > MAX_URL {
            return Err(TokenError::TooLongUser);
        }
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
        let signable = SignableRequest::new("GET", &self.url, std::iter::empty(), SignableBody::Bytes(&[]))?;
        let signed = dispatcher::with_default(&Dispatch::none(), || sign(signable, &parameters))?;
        let (_, query) = signed.into_parts().0.into_parts();
        let mut url = Zeroizing::new(self.url.clone());
        for (name, value) in query {
            // Writing to a text does not fail.
            let _ = write!(url, "&{name}={}", utf8_percent_encode(&value, ESCAPED));
        }
        Ok(Secret::new(url.strip_prefix(SCHEME).unwrap_or(&url).as_bytes().to_vec()))
    }
}

impl Source {
    async fn keys(&self) -> Result<Arc<Keys>, TokenError> {
        match self {
            Self::Held { witness, access_key_id, secret_access_key, session_token } => {
                let secret_access_key = witness.credential(secret_access_key).await?;
                let session_token = match session_token {
                    Some(token) => Some(witness.credential(token).await?),
                    None => None,
                };
                Ok(Arc::new(Keys { access_key_id: access_key_id.clone(), secret_access_key, session_token }))
            }
            Self::Role(role) => Ok(role.keys().await?),
        }
    }
}

/// What a token is known by: its signature, without which the rest is good for nothing.
pub fn signature(token: &Secret) -> Option<&str> {
    let (_, signature) = token.expose_str()?.split_once(SIGNATURE)?;
    signature.strip_prefix('=')?.split('&').next()
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

    fn token(region: &str, keys: &Keys, port: u16, user: &str) -> Result<String, TokenError> {
        let nobody = Roles::default().at(([127, 0, 0, 1], 1).into());
        let signer = Signer {
            region: region.to_owned(),
            url: url(("orders.rds.example", port), user),
            keys: Source::Role(nobody),
        };
        let token = signer.signed(keys, SystemTime::UNIX_EPOCH + Duration::from_secs(NOW))?;
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
            let token = token(region, &keys(session_token), port, user).unwrap();
            assert_eq!(parts(&token), parts(expected), "{user}");
        }
    }

    #[test]
    fn a_key_that_is_no_text_is_said_to_be_none() {
        let keys = Keys { secret_access_key: Secret::new(vec![0xff; 40]), ..keys(None) };
        let error = token("eu-central-1", &keys, 5432, "u").unwrap_err().to_string();
        assert!(error.starts_with("secret_access_key of rds_iam is no text"), "{error}");
    }

    #[test]
    fn a_key_of_any_length_is_signed_with_or_refused() {
        let long = "/".repeat(MAX_KEY);
        let signed = token("eu-central-1", &keys(Some(&long)), 5432, "u").unwrap();
        assert!(signed.len() > 3 * MAX_KEY);
        for (what, user, keys) in [
            ("session_token of rds_iam", "u", keys(Some(&format!("{long}/")))),
            (
                "secret_access_key of rds_iam",
                "u",
                Keys { secret_access_key: Secret::new(vec![b'/'; MAX_KEY + 1]), ..keys(None) },
            ),
            ("access_key_id of rds_iam", "u", Keys { access_key_id: long.clone(), ..keys(None) }),
            ("the user of rds_iam's login", &*"/".repeat(5_000), keys(Some(&long))),
        ] {
            let error = token("eu-central-1", &keys, 5432, user).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{what} is too long")), "{error}");
        }
        // The longest that is not refused.
        let room = MAX_URL - 3 * (MAX_KEY + MAX_KEY_ID) - url(("orders.rds.example", 65_535), "").len();
        let id = "/".repeat(MAX_KEY_ID);
        let widest = Keys { access_key_id: id, ..keys(Some(&long)) };
        let region = "r".repeat(63);
        let signed = token(&region, &widest, 65_535, &"u".repeat(room)).unwrap();
        assert!((MAX_URL..=65_534).contains(&signed.len()), "{}", signed.len());
    }

    #[test]
    fn a_token_is_known_by_its_signature() {
        let signed = token("eu-central-1", &keys(Some(SESSION_TOKEN)), 5432, "orders_rw").unwrap();
        let signature = signature(&Secret::new(signed.into_bytes())).unwrap().to_owned();
        assert_eq!(signature, "462b6e10c135d4ad840562fe545fbdd00245718f4c892fed5c8a0069413bfaa9");
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
            token("eu-central-1", &keys(Some(SESSION_TOKEN)), 5432, "u").unwrap();
        });
        let heard = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert!(heard.contains("heard") && heard.lines().count() == 1, "{heard}");
    }
}
