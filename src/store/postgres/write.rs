//! What is written: how claims and attempts ended. Many at once, in one transaction of two trips: what stands is looked at
//! and held, and what becomes of it is written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::claims::{key, millis, uuid};
use super::pool::{OnTimeout, PooledConnection, QueryError, bounded, on};
use super::rows::{Before, Changed, Rows};
use super::{Counted, Shared};
use crate::signature::PayloadDigest;
use crate::store::{
    AttemptOutcome, AttemptRecord, DeliveryChange, DeliveryId, DeliveryState, EventKey, EventRow,
    LedgerEntry, Requeue, RequeueResult, RowId, Settlement, StoreError,
};

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

/// A row, of the ledger or of the deliveries.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum RowName {
    Event(EventKey),
    Delivery(DeliveryId),
}

/// What is asked for.
pub(super) enum Job {
    Settle(Box<Settlement>, Done<Option<DeliveryId>>),
    Attempted {
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
        done: Done<()>,
    },
    Requeue(Vec<Requeue>, Done<Vec<RequeueResult>>),
}

/// What became of a job.
enum Reply {
    Settled(Option<DeliveryId>),
    /// The claim lapsed, and the event is another's.
    Lost,
    Attempted,
    Requeued(Vec<RequeueResult>),
}

/// A row of the ledger, as it stands.
#[derive(Clone, Copy)]
struct Claimed {
    token: i64,
    leased: bool,
    completed: bool,
    delivery: Option<DeliveryId>,
}

/// What a settlement finds.
enum Verdict {
    Write,
    /// It is written already, by an asking whose answer was lost.
    Written(Option<DeliveryId>),
    Lost,
}

impl Shared {
    /// Writes all of them, those that name the same rows one after the other.
    pub(super) async fn write_all(self: Arc<Self>, batch: Vec<(Job, Counted)>) {
        let (mut left, _counted): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        while !left.is_empty() {
            let mut taken = HashSet::new();
            let (now, later): (Vec<_>, Vec<_>) = left.into_iter().partition(|job| {
                let names = job.names();
                let is_alone = taken.is_disjoint(&names);
                taken.extend(names);
                is_alone
            });
            self.write(now).await;
            left = later;
        }
    }

    async fn write(&self, batch: Vec<Job>) {
        let jobs = &batch;
        match self
            .lines
            .again(OnTimeout::Retry, on!(line => self.transact(line, jobs)))
            .await
        {
            Ok((answers, stored)) => {
                for route in stored {
                    self.wake(&route);
                }
                for (job, answer) in batch.into_iter().zip(answers) {
                    job.tell(answer);
                }
            }
            Err(QueryError::Refused(_)) if batch.len() > 1 => {
                // One that can't be written does not stand in the way of the others.
                for job in batch {
                    Box::pin(self.write(vec![job])).await;
                }
            }
            Err(failed) => {
                let error = self.lines.failed("commit", &failed);
                for job in batch {
                    job.refuse(error);
                }
            }
        }
    }

    async fn transact(
        &self,
        line: &PooledConnection,
        batch: &[Job],
    ) -> Result<(Vec<Reply>, Vec<Arc<str>>), QueryError> {
        let began = std::time::Instant::now();
        let mut writing = bounded(look(line, batch)).await?;
        let answers: Vec<_> = batch
            .iter()
            .map(|job| writing.apply(job, self.owner))
            .collect();
        Box::pin(bounded(writing.rows.write(line))).await?;
        self.lines.metrics().observe_commit(began.elapsed());
        Ok((answers, writing.rows.stored))
    }
}

const HELD: &str =
    "SELECT key, token, lease_ends_ms IS NOT NULL, digest IS NOT NULL AND ends_ms > (SELECT now FROM hookstile.clock), delivery
    FROM hookstile.ledger WHERE key = ANY($1) ORDER BY key FOR UPDATE";
const NUMBERS: &str =
    "SELECT nextval('hookstile.delivery_numbers') FROM generate_series(1, $1::integer)";
/// With the part of the counts that is this transaction's alone, unless there are many.
const CLOCK: &str = "SELECT now, due, (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
    coalesce((SELECT part FROM generate_series(1, 32) AS part WHERE pg_try_advisory_xact_lock(1752131427, part) LIMIT 1), 1)
        ::smallint FROM hookstile.clock";

struct Writing {
    ledger: HashMap<EventKey, Claimed>,
    before: HashMap<DeliveryId, Before>,
    numbers: Vec<i64>,
    rows: Rows,
}

/// Begins the transaction and looks at all rows that the jobs name, which nobody else changes until its end.
async fn look(line: &PooledConnection, batch: &[Job]) -> Result<Writing, tokio_postgres::Error> {
    let (mut keys, mut ids, mut settlements) = (Vec::new(), Vec::new(), 0_i32);
    for job in batch {
        match job {
            Job::Settle(settlement, _) => {
                settlements += 1;
                keys.extend(settlement.names.iter().flatten().map(|name| uuid(name.key)));
                ids.extend(
                    settlement
                        .delivery
                        .as_ref()
                        .and_then(|delivery| delivery.earlier)
                        .map(|id| id.0),
                );
            }
            Job::Attempted { id, .. } => ids.push(id.0),
            Job::Requeue(wanted, _) => {
                ids.extend(wanted.iter().map(|requeue| requeue.id.0));
                keys.extend(
                    wanted
                        .iter()
                        .flat_map(|requeue| &requeue.completing)
                        .map(|name| uuid(name.key)),
                );
            }
        }
    }
    let (held, before) = (
        line.prepare_cached(HELD).await?,
        line.prepare_cached(Before::SELECT).await?,
    );
    let (numbers, clock) = (
        line.prepare_cached(NUMBERS).await?,
        line.prepare_cached(CLOCK).await?,
    );
    // Sent in this order, without waiting for each other.
    let ((), held, before, numbers, clock) = tokio::try_join!(
        biased;
        line.batch_execute("BEGIN"),
        rows_of(line, &held, &keys, keys.is_empty()),
        rows_of(line, &before, &ids, ids.is_empty()),
        rows_of(line, &numbers, &settlements, settlements == 0),
        line.query_one(&clock, &[]),
    )?;
    let mut ledger = HashMap::new();
    for row in &held {
        let delivery = row.try_get::<_, Option<i64>>(4)?.map(DeliveryId);
        let claimed = Claimed {
            token: row.try_get(1)?,
            leased: row.try_get(2)?,
            completed: row.try_get(3)?,
            delivery,
        };
        ledger.insert(key(row.try_get(0)?), claimed);
    }
    let before = before
        .iter()
        .map(|row| Ok((DeliveryId(row.try_get(0)?), Before::read(row)?)));
    let rows = Rows::at(
        clock.try_get(0)?,
        clock.try_get(1)?,
        clock.try_get(2)?,
        clock.try_get(3)?,
    );
    let mut numbers: Vec<i64> = numbers
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    numbers.reverse();
    Ok(Writing {
        ledger,
        before: before.collect::<Result<_, tokio_postgres::Error>>()?,
        numbers,
        rows,
    })
}

/// Rows by one parameter; of nothing without asking.
async fn rows_of(
    line: &PooledConnection,
    statement: &Statement,
    by: &(dyn ToSql + Sync),
    is_of_nothing: bool,
) -> Result<Vec<Row>, tokio_postgres::Error> {
    if is_of_nothing {
        Ok(Vec::new())
    } else {
        line.query(statement, &[by]).await
    }
}

impl Writing {
    fn apply(&mut self, job: &Job, owner: i64) -> Reply {
        match job {
            Job::Settle(settlement, _) => self.settle(settlement),
            Job::Attempted {
                id,
                number,
                attempt,
                next,
                ..
            } => {
                self.attempted(*id, *number, attempt, *next, owner);
                Reply::Attempted
            }
            Job::Requeue(wanted, _) => {
                Reply::Requeued(wanted.iter().map(|requeue| self.requeue(requeue)).collect())
            }
        }
    }

    fn settle(&mut self, settlement: &Settlement) -> Reply {
        match self.judge(settlement) {
            Verdict::Written(delivery) => return Reply::Settled(delivery),
            Verdict::Lost => return Reply::Lost,
            Verdict::Write => {}
        }
        let names = &settlement.names;
        let was_handed_over = was_handed_over(settlement);
        let id = settlement
            .delivery
            .as_ref()
            .map(|change| self.record(change, names));
        let ends = self.rows.now.saturating_add(millis(settlement.window));
        for (name, other) in [(names[0], names[1]), (names[1], names[0])] {
            let Some(name) = name else { continue };
            self.rows.remember(
                name,
                other.map(|other| other.key),
                settlement.becomes,
                ends,
                id,
                was_handed_over,
            );
        }
        Reply::Settled(id)
    }

    /// Whether the claim is still ours. That an event was handed over is written in any case: it was.
    fn judge(&self, settlement: &Settlement) -> Verdict {
        let was_handed_over = was_handed_over(settlement);
        for name in settlement.names.iter().flatten() {
            let Some(row) = self.ledger.get(&name.key) else {
                continue;
            };
            let is_ours = name.earlier == Some(RowId(row.token));
            match (is_ours, row.leased) {
                (true, true) => {}
                (true, false) => return Verdict::Written(row.delivery),
                (false, _) if was_handed_over && row.completed => {
                    return Verdict::Written(row.delivery);
                }
                (false, _) if was_handed_over => {}
                (false, _) => return Verdict::Lost,
            }
        }
        Verdict::Write
    }

    /// Writes a delivery's record: anew, or over the one it has.
    fn record(&mut self, change: &DeliveryChange, names: &[Option<EventRow>; 2]) -> DeliveryId {
        let earlier = change
            .earlier
            .and_then(|id| Some((id, self.before.get(&id)?.clone())));
        let earlier = earlier.filter(|(_, before)| before.is_of(&change.event));
        let keys = (change.state != DeliveryState::Success).then(|| {
            names
                .iter()
                .flatten()
                .flat_map(|name| name.key.0.to_be_bytes())
                .collect()
        });
        let due = (change.state == DeliveryState::Pending)
            .then(|| self.rows.due_now.saturating_add(millis(change.due_after)));
        let kept = change
            .payload
            .as_ref()
            .map_or(0, |payload| payload.head.len() + payload.body.len());
        let kept = i64::try_from(kept).unwrap_or(i64::MAX);
        let state = Changed {
            state: change.state,
            reason: None,
            tried: change.history.attempts,
            possibly_delivered: change.history.possibly_delivered,
            due_ms: due,
            queued_ms: due.map(|_| self.rows.now),
            ended_ms: due.is_none().then_some(self.rows.now),
            keys,
            payload_bytes: kept,
            keeps_lease: false,
            told_by: None,
        };
        let id = match earlier {
            Some((id, before)) => {
                if change.payload.is_none() && before.payload_bytes > 0 {
                    self.rows.drop_payload(id);
                }
                self.rows
                    .change(id, &before, state, change.attempt.as_ref());
                id
            }
            None => {
                let id = DeliveryId(self.numbers.pop().unwrap_or_default());
                self.rows
                    .insert(id, &change.event, state, change.attempt.as_ref());
                id
            }
        };
        if let Some(payload) = &change.payload {
            self.rows.keep_payload(id, payload);
        }
        id
    }

    /// Told again, it changes nothing. What another gateway tries by now, or has tried, is its to tell of, but for a success.
    fn attempted(
        &mut self,
        id: DeliveryId,
        number: u32,
        attempt: &AttemptRecord,
        next: AttemptOutcome,
        owner: i64,
    ) {
        let is_done = matches!(next, AttemptOutcome::Done { .. });
        let is_its = |before: &Before| match before.state {
            DeliveryState::Pending if before.tried < number => {
                is_done || before.lease_owner == Some(owner)
            }
            DeliveryState::Pending | DeliveryState::Dead => {
                is_done && before.tried >= number && before.told_by != Some(owner)
            }
            DeliveryState::Success | DeliveryState::Failed => false,
        };
        let Some(before) = self
            .before
            .get(&id)
            .filter(|before| is_its(before))
            .cloned()
        else {
            return;
        };
        let (state, due_ms, unknown, reason) = match next {
            AttemptOutcome::Done { .. } => (DeliveryState::Success, None, false, None),
            AttemptOutcome::Retry {
                after,
                possibly_delivered,
            } => (
                DeliveryState::Pending,
                Some(self.rows.due_now.saturating_add(millis(after))),
                possibly_delivered,
                None,
            ),
            AttemptOutcome::Dead(reason) => {
                (DeliveryState::Dead, None, false, Some(reason.as_str()))
            }
        };
        let drops = next
            == (AttemptOutcome::Done {
                keep_payload: false,
            });
        if drops {
            self.rows.drop_payload(id);
        }
        let changed = Changed {
            state,
            reason,
            tried: before.tried.saturating_add(1),
            possibly_delivered: before.possibly_delivered || unknown,
            due_ms,
            queued_ms: before.queued_ms,
            ended_ms: due_ms.is_none().then_some(self.rows.now),
            keys: before
                .keys
                .clone()
                .filter(|_| state != DeliveryState::Success),
            payload_bytes: if drops { 0 } else { before.payload_bytes },
            keeps_lease: false,
            told_by: Some(owner),
        };
        self.rows.change(id, &before, changed, Some(attempt));
    }

    /// What is known of the wish without writing: that its claims lapsed, or that it was written by an asking whose answer was
    /// lost.
    fn of_requeue(&self, requeue: &Requeue) -> Option<RequeueResult> {
        let is_ours = |name: &EventRow, row: &Claimed| name.earlier == Some(RowId(row.token));
        for name in &requeue.completing {
            let row = self.ledger.get(&name.key).filter(|row| is_ours(name, row));
            match row {
                Some(row) if row.leased => {}
                Some(row) if row.delivery == Some(requeue.id) => {
                    return self
                        .before
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
            expected_state: from,
            due,
            ref completing,
            window,
        } = requeue;
        if let Some(known) = self.of_requeue(requeue) {
            return known;
        }
        let is_wanted = |before: &Before| from.is_none_or(|from| from == before.state);
        let Some(before) = self
            .before
            .get(&id)
            .filter(|before| is_wanted(before))
            .cloned()
        else {
            return RequeueResult::Unknown;
        };
        if before.payload_bytes == 0 {
            return RequeueResult::NoPayload;
        }
        if self.rows.changes(id) {
            // Asked for twice.
            return RequeueResult::Queued(before.route);
        }
        let due_ms = i64::try_from(due.0.0).unwrap_or(i64::MAX / 4);
        let changed = Changed {
            state: DeliveryState::Pending,
            reason: None,
            tried: before.tried,
            possibly_delivered: before.possibly_delivered || before.state == DeliveryState::Success,
            due_ms: Some(due_ms),
            // Its horizon counts from when it is due.
            queued_ms: Some(
                self.rows
                    .now
                    .saturating_add(due_ms.saturating_sub(self.rows.due_now).max(0)),
            ),
            ended_ms: None,
            keys: before.keys.clone(),
            payload_bytes: before.payload_bytes,
            // An attempt may be under way.
            keeps_lease: before.state == DeliveryState::Pending,
            told_by: None,
        };
        self.rows.change(id, &before, changed, None);
        let ends = self.rows.now.saturating_add(millis(window));
        for name in completing {
            // Any body of this ID is a copy from now on: this one has been taken.
            let record = LedgerEntry::Completed {
                digest: PayloadDigest::unknown(),
            };
            self.rows
                .remember(*name, None, record, ends, Some(id), false);
        }
        self.rows.stored.push(Arc::clone(&before.route));
        RequeueResult::Queued(before.route)
    }
}

/// Written in any case: it was.
fn was_handed_over(settlement: &Settlement) -> bool {
    settlement
        .delivery
        .as_ref()
        .is_some_and(|delivery| delivery.state == DeliveryState::Success)
}

impl Job {
    /// What its payload weighs, in bytes.
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

    /// The rows that it names.
    fn names(&self) -> HashSet<RowName> {
        let event = |name: &EventRow| RowName::Event(name.key);
        match self {
            Self::Settle(settlement, _) => {
                let delivery = settlement
                    .delivery
                    .as_ref()
                    .and_then(|delivery| delivery.earlier);
                let events = settlement.names.iter().flatten().map(event);
                events.chain(delivery.map(RowName::Delivery)).collect()
            }
            Self::Attempted { id, .. } => HashSet::from([RowName::Delivery(*id)]),
            Self::Requeue(wanted, _) => {
                let events = wanted
                    .iter()
                    .flat_map(|requeue| &requeue.completing)
                    .map(event);
                events
                    .chain(wanted.iter().map(|requeue| RowName::Delivery(requeue.id)))
                    .collect()
            }
        }
    }

    /// Who asked may have gone meanwhile: what was written is written.
    fn tell(self, answer: Reply) {
        match (self, answer) {
            (Self::Settle(_, done), Reply::Settled(id)) => drop(done.send(Ok(id))),
            (Self::Attempted { done, .. }, Reply::Attempted) => drop(done.send(Ok(()))),
            (Self::Requeue(_, done), Reply::Requeued(requeued)) => drop(done.send(Ok(requeued))),
            (job, _) => job.refuse(StoreError::Unavailable),
        }
    }

    fn refuse(self, error: StoreError) {
        match self {
            Self::Settle(_, done) => drop(done.send(Err(error))),
            Self::Attempted { done, .. } => drop(done.send(Err(error))),
            Self::Requeue(_, done) => drop(done.send(Err(error))),
        }
    }
}
