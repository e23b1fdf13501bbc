//! The state that the store's threads and its callers share.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::Connection;
use tokio::sync::Notify;

use super::attempt_journal::AttemptJournal;
use super::commit_log;
use super::file_identity::FileIdentity;
use super::index::Index;
use super::ledger_file::{LedgerFile, LedgerRow, SlotContent};
use super::queue_front::QueueFronts;
use super::read::Reader;
use super::upkeep::{CHECKPOINT_MIN_PAGES, PAGE_BYTES};
use super::uptime_clock::UptimeClock;
use super::usage::Usage;
use super::{EventKey, REMOVED_ROUTES_MAX, Settings, StoreError, StoreRoute, schema};
use crate::metrics::StoreMetrics;
use crate::store::share::{Pool, Pools};

pub(super) struct Shared {
    pub settings: Settings,
    pub file: PathBuf,
    pub hash_key: [u8; 16],
    pub index: Index,
    pub ledger: LedgerFile,
    pub uptime: UptimeClock,
    pub metrics: StoreMetrics,
    /// The last write is known to have succeeded.
    open: AtomicBool,
    /// The database lacks rows of jobs whose callers have their replies.
    has_deferred: AtomicBool,
    /// The number of times the file was closed.
    close_count: AtomicU64,
    /// The size of the database's used pages and of the ledger's rows, in bytes.
    used_bytes: AtomicU64,
    /// The room that the disk and the file's free pages have, in bytes.
    disk_free_bytes: AtomicU64,
    /// The room that each route holds.
    usage: Mutex<Usage>,
    /// The connections; `None` while the file is closed.
    connections: RwLock<Option<Connections>>,
    queue_counts: Mutex<HashMap<Arc<str>, QueueCounts>>,
    /// The events that the route workers need next.
    pub queue_fronts: QueueFronts,
    /// The notifiers of the route workers, by route.
    notifiers: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
    /// The size of the jobs that wait for the writer, in bytes.
    backlog: AtomicUsize,
    pub routes: Mutex<Vec<StoreRoute>>,
    /// The files that are open; `None` before the first opening.
    identity: Mutex<Option<FileIdentity>>,
    pub journal: Arc<AttemptJournal>,
}

/// The room that the write-ahead log takes before it is checkpointed and starts again, in bytes.
const LOG_BYTES: u64 = PAGE_BYTES * CHECKPOINT_MIN_PAGES.unsigned_abs();

/// The limit of jobs that wait for the writer, in bytes. Without it, a disk that hangs would fill
/// the memory with jobs whose callers have long had an error.
const BACKLOG_MAX_BYTES: usize = 64 << 20;

/// The connections beside the writer's.
#[derive(Default)]
struct Connections {
    idle: Mutex<Vec<Reader>>,
    /// The connection that checkpoints the write-ahead log.
    checkpointer: Mutex<Option<Connection>>,
}

/// The reason why a checkpoint failed.
pub(super) enum CheckpointError {
    /// The checkpoint did not start, for example for lack of a file descriptor. The next round
    /// retries.
    NotAttempted(rusqlite::Error),
    Failed(rusqlite::Error),
}

/// The numbers of a route's pending events and dead letters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct QueueCounts {
    pub pending: u64,
    pub dead: u64,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        file: PathBuf,
        hash_key: [u8; 16],
        ledger: LedgerFile,
        uptime: UptimeClock,
        metrics: StoreMetrics,
        journal: AttemptJournal,
    ) -> Self {
        Self {
            settings,
            file,
            hash_key,
            index: Index::new(),
            ledger,
            uptime,
            metrics,
            open: AtomicBool::new(false),
            has_deferred: AtomicBool::new(false),
            close_count: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            disk_free_bytes: AtomicU64::new(u64::MAX),
            usage: Mutex::default(),
            connections: RwLock::new(None),
            queue_counts: Mutex::default(),
            queue_fronts: QueueFronts::default(),
            notifiers: Mutex::default(),
            backlog: AtomicUsize::new(0),
            routes: Mutex::default(),
            identity: Mutex::default(),
            journal: Arc::new(journal),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.open.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Unavailable)
        }
    }

    pub(super) fn set_deferred(&self, has_deferred: bool) {
        self.has_deferred.store(has_deferred, Ordering::Release);
    }

    /// Returns whether the database lacks rows of jobs whose callers have their replies.
    pub(super) fn has_deferred(&self) -> bool {
        self.has_deferred.load(Ordering::Acquire)
    }

    /// Returns the event's rows that are remembered. The file is read only if the index has the event's
    /// fingerprint, which nearly no new event has.
    pub(super) fn event_rows(&self, key: EventKey) -> Result<Vec<(u32, LedgerRow)>, StoreError> {
        let closings = self.close_count.load(Ordering::Acquire);
        self.check_open()?;
        let rows = self.read_event_rows(key).map_err(|error| {
            self.metrics.count_error("read");
            tracing::error!(%error, "cannot read the ledger");
            StoreError::Unavailable
        })?;
        // While the index is being reloaded, it lacks most events.
        if self.close_count.load(Ordering::Acquire) == closings {
            Ok(rows)
        } else {
            Err(StoreError::Unavailable)
        }
    }

    /// Returns the event's rows, like [`Shared::event_rows`], even while the store is being opened.
    pub(super) fn read_event_rows(&self, key: EventKey) -> io::Result<Vec<(u32, LedgerRow)>> {
        let now = self.uptime.now();
        let mut rows = Vec::new();
        for slot in self.index.find(key) {
            match self.ledger.read(slot)? {
                SlotContent::Row(row) if row.key == key && row.is_live(now) => {
                    rows.push((slot, row));
                }
                // As at a start, nothing is known of its event.
                SlotContent::Damaged => {
                    self.metrics.count_error("read");
                    tracing::error!(
                        slot,
                        "a row of the ledger is damaged: its event is not remembered"
                    );
                }
                _ => {}
            }
        }
        Ok(rows)
    }

    pub(super) fn check_room(&self, route: Option<&str>) -> Result<(), StoreError> {
        self.check_open()?;
        let backlog = self.backlog.load(Ordering::Relaxed);
        if backlog > BACKLOG_MAX_BYTES {
            return Err(StoreError::Unavailable);
        }
        // Jobs that wait for the writer are not yet in the file.
        let used = self.used_bytes.load(Ordering::Relaxed) + backlog as u64;
        let disk_free = self.disk_free_bytes();
        let pools = Pools {
            ids: Pool {
                used: self.index.len() as u64,
                max: self.settings.max_ids as u64,
            },
            bytes: Pool {
                used,
                max: self.settings.max_bytes.unwrap_or(u64::MAX),
            },
            disk: Pool {
                used,
                max: used.saturating_add(disk_free.saturating_sub(backlog as u64)),
            },
        };
        pools.check_room(|| {
            let is_only_route = self
                .routes
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .len()
                < 2;
            route
                .filter(|_| !is_only_route)
                .map(|route| self.usage().holding(route))
        })
    }

    /// Returns the room that is left on the disk, in bytes.
    pub(super) fn disk_free_bytes(&self) -> u64 {
        self.disk_free_bytes.load(Ordering::Relaxed)
    }

    /// Returns what each route holds, locked.
    pub(super) fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_identity(&self, identity: FileIdentity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// Returns the files that were opened last, and those that have their names now.
    pub(super) fn known_and_found_files(&self) -> io::Result<(Option<FileIdentity>, FileIdentity)> {
        let known = *self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((known, FileIdentity::read(&self.settings.folder)?))
    }

    /// Takes some of the files that have their names now for those that are open: `know` gets the known
    /// and the found ones.
    pub(super) fn know_files(
        &self,
        know: impl FnOnce(FileIdentity, FileIdentity) -> FileIdentity,
    ) -> io::Result<()> {
        if let (Some(known), found) = self.known_and_found_files()? {
            self.set_identity(know(known, found));
        }
        Ok(())
    }

    /// Takes the ledger's file that has its name now for the one that is open.
    pub(super) fn know_ledger(&self) -> io::Result<()> {
        self.know_files(|known, found| FileIdentity {
            ledger: found.ledger,
            ..known
        })
    }

    /// Returns whether the files are still those that are open. `true` if that cannot be known.
    pub(super) fn has_its_files(&self) -> bool {
        self.known_and_found_files().map_or(true, |(known, found)| {
            known.is_none_or(|known| known == found)
        })
    }

    /// Opens the store for readers and notifies all route workers.
    pub(super) fn mark_open(&self) {
        *self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Connections::default());
        self.open.store(true, Ordering::Release);
        for notifier in self.notifiers().values() {
            notifier.notify_one();
        }
    }

    /// Returns the notifier of a route's queue.
    pub(super) fn notifier(&self, route: &Arc<str>) -> Arc<Notify> {
        Arc::clone(self.notifiers().entry(Arc::clone(route)).or_default())
    }

    pub(super) fn notify_route(&self, route: &str) {
        if let Some(notifier) = self.notifiers().get(route) {
            notifier.notify_one();
        }
    }

    fn notifiers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Notify>>> {
        self.notifiers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add_to_backlog(&self, bytes: usize) {
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn remove_from_backlog(&self, bytes: usize) {
        self.backlog.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Closes the store: waits for running queries and admits no more, so that every connection is
    /// closed.
    pub(super) fn close_connections(&self) {
        self.open.store(false, Ordering::Release);
        self.close_count.fetch_add(1, Ordering::AcqRel);
        self.queue_fronts.clear();
        *self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Checkpoints the write-ahead log, beside the writer, if at least `min_pages` pages are not
    /// yet checkpointed. Returns the log's length and how much of it is checkpointed, in pages;
    /// `None` while the file is closed.
    pub(super) fn checkpoint(&self, min_pages: i64) -> Result<Option<(i64, i64)>, CheckpointError> {
        let connections = self
            .connections
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = &*connections else {
            return Ok(None);
        };
        let mut checkpointer = connections
            .checkpointer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connection = match checkpointer.take() {
            Some(connection) => connection,
            None => schema::open(&self.file, self.settings.durability)
                .map_err(CheckpointError::NotAttempted)?,
        };
        let (pages, done) =
            schema::wal_pages(&connection).map_err(CheckpointError::NotAttempted)?;
        let progress = if pages - done >= min_pages {
            schema::checkpoint_passive(&connection).map_err(CheckpointError::Failed)?
        } else {
            (pages, done)
        };
        *checkpointer = Some(connection);
        Ok(Some(progress))
    }

    /// Runs a query on its own connection. Blocks.
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Reader) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let connections = self
            .connections
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(Connections { idle, .. }) = &*connections else {
            return Err(StoreError::Unavailable);
        };
        let reader = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let read = reader
            .map_or_else(|| Reader::open(&self.file), Ok)
            .and_then(|reader| {
                let answer = query(&reader)?;
                idle.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(reader);
                Ok(answer)
            });
        read.map_err(|error| {
            self.metrics.count_error("read");
            tracing::error!(%error, file = %self.file.display(), "store read failed");
            StoreError::Unavailable
        })
    }

    pub(super) fn counts(&self, route: &str) -> QueueCounts {
        let counts = self
            .queue_counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.get(route).copied().unwrap_or_default()
    }

    pub(super) fn with_counts(&self, change: impl FnOnce(&mut HashMap<Arc<str>, QueueCounts>)) {
        change(
            &mut self
                .queue_counts
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    /// Sets the size of the database's used pages, and measures the room that is left on the disk.
    pub(super) fn set_used_bytes(&self, database: u64) {
        let bytes = database + self.ledger.used_bytes();
        self.used_bytes.store(bytes, Ordering::Relaxed);
        let (file, log) = self.file_lengths();
        // A disk that cannot be measured has no shares.
        let disk_free = rustix::fs::statvfs(&self.settings.folder).map_or(u64::MAX, |disk| {
            disk.f_bavail
                .saturating_mul(disk.f_frsize)
                // Free pages and free extents of the files, or pages that are in the log only.
                .saturating_add(file + self.ledger.disk_bytes())
                .saturating_sub(bytes)
                // The log may grow before it is checkpointed.
                .saturating_sub(LOG_BYTES.saturating_sub(log))
        });
        self.disk_free_bytes.store(disk_free, Ordering::Relaxed);
    }

    /// Adds what a commit has stored to the used bytes, until they are read again.
    pub(super) fn add_used_bytes(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        let _ = self
            .disk_free_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                // It is in the log now, and will be in the file.
                Some(free.saturating_sub(2 * bytes))
            });
    }

    /// Returns the routes with stored events that are not active: those with the most pending ones
    /// first.
    pub(super) fn removed_routes(&self) -> Vec<(Arc<str>, QueueCounts)> {
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        let active: HashSet<_> = routes.iter().map(|route| &route.route).collect();
        let mut removed = Vec::new();
        self.with_counts(|counts| {
            let has_events = |counts: &QueueCounts| counts.pending > 0 || counts.dead > 0;
            for (route, counts) in counts.iter().filter(|(_, counts)| has_events(counts)) {
                if !active.contains(route) {
                    removed.push((Arc::clone(route), *counts));
                }
            }
        });
        removed.sort_unstable_by(|(one, first), (other, second)| {
            second.pending.cmp(&first.pending).then(one.cmp(other))
        });
        removed.truncate(REMOVED_ROUTES_MAX);
        removed
    }

    pub(super) fn set_routes(&self, routes: Vec<StoreRoute>) {
        let active = routes.iter().map(|route| &*route.route).collect();
        self.queue_fronts.keep_routes(&active);
        *self.routes.lock().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// Returns the size of the files on the disk, in bytes.
    pub(super) fn file_bytes(&self) -> u64 {
        let (file, log) = self.file_lengths();
        let commits = std::fs::metadata(self.settings.folder.join(commit_log::FILE));
        file + log + self.ledger.disk_bytes() + commits.map_or(0, |file| file.len())
    }

    /// Returns the lengths of the database and of its write-ahead log, in bytes.
    fn file_lengths(&self) -> (u64, u64) {
        let log = schema::wal(&self.file);
        let length = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
        (length(&self.file), length(&log))
    }
}
