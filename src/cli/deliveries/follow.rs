//! Which deliveries are new: what lies between two looks at a list that is read from its newest end.

use std::collections::BTreeSet;

/// What was told already. Deliveries are known by their number, which grows with each that comes.
#[derive(Debug)]
pub(super) struct Followed {
    /// Nothing up to here is told any more.
    floor: i64,
    /// The newest there was at the last look.
    newest: i64,
    /// What was told above the floor, or was there from the start.
    told: BTreeSet<i64>,
    /// How many of the newest are looked at again each time.
    watched: usize,
}

/// One look, from the newest delivery towards older ones.
#[derive(Debug, Default)]
pub(super) struct Look {
    seen: Vec<i64>,
    /// Where it was given up.
    cut: Option<i64>,
}

impl Followed {
    /// Everything that comes after this delivery is new.
    pub(super) fn since(number: i64, watched: usize) -> Self {
        Self {
            floor: number,
            newest: number,
            told: BTreeSet::new(),
            watched,
        }
    }

    /// Everything is new that is not there at the first look, which is to be thrown away.
    pub(super) fn from_now(watched: usize) -> Self {
        Self {
            floor: 0,
            newest: i64::MAX,
            told: BTreeSet::new(),
            watched,
        }
    }

    /// Takes the next delivery of a look. `None` when it has gone far enough; else whether this one is new.
    pub(super) fn sees(&self, look: &mut Look, number: i64) -> Option<bool> {
        let known = number <= self.newest && look.seen.len() >= self.watched;
        if known || number <= self.floor {
            look.cut = Some(number);
            return None;
        }
        look.seen.push(number);
        Some(!self.told.contains(&number))
    }

    /// Notes a look that was not broken off: what it saw is told.
    pub(super) fn looked(&mut self, look: Look) {
        self.floor = self.floor.max(look.cut.unwrap_or(0));
        let before = if self.newest == i64::MAX {
            self.floor
        } else {
            self.newest
        };
        self.newest = before.max(look.seen.first().copied().unwrap_or(0));
        self.told.extend(look.seen);
        self.told = self.told.split_off(&self.floor.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a look at these numbers, the newest first, tells, the oldest first.
    fn look(followed: &mut Followed, numbers: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let (mut look, mut new) = (Look::default(), Vec::new());
        for number in numbers {
            match followed.sees(&mut look, number) {
                Some(true) => new.push(number),
                Some(false) => {}
                None => break,
            }
        }
        followed.looked(look);
        new.reverse();
        new
    }

    #[test]
    fn each_delivery_is_new_once_however_many_come_between_two_looks() {
        let mut followed = Followed::from_now(0);
        look(&mut followed, (1..=7).rev());
        assert_eq!(look(&mut followed, (1..=7).rev()), [0; 0]);
        assert_eq!(
            look(&mut followed, (1..=500).rev()),
            (8..=500).collect::<Vec<_>>()
        );
        assert_eq!(look(&mut followed, (1..=501).rev()), [501]);
        assert!(followed.told.len() <= 1, "{followed:?}");
    }

    #[test]
    fn what_came_after_a_delivery_is_new() {
        assert_eq!(look(&mut Followed::since(3, 0), (1..=5).rev()), [4, 5]);
        assert_eq!(
            look(&mut Followed::since(0, 0), (1..=5).rev()),
            [1, 2, 3, 4, 5]
        );
        assert_eq!(look(&mut Followed::since(9, 0), (1..=5).rev()), [0; 0]);
    }

    #[test]
    fn an_empty_list_is_a_start_as_well() {
        let mut followed = Followed::from_now(0);
        look(&mut followed, []);
        assert_eq!(look(&mut followed, [2, 1]), [1, 2]);
        assert_eq!(look(&mut followed, [2, 1]), [0; 0]);
    }

    #[test]
    fn one_that_takes_its_place_among_older_ones_is_new_if_it_is_near_enough() {
        let mut followed = Followed::from_now(3);
        look(&mut followed, [90, 70, 50, 30, 10]);
        assert_eq!(look(&mut followed, [90, 80, 70, 50, 30, 10]), [80]);
        assert_eq!(look(&mut followed, [90, 80, 70, 50, 30, 10]), [0; 0]);
        // The newest have gone: those that come forward are as old as before.
        assert_eq!(look(&mut followed, [50, 30, 10]), [0; 0]);
        assert!(followed.told.len() <= 3, "{followed:?}");
    }

    #[test]
    fn a_look_that_was_broken_off_has_told_nothing() {
        let mut followed = Followed::from_now(0);
        look(&mut followed, [1]);
        let mut broken = Look::default();
        assert_eq!(followed.sees(&mut broken, 3), Some(true));
        drop(broken);
        assert_eq!(look(&mut followed, [3, 2, 1]), [2, 3]);
    }
}
