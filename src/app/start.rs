//! The start: builds the components in the order of their dependencies, then opens the listeners.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::watch;

use super::chores::Chores;
use super::listen::DataListeners;
use super::sockets::{ListeningSocket, Wanted};
use super::update_routes::RouteUpdater;
use super::{App, Error, OpenFiles, Sockets, memory, resolve_listen, tls};
use crate::activity::Activity;
use crate::admin::{self, ConfigurationOnDisk, ReloadHandle};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::cores::Cores;
use crate::gateway::{self, Gateway, InProcessListener, Limits};
use crate::ledger::Ledger;
use crate::limits::worst_case::TooLittleMemory;
use crate::log::LogSampler;
use crate::metrics::Metrics;
use crate::notifications;
use crate::queue::Queue;
use crate::route::Route;
use crate::store::{self, Store};
use crate::upstream::Client;
use crate::webhooks::{Registry, WebhookLimits};

/// The pause before routes are read again that another gateway has changed.
const FOLLOW_RETRY: Duration = Duration::from_millis(500);

/// The components that listeners are opened for.
struct Components {
    cores: Arc<Cores>,
    metrics: Arc<Metrics>,
    store: Store,
    ledger: Arc<Ledger>,
    queue: Arc<Queue>,
    activity: Arc<Activity>,
    limits: Arc<ArcSwap<Limits>>,
    gateway: Arc<Gateway>,
    log_sampler: Arc<LogSampler>,
    clock: Clock,
}

/// The environment variable with the name server's address and port. `resolv.conf` cannot hold a
/// port.
const NAME_SERVER_VARIABLE: &str = "HOOKSTILE_NAMESERVER";

impl App {
    /// Starts all components, on inherited `sockets` where they match. When this returns, all
    /// listeners accept.
    ///
    /// # Errors
    /// When the memory does not suffice, the store cannot be opened, an address cannot be listened
    /// on, or the system refuses something else.
    pub async fn start(mut config: Config, mut sockets: Sockets) -> Result<Self, Error> {
        let open_files = OpenFiles::raise_limit();
        for warning in fit_limits(&mut config, open_files)? {
            tracing::warn!("{warning}");
        }
        let components = Components::new(config.store, config.limits).await?;
        let webhook_limits = webhook_limits(&config.admin);
        let registry = components.serve_routes(config.routes, webhook_limits);
        let registry = registry.await.map_err(io::Error::other)?;
        let (draining, draining_changes) = watch::channel(false);
        let (stopping, stopping_changes) = watch::channel(false);
        let (reload_requests, reloads) = ReloadHandle::new();
        let mut wanted = vec![vec![Wanted::from(config.admin.address)]];
        wanted.extend(resolve_listen::wanted(&config.listen).await?);
        let mut opened = sockets.listen(&wanted)?.into_iter();
        let Some(ListeningSocket::Inet(admin_socket)) =
            opened.next().and_then(|it| Some(it.into_iter().next()?.1))
        else {
            return Err(io::Error::other("the admin listener has no socket").into());
        };
        let in_process = InProcessListener::new(
            Arc::clone(&components.gateway),
            tls::is_everywhere(&config.listen),
            stopping_changes.clone(),
        );
        let mut data = DataListeners::new(
            Arc::clone(&components.gateway),
            Arc::clone(&components.cores),
            Arc::clone(&components.metrics),
            open_files,
            stopping_changes,
        );
        for (listen, sockets) in config.listen.into_iter().zip(opened) {
            data.start(listen, sockets)?;
        }
        let configuration = Arc::new(ConfigurationOnDisk::default());
        let state = admin::AdminState {
            metrics: Arc::clone(&components.metrics),
            store: components.store.clone(),
            ledger: Arc::clone(&components.ledger),
            queue: Arc::clone(&components.queue),
            registry: Arc::clone(&registry),
            in_process: in_process.clone(),
            activity: Arc::clone(&components.activity),
            draining: draining_changes,
            reloads: reload_requests,
            configuration: Arc::clone(&configuration),
        };
        let admin = start_admin(admin_socket, state, &config.admin, config.notify)?;
        components.queue.start();
        let mut app = Self {
            chores: components.chores(),
            _cores: components.cores,
            gateway: components.gateway,
            queue: components.queue,
            store: components.store,
            metrics: components.metrics,
            registry,
            configuration,
            data: data.addresses(),
            admin: admin.address,
            admin_configured: config.admin.address,
            admin_listener: admin,
            in_process,
            limits: components.limits,
            open_files,
            redelivery: None,
            restart_keys: config.restart_keys,
            draining,
            reloads,
            stopping,
            listeners: data,
            sockets,
            shutdown: config.shutdown,
        };
        app.redeliver_dead_letters(config.redeliver_dead_letters);
        Ok(app)
    }
}

/// Reduces the limits of `config` to what the process may use of open files and memory. Returns a
/// warning for each.
///
/// # Errors
/// When the memory does not suffice.
pub(super) fn fit_limits(
    config: &mut Config,
    open_files: OpenFiles,
) -> Result<Vec<String>, TooLittleMemory> {
    let mut warnings = Vec::new();
    if let Some(shortage) = open_files.shortage(config.limits.connections) {
        warnings.push(format!("{shortage}; {}", shortage.help()));
        config.limits.connections = shortage.connections();
    }
    warnings.extend(memory::fit_limits(config)?);
    Ok(warnings)
}

pub(super) fn webhook_limits(admin: &config::Admin) -> WebhookLimits {
    WebhookLimits {
        allowed_upstreams: admin.allowed_upstreams.clone(),
        count: admin.max_webhooks,
    }
}

/// Returns the name server that the environment names in place of the system's.
fn name_server() -> Result<Option<SocketAddr>, Error> {
    let Some(value) = std::env::var_os(NAME_SERVER_VARIABLE) else {
        return Ok(None);
    };
    let address = value.to_str().and_then(|text| text.parse().ok());
    address.map(Some).ok_or(Error::NameServer)
}

/// Returns an error if CA certificates that the environment names cannot be read. Pingora reads them
/// for its upstreams, and would panic.
fn check_roots() -> Result<(), Error> {
    if let Some(file) = std::env::var_os("SSL_CERT_FILE") {
        let read = rustls_native_certs::load_certs_from_paths(Some(file.as_ref()), None);
        if let Some(error) = read.errors.into_iter().next() {
            return Err(Error::Roots("SSL_CERT_FILE", error.to_string()));
        }
    }
    if let Some(folder) = std::env::var_os("SSL_CERT_DIR") {
        std::fs::read_dir(folder)
            .map_err(|error| Error::Roots("SSL_CERT_DIR", error.to_string()))?;
    }
    Ok(())
}

impl Components {
    async fn new(store: store::Settings, limits: Limits) -> Result<Self, Error> {
        check_roots()?;
        let client = Arc::new(Client::new(name_server()?));
        let metrics = Arc::new(Metrics::new()?);
        let clock = Clock::System;
        let store = Store::open(store, clock.clone(), metrics.store().clone()).await?;
        let ledger = Ledger::new(store.clone());
        let cores = Arc::new(Cores::start()?);
        let queue = Queue::new(
            Arc::clone(&ledger),
            Arc::clone(&client),
            Arc::clone(&cores),
            clock.clone(),
        );
        let activity = Activity::new(clock.now());
        let log_sampler = Arc::new(LogSampler::default());
        let dependencies = gateway::Dependencies {
            ledger: Arc::clone(&ledger),
            client,
            metrics: Arc::clone(&metrics),
            activity: Arc::clone(&activity),
            log_sampler: Arc::clone(&log_sampler),
            clock: clock.clone(),
        };
        let limits = Arc::new(limits);
        Ok(Self {
            cores,
            metrics,
            store,
            ledger,
            queue,
            activity,
            gateway: Gateway::new(Arc::clone(&limits), dependencies),
            limits: Arc::new(ArcSwap::new(limits)),
            log_sampler,
            clock,
        })
    }

    /// Serves the routes of the file and of the store, and follows the changes that other gateways
    /// make in the store.
    async fn serve_routes(
        &self,
        routes: Vec<Route>,
        limits: WebhookLimits,
    ) -> Result<Arc<Registry>, store::StoreError> {
        // Taken before anything is read, so that a change made meanwhile is read again.
        let revision = self.store.revision();
        self.queue.load_paused().await?;
        let publisher = Box::new(self.route_updater());
        let store = self.store.clone();
        let registry = Registry::start(publisher, store, routes, limits);
        let registry = Arc::new(registry.await?);
        self.metrics.config_loaded(Timestamp::now());
        if let Some(revision) = revision {
            let queue = Arc::clone(&self.queue);
            tokio::spawn(follow(revision, Arc::clone(&registry), queue));
        }
        Ok(registry)
    }

    fn route_updater(&self) -> RouteUpdater {
        RouteUpdater {
            limits: Arc::clone(&self.limits),
            gateway: Arc::clone(&self.gateway),
            queue: Arc::clone(&self.queue),
            metrics: Arc::clone(&self.metrics),
            activity: Arc::clone(&self.activity),
            clock: self.clock.clone(),
        }
    }

    fn chores(&self) -> Chores {
        Chores::new(
            Arc::clone(&self.gateway),
            Arc::clone(&self.activity),
            Arc::clone(&self.log_sampler),
            self.clock.clone(),
        )
    }
}

fn start_admin(
    socket: TcpListener,
    state: admin::AdminState,
    config: &config::Admin,
    notify: Option<notifications::Settings>,
) -> io::Result<admin::Running> {
    let running = admin::start(socket, state, access(config), notify)?;
    tracing::info!(listener = "admin", address = %running.address, "listening");
    Ok(running)
}

/// Returns what the admin listener admits.
pub(super) fn access(config: &config::Admin) -> admin::Access<'_> {
    admin::Access {
        token: config.token.as_ref(),
        read_token: config.read_token.as_ref(),
        hosts: &config.hosts,
    }
}

/// Applies what operators change through other gateways, for as long as the store is open.
async fn follow(mut revision: watch::Receiver<i64>, registry: Arc<Registry>, queue: Arc<Queue>) {
    while revision.changed().await.is_ok() {
        while registry.reload_stored().await.is_err() || queue.load_paused().await.is_err() {
            // The store has logged the reason.
            tokio::time::sleep(FOLLOW_RETRY).await;
        }
    }
}
