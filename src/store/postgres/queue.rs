//! The delivery queue: each queued event is leased to one gateway at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::claims::millis;
use super::floor::Search;
use super::pool::{
    PooledConnection, QueryError, SERVER_STATEMENT_TIMEOUT_MS, STATEMENT_TIMEOUT, with_timeout,
    within,
};
use super::query::timestamp;
use super::rows::identity;
use super::write::{BYTES_PER_SECOND, time_for_bytes};
use super::{LARGE_BYTES, Shared};
use crate::store::{
    AttemptHistory, DeliveryId, DueEvent, DueEvents, LeaseDeadline, Payload, QueuedEvent,
};

/// The lease of a due event until its attempt begins.
const FETCH_LEASE: Duration = Duration::from_secs(15);
/// The time by which an attempt's lease exceeds the attempt timeout, for recording the outcome.
const RECORD_MARGIN: Duration = Duration::from_secs(10);

/// The time by which a search of due events begins before the first one found: transactions that ran
/// at the same time may have stored earlier ones.
pub(super) const OVERLAP_MS: i64 = 1_000;

/// Leases due events from a floor on. If a lease lapsed after its attempt had begun, the outcome is
/// unknown. The current time is a subquery and not a joined table, because the index cannot use a
/// joined value as a bound.
const LEASE_DUE: &str = "
WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
available AS MATERIALIZED (
    SELECT d.id FROM hookstile.deliveries d WHERE d.route = $1 AND d.state = 'pending'
        AND d.due_ms <= (SELECT due FROM clock) AND d.due_ms >= $6
        AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock))
        AND d.id <> ALL($2)
    ORDER BY d.due_ms, d.id LIMIT $3 FOR UPDATE OF d SKIP LOCKED),
leased AS (
    UPDATE hookstile.deliveries d SET lease_owner = $4, lease_ends_ms = clock.now + $5,
        possibly_delivered = d.possibly_delivered OR d.begun, begun = false
    FROM available, clock WHERE d.id = available.id RETURNING d.id, d.payload_bytes, d.due_ms)
SELECT id, payload_bytes, due_ms FROM leased ORDER BY due_ms, id";

/// Returns the time until the next event is due. The order is that of the index, so that any plan
/// uses it.
const NEXT_DUE: &str = "SELECT due_ms - (SELECT due FROM hookstile.clock) FROM hookstile.deliveries
    WHERE route = $1 AND state = 'pending' AND due_ms > (SELECT due FROM hookstile.clock)
        ORDER BY due_ms, id LIMIT 1";

/// Releases leases whose attempt has not begun.
const RELEASE: &str = "UPDATE hookstile.deliveries SET lease_owner = NULL, lease_ends_ms = NULL
    WHERE id = ANY($1) AND lease_owner = $2 AND NOT begun";

/// Loads an event, with its payload unless that is large, and extends its lease, for
/// a large one by the time to read it. `state || ''` keeps the planner from using the index of
/// pending deliveries: a server without statistics would scan all of them.
const LOAD: &str = "
WITH loaded AS (
    UPDATE hookstile.deliveries SET begun = true,
        lease_ends_ms = (SELECT now FROM hookstile.clock) + $3 + payload_bytes / $6 * 1000
    WHERE id = $1 AND state || '' = 'pending' AND lease_owner = $2 AND route = $4
    RETURNING id, event_id, event_type, tried, possibly_delivered, received_ms, queued_ms, identity,
        payload_bytes)
SELECT event_id, event_type, tried, possibly_delivered, received_ms,
    (SELECT now FROM hookstile.clock) - queued_ms, head, body, identity, payload_bytes
FROM loaded LEFT JOIN hookstile.payloads ON delivery = id AND payload_bytes < $5";

const LOAD_PAYLOAD: &str = "SELECT head, body FROM hookstile.payloads WHERE delivery = $1";

pub(super) async fn lease_due_events(
    connection: &PooledConnection,
    shared: &Shared,
    route: &Arc<str>,
    in_flight: &[DeliveryId],
    limit: usize,
) -> Result<DueEvents, QueryError> {
    let (owner, name) = (shared.owner, &**route);
    let began = Instant::now();
    let floor = shared.floors(route, |floors| floors.due.begin(began));
    let in_flight: Vec<_> = in_flight.iter().map(|id| id.0).collect();
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // Queried first, so that leased events are always returned.
    let next = connection.query_opt_cached(NEXT_DUE, &[&name]).await?;
    let leased = connection
        .query_cached(
            LEASE_DUE,
            &[
                &name,
                &in_flight,
                &limit,
                &owner,
                &millis(FETCH_LEASE),
                &floor,
            ],
        )
        .await;
    let search = Search {
        from: floor,
        took: began.elapsed(),
        ended: Instant::now(),
        is_alone: true,
        recent: shared.recently_due_ms(),
    };
    if let Err(QueryError::TimedOut(_) | QueryError::Unanswered(_)) = &leased {
        // Otherwise each later search would begin at the beginning too, and fail.
        shared.floors(route, |floors| floors.due.failed(&search));
    }
    let rows = leased?;
    let first_due: Option<i64> = rows.first().map(|first| first.try_get(2)).transpose()?;
    shared.floors(route, |floors| {
        let found = first_due.map(|due_ms| due_ms.saturating_sub(OVERLAP_MS));
        floors.due.searched(&search, found);
        if let Some(found) = found {
            floors.woken.raise(found);
        }
    });
    let event = |row: &Row| {
        let bytes: i64 = row.try_get(1)?;
        Ok(DueEvent {
            id: DeliveryId(row.try_get(0)?),
            payload_bytes: usize::try_from(bytes).unwrap_or(0),
        })
    };
    let next: Option<i64> = next.map(|row| row.try_get(0)).transpose()?;
    Ok(DueEvents {
        is_complete: i64::try_from(rows.len()).is_ok_and(|leased| leased < limit),
        events: rows
            .iter()
            .map(event)
            .collect::<Result<_, tokio_postgres::Error>>()?,
        next_in: next.map(|next| Duration::from_millis(u64::try_from(next).unwrap_or(0))),
    })
}

pub(super) async fn release_events(
    connection: &PooledConnection,
    ids: &[DeliveryId],
    owner: i64,
) -> Result<(), QueryError> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    connection
        .execute_cached(RELEASE, &[&ids, &owner])
        .await
        .map(drop)
}

pub(super) async fn load_event(
    connection: &PooledConnection,
    route: &str,
    id: DeliveryId,
    owner: i64,
    attempt_timeout: Duration,
) -> Result<Option<QueuedEvent>, QueryError> {
    let lease = attempt_timeout.saturating_add(RECORD_MARGIN);
    let large = i64::try_from(LARGE_BYTES).unwrap_or(i64::MAX);
    let began = Instant::now();
    let Some(row) = connection
        .query_opt_cached(
            LOAD,
            &[
                &id.0,
                &owner,
                &millis(lease),
                &route,
                &large,
                &BYTES_PER_SECOND.cast_signed(),
            ],
        )
        .await?
    else {
        return Ok(None);
    };
    let (attempts, age): (i32, Option<i64>) = (row.try_get(2)?, row.try_get(5)?);
    let payload_bytes: i64 = row.try_get(9)?;
    let longer = time_for_bytes(usize::try_from(payload_bytes).unwrap_or(0));
    let deadline = LeaseDeadline(began.checked_add(lease.saturating_add(longer)));
    let payload = if payload_bytes < large {
        payload(&row, 6)?
    } else {
        load_large_payload(connection, id, longer).await?
    };
    Ok(Some(QueuedEvent {
        identity: identity(row.try_get(8)?),
        event_id: row.try_get::<_, &str>(0)?.into(),
        event_type: row.try_get::<_, &str>(1)?.into(),
        history: AttemptHistory {
            attempts: attempts.unsigned_abs(),
            possibly_delivered: row.try_get(3)?,
        },
        received_at: timestamp(row.try_get(4)?),
        age: Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)),
        payload,
        deadline,
    }))
}

/// Loads a payload that may take so much `longer` than other statements, for its size.
async fn load_large_payload(
    connection: &PooledConnection,
    id: DeliveryId,
    longer: Duration,
) -> Result<Option<Payload>, QueryError> {
    let begin = format!(
        "BEGIN; SET LOCAL statement_timeout = {}",
        SERVER_STATEMENT_TIMEOUT_MS + longer.as_millis()
    );
    with_timeout(connection.batch_execute(&begin)).await?;
    let row = within(STATEMENT_TIMEOUT + longer, async {
        let load = connection.prepare_cached(LOAD_PAYLOAD).await?;
        connection.query_opt(&load, &[&id.0]).await
    })
    .await?;
    with_timeout(connection.batch_execute("COMMIT")).await?;
    let loaded = row.map(|row| payload(&row, 0)).transpose()?;
    Ok(loaded.flatten())
}

/// Returns the payload whose head is in this column, and whose body is in the next one.
fn payload(row: &Row, column: usize) -> Result<Option<Payload>, QueryError> {
    let head: Option<Vec<u8>> = row.try_get(column)?;
    let body: Option<Vec<u8>> = row.try_get(column + 1)?;
    Ok(head.zip(body).map(|(head, body)| Payload {
        head: head.into(),
        body: body.into(),
    }))
}
