//! Queries, on connections that cannot write, beside the writer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use zeroize::Zeroizing;

use super::queue_front::HeldEvent;
use super::shared::QueueCounts;
use super::{
    AttemptHistory, AttemptLog, COUNT_LIMIT, Creation, DeliveryFilter, DeliveryId, DeliveryRecord,
    DeliveryState, DueEvent, DueEvents, EventKey, LISTED_BYTES_MAX, LeaseDeadline, Payload,
    QueuedEvent, RECORD_BYTES, RecordLimits, RemovedRoute, Retain, RouteDeliveryStats, schema,
};
use crate::store::uptime::Uptime;
use crate::store::{DeliveryIdentity, DeliveryKeys, StoredRedelivery};

/// A read-only connection to the store.
pub(super) struct Reader(Connection);

impl DeliveryFilter {
    /// Returns the filter's SQL condition, written so that SQLite can use the indexes: by route
    /// alone, or by route and any state but success. The parameters are the route (2), the state
    /// (3), the event's type (4) and ID (5), the bounds of its arrival (6, 7), the beginning of its
    /// ID (8), and the smallest delivery (9).
    fn condition(&self) -> String {
        let route = match self.route {
            Some(_) => "route = (SELECT id FROM routes WHERE name = ?2)",
            None => "?2 IS NULL",
        };
        let state = match self.state {
            Some(DeliveryState::Success) => "state = ?3",
            Some(_) => "state = ?3 AND state <> 'success'",
            None => "?3 IS NULL",
        };
        let prefix = match self.event_id_prefix {
            Some(_) => "substr(event_id, 1, length(?8)) = ?8",
            None => "?8 IS NULL",
        };
        let from = match self.from {
            Some(_) => "deliveries.id >= ?9",
            None => "?9 IS NULL",
        };
        format!(
            "{route} AND {state} AND (?4 IS NULL OR event_type = ?4)
             AND (?5 IS NULL OR event_id = ?5)
             AND (?6 IS NULL OR received_ms >= ?6) AND (?7 IS NULL OR received_ms < ?7)
             AND {prefix} AND {from}"
        )
    }
}

/// The approximate limit of bytes, of records and payloads, that one transaction frees.
const FREED_BYTES_MAX: u64 = 4 << 20;

const SELECT_DELIVERY: &str = "
    SELECT deliveries.id, routes.name, event_id, event_type, received_ms, state, reason, tried,
        possibly_delivered, attempts, due_ms, payload_bytes > 0, secret, test, head, body
    FROM deliveries JOIN routes ON routes.id = route
    LEFT JOIN payloads ON payload_bytes BETWEEN 1 AND ?1 AND delivery = deliveries.id";

impl Reader {
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }

    pub(super) fn paused_routes(&self) -> rusqlite::Result<Vec<String>> {
        self.0
            .prepare("SELECT route FROM paused")?
            .query_map([], |row| row.get(0))?
            .collect()
    }

    pub(super) fn redelivery(&self) -> rusqlite::Result<Option<StoredRedelivery>> {
        let mut select = self.0.prepare("SELECT document, running FROM redelivery")?;
        let redelivery = select.query_row([], |row| {
            Ok(StoredRedelivery {
                document: row.get(0)?,
                is_running: row.get(1)?,
            })
        });
        redelivery.optional()
    }

    pub(super) fn webhooks(&self) -> rusqlite::Result<Vec<(String, String)>> {
        let mut select = self
            .0
            .prepare("SELECT name, definition FROM webhooks ORDER BY name")?;
        select
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    /// Returns the creation that is remembered under this key.
    pub(super) fn creation(&self, key: &str, now: Uptime) -> rusqlite::Result<Option<Creation>> {
        let mut select = self.0.prepare_cached(
            "SELECT request, webhook, definition FROM creations WHERE key = ?1 AND ends_ms > ?2",
        )?;
        let creation = select.query_row(params![key, now.0], |row| {
            Ok(Creation {
                request: row.get(0)?,
                webhook: row.get(1)?,
                definition: Zeroizing::new(row.get(2)?),
            })
        });
        creation.optional()
    }

    pub(super) fn open(file: &Path) -> rusqlite::Result<Self> {
        schema::open_to_read(file).map(Self)
    }

    /// Wraps an open connection.
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    pub(super) fn due_events(
        &self,
        route: &str,
        now: Uptime,
        limit: usize,
    ) -> rusqlite::Result<DueEvents> {
        let mut select = self.0.prepare_cached(
            "SELECT deliveries.id, payload_bytes FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state = 'pending' AND due_ms <= ?2
             ORDER BY due_ms, deliveries.id LIMIT ?3",
        )?;
        let rows = select.query_map(params![route, now.0, limit], |row| {
            Ok(DueEvent {
                id: DeliveryId(row.get(0)?),
                payload_bytes: row.get(1)?,
            })
        })?;
        // Both queries use the same `now`. Otherwise an event that becomes due in between would be
        // in neither.
        let events: Vec<DueEvent> = rows.collect::<rusqlite::Result<_>>()?;
        Ok(DueEvents {
            is_complete: events.len() < limit,
            events,
            next_in: self.next_due(route, now)?,
        })
    }

    fn next_due(&self, route: &str, now: Uptime) -> rusqlite::Result<Option<Duration>> {
        let mut select = self.0.prepare_cached(
            "SELECT min(due_ms) FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state = 'pending' AND due_ms > ?2",
        )?;
        let due: Option<u64> = select.query_row(params![route, now.0], |row| row.get(0))?;
        Ok(due.map(|due| Uptime(due).since(now)))
    }

    pub(super) fn load_event(
        &self,
        route: &Arc<str>,
        id: DeliveryId,
    ) -> rusqlite::Result<Option<HeldEvent>> {
        // The unary plus keeps SQLite from the indexes of a route's events.
        let mut select = self.0.prepare_cached(
            "SELECT event_id, event_type, tried, possibly_delivered, received_ms, queued_ms
             FROM deliveries WHERE id = ?1 AND state = 'pending'
             AND +route = (SELECT id FROM routes WHERE name = ?2)",
        )?;
        let queued = select.query_row(params![id.0, route], |row| {
            let event = QueuedEvent {
                identity: DeliveryIdentity::default(),
                event_id: row.get::<_, String>(0)?.into(),
                event_type: row.get::<_, String>(1)?.into(),
                history: AttemptHistory {
                    attempts: row.get(2)?,
                    possibly_delivered: row.get(3)?,
                },
                received_at: timestamp(row, 4)?,
                age: Duration::ZERO,
                payload: None,
                deadline: LeaseDeadline::UNLIMITED,
            };
            Ok(HeldEvent {
                route: Arc::clone(route),
                queued: Uptime(row.get(5)?),
                event,
            })
        });
        let Some(mut found) = queued.optional()? else {
            return Ok(None);
        };
        found.event.payload = self.payload(id)?;
        Ok(Some(found))
    }

    /// Returns a payload, or `None` if it is damaged or missing.
    fn payload(&self, id: DeliveryId) -> rusqlite::Result<Option<Payload>> {
        let mut select = self
            .0
            .prepare_cached("SELECT head, body FROM payloads WHERE delivery = ?1")?;
        let payload = select.query_row([id.0], |row| {
            Ok(Payload {
                head: row.get::<_, Vec<u8>>(0)?.into(),
                body: row.get::<_, Vec<u8>>(1)?.into(),
            })
        });
        match payload.optional() {
            Err(error)
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt) =>
            {
                Ok(None)
            }
            payload => payload,
        }
    }

    pub(super) fn event_keys(&self, id: DeliveryId) -> rusqlite::Result<Option<DeliveryKeys>> {
        let mut select = self.0.prepare_cached(
            "SELECT routes.name, keys FROM deliveries JOIN routes ON routes.id = route
             WHERE deliveries.id = ?1",
        )?;
        let found: Option<(String, Option<Vec<u8>>)> = select
            .query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.map(|(route, keys)| {
            let keys = keys.unwrap_or_default();
            let (keys, _) = keys.as_chunks::<16>();
            DeliveryKeys {
                route,
                identity: DeliveryIdentity::default(),
                keys: keys
                    .iter()
                    .map(|key| EventKey(u128::from_be_bytes(*key)))
                    .collect(),
            }
        }))
    }

    pub(super) fn oldest_waiting(&self, route: &str) -> rusqlite::Result<Option<Timestamp>> {
        let mut select = self.0.prepare_cached(
            "SELECT received_ms FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state = 'pending' AND state <> 'success'
             ORDER BY rowid LIMIT 1",
        )?;
        select
            .query_row([route], |row| timestamp(row, 0))
            .optional()
    }

    /// Returns a removed route, with the oldest of its pending events.
    pub(super) fn removed_route(
        &self,
        route: Arc<str>,
        counts: QueueCounts,
        now: Uptime,
    ) -> rusqlite::Result<RemovedRoute> {
        let mut select = self.0.prepare_cached(
            "SELECT received_ms, (SELECT horizon_ms FROM route_settings WHERE route = ?1), queued_ms
             FROM deliveries WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state = 'pending' AND state <> 'success'
             ORDER BY rowid LIMIT 1",
        )?;
        let oldest = select.query_row([&route], |row| {
            let (horizon, queued): (Option<i64>, i64) = (row.get(1)?, row.get(2)?);
            let left = horizon.map(|horizon| {
                let waited = now.0.cast_signed().saturating_sub(queued);
                SignedDuration::from_millis(horizon.saturating_sub(waited))
            });
            Ok((timestamp(row, 0)?, left))
        });
        let (oldest_waiting, left) = oldest.optional()?.unzip();
        Ok(RemovedRoute {
            route,
            pending: counts.pending,
            dead: counts.dead,
            oldest_waiting,
            horizon_left: left.flatten(),
        })
    }

    /// Returns the last limits of a route's records. A route that no version with this table has
    /// served has the default.
    pub(super) fn record_limits(&self, route: &str) -> rusqlite::Result<RecordLimits> {
        let mut select = self
            .0
            .prepare_cached("SELECT keep_ms, max_bytes FROM route_settings WHERE route = ?1")?;
        let limits = select.query_row([route], |row| {
            Ok(RecordLimits {
                keep: Duration::from_millis(row.get(0)?),
                max_bytes: row.get(1)?,
            })
        });
        let limits = limits.optional()?;
        Ok(limits.unwrap_or_else(|| Retain::DEFAULT.limits()))
    }

    pub(super) fn delivery(
        &self,
        id: DeliveryId,
        now: Uptime,
    ) -> rusqlite::Result<Option<DeliveryRecord>> {
        let mut select = self
            .0
            .prepare_cached(&format!("{SELECT_DELIVERY} WHERE deliveries.id = ?2"))?;
        select
            .query_row(params![i64::MAX, id.0], |row| read_delivery(row, now))
            .optional()
    }

    pub(super) fn deliveries(
        &self,
        filter: &DeliveryFilter,
        now: Uptime,
    ) -> rusqlite::Result<Vec<DeliveryRecord>> {
        let mut select = self.0.prepare_cached(&format!(
            "{SELECT_DELIVERY} WHERE {} AND deliveries.id < ?10
             ORDER BY deliveries.id DESC LIMIT ?11",
            filter.condition()
        ))?;
        let [since, until] = filter.time_bounds();
        let rows = select.query_map(
            params![
                if filter.with_bodies {
                    LISTED_BYTES_MAX
                } else {
                    0
                },
                filter.route,
                filter.state.map(DeliveryState::as_str),
                filter.event_type,
                filter.event_id,
                since,
                until,
                filter.event_id_prefix,
                filter.from.map(|from| from.0),
                filter.before.map_or(i64::MAX, |before| before.0),
                filter.limit,
            ],
            |row| read_delivery(row, now),
        )?;
        rows.collect()
    }

    /// Counts the deliveries that match. Returns `None` when there are more than [`COUNT_LIMIT`].
    pub(super) fn count_deliveries(
        &self,
        filter: &DeliveryFilter,
    ) -> rusqlite::Result<Option<usize>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ?1 AND {} LIMIT ?10)",
            filter.condition()
        ))?;
        let (state, [since, until]) = (
            filter.state.map(DeliveryState::as_str),
            filter.time_bounds(),
        );
        let count = select.query_row(
            params![
                true,
                filter.route,
                state,
                filter.event_type,
                filter.event_id,
                since,
                until,
                filter.event_id_prefix,
                filter.from.map(|from| from.0),
                COUNT_LIMIT + 1
            ],
            |row| row.get(0),
        )?;
        Ok(Some(count).filter(|count| *count <= COUNT_LIMIT))
    }

    /// Returns up to `limit` deliveries that match and come after `after`, oldest first, each with
    /// whether its payload is kept.
    pub(super) fn matching_deliveries(
        &self,
        filter: &DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> rusqlite::Result<Vec<(DeliveryId, bool)>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT id, payload_bytes > 0 FROM deliveries WHERE id > ?1 AND {}
             ORDER BY id LIMIT ?10",
            filter.condition()
        ))?;
        let (state, [since, until]) = (
            filter.state.map(DeliveryState::as_str),
            filter.time_bounds(),
        );
        let rows = select.query_map(
            params![
                after.0,
                filter.route,
                state,
                filter.event_type,
                filter.event_id,
                since,
                until,
                filter.event_id_prefix,
                filter.from.map(|from| from.0),
                limit
            ],
            |row| Ok((DeliveryId(row.get(0)?), row.get(1)?)),
        )?;
        rows.collect()
    }

    /// Returns up to `limit` dead letters of a route that may be redelivered automatically, oldest
    /// first.
    pub(super) fn automatic_redeliveries(
        &self,
        route: &str,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeliveryId>> {
        let mut select = self.0.prepare_cached(
            "SELECT id FROM deliveries WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state = 'dead' AND reason IN ('rejected', 'expired') ORDER BY id LIMIT ?2",
        )?;
        let rows = select.query_map(params![route, limit], |row| row.get(0).map(DeliveryId))?;
        rows.collect()
    }

    pub(super) fn route_stats(
        &self,
        route: &str,
        since_day: i64,
    ) -> rusqlite::Result<RouteDeliveryStats> {
        let mut select = self.0.prepare_cached(
            "SELECT created_ms, last_success_ms, last_failure_ms, coalesce(sum(successful), 0),
             coalesce(sum(failed), 0), coalesce(sum(iif(day >= ?2, successful + failed, 0)), 0),
             coalesce(sum(total_ms), 0)
             FROM routes LEFT JOIN days ON days.route = id WHERE name = ?1 GROUP BY id",
        )?;
        let record = select.query_row(params![route, since_day], |row| {
            Ok(RouteDeliveryStats {
                created_at: optional_timestamp(row, 0)?,
                last_success: optional_timestamp(row, 1)?,
                last_failure: optional_timestamp(row, 2)?,
                successful: row.get(3)?,
                failed: row.get(4)?,
                recent: row.get(5)?,
                total_ms: row.get(6)?,
                pending: 0,
                dead: 0,
            })
        });
        Ok(record.optional()?.unwrap_or_default())
    }

    /// Returns the size of the file's used pages, in bytes.
    pub(super) fn used_bytes(&self) -> rusqlite::Result<u64> {
        used_bytes(&self.0)
    }

    /// Returns the names of the routes that have records of ended deliveries.
    pub(super) fn routes_with_records(&self) -> rusqlite::Result<Vec<String>> {
        let mut select = self
            .0
            .prepare_cached("SELECT name FROM routes WHERE kept_bytes <> 0")?;
        select.query_map([], |row| row.get(0))?.collect()
    }

    /// Returns the records of a route that may be deleted, first ended first: those that ended
    /// `keep` ago, and, if `over` is more than 0, as many more as free that many bytes. Returns at
    /// most `limit` records, and no more than one transaction should free.
    pub(super) fn expired(
        &self,
        route: &str,
        now: Uptime,
        keep: Duration,
        mut over: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeliveryId>> {
        let mut select = self.0.prepare_cached(
            "SELECT id, ended_ms, payload_bytes FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state IN ('success', 'failed') ORDER BY ended_ms LIMIT ?2",
        )?;
        let mut rows = select.query(params![route, limit])?;
        let (mut ids, mut freed) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            if now.since(Uptime(row.get(1)?)) < keep && over == 0 || freed > FREED_BYTES_MAX {
                break;
            }
            let bytes = row.get::<_, u64>(2)? + RECORD_BYTES.unsigned_abs();
            over = over.saturating_sub(bytes);
            freed += bytes;
            ids.push(DeliveryId(row.get(0)?));
        }
        Ok(ids)
    }

    /// Returns the bytes of a route's ended deliveries.
    pub(super) fn kept_bytes(&self, route: &str) -> rusqlite::Result<u64> {
        let mut select = self
            .0
            .prepare_cached("SELECT max(kept_bytes, 0) FROM routes WHERE name = ?1")?;
        Ok(select
            .query_row([route], |row| row.get(0))
            .optional()?
            .unwrap_or(0))
    }
}

/// Returns the size of the file's used pages, in bytes.
pub(super) fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
    Ok((number("page_count")? - number("freelist_count")?) * number("page_size")?)
}

fn read_delivery(row: &Row<'_>, now: Uptime) -> rusqlite::Result<DeliveryRecord> {
    let attempts: String = row.get(9)?;
    let due: Option<u64> = row.get(10)?;
    Ok(DeliveryRecord {
        id: DeliveryId(row.get(0)?),
        route: row.get(1)?,
        event_id: row.get(2)?,
        event_type: row.get(3)?,
        received_at: timestamp(row, 4)?,
        state: read_state(row, 5)?,
        reason: row.get(6)?,
        attempt_count: row.get(7)?,
        possibly_delivered: row.get(8)?,
        attempts: AttemptLog::parse(&attempts).into_records(),
        due_in: due.map(|due| Uptime(due).since(now)),
        payload_kept: row.get(11)?,
        secret: row.get(12)?,
        is_test: row.get(13)?,
        head: row.get::<_, Option<Vec<u8>>>(14)?.map(Bytes::from),
        body: row.get::<_, Option<Vec<u8>>>(15)?.map(Bytes::from),
    })
}

pub(super) fn read_state(row: &Row<'_>, column: usize) -> rusqlite::Result<DeliveryState> {
    let text: String = row.get(column)?;
    DeliveryState::parse(&text)
        .ok_or_else(|| conversion_error(column, format!("{text:?} is not a delivery state")))
}

fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| conversion_error(column, error))
}

fn optional_timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let value: Option<i64> = row.get(column)?;
    value.map(|_| timestamp(row, column)).transpose()
}

fn conversion_error(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}
