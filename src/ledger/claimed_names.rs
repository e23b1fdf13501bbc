//! The rows of a claimed event, with everything that protects them until the claim ends.

use std::time::Duration;

use super::claim_table::LocalClaim;
use crate::store::{
    ClaimLease, EventKey, EventRow, LeaseDeadline, StartedAttempt, Store, StoreError,
};

/// A key that this gateway claims, with its row in the store. Dropping it releases the store's
/// claim before the local one, so that the next copy on this gateway finds the store's claim free.
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

    /// Records in the store that attempt number `attempt` begins.
    ///
    /// # Errors
    /// When that cannot be recorded. Nothing may be sent then.
    pub(super) fn begin_attempt(
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

    /// Marks the store's claim as settled, so that dropping it does not give it back.
    fn mark_settled(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.mark_settled();
        }
    }
}

/// The rows of a claimed event: none if nothing identifies it.
#[derive(Default)]
pub(super) struct ClaimedNames {
    /// The row of the event.
    pub(super) name: Option<ClaimedName>,
    /// The row of its body, where the ledger counts the body's copies.
    pub(super) copies: Option<ClaimedName>,
}

impl ClaimedNames {
    /// Clears the entries of attempts that have begun: their outcome is recorded.
    pub(super) fn clear_attempts(&mut self) {
        self.iter_mut()
            .filter_map(|name| name.started.take())
            .for_each(StartedAttempt::clear);
    }

    /// Marks the store's claims as settled. Without `name_written`, the claim on the event's own
    /// row is given back instead.
    pub(super) fn mark_settled(&mut self, name_written: bool) {
        if let Some(name) = self.name.as_mut().filter(|_| name_written) {
            name.mark_settled();
        }
        if let Some(copies) = &mut self.copies {
            copies.mark_settled();
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut ClaimedName> {
        self.name.iter_mut().chain(&mut self.copies)
    }
}

impl Drop for ClaimedNames {
    /// Releases the store's claims on all rows before the local claim on any.
    fn drop(&mut self) {
        self.iter_mut().for_each(|name| drop(name.lease.take()));
    }
}
