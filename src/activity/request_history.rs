//! The requests of a route by disposition, per minute over the last hour.
//!
//! Sampled from the route's counters, so that requests do no work for it. Minutes without requests
//! take no room.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::failed_attempts::FailedAttempts;
use super::rejections::{RejectionHistory, UnsampledRejections};
use super::streak::{Incident, Increase, Streak};
use crate::metrics::{QueueMetrics, RouteCounters, RouteMetrics};
use crate::outcome::{Code, Disposition};

/// The number of minutes that are kept, including the current one.
pub(crate) const MINUTES: usize = 60;
const MINUTE_SECONDS: u64 = 60;
/// The most verified requests of a minute that count for the usual rate.
const USUAL_PER_MINUTE_MAX: u64 = 10;

/// The request history of a route.
pub struct RequestHistory {
    since: Instant,
    /// The wall clock at `since`.
    since_wall: Timestamp,
    pub failed_attempts: FailedAttempts,
    state: Mutex<State>,
}

struct State {
    metrics: Arc<RouteMetrics>,
    last: RouteCounters,
    /// The number of each minute with its counts, the oldest first.
    minutes: VecDeque<(u64, MinuteBucket)>,
    /// The requests by duration in the last of `minutes`.
    durations: Vec<u64>,
    /// The delivered events by the time from their arrival, in the last of `minutes`.
    delays: Vec<u64>,
    attempts: Streak,
    checks: Streak,
    refused: RefusedRequests,
    /// The times of the last sample, which belong to what is counted now.
    early: Times,
    /// The requests that did not verify and will be counted with an outcome of verified ones.
    let_pass: u64,
}

/// The requests that were refused because their route accepts none: it is paused, switched off or
/// off line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RefusedRequests {
    pub count: u64,
    /// The time of the first one.
    pub since: Option<Timestamp>,
}

/// The counts of one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MinuteBucket {
    pub requests: RequestCounts,
    /// The requests that were certainly verified.
    pub verified: u64,
    /// The requests that were refused because the route accepted none. They are among those that
    /// failed.
    pub refused: u64,
    /// Delivery attempts that were answered with 2xx, whether a sender waited for them or not.
    pub attempts_succeeded: u64,
    /// All other delivery attempts.
    pub attempts_failed: u64,
    /// The estimated 95th percentile of the request durations, in seconds. `None` without requests.
    pub p95_seconds: Option<f64>,
    /// The accepted requests whose event was stored, and not delivered while the sender waited.
    pub stored: u64,
    /// The stored events that were delivered.
    pub delivered: u64,
    /// The stored events that became dead letters.
    pub dead_lettered: u64,
    /// The estimated 95th percentile of the time from an event's arrival to its delivery, in
    /// seconds. `None` if nothing was delivered.
    pub delivery_p95_seconds: Option<f64>,
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
    pub(super) fn new(metrics: Arc<RouteMetrics>, since: Instant, since_wall: Timestamp) -> Self {
        let (last, minutes) = (metrics.sample(), VecDeque::new());
        Self {
            since,
            since_wall,
            failed_attempts: FailedAttempts::default(),
            state: Mutex::new(State {
                metrics,
                last,
                minutes,
                durations: Vec::new(),
                delays: Vec::new(),
                attempts: Streak::default(),
                checks: Streak::default(),
                refused: RefusedRequests::default(),
                early: Times::default(),
                let_pass: 0,
            }),
        }
    }

    /// Replaces the metrics that are sampled. Their counters must continue the previous ones.
    pub(super) fn read_from(&self, metrics: Arc<RouteMetrics>) {
        self.state().metrics = metrics;
    }

    /// Samples the counters, and adds their increase to the minute of `now`. `rejections` are those
    /// of the same route.
    pub(super) fn sample(&self, now: Instant, rejections: &RejectionHistory) {
        let mut state = self.state();
        let times = Times {
            failed_attempt: self.failed_attempts.take_unsampled(),
            rejections: rejections.take_unsampled(),
        };
        let reading = state.metrics.sample();
        let sample = Sample {
            now,
            wall: self.wall(now),
            minute: self.minute(now),
            age: now.saturating_duration_since(self.since),
        };
        state.add(reading, &sample, times);
    }

    /// Returns the running incident of the delivery attempts.
    pub fn failing_attempts(&self, now: Instant) -> Option<Incident> {
        self.state().attempts.incident(now)
    }

    /// Returns the running incident of the requests that are rejected.
    pub fn rejected_requests(&self, now: Instant) -> Option<Incident> {
        self.state().checks.incident(now)
    }

    /// Returns whether a delivery attempt has succeeded since the last one that failed.
    pub fn has_attempt_succeeded(&self) -> bool {
        self.state().attempts.has_succeeded()
    }

    /// Returns whether a request was verified since the last one that was rejected.
    pub fn has_verified(&self) -> bool {
        self.state().checks.has_succeeded()
    }

    /// Returns the requests that were refused since the route accepted any.
    pub fn refused_requests(&self) -> RefusedRequests {
        self.state().refused
    }

    /// Forgets the refused requests: the route accepts requests.
    pub fn accepts_requests(&self) {
        self.state().refused = RefusedRequests::default();
    }

    /// Returns when the minute of `now` began, by the wall clock. All minutes of a history are as
    /// far apart as the clock that never jumps says.
    pub fn minute_began(&self, now: Instant) -> Timestamp {
        let minutes = i64::try_from(self.minute(now)).unwrap_or_default();
        self.since_wall
            .saturating_add(SignedDuration::from_mins(minutes))
            .unwrap_or(self.since_wall)
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

    /// Returns how many of the last hour's minutes are known: none is before the route's start.
    pub fn minutes_known(&self, now: Instant) -> usize {
        usize::try_from(self.minute(now)).map_or(MINUTES, |newest| MINUTES.min(newest + 1))
    }

    /// Returns the metrics that are sampled.
    pub fn metrics(&self) -> Arc<RouteMetrics> {
        Arc::clone(&self.state().metrics)
    }

    /// Returns the elapsed time of the minute of `now`.
    pub fn elapsed_of_minute(&self, now: Instant) -> Duration {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        Duration::from_secs_f64(seconds % 60.0)
    }

    /// Returns the elapsed part of the minute of `now`, from 0 to 1.
    pub fn elapsed_part_of_minute(&self, now: Instant) -> f64 {
        self.elapsed_of_minute(now).as_secs_f64() / 60.0
    }

    /// Returns the wall clock's time at `now`.
    fn wall(&self, now: Instant) -> Timestamp {
        self.since_wall
            .saturating_add(now.saturating_duration_since(self.since))
            .unwrap_or(self.since_wall)
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.since).as_secs() / MINUTE_SECONDS
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The times of the first failures since the last sample. Each is recorded shortly before its failure
/// is counted, so that it may be known one sample earlier.
#[derive(Clone, Copy, Default)]
struct Times {
    failed_attempt: Option<Timestamp>,
    rejections: UnsampledRejections,
}

/// The time of a sample.
struct Sample {
    now: Instant,
    wall: Timestamp,
    /// The number of the minute.
    minute: u64,
    /// The time since the history began.
    age: Duration,
}

impl State {
    /// Adds the increase since the last sample to the minute of this one.
    fn add(&mut self, reading: RouteCounters, sample: &Sample, times: Times) {
        let early = std::mem::replace(&mut self.early, times);
        self.let_pass += times.rejections.let_pass;
        if reading == self.last {
            return;
        }
        let (number, now) = (sample.minute, sample.now);
        let usual_per_second = self.verified_per_second(sample.age, number);
        if self.minutes.back().is_none_or(|(last, _)| *last < number) {
            self.minutes.push_back((number, MinuteBucket::default()));
            self.durations = vec![0; reading.durations.len()];
            self.delays = vec![0; reading.delays.len()];
            if self.minutes.len() > MINUTES {
                self.minutes.pop_front();
            }
        }
        let Some((_, minute)) = self.minutes.back_mut() else {
            return;
        };
        let last = &self.last;
        let (mut requests, mut verified) = (RequestCounts::default(), 0);
        for (code, (now, before)) in Code::ALL
            .into_iter()
            .zip(reading.requests.iter().zip(&last.requests))
        {
            let count = now.saturating_sub(*before);
            requests.add(code, count);
            verified += if code.is_verified() { count } else { 0 };
        }
        let let_pass = self.let_pass.min(verified);
        self.let_pass -= let_pass;
        verified -= let_pass;
        minute.requests += requests;
        minute.verified += verified;
        let inactive = Code::Inactive as usize;
        let refused = reading.requests[inactive].saturating_sub(last.requests[inactive]);
        minute.refused += refused;
        let queued = Code::Queued as usize;
        minute.stored += reading.requests[queued].saturating_sub(last.requests[queued]);
        let succeeded = reading
            .attempts_succeeded
            .saturating_sub(last.attempts_succeeded);
        let failed = reading.attempts_failed.saturating_sub(last.attempts_failed);
        minute.attempts_succeeded += succeeded;
        minute.attempts_failed += failed;
        minute.dead_lettered += reading.dead_lettered.saturating_sub(last.dead_lettered);
        minute.delivered += add_increase(&mut self.delays, &reading.delays, &last.delays);
        add_increase(&mut self.durations, &reading.durations, &last.durations);
        minute.p95_seconds = quantile(0.95, &self.durations, RouteMetrics::DURATION_BOUNDS);
        minute.delivery_p95_seconds = delivery_p95(minute, &self.delays);
        let first =
            |early: Option<Timestamp>, new: Option<Timestamp>| early.or(new).unwrap_or(sample.wall);
        let (early_rejections, rejections) = (early.rejections, times.rejections);
        let attempts = Increase {
            succeeded,
            failed,
            familiar: 0,
            first_failed: first(early.failed_attempt, times.failed_attempt),
        };
        self.attempts.add(attempts, now, 0.0);
        let checks = Increase {
            succeeded: verified,
            failed: requests.rejected,
            familiar: requests
                .rejected
                .min(early_rejections.familiar + rejections.familiar),
            first_failed: first(early_rejections.first_rejected, rejections.first_rejected),
        };
        self.checks.add(checks, now, usual_per_second);
        if refused > 0 {
            self.refused.count += refused;
            let first = first(early_rejections.first_refused, rejections.first_refused);
            self.refused.since.get_or_insert(first);
        }
        // The times of what was counted are used up.
        self.early = Times {
            failed_attempt: times.failed_attempt.filter(|_| failed == 0),
            rejections: UnsampledRejections {
                first_refused: rejections.first_refused.filter(|_| refused == 0),
                ..if requests.rejected == 0 {
                    rejections
                } else {
                    UnsampledRejections::default()
                }
            },
        };
        self.last = reading;
    }

    /// Returns the usual rate of the verified requests in the hour before the minute of this number
    /// gets more. A burst counts as a few, so that the pause behind it is no surprise. `age` is that
    /// of the history.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn verified_per_second(&self, age: Duration, number: u64) -> f64 {
        let verified: u64 = self
            .minutes
            .iter()
            .filter(|(minute, _)| minute + MINUTES as u64 > number)
            .map(|(_, minute)| minute.verified.min(USUAL_PER_MINUTE_MAX))
            .sum();
        let hour = (MINUTES as u64 * MINUTE_SECONDS) as f64;
        verified as f64 / age.as_secs_f64().clamp(1.0, hour)
    }
}

/// Adds the increase of each bucket to its sum. Returns the whole increase.
fn add_increase(sums: &mut [u64], now: &[u64], before: &[u64]) -> u64 {
    let mut all = 0;
    for (sum, (now, before)) in sums.iter_mut().zip(now.iter().zip(before)) {
        let increase = now.saturating_sub(*before);
        *sum += increase;
        all += increase;
    }
    all
}

/// Estimates the 95th percentile of a minute's times from arrival to delivery. `delays` are those
/// of stored events. Events that were delivered while their sender waited count as faster than
/// those, with the time of their request.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn delivery_p95(minute: &MinuteBucket, delays: &[u64]) -> Option<f64> {
    let direct = minute.requests.accepted.saturating_sub(minute.stored) as f64;
    let stored = delays.iter().sum::<u64>() as f64;
    let rank = 0.95 * (direct + stored) - direct;
    if rank <= 0.0 {
        return (direct > 0.0).then_some(minute.p95_seconds).flatten();
    }
    quantile(rank / stored, delays, QueueMetrics::DELAY_BOUNDS)
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
    use http::StatusCode;

    use super::*;
    use crate::metrics::{Metrics, RouteCounts, UpstreamResult};

    fn began() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    struct Route {
        _registry: Metrics,
        metrics: Arc<RouteMetrics>,
        history: RequestHistory,
        rejections: RejectionHistory,
    }

    fn route() -> Route {
        let registry = Metrics::new().unwrap();
        let metrics = Arc::new(registry.register_route(
            &"billing".into(),
            [].iter(),
            &RouteCounts::EVERYTHING,
        ));
        let history = RequestHistory::new(Arc::clone(&metrics), Instant::now(), began());
        Route {
            _registry: registry,
            metrics,
            history,
            rejections: RejectionHistory::new(Instant::now()),
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
            self.history.sample(self.at(second), &self.rejections);
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
        assert_eq!(route.history.minutes_known(route.at(130)), 3);
        assert_eq!(route.history.minutes_known(route.at(3 * 3600)), MINUTES);
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
    fn stored_events_are_timed_to_their_delivery() {
        let route = route();
        route.count(Code::Queued, 20);
        route
            .metrics
            .requests
            .observe_duration(Duration::from_millis(4));
        route.sample(1);
        let minute = route.history.last_hour(route.at(1))[59];
        assert_eq!((minute.stored, minute.delivery_p95_seconds), (20, None));
        for _ in 0..20 {
            route.metrics.queue.observe_delivery_delay(100.0);
        }
        route
            .metrics
            .queue
            .count_dead_letter(crate::backoff::DeadLetterReason::Expired);
        route.sample(2);
        let minute = route.history.last_hour(route.at(2))[59];
        assert_eq!((minute.delivered, minute.dead_lettered), (20, 1));
        let p95 = minute.delivery_p95_seconds.unwrap();
        assert!((60.0..=300.0).contains(&p95), "{p95}");
        // Most are delivered at once: the few that were stored do not reach the percentile.
        route.count(Code::Delivered, 1_000);
        route.sample(3);
        let minute = route.history.last_hour(route.at(3))[59];
        assert_eq!(minute.delivery_p95_seconds, minute.p95_seconds);
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

    #[test]
    fn incident_begins_with_its_first_failure() {
        let route = route();
        let at = |second| began() + Duration::from_secs(second);
        route.count(Code::Delivered, 500);
        route.sample(30);
        // Its time is known before it is counted.
        route.rejections.enter(Code::InvalidSignature, at(31), true);
        route.sample(32);
        assert_eq!(route.history.rejected_requests(route.at(32)), None);
        route.count(Code::InvalidSignature, 1);
        route
            .rejections
            .enter(Code::InvalidSignature, at(33), false);
        route.count(Code::InvalidSignature, 1);
        route.sample(34);
        let incident = route.history.rejected_requests(route.at(34)).unwrap();
        assert_eq!((incident.began, incident.in_a_row), (at(31), 2));
        assert_eq!((incident.failed, incident.familiar), (2, 1));
        assert!((incident.usual_per_second - 10.0 / 34.0).abs() < 1e-9);
        route.sample(60);
        let later = route.history.rejected_requests(route.at(60)).unwrap();
        assert_eq!(later, incident, "nothing moves");
        assert_eq!(route.history.minute_began(route.at(61)), at(60));
    }

    #[test]
    fn request_that_is_let_pass_is_not_verified() {
        let route = route();
        route.count(Code::InvalidSignature, 1);
        route.sample(1);
        route.rejections.enter_let_pass();
        route.sample(2);
        route.count(Code::Delivered, 1);
        route.sample(3);
        assert!(!route.history.has_verified());
        assert_eq!(route.history.last_hour(route.at(3))[59].verified, 0);
        route.count(Code::Delivered, 1);
        route.sample(4);
        assert!(route.history.has_verified());
    }

    #[test]
    fn refused_requests_count_until_some_are_accepted() {
        let route = route();
        let at = began() + Duration::from_secs(4);
        route.rejections.enter(Code::Inactive, at, false);
        route.count(Code::Inactive, 3);
        route.sample(5);
        route.count(Code::Inactive, 2);
        route.sample(9);
        let refused = route.history.refused_requests();
        assert_eq!((refused.count, refused.since), (5, Some(at)));
        assert!(!route.history.has_verified(), "they were not checked");
        route.history.accepts_requests();
        assert_eq!(route.history.refused_requests().count, 0);
    }
}
