//! The delivery attempts of a route that failed: the last one, and since when there are some that
//! were not sampled yet.
//!
//! A successful attempt does nothing here.

use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use crate::cause::Cause;

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedAttempt {
    /// The time at which it began.
    pub at: Timestamp,
    pub cause: Cause,
    /// The status of the upstream's response, if there was one.
    pub status: Option<u16>,
    /// The address that was tried, with its port.
    pub address: Option<String>,
    /// The URL of the upstream, which a reload may have changed since.
    pub upstream: String,
}

/// The last attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    pub attempt: FailedAttempt,
    /// The last attempt that failed with another cause or status.
    pub other_cause_at: Option<Timestamp>,
}

/// The failed attempts of a route.
#[derive(Default)]
pub struct FailedAttempts(Mutex<State>);

#[derive(Default)]
struct State {
    /// The earliest attempt since the last sample.
    unsampled: Option<Timestamp>,
    last: Option<LastFailure>,
}

impl FailedAttempts {
    /// Records a failed attempt. Call this before it is counted.
    pub fn record(&self, attempt: FailedAttempt) {
        let mut state = self.state();
        state.unsampled = Some(
            state
                .unsampled
                .map_or(attempt.at, |earliest| earliest.min(attempt.at)),
        );
        let other_cause_at = state.last.as_ref().and_then(|last| {
            let is_same =
                (last.attempt.cause, last.attempt.status) == (attempt.cause, attempt.status);
            if is_same {
                last.other_cause_at
            } else {
                Some(last.attempt.at)
            }
        });
        state.last = Some(LastFailure {
            attempt,
            other_cause_at,
        });
    }

    /// Returns the last attempt that failed.
    pub fn last(&self) -> Option<LastFailure> {
        self.state().last.clone()
    }

    /// Returns the earliest failed attempt since this was called last.
    pub(super) fn take_unsampled(&self) -> Option<Timestamp> {
        self.state().unsampled.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(second: i64, cause: Cause) -> FailedAttempt {
        FailedAttempt {
            at: Timestamp::from_second(second).unwrap(),
            cause,
            status: None,
            address: None,
            upstream: "http://127.0.0.1:3000".into(),
        }
    }

    #[test]
    fn earliest_attempt_is_sampled_once() {
        let failed = FailedAttempts::default();
        for second in [7, 5, 9] {
            failed.record(attempt(second, Cause::Refused));
        }
        assert_eq!(failed.take_unsampled(), Timestamp::from_second(5).ok());
        assert_eq!(failed.take_unsampled(), None);
        assert_eq!(failed.last().unwrap().attempt, attempt(9, Cause::Refused));
    }

    #[test]
    fn changed_cause_is_dated() {
        let failed = FailedAttempts::default();
        failed.record(attempt(1, Cause::Refused));
        failed.record(attempt(2, Cause::Refused));
        assert_eq!(failed.last().unwrap().other_cause_at, None);
        failed.record(attempt(3, Cause::Status));
        failed.record(attempt(4, Cause::Status));
        let other = failed.last().unwrap().other_cause_at;
        assert_eq!(other, Timestamp::from_second(2).ok());
    }
}
