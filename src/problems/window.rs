//! The last minutes of a route: how much went well, and since when too much did not.

use jiff::{SignedDuration, Timestamp};

use super::{PROBLEM_SHARE, RouteFacts, RunningIncident, WINDOW_MIN, WINDOWS};
use crate::activity::{MINUTES, MinuteBucket};

/// The requests or attempts of the last minutes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub minutes: usize,
    pub good: u64,
    pub bad: u64,
}

impl Window {
    /// Counts the last minutes: as few as have enough requests.
    pub(super) fn count(
        hour: &[MinuteBucket; MINUTES],
        counts: impl Fn(&MinuteBucket) -> (u64, u64),
    ) -> Self {
        let of = |minutes: usize| {
            let mut window = Self {
                minutes,
                good: 0,
                bad: 0,
            };
            for minute in &hour[MINUTES - minutes..] {
                let (good, bad) = counts(minute);
                window.good += good;
                window.bad += bad;
            }
            window
        };
        let [shorter @ .., longest] = WINDOWS;
        shorter
            .map(of)
            .into_iter()
            .find(|window| window.total() >= WINDOW_MIN)
            .unwrap_or_else(|| of(longest))
    }

    pub(super) fn total(self) -> u64 {
        self.good + self.bad
    }

    /// Returns the share of the bad ones. With enough failures in a row and no success since, that
    /// is all of them, however much went well before.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(super) fn share(self, incident: Option<RunningIncident>) -> f64 {
        if incident.is_some_and(|incident| incident.in_a_row >= WINDOW_MIN) {
            return 1.0;
        }
        self.bad as f64 / self.total().max(1) as f64
    }

    /// Returns the rate of all of them, per minute.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(super) fn per_minute(self) -> f64 {
        self.total() as f64 / self.minutes as f64
    }
}

/// Returns when an incident of this share began: all that failed in a row, or else the first of the
/// minutes that had such a share without a break.
pub(super) fn began(
    route: &RouteFacts,
    incident: Option<RunningIncident>,
    counts: impl Fn(&MinuteBucket) -> (u64, u64),
) -> Option<Timestamp> {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let is_bad = |(good, bad): (u64, u64)| bad as f64 >= PROBLEM_SHARE * (good + bad) as f64;
    let mut first = None;
    for (ago, minute) in route.hour.iter().rev().enumerate() {
        let counted = counts(minute);
        if counted == (0, 0) {
            continue;
        }
        if !is_bad(counted) {
            break;
        }
        let back = SignedDuration::from_mins(i64::try_from(ago).unwrap_or_default());
        first = Some(route.minute_began - back);
    }
    // Each of the two may have begun with failures that were none of this incident.
    first.max(incident.map(|incident| incident.began))
}
