//! The numbers of the statements that lease events, by which this gateway finds the events of one whose
//! reply was lost: it has leased them and does not know them. The next statement of their route adopts
//! them. They were never attempted here, so they stay unmarked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time for which an unanswered statement may still be committed: longer than the server lets a
/// statement run. If a commit waits for a standby for longer, its events rest until their leases end.
const COMMITS_WITHIN: Duration = Duration::from_secs(10);
/// The limit of unanswered statements of a route that are remembered. The first ones stay: the later
/// ones were sent to a server that already did not respond.
const UNANSWERED_MAX: usize = 64;

/// The statements that lease events.
#[derive(Debug, Default)]
pub(super) struct LeaseBatches {
    last: i64,
    /// By the route. A statement that was sent is unanswered until its reply is here.
    unanswered: HashMap<Arc<str>, Vec<Unanswered>>,
}

/// A statement that may have leased events that this gateway does not know.
#[derive(Debug, Clone, Copy)]
struct Unanswered {
    number: i64,
    /// Where its search began.
    floor: i64,
    since: Instant,
}

/// What a statement leases, besides free events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LeaseBatch {
    /// The number that the leased events get.
    pub number: i64,
    /// The numbers of the events that it adopts.
    pub adopts: Vec<i64>,
    /// Where its search begins.
    pub floor: i64,
}

impl LeaseBatches {
    /// Returns a number for a statement that leases new events as it stores them.
    pub(super) fn next(&mut self) -> i64 {
        self.last += 1;
        self.last
    }

    /// Begins a statement that leases events of a route from a floor on. The caller sends one at a time
    /// for a route.
    pub(super) fn send(&mut self, route: &Arc<str>, floor: i64, now: Instant) -> LeaseBatch {
        let number = self.next();
        let unanswered = self.unanswered.get(route).map_or(&[][..], Vec::as_slice);
        let batch = LeaseBatch {
            number,
            adopts: unanswered.iter().map(|lost| lost.number).collect(),
            floor: unanswered
                .iter()
                .fold(floor, |floor, lost| floor.min(lost.floor)),
        };
        self.lose(route, number, floor, now);
        batch
    }

    /// Takes note that a statement may have leased events of a route, and that its reply was lost.
    pub(super) fn lose(&mut self, route: &Arc<str>, number: i64, floor: i64, since: Instant) {
        let lost = self.unanswered.entry(Arc::clone(route)).or_default();
        if lost.len() < UNANSWERED_MAX {
            lost.push(Unanswered {
                number,
                floor,
                since,
            });
        }
    }

    /// Takes note that the server has cancelled a statement, whose search was too long: none may begin
    /// there again. What is adopted lies behind `recent`, or is found by the next search from the
    /// beginning.
    pub(super) fn cancelled(&mut self, route: &str, number: i64, recent: i64) {
        if let Some(lost) = self.unanswered.get_mut(route) {
            lost.retain(|lost| lost.number != number);
            for lost in lost {
                lost.floor = lost.floor.max(recent);
            }
        }
    }

    /// Takes note of the reply to a statement that was sent at `sent`, and so of everything that was
    /// committed before. If it is `complete`, it has found all that it looked for. Returns whether there
    /// is more to adopt: an earlier statement may still be committed, or has leased more.
    pub(super) fn answered(
        &mut self,
        route: &str,
        number: i64,
        sent: Instant,
        is_complete: bool,
    ) -> bool {
        let Some(lost) = self.unanswered.get_mut(route) else {
            return false;
        };
        lost.retain(|lost| {
            let is_adopted =
                is_complete && sent.saturating_duration_since(lost.since) >= COMMITS_WITHIN;
            lost.number != number && !is_adopted
        });
        let has_more = !lost.is_empty();
        if !has_more {
            self.unanswered.remove(route);
        }
        has_more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(batch: &LeaseBatch) -> (i64, &[i64], i64) {
        (batch.number, &batch.adopts, batch.floor)
    }

    #[test]
    fn lost_batch_is_adopted_until_it_cannot_commit() {
        let (mut batches, now) = (LeaseBatches::default(), Instant::now());
        let (route, other) = ("a".into(), "b".into());
        assert_eq!(numbers(&batches.send(&route, 100, now)), (1, &[][..], 100));
        // The next search begins where that of the lost one began.
        let second = batches.send(&route, 200, now);
        assert_eq!(numbers(&second), (2, &[1][..], 100));
        assert_eq!(numbers(&batches.send(&other, 0, now)), (3, &[][..], 0));
        assert!(batches.answered(&route, 2, now, true), "it may commit late");
        let later = now + COMMITS_WITHIN;
        let third = batches.send(&route, 200, later);
        assert_eq!(numbers(&third), (4, &[1][..], 100));
        assert!(
            batches.answered(&route, 4, later, false),
            "it may have leased more"
        );
        let last = batches.send(&route, 200, later);
        assert_eq!(numbers(&last), (5, &[1][..], 100));
        assert!(!batches.answered(&route, 5, later, true));
        let fourth = batches.send(&route, 200, later);
        assert_eq!(numbers(&fourth), (6, &[][..], 200));
    }

    #[test]
    fn search_that_timed_out_is_not_repeated() {
        let (mut batches, now, route) = (LeaseBatches::default(), Instant::now(), "a".into());
        batches.send(&route, i64::MIN, now);
        batches.send(&route, i64::MIN, now);
        batches.cancelled(&route, 2, 100);
        let next = batches.send(&route, 200, now);
        assert_eq!(numbers(&next), (3, &[1][..], 100));
    }

    #[test]
    fn first_lost_batches_are_remembered() {
        let (mut batches, now, route) = (LeaseBatches::default(), Instant::now(), "a".into());
        for _ in 0..UNANSWERED_MAX * 2 {
            batches.send(&route, 0, now);
        }
        let adopts = batches.send(&route, 0, now).adopts;
        assert_eq!((adopts.len(), adopts[0]), (UNANSWERED_MAX, 1));
    }
}
