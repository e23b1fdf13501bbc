//! TLS to the database: the trusted CAs and the client certificate.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Returns a connector for TLS 1.2 or 1.3 that verifies the server's certificate and name, with the
/// CAs in `roots` or else the system's. `client_certificate` is a certificate and its key. All
/// files are PEM.
///
/// # Errors
/// Returns a sentence that names the unusable file.
pub(super) fn connector(
    roots: Option<&Path>,
    client_certificate: Option<(&Path, &Path)>,
) -> Result<MakeRustlsConnect, String> {
    let roots = match roots {
        Some(path) => read_roots(path)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots);
    let mut config = match client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(read_certificates(certificate)?, read_private_key(key)?)
            .map_err(|error| {
                format!(
                    "{} and {} cannot be used together: {error}",
                    certificate.display(),
                    key.display()
                )
            })?,
    };
    // PostgreSQL requires ALPN for connections that start with TLS (`sslnegotiation=direct`).
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let (added, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Err(
            "the system has no CA certificates; name a file of them with `sslrootcert`".to_owned(),
        );
    }
    Ok(roots)
}

fn read_roots(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| format!("{} cannot be used as a CA: {error}", path.display()))?;
    }
    Ok(roots)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read_error = |error: pem::Error| format!("{} cannot be read: {error}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(read_error)?
        .collect::<Result<_, _>>()
        .map_err(read_error)?;
    if certificates.is_empty() {
        return Err(format!("{} holds no PEM certificate", path.display()));
    }
    Ok(certificates)
}

fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| match error {
        pem::Error::NoItemsFound => format!(
            "{} holds no PEM private key without a passphrase",
            path.display()
        ),
        error => format!("{} cannot be read: {error}", path.display()),
    })
}
