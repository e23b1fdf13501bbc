//! Certificates for upstreams behind TLS and for the gateway itself: a test's own authority, the
//! certificates it issues, and the clients that trust it.

use std::io;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
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

    /// Returns the content of the route's `ca` file.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a server identity with a certificate of this authority for one DNS name or IP
    /// address.
    pub fn identity(&self, name: &str) -> Identity {
        self.issue(name).identity()
    }

    /// Issues a certificate for one DNS name or IP address, with its key.
    pub fn issue(&self, name: &str) -> Issued {
        self.issue_for(name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Issues a client certificate.
    pub fn issue_to_client(&self, name: &str) -> Issued {
        self.issue_for(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Issues a certificate that expired long ago.
    pub fn issue_expired(&self, name: &str) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.not_before = date_time_ymd(2001, 1, 1);
        params.not_after = date_time_ymd(2002, 1, 1);
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn issue_for(&self, name: &str, purpose: ExtendedKeyUsagePurpose) -> Issued {
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        self.sign(params, purpose)
    }

    fn sign(&self, mut params: CertificateParams, purpose: ExtendedKeyUsagePurpose) -> Issued {
        let key = KeyPair::generate().expect("a key");
        // The name differs from the authority's; otherwise some verifiers treat the certificate as
        // self-signed.
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

impl Issued {
    /// Makes a certificate as `openssl req -x509` does: signed by its own key, and a CA.
    pub fn self_signed(names: &[&str], common_name: &str) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            certificate: certificate.pem(),
            der: certificate.der().to_vec(),
            key: key.serialize_pem(),
        }
    }

    /// Returns the identity of a server that shows this certificate.
    pub fn identity(&self) -> Identity {
        let config = builder(ServerConfig::builder_with_provider, DEFAULT_VERSIONS)
            .with_no_client_auth()
            .with_single_cert(vec![self.der.clone().into()], private_key(&self.key))
            .expect("a server configuration");
        Identity(TlsAcceptor::from(Arc::new(config)))
    }
}

/// The certificate and key of a TLS server.
#[derive(Clone)]
pub struct Identity(TlsAcceptor);

impl Identity {
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.0.accept(stream).await
    }
}

/// A client's TLS settings: the authority it trusts, its certificate and its protocols.
#[derive(Clone)]
pub struct Trust {
    /// The trusted authority; `None` accepts any certificate.
    authority: Option<CertificateDer<'static>>,
    shows: Option<Issued>,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl Trust {
    pub fn new(authority: &Authority) -> Self {
        let authority =
            CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a certificate");
        Self {
            authority: Some(authority),
            ..Self::any_certificate()
        }
    }

    pub fn any_certificate() -> Self {
        Self {
            authority: None,
            shows: None,
            versions: DEFAULT_VERSIONS.to_vec(),
        }
    }

    /// Allows only this version of TLS.
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
                .with_custom_certificate_verifier(Arc::new(AnyCertificate)),
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

/// A verifier that accepts any certificate.
#[derive(Debug)]
struct AnyCertificate;

impl ServerCertVerifier for AnyCertificate {
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
