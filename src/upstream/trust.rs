//! Certificates that an operator trusts to sign an upstream's, in the form Pingora takes.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use pingora_core::utils::tls::{WrappedX509, parse_x509};

use crate::tls::{self, PemError};

/// One or more CA certificates.
#[derive(Clone)]
pub struct TrustedCa {
    certificates: Arc<[WrappedX509]>,
    fingerprint: u64,
}

impl TrustedCa {
    /// Takes all certificates of a PEM text.
    ///
    /// # Errors
    /// [`PemError`] when there is none, or one is broken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        let mut certificates = Vec::new();
        let mut hasher = DefaultHasher::new();
        // Each can be parsed: Pingora's own conversion panics on what it can't.
        for der in tls::certificates(pem)? {
            hasher.write(&der);
            certificates.push(WrappedX509::new(der.to_vec(), parse_x509));
        }
        Ok(Self {
            certificates: certificates.into(),
            fingerprint: hasher.finish(),
        })
    }

    pub(super) fn certificates(&self) -> Arc<[WrappedX509]> {
        Arc::clone(&self.certificates)
    }

    /// Keeps connections that were verified against different certificates apart in the pool.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
