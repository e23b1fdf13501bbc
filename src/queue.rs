//! Delivery of stored events to their upstreams. Each route has a queue with a worker of its own,
//! so that no route waits for another.
//!
//! Owns when an event is attempted, how often, and when it becomes a dead letter. The events
//! themselves stay in the store: a worker holds only the events of its current attempts in memory,
//! however many are queued. It sleeps until an event is stored, an attempt ends, or a pause is
//! over.

mod attempt;
mod automatic_redelivery;
mod moving;
mod route_worker;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{RwLock, watch};
use tokio::task::JoinSet;

use crate::activity::RouteActivity;
use crate::clock::Clock;
use crate::cores::Cores;
use crate::ledger::{Ledger, Redelivery, RedeliveryResult};
use crate::metrics::QueueMetrics;
use crate::route::{Replay, Route};
use crate::store::{self, Store, StoreError};
use crate::upstream::Client;
pub(crate) use moving::{MoveError, MovedEvents};

/// The dispatcher of stored events.
pub(crate) struct Queue {
    ledger: Arc<Ledger>,
    client: Arc<Client>,
    cores: Arc<Cores>,
    clock: Clock,
    routes: Mutex<RouteQueues>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    /// No further attempt begins.
    Stopping,
}

#[derive(Default)]
struct RouteQueues {
    by_route: HashMap<Arc<str>, RouteQueue>,
    /// Routes that an operator paused.
    paused: HashSet<Arc<str>>,
    gates: HashMap<Arc<str>, Gate>,
    workers: JoinSet<()>,
}

/// The gate of a route. Each attempt at one of its events holds it for reading; moving its events to
/// another route holds it for writing, so that no event is attempted on both.
type Gate = Arc<RwLock<()>>;

/// The handle of a route's worker.
struct RouteQueue {
    route: watch::Sender<WorkerRoute>,
    /// The number of attempts in flight.
    delivering: Arc<AtomicU64>,
}

/// The route that a worker delivers for. It changes with the configuration; an attempt keeps the
/// one that it began with.
#[derive(Clone)]
struct WorkerRoute {
    /// `None` if the route is no longer configured: its events wait.
    route: Option<Arc<Route>>,
    /// `true` if an operator paused the route: its events wait.
    paused: bool,
    metrics: Arc<QueueMetrics>,
    activity: Arc<RouteActivity>,
}

impl RouteQueue {
    /// Pauses or resumes the worker, and the route itself for the requests that it gets.
    fn set_paused(&self, paused: bool) {
        self.route.send_if_modified(|current| {
            if let Some(route) = &current.route {
                route.set_paused(paused);
            }
            std::mem::replace(&mut current.paused, paused) != paused
        });
    }
}

impl Queue {
    pub(crate) fn new(
        ledger: Arc<Ledger>,
        client: Arc<Client>,
        cores: Arc<Cores>,
        clock: Clock,
    ) -> Arc<Self> {
        let phase = watch::Sender::new(Phase::Waiting);
        Arc::new(Self {
            ledger,
            client,
            cores,
            clock,
            routes: Mutex::default(),
            phase,
        })
    }

    /// Loads the paused routes from the store. Call this before any route is served, and after
    /// another gateway changed them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn load_paused(&self) -> Result<(), StoreError> {
        let paused: HashSet<Arc<str>> = self
            .store()
            .paused_routes()
            .await?
            .into_iter()
            .map(Into::into)
            .collect();
        let mut routes = self.routes();
        for (name, queue) in &routes.by_route {
            queue.set_paused(paused.contains(name));
        }
        routes.paused = paused;
        Ok(())
    }

    /// Pauses or resumes a route: the delivery of its stored events, and what it does with
    /// requests. A pause survives restarts. Attempts in flight are not affected.
    ///
    /// # Errors
    /// When the change may not be stored. It has no effect then.
    pub(crate) async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        self.store().set_paused(Arc::clone(&route), paused).await?;
        let mut routes = self.routes();
        if let Some(queue) = routes.by_route.get(&route) {
            queue.set_paused(paused);
        }
        if paused {
            routes.paused.insert(route);
        } else {
            routes.paused.remove(&route);
        }
        Ok(())
    }

    /// Returns whether an operator paused the route.
    pub(crate) fn is_paused(&self, route: &str) -> bool {
        self.routes().paused.contains(route)
    }

    /// Starts the delivery. Call this once it is certain that the process keeps running.
    pub(crate) fn start(&self) {
        self.phase.send_replace(Phase::Running);
    }

    /// Replaces the routes to deliver for. Events of other routes wait until their route is back.
    pub(crate) fn update_routes<'a>(
        &self,
        routes: impl Iterator<
            Item = (
                &'a Arc<Route>,
                &'a Arc<QueueMetrics>,
                &'a Arc<RouteActivity>,
            ),
        >,
    ) {
        let mut queues = self.routes();
        let mut store_routes = Vec::new();
        let mut removed: HashSet<_> = queues.by_route.keys().cloned().collect();
        for (route, metrics, activity) in routes {
            removed.remove(&route.name);
            store_routes.push(store::StoreRoute {
                route: Arc::clone(&route.name),
                retain: route.retain,
                horizon: route.retry.horizon,
                concurrency: route.queue_concurrency,
                attempt_timeout: route.attempt_timeout,
            });
            let paused = queues.paused.contains(&route.name);
            route.set_paused(paused);
            let worker_route = WorkerRoute {
                route: Some(Arc::clone(route)),
                paused,
                metrics: Arc::clone(metrics),
                activity: Arc::clone(activity),
            };
            if let Some(queue) = queues.by_route.get(&route.name) {
                queue.route.send_replace(worker_route);
                continue;
            }
            let gate = Arc::clone(queues.gates.entry(Arc::clone(&route.name)).or_default());
            let (queue, worker) = self.new_route_queue(&route.name, worker_route, gate);
            queues.by_route.insert(Arc::clone(&route.name), queue);
            queues.workers.spawn_on(worker.run(), self.cores.idlest());
        }
        for name in removed {
            if let Some(queue) = queues.by_route.get(&name) {
                queue.route.send_modify(|current| current.route = None);
            }
        }
        drop(queues);
        self.store().update_routes(store_routes);
    }

    /// Queues deliveries again, if their payloads are still stored. Returns one result for each.
    ///
    /// # Errors
    /// When they may not be stored.
    pub(crate) async fn redeliver(
        &self,
        requested: &[Redelivery],
    ) -> Result<Vec<RedeliveryResult>, StoreError> {
        self.ledger
            .redeliver(requested, |route| {
                self.route(route)
                    .map_or(Replay::USUAL_WINDOW, |route| route.replay.window)
            })
            .await
    }

    /// Sets the gauges of all routes. Blocks while it queries the store.
    pub(crate) fn update_gauges(&self) {
        let queues: Vec<_> = self
            .routes()
            .by_route
            .iter()
            .map(|(name, queue)| {
                let delivering = queue.delivering.load(Ordering::Relaxed);
                let metrics = Arc::clone(&queue.route.borrow().metrics);
                (Arc::clone(name), metrics, delivering)
            })
            .collect();
        let now = self.clock.wall();
        for (name, metrics, delivering) in queues {
            let (pending, dead) = self.store().queue_counts(&name);
            let oldest = if pending > 0 {
                self.store().oldest_waiting(&name)
            } else {
                None
            };
            metrics.set_depth(
                pending.saturating_sub(delivering),
                delivering,
                dead,
                oldest.map_or(0.0, |at| age_seconds(now, at)),
            );
        }
    }

    /// Begins no more attempts, and waits for those in flight for `grace` at most. Returns whether
    /// all have ended.
    pub(crate) async fn stop(&self, grace: Duration) -> bool {
        self.phase.send_replace(Phase::Stopping);
        let mut workers = std::mem::take(&mut self.routes().workers);
        let all_ended = async { while workers.join_next().await.is_some() {} };
        tokio::time::timeout(grace, all_ended).await.is_ok()
    }

    fn new_route_queue(
        &self,
        name: &Arc<str>,
        route: WorkerRoute,
        gate: Gate,
    ) -> (RouteQueue, route_worker::RouteWorker) {
        let delivering = Arc::new(AtomicU64::new(0));
        let (route, receiver) = watch::channel(route);
        let worker = route_worker::RouteWorker {
            name: Arc::clone(name),
            store: self.store().clone(),
            client: Arc::clone(&self.client),
            clock: self.clock.clone(),
            route: receiver,
            woken: self.store().queue_notifier(name),
            delivering: Arc::clone(&delivering),
            gate,
            phase: self.phase.subscribe(),
        };
        (RouteQueue { route, delivering }, worker)
    }

    fn route(&self, name: &str) -> Option<Arc<Route>> {
        self.routes()
            .by_route
            .get(name)
            .and_then(|queue| queue.route.borrow().route.clone())
    }

    fn store(&self) -> &Store {
        self.ledger.store()
    }

    fn routes(&self) -> MutexGuard<'_, RouteQueues> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the age in seconds, at least 0: the clock may have been set back.
fn age_seconds(now: Timestamp, at: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}
