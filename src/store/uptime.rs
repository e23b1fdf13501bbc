//! The store's own time: how long it has been open, all runs together.
//!
//! Everything that must not expire early is measured in it. The wall clock has no part in it, so a clock that jumps
//! expires nothing; nor does the time between two runs count, so an event is never given up for an outage of ours.

use std::time::Duration;

/// Milliseconds of running time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Uptime(pub u64);

impl Uptime {
    pub(super) fn after(self, by: Duration) -> Self {
        // At the most what a column of the store can hold: 292 million years.
        const MOST: u64 = i64::MAX.unsigned_abs();
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(MOST))
                .min(MOST),
        )
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
