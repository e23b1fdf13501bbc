//! The CA certificates that an operator trusts for an upstream, in the form that Pingora takes.

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
    /// Parses all certificates of a PEM text.
    ///
    /// # Errors
    /// [`PemError`] if there is none, or one is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        let mut certificates = Vec::new();
        let mut hasher = DefaultHasher::new();
        // `tls::certificates` has parsed each: Pingora's own conversion panics on a malformed one.
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

    /// Returns a fingerprint that separates connections in the pool by the certificates that they
    /// were verified against.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
