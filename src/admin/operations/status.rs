//! The current status of routes. It is polled often, and needed most while the store hangs, so all of
//! it is in memory but one thing: the arrival of the oldest waiting event.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::Operations;
use super::routes::ServedRoute;
use crate::activity::{
    Explanation, Incident, LastFailure, MINUTES, MinuteBucket, RefusedRequests, RejectionCount,
    RejectionHistory, RequestCounts,
};
use crate::admin::state::AdminState;
use crate::problems::{WINDOW_MIN, WINDOWS};
use crate::route::DeliveryMode;
use crate::webhooks::ActiveRoute;

/// The current status of a route.
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(in crate::admin) struct RouteStatus {
    pub route: ServedRoute,
    /// The last hour's minutes, the oldest first; the last one is still running.
    pub hour: [MinuteBucket; MINUTES],
    /// The start of the last of these minutes.
    pub minute_began: Timestamp,
    /// The incident of the delivery attempts, if one goes on.
    pub failing: Option<Incident>,
    /// Set if an attempt has succeeded since the last one that failed.
    pub attempt_succeeded: bool,
    /// The incident of the rejected requests, if one goes on.
    pub rejecting: Option<Incident>,
    /// Set if a request was verified since the last one that was rejected.
    pub request_verified: bool,
    /// The last attempt that did not succeed.
    pub last_failure: Option<LastFailure>,
    /// The requests that were refused since the route accepted any.
    pub refused: RefusedRequests,
    /// The longest time that a request of the route may take.
    pub budget: Duration,
    /// The rate over the last minute.
    pub requests_per_second: f64,
    pub pending: u64,
    pub dead: u64,
    /// The arrival of the oldest event that waits in the queue, as the store said it last.
    pub oldest_waiting: Option<Timestamp>,
    pub paused: bool,
    pub expect_every: Option<Duration>,
    pub silent: bool,
    /// The time of the last verified request since the start.
    pub last_verified: Option<Timestamp>,
    /// Rejections in the last hour, the most frequent first.
    pub rejected: Vec<RejectionCount>,
    /// The same for the last minutes that have some.
    pub rejected_lately: Vec<RejectionCount>,
    /// The explanation of the latest request that did not verify.
    pub explanation: Option<Explanation>,
    /// The time from a stored event's arrival after which it is not retried.
    pub retry_horizon: Duration,
    pub secrets: Vec<SecretUse>,
}

/// The use of one of a route's secrets.
pub(in crate::admin) struct SecretUse {
    pub name: Arc<str>,
    pub expires: Option<Timestamp>,
    /// The number of requests that it has verified since the start.
    pub verified: u64,
}

impl Operations {
    /// Returns the current status of all routes, in their order, without what the store knows.
    pub(super) fn route_statuses(&self) -> Vec<RouteStatus> {
        let now = Instant::now();
        let active = self.state.registry.active_routes();
        active
            .iter()
            .filter_map(|active| RouteStatus::read(&self.state, active, now))
            .collect()
    }

    /// Counts the requests of the last hour that matched no route.
    pub(crate) fn unmatched_in_last_hour(&self) -> u64 {
        let unmatched = self.state.activity.unmatched();
        let rejected = unmatched.rejections.last_hour(Instant::now());
        rejected.iter().map(|rejected| rejected.count).sum()
    }
}

impl RouteStatus {
    /// Reads a route's status, without what the store knows.
    fn read(state: &AdminState, active: &ActiveRoute, now: Instant) -> Option<Self> {
        let name = &*active.route.name;
        let activity = state.activity.route(name)?;
        activity.sample(now);
        let sender = activity.sender.as_ref()?;
        let wall = Timestamp::now();
        let paused = state.queue.is_paused(name);
        let is_proxy = active.route.delivery_mode == DeliveryMode::Proxy;
        if active.route.active && !(is_proxy && paused) {
            sender.history.accepts_requests();
        }
        let explanation = activity.explanations.latest().filter(|explanation| {
            wall.duration_since(explanation.at) < SignedDuration::from_hours(1)
        });
        let hour = sender.history.last_hour(now);
        let metrics = sender.history.metrics();
        let (pending, dead) = state.store.queue_counts(name);
        let secrets = active
            .route
            .verifier
            .secrets()
            .map(|(name, expires)| SecretUse {
                name: Arc::clone(name),
                expires,
                verified: metrics.verified_with(name),
            });
        Some(Self {
            requests_per_second: rate(&hour, sender.history.elapsed_part_of_minute(now)),
            hour,
            pending,
            dead,
            oldest_waiting: None,
            paused,
            expect_every: sender.idle.expected_every(),
            silent: sender.idle.is_idle(now),
            last_verified: metrics.last_verified(),
            rejected: activity.rejections.last_hour(now),
            explanation,
            rejected_lately: rejected_lately(&activity.rejections, now),
            retry_horizon: active.route.retry.horizon,
            minute_began: sender.history.minute_began(now),
            failing: sender.history.failing_attempts(now),
            attempt_succeeded: sender.history.has_attempt_succeeded(),
            rejecting: sender.history.rejected_requests(now),
            request_verified: sender.history.has_verified(),
            last_failure: sender.history.failed_attempts.last(),
            refused: sender.history.refused_requests(),
            budget: active.route.budget.total,
            secrets: secrets.collect(),
            route: active.into(),
        })
    }

    /// Sums up the requests of the last hour.
    pub(in crate::admin) fn requests(&self) -> RequestCounts {
        sum(&self.hour)
    }
}

/// Returns the rejections of as few of the last minutes as have enough of them.
fn rejected_lately(rejections: &RejectionHistory, now: Instant) -> Vec<RejectionCount> {
    let mut counts = Vec::new();
    for minutes in WINDOWS {
        counts = rejections.last_minutes(minutes, now);
        if counts.iter().map(|group| group.count).sum::<u64>() >= WINDOW_MIN {
            break;
        }
    }
    counts
}

fn sum(minutes: &[MinuteBucket]) -> RequestCounts {
    let mut all = RequestCounts::default();
    for minute in minutes {
        all += minute.requests;
    }
    all
}

/// Returns the requests per second over the last sixty seconds. The requests of the minute before
/// the running one count in part, as if they had arrived evenly.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn rate(hour: &[MinuteBucket; MINUTES], part_of_minute: f64) -> f64 {
    let [.., before, current] = hour;
    let requests =
        current.requests.total() as f64 + before.requests.total() as f64 * (1.0 - part_of_minute);
    requests / 60.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_includes_part_of_the_previous_minute() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        hour[MINUTES - 2].requests.accepted = 120;
        hour[MINUTES - 1].requests.rejected = 30;
        assert!((rate(&hour, 0.25) - 2.0).abs() < 1e-9);
        assert!((rate(&hour, 1.0) - 0.5).abs() < 1e-9);
    }
}
