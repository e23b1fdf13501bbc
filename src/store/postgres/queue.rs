//! The delivery queue: each queued event is leased to one gateway at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::claims::millis;
use super::pool::{PooledConnection, QueryError, with_timeout};
use super::query::timestamp;
use super::rows::identity;
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

/// Loads an event and extends its lease. `state || ''` keeps the planner from using the index of
/// pending deliveries: a server without statistics would scan all of them.
const LOAD: &str = "
WITH loaded AS (
    UPDATE hookstile.deliveries SET begun = true,
        lease_ends_ms = (SELECT now FROM hookstile.clock) + $3
    WHERE id = $1 AND state || '' = 'pending' AND lease_owner = $2 AND route = $4
    RETURNING id, event_id, event_type, tried, possibly_delivered, received_ms, queued_ms, identity)
SELECT event_id, event_type, tried, possibly_delivered, received_ms,
    (SELECT now FROM hookstile.clock) - queued_ms, head, body, identity
FROM loaded LEFT JOIN hookstile.payloads ON delivery = id";

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
    let (rows, next) = with_timeout(async {
        let lease_due = connection.prepare_cached(LEASE_DUE).await?;
        let next_due = connection.prepare_cached(NEXT_DUE).await?;
        // Queried first, so that leased events are always returned.
        let next = connection.query_opt(&next_due, &[&name]).await?;
        Ok((
            connection
                .query(
                    &lease_due,
                    &[
                        &name,
                        &in_flight,
                        &limit,
                        &owner,
                        &millis(FETCH_LEASE),
                        &floor,
                    ],
                )
                .await?,
            next,
        ))
    })
    .await?;
    let first_due: Option<i64> = rows.first().map(|first| first.try_get(2)).transpose()?;
    shared.floors(route, |floors| {
        let found = first_due.map(|due_ms| due_ms.saturating_sub(OVERLAP_MS));
        floors
            .due
            .searched(floor, found, began.elapsed(), Instant::now());
    });
    let event = |row: &tokio_postgres::Row| {
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
    let deadline = LeaseDeadline(Instant::now().checked_add(lease));
    let Some(row) = connection
        .query_opt_cached(LOAD, &[&id.0, &owner, &millis(lease), &route])
        .await?
    else {
        return Ok(None);
    };
    let (attempts, age): (i32, Option<i64>) = (row.try_get(2)?, row.try_get(5)?);
    let (head, body): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.try_get(6)?, row.try_get(7)?);
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
        payload: head.zip(body).map(|(head, body)| Payload {
            head: head.into(),
            body: body.into(),
        }),
        deadline,
    }))
}
