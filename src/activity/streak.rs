//! The failures of one kind on a route since they began, as samples of its counters show them.
//!
//! Owns when a failure belongs to an incident that goes on, and when the incident is over. Knows
//! nothing of what failed.

use std::time::{Duration, Instant};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// The sample with its first failure.
    pub began: Instant,
    last_failed: Instant,
    /// The failures since anything succeeded, and the sample with the first of them.
    pub in_a_row: u64,
    pub in_a_row_since: Instant,
}

impl Streak {
    /// Adds what succeeded and failed between the last sample and this one, at `now`.
    pub(super) fn add(&mut self, succeeded: u64, failed: u64, now: Instant) {
        if failed == 0 {
            self.succeeded += succeeded;
            if succeeded > 0
                && let Some(incident) = &mut self.incident
            {
                incident.in_a_row = 0;
            }
            return;
        }
        let before = self.incident(now);
        let mut incident = before.unwrap_or(Incident {
            began: now,
            last_failed: now,
            in_a_row: 0,
            in_a_row_since: now,
        });
        if incident.in_a_row == 0 {
            incident.in_a_row_since = now;
        }
        // Which came first within a sample is not known.
        incident.in_a_row = if succeeded > 0 {
            0
        } else {
            incident.in_a_row + failed
        };
        incident.last_failed = now;
        self.incident = Some(incident);
        self.succeeded = 0;
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

    #[test]
    fn incident_lasts_from_first_failure_to_recovery() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut streak = Streak::default();
        streak.add(50, 0, at(0));
        assert_eq!(streak.incident(at(0)), None);
        streak.add(4, 2, at(5));
        streak.add(0, 3, at(10));
        streak.add(0, 4, at(15));
        let incident = streak.incident(at(16)).unwrap();
        assert_eq!(
            (incident.began, incident.in_a_row, incident.in_a_row_since),
            (at(5), 7, at(10))
        );
        streak.add(1, 0, at(20));
        let incident = streak.incident(at(21)).unwrap();
        assert_eq!((incident.began, incident.in_a_row), (at(5), 0));
        assert_eq!(streak.incident(at(25)), None, "ten seconds went well");
        streak.add(0, 1, at(50));
        assert_eq!(streak.incident(at(50)).unwrap().began, at(50));
        streak.add(10, 0, at(51));
        assert_eq!(streak.incident(at(51)), None);
    }

    #[test]
    fn silence_ends_an_incident_after_an_hour() {
        let start = Instant::now();
        let mut streak = Streak::default();
        streak.add(0, 9, start);
        let almost = start + Duration::from_secs(3599);
        assert!(streak.incident(almost).is_some());
        assert!(streak.incident(start + FORGOTTEN_AFTER).is_none());
    }
}
