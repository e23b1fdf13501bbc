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
use crate::problems::RemovedRoute;
use crate::store::StoreError;

/// The time for which a report waits for the store.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The time after which a store that has not answered is a problem. Other reads take milliseconds.
const HANGS_AFTER: Duration = Duration::from_secs(3);

/// The facts, as the store said them last.
#[derive(Debug, Clone, Default)]
pub(super) struct StoredFacts {
    /// The arrivals of the oldest events that wait, by route.
    pub oldest_waiting: HashMap<Arc<str>, Timestamp>,
    /// The last successful deliveries of the routes whose attempts fail.
    pub last_success: HashMap<Arc<str>, Timestamp>,
    pub removed: Vec<RemovedRoute>,
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
    failing: Vec<Arc<str>>,
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
            failing: names(|status| status.failing.is_some()),
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
        for route in question.failing {
            let stats = self.state.store.route_stats(Arc::clone(&route), i64::MAX);
            if let Some(at) = stats.await?.last_success {
                last_success.insert(route, at);
            }
        }
        Ok(StoredFacts {
            oldest_waiting,
            last_success,
            removed: removed_routes(&self.state).await?,
        })
    }

    fn answer(&self) -> MutexGuard<'_, Answer> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
