//! Finds the deliveries that are new since the last poll of a list that is read from its newest
//! end.

use std::collections::BTreeSet;

/// The deliveries that were reported. A delivery is known by its number; later ones have higher
/// numbers.
#[derive(Debug)]
pub(super) struct DeliveryTracker {
    /// Deliveries up to this number are never reported.
    floor: i64,
    /// The newest delivery at the last poll.
    newest: i64,
    /// The deliveries above the floor that were reported, or were there from the start.
    reported: BTreeSet<i64>,
    /// The number of the newest deliveries that each poll reads again.
    rechecked: usize,
}

/// One poll, from the newest delivery towards older ones.
#[derive(Debug, Default)]
pub(super) struct Poll {
    numbers: Vec<i64>,
    /// The first delivery that was not read.
    stopped_at: Option<i64>,
}

impl DeliveryTracker {
    /// Creates a tracker that reports every delivery after this number.
    pub(super) fn since(number: i64, rechecked: usize) -> Self {
        Self {
            floor: number,
            newest: number,
            reported: BTreeSet::new(),
            rechecked,
        }
    }

    /// Creates a tracker that reports every delivery that the first poll does not see. The caller
    /// discards what the first poll reports.
    pub(super) fn from_now(rechecked: usize) -> Self {
        Self {
            floor: 0,
            newest: i64::MAX,
            reported: BTreeSet::new(),
            rechecked,
        }
    }

    /// Adds the next delivery to a poll and returns whether it is new, or `None` if the poll has
    /// gone far enough.
    pub(super) fn observe(&self, poll: &mut Poll, number: i64) -> Option<bool> {
        let known = number <= self.newest && poll.numbers.len() >= self.rechecked;
        if known || number <= self.floor {
            poll.stopped_at = Some(number);
            return None;
        }
        poll.numbers.push(number);
        Some(!self.reported.contains(&number))
    }

    /// Records a complete poll, whose deliveries were reported.
    pub(super) fn finish_poll(&mut self, poll: Poll) {
        self.floor = self.floor.max(poll.stopped_at.unwrap_or(0));
        let before = if self.newest == i64::MAX {
            self.floor
        } else {
            self.newest
        };
        self.newest = before.max(poll.numbers.first().copied().unwrap_or(0));
        self.reported.extend(poll.numbers);
        self.reported = self.reported.split_off(&self.floor.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Polls a list of these numbers, the newest first, and returns the new ones, the oldest first.
    fn poll(tracker: &mut DeliveryTracker, numbers: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let (mut poll, mut new) = (Poll::default(), Vec::new());
        for number in numbers {
            match tracker.observe(&mut poll, number) {
                Some(true) => new.push(number),
                Some(false) => {}
                None => break,
            }
        }
        tracker.finish_poll(poll);
        new.reverse();
        new
    }

    #[test]
    fn each_delivery_is_new_once() {
        let mut tracker = DeliveryTracker::from_now(0);
        poll(&mut tracker, (1..=7).rev());
        assert_eq!(poll(&mut tracker, (1..=7).rev()), [0; 0]);
        assert_eq!(
            poll(&mut tracker, (1..=500).rev()),
            (8..=500).collect::<Vec<_>>()
        );
        assert_eq!(poll(&mut tracker, (1..=501).rev()), [501]);
        assert!(tracker.reported.len() <= 1, "{tracker:?}");
    }

    #[test]
    fn tracker_starts_after_a_given_delivery() {
        assert_eq!(
            poll(&mut DeliveryTracker::since(3, 0), (1..=5).rev()),
            [4, 5]
        );
        assert_eq!(
            poll(&mut DeliveryTracker::since(0, 0), (1..=5).rev()),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(
            poll(&mut DeliveryTracker::since(9, 0), (1..=5).rev()),
            [0; 0]
        );
    }

    #[test]
    fn tracker_starts_with_an_empty_list() {
        let mut tracker = DeliveryTracker::from_now(0);
        poll(&mut tracker, []);
        assert_eq!(poll(&mut tracker, [2, 1]), [1, 2]);
        assert_eq!(poll(&mut tracker, [2, 1]), [0; 0]);
    }

    #[test]
    fn delivery_among_older_ones_is_new_within_the_rechecked() {
        let mut tracker = DeliveryTracker::from_now(3);
        poll(&mut tracker, [90, 70, 50, 30, 10]);
        assert_eq!(poll(&mut tracker, [90, 80, 70, 50, 30, 10]), [80]);
        assert_eq!(poll(&mut tracker, [90, 80, 70, 50, 30, 10]), [0; 0]);
        // The newest are gone. The older ones that move up are not new.
        assert_eq!(poll(&mut tracker, [50, 30, 10]), [0; 0]);
        assert!(tracker.reported.len() <= 3, "{tracker:?}");
    }

    #[test]
    fn interrupted_poll_reports_nothing() {
        let mut tracker = DeliveryTracker::from_now(0);
        poll(&mut tracker, [1]);
        let mut interrupted = Poll::default();
        assert_eq!(tracker.observe(&mut interrupted, 3), Some(true));
        drop(interrupted);
        assert_eq!(poll(&mut tracker, [3, 2, 1]), [2, 3]);
    }
}
