//! A certificate with its key, from PEM files.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::provider;

/// A reason why a file is not a list of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("holds no PEM certificate (`-----BEGIN CERTIFICATE-----`)")]
    NoCertificate,
    #[error("holds a certificate that cannot be parsed")]
    Malformed,
}

/// A reason why a file is not the key of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("holds no PEM private key (`-----BEGIN PRIVATE KEY-----`)")]
    NoKey,
    #[error("holds a private key that needs a passphrase")]
    Encrypted,
    #[error(
        "holds an unsupported private key; use RSA with at least 2048 bits, ECDSA (P-256, P-384) \
         or Ed25519"
    )]
    Unusable,
    #[error("holds the key of another certificate")]
    OfAnother,
    #[error("holds the key of a certificate that cannot be used: {0}")]
    Certificate(String),
}

/// Parses all certificates of a PEM text.
///
/// # Errors
/// [`PemError`] when there is none, or one is broken.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let der = certificate.map_err(|_| PemError::Malformed)?;
        x509_parser::parse_x509_certificate(&der).map_err(|_| PemError::Malformed)?;
        certificates.push(der);
    }
    if certificates.is_empty() {
        Err(PemError::NoCertificate)
    } else {
        Ok(certificates)
    }
}

/// A certificate with the intermediates that lead to a root.
pub(crate) struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    names: Vec<Box<str>>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Chain {
    /// Parses a PEM text, whose first certificate is the server's own.
    ///
    /// # Errors
    /// [`PemError`] when there is none, or one is broken.
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, PemError> {
        let certificates = certificates(pem)?;
        let first = certificates.first().ok_or(PemError::NoCertificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(first).map_err(|_| PemError::Malformed)?;
        let names = alternative_names(&parsed, dns_name)?;
        let validity = parsed.validity();
        let moment = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| PemError::Malformed)
        };
        let (not_before, not_after) = (moment(validity.not_before)?, moment(validity.not_after)?);
        Ok(Self {
            certificates,
            names,
            not_before,
            not_after,
        })
    }

    /// Combines the chain with the private key of a PEM text.
    ///
    /// # Errors
    /// [`KeyError`] when there is no key, or the key does not belong to this certificate.
    pub(crate) fn with_key(self, pem: &[u8]) -> Result<Certificate, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            pem::Error::NoItemsFound if pem.windows(ENCRYPTED.len()).any(|at| at == ENCRYPTED) => {
                KeyError::Encrypted
            }
            _ => KeyError::NoKey,
        })?;
        let key = provider()
            .key_provider
            .load_private_key(key)
            .map_err(|_| KeyError::Unusable)?;
        let shown = CertifiedKey::new(self.certificates, key);
        match shown.keys_match() {
            // A key that does not know its public half cannot be compared; ring's keys do.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(KeyError::OfAnother),
            Err(error) => return Err(KeyError::Certificate(error.to_string())),
        }
        Ok(Certificate {
            shown: Arc::new(shown),
            names: self.names,
            not_after: self.not_after,
        })
    }
}

const ENCRYPTED: &[u8] = b"ENCRYPTED";

/// Returns the subject alternative names of a certificate that `shown` has a text for. Clients
/// ignore the subject itself (RFC 9525).
///
/// # Errors
/// [`PemError::Malformed`].
pub(super) fn alternative_names(
    certificate: &X509Certificate<'_>,
    shown: impl Fn(&GeneralName<'_>) -> Option<Box<str>>,
) -> Result<Vec<Box<str>>, PemError> {
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|_| PemError::Malformed)?;
    let names = alternative
        .into_iter()
        .flat_map(|names| &names.value.general_names);
    Ok(names.filter_map(shown).collect())
}

/// Returns a DNS name in lower case, and nothing for other names.
pub(super) fn dns_name(name: &GeneralName<'_>) -> Option<Box<str>> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into_boxed_str()),
        _ => None,
    }
}

/// A certificate with its key.
pub struct Certificate {
    pub(super) shown: Arc<CertifiedKey>,
    /// DNS names in lower case.
    pub names: Vec<Box<str>>,
    pub not_after: Timestamp,
}

/// Prints the names only, never the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem(names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        (
            CertificateParams::new(names)
                .unwrap()
                .self_signed(&key)
                .unwrap()
                .pem(),
            key.serialize_pem(),
        )
    }

    #[test]
    fn names_are_in_lower_case() {
        let (certificate, key) = pem(&["Hooks.Example.com", "*.example.com", "127.0.0.1"]);
        let read = Chain::from_pem(certificate.as_bytes())
            .unwrap()
            .with_key(key.as_bytes())
            .unwrap();
        assert_eq!(
            read.names,
            ["hooks.example.com".into(), "*.example.com".into()]
        );
    }

    #[test]
    fn each_wrong_key_has_its_own_error() {
        let (certificate, key) = pem(&["a.test"]);
        let (_, other) = pem(&["a.test"]);
        let refused = |key: &str| {
            Chain::from_pem(certificate.as_bytes())
                .unwrap()
                .with_key(key.as_bytes())
                .unwrap_err()
        };
        assert_eq!(refused(&other), KeyError::OfAnother);
        assert_eq!(refused(""), KeyError::NoKey);
        assert_eq!(refused(&certificate), KeyError::NoKey);
        assert_eq!(
            refused(&key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")),
            KeyError::Encrypted
        );
        assert_eq!(
            refused("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
            KeyError::Unusable
        );
    }

    #[test]
    fn malformed_certificate_is_rejected() {
        let refused = |pem: &str| Chain::from_pem(pem.as_bytes()).err();
        assert_eq!(refused(""), Some(PemError::NoCertificate));
        assert_eq!(
            refused("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            Some(PemError::Malformed)
        );
        assert_eq!(
            refused("-----BEGIN CERTIFICATE-----\nAAAA\n"),
            Some(PemError::Malformed)
        );
    }

    #[test]
    fn debug_prints_no_key() {
        let (certificate, key) = pem(&["a.test"]);
        let read = Chain::from_pem(certificate.as_bytes())
            .unwrap()
            .with_key(key.as_bytes())
            .unwrap();
        assert_eq!(
            format!("{read:?}"),
            "Certificate { names: [\"a.test\"], .. }"
        );
    }
}
