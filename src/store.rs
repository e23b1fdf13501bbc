//! What is remembered of events: which were handed over, which wait, and what became of each.
//!
//! The ledger and the queue above ask and tell in the domain's own verbs and words (`domain`, `records`).
//! Two engines keep it, and nobody above knows which: `embedded`, SQLite for one gateway, and `postgres` for several.

mod claim_lease;
mod domain;
mod embedded;
mod migration;
mod postgres;
mod records;
mod uptime;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use records::COUNTED_MAX;

pub use claim_lease::{ClaimLease, ClaimResult, LeaseDeadline, StartedAttempt};
pub use domain::{
    AttemptHistory, AttemptOutcome, ClaimTerms, DeliveryChange, DeliveryId, DeliveryState, DueAt,
    Durability, EventKey, EventMetadata, EventRow, KnownEvent, LedgerEntry, PAYLOAD_MAX, Payload,
    Payloads, Requeue, RequeueResult, Retain, Revision, RowId, Settlement, StoreRoute,
};
pub use embedded::{OfflineStore, OpenError, Settings as EmbeddedSettings};
pub use migration::{MoveError, Moved, move_into_shared};
pub use postgres::{Database, OpenError as SharedOpenError, Settings as SharedSettings};
pub use records::{
    AttemptRecord, DeliveryFilter, DeliveryRecord, DueEvent, DueEvents, LISTED_BODY_MAX,
    QueuedEvent, RouteDeliveryStats,
};

/// What a delivery's record takes beside its payload, for bounding what is kept: about what its row and its places in
/// the indexes take.
const RECORD_BYTES: i64 = 300;

/// Which store, and where.
#[derive(Debug, Clone)]
pub enum Settings {
    Embedded(EmbeddedSettings),
    Shared(Box<SharedSettings>),
}

/// The store can't do what it must. Nothing is forwarded without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store is full: it holds as much as `store.max_ids` or `store.max_size` allow, and forgets nothing early"
    )]
    Full,
    #[error(
        "the store is not available: an error before this one tells why; it is being opened anew"
    )]
    Unavailable,
}

impl StoreError {
    /// For logs: a label of a closed set. The store itself says once what is wrong.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::Unavailable => "store_closed",
        }
    }
}

/// The store. Clones are handles to the same one.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Embedded(embedded::Store),
    Shared(postgres::Store),
}

/// Asks whichever engine there is.
macro_rules! ask {
    ($self:ident, $store:ident => $answer:expr) => {
        match &$self.engine {
            Engine::Embedded($store) => $answer,
            Engine::Shared($store) => $answer,
        }
    };
}

/// As `ask!`, for what is awaited. What waits for a server is big, and would make each future so that holds it.
macro_rules! await_it {
    ($self:ident, $store:ident => $answer:expr) => {
        match &$self.engine {
            Engine::Embedded($store) => $answer.await,
            Engine::Shared($store) => Box::pin($answer).await,
        }
    };
}

impl Store {
    /// Opens the store, making it where there is none.
    ///
    /// # Errors
    /// It can't be reached or used, or another process has it that shares it with nobody.
    pub async fn open(
        settings: Settings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        match settings {
            // Reading many millions of IDs takes seconds, in which nobody else is to be kept from running.
            Settings::Embedded(settings) => {
                let opening =
                    tokio::task::spawn_blocking(move || Self::embedded(settings, clock, metrics));
                opening
                    .await
                    .map_err(|error| OpenError::Start(std::io::Error::other(error)))?
            }
            Settings::Shared(settings) => {
                let engine = Engine::Shared(postgres::Store::open(*settings, metrics).await?);
                Ok(Self { engine })
            }
        }
    }

    /// Opens the store in `settings.folder`, making it where there is none, and reads what is remembered. Blocks.
    ///
    /// # Errors
    /// Another process has it, it can't be read, or it is not ours.
    pub fn embedded(
        settings: EmbeddedSettings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            engine: Engine::Embedded(embedded::Store::open(settings, clock, metrics)?),
        })
    }

    /// The key of the ledger's hashes: random, and the same for as long as anything is remembered.
    pub fn hash_key(&self) -> [u8; 16] {
        ask!(self, store => store.hash_key())
    }

    /// Makes sure that the store can be written and read.
    ///
    /// # Errors
    /// When it can't be, for now.
    pub fn check_open(&self) -> Result<(), StoreError> {
        ask!(self, store => store.check_open())
    }

    /// Makes sure that one more event can be kept, before anything is forwarded on the strength of it.
    ///
    /// # Errors
    /// When it can't.
    pub fn check_room(&self) -> Result<(), StoreError> {
        ask!(self, store => store.check_room())
    }

    /// The rows that remember the event, by this name and by the other one it has, if any.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        await_it!(self, store => store.find_rows(key))
    }

    /// Forgets an event: when this returns `Ok`, as durably as the settings promise.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        await_it!(self, store => store.forget_event(rows))
    }

    /// Writes how a claim ended. When this returns `Ok`, it is as durable as the settings promise.
    ///
    /// # Errors
    /// When that is not certain. What holds then is `settlement.if_lost`, or, if it was written all the same, what is
    /// found when the store is read again.
    pub async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        await_it!(self, store => store.settle(settlement))
    }

    /// Keeps what an operator said of a webhook, as durably as events are. `None`, and nothing is kept, if another gateway
    /// was told something since `seen`.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        seen: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .put_webhook(name, definition)
                .await
                .map(|()| Some(seen)),
            Engine::Shared(store) => Box::pin(store.put_webhook(name, definition, seen)).await,
        }
    }

    /// Forgets a webhook's definition. What is known of its events stays.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn remove_webhook(&self, name: Arc<str>) -> Result<(), StoreError> {
        await_it!(self, store => store.remove_webhook(name))
    }

    /// All webhooks' names and definitions, and what operators had said by then.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError> {
        match &self.engine {
            Engine::Embedded(store) => Ok((Revision::default(), store.webhooks().await?)),
            Engine::Shared(store) => Box::pin(store.webhooks()).await,
        }
    }

    /// Keeps that a route's stored events wait until somebody says otherwise, or no longer.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        await_it!(self, store => store.set_paused(route, paused))
    }

    /// The routes that are paused.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        await_it!(self, store => store.paused_routes())
    }

    /// Is told when an event was stored for the route, by whom ever, and when the store was opened anew.
    pub fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        ask!(self, store => store.queue_notifier(route))
    }

    /// Tells of the routes that are served from now on. Without waiting: what was told before holds until then.
    pub fn update_routes(&self, lanes: Vec<StoreRoute>) {
        ask!(self, store => store.update_routes(lanes));
    }

    /// Writes how attempt number `number` at a stored event ended.
    ///
    /// # Errors
    /// When it is not certain to be written; to be told again.
    pub async fn record_attempt(
        &self,
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        await_it!(self, store => store.record_attempt(id, number, attempt, next))
    }

    /// A delivery's route, and the names of its event while that is not handed over; `None` if there is no such delivery.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn event_keys(
        &self,
        id: DeliveryId,
    ) -> Result<Option<(String, Vec<EventKey>)>, StoreError> {
        await_it!(self, store => store.event_keys(id))
    }

    /// This moment, for what is due.
    pub fn now_due(&self) -> DueAt {
        ask!(self, store => store.now_due())
    }

    /// Makes deliveries whose payload is kept pending, all of them together. Answers for each whether there was such a
    /// delivery.
    ///
    /// # Errors
    /// When it is not certain to be written.
    pub async fn requeue(&self, wanted: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        await_it!(self, store => store.requeue(wanted))
    }

    /// Deliveries, the newest first.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        await_it!(self, store => store.deliveries(filter))
    }

    /// How many deliveries there are of these, whatever `limit` and `before` say; `None` when there are more than are
    /// counted.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Option<usize>, StoreError> {
        await_it!(self, store => store.count_deliveries(filter))
    }

    /// Deliveries that match, whatever `limit` and `before` say, and come after `after`: the oldest first, `limit` at the
    /// most, each with whether its payload is kept.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        await_it!(self, store => store.matching_deliveries(filter, after, limit))
    }

    /// One delivery.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        await_it!(self, store => store.delivery(id))
    }

    /// What is known of a route's deliveries as a whole. `since_day` is the first day of the count of the last days, in
    /// days since 1970.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn route_record(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        await_it!(self, store => store.route_record(route, since_day))
    }

    /// How many of a route's events wait, and how many are dead letters.
    pub fn queue_counts(&self, route: &str) -> (u64, u64) {
        ask!(self, store => store.queue_counts(route))
    }

    /// When the oldest waiting event of a route arrived; blocks for a look-up.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        ask!(self, store => store.oldest_waiting(route))
    }

    /// Events that are remembered now.
    pub fn remembered_ids(&self) -> usize {
        ask!(self, store => store.remembered_ids())
    }

    /// Bytes on disk.
    pub fn size_bytes(&self) -> u64 {
        ask!(self, store => store.size_bytes())
    }

    /// Claims an event for this gateway: until the claim is settled or dropped, or its lease lapses, no other has it. What
    /// is known of the event comes with it.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn claim(&self, key: EventKey, terms: ClaimTerms) -> Result<ClaimResult, StoreError> {
        await_it!(self, store => store.claim(key, terms))
    }

    /// Notes that an attempt at an event that is `held` begins, the one of number `attempts`, so that a crash leaves it as
    /// one of unknown outcome. To be cleared when the outcome is settled.
    ///
    /// # Errors
    /// When it can't be noted, or the claim is not ours any more. Nothing may be sent then.
    pub fn begin_attempt(
        &self,
        key: EventKey,
        held: LeaseDeadline,
        attempts: u32,
        window: Duration,
    ) -> Result<StartedAttempt, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .begin_attempt(key, attempts, window)
                .map(|noted| StartedAttempt(Some(noted))),
            // The claim is the note.
            Engine::Shared(_) => held.check_not_lapsed().map(|()| StartedAttempt(None)),
        }
    }

    /// As [`Store::begin`], for an attempt at a stored event.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub fn begin_queued_attempt(
        &self,
        id: DeliveryId,
        held: LeaseDeadline,
    ) -> Result<StartedAttempt, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .begin_queued_attempt(id)
                .map(|noted| StartedAttempt(Some(noted))),
            Engine::Shared(_) => held.check_not_lapsed().map(|()| StartedAttempt(None)),
        }
    }

    /// Stored events of a route that are due, `most` at the most, those that have waited longest first; and when the next
    /// one will be. Those are this gateway's to try until they were tried or given back, for some seconds. `holding` are
    /// those that it has already.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn due_events(
        &self,
        route: Arc<str>,
        holding: &[DeliveryId],
        most: usize,
    ) -> Result<DueEvents, StoreError> {
        await_it!(self, store => store.due_events(route, holding, most))
    }

    /// Events that were due and are not tried after all.
    pub async fn release_events(&self, ids: &[DeliveryId]) {
        if let Engine::Shared(store) = &self.engine {
            // Otherwise they are free when their lease is over.
            let _ = Box::pin(store.release_events(ids)).await;
        }
    }

    /// A stored event with its payload, for an attempt that takes up to `attempt`; `None` when it no longer waits, or is
    /// another gateway's.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn load_event(
        &self,
        id: DeliveryId,
        attempt: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store.load_event(id).await,
            Engine::Shared(store) => Box::pin(store.load_event(id, attempt)).await,
        }
    }

    /// Changes when another gateway was told something about webhooks or pauses; `None` where there is no other.
    pub fn revision(&self) -> Option<watch::Receiver<i64>> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Shared(store) => Some(store.revision()),
        }
    }

    /// Writes what is still to be written and closes the store. Nothing can be asked afterwards. `in_good_order` says that
    /// no attempt is under way whose outcome will not be known.
    pub async fn close(&self, in_good_order: bool) {
        match &self.engine {
            Engine::Embedded(store) => store.close(in_good_order).await,
            Engine::Shared(store) => store.close().await,
        }
    }

    /// As after a failure.
    #[cfg(test)]
    fn reopen_after_error(&self) {
        if let Engine::Embedded(store) = &self.engine {
            store.reopen_after_error();
        }
    }

    /// Counts running time, as the upkeep does: for clocks that stand still otherwise.
    #[doc(hidden)]
    pub fn tick(&self) {
        if let Engine::Embedded(store) = &self.engine {
            store.tick();
        }
    }
}

#[cfg(test)]
mod tests;
