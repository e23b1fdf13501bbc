//! Writes the outcomes of claims and attempts. A batch is one transaction of two round trips: the
//! first locks and reads the rows, the second writes the changes and commits.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::claims::{key, millis, uuid};
use super::pool::{OnTimeout, PooledConnection, QueryError, on, with_timeout};
use super::rows::{NewState, Rows, StoredDelivery};
use super::{BacklogEntry, Shared};
use crate::signature::PayloadDigest;
use crate::store::domain::AUTOMATIC;
use crate::store::{
    AttemptLog, AttemptOutcome, AttemptRecord, DeliveryChange, DeliveryId, DeliveryState, EventKey,
    EventRow, LedgerEntry, Requeue, RequeueResult, RowId, Settlement, StoreError,
};

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

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
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
        done: Done<()>,
    },
    Requeue(Vec<Requeue>, Done<Vec<RequeueResult>>),
}

/// The result of a job.
enum Reply {
    Settled(Option<DeliveryId>),
    /// The claim lapsed, and another gateway has taken the event over.
    ClaimLost,
    AttemptRecorded,
    Requeued(Vec<RequeueResult>),
}

/// A ledger row as it is stored.
#[derive(Clone, Copy)]
struct LedgerRow {
    token: i64,
    leased: bool,
    completed: bool,
    delivery: Option<DeliveryId>,
}

/// The result of checking a settlement's claim.
enum SettleCheck {
    Write,
    /// An earlier try, whose reply was lost, has already written it.
    AlreadyWritten(Option<DeliveryId>),
    ClaimLost,
}

impl Shared {
    /// Writes all jobs. Jobs that change the same row are written one after the other.
    pub(super) async fn write_all(self: Arc<Self>, batch: Vec<(Job, BacklogEntry)>) {
        let (mut remaining, _backlog): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
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

    async fn write(&self, batch: Vec<Job>) {
        let jobs = &batch;
        match self
            .pool
            .run(
                OnTimeout::Retry,
                on!(connection => self.transact(connection, jobs)),
            )
            .await
        {
            Ok((replies, routes)) => {
                for route in routes {
                    self.notify_route(&route);
                }
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
        &self,
        connection: &PooledConnection,
        batch: &[Job],
    ) -> Result<(Vec<Reply>, Vec<Arc<str>>), QueryError> {
        let began = std::time::Instant::now();
        let mut transaction = with_timeout(begin(connection, batch)).await?;
        let replies: Vec<_> = batch
            .iter()
            .map(|job| transaction.apply(job, self.owner))
            .collect();
        Box::pin(with_timeout(transaction.rows.write(connection))).await?;
        self.pool.metrics().observe_commit(began.elapsed());
        Ok((replies, transaction.rows.notify))
    }
}

/// Locks and reads ledger rows.
const LOCK_LEDGER: &str = "SELECT key, token, lease_ends_ms IS NOT NULL, digest IS NOT NULL
     AND ends_ms > (SELECT now FROM hookstile.clock), delivery
    FROM hookstile.ledger WHERE key = ANY($1) ORDER BY key FOR UPDATE";
const NEXT_DELIVERY_IDS: &str =
    "SELECT nextval('hookstile.delivery_numbers') FROM generate_series(1, $1::integer)";
/// Reads the clock, and picks a part of the counts that no other transaction uses at the moment,
/// unless there are more transactions than parts.
const CLOCK: &str = "SELECT now, due, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    coalesce((SELECT part FROM generate_series(1, 32) AS part
        WHERE pg_try_advisory_xact_lock(1752131427, part) LIMIT 1), 1)
        ::smallint FROM hookstile.clock";

struct WriteTransaction {
    ledger: HashMap<EventKey, LedgerRow>,
    stored: HashMap<DeliveryId, StoredDelivery>,
    next_ids: Vec<i64>,
    rows: Rows,
}

/// Begins the transaction, and locks and reads all rows that the jobs name.
async fn begin(
    connection: &PooledConnection,
    batch: &[Job],
) -> Result<WriteTransaction, tokio_postgres::Error> {
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
            Job::RecordAttempt { id, .. } => ids.push(id.0),
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
    let (lock_ledger, select_stored) = (
        connection.prepare_cached(LOCK_LEDGER).await?,
        connection.prepare_cached(StoredDelivery::SELECT).await?,
    );
    let (next_ids, clock) = (
        connection.prepare_cached(NEXT_DELIVERY_IDS).await?,
        connection.prepare_cached(CLOCK).await?,
    );
    // Sent in this order, without waiting for each other (pipelined).
    let ((), ledger_rows, stored_rows, id_rows, clock) = tokio::try_join!(
        biased;
        connection.batch_execute("BEGIN"),
        query_unless_empty(connection, &lock_ledger, &keys, keys.is_empty()),
        query_unless_empty(connection, &select_stored, &ids, ids.is_empty()),
        query_unless_empty(connection, &next_ids, &settlements, settlements == 0),
        connection.query_one(&clock, &[]),
    )?;
    let mut ledger = HashMap::new();
    for row in &ledger_rows {
        let delivery = row.try_get::<_, Option<i64>>(4)?.map(DeliveryId);
        let ledger_row = LedgerRow {
            token: row.try_get(1)?,
            leased: row.try_get(2)?,
            completed: row.try_get(3)?,
            delivery,
        };
        ledger.insert(key(row.try_get(0)?), ledger_row);
    }
    let stored = stored_rows
        .iter()
        .map(|row| Ok((DeliveryId(row.try_get(0)?), StoredDelivery::read(row)?)));
    let rows = Rows::new(
        clock.try_get(0)?,
        clock.try_get(1)?,
        clock.try_get(2)?,
        clock.try_get(3)?,
    );
    let mut next_ids: Vec<i64> = id_rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    next_ids.reverse();
    Ok(WriteTransaction {
        ledger,
        stored: stored.collect::<Result<_, tokio_postgres::Error>>()?,
        next_ids,
        rows,
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
    fn apply(&mut self, job: &Job, owner: i64) -> Reply {
        match job {
            Job::Settle(settlement, _) => self.settle(settlement),
            Job::RecordAttempt {
                id,
                number,
                attempt,
                next,
                ..
            } => {
                self.record_attempt(*id, *number, attempt, *next, owner);
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
            SettleCheck::AlreadyWritten(delivery) => return Reply::Settled(delivery),
            SettleCheck::ClaimLost => return Reply::ClaimLost,
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
                self.rows.now.saturating_add(millis(settled.window)),
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
        for name in settlement.rows().map(|settled| &settled.row) {
            let Some(row) = self.ledger.get(&name.key) else {
                continue;
            };
            let is_own = name.earlier == Some(RowId(row.token));
            match (is_own, row.leased) {
                (true, true) => {}
                (true, false) => return SettleCheck::AlreadyWritten(row.delivery),
                (false, _) if delivered && row.completed => {
                    return SettleCheck::AlreadyWritten(row.delivery);
                }
                (false, _) if delivered => {}
                (false, _) => return SettleCheck::ClaimLost,
            }
        }
        SettleCheck::Write
    }

    /// Writes a delivery record: a new one, or an update of the earlier one.
    fn record_delivery(&mut self, change: &DeliveryChange, keys: Option<Vec<u8>>) -> DeliveryId {
        let earlier = change
            .earlier
            .and_then(|id| Some((id, self.stored.get(&id)?.clone())));
        let earlier = earlier.filter(|(_, stored)| stored.belongs_to(&change.event));
        let due = (change.state == DeliveryState::Pending)
            .then(|| self.rows.now_due.saturating_add(millis(change.due_after)));
        let kept = change
            .payload
            .as_ref()
            .map_or(0, |payload| payload.head.len() + payload.body.len());
        let kept = i64::try_from(kept).unwrap_or(i64::MAX);
        let attempts = match &earlier {
            Some((_, before)) => change.attempts_after(&before.attempts),
            None => change.attempts_after(&AttemptLog::default()),
        };
        let state = NewState {
            state: change.state,
            reason: None,
            tried: change.history.attempts,
            possibly_delivered: change.history.possibly_delivered,
            due_ms: due,
            queued_ms: due.map(|_| self.rows.now),
            ended_ms: due.is_none().then_some(self.rows.now),
            keys,
            payload_bytes: kept.saturating_add(attempts.body_bytes()),
            keeps_lease: false,
            recorded_by: None,
        };
        let id = match earlier {
            Some((id, before)) => {
                if change.payload.is_none() && before.payload_bytes > 0 {
                    self.rows.drop_payload(id);
                }
                self.rows.change(id, &before, state, Some(&attempts));
                id
            }
            None => {
                let id = DeliveryId(self.next_ids.pop().unwrap_or_default());
                self.rows.insert(id, &change.event, state, &attempts);
                id
            }
        };
        if let Some(payload) = &change.payload {
            self.rows.keep_payload(id, payload);
        }
        id
    }

    /// Records an attempt. Recording the same attempt again changes nothing. If another gateway has
    /// taken the event over, only a success is recorded.
    fn record_attempt(
        &mut self,
        id: DeliveryId,
        number: u32,
        attempt: &AttemptRecord,
        next: AttemptOutcome,
        owner: i64,
    ) {
        let is_done = matches!(next, AttemptOutcome::Delivered { .. });
        let is_recordable = |before: &StoredDelivery| match before.state {
            DeliveryState::Pending if before.tried < number => {
                is_done || before.lease_owner == Some(owner)
            }
            DeliveryState::Pending | DeliveryState::Dead => {
                is_done && before.tried >= number && before.recorded_by != Some(owner)
            }
            DeliveryState::Success | DeliveryState::Failed => false,
        };
        let Some(before) = self
            .stored
            .get(&id)
            .filter(|before| is_recordable(before))
            .cloned()
        else {
            return;
        };
        let (state, due_ms, outcome_unknown, reason) = match next {
            AttemptOutcome::Delivered { .. } => (DeliveryState::Success, None, false, None),
            AttemptOutcome::Retry {
                after,
                possibly_delivered,
            } => (
                DeliveryState::Pending,
                Some(self.rows.now_due.saturating_add(millis(after))),
                possibly_delivered,
                None,
            ),
            AttemptOutcome::Dead(reason) => {
                (DeliveryState::Dead, None, false, Some(reason.as_str()))
            }
        };
        let drop_payload = next
            == (AttemptOutcome::Delivered {
                keep_payload: false,
            });
        let mut attempts = before.attempts.clone();
        attempts.push(attempt.clone());
        if drop_payload {
            attempts.drop_bodies();
            self.rows.drop_payload(id);
        }
        let new_state = NewState {
            state,
            reason,
            tried: before.tried.saturating_add(1),
            possibly_delivered: before.possibly_delivered || outcome_unknown,
            due_ms,
            queued_ms: before.queued_ms,
            ended_ms: due_ms.is_none().then_some(self.rows.now),
            keys: before
                .keys
                .clone()
                .filter(|keys| state != DeliveryState::Success || keys.len() > 16),
            payload_bytes: if drop_payload {
                0
            } else {
                before.payload_bytes - before.attempts.body_bytes() + attempts.body_bytes()
            },
            keeps_lease: false,
            recorded_by: Some(owner),
        };
        self.rows.change(id, &before, new_state, Some(&attempts));
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
                        .stored
                        .get(&requeue.id)
                        .map(|before| RequeueResult::Queued(Arc::clone(&before.route)));
                }
                _ => return Some(RequeueResult::InFlight),
            }
        }
        None
    }

    fn requeue(&mut self, requeue: &Requeue) -> RequeueResult {
        let &Requeue {
            id,
            expected_state,
            due,
            automatic,
            ref completing,
            window,
        } = requeue;
        if let Some(known) = self.known_requeue(requeue) {
            return known;
        }
        let is_expected = |before: &StoredDelivery| {
            expected_state.is_none_or(|expected| expected == before.state)
        };
        let Some(before) = self
            .stored
            .get(&id)
            .filter(|stored| is_expected(stored))
            .cloned()
        else {
            return RequeueResult::Unknown;
        };
        if before.payload_bytes == 0 {
            return RequeueResult::NoPayload;
        }
        if self.rows.is_changed(id) {
            // The same batch requeues it twice.
            return RequeueResult::Queued(before.route);
        }
        let due_ms = i64::try_from(due.0.0).unwrap_or(i64::MAX / 4);
        let new_state = NewState {
            state: DeliveryState::Pending,
            reason: automatic.then_some(AUTOMATIC),
            tried: before.tried,
            possibly_delivered: before.possibly_delivered || before.state == DeliveryState::Success,
            due_ms: Some(due_ms),
            // The delivery horizon counts from the due time.
            queued_ms: Some(
                self.rows
                    .now
                    .saturating_add(due_ms.saturating_sub(self.rows.now_due).max(0)),
            ),
            ended_ms: None,
            keys: before.keys.clone(),
            payload_bytes: before.payload_bytes,
            // An attempt may be in progress.
            keeps_lease: before.state == DeliveryState::Pending,
            recorded_by: None,
        };
        self.rows.change(id, &before, new_state, None);
        let ends = self.rows.now.saturating_add(millis(window));
        for name in completing {
            // The digest is unknown, so any body with this ID is a duplicate from now on.
            let record = LedgerEntry::Completed {
                digest: PayloadDigest::unknown(),
            };
            self.rows
                .write_entry(*name, record, ends, Some((id, &before.route)), false);
        }
        self.rows.notify.push(Arc::clone(&before.route));
        RequeueResult::Queued(before.route)
    }
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
            Self::RecordAttempt { id, .. } => HashSet::from([RowKey::Delivery(*id)]),
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
    fn reply(self, result: Reply) {
        match (self, result) {
            (Self::Settle(_, done), Reply::Settled(id)) => drop(done.send(Ok(id))),
            (Self::RecordAttempt { done, .. }, Reply::AttemptRecorded) => drop(done.send(Ok(()))),
            (Self::Requeue(_, done), Reply::Requeued(requeued)) => drop(done.send(Ok(requeued))),
            (job, _) => job.fail(StoreError::Unavailable),
        }
    }

    fn fail(self, error: StoreError) {
        match self {
            Self::Settle(_, done) => drop(done.send(Err(error))),
            Self::RecordAttempt { done, .. } => drop(done.send(Err(error))),
            Self::Requeue(_, done) => drop(done.send(Err(error))),
        }
    }
}
