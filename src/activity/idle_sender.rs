//! Whether a route that should hear something now and then has heard nothing for too long: an endpoint that a provider
//! has switched off looks like a quiet day.
//!
//! Looked at now and then; a request only leaves a time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

/// When a route was heard last, and how often it should be.
pub struct IdleSender {
    since: Instant,
    /// Milliseconds after `since`.
    last_seen_ms: AtomicU64,
    /// Milliseconds; 0 expects nothing.
    expect_every_ms: AtomicU64,
    /// As it was told last.
    idle: AtomicBool,
    gauge: IntGauge,
}

impl IdleSender {
    /// Counts as heard at `since`.
    pub(super) fn new(since: Instant, gauge: IntGauge) -> Self {
        let [last_seen_ms, expect_every_ms] = [0, 0].map(AtomicU64::new);
        Self {
            since,
            last_seen_ms,
            expect_every_ms,
            idle: AtomicBool::new(false),
            gauge,
        }
    }

    /// Notes a verified event.
    pub fn event_seen(&self, now: Instant) {
        self.last_seen_ms
            .fetch_max(self.running_ms(now), Ordering::Relaxed);
    }

    pub(super) fn expect(&self, every: Option<Duration>) {
        self.expect_every_ms
            .store(every.map_or(0, milliseconds), Ordering::Relaxed);
    }

    pub fn expected_every(&self) -> Option<Duration> {
        let every = self.expect_every_ms.load(Ordering::Relaxed);
        (every > 0).then(|| Duration::from_millis(every))
    }

    /// Whether the last verified event is longer ago than it should be.
    pub fn is_idle(&self, now: Instant) -> bool {
        let heard = Duration::from_millis(self.last_seen_ms.load(Ordering::Relaxed));
        let ago = Duration::from_millis(self.running_ms(now)).saturating_sub(heard);
        self.expected_every().is_some_and(|every| ago > every)
    }

    /// Sets the gauge, and answers with what has changed since the last look.
    pub(super) fn sample(&self, now: Instant) -> Option<Change> {
        let silent = self.is_idle(now);
        self.gauge.set(silent.into());
        match (self.idle.swap(silent, Ordering::Relaxed), silent) {
            (false, true) => Some(Change::Silent),
            // One that nothing is expected of any more is not heard again by that.
            (true, false) if self.expected_every().is_some() => Some(Change::HeardAgain),
            _ => None,
        }
    }

    fn running_ms(&self, now: Instant) -> u64 {
        milliseconds(now.saturating_duration_since(self.since))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Silent,
    HeardAgain,
}

impl Change {
    /// Writes it to the log.
    pub(super) fn log(self, route: &str, expected_every: Option<Duration>) {
        let expect_every_seconds = expected_every.map(|every| every.as_secs_f64());
        match self {
            Self::Silent => tracing::warn!(
                route,
                expect_every_seconds,
                "no event was verified for longer than the route's expect_every: does the sender still send, and \
                 sign with a secret that is known here?"
            ),
            Self::HeardAgain => {
                tracing::info!(route, expect_every_seconds, "events are verified again")
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

    fn silence(expect_every: Option<Duration>) -> (IdleSender, Instant) {
        let start = Instant::now();
        let silence = IdleSender::new(start, IntGauge::new("silent", "silent").unwrap());
        silence.expect(expect_every);
        (silence, start)
    }

    #[test]
    fn a_silence_begins_once_and_ends_once() {
        let (silence, start) = silence(Some(HOUR));
        let look = |after: Duration| (silence.sample(start + after), silence.gauge.get());
        assert_eq!(look(HOUR), (None, 0), "from the start on it has an hour");
        silence.event_seen(start + HOUR / 2);
        assert_eq!(look(HOUR * 3 / 2), (None, 0));
        let late = HOUR * 3 / 2 + Duration::from_millis(1);
        assert_eq!(look(late), (Some(Change::Silent), 1));
        assert_eq!(look(HOUR * 9), (None, 1));
        silence.event_seen(start + HOUR * 9);
        assert_eq!(look(HOUR * 9), (Some(Change::HeardAgain), 0));
        assert_eq!(look(HOUR * 10), (None, 0));
    }

    #[test]
    fn a_route_of_which_nothing_is_expected_is_never_silent() {
        let (silence, start) = silence(None);
        assert!(!silence.is_idle(start + HOUR * 9999));
        silence.expect(Some(HOUR));
        assert_eq!(silence.sample(start + HOUR * 2), Some(Change::Silent));
        silence.expect(None);
        assert_eq!(
            (silence.sample(start + HOUR * 2), silence.gauge.get()),
            (None, 0)
        );
    }
}
