//! Detection of an idle sender: a route that should receive events regularly has received none for
//! too long. Otherwise an endpoint that a provider has switched off would look like a quiet day.
//!
//! A request only stores its time. The check runs when the activity is sampled. Copies of one
//! request do not count: anybody who captured it can send them, and would hide the idle sender.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

/// The ignored events that are recognised when they come again: 4 KiB a route.
const IGNORED_MAX: usize = 256;

/// The last new event of a route, and the time within which the next one is expected.
pub struct IdleSender {
    since: Instant,
    /// Milliseconds after `since`.
    last_seen_ms: AtomicU64,
    /// Milliseconds; 0 expects no events.
    expect_every_ms: AtomicU64,
    /// The digests of the last ignored events, which are not in the ledger.
    ignored: Mutex<VecDeque<[u8; 16]>>,
    /// `true` if the sender was idle at the last sample.
    idle: AtomicBool,
    gauge: IntGauge,
}

impl IdleSender {
    /// Starts to wait for an event at `since`.
    pub(super) fn new(since: Instant, gauge: IntGauge) -> Self {
        let [last_seen_ms, expect_every_ms] = [0, 0].map(AtomicU64::new);
        Self {
            since,
            last_seen_ms,
            expect_every_ms,
            ignored: Mutex::default(),
            idle: AtomicBool::new(false),
            gauge,
        }
    }

    /// Stores the time of an ignored event, unless it is a copy of a recent one. `digest` stands for
    /// its body.
    pub fn ignored_event_seen(&self, digest: [u8; 16], now: Instant) {
        if self.expected_every().is_none() {
            return;
        }
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        if ignored.contains(&digest) {
            return;
        }
        if ignored.len() >= IGNORED_MAX {
            ignored.pop_front();
        }
        ignored.push_back(digest);
        drop(ignored);
        self.event_seen(now);
    }

    /// Stores the time of an event that the ledger has not known.
    pub fn event_seen(&self, now: Instant) {
        self.last_seen_ms
            .fetch_max(self.uptime_ms(now), Ordering::Relaxed);
    }

    pub(super) fn expect(&self, every: Option<Duration>) {
        self.expect_every_ms
            .store(every.map_or(0, milliseconds), Ordering::Relaxed);
    }

    pub fn expected_every(&self) -> Option<Duration> {
        let every = self.expect_every_ms.load(Ordering::Relaxed);
        (every > 0).then(|| Duration::from_millis(every))
    }

    /// Returns whether the last new event is longer ago than expected.
    pub fn is_idle(&self, now: Instant) -> bool {
        let last_seen = Duration::from_millis(self.last_seen_ms.load(Ordering::Relaxed));
        let ago = Duration::from_millis(self.uptime_ms(now)).saturating_sub(last_seen);
        self.expected_every().is_some_and(|every| ago > every)
    }

    /// Sets the gauge, and returns the change since the last sample.
    pub(super) fn sample(&self, now: Instant) -> Option<Change> {
        let idle = self.is_idle(now);
        self.gauge.set(idle.into());
        match (self.idle.swap(idle, Ordering::Relaxed), idle) {
            (false, true) => Some(Change::BecameIdle),
            // A route that expects no events any more has not become active by that.
            (true, false) if self.expected_every().is_some() => Some(Change::BecameActive),
            _ => None,
        }
    }

    fn uptime_ms(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.since))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    BecameIdle,
    BecameActive,
}

impl Change {
    /// Writes the change to the log.
    pub(super) fn log(self, route: &str, expected_every: Option<Duration>) {
        let expect_every_seconds = expected_every.map(|every| every.as_secs_f64());
        match self {
            Self::BecameIdle => tracing::warn!(
                route,
                expect_every_seconds,
                "no new event was verified for longer than the route's expect_every; \
                 check that the sender still sends, and signs with a secret of this route"
            ),
            Self::BecameActive => {
                tracing::info!(route, expect_every_seconds, "events are verified again");
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn idle_sender(expect_every: Option<Duration>) -> (IdleSender, Instant) {
        let start = Instant::now();
        let sender = IdleSender::new(start, IntGauge::new("silent", "silent").unwrap());
        sender.expect(expect_every);
        (sender, start)
    }

    #[test]
    fn sender_becomes_idle_once_and_active_once() {
        let (sender, start) = idle_sender(Some(HOUR));
        let sample = |after: Duration| (sender.sample(start + after), sender.gauge.get());
        assert_eq!(
            sample(HOUR),
            (None, 0),
            "the first hour counts from the start"
        );
        sender.event_seen(start + HOUR / 2);
        assert_eq!(sample(HOUR * 3 / 2), (None, 0));
        let late = HOUR * 3 / 2 + Duration::from_millis(1);
        assert_eq!(sample(late), (Some(Change::BecameIdle), 1));
        assert_eq!(sample(HOUR * 9), (None, 1));
        sender.event_seen(start + HOUR * 9);
        assert_eq!(sample(HOUR * 9), (Some(Change::BecameActive), 0));
        assert_eq!(sample(HOUR * 10), (None, 0));
    }

    #[test]
    fn copies_of_an_ignored_event_count_once() {
        let (sender, start) = idle_sender(Some(HOUR));
        let [one, other] = [[1; 16], [2; 16]];
        sender.ignored_event_seen(one, start + HOUR);
        sender.ignored_event_seen(one, start + HOUR * 2);
        assert!(sender.is_idle(start + HOUR * 5 / 2));
        sender.ignored_event_seen(other, start + HOUR * 2);
        assert!(!sender.is_idle(start + HOUR * 5 / 2));
    }

    #[test]
    fn sender_without_expectation_is_never_idle() {
        let (sender, start) = idle_sender(None);
        assert!(!sender.is_idle(start + HOUR * 9999));
        sender.expect(Some(HOUR));
        assert_eq!(sender.sample(start + HOUR * 2), Some(Change::BecameIdle));
        sender.expect(None);
        assert_eq!(
            (sender.sample(start + HOUR * 2), sender.gauge.get()),
            (None, 0)
        );
    }
}
