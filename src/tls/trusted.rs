//! A certificate that an operator trusts for an upstream: as a CA, or as the upstream's own.
//!
//! The usual verification refuses a CA that a server shows as its own certificate, and one that
//! another CA signed. `openssl req -x509` makes such certificates, and OpenSSL accepts what it was
//! told to trust. So a certificate that names the host counts for itself here.

use std::net::IpAddr;

use jiff::Timestamp;
use rustls::client::verify_server_name;
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName};
use sha2::{Digest as _, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{OID_EC_P256, OID_NIST_EC_P384};
use x509_parser::public_key::PublicKey;

use super::PemError;
use super::certificate::{alternative_names, dns_name};

/// The shortest RSA key that signatures are verified with, in bits.
const RSA_BITS_MIN: usize = 2048;

/// A trusted certificate, with what decides whether a server may show it as its own.
#[derive(Clone)]
pub(crate) struct TrustedCertificate {
    der: CertificateDer<'static>,
    digest: [u8; 32],
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// The DNS names and addresses that it is for.
    pub names: Vec<Box<str>>,
    /// The common name of its subject, which TLS clients ignore (RFC 9525).
    pub common_name: Option<Box<str>>,
    /// It may sign other certificates.
    pub is_ca: bool,
    /// Set if it may not be shown by servers at all.
    not_for_servers: bool,
    /// The reason why no signature of its key can be verified.
    pub unusable_key: Option<&'static str>,
}

/// A reason why a server's connection cannot be trusted by these certificates alone, for an
/// operator who checks the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NameProblem {
    /// The host is in the common name only.
    CommonNameOnly,
    /// It is no CA, and not for the host but for these names.
    OtherNames(Vec<Box<str>>),
    /// It is no CA, and for no name at all.
    Nameless,
}

impl TrustedCertificate {
    /// Reads what matters from a certificate.
    ///
    /// # Errors
    /// [`PemError::Malformed`].
    pub(crate) fn from_der(der: &CertificateDer<'static>) -> Result<Self, PemError> {
        let malformed = |_| PemError::Malformed;
        let moment = |time: x509_parser::time::ASN1Time| {
            Timestamp::from_second(time.timestamp()).map_err(|_| PemError::Malformed)
        };
        let (_, parsed) =
            x509_parser::parse_x509_certificate(der).map_err(|_| PemError::Malformed)?;
        let constraints = parsed.basic_constraints().map_err(malformed)?;
        let purposes = parsed.extended_key_usage().map_err(malformed)?;
        Ok(Self {
            digest: Sha256::digest(der).into(),
            not_before: moment(parsed.validity().not_before)?,
            not_after: moment(parsed.validity().not_after)?,
            names: alternative_names(&parsed, host_name)?,
            common_name: parsed
                .subject()
                .iter_common_name()
                .find_map(|name| name.as_str().ok())
                .map(Into::into),
            // Version 1 has no extensions; such roots are in use.
            is_ca: constraints.map_or(parsed.version().0 == 0, |constraints| constraints.value.ca),
            not_for_servers: purposes
                .is_some_and(|purposes| !purposes.value.server_auth && !purposes.value.any),
            unusable_key: unusable_key(&parsed),
            der: der.clone(),
        })
    }

    /// Returns whether a server of this name may show the certificate as its own.
    pub(crate) fn is_for_host(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else {
            return false;
        };
        !self.not_for_servers
            && ParsedCertificate::try_from(&self.der)
                .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }

    /// Returns whether this is the certificate with this SHA-256, and `now` within its validity.
    pub(crate) fn is_shown(&self, digest: &[u8], now: Timestamp) -> bool {
        self.digest == digest && self.not_before <= now && now <= self.not_after
    }

    /// Returns why no server named `host` can be trusted through this certificate alone.
    pub(crate) fn name_problem(&self, host: &str) -> Option<NameProblem> {
        if self.is_for_host(host) {
            return None;
        }
        let host_in_common_name = self
            .common_name
            .as_ref()
            .is_some_and(|name| name.eq_ignore_ascii_case(host));
        match (self.names.is_empty(), self.is_ca) {
            (true, _) if host_in_common_name => Some(NameProblem::CommonNameOnly),
            (true, true) => None,
            (true, false) => Some(NameProblem::Nameless),
            // A CA seldom has names; one that has them was made for a server.
            (false, _) => Some(NameProblem::OtherNames(self.names.clone())),
        }
    }
}

/// Returns a DNS name in lower case, or an address, and nothing for other names.
fn host_name(name: &GeneralName<'_>) -> Option<Box<str>> {
    let GeneralName::IPAddress(bytes) = name else {
        return dns_name(name);
    };
    let address = <[u8; 4]>::try_from(*bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
    address.ok().map(|address| address.to_string().into())
}

/// Returns why ring verifies no signature of this certificate's key.
fn unusable_key(certificate: &X509Certificate<'_>) -> Option<&'static str> {
    let info = certificate.public_key();
    match info.parsed() {
        Ok(PublicKey::RSA(key)) if key.key_size() < RSA_BITS_MIN => {
            Some("its RSA key has less than 2048 bits")
        }
        Ok(PublicKey::EC(_)) => {
            let curve = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            let known = curve == OID_EC_P256 || curve == OID_NIST_EC_P384;
            (!known).then_some("its elliptic curve is neither P-256 nor P-384")
        }
        Ok(PublicKey::DSA(_)) => Some("it has a DSA key, which TLS does not use"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    };

    use super::*;

    fn certificate(
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TrustedCertificate {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        TrustedCertificate::from_der(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn certificate_counts_for_its_own_hosts_only() {
        let own = certificate(&["*.hooks.test", "192.0.2.1", "2001:db8::1"], |_| ());
        for host in ["a.hooks.test", "A.Hooks.test", "192.0.2.1", "2001:db8::1"] {
            assert!(own.is_for_host(host), "{host}");
        }
        for host in ["hooks.test", "a.b.hooks.test", "192.0.2.2", "a b", ""] {
            assert!(!own.is_for_host(host), "{host}");
        }
        let client = certificate(&["hooks.test"], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert!(!client.is_for_host("hooks.test"));
    }

    #[test]
    fn certificate_is_shown_within_its_validity_only() {
        let own = certificate(&["hooks.test"], |_| ());
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let digest = own.digest;
        assert!(own.is_shown(&digest, now));
        assert!(!own.is_shown(&[0; 32], now) && !own.is_shown(&[], now));
        let ended = TrustedCertificate {
            not_after: "2026-05-31T00:00:00Z".parse().unwrap(),
            ..own
        };
        assert!(!ended.is_shown(&digest, now));
    }

    #[test]
    fn name_problem_says_what_the_certificate_lacks() {
        let named = |name: &str| {
            let name = name.to_owned();
            move |params: &mut CertificateParams| {
                params.distinguished_name.push(DnType::CommonName, name);
            }
        };
        let problem = |certificate: &TrustedCertificate| certificate.name_problem("hooks.test");
        assert_eq!(problem(&certificate(&["hooks.test"], |_| ())), None);
        assert_eq!(problem(&certificate(&[], named("Our root"))), None);
        assert_eq!(
            problem(&certificate(&[], named("Hooks.test"))),
            Some(NameProblem::CommonNameOnly)
        );
        assert_eq!(
            problem(&certificate(&["other.test"], |_| ())),
            Some(NameProblem::OtherNames(vec!["other.test".into()]))
        );
        let leaf = certificate(&[], |params| params.is_ca = IsCa::NoCa);
        assert_eq!(problem(&leaf), Some(NameProblem::Nameless));
    }
}
