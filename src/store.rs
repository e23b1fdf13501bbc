//! Persistent state of events: the ledger of event IDs, the delivery queue and delivery records.
//!
//! The modules above use only the types in `domain` and `records`. Two engines implement the store,
//! and no caller depends on which one runs: `embedded` (SQLite, one gateway) and `postgres`
//! (several gateways).

mod claim_lease;
mod domain;
mod embedded;
mod migration;
mod postgres;
mod records;
mod share;
mod uptime;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use domain::RecordLimits;
use records::{AttemptLog, COUNT_LIMIT, LISTED_BYTES_MAX};

pub use claim_lease::{ClaimLease, ClaimResult, LeaseDeadline, StartedAttempt};
pub use domain::{
    AttemptHistory, AttemptOutcome, ClaimTerms, DeliveryChange, DeliveryId, DeliveryState, DueAt,
    Durability, EventKey, EventMetadata, EventRow, KnownEvent, LedgerEntry, PAYLOAD_MAX, Payload,
    Payloads, RemovedRoute, Requeue, RequeueResult, Retain, Revision, RowId, SettledRow,
    Settlement, StoreRoute,
};
pub use embedded::{OfflineStore, OpenError, Settings as EmbeddedSettings};
pub use migration::{MoveError, MoveSummary, move_into_shared};
pub use postgres::{Database, OpenError as SharedOpenError, Settings as SharedSettings};
pub use records::{
    AttemptRecord, DeliveryFilter, DeliveryRecord, DueEvent, DueEvents, LISTED_BODY_MAX,
    QueuedEvent, RESPONSE_BODY_MAX, ResponseRecord, RouteDeliveryStats,
};

/// The limit of removed routes that are listed.
const REMOVED_ROUTES_MAX: usize = 1_000;

/// Approximate bytes that a delivery's row and its index entries use besides the payload. Counted
/// against the retention limits.
const RECORD_BYTES: i64 = 300;

/// The engine to use, with its settings.
#[derive(Debug, Clone)]
pub enum Settings {
    Embedded(EmbeddedSettings),
    Shared(Box<SharedSettings>),
}

/// The answer to a gateway that has seen a problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProblemAnnouncement {
    /// No other gateway has entered it. The ID is that of the incident.
    First(String),
    Known,
}

/// The store cannot serve a request. The caller must not forward anything without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store is full: `store.max_ids` or `store.max_size` is reached, and nothing is \
         forgotten early"
    )]
    Full,
    #[error(
        "the store is nearly full and the route holds its share of it; a route may hold four times \
         as much as is free"
    )]
    ShareFull,
    #[error(
        "the store is not available; it is being reopened, and an earlier log entry has the cause"
    )]
    Unavailable,
}

impl StoreError {
    /// Returns a log label from a closed set. The store itself logs the cause once.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::ShareFull => "store_share_full",
            Self::Unavailable => "store_closed",
        }
    }
}

/// A handle to the store. Clones share one engine.
#[derive(Clone)]
pub struct Store {
    engine: Engine,
}

#[derive(Clone)]
enum Engine {
    Embedded(embedded::Store),
    Shared(postgres::Store),
}

/// Calls the configured engine.
macro_rules! dispatch {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.engine {
            Engine::Embedded($store) => $call,
            Engine::Shared($store) => $call,
        }
    };
}

/// Calls the configured engine and awaits the result. Futures of the PostgreSQL engine are boxed,
/// because their size would otherwise enlarge every future that contains one.
macro_rules! dispatch_async {
    ($self:ident, $store:ident => $call:expr) => {
        match &$self.engine {
            Engine::Embedded($store) => $call.await,
            Engine::Shared($store) => Box::pin($call).await,
        }
    };
}

impl Store {
    /// Opens the store, and creates it if it does not exist.
    ///
    /// # Errors
    /// Fails when the store cannot be reached or used, or when another process has the embedded
    /// store open.
    pub async fn open(
        settings: Settings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        match settings {
            // Reading many millions of IDs takes seconds and must not block the async runtime.
            Settings::Embedded(settings) => {
                let opened =
                    tokio::task::spawn_blocking(move || Self::embedded(settings, clock, metrics));
                opened
                    .await
                    .map_err(|error| OpenError::Start(std::io::Error::other(error)))?
            }
            Settings::Shared(settings) => {
                let engine = Engine::Shared(postgres::Store::open(*settings, metrics).await?);
                Ok(Self { engine })
            }
        }
    }

    /// Opens the embedded store in `settings.folder`, creates it if it does not exist, and loads
    /// its index. Blocks.
    ///
    /// # Errors
    /// Fails when another process has the store open, or when the file cannot be read or is not a
    /// hookstile store.
    pub fn embedded(
        settings: EmbeddedSettings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            engine: Engine::Embedded(embedded::Store::open(settings, clock, metrics)?),
        })
    }

    /// Applies the part of newly loaded settings that needs no restart: the user, the password and
    /// the certificates of a shared store's database. Another store changes nothing.
    pub fn apply_settings(&self, settings: Settings) {
        if let (Engine::Shared(store), Settings::Shared(settings)) = (&self.engine, settings) {
            store.replace_database(settings.database);
        }
    }

    /// Returns the random key of the ledger's hashes. It never changes during the life of a store.
    pub fn hash_key(&self) -> [u8; 16] {
        dispatch!(self, store => store.hash_key())
    }

    /// Checks that the store can currently be read and written.
    ///
    /// # Errors
    /// Fails while it cannot.
    pub fn check_open(&self) -> Result<(), StoreError> {
        dispatch!(self, store => store.check_open())
    }

    /// Checks that there is room for one more event of a route, or at all if `route` is `None`.
    /// Called before an event is forwarded.
    ///
    /// # Errors
    /// Fails when the store is full or not available, or when the route holds its share of it.
    pub fn check_room(&self, route: Option<&str>) -> Result<(), StoreError> {
        dispatch!(self, store => store.check_room(route))
    }

    /// Returns the ledger rows of a key.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        dispatch_async!(self, store => store.find_rows(key))
    }

    /// Deletes an event's ledger rows. `Ok` means that the deletion is as durable as the settings
    /// promise.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        dispatch_async!(self, store => store.forget_event(rows))
    }

    /// Settles a claim. `Ok` means that the settlement is as durable as the settings promise.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded. What applies then is
    /// `settlement.if_lost`, or, if the write did reach the disk, what is found when the store is
    /// read again.
    pub async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        dispatch_async!(self, store => store.settle(settlement))
    }

    /// Stores a webhook's definition, as durably as events. Returns `None` and stores nothing when
    /// another gateway has changed operator data since revision `expected`.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        expected: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .put_webhook(name, definition)
                .await
                .map(|()| Some(expected)),
            Engine::Shared(store) => Box::pin(store.put_webhook(name, definition, expected)).await,
        }
    }

    /// Deletes a webhook's definition. The records of its events stay.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn remove_webhook(&self, name: Arc<str>) -> Result<(), StoreError> {
        dispatch_async!(self, store => store.remove_webhook(name))
    }

    /// Returns the names and definitions of all webhooks, and the revision that they belong to.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError> {
        match &self.engine {
            Engine::Embedded(store) => Ok((Revision::default(), store.webhooks().await?)),
            Engine::Shared(store) => Box::pin(store.webhooks()).await,
        }
    }

    /// Pauses or resumes the delivery of a route's queued events. A pause survives restarts.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        dispatch_async!(self, store => store.set_paused(route, paused))
    }

    /// Returns the names of the paused routes.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        dispatch_async!(self, store => store.paused_routes())
    }

    /// Returns the notifier of a route's queue. It is notified when an event is queued for this
    /// route, by this gateway or another, and after the store is reopened.
    pub fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        dispatch!(self, store => store.queue_notifier(route))
    }

    /// Sets the routes that are active from now on. Returns without waiting; the previous routes
    /// apply until the engine has taken the change over.
    pub fn update_routes(&self, routes: Vec<StoreRoute>) {
        dispatch!(self, store => store.update_routes(routes));
    }

    /// Records the outcome of attempt number `number` at a queued event.
    ///
    /// # Errors
    /// Fails when the attempt is not certain to be recorded. The caller must then record it again.
    pub async fn record_attempt(
        &self,
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        dispatch_async!(self, store => store.record_attempt(id, number, attempt, next))
    }

    /// Moves up to `limit` events in this state, pending or dead, from one route to another, oldest
    /// first and in one transaction. Returns their number. A pending event becomes due at once, and
    /// its retry horizon begins again. Leaves events that another gateway is attempting. The caller
    /// makes sure that this one attempts none of them.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn move_events(
        &self,
        from: Arc<str>,
        to: Arc<str>,
        state: DeliveryState,
        limit: usize,
    ) -> Result<usize, StoreError> {
        dispatch_async!(self, store => store.move_events(from, to, state, limit))
    }

    /// Returns whether another gateway has this route configured.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn is_served_elsewhere(&self, route: &str) -> Result<bool, StoreError> {
        match &self.engine {
            Engine::Embedded(_) => Ok(false),
            Engine::Shared(store) => Box::pin(store.is_served_elsewhere(route)).await,
        }
    }

    /// Returns the routes that no gateway has configured and that have stored events: those with
    /// the most pending ones first, up to a thousand.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn removed_routes(&self) -> Result<Vec<RemovedRoute>, StoreError> {
        dispatch_async!(self, store => store.removed_routes())
    }

    /// Returns a delivery's route and the ledger keys of the event: its own, then that of its body
    /// if the ledger counts copies of it. Without such a body there is none once the event is
    /// delivered. Returns `None` if there is no such delivery.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn event_keys(
        &self,
        id: DeliveryId,
    ) -> Result<Option<(String, Vec<EventKey>)>, StoreError> {
        dispatch_async!(self, store => store.event_keys(id))
    }

    /// Returns the current time on the clock that due times are measured with.
    pub fn now_due(&self) -> DueAt {
        dispatch!(self, store => store.now_due())
    }

    /// Makes deliveries pending again, in one transaction. Only deliveries whose payload is kept
    /// can be requeued. Returns one result for each request, in order.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    pub async fn requeue(&self, requeues: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        dispatch_async!(self, store => store.requeue(requeues))
    }

    /// Returns the deliveries that match a filter, newest first.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        dispatch_async!(self, store => store.deliveries(filter))
    }

    /// Counts the deliveries that match, ignoring `limit` and `before`. Returns `None` when there
    /// are more than 10,000.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Option<usize>, StoreError> {
        dispatch_async!(self, store => store.count_deliveries(filter))
    }

    /// Returns up to `limit` deliveries that match and come after `after`, oldest first, each with
    /// whether its payload is kept. Ignores the filter's own `limit` and `before`.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        dispatch_async!(self, store => store.matching_deliveries(filter, after, limit))
    }

    /// Returns up to `limit` dead letters of a route that may be redelivered automatically, oldest
    /// first: those that have not been so before, and whose event can be read.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn automatic_redeliveries(
        &self,
        route: Arc<str>,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        dispatch_async!(self, store => store.automatic_redeliveries(route, limit))
    }

    /// Returns one delivery.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        dispatch_async!(self, store => store.delivery(id))
    }

    /// Returns the totals of a route's deliveries. `since_day` is the first day of the recent
    /// count, in days since 1970.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn route_stats(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        dispatch_async!(self, store => store.route_stats(route, since_day))
    }

    /// Returns the number of a route's pending events and of its dead letters.
    pub fn queue_counts(&self, route: &str) -> (u64, u64) {
        dispatch!(self, store => store.queue_counts(route))
    }

    /// Returns the arrival time of a route's oldest pending event. Blocks for a query.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        dispatch!(self, store => store.oldest_waiting(route))
    }

    /// Returns the number of remembered event IDs.
    pub fn remembered_ids(&self) -> usize {
        dispatch!(self, store => store.remembered_ids())
    }

    /// Returns the size of the store on disk, in bytes.
    pub fn size_bytes(&self) -> u64 {
        dispatch!(self, store => store.size_bytes())
    }

    /// Claims an event for this gateway. No other gateway can claim it until the claim is settled
    /// or dropped, or its lease lapses. The result includes what is known of the event.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn claim(&self, key: EventKey, terms: ClaimTerms) -> Result<ClaimResult, StoreError> {
        dispatch_async!(self, store => store.claim(key, terms))
    }

    /// Journals that attempt number `attempts` at a claimed event begins, so that a crash leaves it
    /// as an attempt of unknown outcome. The caller clears the entry once the outcome is settled.
    ///
    /// # Errors
    /// Fails when the journal cannot be written, or when the lease has lapsed. Nothing may be sent
    /// then.
    pub fn begin_attempt(
        &self,
        key: EventKey,
        lease: LeaseDeadline,
        attempts: u32,
        window: Duration,
    ) -> Result<StartedAttempt, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .begin_attempt(key, attempts, window)
                .map(|entry| StartedAttempt(Some(entry))),
            // The claim itself records the attempt.
            Engine::Shared(_) => lease.check_not_lapsed().map(|()| StartedAttempt(None)),
        }
    }

    /// Journals that an attempt at a queued event begins, like [`Store::begin_attempt`].
    ///
    /// # Errors
    /// Fails under the same conditions as [`Store::begin_attempt`].
    pub fn begin_queued_attempt(
        &self,
        id: DeliveryId,
        lease: LeaseDeadline,
    ) -> Result<StartedAttempt, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store
                .begin_queued_attempt(id)
                .map(|entry| StartedAttempt(Some(entry))),
            Engine::Shared(_) => lease.check_not_lapsed().map(|()| StartedAttempt(None)),
        }
    }

    /// Leases up to `limit` due events of a route, longest waiting first, and returns when the next
    /// one is due. The lease lasts some seconds: until then this gateway alone may attempt the
    /// events, unless it releases them. `in_flight` are the events that the caller has already.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn due_events(
        &self,
        route: Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> Result<DueEvents, StoreError> {
        dispatch_async!(self, store => store.due_events(route, in_flight, limit))
    }

    /// Releases due events that are not attempted after all.
    pub async fn release_events(&self, ids: &[DeliveryId]) {
        if let Engine::Shared(store) = &self.engine {
            // On failure, the events become free when their leases lapse.
            let _ = Box::pin(store.release_events(ids)).await;
        }
    }

    /// Loads a queued event of a route with its payload, for an attempt that takes up to
    /// `attempt_timeout`. Returns `None` when the event is no longer pending on this route, or is
    /// leased by another gateway.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    pub async fn load_event(
        &self,
        route: Arc<str>,
        id: DeliveryId,
        attempt_timeout: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError> {
        match &self.engine {
            Engine::Embedded(store) => store.load_event(route, id).await,
            Engine::Shared(store) => Box::pin(store.load_event(route, id, attempt_timeout)).await,
        }
    }

    /// Returns a counter that changes when any gateway changes webhooks or pauses; `None` for the
    /// embedded engine.
    pub fn revision(&self) -> Option<watch::Receiver<i64>> {
        match &self.engine {
            Engine::Embedded(_) => None,
            Engine::Shared(store) => Some(store.revision()),
        }
    }

    /// Returns whether several gateways may share the store.
    pub fn is_shared(&self) -> bool {
        matches!(self.engine, Engine::Shared(_))
    }

    /// Enters that this gateway sees a problem. Of several gateways, the first one is told that it
    /// is, and so must notify somebody. Without other gateways, every one is the first.
    ///
    /// # Errors
    /// Fails when the store cannot be written.
    pub async fn announce_problem(
        &self,
        key: &str,
        document: &str,
    ) -> Result<ProblemAnnouncement, StoreError> {
        match &self.engine {
            Engine::Embedded(_) => Ok(ProblemAnnouncement::First(String::new())),
            Engine::Shared(store) => Box::pin(store.announce_problem(key, document)).await,
        }
    }

    /// Removes the problems that no gateway has seen for this long, and returns the ID and the
    /// document of each. No other gateway gets them.
    ///
    /// # Errors
    /// Fails when the store cannot be written.
    pub async fn withdraw_problems(
        &self,
        unseen_for: Duration,
    ) -> Result<Vec<(String, String)>, StoreError> {
        match &self.engine {
            Engine::Embedded(_) => Ok(Vec::new()),
            Engine::Shared(store) => Box::pin(store.withdraw_problems(unseen_for)).await,
        }
    }

    /// Writes the outstanding jobs and closes the store. Every later call fails. `clean` states
    /// that no attempt is in progress whose outcome will be lost.
    pub async fn close(&self, clean: bool) {
        match &self.engine {
            Engine::Embedded(store) => store.close(clean).await,
            Engine::Shared(store) => store.close().await,
        }
    }

    /// Closes and reopens the database, as after a failed write.
    #[cfg(test)]
    fn reopen_after_error(&self) {
        if let Engine::Embedded(store) = &self.engine {
            store.reopen_after_error();
        }
    }

    /// Advances the store uptime, as the upkeep thread does. For tests with a manual clock.
    #[doc(hidden)]
    pub fn tick(&self) {
        if let Engine::Embedded(store) = &self.engine {
            store.tick();
        }
    }
}

#[cfg(test)]
mod tests;
