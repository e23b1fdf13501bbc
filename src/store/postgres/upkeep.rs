//! Periodic work of each gateway: polls the clock and the changes of others, records that it runs, and
//! deletes what has expired.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use uuid::Uuid;

use super::claims::millis;
use super::pool::{PooledConnection, QueryError, on, with_timeout};
use super::{Shared, lock, removed};
use crate::store::RECORD_BYTES;
use crate::store::domain::CREATIONS_MAX;

/// The poll interval. All gateways see a change within a second.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(400);
/// The pause between two records that this gateway runs. Much shorter than the time after which it
/// counts as gone.
const SEEN_INTERVAL: Duration = Duration::from_secs(2);
/// The pause between two looks at the hosts that are not in use.
const OTHERS_INTERVAL: Duration = Duration::from_secs(5);
/// The pause between two sweeps.
const SWEEP_INTERVAL: Duration = Duration::from_secs(2);
/// The time within which the server must answer a tick. One that hangs is left before the statements
/// of events time out.
const TICK_TIMEOUT: Duration = Duration::from_secs(3);
/// The limit of rows that one statement deletes.
const ROWS_PER_DELETE: i64 = 500;
/// The number of IDs, about, from which those of each route are estimated.
const SAMPLE_IDS: u64 = 50_000;
/// The advisory lock with which one gateway sweeps at a time.
const SWEEP_LOCK: i64 = 0x686f_6f6b_7377_6565;

/// Polls the database for as long as the store exists. Only this task decides that the server is
/// unavailable.
pub(super) async fn poll(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(POLL_INTERVAL, &shared).await {
        let shared = &*shared;
        let ticked = shared
            .run_once(on!(connection => tick_in_time(connection, shared)))
            .await;
        match ticked {
            Ok(()) => shared.pool.mark_available(),
            Err(QueryError::Refused(_)) => {}
            Err(error) => shared.pool.set_available(false, &error),
        }
    }
}

/// Deletes what has expired and polls the sizes, for as long as the store exists.
pub(super) async fn sweep(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(SWEEP_INTERVAL, &shared).await {
        let shared = &*shared;
        if shared.pool.check_available().is_ok() {
            let _ = shared
                .run_once(on!(connection => read_sizes(connection, shared)))
                .await;
            let _ = shared
                .run_once(on!(connection => sweep_exclusively(connection, shared)))
                .await;
        }
    }
}

/// Records that this gateway runs, for as long as the store exists. A loop of its own: a sweep may
/// take longer than the time after which a gateway counts as gone.
pub(super) async fn report_running(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(SEEN_INTERVAL, &shared).await {
        let shared = &*shared;
        if shared.pool.check_available().is_ok() {
            let _ = shared
                .run_once(on!(connection => mark_seen(connection, shared)))
                .await;
        }
    }
}

/// Renews the leases of events that wait in memory, for as long as the store exists.
pub(super) async fn renew_leases(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(POLL_INTERVAL, &shared).await {
        if shared.pool.check_available().is_ok() {
            shared.renew_leases().await;
        }
    }
}

/// Looks at the hosts that are not in use, for as long as the store exists.
pub(super) async fn look_at_others(shared: Weak<Shared>) {
    while let Some(shared) = upgrade_after(OTHERS_INTERVAL, &shared).await {
        shared.pool.look_at_others().await;
    }
}

/// Returns the store after a pause; `None` once it is closed.
pub(super) async fn upgrade_after(pause: Duration, shared: &Weak<Shared>) -> Option<Arc<Shared>> {
    tokio::time::sleep(pause).await;
    shared.upgrade()
}

impl Shared {
    /// Runs work on a connection, once, and logs a failure.
    pub(super) async fn run_once<F>(
        &self,
        work: impl FnOnce(PooledConnection) -> F,
    ) -> Result<(), QueryError>
    where
        F: Future<Output = Result<(), QueryError>>,
    {
        let done = self.pool.run_once(work).await;
        if let Err(error) = &done {
            if self.pool.check_available().is_ok() {
                self.pool.log_failure("read", error);
            } else {
                // That the server is unavailable is already logged.
                self.pool.metrics().count_error("read");
            }
        }
        done
    }
}

async fn tick_in_time(connection: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let ticked = tokio::time::timeout(TICK_TIMEOUT, tick(connection, shared)).await;
    ticked.unwrap_or_else(|_| {
        Err(QueryError::Unanswered(format!(
            "no response within {} s",
            TICK_TIMEOUT.as_secs()
        )))
    })
}

/// Counts uptime, at most once a second over all gateways, and reads the revision of operator data.
pub(super) async fn tick(connection: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let tick = "UPDATE hookstile.store SET ticked_at = clock_timestamp(),
        uptime_ms = uptime_ms + least(greatest(
            extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000),
        downtime_ms = downtime_ms + greatest(
            extract(epoch FROM clock_timestamp() - ticked_at) * 1000 - 5000, 0)::bigint
        WHERE ticked_at NOT BETWEEN clock_timestamp() - interval '900 milliseconds'
            AND clock_timestamp()";
    connection.execute_cached(tick, &[]).await?;
    let sql = "SELECT revision, due, current_setting('hookstile.session', true), incarnation,
        uptime_ms + downtime_ms FROM hookstile.store, hookstile.clock";
    let row = connection.query_one_cached(sql, &[]).await?;
    let incarnation: Option<Uuid> = row.try_get(3)?;
    shared.pool.check_server(
        connection,
        row.try_get(2)?,
        incarnation.unwrap_or_default(),
        row.try_get(4)?,
    )?;
    let revision = row.try_get(0)?;
    shared.set_now_due(row.try_get(1)?);
    shared
        .revision
        .send_if_modified(|known| std::mem::replace(known, revision) != revision);
    Ok(())
}

/// Polls the sizes. The reported size includes free pages of the tables; `max_size` applies to the
/// data in use.
async fn read_sizes(connection: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let sql = "SELECT (SELECT greatest(n_live_tup, 0)::bigint FROM pg_stat_user_tables
            WHERE schemaname = 'hookstile' AND relname = 'ledger'),
        (SELECT sum(pg_total_relation_size(c.oid))::bigint
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'hookstile' AND relkind = 'r'),
        (SELECT sum(kept_bytes + waiting_bytes)::bigint FROM hookstile.route_counts)";
    let row = connection.query_one_cached(sql, &[]).await?;
    let number = |column| {
        Ok::<_, QueryError>(
            row.try_get::<_, Option<i64>>(column)?
                .unwrap_or(0)
                .unsigned_abs(),
        )
    };
    shared.set_sizes(number(0)?, number(1)?, number(2)?);
    if shared
        .pools(shared.bytes_in_use.load(Ordering::Relaxed))
        .has_pressure()
    {
        estimate_route_ids(connection, shared).await?;
    }
    Ok(())
}

/// Estimates the numbers of IDs of each route from some of the table's pages. A count of all rows
/// would take seconds.
async fn estimate_route_ids(
    connection: &PooledConnection,
    shared: &Shared,
) -> Result<(), QueryError> {
    let sql = "SELECT route, count(*) FROM hookstile.ledger TABLESAMPLE SYSTEM ($1) GROUP BY route";
    let ids = shared.ids.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "a percentage for an estimate")]
    let percent = (SAMPLE_IDS as f32 * 100.0 / ids.max(1) as f32).min(100.0);
    let rows = connection.query_cached(sql, &[&percent]).await?;
    let mut counts = Vec::new();
    for row in rows {
        let route: Option<&str> = row.try_get(0)?;
        let count: i64 = row.try_get(1)?;
        counts.push((route.map(Box::from), count.unsigned_abs()));
    }
    let sampled: u64 = counts.iter().map(|(_, count)| count).sum();
    *lock(&shared.route_ids) = counts
        .into_iter()
        .filter_map(|(route, count)| Some((route?, count * ids / sampled.max(1))))
        .collect();
    Ok(())
}

/// Records that this gateway runs, and which routes it has if that is not known any more.
async fn mark_seen(connection: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    if !removed::mark_seen(connection, shared.owner).await? {
        shared.register(connection).await?;
    }
    Ok(())
}

/// Deletes expired IDs, and records that exceed their route's retention. One gateway does so at a
/// time.
async fn sweep_exclusively(
    connection: &PooledConnection,
    shared: &Shared,
) -> Result<(), QueryError> {
    if !connection
        .query_one_cached("SELECT pg_try_advisory_lock($1)", &[&SWEEP_LOCK])
        .await?
        .try_get::<_, bool>(0)?
    {
        return Ok(());
    }
    // If an error closes the connection, the lock is released too.
    let ledger = format!(
        "DELETE FROM hookstile.ledger WHERE key IN (SELECT key FROM hookstile.ledger
        WHERE ends_ms <= (SELECT now FROM hookstile.clock)
        AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
        ORDER BY ends_ms LIMIT {ROWS_PER_DELETE} FOR UPDATE SKIP LOCKED)"
    );
    // Not prepared, so that it is planned each time: the expired part may be small or nearly
    // everything.
    while with_timeout(connection.execute(&ledger, &[])).await? == ROWS_PER_DELETE.unsigned_abs() {}
    let kept = "
        SELECT route, sum(kept_bytes)::bigint FROM hookstile.route_counts GROUP BY route
            HAVING sum(kept_bytes) > 0";
    for row in connection.query_cached(kept, &[]).await? {
        let (route, kept): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let limits = match shared.record_limits(&route) {
            Some(limits) => limits,
            // Another gateway has the route configured, or none has it any more.
            None => removed::record_limits(connection, &route).await?,
        };
        let mut over = limits.max_bytes.map_or(0, |limit| {
            kept.saturating_sub(i64::try_from(limit).unwrap_or(i64::MAX))
        });
        loop {
            let deleted = delete_expired_records(connection, &route, limits.keep, over).await?;
            over = over.saturating_sub(deleted.bytes);
            if deleted.records < ROWS_PER_DELETE {
                break;
            }
        }
    }
    forget_creations(connection).await?;
    removed::forget_gateways(connection).await?;
    connection
        .execute_cached("SELECT pg_advisory_unlock($1)", &[&SWEEP_LOCK])
        .await
        .map(drop)
}

/// Forgets the creations of webhooks that are too old or too many.
async fn forget_creations(connection: &PooledConnection) -> Result<(), QueryError> {
    let sql = "DELETE FROM hookstile.creations WHERE ends_ms <= (SELECT now FROM hookstile.clock)
        OR ends_ms <= (SELECT ends_ms FROM hookstile.creations ORDER BY ends_ms DESC
            OFFSET $1 LIMIT 1)";
    connection
        .execute_cached(sql, &[&CREATIONS_MAX])
        .await
        .map(drop)
}

struct Deleted {
    records: i64,
    bytes: i64,
}

/// Deletes the first of a route's expired records, first ended first. The limit is a literal,
/// because it decides which plan is right.
async fn delete_expired_records(
    connection: &PooledConnection,
    route: &str,
    keep: Duration,
    over: i64,
) -> Result<Deleted, QueryError> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
first AS (SELECT id, ended_ms,
        sum($4 + payload_bytes) OVER (ORDER BY ended_ms, id) - ($4 + payload_bytes) AS freed
    FROM (SELECT id, ended_ms, payload_bytes FROM hookstile.deliveries
        WHERE route = $1 AND state IN ('success', 'failed')
        ORDER BY ended_ms LIMIT 500) AS oldest),
deleted AS (DELETE FROM hookstile.deliveries d USING first, clock WHERE d.id = first.id
    AND state IN ('success', 'failed')
    AND (first.ended_ms <= now - $2 OR first.freed < $3::bigint)
    RETURNING d.id, $4 + d.payload_bytes AS bytes),
dropped AS (DELETE FROM hookstile.payloads p USING deleted WHERE p.delivery = deleted.id),
counted AS (INSERT INTO hookstile.route_counts AS c SELECT $1, 0, 0, 0, -sum(bytes)::bigint, 0
    FROM deleted HAVING count(*) > 0
    ON CONFLICT (route, part) DO UPDATE SET kept_bytes = c.kept_bytes + excluded.kept_bytes)
SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM deleted";
    let keep = millis(keep);
    let deleted = connection
        .query_one_cached(sql, &[&route, &keep, &over, &RECORD_BYTES])
        .await?;
    Ok(Deleted {
        records: deleted.try_get(0)?,
        bytes: deleted.try_get(1)?,
    })
}
