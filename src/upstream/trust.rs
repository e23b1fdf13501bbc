//! The certificates that an operator trusts for an upstream, in the form that Pingora takes.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use jiff::Timestamp;
use pingora_core::utils::tls::{WrappedX509, parse_x509};

use crate::tls::{self, PemError, TrustedCertificate};

/// One or more certificates that are trusted for one host: as CAs, or as the host's own.
#[derive(Clone)]
pub struct TrustedCa {
    authorities: Arc<[WrappedX509]>,
    certificates: Arc<[TrustedCertificate]>,
    /// Those that the host may show as its own.
    own: Arc<[TrustedCertificate]>,
    fingerprint: u64,
}

impl TrustedCa {
    /// Parses all certificates of a PEM text, which are trusted for `host`.
    ///
    /// # Errors
    /// [`PemError`] if there is none, or one is malformed.
    pub(crate) fn from_pem(pem: &[u8], host: &str) -> Result<Self, PemError> {
        let (mut authorities, mut certificates) = (Vec::new(), Vec::new());
        let mut hasher = DefaultHasher::new();
        // `tls::certificates` has parsed each: Pingora's own conversion panics on a malformed one.
        for der in tls::certificates(pem)? {
            hasher.write(&der);
            authorities.push(WrappedX509::new(der.to_vec(), parse_x509));
            certificates.push(TrustedCertificate::from_der(&der)?);
        }
        let own = certificates.iter().filter(|own| own.is_for_host(host));
        Ok(Self {
            authorities: authorities.into(),
            own: own.cloned().collect(),
            certificates: certificates.into(),
            fingerprint: hasher.finish(),
        })
    }

    /// Returns the certificates for Pingora.
    pub(super) fn authorities(&self) -> Arc<[WrappedX509]> {
        Arc::clone(&self.authorities)
    }

    /// Returns what is known of each certificate.
    pub(crate) fn certificates(&self) -> &[TrustedCertificate] {
        &self.certificates
    }

    /// Returns whether one of the certificates may be the host's own.
    pub(super) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// Returns whether the certificate with this SHA-256 is the host's own, and valid now.
    pub(super) fn is_own(&self, digest: &[u8], now: Timestamp) -> bool {
        self.own.iter().any(|own| own.is_shown(digest, now))
    }

    /// Returns a fingerprint that separates connections in the pool by the certificates that they
    /// were verified against.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
