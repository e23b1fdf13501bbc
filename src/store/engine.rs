//! What an engine of the store does. The modules above call it through [`Store`](super::Store), and
//! do not know which engine runs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::{
    AttemptId, AttemptOutcome, AttemptRecord, ClaimResult, ClaimTerms, ClaimedIncident,
    DeliveryFilter, DeliveryId, DeliveryKeys, DeliveryRecord, DeliveryState, DueAt, DueEvents,
    EventKey, LeaseDeadline, OperatorSettings, QueuedEvent, RemovedRoute, Requeue, RequeueResult,
    RouteDeliveryStats, RowId, SeenIncident, Settings, Settlement, StartedAttempt, StoreError,
    StoreRoute,
};

/// An engine that keeps the store. A future of it is boxed: that costs an allocation an operation, and
/// keeps the futures of its callers small.
#[async_trait]
pub trait Engine: OperatorSettings {
    /// Applies the part of newly loaded settings that needs no restart. Returns `false`, and
    /// changes nothing, if they name another store.
    fn apply_settings(&self, settings: Settings) -> bool;

    /// Returns the random key of the ledger's hashes. It never changes during the life of a store.
    fn hash_key(&self) -> [u8; 16];

    /// Checks that the store can currently be read and written.
    ///
    /// # Errors
    /// Fails while it cannot.
    fn check_open(&self) -> Result<(), StoreError>;

    /// Checks that there is room for one more event of a route, or at all if `route` is `None`.
    /// Called before an event is forwarded.
    ///
    /// # Errors
    /// Fails when the store is full or not available, or when the route holds its share of it.
    fn check_room(&self, route: Option<&str>) -> Result<(), StoreError>;

    /// Returns the ledger rows of a key.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError>;

    /// Deletes an event's ledger rows. `Ok` means that the deletion is as durable as the settings
    /// promise.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError>;

    /// Settles a claim. `Ok` means that the settlement is as durable as the settings promise.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded. What applies then is
    /// `settlement.if_lost`, or, if the write did reach the disk, what is found when the store is
    /// read again.
    async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError>;

    /// Returns the notifier of a route's queue. It is notified when an event is queued for this
    /// route, by this gateway or another, and after the store is reopened.
    fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify>;

    /// Sets the routes that are active from now on. Returns without waiting; the previous routes
    /// apply until the engine has taken the change over.
    fn update_routes(&self, routes: Vec<StoreRoute>);

    /// Records the outcome of an attempt at a queued event. Records nothing if the store has lost the
    /// delivery, or has another one under its number.
    ///
    /// # Errors
    /// Fails when the attempt is not certain to be recorded. The caller must then record it again.
    async fn record_attempt(
        &self,
        id: AttemptId,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError>;

    /// Moves up to `limit` events in this state, pending or dead, from one route to another, oldest
    /// first and in one transaction. Returns their number. A pending event becomes due at once, and
    /// its retry horizon begins again. Leaves events that another gateway is attempting. The caller
    /// makes sure that this one attempts none of them.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn move_events(
        &self,
        from: Arc<str>,
        to: Arc<str>,
        state: DeliveryState,
        limit: usize,
    ) -> Result<usize, StoreError>;

    /// Returns whether another gateway has this route configured.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn is_served_elsewhere(&self, route: &str) -> Result<bool, StoreError> {
        let _ = route;
        Ok(false)
    }

    /// Returns the routes that no gateway has configured and that have stored events: those with
    /// the most pending ones first, up to a thousand.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn removed_routes(&self) -> Result<Vec<RemovedRoute>, StoreError>;

    /// Returns the route and identity of each delivery, and the ledger keys of its event, in order.
    /// `None` means that there is no such delivery.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn event_keys(
        &self,
        ids: Vec<DeliveryId>,
    ) -> Result<Vec<Option<DeliveryKeys>>, StoreError>;

    /// Returns the current time on the clock that due times are measured with.
    fn now_due(&self) -> DueAt;

    /// Makes deliveries pending again, in one transaction. Only deliveries whose payload is kept
    /// can be requeued. Returns one result for each request, in order.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn requeue(&self, requeues: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError>;

    /// Returns the deliveries that match a filter, newest first.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn deliveries(&self, filter: DeliveryFilter) -> Result<Vec<DeliveryRecord>, StoreError>;

    /// Counts the deliveries that match, ignoring `limit` and `before`. Returns `None` when there
    /// are more than 10,000.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn count_deliveries(&self, filter: DeliveryFilter) -> Result<Option<usize>, StoreError>;

    /// Returns up to `limit` deliveries that match and come after `after`, oldest first, each with
    /// whether its payload is kept. Ignores the filter's own `limit` and `before`.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError>;

    /// Returns up to `limit` dead letters of a route that may be redelivered automatically, oldest
    /// first: those that have not been so before, and whose event can be read.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn automatic_redeliveries(
        &self,
        route: Arc<str>,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, StoreError>;

    /// Returns one delivery.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError>;

    /// Returns the totals of a route's deliveries. `since_day` is the first day of the recent
    /// count, in days since 1970.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn route_stats(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError>;

    /// Returns the number of a route's pending events and of its dead letters.
    fn queue_counts(&self, route: &str) -> (u64, u64);

    /// Returns the arrival time of a route's oldest pending event. Blocks for a query.
    fn oldest_waiting(&self, route: &str) -> Option<Timestamp>;

    /// Returns the number of remembered event IDs.
    fn remembered_ids(&self) -> usize;

    /// Returns the size of the store on disk, in bytes.
    fn size_bytes(&self) -> u64;

    /// Claims an event for this gateway. No other gateway can claim it until the claim is settled
    /// or dropped, or its lease lapses. The result includes what is known of the event.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn claim(&self, key: EventKey, terms: ClaimTerms) -> Result<ClaimResult, StoreError>;

    /// Journals that attempt number `attempts` at a claimed event begins, so that a crash leaves it
    /// as an attempt of unknown outcome. The caller clears the entry once the outcome is settled.
    ///
    /// # Errors
    /// Fails when the journal cannot be written, or when the lease has lapsed. Nothing may be sent
    /// then.
    fn begin_attempt(
        &self,
        key: EventKey,
        lease: LeaseDeadline,
        attempts: u32,
        window: Duration,
    ) -> Result<StartedAttempt, StoreError>;

    /// Journals that an attempt at a queued event begins, like [`Engine::begin_attempt`].
    ///
    /// # Errors
    /// Fails under the same conditions as [`Engine::begin_attempt`].
    fn begin_queued_attempt(
        &self,
        id: DeliveryId,
        lease: LeaseDeadline,
    ) -> Result<StartedAttempt, StoreError>;

    /// Leases up to `limit` due events of a route, longest waiting first, and returns when the next
    /// one is due. The lease lasts some seconds: until then this gateway alone may attempt the
    /// events, unless it releases them. `in_flight` are the events that the caller has already.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn due_events(
        &self,
        route: Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> Result<DueEvents, StoreError>;

    /// Releases due events that are not attempted after all.
    async fn release_events(&self, ids: &[DeliveryId]) {
        let _ = ids;
    }

    /// Releases all events of a route that this gateway has leased and is not attempting, because it
    /// attempts none for now.
    async fn release_route(&self, route: &str) {
        let _ = route;
    }

    /// Loads a queued event of a route with its payload, for an attempt that takes up to
    /// `attempt_timeout`. Returns `None` when the event is no longer pending on this route, or is
    /// leased by another gateway.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn load_event(
        &self,
        route: Arc<str>,
        id: DeliveryId,
        attempt_timeout: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError>;

    /// Returns whether several gateways may share the store.
    fn is_shared(&self) -> bool {
        false
    }

    /// Enters the problems that this gateway sees into the memory of all gateways, and ends those
    /// that none has seen for `unseen_for`. Returns how many were dropped, because no endpoint
    /// accepted the notification `within` this time of their end. An embedded store has no such
    /// memory.
    ///
    /// # Errors
    /// Fails when the store cannot be written.
    async fn report_incidents(
        &self,
        seen: &[SeenIncident],
        unseen_for: Duration,
        within: Duration,
    ) -> Result<u64, StoreError> {
        let (_, _, _) = (seen, unseen_for, within);
        Ok(0)
    }

    /// Claims an incident that somebody should be notified of. When the lease ends, another gateway
    /// may claim it.
    ///
    /// # Errors
    /// Fails when the store cannot be written.
    async fn claim_incident(&self, lease: Duration) -> Result<Option<ClaimedIncident>, StoreError> {
        let _ = lease;
        Ok(None)
    }

    /// Records that the notification of a claimed incident was accepted.
    ///
    /// # Errors
    /// Fails when the store cannot be written. The notification is then sent again.
    async fn mark_incident_told(&self, incident: &ClaimedIncident) -> Result<(), StoreError> {
        let _ = incident;
        Ok(())
    }

    /// Ends the lease of an incident whose notification was not accepted.
    ///
    /// # Errors
    /// Fails when the store cannot be written. The lease then ends in time.
    async fn release_incident(&self, incident: &ClaimedIncident) -> Result<(), StoreError> {
        let _ = incident;
        Ok(())
    }

    /// Writes the outstanding jobs and closes the store. Every later call fails. `clean` states
    /// that no attempt is in progress whose outcome will be lost.
    async fn close(&self, clean: bool);

    /// Closes and reopens the database, as after a failed write. Only the embedded engine does.
    #[cfg(test)]
    fn reopen_after_error(&self) {}

    /// Takes note of the time, as the upkeep does regularly. For tests that set the clock.
    #[doc(hidden)]
    fn tick(&self) {}
}
