//! The embedded engine: SQLite, with one file, one writer thread and one gateway.
//!
//! * `write` runs the writer thread. It commits all jobs that have arrived since its last commit in
//!   one transaction, so that many requests share one disk flush and none waits for a timer.
//! * `commit_log` makes a small transaction durable with one write, without a flush by SQLite.
//! * `ledger_file` has a row for each event that is remembered.
//! * `index` answers from memory whether an event may be known. Nearly none is; only then is the
//!   row read.
//! * `file_identity` knows whether the files were deleted or replaced meanwhile.
//! * `opening` loads the index and the counters, at the start and after a failure.
//! * `queue_front` keeps the events in memory that are due first, so that a queue which keeps up is
//!   not read from the file.
//! * `read` runs queries on its own connections, beside the writer.
//! * `check`, `backup` and `restore` are for operators: they work on the files, beside a gateway or
//!   without one.
//! * `upkeep` runs a thread that deletes what has expired, checkpoints the write-ahead log, and
//!   counts uptime.
//!
//! After a failed write, every call fails until the file has been closed, reopened and read again.

mod apply;
mod attempt_journal;
mod backup;
mod check;
mod commit_log;
mod export;
mod file_identity;
mod folder_lock;
mod index;
mod ledger_file;
mod ledger_table;
mod offline;
mod opening;
mod operator_settings;
mod queue_front;
mod read;
mod replies;
mod restore;
mod schema;
mod shared;
mod upkeep;
mod uptime_clock;
mod usage;
mod write;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use attempt_journal::InterruptedAttempt;
use folder_lock::{FolderLock, LockError};
use replies::Done;
use shared::Shared;
use write::Job;

use super::{
    AttemptHistory, AttemptId, AttemptLog, AttemptOutcome, AttemptRecord, COUNT_LIMIT, ClaimLease,
    ClaimResult, ClaimTerms, Creation, CreationKey, DeliveryChange, DeliveryFilter, DeliveryId,
    DeliveryKeys, DeliveryRecord, DeliveryState, DueAt, DueEvent, DueEvents, Durability, Engine,
    EventKey, EventRow, KnownEvent, LISTED_BYTES_MAX, LeaseDeadline, LedgerEntry, Payload,
    QueuedEvent, RECORD_BYTES, REMOVED_ROUTES_MAX, RecordLimits, RemovedRoute, Requeue,
    RequeueResult, Retain, RouteDeliveryStats, RowId, Settlement, StartedAttempt, StoreError,
    StoreRoute,
};
pub(super) use attempt_journal::JournalEntry;
pub use backup::{Backup, BackupError, back_up};
pub use check::{CheckedRoute, StoreCheck, StoreFault, StoreProblem, check};
pub use offline::OfflineStore;
pub use restore::{RestoreError, Restored, restore};

/// The settings of an embedded store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The store's own folder. It is created if it does not exist.
    pub folder: PathBuf,
    pub durability: Durability,
    /// Opening fails if there is no store, instead of creating one.
    pub must_exist: bool,
    /// The limit of remembered event IDs. Above it, new events get 503.
    pub max_ids: usize,
    /// The size on disk, in bytes, from which on new events get 503; `None` sets no limit but the
    /// disk's.
    pub max_bytes: Option<u64>,
}

impl Settings {
    /// Returns settings without limits, for the import into another store.
    pub(super) fn without_limits(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            durability: Durability::Strict,
            max_ids: usize::MAX,
            max_bytes: None,
            must_exist: false,
        }
    }
}

/// The reason why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store in {folder} is in use by {holder}; two gateways need a folder each")]
    InUse { folder: String, holder: String },
    #[error("cannot use the store's folder {folder}: {source}")]
    Folder {
        folder: String,
        source: std::io::Error,
    },
    #[error("cannot open the store {file}: {source}")]
    Database {
        file: String,
        source: rusqlite::Error,
    },
    #[error("there is no store in {folder}")]
    Missing { folder: String },
    #[error(
        "there is no store in {place}, and `store.must_exist` is set: an empty one would forget every \
         event ID. Is a volume not mounted? Restore a backup, or remove the key for one start"
    )]
    MustExist { place: String },
    #[error("{file} was not written by this program; it was not changed")]
    Foreign { file: String },
    #[error(
        "{file} is of a later version of hookstile (tables {found}; this one supports tables {}): use \
         that version, or restore a backup from before it; the file was not changed",
        schema::VERSION
    )]
    Later { file: String, found: i32 },
    #[error(
        "a restore of the store in {folder} was cut off: run `hookstile store restore FILE --replace` \
         again; the files before it are beside it, in a folder whose name has `replaced`"
    )]
    CutOffRestore { folder: String },
    #[error("cannot read {file}: {source}")]
    File {
        file: String,
        source: std::io::Error,
    },
    #[error("cannot start the store: {0}")]
    Start(std::io::Error),
    #[error("{0}")]
    Shared(#[from] super::postgres::OpenError),
    #[error("cannot read random bytes for the ledger's key: {0}")]
    Random(getrandom::Error),
}

impl OpenError {
    fn folder(folder: &Path, source: std::io::Error) -> Self {
        Self::Folder {
            folder: folder.display().to_string(),
            source,
        }
    }

    fn file(file: &Path, source: std::io::Error) -> Self {
        Self::File {
            file: file.display().to_string(),
            source,
        }
    }

    fn database(file: &Path, source: rusqlite::Error) -> Self {
        let file = file.display().to_string();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::Foreign { file },
            _ => Self::Database { file, source },
        }
    }
}

/// Locks the folder, which must exist, for this process.
fn lock_folder(folder: &Path) -> Result<FolderLock, OpenError> {
    let lock = FolderLock::acquire(folder).map_err(|error| error.into_open_error(folder))?;
    restore::refuse_cut_off(folder)?;
    Ok(lock)
}

impl LockError {
    fn into_open_error(self, folder: &Path) -> OpenError {
        match self {
            Self::InUse(holder) => {
                let holder = if holder.is_empty() {
                    "another process".into()
                } else {
                    holder
                };
                OpenError::InUse {
                    folder: folder.display().to_string(),
                    holder,
                }
            }
            Self::Io(source) => OpenError::folder(folder, source),
        }
    }
}

/// A handle to the store. Clones share one store, which is closed when the last one is dropped.
#[derive(Clone)]
pub(super) struct Store {
    inner: Arc<Inner>,
}

/// The number of concurrent queries for events. More would not be faster.
const READ_CONCURRENCY: usize = 8;
/// The number of concurrent queries for operators.
const OPERATOR_READ_CONCURRENCY: usize = 2;

struct Inner {
    shared: Arc<Shared>,
    /// Limits concurrent queries. Each uses a connection with its own cache, and a thread.
    reads: Semaphore,
    /// Limits queries for operators. They may take long, and must not delay events.
    operator_reads: Semaphore,
    /// Held while the bulk redelivery is read and changed.
    redelivery: tokio::sync::Mutex<()>,
    /// The writer's queue. [`Shared::check_room`] bounds it.
    jobs: std::sync::mpsc::Sender<Job>,
    /// Stops the upkeep thread when it is dropped.
    _stop_upkeep: std::sync::mpsc::Sender<()>,
}

/// Creates the folder if it does not exist. Only its owner can read it, because it will hold
/// payloads.
fn create_folder(folder: &Path) -> io::Result<()> {
    if folder.try_exists()? {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // Flushes the parent folder, so that the new folder survives a power loss.
    match folder.canonicalize()?.parent() {
        Some(parent) => flush_folder(parent),
        None => Ok(()),
    }
}

/// Flushes a folder, so that the names of new and renamed files in it survive a power loss.
fn flush_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Inner {
    fn send(&self, job: Job) -> Result<(), StoreError> {
        let bytes = job.bytes();
        self.shared.add_to_backlog(bytes);
        self.jobs.send(job).map_err(|_| {
            self.shared.remove_from_backlog(bytes);
            StoreError::Unavailable
        })
    }
}

impl Store {
    /// Opens the store in `settings.folder`, creates it if it does not exist, and loads its index.
    ///
    /// # Errors
    /// Fails when another process has the store open, or when the file cannot be read or is not a
    /// hookstile store.
    pub(super) fn open(
        settings: Settings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        create_folder(&settings.folder)
            .map_err(|source| OpenError::folder(&settings.folder, source))?;
        let lock = lock_folder(&settings.folder)?;
        let (shared, writer) = opening::open(settings, lock, clock, metrics)?;
        let (jobs, incoming) = std::sync::mpsc::channel();
        let (stop_upkeep, stopped) = std::sync::mpsc::channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(work)
                .map_err(OpenError::Start)
        };
        spawn("store", Box::new(move || writer.run(&incoming)))?;
        let inner = Arc::new(Inner {
            shared,
            reads: Semaphore::new(READ_CONCURRENCY),
            operator_reads: Semaphore::new(OPERATOR_READ_CONCURRENCY),
            redelivery: tokio::sync::Mutex::default(),
            jobs,
            _stop_upkeep: stop_upkeep,
        });
        let upkeep = Arc::downgrade(&inner);
        spawn(
            "store-upkeep",
            Box::new(move || upkeep::run(&upkeep, &stopped)),
        )?;
        Ok(Self { inner })
    }

    fn begin_journal_entry(
        &self,
        attempt: InterruptedAttempt,
    ) -> Result<StartedAttempt, StoreError> {
        let shared = &self.inner.shared;
        let entry = shared.journal.begin(attempt);
        entry
            .map(|entry| StartedAttempt(Some(entry)))
            .map_err(|error| {
                shared.metrics.count_error("claim");
                tracing::error!(%error, "cannot write to the attempt journal");
                StoreError::Unavailable
            })
    }

    async fn write<T>(&self, job: impl FnOnce(Done<T>) -> Job) -> Result<T, StoreError> {
        let (done, result) = Done::channel();
        self.inner.send(job(done))?;
        result.await.unwrap_or(Err(StoreError::Unavailable))
    }

    /// Runs a query for events. It sees all that waits in a queue, but not every record of an ended
    /// delivery.
    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_within(&self.inner.reads, query).await
    }

    /// Runs a query for operators. It sees all that was answered before.
    async fn read_for_operator<T: Send + 'static>(
        &self,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        if self.inner.shared.has_deferred() {
            self.write(Job::ApplyDeferred).await?;
        }
        self.read_within(&self.inner.operator_reads, query).await
    }

    async fn read_within<T: Send + 'static>(
        &self,
        limit: &Semaphore,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        // The semaphore is never closed.
        let _permit = limit.acquire().await.map_err(|_| StoreError::Unavailable)?;
        let shared = Arc::clone(&self.inner.shared);
        tokio::task::spawn_blocking(move || shared.read(query))
            .await
            .unwrap_or(Err(StoreError::Unavailable))
    }
}

#[async_trait]
impl Engine for Store {
    fn apply_settings(&self, settings: super::Settings) -> bool {
        matches!(settings, super::Settings::Embedded(_))
    }

    fn hash_key(&self) -> [u8; 16] {
        self.inner.shared.hash_key
    }

    fn check_open(&self) -> Result<(), StoreError> {
        self.inner.shared.check_open()
    }

    fn check_room(&self, route: Option<&str>) -> Result<(), StoreError> {
        self.inner.shared.check_room(route)
    }

    async fn claim(&self, key: EventKey, _: ClaimTerms) -> Result<ClaimResult, StoreError> {
        let shared = &self.inner.shared;
        let (row, found) = ledger_file::known_event(&shared.event_rows(key)?).unzip();
        Ok(ClaimResult::Acquired(
            ClaimLease { row, lease: None },
            found,
        ))
    }

    async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        let rows = self.inner.shared.event_rows(key)?;
        Ok(ledger_file::event_rows(&rows))
    }

    async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        self.write(|done| Job::ForgetEvent { rows, done }).await
    }

    fn begin_attempt(
        &self,
        key: EventKey,
        _: LeaseDeadline,
        attempts: u32,
        window: Duration,
    ) -> Result<StartedAttempt, StoreError> {
        let tried = AttemptHistory {
            attempts,
            possibly_delivered: true,
        };
        self.begin_journal_entry(InterruptedAttempt::Event {
            key,
            history: tried,
            window,
        })
    }

    fn begin_queued_attempt(
        &self,
        id: DeliveryId,
        _: LeaseDeadline,
    ) -> Result<StartedAttempt, StoreError> {
        self.begin_journal_entry(InterruptedAttempt::Delivery(id))
    }

    async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        self.write(|done| Job::Settle(Box::new(settlement), done))
            .await
    }

    fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        self.inner.shared.notifier(route)
    }

    fn update_routes(&self, routes: Vec<StoreRoute>) {
        // The writer lives as long as this handle, unless the store was closed.
        let _ = self.inner.send(Job::UpdateRoutes(routes));
    }

    async fn due_events(
        &self,
        route: Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> Result<DueEvents, StoreError> {
        let now = self.inner.shared.uptime.now_due();
        // Events in flight are due as well and come first, so this many rows always include the
        // others.
        let rows = limit.saturating_add(in_flight.len());
        let fronts = &self.inner.shared.queue_fronts;
        let mut due = fronts.due_events(&route, now, rows);
        if due.is_none() {
            let read = self.write(|done| Job::ReadFront {
                route: Arc::clone(&route),
                rows,
                done,
            });
            read.await?;
            due = fronts.due_events(&route, now, rows);
        }
        let mut due = match due {
            Some(due) => due,
            // The front was forgotten at once, for example because the route was paused.
            None => {
                self.read(move |reader| reader.due_events(&route, now, rows))
                    .await?
            }
        };
        let mut in_flight = in_flight.to_vec();
        in_flight.sort_unstable();
        due.events
            .retain(|event| in_flight.binary_search(&event.id).is_err());
        due.events.truncate(limit);
        Ok(due)
    }

    async fn load_event(
        &self,
        route: Arc<str>,
        id: DeliveryId,
        _: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError> {
        let shared = &self.inner.shared;
        let (now, now_due) = (shared.uptime.now(), shared.uptime.now_due());
        if let Some(held) = shared.queue_fronts.load(&route, id) {
            return Ok(Some(held.into_queued(now)));
        }
        let shared = Arc::clone(shared);
        let read = self.read(move |reader| {
            let found = reader.load_event(&route, id)?;
            shared.queue_fronts.read_ahead(&route, id, now_due, |next| {
                // Its own attempt reads it again, and reports the error.
                reader.load_event(&route, next).ok().flatten()
            });
            Ok(found)
        });
        Ok(read.await?.map(|found| found.into_queued(now)))
    }

    async fn move_events(
        &self,
        from: Arc<str>,
        to: Arc<str>,
        state: DeliveryState,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.write(|done| Job::MoveEvents {
            from,
            to,
            state,
            limit,
            done,
        })
        .await
    }

    async fn removed_routes(&self) -> Result<Vec<RemovedRoute>, StoreError> {
        let shared = &self.inner.shared;
        let removed = shared.removed_routes();
        if removed.is_empty() {
            return Ok(Vec::new());
        }
        let now = shared.uptime.now();
        self.read_for_operator(move |reader| {
            let routes = removed.into_iter();
            routes
                .map(|(route, counts)| reader.removed_route(route, counts, now))
                .collect()
        })
        .await
    }

    async fn record_attempt(
        &self,
        id: AttemptId,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        self.write(|done| Job::RecordAttempt {
            id: id.delivery,
            number: id.number,
            attempt,
            next,
            done,
        })
        .await
    }

    async fn event_keys(
        &self,
        ids: Vec<DeliveryId>,
    ) -> Result<Vec<Option<DeliveryKeys>>, StoreError> {
        self.read_for_operator(move |reader| {
            ids.into_iter().map(|id| reader.event_keys(id)).collect()
        })
        .await
    }

    fn now_due(&self) -> DueAt {
        DueAt(self.inner.shared.uptime.now_due())
    }

    async fn requeue(&self, requeues: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        self.write(|done| Job::Requeue(requeues, done)).await
    }

    async fn deliveries(&self, filter: DeliveryFilter) -> Result<Vec<DeliveryRecord>, StoreError> {
        let now = self.inner.shared.uptime.now_due();
        self.read_for_operator(move |reader| reader.deliveries(&filter, now))
            .await
    }

    async fn count_deliveries(&self, filter: DeliveryFilter) -> Result<Option<usize>, StoreError> {
        self.read_for_operator(move |reader| reader.count_deliveries(&filter))
            .await
    }

    async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        self.read_for_operator(move |reader| reader.matching_deliveries(&filter, after, limit))
            .await
    }

    async fn automatic_redeliveries(
        &self,
        route: Arc<str>,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        self.read(move |reader| reader.automatic_redeliveries(&route, limit))
            .await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        let now = self.inner.shared.uptime.now_due();
        self.read_for_operator(move |reader| reader.delivery(id, now))
            .await
    }

    async fn route_stats(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        let (pending, dead) = self.queue_counts(&route);
        let record = self
            .read_for_operator(move |reader| reader.route_stats(&route, since_day))
            .await?;
        Ok(RouteDeliveryStats {
            pending,
            dead,
            ..record
        })
    }

    fn queue_counts(&self, route: &str) -> (u64, u64) {
        let counts = self.inner.shared.counts(route);
        (counts.pending, counts.dead)
    }

    fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.inner
            .shared
            .read(|reader| reader.oldest_waiting(route))
            .ok()
            .flatten()
    }

    fn remembered_ids(&self) -> usize {
        self.inner.shared.index.len()
    }

    fn size_bytes(&self) -> u64 {
        self.inner.shared.file_bytes()
    }

    async fn close(&self, clean: bool) {
        let (done, closed) = oneshot::channel();
        if self.inner.send(Job::Close { clean, done }).is_ok() {
            let _ = closed.await;
        }
    }

    #[cfg(test)]
    fn reopen_after_error(&self) {
        let _ = self.inner.send(Job::Reopen);
    }

    fn tick(&self) {
        self.inner.shared.uptime.tick();
    }
}

#[cfg(test)]
mod tests;
