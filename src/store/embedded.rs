//! The store in SQLite: one file, one writer, one gateway.
//!
//! * `write` is a thread that takes all that has come since its last commit into one transaction, so that many
//!   requests share one flush to the disk, and none waits for a timer;
//! * `index` answers from memory whether an event may be known, which nearly none is; the row is read only then;
//! * `opening` reads what memory holds, at the start and after a failure;
//! * `read` looks rows up, on connections of its own, beside the writer;
//! * `upkeep` is a thread that lets go of what has expired, moves the log into the database, and counts time.
//!
//! After a write that failed nothing is answered until the file was closed, opened and read anew.

mod apply;
mod attempt_journal;
mod export;
mod folder_lock;
mod index;
mod offline;
mod opening;
mod read;
mod schema;
mod shared;
mod upkeep;
mod uptime_clock;
mod write;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, oneshot};

use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use attempt_journal::InterruptedAttempt;
use folder_lock::{Lock, LockError};
use shared::Shared;
use write::Job;

use super::{
    AttemptHistory, AttemptOutcome, AttemptRecord, COUNTED_MAX, ClaimLease, ClaimResult,
    ClaimTerms, DeliveryChange, DeliveryFilter, DeliveryId, DeliveryRecord, DeliveryState, DueAt,
    DueEvent, DueEvents, Durability, EventKey, EventMetadata, EventRow, KnownEvent,
    LISTED_BODY_MAX, LeaseDeadline, LedgerEntry, Payload, QueuedEvent, RECORD_BYTES, Requeue,
    RequeueResult, Retain, RouteDeliveryStats, RowId, Settlement, StoreError, StoreRoute,
};
pub use attempt_journal::JournalEntry;
pub use offline::OfflineStore;

/// Where the store is, and how it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The store's own folder. Made when it is missing.
    pub folder: PathBuf,
    pub durability: Durability,
    /// Event IDs that are remembered at the most; above it, new events get 503.
    pub max_ids: usize,
    /// Bytes on disk from which on new events get 503; `None` leaves it to the disk.
    pub max_bytes: Option<u64>,
}

impl Settings {
    /// Without bounds, for a store that is looked at.
    pub(super) fn at(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            durability: Durability::Strict,
            max_ids: usize::MAX,
            max_bytes: None,
        }
    }
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store in {folder} is in use by {holder}; two gateways need a folder each")]
    Held { folder: String, holder: String },
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
        "{file} was not written by this program, or by a later version of it; it was left as it is"
    )]
    Foreign { file: String },
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

    fn database(file: &Path, source: rusqlite::Error) -> Self {
        let file = file.display().to_string();
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::Foreign { file },
            _ => Self::Database { file, source },
        }
    }
}

/// Takes the folder, which must exist, for this process alone.
fn lock(folder: &Path) -> Result<Lock, OpenError> {
    Lock::take(folder).map_err(|refused| match refused {
        LockError::Held(holder) => {
            let holder = if holder.is_empty() {
                "another process".into()
            } else {
                holder
            };
            OpenError::Held {
                folder: folder.display().to_string(),
                holder,
            }
        }
        LockError::Io(source) => OpenError::folder(folder, source),
    })
}

/// The store. Clones are handles to the same one; the last to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// More would not be answered sooner.
const READS_AT_ONCE: usize = 8;
const OPERATORS_READS_AT_ONCE: usize = 2;

struct Inner {
    shared: Arc<Shared>,
    /// Look-ups at once. Each has a connection with a cache, and a thread.
    reads: Semaphore,
    /// For operators, whose questions may take long: they are not to stand in the way of events.
    operators_reads: Semaphore,
    /// Bounded by `Shared::check_room`.
    jobs: std::sync::mpsc::Sender<Job>,
    /// Ends the upkeep when it goes.
    _running: std::sync::mpsc::Sender<()>,
}

/// Makes the folder, if it is not there: for its owner only, since payloads are in it.
fn make(folder: &Path) -> io::Result<()> {
    if folder.try_exists()? {
        return Ok(());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)?;
    // It has to be there after the loss of power, too.
    match folder.canonicalize()?.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

impl Inner {
    fn send(&self, job: Job) -> Result<(), StoreError> {
        let bytes = job.bytes();
        self.shared.queued(bytes);
        self.jobs.send(job).map_err(|_| {
            self.shared.taken(bytes);
            StoreError::Unavailable
        })
    }
}

impl Store {
    /// Opens the store in `settings.folder`, making it where there is none, and reads what is remembered.
    ///
    /// # Errors
    /// Another process has it, it can't be read, or it is not ours.
    pub fn open(
        settings: Settings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        make(&settings.folder).map_err(|source| OpenError::folder(&settings.folder, source))?;
        let lock = lock(&settings.folder)?;
        let (shared, writer) = opening::open(settings, lock, clock, metrics)?;
        let (jobs, incoming) = std::sync::mpsc::channel();
        let (running, stopped) = std::sync::mpsc::channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(work)
                .map_err(OpenError::Start)
        };
        spawn("store", Box::new(move || writer.run(&incoming)))?;
        let inner = Arc::new(Inner {
            shared,
            reads: Semaphore::new(READS_AT_ONCE),
            operators_reads: Semaphore::new(OPERATORS_READS_AT_ONCE),
            jobs,
            _running: running,
        });
        let upkeep = Arc::downgrade(&inner);
        spawn(
            "store-upkeep",
            Box::new(move || upkeep::run(&upkeep, &stopped)),
        )?;
        Ok(Self { inner })
    }

    /// The key of the ledger's hashes: random, and the same for as long as anything is remembered.
    pub fn hash_key(&self) -> [u8; 16] {
        self.inner.shared.hash_key
    }

    /// Makes sure that the store can be written and read.
    ///
    /// # Errors
    /// When it can't be, for now.
    pub fn check_open(&self) -> Result<(), StoreError> {
        self.inner.shared.check_open()
    }

    /// Makes sure that one more event can be kept, before anything is forwarded on the strength of it.
    ///
    /// # Errors
    /// When it can't.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.inner.shared.check_room()
    }

    /// There is no other gateway to claim it from.
    pub async fn claim(&self, key: EventKey, _: ClaimTerms) -> Result<ClaimResult, StoreError> {
        let shared = &self.inner.shared;
        let places = shared.find(key)?;
        if places.is_empty() {
            return Ok(ClaimResult::Acquired(ClaimLease::default(), None));
        }
        let now = shared.time.now();
        let found = self
            .read(move |reader| reader.confirm(key, &places, now))
            .await?;
        let (place, found) = found.unzip();
        Ok(ClaimResult::Acquired(
            ClaimLease { place, lease: None },
            found,
        ))
    }

    /// The rows that remember the event, by this name and by the other one it has, if any.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        let shared = &self.inner.shared;
        let (places, now) = (shared.find(key)?, shared.time.now());
        self.read_within(&self.inner.operators_reads, move |reader| {
            reader.rows(key, &places, now)
        })
        .await
    }

    /// Forgets an event: when this returns `Ok`, as durably as the settings promise.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        self.ask(|done| Job::ForgetEvent { rows, done }).await
    }

    /// Notes that the event's attempt number `attempts` begins, so that a crash leaves it as one of unknown outcome. To be
    /// cleared when the outcome is settled.
    ///
    /// # Errors
    /// When it can't be noted.
    pub fn begin_attempt(
        &self,
        key: EventKey,
        attempts: u32,
        window: Duration,
    ) -> Result<JournalEntry, StoreError> {
        let tried = AttemptHistory {
            attempts,
            possibly_delivered: true,
        };
        self.note(InterruptedAttempt::Event { key, tried, window })
    }

    /// As [`Store::begin`], for an attempt at a stored event.
    ///
    /// # Errors
    /// When it can't be noted.
    pub fn begin_queued_attempt(&self, id: DeliveryId) -> Result<JournalEntry, StoreError> {
        self.note(InterruptedAttempt::Delivery(id))
    }

    fn note(&self, attempt: InterruptedAttempt) -> Result<JournalEntry, StoreError> {
        let shared = &self.inner.shared;
        shared.under_way.begin(attempt).map_err(|error| {
            shared.metrics.count_error("claim");
            tracing::error!(%error, "an attempt could not be noted");
            StoreError::Unavailable
        })
    }

    /// Writes how a claim ended. When this returns `Ok`, it is as durable as the settings promise.
    ///
    /// # Errors
    /// When that is not certain. What holds then is `settlement.if_lost`, or, if it was written all the same, what is
    /// found when the store is read again.
    pub async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        self.ask(|done| Job::Settle(Box::new(settlement), done))
            .await
    }

    /// Keeps what an operator said of a webhook, as durably as events are.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn put_webhook(&self, name: Arc<str>, definition: String) -> Result<(), StoreError> {
        self.ask(|done| Job::Webhook {
            name,
            definition: Some(definition.into()),
            done,
        })
        .await
    }

    /// Forgets a webhook's definition. What is known of its events stays.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn remove_webhook(&self, name: Arc<str>) -> Result<(), StoreError> {
        self.ask(|done| Job::Webhook {
            name,
            definition: None,
            done,
        })
        .await
    }

    /// All webhooks' names and definitions.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn webhooks(&self) -> Result<Vec<(String, String)>, StoreError> {
        self.read_within(&self.inner.operators_reads, read::Reader::webhooks)
            .await
    }

    /// Keeps that a route's stored events wait until somebody says otherwise, or no longer.
    ///
    /// # Errors
    /// When that is not certain.
    pub async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        self.ask(|done| Job::Pause {
            route,
            paused,
            done,
        })
        .await
    }

    /// The routes that are paused.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        self.read_within(&self.inner.operators_reads, read::Reader::paused)
            .await
    }

    /// Is told when an event was stored for the route, by whom ever, and when the store was opened anew.
    pub fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        self.inner.shared.waker(route)
    }

    /// Tells of the routes that are served from now on. Without waiting: what was told before holds until then.
    pub fn update_routes(&self, lanes: Vec<StoreRoute>) {
        // The writer lives as long as this handle, unless it was closed.
        let _ = self.inner.send(Job::Serve(lanes));
    }

    /// Stored events of a route that are due, those that have waited longest first; and when the next one will be.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn due_events(
        &self,
        route: Arc<str>,
        holding: &[DeliveryId],
        most: usize,
    ) -> Result<DueEvents, StoreError> {
        let now = self.inner.shared.time.due_now();
        // Those that are being tried are due as well, and come first: asking for this many always finds the others.
        let limit = most.saturating_add(holding.len());
        let mut due = self
            .read(move |reader| reader.due(&route, now, limit))
            .await?;
        due.all_seen = due.events.len() < limit;
        due.events.retain(|event| !holding.contains(&event.id));
        due.events.truncate(most);
        Ok(due)
    }

    /// A stored event with its payload; `None` when it no longer waits.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn load_event(&self, id: DeliveryId) -> Result<Option<QueuedEvent>, StoreError> {
        let now = self.inner.shared.time.now();
        self.read(move |reader| reader.load(id, now)).await
    }

    /// Writes how attempt number `number` at a stored event ended.
    ///
    /// # Errors
    /// When it is not certain to be written; to be told again.
    pub async fn record_attempt(
        &self,
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        self.ask(|done| Job::Attempted {
            id,
            number,
            attempt,
            next,
            done,
        })
        .await
    }

    /// A delivery's route, and the names of its event while that is not handed over; `None` if there is no such delivery.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn event_keys(
        &self,
        id: DeliveryId,
    ) -> Result<Option<(String, Vec<EventKey>)>, StoreError> {
        self.read_within(&self.inner.operators_reads, move |reader| reader.names(id))
            .await
    }

    /// This moment, for what is due.
    pub fn now_due(&self) -> DueAt {
        DueAt(self.inner.shared.time.due_now())
    }

    /// Makes deliveries whose payload is kept pending, all of them together. Answers for each whether there was such a
    /// delivery.
    ///
    /// # Errors
    /// When it is not certain to be written.
    pub async fn requeue(&self, wanted: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        self.ask(|done| Job::Requeue(wanted, done)).await
    }

    /// Deliveries, the newest first.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let now = self.inner.shared.time.due_now();
        self.read_within(&self.inner.operators_reads, move |reader| {
            reader.deliveries(&filter, now)
        })
        .await
    }

    /// How many deliveries there are of these, whatever `limit` and `before` say; `None` when there are more than are
    /// counted.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Option<usize>, StoreError> {
        self.read_within(&self.inner.operators_reads, move |reader| {
            reader.count_deliveries(&filter)
        })
        .await
    }

    /// Deliveries that match, whatever `limit` and `before` say, and come after `after`: the oldest first, `limit` at the
    /// most, each with whether its payload is kept.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        self.read_within(&self.inner.operators_reads, move |reader| {
            reader.matching(&filter, after, limit)
        })
        .await
    }

    /// One delivery.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        let now = self.inner.shared.time.due_now();
        self.read_within(&self.inner.operators_reads, move |reader| {
            reader.delivery(id, now)
        })
        .await
    }

    /// What is known of a route's deliveries as a whole. `since_day` is the first day of the count of the last days, in
    /// days since 1970.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn route_record(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        let (pending, dead) = self.queue_counts(&route);
        let record = self
            .read_within(&self.inner.operators_reads, move |reader| {
                reader.route_record(&route, since_day)
            })
            .await?;
        Ok(RouteDeliveryStats {
            pending,
            dead,
            ..record
        })
    }

    /// How many of a route's events wait, and how many are dead letters.
    pub fn queue_counts(&self, route: &str) -> (u64, u64) {
        let counts = self.inner.shared.counts(route);
        (counts.pending, counts.dead)
    }

    /// When the oldest waiting event of a route arrived; blocks for a look-up.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.inner
            .shared
            .read(|reader| reader.oldest_waiting(route))
            .ok()
            .flatten()
    }

    /// Events that are remembered now.
    pub fn remembered_ids(&self) -> usize {
        self.inner.shared.index.len()
    }

    /// Bytes on disk.
    pub fn size_bytes(&self) -> u64 {
        self.inner.shared.bytes()
    }

    /// Writes what is still to be written and closes the file. Nothing can be asked afterwards. `in_good_order` says that
    /// no attempt is under way whose outcome will not be known.
    pub async fn close(&self, in_good_order: bool) {
        let (done, closed) = oneshot::channel();
        if self
            .inner
            .send(Job::Close {
                in_good_order,
                done,
            })
            .is_ok()
        {
            let _ = closed.await;
        }
    }

    /// As after a failure.
    #[cfg(test)]
    pub(super) fn reopen_after_error(&self) {
        let _ = self.inner.send(Job::Distrust);
    }

    /// Counts running time, as the upkeep does: for clocks that stand still otherwise.
    pub fn tick(&self) {
        self.inner.shared.time.tick();
    }

    async fn ask<T>(&self, job: impl FnOnce(write::Done<T>) -> Job) -> Result<T, StoreError> {
        let (done, written) = oneshot::channel();
        self.inner.send(job(done))?;
        written.await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.read_within(&self.inner.reads, query).await
    }

    async fn read_within<T: Send + 'static>(
        &self,
        room: &Semaphore,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        // The semaphore is never closed.
        let _permit = room.acquire().await.map_err(|_| StoreError::Unavailable)?;
        let shared = Arc::clone(&self.inner.shared);
        tokio::task::spawn_blocking(move || shared.read(query))
            .await
            .unwrap_or(Err(StoreError::Unavailable))
    }
}

#[cfg(test)]
mod tests;
