//! Opening the file, at the start and after a failure: what is kept in memory is read from it, and what was cut off is
//! marked, before anybody is let in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::apply::{Batch, Cursor};
use super::attempt_journal::{AttemptJournal, InterruptedAttempt, PreviousRun};
use super::folder_lock::Lock;
use super::shared::{Counts, Shared};
use super::uptime_clock::UptimeClock;
use super::write::Writer;
use super::{
    DeliveryId, EventKey, EventRow, LedgerEntry, OpenError, RowId, Settings, read, schema,
};
use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use crate::store::uptime::Uptime;

/// Why the file could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Open(#[from] OpenError),
}

/// Stored events whose last attempt may have arrived, nobody having heard of it.
#[derive(Default)]
struct Suspects {
    /// Attempts that the end of the process cut off.
    deliveries: Vec<DeliveryId>,
    /// After the end of the machine, which ones those were is not known; but they are among the first that were due on
    /// their route.
    first_of_each_route: bool,
}

impl Suspects {
    fn mark(&self, connection: &Connection, due_now: Uptime) -> rusqlite::Result<()> {
        let mut mark =
            connection.prepare("UPDATE deliveries SET possibly_delivered = 1 WHERE id = ?1")?;
        for id in &self.deliveries {
            mark.execute([id.0])?;
        }
        if !self.first_of_each_route {
            return Ok(());
        }
        let mut routes = connection.prepare("SELECT id, concurrency FROM routes")?;
        let routes: Vec<(i64, i64)> = routes
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let mut mark = connection.prepare(
            "UPDATE deliveries SET possibly_delivered = 1 WHERE id IN (SELECT id FROM deliveries
             WHERE route = ?1 AND state = 'pending' AND due_ms <= ?2 ORDER BY due_ms, id LIMIT ?3)",
        )?;
        for (route, concurrency) in routes {
            mark.execute((route, due_now.0, concurrency))?;
        }
        Ok(())
    }
}

/// Opens the file and reads what is remembered.
pub(super) fn open(
    settings: Settings,
    lock: Lock,
    clock: Clock,
    metrics: StoreMetrics,
) -> Result<(Arc<Shared>, Writer), OpenError> {
    let file = schema::file(&settings.folder);
    let wall_ms = Timestamp::now().as_millisecond();
    let database = |source| OpenError::database(&file, source);
    let folder = |source| OpenError::folder(&settings.folder, source);
    let PreviousRun {
        under_way,
        cut_off,
        was_noted,
    } = AttemptJournal::open(&settings.folder).map_err(folder)?;
    schema::make_private(&file).map_err(folder)?;
    let mut connection = schema::open(&file, settings.durability).map_err(database)?;
    let head = schema::read_or_make(&mut connection, &file, wall_ms)?;
    let time = UptimeClock::from(head.running, head.away_until(wall_ms), clock);
    let shared = Arc::new(Shared::new(
        settings,
        file.clone(),
        head.hash_key,
        time,
        metrics,
        under_way,
    ));
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        connection: None,
        cursor: Cursor::default(),
        time_written: head.running,
        unrecorded: HashMap::new(),
        _lock: lock,
    };
    let began = Instant::now();
    let mut suspects = Suspects {
        first_of_each_route: !(head.clean || head.same_boot && was_noted),
        ..Suspects::default()
    };
    for attempt in &cut_off {
        match *attempt {
            InterruptedAttempt::Event { key, tried, window } => {
                drop(writer.unrecorded.insert(key, (tried, window)))
            }
            InterruptedAttempt::Delivery(id) => suspects.deliveries.push(id),
        }
    }
    writer
        .take(connection, &suspects)
        .map_err(|failed| match failed {
            ReadError::Sql(source) => database(source),
            ReadError::Open(error) => error,
        })?;
    let forgotten = shared.under_way.forget_last_run();
    forgotten.map_err(|source| OpenError::folder(&shared.settings.folder, source))?;
    let (ids, seconds) = (shared.index.len(), began.elapsed().as_secs_f64());
    tracing::info!(file = %file.display(), ids, seconds, clean = head.clean, cut_off = cut_off.len(), "the store is open");
    Ok((shared, writer))
}

impl Writer {
    /// Opens the file again after a failure.
    pub(super) fn reopen(&mut self) -> Result<(), ReadError> {
        let connection = schema::open(&self.shared.file, self.shared.settings.durability)?;
        if schema::read_made(&connection, &self.shared.file)?.hash_key != self.shared.hash_key {
            return Err(OpenError::Foreign {
                file: self.shared.file.display().to_string(),
            }
            .into());
        }
        // What the log holds may be in memory only, if a flush of it failed. Moved into the database and flushed there,
        // it is on the disk, or this fails too.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            match row.get::<_, i32>(0)? {
                0 => Ok(()),
                _ => Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    None,
                )),
            }
        })?;
        // Attempts that are under way have not lost those who wait for them.
        self.take(connection, &Suspects::default())
    }

    /// Reads everything that is kept in memory, writes down what could not be written before, and opens the doors.
    fn take(&mut self, mut connection: Connection, suspects: &Suspects) -> Result<(), ReadError> {
        self.cursor = Cursor::default();
        let shared = Arc::clone(&self.shared);
        let now = shared.time.now();
        self.read_ledger(&connection, now)?;
        self.read_deliveries(&connection)?;
        let wall_ms = Timestamp::now().as_millisecond();
        // A write that has to succeed: a store that can only be read is of no use to anybody.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writing = Batch::new(
            &transaction,
            &mut self.cursor,
            now,
            shared.time.due_now(),
            wall_ms,
        );
        for (&key, &(tried, window)) in &self.unrecorded {
            let found = read::confirm(&transaction, key, &shared.index.find(key), now)?;
            let (earlier, found) = found.unzip();
            let tried = match found.map(|found| found.record) {
                Some(LedgerEntry::Completed { .. }) => continue,
                Some(LedgerEntry::Attempted(before)) => before.merge(tried),
                None => tried,
            };
            let delivery = found.and_then(|found| found.delivery);
            writing.remember(
                EventRow { key, earlier },
                LedgerEntry::Attempted(tried),
                window,
                delivery,
            )?;
        }
        let effects = writing.end()?;
        suspects.mark(&transaction, shared.time.due_now())?;
        schema::write_boot(&transaction)?;
        schema::write_time(&transaction, now, shared.time.downtime(), wall_ms, false)?;
        transaction.commit()?;
        effects.take_place(&shared);
        self.unrecorded.clear();
        self.time_written = now;
        self.connection = Some(connection);
        shared.opened();
        Ok(())
    }

    fn read_ledger(&mut self, connection: &Connection, now: Uptime) -> rusqlite::Result<()> {
        let index = &self.shared.index;
        index.clear();
        let mut select = connection.prepare("SELECT place, key, ends_ms, delivery FROM ledger")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let place = RowId(row.get(0)?);
            let next = self
                .cursor
                .next_place
                .entry(RowId(place.bucket() << 32))
                .or_insert(0);
            *next = (*next).max((place.0 & i64::from(u32::MAX)) + 1);
            // A number is not given again as long as an event's row names it.
            let delivery = row.get::<_, Option<i64>>(3)?.unwrap_or(0);
            self.cursor.next_delivery = self.cursor.next_delivery.max(delivery + 1);
            if Uptime(row.get(2)?) > now {
                index.insert(EventKey(u128::from_be_bytes(row.get(1)?)), place);
            }
        }
        Ok(())
    }

    fn read_deliveries(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let next = connection.query_row(
            "SELECT coalesce(max(id), 0) + 1 FROM deliveries",
            [],
            |row| row.get(0),
        )?;
        self.cursor.next_delivery = self.cursor.next_delivery.max(next);
        self.cursor.routes = read_routes(connection)?;
        let mut select = connection.prepare(
            "SELECT routes.name, state, count(*) FROM deliveries JOIN routes ON routes.id = route
             WHERE state <> 'success' AND state IN ('pending', 'dead') GROUP BY route, state",
        )?;
        let mut rows = select.query([])?;
        let mut all: HashMap<Arc<str>, Counts> = HashMap::new();
        while let Some(row) = rows.next()? {
            let counts = all.entry(row.get::<_, String>(0)?.into()).or_default();
            if let Some(count) = counts.of(read::state_of(row, 1)?) {
                *count = row.get(2)?;
            }
        }
        self.shared.with_counts(|counts| *counts = all);
        Ok(())
    }
}

pub(super) fn read_routes(connection: &Connection) -> rusqlite::Result<HashMap<Arc<str>, i64>> {
    let mut select = connection.prepare("SELECT name, id FROM routes")?;
    let routes = select.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
    routes.collect()
}
