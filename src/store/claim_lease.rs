//! Leases and journal entries that exist while an event is being delivered.

use std::time::Instant;

use super::{KnownEvent, RowId, StoreError, embedded, postgres};

/// The result of a claim.
pub enum ClaimResult {
    /// This gateway holds the claim; with what is known of the event.
    Acquired(ClaimLease, Option<KnownEvent>),
    /// Another gateway holds the claim.
    HeldElsewhere,
}

/// The claim on an event among gateways. Dropping it before it is settled releases the claim.
#[derive(Default)]
pub struct ClaimLease {
    /// The event's ledger row.
    pub(super) row: Option<RowId>,
    pub(super) lease: Option<postgres::LeaseRow>,
}

/// The time until which no other gateway can take over the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseDeadline(pub(super) Option<Instant>);

/// An attempt in progress. If it is dropped without [`StartedAttempt::clear`], the next run treats
/// it as an attempt of unknown outcome.
pub struct StartedAttempt(pub(super) Option<embedded::JournalEntry>);

impl ClaimLease {
    pub fn row(&self) -> Option<RowId> {
        self.row
    }

    pub fn deadline(&self) -> LeaseDeadline {
        LeaseDeadline(self.lease.as_ref().map(postgres::LeaseRow::deadline))
    }

    /// Marks the claim as settled, so that dropping the lease does not release it.
    pub fn mark_settled(self) {
        if let Some(lease) = self.lease {
            lease.mark_settled();
        }
    }
}

impl LeaseDeadline {
    /// No deadline, because there is only one gateway.
    pub const UNLIMITED: Self = Self(None);

    /// Checks that the lease has not lapsed.
    ///
    /// # Errors
    /// Fails when it has. Nothing may be sent then.
    pub(super) fn check_not_lapsed(self) -> Result<(), StoreError> {
        let has_lapsed = self.0.is_some_and(|end| Instant::now() >= end);
        if has_lapsed {
            Err(StoreError::Unavailable)
        } else {
            Ok(())
        }
    }
}

impl StartedAttempt {
    /// Clears the journal entry, once the attempt's outcome is recorded.
    pub fn clear(self) {
        if let Some(entry) = self.0 {
            entry.clear();
        }
    }
}
