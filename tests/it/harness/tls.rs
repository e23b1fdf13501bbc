//! Certificates for receivers behind TLS and for the gateway itself: an authority of our own, what it signs, and who
//! believes it.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, DEFAULT_VERSIONS, DigitallySignedStruct, Error,
    RootCertStore, ServerConfig, SignatureScheme, SupportedProtocolVersion, WantsVerifier,
    WantsVersions,
};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// A certificate authority that lives as long as the test.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "hookstile's test authority");
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What goes into the route's `ca` file.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A server that shows a certificate of this authority for one DNS name or IP address.
    pub fn identity(&self, name: &str) -> Identity {
        let issued = self.issue(name);
        let config = builder(ServerConfig::builder_with_provider, DEFAULT_VERSIONS)
            .with_no_client_auth()
            .with_single_cert(vec![issued.der.into()], private_key(&issued.key))
            .expect("a server configuration");
        Identity(TlsAcceptor::from(Arc::new(config)))
    }

    /// A certificate of this authority for one DNS name or IP address, and its key.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_for(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The same for one who connects.
    pub fn issue_to_client(&self, name: &str) -> Issued {
        self.issue_for(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue_for(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Issued {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        // Another name than the authority's, or some verifiers take the certificate for self-signed.
        params
            .distinguished_name
            .push(DnType::CommonName, "a receiver");
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Issued {
            certificate: certificate.pem(),
            der: certificate.der().to_vec(),
            key: key.serialize_pem(),
        }
    }
}

/// A certificate and its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    pub certificate: String,
    pub der: Vec<u8>,
    pub key: String,
}

/// What a receiver shows to those who connect.
#[derive(Clone)]
pub struct Identity(TlsAcceptor);

impl Identity {
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

/// What a sender believes, shows and speaks.
#[derive(Clone)]
pub struct Trust {
    /// `None` believes anybody.
    authority: Option<CertificateDer<'static>>,
    shows: Option<Issued>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Trust {
    pub fn of(authority: &Authority) -> Self {
        let authority =
            CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a certificate");
        Self {
            authority: Some(authority),
            ..Self::anybody()
        }
    }

    pub fn anybody() -> Self {
        Self {
            authority: None,
            shows: None,
            versions: DEFAULT_VERSIONS.to_vec(),
        }
    }

    /// TLS of this version alone.
    pub fn version(self, version: &'static SupportedProtocolVersion) -> Self {
        Self {
            versions: vec![version],
            ..self
        }
    }

    pub fn showing(self, issued: &Issued) -> Self {
        Self {
            shows: Some(issued.clone()),
            ..self
        }
    }

    pub async fn connect(
        &self,
        stream: TcpStream,
        name: &str,
        protocols: &[&str],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let builder = builder(ClientConfig::builder_with_provider, &self.versions);
        let builder = match &self.authority {
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone()).expect("an authority");
                builder.with_root_certificates(roots)
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody)),
        };
        let mut config = match &self.shows {
            None => builder.with_no_client_auth(),
            Some(issued) => builder
                .with_client_auth_cert(vec![issued.der.clone().into()], private_key(&issued.key))
                .expect("a certificate and its key"),
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|protocol| protocol.as_bytes().to_vec())
            .collect();
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

fn builder<Side: ConfigSide>(
    start: impl FnOnce(Arc<CryptoProvider>) -> ConfigBuilder<Side, WantsVersions>,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<Side, WantsVerifier> {
    start(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .expect("versions with ciphers")
}

fn private_key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a PKCS #8 key")
}

/// Does not ask whose certificate it is shown.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
