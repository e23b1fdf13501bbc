//! The failures of one kind on a route since they began, as samples of its counters show them.
//!
//! Owns when a failure belongs to an incident that goes on, and when the incident is over. Knows
//! nothing of what failed.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The successes in a row that end an incident at once.
const SUCCESSES_AT_ONCE: u64 = 10;
/// The time without a failure after which one success ends an incident.
const QUIET: Duration = Duration::from_secs(10);
/// The time without a failure after which an incident is over in any case.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// The running incident, and the successes that may end it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Streak {
    incident: Option<Incident>,
    /// The successes since the last sample that had a failure.
    succeeded: u64,
}

/// An incident of a route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Incident {
    /// The time of its first failure.
    pub began: Timestamp,
    last_failed: Instant,
    /// The failures and the successes since it began.
    pub failed: u64,
    pub succeeded: u64,
    /// The failures of clients that were successful before.
    pub familiar: u64,
    /// The failures since anything succeeded, and the time of the first of them.
    pub in_a_row: u64,
    pub in_a_row_since: Timestamp,
    /// The usual rate of the successes before these.
    pub usual_per_second: f64,
}

/// The increase between the last sample and this one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Increase {
    pub succeeded: u64,
    pub failed: u64,
    /// The part of the failures that are of clients who were successful before.
    pub familiar: u64,
    /// The time of the first failure.
    pub first_failed: Timestamp,
}

impl Streak {
    /// Adds what succeeded and failed between the last sample and this one, at `now`.
    /// `usual_per_second` is the usual rate of the successes so far.
    pub(super) fn add(&mut self, increase: Increase, now: Instant, usual_per_second: f64) {
        let Increase {
            succeeded,
            failed,
            familiar,
            first_failed,
        } = increase;
        if failed == 0 {
            self.succeeded += succeeded;
            if succeeded > 0
                && let Some(incident) = &mut self.incident
            {
                incident.in_a_row = 0;
                incident.succeeded += succeeded;
            }
            return;
        }
        let mut incident = self.incident(now).unwrap_or(Incident {
            began: first_failed,
            last_failed: now,
            failed: 0,
            succeeded: 0,
            familiar: 0,
            in_a_row: 0,
            in_a_row_since: first_failed,
            usual_per_second,
        });
        if incident.in_a_row == 0 {
            incident.in_a_row_since = first_failed;
            incident.usual_per_second = usual_per_second;
        }
        // Which came first within a sample is not known.
        incident.in_a_row = if succeeded > 0 {
            0
        } else {
            incident.in_a_row + failed
        };
        incident.failed += failed;
        incident.familiar += familiar;
        incident.succeeded += succeeded;
        incident.last_failed = now;
        self.incident = Some(incident);
        self.succeeded = 0;
    }

    /// Returns whether anything has succeeded since the last failure.
    pub(super) fn has_succeeded(&self) -> bool {
        self.succeeded > 0
    }

    /// Returns the incident, unless it is over.
    pub(super) fn incident(&self, now: Instant) -> Option<Incident> {
        let incident = self.incident?;
        let quiet = now.saturating_duration_since(incident.last_failed);
        let is_over = self.succeeded >= SUCCESSES_AT_ONCE
            || self.succeeded > 0 && quiet >= QUIET
            || quiet >= FORGOTTEN_AFTER;
        (!is_over).then_some(incident)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test {
        start: Instant,
        streak: Streak,
    }

    fn second(second: u64) -> Timestamp {
        Timestamp::from_second(i64::try_from(second).unwrap()).unwrap()
    }

    impl Test {
        fn new() -> Self {
            let (start, streak) = (Instant::now(), Streak::default());
            Self { start, streak }
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        /// Samples at this second. The first failure was one second before.
        fn add(&mut self, at: u64, succeeded: u64, failed: u64) {
            let increase = Increase {
                succeeded,
                failed,
                familiar: failed,
                first_failed: second(at.saturating_sub(1)),
            };
            let now = self.at(at);
            self.streak.add(increase, now, 0.5);
        }

        fn incident(&self, at: u64) -> Option<Incident> {
            self.streak.incident(self.at(at))
        }
    }

    #[test]
    fn incident_lasts_from_first_failure_to_recovery() {
        let mut test = Test::new();
        test.add(0, 50, 0);
        assert_eq!(test.incident(0), None);
        test.add(5, 4, 2);
        test.add(10, 0, 3);
        test.add(15, 0, 4);
        let incident = test.incident(16).unwrap();
        assert_eq!(
            (incident.began, incident.in_a_row, incident.in_a_row_since),
            (second(4), 7, second(9))
        );
        assert_eq!((incident.failed, incident.succeeded), (9, 4));
        assert!(!test.streak.has_succeeded());
        test.add(20, 1, 0);
        let incident = test.incident(21).unwrap();
        assert_eq!((incident.began, incident.in_a_row), (second(4), 0));
        assert!(test.streak.has_succeeded());
        assert_eq!(test.incident(25), None, "ten seconds went well");
        test.add(50, 0, 1);
        let next = test.incident(50).unwrap();
        assert_eq!((next.began, next.failed), (second(49), 1));
        test.add(51, 10, 0);
        assert_eq!(test.incident(51), None);
    }

    #[test]
    fn silence_ends_an_incident_after_an_hour() {
        let mut test = Test::new();
        test.add(0, 0, 9);
        assert!(test.incident(3599).is_some());
        assert!(test.incident(3600).is_none());
        assert!(!test.streak.has_succeeded(), "nothing is known");
    }
}
