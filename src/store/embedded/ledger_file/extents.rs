//! Which slots of the ledger's file are free. Pure.
//!
//! Slots are given out in extents. All rows of an extent expire within one hour, so it becomes free as
//! a whole: nothing is deleted row by row. The lowest free extent is reused first, so that the end of
//! the file becomes free. Within an extent, slots are given out in order.

use std::collections::{BTreeSet, HashMap};

use crate::store::uptime::Uptime;

/// The number of slots in an extent: 64 KiB of rows, so that a quiet gateway takes little room for each
/// hour of its windows.
pub(in super::super) const SLOTS: u32 = 1024;

/// An hour of store uptime, in which rows expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct Hour(u32);

/// The length of an hour, in milliseconds.
const HOUR_MS: u64 = 3_600_000;

impl Hour {
    pub(in super::super) fn containing(time: Uptime) -> Self {
        // A row holds times of 48 bits, whose hours have fewer than 32.
        Self(u32::try_from(time.0 / HOUR_MS).unwrap_or(u32::MAX))
    }

    /// Returns the first number of a row of this hour in the table of a backup.
    pub(in super::super) fn first_row_id(self) -> i64 {
        i64::from(self.0) << 32
    }
}

/// The slots of a file.
#[derive(Debug, Default)]
pub(super) struct Extents {
    /// The hour of each extent's rows; `None` if it is free.
    hours: Vec<Option<Hour>>,
    /// The extents to reuse, lowest first.
    free: BTreeSet<u32>,
    /// The extent of each hour that has slots left, and the next of them.
    open: HashMap<Hour, (u32, u32)>,
}

/// A slot that was given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocated {
    pub slot: u32,
    /// The extent that this slot begins.
    pub new_extent: Option<u32>,
}

impl Extents {
    /// Returns those of a file with these extents, each with its hour, if it has rows, and with the number
    /// of its slots up to the last row.
    pub(super) fn new(found: &[(Option<Hour>, u32)]) -> Self {
        let mut extents = Self::default();
        for (&(hour, used), extent) in found.iter().zip(0..) {
            extents.hours.push(hour);
            match hour {
                None => drop(extents.free.insert(extent)),
                Some(hour) if used < SLOTS => drop(extents.open.insert(hour, (extent, used))),
                Some(_) => {}
            }
        }
        extents
    }

    /// Gives out a slot for a row that expires in this hour. Returns `None` if there are four billion.
    pub(super) fn allocate(&mut self, hour: Hour) -> Option<Allocated> {
        if let Some((extent, used)) = self.open.get_mut(&hour) {
            let slot = *extent * SLOTS + *used;
            *used += 1;
            if *used == SLOTS {
                self.open.remove(&hour);
            }
            return Some(Allocated {
                slot,
                new_extent: None,
            });
        }
        let extent = match self.free.pop_first() {
            Some(extent) => extent,
            None => {
                let extent = u32::try_from(self.hours.len()).ok()?;
                extent.checked_add(1)?.checked_mul(SLOTS)?;
                self.hours.push(None);
                extent
            }
        };
        self.hours[extent as usize] = Some(hour);
        // The first slot of the file is its header.
        let first = u32::from(extent == 0);
        self.open.insert(hour, (extent, first + 1));
        Some(Allocated {
            slot: extent * SLOTS + first,
            new_extent: Some(extent),
        })
    }

    /// Returns the extents whose rows expired before this hour, as one flag for each extent of the file;
    /// `None` if there are none. They stay taken until [`Extents::free`].
    pub(super) fn expired(&self, before: Hour) -> Option<Vec<bool>> {
        let expired = self.hours.iter();
        let expired: Vec<bool> = expired
            .map(|hour| hour.is_some_and(|hour| hour < before))
            .collect();
        expired.contains(&true).then_some(expired)
    }

    /// Frees extents. Those at the end of the file are no longer counted. Returns the number of extents
    /// that the file has then.
    pub(super) fn free(&mut self, expired: &[bool]) -> usize {
        for ((hour, _), extent) in self
            .hours
            .iter_mut()
            .zip(expired)
            .zip(0..)
            .filter(|((_, is), _)| **is)
        {
            if let Some(hour) = hour.take() {
                self.open.remove(&hour);
            }
            self.free.insert(extent);
        }
        while self.hours.pop_if(|hour| hour.is_none()).is_some() {
            self.free.pop_last();
        }
        self.hours.len()
    }

    /// Returns the number of extents that have rows.
    pub(super) fn taken(&self) -> usize {
        self.hours.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hour(hour: u64) -> Hour {
        Hour::containing(Uptime(hour * HOUR_MS))
    }

    #[test]
    fn slots_of_an_hour_are_in_order() {
        let mut extents = Extents::default();
        let mut slots = |of, count| -> Vec<u32> {
            (0..count)
                .map(|_| extents.allocate(hour(of)).unwrap().slot)
                .collect()
        };
        assert_eq!(slots(1, 2), [1, 2], "the first slot is the header");
        assert_eq!(slots(2, 2), [SLOTS, SLOTS + 1]);
        let rest: Vec<u32> = (3..SLOTS).chain([2 * SLOTS]).collect();
        assert_eq!(slots(1, SLOTS - 2), rest);
    }

    #[test]
    fn expired_extents_are_reused_lowest_first() {
        let mut extents = Extents::default();
        for of in 1..=3 {
            extents.allocate(hour(of)).unwrap();
        }
        assert_eq!(extents.expired(hour(1)), None);
        let expired = extents.expired(hour(3)).unwrap();
        assert_eq!(expired, [true, true, false]);
        let next = extents.allocate(hour(4)).unwrap();
        assert_eq!(next.new_extent, Some(3), "not yet free");
        assert_eq!(extents.free(&expired), 4);
        assert_eq!(extents.taken(), 2);
        let next: Vec<Option<u32>> = (5..8)
            .map(|of| extents.allocate(hour(of)).unwrap().new_extent)
            .collect();
        assert_eq!(next, [Some(0), Some(1), Some(4)]);
    }

    #[test]
    fn free_extents_at_the_end_are_dropped() {
        let mut extents = Extents::default();
        for of in [2, 1, 3, 1, 1] {
            extents.allocate(hour(of)).unwrap();
            extents.open.clear();
        }
        let expired = extents.expired(hour(2)).unwrap();
        assert_eq!(expired, [false, true, false, true, true]);
        assert_eq!(extents.free(&expired), 3);
        assert_eq!(extents.taken(), 2);
        let next: Vec<Option<u32>> = (5..7)
            .map(|of| extents.allocate(hour(of)).unwrap().new_extent)
            .collect();
        assert_eq!(next, [Some(1), Some(3)]);
    }

    #[test]
    fn reopened_extents_go_on_where_they_ended() {
        let found = [(Some(hour(1)), 5), (None, 0), (Some(hour(2)), SLOTS)];
        let mut extents = Extents::new(&found);
        let mut slot = |of| extents.allocate(hour(of)).unwrap().slot;
        assert_eq!(
            [slot(1), slot(2), slot(3)],
            [5, SLOTS, 3 * SLOTS],
            "a full extent has a successor"
        );
    }
}
