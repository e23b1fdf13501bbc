//! TLS: certificates, client certificates and the handshake of listeners, and the certificates that
//! are trusted for upstreams.
//!
//! Chooses a certificate by server name. A reload replaces all settings while connections are open.
//! `config` reads the certificates; the gateway sets the deadline of a handshake.

mod certificate;
mod trusted;

use std::collections::HashMap;
use std::sync::Arc;

use pingora_core::ErrorType;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::{Stream, l4};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

pub(crate) use certificate::{Certificate, Chain, KeyError, PemError, certificates};
pub(crate) use trusted::{NameProblem, TrustedCertificate};

/// The ALPN protocols, most preferred first (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The TLS settings of one listener. A reload makes new ones.
pub struct Settings {
    /// At least one. The first serves clients that send no server name, or one without a match.
    certificates: Vec<Certificate>,
    config: Arc<ServerConfig>,
}

/// A reason why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("these CA certificates cannot be used: {0}")]
    ClientCa(String),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

impl Settings {
    /// Makes the settings from at least one certificate. With `client_ca`, senders must present a
    /// certificate that one of these CAs has signed.
    ///
    /// # Errors
    /// [`SettingsError`]: a certificate that is no CA, or no source of randomness.
    pub fn new(
        certificates: Vec<Certificate>,
        client_ca: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, SettingsError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                for certificate in ca {
                    roots
                        .add(certificate)
                        .map_err(|error| SettingsError::ClientCa(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                    .build()
                    .map_err(|error| SettingsError::ClientCa(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&certificates)));
        config.alpn_protocols = PROTOCOLS.map(Vec::from).into();
        // Ticket keys rotate and end with these settings, so a reload also ends session resumption.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            certificates,
            config: Arc::new(config),
        })
    }

    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }

    /// Makes the handshake on an accepted connection.
    ///
    /// # Errors
    /// The reason why the handshake failed. The peer got an alert, if it speaks TLS at all.
    pub async fn accept(&self, stream: Stream) -> pingora_core::Result<Stream> {
        let Ok(socket) = stream.into_any().downcast::<l4::stream::Stream>() else {
            return pingora_core::Error::e_explain(ErrorType::InternalError, "TLS within TLS");
        };
        let acceptor = Acceptor::from_server_config(Arc::clone(&self.config));
        Ok(Box::new(acceptor.tls_handshake(*socket).await?))
    }
}

/// Returns ring with rustls' default cipher suites and key exchanges.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The certificates by DNS name.
#[derive(Debug)]
struct ByName {
    default: Option<Arc<CertifiedKey>>,
    /// Names in lower case. `*` as the first label matches any one label.
    named: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Self {
        let mut named = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                named
                    .entry(name.clone())
                    .or_insert_with(|| Arc::clone(&certificate.shown));
            }
        }
        Self {
            default: certificates.first().map(|first| Arc::clone(&first.shown)),
            named,
        }
    }

    /// Returns the certificate for `name`; an exact match goes before a wildcard.
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.named.get(&*name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.named.get(&*format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello
            .server_name()
            .and_then(|name| self.find(name))
            .or(self.default.as_ref())
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(names: &[&str]) -> Certificate {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let pem = CertificateParams::new(names)
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem();
        Chain::from_pem(pem.as_bytes())
            .unwrap()
            .with_key(key.serialize_pem().as_bytes())
            .unwrap()
    }

    #[test]
    fn exact_name_precedes_wildcard_of_one_label() {
        let certificates = [
            certificate(&["*.example.com"]),
            certificate(&["hooks.example.com", "example.com"]),
        ];
        let by_name = ByName::new(&certificates);
        let shown = |name| {
            by_name.find(name).map(|found| {
                certificates
                    .iter()
                    .position(|it| Arc::ptr_eq(&it.shown, found))
            })
        };
        assert_eq!(shown("hooks.example.com"), Some(Some(1)));
        assert_eq!(shown("HOOKS.Example.com"), Some(Some(1)));
        assert_eq!(shown("example.com"), Some(Some(1)));
        assert_eq!(shown("other.example.com"), Some(Some(0)));
        assert_eq!(shown("a.b.example.com"), None);
        assert_eq!(shown("elsewhere.test"), None);
    }

    #[test]
    fn first_certificate_with_a_name_is_used() {
        let certificates = [certificate(&["a.test"]), certificate(&["a.test", "b.test"])];
        let by_name = ByName::new(&certificates);
        assert!(Arc::ptr_eq(
            by_name.find("a.test").unwrap(),
            &certificates[0].shown
        ));
        assert!(Arc::ptr_eq(
            by_name.find("b.test").unwrap(),
            &certificates[1].shown
        ));
    }

    #[test]
    fn settings_offer_no_early_data() {
        let settings = Settings::new(vec![certificate(&["a.test"])], None).unwrap();
        assert_eq!(settings.config.max_early_data_size, 0);
        assert_eq!(settings.config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    }
}
