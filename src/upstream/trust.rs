//! Certificates that an operator trusts to sign an upstream's, in the form Pingora takes.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use pingora_core::utils::tls::{WrappedX509, parse_x509};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// One or more CA certificates.
#[derive(Clone)]
pub struct TrustedCa {
    certificates: Arc<[WrappedX509]>,
    fingerprint: u64,
}

/// Why a file is not a list of CA certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CaError {
    #[error("holds no PEM certificate (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    #[error("holds a certificate that cannot be parsed")]
    Malformed,
}

impl TrustedCa {
    /// Takes all certificates of a PEM text.
    ///
    /// # Errors
    /// [`CaError`] when there is none, or one is broken.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CaError> {
        let mut certificates = Vec::new();
        let mut hasher = DefaultHasher::new();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let der = certificate.map_err(|_| CaError::Malformed)?;
            // Pingora's own conversion panics on what it can't parse.
            x509_parser::parse_x509_certificate(&der).map_err(|_| CaError::Malformed)?;
            hasher.write(&der);
            certificates.push(WrappedX509::new(der.to_vec(), parse_x509));
        }
        if certificates.is_empty() {
            return Err(CaError::NoCertificate);
        }
        Ok(Self { certificates: certificates.into(), fingerprint: hasher.finish() })
    }

    pub(super) fn certificates(&self) -> Arc<[WrappedX509]> {
        Arc::clone(&self.certificates)
    }

    /// Keeps connections that were verified against different certificates apart in the pool.
    pub(super) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
