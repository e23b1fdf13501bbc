//! The composition root: builds all components from a configuration, reloads them and stops them.
//!
//! Owns start and stop. Nothing here is part of handling a request.

mod accept;
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

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::{self, ConfigurationOnDisk, ReloadRequest};
use crate::config::{self, ListenAddress, Loaded, Place, Report, RestartKey};
use crate::cores::Cores;
use crate::diagnostic::{LocatedDiagnostic, Severity};
use crate::gateway::{Gateway, InProcessListener, Limits};
use crate::limits::worst_case::TooLittleMemory;
use crate::log;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{OpenError, Store};
use crate::webhooks::Registry;
use chores::Chores;
use listen::{DataListeners, ListenError};
use sockets::{Held, ListeningSocket};

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
    /// What the data plane runs on, until the store is closed.
    _cores: Arc<Cores>,
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
    /// The configured address of the admin listener; the system may have chosen another port.
    admin_configured: SocketAddr,
    admin_listener: admin::Running,
    in_process: InProcessListener,
    /// The limits for the routes that are published next.
    limits: Arc<ArcSwap<Limits>>,
    open_files: OpenFiles,
    /// The redelivery of dead letters without an operator, where it is configured.
    redelivery: Option<JoinHandle<()>>,
    /// The keys that need a restart, as they were at the start.
    restart_keys: Vec<RestartKey>,
    draining: watch::Sender<bool>,
    /// The reloads that operators request.
    reloads: mpsc::Receiver<ReloadRequest>,
    stopping: watch::Sender<bool>,
    listeners: DataListeners,
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
    /// Applies a newly loaded configuration, except for the keys that need a restart. Returns what
    /// the operator should know of.
    ///
    /// # Errors
    /// When it needs memory or a socket that the system refuses. Nothing is changed then, and the
    /// report has the reason.
    async fn reload(&mut self, loaded: Loaded) -> Result<Report, Report> {
        let Loaded {
            mut config,
            mut warnings,
        } = loaded;
        match start::fit_limits(&mut config, self.open_files) {
            Ok(reduced) => {
                for reduced in reduced {
                    warnings.add_warning_at(Place::default(), reduced);
                }
            }
            Err(error) => {
                let message = format!("{error}; lower `limits`, or give the gateway more memory");
                warnings.add_error_at(Place::default(), message);
                return Err(warnings);
            }
        }
        let tls_everywhere = tls::is_everywhere(&config.listen);
        // Whether a token is needed changes with a restart only, and the address with it: one that
        // others reach needs the token.
        let moves_admin = config.admin.address != self.admin_configured
            && self
                .admin_listener
                .is_as_open(&start::access(&config.admin));
        let opened = self.open_sockets(config.listen, moves_admin.then_some(&config.admin));
        let (prepared, admin_socket) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                warnings.add_error_at(error.place, error.error.to_string());
                return Err(warnings);
            }
        };
        for key in &config.restart_keys {
            if self.restart_keys.iter().any(|old| old.is_changed(key)) {
                let message = format!("a change of `{}` takes effect after a restart", key.name);
                warnings.add_warning_at(key.place, message);
            }
        }
        if !self
            .admin_listener
            .replace_tokens(start::access(&config.admin))
        {
            let message = "whether the admin listener needs a token takes effect after a restart";
            warnings.add_warning_at(Place::default(), message);
        }
        self.store.apply_settings(config.store);
        log::apply(config.log);
        self.shutdown = config.shutdown;
        self.redeliver_dead_letters(config.redeliver_dead_letters);
        let routes = config.routes.len();
        let (webhook_limits, limits) = (start::webhook_limits(&config.admin), config.limits);
        self.registry
            .replace_file(config.routes, webhook_limits, || {
                self.limits.store(Arc::new(limits));
            })
            .await;
        self.in_process.set_tls(tls_everywhere);
        if let Err(error) = self.listeners.change(prepared, &mut self.sockets).await {
            tracing::error!(%error, "a new listener does not accept; reload again");
        }
        self.data = self.listeners.addresses();
        if let Some(socket) = admin_socket
            && let Err(error) = self.move_admin(config.admin.address, socket).await
        {
            tracing::error!(%error, "the admin listener has not moved; reload again");
        }
        self.metrics.config_loaded(Timestamp::now());
        self.configuration.accept(Timestamp::now());
        for warning in warnings.located() {
            log_diagnostic(&warning);
        }
        tracing::info!(routes, "configuration reloaded");
        Ok(warnings)
    }

    /// Opens the sockets that a new configuration needs. `admin` is given if its listener moves.
    ///
    /// # Errors
    /// When one of them cannot be opened. None is open then.
    async fn open_sockets(
        &self,
        listen: Vec<config::Listen>,
        admin: Option<&config::Admin>,
    ) -> Result<(listen::Prepared, Option<Held>), ListenError> {
        let leaving = admin.map(|_| SocketAddress::Inet(self.admin));
        let prepared = self
            .listeners
            .prepare(listen, &self.sockets, leaving.clone());
        let prepared = prepared.await?;
        let Some(admin) = admin else {
            return Ok((prepared, None));
        };
        let opened = self
            .sockets
            .open_more(&[admin.address.into()], &prepared.leaving);
        let mut opened = opened.map_err(|error| ListenError {
            place: admin.place,
            error,
        })?;
        Ok((prepared, opened.pop()))
    }

    /// Moves the admin listener to `socket`, of the configured address.
    async fn move_admin(&mut self, configured: SocketAddr, socket: Held) -> io::Result<()> {
        let (_, ListeningSocket::Inet(handle)) = socket.handle()? else {
            return Ok(());
        };
        self.admin_listener.move_to(handle).await?;
        self.sockets.close(&SocketAddress::Inet(self.admin));
        self.sockets.add(socket);
        (self.admin_configured, self.admin) = (configured, self.admin_listener.address);
        tracing::info!(listener = "admin", address = %self.admin, "listening");
        Ok(())
    }

    /// Begins or ends the redelivery of dead letters without an operator.
    fn redeliver_dead_letters(&mut self, redeliver: bool) {
        match &self.redelivery {
            None if redeliver => {
                let redelivery = Arc::clone(&self.queue).redeliver_dead_letters();
                self.redelivery = Some(tokio::spawn(redelivery));
            }
            Some(running) if !redeliver => {
                running.abort();
                self.redelivery = None;
            }
            None | Some(_) => {}
        }
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
        self.listeners.stopped().await;
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
