//! The composition root: builds everything from a configuration, runs it, reloads it, stops it.
//!
//! Owns start and stop, and nothing of what happens to a request in between.

mod listen;
mod reload;
mod sockets;
mod supervisor;
mod tls;
mod upgrade;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::activity::Activity;
use crate::admin::{self, ReloadHandle, ReloadRequest};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::gateway::{Frontend, Gateway, InProcessListener};
use crate::ledger::Ledger;
use crate::log;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{OpenError, Store};
use crate::upstream::Client;
use crate::webhooks::Registry;

pub use sockets::Sockets;

/// How often the log tells what it left out of rejections that have stopped, how rotations stand, and who
/// has fallen silent.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Why the gateway did not start, or ended other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The report holds every problem.
    #[error("the configuration is not valid")]
    Config(Box<config::Report>),
    #[error("cannot listen on {address}: {source}; is another process listening there?")]
    Listen {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{0}")]
    Store(#[from] OpenError),
    #[error("cannot start: {0}")]
    Io(#[from] io::Error),
    #[error("cannot export metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// Everything has ended by then.
    #[error("cannot become the next program: {0}")]
    Upgrade(io::Error),
}

/// A gateway that serves.
pub struct App {
    gateway: Arc<Gateway>,
    queue: Arc<Queue>,
    store: Store,
    metrics: Arc<Metrics>,
    registry: Arc<Registry>,
    /// The addresses senders connect to, with the real ports.
    pub data: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Those of `data` that have TLS.
    secured: tls::Secured,
    draining: watch::Sender<bool>,
    /// Reloads that operators ask for.
    reloads: mpsc::Receiver<ReloadRequest>,
    stopping: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    sockets: Sockets,
    shutdown: config::Shutdown,
}

/// Why serving is to end.
enum End {
    /// After so long.
    Stop(Duration),
    Upgrade,
}

/// What serving ended with.
enum Ended {
    Stopped,
    /// The next program is to take over, and these with it.
    Upgrading(Sockets),
}

/// Serves the configuration in the file at `path` until a signal ends it, or puts the next program in its place.
///
/// # Errors
/// Why it could not start. Logging is on from the moment the configuration is known to be valid.
pub fn run(path: &Path) -> Result<(), Error> {
    match serve(path)? {
        Ended::Stopped => Ok(()),
        Ended::Upgrading(sockets) => Err(Error::Upgrade(upgrade::become_next(sockets))),
    }
}

fn serve(path: &Path) -> Result<Ended, Error> {
    let env = |name: &str| std::env::var(name).ok();
    let sockets = Sockets::inherited();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    // First of all: whoever is sent one that we don't wait for yet, ends.
    let signals = runtime.block_on(async { Signals::new() })?;
    let seen = reload::Content::of(path);
    let loaded = config::load(path, &env).map_err(|report| Error::Config(Box::new(report)))?;
    // A second call in one process keeps the first one's settings.
    let _log = log::start(loaded.config.log).ok();
    for warning in loaded.warnings.summaries() {
        tracing::warn!("{warning}");
    }
    let ended = runtime.block_on(async {
        let file = reload::FileWatch::new(path, seen, tls::files(&loaded.config));
        let app = App::start(loaded.config, sockets).await?;
        app.serve_until_signalled(signals, file, &env).await
    });
    // The store is closed: what still looks up a name or reads for an operator is not waited for.
    runtime.shutdown_background();
    ended
}

/// Takes over what other gateways were told by operators, for as long as the store is there.
async fn follow(mut revision: watch::Receiver<i64>, registry: Arc<Registry>, queue: Arc<Queue>) {
    while revision.changed().await.is_ok() {
        while registry.reload_stored().await.is_err() || queue.load_paused().await.is_err() {
            // The store has said why.
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// The signals that mean something to us.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    upgrade: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }
}

impl App {
    /// Starts everything, on `sockets` where they fit; when this returns, all listeners accept.
    ///
    /// # Errors
    /// When an address can't be listened on, or the system refuses something else.
    pub async fn start(config: Config, mut sockets: Sockets) -> Result<Self, Error> {
        let metrics = Arc::new(Metrics::new()?);
        let clock = Clock::System;
        let store = Store::open(config.store, clock.clone(), metrics.store().clone()).await?;
        // From before anything is read: what changes meanwhile is read anew.
        let revision = store.revision();
        let ledger = Ledger::new(store.clone());
        let client = Arc::new(Client::default());
        let queue = Queue::new(Arc::clone(&ledger), Arc::clone(&client), clock.clone());
        let watch = Activity::new(clock.now());
        let (for_queue, counting, watching) =
            (Arc::clone(&queue), Arc::clone(&metrics), Arc::clone(&watch));
        let gateway = Gateway::new(
            config.limits,
            Arc::clone(&ledger),
            client,
            for_queue,
            counting,
            watching,
            clock,
        );
        queue.load_paused().await.map_err(io::Error::other)?;
        let config::Admin {
            address,
            token,
            read_token,
            hosts,
            allowed_upstreams,
        } = config.admin;
        let registry = Registry::start(
            Arc::clone(&gateway),
            store.clone(),
            config.routes,
            allowed_upstreams,
        );
        let registry = Arc::new(registry.await.map_err(io::Error::other)?);
        metrics.config_loaded(Timestamp::now());
        if let Some(revision) = revision {
            tokio::spawn(follow(revision, Arc::clone(&registry), Arc::clone(&queue)));
        }

        let (draining, draining_seen) = watch::channel(false);
        let (stopping, stopping_seen) = watch::channel(false);
        let (ask_reload, reloads) = ReloadHandle::new();
        let addresses: Vec<_> = std::iter::once(address)
            .chain(config.listen.iter().map(|listen| listen.address))
            .collect();
        let mut opened = sockets.listen(&addresses)?.into_iter();
        let (_, admin) = opened.next().expect("as many as addresses");
        let (mut data, mut listeners) = (Vec::new(), Vec::new());
        let in_process = InProcessListener::new(
            Arc::clone(&gateway),
            tls::is_everywhere(&config.listen),
            stopping_seen.clone(),
        );
        let mut secured = tls::Secured::new(Arc::clone(&metrics));
        for (
            config::Listen {
                address: configured,
                tls,
                proxy_protocol,
            },
            (address, socket),
        ) in config.listen.into_iter().zip(opened)
        {
            let tls = tls.map(|tls| secured.open(configured, tls));
            let has_tls = tls.is_some();
            let frontend = Frontend {
                gateway: Arc::clone(&gateway),
                tls,
                proxy_protocol,
            };
            let listener = listen::start(socket, frontend, stopping_seen.clone())?;
            tracing::info!(listener = "data", %address, tls = has_tls, proxy_protocol, "listening");
            data.push(address);
            listeners.push(listener);
        }
        let subject = admin::AdminState {
            metrics: Arc::clone(&metrics),
            store: store.clone(),
            ledger: Arc::clone(&ledger),
            queue: Arc::clone(&queue),
            registry: Arc::clone(&registry),
            in_process,
            activity: watch,
            draining: draining_seen,
            reloads: ask_reload,
        };
        let access = admin::Access {
            token: token.as_ref(),
            read_token: read_token.as_ref(),
            hosts: &hosts,
        };
        let admin = admin::start(admin, subject, access)?;
        tracing::info!(listener = "admin", address = %admin, "listening");
        queue.start();
        let shutdown = config.shutdown;
        Ok(Self {
            gateway,
            queue,
            store,
            metrics,
            registry,
            data,
            admin,
            secured,
            draining,
            reloads,
            stopping,
            listeners,
            sockets,
            shutdown,
        })
    }

    /// Takes the routes and the certificates of a newly loaded configuration over.
    pub async fn reload(&mut self, config: Config) {
        let routes = config.routes.len();
        if self.gateway.header_timeout() > config.limits.header_timeout {
            tracing::warn!(
                header_timeout_seconds = config.limits.header_timeout.as_secs_f64(),
                "a head may take longer to arrive than the shortest budget of the new routes allows, until the next start"
            );
        }
        self.secured.replace(config.listen);
        self.registry.replace_file(config.routes).await;
        self.metrics.config_loaded(Timestamp::now());
        tracing::info!(
            routes,
            "routes and certificates reloaded; the rest of the configuration counts from the next start"
        );
    }

    /// Notes that a newly read configuration is not valid. The old one stays.
    pub fn refuse_reload(&self, report: &config::Report) {
        self.metrics.config_rejected();
        for problem in report.summaries() {
            tracing::error!("{problem}");
        }
        tracing::error!("the configuration was not reloaded; the old one stays");
    }

    /// Says that we are going, serves on while load balancers take note, closes the listeners, and waits for the
    /// requests in flight.
    pub async fn stop(mut self, drain: Duration) {
        self.refuse_reloads();
        self.draining.send_replace(true);
        self.metrics.draining.set(1);
        tracing::info!(drain_seconds = drain.as_secs_f64(), "draining");
        tokio::time::sleep(drain).await;
        // Nobody is to wait in the queues of sockets that nobody will take from.
        self.sockets = Sockets::default();
        self.end(true).await;
    }

    /// Ends all work, and answers the sockets: whoever connects from here on waits for the next program.
    async fn hand_over(mut self) -> Sockets {
        self.refuse_reloads();
        tracing::info!("making way for the next program");
        // Attempts may take long. Requests are taken as long as they do.
        let attempts = self.queue.stop(self.shutdown.grace).await;
        self.end(attempts).await
    }

    /// Whoever asks for a reload hears at once that it will not be done.
    fn refuse_reloads(&mut self) {
        self.reloads.close();
        while self.reloads.try_recv().is_ok() {}
    }

    /// Takes no more connections, waits for the requests and attempts in flight, and closes the store. `attempts` is false
    /// when some were cut off before.
    async fn end(self, attempts: bool) -> Sockets {
        self.stopping.send_replace(true);
        for listener in self.listeners {
            let _ = listener.await;
        }
        let grace = self.shutdown.grace;
        let (requests, queue) = tokio::join!(
            timeout(grace, self.gateway.all_closed()),
            self.queue.stop(grace)
        );
        let all_ended = requests.is_ok() && queue && attempts;
        // What was cut off may have arrived: the next start has to know.
        self.store.close(all_ended).await;
        if all_ended {
            tracing::info!("stopped");
        } else {
            tracing::warn!(
                "stopped with requests or attempts still in flight: the grace period has ended"
            );
        }
        self.sockets
    }

    async fn serve_until_signalled(
        mut self,
        signals: Signals,
        mut file: reload::FileWatch,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Ended, Error> {
        let Signals {
            mut terminate,
            mut interrupt,
            mut hangup,
            mut upgrade,
        } = signals;
        supervisor::ready(&self.data, self.admin);
        let mut tell = tokio::time::interval(TELL_EVERY);
        let (check, mut checked) = mpsc::channel(1);
        let end = loop {
            tokio::select! {
                _ = terminate.recv() => break End::Stop(self.shutdown.drain),
                // Somebody at a terminal is not a load balancer.
                _ = interrupt.recv() => break End::Stop(Duration::ZERO),
                _ = hangup.recv() => {
                    let _ = file.reload(&mut self, env).await;
                }
                _ = upgrade.recv() => {
                    let (path, check) = (file.path().to_owned(), check.clone());
                    tokio::spawn(async move { check.send(upgrade::check(path).await).await });
                }
                Some(checked) = checked.recv() => match checked {
                    Ok(()) => break End::Upgrade,
                    Err(error) => tracing::error!(error, "not upgraded: the next program would not start; this one serves on"),
                },
                () = file.changed() => {
                    let _ = file.reload(&mut self, env).await;
                }
                Some(asked) = self.reloads.recv() => {
                    // Whoever asked may have gone.
                    let _ = asked.send(file.reload(&mut self, env).await);
                }
                _ = tell.tick() => {
                    self.gateway.log_suppressed_counts();
                    self.gateway.log_rotation_hints();
                    self.gateway.sample_activity();
                }
            }
        };
        match end {
            End::Stop(drain) => {
                supervisor::stopping(drain, self.shutdown.grace);
                tokio::select! {
                    () = self.stop(drain) => {}
                    // A second signal means it.
                    _ = interrupt.recv() => tracing::warn!("interrupted again: not waiting for requests in flight"),
                }
                Ok(Ended::Stopped)
            }
            End::Upgrade => {
                supervisor::upgrading();
                let grace = self.shutdown.grace;
                let mut handing_over = pin!(self.hand_over());
                let mut stop = false;
                loop {
                    tokio::select! {
                        biased;
                        _ = terminate.recv() => stop = true,
                        _ = interrupt.recv() => {
                            if stop {
                                tracing::warn!("interrupted again: not waiting for requests in flight");
                                return Ok(Ended::Stopped);
                            }
                            stop = true;
                        }
                        sockets = &mut handing_over => {
                            return Ok(if stop { Ended::Stopped } else { Ended::Upgrading(sockets) });
                        }
                    }
                    // Attempts may have their grace, and then requests.
                    supervisor::stopping(grace, grace);
                }
            }
        }
    }
}
