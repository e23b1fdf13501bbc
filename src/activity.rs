//! The recent activity of each route beside its metrics: rejected requests and why they were
//! rejected, the time of the last verified event, and the requests of the last hour.
//!
//! The activity is kept in memory and is bounded. That of routes that stay survives a reload. A
//! request writes only to the activity of its own route.

mod captures;
mod explanations;
mod failed_attempts;
mod familiar_clients;
mod idle_sender;
mod rejections;
mod request_history;
mod streak;

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::metrics::RouteMetrics;

pub(crate) use captures::{
    CAPTURED_BYTES_MAX, CaptureHistory, CaptureLimits, CapturedRequest, SentHeader,
};
pub(crate) use explanations::{Explanation, Explanations};
pub(crate) use failed_attempts::{FailedAttempt, LastFailure};
pub(crate) use familiar_clients::FamiliarClients;
pub(crate) use idle_sender::IdleSender;
pub(crate) use rejections::{
    Rejection, RejectionCount, RejectionHistory, RejectionId, RejectionKind,
};
pub(crate) use request_history::{
    MINUTES, MinuteBucket, RefusedRequests, RequestCounts, RequestHistory,
};
pub(crate) use streak::Incident;

/// The activity of all active routes, and of the requests that match no route.
pub struct Activity {
    routes: Mutex<RouteActivities>,
    unmatched: Arc<RouteActivity>,
    /// The bytes that the captured requests of all routes hold.
    captured_bytes: Arc<AtomicUsize>,
}

#[derive(Default)]
struct RouteActivities {
    in_order: Vec<Arc<RouteActivity>>,
    by_route: HashMap<Arc<str>, Arc<RouteActivity>>,
}

/// A route whose activity is tracked.
pub struct TrackedRoute<'r> {
    pub route: &'r Arc<str>,
    /// The longest time between two verified events before the sender counts as idle.
    pub expect_every: Option<Duration>,
    /// The bounds of the rejected requests that are captured; `None` if none are.
    pub capture: Option<CaptureLimits>,
    pub metrics: &'r Arc<RouteMetrics>,
}

/// The activity of one route, or of the requests that match no route.
pub struct RouteActivity {
    /// The route's name. `None` for requests that match no route.
    pub route: Option<Arc<str>>,
    pub rejections: RejectionHistory,
    pub explanations: Explanations,
    pub captures: CaptureHistory,
    /// `None` for requests that match no route.
    pub sender: Option<SenderActivity>,
}

/// The part of the activity that only routes have.
pub struct SenderActivity {
    pub idle: IdleSender,
    pub history: RequestHistory,
    pub clients: FamiliarClients,
}

impl Activity {
    /// Creates the activity without any routes. `now` is the start of the process.
    pub fn new(now: Instant) -> Arc<Self> {
        let captured_bytes = Arc::default();
        Arc::new(Self {
            routes: Mutex::default(),
            unmatched: Arc::new(RouteActivity {
                route: None,
                rejections: RejectionHistory::new(now),
                explanations: Explanations::default(),
                captures: CaptureHistory::new(Arc::clone(&captured_bytes)),
                sender: None,
            }),
            captured_bytes,
        })
    }

    /// Replaces the tracked routes, and returns their activities in the same order. Keeps the
    /// activity of routes that stay, and forgets that of others.
    pub fn update_routes<'r>(
        &self,
        tracked: impl IntoIterator<Item = TrackedRoute<'r>>,
        now: Instant,
        wall: Timestamp,
    ) -> Vec<Arc<RouteActivity>> {
        let mut routes = self.routes();
        let mut updated = RouteActivities::default();
        for tracked in tracked {
            let activity = match routes.by_route.get(tracked.route) {
                Some(kept) => Arc::clone(kept),
                None => {
                    let captures = CaptureHistory::new(Arc::clone(&self.captured_bytes));
                    Arc::new(RouteActivity::new(&tracked, captures, now, wall))
                }
            };
            activity.captures.set_limits(tracked.capture, now);
            if let Some(sender) = &activity.sender {
                sender.idle.expect(tracked.expect_every);
                sender.history.read_from(Arc::clone(tracked.metrics));
            }
            updated
                .by_route
                .insert(Arc::clone(tracked.route), Arc::clone(&activity));
            updated.in_order.push(activity);
        }
        *routes = updated;
        routes.in_order.clone()
    }

    /// Returns the activity of requests that match no route.
    pub fn unmatched(&self) -> &RouteActivity {
        &self.unmatched
    }

    /// Returns the activity of the route of this name, if it is active.
    pub fn route(&self, name: &str) -> Option<Arc<RouteActivity>> {
        self.routes().by_route.get(name).map(Arc::clone)
    }

    /// Returns all activities in the order of the routes, with that of unmatched requests last.
    pub fn all(&self) -> Vec<Arc<RouteActivity>> {
        self.routes()
            .in_order
            .iter()
            .chain([&self.unmatched])
            .map(Arc::clone)
            .collect()
    }

    /// Samples the counters of all routes, sets the gauges of idle senders, and logs senders that
    /// have become idle or active. Call this several times a minute, and before the activity is
    /// read.
    pub fn sample(&self, now: Instant) {
        for activity in &self.routes().in_order {
            activity.sample(now);
        }
    }

    fn routes(&self) -> MutexGuard<'_, RouteActivities> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteActivity {
    /// Samples the counters of this route, as [`Activity::sample`] does for all.
    pub fn sample(&self, now: Instant) {
        self.captures.sample(now);
        let (Some(route), Some(sender)) = (&self.route, &self.sender) else {
            return;
        };
        sender.history.sample(now, &self.rejections);
        if let Some(change) = sender.idle.sample(now) {
            change.log(route, sender.idle.expected_every());
        }
    }

    fn new(
        tracked: &TrackedRoute<'_>,
        captures: CaptureHistory,
        now: Instant,
        wall: Timestamp,
    ) -> Self {
        Self {
            route: Some(Arc::clone(tracked.route)),
            rejections: RejectionHistory::new(now),
            explanations: Explanations::default(),
            captures,
            sender: Some(SenderActivity {
                idle: IdleSender::new(now, tracked.metrics.silent.clone()),
                history: RequestHistory::new(Arc::clone(tracked.metrics), now, wall),
                clients: FamiliarClients::default(),
            }),
        }
    }
}
