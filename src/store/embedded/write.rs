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
use super::folder_lock::Lock;
use super::shared::Shared;
use super::{
    AttemptHistory, AttemptOutcome, AttemptRecord, DeliveryId, EventKey, Requeue, RequeueResult,
    RowId, Settlement, StoreError, StoreRoute, opening, schema,
};
use crate::store::uptime::Uptime;

pub(super) type Done<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the writer is asked for.
pub(super) enum Job {
    Settle(Box<Settlement>, Done<Option<DeliveryId>>),
    Attempted {
        id: DeliveryId,
        /// The attempt's.
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
        done: Done<()>,
    },
    /// Makes deliveries pending again.
    Requeue(Vec<Requeue>, Done<Vec<RequeueResult>>),
    /// Deletes an event's rows of the ledger.
    ForgetEvent {
        rows: Vec<(EventKey, RowId)>,
        done: Done<()>,
    },
    /// Keeps a webhook's definition, or forgets it.
    Webhook {
        name: Arc<str>,
        definition: Option<Box<str>>,
        done: Done<()>,
    },
    /// Keeps that a route's stored events wait, or no longer.
    Pause {
        route: Arc<str>,
        paused: bool,
        done: Done<()>,
    },
    Serve(Vec<StoreRoute>),
    /// Deletes rows of the ledger before a place, some at a time; the answer is how many.
    Sweep {
        first: RowId,
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

impl Job {
    /// About what it takes in memory.
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

/// What a job takes beside its payload, about.
const JOB_BYTES: usize = 512;

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
/// this come only while the disk is gone for long, and are dropped.
const UNRECORDED_MAX: usize = 100_000;

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    /// `None` while the file is closed.
    pub(super) connection: Option<Connection>,
    pub(super) cursor: Cursor,
    pub(super) time_written: Uptime,
    pub(super) unrecorded: HashMap<EventKey, (AttemptHistory, Duration)>,
    /// Given back when the writer ends, and the file is closed.
    pub(super) _lock: Lock,
}

/// The file is closed, after an error that was told.
struct Lost;

impl Drop for Writer {
    /// However it ends: without a writer nobody may be let in.
    fn drop(&mut self) {
        self.shared.closed();
    }
}

impl Writer {
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            // Whoever shares a core with us goes first: what they bring is flushed with this.
            std::thread::yield_now();
            let mut batch = Vec::new();
            let closing = gather(first, jobs, &mut batch, &self.shared);
            let written = batch.is_empty() || self.commit(batch).is_ok();
            if !written && closing.is_none() {
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
        let writes_time = now.since(self.time_written) >= WRITE_TIME_EVERY;
        let mut write = || -> rusqlite::Result<(Effects, Vec<Reply>)> {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut writing = Batch::new(
                &transaction,
                &mut self.cursor,
                now,
                shared.time.due_now(),
                wall_ms,
            );
            let answers = batch
                .iter()
                .map(|job| apply(&mut writing, job))
                .collect::<rusqlite::Result<_>>()?;
            let effects = writing.end()?;
            if writes_time {
                schema::write_time(&transaction, now, shared.time.downtime(), wall_ms, false)?;
            }
            transaction.commit()?;
            Ok((effects, answers))
        };
        match write() {
            Ok((effects, answers)) => {
                if writes_time {
                    self.time_written = now;
                }
                shared.metrics.observe_commit(began.elapsed());
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
            match opening::read_routes(connection) {
                Ok(routes) => self.cursor.routes = routes,
                Err(error) => return Err(self.lose(&error, batch)),
            }
        }
        if batch.len() == 1 {
            self.shared.metrics.count_error("commit");
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
                Job::Requeue(_, done) => drop(done.send(Err(StoreError::Unavailable))),
                Job::ForgetEvent { done, .. }
                | Job::Webhook { done, .. }
                | Job::Pause { done, .. } => {
                    let _ = done.send(Err(StoreError::Unavailable));
                }
                Job::Serve(lanes) => self.shared.serve(lanes),
                Job::Sweep { .. }
                | Job::Forget { .. }
                | Job::Tick
                | Job::Checkpoint
                | Job::Distrust => {}
                Job::Close { done, .. } => drop(done.send(())),
            }
        }
    }

    fn remember_unrecorded(&mut self, settlement: &Settlement) {
        if settlement.if_lost == AttemptHistory::default() {
            return;
        }
        for name in settlement.names.iter().flatten() {
            if self.unrecorded.len() < UNRECORDED_MAX {
                self.unrecorded
                    .insert(name.key, (settlement.if_lost, settlement.window));
            }
        }
    }

    /// Closes the file after an error, then tells those who waited. Until it was read again, nobody is told anything else.
    fn lose(&mut self, error: &dyn fmt::Display, batch: Vec<Job>) -> Lost {
        self.shared.metrics.count_error("commit");
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
                    self.shared.metrics.count_error("open");
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
                    Ok(job) => {
                        self.shared.taken(job.bytes());
                        self.refuse(vec![job]);
                    }
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
        tracing::info!(ids = self.shared.index.len(), "the store is open again");
    }

    fn close(&mut self, in_good_order: bool) {
        if let Some(connection) = self.connection.take() {
            let shared = &self.shared;
            let wall_ms = Timestamp::now().as_millisecond();
            let closed = schema::write_time(
                &connection,
                shared.time.now(),
                shared.time.downtime(),
                wall_ms,
                in_good_order,
            );
            shared.closed();
            // The last connection moves the log into the database as it goes.
            if let Err(error) = closed.and_then(|()| connection.close().map_err(|(_, error)| error))
            {
                tracing::warn!(%error, "the store was not closed in good order; nothing that was answered is lost");
            }
        }
    }
}

/// Whether an error is about what was to be written, not about the file.
fn is_of_one_job(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        ConstraintViolation, ParameterOutOfRange, TooBig, TypeMismatch, Unknown,
    };
    match error.sqlite_error_code() {
        Some(code) => matches!(
            code,
            ConstraintViolation | ParameterOutOfRange | TooBig | TypeMismatch | Unknown
        ),
        // A value that could not be made into a column's, or the other way round.
        None => true,
    }
}

/// What to tell whoever asked.
enum Reply {
    Nothing,
    Delivery(Option<DeliveryId>),
    Requeued(Vec<RequeueResult>),
    Rows(usize),
}

fn apply(writing: &mut Batch<'_>, job: &Job) -> rusqlite::Result<Reply> {
    Ok(match job {
        Job::Settle(settlement, _) => Reply::Delivery(writing.settle(settlement)?),
        Job::Attempted {
            id,
            number,
            attempt,
            next,
            ..
        } => {
            writing.attempted(*id, *number, attempt, *next)?;
            Reply::Nothing
        }
        Job::Requeue(wanted, _) => {
            let requeued = wanted.iter().map(|requeue| writing.requeue(requeue));
            Reply::Requeued(requeued.collect::<rusqlite::Result<_>>()?)
        }
        Job::ForgetEvent { rows, .. } => {
            writing.forget_event(rows)?;
            Reply::Nothing
        }
        Job::Webhook {
            name, definition, ..
        } => {
            writing.webhook(name, definition.as_deref())?;
            Reply::Nothing
        }
        Job::Pause { route, paused, .. } => {
            writing.pause(route, *paused)?;
            Reply::Nothing
        }
        Job::Serve(lanes) => {
            writing.serve(lanes)?;
            Reply::Nothing
        }
        Job::Sweep { first, limit, .. } => Reply::Rows(writing.sweep(*first, *limit)?),
        Job::Forget { ids, .. } => {
            writing.forget(ids)?;
            Reply::Rows(ids.len())
        }
        Job::Tick | Job::Checkpoint | Job::Distrust | Job::Close { .. } => Reply::Nothing,
    })
}

/// Who asked may have gone meanwhile: what was written is written.
fn tell(shared: &Shared, job: Job, answer: Reply) {
    match (job, answer) {
        (Job::Settle(_, done), Reply::Delivery(id)) => drop(done.send(Ok(id))),
        (Job::Attempted { done, .. }, _) => drop(done.send(Ok(()))),
        (Job::Requeue(_, done), Reply::Requeued(requeued)) => drop(done.send(Ok(requeued))),
        (
            Job::ForgetEvent { done, .. } | Job::Webhook { done, .. } | Job::Pause { done, .. },
            _,
        ) => {
            let _ = done.send(Ok(()));
        }
        (Job::Serve(lanes), _) => shared.serve(lanes),
        (Job::Sweep { done, .. } | Job::Forget { done, .. }, Reply::Rows(rows)) => {
            drop(done.send(rows))
        }
        _ => {}
    }
}

/// Takes what has come, up to a transaction's worth. Answers who waits for the end, if it is the end.
fn gather(
    first: Job,
    jobs: &Receiver<Job>,
    batch: &mut Vec<Job>,
    shared: &Shared,
) -> Option<(bool, oneshot::Sender<()>)> {
    let mut bytes = 0;
    let mut job = first;
    loop {
        shared.taken(job.bytes());
        bytes += job.bytes();
        match job {
            Job::Close {
                in_good_order,
                done,
            } => return Some((in_good_order, done)),
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
