//! Stored events: taken by one gateway at a time, for as long as its lease.

use std::time::{Duration, Instant};

use super::claims::millis;
use super::pool::{PooledConnection, QueryError, bounded};
use super::query::timestamp;
use crate::store::{
    AttemptHistory, DeliveryId, DueEvent, DueEvents, LeaseDeadline, Payload, QueuedEvent,
};

/// How long an event is kept for the attempt that is to begin.
const TAKEN_FOR: Duration = Duration::from_secs(15);
/// An attempt's lease is longer than the attempt may take by this: to write what came of it.
const MARGIN: Duration = Duration::from_secs(10);

/// Of a lease that lapsed after its attempt had begun nobody knows what came of it. The time is no table here: what is joined
/// is no bound of the index.
const TAKE: &str = "
WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
free AS MATERIALIZED (
    SELECT d.id FROM hookstile.deliveries d WHERE d.route = $1 AND d.state = 'pending'
        AND d.due_ms <= (SELECT due FROM clock) AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock))
        AND d.id <> ALL($2)
    ORDER BY d.due_ms, d.id LIMIT $3 FOR UPDATE OF d SKIP LOCKED),
taken AS (
    UPDATE hookstile.deliveries d SET lease_owner = $4, lease_ends_ms = clock.now + $5,
        possibly_delivered = d.possibly_delivered OR d.begun, begun = false
    FROM free, clock WHERE d.id = free.id RETURNING d.id, d.payload_bytes, d.due_ms)
SELECT id, payload_bytes FROM taken ORDER BY due_ms, id";

/// In the order of the index, for any plan to use that one.
const NEXT: &str = "SELECT due_ms - (SELECT due FROM hookstile.clock) FROM hookstile.deliveries
    WHERE route = $1 AND state = 'pending' AND due_ms > (SELECT due FROM hookstile.clock) ORDER BY due_ms, id LIMIT 1";

const GIVE_BACK: &str = "UPDATE hookstile.deliveries SET lease_owner = NULL, lease_ends_ms = NULL
    WHERE id = ANY($1) AND lease_owner = $2 AND NOT begun";

/// By its number alone: a server that knows nothing of the table yet would look through all that are pending.
const LOAD: &str = "
WITH loaded AS (
    UPDATE hookstile.deliveries SET begun = true, lease_ends_ms = (SELECT now FROM hookstile.clock) + $3
    WHERE id = $1 AND state || '' = 'pending' AND lease_owner = $2
    RETURNING id, event_id, event_type, tried, possibly_delivered, received_ms, queued_ms)
SELECT event_id, event_type, tried, possibly_delivered, received_ms, (SELECT now FROM hookstile.clock) - queued_ms, head, body
FROM loaded LEFT JOIN hookstile.payloads ON delivery = id";

pub(super) async fn take(
    line: &PooledConnection,
    route: &str,
    holding: &[DeliveryId],
    most: usize,
    owner: i64,
) -> Result<DueEvents, QueryError> {
    let holding: Vec<_> = holding.iter().map(|id| id.0).collect();
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let (rows, next) = bounded(async {
        let take = line.prepare_cached(TAKE).await?;
        let next = line.prepare_cached(NEXT).await?;
        // First: what is taken is told.
        let next = line.query_opt(&next, &[&route]).await?;
        Ok((
            line.query(
                &take,
                &[&route, &holding, &most, &owner, &millis(TAKEN_FOR)],
            )
            .await?,
            next,
        ))
    })
    .await?;
    let event = |row: &tokio_postgres::Row| {
        let bytes: i64 = row.try_get(1)?;
        Ok(DueEvent {
            id: DeliveryId(row.try_get(0)?),
            payload_bytes: usize::try_from(bytes).unwrap_or(0),
        })
    };
    let next: Option<i64> = next.map(|row| row.try_get(0)).transpose()?;
    Ok(DueEvents {
        all_seen: i64::try_from(rows.len()).is_ok_and(|taken| taken < most),
        events: rows
            .iter()
            .map(event)
            .collect::<Result<_, tokio_postgres::Error>>()?,
        next_in: next.map(|next| Duration::from_millis(u64::try_from(next).unwrap_or(0))),
    })
}

pub(super) async fn give_back(
    line: &PooledConnection,
    ids: &[DeliveryId],
    owner: i64,
) -> Result<(), QueryError> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    line.run(GIVE_BACK, &[&ids, &owner]).await.map(drop)
}

pub(super) async fn load(
    line: &PooledConnection,
    id: DeliveryId,
    owner: i64,
    attempt: Duration,
) -> Result<Option<QueuedEvent>, QueryError> {
    let lease = attempt.saturating_add(MARGIN);
    let until = LeaseDeadline(Instant::now().checked_add(lease));
    let Some(row) = line
        .row_if_any(LOAD, &[&id.0, &owner, &millis(lease)])
        .await?
    else {
        return Ok(None);
    };
    let (attempts, age): (i32, Option<i64>) = (row.try_get(2)?, row.try_get(5)?);
    let (head, body): (Option<Vec<u8>>, Option<Vec<u8>>) = (row.try_get(6)?, row.try_get(7)?);
    Ok(Some(QueuedEvent {
        event_id: row.try_get::<_, &str>(0)?.into(),
        event_type: row.try_get::<_, &str>(1)?.into(),
        tried: AttemptHistory {
            attempts: attempts.unsigned_abs(),
            possibly_delivered: row.try_get(3)?,
        },
        received_at: timestamp(row.try_get(4)?),
        age: Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)),
        payload: head.zip(body).map(|(head, body)| Payload {
            head: head.into(),
            body: body.into(),
        }),
        until,
    }))
}
