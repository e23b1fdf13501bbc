//! Counting the store's own time, by this process' clock.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::store::uptime::Uptime;

/// The longest step that is believed. [`RunningTime::tick`] is called far more often, so a longer one means that the
/// machine slept, or that somebody turned the clock.
const LONGEST_STEP: Duration = Duration::from_secs(60);

pub(super) struct UptimeClock {
    clock: Clock,
    counted: RwLock<(Uptime, Instant)>,
    /// Time between runs, as the wall clock told it. Only what is *due* is measured with it: being early is harmless.
    away: Duration,
}

impl UptimeClock {
    /// Goes on from `before`; `away` is the time between runs so far, all of them together.
    pub(super) fn from(before: Uptime, away: Duration, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            clock,
            counted: RwLock::new((before, now)),
            away,
        }
    }

    pub(super) fn now(&self) -> Uptime {
        let (counted, at) = *self.counted.read().unwrap_or_else(PoisonError::into_inner);
        counted.after(
            self.clock
                .now()
                .saturating_duration_since(at)
                .min(LONGEST_STEP),
        )
    }

    /// What time it is for those who wait: the time between runs counts.
    pub(super) fn due_now(&self) -> Uptime {
        self.now().after(self.away)
    }

    pub(super) fn downtime(&self) -> Duration {
        self.away
    }

    /// Counts what has passed. Called every second or so.
    pub(super) fn tick(&self) {
        let mut counted = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let (before, at) = *counted;
        *counted = (
            before.after(now.saturating_duration_since(at).min(LONGEST_STEP)),
            now,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_where_it_stopped_and_time_between_runs_counts_for_what_is_due_only() {
        let (clock, hand) = Clock::manual();
        let time = UptimeClock::from(Uptime(5_000), Duration::from_secs(100), clock);
        hand.advance(Duration::from_secs(2));
        assert_eq!(time.now(), Uptime(7_000));
        assert_eq!(time.due_now(), Uptime(107_000));
    }

    #[test]
    fn a_leap_counts_for_a_minute_at_the_most_and_ordinary_steps_count_whole() {
        let (clock, hand) = Clock::manual();
        let time = UptimeClock::from(Uptime(0), Duration::ZERO, clock);
        hand.advance(Duration::from_secs(10 * 24 * 3600));
        assert_eq!(time.now(), Uptime(60_000));
        time.tick();
        assert_eq!(time.now(), Uptime(60_000));
        for _ in 0..100 {
            hand.advance(Duration::from_millis(1_500));
            time.tick();
        }
        assert_eq!(time.now(), Uptime(210_000));
    }
}
