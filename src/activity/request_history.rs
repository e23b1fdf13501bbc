//! The requests of a route by disposition, per minute over the last hour.
//!
//! Sampled from the route's counters, so that requests do no work for it. Minutes without requests
//! take no room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::metrics::{RouteCounters, RouteMetrics};
use crate::outcome::{Code, Disposition};

/// The number of minutes that are kept, including the current one.
pub(crate) const MINUTES: usize = 60;
const MINUTE_SECONDS: u64 = 60;

/// The request history of a route.
pub struct RequestHistory {
    since: Instant,
    state: Mutex<State>,
}

struct State {
    metrics: Arc<RouteMetrics>,
    last: RouteCounters,
    /// The number of each minute with its counts, the oldest first.
    minutes: VecDeque<(u64, MinuteBucket)>,
    /// The requests by duration in the last of `minutes`.
    durations: Vec<u64>,
}

/// The counts of one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MinuteBucket {
    pub requests: RequestCounts,
    /// Delivery attempts that were answered with 2xx, whether a sender waited for them or not.
    pub attempts_succeeded: u64,
    /// All other delivery attempts.
    pub attempts_failed: u64,
    /// The estimated 95th percentile of the request durations, in seconds. `None` without requests.
    pub p95_seconds: Option<f64>,
}

/// The requests by disposition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    pub accepted: u64,
    pub failed: u64,
    pub duplicate: u64,
    pub skipped: u64,
    pub rejected: u64,
}

impl RequestCounts {
    pub fn total(self) -> u64 {
        self.accepted + self.failed + self.duplicate + self.skipped + self.rejected
    }

    fn add(&mut self, code: Code, count: u64) {
        *match code.disposition() {
            Disposition::Accepted => &mut self.accepted,
            Disposition::Failed => &mut self.failed,
            Disposition::Duplicate => &mut self.duplicate,
            Disposition::Skipped => &mut self.skipped,
            Disposition::Rejected => &mut self.rejected,
        } += count;
    }
}

impl std::ops::AddAssign for RequestCounts {
    fn add_assign(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.failed += other.failed;
        self.duplicate += other.duplicate;
        self.skipped += other.skipped;
        self.rejected += other.rejected;
    }
}

impl RequestHistory {
    pub(super) fn new(metrics: Arc<RouteMetrics>, since: Instant) -> Self {
        let (last, minutes) = (metrics.sample(), VecDeque::new());
        Self {
            since,
            state: Mutex::new(State {
                metrics,
                last,
                minutes,
                durations: Vec::new(),
            }),
        }
    }

    /// Replaces the metrics that are sampled. Their counters must continue the previous ones.
    pub(super) fn read_from(&self, metrics: Arc<RouteMetrics>) {
        self.state().metrics = metrics;
    }

    /// Samples the counters, and adds their increase to the minute of `now`.
    pub(super) fn sample(&self, now: Instant) {
        let minute = self.minute(now);
        let mut state = self.state();
        let reading = state.metrics.sample();
        state.add(reading, minute);
    }

    /// Returns the last hour, the oldest minute first. The last minute is not over.
    pub fn last_hour(&self, now: Instant) -> [MinuteBucket; MINUTES] {
        let newest = self.minute(now);
        let mut hour = [MinuteBucket::default(); MINUTES];
        for (number, minute) in &self.state().minutes {
            let ago = usize::try_from(newest.saturating_sub(*number)).unwrap_or(usize::MAX);
            if let Some(index) = (MINUTES - 1).checked_sub(ago) {
                hour[index] = *minute;
            }
        }
        hour
    }

    /// Returns the metrics that are sampled.
    pub fn metrics(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.state().metrics)
    }

    /// Returns the elapsed part of the minute of `now`, from 0 to 1.
    pub fn elapsed_part_of_minute(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        (seconds / 60.0).fract()
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / MINUTE_SECONDS
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Adds the increase since the last sample to the minute of this number.
    fn add(&mut self, reading: RouteCounters, number: u64) {
        if reading == self.last {
            return;
        }
        if self.minutes.back().is_none_or(|(last, _)| *last < number) {
            self.minutes.push_back((number, MinuteBucket::default()));
            self.durations = vec![0; reading.durations.len()];
            if self.minutes.len() > MINUTES {
                self.minutes.pop_front();
            }
        }
        let Some((_, minute)) = self.minutes.back_mut() else {
            return;
        };
        for (code, (now, before)) in Code::ALL
            .into_iter()
            .zip(reading.requests.iter().zip(&self.last.requests))
        {
            minute.requests.add(code, now.saturating_sub(*before));
        }
        minute.attempts_succeeded += reading
            .attempts_succeeded
            .saturating_sub(self.last.attempts_succeeded);
        minute.attempts_failed += reading
            .attempts_failed
            .saturating_sub(self.last.attempts_failed);
        for (sum, (now, before)) in self
            .durations
            .iter_mut()
            .zip(reading.durations.iter().zip(&self.last.durations))
        {
            *sum += now.saturating_sub(*before);
        }
        minute.p95_seconds = quantile(0.95, &self.durations, RouteMetrics::DURATION_BOUNDS);
        self.last = reading;
    }
}

/// Estimates a quantile of a histogram like Prometheus' `histogram_quantile`: values are evenly
/// distributed within a bucket, and values above the last bound count as that bound.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn quantile(quantile: f64, buckets: &[u64], bounds: &[f64]) -> Option<f64> {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = quantile * total as f64;
    let mut below = 0.0;
    for (index, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if below + count >= rank && count > 0.0 {
            let lower = index.checked_sub(1).map_or(0.0, |before| bounds[before]);
            let upper = *bounds.get(index).or(bounds.last())?;
            return Some(lower.min(upper) + (upper - lower.min(upper)) * (rank - below) / count);
        }
        below += count;
    }
    bounds.last().copied()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;

    use super::*;
    use crate::metrics::{Metrics, UpstreamResult};

    struct Route {
        _registry: Metrics,
        metrics: Arc<RouteMetrics>,
        history: RequestHistory,
    }

    fn route() -> Route {
        let registry = Metrics::new().unwrap();
        let metrics = Arc::new(registry.register_route(&"billing".into(), [].iter()));
        let history = RequestHistory::new(Arc::clone(&metrics), Instant::now());
        Route {
            _registry: registry,
            metrics,
            history,
        }
    }

    impl Route {
        fn count(&self, code: Code, times: usize) {
            for _ in 0..times {
                self.metrics.requests.count_response(code, StatusCode::OK);
            }
        }

        fn at(&self, second: u64) -> Instant {
            self.history.since + Duration::from_secs(second)
        }

        fn sample(&self, second: u64) {
            self.history.sample(self.at(second));
        }
    }

    #[test]
    fn increase_belongs_to_the_minute_of_its_sample() {
        let route = route();
        route.count(Code::Delivered, 3);
        route.sample(5);
        route.count(Code::Queued, 1);
        route.count(Code::InvalidSignature, 7);
        route.sample(59);
        route.sample(60);
        route.count(Code::Duplicate, 2);
        route.count(Code::BudgetExceeded, 4);
        route
            .metrics
            .record_attempt(UpstreamResult::Success, None, 0.1);
        route
            .metrics
            .record_attempt(UpstreamResult::Timeout, None, 0.1);
        route.sample(125);
        let hour = route.history.last_hour(route.at(130));
        let first = RequestCounts {
            accepted: 4,
            rejected: 7,
            ..RequestCounts::default()
        };
        assert_eq!(
            (hour[57].requests, hour[58]),
            (first, MinuteBucket::default())
        );
        assert_eq!(
            hour[59].requests,
            RequestCounts {
                duplicate: 2,
                failed: 4,
                ..RequestCounts::default()
            }
        );
        assert_eq!(
            (hour[59].attempts_succeeded, hour[59].attempts_failed),
            (1, 1)
        );
        let later = route.history.last_hour(route.at(59 * 60));
        assert_eq!((later[0].requests, later[2].requests.total()), (first, 6));
        assert!(
            route
                .history
                .last_hour(route.at(2 * 3600))
                .iter()
                .all(|minute| *minute == MinuteBucket::default())
        );
    }

    #[test]
    fn history_keeps_one_hour() {
        let route = route();
        for minute in 0..200 {
            route.count(Code::Delivered, 1);
            route.sample(minute * 60);
        }
        assert_eq!(route.history.state().minutes.len(), MINUTES);
        let hour = route.history.last_hour(route.at(199 * 60));
        assert!(hour.iter().all(|minute| minute.requests.accepted == 1));
    }

    #[test]
    fn quantile_lies_between_the_bounds_of_its_bucket() {
        let bounds = [0.1, 0.5, 1.0];
        assert_eq!(quantile(0.95, &[0, 0, 0, 0], &bounds), None);
        let near = |found: Option<f64>, expected: f64| {
            found.is_some_and(|found| (found - expected).abs() < 1e-9)
        };
        assert!(near(quantile(0.95, &[100, 0, 0, 0], &bounds), 0.095));
        assert!(near(quantile(0.95, &[90, 10, 0, 0], &bounds), 0.3));
        assert!(near(quantile(0.95, &[0, 0, 0, 9], &bounds), 1.0));
    }

    #[test]
    fn durations_are_read_from_the_routes_histogram() {
        let route = route();
        for _ in 0..20 {
            route
                .metrics
                .requests
                .observe_duration(Duration::from_millis(40));
            route.count(Code::Delivered, 1);
        }
        route.sample(1);
        let p95 = route.history.last_hour(route.at(1))[59]
            .p95_seconds
            .unwrap();
        assert!((0.025..=0.05).contains(&p95), "{p95}");
    }
}
