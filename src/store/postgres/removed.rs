//! Routes that come and go: which gateway has which route configured, and what happens to the events
//! of a route that none has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use tokio_postgres::types::ToSql;

use super::claims::millis;
use super::pool::{PooledConnection, QueryError};
use super::route_watch::RouteCounts;
use crate::store::{DeliveryState, RECORD_BYTES, RecordLimits, RemovedRoute, Retain, StoreRoute};

/// The time for which a gateway counts as running after it was last seen.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(15);
/// The time after which the row of a gateway that was killed is deleted.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3_600);

/// Registers the routes that this gateway has configured, and their settings.
pub(super) async fn register(
    connection: &PooledConnection,
    owner: i64,
    routes: &HashMap<Arc<str>, StoreRoute>,
) -> Result<u64, QueryError> {
    let sql = "
WITH r AS MATERIALIZED (SELECT * FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
    AS r (name, keep, max_bytes, horizon)),
made AS (INSERT INTO hookstile.routes
    SELECT name, (extract(epoch FROM clock_timestamp()) * 1000)::bigint FROM r ORDER BY name
    ON CONFLICT DO NOTHING),
settings AS (INSERT INTO hookstile.route_settings AS s
    SELECT name, keep, max_bytes, horizon FROM r ORDER BY name
    ON CONFLICT (route) DO UPDATE SET keep_ms = excluded.keep_ms,
        max_bytes = excluded.max_bytes, horizon_ms = excluded.horizon_ms
    WHERE (s.keep_ms, s.max_bytes, s.horizon_ms)
        IS DISTINCT FROM (excluded.keep_ms, excluded.max_bytes, excluded.horizon_ms))
INSERT INTO hookstile.gateways SELECT $1::bigint, now, $2 FROM hookstile.clock
    ON CONFLICT (owner) DO UPDATE SET seen_ms = excluded.seen_ms, routes = excluded.routes";
    let (mut names, mut keeps, mut max_bytes, mut horizons) = (vec![], vec![], vec![], vec![]);
    for (name, route) in routes {
        let limits = route.retain.limits();
        names.push(&**name);
        keeps.push(millis(limits.keep));
        max_bytes.push(
            limits
                .max_bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        );
        horizons.push(millis(route.horizon));
    }
    connection
        .execute_cached(sql, &[&owner, &names, &keeps, &max_bytes, &horizons])
        .await
}

/// Records that this gateway runs. Returns `false` if it is not registered any more.
pub(super) async fn mark_seen(
    connection: &PooledConnection,
    owner: i64,
) -> Result<bool, QueryError> {
    let sql = "UPDATE hookstile.gateways SET seen_ms = now FROM hookstile.clock WHERE owner = $1";
    Ok(connection.execute_cached(sql, &[&owner]).await? > 0)
}

/// Removes this gateway: its routes count as configured no longer.
pub(super) async fn unregister(
    connection: &PooledConnection,
    owner: i64,
) -> Result<u64, QueryError> {
    let sql = "DELETE FROM hookstile.gateways WHERE owner = $1";
    connection.execute_cached(sql, &[&owner]).await
}

/// Deletes the rows of gateways that were killed.
pub(super) async fn forget_gateways(connection: &PooledConnection) -> Result<(), QueryError> {
    let sql = "DELETE FROM hookstile.gateways
        WHERE seen_ms < (SELECT now FROM hookstile.clock) - $1";
    connection
        .execute_cached(sql, &[&millis(FORGOTTEN_AFTER)])
        .await
        .map(drop)
}

/// Returns the last limits of a route's records. A route that no version with this table has served
/// has the default.
pub(super) async fn record_limits(
    connection: &PooledConnection,
    route: &str,
) -> Result<RecordLimits, QueryError> {
    let sql = "SELECT keep_ms, max_bytes FROM hookstile.route_settings WHERE route = $1";
    let Some(row) = connection.query_opt_cached(sql, &[&route]).await? else {
        return Ok(Retain::DEFAULT.limits());
    };
    let max_bytes: Option<i64> = row.try_get(1)?;
    Ok(RecordLimits {
        keep: Duration::from_millis(row.try_get::<_, i64>(0)?.unsigned_abs()),
        max_bytes: max_bytes.map(i64::unsigned_abs),
    })
}

/// Returns whether another running gateway has the route configured. What this one has is not read
/// from the table, which learns of a changed configuration a moment later.
pub(super) async fn is_served_elsewhere(
    connection: &PooledConnection,
    owner: i64,
    route: &str,
) -> Result<bool, QueryError> {
    let sql = "SELECT EXISTS (SELECT FROM hookstile.gateways WHERE owner <> $3
        AND seen_ms > (SELECT now FROM hookstile.clock) - $2 AND $1 = ANY(routes))";
    let row = connection
        .query_one_cached(sql, &[&route, &millis(SEEN_FOR), &owner])
        .await?;
    Ok(row.try_get(0)?)
}

/// Returns those of the candidates that no other running gateway has configured, with the horizon of
/// their oldest pending event.
pub(super) async fn removed_routes(
    connection: &PooledConnection,
    owner: i64,
    candidates: &[(Box<str>, RouteCounts)],
) -> Result<Vec<RemovedRoute>, QueryError> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
served AS MATERIALIZED (SELECT DISTINCT unnest(routes) AS route FROM hookstile.gateways
    WHERE owner <> $3 AND seen_ms > (SELECT now FROM clock) - $2)
SELECT r.number, (SELECT horizon_ms FROM hookstile.route_settings s WHERE s.route = r.route)
    + (SELECT queued_ms FROM hookstile.deliveries d
        WHERE d.route = r.route AND state = 'pending' AND state <> 'success'
        ORDER BY id LIMIT 1)
    - (SELECT now FROM clock)
FROM unnest($1::text[]) WITH ORDINALITY AS r (route, number)
WHERE r.route NOT IN (SELECT route FROM served) ORDER BY r.number";
    let names: Vec<&str> = candidates.iter().map(|(route, _)| &**route).collect();
    let rows = connection
        .query_cached(sql, &[&names, &millis(SEEN_FOR), &owner])
        .await?;
    let mut removed = Vec::new();
    for row in rows {
        let number = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0);
        let Some((route, counts)) = candidates.get(number.wrapping_sub(1)) else {
            continue;
        };
        let left: Option<i64> = row.try_get(1)?;
        removed.push(RemovedRoute {
            route: (&**route).into(),
            pending: counts.pending,
            dead: counts.dead,
            oldest_waiting: counts.oldest_waiting,
            horizon_left: left.map(SignedDuration::from_millis),
        });
    }
    Ok(removed)
}

/// Moves events to another route, oldest first, except those that a gateway is attempting. Moves
/// none while another running gateway has their route configured. Returns their number. An attempt
/// that had begun and whose lease has lapsed is of unknown outcome.
pub(super) async fn move_events(
    connection: &PooledConnection,
    owner: i64,
    (from, to): (&str, &str),
    state: DeliveryState,
    limit: usize,
) -> Result<usize, QueryError> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
first AS MATERIALIZED (
    SELECT d.id FROM hookstile.deliveries d
    WHERE d.route = $1 AND d.state = $3::text AND d.state <> 'success'
        AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock))
        AND NOT EXISTS (SELECT FROM hookstile.gateways WHERE owner <> $6
            AND seen_ms > (SELECT now FROM clock) - $7 AND $1 = ANY(routes))
    ORDER BY d.id LIMIT $4 FOR UPDATE OF d SKIP LOCKED),
moved AS (
    UPDATE hookstile.deliveries d SET route = $2, due_ms = least(d.due_ms, clock.due),
        queued_ms = CASE WHEN d.state = 'pending' THEN clock.now ELSE d.queued_ms END,
        possibly_delivered = d.possibly_delivered OR d.begun, begun = false,
        lease_owner = NULL, lease_ends_ms = NULL
    FROM first, clock WHERE d.id = first.id RETURNING d.received_ms, d.payload_bytes),
sides (route, by) AS (VALUES ($1::text, -1::bigint), ($2::text, 1::bigint)),
sums AS (SELECT count(*) AS events, sum($5::bigint + payload_bytes)::bigint AS bytes FROM moved),
counted AS (INSERT INTO hookstile.route_counts AS c
        (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, 0, CASE $3 WHEN 'pending' THEN by * events ELSE 0 END,
        CASE $3 WHEN 'dead' THEN by * events ELSE 0 END, 0, by * bytes
    FROM sides, sums WHERE events > 0 ORDER BY route
    ON CONFLICT (route, part) DO UPDATE SET pending = c.pending + excluded.pending,
        dead = c.dead + excluded.dead, waiting_bytes = c.waiting_bytes + excluded.waiting_bytes),
days AS (INSERT INTO hookstile.days AS d
    SELECT route, day, 0, 0, by * events, 0 FROM sides, (
        SELECT floor(received_ms / 86400000.0)::bigint AS day, count(*) AS events
        FROM moved WHERE $3 = 'dead' GROUP BY 1) AS by_day ORDER BY route, day
    ON CONFLICT (route, day, part) DO UPDATE SET failed = d.failed + excluded.failed)
SELECT events FROM sums";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let (state, seen_for) = (state.as_str(), millis(SEEN_FOR));
    let params: [&(dyn ToSql + Sync); 7] =
        [&from, &to, &state, &limit, &RECORD_BYTES, &owner, &seen_for];
    let row = connection.query_one_cached(sql, &params).await?;
    Ok(usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))
}
