//! Counts the store uptime with this process's monotonic clock.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::store::delivery_state::StoreTime;
use crate::store::uptime::Uptime;

/// The longest step that counts. [`UptimeClock::tick`] is called far more often, so a longer step
/// means that the machine slept or that the clock was set.
const STEP_MAX: Duration = Duration::from_secs(60);

pub(super) struct UptimeClock {
    clock: Clock,
    counted: RwLock<(Uptime, Instant)>,
    /// The total time between runs, measured with the wall clock. It only affects due times, where
    /// being early is harmless.
    downtime: Duration,
}

impl UptimeClock {
    /// Resumes from uptime `before`. `downtime` is the total time between all runs so far.
    pub(super) fn resume(before: Uptime, downtime: Duration, clock: Clock) -> Self {
        let now = clock.now();
        Self {
            clock,
            counted: RwLock::new((before, now)),
            downtime,
        }
    }

    pub(super) fn now(&self) -> Uptime {
        let (counted, at) = *self.counted.read().unwrap_or_else(PoisonError::into_inner);
        counted.after(self.clock.now().saturating_duration_since(at).min(STEP_MAX))
    }

    /// Returns the time of a transaction that begins now.
    pub(super) fn store_time(&self) -> StoreTime {
        StoreTime {
            now: self.now(),
            now_due: self.now_due(),
        }
    }

    /// Returns the time that due times are compared with: uptime plus downtime.
    pub(super) fn now_due(&self) -> Uptime {
        self.now().after(self.downtime)
    }

    pub(super) fn downtime(&self) -> Duration {
        self.downtime
    }

    /// Adds the time since the last call. Called about every second.
    pub(super) fn tick(&self) {
        let mut counted = self.counted.write().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let (before, at) = *counted;
        *counted = (
            before.after(now.saturating_duration_since(at).min(STEP_MAX)),
            now,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downtime_counts_for_due_times_only() {
        let (clock, manual) = Clock::manual();
        let time = UptimeClock::resume(Uptime(5_000), Duration::from_secs(100), clock);
        manual.advance(Duration::from_secs(2));
        assert_eq!(time.now(), Uptime(7_000));
        assert_eq!(time.now_due(), Uptime(107_000));
    }

    #[test]
    fn long_step_counts_for_at_most_a_minute() {
        let (clock, manual) = Clock::manual();
        let time = UptimeClock::resume(Uptime(0), Duration::ZERO, clock);
        manual.advance(Duration::from_secs(10 * 24 * 3600));
        assert_eq!(time.now(), Uptime(60_000));
        time.tick();
        assert_eq!(time.now(), Uptime(60_000));
        for _ in 0..100 {
            manual.advance(Duration::from_millis(1_500));
            time.tick();
        }
        assert_eq!(time.now(), Uptime(210_000));
    }
}
