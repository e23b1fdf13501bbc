//! The composition root: builds all components from a configuration, reloads them and stops them.
//!
//! Owns start and stop. Nothing here is part of handling a request.

mod chores;
mod descriptors;
mod listen;
mod memory;
mod reload;
mod resolve_listen;
mod run;
mod sockets;
mod start;
mod supervisor;
mod tls;
mod update_routes;
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, ConfigurationOnDisk, ReloadRequest};
use crate::config::{self, Config, ListenAddress};
use crate::diagnostic::{LocatedDiagnostic, Severity};
use crate::gateway::Gateway;
use crate::limits::worst_case::TooLittleMemory;
use crate::log;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{OpenError, Store};
use crate::webhooks::Registry;
use chores::Chores;

pub use descriptors::OpenFiles;
pub use run::run;
pub use sockets::{SocketAddress, Sockets};

/// The reason why the process did not start, or ended without a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not valid; the report holds every problem.
    #[error("the configuration is not valid")]
    Config(Box<config::Report>),
    #[error("cannot listen on {address}: {source}{}", listen_help(.address, .source))]
    Listen {
        address: SocketAddress,
        source: io::Error,
    },
    #[error("cannot listen on {address}: {reason}")]
    ListenName {
        address: ListenAddress,
        reason: String,
    },
    #[error("two listeners have the address {address}: `{first}` and `{second}`; remove one")]
    SameAddress {
        address: SocketAddress,
        first: ListenAddress,
        second: ListenAddress,
    },
    #[error("{0}")]
    Store(#[from] OpenError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("cannot start: {0}; lower `limits`, or give the gateway more memory")]
    Memory(#[from] TooLittleMemory),
    #[error("HOOKSTILE_NAMESERVER: expected an address and a port, as in 127.0.0.53:53")]
    NameServer,
    /// CA certificates that an environment variable names cannot be read.
    #[error("{0}: cannot read the CA certificates that it names: {1}")]
    Roots(&'static str, String),
    #[error("cannot export metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The new binary could not be started; everything has stopped by then.
    #[error("cannot start the new binary: {0}")]
    Upgrade(io::Error),
}

/// Returns what to do about an address that cannot be listened on, as the end of the message.
fn listen_help(address: &SocketAddress, error: &io::Error) -> &'static str {
    let is_unix = address.inet().is_none();
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process is listening there",
        io::ErrorKind::AddrNotAvailable => "; no interface of this machine has this address",
        io::ErrorKind::NotFound if is_unix => {
            "; make the folder (`RuntimeDirectory=` in a systemd unit)"
        }
        io::ErrorKind::PermissionDenied if is_unix => {
            "; the gateway's user must be allowed to make a file in the folder"
        }
        io::ErrorKind::PermissionDenied
            if address.inet().is_some_and(|address| address.port() < 1024) =>
        {
            "; a port below 1024 needs the capability CAP_NET_BIND_SERVICE \
             (`AmbientCapabilities=` in a systemd unit), or systemd holds it as a socket"
        }
        _ => "",
    }
}

impl Error {
    /// Returns whether this machine does not have the address, or its family of addresses.
    fn is_missing_address(&self) -> bool {
        let Self::Listen { source, .. } = self else {
            return false;
        };
        let family_missing = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
        source.kind() == io::ErrorKind::AddrNotAvailable
            || source.raw_os_error() == Some(family_missing)
    }
}

/// A running gateway with all its components.
pub struct App {
    gateway: Arc<Gateway>,
    queue: Arc<Queue>,
    store: Store,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    /// The state of the file that the configuration comes from.
    configuration: Arc<ConfigurationOnDisk>,
    chores: Chores,
    /// The addresses that senders connect to, with the ports that the system chose.
    pub data: Vec<SocketAddress>,
    pub admin: SocketAddr,
    admin_listener: admin::Running,
    /// The TLS settings of the listeners in `data` that have TLS.
    tls_listeners: tls::Listeners,
    draining: watch::Sender<bool>,
    /// The reloads that operators request.
    reloads: mpsc::Receiver<ReloadRequest>,
    stopping: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    sockets: Sockets,
    shutdown: config::Shutdown,
}

/// Logs a problem of a configuration, at the level of its severity.
fn log_diagnostic(diagnostic: &LocatedDiagnostic) {
    match diagnostic.severity {
        Severity::Error => tracing::error!("{diagnostic}"),
        Severity::Warning => tracing::warn!("{diagnostic}"),
    }
}

impl App {
    /// Applies the parts of a newly loaded configuration that need no restart.
    pub async fn reload(&mut self, config: Config) {
        let routes = config.routes.len();
        if self.gateway.header_timeout() > config.limits.header_timeout {
            tracing::warn!(
                header_timeout_seconds = config.limits.header_timeout.as_secs_f64(),
                "the shorter header timeout takes effect after a restart; until then a head may \
                 take longer than the shortest budget of the new routes"
            );
        }
        self.tls_listeners.replace_settings(config.listen);
        self.admin_listener
            .replace_tokens(start::access(&config.admin));
        self.store.apply_settings(config.store);
        log::apply(config.log);
        self.registry.replace_file(config.routes).await;
        self.metrics.config_loaded(Timestamp::now());
        self.configuration.accept(Timestamp::now());
        tracing::info!(
            routes,
            "routes, certificates, credentials and log settings reloaded; other changes take \
             effect after a restart"
        );
    }

    /// Records that a newly read configuration is not valid. The old one stays in effect.
    pub fn refuse_reload(&self, report: &config::Report) {
        self.metrics.config_rejected();
        report
            .located()
            .for_each(|diagnostic| log_diagnostic(&diagnostic));
        tracing::error!("configuration not reloaded; the old one stays in effect");
    }

    /// Reports that the gateway is draining, serves on for the time that load balancers need to
    /// notice, closes the listeners, and waits for the requests in flight.
    pub async fn stop(mut self, drain: Duration) {
        self.refuse_reloads();
        self.draining.send_replace(true);
        self.metrics.draining.set(1);
        tracing::info!(drain_seconds = drain.as_secs_f64(), "draining");
        tokio::time::sleep(drain).await;
        // Closed before the requests end, so that no sender waits in a queue that is never accepted
        // from.
        self.sockets = Sockets::default();
        self.finish(true).await;
    }

    /// Stops for the new binary, and returns the sockets it inherits. Senders that connect from
    /// here on wait for it.
    async fn stop_for_upgrade(mut self) -> Sockets {
        self.refuse_reloads();
        tracing::info!("upgrading: waiting for requests and attempts in flight");
        // Attempts may take long, so requests are accepted until they have ended.
        let attempts_ended = self.queue.stop(self.shutdown.grace).await;
        self.finish(attempts_ended).await
    }

    /// Refuses the reloads that were requested and not begun.
    fn refuse_reloads(&mut self) {
        self.reloads.close();
        while self.reloads.try_recv().is_ok() {}
    }

    /// Closes the listeners, waits for the verified requests and the attempts in flight, and closes
    /// the store.
    /// `attempts_ended` is false when attempts were cut off before.
    async fn finish(self, attempts_ended: bool) -> Sockets {
        self.stopping.send_replace(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        let grace = self.shutdown.grace;
        let (requests_ended, queue_ended) =
            tokio::join!(self.gateway.finish_requests(grace), self.queue.stop(grace));
        let all_ended = requests_ended && queue_ended && attempts_ended;
        // A request that was cut off may have reached its upstream: the next start must know.
        self.store.close(all_ended).await;
        if all_ended {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                "stopped with requests or attempts still in flight: the grace period is over"
            );
        }
        self.sockets
    }
}
