//! Opens the file, at the start and after a failure: loads what is kept in memory, and marks the
//! interrupted attempts, before any other access is allowed.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};

use super::apply::{BatchWriter, Changes, Cursor};
use super::attempt_journal::{self, AttemptJournal, InterruptedAttempt, PreviousRun};
use super::commit_log::{self, CommitLog, Execution, LastRows, LogPosition, Statement, Unapplied};
use super::file_identity::FileIdentity;
use super::folder_lock::FolderLock;
use super::ledger_file::{
    self, Hour, LedgerFile, LedgerRow, RowWrites, SlotContent, StoreFileError,
};
use super::ledger_table;
use super::schema::StoreHeader;
use super::shared::{QueueCounts, Shared};
use super::uptime_clock::UptimeClock;
use super::usage::Usage;
use super::write::{self, CommitError, Unwritten, Writer};
use super::{
    DeliveryId, DeliveryState, Durability, EventRow, LedgerEntry, OpenError, RECORD_BYTES,
    Settings, read, schema,
};
use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use crate::store::uptime::Uptime;

/// The reason why the file could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("cannot use the store's files: {0}")]
    Files(#[from] io::Error),
    #[error("{0}")]
    Commit(#[from] CommitError),
    #[error(
        "a file of the store was replaced while the gateway ran; restart the gateway to use the new one"
    )]
    Replaced,
}

impl From<StoreFileError> for ReadError {
    fn from(error: StoreFileError) -> Self {
        match error {
            StoreFileError::Database(error) => Self::Sql(error),
            StoreFileError::Ledger(error) => Self::Files(error),
        }
    }
}

impl ReadError {
    pub(super) fn into_open_error(self, file: &Path, folder: &Path) -> OpenError {
        match self {
            Self::Sql(source) => OpenError::database(file, source),
            Self::Open(error) => error,
            Self::Files(source) => OpenError::folder(folder, source),
            Self::Commit(error) => OpenError::folder(folder, io::Error::other(error)),
            Self::Replaced => OpenError::folder(folder, io::Error::other(self)),
        }
    }
}

/// The queued events whose last attempt may have been delivered without a recorded outcome.
#[derive(Default)]
struct SuspectDeliveries {
    /// The deliveries whose attempts were interrupted by the end of the process.
    interrupted: Vec<DeliveryId>,
    /// Marks the first due events of each route, up to its concurrency. Needed after a crash of the
    /// machine, because the journal may then be incomplete.
    first_due_of_each_route: bool,
}

impl SuspectDeliveries {
    fn mark(&self, connection: &Connection, now_due: Uptime) -> rusqlite::Result<()> {
        let mut mark =
            connection.prepare("UPDATE deliveries SET possibly_delivered = 1 WHERE id = ?1")?;
        for id in &self.interrupted {
            mark.execute([id.0])?;
        }
        if !self.first_due_of_each_route {
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
            mark.execute((route, now_due.0, concurrency))?;
        }
        Ok(())
    }
}

/// Opens the file and loads the index and the counters.
pub(super) fn open(
    settings: Settings,
    lock: FolderLock,
    clock: Clock,
    metrics: StoreMetrics,
) -> Result<(Arc<Shared>, Writer), OpenError> {
    let file = schema::file(&settings.folder);
    let wall_ms = Timestamp::now().as_millisecond();
    let database = |source| OpenError::database(&file, source);
    let folder = |source| OpenError::folder(&settings.folder, source);
    if !file.try_exists().map_err(folder)? {
        if settings.must_exist {
            return Err(OpenError::MustExist {
                place: settings.folder.display().to_string(),
            });
        }
        report_creation(&settings.folder);
    }
    let PreviousRun {
        journal,
        interrupted,
        file_existed,
    } = AttemptJournal::open(&settings.folder).map_err(folder)?;
    schema::create_private(&file).map_err(folder)?;
    let mut connection = schema::open(&file, settings.durability).map_err(database)?;
    let created = schema::read_or_create(&mut connection, &file, wall_ms)?;
    let ledger = open_ledger(&settings, &connection, &created)
        .map_err(|error| error.into_open_error(&file, &settings.folder))?;
    let unapplied = commit_log::read(&settings.folder, created.log).map_err(folder)?;
    let recovered = execute_unapplied(
        &mut connection,
        &ledger,
        &settings.folder,
        &unapplied,
        &created,
    )
    .map_err(|error| error.into_open_error(&file, &settings.folder))?;
    let header = match recovered.executed {
        0 => created,
        _ => schema::read_header(&connection, &file)?,
    };
    let time = UptimeClock::resume(header.uptime, header.downtime_until(wall_ms), clock);
    let shared = Arc::new(Shared::new(
        settings,
        file.clone(),
        header.hash_key,
        ledger,
        time,
        metrics,
        journal,
    ));
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        connection: None,
        log: None,
        position: LogPosition::default(),
        deferred: Vec::new(),
        deferred_jobs: 0,
        unflushed_bytes: usize::MAX,
        flushes: true,
        cursor: Cursor::default(),
        time_written: header.uptime,
        unwritten: HashMap::new(),
        lock,
    };
    let began = Instant::now();
    let mut suspects = SuspectDeliveries {
        first_due_of_each_route: recovered.lost_writes
            || !(header.clean || header.same_boot && file_existed),
        ..SuspectDeliveries::default()
    };
    for attempt in &interrupted {
        match *attempt {
            InterruptedAttempt::Event {
                key,
                history: tried,
                window,
            } => {
                let unwritten = Unwritten {
                    history: tried,
                    window,
                    route: None,
                };
                let _ = writer.unwritten.insert(key, unwritten);
            }
            InterruptedAttempt::Delivery(id) => suspects.interrupted.push(id),
        }
    }
    writer
        .load(connection, &suspects, recovered.last)
        .map_err(|error| error.into_open_error(&file, &shared.settings.folder))?;
    let cleared = shared.journal.clear_previous_run();
    cleared.map_err(|source| OpenError::folder(&shared.settings.folder, source))?;
    let (ids, seconds) = (shared.index.len(), began.elapsed().as_secs_f64());
    tracing::info!(
        file = %file.display(),
        ids,
        seconds,
        clean = header.clean,
        interrupted = interrupted.len(),
        "store opened"
    );
    Ok((shared, writer))
}

impl Writer {
    /// Opens the file again after a failure.
    pub(super) fn reopen(&mut self) -> Result<(), ReadError> {
        let (known, found) = self.shared.known_and_found_files()?;
        if let Some(known) = known {
            if found.database.is_some() && found.database != known.database {
                return Err(ReadError::Replaced);
            }
            if found.ledger.is_none() {
                let shared = &self.shared;
                shared.ledger.save()?;
                shared.know_ledger()?;
            } else if found.ledger != known.ledger {
                return Err(ReadError::Replaced);
            }
            if found.lock != known.lock {
                self.lock = super::lock_folder(&self.shared.settings.folder)?;
            }
        }
        let mut connection = schema::open(&self.shared.file, self.shared.settings.durability)?;
        let header = schema::read_header(&connection, &self.shared.file)?;
        if header.hash_key != self.shared.hash_key {
            return Err(OpenError::Foreign {
                file: self.shared.file.display().to_string(),
            }
            .into());
        }
        let shared = &self.shared;
        shared.ledger.reopen()?;
        let (ledger, folder) = (&shared.ledger, &shared.settings.folder);
        let unapplied = commit_log::read(folder, header.log)?;
        let recovered = execute_unapplied(&mut connection, ledger, folder, &unapplied, &header)?;
        // The write-ahead log may be in memory only, if a flush of it failed. A full checkpoint
        // moves it into the database and flushes that, or fails as well.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| {
            match row.get::<_, i32>(0)? {
                0 => Ok(()),
                _ => Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    None,
                )),
            }
        })?;
        // Attempts in progress still have callers that will record their outcomes.
        self.load(connection, &SuspectDeliveries::default(), recovered.last)
    }

    /// Loads everything that is kept in memory, writes the entries that could not be written
    /// before, and opens the store for readers. `last` is the number of the last commit.
    fn load(
        &mut self,
        mut connection: Connection,
        suspects: &SuspectDeliveries,
        last: i64,
    ) -> Result<(), ReadError> {
        self.cursor = Cursor::default();
        let shared = Arc::clone(&self.shared);
        let now = shared.uptime.now();
        self.cursor.routes = read_routes(&connection)?;
        *shared.usage() = Usage::default();
        self.read_ledger(now, last)?;
        self.read_deliveries(&connection)?;
        shared.set_used_bytes(read::used_bytes(&connection)?);
        // This write must succeed: a read-only store is of no use.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut batch = BatchWriter::new(Some(&transaction), &shared, &mut self.cursor, last + 1);
        for (&key, unwritten) in &self.unwritten {
            let tried = unwritten.history;
            let rows = shared.read_event_rows(key)?;
            let (earlier, found) = ledger_file::known_event(&rows).unzip();
            let tried = match found.map(|found| found.entry) {
                Some(LedgerEntry::Completed { .. }) => continue,
                Some(LedgerEntry::Attempted(before)) => before.merge(tried),
                None => tried,
            };
            let delivery = found.and_then(|found| found.delivery);
            batch.write_entry(
                EventRow { key, earlier },
                LedgerEntry::Attempted(tried),
                unwritten.window,
                delivery,
                unwritten.route.as_ref(),
            )?;
        }
        batch.write_time(shared.uptime.downtime(), false)?;
        let Changes { rows, effects, .. } = batch.finish()?;
        suspects.mark(&transaction, shared.uptime.now_due())?;
        schema::write_boot(&transaction)?;
        // They are in the ledger's file.
        transaction.execute("DELETE FROM ledger", [])?;
        // From here on the records of earlier runs are void: this commit is flushed, and with it all
        // that they hold.
        let durability = shared.settings.durability;
        self.position = LogPosition {
            run: match durability {
                Durability::Strict => new_run()?,
                Durability::Relaxed => 0,
            },
            applied: last,
            flushed: last,
        };
        // What was recovered, moved or undone may be in the page cache only, and in no log any more.
        self.unflushed_bytes = usize::MAX;
        self.commit_flushed(transaction, &rows)?;
        effects.apply(&shared);
        self.unwritten.clear();
        self.time_written = now;
        self.flushes = true;
        self.log = match durability {
            Durability::Strict => Some(CommitLog::start(&shared.settings.folder)?),
            Durability::Relaxed => None,
        };
        self.connection = Some(connection);
        shared.set_identity(FileIdentity::read(&shared.settings.folder)?);
        shared.mark_open();
        Ok(())
    }

    fn read_ledger(&mut self, now: Uptime, last: i64) -> io::Result<()> {
        let Self { shared, cursor, .. } = self;
        shared.index.clear();
        let mut ids_by_route: HashMap<(i64, Hour), u64> = HashMap::new();
        let damaged = shared.ledger.load(now, last, |slot, row| {
            // A delivery ID is not reused while a ledger row refers to it.
            let delivery = row.delivery.map_or(0, |id| id.0.saturating_add(1));
            cursor.next_delivery = cursor.next_delivery.max(delivery);
            if !row.is_live(now) {
                return;
            }
            shared.index.insert(row.key, slot);
            if let Some(route) = row.route {
                *ids_by_route
                    .entry((route, Hour::containing(row.ends)))
                    .or_default() += 1;
            }
        })?;
        if damaged.count > 0 {
            shared.metrics.count_error("read");
            tracing::error!(
                file = %shared.settings.folder.join(ledger_file::FILE).display(),
                rows = damaged.count,
                first_slot = damaged.first_slot,
                "rows of the ledger are damaged: their events are not remembered, so copies of them are \
                 forwarded"
            );
        }
        let mut usage = shared.usage();
        for (route, id) in &cursor.routes {
            for (&(_, hour), &ids) in ids_by_route.iter().filter(|((route, _), _)| route == id) {
                usage.add_ids(route, hour, ids);
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
        let mut usage = self.shared.usage();
        let mut kept = connection.prepare("SELECT name, kept_bytes FROM routes")?;
        let mut rows = kept.query([])?;
        while let Some(row) = rows.next()? {
            usage.change_bytes(&row.get::<_, String>(0)?.into(), row.get(1)?);
        }
        let mut select = connection.prepare(
            "SELECT routes.name, state, count(*), sum(?1 + payload_bytes) FROM deliveries JOIN routes ON routes.id = route
             WHERE state <> 'success' AND state IN ('pending', 'dead') GROUP BY route, state",
        )?;
        let mut rows = select.query([RECORD_BYTES])?;
        let mut all: HashMap<Arc<str>, QueueCounts> = HashMap::new();
        while let Some(row) = rows.next()? {
            let route: Arc<str> = row.get::<_, String>(0)?.into();
            usage.change_bytes(&route, row.get(3)?);
            let counts = all.entry(route).or_default();
            let count = match read::read_state(row, 1)? {
                DeliveryState::Pending => &mut counts.pending,
                _ => &mut counts.dead,
            };
            *count = row.get(2)?;
        }
        drop(usage);
        self.shared.with_counts(|counts| *counts = all);
        Ok(())
    }
}

/// Logs that an empty store is created. Where there are other files of one, its database was lost.
fn report_creation(folder: &Path) {
    let folder_text = folder.display();
    let mut others = [ledger_file::FILE, attempt_journal::FILE, commit_log::FILE].iter();
    if others.any(|file| folder.join(file).exists()) {
        tracing::error!(
            folder = %folder_text,
            "the store's database is missing; an empty one is created, which knows no event. Stop the \
             gateway and restore a backup, or set `store.must_exist` to refuse this"
        );
    } else {
        tracing::info!(folder = %folder_text, "an empty store is created");
    }
}

/// Opens the ledger's file, and moves the event IDs to it that a backup has in its own table.
fn open_ledger(
    settings: &Settings,
    connection: &Connection,
    header: &StoreHeader,
) -> Result<LedgerFile, ReadError> {
    let folder = &settings.folder;
    let file = folder.join(ledger_file::FILE);
    let has_commits = header.log.applied > 0;
    let is_lost = has_commits && !ledger_file::exists(folder, &header.hash_key)?;
    if is_lost && settings.must_exist {
        let place = file.display().to_string();
        return Err(OpenError::MustExist { place }.into());
    }
    let ledger = LedgerFile::open(folder, &header.hash_key)?;
    if is_lost {
        let remembered = ledger_table::remember_waiting(connection, &ledger, header.uptime)?;
        tracing::error!(
            file = %file.display(),
            remembered,
            "the ledger's file is missing, empty, or of another database. Only events that wait are \
             remembered: copies of others are forwarded again. Stop the gateway and restore a backup, or \
             set `store.must_exist` to refuse this"
        );
    }
    if !has_commits {
        // What is there is a move that was cut off, or belongs to the files before a backup.
        ledger.begin_empty()?;
        let ids = ledger_table::move_to_file(connection, &ledger, header.uptime)?;
        if ids > 0 {
            tracing::info!(
                ids,
                "the event IDs of a backup were moved to the ledger's file"
            );
        }
    }
    Ok(ledger)
}

/// The time by which the uptime in the database may be behind that of the process: twice as long as an idle
/// store leaves it.
const UPTIME_LAG: Duration = Duration::from_secs(120);

/// What the commit log had and the database had not.
pub(super) struct Recovered {
    /// The number of transactions that were executed.
    pub executed: usize,
    /// Writes without a flush were lost, those to the attempt journal among them: the disk was away, even
    /// if the machine was not restarted.
    pub lost_writes: bool,
    /// The number of the last commit.
    pub last: i64,
}

/// Executes what the commit log has and the database does not, and writes the rows of the ledger that
/// may not be flushed.
pub(super) fn execute_unapplied(
    connection: &mut Connection,
    ledger: &LedgerFile,
    folder: &Path,
    unapplied: &Unapplied,
    header: &StoreHeader,
) -> Result<Recovered, ReadError> {
    let position = header.log;
    let file = folder.join(commit_log::FILE);
    if unapplied.missing > 0 {
        tracing::error!(
            file = %file.display(),
            transactions = unapplied.missing,
            "neither the database nor the commit log has these transactions, which were acknowledged: \
             one of the two was damaged, or replaced by an older copy"
        );
    }
    if unapplied.without_rows > 0 {
        tracing::warn!(
            file = %file.display(),
            transactions = unapplied.without_rows,
            "the commit log lacks these transactions: after a loss of power, their event IDs may be \
             unknown"
        );
    }
    let last_rows = unapplied.last_rows();
    let lost_writes = lost_writes(ledger, unapplied, &last_rows, header)?;
    let mut rows = RowWrites::default();
    let unflushed = schema::read_unflushed_rows(connection)?;
    for (slot, row) in unflushed.iter().flat_map(RowWrites::iter) {
        rows.push_bytes(slot, row);
    }
    for (&slot, (_, row)) in &last_rows {
        rows.push_bytes(slot, row);
    }
    ledger.write(&rows)?;
    let mut recovered = Recovered {
        executed: 0,
        lost_writes,
        last: position.applied,
    };
    for record in unapplied.to_execute(position) {
        let applied = LogPosition {
            applied: record.number,
            ..position
        };
        match execute(connection, &record.statements, applied) {
            Err(error) if write::is_job_error(&error) => {
                tracing::error!(
                    %error,
                    number = record.number,
                    "the database rejects a transaction of the commit log, which is left out; this is a \
                     bug in the gateway"
                );
                execute(connection, &[], applied)?;
            }
            executed => executed?,
        }
        recovered.executed += 1;
        recovered.last = record.number;
    }
    if recovered.executed > 0 {
        tracing::info!(
            transactions = recovered.executed,
            "store recovered from its commit log"
        );
    }
    Ok(recovered)
}

/// Executes statements in a transaction of their own, after which the database has this position.
fn execute(
    connection: &mut Connection,
    statements: &[Statement],
    position: LogPosition,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for statement in statements {
        statement.execute(&transaction)?;
    }
    schema::write_log_position(&transaction, position)?;
    transaction.commit()
}

/// Returns whether the files lack what any end of the process alone leaves there. That leaves unexecuted
/// what was deferred, and at most one transaction more; and it leaves all rows in the ledger's file, but
/// for those of the last transaction and those of hours that are over, whose room was given back. The log
/// may be too short to tell.
fn lost_writes(
    ledger: &LedgerFile,
    unapplied: &Unapplied,
    last_rows: &LastRows<'_>,
    header: &StoreHeader,
) -> io::Result<bool> {
    let at_once = unapplied
        .to_execute(header.log)
        .filter(|record| record.execution == Execution::AtOnce);
    if at_once.count() > 1 {
        return Ok(true);
    }
    let last = unapplied.records.last().map(|record| record.number);
    let begun = Hour::containing(header.uptime.after(UPTIME_LAG));
    for (&slot, &(number, row)) in last_rows {
        let is_over = match LedgerRow::decode(slot, row) {
            SlotContent::Row(row) => Hour::containing(row.ends) < begun,
            SlotContent::Empty | SlotContent::Damaged => false,
        };
        if Some(number) != last && !is_over && !ledger.has(slot, row)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the number of a new run, which is never 0.
fn new_run() -> Result<i64, OpenError> {
    let mut run = [0; 8];
    getrandom::fill(&mut run).map_err(OpenError::Random)?;
    Ok(i64::from_le_bytes(run) | 1)
}

pub(super) fn read_routes(connection: &Connection) -> rusqlite::Result<HashMap<Arc<str>, i64>> {
    let mut select = connection.prepare("SELECT name, id FROM routes")?;
    let routes = select.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
    routes.collect()
}
