//! Stored events on their way to their upstreams: a lane for each route, none of which waits for another.
//!
//! Owns when an event is tried, how often, and when it is given up. The events themselves stay on disk: a lane holds in
//! memory what is being tried at this moment and nothing else, however many wait. It sleeps until an event is stored,
//! an attempt ends, or a pause is over.

mod attempt;
mod route_worker;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::clock::Clock;
use crate::ledger::{Ledger, Redelivery, RedeliveryResult};
use crate::metrics::QueueMetrics;
use crate::route::{Replay, Route};
use crate::store::{self, Store, StoreError};
use crate::upstream::Client;

/// The dispatcher.
pub struct Queue {
    ledger: Arc<Ledger>,
    client: Arc<Client>,
    clock: Clock,
    lanes: Mutex<RouteQueues>,
    phase: watch::Sender<Phase>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Running,
    /// No attempt begins any more.
    Stopping,
}

#[derive(Default)]
struct RouteQueues {
    by_route: HashMap<Arc<str>, RouteQueue>,
    /// Routes whose events wait until an operator says otherwise.
    paused: HashSet<Arc<str>>,
    running: JoinSet<()>,
}

/// A route's lane, from outside.
struct RouteQueue {
    route: watch::Sender<WorkerRoute>,
    /// Attempts under way.
    delivering: Arc<AtomicU64>,
}

/// What a lane works with. Changes with the configuration; attempts end with what they began with.
#[derive(Clone)]
struct WorkerRoute {
    /// `None` when the route is no longer configured: its events wait.
    route: Option<Arc<Route>>,
    /// An operator wants its events to wait.
    paused: bool,
    metrics: QueueMetrics,
}

impl Queue {
    pub fn new(ledger: Arc<Ledger>, client: Arc<Client>, clock: Clock) -> Arc<Self> {
        let phase = watch::Sender::new(Phase::Waiting);
        Arc::new(Self {
            ledger,
            client,
            clock,
            lanes: Mutex::default(),
            phase,
        })
    }

    /// Learns which routes are paused. To be called before any is served, and when another gateway was told to pause one.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn load_paused(&self) -> Result<(), StoreError> {
        let paused: HashSet<Arc<str>> = self
            .store()
            .paused_routes()
            .await?
            .into_iter()
            .map(Into::into)
            .collect();
        let mut lanes = self.lanes();
        for (name, lane) in &lanes.by_route {
            let now = paused.contains(name);
            lane.route
                .send_if_modified(|serving| std::mem::replace(&mut serving.paused, now) != now);
        }
        lanes.paused = paused;
        Ok(())
    }

    /// Lets a route's stored events wait, through restarts too, or has them delivered again. Attempts under way end as they
    /// will.
    ///
    /// # Errors
    /// When that is not certain to be kept; it has no effect then.
    pub async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        self.store().set_paused(Arc::clone(&route), paused).await?;
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.by_route.get(&route) {
            lane.route.send_modify(|serving| serving.paused = paused);
        }
        if paused {
            lanes.paused.insert(route);
        } else {
            lanes.paused.remove(&route);
        }
        Ok(())
    }

    /// Whether a route's stored events wait until an operator says otherwise.
    pub fn is_paused(&self, route: &str) -> bool {
        self.lanes().paused.contains(route)
    }

    /// Begins to deliver: when it is certain that we go on running.
    pub fn start(&self) {
        self.phase.send_replace(Phase::Running);
    }

    /// Delivers for these routes from now on. Events of others wait until their route is back.
    pub fn update_routes<'a>(
        &self,
        routes: impl Iterator<Item = (&'a Arc<Route>, &'a QueueMetrics)>,
    ) {
        let mut lanes = self.lanes();
        let mut told = Vec::new();
        let mut gone: HashSet<_> = lanes.by_route.keys().cloned().collect();
        for (route, metrics) in routes {
            gone.remove(&route.name);
            told.push(store::StoreRoute {
                route: Arc::clone(&route.name),
                retain: route.retain,
                concurrency: route.queue_concurrency,
            });
            let paused = lanes.paused.contains(&route.name);
            let serving = WorkerRoute {
                route: Some(Arc::clone(route)),
                paused,
                metrics: metrics.clone(),
            };
            if let Some(lane) = lanes.by_route.get(&route.name) {
                lane.route.send_replace(serving);
                continue;
            }
            let (lane, runs) = self.open(&route.name, serving);
            lanes.by_route.insert(Arc::clone(&route.name), lane);
            lanes.running.spawn(runs.run());
        }
        for name in gone {
            if let Some(lane) = lanes.by_route.get(&name) {
                lane.route.send_modify(|serving| serving.route = None);
            }
        }
        drop(lanes);
        self.store().update_routes(told);
    }

    /// Tries stored events again, or those whose payload was kept. Answers for each what becomes of it.
    ///
    /// # Errors
    /// When it is not certain that they are stored.
    pub async fn redeliver(
        &self,
        wanted: &[Redelivery],
    ) -> Result<Vec<RedeliveryResult>, StoreError> {
        let window_of = |route: &str| {
            self.route(route)
                .map_or(Replay::USUAL_WINDOW, |route| route.replay.window)
        };
        self.ledger.redeliver(wanted, window_of).await
    }

    /// Sets the gauges of all lanes. Blocks for look-ups.
    pub fn update_gauges(&self) {
        let lanes: Vec<_> = self
            .lanes()
            .by_route
            .iter()
            .map(|(name, lane)| {
                let delivering = lane.delivering.load(Ordering::Relaxed);
                (
                    Arc::clone(name),
                    lane.route.borrow().metrics.clone(),
                    delivering,
                )
            })
            .collect();
        let now = self.clock.wall();
        for (name, metrics, delivering) in lanes {
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
                oldest.map_or(0.0, |at| age(now, at)),
            );
        }
    }

    /// Begins no more attempts, and waits for those under way until `grace` is over. Answers whether all have ended.
    pub async fn stop(&self, grace: Duration) -> bool {
        self.phase.send_replace(Phase::Stopping);
        let mut running = std::mem::take(&mut self.lanes().running);
        let all = async { while running.join_next().await.is_some() {} };
        tokio::time::timeout(grace, all).await.is_ok()
    }

    fn open(
        &self,
        name: &Arc<str>,
        serving: WorkerRoute,
    ) -> (RouteQueue, route_worker::RouteWorker) {
        let delivering = Arc::new(AtomicU64::new(0));
        let (serving, served) = watch::channel(serving);
        let running = route_worker::RouteWorker {
            name: Arc::clone(name),
            store: self.store().clone(),
            client: Arc::clone(&self.client),
            clock: self.clock.clone(),
            serving: served,
            woken: self.store().queue_notifier(name),
            delivering: Arc::clone(&delivering),
            phase: self.phase.subscribe(),
        };
        (
            RouteQueue {
                route: serving,
                delivering,
            },
            running,
        )
    }

    fn route(&self, name: &str) -> Option<Arc<Route>> {
        self.lanes()
            .by_route
            .get(name)
            .and_then(|lane| lane.route.borrow().route.clone())
    }

    fn store(&self) -> &Store {
        self.ledger.store()
    }

    fn lanes(&self) -> MutexGuard<'_, RouteQueues> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds, and none below zero: a clock may have been set back.
fn age(now: Timestamp, at: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64().max(0.0)
}
