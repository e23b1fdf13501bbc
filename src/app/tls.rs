//! The TLS of the listeners as a whole, and the metrics of their certificates.

use crate::config::{Listen, ListenAddress, ListenTls};
use crate::metrics::Metrics;

/// Returns whether every listener for direct connections has TLS; or every listener, if all are
/// behind a load balancer.
pub(super) fn is_everywhere(listen: &[Listen]) -> bool {
    let any_direct = listen.iter().any(|listen| !listen.proxy_protocol);
    listen
        .iter()
        .filter(|listen| !(any_direct && listen.proxy_protocol))
        .all(|listen| listen.tls.is_some())
}

/// Exports when the certificates of the listener with this configured address expire.
pub(super) fn export_expiry(metrics: &Metrics, address: &ListenAddress, tls: &ListenTls) {
    let certificates = tls.settings.certificates();
    for (file, certificate) in tls.certificates.iter().zip(certificates) {
        metrics.set_certificate_expiry(&address.to_string(), file, certificate.not_after);
    }
}

/// Forgets the certificates of a listener that are not used any more.
pub(super) fn forget_expiry(metrics: &Metrics, address: &ListenAddress, files: &[Box<str>]) {
    for file in files {
        metrics.forget_certificate(&address.to_string(), file);
    }
}
