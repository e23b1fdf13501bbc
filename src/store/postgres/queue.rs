//! The delivery queue: each queued event is leased to one gateway at a time.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::claims::millis;
use super::floor::Search;
use super::pool::{
    OnTimeout, PooledConnection, QueryError, SERVER_STATEMENT_TIMEOUT_MS, STATEMENT_TIMEOUT, on,
    with_timeout, within,
};
use super::query::timestamp;
use super::queue_front::{Lease, LeasedEvent, LeasedEvents, Leasing, Place};
use super::rows::{identity, read_stored};
use super::write::{BYTES_PER_SECOND, time_for_bytes};
use super::{LARGE_BYTES, Shared, lock};
use crate::store::{AttemptHistory, DeliveryId, DueEvents, LeaseDeadline, Payload, QueuedEvent};

/// The time by which a lease exceeds the attempt timeout, for recording the outcome.
const RECORD_MARGIN: Duration = Duration::from_secs(10);
/// The part of it that must be left when an attempt at an event in memory begins. Leases are renewed
/// before.
const RECORD_MARGIN_MIN: Duration = Duration::from_secs(5);
/// The size from which a payload is not leased with its event but read before the attempt, in bytes.
pub(super) const HELD_PAYLOAD_MAX: usize = 64 << 10;

/// The time by which a search of due events begins before the first one found: transactions that ran
/// at the same time may have stored earlier ones.
pub(super) const OVERLAP_MS: i64 = 1_000;

/// Leases due events from a floor on, and reads them with their payloads unless these are large. From
/// then on their attempts may begin, so if the lease lapses, the outcome is unknown; one with a large
/// payload begins when that is read, and so do those for whose payloads there is no room. Adopts the
/// events of batches whose replies were lost: no attempt at them began. The current time is a subquery
/// and not a joined table, because the index cannot use a joined value as a bound.
const LEASE_DUE: &str = "
WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock),
available AS MATERIALIZED (
    SELECT d.id, d.due_ms, CASE WHEN d.payload_bytes < $7 THEN d.payload_bytes END AS bytes,
        d.begun AND (d.lease_owner = $4 AND d.lease_batch = ANY($9)) IS NOT TRUE AS begun
    FROM hookstile.deliveries d WHERE d.route = $1 AND d.state = 'pending'
        AND d.due_ms <= (SELECT due FROM clock) AND d.due_ms >= $6
        AND (d.lease_ends_ms IS NULL OR d.lease_ends_ms <= (SELECT now FROM clock)
            OR d.lease_owner = $4 AND d.lease_batch = ANY($9))
        AND d.id <> ALL($2)
    ORDER BY d.due_ms, d.id LIMIT $3 FOR UPDATE OF d SKIP LOCKED),
sized AS (
    SELECT id, begun, bytes IS NOT NULL AND sum(bytes) OVER (ORDER BY due_ms, id) <= $10::bigint
        AS is_held
    FROM available),
leased AS (
    UPDATE hookstile.deliveries d SET lease_owner = $4, lease_ends_ms = clock.now + $5,
        possibly_delivered = d.possibly_delivered OR sized.begun, begun = sized.is_held,
        lease_batch = $8
    FROM sized, clock WHERE d.id = sized.id
    RETURNING d.id, d.route, d.event_id, d.received_ms, d.state, d.reason, d.tried,
        d.possibly_delivered, d.due_ms, d.queued_ms, d.ended_ms, d.keys, d.payload_bytes,
        d.attempts::text, d.identity, d.event_type, clock.now - d.queued_ms AS age, d.begun)
SELECT leased.*, head, body
FROM leased LEFT JOIN hookstile.payloads ON delivery = id AND begun
ORDER BY due_ms, id";

/// Returns the time until the next event is due. The order is that of the index, so that any plan
/// uses it.
const NEXT_DUE: &str = "SELECT due_ms - (SELECT due FROM hookstile.clock) FROM hookstile.deliveries
    WHERE route = $1 AND state = 'pending' AND due_ms > (SELECT due FROM hookstile.clock)
        ORDER BY due_ms, id LIMIT 1";

/// Releases the leases of events that this gateway does not attempt.
const RELEASE: &str = "UPDATE hookstile.deliveries SET lease_owner = NULL, lease_ends_ms = NULL,
        begun = false, lease_batch = NULL
    WHERE id = ANY($1) AND lease_owner = $2 AND state || '' = 'pending'";

/// Renews leases, each for its own time. An event that this gateway knows is never adopted as unknown, so
/// it loses its number; the same when it is loaded.
const RENEW: &str = "UPDATE hookstile.deliveries d
    SET lease_ends_ms = (SELECT now FROM hookstile.clock) + r.lasts, lease_batch = NULL
    FROM unnest($1::bigint[], $2::bigint[]) AS r (id, lasts)
    WHERE d.id = r.id AND d.id = ANY($1) AND d.lease_owner = $3 AND d.state || '' = 'pending'
    RETURNING d.id";

/// Loads an event, with its payload unless that is large, and extends its lease, for
/// a large one by the time to read it. `state || ''` keeps the planner from using the index of
/// pending deliveries: a server without statistics would scan all of them.
const LOAD: &str = "
WITH loaded AS (
    UPDATE hookstile.deliveries SET begun = true, lease_batch = NULL,
        lease_ends_ms = (SELECT now FROM hookstile.clock) + $3 + payload_bytes / $6 * 1000
    WHERE id = $1 AND state || '' = 'pending' AND lease_owner = $2 AND route = $4
    RETURNING id, event_id, event_type, tried, possibly_delivered, received_ms, queued_ms, identity,
        payload_bytes)
SELECT event_id, event_type, tried, possibly_delivered, received_ms,
    (SELECT now FROM hookstile.clock) - queued_ms, head, body, identity, payload_bytes
FROM loaded LEFT JOIN hookstile.payloads ON delivery = id AND payload_bytes < $5";

const LOAD_PAYLOAD: &str = "SELECT head, body FROM hookstile.payloads WHERE delivery = $1";

impl Shared {
    /// Returns the lease of an event of the route that waits in memory.
    pub(super) fn held_lease(&self, route: &str) -> Duration {
        let active = lock(&self.active);
        let attempt_timeout = active
            .get(route)
            .map_or(Duration::ZERO, |route| route.attempt_timeout);
        attempt_lease(attempt_timeout)
    }

    /// Returns due events of a route, from memory if its front has any.
    pub(super) async fn due_events(
        self: &Arc<Self>,
        route: &Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> Result<DueEvents, QueryError> {
        let handed_out = self.fronts.hand_out(route, in_flight, limit);
        let Some(leasing) = handed_out.to_lease else {
            return Ok(handed_out.due);
        };
        if handed_out.due.events.is_empty() {
            self.lease(route, in_flight, leasing).await?;
            return Ok(self.fronts.hand_out(route, in_flight, limit).due);
        }
        // The worker goes on with those that it has.
        let (shared, route) = (Arc::clone(self), Arc::clone(route));
        let mut in_flight = in_flight.to_vec();
        in_flight.extend(handed_out.due.events.iter().map(|event| event.id));
        tokio::spawn(async move {
            if let Err(error) = shared.lease(&route, &in_flight, leasing).await {
                shared.pool.log_failure("read", &error);
            }
            shared.notify_route(&route);
        });
        Ok(handed_out.due)
    }

    /// Leases due events for the front of a route.
    async fn lease(
        &self,
        route: &Arc<str>,
        in_flight: &[DeliveryId],
        mut leasing: Leasing,
    ) -> Result<(), QueryError> {
        let leased = {
            let leasing = &leasing;
            let work = on!(connection =>
                lease_due_events(connection, self, route, in_flight, leasing));
            self.pool.run(OnTimeout::Fail, work).await?
        };
        let refused = leasing.add(leased);
        if !refused.is_empty() {
            self.release_places(route, &refused).await;
            // A later front waits for this one's end.
            drop(leasing);
            self.wake_route(route);
        }
        Ok(())
    }

    /// Releases the leases of events that are not attempted, and lets searches find them again.
    pub(super) async fn release_places(&self, route: &str, places: &[Place]) {
        let ids: Vec<_> = places.iter().map(|(_, id)| *id).collect();
        self.release(&ids).await;
        self.lower_floors(route, places);
    }

    /// Takes note that a failed statement may have stored and leased events of these routes.
    pub(super) fn lose_leases<'a>(
        &self,
        routes: impl Iterator<Item = &'a Arc<str>>,
        batch: i64,
        error: &QueryError,
    ) {
        if let QueryError::Refused(_) = error {
            return;
        }
        let from = self.recently_due_ms();
        for route in routes.collect::<HashSet<_>>() {
            self.fronts.lose(route, batch, from);
            self.wake_route(route);
        }
    }

    /// Lets the next searches begin before these places.
    pub(super) fn lower_floors(&self, route: &str, places: &[Place]) {
        if let Some((first_due, _)) = places.iter().min() {
            let (from, now) = (first_due.saturating_sub(OVERLAP_MS), Instant::now());
            self.floors(route, |floors| {
                floors.due.lower(from, now);
                floors.woken.lower(from, now);
            });
        }
    }

    /// Releases the leases of events that are not attempted. On failure, the events become free when
    /// their leases lapse.
    pub(super) async fn release(&self, ids: &[DeliveryId]) {
        if ids.is_empty() {
            return;
        }
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let params: [&(dyn ToSql + Sync); 2] = [&ids, &self.owner];
        let params = &params;
        let work = on!(connection => connection.execute_cached(RELEASE, params));
        if let Err(error) = self.pool.run(OnTimeout::Fail, work).await {
            self.pool.log_failure("commit", &error);
        }
    }

    /// Renews the leases of the events that wait in memory.
    pub(super) async fn renew_leases(&self) {
        let asked = self.fronts.to_renew();
        if asked.is_empty() {
            return;
        }
        let from = Instant::now();
        let (ids, lasts): (Vec<_>, Vec<_>) = asked
            .iter()
            .map(|(id, lease)| (id.0, millis(lease.lasts)))
            .unzip();
        let params: [&(dyn ToSql + Sync); 3] = [&ids, &lasts, &self.owner];
        let params = &params;
        let renewed = self
            .run_once(on!(connection => async {
                let rows = connection.query_cached(RENEW, params).await?;
                let ids = rows.iter().map(|row| Ok(DeliveryId(row.try_get(0)?)));
                let renewed = ids.collect::<Result<_, tokio_postgres::Error>>()?;
                self.fronts.renew(&asked, &renewed, from);
                Ok(())
            }))
            .await;
        // The next renewal tries again; a lease that lapses ends the wait.
        drop(renewed);
    }
}

/// Returns the lease for an attempt that takes up to this time.
fn attempt_lease(attempt_timeout: Duration) -> Duration {
    attempt_timeout.saturating_add(RECORD_MARGIN)
}

/// Returns how much of a lease must be left when such an attempt begins.
pub(super) fn attempt_lease_min(attempt_timeout: Duration) -> Duration {
    attempt_timeout.saturating_add(RECORD_MARGIN_MIN)
}

async fn lease_due_events(
    connection: &PooledConnection,
    shared: &Shared,
    route: &Arc<str>,
    in_flight: &[DeliveryId],
    leasing: &Leasing,
) -> Result<LeasedEvents, QueryError> {
    let (owner, name) = (shared.owner, &**route);
    let began = Instant::now();
    let batch = leasing.send(
        shared.floors(route, |floors| floors.due.begin(began)),
        began,
    );
    let in_flight: Vec<_> = in_flight.iter().map(|id| id.0).collect();
    let [limit, bytes, held_max] = [leasing.limit, leasing.bytes, HELD_PAYLOAD_MAX]
        .map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    let lease = Lease {
        from: began,
        lasts: shared.held_lease(route),
    };
    let leased = connection
        .query_cached(
            LEASE_DUE,
            &[
                &name,
                &in_flight,
                &limit,
                &owner,
                &millis(lease.lasts),
                &batch.floor,
                &held_max,
                &batch.number,
                &batch.adopts,
                &bytes,
            ],
        )
        .await;
    let search = Search {
        from: batch.floor,
        took: began.elapsed(),
        ended: Instant::now(),
        is_alone: true,
        recent: shared.recently_due_ms(),
    };
    if let Err(QueryError::TimedOut(_) | QueryError::Unanswered(_)) = &leased {
        // Otherwise each later search would begin at the beginning too, and fail.
        shared.floors(route, |floors| floors.due.failed(&search));
    }
    if let Err(QueryError::TimedOut(_)) = &leased {
        leasing.cancelled(batch.number, search.recent);
    }
    let rows = leased?;
    let events: Vec<_> = rows
        .iter()
        .map(|row| leased_event(row, lease))
        .collect::<Result<_, _>>()?;
    let first_due = events.first().map(|event| event.place.0);
    shared.floors(route, |floors| {
        let found = first_due.map(|due_ms| due_ms.saturating_sub(OVERLAP_MS));
        floors.due.searched(&search, found);
        if let Some(found) = found {
            floors.woken.raise(found);
        }
    });
    let mut next_in = None;
    if i64::try_from(events.len()).is_ok_and(|leased| leased < limit) {
        // The events are leased by now, so they are attempted even if this fails.
        let next = connection.query_opt_cached(NEXT_DUE, &[&name]).await;
        let next: Option<i64> = next.ok().flatten().and_then(|row| row.try_get(0).ok());
        next_in = next.map(|next| Duration::from_millis(u64::try_from(next).unwrap_or(0)));
    }
    Ok(LeasedEvents {
        batch: batch.number,
        from: began,
        events,
        next_in,
    })
}

fn leased_event(row: &Row, lease: Lease) -> Result<LeasedEvent, QueryError> {
    let stored = read_stored(row)?;
    let age: Option<i64> = row.try_get(16)?;
    let payload = payload(row, 18)?;
    let due_ms: Option<i64> = row.try_get(8)?;
    Ok(LeasedEvent {
        place: (due_ms.unwrap_or(0), DeliveryId(row.try_get(0)?)),
        identity: identity(row.try_get(14)?),
        event_type: row.try_get::<_, &str>(15)?.into(),
        age: Duration::from_millis(u64::try_from(age.unwrap_or(0)).unwrap_or(0)),
        payload_bytes: usize::try_from(stored.progress.stored_bytes).unwrap_or(0),
        payload,
        stored,
        lease,
    })
}

pub(super) async fn load_event(
    connection: &PooledConnection,
    route: &str,
    id: DeliveryId,
    owner: i64,
    attempt_timeout: Duration,
) -> Result<Option<QueuedEvent>, QueryError> {
    let lease = attempt_lease(attempt_timeout);
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
