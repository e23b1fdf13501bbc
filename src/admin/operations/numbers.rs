//! The figures of a route's deliveries in the last hour. Where events are stored, they speak of
//! the delivery and not of the response that the sender got.

use jiff::{SignedDuration, Timestamp};

use super::Operations;
use super::status::RouteStatus;
use crate::activity::{MINUTES, MinuteBucket};
use crate::route::DeliveryMode;
use crate::store::{DeliveryFilter, DeliveryState};

/// The time after which a waiting event counts as late.
const LATE_AFTER: SignedDuration = SignedDuration::from_mins(1);

/// The minutes that count as recent.
pub(super) const RECENT_MINUTES: usize = 5;

/// The deliveries of a route in the last hour.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HourlyDeliveries {
    /// The events whose sender got success, stored ones included.
    pub accepted: u64,
    /// The events that the upstream has.
    pub delivered: u64,
    /// The events that it does not have: dead letters and late ones, or, where nothing is stored,
    /// requests that failed.
    pub missed: u64,
    pub dead_lettered: u64,
    /// The stored events that wait now, for more than a minute.
    pub late: u64,
    /// The 95th percentile of the time from an event's arrival to its delivery, in the latest of
    /// the last minutes that has one.
    pub p95_seconds: Option<f64>,
}

impl HourlyDeliveries {
    /// Sums up the last hour of a route with `late` events.
    pub(super) fn new(mode: DeliveryMode, hour: &[MinuteBucket; MINUTES], late: u64) -> Self {
        let mut sums = Self {
            late,
            ..Self::default()
        };
        let (mut direct, mut stored, mut failed) = (0, 0, 0);
        for minute in hour {
            sums.accepted += minute.requests.accepted;
            direct += minute.requests.accepted.saturating_sub(minute.stored);
            stored += minute.delivered;
            failed += minute.requests.failed;
            sums.dead_lettered += minute.dead_lettered;
        }
        let mut recent = hour[MINUTES - RECENT_MINUTES..].iter().rev();
        if mode == DeliveryMode::Proxy {
            Self {
                delivered: sums.accepted,
                missed: failed,
                p95_seconds: recent.find_map(|minute| minute.p95_seconds),
                ..sums
            }
        } else {
            Self {
                delivered: direct + stored,
                missed: sums.dead_lettered + late,
                p95_seconds: recent.find_map(|minute| minute.delivery_p95_seconds),
                ..sums
            }
        }
    }

    /// Returns the delivered share of all, from 0 to 1; `None` if there are none.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn success(&self) -> Option<f64> {
        let all = self.delivered + self.missed;
        (all > 0).then(|| self.delivered as f64 / all as f64)
    }
}

impl Operations {
    /// Returns the figures of a route. Unlike its status, they take a count in the store.
    pub(crate) async fn hourly_deliveries(&self, status: &RouteStatus) -> HourlyDeliveries {
        let route = &status.route;
        let late = self.count_late(&route.name, status.oldest_waiting).await;
        HourlyDeliveries::new(route.delivery_mode, &status.hour, late)
    }

    /// Counts the events of a route that wait for more than a minute, where the oldest one arrived
    /// at `oldest`. They are counted up to 10,000.
    pub(super) async fn count_late(&self, route: &str, oldest: Option<Timestamp>) -> u64 {
        let until = Timestamp::now() - LATE_AFTER;
        if oldest.is_none_or(|oldest| oldest >= until) {
            return 0;
        }
        let filter = DeliveryFilter {
            route: Some(route.into()),
            state: Some(DeliveryState::Pending),
            until: Some(until),
            ..DeliveryFilter::default()
        };
        let late = self.state.store.count_deliveries(filter).await;
        // The oldest one is late in any case.
        late.map_or(1, |late| late.map_or(10_000, |late| late as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(hour: &[MinuteBucket; MINUTES], late: u64) -> HourlyDeliveries {
        HourlyDeliveries::new(DeliveryMode::Queue, hour, late)
    }

    #[test]
    fn success_of_a_queue_speaks_of_delivery() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        let last = &mut hour[MINUTES - 1];
        last.requests.accepted = 142;
        last.stored = 142;
        last.dead_lettered = 82;
        last.p95_seconds = Some(0.0077);
        let dead = queue(&hour, 60);
        assert_eq!((dead.success(), dead.p95_seconds), (Some(0.0), None));
        assert_eq!((dead.accepted, dead.delivered, dead.missed), (142, 0, 142));
        hour[MINUTES - 1].delivered = 60;
        hour[MINUTES - 1].dead_lettered = 0;
        hour[MINUTES - 1].delivery_p95_seconds = Some(4.0);
        let delivering = queue(&hour, 20);
        assert_eq!(delivering.success(), Some(0.75));
        assert_eq!(delivering.p95_seconds, Some(4.0));
        assert_eq!(
            queue(&[MinuteBucket::default(); MINUTES], 0).success(),
            None
        );
    }

    #[test]
    fn spill_counts_both_ways() {
        let mut hour = [MinuteBucket::default(); MINUTES];
        hour[3].requests.accepted = 10;
        hour[3].stored = 4;
        hour[4].delivered = 3;
        hour[5].dead_lettered = 1;
        let spill = HourlyDeliveries::new(DeliveryMode::Spill, &hour, 0);
        assert_eq!((spill.delivered, spill.missed), (9, 1));
    }
}
