//! Stores new events to queue, in one statement for many: it inserts those whose keys the ledger does
//! not have. `write` handles the others, and whatever takes more than that.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::claims::{key, millis, uuid};
use super::pool::{OnTimeout, PooledConnection, QueryError, on};
use super::queue_front::Reservation;
use super::rows::{RELATIVE_TIME, identity};
use super::write::{HeldEvent, Job, Reply};
use super::{LARGE_BYTES, Shared};
use crate::store::delivery_state::Progress;
use crate::store::uptime::Uptime;
use crate::store::{
    AttemptHistory, DeliveryChange, DeliveryId, DeliveryIdentity, DeliveryState, EventKey,
    LedgerEntry, SettledRow, Settlement,
};

/// The part of the counts that new events are added to: none that other writes use. Gateways that
/// share one wait for each other's commits.
const FIRST_PART: i16 = 49;
const PARTS: i64 = 16;

const INSERT_NEW: &str = "
WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
a AS MATERIALIZED (
    SELECT nextval('hookstile.delivery_numbers') AS id, r.*
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::text[],
        $7::text[], $8::bigint[], $9::text[], $10::boolean[], $11::text[], $12::bytea[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bytea[])
        AS r (key, token, lasts, digest, route, event_id, event_type, received, secret, test,
            attempts, keys, bytes, counted, lease, head, body)),
new AS (
    INSERT INTO hookstile.ledger (key, token, forwards, ends_ms, ends_before_ms, attempts,
        possibly_delivered, digest, delivery, route)
    SELECT key, token, false, now + lasts, now + lasts, 0, false, digest, id, route FROM a, clock
    ORDER BY key ON CONFLICT (key) DO NOTHING RETURNING delivery),
stored AS (
    INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts,
        secret, test, state, tried, possibly_delivered, due_ms, queued_ms, keys, payload_bytes,
        lease_owner, lease_ends_ms, begun, lease_batch)
    SELECT id, route, event_id, event_type, received, attempts::jsonb, secret, test, 'pending', 0,
        false, due, now, keys, bytes,
        CASE WHEN lease IS NOT NULL THEN $18::bigint END, now + lease, lease IS NOT NULL, $20::bigint
    FROM a JOIN new ON new.delivery = a.id, clock RETURNING id, identity, due_ms, queued_ms),
kept AS (INSERT INTO hookstile.payloads
    SELECT id, head, body FROM a JOIN new ON new.delivery = a.id),
counted AS (
    INSERT INTO hookstile.route_counts AS c
        (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, $19::smallint, count(*), 0, 0, sum(counted)::bigint
    FROM a JOIN new ON new.delivery = a.id GROUP BY route ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        waiting_bytes = c.waiting_bytes + excluded.waiting_bytes)
SELECT a.key, a.id, identity, due_ms, queued_ms FROM stored JOIN a ON a.id = stored.id
    ORDER BY a.id";

/// A new event to queue, from a settlement.
struct NewEvent<'a> {
    row: &'a SettledRow,
    digest: [u8; 16],
    change: &'a DeliveryChange,
    /// The delivery, at a relative time.
    progress: Progress,
}

/// Returns whether a settlement queues an event that is new and due at once, and does no more.
fn is_new_to_queue(settlement: &Settlement) -> bool {
    let is_completed = settlement
        .event
        .as_ref()
        .is_some_and(|row| matches!(row.entry, LedgerEntry::Completed { .. }));
    is_completed
        && settlement.copies.is_none()
        && settlement.delivery.as_ref().is_some_and(|change| {
            change.earlier.is_none()
                && change.state == DeliveryState::Pending
                && change.history == AttemptHistory::default()
                && change.attempt.is_none()
                && change.due_after.is_zero()
                && change.payload.is_some()
        })
}

impl<'a> NewEvent<'a> {
    /// Returns the event of a settlement that [`is_new_to_queue`].
    fn from_settlement(settlement: &'a Settlement) -> Option<Self> {
        let (row, change) = (settlement.event.as_ref()?, settlement.delivery.as_ref()?);
        let LedgerEntry::Completed { digest } = row.entry else {
            return None;
        };
        Some(Self {
            row,
            digest: digest.to_bytes(),
            change,
            progress: Progress::settled(None, change, settlement.keys_blob(), RELATIVE_TIME),
        })
    }
}

impl Shared {
    /// Stores the new events among the jobs, and replies to them. Returns the other jobs.
    pub(super) async fn accept(self: &Arc<Self>, batch: Vec<Job>) -> Vec<Job> {
        let bytes: usize = batch.iter().map(Job::bytes).sum();
        if bytes >= LARGE_BYTES {
            // It has more time.
            return batch;
        }
        let (new, mut others): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|job| job.settlement().is_some_and(is_new_to_queue));
        if new.is_empty() {
            return others;
        }
        let jobs = &new;
        let stored = self
            .pool
            .run(
                OnTimeout::Retry,
                on!(connection => self.insert_new(connection, jobs)),
            )
            .await;
        match stored {
            Ok(stored) => {
                for job in new {
                    match job.event_key().and_then(|key| stored.get(&key)) {
                        Some(id) => job.reply(Reply::Settled(Some(*id))),
                        None => others.push(job),
                    }
                }
            }
            // One of them cannot be written.
            Err(QueryError::Refused(_)) => others.extend(new),
            Err(error) => {
                let error = self.pool.log_failure("commit", &error);
                for job in new {
                    job.fail(error);
                }
            }
        }
        others
    }

    /// Inserts the events whose keys are new. Returns their deliveries.
    async fn insert_new(
        self: &Arc<Self>,
        connection: &PooledConnection,
        jobs: &[Job],
    ) -> Result<HashMap<EventKey, DeliveryId>, QueryError> {
        let began = Instant::now();
        let mut columns = Columns::default();
        let mut events = HashMap::new();
        for job in jobs {
            let Some(event) = job.settlement().and_then(NewEvent::from_settlement) else {
                continue;
            };
            let reserved = self.reserve(event.change);
            columns.push(&event, reserved.as_ref().map(|(_, lease)| *lease));
            events.insert(event.row.row.key, (event, reserved));
        }
        let batch = self.fronts.next_batch();
        let part = FIRST_PART + i16::try_from(self.owner.rem_euclid(PARTS)).unwrap_or(0);
        let rows = connection
            .query_cached(
                INSERT_NEW,
                &[
                    &columns.keys,
                    &columns.tokens,
                    &columns.lasts,
                    &columns.digests,
                    &columns.routes,
                    &columns.event_ids,
                    &columns.event_types,
                    &columns.received,
                    &columns.secrets,
                    &columns.tests,
                    &columns.attempts,
                    &columns.event_keys,
                    &columns.bytes,
                    &columns.counted,
                    &columns.leases,
                    &columns.heads,
                    &columns.bodies,
                    &self.owner,
                    &part,
                    &batch,
                ],
            )
            .await;
        let rows = rows.inspect_err(|error| {
            let leased = events.values().filter(|(_, reserved)| reserved.is_some());
            let routes = leased.map(|(event, _)| &event.change.event.route);
            self.lose_leases(routes, batch, error);
        })?;
        self.pool.metrics().observe_commit(began.elapsed());
        let (mut stored, mut held, mut routes) = (HashMap::new(), Vec::new(), Vec::new());
        for row in &rows {
            let (key, id) = (key(row.try_get(0)?), DeliveryId(row.try_get(1)?));
            stored.insert(key, id);
            let Some((event, reserved)) = events.remove(&key) else {
                continue;
            };
            routes.push(Arc::clone(&event.change.event.route));
            let ms = |column| Ok::<_, QueryError>(row.try_get::<_, i64>(column)?.unsigned_abs());
            let progress = Progress {
                due: Some(Uptime(ms(3)?)),
                queued: Some(Uptime(ms(4)?)),
                ..event.progress
            };
            if let Some(reserved) = reserved {
                let event = HeldEvent::new(id, event.change, progress, reserved);
                let identity: DeliveryIdentity = identity(row.try_get(2)?);
                held.extend(event.map(|event| (event, identity)));
            }
        }
        // The other reservations end, so that the front can take what is free.
        drop(events);
        self.announce(held, routes, began);
        Ok(stored)
    }

    /// Reserves room in memory for a new event that is due at once, for as long as the lease lasts.
    pub(super) fn reserve(&self, change: &DeliveryChange) -> Option<(Reservation, Duration)> {
        let payload = change.payload.as_ref()?;
        let bytes = payload.head.len() + payload.body.len();
        let route = &change.event.route;
        if bytes >= super::queue::HELD_PAYLOAD_MAX {
            return None;
        }
        let reservation = self.fronts.reserve(route, bytes)?;
        Some((reservation, self.held_lease(route)))
    }
}

/// The parameters of [`INSERT_NEW`].
#[derive(Default)]
struct Columns<'a> {
    keys: Vec<Uuid>,
    tokens: Vec<i64>,
    lasts: Vec<i64>,
    digests: Vec<Uuid>,
    routes: Vec<&'a str>,
    event_ids: Vec<&'a str>,
    event_types: Vec<&'a str>,
    received: Vec<i64>,
    secrets: Vec<&'a str>,
    tests: Vec<bool>,
    attempts: Vec<String>,
    event_keys: Vec<Option<Vec<u8>>>,
    bytes: Vec<i64>,
    counted: Vec<i64>,
    leases: Vec<Option<i64>>,
    heads: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, new: &NewEvent<'a>, lease: Option<Duration>) {
        let (row, event) = (new.row, &*new.change.event);
        self.keys.push(uuid(row.row.key));
        self.tokens.push(row.row.earlier.map_or(0, |token| token.0));
        self.lasts.push(millis(row.window));
        self.digests.push(Uuid::from_bytes(new.digest));
        self.routes.push(&event.route);
        self.event_ids.push(&event.event_id);
        self.event_types.push(&event.event_type);
        self.received.push(event.received_at.as_millisecond());
        self.secrets.push(&event.secret);
        self.tests.push(event.is_test);
        self.attempts.push(new.progress.attempts.to_json());
        self.event_keys.push(new.progress.keys.clone());
        self.bytes.push(new.progress.stored_bytes);
        self.counted.push(new.progress.counted_bytes());
        self.leases.push(lease.map(millis));
        let payload = new.change.payload.as_ref();
        self.heads
            .push(payload.map_or(&[], |payload| &payload.head));
        self.bodies
            .push(payload.map_or(&[], |payload| &payload.body));
    }
}
