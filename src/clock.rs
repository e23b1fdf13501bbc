//! Wall and monotonic time, replaceable so that a test need not wait.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The source of time. Cheap to clone; clones of a manual clock share their time.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The clocks of the operating system.
    System,
    /// A clock that advances only when a test advances it.
    Manual(Arc<ManualClock>),
}

/// A clock that a test advances.
#[derive(Debug)]
pub struct ManualClock {
    started: Instant,
    started_wall: Timestamp,
    elapsed: Mutex<Duration>,
}

impl Clock {
    /// Creates a manual clock, set to the current time.
    pub fn manual() -> (Self, Arc<ManualClock>) {
        let manual = Arc::new(ManualClock {
            started: Instant::now(),
            started_wall: Timestamp::now(),
            elapsed: Mutex::new(Duration::ZERO),
        });
        (Self::Manual(Arc::clone(&manual)), manual)
    }

    /// Returns monotonic time: for deadlines and windows, which a change of the wall clock must not
    /// affect.
    pub fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            Self::Manual(manual) => manual.started + manual.elapsed(),
        }
    }

    /// Returns wall time: for comparison with timestamps from outside, and for display.
    pub fn wall(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(manual) => manual.started_wall + manual.elapsed(),
        }
    }
}

impl ManualClock {
    /// Advances both the monotonic and the wall time.
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
