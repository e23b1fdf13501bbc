//! What is remembered of events: which were handed over, which wait, and what became of each.
//!
//! The ledger and the queue above ask and tell in the domain's own verbs. Here they are kept in SQLite, in one file
//! with one writer:
//!
//! * `write` is a thread that takes all that has come since its last commit into one transaction, so that many
//!   requests share one flush to the disk, and none waits for a timer;
//! * `index` answers from memory whether an event may be known, which nearly none is; the row is read only then;
//! * `read` looks rows up, on connections of its own, beside the writer;
//! * `upkeep` is a thread that lets go of what has expired, moves the log into the database, and counts time.
//!
//! After a write that failed nothing is answered until the file was closed, opened and read anew.

mod apply;
mod holder;
mod index;
mod offline;
mod read;
mod running;
mod schema;
mod shared;
mod under_way;
mod upkeep;
mod write;

use std::fmt;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{Semaphore, oneshot};

use crate::backoff::Reason;
use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use crate::signature::PayloadDigest;
use holder::{Lock, Refused};
use shared::Shared;
use under_way::CutOff;
use write::Job;

pub use index::Place;
pub use offline::OfflineStore;
pub use read::{Attempted, DeliveryView, Due, DueEvent, Filter, LISTED_BODY_MAX, Queued, RouteRecord};
pub use under_way::Underway;

/// Where and how the store is kept.
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

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Until the disk has it: survives the loss of power.
    Strict,
    /// Until the system has it: survives the end of the process, not the loss of power.
    Relaxed,
}

/// What is kept of deliveries that have ended, for an operator to look at. Nothing of it is needed to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    pub payloads: Payloads,
    /// How long a record is kept, its payload with it.
    pub keep: Duration,
    /// Bytes of a route's records and payloads above which the oldest go; `None` is no bound.
    pub max_bytes: Option<u64>,
}

/// Which payloads are kept after the end. Those of queued events and of dead letters are kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    None,
    Failed,
    All,
}

impl Retain {
    /// Whether the payload of a delivery is kept that is now `state`.
    pub fn keeps_payload(self, state: State) -> bool {
        match state {
            State::Pending | State::Dead => true,
            State::Failed => self.payloads != Payloads::None,
            State::Success => self.payloads == Payloads::All,
        }
    }
}

/// Names one event on one route: a keyed 128-bit hash, so that nobody outside can aim a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub u128);

/// Names one delivery. Later ones have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "del_{}", self.0)
    }
}

impl std::str::FromStr for DeliveryId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("del_").unwrap_or(text).parse().map(Self)
    }
}

/// What is known of an event that was seen before and is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    pub record: Record,
    /// Its row, for the settlement that takes its place.
    pub place: Place,
    pub delivery: Option<DeliveryId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Handed over. Never to be forwarded again while this record lives.
    Completed { digest: PayloadDigest },
    /// Tried without success; the next copy is forwarded.
    Tried(Tried),
}

/// The failed attempts at an event so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    pub attempts: u32,
    /// Whether any of them may have been processed all the same, its answer being lost.
    pub possibly_delivered: bool,
}

/// How a claim on an event ends: all of it is written together, or nothing.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub names: [Option<Name>; 2],
    pub becomes: Record,
    /// How long `becomes` is remembered.
    pub window: Duration,
    /// What holds if this can't be written.
    pub if_lost: Tried,
    /// `None` keeps no record.
    pub delivery: Option<DeliveryChange>,
}

/// A name of an event, with the row that it has from earlier attempts.
#[derive(Debug, Clone, Copy)]
pub struct Name {
    pub key: EventKey,
    pub earlier: Option<Place>,
}

/// What becomes of a delivery's record.
#[derive(Debug, Clone)]
pub struct DeliveryChange {
    /// Its record from earlier attempts.
    pub earlier: Option<DeliveryId>,
    pub subject: Arc<Subject>,
    pub state: State,
    /// Attempts so far, this one included.
    pub tried: Tried,
    pub attempt: Option<Attempted>,
    /// To be kept. Needed for `State::Pending`.
    pub payload: Option<Payload>,
    /// When a pending delivery is due.
    pub due_after: Duration,
}

/// What a delivery is of.
#[derive(Debug, Clone)]
pub struct Subject {
    pub route: Arc<str>,
    pub event_id: Arc<str>,
    pub event_type: Arc<str>,
    pub received_at: Timestamp,
}

/// What is needed to deliver later.
#[derive(Debug, Clone)]
pub struct Payload {
    pub head: Bytes,
    pub body: Bytes,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Handed over.
    Success,
    /// Tried without success while the sender waited; the sender's retry passes.
    Failed,
    /// Stored, and to be tried.
    Pending,
    /// Stored, and given up.
    Dead,
}

impl State {
    pub const ALL: [Self; 4] = [Self::Success, Self::Failed, Self::Pending, Self::Dead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Pending => "pending",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// What follows on an attempt at a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Handed over.
    Done {
        keep_payload: bool,
    },
    Retry {
        after: Duration,
        possibly_delivered: bool,
    },
    Dead(Reason),
}

/// A route as the store has to know it.
#[derive(Debug, Clone)]
pub struct Lane {
    pub route: Arc<str>,
    pub retain: Retain,
    /// Attempts at its stored events at once: that many may be of unknown outcome after a crash.
    pub concurrency: usize,
}

/// The store can't do what it must. Nothing is forwarded without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store is full: it holds as much as `store.max_ids` or `store.max_size` allow, and forgets nothing early"
    )]
    Full,
    #[error("the store is not available: an error before this one tells why; it is being opened anew")]
    Unavailable,
}

/// Why a store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store in {folder} is in use by {holder}; two gateways need a folder each")]
    Held { folder: String, holder: String },
    #[error("cannot use the store's folder {folder}: {source}")]
    Folder { folder: String, source: std::io::Error },
    #[error("cannot open the store {file}: {source}")]
    Database { file: String, source: rusqlite::Error },
    #[error("there is no store in {folder}")]
    Missing { folder: String },
    #[error("{file} was not written by this program, or by a later version of it; it was left as it is")]
    Foreign { file: String },
    #[error("cannot start the store: {0}")]
    Start(std::io::Error),
    #[error("cannot read random bytes for the ledger's key: {0}")]
    Random(getrandom::Error),
}

impl OpenError {
    fn folder(folder: &Path, source: std::io::Error) -> Self {
        Self::Folder { folder: folder.display().to_string(), source }
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
        Refused::Held(holder) => {
            let holder = if holder.is_empty() { "another process".into() } else { holder };
            OpenError::Held { folder: folder.display().to_string(), holder }
        }
        Refused::Io(source) => OpenError::folder(folder, source),
    })
}

/// The store. Clones are handles to the same one; the last to go closes it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// More would not be answered sooner.
const READS_AT_ONCE: usize = 8;

struct Inner {
    shared: Arc<Shared>,
    /// Look-ups at once. Each has a connection with a cache, and a thread.
    reads: Semaphore,
    /// Bounded by those who wait for an answer each: requests, attempts, and the upkeep.
    jobs: std::sync::mpsc::Sender<Job>,
    /// Ends the upkeep when it goes.
    _running: std::sync::mpsc::Sender<()>,
}

impl Store {
    /// Opens the store in `settings.folder`, making it where there is none, and reads what is remembered.
    ///
    /// # Errors
    /// Another process has it, it can't be read, or it is not ours.
    pub fn open(settings: Settings, clock: Clock, metrics: StoreMetrics) -> Result<Self, OpenError> {
        // Payloads are in it: nobody else's business.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&settings.folder);
        made.map_err(|source| OpenError::folder(&settings.folder, source))?;
        let lock = lock(&settings.folder)?;
        let (shared, writer) = write::open(settings, lock, clock, metrics)?;
        let (jobs, incoming) = std::sync::mpsc::channel();
        let (running, stopped) = std::sync::mpsc::channel();
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(OpenError::Start)
        };
        spawn("store", Box::new(move || writer.run(&incoming)))?;
        let inner = Arc::new(Inner { shared, reads: Semaphore::new(READS_AT_ONCE), jobs, _running: running });
        let upkeep = Arc::downgrade(&inner);
        spawn("store-upkeep", Box::new(move || upkeep::run(&upkeep, &stopped)))?;
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

    /// What is known of the event.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn recall(&self, key: EventKey) -> Result<Option<Found>, StoreError> {
        let shared = &self.inner.shared;
        let places = shared.find(key)?;
        if places.is_empty() {
            return Ok(None);
        }
        let now = shared.time.now();
        self.read(move |reader| reader.confirm(key, &places, now)).await
    }

    /// Notes that the event's attempt number `attempts` begins, so that a crash leaves it as one of unknown outcome. To be
    /// cleared when the outcome is settled.
    ///
    /// # Errors
    /// When it can't be noted.
    pub fn begin(&self, key: EventKey, attempts: u32, window: Duration) -> Result<Underway, StoreError> {
        let tried = Tried { attempts, possibly_delivered: true };
        self.note(CutOff::Event { key, tried, window })
    }

    /// As [`Store::begin`], for an attempt at a stored event.
    ///
    /// # Errors
    /// When it can't be noted.
    pub fn begin_stored(&self, id: DeliveryId) -> Result<Underway, StoreError> {
        self.note(CutOff::Delivery(id))
    }

    fn note(&self, attempt: CutOff) -> Result<Underway, StoreError> {
        let shared = &self.inner.shared;
        shared.under_way.begin(attempt).map_err(|error| {
            shared.metrics.failed("claim");
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
        self.ask(|done| Job::Settle(Box::new(settlement), done)).await
    }

    /// Tells of the routes that are served from now on. Without waiting: what was told before holds until then.
    pub fn serve(&self, lanes: Vec<Lane>) {
        // The writer lives as long as this handle.
        let _ = self.inner.jobs.send(Job::Serve(lanes));
    }

    /// Stored events of a route that are due, those that have waited longest first; and when the next one will be.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn due(&self, route: Arc<str>, limit: usize) -> Result<Due, StoreError> {
        let now = self.inner.shared.time.due_now();
        self.read(move |reader| reader.due(&route, now, limit)).await
    }

    /// A stored event with its payload; `None` when it no longer waits.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn load(&self, id: DeliveryId) -> Result<Option<Queued>, StoreError> {
        let now = self.inner.shared.time.now();
        self.read(move |reader| reader.load(id, now)).await
    }

    /// Writes how an attempt at a stored event ended.
    ///
    /// # Errors
    /// When it is not certain to be written; to be told again.
    pub async fn attempted(&self, id: DeliveryId, attempt: Attempted, next: Next) -> Result<(), StoreError> {
        self.ask(|done| Job::Attempted { id, attempt, next, done }).await
    }

    /// The names of a delivery's event, while it is not handed over.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn names(&self, id: DeliveryId) -> Result<Vec<EventKey>, StoreError> {
        self.read(move |reader| reader.names(id)).await
    }

    /// Makes a delivery whose payload is kept pending, and due now; `completing` names its event where the ledger has to
    /// learn that it is stored. Answers whether there was such a delivery.
    ///
    /// # Errors
    /// When it is not certain to be written.
    pub async fn requeue(
        &self,
        id: DeliveryId,
        completing: Vec<Name>,
        window: Duration,
    ) -> Result<Requeued, StoreError> {
        self.ask(|done| Job::Requeue { id, completing, window, done }).await
    }

    /// Deliveries, the newest first.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn deliveries(&self, filter: Filter) -> Result<Vec<DeliveryView>, StoreError> {
        let now = self.inner.shared.time.due_now();
        self.read(move |reader| reader.deliveries(&filter, now)).await
    }

    /// How many deliveries there are of these, whatever `limit` and `before` say; `None` when there are more than are
    /// counted.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn count_deliveries(&self, filter: Filter) -> Result<Option<usize>, StoreError> {
        self.read(move |reader| reader.count_deliveries(&filter)).await
    }

    /// One delivery.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryView>, StoreError> {
        let now = self.inner.shared.time.due_now();
        self.read(move |reader| reader.delivery(id, now)).await
    }

    /// What is known of a route's deliveries as a whole. `since_day` is the first day of the count of the last days, in
    /// days since 1970.
    ///
    /// # Errors
    /// When the store can't tell.
    pub async fn route_record(&self, route: Arc<str>, since_day: i64) -> Result<RouteRecord, StoreError> {
        let (pending, dead) = self.waiting(&route);
        let record = self.read(move |reader| reader.route_record(&route, since_day)).await?;
        Ok(RouteRecord { pending, dead, ..record })
    }

    /// How many of a route's events wait, and how many are dead letters.
    pub fn waiting(&self, route: &str) -> (u64, u64) {
        let counts = self.inner.shared.counts(route);
        (counts.pending, counts.dead)
    }

    /// When the oldest waiting event of a route arrived; blocks for a look-up.
    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.inner.shared.read(|reader| reader.oldest_waiting(route)).ok().flatten()
    }

    /// Events that are remembered now.
    pub fn ids(&self) -> usize {
        self.inner.shared.index.len()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.inner.shared.bytes()
    }

    /// Writes what is still to be written and closes the file. Nothing can be asked afterwards. `in_good_order` says that
    /// no attempt is under way whose outcome will not be known.
    pub async fn close(&self, in_good_order: bool) {
        let (done, closed) = oneshot::channel();
        if self.inner.jobs.send(Job::Close { in_good_order, done }).is_ok() {
            let _ = closed.await;
        }
    }

    /// Counts running time, as the upkeep does: for clocks that stand still otherwise.
    #[doc(hidden)]
    pub fn tick(&self) {
        self.inner.shared.time.tick();
    }

    async fn ask<T>(&self, job: impl FnOnce(write::Done<T>) -> Job) -> Result<T, StoreError> {
        let (done, written) = oneshot::channel();
        self.inner.jobs.send(job(done)).map_err(|_| StoreError::Unavailable)?;
        written.await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&read::Reader) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        // The semaphore is never closed.
        let _permit = self.inner.reads.acquire().await.map_err(|_| StoreError::Unavailable)?;
        let shared = Arc::clone(&self.inner.shared);
        tokio::task::spawn_blocking(move || shared.read(query)).await.unwrap_or(Err(StoreError::Unavailable))
    }
}

/// What became of the wish to deliver again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requeued {
    /// It waits, on this route.
    Waits(Arc<str>),
    /// There is no such delivery.
    Unknown,
    /// Its payload is not kept.
    NoPayload,
}

#[cfg(test)]
mod tests;
