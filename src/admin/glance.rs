//! How the routes stand at this moment. Looked at often, so the disk is asked for the age of what waits and nothing else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::AdminState;
use super::operations::ServedRoute;
use crate::activity::{MINUTES, MinuteBucket, RejectionCount, RequestCounts, RouteActivity};
use crate::webhooks::ActiveRoute;

/// One route.
pub(super) struct Glance {
    pub route: ServedRoute,
    /// The oldest minute first; the last is not over.
    pub hour: [MinuteBucket; MINUTES],
    /// Over the last minute.
    pub requests_per_second: f64,
    pub pending: u64,
    pub dead: u64,
    /// When the oldest event arrived that waits.
    pub oldest_waiting: Option<Timestamp>,
    pub paused: bool,
    pub expect_every: Option<Duration>,
    pub silent: bool,
    /// Since the start.
    pub last_verified: Option<Timestamp>,
    /// In the last hour, the most frequent kind first.
    pub rejected: Vec<RejectionCount>,
    pub secrets: Vec<SecretUse>,
}

/// One of a route's secrets.
pub(super) struct SecretUse {
    pub name: Arc<str>,
    pub expires: Option<Timestamp>,
    /// Requests that it has verified since the start.
    pub verified: u64,
}

impl Glance {
    /// Of all routes, in their order. Blocks.
    pub(super) fn at_all(subject: &AdminState) -> Vec<Self> {
        let now = Instant::now();
        subject
            .registry
            .active_routes()
            .iter()
            .filter_map(|served| Self::at(subject, served, now))
            .collect()
    }

    /// Of the route of this name, if it is served. Blocks.
    pub(super) fn at_one(subject: &AdminState, name: &str) -> Option<Self> {
        let served = subject.registry.active_routes();
        let served = served.iter().find(|served| *served.route.name == *name)?;
        Self::at(subject, served, Instant::now())
    }

    fn at(subject: &AdminState, served: &ActiveRoute, now: Instant) -> Option<Self> {
        let name = &*served.route.name;
        let watched: Arc<RouteActivity> = subject.watch.route(name)?;
        watched.sample(now);
        let heard = watched.sender.as_ref()?;
        let hour = heard.history.last_hour(now);
        let metrics = heard.history.metrics();
        let (pending, dead) = subject.store.queue_counts(name);
        let secrets = served
            .route
            .verifier
            .secrets()
            .map(|(name, expires)| SecretUse {
                name: Arc::clone(name),
                expires,
                verified: metrics.verified_with(name),
            });
        Some(Self {
            requests_per_second: rate(&hour, heard.history.elapsed_part_of_minute(now)),
            hour,
            pending,
            dead,
            oldest_waiting: if pending > 0 {
                subject.store.oldest_waiting(name)
            } else {
                None
            },
            paused: subject.queue.is_paused(name),
            expect_every: heard.idle.expected_every(),
            silent: heard.idle.is_idle(now),
            last_verified: metrics.last_verified(),
            rejected: watched.rejections.last_hour(now),
            secrets: secrets.collect(),
            route: ServedRoute::of(served),
        })
    }

    /// The whole hour's.
    pub(super) fn requests(&self) -> RequestCounts {
        sum(&self.hour)
    }

    /// What was asked for in the last five minutes, and the attempts at handing it over: that succeeded, and that did not.
    pub(super) fn lately(&self) -> (RequestCounts, u64, u64) {
        let lately = &self.hour[MINUTES - 5..];
        let succeeded = lately.iter().map(|minute| minute.attempts_succeeded).sum();
        let failed = lately.iter().map(|minute| minute.attempts_failed).sum();
        (sum(lately), succeeded, failed)
    }
}

fn sum(minutes: &[MinuteBucket]) -> RequestCounts {
    let mut all = RequestCounts::default();
    for minute in minutes {
        all += minute.requests;
    }
    all
}

/// Requests in a second over the last sixty, as if those of the minute before had come evenly.
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
    fn a_minute_s_rate_takes_what_is_missing_from_the_minute_before() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        hour[MINUTES - 2].requests.accepted = 120;
        hour[MINUTES - 1].requests.rejected = 30;
        assert!((rate(&hour, 0.25) - 2.0).abs() < 1e-9);
        assert!((rate(&hour, 1.0) - 0.5).abs() < 1e-9);
    }
}
