//! The store's own clock: the time for which it has been open, over all runs.
//!
//! Everything that must not expire early is measured in store uptime. A jump of the wall clock
//! therefore expires nothing, and downtime does not count, so that an outage of the gateway never
//! dead-letters an event.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Milliseconds of store uptime.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub(super) struct Uptime(pub u64);

impl Uptime {
    pub(super) fn after(self, by: Duration) -> Self {
        // The largest value of a database column: 292 million years.
        const MAX: u64 = i64::MAX.unsigned_abs();
        Self(
            self.0
                .saturating_add(u64::try_from(by.as_millis()).unwrap_or(MAX))
                .min(MAX),
        )
    }

    pub(super) fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}
