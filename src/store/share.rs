//! The share of the store that one route may hold, so that no route fills it for the others.
//!
//! A route may hold four times as much as is free, for remembered IDs and for bytes alike. So
//! shares bind only under pressure: while at least a fifth of the store is free, no route is bound
//! by its share. When less is free, the largest holder is refused first, some room stays free for
//! every other route, and room that is freed goes to routes that hold less. Shared buffers in
//! network switches are divided by this rule (Choudhury and Hahne, "Dynamic Queue Length
//! Thresholds"). The rule does not depend on the number of routes, and a busy route is not bound to
//! an equal share: one that needs up to 44 % of the store (4/9) keeps it, however much one other
//! route grows.
//!
//! Nothing that was acknowledged is dropped: shares only refuse new events.

use super::StoreError;

/// The multiple of the free room that one route may hold.
const TIMES_FREE: u64 = 4;

/// Something that can be used up, with its limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pool {
    pub used: u64,
    pub max: u64,
}

impl Pool {
    fn free(self) -> u64 {
        self.max.saturating_sub(self.used)
    }

    fn is_full(self) -> bool {
        self.free() == 0
    }

    /// Returns whether a route that holds `held` may take more.
    fn admits(self, held: u64) -> bool {
        held <= self.free().saturating_mul(TIMES_FREE)
    }
}

/// The pools of a store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pools {
    pub ids: Pool,
    pub bytes: Pool,
    /// The disk space that the store uses or could still use. Routes share it like the other pools.
    /// It is not checked for being full: the file may have free pages, so only a failed write shows
    /// that no room is left.
    pub disk: Pool,
}

/// The room that one route holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Holding {
    pub ids: u64,
    /// The size of its IDs, records and payloads, in bytes.
    pub bytes: u64,
}

impl Pools {
    /// Returns whether shares may bind. No route holds more than all that is used.
    pub(super) fn has_pressure(&self) -> bool {
        ![self.ids, self.bytes, self.disk]
            .iter()
            .all(|pool| pool.admits(pool.used))
    }

    /// Checks that a route may take more. `holding` is called only under pressure; it returns
    /// `None` for a route that shares the store with no other one, which may use all of it.
    ///
    /// # Errors
    /// Fails when the store is full, or when the route holds its share.
    pub(super) fn check_room(
        self,
        holding: impl FnOnce() -> Option<Holding>,
    ) -> Result<(), StoreError> {
        if self.ids.is_full() || self.bytes.is_full() {
            return Err(StoreError::Full);
        }
        if !self.has_pressure() {
            return Ok(());
        }
        let Self { ids, bytes, disk } = self;
        match holding() {
            Some(held)
                if !(ids.admits(held.ids)
                    && bytes.admits(held.bytes)
                    && disk.admits(held.bytes)) =>
            {
                Err(StoreError::ShareFull)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const UNLIMITED: Pool = Pool {
        used: 0,
        max: u64::MAX,
    };

    fn of_ids(used: u64, max: u64) -> Pools {
        Pools {
            ids: Pool { used, max },
            bytes: UNLIMITED,
            disk: UNLIMITED,
        }
    }

    fn holding(ids: u64) -> Holding {
        Holding { ids, bytes: 0 }
    }

    #[test]
    fn share_binds_only_under_pressure() {
        for (used, held, expected) in [
            (800, 800, Ok(())),
            (801, 801, Err(StoreError::ShareFull)),
            (801, 1, Ok(())),
            (999, 4, Ok(())),
            (999, 5, Err(StoreError::ShareFull)),
            (1_000, 0, Err(StoreError::Full)),
        ] {
            let room = of_ids(used, 1_000).check_room(|| Some(holding(held)));
            assert_eq!(room, expected, "{held} of {used}");
        }
    }

    #[test]
    fn each_pool_has_shares() {
        let full = Pool { used: 90, max: 100 };
        let held = || Some(Holding { ids: 50, bytes: 50 });
        for (ids, bytes, disk) in [
            (full, UNLIMITED, UNLIMITED),
            (UNLIMITED, full, UNLIMITED),
            (UNLIMITED, UNLIMITED, full),
        ] {
            let pools = Pools { ids, bytes, disk };
            assert_eq!(pools.check_room(held), Err(StoreError::ShareFull));
        }
    }

    #[test]
    fn only_route_may_use_everything() {
        assert_eq!(of_ids(999, 1_000).check_room(|| None), Ok(()));
        assert_eq!(
            of_ids(1_000, 1_000).check_room(|| None),
            Err(StoreError::Full)
        );
    }

    /// Lets a route take IDs until it is refused. Returns the number that it holds.
    fn fill(held: &mut [u64], route: usize, max: u64) -> u64 {
        while of_ids(held.iter().sum(), max)
            .check_room(|| Some(holding(held[route])))
            .is_ok()
        {
            held[route] += 1;
        }
        held[route]
    }

    #[test]
    fn growing_route_stops_before_a_busy_one_is_refused() {
        // The busy route holds 44 % already, and its IDs expire as fast as new ones come.
        let mut held = [4_400, 0];
        fill(&mut held, 1, 10_000);
        let used = held.iter().sum();
        let room = of_ids(used, 10_000).check_room(|| Some(holding(held[0])));
        assert_eq!((room, held[1] < 4_500), (Ok(()), true));
    }

    proptest! {
        #[test]
        fn route_that_holds_nothing_always_finds_room(
            routes in 2_usize..5,
            order in prop::collection::vec(0_usize..4, 1..20),
        ) {
            let mut held = vec![0; routes];
            for route in order {
                fill(&mut held, route % (routes - 1), 100_000);
            }
            prop_assert!(fill(&mut held, routes - 1, 100_000) > 0);
        }
    }
}
