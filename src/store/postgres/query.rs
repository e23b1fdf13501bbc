//! Queries for operators.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use zeroize::Zeroizing;

use super::claims::{key, uuid};
use super::pool::{PooledConnection, QueryError, with_timeout};
use super::rows::identity;
use crate::store::{
    AttemptLog, COUNT_LIMIT, Creation, DeliveryFilter, DeliveryId, DeliveryKeys, DeliveryRecord,
    DeliveryState, EventKey, LISTED_BYTES_MAX, Revision, RouteDeliveryStats, StoredRedelivery,
};

const SELECT_DELIVERY: &str = "
    SELECT d.id, route, event_id, event_type, received_ms, state, reason, tried, possibly_delivered,
        attempts::text, due_ms - (SELECT due FROM hookstile.clock), payload_bytes > 0, secret, test,
        head, body
    FROM hookstile.deliveries d
    LEFT JOIN hookstile.payloads ON payload_bytes BETWEEN 1 AND $1 AND delivery = d.id";

/// Returns the filter's SQL condition. The parameters are the route (2), the state (3), the event's
/// type (4) and ID (5), the bounds of its arrival (6, 7), the beginning of its ID (8), and the
/// smallest delivery (9).
fn condition(filter: &DeliveryFilter) -> String {
    let route = if filter.route.is_some() {
        "route = $2"
    } else {
        "$2::text IS NULL"
    };
    let state = match filter.state {
        Some(DeliveryState::Success) => "state = $3",
        Some(_) => "state = $3 AND state <> 'success'",
        None => "$3::text IS NULL",
    };
    let prefix = match filter.event_id_prefix {
        Some(_) => "starts_with(event_id, $8)",
        None => "$8::text IS NULL",
    };
    let from = match filter.from {
        Some(_) => "id >= $9",
        None => "$9::bigint IS NULL",
    };
    format!(
        "{route} AND {state} AND ($4::text IS NULL OR event_type = $4)
         AND ($5::text IS NULL OR event_id = $5)
         AND ($6::bigint IS NULL OR received_ms >= $6) AND ($7::bigint IS NULL OR received_ms < $7)
         AND {prefix} AND {from}"
    )
}

/// Runs a query whose first nine parameters are `bytes` and those of the filter.
async fn query_filtered(
    connection: &PooledConnection,
    sql: &str,
    bytes: i64,
    filter: &DeliveryFilter,
    others: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, QueryError> {
    // PostgreSQL stores no text with a NUL and rejects such a parameter, so nothing can match.
    let holds_nul = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\0'));
    let texts = [
        &filter.route,
        &filter.event_type,
        &filter.event_id,
        &filter.event_id_prefix,
    ];
    if texts.into_iter().any(holds_nul) {
        return Ok(Vec::new());
    }
    let (state, [since, until]) = (
        filter.state.map(DeliveryState::as_str),
        filter.time_bounds(),
    );
    let from = filter.from.map(|from| from.0);
    let own: [&(dyn ToSql + Sync); 9] = [
        &bytes,
        &filter.route,
        &state,
        &filter.event_type,
        &filter.event_id,
        &since,
        &until,
        &filter.event_id_prefix,
        &from,
    ];
    let all: Vec<_> = own.into_iter().chain(others.iter().copied()).collect();
    // Prepared each time, because a plan that was made while the tables were small may read all of
    // them later.
    with_timeout(connection.query(sql, &all)).await
}

pub(super) async fn deliveries(
    connection: &PooledConnection,
    filter: &DeliveryFilter,
) -> Result<Vec<DeliveryRecord>, QueryError> {
    // A plan for any limit would be one for a tenth of the rows.
    let sql = format!(
        "SELECT * FROM ({SELECT_DELIVERY} WHERE {} AND d.id < $10 ORDER BY d.id DESC LIMIT {})
            AS page LIMIT $11",
        condition(filter),
        filter
            .limit
            .checked_next_power_of_two()
            .map_or(i64::MAX, to_i64)
    );
    let bytes = if filter.with_bodies {
        to_i64(LISTED_BYTES_MAX)
    } else {
        0
    };
    let before = filter.before.map_or(i64::MAX, |before| before.0);
    let rows = query_filtered(
        connection,
        &sql,
        bytes,
        filter,
        &[&before, &to_i64(filter.limit)],
    )
    .await?;
    Ok(rows.iter().map(read_delivery).collect::<Result<_, _>>()?)
}

pub(super) async fn count_deliveries(
    connection: &PooledConnection,
    filter: &DeliveryFilter,
) -> Result<Option<usize>, QueryError> {
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM hookstile.deliveries
         WHERE $1::bigint = 0 AND {} LIMIT {}) AS found",
        condition(filter),
        COUNT_LIMIT + 1
    );
    let rows = query_filtered(connection, &sql, 0, filter, &[]).await?;
    let found: i64 = rows.first().map_or(Ok(0), |row| row.try_get(0))?;
    Ok(usize::try_from(found)
        .ok()
        .filter(|found| *found <= COUNT_LIMIT))
}

pub(super) async fn matching_deliveries(
    connection: &PooledConnection,
    filter: &DeliveryFilter,
    after: DeliveryId,
    limit: usize,
) -> Result<Vec<(DeliveryId, bool)>, QueryError> {
    let sql = format!(
        "SELECT id, payload_bytes > 0 FROM hookstile.deliveries WHERE id > $1 AND {}
         ORDER BY id LIMIT {limit}",
        condition(filter)
    );
    let rows = query_filtered(connection, &sql, after.0, filter, &[]).await?;
    let parse = |row: &Row| Ok((DeliveryId(row.try_get(0)?), row.try_get(1)?));
    Ok(rows
        .iter()
        .map(parse)
        .collect::<Result<_, tokio_postgres::Error>>()?)
}

pub(super) async fn automatic_redeliveries(
    connection: &PooledConnection,
    route: &str,
    limit: usize,
) -> Result<Vec<DeliveryId>, QueryError> {
    let sql = format!(
        "SELECT id FROM hookstile.deliveries WHERE route = $1 AND state = 'dead'
         AND reason IN ('rejected', 'expired') ORDER BY id LIMIT {limit}"
    );
    let rows = connection.query_cached(&sql, &[&route]).await?;
    let parse = |row: &Row| row.try_get(0).map(DeliveryId);
    Ok(rows
        .iter()
        .map(parse)
        .collect::<Result<_, tokio_postgres::Error>>()?)
}

pub(super) async fn delivery(
    connection: &PooledConnection,
    id: DeliveryId,
) -> Result<Option<DeliveryRecord>, QueryError> {
    let row = connection
        .query_opt_cached(
            &format!("{SELECT_DELIVERY} WHERE d.id = $2"),
            &[&i64::MAX, &id.0],
        )
        .await?;
    Ok(row.as_ref().map(read_delivery).transpose()?)
}

pub(super) async fn event_keys(
    connection: &PooledConnection,
    ids: &[DeliveryId],
) -> Result<Vec<Option<DeliveryKeys>>, QueryError> {
    let sql = "SELECT id, route, keys, identity FROM hookstile.deliveries WHERE id = ANY($1)";
    let numbers: Vec<_> = ids.iter().map(|id| id.0).collect();
    let mut found = HashMap::new();
    for row in connection.query_cached(sql, &[&numbers]).await? {
        let keys: Option<Vec<u8>> = row.try_get(2)?;
        let keys = keys.unwrap_or_default();
        let (keys, _) = keys.as_chunks::<16>();
        let delivery = DeliveryKeys {
            route: row.try_get(1)?,
            identity: identity(row.try_get(3)?),
            keys: keys
                .iter()
                .map(|key| EventKey(u128::from_be_bytes(*key)))
                .collect(),
        };
        found.insert(row.try_get::<_, i64>(0)?, delivery);
    }
    Ok(ids.iter().map(|id| found.get(&id.0).cloned()).collect())
}

/// Returns the ledger row of a key. A claim without history does not count.
pub(super) async fn event_rows(
    connection: &PooledConnection,
    event: EventKey,
) -> Result<Vec<(EventKey, i64)>, QueryError> {
    let sql = "SELECT key, token FROM hookstile.ledger
        WHERE key = $1 AND ends_ms > (SELECT now FROM hookstile.clock)
        AND (digest IS NOT NULL OR attempts > 0 OR delivery IS NOT NULL)";
    let rows = with_timeout(connection.query(sql, &[&uuid(event)])).await?;
    let parse = |row: &Row| Ok((key(row.try_get(0)?), row.try_get(1)?));
    Ok(rows
        .iter()
        .map(parse)
        .collect::<Result<_, tokio_postgres::Error>>()?)
}

/// Returns the totals of a route's deliveries.
pub(super) async fn route_stats(
    connection: &PooledConnection,
    route: &str,
    since_day: i64,
) -> Result<RouteDeliveryStats, QueryError> {
    let sql = "SELECT (SELECT created_ms FROM hookstile.routes WHERE name = $1),
            (SELECT max(last_success_ms) FROM hookstile.route_counts WHERE route = $1),
            (SELECT max(last_failure_ms) FROM hookstile.route_counts WHERE route = $1),
            coalesce(sum(successful), 0)::bigint, coalesce(sum(failed), 0)::bigint,
            coalesce(sum(successful + failed) FILTER (WHERE day >= $2), 0)::bigint,
            coalesce(sum(total_ms), 0)::bigint,
            (SELECT coalesce(sum(pending), 0)::bigint FROM hookstile.route_counts WHERE route = $1),
            (SELECT coalesce(sum(dead), 0)::bigint FROM hookstile.route_counts WHERE route = $1)
        FROM hookstile.days WHERE route = $1";
    let row = connection
        .query_one_cached(sql, &[&route, &since_day])
        .await?;
    let at = |column| {
        Ok::<_, tokio_postgres::Error>(row.try_get::<_, Option<i64>>(column)?.map(timestamp))
    };
    let number = |column| {
        Ok::<_, tokio_postgres::Error>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
    };
    Ok(RouteDeliveryStats {
        created_at: at(0)?,
        last_success: at(1)?,
        last_failure: at(2)?,
        successful: number(3)?,
        failed: number(4)?,
        recent: number(5)?,
        total_ms: number(6)?,
        pending: number(7)?,
        dead: number(8)?,
    })
}

/// Returns the revision of operator data.
pub(super) async fn revision(connection: &PooledConnection) -> Result<Revision, QueryError> {
    let row = connection
        .query_one_cached("SELECT revision FROM hookstile.store", &[])
        .await?;
    Ok(Revision(row.try_get(0)?))
}

/// Returns the creation that is remembered under this key.
pub(super) async fn creation(
    connection: &PooledConnection,
    key: &str,
) -> Result<Option<Creation>, QueryError> {
    let sql = "SELECT request, webhook, definition FROM hookstile.creations, hookstile.clock
        WHERE key = $1 AND ends_ms > now";
    let Some(row) = connection.query_opt_cached(sql, &[&key]).await? else {
        return Ok(None);
    };
    Ok(Some(Creation {
        // Digests of another length are of no request.
        request: row.try_get::<_, &[u8]>(0)?.try_into().unwrap_or_default(),
        webhook: row.try_get(1)?,
        definition: Zeroizing::new(row.try_get(2)?),
    }))
}

/// Returns all webhooks and their revision. The revision is read first, so that a change in between
/// shows up as a newer revision.
pub(super) async fn webhooks(
    connection: &PooledConnection,
) -> Result<(Revision, Vec<(String, String)>), QueryError> {
    let revision = revision(connection).await?;
    let rows = connection
        .query_cached(
            "SELECT name, definition FROM hookstile.webhooks ORDER BY name",
            &[],
        )
        .await?;
    let parse = |row: &Row| Ok((row.try_get(0)?, row.try_get(1)?));
    Ok((
        revision,
        rows.iter()
            .map(parse)
            .collect::<Result<_, tokio_postgres::Error>>()?,
    ))
}

pub(super) async fn paused_routes(
    connection: &PooledConnection,
) -> Result<Vec<String>, QueryError> {
    let rows = connection
        .query_cached("SELECT route FROM hookstile.paused", &[])
        .await?;
    Ok(rows
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?)
}

/// Returns the bulk redelivery that was requested last.
pub(super) async fn redelivery(
    connection: &PooledConnection,
) -> Result<Option<StoredRedelivery>, QueryError> {
    let sql = "SELECT document, running FROM hookstile.redelivery";
    let Some(row) = connection.query_opt_cached(sql, &[]).await? else {
        return Ok(None);
    };
    Ok(Some(StoredRedelivery {
        document: row.try_get(0)?,
        is_running: row.try_get(1)?,
    }))
}

fn read_delivery(row: &Row) -> Result<DeliveryRecord, tokio_postgres::Error> {
    let due: Option<i64> = row.try_get(10)?;
    Ok(DeliveryRecord {
        id: DeliveryId(row.try_get(0)?),
        route: row.try_get(1)?,
        event_id: row.try_get(2)?,
        event_type: row.try_get(3)?,
        received_at: timestamp(row.try_get(4)?),
        // The gateway only writes states of this set.
        state: DeliveryState::parse(row.try_get(5)?).unwrap_or(DeliveryState::Dead),
        reason: row.try_get(6)?,
        attempt_count: row.try_get::<_, i32>(7)?.unsigned_abs(),
        possibly_delivered: row.try_get(8)?,
        attempts: AttemptLog::parse(row.try_get(9)?).into_records(),
        due_in: due.map(|due| Duration::from_millis(u64::try_from(due).unwrap_or(0))),
        payload_kept: row.try_get(11)?,
        secret: row.try_get(12)?,
        is_test: row.try_get(13)?,
        head: row.try_get::<_, Option<Vec<u8>>>(14)?.map(Bytes::from),
        body: row.try_get::<_, Option<Vec<u8>>>(15)?.map(Bytes::from),
    })
}

/// Returns a stored time. The gateway only writes valid ones.
pub(super) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn to_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
