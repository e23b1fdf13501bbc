//! The rows of one transaction, collected by column as `unnest` needs them, and written together.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::claims::uuid;
use super::pool::PooledConnection;
use crate::store::delivery_state::{
    CountChanges, DayChange, Progress, RouteChange, StateReason, StoreTime, StoredDelivery,
};
use crate::store::uptime::Uptime;
use crate::store::{
    AttemptHistory, AttemptLog, DeliveryId, DeliveryIdentity, DeliveryState, EventMetadata,
    EventRow, LedgerEntry, Payload, RowId,
};

/// A delivery that is locked for a change, and which gateway has it.
pub(super) struct LockedDelivery {
    pub identity: DeliveryIdentity,
    pub stored: StoredDelivery,
    pub lease_owner: Option<i64>,
    /// The gateway that recorded the last attempt.
    pub recorded_by: Option<i64>,
}

impl LockedDelivery {
    pub(super) const SELECT: &str =
        "SELECT id, route, event_id, received_ms, state, reason, tried, possibly_delivered, due_ms,
        queued_ms, ended_ms, keys, payload_bytes, attempts::text, lease_owner, recorded_by, identity
        FROM hookstile.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE";

    pub(super) fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            identity: identity(row.try_get(16)?),
            stored: read_stored(row)?,
            lease_owner: row.try_get(14)?,
            recorded_by: row.try_get(15)?,
        })
    }
}

/// Reads a delivery from the first columns of a row: its number, and then those of
/// [`LockedDelivery::SELECT`] up to the attempts.
pub(super) fn read_stored(row: &Row) -> Result<StoredDelivery, tokio_postgres::Error> {
    let uptime = |column| {
        let ms = row.try_get::<_, Option<i64>>(column)?;
        Ok::<_, tokio_postgres::Error>(ms.map(|ms| Uptime(ms.unsigned_abs())))
    };
    let progress = Progress {
        // The gateway only writes states of this set.
        state: DeliveryState::parse(row.try_get(4)?).unwrap_or(DeliveryState::Dead),
        reason: row
            .try_get::<_, Option<&str>>(5)?
            .and_then(StateReason::parse),
        tried: row.try_get::<_, i32>(6)?.unsigned_abs(),
        possibly_delivered: row.try_get(7)?,
        due: uptime(8)?,
        queued: uptime(9)?,
        ended: uptime(10)?,
        keys: row.try_get(11)?,
        stored_bytes: row.try_get(12)?,
        attempts: AttemptLog::parse(row.try_get(13)?),
    };
    Ok(StoredDelivery {
        route: row.try_get::<_, &str>(1)?.into(),
        event_id: row.try_get(2)?,
        received_ms: row.try_get(3)?,
        progress,
    })
}

/// The time that written times are relative to, where the statement adds the server's.
pub(super) const RELATIVE_TIME: StoreTime = StoreTime {
    now: Uptime(0),
    now_due: Uptime(0),
};

/// Returns the identity in a column. A delivery that an earlier version stored has none.
pub(super) fn identity(column: Option<Uuid>) -> DeliveryIdentity {
    DeliveryIdentity(column.map_or(0, |identity| identity.as_u128()))
}

/// What a change of a delivery means for the gateways.
#[derive(Clone, Copy, Default)]
pub(super) struct Ownership {
    /// The lease of an attempt that may be in progress stays.
    pub keeps_lease: bool,
    /// The gateway that records the attempt; `None` if the change is not an attempt.
    pub recorded_by: Option<i64>,
}

/// What must not have changed in a row that this gateway has leased.
pub(super) struct KnownRow {
    pub identity: DeliveryIdentity,
    pub tried: u32,
    pub queued: Option<Uptime>,
}

/// All rows that a transaction writes.
pub(super) struct Rows {
    pub time: StoreTime,
    /// The part of the counts that this transaction updates.
    part: i16,
    pub counts: CountChanges,
    ledger: LedgerColumns,
    new_deliveries: NewDeliveries,
    changed: ChangedDeliveries,
    payloads: PayloadColumns,
    dropped_payloads: Vec<i64>,
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
    secrets: Vec<String>,
    tests: Vec<bool>,
    progress: ProgressColumns,
    lease_ends: Vec<Option<i64>>,
}

#[derive(Default)]
struct ChangedDeliveries {
    ids: Vec<i64>,
    progress: ProgressColumns,
    keeps_lease: Vec<bool>,
    recorded_by: Vec<Option<i64>>,
    known: KnownColumns,
}

/// The columns of [`KnownRow`].
#[derive(Default)]
struct KnownColumns {
    identities: Vec<Uuid>,
    tried: Vec<i32>,
    queued: Vec<Option<i64>>,
}

/// The columns of [`Progress`].
#[derive(Default)]
struct ProgressColumns {
    attempts: Vec<String>,
    states: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    tried: Vec<i32>,
    possibly_delivered: Vec<bool>,
    due: Vec<Option<i64>>,
    queued: Vec<Option<i64>>,
    ended: Vec<Option<i64>>,
    keys: Vec<Option<Vec<u8>>>,
    payload_bytes: Vec<i64>,
}

#[derive(Default)]
struct PayloadColumns {
    ids: Vec<i64>,
    heads: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
}

/// Writes ledger rows. Does not overwrite what another gateway has claimed or completed since the row
/// was looked up and not found, unless the row is `forced`, which is passed as `forwards`.
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
    WHERE l.token = excluded.token OR l.lease_ends_ms IS NULL AND l.digest IS NULL
        OR excluded.forwards RETURNING key)
    SELECT hookstile.check_all(count(*), cardinality($1)) FROM written";

const INSERT_DELIVERIES: &str = "
    INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts,
        secret, test, state, reason, tried, possibly_delivered, due_ms, queued_ms, ended_ms, keys,
        payload_bytes, lease_owner, lease_ends_ms, begun, lease_batch)
    SELECT id, route, event_id, event_type, received, attempts::jsonb, secret, test, state, reason,
        tried, possibly, due, queued, ended, keys, bytes,
        CASE WHEN lease_ends IS NOT NULL THEN $19::bigint END, lease_ends, lease_ends IS NOT NULL,
        $20::bigint
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::text[], $8::boolean[], $9::text[], $10::text[], $11::integer[], $12::boolean[],
        $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[], $17::bigint[], $18::bigint[])
        AS r (id, route, event_id, event_type, received, attempts, secret, test, state, reason,
            tried, possibly, due, queued, ended, keys, bytes, lease_ends)
    RETURNING id, identity";

/// Changes leased deliveries that are as this gateway knows them. The times are relative. The first
/// columns are those of [`UPDATE_DELIVERIES`]; each is written out, so that a search finds it whole.
const UPDATE_KNOWN_DELIVERIES: &str = "WITH clock AS MATERIALIZED (SELECT * FROM hookstile.clock),
changed AS (
    UPDATE hookstile.deliveries d SET state = r.state, tried = r.tried, reason = r.reason,
        possibly_delivered = r.possibly, keys = r.keys, payload_bytes = r.bytes,
        attempts = r.attempts::jsonb, due_ms = clock.due + r.due, ended_ms = clock.now + r.ended,
        lease_owner = NULL, lease_ends_ms = NULL, begun = false, recorded_by = $11
    FROM clock, unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[],
        $6::boolean[], $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $12::uuid[],
        $13::integer[], $14::bigint[])
        AS r (id, attempts, state, reason, tried, possibly, keys, bytes, due, ended, identity,
            tried_before, queued)
    WHERE d.id = r.id AND d.id = ANY($1) AND d.state || '' = 'pending' AND d.lease_owner = $11
        AND d.tried = r.tried_before AND d.queued_ms IS NOT DISTINCT FROM r.queued
        AND coalesce(d.identity, '00000000-0000-0000-0000-000000000000') = r.identity
    RETURNING d.id)
SELECT hookstile.check_all(count(*), cardinality($1)) FROM changed";

const UPDATE_DELIVERIES: &str = "
    UPDATE hookstile.deliveries d SET state = r.state, tried = r.tried, reason = r.reason,
        possibly_delivered = r.possibly, keys = r.keys, payload_bytes = r.bytes,
        attempts = r.attempts::jsonb, due_ms = r.due, queued_ms = r.queued, ended_ms = r.ended,
        lease_owner = CASE WHEN r.keeps THEN d.lease_owner END,
        lease_ends_ms = CASE WHEN r.keeps THEN d.lease_ends_ms END,
        begun = r.keeps AND d.begun, recorded_by = coalesce(r.recorded_by, d.recorded_by)
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::boolean[],
        $7::bytea[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::boolean[],
        $13::bigint[])
        AS r (id, attempts, state, reason, tried, possibly, keys, bytes, due, ended, queued, keeps,
            recorded_by)
    WHERE d.id = r.id AND d.id = ANY($1)";

const STORE_PAYLOADS: &str =
    "INSERT INTO hookstile.payloads SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
    ON CONFLICT (delivery) DO UPDATE SET head = excluded.head, body = excluded.body";
const DROP_PAYLOADS: &str = "DELETE FROM hookstile.payloads WHERE delivery = ANY($1)";

const ADD_ROUTE_COUNTS: &str = "INSERT INTO hookstile.route_counts AS c
    SELECT route, $8::smallint, pending, dead, kept, waiting,
        CASE WHEN succeeded THEN clock.ms END, CASE WHEN failed THEN clock.ms END
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS clock, unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[],
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
    pub(super) fn new(time: StoreTime, part: i16) -> Self {
        Self {
            time,
            part,
            counts: CountChanges::default(),
            ledger: LedgerColumns::default(),
            new_deliveries: NewDeliveries::default(),
            changed: ChangedDeliveries::default(),
            payloads: PayloadColumns::default(),
            dropped_payloads: Vec::new(),
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

    /// Adds a new delivery. `lease` is for how long this gateway leases it.
    pub(super) fn insert(
        &mut self,
        id: DeliveryId,
        event: &EventMetadata,
        after: Progress,
        lease: Option<Duration>,
    ) {
        self.counts.add(event, &after);
        let lease_ends = lease.map(|lease| column_ms(self.time.now.after(lease)));
        self.new_deliveries.lease_ends.push(lease_ends);
        let new = &mut self.new_deliveries;
        new.ids.push(id.0);
        new.routes.push(event.route.to_string());
        new.event_ids.push(event.event_id.to_string());
        new.event_types.push(event.event_type.to_string());
        new.received.push(event.received_at.as_millisecond());
        new.secrets.push(event.secret.to_string());
        new.tests.push(event.is_test);
        new.progress.push(after);
    }

    /// Changes a delivery, and deletes its payload if it is no longer kept.
    pub(super) fn change(
        &mut self,
        id: DeliveryId,
        before: &StoredDelivery,
        after: Progress,
        ownership: Ownership,
    ) {
        self.counts.change(before, &after);
        if after.stored_bytes == 0 && before.progress.stored_bytes > 0 {
            self.dropped_payloads.push(id.0);
        }
        self.changed.ids.push(id.0);
        self.changed.keeps_lease.push(ownership.keeps_lease);
        self.changed.recorded_by.push(ownership.recorded_by);
        self.changed.progress.push(after);
    }

    /// Requires that the delivery which was changed last is as this gateway knows it.
    pub(super) fn expect(&mut self, known: &KnownRow) {
        let columns = &mut self.changed.known;
        columns.identities.push(Uuid::from_u128(known.identity.0));
        columns.tried.push(known.tried.cast_signed());
        columns.queued.push(known.queued.map(column_ms));
    }

    /// Returns whether a delivery is already changed in this transaction.
    pub(super) fn is_changed(&self, id: DeliveryId) -> bool {
        self.changed.ids.contains(&id.0)
    }

    pub(super) fn keep_payload(&mut self, id: DeliveryId, payload: &Payload) {
        self.payloads.ids.push(id.0);
        self.payloads.heads.push(payload.head.to_vec());
        self.payloads.bodies.push(payload.body.to_vec());
    }

    /// Writes all rows and commits, in one round trip: the statements are sent in this order
    /// without waiting for each other. If one fails, nothing is committed. `batch` is the number of
    /// the leases on the new deliveries, whose identities are returned.
    pub(super) async fn write(
        &self,
        connection: &PooledConnection,
        owner: i64,
        batch: i64,
    ) -> Result<HashMap<DeliveryId, DeliveryIdentity>, tokio_postgres::Error> {
        let statements = Statements::prepare(connection).await?;
        let ((), identities, ..) = tokio::try_join!(
            biased;
            self.write_ledger(connection, &statements.ledger),
            self.write_new(connection, &statements.insert, (owner, batch)),
            self.write_changes(connection, &statements.change),
            self.write_payloads(connection, &statements.store_payloads),
            self.write_dropped(connection, &statements.drop_payloads),
            self.write_route_counts(connection, &statements.route_counts),
            self.write_days(connection, &statements.days),
            connection.batch_execute("COMMIT"),
        )?;
        Ok(identities)
    }

    /// Writes changes of deliveries that are as expected, in a transaction of their own and one round
    /// trip. Fails with a serialization failure, and changes nothing, if one is not.
    pub(super) async fn write_known(
        &self,
        connection: &PooledConnection,
        owner: i64,
    ) -> Result<(), tokio_postgres::Error> {
        let change = connection.prepare_cached(UPDATE_KNOWN_DELIVERIES).await?;
        let drop_payloads = connection.prepare_cached(DROP_PAYLOADS).await?;
        let route_counts = connection.prepare_cached(ADD_ROUTE_COUNTS).await?;
        let days = connection.prepare_cached(ADD_DAY_COUNTS).await?;
        tokio::try_join!(
            biased;
            connection.batch_execute("BEGIN"),
            self.write_known_changes(connection, &change, owner),
            self.write_dropped(connection, &drop_payloads),
            self.write_route_counts(connection, &route_counts),
            self.write_days(connection, &days),
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
        (owner, batch): (i64, i64),
    ) -> Result<HashMap<DeliveryId, DeliveryIdentity>, tokio_postgres::Error> {
        let (rows, progress) = (&self.new_deliveries, &self.new_deliveries.progress);
        if rows.ids.is_empty() {
            return Ok(HashMap::new());
        }
        let inserted = connection
            .query(
                insert,
                &[
                    &rows.ids,
                    &rows.routes,
                    &rows.event_ids,
                    &rows.event_types,
                    &rows.received,
                    &progress.attempts,
                    &rows.secrets,
                    &rows.tests,
                    &progress.states,
                    &progress.reasons,
                    &progress.tried,
                    &progress.possibly_delivered,
                    &progress.due,
                    &progress.queued,
                    &progress.ended,
                    &progress.keys,
                    &progress.payload_bytes,
                    &rows.lease_ends,
                    &owner,
                    &batch,
                ],
            )
            .await?;
        let identities = inserted
            .iter()
            .map(|row| Ok((DeliveryId(row.try_get(0)?), identity(row.try_get(1)?))));
        identities.collect()
    }

    async fn write_changes(
        &self,
        connection: &PooledConnection,
        change: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let rows = &self.changed;
        if rows.ids.is_empty() {
            return Ok(());
        }
        let mut params = rows.params();
        let own: [&(dyn ToSql + Sync); 3] =
            [&rows.progress.queued, &rows.keeps_lease, &rows.recorded_by];
        params.extend(own);
        connection.execute(change, &params).await.map(drop)
    }

    async fn write_known_changes(
        &self,
        connection: &PooledConnection,
        change: &Statement,
        owner: i64,
    ) -> Result<(), tokio_postgres::Error> {
        let (rows, known) = (&self.changed, &self.changed.known);
        let mut params = rows.params();
        let own: [&(dyn ToSql + Sync); 4] =
            [&owner, &known.identities, &known.tried, &known.queued];
        params.extend(own);
        connection.execute(change, &params).await.map(drop)
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
        if self.counts.routes.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.counts.routes.keys().map(|route| &**route).collect();
        let sums = |field: fn(&RouteChange) -> i64| {
            self.counts.routes.values().map(field).collect::<Vec<_>>()
        };
        let flags = |field: fn(&RouteChange) -> bool| {
            self.counts.routes.values().map(field).collect::<Vec<_>>()
        };
        let (pending, dead) = (sums(|c| c.pending), sums(|c| c.dead));
        let (kept, waiting) = (sums(|c| c.kept_bytes), sums(|c| c.waiting_bytes));
        let (succeeded, failed) = (flags(|c| c.succeeded), flags(|c| c.failed));
        connection
            .execute(
                stand,
                &[
                    &routes, &pending, &dead, &kept, &waiting, &succeeded, &failed, &self.part,
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
        if self.counts.days.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.counts.days.keys().map(|(route, _)| &**route).collect();
        let days: Vec<i64> = self.counts.days.keys().map(|(_, day)| *day).collect();
        let sums =
            |field: fn(&DayChange) -> i64| self.counts.days.values().map(field).collect::<Vec<_>>();
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

impl ChangedDeliveries {
    /// Returns the parameters that every change of deliveries has, from the first on.
    fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let progress = &self.progress;
        vec![
            &self.ids,
            &progress.attempts,
            &progress.states,
            &progress.reasons,
            &progress.tried,
            &progress.possibly_delivered,
            &progress.keys,
            &progress.payload_bytes,
            &progress.due,
            &progress.ended,
        ]
    }
}

impl ProgressColumns {
    fn push(&mut self, after: Progress) {
        self.attempts.push(after.attempts.to_json());
        self.states.push(after.state.as_str());
        self.reasons.push(after.reason.map(StateReason::as_str));
        self.tried.push(after.tried.cast_signed());
        self.possibly_delivered.push(after.possibly_delivered);
        self.due.push(after.due.map(column_ms));
        self.queued.push(after.queued.map(column_ms));
        self.ended.push(after.ended.map(column_ms));
        self.keys.push(after.keys);
        self.payload_bytes.push(after.stored_bytes);
    }
}

/// Returns a time as a column has it.
pub(super) fn column_ms(uptime: Uptime) -> i64 {
    // The limit leaves room for additions without overflow.
    i64::try_from(uptime.0)
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4)
}
