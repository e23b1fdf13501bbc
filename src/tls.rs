//! TLS for listeners: what one shows to those who connect, whom it lets in, and the handshake itself.
//!
//! Owns how a certificate is chosen, and that all of it can be taken anew while connections go on. Where certificates come
//! from is `config`'s business, how long a handshake may take the gateway's.

mod certificate;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pingora_core::ErrorType;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::{Stream, l4};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;

pub use certificate::{Certificate, Chain, KeyError, PemError, certificates};

/// By preference (RFC 7301).
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What a listener shows, and to whom.
pub struct Settings {
    /// The first is shown to whoever asks for no name, or for one that none has.
    certificates: Vec<Certificate>,
    config: Arc<ServerConfig>,
}

/// Why TLS can't be offered.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("these CA certificates cannot be used: {0}")]
    ClientCa(String),
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

impl Settings {
    /// `certificates` are not empty. With `client_ca`, senders must show a certificate that one of these has signed.
    ///
    /// # Errors
    /// [`SettingsError`]: a CA that can't be one, or no randomness.
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
                let refuse = |error: String| SettingsError::ClientCa(error);
                let mut roots = RootCertStore::empty();
                for certificate in ca {
                    roots
                        .add(certificate)
                        .map_err(|error| refuse(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
                builder
                    .with_client_cert_verifier(verifier.map_err(|error| refuse(error.to_string()))?)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(ByName::new(&certificates)));
        config.alpn_protocols = PROTOCOLS.map(Vec::from).into();
        // Keys that change by the hour, and are gone with these settings: a session of before a reload is not resumed.
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            certificates,
            config: Arc::new(config),
        })
    }

    pub fn certificates(&self) -> &[Certificate] {
        &self.certificates
    }
}

/// ring, and rustls' own choice of what is good enough.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Certificates by the names they are for.
#[derive(Debug)]
struct ByName {
    default: Option<Arc<CertifiedKey>>,
    /// In lower case; `*` in the place of the first label stands for any.
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

    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        let any = |(_, parent): (&str, &str)| self.named.get(&*format!("*.{parent}"));
        self.named
            .get(&*name)
            .or_else(|| name.split_once('.').and_then(any))
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        hello
            .server_name()
            .and_then(|name| self.of(name))
            .or(self.default.as_ref())
            .cloned()
    }
}

/// The TLS of a listener that is open. A handshake keeps to the settings it began with.
pub struct Listener(ArcSwap<Settings>);

impl Listener {
    pub fn new(settings: Settings) -> Self {
        Self(ArcSwap::from_pointee(settings))
    }

    /// Takes other settings for the connections to come.
    pub fn replace(&self, settings: Settings) {
        self.0.store(Arc::new(settings));
    }

    /// Makes the handshake on a connection that was just accepted.
    ///
    /// # Errors
    /// Why there was none. The peer was told, if it speaks TLS at all.
    pub async fn accept(&self, stream: Stream) -> pingora_core::Result<Stream> {
        let Ok(socket) = stream.into_any().downcast::<l4::stream::Stream>() else {
            return pingora_core::Error::e_explain(ErrorType::InternalError, "TLS within TLS");
        };
        let acceptor = Acceptor::from_server_config(Arc::clone(&self.0.load().config));
        Ok(Box::new(acceptor.tls_handshake(*socket).await?))
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
    fn a_name_of_its_own_goes_before_a_wildcard_and_a_wildcard_is_one_label() {
        let certificates = [
            certificate(&["*.example.com"]),
            certificate(&["hooks.example.com", "example.com"]),
        ];
        let by_name = ByName::new(&certificates);
        let shown = |name| {
            by_name.of(name).map(|found| {
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
    fn the_first_certificate_with_a_name_has_it() {
        let certificates = [certificate(&["a.test"]), certificate(&["a.test", "b.test"])];
        let by_name = ByName::new(&certificates);
        assert!(Arc::ptr_eq(
            by_name.of("a.test").unwrap(),
            &certificates[0].shown
        ));
        assert!(Arc::ptr_eq(
            by_name.of("b.test").unwrap(),
            &certificates[1].shown
        ));
    }

    #[test]
    fn there_is_no_early_data_and_no_tls_before_1_2() {
        let settings = Settings::new(vec![certificate(&["a.test"])], None).unwrap();
        assert_eq!(settings.config.max_early_data_size, 0);
        assert_eq!(settings.config.alpn_protocols, [&b"h2"[..], b"http/1.1"]);
    }
}
