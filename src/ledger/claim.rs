//! A claim on an event, from the decision that it may be delivered to the outcome that the store
//! records.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::claimed_names::{ClaimedName, ClaimedNames};
use super::copies::{BodyCopies, MARKED_COPIES_MAX, Minute};
use super::{Ledger, failed_window};
use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, AttemptRecord, DeliveryChange, DeliveryId, DeliveryState, EventMetadata,
    LedgerEntry, Payload, SettledRow, Settlement, StoreError,
};

/// The right to deliver an event. It must be settled: a claim that is dropped unsettled counts as
/// an attempt with an unknown outcome.
pub struct Claim {
    pub(super) ledger: Arc<Ledger>,
    pub(super) digest: PayloadDigest,
    pub(super) window: Duration,
    /// The failed attempts before this claim.
    pub(super) earlier: AttemptHistory,
    /// The record of the earlier attempts.
    pub(super) delivery: Option<DeliveryId>,
    /// The copies of the event's body, if the ledger counts them.
    pub(super) copies: Option<ClaimedCopies>,
    pub(super) settled: bool,
    pub(super) names: ClaimedNames,
}

/// The copies of a claimed event's body.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClaimedCopies {
    /// The copies before this claim.
    known: BodyCopies,
    /// The time of this claim.
    now: Minute,
    /// The known copies include the claimed event.
    own_is_counted: bool,
}

/// The outcome with which a claim is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimOutcome {
    /// The upstream accepted the event: inside the window, no copy is delivered.
    Delivered,
    /// The event is to be stored, and counts as delivered once it is.
    Stored {
        /// The failed attempt before the event was stored, if there was one.
        after: Option<FailedAttempt>,
        /// The pause before its first attempt from the queue.
        due_after: Duration,
    },
    /// The attempt failed: the next copy is delivered.
    Released(FailedAttempt),
}

/// A failed attempt, as the ledger classifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedAttempt {
    /// The upstream rejected the event or was never reached.
    Refused,
    /// The event was sent and no response came. The next attempt is marked as a possible duplicate.
    Unknown,
}

/// The record of a delivery that the store keeps beside the ledger's own rows.
#[derive(Debug, Clone)]
pub struct DeliveryReport {
    pub event: Arc<EventMetadata>,
    pub attempt: Option<AttemptRecord>,
    /// The payload to keep. [`ClaimOutcome::Stored`] needs it.
    pub payload: Option<Payload>,
}

impl Claim {
    /// Returns the number of this attempt: 1 for an event that was never attempted.
    pub fn attempt(&self) -> u32 {
        self.earlier.attempts.saturating_add(1)
    }

    /// Returns whether the upstream may have processed an earlier attempt whose response was lost.
    pub fn possible_duplicate(&self) -> bool {
        self.earlier.possibly_delivered
    }

    /// Returns whether this may be a replay of a captured request: the body was delivered as
    /// another event, or nothing identifies the event.
    pub fn possible_replay(&self) -> bool {
        match &self.copies {
            Some(copies) => copies.others() > 0,
            None => self.names.name.is_none(),
        }
    }

    /// Records that an attempt begins. Call it once, before the event is sent: if the process is
    /// killed before the claim is settled, the attempt counts as one with an unknown outcome.
    ///
    /// # Errors
    /// When the start cannot be recorded. Nothing may be sent then.
    pub fn begin_attempt(&mut self) -> Result<(), StoreError> {
        let (attempt, window) = (self.attempt(), failed_window(self.window));
        let store = &self.ledger.store;
        if let Some(name) = &mut self.names.name {
            name.begin_attempt(store, attempt, window)?;
        }
        if let (Some(row), Some(copies)) = (&mut self.names.copies, &self.copies) {
            let counted = copies.after(self.earlier, true).to_history();
            row.begin_attempt(store, counted.attempts, self.window)?;
        }
        Ok(())
    }

    /// Releases the claim without an attempt, and restores the state before the claim.
    pub fn release_untried(mut self) {
        self.names.clear_attempts();
        self.settled = true;
    }

    /// Records the outcome of the delivery, and waits for that until `deadline` at most. No copy of
    /// the event is delivered before it is recorded, even if that takes longer.
    ///
    /// # Errors
    /// When the outcome may not have been recorded. The sender must not see success then.
    pub async fn settle(
        self,
        outcome: ClaimOutcome,
        report: DeliveryReport,
        deadline: Instant,
    ) -> Result<(), StoreError> {
        let mut writing = Writing(Some(Box::pin(self.write(outcome, report))));
        // Out of time, dropping it has it written by a task of its own.
        timeout_at(deadline.into(), &mut writing)
            .await
            .unwrap_or(Err(StoreError::Unavailable))
    }

    async fn write(
        mut self,
        outcome: ClaimOutcome,
        mut report: DeliveryReport,
    ) -> Result<(), StoreError> {
        // A payload that only operators read must not take the room of events. Many may have been
        // in flight when this one was claimed.
        if report.payload.is_some()
            && !matches!(outcome, ClaimOutcome::Stored { .. })
            && self
                .ledger
                .store
                .check_room(Some(&report.event.route))
                .is_err()
        {
            report.payload = None;
        }
        let settlement = self.settlement(outcome, report);
        self.settled = true;
        self.names.mark_settled(settlement.event.is_some());
        let written = self.ledger.store.settle(settlement).await;
        if written.is_ok() {
            self.names.clear_attempts();
        }
        // The local claims are released with `self`: after the write, whatever its result.
        written.map(drop)
    }

    fn settlement(&self, outcome: ClaimOutcome, report: DeliveryReport) -> Settlement {
        let (state, entry, window, history, due_after) = match outcome {
            ClaimOutcome::Delivered => (
                DeliveryState::Success,
                self.completed(),
                self.window,
                // Counts the successful attempt, which leaves no doubt about its outcome.
                self.earlier.with_attempt(FailedAttempt::Refused),
                Duration::ZERO,
            ),
            ClaimOutcome::Stored { after, due_after } => (
                DeliveryState::Pending,
                self.completed(),
                self.window,
                after.map_or(self.earlier, |attempt| self.earlier.with_attempt(attempt)),
                due_after,
            ),
            ClaimOutcome::Released(attempt) => (
                DeliveryState::Failed,
                LedgerEntry::Attempted(self.earlier.with_attempt(attempt)),
                failed_window(self.window),
                self.earlier.with_attempt(attempt),
                Duration::ZERO,
            ),
        };
        let if_lost = if outcome == ClaimOutcome::Delivered {
            self.earlier.with_attempt(FailedAttempt::Unknown)
        } else {
            history
        };
        let delivery = DeliveryChange {
            earlier: self.delivery,
            event: report.event,
            state,
            history,
            attempt: report.attempt,
            payload: report.payload,
            due_after,
        };
        let is_delivered =
            history.possibly_delivered || !matches!(outcome, ClaimOutcome::Released(_));
        self.settlement_of(SettledHistory {
            entry,
            window,
            history,
            is_delivered,
            if_lost,
            delivery: Some(delivery),
        })
    }

    /// Returns the rows to write: the event's, and that of its body if the ledger counts copies.
    ///
    /// Until a copy may have been delivered, the failed attempts at a body are in the body's row
    /// alone. So a captured request takes one row, under however many IDs it comes.
    fn settlement_of(&self, settled: SettledHistory) -> Settlement {
        let SettledHistory {
            entry,
            window,
            history,
            is_delivered,
            if_lost,
            delivery,
        } = settled;
        let name = self.names.name.as_ref().map(ClaimedName::row);
        let mut event = name.map(|row| SettledRow {
            row,
            entry,
            window,
            if_lost,
        });
        let mut copies = None;
        if let (Some(row), Some(claimed)) = (&self.names.copies, &self.copies) {
            let after = claimed.after(history, is_delivered);
            let window = match after {
                BodyCopies::Undelivered(_) => {
                    event = None;
                    failed_window(self.window)
                }
                BodyCopies::Delivered(_) => self.window,
            };
            copies = Some(SettledRow {
                row: row.row(),
                entry: LedgerEntry::Attempted(after.to_history()),
                window,
                if_lost: claimed
                    .after(if_lost, if_lost.possibly_delivered)
                    .to_history(),
            });
        }
        Settlement {
            key: name.map(|name| name.key),
            event,
            copies,
            delivery,
        }
    }

    fn completed(&self) -> LedgerEntry {
        LedgerEntry::Completed {
            digest: self.digest,
        }
    }
}

/// The end of a claim, before it is divided among the rows.
struct SettledHistory {
    entry: LedgerEntry,
    window: Duration,
    /// The attempts at the event so far.
    history: AttemptHistory,
    /// The event was delivered, may have been, or is stored.
    is_delivered: bool,
    if_lost: AttemptHistory,
    delivery: Option<DeliveryChange>,
}

impl ClaimedCopies {
    /// Combines what is known of a body with whether the ledger has a row of the claimed event.
    pub(super) fn new(known: BodyCopies, now: Minute, own_is_known: bool) -> Self {
        Self {
            known,
            now,
            own_is_counted: own_is_known && known.delivered() > 0,
        }
    }

    /// Returns the number of other events with this body that were delivered, or may have been.
    fn others(&self) -> u32 {
        self.known.delivered() - u32::from(self.own_is_counted)
    }

    /// Returns whether this event would be one copy too many.
    pub(super) fn is_over_limit(&self) -> bool {
        !self.own_is_counted && self.others() > MARKED_COPIES_MAX
    }

    /// Returns the copies after an attempt at this event. An attempt that is marked counts even if
    /// it fails: the receiver has seen it.
    fn after(&self, history: AttemptHistory, is_delivered: bool) -> BodyCopies {
        if self.own_is_counted {
            self.known
        } else if is_delivered || self.others() > 0 {
            self.known.with_copy(self.now)
        } else {
            BodyCopies::Undelivered(history)
        }
    }
}

impl AttemptHistory {
    /// Returns the history with one more attempt.
    fn with_attempt(self, attempt: FailedAttempt) -> Self {
        Self {
            attempts: self.attempts.saturating_add(1),
            possibly_delivered: self.possibly_delivered || attempt == FailedAttempt::Unknown,
        }
    }
}

/// A settlement that is being written. The request may stop waiting for the disk, its claim may not: if
/// this is dropped before the end, a task of its own goes on with it.
struct Writing(Option<BoxFuture>);

type BoxFuture = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

impl Future for Writing {
    type Output = Result<(), StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out, so that a panic drops it.
        let Some(mut writing) = self.0.take() else {
            return Poll::Ready(Err(StoreError::Unavailable));
        };
        let written = writing.as_mut().poll(context);
        if written.is_pending() {
            self.0 = Some(writing);
        }
        written
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if let Some(writing) = self.0.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(writing);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        self.ledger.abandoned.fetch_add(1, Ordering::Relaxed);
        let history = self.earlier.with_attempt(FailedAttempt::Unknown);
        let settlement = self.settlement_of(SettledHistory {
            entry: LedgerEntry::Attempted(history),
            window: failed_window(self.window),
            history,
            is_delivered: true,
            if_lost: history,
            delivery: None,
        });
        let store = self.ledger.store.clone();
        self.names.mark_settled(settlement.event.is_some());
        let mut names = std::mem::take(&mut self.names);
        // Only the next copy waits for this.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if store.settle(settlement).await.is_ok() {
                    names.clear_attempts();
                }
                drop(names);
            });
        }
    }
}
