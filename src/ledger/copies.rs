//! The copies of a body that unsigned parts of the request tell apart: an ID in a header, a type in
//! a header, or another signed time.
//!
//! The ledger keeps one row for such a body, beside the rows of its events. The row is never
//! completed, so it can be claimed: all events of one body are delivered one after the other. Until
//! a copy may have been delivered, the row holds the failed attempts. From then on it counts.

use std::time::Duration;

use crate::store::{AttemptHistory, DueAt, KnownEvent, LedgerEntry};

/// The number of copies of one body, besides the first, that are delivered in a window. More need a
/// sender that repeats itself, or a captured request that is replayed.
pub const MARKED_COPIES_MAX: u32 = 16;

/// The number of bits for the count, below those of the minute. Both fit into a positive `i32`,
/// which is what a store keeps.
const COUNT_BITS: u32 = 7;
const COUNT_MAX: u32 = (1 << COUNT_BITS) - 1;
const MINUTE_MAX: u64 = (1 << 24) - 2;

/// The ledger's knowledge of the copies of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyCopies {
    /// No copy was delivered. Holds the failed attempts at all of them.
    Undelivered(AttemptHistory),
    /// Copies were delivered, or may have been.
    Delivered(CopyCount),
}

/// The number of copies since a minute of the store's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CopyCount {
    copies: u32,
    since: Minute,
}

/// A minute of the store's time. 24 bits last for 31 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Minute(u32);

impl Minute {
    pub(super) fn new(at: DueAt) -> Self {
        Self(u32::try_from(at.minutes().min(MINUTE_MAX)).unwrap_or(0))
    }

    fn is_within(self, window: Duration, now: Self) -> bool {
        let minutes = window.as_secs().div_ceil(60);
        u64::from(now.0.saturating_sub(self.0)) <= minutes
    }
}

impl BodyCopies {
    /// Reads the row of a body. The count starts again when `window` has passed since it began; the
    /// copy that was delivered last still counts.
    pub(super) fn read(known: Option<KnownEvent>, window: Duration, now: Minute) -> Self {
        let again = CopyCount {
            copies: 1,
            since: now,
        };
        match known.map(|known| known.entry) {
            None => Self::Undelivered(AttemptHistory::default()),
            Some(LedgerEntry::Attempted(history)) if !history.possibly_delivered => {
                Self::Undelivered(history)
            }
            Some(LedgerEntry::Attempted(history)) => {
                let count = CopyCount::from_attempts(history.attempts)
                    .filter(|count| count.since.is_within(window, now));
                Self::Delivered(count.unwrap_or(again))
            }
            Some(LedgerEntry::Completed { .. }) => Self::Delivered(again),
        }
    }

    /// Returns the form in which the row is stored.
    pub(super) fn to_history(self) -> AttemptHistory {
        match self {
            Self::Undelivered(history) => history,
            Self::Delivered(count) => AttemptHistory {
                attempts: count.to_attempts(),
                possibly_delivered: true,
            },
        }
    }

    /// Returns the number of copies that were delivered, or may have been.
    pub(super) fn delivered(self) -> u32 {
        match self {
            Self::Undelivered(_) => 0,
            Self::Delivered(count) => count.copies,
        }
    }

    /// Counts one more copy.
    pub(super) fn with_copy(self, now: Minute) -> Self {
        let (copies, since) = match self {
            Self::Undelivered(_) => (0, now),
            Self::Delivered(count) => (count.copies, count.since),
        };
        Self::Delivered(CopyCount {
            copies: (copies + 1).min(COUNT_MAX),
            since,
        })
    }
}

impl CopyCount {
    /// Returns `None` for a number that only counts attempts: the store made it from a row without
    /// a count, after an attempt of unknown outcome.
    fn from_attempts(attempts: u32) -> Option<Self> {
        let since = (attempts >> COUNT_BITS).checked_sub(1)?;
        Some(Self {
            copies: (attempts & COUNT_MAX).max(1),
            since: Minute(since),
        })
    }

    fn to_attempts(self) -> u32 {
        (self.since.0 + 1) << COUNT_BITS | self.copies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(3600);

    fn stored(history: AttemptHistory) -> KnownEvent {
        KnownEvent {
            entry: LedgerEntry::Attempted(history),
            delivery: None,
        }
    }

    fn absent() -> BodyCopies {
        BodyCopies::read(None, WINDOW, Minute(0))
    }

    #[test]
    fn count_survives_the_store_at_any_minute() {
        for minute in [0, 1, 1 << 20, u32::try_from(MINUTE_MAX).unwrap()] {
            let mut copies = absent();
            for number in 1..=MARKED_COPIES_MAX + 1 {
                copies = copies.with_copy(Minute(minute));
                assert_eq!(copies.delivered(), number);
                assert!(i32::try_from(copies.to_history().attempts).is_ok());
                assert_eq!(
                    BodyCopies::read(Some(stored(copies.to_history())), WINDOW, Minute(minute)),
                    copies
                );
            }
        }
    }

    #[test]
    fn count_starts_again_after_its_window() {
        let copies = (0..9).fold(absent(), |copies, _| copies.with_copy(Minute(5)));
        for (now, delivered) in [(65, 9), (66, 1)] {
            let read = BodyCopies::read(Some(stored(copies.to_history())), WINDOW, Minute(now));
            assert_eq!(read.delivered(), delivered, "{now}");
        }
    }

    #[test]
    fn attempts_are_no_count_until_a_copy_may_have_arrived() {
        let failed = AttemptHistory {
            attempts: 3,
            possibly_delivered: false,
        };
        let read = |history| BodyCopies::read(Some(stored(history)), WINDOW, Minute(7));
        assert_eq!(read(failed), BodyCopies::Undelivered(failed));
        // A store that finds an interrupted attempt knows of no count.
        let interrupted = read(AttemptHistory {
            attempts: 4,
            possibly_delivered: true,
        });
        assert_eq!(interrupted, absent().with_copy(Minute(7)));
    }
}
