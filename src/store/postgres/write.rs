//! Writes the outcomes of claims and attempts. A batch is one transaction of two round trips: the
//! first locks and reads the rows, the second writes the changes and commits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::claims::{key, uuid};
use super::pool::{
    IDLE_IN_TRANSACTION_TIMEOUT_MS, OnTimeout, PooledConnection, QueryError,
    SERVER_STATEMENT_TIMEOUT_MS, STATEMENT_TIMEOUT, on, with_timeout, within,
};
use super::queue_front::{Lease, LeasedEvent, Place, Reservation};
use super::rows::{LockedDelivery, Ownership, Rows, column_ms};
use super::{BacklogEntry, Shared};
use crate::signature::PayloadDigest;
use crate::store::delivery_state::{Progress, StoreTime, StoredDelivery};
use crate::store::uptime::Uptime;
use crate::store::{
    AttemptId, AttemptOutcome, AttemptRecord, DeliveryChange, DeliveryId, DeliveryIdentity,
    DeliveryState, EventKey, EventRow, LedgerEntry, Payload, Requeue, RequeueResult, RowId,
    Settlement, StoreError, StoredCopy,
};

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

/// The slowest rate at which a large payload is written.
pub(super) const BYTES_PER_SECOND: u64 = 8 << 20;

/// The identity of a row that a job changes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RowKey {
    Event(EventKey),
    Delivery(DeliveryId),
}

/// A write job.
pub(super) enum Job {
    Settle(Box<Settlement>, Done<Option<DeliveryId>>),
    RecordAttempt {
        id: AttemptId,
        attempt: AttemptRecord,
        next: AttemptOutcome,
        done: Done<()>,
    },
    Requeue(Vec<Requeue>, Done<Vec<RequeueResult>>),
}

/// The result of a job.
pub(super) enum Reply {
    Settled(Option<DeliveryId>),
    /// The claim lapsed, and another gateway has taken the event over.
    ClaimLost,
    /// Another gateway has stored or delivered the event, which was not claimed.
    StoredElsewhere(StoredCopy),
    AttemptRecorded,
    Requeued(Vec<RequeueResult>),
}

/// A ledger row as it is stored.
#[derive(Clone, Copy)]
struct LedgerRow {
    token: i64,
    leased: bool,
    /// The digest of the body, if the event is completed.
    completed: Option<PayloadDigest>,
    delivery: Option<DeliveryId>,
}

/// The result of checking a settlement's claim.
enum SettleCheck {
    Write,
    /// An earlier try, whose reply was lost, has already written it.
    AlreadyWritten(Option<DeliveryId>),
    ClaimLost,
    StoredElsewhere(StoredCopy),
}

impl Shared {
    /// Writes all jobs. Jobs that change the same row are written one after the other.
    pub(super) async fn write_all(self: Arc<Self>, batch: Vec<(Job, BacklogEntry)>) {
        let (jobs, _backlog): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        self.write_jobs(jobs).await;
    }

    pub(super) async fn write_jobs(self: &Arc<Self>, mut remaining: Vec<Job>) {
        while !remaining.is_empty() {
            let mut used_keys = HashSet::new();
            let (now, later): (Vec<_>, Vec<_>) = remaining.into_iter().partition(|job| {
                let keys = job.row_keys();
                let is_independent = used_keys.is_disjoint(&keys);
                used_keys.extend(keys);
                is_independent
            });
            self.write(now).await;
            remaining = later;
        }
    }

    async fn write(self: &Arc<Self>, batch: Vec<Job>) {
        let batch = self.accept(batch).await;
        if batch.is_empty() {
            return;
        }
        let jobs = &batch;
        match self
            .pool
            .run(
                OnTimeout::Retry,
                on!(connection => self.transact(connection, jobs)),
            )
            .await
        {
            Ok(replies) => {
                for (job, result) in batch.into_iter().zip(replies) {
                    job.reply(result);
                }
            }
            Err(QueryError::Refused(_)) if batch.len() > 1 => {
                // A job that cannot be written must not fail the others.
                for job in batch {
                    Box::pin(self.write(vec![job])).await;
                }
            }
            Err(error) => {
                let error = self.pool.log_failure("commit", &error);
                for job in batch {
                    job.fail(error);
                }
            }
        }
    }

    async fn transact(
        self: &Arc<Self>,
        connection: &PooledConnection,
        batch: &[Job],
    ) -> Result<Vec<Reply>, QueryError> {
        let began = Instant::now();
        let bytes: usize = batch.iter().map(Job::bytes).sum();
        let timeout = STATEMENT_TIMEOUT + time_for_bytes(bytes);
        let mut transaction = with_timeout(begin(self, connection, batch)).await?;
        let replies: Vec<_> = batch.iter().map(|job| transaction.apply(job)).collect();
        let WriteTransaction { rows, held, .. } = transaction;
        let batch = self.fronts.next_batch();
        let written = rows.write(connection, self.owner, batch);
        let identities = Box::pin(within(timeout, written))
            .await
            .inspect_err(|error| {
                let routes = held.iter().map(|event| &event.stored.route);
                self.lose_leases(routes, batch, error);
            })?;
        self.pool.metrics().observe_commit(began.elapsed());
        let held = held.into_iter().map(|event| {
            let identity = identities.get(&event.id).copied().unwrap_or_default();
            (event, identity)
        });
        self.announce(held.collect(), rows.counts.to_notify, began);
        Ok(replies)
    }

    /// Holds events that were stored just now and leased at `from`, and notifies the workers of all
    /// routes of stored ones.
    pub(super) fn announce(
        self: &Arc<Self>,
        held: Vec<(HeldEvent, DeliveryIdentity)>,
        routes: Vec<Arc<str>>,
        from: Instant,
    ) {
        let mut held_by_route = HashMap::<_, usize>::new();
        for (event, identity) in held {
            let route = Arc::clone(&event.stored.route);
            match event.hold(identity, from) {
                None => *held_by_route.entry(route).or_default() += 1,
                Some(refused) => self.release_later(route, refused),
            }
        }
        for route in routes {
            match held_by_route.get_mut(&route) {
                Some(held @ 1..) => {
                    *held -= 1;
                    self.notify_route(&route);
                }
                _ => self.wake_route(&route),
            }
        }
    }

    /// Releases an event whose front was closed while it was stored.
    fn release_later(self: &Arc<Self>, route: Arc<str>, place: Place) {
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            shared.release_places(&route, &[place]).await;
            shared.wake_route(&route);
        });
    }
}

impl HeldEvent {
    /// Returns a new event, for which there is room and a lease. Returns `None` if it has no payload.
    pub(super) fn new(
        id: DeliveryId,
        change: &DeliveryChange,
        progress: Progress,
        (reservation, lease): (Reservation, Duration),
    ) -> Option<Self> {
        let event = &change.event;
        Some(Self {
            id,
            stored: StoredDelivery {
                route: Arc::clone(&event.route),
                event_id: event.event_id.to_string(),
                received_ms: event.received_at.as_millisecond(),
                progress,
            },
            event_type: Arc::clone(&event.event_type),
            payload: change.payload.clone()?,
            lease,
            reservation,
        })
    }

    /// Passes the event, which is stored now and was leased at `from`, to its route's front. Returns
    /// its place if that does not take it.
    fn hold(self, identity: DeliveryIdentity, from: Instant) -> Option<Place> {
        let progress = &self.stored.progress;
        self.reservation.fill(LeasedEvent {
            place: (progress.due.map_or(0, column_ms), self.id),
            identity,
            event_type: self.event_type,
            age: Duration::ZERO,
            payload_bytes: self.payload.head.len() + self.payload.body.len(),
            payload: Some(Payload {
                head: self.payload.head,
                // It may be a part of a larger buffer.
                body: Bytes::copy_from_slice(&self.payload.body),
            }),
            lease: Lease {
                from,
                lasts: self.lease,
            },
            stored: self.stored,
        })
    }
}

/// Returns the time by which statements with payloads of this size may take longer than others.
pub(super) fn time_for_bytes(bytes: usize) -> Duration {
    Duration::from_secs(bytes as u64 / BYTES_PER_SECOND)
}

/// Locks and reads ledger rows.
const LOCK_LEDGER: &str = "SELECT key, token, lease_ends_ms IS NOT NULL,
        CASE WHEN ends_ms > (SELECT now FROM hookstile.clock) THEN digest END, delivery
    FROM hookstile.ledger WHERE key = ANY($1) ORDER BY key FOR UPDATE";
const NEXT_DELIVERY_IDS: &str =
    "SELECT nextval('hookstile.delivery_numbers') FROM generate_series(1, $1::integer)";
/// Reads the clock, and picks a part of the counts that no other transaction uses at the moment,
/// unless there are more transactions than parts.
const CLOCK: &str = "SELECT now, due, coalesce((SELECT part FROM generate_series(1, 32) AS part
        WHERE pg_try_advisory_xact_lock(1752131427, part) LIMIT 1), 1)
        ::smallint FROM hookstile.clock";

struct WriteTransaction {
    shared: Arc<Shared>,
    ledger: HashMap<EventKey, LedgerRow>,
    locked: HashMap<DeliveryId, LockedDelivery>,
    next_ids: Vec<i64>,
    rows: Rows,
    /// The events that this gateway leases and holds, once they are stored.
    held: Vec<HeldEvent>,
}

/// A new event that this gateway is about to attempt.
pub(super) struct HeldEvent {
    id: DeliveryId,
    stored: StoredDelivery,
    event_type: Arc<str>,
    payload: Payload,
    lease: Duration,
    reservation: Reservation,
}

/// Begins the transaction, and locks and reads all rows that the jobs name.
async fn begin(
    shared: &Arc<Shared>,
    connection: &PooledConnection,
    batch: &[Job],
) -> Result<WriteTransaction, tokio_postgres::Error> {
    let bytes: usize = batch.iter().map(Job::bytes).sum();
    let begin = match time_for_bytes(bytes).as_millis() {
        0 => "BEGIN".to_owned(),
        longer => format!(
            "BEGIN; SET LOCAL statement_timeout = {};
             SET LOCAL idle_in_transaction_session_timeout = {}",
            SERVER_STATEMENT_TIMEOUT_MS + longer,
            // The server counts as idle the time in which it receives a statement.
            IDLE_IN_TRANSACTION_TIMEOUT_MS + longer
        ),
    };
    let (mut keys, mut ids, mut settlements) = (Vec::new(), Vec::new(), 0_i32);
    for job in batch {
        match job {
            Job::Settle(settlement, _) => {
                settlements += 1;
                keys.extend(settlement.rows().map(|settled| uuid(settled.row.key)));
                ids.extend(
                    settlement
                        .delivery
                        .as_ref()
                        .and_then(|delivery| delivery.earlier)
                        .map(|id| id.0),
                );
            }
            Job::RecordAttempt { id, .. } => ids.push(id.delivery.0),
            Job::Requeue(requeues, _) => {
                ids.extend(requeues.iter().map(|requeue| requeue.id.0));
                keys.extend(
                    requeues
                        .iter()
                        .flat_map(|requeue| &requeue.completing)
                        .map(|name| uuid(name.key)),
                );
            }
        }
    }
    let (lock_ledger, lock_deliveries) = (
        connection.prepare_cached(LOCK_LEDGER).await?,
        connection.prepare_cached(LockedDelivery::SELECT).await?,
    );
    let (next_ids, clock) = (
        connection.prepare_cached(NEXT_DELIVERY_IDS).await?,
        connection.prepare_cached(CLOCK).await?,
    );
    // Sent in this order, without waiting for each other (pipelined).
    let ((), ledger_rows, locked_rows, id_rows, clock) = tokio::try_join!(
        biased;
        connection.batch_execute(&begin),
        query_unless_empty(connection, &lock_ledger, &keys, keys.is_empty()),
        query_unless_empty(connection, &lock_deliveries, &ids, ids.is_empty()),
        query_unless_empty(connection, &next_ids, &settlements, settlements == 0),
        connection.query_one(&clock, &[]),
    )?;
    let mut ledger = HashMap::new();
    for row in &ledger_rows {
        let delivery = row.try_get::<_, Option<i64>>(4)?.map(DeliveryId);
        let ledger_row = LedgerRow {
            token: row.try_get(1)?,
            leased: row.try_get(2)?,
            completed: row
                .try_get::<_, Option<Uuid>>(3)?
                .map(|digest| PayloadDigest::from_bytes(digest.into_bytes())),
            delivery,
        };
        ledger.insert(key(row.try_get(0)?), ledger_row);
    }
    let locked = locked_rows
        .iter()
        .map(|row| Ok((DeliveryId(row.try_get(0)?), LockedDelivery::read(row)?)));
    let uptime = |column| {
        let ms: i64 = clock.try_get(column)?;
        Ok::<_, tokio_postgres::Error>(Uptime(ms.unsigned_abs()))
    };
    let time = StoreTime {
        now: uptime(0)?,
        now_due: uptime(1)?,
    };
    let rows = Rows::new(time, clock.try_get(2)?);
    let mut next_ids: Vec<i64> = id_rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    next_ids.reverse();
    Ok(WriteTransaction {
        shared: Arc::clone(shared),
        ledger,
        locked: locked.collect::<Result<_, tokio_postgres::Error>>()?,
        next_ids,
        rows,
        held: Vec::new(),
    })
}

/// Queries rows by one parameter. Skips the query if the parameter is empty.
async fn query_unless_empty(
    connection: &PooledConnection,
    statement: &Statement,
    param: &(dyn ToSql + Sync),
    is_empty: bool,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if is_empty {
        Ok(Vec::new())
    } else {
        connection.query(statement, &[param]).await
    }
}

impl WriteTransaction {
    fn apply(&mut self, job: &Job) -> Reply {
        match job {
            Job::Settle(settlement, _) => self.settle(settlement),
            Job::RecordAttempt {
                id, attempt, next, ..
            } => {
                self.record_attempt(*id, attempt, *next);
                Reply::AttemptRecorded
            }
            Job::Requeue(requeues, _) => Reply::Requeued(
                requeues
                    .iter()
                    .map(|requeue| self.requeue(requeue))
                    .collect(),
            ),
        }
    }

    fn settle(&mut self, settlement: &Settlement) -> Reply {
        match self.check_claim(settlement) {
            // If the event was leased as well, nothing here holds it: the next lease of its route
            // adopts it.
            SettleCheck::AlreadyWritten(delivery) => return Reply::Settled(delivery),
            SettleCheck::ClaimLost => return Reply::ClaimLost,
            SettleCheck::StoredElsewhere(copy) => return Reply::StoredElsewhere(copy),
            SettleCheck::Write => {}
        }
        let delivered = was_delivered(settlement);
        let id = settlement
            .delivery
            .as_ref()
            .map(|change| self.record_delivery(change, settlement.keys_blob()));
        let route = settlement
            .delivery
            .as_ref()
            .map(|change| &*change.event.route);
        for settled in settlement.rows() {
            self.rows.write_entry(
                settled.row,
                settled.entry,
                column_ms(self.rows.time.now.after(settled.window)),
                id.zip(route),
                delivered,
            );
        }
        Reply::Settled(id)
    }

    /// Checks that this gateway still holds the claim. A successful delivery is written in any
    /// case.
    fn check_claim(&self, settlement: &Settlement) -> SettleCheck {
        let delivered = was_delivered(settlement);
        for settled in settlement.rows() {
            let Some(row) = self.ledger.get(&settled.row.key) else {
                continue;
            };
            let is_own = settled.row.earlier == Some(RowId(row.token));
            match (is_own, row.leased) {
                (true, true) => {}
                (true, false) => return SettleCheck::AlreadyWritten(row.delivery),
                (false, _) if delivered && row.completed.is_some() => {
                    return SettleCheck::AlreadyWritten(row.delivery);
                }
                (false, _) if delivered => {}
                (false, false) if is_queued(settlement) => {
                    return row.completed.map_or(SettleCheck::ClaimLost, |first| {
                        SettleCheck::StoredElsewhere(compare_body(settled.entry, first))
                    });
                }
                (false, _) => return SettleCheck::ClaimLost,
            }
        }
        SettleCheck::Write
    }

    /// Writes a delivery record: a new one, or an update of the earlier one.
    fn record_delivery(&mut self, change: &DeliveryChange, keys: Option<Vec<u8>>) -> DeliveryId {
        let earlier = change
            .earlier
            .and_then(|id| Some((id, &self.locked.get(&id)?.stored)));
        let earlier = earlier.filter(|(_, stored)| stored.belongs_to(&change.event));
        let before = earlier.map(|(_, stored)| &stored.progress);
        let after = Progress::settled(before, change, keys, self.rows.time);
        let id = match earlier {
            Some((id, stored)) => {
                self.rows.change(id, stored, after, Ownership::default());
                id
            }
            None => {
                let id = DeliveryId(self.next_ids.pop().unwrap_or_default());
                let held = self.held_event(id, change, &after);
                let lease = held.as_ref().map(|event| event.lease);
                self.held.extend(held);
                self.rows.insert(id, &change.event, after, lease);
                id
            }
        };
        if let Some(payload) = &change.payload {
            self.rows.keep_payload(id, payload);
        }
        id
    }

    /// Returns a new event to hold, if it is due and its route's worker is about to attempt it.
    fn held_event(
        &self,
        id: DeliveryId,
        change: &DeliveryChange,
        after: &Progress,
    ) -> Option<HeldEvent> {
        if after.due != Some(self.rows.time.now_due) {
            return None;
        }
        let reserved = self.shared.reserve(change)?;
        HeldEvent::new(id, change, after.clone(), reserved)
    }

    /// Records an attempt. Recording the same attempt again changes nothing. If another gateway has
    /// taken the event over, only a success is recorded. An attempt that began before a failover may
    /// have been made for a delivery that the new primary never received, and whose number it has
    /// given to another one since: nothing is recorded there.
    fn record_attempt(
        &mut self,
        AttemptId {
            delivery: id,
            identity,
            number,
        }: AttemptId,
        attempt: &AttemptRecord,
        outcome: AttemptOutcome,
    ) {
        let owner = self.shared.owner;
        let is_done = matches!(outcome, AttemptOutcome::Delivered { .. });
        let is_recordable = |locked: &LockedDelivery| {
            let before = &locked.stored.progress;
            match before.state {
                DeliveryState::Pending if before.tried < number => {
                    is_done || locked.lease_owner == Some(owner)
                }
                DeliveryState::Pending | DeliveryState::Dead => {
                    is_done && before.tried >= number && locked.recorded_by != Some(owner)
                }
                DeliveryState::Success | DeliveryState::Failed => false,
            }
        };
        if let Some(locked) = self.locked.get(&id)
            && locked.identity == identity
            && is_recordable(locked)
        {
            let before = locked.stored.progress.clone();
            let after = before.attempted(attempt, outcome, self.rows.time);
            let ownership = Ownership {
                keeps_lease: false,
                recorded_by: Some(owner),
            };
            self.rows.change(id, &locked.stored, after, ownership);
        }
    }

    /// Returns the result of a requeue that needs no write: its claims lapsed, or an earlier try,
    /// whose reply was lost, has already written it.
    fn known_requeue(&self, requeue: &Requeue) -> Option<RequeueResult> {
        let is_own = |name: &EventRow, row: &LedgerRow| name.earlier == Some(RowId(row.token));
        for name in &requeue.completing {
            let row = self.ledger.get(&name.key).filter(|row| is_own(name, row));
            match row {
                Some(row) if row.leased => {}
                Some(row) if row.delivery == Some(requeue.id) => {
                    return self
                        .locked
                        .get(&requeue.id)
                        .map(|locked| RequeueResult::Queued(Arc::clone(&locked.stored.route)));
                }
                _ => return Some(RequeueResult::InFlight),
            }
        }
        None
    }

    fn requeue(&mut self, requeue: &Requeue) -> RequeueResult {
        let id = requeue.id;
        if let Some(known) = self.known_requeue(requeue) {
            return known;
        }
        let Some(LockedDelivery {
            stored, identity, ..
        }) = self.locked.get(&id)
        else {
            return RequeueResult::Unknown;
        };
        if requeue
            .expected_identity
            .is_some_and(|expected| expected != *identity)
        {
            return RequeueResult::Unknown;
        }
        let before = stored.progress.clone();
        // An attempt may be in progress.
        let keeps_lease = before.state == DeliveryState::Pending;
        let after = match before.requeued(requeue, self.rows.time) {
            Ok(after) => after,
            Err(refused) => return refused,
        };
        let queued = RequeueResult::Queued(Arc::clone(&stored.route));
        if self.rows.is_changed(id) {
            // The same batch requeues it twice.
            return queued;
        }
        let ownership = Ownership {
            keeps_lease,
            recorded_by: None,
        };
        self.rows.change(id, stored, after, ownership);
        let ends = column_ms(self.rows.time.now.after(requeue.window));
        for name in &requeue.completing {
            // The digest is unknown, so any body with this ID is a duplicate from now on.
            let record = LedgerEntry::Completed {
                digest: PayloadDigest::unknown(),
            };
            self.rows
                .write_entry(*name, record, ends, Some((id, &stored.route)), false);
        }
        let to_notify = &mut self.rows.counts.to_notify;
        to_notify.push(Arc::clone(&stored.route));
        queued
    }
}

/// Compares the body of an event with that of the copy that is stored.
fn compare_body(entry: LedgerEntry, first: PayloadDigest) -> StoredCopy {
    match entry {
        LedgerEntry::Completed { digest } if first.contradicts(digest) => StoredCopy::OtherBody,
        LedgerEntry::Completed { .. } | LedgerEntry::Attempted(_) => StoredCopy::SameBody,
    }
}

/// Returns whether the event is queued.
fn is_queued(settlement: &Settlement) -> bool {
    settlement
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.state == DeliveryState::Pending)
}

/// Returns whether the event was delivered. That is recorded even if the claim has lapsed.
fn was_delivered(settlement: &Settlement) -> bool {
    settlement
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.state == DeliveryState::Success)
}

impl Job {
    /// Returns the size of the job's payload, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let Self::Settle(settlement, _) = self else {
            return 0;
        };
        let payload = settlement
            .delivery
            .as_ref()
            .and_then(|delivery| delivery.payload.as_ref());
        payload.map_or(0, |payload| payload.head.len() + payload.body.len())
    }

    /// Returns the settlement to write, if the job is one.
    pub(super) fn settlement(&self) -> Option<&Settlement> {
        match self {
            Self::Settle(settlement, _) => Some(settlement),
            Self::RecordAttempt { .. } | Self::Requeue(..) => None,
        }
    }

    /// Returns the key of the event that the job settles.
    pub(super) fn event_key(&self) -> Option<EventKey> {
        Some(self.settlement()?.event?.row.key)
    }

    /// Returns the rows that the job changes.
    fn row_keys(&self) -> HashSet<RowKey> {
        let event = |name: &EventRow| RowKey::Event(name.key);
        match self {
            Self::Settle(settlement, _) => {
                let delivery = settlement
                    .delivery
                    .as_ref()
                    .and_then(|delivery| delivery.earlier);
                let events = settlement.rows().map(|settled| event(&settled.row));
                events.chain(delivery.map(RowKey::Delivery)).collect()
            }
            Self::RecordAttempt { id, .. } => HashSet::from([RowKey::Delivery(id.delivery)]),
            Self::Requeue(requeues, _) => {
                let events = requeues
                    .iter()
                    .flat_map(|requeue| &requeue.completing)
                    .map(event);
                events
                    .chain(requeues.iter().map(|requeue| RowKey::Delivery(requeue.id)))
                    .collect()
            }
        }
    }

    /// Sends the result to the caller. The caller may be gone; the write stays committed.
    pub(super) fn reply(self, result: Reply) {
        match (self, result) {
            (Self::Settle(_, done), Reply::Settled(id)) => drop(done.send(Ok(id))),
            (Self::RecordAttempt { done, .. }, Reply::AttemptRecorded) => drop(done.send(Ok(()))),
            (Self::Requeue(_, done), Reply::Requeued(requeued)) => drop(done.send(Ok(requeued))),
            (job, Reply::StoredElsewhere(copy)) => job.fail(StoreError::StoredElsewhere(copy)),
            (job, _) => job.fail(StoreError::Unavailable),
        }
    }

    pub(super) fn fail(self, error: StoreError) {
        match self {
            Self::Settle(_, done) => drop(done.send(Err(error))),
            Self::RecordAttempt { done, .. } => drop(done.send(Err(error))),
            Self::Requeue(_, done) => drop(done.send(Err(error))),
        }
    }
}
