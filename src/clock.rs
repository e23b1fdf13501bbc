//! Wall and monotonic time, so that what depends on time can be tested without waiting for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// Where time comes from. Cheap to clone; clones of a manual clock move together.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's clocks.
    System,
    /// Stands still until it is moved.
    Manual(Arc<ManualClock>),
}

/// A clock that a test moves.
#[derive(Debug)]
pub struct ManualClock {
    started: Instant,
    started_wall: Timestamp,
    elapsed: Mutex<Duration>,
}

impl Clock {
    /// A clock that stands at this moment.
    pub fn manual() -> (Self, Arc<ManualClock>) {
        let manual = Arc::new(ManualClock {
            started: Instant::now(),
            started_wall: Timestamp::now(),
            elapsed: Mutex::new(Duration::ZERO),
        });
        (Self::Manual(Arc::clone(&manual)), manual)
    }

    /// Monotonic time: for deadlines and windows, which a changed wall clock must not touch.
    pub fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            Self::Manual(manual) => manual.started + manual.elapsed(),
        }
    }

    /// Wall time: for what is compared with a timestamp from outside, or shown.
    pub fn wall(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            Self::Manual(manual) => manual.started_wall + manual.elapsed(),
        }
    }
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner) += by;
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
