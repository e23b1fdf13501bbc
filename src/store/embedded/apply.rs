//! What each job does within a transaction, and what follows from it in memory once that is committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::shared::{Counts, Shared};
use super::{
    AttemptHistory, AttemptOutcome, AttemptRecord, DeliveryChange, DeliveryId, DeliveryState,
    EventKey, EventMetadata, EventRow, LedgerEntry, RECORD_BYTES, Requeue, RequeueResult, RowId,
    Settlement, StoreRoute,
};
use crate::store::uptime::Uptime;

/// The attempts with one more, in SQL. Kept one by one are the first 10 of a delivery, and the latest 90; all are counted.
macro_rules! attempts_with {
    ($attempt:literal) => {
        concat!(
            "json_insert(iif(json_array_length(attempts) >= 100, json_remove(attempts, '$[10]'), attempts), '$[#]', json(",
            $attempt,
            "))"
        )
    };
}

const DAY_MS: i64 = 86_400_000;

/// The numbers that the next rows get, and the routes' own.
#[derive(Default)]
pub(super) struct Cursor {
    pub next_delivery: i64,
    /// By the first place of a bucket.
    pub next_place: HashMap<RowId, i64>,
    pub routes: HashMap<Arc<str>, i64>,
}

/// One transaction under way.
pub(super) struct Batch<'t> {
    pub sql: &'t Connection,
    pub cursor: &'t mut Cursor,
    pub now: Uptime,
    pub due_now: Uptime,
    pub wall_ms: i64,
    effects: Effects,
    tallies: HashMap<(i64, i64), Tally>,
    routes: HashMap<i64, RouteTouch>,
}

/// What follows from a committed transaction.
#[derive(Default)]
pub(super) struct Effects {
    forgotten: Vec<(EventKey, RowId)>,
    remembered: Vec<(EventKey, RowId)>,
    moved: Vec<(Arc<str>, Option<DeliveryState>, Option<DeliveryState>)>,
    /// The routes of events that are due at another time than before.
    requeued: Vec<Arc<str>>,
}

#[derive(Default)]
struct Tally {
    successful: i64,
    failed: i64,
    total_ms: i64,
}

#[derive(Default)]
struct RouteTouch {
    last_success: bool,
    last_failure: bool,
    kept_bytes: i64,
}

/// A delivery as it stood before a change.
struct Before {
    route: Arc<str>,
    route_id: i64,
    received_ms: i64,
    state: DeliveryState,
    payload_bytes: i64,
    event_id: String,
    tried: u32,
    /// What the last attempt took, in milliseconds.
    last_ms: u64,
}

impl Before {
    fn is_of(&self, subject: &EventMetadata) -> bool {
        self.event_id == *subject.event_id && self.route == subject.route
    }
}

impl<'t> Batch<'t> {
    pub(super) fn new(
        sql: &'t Connection,
        cursor: &'t mut Cursor,
        now: Uptime,
        due_now: Uptime,
        wall_ms: i64,
    ) -> Self {
        let effects = Effects::default();
        Self {
            sql,
            cursor,
            now,
            due_now,
            wall_ms,
            effects,
            tallies: HashMap::new(),
            routes: HashMap::new(),
        }
    }

    /// Writes what all jobs together come to. To be called last.
    pub(super) fn end(self) -> rusqlite::Result<Effects> {
        for ((route, day), tally) in self.tallies {
            let mut count = self.sql.prepare_cached(
                "INSERT INTO days VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO UPDATE SET
                 successful = successful + ?3, failed = failed + ?4, total_ms = total_ms + ?5",
            )?;
            count.execute(params![
                route,
                day,
                tally.successful,
                tally.failed,
                tally.total_ms
            ])?;
        }
        for (route, touch) in self.routes {
            let mut note = self.sql.prepare_cached(
                "UPDATE routes SET last_success_ms = iif(?2, ?4, last_success_ms),
                 last_failure_ms = iif(?3, ?4, last_failure_ms), kept_bytes = kept_bytes + ?5 WHERE id = ?1",
            )?;
            note.execute(params![
                route,
                touch.last_success,
                touch.last_failure,
                self.wall_ms,
                touch.kept_bytes
            ])?;
        }
        Ok(self.effects)
    }

    pub(super) fn settle(
        &mut self,
        settlement: &Settlement,
    ) -> rusqlite::Result<Option<DeliveryId>> {
        let Settlement {
            names,
            becomes,
            window,
            delivery,
            ..
        } = settlement;
        let id = delivery
            .as_ref()
            .map(|delivery| self.record(delivery, names))
            .transpose()?;
        for name in names.iter().flatten() {
            self.remember(*name, *becomes, *window, id)?;
        }
        Ok(id)
    }

    /// Writes a row of the ledger in the place of an earlier one.
    pub(super) fn remember(
        &mut self,
        name: EventRow,
        becomes: LedgerEntry,
        window: Duration,
        delivery: Option<DeliveryId>,
    ) -> rusqlite::Result<()> {
        if let Some(earlier) = name.earlier {
            self.forget_row(name.key, earlier)?;
        }
        let ends = self.now.after(window);
        let bucket = RowId::first_of_bucket(ends);
        let number = self.cursor.next_place.entry(bucket).or_insert(0);
        let place = RowId(bucket.0 + *number);
        *number += 1;
        let (digest, tried) = match becomes {
            LedgerEntry::Completed { digest } => {
                (Some(digest.to_bytes()), AttemptHistory::default())
            }
            LedgerEntry::Attempted(tried) => (None, tried),
        };
        let mut insert = self
            .sql
            .prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        insert.execute(params![
            place.0,
            name.key.0.to_be_bytes(),
            ends.0,
            tried.attempts,
            tried.possibly_delivered,
            digest,
            delivery.map(|id| id.0),
        ])?;
        self.effects.remembered.push((name.key, place));
        Ok(())
    }

    /// Writes a delivery's record: anew, or over the one it has.
    fn record(
        &mut self,
        change: &DeliveryChange,
        names: &[Option<EventRow>; 2],
    ) -> rusqlite::Result<DeliveryId> {
        let keys = (change.state != DeliveryState::Success).then(|| keys_blob(names));
        let due = (change.state == DeliveryState::Pending)
            .then(|| self.due_now.after(change.due_after).0);
        let queued = due.map(|_| self.now.0);
        let ended = due.is_none().then_some(self.now.0);
        if let Some(id) = change.earlier
            && let Some(before) = self
                .before(id)?
                .filter(|before| before.is_of(&change.event))
        {
            let mut update = self.sql.prepare_cached(concat!(
                "UPDATE deliveries SET state = ?2, reason = NULL, tried = ?3, possibly_delivered = ?4, due_ms = ?5,
                     queued_ms = ?6, ended_ms = ?7, keys = ?8, attempts = iif(?9 IS NULL, attempts, ",
                attempts_with!("?9"),
                ") WHERE id = ?1"
            ))?;
            let attempt = change.attempt.as_ref().map(AttemptRecord::to_json);
            update.execute(params![
                id.0,
                change.state.as_str(),
                change.history.attempts,
                change.history.possibly_delivered,
                due,
                queued,
                ended,
                keys,
                attempt,
            ])?;
            let kept = self.keep(id, change, before.payload_bytes)?;
            self.moved(&before, change.state, change.attempt.as_ref(), kept);
            return Ok(id);
        }
        let id = DeliveryId(self.cursor.next_delivery);
        self.cursor.next_delivery += 1;
        let route_id = self.route(&change.event.route)?;
        let received_ms = change.event.received_at.as_millisecond();
        let attempts = change
            .attempt
            .as_ref()
            .map_or_else(|| "[]".into(), |attempt| format!("[{}]", attempt.to_json()));
        let mut insert = self.sql.prepare_cached(
            "INSERT INTO deliveries VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, ?7, ?8, ?9, 0, ?10, ?11, ?12, ?13, ?14, ?15)",
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
            attempts,
            due,
            queued,
            ended,
            keys,
            change.event.secret,
            change.event.is_test,
        ])?;
        let kept = self.keep(id, change, 0)?;
        self.came(&change.event.route, route_id, received_ms, change, kept);
        Ok(id)
    }

    /// Keeps a delivery's payload, or drops the one that was kept. Answers how many bytes are kept now.
    fn keep(
        &mut self,
        id: DeliveryId,
        change: &DeliveryChange,
        before: i64,
    ) -> rusqlite::Result<i64> {
        let kept = match &change.payload {
            Some(payload) => {
                let bytes =
                    i64::try_from(payload.head.len() + payload.body.len()).unwrap_or(i64::MAX);
                let mut insert = self
                    .sql
                    .prepare_cached("INSERT OR REPLACE INTO payloads VALUES (?1, ?2, ?3)")?;
                insert.execute(params![id.0, &payload.head[..], &payload.body[..]])?;
                bytes
            }
            None if before > 0 => {
                self.sql
                    .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                    .execute([id.0])?;
                0
            }
            None => return Ok(0),
        };
        let mut update = self
            .sql
            .prepare_cached("UPDATE deliveries SET payload_bytes = ?2 WHERE id = ?1")?;
        update.execute(params![id.0, kept])?;
        Ok(kept)
    }

    /// Told again, after a commit of which nobody knew whether it lasted, it changes nothing.
    pub(super) fn attempted(
        &mut self,
        id: DeliveryId,
        number: u32,
        attempt: &AttemptRecord,
        next: AttemptOutcome,
    ) -> rusqlite::Result<()> {
        let is_its =
            |before: &Before| before.state == DeliveryState::Pending && before.tried < number;
        let Some(before) = self.before(id)?.filter(is_its) else {
            return Ok(());
        };
        let (state, due, unknown, reason) = match next {
            AttemptOutcome::Done { .. } => (DeliveryState::Success, None, false, None),
            AttemptOutcome::Retry {
                after,
                possibly_delivered,
            } => (
                DeliveryState::Pending,
                Some(self.due_now.after(after).0),
                possibly_delivered,
                None,
            ),
            AttemptOutcome::Dead(reason) => {
                (DeliveryState::Dead, None, false, Some(reason.as_str()))
            }
        };
        let ended = due.is_none().then_some(self.now.0);
        let mut update = self.sql.prepare_cached(concat!(
            "UPDATE deliveries SET state = ?2, reason = ?3, tried = tried + 1, due_ms = ?4, ended_ms = ?5,
                 possibly_delivered = possibly_delivered OR ?6, keys = iif(?2 = 'success', NULL, keys), attempts = ",
            attempts_with!("?7"),
            " WHERE id = ?1"
        ))?;
        update.execute(params![
            id.0,
            state.as_str(),
            reason,
            due,
            ended,
            unknown,
            attempt.to_json(),
        ])?;
        let mut kept = before.payload_bytes;
        if next
            == (AttemptOutcome::Done {
                keep_payload: false,
            })
        {
            self.sql
                .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                .execute([id.0])?;
            self.sql
                .prepare_cached("UPDATE deliveries SET payload_bytes = 0 WHERE id = ?1")?
                .execute([id.0])?;
            kept = 0;
        }
        self.moved(&before, state, Some(attempt), kept);
        Ok(())
    }

    pub(super) fn requeue(&mut self, requeue: &Requeue) -> rusqlite::Result<RequeueResult> {
        let &Requeue {
            id,
            expected_state: from,
            due,
            ref completing,
            window,
        } = requeue;
        let is_wanted = |before: &Before| from.is_none_or(|from| from == before.state);
        let Some(before) = self.before(id)?.filter(is_wanted) else {
            return Ok(RequeueResult::Unknown);
        };
        if before.payload_bytes == 0 {
            return Ok(RequeueResult::NoPayload);
        }
        let mut update = self.sql.prepare_cached(
            "UPDATE deliveries SET state = 'pending', reason = NULL, due_ms = ?2, queued_ms = ?3, ended_ms = NULL,
             possibly_delivered = possibly_delivered OR state = 'success' WHERE id = ?1",
        )?;
        // Its horizon counts from when it is due.
        let queued = self.now.after(due.0.since(self.due_now));
        update.execute(params![id.0, due.0.0, queued.0])?;
        for name in completing {
            // Any body of this ID is a copy from now on: this one has been taken.
            let digest = crate::signature::PayloadDigest::unknown();
            self.remember(*name, LedgerEntry::Completed { digest }, window, Some(id))?;
        }
        self.moved(&before, DeliveryState::Pending, None, before.payload_bytes);
        // Also one that was pending: its lane may sleep for longer than it now has to wait.
        self.effects.requeued.push(Arc::clone(&before.route));
        Ok(RequeueResult::Queued(before.route))
    }

    /// Deletes an event's rows of the ledger, those that are still there.
    pub(super) fn forget_event(&mut self, rows: &[(EventKey, RowId)]) -> rusqlite::Result<()> {
        rows.iter()
            .try_for_each(|&(key, place)| self.forget_row(key, place))
    }

    fn forget_row(&mut self, key: EventKey, place: RowId) -> rusqlite::Result<()> {
        let mut delete = self
            .sql
            .prepare_cached("DELETE FROM ledger WHERE place = ?1 AND key = ?2")?;
        delete.execute(params![place.0, key.0.to_be_bytes()])?;
        self.effects.forgotten.push((key, place));
        Ok(())
    }

    /// Deletes up to `limit` rows of the ledger before `first`. Answers how many.
    pub(super) fn sweep(&mut self, first: RowId, limit: usize) -> rusqlite::Result<usize> {
        self.cursor.next_place.retain(|bucket, _| *bucket >= first);
        let mut delete = self.sql.prepare_cached(
            "DELETE FROM ledger WHERE place IN (SELECT place FROM ledger WHERE place < ?1 ORDER BY place LIMIT ?2)",
        )?;
        delete.execute(params![first.0, limit])
    }

    /// Deletes records of deliveries that have ended.
    pub(super) fn forget(&mut self, ids: &[DeliveryId]) -> rusqlite::Result<()> {
        for &id in ids {
            let ended = |before: &Before| {
                matches!(before.state, DeliveryState::Success | DeliveryState::Failed)
            };
            let Some(before) = self.before(id)?.filter(ended) else {
                continue;
            };
            self.sql
                .prepare_cached("DELETE FROM payloads WHERE delivery = ?1")?
                .execute([id.0])?;
            self.sql
                .prepare_cached("DELETE FROM deliveries WHERE id = ?1")?
                .execute([id.0])?;
            self.routes.entry(before.route_id).or_default().kept_bytes -=
                RECORD_BYTES + before.payload_bytes;
        }
        Ok(())
    }

    pub(super) fn pause(&mut self, route: &str, paused: bool) -> rusqlite::Result<()> {
        let sql = if paused {
            "INSERT INTO paused VALUES (?1) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM paused WHERE route = ?1"
        };
        self.sql.prepare_cached(sql)?.execute([route]).map(drop)
    }

    pub(super) fn webhook(&mut self, name: &str, definition: Option<&str>) -> rusqlite::Result<()> {
        match definition {
            Some(definition) => self
                .sql
                .prepare_cached(
                    "INSERT INTO webhooks VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET definition = excluded.definition",
                )?
                .execute(params![name, definition]),
            None => self.sql.prepare_cached("DELETE FROM webhooks WHERE name = ?1")?.execute([name]),
        }
        .map(drop)
    }

    pub(super) fn serve(&mut self, lanes: &[StoreRoute]) -> rusqlite::Result<()> {
        for lane in lanes {
            let id = self.route(&lane.route)?;
            let mut update = self
                .sql
                .prepare_cached("UPDATE routes SET concurrency = ?2 WHERE id = ?1")?;
            update.execute(params![id, lane.concurrency])?;
        }
        Ok(())
    }

    fn route(&mut self, name: &Arc<str>) -> rusqlite::Result<i64> {
        if let Some(&id) = self.cursor.routes.get(name) {
            return Ok(id);
        }
        let mut insert = self.sql.prepare_cached(
            "INSERT INTO routes (name, created_ms, concurrency) VALUES (?1, ?2, 1) RETURNING id",
        )?;
        let id = insert.query_row(params![name, self.wall_ms], |row| row.get(0))?;
        self.cursor.routes.insert(Arc::clone(name), id);
        Ok(id)
    }

    fn before(&self, id: DeliveryId) -> rusqlite::Result<Option<Before>> {
        let mut select = self.sql.prepare_cached(
            "SELECT routes.name, route, received_ms, state, payload_bytes, event_id, tried,
             coalesce(json_extract(attempts, '$[#-1].ms'), 0) FROM deliveries
             JOIN routes ON routes.id = route WHERE deliveries.id = ?1",
        )?;
        let before = select.query_row([id.0], |row| {
            Ok(Before {
                route: row.get::<_, String>(0)?.into(),
                route_id: row.get(1)?,
                received_ms: row.get(2)?,
                state: super::read::state_of(row, 3)?,
                payload_bytes: row.get(4)?,
                event_id: row.get(5)?,
                tried: row.get(6)?,
                last_ms: row.get(7)?,
            })
        });
        before.optional()
    }

    /// Counts a new delivery.
    fn came(
        &mut self,
        route: &Arc<str>,
        route_id: i64,
        received_ms: i64,
        change: &DeliveryChange,
        kept: i64,
    ) {
        let last_ms = change.attempt.as_ref().map_or(0, |attempt| attempt.ms);
        self.count(route_id, received_ms, change.state, 1, last_ms);
        self.touch(route_id, change.state, kept_bytes(change.state, kept));
        self.effects
            .moved
            .push((Arc::clone(route), None, Some(change.state)));
    }

    /// Counts a delivery that stands elsewhere now.
    fn moved(
        &mut self,
        before: &Before,
        to: DeliveryState,
        attempt: Option<&AttemptRecord>,
        kept: i64,
    ) {
        self.count(
            before.route_id,
            before.received_ms,
            before.state,
            -1,
            before.last_ms,
        );
        self.count(
            before.route_id,
            before.received_ms,
            to,
            1,
            attempt.map_or(0, |attempt| attempt.ms),
        );
        let grown = kept_bytes(to, kept) - kept_bytes(before.state, before.payload_bytes);
        self.touch(before.route_id, to, grown);
        self.effects
            .moved
            .push((Arc::clone(&before.route), Some(before.state), Some(to)));
    }

    /// Counts a delivery in (1) or out (-1); `last_ms` is what its last attempt took.
    fn count(&mut self, route: i64, received_ms: i64, state: DeliveryState, by: i64, last_ms: u64) {
        let tally = self
            .tallies
            .entry((route, received_ms.div_euclid(DAY_MS)))
            .or_default();
        match state {
            DeliveryState::Success => {
                tally.successful += by;
                tally.total_ms += by * i64::try_from(last_ms).unwrap_or(0);
            }
            DeliveryState::Failed | DeliveryState::Dead => tally.failed += by,
            DeliveryState::Pending => {}
        }
    }

    fn touch(&mut self, route: i64, state: DeliveryState, kept_bytes: i64) {
        let touch = self.routes.entry(route).or_default();
        touch.last_success |= state == DeliveryState::Success;
        touch.last_failure |= matches!(state, DeliveryState::Failed | DeliveryState::Dead);
        touch.kept_bytes += kept_bytes;
    }
}

impl Effects {
    pub(super) fn take_place(self, shared: &Shared) {
        for (key, place) in self.forgotten {
            shared.index.remove(key, place);
        }
        for (key, place) in self.remembered {
            shared.index.insert(key, place);
        }
        if self.moved.is_empty() {
            return;
        }
        let mut stored = self.requeued;
        shared.with_counts(|counts| {
            for (route, from, to) in self.moved {
                let is_stored = |state: Option<DeliveryState>| {
                    matches!(state, Some(DeliveryState::Pending | DeliveryState::Dead))
                };
                if !is_stored(from) && !is_stored(to) {
                    continue;
                }
                let counts = counts.entry(Arc::clone(&route)).or_default();
                if let Some(count) = from.and_then(|state| counts.of(state)) {
                    *count = count.saturating_sub(1);
                }
                if let Some(count) = to.and_then(|state| counts.of(state)) {
                    *count += 1;
                }
                if to == Some(DeliveryState::Pending) && from != to {
                    stored.push(route);
                }
            }
        });
        for route in stored {
            shared.wake(&route);
        }
    }
}

impl Counts {
    pub(super) fn of(&mut self, state: DeliveryState) -> Option<&mut u64> {
        match state {
            DeliveryState::Pending => Some(&mut self.pending),
            DeliveryState::Dead => Some(&mut self.dead),
            DeliveryState::Success | DeliveryState::Failed => None,
        }
    }
}

/// What a record counts for what its route may keep: only those that have ended may go.
fn kept_bytes(state: DeliveryState, payload: i64) -> i64 {
    match state {
        DeliveryState::Success | DeliveryState::Failed => RECORD_BYTES + payload,
        DeliveryState::Pending | DeliveryState::Dead => 0,
    }
}

fn keys_blob(names: &[Option<EventRow>; 2]) -> Vec<u8> {
    names
        .iter()
        .flatten()
        .flat_map(|name| name.key.0.to_be_bytes())
        .collect()
}
