//! Applies jobs within a transaction, and applies a committed transaction to the in-memory state.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::shared::{QueueCounts, Shared};
use super::{
    AttemptHistory, AttemptLog, AttemptOutcome, AttemptRecord, CreationKey, DeliveryChange,
    DeliveryId, DeliveryState, EventKey, EventMetadata, EventRow, LedgerEntry, RECORD_BYTES,
    Requeue, RequeueResult, RowId, Settlement, StoreRoute,
};
use crate::store::domain::{AUTOMATIC, CREATION_KEPT, CREATIONS_MAX};
use crate::store::uptime::Uptime;

const DAY_MS: i64 = 86_400_000;

/// The next row numbers, and the IDs of the routes.
#[derive(Default)]
pub(super) struct Cursor {
    pub next_delivery: i64,
    /// The next number within each bucket, by the bucket's first row ID.
    pub next_row: HashMap<RowId, i64>,
    pub routes: HashMap<Arc<str>, i64>,
}

/// An open transaction that jobs are applied to.
pub(super) struct BatchWriter<'t> {
    pub connection: &'t Connection,
    pub cursor: &'t mut Cursor,
    pub now: Uptime,
    pub now_due: Uptime,
    pub wall_ms: i64,
    effects: Effects,
    day_deltas: HashMap<(i64, i64), DayDelta>,
    route_deltas: HashMap<i64, RouteDelta>,
}

/// The changes to the in-memory state that follow from a committed transaction.
#[derive(Default)]
pub(super) struct Effects {
    removed: Vec<LedgerChange>,
    added: Vec<LedgerChange>,
    /// The changes of the bytes that each route holds, in the order of the jobs.
    byte_changes: Vec<(Arc<str>, i64)>,
    state_changes: Vec<(Arc<str>, Option<DeliveryState>, Option<DeliveryState>)>,
    /// The routes of events whose due time has changed.
    requeued: Vec<Arc<str>>,
}

/// A ledger row that was added or removed, with its route if that is known.
struct LedgerChange {
    key: EventKey,
    row_id: RowId,
    route: Option<Arc<str>>,
}

#[derive(Default)]
struct DayDelta {
    successful: i64,
    failed: i64,
    total_ms: i64,
}

#[derive(Default)]
struct RouteDelta {
    last_success: bool,
    last_failure: bool,
    kept_bytes: i64,
}

/// A delivery as it is stored before a change.
struct StoredDelivery {
    route: Arc<str>,
    route_id: i64,
    received_ms: i64,
    state: DeliveryState,
    /// The bytes of the payload, and of the bodies of responses.
    payload_bytes: i64,
    event_id: String,
    tried: u32,
    attempts: AttemptLog,
}

impl StoredDelivery {
    fn belongs_to(&self, event: &EventMetadata) -> bool {
        self.event_id == *event.event_id && self.route == event.route
    }
}

impl<'t> BatchWriter<'t> {
    pub(super) fn new(
        connection: &'t Connection,
        cursor: &'t mut Cursor,
        now: Uptime,
        now_due: Uptime,
        wall_ms: i64,
    ) -> Self {
        let effects = Effects::default();
        Self {
            connection,
            cursor,
            now,
            now_due,
            wall_ms,
            effects,
            day_deltas: HashMap::new(),
            route_deltas: HashMap::new(),
        }
    }

    /// Writes the sums of all jobs. Called last.
    pub(super) fn finish(self) -> rusqlite::Result<Effects> {
        for ((route, day), delta) in self.day_deltas {
            let mut count = self.connection.prepare_cached(
                "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                 successful = successful + ?3, failed = failed + ?4, total_ms = total_ms + ?5",
            )?;
            count.execute(params![
                route,
                day,
                delta.successful,
                delta.failed,
                delta.total_ms
            ])?;
        }
        for (route, delta) in self.route_deltas {
            let mut update = self.connection.prepare_cached(
                "UPDATE routes SET last_success_ms = iif(?2, ?4, last_success_ms),
                 last_failure_ms = iif(?3, ?4, last_failure_ms), kept_bytes = kept_bytes + ?5
                 WHERE id = ?1",
            )?;
            update.execute(params![
                route,
                delta.last_success,
                delta.last_failure,
                self.wall_ms,
                delta.kept_bytes
            ])?;
        }
        Ok(self.effects)
    }

    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
    ) -> rusqlite::Result<Option<DeliveryId>> {
        let delivery = settlement.delivery.as_ref();
        let id = delivery
            .map(|delivery| self.record_delivery(delivery, settlement.keys_blob().as_deref()))
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
    ) -> rusqlite::Result<()> {
        let earlier_route = match name.earlier {
            Some(earlier) => self.delete_row(name.key, earlier)?,
            None => None,
        };
        let route = route.cloned().or(earlier_route);
        let route_id = route
            .as_ref()
            .map(|route| self.route_id(route))
            .transpose()?;
        let ends = self.now.after(window);
        let bucket = RowId::first_of_bucket(ends);
        let number = self.cursor.next_row.entry(bucket).or_insert(0);
        let row_id = RowId(bucket.0 + *number);
        *number += 1;
        let (digest, tried) = match entry {
            LedgerEntry::Completed { digest } => {
                (Some(digest.to_bytes()), AttemptHistory::default())
            }
            LedgerEntry::Attempted(tried) => (None, tried),
        };
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        insert.execute(params![
            row_id.0,
            name.key.0.to_be_bytes(),
            ends.0,
            tried.attempts,
            tried.possibly_delivered,
            digest,
            delivery.map(|id| id.0),
            route_id,
        ])?;
        self.effects.added.push(LedgerChange {
            key: name.key,
            row_id,
            route,
        });
        Ok(())
    }

    /// Writes a delivery record: a new one, or an update of the earlier one.
    fn record_delivery(
        &mut self,
        change: &DeliveryChange,
        keys: Option<&[u8]>,
    ) -> rusqlite::Result<DeliveryId> {
        let due = (change.state == DeliveryState::Pending)
            .then(|| self.now_due.after(change.due_after).0);
        let queued = due.map(|_| self.now.0);
        let ended = due.is_none().then_some(self.now.0);
        if let Some(id) = change.earlier
            && let Some(stored) = self
                .stored_delivery(id)?
                .filter(|stored| stored.belongs_to(&change.event))
        {
            let mut update = self.connection.prepare_cached(
                "UPDATE deliveries SET state = ?2, reason = NULL, tried = ?3,
                     possibly_delivered = ?4, due_ms = ?5, queued_ms = ?6, ended_ms = ?7, keys = ?8,
                     attempts = ?9 WHERE id = ?1",
            )?;
            let attempts = change.attempts_after(&stored.attempts);
            update.execute(params![
                id.0,
                change.state.as_str(),
                change.history.attempts,
                change.history.possibly_delivered,
                due,
                queued,
                ended,
                keys,
                attempts.to_json(),
            ])?;
            let bodies = attempts.body_bytes();
            let kept = self.store_payload(id, change, stored.payload_bytes, bodies)?;
            self.count_change(&stored, change.state, change.attempt.as_ref(), kept);
            return Ok(id);
        }
        let id = DeliveryId(self.cursor.next_delivery);
        self.cursor.next_delivery += 1;
        let route_id = self.route_id(&change.event.route)?;
        let received_ms = change.event.received_at.as_millisecond();
        let attempts = change.attempts_after(&AttemptLog::default());
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, ?7, ?8, ?9, 0, ?10, ?11,
             ?12, ?13, ?14, ?15)",
        )?;
        insert.execute(params![
            id.0,
            route_id,
            change.event.event_id,
            change.event.event_type,
            received_ms,
            change.state.as_str(),
            change.history.attempts,
            change.history.possibly_delivered,
            attempts.to_json(),
            due,
            queued,
            ended,
            keys,
            change.event.secret,
            change.event.is_test,
        ])?;
        let kept = self.store_payload(id, change, 0, attempts.body_bytes())?;
        self.count_new(&change.event.route, route_id, received_ms, change, kept);
        Ok(id)
    }

    /// Stores a delivery's payload, or deletes the stored one. Returns the number of bytes that are
    /// stored now: the payload's, and those of the bodies of responses.
    fn store_payload(
        &mut self,
        id: DeliveryId,
        change: &DeliveryChange,
        stored_bytes: i64,
        response_bytes: i64,
    ) -> rusqlite::Result<i64> {
        let kept = match &change.payload {
            Some(payload) => {
                let bytes =
                    i64::try_from(payload.head.len() + payload.body.len()).unwrap_or(i64::MAX);
                let mut insert = self
                    .connection
                    .prepare_cached("INSERT OR REPLACE INTO payloads VALUES (?1, ?2, ?3)")?;
                insert.execute(params![id.0, &payload.head[..], &payload.body[..]])?;
                bytes.saturating_add(response_bytes)
            }
            None if stored_bytes > 0 => {
                self.connection
                    .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                    .execute([id.0])?;
                0
            }
            None => return Ok(0),
        };
        let mut update = self
            .connection
            .prepare_cached("UPDATE deliveries SET payload_bytes = ?2 WHERE id = ?1")?;
        update.execute(params![id.0, kept])?;
        Ok(kept)
    }

    /// Records an attempt. Recording the same attempt again changes nothing: the caller repeats it
    /// after a commit whose outcome it does not know.
    pub(super) fn record_attempt(
        &mut self,
        id: DeliveryId,
        number: u32,
        attempt: &AttemptRecord,
        next: AttemptOutcome,
    ) -> rusqlite::Result<()> {
        let is_next = |stored: &StoredDelivery| {
            stored.state == DeliveryState::Pending && stored.tried < number
        };
        let Some(stored) = self.stored_delivery(id)?.filter(is_next) else {
            return Ok(());
        };
        let (state, due, unknown, reason) = match next {
            AttemptOutcome::Delivered { .. } => (DeliveryState::Success, None, false, None),
            AttemptOutcome::Retry {
                after,
                possibly_delivered,
            } => (
                DeliveryState::Pending,
                Some(self.now_due.after(after).0),
                possibly_delivered,
                None,
            ),
            AttemptOutcome::Dead(reason) => {
                (DeliveryState::Dead, None, false, Some(reason.as_str()))
            }
        };
        let ended = due.is_none().then_some(self.now.0);
        let drops_payload = next
            == (AttemptOutcome::Delivered {
                keep_payload: false,
            });
        let mut attempts = stored.attempts.clone();
        attempts.push(attempt.clone());
        let kept = if drops_payload {
            attempts.drop_bodies();
            0
        } else {
            stored.payload_bytes - stored.attempts.body_bytes() + attempts.body_bytes()
        };
        let mut update = self.connection.prepare_cached(
            // See `AUTOMATIC`.
            "UPDATE deliveries SET state = ?2, tried = tried + 1, due_ms = ?4, ended_ms = ?5,
                 reason = CASE WHEN reason IS NOT 'automatic' THEN ?3
                     WHEN ?2 = 'pending' THEN reason WHEN ?2 = 'dead' THEN 'again' END,
                 possibly_delivered = possibly_delivered OR ?6,
                 keys = iif(?2 = 'success' AND length(keys) <= 16, NULL, keys), attempts = ?7,
                 payload_bytes = ?8 WHERE id = ?1",
        )?;
        update.execute(params![
            id.0,
            state.as_str(),
            reason,
            due,
            ended,
            unknown,
            attempts.to_json(),
            kept,
        ])?;
        if drops_payload {
            self.connection
                .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                .execute([id.0])?;
        }
        self.count_change(&stored, state, Some(attempt), kept);
        Ok(())
    }

    pub(super) fn requeue(&mut self, requeue: &Requeue) -> rusqlite::Result<RequeueResult> {
        let &Requeue {
            id,
            expected_state,
            due,
            automatic,
            ref completing,
            window,
        } = requeue;
        let is_wanted = |stored: &StoredDelivery| {
            expected_state.is_none_or(|expected| expected == stored.state)
        };
        let Some(stored) = self.stored_delivery(id)?.filter(is_wanted) else {
            return Ok(RequeueResult::Unknown);
        };
        if stored.payload_bytes == 0 {
            return Ok(RequeueResult::NoPayload);
        }
        let mut update = self.connection.prepare_cached(
            "UPDATE deliveries SET state = 'pending', due_ms = ?2, queued_ms = ?3,
             reason = iif(state = 'pending', reason, ?4), ended_ms = NULL,
             possibly_delivered = possibly_delivered OR state = 'success'
             WHERE id = ?1",
        )?;
        // The delivery horizon counts from the due time.
        let queued = self.now.after(due.0.since(self.now_due));
        let reason = automatic.then_some(AUTOMATIC);
        update.execute(params![id.0, due.0.0, queued.0, reason])?;
        for name in completing {
            // The digest is unknown, so any body with this ID is a duplicate from now on.
            let digest = crate::signature::PayloadDigest::unknown();
            self.write_entry(
                *name,
                LedgerEntry::Completed { digest },
                window,
                Some(id),
                Some(&stored.route),
            )?;
        }
        self.count_change(&stored, DeliveryState::Pending, None, stored.payload_bytes);
        // This includes deliveries that were pending: the route worker may sleep past the new due
        // time.
        self.effects.requeued.push(Arc::clone(&stored.route));
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
        let mut update = self.connection.prepare_cached(
            "UPDATE deliveries SET route = ?2, due_ms = min(due_ms, ?5),
                 queued_ms = iif(state = 'pending', ?6, queued_ms)
             WHERE id IN (SELECT id FROM deliveries
                 WHERE route = ?1 AND state = ?3 AND state <> 'success' ORDER BY id LIMIT ?4)
             RETURNING received_ms, payload_bytes",
        )?;
        let rows = update.query_map(
            params![
                from_id,
                to_id,
                state.as_str(),
                limit,
                self.now_due.0,
                self.now.0
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )?;
        let moved: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
        for (received_ms, payload_bytes) in &moved {
            self.count_day(from_id, *received_ms, state, -1, 0);
            self.count_day(to_id, *received_ms, state, 1, 0);
            let bytes = RECORD_BYTES + payload_bytes;
            for (route, by) in [(from, -bytes), (to, bytes)] {
                self.effects.byte_changes.push((Arc::clone(route), by));
            }
            let changes = &mut self.effects.state_changes;
            changes.push((Arc::clone(from), Some(state), None));
            changes.push((Arc::clone(to), None, Some(state)));
        }
        Ok(moved.len())
    }

    /// Deletes an event's ledger rows, if they still exist.
    pub(super) fn forget_event(&mut self, rows: &[(EventKey, RowId)]) -> rusqlite::Result<()> {
        rows.iter()
            .try_for_each(|&(key, row_id)| self.delete_row(key, row_id).map(drop))
    }

    /// Deletes a ledger row. Returns its route, if that is known.
    fn delete_row(&mut self, key: EventKey, row_id: RowId) -> rusqlite::Result<Option<Arc<str>>> {
        let mut delete = self
            .connection
            .prepare_cached("DELETE FROM ledger WHERE row_id = ?1 AND key = ?2 RETURNING route")?;
        let route_id: Option<i64> = delete
            .query_row(params![row_id.0, key.0.to_be_bytes()], |row| row.get(0))
            .optional()?
            .flatten();
        let route = route_id.and_then(|id| {
            let mut routes = self.cursor.routes.iter();
            routes
                .find(|(_, known)| **known == id)
                .map(|(route, _)| Arc::clone(route))
        });
        self.effects.removed.push(LedgerChange {
            key,
            row_id,
            route: route.clone(),
        });
        Ok(route)
    }

    /// Deletes up to `limit` ledger rows before `first`. Returns their number.
    pub(super) fn sweep_ledger(&mut self, first: RowId, limit: usize) -> rusqlite::Result<usize> {
        self.forget_expired_creations()?;
        self.cursor.next_row.retain(|bucket, _| *bucket >= first);
        let mut delete = self.connection.prepare_cached(
            "DELETE FROM ledger WHERE row_id IN (SELECT row_id FROM ledger WHERE row_id < ?1
             ORDER BY row_id LIMIT ?2)",
        )?;
        delete.execute(params![first.0, limit])
    }

    /// Deletes the records of deliveries that have ended.
    pub(super) fn delete_records(&mut self, ids: &[DeliveryId]) -> rusqlite::Result<()> {
        for &id in ids {
            let ended = |stored: &StoredDelivery| {
                matches!(stored.state, DeliveryState::Success | DeliveryState::Failed)
            };
            let Some(stored) = self.stored_delivery(id)?.filter(ended) else {
                continue;
            };
            self.connection
                .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                .execute([id.0])?;
            self.connection
                .prepare_cached("DELETE FROM deliveries WHERE id = ?1")?
                .execute([id.0])?;
            self.route_deltas
                .entry(stored.route_id)
                .or_default()
                .kept_bytes -= RECORD_BYTES + stored.payload_bytes;
            self.effects
                .byte_changes
                .push((stored.route, -(RECORD_BYTES + stored.payload_bytes)));
        }
        Ok(())
    }

    pub(super) fn set_paused(&mut self, route: &str, paused: bool) -> rusqlite::Result<()> {
        let sql = if paused {
            "INSERT INTO paused VALUES (?1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM paused WHERE route = ?1"
        };
        self.connection
            .prepare_cached(sql)?
            .execute([route])
            .map(drop)
    }

    pub(super) fn set_webhook(
        &mut self,
        name: &str,
        definition: Option<&str>,
    ) -> rusqlite::Result<()> {
        match definition {
            Some(definition) => self
                .connection
                .prepare_cached(
                    "INSERT INTO webhooks VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE
                     SET definition = excluded.definition",
                )?
                .execute(params![name, definition]),
            None => self
                .connection
                .prepare_cached("DELETE FROM webhooks WHERE name = ?1")?
                .execute([name]),
        }
        .map(drop)
    }

    /// Remembers a creation, and forgets those that are too old or too many.
    pub(super) fn remember_creation(
        &mut self,
        name: &str,
        definition: &str,
        creation: &CreationKey,
    ) -> rusqlite::Result<()> {
        let CreationKey { key, request } = creation;
        let ends = self.now.after(CREATION_KEPT);
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO creations VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![key, request, name, definition, ends.0])?;
        self.forget_expired_creations()?;
        self.connection
            .prepare_cached(
                "DELETE FROM creations WHERE key IN
                 (SELECT key FROM creations ORDER BY ends_ms DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([CREATIONS_MAX])
            .map(drop)
    }

    fn forget_expired_creations(&mut self) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached("DELETE FROM creations WHERE ends_ms <= ?1")?
            .execute([self.now.0])
            .map(drop)
    }

    pub(super) fn update_routes(&mut self, routes: &[StoreRoute]) -> rusqlite::Result<()> {
        for route in routes {
            let id = self.route_id(&route.route)?;
            let mut update = self
                .connection
                .prepare_cached("UPDATE routes SET concurrency = ?2 WHERE id = ?1")?;
            update.execute(params![id, route.concurrency])?;
            let limits = route.retain.limits();
            let mut remember = self.connection.prepare_cached(
                "INSERT INTO route_settings VALUES (?1, ?2, ?3, ?4) ON CONFLICT (route) DO UPDATE
                 SET keep_ms = excluded.keep_ms, max_bytes = excluded.max_bytes,
                     horizon_ms = excluded.horizon_ms",
            )?;
            let max_bytes = limits
                .max_bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
            remember.execute(params![
                route.route,
                millis(limits.keep),
                max_bytes,
                millis(route.horizon)
            ])?;
        }
        Ok(())
    }

    fn route_id(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(&id) = self.cursor.routes.get(name) {
            return Ok(id);
        }
        let mut insert = self.connection.prepare_cached(
            "INSERT INTO routes (name, created_ms, concurrency) VALUES (?1, ?2, 1) RETURNING id",
        )?;
        let id = insert.query_row(params![name, self.wall_ms], |row| row.get(0))?;
        self.cursor.routes.insert(Arc::clone(name), id);
        Ok(id)
    }

    fn stored_delivery(&self, id: DeliveryId) -> rusqlite::Result<Option<StoredDelivery>> {
        let mut select = self.connection.prepare_cached(
            "SELECT routes.name, route, received_ms, state, payload_bytes, event_id, tried,
             attempts FROM deliveries
             JOIN routes ON routes.id = route WHERE deliveries.id = ?1",
        )?;
        let delivery = select.query_row([id.0], |row| {
            Ok(StoredDelivery {
                route: row.get::<_, String>(0)?.into(),
                route_id: row.get(1)?,
                received_ms: row.get(2)?,
                state: super::read::read_state(row, 3)?,
                payload_bytes: row.get(4)?,
                event_id: row.get(5)?,
                tried: row.get(6)?,
                attempts: AttemptLog::parse(row.get_ref(7)?.as_str()?),
            })
        });
        delivery.optional()
    }

    /// Counts a new delivery.
    fn count_new(
        &mut self,
        route: &Arc<str>,
        route_id: i64,
        received_ms: i64,
        change: &DeliveryChange,
        kept: i64,
    ) {
        let last_ms = change.attempt.as_ref().map_or(0, |attempt| attempt.ms);
        self.count_day(route_id, received_ms, change.state, 1, last_ms);
        self.update_route(route_id, change.state, kept_bytes(change.state, kept));
        self.effects
            .byte_changes
            .push((Arc::clone(route), RECORD_BYTES + kept));
        self.effects
            .state_changes
            .push((Arc::clone(route), None, Some(change.state)));
    }

    /// Counts a delivery whose state has changed.
    fn count_change(
        &mut self,
        stored: &StoredDelivery,
        to: DeliveryState,
        attempt: Option<&AttemptRecord>,
        kept: i64,
    ) {
        self.count_day(
            stored.route_id,
            stored.received_ms,
            stored.state,
            -1,
            stored.attempts.last_ms(),
        );
        self.count_day(
            stored.route_id,
            stored.received_ms,
            to,
            1,
            attempt.map_or(0, |attempt| attempt.ms),
        );
        let growth = kept_bytes(to, kept) - kept_bytes(stored.state, stored.payload_bytes);
        self.update_route(stored.route_id, to, growth);
        self.effects
            .byte_changes
            .push((Arc::clone(&stored.route), kept - stored.payload_bytes));
        self.effects
            .state_changes
            .push((Arc::clone(&stored.route), Some(stored.state), Some(to)));
    }

    /// Adds a delivery to its day's counts (`by` is 1) or subtracts it (-1). `last_ms` is the
    /// duration of its last attempt.
    fn count_day(
        &mut self,
        route: i64,
        received_ms: i64,
        state: DeliveryState,
        by: i64,
        last_ms: u64,
    ) {
        let delta = self
            .day_deltas
            .entry((route, received_ms.div_euclid(DAY_MS)))
            .or_default();
        match state {
            DeliveryState::Success => {
                delta.successful += by;
                delta.total_ms += by * i64::try_from(last_ms).unwrap_or(0);
            }
            DeliveryState::Failed | DeliveryState::Dead => delta.failed += by,
            DeliveryState::Pending => {}
        }
    }

    fn update_route(&mut self, route: i64, state: DeliveryState, kept_bytes: i64) {
        let delta = self.route_deltas.entry(route).or_default();
        delta.last_success |= state == DeliveryState::Success;
        delta.last_failure |= matches!(state, DeliveryState::Failed | DeliveryState::Dead);
        delta.kept_bytes += kept_bytes;
    }
}

impl Effects {
    pub(super) fn apply(self, shared: &Shared) {
        for row in &self.removed {
            shared.index.remove(row.key, row.row_id);
        }
        for row in &self.added {
            shared.index.insert(row.key, row.row_id);
        }
        self.count_usage(shared);
        if self.state_changes.is_empty() {
            return;
        }
        let mut routes_to_notify = self.requeued;
        shared.with_counts(|counts| {
            for (route, from, to) in self.state_changes {
                let is_counted = |state: Option<DeliveryState>| {
                    matches!(state, Some(DeliveryState::Pending | DeliveryState::Dead))
                };
                if !is_counted(from) && !is_counted(to) {
                    continue;
                }
                let counts = counts.entry(Arc::clone(&route)).or_default();
                if let Some(count) = from.and_then(|state| counts.for_state(state)) {
                    *count = count.saturating_sub(1);
                }
                if let Some(count) = to.and_then(|state| counts.for_state(state)) {
                    *count += 1;
                }
                if to == Some(DeliveryState::Pending) && from != to {
                    routes_to_notify.push(route);
                }
            }
        });
        for route in routes_to_notify {
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
                usage.remove_id(route, row.row_id);
            }
        }
        for row in &self.added {
            if let Some(route) = &row.route {
                usage.add_ids(route, row.row_id, 1);
            }
        }
        for (route, by) in &self.byte_changes {
            usage.change_bytes(route, *by);
        }
        drop(usage);
        let growth = self.byte_changes.iter().map(|(_, by)| *by).sum::<i64>();
        shared.add_used_bytes(u64::try_from(growth).unwrap_or(0));
    }
}

impl QueueCounts {
    pub(super) fn for_state(&mut self, state: DeliveryState) -> Option<&mut u64> {
        match state {
            DeliveryState::Pending => Some(&mut self.pending),
            DeliveryState::Dead => Some(&mut self.dead),
            DeliveryState::Success | DeliveryState::Failed => None,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the bytes that a record counts against its route's retention limit. Only ended
/// deliveries count, because only those may be deleted.
fn kept_bytes(state: DeliveryState, payload: i64) -> i64 {
    match state {
        DeliveryState::Success | DeliveryState::Failed => RECORD_BYTES + payload,
        DeliveryState::Pending | DeliveryState::Dead => 0,
    }
}
