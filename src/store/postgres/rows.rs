//! The rows of one transaction, collected by column as `unnest` needs them, and written together.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::claims::uuid;
use super::pool::PooledConnection;
use crate::store::{
    AttemptHistory, AttemptLog, DeliveryId, DeliveryState, EventMetadata, EventRow, LedgerEntry,
    Payload, RECORD_BYTES, RowId,
};

const DAY_MS: i64 = 86_400_000;

/// A delivery as it is stored before a change.
#[derive(Clone)]
pub(super) struct StoredDelivery {
    pub route: Arc<str>,
    pub state: DeliveryState,
    pub tried: u32,
    pub possibly_delivered: bool,
    pub queued_ms: Option<i64>,
    pub keys: Option<Vec<u8>>,
    /// The bytes of the payload, and of the bodies of responses.
    pub payload_bytes: i64,
    pub lease_owner: Option<i64>,
    /// The gateway that recorded the last attempt.
    pub recorded_by: Option<i64>,
    event_id: String,
    received_ms: i64,
    pub attempts: AttemptLog,
}

impl StoredDelivery {
    pub(super) const SELECT: &str =
        "SELECT id, route, state, tried, possibly_delivered, queued_ms, keys, payload_bytes,
        lease_owner, event_id, received_ms, attempts::text, recorded_by
        FROM hookstile.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE";

    pub(super) fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            route: row.try_get::<_, &str>(1)?.into(),
            // The gateway only writes states of this set.
            state: DeliveryState::parse(row.try_get(2)?).unwrap_or(DeliveryState::Dead),
            tried: row.try_get::<_, i32>(3)?.unsigned_abs(),
            possibly_delivered: row.try_get(4)?,
            queued_ms: row.try_get(5)?,
            keys: row.try_get(6)?,
            payload_bytes: row.try_get(7)?,
            lease_owner: row.try_get(8)?,
            event_id: row.try_get(9)?,
            received_ms: row.try_get(10)?,
            attempts: AttemptLog::parse(row.try_get(11)?),
            recorded_by: row.try_get(12)?,
        })
    }

    pub(super) fn belongs_to(&self, event: &EventMetadata) -> bool {
        self.event_id == *event.event_id && self.route == event.route
    }
}

/// The new state of a delivery.
pub(super) struct NewState {
    pub state: DeliveryState,
    pub reason: Option<&'static str>,
    pub tried: u32,
    pub possibly_delivered: bool,
    pub due_ms: Option<i64>,
    pub queued_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub keys: Option<Vec<u8>>,
    pub payload_bytes: i64,
    pub keeps_lease: bool,
    /// The gateway that records the attempt; `None` if the change is not an attempt.
    pub recorded_by: Option<i64>,
}

/// All rows that a transaction writes.
pub(super) struct Rows {
    pub now: i64,
    pub now_due: i64,
    wall_ms: i64,
    /// The part of the counts that this transaction updates.
    part: i16,
    /// The routes to notify of queued events.
    pub notify: Vec<Arc<str>>,
    ledger: LedgerColumns,
    new_deliveries: NewDeliveries,
    changed_states: StateColumns,
    changed_ids: Vec<i64>,
    changed_attempts: Vec<Option<String>>,
    payloads: PayloadColumns,
    dropped_payloads: Vec<i64>,
    route_deltas: BTreeMap<Arc<str>, RouteDelta>,
    day_deltas: BTreeMap<(Arc<str>, i64), DayDelta>,
}

#[derive(Default)]
struct LedgerColumns {
    keys: Vec<Uuid>,
    tokens: Vec<i64>,
    ends: Vec<i64>,
    forced: Vec<bool>,
    attempts: Vec<i32>,
    possibly_delivered: Vec<bool>,
    digests: Vec<Option<Uuid>>,
    deliveries: Vec<Option<i64>>,
    routes: Vec<Option<String>>,
}

#[derive(Default)]
struct NewDeliveries {
    ids: Vec<i64>,
    routes: Vec<String>,
    event_ids: Vec<String>,
    event_types: Vec<String>,
    received: Vec<i64>,
    attempts: Vec<String>,
    secrets: Vec<String>,
    tests: Vec<bool>,
    states: StateColumns,
}

/// The columns of [`NewState`].
#[derive(Default)]
struct StateColumns {
    states: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    tried: Vec<i32>,
    possibly_delivered: Vec<bool>,
    due: Vec<Option<i64>>,
    queued: Vec<Option<i64>>,
    ended: Vec<Option<i64>>,
    keys: Vec<Option<Vec<u8>>>,
    payload_bytes: Vec<i64>,
    keeps_lease: Vec<bool>,
    recorded_by: Vec<Option<i64>>,
}

#[derive(Default)]
struct PayloadColumns {
    ids: Vec<i64>,
    heads: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
}

#[derive(Default)]
struct RouteDelta {
    pending: i64,
    dead: i64,
    kept_bytes: i64,
    waiting_bytes: i64,
    succeeded: bool,
    failed: bool,
}

#[derive(Default)]
struct DayDelta {
    successful: i64,
    failed: i64,
    total_ms: i64,
}

/// Writes ledger rows. Does not overwrite a claim that another gateway has made since the row was
/// looked up and not found, unless the row is `forced`, which is passed as `forwards`.
const WRITE_LEDGER: &str = "WITH written AS (INSERT INTO hookstile.ledger AS l
    (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered,
        digest, delivery, route)
    SELECT key, token, NULL, forced, ends, ends, attempts, possibly, digest, delivery, route
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::integer[], $6::boolean[],
        $7::uuid[], $8::bigint[], $9::text[]) AS r
        (key, token, ends, forced, attempts, possibly, digest, delivery, route) ORDER BY key
    ON CONFLICT (key) DO UPDATE SET token = excluded.token, lease_ends_ms = NULL, forwards = false,
        ends_ms = greatest(l.ends_ms, excluded.ends_ms), attempts = excluded.attempts,
        possibly_delivered = excluded.possibly_delivered, digest = excluded.digest,
        delivery = excluded.delivery,
        route = coalesce(excluded.route, l.route)
    WHERE l.token = excluded.token OR l.lease_ends_ms IS NULL OR excluded.forwards RETURNING key)
    SELECT hookstile.check_all(count(*), cardinality($1)) FROM written";

const INSERT_DELIVERIES: &str = "
    INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts,
        secret, test, state, reason, tried, possibly_delivered, due_ms, queued_ms, ended_ms, keys,
        payload_bytes)
    SELECT id, route, event_id, event_type, received, attempts::jsonb, secret, test, state, reason,
        tried, possibly, due, queued, ended, keys, bytes
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::text[], $8::boolean[], $9::text[], $10::text[], $11::integer[], $12::boolean[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bigint[])
        AS r (id, route, event_id, event_type, received, attempts, secret, test, state, reason,
            tried, possibly, due, queued, ended, keys, bytes)";

/// Updates deliveries. For the reason, see [`AUTOMATIC`](crate::store::domain::AUTOMATIC).
const UPDATE_DELIVERIES: &str = "
    UPDATE hookstile.deliveries d SET state = r.state, tried = r.tried,
        reason = CASE WHEN d.state <> 'pending' OR d.reason IS DISTINCT FROM 'automatic'
            THEN r.reason WHEN r.state = 'pending' THEN d.reason
            WHEN r.state = 'dead' THEN 'again' END,
        possibly_delivered = r.possibly, due_ms = r.due, queued_ms = r.queued, ended_ms = r.ended,
        keys = r.keys, payload_bytes = r.bytes,
        lease_owner = CASE WHEN r.keeps THEN d.lease_owner END,
        lease_ends_ms = CASE WHEN r.keeps THEN d.lease_ends_ms END,
        begun = r.keeps AND d.begun, recorded_by = coalesce(r.recorded_by, d.recorded_by),
        attempts = coalesce(r.attempts::jsonb, d.attempts)
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::boolean[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::bytea[], $11::bigint[], $12::boolean[],
        $13::bigint[])
        AS r (id, attempts, state, reason, tried, possibly, due, queued, ended, keys, bytes, keeps,
            recorded_by)
    WHERE d.id = r.id AND d.id = ANY($1)";

const STORE_PAYLOADS: &str =
    "INSERT INTO hookstile.payloads SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
    ON CONFLICT (delivery) DO UPDATE SET head = excluded.head, body = excluded.body";
const DROP_PAYLOADS: &str = "DELETE FROM hookstile.payloads WHERE delivery = ANY($1)";

const ADD_ROUTE_COUNTS: &str = "INSERT INTO hookstile.route_counts AS c
    SELECT route, $9::smallint, pending, dead, kept, waiting,
        CASE WHEN succeeded THEN $8::bigint END, CASE WHEN failed THEN $8::bigint END
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[],
        $7::boolean[])
        AS r (route, pending, dead, kept, waiting, succeeded, failed) ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        dead = c.dead + excluded.dead, kept_bytes = c.kept_bytes + excluded.kept_bytes,
        waiting_bytes = c.waiting_bytes + excluded.waiting_bytes,
        last_success_ms = coalesce(excluded.last_success_ms, c.last_success_ms),
        last_failure_ms = coalesce(excluded.last_failure_ms, c.last_failure_ms)";

const ADD_DAY_COUNTS: &str = "INSERT INTO hookstile.days AS d
    SELECT route, day, $6::smallint, successful, failed, total
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS r (route, day, successful, failed, total) ORDER BY route, day
    ON CONFLICT (route, day, part) DO UPDATE SET successful = d.successful + excluded.successful,
        failed = d.failed + excluded.failed, total_ms = d.total_ms + excluded.total_ms";

impl Rows {
    /// Creates an empty set of rows. `now` and `now_due` are the store's own time, `wall_ms` is the
    /// server's.
    pub(super) fn new(now: i64, now_due: i64, wall_ms: i64, part: i16) -> Self {
        Self {
            now,
            now_due,
            wall_ms,
            part,
            notify: Vec::new(),
            ledger: LedgerColumns::default(),
            new_deliveries: NewDeliveries::default(),
            changed_states: StateColumns::default(),
            changed_ids: Vec::new(),
            changed_attempts: Vec::new(),
            payloads: PayloadColumns::default(),
            dropped_payloads: Vec::new(),
            route_deltas: BTreeMap::new(),
            day_deltas: BTreeMap::new(),
        }
    }

    /// Adds a ledger row, which ends the claim on it. `delivery` is the event's delivery and its
    /// route.
    pub(super) fn write_entry(
        &mut self,
        name: EventRow,
        entry: LedgerEntry,
        ends: i64,
        delivery: Option<(DeliveryId, &str)>,
        forced: bool,
    ) {
        let (digest, tried) = match entry {
            LedgerEntry::Completed { digest } => (
                Some(Uuid::from_bytes(digest.to_bytes())),
                AttemptHistory::default(),
            ),
            LedgerEntry::Attempted(tried) => (None, tried),
        };
        self.ledger.keys.push(uuid(name.key));
        self.ledger
            .tokens
            .push(name.earlier.map_or(0, |RowId(token)| token));
        self.ledger.ends.push(ends);
        self.ledger.forced.push(forced);
        self.ledger.attempts.push(tried.attempts.cast_signed());
        self.ledger
            .possibly_delivered
            .push(tried.possibly_delivered);
        self.ledger.digests.push(digest);
        self.ledger.deliveries.push(delivery.map(|(id, _)| id.0));
        self.ledger
            .routes
            .push(delivery.map(|(_, route)| route.to_owned()));
    }

    pub(super) fn insert(
        &mut self,
        id: DeliveryId,
        event: &EventMetadata,
        to: NewState,
        attempts: &AttemptLog,
    ) {
        let received_ms = event.received_at.as_millisecond();
        self.new_deliveries.ids.push(id.0);
        self.new_deliveries.routes.push(event.route.to_string());
        self.new_deliveries
            .event_ids
            .push(event.event_id.to_string());
        self.new_deliveries
            .event_types
            .push(event.event_type.to_string());
        self.new_deliveries.received.push(received_ms);
        self.new_deliveries.attempts.push(attempts.to_json());
        self.new_deliveries.secrets.push(event.secret.to_string());
        self.new_deliveries.tests.push(event.is_test);
        self.count_day(&event.route, received_ms, to.state, 1, last_ms(attempts));
        self.count_route(&event.route, None, (to.state, to.payload_bytes));
        self.new_deliveries.states.push(to);
    }

    /// Changes a delivery. `attempts` replaces its attempts.
    pub(super) fn change(
        &mut self,
        id: DeliveryId,
        before: &StoredDelivery,
        to: NewState,
        attempts: Option<&AttemptLog>,
    ) {
        self.changed_ids.push(id.0);
        self.changed_attempts
            .push(attempts.map(AttemptLog::to_json));
        self.count_day(
            &before.route,
            before.received_ms,
            before.state,
            -1,
            last_ms(&before.attempts),
        );
        self.count_day(
            &before.route,
            before.received_ms,
            to.state,
            1,
            last_ms(attempts.unwrap_or(&before.attempts)),
        );
        self.count_route(
            &before.route,
            Some((before.state, before.payload_bytes)),
            (to.state, to.payload_bytes),
        );
        self.changed_states.push(to);
    }

    /// Returns whether a delivery is already changed in this transaction.
    pub(super) fn is_changed(&self, id: DeliveryId) -> bool {
        self.changed_ids.contains(&id.0)
    }

    pub(super) fn keep_payload(&mut self, id: DeliveryId, payload: &Payload) {
        self.payloads.ids.push(id.0);
        self.payloads.heads.push(payload.head.to_vec());
        self.payloads.bodies.push(payload.body.to_vec());
    }

    pub(super) fn drop_payload(&mut self, id: DeliveryId) {
        self.dropped_payloads.push(id.0);
    }

    /// Adds a delivery to its day's counts (`by` is 1) or subtracts it (-1).
    fn count_day(
        &mut self,
        route: &Arc<str>,
        received_ms: i64,
        state: DeliveryState,
        by: i64,
        last_ms: i64,
    ) {
        let delta = self
            .day_deltas
            .entry((Arc::clone(route), received_ms.div_euclid(DAY_MS)))
            .or_default();
        match state {
            DeliveryState::Success => {
                delta.successful += by;
                delta.total_ms += by * last_ms;
            }
            DeliveryState::Failed | DeliveryState::Dead => delta.failed += by,
            DeliveryState::Pending => {}
        }
    }

    fn count_route(
        &mut self,
        route: &Arc<str>,
        from: Option<(DeliveryState, i64)>,
        to: (DeliveryState, i64),
    ) {
        let delta = self.route_deltas.entry(Arc::clone(route)).or_default();
        for ((state, bytes), by) in from.map(|from| (from, -1)).into_iter().chain([(to, 1)]) {
            let bytes = by * (RECORD_BYTES + bytes);
            match state {
                DeliveryState::Pending => {
                    delta.pending += by;
                    delta.waiting_bytes += bytes;
                }
                DeliveryState::Dead => {
                    delta.dead += by;
                    delta.waiting_bytes += bytes;
                }
                DeliveryState::Success | DeliveryState::Failed => delta.kept_bytes += bytes,
            }
        }
        delta.succeeded |= to.0 == DeliveryState::Success;
        delta.failed |= matches!(to.0, DeliveryState::Failed | DeliveryState::Dead);
        if to.0 == DeliveryState::Pending
            && from.is_none_or(|(state, _)| state != DeliveryState::Pending)
        {
            self.notify.push(Arc::clone(route));
        }
    }

    /// Writes all rows and commits, in one round trip: the statements are sent in this order
    /// without waiting for each other. If one fails, nothing is committed.
    pub(super) async fn write(
        &self,
        connection: &PooledConnection,
    ) -> Result<(), tokio_postgres::Error> {
        let statements = Statements::prepare(connection).await?;
        tokio::try_join!(
            biased;
            self.write_ledger(connection, &statements.ledger),
            self.write_new(connection, &statements.insert),
            self.write_changes(connection, &statements.change),
            self.write_payloads(connection, &statements.store_payloads),
            self.write_dropped(connection, &statements.drop_payloads),
            self.write_route_counts(connection, &statements.route_counts),
            self.write_days(connection, &statements.days),
            connection.batch_execute("COMMIT"),
        )?;
        Ok(())
    }

    async fn write_ledger(
        &self,
        connection: &PooledConnection,
        remember: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let rows = &self.ledger;
        if rows.keys.is_empty() {
            return Ok(());
        }
        connection
            .execute(
                remember,
                &[
                    &rows.keys,
                    &rows.tokens,
                    &rows.ends,
                    &rows.forced,
                    &rows.attempts,
                    &rows.possibly_delivered,
                    &rows.digests,
                    &rows.deliveries,
                    &rows.routes,
                ],
            )
            .await
            .map(drop)
    }

    async fn write_new(
        &self,
        connection: &PooledConnection,
        insert: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let (rows, states) = (&self.new_deliveries, &self.new_deliveries.states);
        if rows.ids.is_empty() {
            return Ok(());
        }
        connection
            .execute(
                insert,
                &[
                    &rows.ids,
                    &rows.routes,
                    &rows.event_ids,
                    &rows.event_types,
                    &rows.received,
                    &rows.attempts,
                    &rows.secrets,
                    &rows.tests,
                    &states.states,
                    &states.reasons,
                    &states.tried,
                    &states.possibly_delivered,
                    &states.due,
                    &states.queued,
                    &states.ended,
                    &states.keys,
                    &states.payload_bytes,
                ],
            )
            .await
            .map(drop)
    }

    async fn write_changes(
        &self,
        connection: &PooledConnection,
        change: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let states = &self.changed_states;
        if self.changed_ids.is_empty() {
            return Ok(());
        }
        connection
            .execute(
                change,
                &[
                    &self.changed_ids,
                    &self.changed_attempts,
                    &states.states,
                    &states.reasons,
                    &states.tried,
                    &states.possibly_delivered,
                    &states.due,
                    &states.queued,
                    &states.ended,
                    &states.keys,
                    &states.payload_bytes,
                    &states.keeps_lease,
                    &states.recorded_by,
                ],
            )
            .await
            .map(drop)
    }

    async fn write_payloads(
        &self,
        connection: &PooledConnection,
        keep: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let rows = &self.payloads;
        if rows.ids.is_empty() {
            return Ok(());
        }
        connection
            .execute(keep, &[&rows.ids, &rows.heads, &rows.bodies])
            .await
            .map(drop)
    }

    async fn write_dropped(
        &self,
        connection: &PooledConnection,
        drop_payloads: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.dropped_payloads.is_empty() {
            return Ok(());
        }
        connection
            .execute(drop_payloads, &[&self.dropped_payloads])
            .await
            .map(drop)
    }

    async fn write_route_counts(
        &self,
        connection: &PooledConnection,
        stand: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.route_deltas.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.route_deltas.keys().map(|route| &**route).collect();
        let sums = |field: fn(&RouteDelta) -> i64| {
            self.route_deltas.values().map(field).collect::<Vec<_>>()
        };
        let flags = |field: fn(&RouteDelta) -> bool| {
            self.route_deltas.values().map(field).collect::<Vec<_>>()
        };
        let (pending, dead) = (sums(|c| c.pending), sums(|c| c.dead));
        let (kept, waiting) = (sums(|c| c.kept_bytes), sums(|c| c.waiting_bytes));
        let (succeeded, failed) = (flags(|c| c.succeeded), flags(|c| c.failed));
        connection
            .execute(
                stand,
                &[
                    &routes,
                    &pending,
                    &dead,
                    &kept,
                    &waiting,
                    &succeeded,
                    &failed,
                    &self.wall_ms,
                    &self.part,
                ],
            )
            .await
            .map(drop)
    }

    async fn write_days(
        &self,
        connection: &PooledConnection,
        count: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.day_deltas.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.day_deltas.keys().map(|(route, _)| &**route).collect();
        let days: Vec<i64> = self.day_deltas.keys().map(|(_, day)| *day).collect();
        let sums =
            |field: fn(&DayDelta) -> i64| self.day_deltas.values().map(field).collect::<Vec<_>>();
        let (successful, failed, total) = (
            sums(|t| t.successful),
            sums(|t| t.failed),
            sums(|t| t.total_ms),
        );
        connection
            .execute(
                count,
                &[&routes, &days, &successful, &failed, &total, &self.part],
            )
            .await
            .map(drop)
    }
}

/// The statements, prepared before any is sent. A statement that still had to be prepared would be
/// sent after the later ones.
struct Statements {
    ledger: Statement,
    insert: Statement,
    change: Statement,
    store_payloads: Statement,
    drop_payloads: Statement,
    route_counts: Statement,
    days: Statement,
}

impl Statements {
    async fn prepare(connection: &PooledConnection) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            ledger: connection.prepare_cached(WRITE_LEDGER).await?,
            insert: connection.prepare_cached(INSERT_DELIVERIES).await?,
            change: connection.prepare_cached(UPDATE_DELIVERIES).await?,
            store_payloads: connection.prepare_cached(STORE_PAYLOADS).await?,
            drop_payloads: connection.prepare_cached(DROP_PAYLOADS).await?,
            route_counts: connection.prepare_cached(ADD_ROUTE_COUNTS).await?,
            days: connection.prepare_cached(ADD_DAY_COUNTS).await?,
        })
    }
}

impl StateColumns {
    fn push(&mut self, to: NewState) {
        self.states.push(to.state.as_str());
        self.reasons.push(to.reason);
        self.tried.push(to.tried.cast_signed());
        self.possibly_delivered.push(to.possibly_delivered);
        self.due.push(to.due_ms);
        self.queued.push(to.queued_ms);
        self.ended.push(to.ended_ms);
        self.keys.push(to.keys);
        self.payload_bytes.push(to.payload_bytes);
        self.keeps_lease.push(to.keeps_lease);
        self.recorded_by.push(to.recorded_by);
    }
}

fn last_ms(attempts: &AttemptLog) -> i64 {
    i64::try_from(attempts.last_ms()).unwrap_or(0)
}
