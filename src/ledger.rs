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
mod recovery;

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128, SipHasher24};
use tokio::time::timeout_at;

use crate::event::EventId;
use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, AttemptRecord, ClaimLease, ClaimResult, ClaimTerms, DeliveryChange, DeliveryId,
    DeliveryState, EventKey, EventMetadata, EventRow, KnownEvent, LeaseDeadline, LedgerEntry,
    Payload, Settlement, StartedAttempt, Store, StoreError,
};
use claims::{Claims, LocalClaim};

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

/// How a claim is made.
#[derive(Debug, Clone, Copy)]
pub struct ClaimOptions {
    /// How long the outcome will be remembered.
    pub window: Duration,
    /// What is done while another copy is in flight.
    pub in_flight: InFlightPolicy,
    /// How long a copy waits at the most.
    pub deadline: Instant,
    /// Whether the event is sent while it is claimed, not stored.
    pub forwards: bool,
}

/// What a claim outlives its deadline by if its holder dies: more than settling it may take.
const LEASE_MARGIN: Duration = Duration::from_secs(3);

/// Pauses between two questions whether another gateway has let go.
const ASK_AGAIN: Duration = Duration::from_millis(20);
const ASK_AGAIN_MOST: Duration = Duration::from_millis(250);

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
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every event is claimed: a box would cost each an allocation"
)]
pub enum ClaimDecision {
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
    names: [Option<EventRow>; 2],
    digest: PayloadDigest,
    window: Duration,
    before: AttemptHistory,
    delivery: Option<DeliveryId>,
    settled: bool,
    underway: Vec<StartedAttempt>,
    leases: [Option<ClaimLease>; 2],
    holds: [Option<LocalClaim>; 2],
}

/// How a claim ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The upstream has taken the event: no copy passes inside the window.
    Delivered,
    /// The event is to be stored, and is as good as handed over once it is. After an attempt, if there was one.
    Stored {
        after: Option<FailedAttempt>,
        /// When it is to be tried.
        due_after: Duration,
    },
    /// The event was tried in vain: the next copy passes.
    Released(FailedAttempt),
}

/// An attempt without success, as far as the ledger is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedAttempt {
    /// The upstream refused the event or was never reached.
    Refused,
    /// The event was sent and no answer came: the upstream is told when it is sent again.
    Unknown,
}

/// What the store keeps of the hand-over beside the ledger's own rows.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    pub event: Arc<EventMetadata>,
    pub attempt: Option<AttemptRecord>,
    /// To be kept; needed for [`Ending::Stored`].
    pub payload: Option<Payload>,
}

impl Ledger {
    pub fn new(store: Store) -> Arc<Self> {
        Arc::new(Self {
            hash_key: store.hash_key(),
            store,
            claims: Claims::new(),
            abandoned: AtomicU64::new(0),
        })
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
        let by_body = signed_body.map(|sha256| {
            self.key(route, |hasher| {
                hasher.write(&[b"body", &sha256[..]].concat())
            })
        });
        match (by_body, by_id) {
            // Always in this order, so that no two events wait for each other.
            (Some(first), second) => Names { first, second },
            (None, Some(first)) => Names {
                first,
                second: None,
            },
            (None, None) => Names {
                first: self.key(route, |_| ()),
                second: None,
            },
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

    /// Claims an event for handing over.
    ///
    /// # Errors
    /// When the store can't tell, or has no room for the outcome. Nothing may be forwarded then.
    pub async fn claim(
        self: &Arc<Self>,
        names: Names,
        digest: PayloadDigest,
        how: ClaimOptions,
    ) -> Result<ClaimDecision, StoreError> {
        let (mut before, mut delivery) = (AttemptHistory::default(), None);
        let (mut holds, mut leases) = ([None, None], [None, None]);
        let mut found_names = [None, None];
        let mut is_new = true;
        for (((hold, lease), name), key) in holds
            .iter_mut()
            .zip(&mut leases)
            .zip(&mut found_names)
            .zip(names.keys())
        {
            match self
                .claims
                .try_claim(key, how.in_flight, how.deadline)
                .await
            {
                Some(taken) => *hold = Some(taken),
                None => return Ok(ClaimDecision::InFlight),
            }
            // Asked after the claim is ours: an earlier holder records what it did before it lets go.
            let claimed =
                timeout_at(how.deadline.into(), self.claim_among_gateways(key, how)).await;
            let Some((ours, found)) = claimed.unwrap_or(Err(StoreError::Unavailable))? else {
                return Ok(ClaimDecision::InFlight);
            };
            *name = Some(EventRow {
                key,
                earlier: ours.row(),
            });
            *lease = Some(ours);
            is_new &= found.is_none();
            delivery = delivery.or(found.and_then(|found| found.delivery));
            match found.map(|found| found.record) {
                Some(LedgerEntry::Completed { digest: first }) if first.contradicts(digest) => {
                    return Ok(ClaimDecision::PayloadMismatch);
                }
                Some(LedgerEntry::Completed { .. }) => return Ok(ClaimDecision::Duplicate),
                Some(LedgerEntry::Attempted(tried)) => before = before.merge(tried),
                None => {}
            }
        }
        // What is known already is answered from what is known, however full it is, and a retry takes no more room.
        if is_new {
            self.store.check_room()?;
        }
        Ok(ClaimDecision::Claimed(Claim {
            ledger: Arc::clone(self),
            names: found_names,
            digest,
            window: how.window,
            before,
            delivery,
            settled: false,
            underway: Vec::new(),
            leases,
            holds,
        }))
    }

    /// Claims one of an event's names in the store; `None` when another gateway has it.
    async fn claim_among_gateways(
        &self,
        key: EventKey,
        how: ClaimOptions,
    ) -> Result<Option<(ClaimLease, Option<KnownEvent>)>, StoreError> {
        let mut pause = ASK_AGAIN;
        loop {
            let lease = how
                .deadline
                .saturating_duration_since(Instant::now())
                .saturating_add(LEASE_MARGIN);
            let terms = ClaimTerms {
                lease,
                window: how.window,
                forwards: how.forwards,
            };
            match self.store.claim(key, terms).await? {
                ClaimResult::Acquired(held, found) => return Ok(Some((held, found))),
                ClaimResult::HeldElsewhere
                    if how.in_flight == InFlightPolicy::Wait
                        && Instant::now() + pause < how.deadline =>
                {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(ASK_AGAIN_MOST);
                }
                ClaimResult::HeldElsewhere => return Ok(None),
            }
        }
    }

    /// Claims that were dropped unsettled since the start: each is a defect of ours.
    pub fn abandoned(&self) -> u64 {
        self.abandoned.load(Ordering::Relaxed)
    }

    /// Where the ledger is kept.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

impl Names {
    fn keys(self) -> impl Iterator<Item = EventKey> {
        [Some(self.first), self.second].into_iter().flatten()
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

    /// To be called before the event is sent: if we are killed before the claim is settled, the attempt is known as one
    /// of unknown outcome.
    ///
    /// # Errors
    /// When that can't be noted. Nothing may be sent then.
    pub fn begin_attempt(&mut self) -> Result<(), StoreError> {
        for (name, lease) in self.names.iter().zip(&self.leases) {
            let Some(name) = name else { continue };
            let until = lease
                .as_ref()
                .map_or(LeaseDeadline::EVER, ClaimLease::deadline);
            self.underway.push(self.ledger.store.begin_attempt(
                name.key,
                until,
                self.attempt(),
                self.window,
            )?);
        }
        Ok(())
    }

    /// The event was not tried after all: things are as they were before the claim.
    pub fn release_untried(mut self) {
        self.underway.drain(..).for_each(StartedAttempt::clear);
        self.settled = true;
    }

    /// Writes down how the hand-over ended, until `deadline` at the latest. No copy of the event passes before that is
    /// done, even if it takes longer than this waits for it.
    ///
    /// # Errors
    /// When it is not certain to be written. The sender must then not hear of success.
    pub async fn settle(
        self,
        ending: ClaimOutcome,
        report: DeliveryReport,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let settling = tokio::spawn(self.write(ending, report));
        match timeout_at(deadline.into(), settling).await {
            Ok(Ok(written)) => written,
            // Out of time, or a panic of ours: then the claim was dropped, and that is taken care of.
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable),
        }
    }

    async fn write(
        mut self,
        ending: ClaimOutcome,
        report: DeliveryReport,
    ) -> Result<(), StoreError> {
        let settlement = self.settlement(ending, report);
        self.settled = true;
        self.leases
            .iter_mut()
            .filter_map(Option::take)
            .for_each(ClaimLease::mark_settled);
        let written = self.ledger.store.settle(settlement).await;
        if written.is_ok() {
            self.underway.drain(..).for_each(StartedAttempt::clear);
        }
        // The holds go with the claim: after the write, whatever came of it.
        written.map(drop)
    }

    fn settlement(&self, ending: ClaimOutcome, report: DeliveryReport) -> Settlement {
        let after = |attempt| self.before.and_then(attempt);
        let (state, becomes, tried, due_after) = match ending {
            ClaimOutcome::Delivered => (
                DeliveryState::Success,
                self.completed(),
                after(FailedAttempt::Refused),
                Duration::ZERO,
            ),
            ClaimOutcome::Stored {
                after: attempt,
                due_after,
            } => (
                DeliveryState::Pending,
                self.completed(),
                attempt.map_or(self.before, after),
                due_after,
            ),
            ClaimOutcome::Released(attempt) => (
                DeliveryState::Failed,
                LedgerEntry::Attempted(after(attempt)),
                after(attempt),
                Duration::ZERO,
            ),
        };
        let if_lost = if ending == ClaimOutcome::Delivered {
            after(FailedAttempt::Unknown)
        } else {
            tried
        };
        let DeliveryReport {
            event: subject,
            attempt,
            payload,
        } = report;
        let delivery = DeliveryChange {
            earlier: self.delivery,
            event: subject,
            state,
            history: tried,
            attempt,
            payload,
            due_after,
        };
        Settlement {
            names: self.names,
            becomes,
            window: self.window,
            if_lost,
            delivery: Some(delivery),
        }
    }

    fn completed(&self) -> LedgerEntry {
        LedgerEntry::Completed {
            digest: self.digest,
        }
    }
}

impl AttemptHistory {
    fn and_then(self, attempt: FailedAttempt) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            possibly_delivered: self.possibly_delivered || attempt == FailedAttempt::Unknown,
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.ledger.abandoned.fetch_add(1, Ordering::Relaxed);
        let tried = self.before.and_then(FailedAttempt::Unknown);
        let settlement = Settlement {
            names: self.names,
            becomes: LedgerEntry::Attempted(tried),
            window: self.window,
            if_lost: tried,
            delivery: None,
        };
        let store = self.ledger.store.clone();
        self.leases
            .iter_mut()
            .filter_map(Option::take)
            .for_each(ClaimLease::mark_settled);
        let (underway, holds) = (
            std::mem::take(&mut self.underway),
            std::mem::take(&mut self.holds),
        );
        // Nobody waits for it, but for the next copy.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if store.settle(settlement).await.is_ok() {
                    underway.into_iter().for_each(StartedAttempt::clear);
                }
                drop(holds);
            });
        }
    }
}

#[cfg(test)]
mod tests;
