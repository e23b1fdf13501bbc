//! The TLS settings of the open listeners, which a reload replaces.

use std::sync::Arc;

use crate::config::{Listen, ListenAddress, ListenTls};
use crate::metrics::Metrics;
use crate::tls::Listener;

/// Returns whether every listener for direct connections has TLS; or every listener, if all are
/// behind a load balancer.
pub(super) fn is_everywhere(listen: &[Listen]) -> bool {
    let any_direct = listen.iter().any(|listen| !listen.proxy_protocol);
    listen
        .iter()
        .filter(|listen| !(any_direct && listen.proxy_protocol))
        .all(|listen| listen.tls.is_some())
}

/// The open listeners with TLS, in the order of the configuration.
pub(super) struct Listeners {
    metrics: Arc<Metrics>,
    listeners: Vec<TlsListener>,
}

struct TlsListener {
    /// The configured address; a name stands for all its addresses.
    address: ListenAddress,
    listener: Arc<Listener>,
    /// The files of its certificates.
    certificates: Vec<Box<str>>,
}

impl Listeners {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            listeners: Vec::new(),
        }
    }

    /// Adds a listener that is about to be opened, and returns its TLS settings.
    pub(super) fn open(&mut self, address: ListenAddress, tls: ListenTls) -> Arc<Listener> {
        export_expiry(&self.metrics, &address, &tls);
        let ListenTls {
            settings,
            certificates,
            ..
        } = tls;
        let listener = Arc::new(Listener::new(settings));
        self.listeners.push(TlsListener {
            address,
            listener: Arc::clone(&listener),
            certificates,
        });
        listener
    }

    /// Applies newly loaded TLS settings to the listeners whose address is unchanged. Other changes
    /// of listeners take effect after a restart.
    pub(super) fn replace_settings(&mut self, mut configured: Vec<Listen>) {
        for open in &mut self.listeners {
            let index = configured
                .iter()
                .position(|listen| listen.address == open.address && listen.tls.is_some());
            let Some(tls) = index.and_then(|index| configured.remove(index).tls) else {
                tracing::warn!(
                    listener = %open.address,
                    "the configuration has no TLS for this listener any more; \
                     it keeps its certificates until a restart"
                );
                continue;
            };
            for file in &open.certificates {
                self.metrics
                    .forget_certificate(&open.address.to_string(), file);
            }
            export_expiry(&self.metrics, &open.address, &tls);
            open.listener.replace(tls.settings);
            open.certificates = tls.certificates;
        }
    }
}

fn export_expiry(metrics: &Metrics, address: &ListenAddress, tls: &ListenTls) {
    let certificates = tls.settings.certificates();
    for (file, certificate) in tls.certificates.iter().zip(certificates) {
        metrics.set_certificate_expiry(&address.to_string(), file, certificate.not_after);
    }
}
