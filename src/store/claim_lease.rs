//! What holds while an event is handed over: the claim on it, and the note that an attempt is under way.

use std::time::Instant;

use super::{KnownEvent, RowId, StoreError, embedded, postgres};

/// What became of the wish to claim an event.
pub enum ClaimResult {
    /// No other gateway is handing it over; and what is known of it.
    Acquired(ClaimLease, Option<KnownEvent>),
    /// Another gateway has it.
    HeldElsewhere,
}

/// An event's claim among gateways. Dropped before it is settled, it is given back.
#[derive(Default)]
pub struct ClaimLease {
    /// The event's row.
    pub(super) place: Option<RowId>,
    pub(super) lease: Option<postgres::LeaseRow>,
}

/// Until when no other gateway takes what this one has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseDeadline(pub(super) Option<Instant>);

/// An attempt that is under way. Dropped without [`Underway::clear`], it is one of unknown outcome to the next run.
pub struct StartedAttempt(pub(super) Option<embedded::JournalEntry>);

impl ClaimLease {
    pub fn row(&self) -> Option<RowId> {
        self.place
    }

    pub fn deadline(&self) -> LeaseDeadline {
        LeaseDeadline(self.lease.as_ref().map(postgres::LeaseRow::deadline))
    }

    /// It is settled, or its end says what became of the event.
    pub fn mark_settled(self) {
        if let Some(lease) = self.lease {
            lease.mark_settled();
        }
    }
}

impl LeaseDeadline {
    /// Where there is one gateway only.
    pub const EVER: Self = Self(None);

    /// # Errors
    /// When it is over. Nothing may be sent then.
    pub(super) fn check_not_lapsed(self) -> Result<(), StoreError> {
        let is_over = self.0.is_some_and(|end| Instant::now() >= end);
        if is_over {
            Err(StoreError::Unavailable)
        } else {
            Ok(())
        }
    }
}

impl StartedAttempt {
    /// The attempt's outcome is recorded.
    pub fn clear(self) {
        if let Some(noted) = self.0 {
            noted.clear();
        }
    }
}
