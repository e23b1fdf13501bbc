//! Looking things up, on connections that can't write, beside the writer.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    AttemptHistory, COUNTED_MAX, DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState,
    DueEvent, DueEvents, EventKey, KnownEvent, LISTED_BODY_MAX, LeaseDeadline, LedgerEntry,
    Payload, QueuedEvent, RECORD_BYTES, RouteDeliveryStats, RowId, schema,
};
use crate::signature::PayloadDigest;
use crate::store::uptime::Uptime;

/// A connection for looking at the store.
pub(super) struct Reader(Connection);

impl DeliveryFilter {
    /// Written so that the indexes can be used: by route alone, or by route and any state but success. The parameters are
    /// the route (2), the state (3), the event's type (4) and ID (5), and the bounds of its arrival (6, 7).
    fn condition(&self) -> String {
        let of_route = match self.route {
            Some(_) => "route = (SELECT id FROM routes WHERE name = ?2)",
            None => "?2 IS NULL",
        };
        let of_state = match self.state {
            Some(DeliveryState::Success) => "state = ?3",
            Some(_) => "state = ?3 AND state <> 'success'",
            None => "?3 IS NULL",
        };
        format!(
            "{of_route} AND {of_state} AND (?4 IS NULL OR event_type = ?4) AND (?5 IS NULL OR event_id = ?5)
             AND (?6 IS NULL OR received_ms >= ?6) AND (?7 IS NULL OR received_ms < ?7)"
        )
    }
}

/// Bytes of records and payloads that one transaction frees, about.
const FREED_AT_ONCE: u64 = 4 << 20;

const VIEW: &str = "SELECT deliveries.id, routes.name, event_id, event_type, received_ms, state, reason, tried,
    possibly_delivered, attempts, due_ms, payload_bytes > 0, secret, test, head, body FROM deliveries JOIN routes ON routes.id = route
    LEFT JOIN payloads ON payload_bytes BETWEEN 1 AND ?1 AND delivery = deliveries.id";

impl Reader {
    pub(super) fn connection(&self) -> &Connection {
        &self.0
    }

    pub(super) fn paused(&self) -> rusqlite::Result<Vec<String>> {
        self.0
            .prepare("SELECT route FROM paused")?
            .query_map([], |row| row.get(0))?
            .collect()
    }

    pub(super) fn webhooks(&self) -> rusqlite::Result<Vec<(String, String)>> {
        let mut select = self
            .0
            .prepare("SELECT name, definition FROM webhooks ORDER BY name")?;
        select
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect()
    }

    pub(super) fn open(file: &Path) -> rusqlite::Result<Self> {
        schema::open_to_read(file).map(Self)
    }

    /// On a connection that is open already.
    pub(super) fn on(connection: Connection) -> Self {
        Self(connection)
    }

    /// The event's row, if it is in one of these places and has not ended.
    pub(super) fn confirm(
        &self,
        key: EventKey,
        places: &[RowId],
        now: Uptime,
    ) -> rusqlite::Result<Option<(RowId, KnownEvent)>> {
        confirm(&self.0, key, places, now)
    }

    /// The rows that the event has in these places, and those of its other name: written with them by one settlement, it
    /// lies beside them and tells of the same delivery.
    pub(super) fn rows(
        &self,
        key: EventKey,
        places: &[RowId],
        now: Uptime,
    ) -> rusqlite::Result<Vec<(EventKey, RowId)>> {
        let mut select = self.0.prepare_cached(
            "SELECT other.key, other.place FROM ledger AS own JOIN ledger AS other
             ON other.place BETWEEN own.place - 1 AND own.place + 1
             AND (other.place = own.place OR other.delivery = own.delivery)
             WHERE own.place = ?1 AND own.key = ?2 AND own.ends_ms > ?3",
        )?;
        let mut rows = Vec::new();
        for place in places {
            let found = select.query_map(params![place.0, key.0.to_be_bytes(), now.0], |row| {
                Ok((
                    EventKey(u128::from_be_bytes(row.get(0)?)),
                    RowId(row.get(1)?),
                ))
            })?;
            for row in found {
                let row = row?;
                if !rows.contains(&row) {
                    rows.push(row);
                }
            }
        }
        Ok(rows)
    }

    pub(super) fn due(
        &self,
        route: &str,
        now: Uptime,
        limit: usize,
    ) -> rusqlite::Result<DueEvents> {
        let mut select = self.0.prepare_cached(
            "SELECT deliveries.id, payload_bytes FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1) AND state = 'pending' AND due_ms <= ?2
             ORDER BY due_ms, deliveries.id LIMIT ?3",
        )?;
        let rows = select.query_map(params![route, now.0, limit], |row| {
            Ok(DueEvent {
                id: DeliveryId(row.get(0)?),
                payload_bytes: row.get(1)?,
            })
        })?;
        // Of the same moment: an event that becomes due in between would be in neither.
        let events: Vec<DueEvent> = rows.collect::<rusqlite::Result<_>>()?;
        Ok(DueEvents {
            all_seen: events.len() < limit,
            events,
            next_in: self.next_due(route, now)?,
        })
    }

    fn next_due(&self, route: &str, now: Uptime) -> rusqlite::Result<Option<Duration>> {
        let mut select = self.0.prepare_cached(
            "SELECT min(due_ms) FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1) AND state = 'pending' AND due_ms > ?2",
        )?;
        let due: Option<u64> = select.query_row(params![route, now.0], |row| row.get(0))?;
        Ok(due.map(|due| Uptime(due).since(now)))
    }

    pub(super) fn load(
        &self,
        id: DeliveryId,
        now: Uptime,
    ) -> rusqlite::Result<Option<QueuedEvent>> {
        let mut select = self.0.prepare_cached(
            "SELECT event_id, event_type, tried, possibly_delivered, received_ms, queued_ms
             FROM deliveries WHERE id = ?1 AND state = 'pending'",
        )?;
        let queued = select.query_row([id.0], |row| {
            Ok(QueuedEvent {
                event_id: row.get::<_, String>(0)?.into(),
                event_type: row.get::<_, String>(1)?.into(),
                tried: AttemptHistory {
                    attempts: row.get(2)?,
                    possibly_delivered: row.get(3)?,
                },
                received_at: timestamp(row, 4)?,
                age: now.since(Uptime(row.get(5)?)),
                payload: None,
                until: LeaseDeadline::EVER,
            })
        });
        let Some(queued) = queued.optional()? else {
            return Ok(None);
        };
        Ok(Some(QueuedEvent {
            payload: self.payload(id)?,
            ..queued
        }))
    }

    /// `None` for one that is damaged or gone.
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

    pub(super) fn names(
        &self,
        id: DeliveryId,
    ) -> rusqlite::Result<Option<(String, Vec<EventKey>)>> {
        let mut select = self.0.prepare_cached(
            "SELECT routes.name, keys FROM deliveries JOIN routes ON routes.id = route WHERE deliveries.id = ?1",
        )?;
        let found: Option<(String, Option<Vec<u8>>)> = select
            .query_row([id.0], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        Ok(found.map(|(route, keys)| {
            let keys = keys.unwrap_or_default();
            let (keys, _) = keys.as_chunks::<16>();
            (
                route,
                keys.iter()
                    .map(|key| EventKey(u128::from_be_bytes(*key)))
                    .collect(),
            )
        }))
    }

    pub(super) fn oldest_waiting(&self, route: &str) -> rusqlite::Result<Option<Timestamp>> {
        let mut select = self.0.prepare_cached(
            "SELECT received_ms FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1) AND state = 'pending' AND state <> 'success'
             ORDER BY rowid LIMIT 1",
        )?;
        select
            .query_row([route], |row| timestamp(row, 0))
            .optional()
    }

    pub(super) fn delivery(
        &self,
        id: DeliveryId,
        now: Uptime,
    ) -> rusqlite::Result<Option<DeliveryRecord>> {
        let mut select = self
            .0
            .prepare_cached(&format!("{VIEW} WHERE deliveries.id = ?2"))?;
        select
            .query_row(params![i64::MAX, id.0], |row| view(row, now))
            .optional()
    }

    pub(super) fn deliveries(
        &self,
        filter: &DeliveryFilter,
        now: Uptime,
    ) -> rusqlite::Result<Vec<DeliveryRecord>> {
        let mut select = self.0.prepare_cached(&format!(
            "{VIEW} WHERE {} AND deliveries.id < ?8 ORDER BY deliveries.id DESC LIMIT ?9",
            filter.condition()
        ))?;
        let [since, until] = filter.bounds();
        let rows = select.query_map(
            params![
                if filter.with_bodies {
                    LISTED_BODY_MAX
                } else {
                    0
                },
                filter.route,
                filter.state.map(DeliveryState::as_str),
                filter.event_type,
                filter.event_id,
                since,
                until,
                filter.before.map_or(i64::MAX, |before| before.0),
                filter.limit,
            ],
            |row| view(row, now),
        )?;
        rows.collect()
    }

    /// How many there are of these; `None` when there are more than [`COUNTED_MAX`].
    pub(super) fn count_deliveries(
        &self,
        filter: &DeliveryFilter,
    ) -> rusqlite::Result<Option<usize>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT count(*) FROM (SELECT 1 FROM deliveries WHERE ?1 AND {} LIMIT ?8)",
            filter.condition()
        ))?;
        let (state, [since, until]) = (filter.state.map(DeliveryState::as_str), filter.bounds());
        let count = select.query_row(
            params![
                true,
                filter.route,
                state,
                filter.event_type,
                filter.event_id,
                since,
                until,
                COUNTED_MAX + 1
            ],
            |row| row.get(0),
        )?;
        Ok(Some(count).filter(|count| *count <= COUNTED_MAX))
    }

    /// Those that match and come after `after`, the oldest first, `limit` at the most: each with whether its payload is
    /// kept.
    pub(super) fn matching(
        &self,
        filter: &DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> rusqlite::Result<Vec<(DeliveryId, bool)>> {
        let mut select = self.0.prepare_cached(&format!(
            "SELECT id, payload_bytes > 0 FROM deliveries WHERE id > ?1 AND {} ORDER BY id LIMIT ?8",
            filter.condition()
        ))?;
        let (state, [since, until]) = (filter.state.map(DeliveryState::as_str), filter.bounds());
        let rows = select.query_map(
            params![
                after.0,
                filter.route,
                state,
                filter.event_type,
                filter.event_id,
                since,
                until,
                limit
            ],
            |row| Ok((DeliveryId(row.get(0)?), row.get(1)?)),
        )?;
        rows.collect()
    }

    pub(super) fn route_record(
        &self,
        route: &str,
        since_day: i64,
    ) -> rusqlite::Result<RouteDeliveryStats> {
        let mut select = self.0.prepare_cached(
            "SELECT created_ms, last_success_ms, last_failure_ms, coalesce(sum(successful), 0), coalesce(sum(failed), 0),
             coalesce(sum(iif(day >= ?2, successful + failed, 0)), 0), coalesce(sum(total_ms), 0)
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

    /// Bytes of the file that hold something.
    pub(super) fn used_bytes(&self) -> rusqlite::Result<u64> {
        let number = |pragma| {
            self.0
                .pragma_query_value(None, pragma, |row| row.get::<_, u64>(0))
        };
        Ok((number("page_count")? - number("freelist_count")?) * number("page_size")?)
    }

    /// The names of the routes that have records of ended deliveries.
    pub(super) fn routes_with_records(&self) -> rusqlite::Result<Vec<String>> {
        let mut select = self
            .0
            .prepare_cached("SELECT name FROM routes WHERE kept_bytes <> 0")?;
        select.query_map([], |row| row.get(0))?.collect()
    }

    /// Records of a route that may go, those first that ended first: those that ended `keep` ago, and, `over` being more
    /// than 0, as many more as make up for so many bytes. At most `limit`, and no more than a transaction should free.
    pub(super) fn expired(
        &self,
        route: &str,
        now: Uptime,
        keep: Duration,
        mut over: u64,
        limit: usize,
    ) -> rusqlite::Result<Vec<DeliveryId>> {
        let mut select = self.0.prepare_cached(
            "SELECT id, ended_ms, payload_bytes FROM deliveries WHERE route = (SELECT id FROM routes WHERE name = ?1)
             AND state IN ('success', 'failed') ORDER BY ended_ms LIMIT ?2",
        )?;
        let mut rows = select.query(params![route, limit])?;
        let (mut ids, mut freed) = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            if now.since(Uptime(row.get(1)?)) < keep && over == 0 || freed > FREED_AT_ONCE {
                break;
            }
            let bytes = row.get::<_, u64>(2)? + RECORD_BYTES.unsigned_abs();
            over = over.saturating_sub(bytes);
            freed += bytes;
            ids.push(DeliveryId(row.get(0)?));
        }
        Ok(ids)
    }

    /// Bytes of a route's ended deliveries.
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

/// As [`Reader::confirm`], on any connection.
pub(super) fn confirm(
    connection: &Connection,
    key: EventKey,
    places: &[RowId],
    now: Uptime,
) -> rusqlite::Result<Option<(RowId, KnownEvent)>> {
    let mut select = connection.prepare_cached(
        "SELECT attempts, possibly_delivered, digest, delivery FROM ledger
         WHERE place = ?1 AND key = ?2 AND ends_ms > ?3",
    )?;
    let mut tried = None;
    for &place in places {
        let found = select.query_row(params![place.0, key.0.to_be_bytes(), now.0], |row| {
            let digest: Option<[u8; 16]> = row.get(2)?;
            let record = match digest {
                Some(digest) => LedgerEntry::Completed {
                    digest: PayloadDigest::from_bytes(digest),
                },
                None => LedgerEntry::Attempted(AttemptHistory {
                    attempts: row.get(0)?,
                    possibly_delivered: row.get(1)?,
                }),
            };
            Ok((
                place,
                KnownEvent {
                    record,
                    delivery: row.get::<_, Option<i64>>(3)?.map(DeliveryId),
                },
            ))
        });
        match found.optional()? {
            // Whatever else there is.
            Some(
                found @ (
                    _,
                    KnownEvent {
                        record: LedgerEntry::Completed { .. },
                        ..
                    },
                ),
            ) => return Ok(Some(found)),
            found => tried = tried.or(found),
        }
    }
    Ok(tried)
}

fn view(row: &Row<'_>, now: Uptime) -> rusqlite::Result<DeliveryRecord> {
    let attempts: String = row.get(9)?;
    let due: Option<u64> = row.get(10)?;
    Ok(DeliveryRecord {
        id: DeliveryId(row.get(0)?),
        route: row.get(1)?,
        event_id: row.get(2)?,
        event_type: row.get(3)?,
        received_at: timestamp(row, 4)?,
        state: state_of(row, 5)?,
        reason: row.get(6)?,
        tried: row.get(7)?,
        possibly_delivered: row.get(8)?,
        attempts: serde_json::from_str(&attempts).map_err(|error| wrong(9, error))?,
        due_in: due.map(|due| Uptime(due).since(now)),
        payload_kept: row.get(11)?,
        secret: row.get(12)?,
        is_test: row.get(13)?,
        head: row.get::<_, Option<Vec<u8>>>(14)?.map(Bytes::from),
        body: row.get::<_, Option<Vec<u8>>>(15)?.map(Bytes::from),
    })
}

pub(super) fn state_of(row: &Row<'_>, column: usize) -> rusqlite::Result<DeliveryState> {
    let text: String = row.get(column)?;
    DeliveryState::parse(&text)
        .ok_or_else(|| wrong(column, format!("{text:?} is no state of a delivery")))
}

fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| wrong(column, error))
}

fn optional_timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    let value: Option<i64> = row.get(column)?;
    value.map(|_| timestamp(row, column)).transpose()
}

fn wrong(
    column: usize,
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
}
