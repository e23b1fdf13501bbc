//! The gateway as a client of its own listener: it knows its own certificates, whoever signed them.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Listener, provider};

impl Listener {
    /// How to connect to this very listener: nothing but the certificates it shows now is believed.
    ///
    /// # Errors
    /// When TLS can't be set up.
    pub fn loopback_client(&self) -> Result<Arc<ClientConfig>, Error> {
        let provider = provider();
        let settings = self.0.load();
        let shown = settings
            .certificates
            .iter()
            .filter_map(|one| one.shown.cert.first().cloned())
            .collect();
        let own = OwnCertificatesOnly {
            shown,
            provider: Arc::clone(&provider),
        };
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(own))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

/// Believes in these certificates, expired or not, and in no other.
#[derive(Debug)]
struct OwnCertificatesOnly {
    shown: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OwnCertificatesOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.shown.iter().any(|own| own == end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
