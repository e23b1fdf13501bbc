//! The names of a claimed event, with everything that protects them until the claim ends.

use std::time::Duration;

use super::claim_table::LocalClaim;
use crate::store::{
    ClaimLease, EventKey, EventRow, LeaseDeadline, StartedAttempt, Store, StoreError,
};

/// One name of an event that this gateway claims: a key with its row in the store. Dropping it
/// releases the store's claim before the local one, so that the next copy on this gateway finds the
/// store's claim free.
pub(super) struct ClaimedName {
    /// The key, and the row that earlier attempts left under it.
    row: EventRow,
    /// The entry of an attempt that has begun. Dropped without being cleared, it says after a
    /// restart that the attempt's outcome is unknown.
    started: Option<StartedAttempt>,
    /// The store's claim. Dropped unsettled, it is given back to the store.
    lease: Option<ClaimLease>,
    #[expect(dead_code, reason = "held for its drop")]
    local: LocalClaim,
}

impl ClaimedName {
    pub(super) fn new(key: EventKey, local: LocalClaim) -> Self {
        Self {
            row: EventRow { key, earlier: None },
            started: None,
            lease: None,
            local,
        }
    }

    pub(super) fn set_lease(&mut self, lease: ClaimLease) {
        self.row.earlier = lease.row();
        self.lease = Some(lease);
    }

    pub(super) fn row(&self) -> EventRow {
        self.row
    }

    fn begin_attempt(
        &mut self,
        store: &Store,
        attempt: u32,
        window: Duration,
    ) -> Result<(), StoreError> {
        let until = self
            .lease
            .as_ref()
            .map_or(LeaseDeadline::UNLIMITED, ClaimLease::deadline);
        self.started = Some(store.begin_attempt(self.row.key, until, attempt, window)?);
        Ok(())
    }
}

/// The one or two names of a claimed event.
#[derive(Default)]
pub(super) struct ClaimedNames([Option<ClaimedName>; 2]);

impl ClaimedNames {
    /// Adds a name. There is room for two.
    pub(super) fn push(&mut self, name: ClaimedName) -> &mut ClaimedName {
        let [first, second] = &mut self.0;
        let free = if first.is_none() { first } else { second };
        free.insert(name)
    }

    pub(super) fn rows(&self) -> [Option<EventRow>; 2] {
        self.0
            .each_ref()
            .map(|name| name.as_ref().map(ClaimedName::row))
    }

    /// Records in the store that an attempt begins, under each name.
    ///
    /// # Errors
    /// When that cannot be recorded. Nothing may be sent then.
    pub(super) fn begin_attempt(
        &mut self,
        store: &Store,
        attempt: u32,
        window: Duration,
    ) -> Result<(), StoreError> {
        self.iter_mut()
            .try_for_each(|name| name.begin_attempt(store, attempt, window))
    }

    /// Clears the entries of attempts that have begun: their outcome is recorded.
    pub(super) fn clear_attempts(&mut self) {
        self.iter_mut()
            .filter_map(|name| name.started.take())
            .for_each(StartedAttempt::clear);
    }

    /// Marks the store's claims as settled, so that dropping them does not give them back.
    pub(super) fn mark_settled(&mut self) {
        self.iter_mut()
            .filter_map(|name| name.lease.take())
            .for_each(ClaimLease::mark_settled);
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut ClaimedName> {
        self.0.iter_mut().flatten()
    }
}

impl Drop for ClaimedNames {
    /// Releases the store's claims on both names before the local claim on either.
    fn drop(&mut self) {
        self.iter_mut().for_each(|name| drop(name.lease.take()));
    }
}
