//! Where a search of an index begins. Entries of deliveries that have ended stay in the indexes of
//! the open ones for as long as another client's transaction might see them, and each search from the
//! beginning passes all of them. So most searches begin where the last one found something, and only
//! some at the beginning.

use std::time::{Duration, Instant};

/// The beginning of an index.
pub(super) const BEGINNING: i64 = i64::MIN;
/// The shortest pause between two searches from the beginning.
const PAUSE: Duration = Duration::from_secs(2);
/// The longest one: what lies before the floor stays hidden for that time.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// The part of the time that searches from the beginning may take: one in this many.
const SHARE: u32 = 20;

/// The floor of the searches of one index for one route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    from: i64,
    /// The time from which a search begins at the beginning again; `None` for at once.
    full_from: Option<Instant>,
    /// The last search from the beginning took long, or one failed since.
    is_slow: bool,
}

/// A search that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search {
    /// Where it began.
    pub from: i64,
    pub took: Duration,
    pub ended: Instant,
    /// It was made for this route alone, so that the time it took says something of this route.
    pub is_alone: bool,
    /// A place so near to the end of the index that a search from there on is short.
    pub recent: i64,
}

impl Search {
    /// Returns the time from which the next search begins at the beginning. If others took part, each
    /// is made alone once to find the slow one, so that it delays only itself.
    fn next_full(&self) -> Instant {
        let took = if self.is_alone {
            self.took
        } else {
            Duration::ZERO
        };
        self.ended + took.saturating_mul(SHARE).clamp(PAUSE, PAUSE_MAX)
    }
}

impl Default for Floor {
    fn default() -> Self {
        Self {
            from: BEGINNING,
            full_from: None,
            is_slow: false,
        }
    }
}

impl Floor {
    /// Returns where a search begins now.
    pub(super) fn begin(&self, now: Instant) -> i64 {
        if self.is_full_due(now) {
            BEGINNING
        } else {
            self.from
        }
    }

    /// Returns where a search begins now that is made for other routes too, which must not wait.
    pub(super) fn begin_among_others(&self, now: Instant) -> i64 {
        if self.is_slow {
            self.from
        } else {
            self.begin(now)
        }
    }

    /// Returns whether a search from the beginning is due that is made for this route alone.
    pub(super) fn needs_own_search(&self, now: Instant) -> bool {
        self.is_slow && self.is_full_due(now)
    }

    fn is_full_due(&self, now: Instant) -> bool {
        self.full_from.is_none_or(|full_from| now >= full_from)
    }

    /// Takes note of a search that found the first entry at `found`. One that found nothing does not
    /// raise the floor: an event whose lease has ended must not wait for the next search from the
    /// beginning.
    pub(super) fn searched(&mut self, search: &Search, found: Option<i64>) {
        if search.from == BEGINNING {
            self.from = found.unwrap_or(self.from);
            self.full_from = Some(search.next_full());
            self.is_slow = search.took.saturating_mul(SHARE) > PAUSE;
            if self.is_slow && self.from == BEGINNING {
                self.from = search.recent;
            }
        } else {
            self.raise(found.unwrap_or(self.from));
        }
    }

    /// Takes note of a search that timed out. The next ones are short again, for a pause.
    pub(super) fn failed(&mut self, search: &Search) {
        if search.from != BEGINNING || self.from == BEGINNING {
            self.raise(search.recent);
        }
        self.full_from = Some(search.next_full());
        self.is_slow = true;
    }

    /// Raises the floor to where another search found the first entry.
    pub(super) fn raise(&mut self, found: i64) {
        self.from = self.from.max(found);
    }

    /// Lowers the floor to what another search found before it; but if searches are slow, only once
    /// one from the beginning is due, because those from there on might all time out.
    pub(super) fn lower(&mut self, found: i64, now: Instant) {
        if !self.is_slow || self.is_full_due(now) {
            self.from = self.from.min(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const RECENT: i64 = 1_000;

    fn search(from: i64, took: Duration, ended: Instant) -> Search {
        Search {
            from,
            took,
            ended,
            is_alone: true,
            recent: RECENT,
        }
    }

    #[test]
    fn search_begins_where_the_last_one_found() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        assert_eq!(floor.begin(now), BEGINNING);
        floor.searched(&search(BEGINNING, Duration::ZERO, now), Some(100));
        assert_eq!(floor.begin(now + SECOND), 100);
        let later = search(100, SECOND, now + SECOND);
        floor.searched(&later, Some(200));
        floor.searched(&later, None);
        // What was found first may lie before what was found later.
        floor.searched(&later, Some(150));
        assert_eq!(floor.begin(now + SECOND), 200);
        assert_eq!(floor.begin(now + SECOND * 2), BEGINNING);
        // After a full search, what waits before the floor counts again.
        floor.searched(&search(BEGINNING, Duration::ZERO, now), Some(50));
        assert_eq!(floor.begin(now), 50);
        floor.lower(20, now);
        assert_eq!(floor.begin(now), 20);
    }

    #[test]
    fn full_searches_take_a_part_of_the_time() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.searched(&search(BEGINNING, SECOND / 2, now), Some(100));
        assert_eq!(floor.begin(now + SECOND * 9), 100);
        assert_eq!(floor.begin(now + SECOND * 10), BEGINNING);
        floor.searched(&search(BEGINNING, SECOND * 3, now), Some(100));
        assert_eq!(floor.begin(now + PAUSE_MAX), BEGINNING);
    }

    #[test]
    fn failed_full_search_keeps_the_floor() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.searched(&search(BEGINNING, Duration::ZERO, now), Some(100));
        let failed_at = now + SECOND * 6;
        floor.failed(&search(BEGINNING, SECOND * 4, failed_at));
        assert_eq!(floor.begin(failed_at + SECOND * 14), 100);
        assert_eq!(floor.begin(failed_at + PAUSE_MAX), BEGINNING);
        // Searches that would begin further back fail again.
        floor.lower(20, failed_at);
        assert_eq!(floor.begin(failed_at), 100);
        floor.failed(&search(100, SECOND * 4, failed_at));
        assert_eq!(floor.begin(failed_at), RECENT);
    }

    #[test]
    fn first_search_that_fails_leaves_the_recent_entries() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.failed(&search(BEGINNING, SECOND * 4, now));
        assert_eq!(floor.begin(now), RECENT);
        // One that is slow and finds nothing does so as well.
        let mut floor = Floor::default();
        floor.searched(&search(BEGINNING, SECOND, now), None);
        assert_eq!(floor.begin(now), RECENT);
        let mut floor = Floor::default();
        floor.searched(&search(BEGINNING, Duration::ZERO, now), None);
        assert_eq!(floor.begin(now), BEGINNING);
    }

    #[test]
    fn slow_route_is_searched_alone() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        let together = Search {
            is_alone: false,
            ..search(BEGINNING, SECOND * 3, now)
        };
        floor.searched(&together, Some(100));
        let next = now + PAUSE;
        assert!(!floor.needs_own_search(now));
        assert!(floor.needs_own_search(next));
        assert_eq!(floor.begin_among_others(next), 100);
        floor.searched(&search(BEGINNING, SECOND, next), Some(100));
        assert!(!floor.needs_own_search(next + SECOND * 14));
        assert!(floor.needs_own_search(next + PAUSE_MAX));
        // One that another route had slowed down is searched among the others again.
        floor.searched(&search(BEGINNING, Duration::ZERO, next), Some(100));
        assert_eq!(floor.begin_among_others(next + PAUSE), BEGINNING);
    }
}
