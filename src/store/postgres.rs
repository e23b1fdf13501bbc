//! The shared engine: PostgreSQL, with one ledger and one queue for several gateways.
//!
//! * `connect` reads the database's URL; `session` connects to one of its hosts and makes the settings
//!   of a session; `lineage` decides whether that server may be used; `pool` acquires and releases
//!   the connections, and tells server failures from rejected statements;
//! * `schema` has the tables, and warns when the server may lose acknowledged writes;
//! * `batch` combines concurrent jobs into one statement, for `claims` and `write`; `accept` writes the
//!   new events to queue, which take no more than that;
//! * `queue` leases queued events to one gateway; `queue_front` holds them until their attempts end;
//!   `lease_batches` finds those whose reply was lost; `outcomes` records these; `floor` is where due events are searched for; `route_watch` polls the
//!   counts and the due events of each route; `query` runs operators' queries;
//! * `removed` knows which gateway has which route configured, and moves the events of a route that
//!   none has;
//! * `incidents` remembers which problems somebody was notified of;
//! * `check` checks the rows while gateways use them;
//! * `import` fills empty tables with the contents of an embedded store;
//! * `upkeep` counts uptime, polls for changes by other gateways, and deletes what has expired.
//!
//! This module keeps no state in memory that another gateway would need. While the server does not
//! respond, nothing is claimed, and so nothing is forwarded.

mod accept;
mod batch;
mod check;
mod claims;
mod connect;
mod floor;
mod import;
mod incidents;
mod lease_batches;
mod lineage;
mod operator_settings;
mod outcomes;
mod pool;
mod query;
mod queue;
mod queue_front;
mod removed;
mod route_watch;
mod rows;
mod schema;
mod session;
mod tls;
mod upkeep;
mod write;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::share::{Holding, Pool, Pools};
use super::uptime::Uptime;
use super::{
    AttemptId, AttemptOutcome, AttemptRecord, ClaimResult, ClaimTerms, ClaimedIncident,
    DeliveryFilter, DeliveryId, DeliveryKeys, DeliveryRecord, DeliveryState, DueAt, DueEvents,
    Durability, Engine, EventKey, LeaseDeadline, PAYLOAD_MAX, QueuedEvent, REMOVED_ROUTES_MAX,
    RecordLimits, RemovedRoute, Requeue, RequeueResult, RouteDeliveryStats, RowId, SeenIncident,
    Settlement, StartedAttempt, StoreError, StoreRoute,
};
use crate::metrics::StoreMetrics;
use pool::{ConnectionPool, OnTimeout, PooledConnection, QueryError, on};
use route_watch::RouteCounts;

pub use check::SharedStoreCheck;
pub(super) use check::check;
pub(super) use claims::LeaseRow;
use connect::CurrentDatabase;
pub use connect::Database;
use floor::Floor;
pub(super) use import::Import;
use queue_front::QueueFronts;

/// The settings of a shared store.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub durability: Durability,
    /// Opening fails if the database has no store, instead of creating one.
    pub must_exist: bool,
    /// The limit of remembered event IDs, as the server's statistics count them.
    pub max_ids: usize,
    /// The approximate size of the stored data, in bytes, from which on new events get 503. Free
    /// pages of the tables do not count.
    pub max_bytes: Option<u64>,
}

/// The reason why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create a connection pool for {server}: {reason}")]
    Pool { server: String, reason: String },
    #[error("cannot use the PostgreSQL store at {server}: {reason}")]
    Unusable { server: String, reason: String },
}

/// The number of concurrent transactions of each kind. While one runs, jobs collect for the next,
/// because the cost of a transaction hardly grows with the number of its jobs.
const CLAIM_WORKERS: usize = 1;
const WRITE_WORKERS: usize = 1;
/// The size from which a job or a payload is large, in bytes. The large ones are written beside the
/// others, which would wait for them for seconds, and are read with more time.
const LARGE_BYTES: usize = 1 << 20;
/// The limits of jobs that wait to be written, in bytes: of small ones, and of large ones, of which
/// one may have the largest body. Without them, a server that hangs would fill the memory with jobs
/// whose callers have long had an error.
const BACKLOG_MAX_BYTES: usize = 64 << 20;
const LARGE_BACKLOG_MAX_BYTES: usize = 2 * PAYLOAD_MAX;
/// The approximate size of an event ID with its index entry, in bytes.
const ID_BYTES: u64 = 250;
/// The age of what is due from which on a search passes few entries of deliveries that have ended, in
/// milliseconds.
const RECENTLY_DUE_MS: i64 = 60_000;
/// The pause before the active routes are sent again.
const UPDATE_ROUTES_RETRY: Duration = Duration::from_secs(1);
/// The time that a gateway which stops waits for its removal from the list of gateways.
const UNREGISTER_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of concurrent queries for operators. They may take long, and must not delay events.
const OPERATOR_READ_CONCURRENCY: usize = 2;
/// The pause before a claim that raced with another transaction is tried again.
const RACE_PAUSE: Duration = Duration::from_millis(2);
/// The limit of tries of a claim that races with other transactions.
const RACE_TRIES: usize = 5;

/// A handle to the store. Clones share one store.
#[derive(Clone)]
pub(super) struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    hash_key: [u8; 16],
    claims: claims::ClaimQueue,
    writes: mpsc::UnboundedSender<(write::Job, BacklogEntry)>,
    large_writes: mpsc::UnboundedSender<(write::Job, BacklogEntry)>,
    outcomes: mpsc::UnboundedSender<(outcomes::Outcome, BacklogEntry)>,
    backlog: Arc<Backlog>,
    operator_reads: Semaphore,
    /// The next claim token. Tokens start at a random number and increase by one for each claim.
    tokens: AtomicI64,
}

/// The state that this gateway's handles and tasks share.
struct Shared {
    database: CurrentDatabase,
    pool: Arc<ConnectionPool>,
    /// The random ID of this gateway in the queue's leases.
    owner: i64,
    max_ids: u64,
    max_bytes: Option<u64>,
    revision: watch::Sender<i64>,
    /// The last polled time for due times, in milliseconds, and the moment of that poll.
    now_due: Mutex<(i64, Instant)>,
    route_counts: Mutex<HashMap<Box<str>, RouteCounts>>,
    /// The last polled number of a delivery.
    last_number: AtomicI64,
    /// The numbers of IDs that each route holds, estimated while the store is nearly full.
    route_ids: Mutex<HashMap<Box<str>, u64>>,
    notifiers: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
    floors: Mutex<HashMap<Box<str>, Floors>>,
    fronts: Arc<QueueFronts>,
    /// The routes that this gateway has configured.
    active: Mutex<HashMap<Arc<str>, StoreRoute>>,
    ids: AtomicU64,
    bytes: AtomicU64,
    bytes_in_use: AtomicU64,
}

/// Where the searches for one route begin.
#[derive(Default)]
struct Floors {
    /// Of the due times of events that this gateway leases.
    due: Floor,
    /// Of the due times of events that a worker is woken for.
    woken: Floor,
    /// Of the numbers of deliveries, for the oldest one that waits.
    oldest: Floor,
}

/// The jobs that are not yet written.
#[derive(Default)]
struct Backlog {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    large_bytes: AtomicUsize,
}

/// A job's part of the backlog. It is subtracted when this is dropped.
struct BacklogEntry {
    backlog: Arc<Backlog>,
    bytes: usize,
}

impl Backlog {
    /// Returns the counter of the bytes of jobs of this size.
    fn bytes_like(&self, bytes: usize) -> &AtomicUsize {
        if bytes < LARGE_BYTES {
            &self.bytes
        } else {
            &self.large_bytes
        }
    }
}

impl BacklogEntry {
    fn new(of: &Arc<Backlog>, bytes: usize) -> Self {
        of.jobs.fetch_add(1, Ordering::AcqRel);
        of.bytes_like(bytes).fetch_add(bytes, Ordering::AcqRel);
        Self {
            backlog: Arc::clone(of),
            bytes,
        }
    }
}

impl Drop for BacklogEntry {
    fn drop(&mut self) {
        self.backlog
            .bytes_like(self.bytes)
            .fetch_sub(self.bytes, Ordering::AcqRel);
        self.backlog.jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn notify_route(&self, route: &str) {
        if let Some(notifier) = lock(&self.notifiers).get(route) {
            notifier.notify_one();
        }
    }

    /// Notifies a route's worker of due events that this gateway has not leased.
    fn wake_route(&self, route: &str) {
        self.fronts.mark_stored_elsewhere(route);
        self.notify_route(route);
    }

    /// Returns the routes with a worker in this gateway that have pending events.
    fn waiting_routes(&self) -> Vec<String> {
        let notifiers = lock(&self.notifiers);
        let mut routes = self.pending_routes();
        routes.retain(|route| notifiers.contains_key(&**route));
        routes
    }

    /// Returns the routes that have pending events.
    fn pending_routes(&self) -> Vec<String> {
        lock(&self.route_counts)
            .iter()
            .filter(|(_, counts)| counts.pending > 0)
            .map(|(route, _)| route.to_string())
            .collect()
    }

    /// Stores the polled counts. What waits longest is searched for afterwards.
    fn set_route_counts(&self, mut all: HashMap<Box<str>, RouteCounts>) {
        let mut known = lock(&self.route_counts);
        for (route, counts) in &mut all {
            if counts.pending > 0 {
                counts.oldest_waiting = known.get(route).and_then(|known| known.oldest_waiting);
            }
        }
        *known = all;
    }

    fn set_now_due(&self, due_ms: i64) {
        *lock(&self.now_due) = (due_ms, Instant::now());
    }

    /// Returns the time on the clock of due times, in milliseconds.
    fn now_due_ms(&self) -> i64 {
        let (due_ms, polled_at) = *lock(&self.now_due);
        due_ms.saturating_add(claims::millis(polled_at.elapsed()))
    }

    /// Returns a due time from which on a search is short.
    fn recently_due_ms(&self) -> i64 {
        self.now_due_ms().saturating_sub(RECENTLY_DUE_MS)
    }

    /// Reads or changes where the searches for a route begin.
    fn floors<T>(&self, route: &str, change: impl FnOnce(&mut Floors) -> T) -> T {
        let mut floors = lock(&self.floors);
        match floors.get_mut(route) {
            Some(floors) => change(floors),
            None => change(floors.entry(route.into()).or_default()),
        }
    }

    /// Stores the polled sizes. `kept` is the size of records and payloads, in bytes.
    fn set_sizes(&self, ids: u64, bytes: u64, kept: u64) {
        self.ids.store(ids, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.bytes_in_use.store(
            kept.saturating_add(ids.saturating_mul(ID_BYTES)),
            Ordering::Relaxed,
        );
    }

    /// Returns the pools of the store. The disk is the server's, and unknown.
    fn pools(&self, used_bytes: u64) -> Pools {
        Pools {
            ids: Pool {
                used: self.ids.load(Ordering::Relaxed),
                max: self.max_ids,
            },
            bytes: Pool {
                used: used_bytes,
                max: self.max_bytes.unwrap_or(u64::MAX),
            },
            disk: Pool {
                used: 0,
                max: u64::MAX,
            },
        }
    }

    /// Returns what a route holds, as last polled.
    fn holding(&self, route: &str) -> Holding {
        let ids = lock(&self.route_ids).get(route).copied().unwrap_or(0);
        let counts = lock(&self.route_counts).get(route).copied();
        Holding {
            ids,
            bytes: counts.map_or(0, |counts| counts.bytes) + ids.saturating_mul(ID_BYTES),
        }
    }

    /// Registers the routes that this gateway has configured now.
    async fn register(&self, connection: &PooledConnection) -> Result<u64, QueryError> {
        let active = lock(&self.active).clone();
        removed::register(connection, self.owner, &active).await
    }

    /// Returns the limits of the records of a route that this gateway has configured.
    fn record_limits(&self, route: &str) -> Option<RecordLimits> {
        let active = lock(&self.active);
        active.get(route).map(|route| route.retain.limits())
    }

    /// Returns the routes with stored events that this gateway has not configured: those with the
    /// most pending ones first.
    fn unconfigured_routes(&self) -> Vec<(Box<str>, RouteCounts)> {
        let active = lock(&self.active);
        let has_events = |counts: &RouteCounts| counts.pending > 0 || counts.dead > 0;
        let mut routes: Vec<_> = lock(&self.route_counts)
            .iter()
            .filter(|(route, counts)| has_events(counts) && !active.contains_key(&***route))
            .map(|(route, counts)| (route.clone(), *counts))
            .collect();
        routes.sort_unstable_by(|(one, first), (other, second)| {
            second.pending.cmp(&first.pending).then(one.cmp(other))
        });
        routes
    }
}

impl Store {
    /// Opens the store, and creates its tables if they do not exist.
    ///
    /// # Errors
    /// Fails when the server cannot be reached or its tables cannot be used.
    pub(super) async fn open(settings: Settings, metrics: StoreMetrics) -> Result<Self, OpenError> {
        let server = settings.database.log_name();
        let relaxed = settings.durability == Durability::Relaxed;
        let database = CurrentDatabase::new(settings.database);
        let pool = ConnectionPool::new(database.clone(), relaxed, metrics);
        let pool = pool.map_err(|error| OpenError::Pool {
            server: server.clone(),
            reason: error.to_string(),
        })?;
        let unusable = |reason: String| OpenError::Unusable {
            server: server.clone(),
            reason,
        };
        let pool = Arc::new(pool);
        pool.check_sessions()
            .await
            .map_err(|error| unusable(error.to_string()))?;
        let mut connection = pool
            .acquire()
            .await
            .map_err(|error| unusable(error.to_string()))?;
        let hash_key = schema::read_or_create(connection.client_mut(), settings.must_exist)
            .await
            .map_err(|error| unusable(pool::error_chain(&error)))?;
        pool.read_created(&connection)
            .await
            .map_err(|error| unusable(error.to_string()))?;
        let warnings = schema::durability_warnings(&connection, relaxed)
            .await
            .map_err(|error| unusable(pool::error_chain(&error)))?;
        for warning in warnings {
            tracing::warn!(server, "{warning}");
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| unusable(error.to_string()))?;
        let [owner, token] = [0, 8].map(|at| {
            random[at..]
                .first_chunk()
                .map_or(0, |bytes| i64::from_be_bytes(*bytes))
        });
        let shared = Arc::new(Shared {
            database,
            pool: Arc::clone(&pool),
            owner,
            max_ids: settings.max_ids as u64,
            max_bytes: settings.max_bytes,
            revision: watch::Sender::new(0),
            now_due: Mutex::new((0, Instant::now())),
            route_counts: Mutex::default(),
            last_number: AtomicI64::new(0),
            route_ids: Mutex::default(),
            notifiers: Mutex::default(),
            floors: Mutex::default(),
            fronts: Arc::default(),
            active: Mutex::default(),
            ids: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_in_use: AtomicU64::new(0),
        });
        upkeep::tick(&connection, &shared)
            .await
            .map_err(|error| unusable(error.to_string()))?;
        let _ = connection.release(Ok(()));
        let (claims, incoming) = mpsc::unbounded_channel();
        batch::start(
            incoming,
            CLAIM_WORKERS,
            |_| 0,
            move |batch| claims::run_batch(Arc::clone(&pool), batch),
        );
        let [writes, large_writes] = [(), ()].map(|()| {
            let (writes, incoming) = mpsc::unbounded_channel();
            let batch_shared = Arc::clone(&shared);
            let bytes_of = |(job, _): &(write::Job, BacklogEntry)| job.bytes();
            batch::start(incoming, WRITE_WORKERS, bytes_of, move |batch| {
                Arc::clone(&batch_shared).write_all(batch)
            });
            writes
        });
        let outcomes = start_recording(&shared);
        start_periodic_work(&shared);
        tracing::info!(server, "shared store opened");
        let backlog = Arc::<Backlog>::default();
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                hash_key,
                claims: claims::ClaimQueue {
                    jobs: claims,
                    backlog: Arc::clone(&backlog),
                },
                writes,
                large_writes,
                outcomes,
                backlog,
                operator_reads: Semaphore::new(OPERATOR_READ_CONCURRENCY),
                tokens: AtomicI64::new(token),
            }),
        })
    }

    /// Registers the routes that are active now.
    async fn register_routes(&self) -> Result<(), StoreError> {
        let shared = self.shared();
        self.execute(on!(connection => shared.register(connection)))
            .await
    }

    fn route_counts(&self, route: &str) -> RouteCounts {
        lock(&self.shared().route_counts)
            .get(route)
            .copied()
            .unwrap_or_default()
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(write::Done<T>) -> write::Job,
    ) -> Result<T, StoreError> {
        let (done, result) = oneshot::channel();
        let job = job(done);
        let bytes = job.bytes();
        let counted = BacklogEntry::new(&self.inner.backlog, bytes);
        let writes = if bytes < LARGE_BYTES {
            &self.inner.writes
        } else {
            &self.inner.large_writes
        };
        writes
            .send((job, counted))
            .map_err(|_| StoreError::Unavailable)?;
        result.await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn query<T, F>(&self, work: impl FnMut(PooledConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        // The semaphore is never closed.
        let _permit = self
            .inner
            .operator_reads
            .acquire()
            .await
            .map_err(|_| StoreError::Unavailable)?;
        self.run("read", OnTimeout::Fail, work).await
    }

    async fn execute<F>(&self, work: impl FnMut(PooledConnection) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<u64, QueryError>>,
    {
        self.run("commit", OnTimeout::Retry, work).await.map(drop)
    }

    async fn run<T, F>(
        &self,
        operation: &'static str,
        on_timeout: OnTimeout,
        work: impl FnMut(PooledConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        self.check_open()?;
        let pool = &self.shared().pool;
        pool.run(on_timeout, work)
            .await
            .map_err(|error| pool.log_failure(operation, &error))
    }
}

/// Starts to record outcomes beside the other writes.
fn start_recording(
    shared: &Arc<Shared>,
) -> mpsc::UnboundedSender<(outcomes::Outcome, BacklogEntry)> {
    let (outcomes, incoming) = mpsc::unbounded_channel();
    let shared = Arc::clone(shared);
    let record = move |batch| Arc::clone(&shared).record_outcomes(batch);
    batch::start(incoming, WRITE_WORKERS, |_| 0, record);
    outcomes
}

/// Starts the work that is done for as long as the store exists.
fn start_periodic_work(shared: &Arc<Shared>) {
    tokio::spawn(upkeep::poll(Arc::downgrade(shared)));
    tokio::spawn(route_watch::watch_routes(Arc::downgrade(shared)));
    tokio::spawn(route_watch::search_slow_routes(Arc::downgrade(shared)));
    tokio::spawn(upkeep::report_running(Arc::downgrade(shared)));
    tokio::spawn(upkeep::look_at_others(Arc::downgrade(shared)));
    tokio::spawn(upkeep::renew_leases(Arc::downgrade(shared)));
    tokio::spawn(upkeep::sweep(Arc::downgrade(shared)));
}

#[async_trait]
impl Engine for Store {
    fn apply_settings(&self, settings: super::Settings) -> bool {
        match settings {
            super::Settings::Shared(settings) => self.shared().database.replace(settings.database),
            super::Settings::Embedded(_) => false,
        }
    }

    fn is_shared(&self) -> bool {
        true
    }

    /// The claim itself records that the attempt begins.
    fn begin_attempt(
        &self,
        _: EventKey,
        lease: LeaseDeadline,
        _: u32,
        _: Duration,
    ) -> Result<StartedAttempt, StoreError> {
        lease.check_not_lapsed().map(|()| StartedAttempt(None))
    }

    fn begin_queued_attempt(
        &self,
        _: DeliveryId,
        lease: LeaseDeadline,
    ) -> Result<StartedAttempt, StoreError> {
        lease.check_not_lapsed().map(|()| StartedAttempt(None))
    }

    fn hash_key(&self) -> [u8; 16] {
        self.inner.hash_key
    }

    fn check_open(&self) -> Result<(), StoreError> {
        self.shared().pool.check_available()
    }

    fn check_room(&self, route: Option<&str>) -> Result<(), StoreError> {
        self.check_open()?;
        let shared = self.shared();
        let backlog = self.inner.backlog.bytes.load(Ordering::Relaxed);
        let large_backlog = self.inner.backlog.large_bytes.load(Ordering::Relaxed);
        if backlog > BACKLOG_MAX_BYTES || large_backlog > LARGE_BACKLOG_MAX_BYTES {
            return Err(StoreError::Unavailable);
        }
        let backlog = (backlog + large_backlog) as u64;
        let used = shared.bytes_in_use.load(Ordering::Relaxed) + backlog;
        shared.pools(used).check_room(|| {
            route
                .filter(|_| lock(&shared.active).len() > 1)
                .map(|route| shared.holding(route))
        })
    }

    async fn claim(&self, key: EventKey, terms: ClaimTerms) -> Result<ClaimResult, StoreError> {
        self.check_open()?;
        let (started, token) = (
            Instant::now(),
            self.inner.tokens.fetch_add(1, Ordering::Relaxed),
        );
        for _ in 0..RACE_TRIES {
            let (done, reply) = oneshot::channel();
            let queue = self.inner.claims.clone();
            let claim = claims::Claim {
                key,
                token,
                terms,
                started,
                queue,
                done,
            };
            self.inner
                .claims
                .jobs
                .send(claims::Job::Claim(claim))
                .map_err(|_| StoreError::Unavailable)?;
            match reply.await.unwrap_or(Err(StoreError::Unavailable))? {
                claims::ClaimReply::Known(result) => return Ok(result),
                claims::ClaimReply::Raced => tokio::time::sleep(RACE_PAUSE).await,
            }
        }
        Ok(ClaimResult::HeldElsewhere)
    }

    async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        self.write(|done| write::Job::Settle(Box::new(settlement), done))
            .await
    }

    async fn record_attempt(
        &self,
        id: AttemptId,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        let after = match next {
            AttemptOutcome::Retry { after, .. } => Some(after),
            AttemptOutcome::Delivered { .. } | AttemptOutcome::Dead(_) => None,
        };
        let fronts = &self.shared().fronts;
        match fronts.row(id.delivery, id.identity) {
            Some(known) => {
                let (done, result) = oneshot::channel();
                let outcome = outcomes::Outcome {
                    id,
                    attempt,
                    next,
                    known,
                    done,
                };
                let counted = BacklogEntry::new(&self.inner.backlog, 0);
                self.inner
                    .outcomes
                    .send((outcome, counted))
                    .map_err(|_| StoreError::Unavailable)?;
                result.await.unwrap_or(Err(StoreError::Unavailable))?;
            }
            None => {
                self.write(|done| write::Job::RecordAttempt {
                    id,
                    attempt,
                    next,
                    done,
                })
                .await?;
            }
        }
        fronts.end(id.delivery, after);
        Ok(())
    }

    async fn requeue(&self, requeues: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        self.write(|done| write::Job::Requeue(requeues, done)).await
    }

    async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        let rows = self
            .query(on!(connection => query::event_rows(connection, key)))
            .await?;
        Ok(rows
            .into_iter()
            .map(|(key, token)| (key, RowId(token)))
            .collect())
    }

    async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        let keys: Vec<_> = rows.iter().map(|(key, _)| claims::uuid(*key)).collect();
        let tokens: Vec<_> = rows.iter().map(|(_, place)| place.0).collect();
        let (keys, tokens) = (&keys, &tokens);
        let sql =
            "DELETE FROM hookstile.ledger l USING unnest($1::uuid[], $2::bigint[]) AS r (key, token)
            WHERE l.key = r.key AND l.token = r.token";
        self.execute(
            on!(connection => pool::with_timeout(connection.execute(sql, &[keys, tokens]))),
        )
        .await
    }

    async fn report_incidents(
        &self,
        seen: &[SeenIncident],
        unseen_for: Duration,
        within: Duration,
    ) -> Result<u64, StoreError> {
        let times = (unseen_for, within);
        let work = on!(connection => incidents::report(connection, seen, times));
        self.run("commit", OnTimeout::Fail, work).await
    }

    async fn claim_incident(&self, lease: Duration) -> Result<Option<ClaimedIncident>, StoreError> {
        let work = on!(connection => incidents::claim(connection, lease));
        self.run("commit", OnTimeout::Fail, work).await
    }

    async fn mark_incident_told(&self, incident: &ClaimedIncident) -> Result<(), StoreError> {
        let work = on!(connection => incidents::mark_told(connection, incident));
        self.run("commit", OnTimeout::Retry, work).await
    }

    async fn release_incident(&self, incident: &ClaimedIncident) -> Result<(), StoreError> {
        let work = on!(connection => incidents::release(connection, incident));
        self.run("commit", OnTimeout::Fail, work).await
    }

    fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        Arc::clone(
            lock(&self.shared().notifiers)
                .entry(Arc::clone(route))
                .or_default(),
        )
    }

    fn update_routes(&self, routes: Vec<StoreRoute>) {
        *lock(&self.shared().active) = routes
            .into_iter()
            .map(|route| (Arc::clone(&route.route), route))
            .collect();
        let store = self.clone();
        tokio::spawn(async move {
            while store.register_routes().await.is_err() {
                if store.shared().pool.is_closed() {
                    return;
                }
                tokio::time::sleep(UPDATE_ROUTES_RETRY).await;
            }
        });
    }

    async fn move_events(
        &self,
        from: Arc<str>,
        to: Arc<str>,
        state: DeliveryState,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.release_route(&from).await;
        let (route_names, owner) = ((&*from, &*to), self.shared().owner);
        let work = on!(connection =>
            removed::move_events(connection, owner, route_names, state, limit));
        // Not repeated after a timeout, because its events would be missing in the count.
        let moved = self.run("commit", OnTimeout::Fail, work).await?;
        if moved > 0 && state == DeliveryState::Pending {
            self.shared().wake_route(&to);
        }
        Ok(moved)
    }

    async fn is_served_elsewhere(&self, route: &str) -> Result<bool, StoreError> {
        let owner = self.shared().owner;
        self.query(on!(connection => removed::is_served_elsewhere(connection, owner, route)))
            .await
    }

    async fn removed_routes(&self) -> Result<Vec<RemovedRoute>, StoreError> {
        let candidates = self.shared().unconfigured_routes();
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let (candidates, owner) = (&candidates, self.shared().owner);
        let mut removed = self
            .query(on!(connection => removed::removed_routes(connection, owner, candidates)))
            .await?;
        removed.truncate(REMOVED_ROUTES_MAX);
        Ok(removed)
    }

    async fn due_events(
        &self,
        route: Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> Result<DueEvents, StoreError> {
        self.check_open()?;
        let shared = &self.inner.shared;
        let due = shared.due_events(&route, in_flight, limit).await;
        due.map_err(|error| shared.pool.log_failure("read", &error))
    }

    async fn release_events(&self, ids: &[DeliveryId]) {
        let shared = self.shared();
        let held = shared.fronts.forget(ids);
        shared.release(ids).await;
        for (route, place) in held {
            shared.lower_floors(&route, &[place]);
        }
    }

    async fn release_route(&self, route: &str) {
        let shared = self.shared();
        let released = shared.fronts.close(route);
        shared.release_places(route, &released).await;
    }

    async fn load_event(
        &self,
        route: Arc<str>,
        id: DeliveryId,
        attempt_timeout: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError> {
        self.check_open()?;
        let (shared, route) = (self.shared(), &route);
        let needed = queue::attempt_lease_min(attempt_timeout);
        if let Some(held) = shared.fronts.load(route, id, needed) {
            return Ok(Some(held));
        }
        let owner = shared.owner;
        let loaded = self
            .run(
                "read",
                OnTimeout::Fail,
                on!(connection => queue::load_event(connection, route, id, owner, attempt_timeout)),
            )
            .await?;
        if loaded.is_some() {
            shared.fronts.begin(route, id);
        }
        Ok(loaded)
    }

    async fn event_keys(
        &self,
        ids: Vec<DeliveryId>,
    ) -> Result<Vec<Option<DeliveryKeys>>, StoreError> {
        let ids = &ids;
        self.query(on!(connection => query::event_keys(connection, ids)))
            .await
    }

    fn now_due(&self) -> DueAt {
        DueAt(Uptime(self.shared().now_due_ms().unsigned_abs()))
    }

    async fn deliveries(&self, filter: DeliveryFilter) -> Result<Vec<DeliveryRecord>, StoreError> {
        let filter = &filter;
        self.query(on!(connection => query::deliveries(connection, filter)))
            .await
    }

    async fn count_deliveries(&self, filter: DeliveryFilter) -> Result<Option<usize>, StoreError> {
        let filter = &filter;
        self.query(on!(connection => query::count_deliveries(connection, filter)))
            .await
    }

    async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        let filter = &filter;
        self.query(on!(connection => query::matching_deliveries(connection, filter, after, limit)))
            .await
    }

    async fn automatic_redeliveries(
        &self,
        route: Arc<str>,
        limit: usize,
    ) -> Result<Vec<DeliveryId>, StoreError> {
        let route = &*route;
        self.query(on!(connection => query::automatic_redeliveries(connection, route, limit)))
            .await
    }

    async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        self.query(on!(connection => query::delivery(connection, id)))
            .await
    }

    async fn route_stats(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        let route = &route;
        self.query(on!(connection => query::route_stats(connection, route, since_day)))
            .await
    }

    /// Returns the last polled numbers of a route's pending events and of its dead letters.
    fn queue_counts(&self, route: &str) -> (u64, u64) {
        let counts = self.route_counts(route);
        (counts.pending, counts.dead)
    }

    fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.route_counts(route).oldest_waiting
    }

    fn remembered_ids(&self) -> usize {
        usize::try_from(self.shared().ids.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    fn size_bytes(&self) -> u64 {
        self.shared().bytes.load(Ordering::Relaxed)
    }

    fn tick(&self) {
        self.shared().fronts.mark_all_stored_elsewhere();
    }

    /// Writes the outstanding jobs, within the statement timeout, and closes the pool. Every later
    /// call fails. Attempts in progress keep their leases; when these lapse, another gateway takes
    /// over.
    async fn close(&self, _: bool) {
        let started = Instant::now();
        while self.inner.backlog.jobs.load(Ordering::Acquire) > 0
            && started.elapsed() < pool::STATEMENT_TIMEOUT
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let owner = self.shared().owner;
        // Without this, its routes count as configured until it has not been seen for some time.
        let work = on!(connection => removed::unregister(connection, owner));
        let _ = tokio::time::timeout(UNREGISTER_TIMEOUT, self.execute(work)).await;
        self.shared().pool.close();
    }
}

#[cfg(test)]
mod tests;
