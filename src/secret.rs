//! Key material: read once, shown never, wiped on drop.
//!
//! Owns the type that carries a secret through the program. Does not know where a secret came from
//! (that is `config`) or what it signs (that is `signature`).

use std::fmt;

use hmac::digest::CtOutput;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// A non-empty secret. Its bytes are wiped when it is dropped, and no formatter prints them.
pub struct Secret(Zeroizing<Vec<u8>>);

/// The secret had no bytes. An empty key would let anybody sign, so it can't be constructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the secret is empty")]
pub struct EmptySecret;

impl Secret {
    /// # Errors
    /// [`EmptySecret`] when there are no bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, EmptySecret> {
        let bytes = Zeroizing::new(bytes.into());
        if bytes.is_empty() {
            return Err(EmptySecret);
        }
        Ok(Self(bytes))
    }

    /// A secret file's content without the newline that editors put at its end.
    pub fn without_newline(content: &[u8]) -> &[u8] {
        let content = content.strip_suffix(b"\n").unwrap_or(content);
        content.strip_suffix(b"\r").unwrap_or(content)
    }

    /// For telling whether somebody has the secret.
    pub fn digest(&self) -> SecretDigest {
        SecretDigest::new(&self.0)
    }

    /// The key bytes, for a cryptographic function and nothing else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// What is left of a secret to compare with: digests compare in the same time whatever was sent, and of whatever length.
#[derive(Debug)]
pub struct SecretDigest(CtOutput<Sha256>);

impl SecretDigest {
    /// Whether these are the secret's bytes.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        Self::new(bytes).0 == self.0
    }

    /// The digest of these bytes.
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
    fn an_empty_secret_cannot_be_made() {
        assert_eq!(Secret::new("").unwrap_err(), EmptySecret);
    }

    #[test]
    fn a_digest_is_of_its_own_secret_and_no_other() {
        let digest = Secret::new("canary").unwrap().digest();
        assert!(digest.matches(b"canary"));
        for other in [&b""[..], b"canar", b"canary ", b"Canary"] {
            assert!(!digest.matches(other));
        }
    }

    #[test]
    fn debug_output_does_not_show_the_secret() {
        let shown = format!("{:?}", Secret::new("canary-4711").unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }
}
