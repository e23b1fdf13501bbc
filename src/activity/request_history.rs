//! What a route was asked for and what became of it, minute by minute over the last hour.
//!
//! Read off the route's counters now and then: requests know nothing of it. Minutes in which nothing happened take no
//! room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::metrics::{RouteCounters, RouteMetrics};
use crate::outcome::{Code, Disposition};

/// Minutes that are kept, the one that is not over included.
pub const MINUTES: usize = 60;
const MINUTE_SECONDS: u64 = 60;

/// A route's traffic.
pub struct RequestHistory {
    since: Instant,
    book: Mutex<Book>,
}

struct Book {
    metrics: Arc<RouteMetrics>,
    last: RouteCounters,
    /// The oldest first.
    minutes: VecDeque<(u64, MinuteBucket)>,
    /// Requests by duration in the last of `minutes`.
    durations: Vec<u64>,
}

/// One minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MinuteBucket {
    pub requests: RequestCounts,
    /// Attempts at handing an event over that were answered with 2xx, whoever waited for them.
    pub attempts_succeeded: u64,
    /// All other attempts.
    pub attempts_failed: u64,
    /// So many seconds 95 of 100 requests took at the most, about; none without requests.
    pub p95_seconds: Option<f64>,
}

/// Requests by what became of them.
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
            book: Mutex::new(Book {
                metrics,
                last,
                minutes,
                durations: Vec::new(),
            }),
        }
    }

    /// Reads off these from now on, whose counters go on from where those before stood.
    pub(super) fn read_from(&self, metrics: Arc<RouteMetrics>) {
        self.book().metrics = metrics;
    }

    /// Reads the counters. What they have gained is of the minute that `now` is in.
    pub(super) fn sample(&self, now: Instant) {
        let minute = self.minute(now);
        let mut book = self.book();
        let reading = book.metrics.sample();
        book.note(reading, minute);
    }

    /// The last hour, the oldest minute first. The last is not over.
    pub fn last_hour(&self, now: Instant) -> [MinuteBucket; MINUTES] {
        let newest = self.minute(now);
        let mut hour = [MinuteBucket::default(); MINUTES];
        for (number, minute) in &self.book().minutes {
            let ago = usize::try_from(newest.saturating_sub(*number)).unwrap_or(usize::MAX);
            if let Some(place) = (MINUTES - 1).checked_sub(ago) {
                hour[place] = *minute;
            }
        }
        hour
    }

    /// The metrics that are read.
    pub fn metrics(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.book().metrics)
    }

    /// How much of the minute that `now` is in is over, from 0 to 1.
    pub fn elapsed_part_of_minute(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        (seconds / 60.0).fract()
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / MINUTE_SECONDS
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    fn note(&mut self, reading: RouteCounters, number: u64) {
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
        let gained = |now: u64, before: u64| now.saturating_sub(before);
        for (code, (now, before)) in Code::ALL
            .into_iter()
            .zip(reading.requests.iter().zip(&self.last.requests))
        {
            minute.requests.add(code, gained(*now, *before));
        }
        minute.attempts_succeeded +=
            gained(reading.attempts_succeeded, self.last.attempts_succeeded);
        minute.attempts_failed += gained(reading.attempts_failed, self.last.attempts_failed);
        for (sum, (now, before)) in self
            .durations
            .iter_mut()
            .zip(reading.durations.iter().zip(&self.last.durations))
        {
            *sum += gained(*now, *before);
        }
        minute.p95_seconds = quantile(0.95, &self.durations, RouteMetrics::DURATION_BOUNDS);
        self.last = reading;
    }
}

/// The value below which this part of what was counted lies, as Prometheus' `histogram_quantile` has it: evenly spread
/// between a bucket's bounds. What lies above the last bound counts as that.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn quantile(part: f64, buckets: &[u64], bounds: &[f64]) -> Option<f64> {
    let all: u64 = buckets.iter().sum();
    if all == 0 {
        return None;
    }
    let rank = part * all as f64;
    let mut below = 0.0;
    for (place, count) in buckets.iter().enumerate() {
        let count = *count as f64;
        if below + count >= rank && count > 0.0 {
            let lower = place.checked_sub(1).map_or(0.0, |before| bounds[before]);
            let upper = *bounds.get(place).or(bounds.last())?;
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
        _all: Metrics,
        metrics: Arc<RouteMetrics>,
        traffic: RequestHistory,
    }

    fn route() -> Route {
        let all = Metrics::new().unwrap();
        let metrics = Arc::new(all.register_route(&"billing".into(), [].iter()));
        let traffic = RequestHistory::new(Arc::clone(&metrics), Instant::now());
        Route {
            _all: all,
            metrics,
            traffic,
        }
    }

    impl Route {
        fn answered(&self, code: Code, times: usize) {
            for _ in 0..times {
                self.metrics.requests.count_response(code, StatusCode::OK);
            }
        }

        fn at(&self, second: u64) -> Instant {
            self.traffic.since + Duration::from_secs(second)
        }

        fn look(&self, second: u64) {
            self.traffic.sample(self.at(second));
        }
    }

    #[test]
    fn what_happens_is_of_the_minute_in_which_it_is_seen() {
        let route = route();
        route.answered(Code::Delivered, 3);
        route.look(5);
        route.answered(Code::Queued, 1);
        route.answered(Code::InvalidSignature, 7);
        route.look(59);
        route.look(60);
        route.answered(Code::Duplicate, 2);
        route.answered(Code::BudgetExceeded, 4);
        route.metrics.record_attempt(UpstreamResult::Success, 0.1);
        route.metrics.record_attempt(UpstreamResult::Timeout, 0.1);
        route.look(125);
        let hour = route.traffic.last_hour(route.at(130));
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
        let later = route.traffic.last_hour(route.at(59 * 60));
        assert_eq!((later[0].requests, later[2].requests.total()), (first, 6));
        assert!(
            route
                .traffic
                .last_hour(route.at(2 * 3600))
                .iter()
                .all(|minute| *minute == MinuteBucket::default())
        );
    }

    #[test]
    fn an_hour_of_traffic_is_all_that_is_kept() {
        let route = route();
        for minute in 0..200 {
            route.answered(Code::Delivered, 1);
            route.look(minute * 60);
        }
        assert_eq!(route.traffic.book().minutes.len(), MINUTES);
        let hour = route.traffic.last_hour(route.at(199 * 60));
        assert!(hour.iter().all(|minute| minute.requests.accepted == 1));
    }

    #[test]
    fn the_quantile_lies_between_the_bounds_of_its_bucket() {
        let bounds = [0.1, 0.5, 1.0];
        assert_eq!(quantile(0.95, &[0, 0, 0, 0], &bounds), None);
        let near = |found: Option<f64>, wanted: f64| {
            found.is_some_and(|found| (found - wanted).abs() < 1e-9)
        };
        assert!(near(quantile(0.95, &[100, 0, 0, 0], &bounds), 0.095));
        assert!(near(quantile(0.95, &[90, 10, 0, 0], &bounds), 0.3));
        assert!(near(quantile(0.95, &[0, 0, 0, 9], &bounds), 1.0));
    }

    #[test]
    fn durations_are_read_off_the_route_s_own_histogram() {
        let route = route();
        for _ in 0..20 {
            route
                .metrics
                .requests
                .observe_duration(Duration::from_millis(40));
            route.answered(Code::Delivered, 1);
        }
        route.look(1);
        let p95 = route.traffic.last_hour(route.at(1))[59]
            .p95_seconds
            .unwrap();
        assert!((0.025..=0.05).contains(&p95), "{p95}");
    }
}
