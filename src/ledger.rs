//! The ledger: which events were delivered, which are being delivered, and which may be delivered.
//!
//! ```text
//! absent ──claim──▶ claimed ──complete──▶ completed: copies are duplicates
//!                      ├──release──▶ attempted: the next copy is delivered
//!                      └──release as unknown──▶ attempted, possibly delivered: the next
//!                                               copy is delivered, marked as a possible duplicate
//! ```
//!
//! An event that was attempted is claimed like an absent one. When the window ends, the event is
//! absent again.
//!
//! Owns these states, and makes the copies of an event wait for each other. The `store` keeps the
//! records. Only verified events reach this module.

mod claim;
mod claim_table;
mod claimed_names;
mod copies;
mod identity;
mod keys;
mod recovery;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, ClaimLease, ClaimPurpose, ClaimResult, ClaimTerms, EventKey, KnownEvent,
    LedgerEntry, Store, StoreError,
};
use claim_table::ClaimTable;
use claimed_names::{ClaimedName, ClaimedNames};
use copies::{BodyCopies, Minute};

use claim::ClaimedCopies;

pub use claim::{Claim, ClaimOutcome, DeliveryReport, FailedAttempt};
pub use copies::MARKED_COPIES_MAX;
pub use identity::{EventIdentity, EventParts, IdentityRule, KnownBy, UnsignedPolicy};
pub use keys::EventKeys;
pub use recovery::{ForgetResult, Redelivery, RedeliveryResult};

/// The treatment of a copy that arrives while the first one is still in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum InFlightPolicy {
    /// The copy waits for the first one's result, within its own budget.
    Wait,
    /// The copy is answered with 409 at once.
    Reject,
}

/// The options of [`Ledger::claim`].
#[derive(Debug, Clone, Copy)]
pub struct ClaimOptions {
    /// The time for which the outcome will be remembered.
    pub window: Duration,
    /// The handling of a copy while another one is in flight.
    pub in_flight: InFlightPolicy,
    /// The time until which a copy waits at most.
    pub deadline: Instant,
    pub purpose: ClaimPurpose,
}

/// Returns the time for which attempts without success are remembered, on a route that remembers
/// completed events for `window`: half of it. They must outlive the pause before the sender's next
/// retry, which renews them. A sender that doubles its pauses pauses for half of its horizon at
/// most, and `window` is longer than the horizon.
fn failed_window(window: Duration) -> Duration {
    window / 2
}

/// The time by which a lease outlasts the deadline of its claim: longer than settling takes.
const LEASE_MARGIN: Duration = Duration::from_secs(3);

/// The first pause before asking the store again for a claim that another gateway holds.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The longest such pause: each is twice as long as the one before.
const POLL_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// The ledger of one gateway.
pub struct Ledger {
    store: Store,
    claims: Arc<ClaimTable>,
    hash_key: [u8; 16],
    abandoned: AtomicU64,
}

/// The ledger's decision on a verified event.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is claimed: a box would cost each an allocation"
)]
pub enum ClaimDecision {
    /// This request holds the claim: no other copy of the event may be delivered until it is
    /// released.
    Claimed(Claim),
    /// The event was delivered before.
    Duplicate,
    /// An event with this ID was delivered before, with another body.
    PayloadMismatch,
    /// The body was delivered before as other events, and as often as it may be.
    TooManyCopies,
    /// Another copy is being delivered, and this one did not wait for its end or ran out of time.
    InFlight,
}

impl Ledger {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            hash_key: store.hash_key(),
            store,
            claims: ClaimTable::new(),
            abandoned: AtomicU64::new(0),
        })
    }

    /// Returns the keys of an event on a route.
    pub fn keys(&self, route: &str, identity: EventIdentity<'_>) -> EventKeys {
        EventKeys::new(&self.hash_key, route, identity)
    }

    /// Claims an event of a route for delivery.
    ///
    /// # Errors
    /// When the store cannot be queried, or has no room for the outcome of the route's event. Nothing
    /// may be forwarded then.
    pub async fn claim(
        self: &Arc<Self>,
        route: &str,
        keys: EventKeys,
        digest: PayloadDigest,
        mut options: ClaimOptions,
    ) -> Result<ClaimDecision, StoreError> {
        let mut names = ClaimedNames::default();
        let mut copies = None;
        let mut before_delivery = None;
        // The body's key comes first, so that no two events wait for each other.
        if let Some(key) = keys.copies {
            if options.purpose == ClaimPurpose::Queue {
                // Only a claim makes the count of copies exact among gateways.
                options.purpose = ClaimPurpose::Change;
            }
            let Some((held, known)) = self.claim_key(route, key, options).await? else {
                return Ok(ClaimDecision::InFlight);
            };
            names.copies = Some(held);
            let now = Minute::new(self.store.now_due());
            let read = BodyCopies::read(known, options.window, now);
            if let BodyCopies::Undelivered(_) = read {
                before_delivery = known;
            }
            copies = Some((read, now));
        }
        let mut known_event = None;
        if let Some(key) = keys.name {
            let Some((held, known)) = self.claim_key(route, key, options).await? else {
                return Ok(ClaimDecision::InFlight);
            };
            names.name = Some(held);
            known_event = known;
        }
        let known = known_event.or(before_delivery);
        let earlier = match known.map(|known| known.entry) {
            // The key of a body, or of an event with its body, belongs to no other body.
            Some(LedgerEntry::Completed { .. }) if copies.is_some() => {
                return Ok(ClaimDecision::Duplicate);
            }
            Some(LedgerEntry::Completed { digest: first }) if first.contradicts(digest) => {
                return Ok(ClaimDecision::PayloadMismatch);
            }
            Some(LedgerEntry::Completed { .. }) => return Ok(ClaimDecision::Duplicate),
            Some(LedgerEntry::Attempted(history)) => history,
            None => AttemptHistory::default(),
        };
        let copies =
            copies.map(|(known, now)| ClaimedCopies::new(known, now, known_event.is_some()));
        if copies.is_some_and(|copies| copies.is_over_limit()) {
            return Ok(ClaimDecision::TooManyCopies);
        }
        // A full store still accepts copies of a known event, because they take no more room.
        if known.is_none() {
            self.store.check_room(Some(route))?;
        }
        Ok(ClaimDecision::Claimed(Claim {
            ledger: Arc::clone(self),
            digest,
            window: options.window,
            earlier,
            delivery: known.and_then(|known| known.delivery),
            copies,
            settled: false,
            names,
        }))
    }

    /// Claims one key, on this gateway and in the store. Returns `None` if it is held.
    async fn claim_key(
        &self,
        route: &str,
        key: EventKey,
        options: ClaimOptions,
    ) -> Result<Option<(ClaimedName, Option<KnownEvent>)>, StoreError> {
        let (policy, deadline) = (options.in_flight, options.deadline);
        let claims = &self.claims;
        let local = match claims.claim(key, InFlightPolicy::Reject, deadline).await {
            None if policy == InFlightPolicy::Wait => {
                tracing::debug!(
                    route,
                    "waiting for a copy of the event that is being delivered"
                );
                claims.claim(key, policy, deadline).await
            }
            local => local,
        };
        let Some(local) = local else {
            return Ok(None);
        };
        let mut name = ClaimedName::new(key, local);
        // Queried only now that the local claim is held: an earlier holder records its outcome
        // before it releases the claim.
        let claimed = timeout_at(options.deadline.into(), self.claim_in_store(key, options)).await;
        let Some((lease, known)) = claimed.unwrap_or(Err(StoreError::Unavailable))? else {
            return Ok(None);
        };
        name.set_lease(lease);
        Ok(Some((name, known)))
    }

    /// Claims one key in the store. Returns `None` if another gateway holds it.
    async fn claim_in_store(
        &self,
        key: EventKey,
        options: ClaimOptions,
    ) -> Result<Option<(ClaimLease, Option<KnownEvent>)>, StoreError> {
        let mut pause = POLL_INTERVAL;
        loop {
            let lease = options
                .deadline
                .saturating_duration_since(Instant::now())
                .saturating_add(LEASE_MARGIN);
            let terms = ClaimTerms {
                lease,
                window: failed_window(options.window),
                purpose: options.purpose,
            };
            match self.store.claim(key, terms).await? {
                ClaimResult::Acquired(lease, known) => return Ok(Some((lease, known))),
                ClaimResult::HeldElsewhere
                    if options.in_flight == InFlightPolicy::Wait
                        && Instant::now() + pause < options.deadline =>
                {
                    tracing::debug!("waiting for another gateway, which delivers the event");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(POLL_INTERVAL_MAX);
                }
                ClaimResult::HeldElsewhere => return Ok(None),
            }
        }
    }

    /// Returns the number of claims that were dropped unsettled since the start. Each is a defect
    /// of the gateway.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Returns the store that keeps the ledger.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
mod tests;
