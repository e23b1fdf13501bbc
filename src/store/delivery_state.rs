//! The rules of a delivery's state, as pure functions: what a settlement, an attempt or a
//! redelivery makes of a delivery, and how that changes the counts of its route. Both engines read
//! a delivery, apply a rule, and write what it returns.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::records::{AttemptLog, AttemptRecord};
use super::uptime::Uptime;
use super::{AttemptOutcome, DeliveryChange, DeliveryState, EventMetadata, Requeue, RequeueResult};
use crate::backoff::DeadLetterReason;

/// The approximate bytes that a delivery's row and its index entries use besides the payload.
pub(super) const RECORD_BYTES: i64 = 300;
const DAY_MS: i64 = 86_400_000;
/// The size of one ledger key in the keys beside a delivery, in bytes.
const KEY_BYTES: usize = 16;

/// The store's time at a change, on both of its clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoreTime {
    /// The clock of windows, horizons and retention.
    pub now: Uptime,
    /// The clock of due times, which also advances while no gateway runs.
    pub now_due: Uptime,
}

/// A delivery as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredDelivery {
    pub route: Arc<str>,
    pub event_id: String,
    pub received_ms: i64,
    pub progress: Progress,
}

impl StoredDelivery {
    pub(super) fn belongs_to(&self, event: &EventMetadata) -> bool {
        self.event_id == *event.event_id && self.route == event.route
    }
}

/// What changes in a delivery from its arrival to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    pub state: DeliveryState,
    pub reason: Option<StateReason>,
    /// The number of all attempts. The log has the first and the latest ones.
    pub tried: u32,
    pub possibly_delivered: bool,
    /// The time of the next attempt; set while the delivery is pending.
    pub due: Option<Uptime>,
    /// The time from which the retry horizon counts. Kept after the end.
    pub queued: Option<Uptime>,
    /// The time at which the delivery ended.
    pub ended: Option<Uptime>,
    /// The ledger keys that a redelivery needs; see [`Settlement::keys_blob`].
    ///
    /// [`Settlement::keys_blob`]: super::Settlement::keys_blob
    pub keys: Option<Vec<u8>>,
    /// The bytes of the payload and of the bodies of responses. 0 means that no payload is kept.
    pub stored_bytes: i64,
    pub attempts: AttemptLog,
}

/// The reason for which a delivery is in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StateReason {
    DeadLetter(DeadLetterReason),
    /// The gateway redelivers a dead letter by itself. It does so once: so it tries no dead letter
    /// for ever.
    Automatic,
    /// An automatic redelivery has ended as a dead letter again.
    Again,
}

impl StateReason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::DeadLetter(reason) => reason.as_str(),
            Self::Automatic => "automatic",
            Self::Again => "again",
        }
    }

    /// Parses a stored reason. Returns `None` for one that only a later version knows.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let dead_letter = DeadLetterReason::ALL.map(Self::DeadLetter).into_iter();
        let mut all = dead_letter.chain([Self::Automatic, Self::Again]);
        all.find(|reason| reason.as_str() == text)
    }
}

impl Progress {
    /// Returns what a settlement makes of a delivery. `before` is its record from earlier attempts,
    /// and `keys` are the event's keys.
    pub(super) fn settled(
        before: Option<&Self>,
        change: &DeliveryChange,
        keys: Option<Vec<u8>>,
        time: StoreTime,
    ) -> Self {
        let none = AttemptLog::default();
        let attempts = change.attempts_after(before.map_or(&none, |before| &before.attempts));
        let payload = change.payload.as_ref();
        let payload_bytes = payload.map_or(0, |payload| payload.head.len() + payload.body.len());
        let is_pending = change.state == DeliveryState::Pending;
        Self {
            state: change.state,
            reason: None,
            tried: change.history.attempts,
            possibly_delivered: change.history.possibly_delivered,
            due: is_pending.then(|| time.now_due.after(change.due_after)),
            queued: is_pending.then_some(time.now),
            ended: (!is_pending).then_some(time.now),
            keys,
            stored_bytes: i64::try_from(payload_bytes)
                .unwrap_or(i64::MAX)
                .saturating_add(attempts.body_bytes()),
            attempts,
        }
    }

    /// Returns what an attempt at a queued event makes of its delivery.
    pub(super) fn attempted(
        self,
        attempt: &AttemptRecord,
        outcome: AttemptOutcome,
        time: StoreTime,
    ) -> Self {
        let (state, due, is_unknown, reason) = match outcome {
            AttemptOutcome::Delivered { .. } => (DeliveryState::Success, None, false, None),
            AttemptOutcome::Retry {
                after,
                possibly_delivered,
            } => {
                let due = time.now_due.after(after);
                (DeliveryState::Pending, Some(due), possibly_delivered, None)
            }
            AttemptOutcome::Dead(reason) => {
                let reason = StateReason::DeadLetter(reason);
                (DeliveryState::Dead, None, false, Some(reason))
            }
        };
        let is_automatic = self.reason == Some(StateReason::Automatic);
        let bodies_before = self.attempts.body_bytes();
        let mut attempts = self.attempts;
        attempts.push(attempt.clone());
        let drops_payload = outcome
            == (AttemptOutcome::Delivered {
                keep_payload: false,
            });
        if drops_payload {
            attempts.drop_bodies();
        }
        Self {
            state,
            reason: match state {
                DeliveryState::Pending if is_automatic => self.reason,
                DeliveryState::Dead if is_automatic => Some(StateReason::Again),
                _ => reason,
            },
            tried: self.tried.saturating_add(1),
            possibly_delivered: self.possibly_delivered || is_unknown,
            due,
            queued: self.queued,
            ended: due.is_none().then_some(time.now),
            // The key of a body that came in several events is kept as long as the delivery.
            keys: self
                .keys
                .filter(|keys| state != DeliveryState::Success || keys.len() > KEY_BYTES),
            stored_bytes: if drops_payload {
                0
            } else {
                self.stored_bytes - bodies_before + attempts.body_bytes()
            },
            attempts,
        }
    }

    /// Returns what a redelivery makes of a delivery.
    ///
    /// # Errors
    /// Fails when the delivery is not in the expected state, or when its payload is not kept.
    pub(super) fn requeued(
        self,
        requeue: &Requeue,
        time: StoreTime,
    ) -> Result<Self, RequeueResult> {
        let expected = requeue.expected_state;
        if expected.is_some_and(|expected| expected != self.state) {
            return Err(RequeueResult::Unknown);
        }
        if self.stored_bytes == 0 {
            return Err(RequeueResult::NoPayload);
        }
        let due = requeue.due.0;
        Ok(Self {
            state: DeliveryState::Pending,
            reason: match self.state {
                DeliveryState::Pending => self.reason,
                _ => requeue.automatic.then_some(StateReason::Automatic),
            },
            possibly_delivered: self.possibly_delivered || self.state == DeliveryState::Success,
            due: Some(due),
            // The retry horizon counts from the due time.
            queued: Some(time.now.after(due.since(time.now_due))),
            ended: None,
            ..self
        })
    }

    /// Returns the bytes that the delivery counts against the limits of its route.
    pub(super) fn counted_bytes(&self) -> i64 {
        RECORD_BYTES + self.stored_bytes
    }
}

/// The changes of counts that follow from a transaction.
#[derive(Debug, Default)]
pub(super) struct CountChanges {
    pub routes: BTreeMap<Arc<str>, RouteChange>,
    /// By the route, and the day of the event's arrival, in days since 1970.
    pub days: BTreeMap<(Arc<str>, i64), DayChange>,
    /// The routes that have a new pending event.
    pub to_notify: Vec<Arc<str>>,
}

/// The change of a route's counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct RouteChange {
    pub pending: i64,
    pub dead: i64,
    /// The bytes of deliveries that have ended. Only those count against the retention limit,
    /// because only those may be deleted.
    pub kept_bytes: i64,
    /// The bytes of pending deliveries and dead letters.
    pub waiting_bytes: i64,
    pub succeeded: bool,
    pub failed: bool,
}

/// The change of the counts of a day's deliveries.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DayChange {
    pub successful: i64,
    pub failed: i64,
    /// The duration of the last attempts of the successful ones, in milliseconds.
    pub total_ms: i64,
}

impl CountChanges {
    /// Counts a new delivery.
    pub(super) fn add(&mut self, event: &EventMetadata, after: &Progress) {
        let received_ms = event.received_at.as_millisecond();
        self.count(&event.route, received_ms, after, 1);
        self.note_end(&event.route, after.state);
        if after.state == DeliveryState::Pending {
            self.to_notify.push(Arc::clone(&event.route));
        }
    }

    /// Counts a delivery that was changed.
    pub(super) fn change(&mut self, before: &StoredDelivery, after: &Progress) {
        self.count(&before.route, before.received_ms, &before.progress, -1);
        self.count(&before.route, before.received_ms, after, 1);
        self.note_end(&before.route, after.state);
        if after.state == DeliveryState::Pending && before.progress.state != DeliveryState::Pending
        {
            self.to_notify.push(Arc::clone(&before.route));
        }
    }

    /// Counts that the record of an ended delivery was deleted. The counts of its day stay.
    pub(super) fn delete_record(&mut self, deleted: &StoredDelivery) {
        self.route(&deleted.route).kept_bytes -= deleted.progress.counted_bytes();
    }

    /// Counts that an open delivery, which has these bytes, was moved to another route.
    pub(super) fn move_open(
        &mut self,
        (from, to): (&Arc<str>, &Arc<str>),
        received_ms: i64,
        state: DeliveryState,
        stored_bytes: i64,
    ) {
        for (route, by) in [(from, -1), (to, 1)] {
            self.count_day(route, received_ms, state, 0, by);
            self.route(route)
                .count(state, RECORD_BYTES + stored_bytes, by);
        }
        if state == DeliveryState::Pending {
            self.to_notify.push(Arc::clone(to));
        }
    }

    fn count(&mut self, route: &Arc<str>, received_ms: i64, progress: &Progress, by: i64) {
        let last_ms = i64::try_from(progress.attempts.last_ms()).unwrap_or(0);
        self.count_day(route, received_ms, progress.state, last_ms, by);
        self.route(route)
            .count(progress.state, progress.counted_bytes(), by);
    }

    fn count_day(
        &mut self,
        route: &Arc<str>,
        received_ms: i64,
        state: DeliveryState,
        last_ms: i64,
        by: i64,
    ) {
        if state == DeliveryState::Pending {
            return;
        }
        let day = received_ms.div_euclid(DAY_MS);
        let change = self.days.entry((Arc::clone(route), day)).or_default();
        if state == DeliveryState::Success {
            change.successful += by;
            change.total_ms += by * last_ms;
        } else {
            change.failed += by;
        }
    }

    fn note_end(&mut self, route: &Arc<str>, state: DeliveryState) {
        let route = self.route(route);
        route.succeeded |= state == DeliveryState::Success;
        route.failed |= matches!(state, DeliveryState::Failed | DeliveryState::Dead);
    }

    fn route(&mut self, route: &Arc<str>) -> &mut RouteChange {
        self.routes.entry(Arc::clone(route)).or_default()
    }
}

impl RouteChange {
    fn count(&mut self, state: DeliveryState, bytes: i64, by: i64) {
        let bytes = by * bytes;
        match state {
            DeliveryState::Pending => {
                self.pending += by;
                self.waiting_bytes += bytes;
            }
            DeliveryState::Dead => {
                self.dead += by;
                self.waiting_bytes += bytes;
            }
            DeliveryState::Success | DeliveryState::Failed => self.kept_bytes += bytes,
        }
    }

    /// Returns the change of all bytes that the route holds.
    pub(super) fn bytes(&self) -> i64 {
        self.kept_bytes + self.waiting_bytes
    }
}

#[cfg(test)]
mod tests;
