//! Who acts: from what the kernel captured about a connection to a principal with verified claims.
//!
//! The origin's cgroup and uid say which agent it is; the configuration says where that agent's token lies; the witness
//! reads it; the verifier checks it against the issuer's published keys. No token, no session.

use serde::{Deserialize, Serialize};

/// The authenticated actor of a session: an agent, and what its verified token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Name of the `[[agent]]`.
    pub agent: String,
    /// `sub`: whom the issuer says this is.
    pub subject: String,
    pub issuer: String,
    pub groups: Vec<String>,
    /// `exp`, in Unix seconds.
    pub expires_at: u64,
    /// `jti`, if the token has one.
    pub token_id: Option<String>,
    /// SHA-256 of the token: tells tokens apart without being one.
    pub token_digest: [u8; 32],
}
