//! Where a search of an index begins. Entries of deliveries that have ended stay in the indexes of
//! the open ones for as long as somebody's transaction might see them, and each search from the
//! beginning passes all of them. So most searches begin where the last one found something, and only
//! some at the beginning.

use std::time::{Duration, Instant};

/// The beginning of an index.
const BEGINNING: i64 = i64::MIN;
/// The shortest pause between two searches from the beginning.
const PAUSE: Duration = Duration::from_secs(2);
/// The part of the time that searches from the beginning may take: one in this many.
const SHARE: u32 = 20;

/// The floor of the searches of one index for one route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    from: i64,
    /// The time from which a search begins at the beginning again; `None` for at once.
    full_from: Option<Instant>,
}

impl Default for Floor {
    fn default() -> Self {
        Self {
            from: BEGINNING,
            full_from: None,
        }
    }
}

impl Floor {
    /// Returns where a search begins now.
    pub(super) fn begin(&self, now: Instant) -> i64 {
        match self.full_from {
            Some(full_from) if now < full_from => self.from,
            _ => BEGINNING,
        }
    }

    /// Takes note of a search that began at `began`, took this time and found the first entry at
    /// `found`. One that found nothing does not raise the floor: an event whose lease has ended must
    /// not wait for the next search from the beginning.
    pub(super) fn searched(
        &mut self,
        began: i64,
        found: Option<i64>,
        took: Duration,
        now: Instant,
    ) {
        if began == BEGINNING {
            self.from = found.unwrap_or(self.from);
            self.full_from = Some(now + PAUSE.max(took * SHARE));
        } else {
            self.from = self.from.max(found.unwrap_or(self.from));
        }
    }

    /// Lets the next search begin at the beginning.
    pub(super) fn reset(&mut self) {
        self.full_from = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn search_begins_where_the_last_one_found() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        assert_eq!(floor.begin(now), BEGINNING);
        floor.searched(BEGINNING, Some(100), Duration::ZERO, now);
        assert_eq!(floor.begin(now + SECOND), 100);
        floor.searched(100, Some(200), SECOND, now + SECOND);
        floor.searched(100, None, SECOND, now + SECOND);
        // What was found first may lie before what was found later.
        floor.searched(100, Some(150), SECOND, now + SECOND);
        assert_eq!(floor.begin(now + SECOND), 200);
        assert_eq!(floor.begin(now + SECOND * 2), BEGINNING);
        // After a full search, what waits before the floor counts again.
        floor.searched(BEGINNING, Some(50), Duration::ZERO, now);
        assert_eq!(floor.begin(now), 50);
        floor.reset();
        assert_eq!(floor.begin(now), BEGINNING);
    }

    #[test]
    fn full_searches_take_a_part_of_the_time() {
        let (mut floor, now) = (Floor::default(), Instant::now());
        floor.searched(BEGINNING, Some(100), SECOND, now);
        assert_eq!(floor.begin(now + SECOND * 19), 100);
        assert_eq!(floor.begin(now + SECOND * 20), BEGINNING);
    }
}
