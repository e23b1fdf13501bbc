//! The TLS of the listeners that are open, and its renewal by a reload.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Listen, ListenTls};
use crate::metrics::Metrics;
use crate::tls::{Listener, Settings};

/// The files that the listeners' TLS is made from.
pub(super) fn files(config: &Config) -> Vec<PathBuf> {
    config
        .listen
        .iter()
        .filter_map(|listen| listen.tls.as_ref())
        .flat_map(|tls| tls.files.clone())
        .collect()
}

/// Returns whether every listener for direct connections has TLS; or every listener, if all are
/// behind a load balancer.
pub(super) fn is_everywhere(listen: &[Listen]) -> bool {
    let any_direct = listen.iter().any(|listen| !listen.proxy_protocol);
    listen
        .iter()
        .filter(|listen| !(any_direct && listen.proxy_protocol))
        .all(|listen| listen.tls.is_some())
}

/// Listeners with TLS, in the order of the configuration.
pub(super) struct Secured {
    metrics: Arc<Metrics>,
    listeners: Vec<Secure>,
}

struct Secure {
    /// As it is configured; the system may have chosen another port.
    address: SocketAddr,
    listener: Arc<Listener>,
    /// Their files.
    certificates: Vec<Box<str>>,
}

impl Secured {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            listeners: Vec::new(),
        }
    }

    /// The TLS of a listener that is about to be opened.
    pub(super) fn open(&mut self, address: SocketAddr, tls: ListenTls) -> Arc<Listener> {
        export(&self.metrics, address, &tls);
        let ListenTls {
            settings,
            certificates,
            ..
        } = tls;
        let listener = Arc::new(Listener::new(settings));
        self.listeners.push(Secure {
            address,
            listener: Arc::clone(&listener),
            certificates,
        });
        listener
    }

    /// Takes newly loaded certificates for the listeners that have the same address still. What else has changed of
    /// listeners counts from the next start.
    pub(super) fn replace(&mut self, mut listen: Vec<Listen>) {
        for open in &mut self.listeners {
            let same = listen
                .iter()
                .position(|listen| listen.address == open.address && listen.tls.is_some());
            let Some(tls) = same.and_then(|at| listen.remove(at).tls) else {
                tracing::warn!(
                    listener = %open.address,
                    "the configuration has no TLS for this listener any more; it keeps its certificates until the next start"
                );
                continue;
            };
            for file in &open.certificates {
                self.metrics
                    .forget_certificate(&open.address.to_string(), file);
            }
            export(&self.metrics, open.address, &tls);
            let ListenTls {
                settings,
                certificates,
                ..
            } = tls;
            open.listener.replace(settings);
            open.certificates = certificates;
        }
    }
}

fn export(metrics: &Metrics, address: SocketAddr, tls: &ListenTls) {
    let settings: &Settings = &tls.settings;
    for (file, certificate) in tls.certificates.iter().zip(settings.certificates()) {
        metrics.set_certificate_expiry(&address.to_string(), file, certificate.not_after);
    }
}
