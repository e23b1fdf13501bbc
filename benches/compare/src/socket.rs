//! A sender's socket: TCP, or TLS over it.

use std::fs;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::event::HOST;

pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// The TLS settings of all connections. No session is resumed: a handshake is always a whole one.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl Tls {
    /// Makes settings that trust the certificate in `file`, and offer `protocol`.
    pub fn new(file: &Path, protocol: &[u8]) -> Result<Self> {
        let certificate = CertificateDer::from_pem_file(file).map_err(Error::other)?;
        let mut roots = RootCertStore::empty();
        roots.add(certificate).map_err(Error::other)?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config).into()))
    }
}

/// Writes a certificate for the host of all events, with a P-256 key: `certificate.pem`, `key.pem`, and both
/// in one file.
pub fn certify(folder: &Path) -> Result<()> {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([HOST.to_owned()]).map_err(Error::other)?;
    let (certificate, key) = (cert.pem(), signing_key.serialize_pem());
    fs::write(folder.join("certificate.pem"), &certificate)?;
    fs::write(folder.join("key.pem"), &key)?;
    fs::write(folder.join("both.pem"), certificate + &key)
}

/// Opens a connection, over TLS if there are settings for it.
pub async fn connect(to: SocketAddr, tls: Option<&Tls>) -> Result<Box<dyn Socket>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let Some(Tls(connector)) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(HOST).expect("it is a valid name");
    Ok(Box::new(connector.connect(name, stream).await?))
}
