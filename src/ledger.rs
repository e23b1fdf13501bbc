//! The ledger: which events were handed over, which are being handed over, and which may pass.
//!
//! ```text
//! absent ──claim──▶ claimed ──complete──▶ completed (for the window)
//!    ▲                 ├──release──▶ tried: the next copy passes
//!    └──window ends──  └──release as unknown──▶ tried, possibly delivered: it passes and the upstream is told
//! ```
//!
//! Owns these states and who waits for whom; what is remembered is kept by `store`. Only verified events come here.

mod claims;

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::event::EventId;
use crate::signature::PayloadDigest;
use crate::store::{EventKey, Record, Store, StoreError, Tried};
use claims::{Claims, Hold};

/// What a copy does that finds the first one still in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFlightPolicy {
    /// Waits for the first one's end, inside its own budget.
    Wait,
    /// Is refused at once.
    Reject,
}

/// The ledger of one gateway.
pub struct Ledger {
    store: Store,
    claims: Arc<Claims>,
    hash_key: [u8; 16],
    abandoned: AtomicU64,
}

/// The one or two names an event goes by. See [`Ledger::names`].
#[derive(Debug, Clone, Copy)]
pub struct Names {
    first: EventKey,
    second: Option<EventKey>,
}

/// What the ledger says to a verified event.
pub enum Decision {
    /// It is this copy's to hand over, and nobody else's meanwhile.
    Claimed(Claim),
    /// Handed over before.
    Duplicate,
    /// An event of this ID was handed over before, with another body.
    PayloadMismatch,
    /// Another copy is being handed over, and this one could not or would not wait for its end.
    InFlight,
}

/// The right to hand an event over. Settle it; dropped unsettled, it counts as an attempt of unknown outcome.
pub struct Claim {
    ledger: Arc<Ledger>,
    names: Names,
    digest: PayloadDigest,
    window: Duration,
    before: Tried,
    settled: bool,
    _holds: [Option<Hold>; 2],
}

impl Ledger {
    /// `hash_key` must be random, and the same for as long as `store` remembers.
    pub fn new(store: Store, hash_key: [u8; 16]) -> Arc<Self> {
        Arc::new(Self { store, claims: Claims::new(), hash_key, abandoned: AtomicU64::new(0) })
    }

    /// The names of an event on a route.
    ///
    /// `signed_body` is the SHA-256 of the body where the signature does not cover the ID. Anybody could then put a
    /// new ID on a captured request, so the event goes by its body as well, and is known again by either.
    pub fn names(&self, route: &str, id: &EventId, signed_body: Option<&[u8; 32]>) -> Names {
        let by_id = match id {
            EventId::BodyDigest => None,
            id => Some(self.key(route, |hasher| id.feed(hasher))),
        };
        let by_body =
            signed_body.map(|sha256| self.key(route, |hasher| hasher.write(&[b"body", &sha256[..]].concat())));
        match (by_body, by_id) {
            // Always in this order, so that no two events wait for each other.
            (Some(first), second) => Names { first, second },
            (None, Some(first)) => Names { first, second: None },
            (None, None) => Names { first: self.key(route, |_| ()), second: None },
        }
    }

    fn key(&self, route: &str, name: impl FnOnce(&mut SipHasher24)) -> EventKey {
        let mut hasher = SipHasher24::new_with_key(&self.hash_key);
        // `Hash` may write other bytes in the next version of Rust; a durable store keeps what we make of these.
        hasher.write(&(route.len() as u64).to_le_bytes());
        hasher.write(route.as_bytes());
        name(&mut hasher);
        EventKey(hasher.finish128().as_u128())
    }

    /// Claims an event for handing over. `window` is how long its outcome will be remembered; a waiting copy waits
    /// until `deadline` at the latest.
    ///
    /// # Errors
    /// When the store can't tell, or has no room for the outcome. Nothing may be forwarded then.
    pub async fn claim(
        self: &Arc<Self>,
        names: Names,
        digest: PayloadDigest,
        window: Duration,
        policy: InFlightPolicy,
        deadline: Instant,
    ) -> Result<Decision, StoreError> {
        self.store.check_room()?;
        let mut before = Tried::default();
        let mut holds = [None, None];
        for (hold, key) in holds.iter_mut().zip(names.keys()) {
            match self.claims.take(key, policy, deadline).await {
                Some(taken) => *hold = Some(taken),
                None => return Ok(Decision::InFlight),
            }
            // Asked after the claim is ours: an earlier holder records what it did before it lets go.
            match self.store.recall(key).await? {
                Some(Record::Completed { digest: first }) if first.contradicts(digest) => {
                    return Ok(Decision::PayloadMismatch);
                }
                Some(Record::Completed { .. }) => return Ok(Decision::Duplicate),
                Some(Record::Tried(tried)) => before = before.and(tried),
                None => {}
            }
        }
        let ledger = Arc::clone(self);
        Ok(Decision::Claimed(Claim { ledger, names, digest, window, before, settled: false, _holds: holds }))
    }

    /// Completed events that are remembered now.
    pub fn completed(&self) -> usize {
        self.store.completed()
    }

    /// Claims that were dropped unsettled since the start: each is a defect of ours.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Whether events can be claimed.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), StoreError> {
        self.store.check_room()
    }
}

impl Names {
    fn keys(self) -> impl Iterator<Item = EventKey> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

impl Tried {
    fn and(self, other: Self) -> Self {
        Self {
            attempts: self.attempts.max(other.attempts),
            possibly_delivered: self.possibly_delivered || other.possibly_delivered,
        }
    }
}

impl Claim {
    /// The number of this attempt: 1 for an event that was never tried.
    pub fn attempt(&self) -> u32 {
        self.before.attempts.saturating_add(1)
    }

    /// Whether an earlier attempt may have been processed, its answer being lost.
    pub fn possible_duplicate(&self) -> bool {
        self.before.possibly_delivered
    }

    /// The event was handed over. When this returns `Ok`, no copy of it passes inside the window.
    ///
    /// # Errors
    /// When that could not be recorded. The sender must then not hear of success; the claim ends as unknown.
    pub async fn complete(mut self) -> Result<(), StoreError> {
        for key in self.names.keys() {
            if let Err(error) = self.ledger.store.complete(key, self.digest, self.window).await {
                self.settle(true);
                return Err(error);
            }
        }
        self.settled = true;
        Ok(())
    }

    /// The event was not tried after all: things are as they were before the claim.
    pub fn release_untried(mut self) {
        self.settled = true;
    }

    /// The upstream refused the event or was never reached: the next copy passes.
    pub fn release(mut self) {
        self.settle(false);
    }

    /// The event was sent and no answer came: the next copy passes, and the upstream is told.
    pub fn release_as_unknown(mut self) {
        self.settle(true);
    }

    fn settle(&mut self, unknown: bool) {
        let tried = Tried { attempts: self.attempt(), possibly_delivered: unknown || self.before.possibly_delivered };
        for key in self.names.keys() {
            self.ledger.store.note_tried(key, tried, self.window);
        }
        self.settled = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if !self.settled {
            self.ledger.abandoned.fetch_add(1, Ordering::Relaxed);
            self.settle(true);
        }
    }
}

#[cfg(test)]
mod tests;
