//! Key material: read once, never shown, wiped on drop.
//!
//! This module owns the type that carries a secret through the program. It knows neither where a
//! secret came from (`config` does) nor what it signs (`signature` does).

mod text;

use std::fmt;

use hmac::digest::CtOutput;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

pub use text::{Oddity, meant, oddities};

/// A non-empty secret. Its bytes are wiped on drop, and no formatter prints them.
pub struct Secret(Zeroizing<Vec<u8>>);

/// The error for a secret without bytes. Anyone could sign with an empty key, so a [`Secret`] is
/// never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret is empty")]
pub struct EmptySecret;

impl Secret {
    /// Creates a secret from its bytes.
    ///
    /// # Errors
    /// [`EmptySecret`] if there are no bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, EmptySecret> {
        let bytes = Zeroizing::new(bytes.into());
        if bytes.is_empty() {
            return Err(EmptySecret);
        }
        Ok(Self(bytes))
    }

    /// Strips the newline that editors add at the end of a secret's file.
    pub fn without_newline(content: &[u8]) -> &[u8] {
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        content.strip_suffix(b"\r").unwrap_or(content)
    }

    /// Returns a digest to compare presented secrets with.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::new(&self.0)
    }

    /// Returns the key bytes. Pass them to cryptographic functions only.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// The SHA-256 digest of a secret. Comparing digests takes the same time for every presented value,
/// whatever its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretDigest(CtOutput<Sha256>);

impl SecretDigest {
    /// Returns whether `bytes` are the secret, in constant time.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Self::new(bytes).0 == self.0
    }

    /// Computes the digest of `bytes`.
    pub fn new(bytes: &[u8]) -> Self {
        Self(CtOutput::new(Sha256::digest(bytes)))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_must_not_be_empty() {
        assert_eq!(Secret::new("").unwrap_err(), EmptySecret);
    }

    #[test]
    fn digest_matches_only_its_own_secret() {
        let digest = Secret::new("canary").unwrap().digest();
        assert!(digest.matches(b"canary"));
        for other in [&b""[..], b"canar", b"canary ", b"Canary"] {
            assert!(!digest.matches(other));
        }
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let shown = format!("{:?}", Secret::new("canary-4711").unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
