//! What only the store knows of the routes' problems, read within a time limit.
//!
//! The list of problems is needed most while the store hangs. So one read asks the store at a time,
//! nobody waits for it for longer than [`WAIT_MAX`], and until it ends its last answer counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::timeout_at;

use super::removed::removed_routes;
use super::status::RouteStatus;
use crate::admin::error::OperationError;
use crate::admin::state::AdminState;
use crate::problems::{RemovedRoute, Undelivered};
use crate::route::DeliveryMode;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState, StoreError};

/// The time for which a report waits for the store.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The time after which a store that has not answered is a problem. More than a statement may take:
/// a read waits its turn among the operators' queries.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// The highest number of deliveries that the store counts.
const COUNTED_MAX: u64 = 10_000;

/// The facts, as the store said them last.
#[derive(Debug, Clone, Default)]
pub(super) struct StoredFacts {
    /// The arrivals of the oldest events that wait, by route.
    pub oldest_waiting: HashMap<Arc<str>, Timestamp>,
    /// The last successful deliveries of the routes that were asked for.
    pub last_success: HashMap<Arc<str>, Timestamp>,
    undelivered: HashMap<Arc<str>, Undelivered>,
    pub removed: Vec<RemovedRoute>,
}

impl StoredFacts {
    /// Returns the events of a route's incident that only their provider has.
    pub(super) fn undelivered(&self, route: &str) -> Undelivered {
        self.undelivered.get(route).copied().unwrap_or_default()
    }
}

/// The way to ask the store.
pub(super) struct StoreReader {
    state: AdminState,
    /// Held by the read in progress.
    reading: Arc<Mutex<()>>,
    answer: StdMutex<Answer>,
}

#[derive(Default)]
struct Answer {
    facts: Arc<StoredFacts>,
    /// The start of the read in progress.
    asked: Option<Instant>,
    /// The last read failed.
    failed: bool,
}

/// The routes to ask for.
struct Question {
    waiting: Vec<Arc<str>>,
    /// Those whose attempts fail, or whose requests are rejected and none was verified since the
    /// start.
    last_success: Vec<Arc<str>>,
    failing: Vec<FailingRoute>,
}

/// A route whose attempts fail.
struct FailingRoute {
    name: Arc<str>,
    /// The first event of the incident arrived at this time or later.
    since: Option<Timestamp>,
}

impl StoreReader {
    pub(super) fn new(state: AdminState) -> Self {
        Self {
            state,
            reading: Arc::default(),
            answer: StdMutex::default(),
        }
    }

    /// Asks the store about these routes. Returns its last answer, which is an earlier one if it
    /// takes too long.
    pub(super) async fn read(self: &Arc<Self>, statuses: &[RouteStatus]) -> Arc<StoredFacts> {
        let names = |is_asked: fn(&&RouteStatus) -> bool| {
            let asked = statuses.iter().filter(is_asked);
            asked.map(|status| Arc::clone(&status.route.name)).collect()
        };
        let question = Question {
            waiting: names(|status| status.pending > 0),
            last_success: names(|status| {
                status.failing.is_some()
                    || status.rejecting.is_some() && status.last_verified.is_none()
            }),
            failing: statuses.iter().filter_map(failing_route).collect(),
        };
        let deadline = tokio::time::Instant::now() + WAIT_MAX;
        let reading = Arc::clone(&self.reading).lock_owned();
        if let Ok(held) = timeout_at(deadline, reading).await {
            self.answer().asked = Some(Instant::now());
            let reader = Arc::clone(self);
            // A task of its own: it goes on when nobody waits for it any more, so that the next one
            // does not hang beside it.
            let asking = tokio::spawn(async move {
                let read = reader.ask(question).await;
                let mut answer = reader.answer();
                answer.asked = None;
                answer.failed = read.is_err();
                if let Ok(facts) = read {
                    answer.facts = Arc::new(facts);
                }
                drop(held);
            });
            let _ = timeout_at(deadline, asking).await;
        }
        Arc::clone(&self.answer().facts)
    }

    /// Returns why the store cannot be used, if that is so.
    pub(super) fn trouble(&self) -> Option<String> {
        if let Err(error) = self.state.store.check_open() {
            return Some(error.to_string());
        }
        let answer = self.answer();
        let silent = answer.asked.map_or(Duration::ZERO, |at| at.elapsed());
        if silent >= HANGS_AFTER {
            return Some(format!(
                "the store has not responded for {} s",
                silent.as_secs()
            ));
        }
        answer.failed.then(|| "the store cannot be read".to_owned())
    }

    async fn ask(&self, question: Question) -> Result<StoredFacts, OperationError> {
        let store = self.state.store.clone();
        let oldest_waiting = spawn_blocking(move || {
            let routes = question.waiting.into_iter();
            routes
                .filter_map(|route| Some((Arc::clone(&route), store.oldest_waiting(&route)?)))
                .collect()
        });
        let oldest_waiting = oldest_waiting.await.map_err(|_| StoreError::Unavailable)?;
        let mut last_success = HashMap::new();
        for route in question.last_success {
            let stats = self.state.store.route_stats(Arc::clone(&route), i64::MAX);
            if let Some(at) = stats.await?.last_success {
                last_success.insert(route, at);
            }
        }
        let mut undelivered = HashMap::new();
        for route in question.failing {
            let found = self.undelivered(&route).await?;
            undelivered.insert(route.name, found);
        }
        Ok(StoredFacts {
            oldest_waiting,
            last_success,
            undelivered,
            removed: removed_routes(&self.state).await?,
        })
    }

    /// Returns the events of a route's incident that only their provider has.
    async fn undelivered(&self, route: &FailingRoute) -> Result<Undelivered, StoreError> {
        let store = &self.state.store;
        let filter = DeliveryFilter {
            route: Some(route.name.to_string()),
            state: Some(DeliveryState::Failed),
            since: route.since,
            ..DeliveryFilter::default()
        };
        let oldest = store
            .matching_deliveries(filter.clone(), DeliveryId(0), 1)
            .await?;
        let Some((oldest, _)) = oldest.first() else {
            return Ok(Undelivered::default());
        };
        let oldest = store.delivery(*oldest).await?;
        let count = store.count_deliveries(filter).await?;
        Ok(Undelivered {
            events: count.map_or(COUNTED_MAX, |count| count as u64),
            oldest: oldest.map(|delivery| delivery.received_at),
        })
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failing_route(status: &RouteStatus) -> Option<FailingRoute> {
    // Senders to a queue got an answer: their events are the gateway's.
    let is_queue = status.route.delivery_mode == DeliveryMode::Queue;
    let incident = status.failing.filter(|_| !is_queue)?;
    Some(FailingRoute {
        name: Arc::clone(&status.route.name),
        // The first one arrived before its attempt began.
        since: incident.began.checked_sub(status.budget).ok(),
    })
}
