//! The writer thread. It commits all jobs that have arrived since its last commit in one
//! transaction.
//!
//! Jobs that only add rows are committed by the log alone, and executed with others after their callers
//! have their replies: before any job or query that reads the database, and at least once a second.
//!
//! There is no timer: a single job is committed at once, and jobs that arrive while the disk is
//! busy form the next batch. A caller gets its reply after the commit that contains its job, and an
//! error if that commit failed.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

use super::apply::{BatchWriter, Changes, Cursor, Effects};
use super::commit_log::{self, CommitLog, Execution, LogPosition, Statements, TooLarge};
use super::file_identity::FileIdentity;
use super::folder_lock::FolderLock;
use super::ledger_file::{RowWrites, StoreFileError};
use super::ledger_table;
use super::replies::{Done, Replies};
use super::shared::Shared;
use super::{
    AttemptHistory, AttemptOutcome, AttemptRecord, CreationKey, DeliveryId, DeliveryState,
    Durability, EventKey, OpenError, Requeue, RequeueResult, RowId, Settlement, StoreError,
    StoreRoute, opening, schema,
};
use crate::store::StoredRedelivery;
use crate::store::uptime::Uptime;

/// A job for the writer.
pub(super) enum Job {
    Settle(Box<Settlement>, Done<Option<DeliveryId>>),
    RecordAttempt {
        id: DeliveryId,
        /// The number of the attempt.
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
        done: Done<()>,
    },
    /// Makes deliveries pending again.
    Requeue(Vec<Requeue>, Done<Vec<RequeueResult>>),
    /// Deletes an event's ledger rows.
    ForgetEvent {
        rows: Vec<(EventKey, RowId)>,
        done: Done<()>,
    },
    /// Stores a webhook's definition, or deletes it. Remembers its creation if that has a key.
    SetWebhook {
        name: Arc<str>,
        definition: Option<Box<str>>,
        creation: Option<CreationKey>,
        done: Done<()>,
    },
    /// Pauses or resumes a route.
    SetPaused {
        route: Arc<str>,
        paused: bool,
        done: Done<()>,
    },
    /// Stores a bulk redelivery, in place of the one before.
    SetRedelivery {
        redelivery: StoredRedelivery,
        done: Done<()>,
    },
    /// Moves up to `limit` events in this state to another route. The reply is their number.
    MoveEvents {
        from: Arc<str>,
        to: Arc<str>,
        state: DeliveryState,
        limit: usize,
        done: Done<usize>,
    },
    /// Reads the front of a route's queue for a worker that asks for `rows` events at once.
    ReadFront {
        route: Arc<str>,
        rows: usize,
        done: Done<()>,
    },
    /// Sets the active routes.
    UpdateRoutes(Vec<StoreRoute>),
    /// Forgets the creations of webhooks that have expired.
    ForgetCreations,
    /// Deletes the records of ended deliveries. The reply is their number.
    DeleteRecords {
        ids: Vec<DeliveryId>,
        done: std::sync::mpsc::SyncSender<usize>,
    },
    /// Causes a commit, which writes the store uptime.
    WriteTime,
    /// Executes what was left to the log, for a query that must see all that was answered before.
    ApplyDeferred(Done<()>),
    /// Checkpoints the rest of the write-ahead log, so that SQLite can restart it.
    Checkpoint,
    /// Saves the database, whose file was deleted or replaced, and reopens it.
    SaveFiles,
    /// Closes and reopens the file, which cannot be trusted until it has been read again.
    Reopen,
    Close {
        clean: bool,
        done: oneshot::Sender<()>,
    },
}

impl Job {
    /// Returns the job's approximate size in memory, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Settle(settlement, _) => {
                let payload = settlement
                    .delivery
                    .as_ref()
                    .and_then(|delivery| delivery.payload.as_ref());
                JOB_BYTES + payload.map_or(0, |payload| payload.head.len() + payload.body.len())
            }
            Self::Requeue(requeues, _) => JOB_BYTES * requeues.len(),
            _ => JOB_BYTES,
        }
    }
}

/// The approximate size of a job besides its payload, in bytes.
const JOB_BYTES: usize = 512;

/// The limit of jobs in one transaction. More would delay the first ones and save little.
const BATCH_MAX: usize = 1024;
/// The approximate limit of payload bytes in one transaction.
const BATCH_BYTES: usize = 8 << 20;

/// The first and the longest pause between attempts to reopen the file.
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_LAST: Duration = Duration::from_secs(1);

/// The number of jobs that are left to the log before the database gets their rows. More would make the
/// next commit wait longer, and save little.
const DEFERRED_MAX: usize = 128;

/// The size of rows in the database from which on the ledger's file is flushed with relaxed durability, in
/// bytes: some 4,000 rows.
const UNFLUSHED_MAX: usize = 256 << 10;

/// The interval at which the uptime is written together with other jobs.
const WRITE_TIME_INTERVAL: Duration = Duration::from_secs(1);

/// The limit of settlements that could not be written and are kept in memory until they can. Each
/// was a request in flight. More than this occur only during a long outage of the disk, and are
/// dropped.
const UNWRITTEN_MAX: usize = 100_000;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// `None` while the file is closed.
    pub(super) connection: Option<Connection>,
    /// The commit log; `None` while the file is closed, and with relaxed durability.
    pub(super) log: Option<CommitLog>,
    /// What the database has.
    pub(super) position: LogPosition,
    /// What the commit log has and the database does not yet, in order.
    pub(super) deferred: Vec<Statements>,
    /// The number of jobs in it.
    pub(super) deferred_jobs: usize,
    /// The size of the rows that are in the database because the ledger's file is not flushed;
    /// [`usize::MAX`] while it is not known what earlier commits have left.
    pub(super) unflushed_bytes: usize,
    /// The connection flushes each commit.
    pub(super) flushes: bool,
    pub(super) cursor: Cursor,
    pub(super) time_written: Uptime,
    /// The histories of settlements that could not be written, and of interrupted attempts. They are
    /// written when the file has been read again.
    pub(super) unwritten: HashMap<EventKey, Unwritten>,
    /// Released when the writer ends and the file is closed.
    pub(super) lock: FolderLock,
}

/// The outcome of an event that could not be written.
pub(super) struct Unwritten {
    pub history: AttemptHistory,
    pub window: Duration,
    /// The event's route, if it is known.
    pub route: Option<Arc<str>>,
}

/// The reason why a transaction was not committed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    #[error("the commit log and the ledger's file cannot be written: {0}")]
    Files(#[from] io::Error),
    #[error("{0}")]
    TooLarge(#[from] TooLarge),
    /// The commit log has the transaction, and SQLite failed to commit it.
    #[error("a transaction that is in the commit log cannot be committed yet: {0}")]
    Logged(rusqlite::Error),
    #[error("the database is closed")]
    Closed,
}

impl From<StoreFileError> for CommitError {
    fn from(error: StoreFileError) -> Self {
        match error {
            StoreFileError::Database(error) => Self::Database(error),
            StoreFileError::Ledger(error) => Self::Files(error),
        }
    }
}

/// The error of a commit after which the file was closed. The cause is already logged.
struct DatabaseClosed;

impl Drop for Writer {
    /// Closes the store however the writer ends: without a writer, no call may succeed.
    fn drop(&mut self) {
        self.shared.close_connections();
    }
}

impl Writer {
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            // Tasks that share this core run first: their jobs are committed with this one.
            std::thread::yield_now();
            let mut batch = Vec::new();
            let close = collect_batch(first, jobs, &mut batch, &self.shared);
            let written = batch.is_empty() || self.commit(batch).is_ok();
            if !written && close.is_none() {
                self.recover(jobs);
            }
            if let Some((clean, done)) = close {
                self.close(clean);
                drop(self);
                let _ = done.send(());
                return;
            }
        }
        self.close(true);
    }

    /// Commits a batch and replies to its callers. On failure, closes the database *before*
    /// replying, so that no caller can act on the stale in-memory index.
    fn commit(&mut self, batch: Vec<Job>) -> Result<(), DatabaseClosed> {
        if self.connection.is_none() {
            self.reject(batch);
            return Ok(());
        }
        if batch.iter().any(|job| matches!(job, Job::Reopen)) {
            return Err(
                self.close_after_error(&"the write-ahead log could not be checkpointed", batch)
            );
        }
        if batch.iter().any(|job| matches!(job, Job::SaveFiles)) && !self.shared.has_its_files() {
            if let Err(closed) = self.apply_deferred() {
                self.reject(batch);
                return Err(closed);
            }
            let error = self.save_files();
            return Err(self.close_after_error(&error, batch));
        }
        let began = Instant::now();
        let checkpoint = batch.iter().any(|job| matches!(job, Job::Checkpoint));
        let bytes: usize = batch.iter().map(Job::bytes).sum();
        let by_log = bytes <= Statements::BYTES_MAX && self.log_has_room();
        let appended = if by_log && batch.iter().all(|job| self.is_append(job)) {
            self.append(&batch)
        } else {
            self.transact(&batch, by_log)
        };
        let written = match appended {
            Err(CommitError::TooLarge(_)) => self
                .read_routes_again()
                .map_err(CommitError::Database)
                .and_then(|()| self.transact(&batch, false)),
            written => written,
        };
        match written {
            Ok((effects, replies)) => {
                self.shared.metrics.observe_commit(began.elapsed());
                effects.apply(&self.shared);
                self.reply(batch, replies);
            }
            Err(CommitError::Database(error)) if is_job_error(&error) => {
                return self.commit_one_by_one(batch, &error);
            }
            Err(error) => return Err(self.close_after_error(&error, batch)),
        }
        if self.deferred_jobs >= DEFERRED_MAX {
            self.apply_deferred()?;
        }
        if checkpoint && let Some(connection) = &self.connection {
            let checkpointed = schema::checkpoint_passive(connection);
            checkpointed.map_err(|error| self.close_after_error(&error, Vec::new()))?;
        }
        Ok(())
    }

    /// Replies to the callers of jobs that were committed.
    fn reply(&self, batch: Vec<Job>, results: Vec<Reply>) {
        let (mut settled, mut attempts) = (Replies::default(), Replies::default());
        for (job, result) in batch.into_iter().zip(results) {
            match (job, result) {
                (Job::Settle(_, done), Reply::Delivery(id)) => settled.add(done, id),
                (Job::RecordAttempt { done, .. }, _) => attempts.add(done, ()),
                (Job::Requeue(_, done), Reply::Requeued(requeued)) => done.send(Ok(requeued)),
                (
                    Job::ForgetEvent { done, .. }
                    | Job::SetWebhook { done, .. }
                    | Job::SetPaused { done, .. }
                    | Job::SetRedelivery { done, .. }
                    | Job::ReadFront { done, .. }
                    | Job::ApplyDeferred(done),
                    _,
                ) => done.send(Ok(())),
                (Job::MoveEvents { done, .. }, Reply::Rows(rows)) => done.send(Ok(rows)),
                (Job::UpdateRoutes(routes), _) => self.shared.set_routes(routes),
                (Job::DeleteRecords { done, .. }, Reply::Rows(rows)) => drop(done.send(rows)),
                _ => {}
            }
        }
        settled.send();
        attempts.send();
    }

    fn log_has_room(&self) -> bool {
        self.log.as_ref().is_some_and(CommitLog::has_room)
    }

    /// Returns whether a job only adds rows to the database, and reads none.
    fn is_append(&self, job: &Job) -> bool {
        let Job::Settle(settlement, _) = job else {
            return false;
        };
        settlement.delivery.as_ref().is_none_or(|change| {
            change.earlier.is_none()
                && change.payload.is_none()
                && self.cursor.routes.contains_key(&change.event.route)
        })
    }

    /// Commits a batch by the log alone. The database gets its rows with those of other batches, in one
    /// transaction, after the callers have their replies.
    fn append(&mut self, batch: &[Job]) -> Result<(Effects, Vec<Reply>), CommitError> {
        let (Some(log), Some(_)) = (&mut self.log, &self.connection) else {
            return Err(CommitError::Closed);
        };
        let shared = &self.shared;
        let (cursor, position) = (&mut self.cursor, self.position.after_logged());
        let mut writer = BatchWriter::new(None, shared, cursor, position.applied);
        writer.log = Some(Statements::default());
        let replies = batch.iter().map(|job| apply(&mut writer, job));
        let replies = replies.collect::<Result<_, _>>()?;
        let Changes {
            rows,
            statements,
            effects,
        } = writer.finish()?;
        let statements = statements.unwrap_or_default();
        log.append(&commit_log::encode(
            position,
            Execution::Deferred,
            &rows,
            &statements,
        )?)?;
        shared.ledger.write(&rows)?;
        self.position = position;
        self.deferred.push(statements);
        self.deferred_jobs += batch.len();
        shared.set_deferred(true);
        Ok((effects, replies))
    }

    /// Executes what was left to the log.
    fn apply_deferred(&mut self) -> Result<(), DatabaseClosed> {
        if self.deferred.is_empty() {
            return Ok(());
        }
        match self.transact(&[], self.log_has_room()) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.close_after_error(&error, Vec::new())),
        }
    }

    /// Applies a batch in one transaction. It is made durable by the commit log, or by SQLite, which
    /// then flushes all transactions before it as well.
    fn transact(
        &mut self,
        batch: &[Job],
        by_log: bool,
    ) -> Result<(Effects, Vec<Reply>), CommitError> {
        let Some(mut connection) = self.connection.take() else {
            return Err(CommitError::Closed);
        };
        let written = self.transact_on(&mut connection, batch, by_log);
        self.connection = Some(connection);
        written
    }

    fn transact_on(
        &mut self,
        connection: &mut Connection,
        batch: &[Job],
        by_log: bool,
    ) -> Result<(Effects, Vec<Reply>), CommitError> {
        let shared = Arc::clone(&self.shared);
        let now = shared.uptime.now();
        if self.log.is_some() && self.flushes == by_log {
            schema::set_flushes(connection, !by_log)?;
            self.flushes = !by_log;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // An error of theirs is none of these jobs.
        self.execute_deferred(&transaction)
            .map_err(CommitError::Logged)?;
        let (cursor, number) = (&mut self.cursor, self.position.applied + 1);
        let mut writer = BatchWriter::new(Some(&transaction), &shared, cursor, number);
        writer.log = by_log.then(Statements::default);
        let replies = batch.iter().map(|job| apply(&mut writer, job));
        let replies = replies.collect::<Result<_, _>>()?;
        let writes_time = now.since(self.time_written) >= WRITE_TIME_INTERVAL;
        if writes_time {
            writer.write_time(shared.uptime.downtime(), false)?;
        }
        let Changes {
            rows,
            statements,
            effects,
        } = writer.finish()?;
        match (&mut self.log, &statements) {
            // Its jobs only read.
            (_, Some(statements)) if statements.is_empty() && rows.is_empty() => {
                if !self.deferred.is_empty() {
                    schema::write_log_position(&transaction, self.position)?;
                }
                transaction.commit()?;
            }
            (Some(log), Some(statements)) => {
                let position = self.position.after_logged();
                let record = commit_log::encode(position, Execution::AtOnce, &rows, statements)?;
                schema::write_log_position(&transaction, position)?;
                log.append(&record)?;
                shared.ledger.write(&rows)?;
                transaction.commit().map_err(CommitError::Logged)?;
                self.position = position;
            }
            _ => self.commit_flushed(transaction, &rows)?,
        }
        self.forget_deferred();
        if writes_time {
            self.time_written = now;
        }
        Ok((effects, replies))
    }

    /// Commits a transaction that the commit log does not have. With strict durability it is flushed, and
    /// all before it.
    pub(super) fn commit_flushed(
        &mut self,
        transaction: Transaction<'_>,
        rows: &RowWrites,
    ) -> Result<(), CommitError> {
        let (ledger, position) = (&self.shared.ledger, self.position.after_flushed());
        let is_strict = self.shared.settings.durability == Durability::Strict;
        if is_strict || self.unflushed_bytes >= UNFLUSHED_MAX {
            ledger.sync()?;
            schema::forget_unflushed_rows(&transaction)?;
            self.unflushed_bytes = 0;
        }
        schema::write_unflushed_rows(&transaction, position.applied, rows)?;
        self.unflushed_bytes += rows.as_bytes().len();
        schema::write_log_position(&transaction, position)?;
        transaction.commit()?;
        ledger.write(rows)?;
        self.position = position;
        if let Some(log) = &mut self.log {
            log.restart();
        }
        Ok(())
    }

    /// Reads the IDs of the routes again, after a transaction that was rolled back and with it the IDs
    /// of new routes.
    fn read_routes_again(&mut self) -> rusqlite::Result<()> {
        if let Some(connection) = &self.connection {
            self.cursor.routes = opening::read_routes(connection)?;
        }
        Ok(())
    }

    /// Commits each job in its own transaction, so that a job that cannot be written does not fail
    /// the others.
    fn commit_one_by_one(
        &mut self,
        mut batch: Vec<Job>,
        error: &rusqlite::Error,
    ) -> Result<(), DatabaseClosed> {
        if let Err(error) = self.read_routes_again() {
            return Err(self.close_after_error(&error, batch));
        }
        if batch.len() == 1 {
            self.shared.metrics.count_error("commit");
            tracing::error!(%error, "the database rejected a write; this is a bug in the gateway");
            self.reject(batch);
            return Ok(());
        }
        batch.reverse();
        while let Some(job) = batch.pop() {
            if let Err(closed) = self.commit(vec![job]) {
                self.reject(batch);
                return Err(closed);
            }
        }
        Ok(())
    }

    /// Replies to the callers that nothing was written, and keeps the histories that then apply.
    fn reject(&mut self, batch: Vec<Job>) {
        for job in batch {
            match job {
                Job::Settle(settlement, done) => {
                    self.remember_unwritten(&settlement);
                    done.send(Err(StoreError::Unavailable));
                }
                Job::RecordAttempt { done, .. } => done.send(Err(StoreError::Unavailable)),
                Job::Requeue(_, done) => done.send(Err(StoreError::Unavailable)),
                Job::ForgetEvent { done, .. }
                | Job::SetWebhook { done, .. }
                | Job::SetPaused { done, .. }
                | Job::SetRedelivery { done, .. }
                | Job::ReadFront { done, .. }
                | Job::ApplyDeferred(done) => done.send(Err(StoreError::Unavailable)),
                Job::MoveEvents { done, .. } => done.send(Err(StoreError::Unavailable)),
                Job::UpdateRoutes(routes) => self.shared.set_routes(routes),
                Job::ForgetCreations
                | Job::DeleteRecords { .. }
                | Job::WriteTime
                | Job::Checkpoint
                | Job::SaveFiles
                | Job::Reopen => {}
                Job::Close { done, .. } => drop(done.send(())),
            }
        }
    }

    fn remember_unwritten(&mut self, settlement: &Settlement) {
        for settled in settlement.rows() {
            if settled.if_lost != AttemptHistory::default() && self.unwritten.len() < UNWRITTEN_MAX
            {
                let unwritten = Unwritten {
                    history: settled.if_lost,
                    window: settled.window,
                    route: settlement
                        .delivery
                        .as_ref()
                        .map(|change| Arc::clone(&change.event.route)),
                };
                self.unwritten.insert(settled.row.key, unwritten);
            }
        }
    }

    /// Closes the file after an error, then replies to the callers. Until the file has been read
    /// again, every call fails.
    fn close_after_error(&mut self, error: &dyn fmt::Display, batch: Vec<Job>) -> DatabaseClosed {
        self.shared.metrics.count_error("commit");
        tracing::error!(
            %error,
            file = %self.shared.file.display(),
            "store write failed; reopening the database"
        );
        self.shared.close_connections();
        self.close_files();
        self.reject(batch);
        DatabaseClosed
    }

    /// Reopens the file and reads it, retrying until it succeeds. Jobs that arrive meanwhile are
    /// rejected.
    fn recover(&mut self, jobs: &Receiver<Job>) {
        let mut pause = REOPEN_FIRST;
        loop {
            match self.reopen() {
                Ok(()) => break,
                Err(error) => {
                    self.shared.close_connections();
                    self.close_files();
                    self.shared.metrics.count_error("open");
                    tracing::warn!(
                        %error,
                        file = %self.shared.file.display(),
                        "the store can't be opened yet; retrying"
                    );
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
                    Ok(job) => {
                        self.shared.remove_from_backlog(job.bytes());
                        self.reject(vec![job]);
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
        tracing::info!(ids = self.shared.index.len(), "store reopened");
    }

    /// Writes what is open into new files, because its own were deleted or replaced. Returns what happened,
    /// for the log.
    fn save_files(&self) -> String {
        let Ok((Some(known), found)) = self.shared.known_and_found_files() else {
            return "the files of the store cannot be examined".into();
        };
        let ledger = (known.ledger != found.ledger).then(|| self.save_ledger(found));
        let database = (known.database != found.database).then(|| self.save_database(known, found));
        let happened: Vec<String> = ledger.into_iter().chain(database).collect();
        if happened.is_empty() {
            return "a file of the store was deleted or replaced".into();
        }
        happened.join("; ")
    }

    /// Writes the rows of the ledger's file into a new one: under its name if that is free, else beside it.
    fn save_ledger(&self, found: FileIdentity) -> String {
        let happened = "the ledger's file was deleted, moved or replaced while the gateway ran";
        let ledger = &self.shared.ledger;
        let saved = if found.ledger.is_none() {
            ledger.save().and_then(|to| {
                self.shared.know_ledger()?;
                Ok(to)
            })
        } else {
            ledger.save_beside()
        };
        match saved {
            Ok(to) => format!("{happened}; what it had is saved in {}", to.display()),
            Err(error) => format!("{happened}, and what it had cannot be saved: {error}"),
        }
    }

    /// Writes what the open database has into a file: under its name if that is free, else beside it, as a
    /// backup.
    fn save_database(&self, known: FileIdentity, found: FileIdentity) -> String {
        let file = &self.shared.file;
        let happened = "the database was deleted, moved or replaced while the gateway ran";
        let Some(connection) = &self.connection else {
            return format!("{happened}; it is closed");
        };
        let saved = if found.database.is_none() {
            schema::save(connection, file).and_then(|()| {
                let known = self.shared.know_files(|known, found| FileIdentity {
                    database: found.database,
                    ..known
                });
                known.map_err(|source| OpenError::folder(file, source))?;
                Ok(file.clone())
            })
        } else {
            self.save_beside(connection, known, found)
        };
        match saved {
            Ok(to) => format!("{happened}; what it had is saved in {}", to.display()),
            Err(error) => format!("{happened}, and what it had cannot be saved: {error}"),
        }
    }

    fn save_beside(
        &self,
        connection: &Connection,
        known: FileIdentity,
        found: FileIdentity,
    ) -> Result<PathBuf, OpenError> {
        let (file, folder) = (&self.shared.file, &self.shared.settings.folder);
        let to = file.with_extension("db.saved");
        schema::save(connection, &to)?;
        let ledger = &self.shared.ledger;
        ledger_table::complete_copy(&to, |_| ledger.reader())
            .map_err(|error| OpenError::folder(folder, io::Error::other(error)))?;
        if found.write_ahead_log == known.write_ahead_log {
            // It belongs to what is saved, not to the database that is there now.
            schema::remove_beside(file).map_err(|source| OpenError::folder(file, source))?;
        }
        Ok(to)
    }

    fn close_files(&mut self) {
        self.connection = None;
        self.log = None;
        // It is executed from the log when the file is opened again.
        self.forget_deferred();
    }

    fn execute_deferred(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut deferred = self.deferred.iter();
        deferred.try_for_each(|statements| statements.execute(connection))
    }

    fn forget_deferred(&mut self) {
        self.deferred.clear();
        self.deferred_jobs = 0;
        self.shared.set_deferred(false);
    }

    fn close(&mut self, clean: bool) {
        let Some(mut connection) = self.connection.take() else {
            return;
        };
        let closed = self.write_end(&mut connection, clean);
        self.shared.close_connections();
        // Closing the last connection checkpoints the write-ahead log.
        let closed = closed.and_then(|()| Ok(connection.close().map_err(|(_, error)| error)?));
        if let Err(error) = closed {
            tracing::warn!(
                %error,
                "the store was not closed cleanly; nothing that was acknowledged is lost"
            );
        }
    }

    /// Writes the end of the run. With strict durability it is flushed, so that nothing of the commit log
    /// is left to execute.
    fn write_end(&mut self, connection: &mut Connection, clean: bool) -> Result<(), CommitError> {
        let shared = Arc::clone(&self.shared);
        schema::set_flushes(connection, shared.settings.durability == Durability::Strict)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        self.execute_deferred(&transaction)?;
        let (cursor, number) = (&mut self.cursor, self.position.applied + 1);
        let mut writer = BatchWriter::new(Some(&transaction), &shared, cursor, number);
        writer.write_time(shared.uptime.downtime(), clean)?;
        let Changes { rows, .. } = writer.finish()?;
        self.commit_flushed(transaction, &rows)
    }
}

/// Returns whether an error is about the data of one job, not about the file.
pub(super) fn is_job_error(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        ConstraintViolation, ParameterOutOfRange, TooBig, TypeMismatch, Unknown,
    };
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ConstraintViolation | ParameterOutOfRange | TooBig | TypeMismatch | Unknown
        ),
        // A value could not be converted to or from its column's type.
        None => true,
    }
}

/// The result of a job.
enum Reply {
    Nothing,
    Delivery(Option<DeliveryId>),
    Requeued(Vec<RequeueResult>),
    Rows(usize),
}

fn apply(batch: &mut BatchWriter<'_>, job: &Job) -> Result<Reply, StoreFileError> {
    Ok(match job {
        Job::Settle(settlement, _) => Reply::Delivery(batch.settle(settlement)?),
        Job::RecordAttempt {
            id,
            number,
            attempt,
            next,
            ..
        } => {
            batch.record_attempt(*id, *number, attempt, *next)?;
            Reply::Nothing
        }
        Job::Requeue(requeues, _) => {
            let results = requeues.iter().map(|requeue| batch.requeue(requeue));
            Reply::Requeued(results.collect::<Result<_, _>>()?)
        }
        Job::ForgetEvent { rows, .. } => {
            batch.forget_event(rows)?;
            Reply::Nothing
        }
        Job::SetWebhook {
            name,
            definition,
            creation,
            ..
        } => {
            batch.set_webhook(name, definition.as_deref())?;
            if let (Some(definition), Some(creation)) = (definition, creation) {
                batch.remember_creation(name, definition, creation)?;
            }
            Reply::Nothing
        }
        Job::SetPaused { route, paused, .. } => {
            batch.set_paused(route, *paused)?;
            Reply::Nothing
        }
        Job::SetRedelivery { redelivery, .. } => {
            batch.set_redelivery(redelivery)?;
            Reply::Nothing
        }
        Job::MoveEvents {
            from,
            to,
            state,
            limit,
            ..
        } => Reply::Rows(batch.move_events(from, to, *state, *limit)?),
        Job::ReadFront { route, rows, .. } => {
            batch.read_front(route, *rows)?;
            Reply::Nothing
        }
        Job::UpdateRoutes(routes) => {
            batch.update_routes(routes)?;
            Reply::Nothing
        }
        Job::ForgetCreations => {
            batch.forget_expired_creations()?;
            Reply::Nothing
        }
        Job::DeleteRecords { ids, .. } => {
            batch.delete_records(ids)?;
            Reply::Rows(ids.len())
        }
        Job::WriteTime
        | Job::ApplyDeferred(_)
        | Job::Checkpoint
        | Job::SaveFiles
        | Job::Reopen
        | Job::Close { .. } => Reply::Nothing,
    })
}

/// Collects the jobs that have arrived, up to the limits of one transaction. Returns the caller of
/// [`Job::Close`] if the store is to be closed.
fn collect_batch(
    first: Job,
    jobs: &Receiver<Job>,
    batch: &mut Vec<Job>,
    shared: &Shared,
) -> Option<(bool, oneshot::Sender<()>)> {
    let mut bytes = 0;
    let mut job = first;
    loop {
        shared.remove_from_backlog(job.bytes());
        bytes += job.bytes();
        match job {
            Job::Close { clean, done } => return Some((clean, done)),
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
