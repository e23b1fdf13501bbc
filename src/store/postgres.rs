//! The store in PostgreSQL: several gateways, one ledger and one queue.
//!
//! * `connect` makes a pool of connections from a URL, `line` lends them and tells trouble from refusal;
//! * `schema` has the tables, and what the server may lose;
//! * `gather` lets many askers share a statement: `claims`, `write`;
//! * `queue` takes stored events for as long as a lease, `look` looks things up;
//! * `import` fills empty tables with what an embedded store held;
//! * `upkeep` counts time, learns what others did, and lets go of what has expired.
//!
//! Nothing is remembered here that another gateway would have to know. While the server does not answer, nothing is
//! claimed, and so nothing forwarded.

mod batch;
mod claims;
mod connect;
mod import;
mod pool;
mod query;
mod queue;
mod rows;
mod schema;
mod tls;
mod upkeep;
mod write;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::uptime::Uptime;
use super::{
    AttemptOutcome, AttemptRecord, ClaimResult, ClaimTerms, DeliveryFilter, DeliveryId,
    DeliveryRecord, DueAt, DueEvents, Durability, EventKey, QueuedEvent, Requeue, RequeueResult,
    Retain, Revision, RouteDeliveryStats, RowId, Settlement, StoreError, StoreRoute,
};
use crate::metrics::StoreMetrics;
use pool::{ConnectionPool, OnTimeout, PooledConnection, QueryError, on};
use upkeep::Standing;

pub use claims::LeaseRow;
pub use connect::Database;
pub(super) use import::Import;

/// Where the store is, and how much it may hold.
#[derive(Debug, Clone)]
pub struct Settings {
    pub database: Database,
    pub durability: Durability,
    /// Event IDs that are remembered at the most, as the server's statistics count them.
    pub max_ids: usize,
    /// Bytes of what is kept, about, from which on new events get 503: pages that the server has yet to use again do not
    /// count.
    pub max_bytes: Option<u64>,
}

/// Why the store can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot make connections to {shown}: {why}")]
    Pool { shown: String, why: String },
    #[error("cannot use the store in PostgreSQL at {shown}: {why}")]
    Unusable { shown: String, why: String },
}

/// Transactions at once, of each kind: while one is under way, the next gathers. What one costs the server hardly grows with
/// what is in it.
const CLAIMS_AT_ONCE: usize = 1;
const WRITES_AT_ONCE: usize = 1;
/// What may wait to be written, in bytes: a server that hangs must not fill the memory with what was answered long ago.
const BACKLOG_BYTES: usize = 64 << 20;
/// What an event ID takes with its index, about.
const ID_BYTES: u64 = 250;
/// Pause until routes are told of again.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// For operators, whose questions may take long: they are not to stand in the way of events.
const OPERATORS_READS_AT_ONCE: usize = 2;
/// Pauses between two questions whether a row is still being changed.
const UNCLEAR_PAUSE: Duration = Duration::from_millis(2);
const UNCLEAR_TRIES: usize = 5;

/// The store. Clones are handles to the same one.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    hash_key: [u8; 16],
    claims: claims::Jobs,
    writes: mpsc::UnboundedSender<(write::Job, Counted)>,
    backlog: Arc<Backlog>,
    operators_reads: Semaphore,
    /// Tokens of this gateway's claims: a random number to begin with, and one more for each.
    tokens: AtomicI64,
}

/// What this gateway's handles and tasks share.
struct Shared {
    lines: Arc<ConnectionPool>,
    /// This gateway, as the queue knows it.
    owner: i64,
    max_ids: u64,
    max_bytes: Option<u64>,
    revision: watch::Sender<i64>,
    /// The time of what is due, when it was asked for last.
    due_now: Mutex<(i64, Instant)>,
    standings: Mutex<HashMap<Box<str>, Standing>>,
    wakers: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
    lanes: Mutex<HashMap<Arc<str>, Retain>>,
    ids: AtomicU64,
    bytes: AtomicU64,
    bytes_in_use: AtomicU64,
}

/// What is to be written.
#[derive(Default)]
struct Backlog {
    jobs: AtomicUsize,
    bytes: AtomicUsize,
}

/// A part of the backlog, until it is dropped.
struct Counted {
    of: Arc<Backlog>,
    bytes: usize,
}

impl Counted {
    fn new(of: &Arc<Backlog>, bytes: usize) -> Self {
        of.jobs.fetch_add(1, Ordering::AcqRel);
        of.bytes.fetch_add(bytes, Ordering::AcqRel);
        Self {
            of: Arc::clone(of),
            bytes,
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.of.jobs.fetch_sub(1, Ordering::AcqRel);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn wake(&self, route: &str) {
        if let Some(waker) = locked(&self.wakers).get(route) {
            waker.notify_one();
        }
    }

    /// Those that we deliver for and of which events wait.
    fn routes_that_wait(&self) -> Vec<String> {
        let standings = locked(&self.standings);
        let waits = |route: &Arc<str>| {
            standings
                .get(&**route)
                .is_some_and(|standing| standing.pending > 0)
        };
        locked(&self.wakers)
            .keys()
            .filter(|route| waits(route))
            .map(|route| route.to_string())
            .collect()
    }

    fn set_standings(&self, all: HashMap<Box<str>, Standing>) {
        *locked(&self.standings) = all;
    }

    fn set_due_now(&self, due_ms: i64) {
        *locked(&self.due_now) = (due_ms, Instant::now());
    }

    /// `kept` are the bytes of records and payloads.
    fn set_sizes(&self, ids: u64, bytes: u64, kept: u64) {
        self.ids.store(ids, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        self.bytes_in_use.store(
            kept.saturating_add(ids.saturating_mul(ID_BYTES)),
            Ordering::Relaxed,
        );
    }

    fn retain_of(&self, route: &str) -> Option<Retain> {
        locked(&self.lanes).get(route).copied()
    }
}

impl Store {
    /// Opens the store, making its tables where there are none.
    ///
    /// # Errors
    /// The server can't be reached, or its tables not be used.
    pub async fn open(settings: Settings, metrics: StoreMetrics) -> Result<Self, OpenError> {
        let shown = settings.database.shown();
        let relaxed = settings.durability == Durability::Relaxed;
        let pool = settings.database.pool(relaxed);
        let pool = pool.map_err(|error| OpenError::Pool {
            shown: shown.clone(),
            why: error.to_string(),
        })?;
        let unusable = |why: String| OpenError::Unusable {
            shown: shown.clone(),
            why,
        };
        let lines = Arc::new(ConnectionPool::new(pool, metrics));
        let mut line = lines
            .acquire()
            .await
            .map_err(|failed| unusable(failed.to_string()))?;
        let hash_key = schema::make_or_read(line.client_mut())
            .await
            .map_err(|unfit| unusable(pool::told(&unfit)))?;
        let loses = schema::may_lose(&line, relaxed)
            .await
            .map_err(|error| unusable(pool::told(&error)))?;
        for sentence in loses {
            tracing::warn!(server = shown, "{sentence}");
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).map_err(|error| unusable(error.to_string()))?;
        let [owner, token] = [0, 8].map(|at| {
            random[at..]
                .first_chunk()
                .map_or(0, |bytes| i64::from_be_bytes(*bytes))
        });
        let shared = Arc::new(Shared {
            lines: Arc::clone(&lines),
            owner,
            max_ids: settings.max_ids as u64,
            max_bytes: settings.max_bytes,
            revision: watch::Sender::new(0),
            due_now: Mutex::new((0, Instant::now())),
            standings: Mutex::default(),
            wakers: Mutex::default(),
            lanes: Mutex::default(),
            ids: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_in_use: AtomicU64::new(0),
        });
        upkeep::tick(&line, &shared)
            .await
            .map_err(|failed| unusable(failed.to_string()))?;
        let _ = line.release(Ok(()));
        let (claims, incoming) = mpsc::unbounded_channel();
        batch::start(
            incoming,
            CLAIMS_AT_ONCE,
            |_| 0,
            move |batch| claims::run(Arc::clone(&lines), batch),
        );
        let (writes, incoming) = mpsc::unbounded_channel();
        let own = Arc::clone(&shared);
        let bytes_of = |(job, _): &(write::Job, Counted)| job.bytes();
        batch::start(incoming, WRITES_AT_ONCE, bytes_of, move |batch| {
            Arc::clone(&own).write_all(batch)
        });
        tokio::spawn(upkeep::look(Arc::downgrade(&shared)));
        tokio::spawn(upkeep::sweep(Arc::downgrade(&shared)));
        tracing::info!(server = shown, "the shared store is open");
        let backlog = Arc::<Backlog>::default();
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                hash_key,
                claims: claims::Jobs {
                    jobs: claims,
                    backlog: Arc::clone(&backlog),
                },
                writes,
                backlog,
                operators_reads: Semaphore::new(OPERATORS_READS_AT_ONCE),
                tokens: AtomicI64::new(token),
            }),
        })
    }

    pub fn hash_key(&self) -> [u8; 16] {
        self.inner.hash_key
    }

    pub fn check_open(&self) -> Result<(), StoreError> {
        self.shared().lines.check_up()
    }

    pub fn check_room(&self) -> Result<(), StoreError> {
        self.check_open()?;
        let shared = self.shared();
        if self.inner.backlog.bytes.load(Ordering::Relaxed) > BACKLOG_BYTES {
            return Err(StoreError::Unavailable);
        }
        let bytes_full = shared
            .max_bytes
            .is_some_and(|most| shared.bytes_in_use.load(Ordering::Relaxed) >= most);
        let full = bytes_full || shared.ids.load(Ordering::Relaxed) >= shared.max_ids;
        if full { Err(StoreError::Full) } else { Ok(()) }
    }

    pub async fn claim(&self, key: EventKey, terms: ClaimTerms) -> Result<ClaimResult, StoreError> {
        self.check_open()?;
        let (at, token) = (
            Instant::now(),
            self.inner.tokens.fetch_add(1, Ordering::Relaxed),
        );
        for _ in 0..UNCLEAR_TRIES {
            let (done, answer) = oneshot::channel();
            let back = self.inner.claims.clone();
            let claim = claims::Claim {
                key,
                token,
                terms,
                at,
                back,
                done,
            };
            self.inner
                .claims
                .jobs
                .send(claims::Job::Claim(claim))
                .map_err(|_| StoreError::Unavailable)?;
            match answer.await.unwrap_or(Err(StoreError::Unavailable))? {
                claims::ClaimReply::Is(claimed) => return Ok(claimed),
                claims::ClaimReply::Unclear => tokio::time::sleep(UNCLEAR_PAUSE).await,
            }
        }
        Ok(ClaimResult::HeldElsewhere)
    }

    pub async fn settle(&self, settlement: Settlement) -> Result<Option<DeliveryId>, StoreError> {
        self.write(|done| write::Job::Settle(Box::new(settlement), done))
            .await
    }

    pub async fn record_attempt(
        &self,
        id: DeliveryId,
        number: u32,
        attempt: AttemptRecord,
        next: AttemptOutcome,
    ) -> Result<(), StoreError> {
        self.write(|done| write::Job::Attempted {
            id,
            number,
            attempt,
            next,
            done,
        })
        .await
    }

    pub async fn requeue(&self, wanted: Vec<Requeue>) -> Result<Vec<RequeueResult>, StoreError> {
        self.write(|done| write::Job::Requeue(wanted, done)).await
    }

    pub async fn find_rows(&self, key: EventKey) -> Result<Vec<(EventKey, RowId)>, StoreError> {
        let rows = self.look(on!(line => query::rows(line, key))).await?;
        Ok(rows
            .into_iter()
            .map(|(key, token)| (key, RowId(token)))
            .collect())
    }

    pub async fn forget_event(&self, rows: Vec<(EventKey, RowId)>) -> Result<(), StoreError> {
        let keys: Vec<_> = rows.iter().map(|(key, _)| claims::uuid(*key)).collect();
        let tokens: Vec<_> = rows.iter().map(|(_, place)| place.0).collect();
        let (keys, tokens) = (&keys, &tokens);
        let sql =
            "DELETE FROM hookstile.ledger l USING unnest($1::uuid[], $2::bigint[]) AS r (key, token)
            WHERE l.key = r.key AND l.token = r.token";
        self.change(on!(line => pool::bounded(line.execute(sql, &[keys, tokens]))))
            .await
    }

    pub async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        seen: Revision,
    ) -> Result<Option<Revision>, StoreError> {
        let (name, definition) = (&name, &definition);
        let sql =
            "WITH told AS (UPDATE hookstile.store SET revision = revision + 1 WHERE revision = $3 RETURNING revision),
            put AS (INSERT INTO hookstile.webhooks SELECT $1, $2 FROM told
                ON CONFLICT (name) DO UPDATE SET definition = excluded.definition)
            SELECT revision FROM told";
        let put = on!(line => line.row_if_any(sql, &[&&**name, definition, &seen.0]));
        let row = self.ask("commit", OnTimeout::Fail, put).await?;
        Ok(row.map(|row| Revision(row.get(0))))
    }

    pub async fn remove_webhook(&self, name: Arc<str>) -> Result<(), StoreError> {
        let name = &name;
        let sql = "WITH told AS (UPDATE hookstile.store SET revision = revision + 1)
            DELETE FROM hookstile.webhooks WHERE name = $1";
        self.change(on!(line => line.run(sql, &[&&**name]))).await
    }

    pub async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError> {
        self.look(on!(line => query::webhooks(line))).await
    }

    pub async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError> {
        let route = &route;
        let sql = if paused {
            "WITH told AS (UPDATE hookstile.store SET revision = revision + 1)
             INSERT INTO hookstile.paused VALUES ($1) ON CONFLICT DO NOTHING"
        } else {
            "WITH told AS (UPDATE hookstile.store SET revision = revision + 1) DELETE FROM hookstile.paused WHERE route = $1"
        };
        self.change(on!(line => line.run(sql, &[&&**route]))).await
    }

    pub async fn paused_routes(&self) -> Result<Vec<String>, StoreError> {
        self.look(on!(line => query::paused(line))).await
    }

    /// Changes when another gateway was told something by an operator.
    pub fn revision(&self) -> watch::Receiver<i64> {
        self.shared().revision.subscribe()
    }

    pub fn queue_notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        Arc::clone(
            locked(&self.shared().wakers)
                .entry(Arc::clone(route))
                .or_default(),
        )
    }

    pub fn update_routes(&self, lanes: Vec<StoreRoute>) {
        let names: Vec<String> = lanes.iter().map(|lane| lane.route.to_string()).collect();
        *locked(&self.shared().lanes) = lanes
            .into_iter()
            .map(|lane| (lane.route, lane.retain))
            .collect();
        let store = self.clone();
        tokio::spawn(async move {
            let sql = "INSERT INTO hookstile.routes SELECT name, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
                FROM unnest($1::text[]) AS r (name) ORDER BY name ON CONFLICT DO NOTHING";
            let names = &names;
            while store
                .change(on!(line => line.run(sql, &[names])))
                .await
                .is_err()
            {
                if store.shared().lines.is_closed() {
                    return;
                }
                tokio::time::sleep(TELL_AGAIN).await;
            }
        });
    }

    pub async fn due_events(
        &self,
        route: Arc<str>,
        holding: &[DeliveryId],
        most: usize,
    ) -> Result<DueEvents, StoreError> {
        let route = &route;
        let owner = self.shared().owner;
        self.ask(
            "read",
            OnTimeout::Fail,
            on!(line => queue::take(line, route, holding, most, owner)),
        )
        .await
    }

    pub async fn release_events(&self, ids: &[DeliveryId]) -> Result<(), StoreError> {
        let owner = self.shared().owner;
        self.ask(
            "commit",
            OnTimeout::Fail,
            on!(line => queue::give_back(line, ids, owner)),
        )
        .await
    }

    pub async fn load_event(
        &self,
        id: DeliveryId,
        attempt: Duration,
    ) -> Result<Option<QueuedEvent>, StoreError> {
        let owner = self.shared().owner;
        self.ask(
            "read",
            OnTimeout::Fail,
            on!(line => queue::load(line, id, owner, attempt)),
        )
        .await
    }

    pub async fn event_keys(
        &self,
        id: DeliveryId,
    ) -> Result<Option<(String, Vec<EventKey>)>, StoreError> {
        self.look(on!(line => query::names(line, id))).await
    }

    pub fn now_due(&self) -> DueAt {
        let (due_ms, asked) = *locked(&self.shared().due_now);
        DueAt(Uptime(due_ms.unsigned_abs()).after(asked.elapsed()))
    }

    pub async fn deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Vec<DeliveryRecord>, StoreError> {
        let filter = &filter;
        self.look(on!(line => query::deliveries(line, filter)))
            .await
    }

    pub async fn count_deliveries(
        &self,
        filter: DeliveryFilter,
    ) -> Result<Option<usize>, StoreError> {
        let filter = &filter;
        self.look(on!(line => query::count_deliveries(line, filter)))
            .await
    }

    pub async fn matching_deliveries(
        &self,
        filter: DeliveryFilter,
        after: DeliveryId,
        limit: usize,
    ) -> Result<Vec<(DeliveryId, bool)>, StoreError> {
        let filter = &filter;
        self.look(on!(line => query::matching(line, filter, after, limit)))
            .await
    }

    pub async fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, StoreError> {
        self.look(on!(line => query::delivery(line, id))).await
    }

    pub async fn route_record(
        &self,
        route: Arc<str>,
        since_day: i64,
    ) -> Result<RouteDeliveryStats, StoreError> {
        let route = &route;
        self.look(on!(line => query::route_record(line, route, since_day)))
            .await
    }

    /// As it stood a moment ago.
    pub fn queue_counts(&self, route: &str) -> (u64, u64) {
        let standing = self.standing(route);
        (standing.pending, standing.dead)
    }

    pub fn oldest_waiting(&self, route: &str) -> Option<Timestamp> {
        self.standing(route).oldest
    }

    pub fn remembered_ids(&self) -> usize {
        usize::try_from(self.shared().ids.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    pub fn size_bytes(&self) -> u64 {
        self.shared().bytes.load(Ordering::Relaxed)
    }

    /// What was told before is written, and nothing can be asked afterwards. Attempts under way keep their leases: they
    /// lapse, and another gateway takes over.
    pub async fn close(&self) {
        let begun = Instant::now();
        while self.inner.backlog.jobs.load(Ordering::Acquire) > 0
            && begun.elapsed() < pool::ANSWERED_WITHIN
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.shared().lines.close();
    }

    fn standing(&self, route: &str) -> Standing {
        locked(&self.shared().standings)
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
        let (done, written) = oneshot::channel();
        let job = job(done);
        let counted = Counted::new(&self.inner.backlog, job.bytes());
        self.inner
            .writes
            .send((job, counted))
            .map_err(|_| StoreError::Unavailable)?;
        written.await.unwrap_or(Err(StoreError::Unavailable))
    }

    async fn look<T, F>(&self, work: impl FnMut(PooledConnection) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        // The semaphore is never closed.
        let _permit = self
            .inner
            .operators_reads
            .acquire()
            .await
            .map_err(|_| StoreError::Unavailable)?;
        self.ask("read", OnTimeout::Fail, work).await
    }

    async fn change<F>(&self, work: impl FnMut(PooledConnection) -> F) -> Result<(), StoreError>
    where
        F: Future<Output = Result<u64, QueryError>>,
    {
        self.ask("commit", OnTimeout::Retry, work).await.map(drop)
    }

    async fn ask<T, F>(
        &self,
        operation: &'static str,
        slow: OnTimeout,
        work: impl FnMut(PooledConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        self.check_open()?;
        let lines = &self.shared().lines;
        lines
            .again(slow, work)
            .await
            .map_err(|failed| lines.failed(operation, &failed))
    }
}

#[cfg(test)]
mod tests;
