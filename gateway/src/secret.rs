//! Secrets: values that cannot be printed, are wiped when dropped, and are only seen where they are used.

use secrecy::{ExposeSecret, SecretBox};

/// A password, token or key. It has no `Display`, no `Serialize`, and a `Debug` that says nothing.
pub struct Secret(SecretBox<Vec<u8>>);

impl Secret {
    pub fn new(value: Vec<u8>) -> Self {
        Self(SecretBox::new(Box::new(value)))
    }

    /// The value. Call it where the bytes are needed and let them go no further.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// The value as text, if it is UTF-8.
    pub fn expose_str(&self) -> Option<&str> {
        std::str::from_utf8(self.expose()).ok()
    }
}

impl Clone for Secret {
    fn clone(&self) -> Self {
        Self::new(self.expose().to_vec())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
