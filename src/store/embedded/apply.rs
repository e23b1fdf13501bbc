//! Applies jobs within a transaction, and applies a committed transaction to the in-memory state.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, ToSql, params};

use super::commit_log::Statements;
use super::ledger_file::{Hour, LedgerFile, LedgerRow, RowWrites, SlotContent, StoreFileError};
use super::queue_front::{FirstEvents, FrontChange, HeldEvent, Place, events_to_read};
use super::shared::Shared;
use super::{
    AttemptLog, AttemptOutcome, AttemptRecord, CreationKey, DeliveryChange, DeliveryId,
    DeliveryState, EventKey, EventRow, LedgerEntry, Payload, Requeue, RequeueResult, RowId,
    Settlement, StoreRoute,
};
use crate::store::StoredRedelivery;
use crate::store::delivery_state::{
    CountChanges, Progress, StateReason, StoreTime, StoredDelivery,
};
use crate::store::domain::{CREATION_KEPT, CREATIONS_MAX};
use crate::store::uptime::Uptime;

/// The number of the next delivery, and the IDs of the routes.
#[derive(Default)]
pub(super) struct Cursor {
    pub next_delivery: i64,
    pub routes: HashMap<Arc<str>, i64>,
}

/// An open transaction that jobs are applied to.
pub(super) struct BatchWriter<'t> {
    /// `None` if the statements are executed later, from the log. Then no job may read the database.
    connection: Option<&'t Connection>,
    ledger: &'t LedgerFile,
    cursor: &'t mut Cursor,
    /// The number of the commit.
    commit: i64,
    time: StoreTime,
    wall_ms: i64,
    /// The statements so far, for the commit log; `None` if SQLite itself flushes the transaction.
    pub log: Option<Statements>,
    /// The rows of the ledger so far, in order, each with its slot.
    rows: Vec<(u32, LedgerRow)>,
    effects: Effects,
}

/// What a transaction changes besides the database.
pub(super) struct Changes {
    pub rows: RowWrites,
    /// The statements for the commit log.
    pub statements: Option<Statements>,
    pub effects: Effects,
}

/// The changes to the in-memory state that follow from a committed transaction.
#[derive(Default)]
pub(super) struct Effects {
    removed: Vec<LedgerChange>,
    added: Vec<LedgerChange>,
    counts: CountChanges,
    fronts: Vec<FrontChange>,
}

/// A ledger row that was added or removed, with its route if that is known.
struct LedgerChange {
    key: EventKey,
    slot: u32,
    hour: Hour,
    route: Option<Arc<str>>,
}

impl<'t> BatchWriter<'t> {
    pub(super) fn new(
        connection: Option<&'t Connection>,
        shared: &'t Shared,
        cursor: &'t mut Cursor,
        commit: i64,
    ) -> Self {
        Self {
            connection,
            ledger: &shared.ledger,
            cursor,
            commit,
            time: shared.uptime.store_time(),
            wall_ms: Timestamp::now().as_millisecond(),
            log: None,
            rows: Vec::new(),
            effects: Effects::default(),
        }
    }

    /// Executes a statement that writes, or leaves it to the log. Every write goes through here, so that
    /// the commit log can repeat it.
    pub(super) fn write(
        &mut self,
        text: &'static str,
        values: &[&dyn ToSql],
    ) -> rusqlite::Result<()> {
        self.log(text, values)?;
        match self.connection {
            Some(connection) => connection.prepare_cached(text)?.execute(values).map(drop),
            None => Ok(()),
        }
    }

    /// Returns the database, for a job that reads it.
    fn database(&self) -> rusqlite::Result<&'t Connection> {
        self.connection.ok_or(rusqlite::Error::InvalidQuery)
    }

    /// Executes a statement that writes and returns rows.
    fn write_returning<T>(
        &mut self,
        text: &'static str,
        values: &[&dyn ToSql],
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Vec<T>> {
        self.log(text, values)?;
        let mut statement = self.database()?.prepare_cached(text)?;
        statement.query_map(values, read)?.collect()
    }

    /// Writes the store's clocks. `clean` is set at the end of a clean shutdown.
    pub(super) fn write_time(&mut self, downtime: Duration, clean: bool) -> rusqlite::Result<()> {
        let (now, wall_ms) = (self.time.now.0, self.wall_ms);
        self.write(
            "UPDATE store SET uptime_ms = ?1, downtime_ms = ?2, wall_ms = ?3, clean = ?4",
            params![now, millis(downtime), wall_ms, clean],
        )
    }

    fn log(&mut self, text: &'static str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
        match &mut self.log {
            Some(log) => log.push(text, values),
            None => Ok(()),
        }
    }

    /// Writes the sums of all jobs. Called last.
    pub(super) fn finish(mut self) -> rusqlite::Result<Changes> {
        let (counts, wall_ms) = (std::mem::take(&mut self.effects.counts), self.wall_ms);
        for ((route, day), change) in &counts.days {
            let route_id = self.route_id(route)?;
            self.write(
                "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                 successful = successful + ?3, failed = failed + ?4, total_ms = total_ms + ?5",
                params![
                    route_id,
                    day,
                    change.successful,
                    change.failed,
                    change.total_ms
                ],
            )?;
        }
        for (route, change) in &counts.routes {
            if !change.succeeded && !change.failed && change.kept_bytes == 0 {
                continue;
            }
            let route_id = self.route_id(route)?;
            self.write(
                "UPDATE routes SET last_success_ms = iif(?2, ?4, last_success_ms),
                 last_failure_ms = iif(?3, ?4, last_failure_ms), kept_bytes = kept_bytes + ?5
                 WHERE id = ?1",
                params![
                    route_id,
                    change.succeeded,
                    change.failed,
                    wall_ms,
                    change.kept_bytes
                ],
            )?;
        }
        self.effects.counts = counts;
        let mut rows = RowWrites::default();
        for (slot, row) in &self.rows {
            rows.push(*slot, row);
        }
        Ok(Changes {
            rows,
            statements: self.log,
            effects: self.effects,
        })
    }

    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
    ) -> Result<Option<DeliveryId>, StoreFileError> {
        let delivery = settlement.delivery.as_ref();
        let id = delivery
            .map(|change| self.record_delivery(change, settlement.keys_blob()))
            .transpose()?;
        for settled in settlement.rows() {
            let route = delivery.map(|change| &change.event.route);
            self.write_entry(settled.row, settled.entry, settled.window, id, route)?;
        }
        Ok(id)
    }

    /// Writes a ledger row and deletes the earlier one.
    pub(super) fn write_entry(
        &mut self,
        name: EventRow,
        entry: LedgerEntry,
        window: Duration,
        delivery: Option<DeliveryId>,
        route: Option<&Arc<str>>,
    ) -> Result<(), StoreFileError> {
        let earlier_route = match name.earlier {
            Some(earlier) => self.delete_row(name.key, earlier)?,
            None => None,
        };
        let route = route.cloned().or(earlier_route);
        let route_id = route
            .as_ref()
            .map(|route| self.route_id(route))
            .transpose()?;
        let ends = LedgerRow::bounded(self.time.now.after(window));
        let hour = Hour::containing(ends);
        let slot = self.ledger.allocate(hour)?;
        let row = LedgerRow {
            key: name.key,
            entry,
            ends,
            delivery,
            route: route_id,
            written: self.commit,
            deleted: None,
        };
        self.rows.push((slot, row));
        self.effects.added.push(LedgerChange {
            key: name.key,
            slot,
            hour,
            route,
        });
        Ok(())
    }

    /// Writes a delivery record: a new one, or an update of the earlier one.
    fn record_delivery(
        &mut self,
        change: &DeliveryChange,
        keys: Option<Vec<u8>>,
    ) -> rusqlite::Result<DeliveryId> {
        let earlier = match change.earlier {
            Some(id) => self.stored_delivery(id)?.map(|stored| (id, stored)),
            None => None,
        };
        let earlier = earlier.filter(|(_, stored)| stored.belongs_to(&change.event));
        let before = earlier.as_ref().map(|(_, stored)| &stored.progress);
        let after = Progress::settled(before, change, keys, self.time);
        let id = match earlier {
            Some((id, stored)) => {
                self.update(id, &stored, &after)?;
                id
            }
            None => self.insert(change, &after)?,
        };
        if let Some(payload) = &change.payload {
            self.store_payload(id, payload)?;
        }
        // An event that is due later would be in memory for too long.
        if change.due_after.is_zero()
            && let (Some(queued), Some(payload)) = (after.queued, &change.payload)
        {
            let held = HeldEvent::stored(&change.event, change.history, queued, payload.clone());
            self.effects.fronts.push(FrontChange::Stored(id, held));
        }
        Ok(id)
    }

    fn insert(
        &mut self,
        change: &DeliveryChange,
        after: &Progress,
    ) -> rusqlite::Result<DeliveryId> {
        let event = &change.event;
        let id = DeliveryId(self.cursor.next_delivery);
        self.cursor.next_delivery += 1;
        let route_id = self.route_id(&event.route)?;
        self.write(
            "INSERT INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
             ?14, ?15, ?16, ?17)",
            params![
                id.0,
                route_id,
                event.event_id,
                event.event_type,
                event.received_at.as_millisecond(),
                after.state.as_str(),
                after.reason.map(StateReason::as_str),
                after.tried,
                after.possibly_delivered,
                after.attempts.to_json(),
                after.stored_bytes,
                after.due.map(|due| due.0),
                after.queued.map(|queued| queued.0),
                after.ended.map(|ended| ended.0),
                after.keys,
                event.secret,
                event.is_test,
            ],
        )?;
        self.effects.counts.add(event, after);
        self.effects.place(id, &event.route, None, after);
        Ok(id)
    }

    /// Updates a delivery, and deletes its payload if it is no longer kept.
    fn update(
        &mut self,
        id: DeliveryId,
        before: &StoredDelivery,
        after: &Progress,
    ) -> rusqlite::Result<()> {
        self.write(
            "UPDATE deliveries SET state = ?2, reason = ?3, tried = ?4, possibly_delivered = ?5,
                 attempts = ?6, payload_bytes = ?7, due_ms = ?8, queued_ms = ?9, ended_ms = ?10,
                 keys = ?11 WHERE id = ?1",
            params![
                id.0,
                after.state.as_str(),
                after.reason.map(StateReason::as_str),
                after.tried,
                after.possibly_delivered,
                after.attempts.to_json(),
                after.stored_bytes,
                after.due.map(|due| due.0),
                after.queued.map(|queued| queued.0),
                after.ended.map(|ended| ended.0),
                after.keys,
            ],
        )?;
        if after.stored_bytes == 0 && before.progress.stored_bytes > 0 {
            self.delete_payload(id)?;
        }
        self.effects.counts.change(before, after);
        let progress = &before.progress;
        self.effects.place(id, &before.route, Some(progress), after);
        Ok(())
    }

    fn store_payload(&mut self, id: DeliveryId, payload: &Payload) -> rusqlite::Result<()> {
        self.write(
            "INSERT OR REPLACE INTO payloads VALUES (?1, ?2, ?3)",
            params![id.0, &payload.head[..], &payload.body[..]],
        )
    }

    fn delete_payload(&mut self, id: DeliveryId) -> rusqlite::Result<()> {
        self.write("DELETE FROM payloads WHERE delivery = ?1", params![id.0])
    }

    /// Records an attempt. Recording the same attempt again changes nothing: the caller repeats it
    /// after a commit whose outcome it does not know.
    pub(super) fn record_attempt(
        &mut self,
        id: DeliveryId,
        number: u32,
        attempt: &AttemptRecord,
        outcome: AttemptOutcome,
    ) -> rusqlite::Result<()> {
        let is_next = |progress: &Progress| {
            progress.state == DeliveryState::Pending && progress.tried < number
        };
        match self.stored_delivery(id)? {
            Some(stored) if is_next(&stored.progress) => {
                let before = stored.progress.clone();
                let after = before.attempted(attempt, outcome, self.time);
                self.update(id, &stored, &after)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn requeue(&mut self, requeue: &Requeue) -> Result<RequeueResult, StoreFileError> {
        let Some(stored) = self.stored_delivery(requeue.id)? else {
            return Ok(RequeueResult::Unknown);
        };
        let after = match stored.progress.clone().requeued(requeue, self.time) {
            Ok(after) => after,
            Err(refused) => return Ok(refused),
        };
        self.update(requeue.id, &stored, &after)?;
        for name in &requeue.completing {
            // The digest is unknown, so any body with this ID is a duplicate from now on.
            let digest = crate::signature::PayloadDigest::unknown();
            self.write_entry(
                *name,
                LedgerEntry::Completed { digest },
                requeue.window,
                Some(requeue.id),
                Some(&stored.route),
            )?;
        }
        // This includes deliveries that were pending: the route worker may sleep past the new due
        // time.
        let to_notify = &mut self.effects.counts.to_notify;
        to_notify.push(Arc::clone(&stored.route));
        Ok(RequeueResult::Queued(stored.route))
    }

    /// Moves up to `limit` events in this state from one route to another, oldest first. Returns
    /// their number. Their IDs in the ledger stay those of the first route.
    pub(super) fn move_events(
        &mut self,
        from: &Arc<str>,
        to: &Arc<str>,
        state: DeliveryState,
        limit: usize,
    ) -> rusqlite::Result<usize> {
        let Some(&from_id) = self.cursor.routes.get(from) else {
            return Ok(0);
        };
        let to_id = self.route_id(to)?;
        let StoreTime { now, now_due } = self.time;
        let moved: Vec<(i64, i64)> = self.write_returning(
            "UPDATE deliveries SET route = ?2, due_ms = min(due_ms, ?5),
                 queued_ms = iif(state = 'pending', ?6, queued_ms)
             WHERE id IN (SELECT id FROM deliveries
                 WHERE route = ?1 AND state = ?3 AND state <> 'success' ORDER BY id LIMIT ?4)
             RETURNING received_ms, payload_bytes",
            params![from_id, to_id, state.as_str(), limit, now_due.0, now.0],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        for route in [from, to] {
            let forgotten = FrontChange::Forgotten(Arc::clone(route));
            self.effects.fronts.push(forgotten);
        }
        for &(received_ms, stored_bytes) in &moved {
            let counts = &mut self.effects.counts;
            counts.move_open((from, to), received_ms, state, stored_bytes);
        }
        Ok(moved.len())
    }

    /// Deletes an event's ledger rows, if they still exist.
    pub(super) fn forget_event(
        &mut self,
        rows: &[(EventKey, RowId)],
    ) -> Result<(), StoreFileError> {
        rows.iter()
            .try_for_each(|&(key, row)| self.delete_row(key, row).map(drop))
    }

    /// Deletes a ledger row, unless its slot has another event's by now. Returns its route, if that is
    /// known.
    fn delete_row(
        &mut self,
        key: EventKey,
        row: RowId,
    ) -> Result<Option<Arc<str>>, StoreFileError> {
        let Some(slot) = row.slot() else {
            return Ok(None);
        };
        let found = match self.rows.iter().rfind(|(written, _)| *written == slot) {
            Some((_, row)) => SlotContent::Row(*row),
            None => self.ledger.read(slot)?,
        };
        let row = match found {
            // The slot of a row that has expired may be in use for others.
            SlotContent::Row(row) if row.key == key && row.is_live(self.time.now) => row,
            _ => return Ok(None),
        };
        let deleted = LedgerRow {
            deleted: Some(self.commit),
            ..row
        };
        self.rows.push((slot, deleted));
        let route = row.route.and_then(|id| {
            let mut routes = self.cursor.routes.iter();
            routes
                .find(|(_, known)| **known == id)
                .map(|(route, _)| Arc::clone(route))
        });
        self.effects.removed.push(LedgerChange {
            key,
            slot,
            hour: Hour::containing(row.ends),
            route: route.clone(),
        });
        Ok(route)
    }

    /// Deletes the records of deliveries that have ended.
    pub(super) fn delete_records(&mut self, ids: &[DeliveryId]) -> rusqlite::Result<()> {
        for &id in ids {
            let has_ended = |stored: &StoredDelivery| {
                let state = stored.progress.state;
                matches!(state, DeliveryState::Success | DeliveryState::Failed)
            };
            let Some(stored) = self.stored_delivery(id)?.filter(has_ended) else {
                continue;
            };
            self.delete_payload(id)?;
            self.write("DELETE FROM deliveries WHERE id = ?1", params![id.0])?;
            self.effects.counts.delete_record(&stored);
        }
        Ok(())
    }

    /// Reads the first pending events of a route, for a worker that asks for `rows` at once.
    pub(super) fn read_front(&mut self, route: &Arc<str>, rows: usize) -> rusqlite::Result<()> {
        let max = events_to_read(rows);
        let mut select = self.database()?.prepare_cached(
            "SELECT due_ms, id, payload_bytes FROM deliveries
             WHERE route = (SELECT id FROM routes WHERE name = ?1) AND state = 'pending'
             ORDER BY due_ms, id LIMIT ?2",
        )?;
        let rows = select.query_map(params![route, max.saturating_add(1)], |row| {
            let place = (Uptime(row.get(0)?), DeliveryId(row.get(1)?));
            Ok((place, row.get(2)?))
        })?;
        let mut events: Vec<(Place, usize)> = rows.collect::<rusqlite::Result<_>>()?;
        let end = events.get(max).map(|(place, _)| *place);
        events.truncate(max);
        self.effects.fronts.push(FrontChange::Read {
            route: Arc::clone(route),
            read: FirstEvents { events, end, max },
        });
        Ok(())
    }

    pub(super) fn set_paused(&mut self, route: &Arc<str>, paused: bool) -> rusqlite::Result<()> {
        if paused {
            let forgotten = FrontChange::Forgotten(Arc::clone(route));
            self.effects.fronts.push(forgotten);
        }
        let sql = if paused {
            "INSERT INTO paused VALUES (?1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM paused WHERE route = ?1"
        };
        self.write(sql, params![route])
    }

    pub(super) fn set_redelivery(&mut self, redelivery: &StoredRedelivery) -> rusqlite::Result<()> {
        self.write(
            "INSERT INTO redelivery VALUES (1, ?1, ?2) ON CONFLICT (one) DO UPDATE
             SET document = excluded.document, running = excluded.running",
            params![redelivery.document, redelivery.is_running],
        )
    }

    pub(super) fn set_webhook(
        &mut self,
        name: &str,
        definition: Option<&str>,
    ) -> rusqlite::Result<()> {
        match definition {
            Some(definition) => self.write(
                "INSERT INTO webhooks VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE
                 SET definition = excluded.definition",
                params![name, definition],
            ),
            None => self.write("DELETE FROM webhooks WHERE name = ?1", params![name]),
        }
    }

    /// Remembers a creation, and forgets those that are too old or too many.
    pub(super) fn remember_creation(
        &mut self,
        name: &str,
        definition: &str,
        creation: &CreationKey,
    ) -> rusqlite::Result<()> {
        let CreationKey { key, request } = creation;
        let ends = self.time.now.after(CREATION_KEPT);
        self.write(
            "INSERT OR REPLACE INTO creations VALUES (?1, ?2, ?3, ?4, ?5)",
            params![key, request, name, definition, ends.0],
        )?;
        self.forget_expired_creations()?;
        self.write(
            "DELETE FROM creations WHERE key IN
             (SELECT key FROM creations ORDER BY ends_ms DESC LIMIT -1 OFFSET ?1)",
            params![CREATIONS_MAX],
        )
    }

    pub(super) fn forget_expired_creations(&mut self) -> rusqlite::Result<()> {
        let now = self.time.now.0;
        self.write("DELETE FROM creations WHERE ends_ms <= ?1", params![now])
    }

    pub(super) fn update_routes(&mut self, routes: &[StoreRoute]) -> rusqlite::Result<()> {
        for route in routes {
            let id = self.route_id(&route.route)?;
            self.write(
                "UPDATE routes SET concurrency = ?2 WHERE id = ?1",
                params![id, route.concurrency],
            )?;
            let limits = route.retain.limits();
            let max_bytes = limits
                .max_bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            self.write(
                "INSERT INTO route_settings VALUES (?1, ?2, ?3, ?4) ON CONFLICT (route) DO UPDATE
                 SET keep_ms = excluded.keep_ms, max_bytes = excluded.max_bytes,
                     horizon_ms = excluded.horizon_ms",
                params![
                    route.route,
                    millis(limits.keep),
                    max_bytes,
                    millis(route.horizon)
                ],
            )?;
        }
        Ok(())
    }

    fn route_id(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(&id) = self.cursor.routes.get(name) {
            return Ok(id);
        }
        // Chosen here, so that a statement of the commit log never depends on the rows before it.
        let id = self.cursor.routes.values().max().map_or(1, |last| last + 1);
        let created_ms = self.wall_ms;
        self.write(
            "INSERT INTO routes (id, name, created_ms, concurrency) VALUES (?1, ?2, ?3, 1)",
            params![id, name, created_ms],
        )?;
        self.cursor.routes.insert(Arc::clone(name), id);
        Ok(id)
    }

    fn stored_delivery(&self, id: DeliveryId) -> rusqlite::Result<Option<StoredDelivery>> {
        let mut select = self.database()?.prepare_cached(
            "SELECT routes.name, event_id, received_ms, state, reason, tried, possibly_delivered,
             due_ms, queued_ms, ended_ms, keys, payload_bytes, attempts FROM deliveries
             JOIN routes ON routes.id = route WHERE deliveries.id = ?1",
        )?;
        select.query_row([id.0], read_delivery).optional()
    }
}

fn read_delivery(row: &Row<'_>) -> rusqlite::Result<StoredDelivery> {
    let uptime = |column| {
        let ms = row.get::<_, Option<u64>>(column)?;
        Ok::<_, rusqlite::Error>(ms.map(Uptime))
    };
    Ok(StoredDelivery {
        route: row.get::<_, String>(0)?.into(),
        event_id: row.get(1)?,
        received_ms: row.get(2)?,
        progress: Progress {
            state: super::read::read_state(row, 3)?,
            reason: row
                .get_ref(4)?
                .as_str_or_null()?
                .and_then(StateReason::parse),
            tried: row.get(5)?,
            possibly_delivered: row.get(6)?,
            due: uptime(7)?,
            queued: uptime(8)?,
            ended: uptime(9)?,
            keys: row.get(10)?,
            stored_bytes: row.get(11)?,
            attempts: AttemptLog::parse(row.get_ref(12)?.as_str()?),
        },
    })
}

impl Effects {
    /// Notes the place of a delivery in its queue, if it is or was pending.
    fn place(
        &mut self,
        id: DeliveryId,
        route: &Arc<str>,
        before: Option<&Progress>,
        after: &Progress,
    ) {
        let before = before.and_then(|progress| progress.due);
        if before.is_none() && after.due.is_none() {
            return;
        }
        let payload_bytes = usize::try_from(after.stored_bytes).unwrap_or(0);
        self.fronts.push(FrontChange::Placed {
            route: Arc::clone(route),
            before: before.map(|due| (due, id)),
            after: after.due.map(|due| ((due, id), payload_bytes)),
        });
    }

    pub(super) fn apply(mut self, shared: &Shared) {
        // Before the route workers are notified.
        shared.queue_fronts.apply(std::mem::take(&mut self.fronts));
        for row in &self.removed {
            shared.index.remove(row.key, row.slot);
        }
        for row in &self.added {
            shared.index.insert(row.key, row.slot);
        }
        self.count_usage(shared);
        let CountChanges {
            routes, to_notify, ..
        } = self.counts;
        if routes.is_empty() {
            return;
        }
        shared.with_counts(|counts| {
            for (route, change) in routes {
                if change.pending != 0 || change.dead != 0 {
                    let counts = counts.entry(route).or_default();
                    counts.pending = counts.pending.saturating_add_signed(change.pending);
                    counts.dead = counts.dead.saturating_add_signed(change.dead);
                }
            }
        });
        for route in to_notify {
            shared.notify_route(&route);
        }
    }
}

impl Effects {
    /// Counts what the routes hold after the transaction.
    fn count_usage(&self, shared: &Shared) {
        let mut usage = shared.usage();
        for row in &self.removed {
            if let Some(route) = &row.route {
                usage.remove_id(route, row.hour);
            }
        }
        for row in &self.added {
            if let Some(route) = &row.route {
                usage.add_ids(route, row.hour, 1);
            }
        }
        let mut growth = 0;
        for (route, change) in &self.counts.routes {
            usage.change_bytes(route, change.bytes());
            growth += change.bytes();
        }
        drop(usage);
        shared.add_used_bytes(u64::try_from(growth).unwrap_or(0));
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
