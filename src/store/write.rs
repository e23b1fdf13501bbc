//! The one writer: a thread that takes all that has come since its last commit into one transaction.
//!
//! Nobody waits for a timer: a lone request is committed at once, and while the disk is busy with it, those that come
//! gather for the next. An answer leaves after the commit that holds it, and not at all if that one failed.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::oneshot;

use super::apply::{Batch, Cursor, Effects};
use super::holder::Lock;
use super::index::Place;
use super::read::{self, Attempted};
use super::running::{Running, RunningTime};
use super::shared::{Counts, Shared};
use super::under_way::{CutOff, UnderWay};
use super::{
    DeliveryId, EventKey, Lane, Name, Next, OpenError, Record, Requeued, Settings, Settlement, StoreError, Tried,
    schema,
};
use crate::clock::Clock;
use crate::metrics::StoreMetrics;

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Settle(Box<Settlement>, Done<Option<DeliveryId>>),
    Attempted {
        id: DeliveryId,
        attempt: Attempted,
        next: Next,
        done: Done<()>,
    },
    Requeue {
        id: DeliveryId,
        completing: Vec<Name>,
        window: Duration,
        done: Done<Requeued>,
    },
    Serve(Vec<Lane>),
    /// Deletes rows of the ledger before a place, some at a time; the answer is how many.
    Sweep {
        first: Place,
        limit: usize,
        done: std::sync::mpsc::SyncSender<usize>,
    },
    /// Deletes records of ended deliveries.
    Forget {
        ids: Vec<DeliveryId>,
        done: std::sync::mpsc::SyncSender<usize>,
    },
    /// Writes the running time down.
    Tick,
    /// Moves what is left of the log, so that it can begin anew.
    Checkpoint,
    /// The file can't be trusted until it was read again.
    Distrust,
    Close {
        in_good_order: bool,
        done: oneshot::Sender<()>,
    },
}

/// Jobs in one transaction. More would make the first ones wait without sparing much.
const BATCH_MAX: usize = 1024;
/// Payload bytes in one transaction, about.
const BATCH_BYTES: usize = 8 << 20;

/// Waits between attempts to open the file again.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_LAST: Duration = Duration::from_secs(1);

/// How often the running time is written down with other jobs.
const WRITE_TIME_EVERY: Duration = Duration::from_secs(1);

/// Settlements that could not be written and are remembered until they can. Each was a request in flight; more than
/// this come only while the disk is gone for long, and then the earliest are dropped.
const UNRECORDED_MAX: usize = 100_000;

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// `None` while the file is closed.
    connection: Option<Connection>,
    cursor: Cursor,
    time_written: Running,
    unrecorded: HashMap<EventKey, (Tried, Duration)>,
    /// Given back when the writer ends, and the file is closed.
    _lock: Lock,
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
    fn mark(&self, connection: &Connection, due_now: Running) -> rusqlite::Result<()> {
        let mut mark = connection.prepare("UPDATE deliveries SET possibly_delivered = 1 WHERE id = ?1")?;
        for id in &self.deliveries {
            mark.execute([id.0])?;
        }
        if !self.first_of_each_route {
            return Ok(());
        }
        let mut routes = connection.prepare("SELECT id, concurrency FROM routes")?;
        let routes: Vec<(i64, i64)> =
            routes.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<rusqlite::Result<_>>()?;
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

/// The file is closed, after an error that was told.
struct Lost;

/// Why the file could not be opened or read.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("{0}")]
    Open(#[from] OpenError),
}

/// Opens the file and reads what is remembered.
pub(super) fn open(
    settings: Settings,
    lock: Lock,
    clock: Clock,
    metrics: StoreMetrics,
) -> Result<(Arc<Shared>, Writer), OpenError> {
    let file = settings.folder.join("hookgate.db");
    let wall_ms = Timestamp::now().as_millisecond();
    let database = |source: rusqlite::Error| match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OpenError::Foreign { file: file.display().to_string() },
        _ => OpenError::Database { file: file.display().to_string(), source },
    };
    let folder = |source| OpenError::Folder { folder: settings.folder.display().to_string(), source };
    let (under_way, cut_off) = UnderWay::open(&settings.folder).map_err(folder)?;
    let mut connection = schema::open(&file, settings.durability).map_err(database)?;
    let head = schema::read_or_make(&mut connection, &file, wall_ms)?;
    // A clock that went back tells nothing of how long we were gone.
    let gone = Duration::from_millis(u64::try_from(wall_ms - head.wall_ms).unwrap_or(0));
    let time = RunningTime::from(head.running, head.away.saturating_add(gone), clock);
    let shared = Arc::new(Shared::new(settings, file.clone(), head.hash_key, time, metrics, under_way));
    let mut writer = Writer {
        shared: Arc::clone(&shared),
        connection: None,
        cursor: Cursor::default(),
        time_written: head.running,
        unrecorded: HashMap::new(),
        _lock: lock,
    };
    let began = Instant::now();
    let mut suspects = Suspects { first_of_each_route: !head.clean && !head.same_boot, ..Suspects::default() };
    for attempt in &cut_off {
        match *attempt {
            CutOff::Event { key, tried, window } => drop(writer.unrecorded.insert(key, (tried, window))),
            CutOff::Delivery(id) => suspects.deliveries.push(id),
        }
    }
    writer.take(connection, &suspects).map_err(|failed| match failed {
        Failed::Sql(source) => database(source),
        Failed::Open(error) => error,
    })?;
    shared
        .under_way
        .forget_last_run()
        .map_err(|source| OpenError::Folder { folder: shared.settings.folder.display().to_string(), source })?;
    let (ids, seconds) = (shared.index.len(), began.elapsed().as_secs_f64());
    tracing::info!(file = %file.display(), ids, seconds, clean = head.clean, cut_off = cut_off.len(), "the store is open");
    Ok((shared, writer))
}

impl Writer {
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut batch = Vec::new();
            let closing = gather(first, jobs, &mut batch);
            if self.commit(batch).is_err() {
                self.recover(jobs);
            }
            if let Some((in_good_order, done)) = closing {
                self.close(in_good_order);
                drop(self);
                let _ = done.send(());
                return;
            }
        }
        self.close(true);
    }

    /// Writes a batch and tells all who wait for it; or closes the file and tells them that it failed, in this order: who
    /// hears of a failure must find the doors shut, or it would go by what was known before.
    fn commit(&mut self, batch: Vec<Job>) -> Result<(), Lost> {
        let Some(connection) = &mut self.connection else {
            self.refuse(batch);
            return Ok(());
        };
        if batch.iter().any(|job| matches!(job, Job::Distrust)) {
            return Err(self.lose(&"the log could not be moved into the database", batch));
        }
        let began = Instant::now();
        let checkpoint = batch.iter().any(|job| matches!(job, Job::Checkpoint));
        let shared = &self.shared;
        let (now, wall_ms) = (shared.time.now(), Timestamp::now().as_millisecond());
        let write = || -> rusqlite::Result<(Effects, Vec<Answer>)> {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut writing = Batch::new(&transaction, &mut self.cursor, now, shared.time.due_now(), wall_ms);
            let answers = batch.iter().map(|job| apply(&mut writing, job)).collect::<rusqlite::Result<_>>()?;
            let effects = writing.end()?;
            if now.since(self.time_written) >= WRITE_TIME_EVERY {
                schema::write_time(&transaction, now, shared.time.away(), wall_ms, false)?;
            }
            transaction.commit()?;
            Ok((effects, answers))
        };
        match { write }() {
            Ok((effects, answers)) => {
                if now.since(self.time_written) >= WRITE_TIME_EVERY {
                    self.time_written = now;
                }
                shared.metrics.committed(began.elapsed());
                effects.take_place(shared);
                for (job, answer) in batch.into_iter().zip(answers) {
                    tell(&self.shared, job, answer);
                }
            }
            Err(error) if is_of_one_job(&error) => return self.commit_apart(batch, &error),
            Err(error) => return Err(self.lose(&error, batch)),
        }
        if checkpoint {
            let moved = schema::checkpoint_passively(connection);
            moved.map_err(|error| self.lose(&error, Vec::new()))?;
        }
        Ok(())
    }

    /// Writes each job by itself, so that one that can't be written does not stand in the way of the others.
    fn commit_apart(&mut self, mut batch: Vec<Job>, error: &rusqlite::Error) -> Result<(), Lost> {
        // Rolled back, with what it had numbered.
        if let Some(connection) = &self.connection {
            match read_routes(connection) {
                Ok(routes) => self.cursor.routes = routes,
                Err(error) => return Err(self.lose(&error, batch)),
            }
        }
        if batch.len() == 1 {
            self.shared.metrics.failed("commit");
            tracing::error!(%error, "the store refused to write something: a defect of the gateway");
            self.refuse(batch);
            return Ok(());
        }
        batch.reverse();
        while let Some(job) = batch.pop() {
            if let Err(lost) = self.commit(vec![job]) {
                self.refuse(batch);
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Tells those who wait that nothing was written, and remembers what then holds.
    fn refuse(&mut self, batch: Vec<Job>) {
        for job in batch {
            match job {
                Job::Settle(settlement, done) => {
                    self.remember_unrecorded(&settlement);
                    let _ = done.send(Err(StoreError::Unavailable));
                }
                Job::Attempted { done, .. } => drop(done.send(Err(StoreError::Unavailable))),
                Job::Requeue { done, .. } => drop(done.send(Err(StoreError::Unavailable))),
                Job::Serve(lanes) => self.shared.serve(lanes),
                Job::Sweep { .. } | Job::Forget { .. } | Job::Tick | Job::Checkpoint | Job::Distrust => {}
                Job::Close { done, .. } => drop(done.send(())),
            }
        }
    }

    fn remember_unrecorded(&mut self, settlement: &Settlement) {
        if settlement.if_lost == Tried::default() {
            return;
        }
        for name in settlement.names.iter().flatten() {
            if self.unrecorded.len() < UNRECORDED_MAX {
                self.unrecorded.insert(name.key, (settlement.if_lost, settlement.window));
            }
        }
    }

    /// Closes the file after an error, then tells those who waited. Until it was read again, nobody is told anything else.
    fn lose(&mut self, error: &dyn fmt::Display, batch: Vec<Job>) -> Lost {
        self.shared.metrics.failed("commit");
        tracing::error!(%error, file = %self.shared.file.display(), "the store failed; it is closed and opened anew");
        self.connection = None;
        self.shared.closed();
        self.refuse(batch);
        Lost
    }

    /// Opens the file and reads it anew, as often as it takes. What is asked meanwhile is refused.
    fn recover(&mut self, jobs: &Receiver<Job>) {
        let mut pause = REOPEN_FIRST;
        loop {
            match self.reopen() {
                Ok(()) => break,
                Err(error) => {
                    self.connection = None;
                    self.shared.closed();
                    self.shared.metrics.failed("open");
                    tracing::warn!(%error, file = %self.shared.file.display(), "the store can't be opened yet");
                }
            }
            let until = Instant::now() + pause;
            pause = (pause * 2).min(REOPEN_LAST);
            loop {
                match jobs.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Job::Close { done, .. }) => {
                        let _ = done.send(());
                        return;
                    }
                    Ok(job) => self.refuse(vec![job]),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
        tracing::info!(ids = self.shared.index.len(), "the store is open again");
    }

    fn reopen(&mut self) -> Result<(), Failed> {
        let mut connection = schema::open(&self.shared.file, self.shared.settings.durability)?;
        schema::read_or_make(&mut connection, &self.shared.file, 0)?;
        // What the log holds may be in memory only, if a flush of it failed. Moved into the database and flushed there,
        // it is on the disk, or this fails too.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| match row.get::<_, i32>(0)? {
            0 => Ok(()),
            _ => Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY), None)),
        })?;
        // Attempts that are under way have not lost those who wait for them.
        self.take(connection, &Suspects::default())
    }

    /// Reads everything that is kept in memory, writes down what could not be written before, and opens the doors.
    fn take(&mut self, mut connection: Connection, suspects: &Suspects) -> Result<(), Failed> {
        self.cursor = Cursor::default();
        let shared = Arc::clone(&self.shared);
        let now = shared.time.now();
        self.read_ledger(&connection, now)?;
        self.read_deliveries(&connection)?;
        let wall_ms = Timestamp::now().as_millisecond();
        // A write that has to succeed: a store that can only be read is of no use to anybody.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut writing = Batch::new(&transaction, &mut self.cursor, now, shared.time.due_now(), wall_ms);
        for (&key, &(tried, window)) in &self.unrecorded {
            let found = read::confirm(&transaction, key, &shared.index.find(key), now)?;
            let earlier = found.map(|found| found.place);
            if !found.is_some_and(|found| matches!(found.record, Record::Completed { .. })) {
                let delivery = found.and_then(|found| found.delivery);
                writing.remember(Name { key, earlier }, Record::Tried(tried), window, delivery)?;
            }
        }
        let effects = writing.end()?;
        suspects.mark(&transaction, shared.time.due_now())?;
        schema::write_boot(&transaction)?;
        schema::write_time(&transaction, now, shared.time.away(), wall_ms, false)?;
        transaction.commit()?;
        effects.take_place(&shared);
        self.unrecorded.clear();
        self.time_written = now;
        self.connection = Some(connection);
        shared.opened();
        Ok(())
    }

    fn read_ledger(&mut self, connection: &Connection, now: Running) -> rusqlite::Result<()> {
        let index = &self.shared.index;
        index.clear();
        let mut select = connection.prepare("SELECT place, key, ends_ms FROM ledger")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let place = Place(row.get(0)?);
            let next = self.cursor.next_place.entry(Place(place.bucket() << 32)).or_insert(0);
            *next = (*next).max((place.0 & i64::from(u32::MAX)) + 1);
            if Running(row.get(2)?) > now {
                index.insert(EventKey(u128::from_be_bytes(row.get(1)?)), place);
            }
        }
        Ok(())
    }

    fn read_deliveries(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.cursor.next_delivery =
            connection.query_row("SELECT coalesce(max(id), 0) + 1 FROM deliveries", [], |row| row.get(0))?;
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

    fn close(&mut self, in_good_order: bool) {
        if let Some(connection) = self.connection.take() {
            let shared = &self.shared;
            let wall_ms = Timestamp::now().as_millisecond();
            let closed = schema::write_time(&connection, shared.time.now(), shared.time.away(), wall_ms, in_good_order);
            shared.closed();
            // The last connection moves the log into the database as it goes.
            if let Err(error) = closed.and_then(|()| connection.close().map_err(|(_, error)| error)) {
                tracing::warn!(%error, "the store was not closed in good order; nothing that was answered is lost");
            }
        }
    }
}

fn read_routes(connection: &Connection) -> rusqlite::Result<HashMap<Arc<str>, i64>> {
    let mut select = connection.prepare("SELECT name, id FROM routes")?;
    let routes = select.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
    routes.collect()
}

/// Whether an error is about what was to be written, not about the file.
fn is_of_one_job(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{ConstraintViolation, ParameterOutOfRange, TooBig, TypeMismatch, Unknown};
    match error.sqlite_error_code() {
        Some(code) => matches!(code, ConstraintViolation | ParameterOutOfRange | TooBig | TypeMismatch | Unknown),
        // A value that could not be made into a column's, or the other way round.
        None => true,
    }
}

/// What to tell whoever asked.
enum Answer {
    Nothing,
    Delivery(Option<DeliveryId>),
    Requeued(Requeued),
    Rows(usize),
}

fn apply(writing: &mut Batch<'_>, job: &Job) -> rusqlite::Result<Answer> {
    Ok(match job {
        Job::Settle(settlement, _) => Answer::Delivery(writing.settle(settlement)?),
        Job::Attempted { id, attempt, next, .. } => {
            writing.attempted(*id, attempt, *next)?;
            Answer::Nothing
        }
        Job::Requeue { id, completing, window, .. } => Answer::Requeued(writing.requeue(*id, completing, *window)?),
        Job::Serve(lanes) => {
            writing.serve(lanes)?;
            Answer::Nothing
        }
        Job::Sweep { first, limit, .. } => Answer::Rows(writing.sweep(*first, *limit)?),
        Job::Forget { ids, .. } => {
            writing.forget(ids)?;
            Answer::Rows(ids.len())
        }
        Job::Tick | Job::Checkpoint | Job::Distrust | Job::Close { .. } => Answer::Nothing,
    })
}

/// Who asked may have gone meanwhile: what was written is written.
fn tell(shared: &Shared, job: Job, answer: Answer) {
    match (job, answer) {
        (Job::Settle(_, done), Answer::Delivery(id)) => drop(done.send(Ok(id))),
        (Job::Attempted { done, .. }, _) => drop(done.send(Ok(()))),
        (Job::Requeue { done, .. }, Answer::Requeued(requeued)) => drop(done.send(Ok(requeued))),
        (Job::Serve(lanes), _) => shared.serve(lanes),
        (Job::Sweep { done, .. } | Job::Forget { done, .. }, Answer::Rows(rows)) => drop(done.send(rows)),
        _ => {}
    }
}

/// Takes what has come, up to a transaction's worth. Answers who waits for the end, if it is the end.
fn gather(first: Job, jobs: &Receiver<Job>, batch: &mut Vec<Job>) -> Option<(bool, oneshot::Sender<()>)> {
    let mut bytes = 0;
    let mut job = first;
    loop {
        match job {
            Job::Close { in_good_order, done } => return Some((in_good_order, done)),
            Job::Settle(settlement, done) => {
                bytes += payload_bytes(&settlement);
                batch.push(Job::Settle(settlement, done));
            }
            other => batch.push(other),
        }
        if batch.len() >= BATCH_MAX || bytes >= BATCH_BYTES {
            return None;
        }
        match jobs.try_recv() {
            Ok(next) => job = next,
            Err(_) => return None,
        }
    }
}

fn payload_bytes(settlement: &Settlement) -> usize {
    let payload = settlement.delivery.as_ref().and_then(|delivery| delivery.payload.as_ref());
    payload.map_or(0, |payload| payload.body.len())
}
