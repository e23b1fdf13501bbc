//! The rows of one transaction: gathered by column, as the server takes them, and written with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_postgres::{Row, Statement};
use uuid::Uuid;

use super::claims::uuid;
use super::pool::PooledConnection;
use crate::store::{
    AttemptHistory, AttemptRecord, DeliveryId, DeliveryState, EventKey, EventMetadata, EventRow,
    LedgerEntry, Payload, RECORD_BYTES, RowId,
};

const DAY_MS: i64 = 86_400_000;

/// A delivery as it stood before a change.
#[derive(Clone)]
pub(super) struct Before {
    pub route: Arc<str>,
    pub state: DeliveryState,
    pub tried: u32,
    pub possibly_delivered: bool,
    pub queued_ms: Option<i64>,
    pub keys: Option<Vec<u8>>,
    pub payload_bytes: i64,
    pub lease_owner: Option<i64>,
    /// Who told of the last attempt.
    pub told_by: Option<i64>,
    event_id: String,
    received_ms: i64,
    /// What the last attempt took.
    last_ms: i64,
}

impl Before {
    pub(super) const SELECT: &str =
        "SELECT id, route, state, tried, possibly_delivered, queued_ms, keys, payload_bytes,
        lease_owner, event_id, received_ms, coalesce((attempts -> -1 ->> 'ms')::bigint, 0), told_by
        FROM hookstile.deliveries WHERE id = ANY($1) ORDER BY id FOR UPDATE";

    pub(super) fn read(row: &Row) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            route: row.try_get::<_, &str>(1)?.into(),
            // Only ever written by us, from this very set.
            state: DeliveryState::parse(row.try_get(2)?).unwrap_or(DeliveryState::Dead),
            tried: row.try_get::<_, i32>(3)?.unsigned_abs(),
            possibly_delivered: row.try_get(4)?,
            queued_ms: row.try_get(5)?,
            keys: row.try_get(6)?,
            payload_bytes: row.try_get(7)?,
            lease_owner: row.try_get(8)?,
            event_id: row.try_get(9)?,
            received_ms: row.try_get(10)?,
            last_ms: row.try_get(11)?,
            told_by: row.try_get(12)?,
        })
    }

    pub(super) fn is_of(&self, subject: &EventMetadata) -> bool {
        self.event_id == *subject.event_id && self.route == subject.route
    }
}

/// Where a delivery stands now.
pub(super) struct Changed {
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
    /// Who tells of the attempt that led here; `None` for none.
    pub told_by: Option<i64>,
}

/// All that a transaction writes.
pub(super) struct Rows {
    pub now: i64,
    pub due_now: i64,
    wall_ms: i64,
    /// The part of the counts that is this transaction's.
    part: i16,
    /// Routes whose events were stored.
    pub stored: Vec<Arc<str>>,
    ledger: Ledger,
    new: New,
    changes: Standing,
    changed: Vec<i64>,
    changed_attempts: Vec<Option<String>>,
    payloads: Payloads,
    dropped: Vec<i64>,
    standings: BTreeMap<Arc<str>, Count>,
    days: BTreeMap<(Arc<str>, i64), Tally>,
}

#[derive(Default)]
struct Ledger {
    keys: Vec<Uuid>,
    tokens: Vec<i64>,
    ends: Vec<i64>,
    forced: Vec<bool>,
    attempts: Vec<i32>,
    possibly: Vec<bool>,
    digests: Vec<Option<Uuid>>,
    deliveries: Vec<Option<i64>>,
    others: Vec<Option<Uuid>>,
}

#[derive(Default)]
struct New {
    ids: Vec<i64>,
    routes: Vec<String>,
    events: Vec<String>,
    kinds: Vec<String>,
    received: Vec<i64>,
    attempts: Vec<String>,
    secrets: Vec<String>,
    tests: Vec<bool>,
    standing: Standing,
}

/// The columns of [`Changed`].
#[derive(Default)]
struct Standing {
    states: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    tried: Vec<i32>,
    possibly: Vec<bool>,
    due: Vec<Option<i64>>,
    queued: Vec<Option<i64>>,
    ended: Vec<Option<i64>>,
    keys: Vec<Option<Vec<u8>>>,
    payload_bytes: Vec<i64>,
    keeps_lease: Vec<bool>,
    told_by: Vec<Option<i64>>,
}

#[derive(Default)]
struct Payloads {
    ids: Vec<i64>,
    heads: Vec<Vec<u8>>,
    bodies: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Count {
    pending: i64,
    dead: i64,
    kept_bytes: i64,
    waiting_bytes: i64,
    succeeded: bool,
    failed: bool,
}

#[derive(Default)]
struct Tally {
    successful: i64,
    failed: i64,
    total_ms: i64,
}

/// Not over a claim that another has made since the row was looked at and not found, unless it is `forced`, which travels as
/// `forwards`.
const REMEMBER: &str = "WITH written AS (INSERT INTO hookstile.ledger AS l
    (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered, digest, delivery, other)
    SELECT key, token, NULL, forced, ends, ends, attempts, possibly, digest, delivery, other
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::boolean[], $5::integer[], $6::boolean[], $7::uuid[],
        $8::bigint[], $9::uuid[])
        AS r (key, token, ends, forced, attempts, possibly, digest, delivery, other) ORDER BY key
    ON CONFLICT (key) DO UPDATE SET token = excluded.token, lease_ends_ms = NULL, forwards = false,
        ends_ms = greatest(l.ends_ms, excluded.ends_ms), attempts = excluded.attempts,
        possibly_delivered = excluded.possibly_delivered, digest = excluded.digest, delivery = excluded.delivery,
        other = coalesce(excluded.other, l.other)
    WHERE l.token = excluded.token OR l.lease_ends_ms IS NULL OR excluded.forwards RETURNING key)
    SELECT hookstile.check_all(count(*), cardinality($1)) FROM written";

const INSERT: &str = "INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, attempts, secret, test,
        state, reason, tried, possibly_delivered, due_ms, queued_ms, ended_ms, keys, payload_bytes)
    SELECT id, route, event, kind, received, attempts::jsonb, secret, test, state, reason, tried, possibly, due, queued,
        ended, keys, bytes
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::boolean[],
        $9::text[], $10::text[], $11::integer[], $12::boolean[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bytea[],
        $17::bigint[])
        AS r (id, route, event, kind, received, attempts, secret, test, state, reason, tried, possibly, due, queued, ended,
            keys, bytes)";

/// Kept one by one are the first 10 attempts of a delivery, and the latest 90; all are counted.
const CHANGE: &str = "UPDATE hookstile.deliveries d SET state = r.state, reason = r.reason, tried = r.tried,
        possibly_delivered = r.possibly, due_ms = r.due, queued_ms = r.queued, ended_ms = r.ended, keys = r.keys,
        payload_bytes = r.bytes,
        lease_owner = CASE WHEN r.keeps THEN d.lease_owner END, lease_ends_ms = CASE WHEN r.keeps THEN d.lease_ends_ms END,
        begun = r.keeps AND d.begun, told_by = coalesce(r.told_by, d.told_by),
        attempts = CASE WHEN r.attempt IS NULL THEN d.attempts
            WHEN jsonb_array_length(d.attempts) >= 100 THEN (d.attempts - 10) || r.attempt::jsonb
            ELSE d.attempts || r.attempt::jsonb END
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::boolean[], $7::bigint[], $8::bigint[],
        $9::bigint[], $10::bytea[], $11::bigint[], $12::boolean[], $13::bigint[])
        AS r (id, attempt, state, reason, tried, possibly, due, queued, ended, keys, bytes, keeps, told_by)
    WHERE d.id = r.id AND d.id = ANY($1)";

const KEEP: &str =
    "INSERT INTO hookstile.payloads SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bytea[])
    ON CONFLICT (delivery) DO UPDATE SET head = excluded.head, body = excluded.body";
const DROP: &str = "DELETE FROM hookstile.payloads WHERE delivery = ANY($1)";

const STAND: &str = "INSERT INTO hookstile.standings AS s
    SELECT route, $9::smallint, pending, dead, kept, waiting, CASE WHEN succeeded THEN $8::bigint END,
        CASE WHEN failed THEN $8::bigint END
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::boolean[], $7::boolean[])
        AS r (route, pending, dead, kept, waiting, succeeded, failed) ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = s.pending + excluded.pending, dead = s.dead + excluded.dead,
        kept_bytes = s.kept_bytes + excluded.kept_bytes, waiting_bytes = s.waiting_bytes + excluded.waiting_bytes,
        last_success_ms = coalesce(excluded.last_success_ms, s.last_success_ms),
        last_failure_ms = coalesce(excluded.last_failure_ms, s.last_failure_ms)";

const COUNT: &str = "INSERT INTO hookstile.days AS t
    SELECT route, day, $6::smallint, successful, failed, total
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        AS r (route, day, successful, failed, total) ORDER BY route, day
    ON CONFLICT (route, day, part) DO UPDATE SET successful = t.successful + excluded.successful,
        failed = t.failed + excluded.failed, total_ms = t.total_ms + excluded.total_ms";

impl Rows {
    /// None yet. `now` and `due_now` are the store's own time, `wall_ms` the server's.
    pub(super) fn at(now: i64, due_now: i64, wall_ms: i64, part: i16) -> Self {
        Self {
            now,
            due_now,
            wall_ms,
            part,
            stored: Vec::new(),
            ledger: Ledger::default(),
            new: New::default(),
            changes: Standing::default(),
            changed: Vec::new(),
            changed_attempts: Vec::new(),
            payloads: Payloads::default(),
            dropped: Vec::new(),
            standings: BTreeMap::new(),
            days: BTreeMap::new(),
        }
    }

    /// A row of the ledger, which is nobody's claim from then on.
    pub(super) fn remember(
        &mut self,
        name: EventRow,
        other: Option<EventKey>,
        becomes: LedgerEntry,
        ends: i64,
        delivery: Option<DeliveryId>,
        forced: bool,
    ) {
        let (digest, tried) = match becomes {
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
        self.ledger.possibly.push(tried.possibly_delivered);
        self.ledger.digests.push(digest);
        self.ledger.deliveries.push(delivery.map(|id| id.0));
        self.ledger.others.push(other.map(uuid));
    }

    pub(super) fn insert(
        &mut self,
        id: DeliveryId,
        subject: &EventMetadata,
        to: Changed,
        attempt: Option<&AttemptRecord>,
    ) {
        let received_ms = subject.received_at.as_millisecond();
        self.new.ids.push(id.0);
        self.new.routes.push(subject.route.to_string());
        self.new.events.push(subject.event_id.to_string());
        self.new.kinds.push(subject.event_type.to_string());
        self.new.received.push(received_ms);
        self.new.attempts.push(
            attempt.map_or_else(|| "[]".into(), |attempt| format!("[{}]", attempt.to_json())),
        );
        self.new.secrets.push(subject.secret.to_string());
        self.new.tests.push(subject.is_test);
        self.count(&subject.route, received_ms, to.state, 1, last_ms(attempt));
        self.stand(&subject.route, None, (to.state, to.payload_bytes));
        self.new.standing.push(to);
    }

    pub(super) fn change(
        &mut self,
        id: DeliveryId,
        before: &Before,
        to: Changed,
        attempt: Option<&AttemptRecord>,
    ) {
        self.changed.push(id.0);
        self.changed_attempts
            .push(attempt.map(AttemptRecord::to_json));
        self.count(
            &before.route,
            before.received_ms,
            before.state,
            -1,
            before.last_ms,
        );
        self.count(
            &before.route,
            before.received_ms,
            to.state,
            1,
            attempt.map_or(before.last_ms, |attempt| last_ms(Some(attempt))),
        );
        self.stand(
            &before.route,
            Some((before.state, before.payload_bytes)),
            (to.state, to.payload_bytes),
        );
        self.changes.push(to);
    }

    /// Whether it is among those that change.
    pub(super) fn changes(&self, id: DeliveryId) -> bool {
        self.changed.contains(&id.0)
    }

    pub(super) fn keep_payload(&mut self, id: DeliveryId, payload: &Payload) {
        self.payloads.ids.push(id.0);
        self.payloads.heads.push(payload.head.to_vec());
        self.payloads.bodies.push(payload.body.to_vec());
    }

    pub(super) fn drop_payload(&mut self, id: DeliveryId) {
        self.dropped.push(id.0);
    }

    /// Counts a delivery in (1) or out (-1).
    fn count(
        &mut self,
        route: &Arc<str>,
        received_ms: i64,
        state: DeliveryState,
        by: i64,
        last_ms: i64,
    ) {
        let tally = self
            .days
            .entry((Arc::clone(route), received_ms.div_euclid(DAY_MS)))
            .or_default();
        match state {
            DeliveryState::Success => {
                tally.successful += by;
                tally.total_ms += by * last_ms;
            }
            DeliveryState::Failed | DeliveryState::Dead => tally.failed += by,
            DeliveryState::Pending => {}
        }
    }

    fn stand(
        &mut self,
        route: &Arc<str>,
        from: Option<(DeliveryState, i64)>,
        to: (DeliveryState, i64),
    ) {
        let count = self.standings.entry(Arc::clone(route)).or_default();
        for ((state, bytes), by) in from.map(|from| (from, -1)).into_iter().chain([(to, 1)]) {
            let bytes = by * (RECORD_BYTES + bytes);
            match state {
                DeliveryState::Pending => {
                    count.pending += by;
                    count.waiting_bytes += bytes;
                }
                DeliveryState::Dead => {
                    count.dead += by;
                    count.waiting_bytes += bytes;
                }
                DeliveryState::Success | DeliveryState::Failed => count.kept_bytes += bytes,
            }
        }
        count.succeeded |= to.0 == DeliveryState::Success;
        count.failed |= matches!(to.0, DeliveryState::Failed | DeliveryState::Dead);
        if to.0 == DeliveryState::Pending
            && from.is_none_or(|(state, _)| state != DeliveryState::Pending)
        {
            self.stored.push(Arc::clone(route));
        }
    }

    /// Writes all of them and commits, in one trip: sent in this order, without waiting for each other. After one that fails
    /// nothing is committed.
    pub(super) async fn write(&self, line: &PooledConnection) -> Result<(), tokio_postgres::Error> {
        let statements = Statements::on(line).await?;
        tokio::try_join!(
            biased;
            self.write_ledger(line, &statements.remember),
            self.write_new(line, &statements.insert),
            self.write_changes(line, &statements.change),
            self.write_payloads(line, &statements.keep),
            self.write_dropped(line, &statements.drop),
            self.write_standings(line, &statements.stand),
            self.write_days(line, &statements.count),
            line.batch_execute("COMMIT"),
        )?;
        Ok(())
    }

    async fn write_ledger(
        &self,
        line: &PooledConnection,
        remember: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let l = &self.ledger;
        if l.keys.is_empty() {
            return Ok(());
        }
        line.execute(
            remember,
            &[
                &l.keys,
                &l.tokens,
                &l.ends,
                &l.forced,
                &l.attempts,
                &l.possibly,
                &l.digests,
                &l.deliveries,
                &l.others,
            ],
        )
        .await
        .map(drop)
    }

    async fn write_new(
        &self,
        line: &PooledConnection,
        insert: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let (n, s) = (&self.new, &self.new.standing);
        if n.ids.is_empty() {
            return Ok(());
        }
        line.execute(
            insert,
            &[
                &n.ids,
                &n.routes,
                &n.events,
                &n.kinds,
                &n.received,
                &n.attempts,
                &n.secrets,
                &n.tests,
                &s.states,
                &s.reasons,
                &s.tried,
                &s.possibly,
                &s.due,
                &s.queued,
                &s.ended,
                &s.keys,
                &s.payload_bytes,
            ],
        )
        .await
        .map(drop)
    }

    async fn write_changes(
        &self,
        line: &PooledConnection,
        change: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let c = &self.changes;
        if self.changed.is_empty() {
            return Ok(());
        }
        line.execute(
            change,
            &[
                &self.changed,
                &self.changed_attempts,
                &c.states,
                &c.reasons,
                &c.tried,
                &c.possibly,
                &c.due,
                &c.queued,
                &c.ended,
                &c.keys,
                &c.payload_bytes,
                &c.keeps_lease,
                &c.told_by,
            ],
        )
        .await
        .map(drop)
    }

    async fn write_payloads(
        &self,
        line: &PooledConnection,
        keep: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        let p = &self.payloads;
        if p.ids.is_empty() {
            return Ok(());
        }
        line.execute(keep, &[&p.ids, &p.heads, &p.bodies])
            .await
            .map(drop)
    }

    async fn write_dropped(
        &self,
        line: &PooledConnection,
        drop_payloads: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.dropped.is_empty() {
            return Ok(());
        }
        line.execute(drop_payloads, &[&self.dropped])
            .await
            .map(drop)
    }

    async fn write_standings(
        &self,
        line: &PooledConnection,
        stand: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.standings.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.standings.keys().map(|route| &**route).collect();
        let of = |field: fn(&Count) -> i64| self.standings.values().map(field).collect::<Vec<_>>();
        let is = |field: fn(&Count) -> bool| self.standings.values().map(field).collect::<Vec<_>>();
        let (pending, dead) = (of(|c| c.pending), of(|c| c.dead));
        let (kept, waiting) = (of(|c| c.kept_bytes), of(|c| c.waiting_bytes));
        let (succeeded, failed) = (is(|c| c.succeeded), is(|c| c.failed));
        line.execute(
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
        line: &PooledConnection,
        count: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.days.is_empty() {
            return Ok(());
        }
        let routes: Vec<&str> = self.days.keys().map(|(route, _)| &**route).collect();
        let days: Vec<i64> = self.days.keys().map(|(_, day)| *day).collect();
        let of = |field: fn(&Tally) -> i64| self.days.values().map(field).collect::<Vec<_>>();
        let (successful, failed, total) =
            (of(|t| t.successful), of(|t| t.failed), of(|t| t.total_ms));
        line.execute(
            count,
            &[&routes, &days, &successful, &failed, &total, &self.part],
        )
        .await
        .map(drop)
    }
}

/// Prepared on a connection: what waits to be prepared would be sent after what does not.
struct Statements {
    remember: Statement,
    insert: Statement,
    change: Statement,
    keep: Statement,
    drop: Statement,
    stand: Statement,
    count: Statement,
}

impl Statements {
    async fn on(line: &PooledConnection) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            remember: line.prepare_cached(REMEMBER).await?,
            insert: line.prepare_cached(INSERT).await?,
            change: line.prepare_cached(CHANGE).await?,
            keep: line.prepare_cached(KEEP).await?,
            drop: line.prepare_cached(DROP).await?,
            stand: line.prepare_cached(STAND).await?,
            count: line.prepare_cached(COUNT).await?,
        })
    }
}

impl Standing {
    fn push(&mut self, to: Changed) {
        self.states.push(to.state.as_str());
        self.reasons.push(to.reason);
        self.tried.push(to.tried.cast_signed());
        self.possibly.push(to.possibly_delivered);
        self.due.push(to.due_ms);
        self.queued.push(to.queued_ms);
        self.ended.push(to.ended_ms);
        self.keys.push(to.keys);
        self.payload_bytes.push(to.payload_bytes);
        self.keeps_lease.push(to.keeps_lease);
        self.told_by.push(to.told_by);
    }
}

fn last_ms(attempt: Option<&AttemptRecord>) -> i64 {
    attempt.map_or(0, |attempt| i64::try_from(attempt.ms).unwrap_or(0))
}
