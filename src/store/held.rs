//! What holds while an event is handed over: the claim on it, and the note that an attempt is under way.

use std::time::Instant;

use super::{Found, Place, StoreError, embedded, postgres};

/// What became of the wish to claim an event.
pub enum Claimed {
    /// No other gateway is handing it over; and what is known of it.
    Here(Held, Option<Found>),
    /// Another gateway has it.
    Elsewhere,
}

/// An event's claim among gateways. Dropped before it is settled, it is given back.
#[derive(Default)]
pub struct Held {
    /// The event's row.
    pub(super) place: Option<Place>,
    pub(super) lease: Option<postgres::Lease>,
}

/// Until when no other gateway takes what this one has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until(pub(super) Option<Instant>);

/// An attempt that is under way. Dropped without [`Underway::clear`], it is one of unknown outcome to the next run.
pub struct Underway(pub(super) Option<embedded::Underway>);

impl Held {
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    pub fn until(&self) -> Until {
        Until(self.lease.as_ref().map(postgres::Lease::until))
    }

    /// It is settled, or its end says what became of the event.
    pub fn settled(self) {
        if let Some(lease) = self.lease {
            lease.settled();
        }
    }
}

impl Until {
    /// Where there is one gateway only.
    pub const EVER: Self = Self(None);

    /// # Errors
    /// When it is over. Nothing may be sent then.
    pub(super) fn check(self) -> Result<(), StoreError> {
        let is_over = self.0.is_some_and(|end| Instant::now() >= end);
        if is_over {
            Err(StoreError::Unavailable)
        } else {
            Ok(())
        }
    }
}

impl Underway {
    /// The attempt's outcome is recorded.
    pub fn clear(self) {
        if let Some(noted) = self.0 {
            noted.clear();
        }
    }
}
