//! What the store's threads and its askers share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use rusqlite::Connection;
use tokio::sync::Notify;

use super::attempt_journal::AttemptJournal;
use super::index::Index;
use super::read::Reader;
use super::uptime_clock::UptimeClock;
use super::{EventKey, RowId, Settings, StoreError, StoreRoute, schema};
use crate::metrics::StoreMetrics;

pub(super) struct Shared {
    pub settings: Settings,
    pub file: PathBuf,
    pub hash_key: [u8; 16],
    pub index: Index,
    pub time: UptimeClock,
    pub metrics: StoreMetrics,
    /// Whether what was written last is known to be written.
    open: AtomicBool,
    /// How often the file was closed.
    closings: AtomicU64,
    /// Bytes of the file that hold something.
    used: AtomicU64,
    /// None while the file is closed.
    connections: RwLock<Option<Connections>>,
    waiting: Mutex<HashMap<Arc<str>, Counts>>,
    /// Those who deliver a route's stored events.
    wakers: Mutex<HashMap<Arc<str>, Arc<Notify>>>,
    /// Bytes of what waits for the writer.
    backlog: AtomicUsize,
    pub lanes: Mutex<Vec<StoreRoute>>,
    pub under_way: Arc<AttemptJournal>,
}

/// What may wait for the writer, in bytes: a disk that hangs must not fill the memory with what was answered long ago.
const BACKLOG_BYTES: usize = 64 << 20;

/// Connections beside the writer's.
#[derive(Default)]
struct Connections {
    idle: Mutex<Vec<Reader>>,
    /// Moves the log into the database.
    mover: Mutex<Option<Connection>>,
}

/// Why the log was not moved.
pub(super) enum NotMoved {
    /// For want of a file descriptor, say. The next round tries again.
    NotTried(rusqlite::Error),
    Failed(rusqlite::Error),
}

/// Stored events of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub pending: u64,
    pub dead: u64,
}

impl Shared {
    pub(super) fn new(
        settings: Settings,
        file: PathBuf,
        hash_key: [u8; 16],
        time: UptimeClock,
        metrics: StoreMetrics,
        under_way: AttemptJournal,
    ) -> Self {
        Self {
            settings,
            file,
            hash_key,
            index: Index::new(),
            time,
            metrics,
            open: AtomicBool::new(false),
            closings: AtomicU64::new(0),
            used: AtomicU64::new(0),
            connections: RwLock::new(None),
            waiting: Mutex::default(),
            wakers: Mutex::default(),
            backlog: AtomicUsize::new(0),
            lanes: Mutex::default(),
            under_way: Arc::new(under_way),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.open.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Unavailable)
        }
    }

    /// Where the event's row may be.
    pub(super) fn find(&self, key: EventKey) -> Result<Vec<RowId>, StoreError> {
        let closings = self.closings.load(Ordering::Acquire);
        self.check_open()?;
        let places = self.index.find(key);
        // An index that is being read anew knows nothing of most events.
        if self.closings.load(Ordering::Acquire) == closings {
            Ok(places)
        } else {
            Err(StoreError::Unavailable)
        }
    }

    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        self.check_open()?;
        if self.backlog.load(Ordering::Relaxed) > BACKLOG_BYTES {
            return Err(StoreError::Unavailable);
        }
        let bytes_full = self
            .settings
            .max_bytes
            .is_some_and(|most| self.used.load(Ordering::Relaxed) >= most);
        if bytes_full || self.index.len() >= self.settings.max_ids {
            Err(StoreError::Full)
        } else {
            Ok(())
        }
    }

    /// Lets readers in.
    pub(super) fn opened(&self) {
        *self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(Connections::default());
        self.open.store(true, Ordering::Release);
        for waker in self.wakers().values() {
            waker.notify_one();
        }
    }

    /// What is told when an event was stored for this route, whoever stored it.
    pub(super) fn waker(&self, route: &Arc<str>) -> Arc<Notify> {
        Arc::clone(self.wakers().entry(Arc::clone(route)).or_default())
    }

    pub(super) fn wake(&self, route: &str) {
        if let Some(waker) = self.wakers().get(route) {
            waker.notify_one();
        }
    }

    fn wakers(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Notify>>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queued(&self, bytes: usize) {
        self.backlog.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn taken(&self, bytes: usize) {
        self.backlog.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Waits for the readers that are at it and lets no more in, so that every connection is closed.
    pub(super) fn closed(&self) {
        self.open.store(false, Ordering::Release);
        self.closings.fetch_add(1, Ordering::AcqRel);
        *self
            .connections
            .write()
            .unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Moves what can be moved of the log into the database, beside the writer, once `least` pages have gathered. Answers
    /// the log's length and what of it has been moved, in pages; nothing while the file is closed.
    pub(super) fn move_log(&self, least: i64) -> Result<Option<(i64, i64)>, NotMoved> {
        let connections = self
            .connections
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(connections) = &*connections else {
            return Ok(None);
        };
        let mut own = connections
            .mover
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let connection = match own.take() {
            Some(connection) => connection,
            None => {
                schema::open(&self.file, self.settings.durability).map_err(NotMoved::NotTried)?
            }
        };
        let (pages, before) = schema::log_pages(&connection).map_err(NotMoved::NotTried)?;
        let moved = if pages - before >= least {
            schema::checkpoint_passively(&connection).map_err(NotMoved::Failed)?
        } else {
            (pages, before)
        };
        *own = Some(connection);
        Ok(Some(moved))
    }

    /// Runs a query on a connection of its own. Blocks.
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
            tracing::error!(%error, file = %self.file.display(), "the store could not be read");
            StoreError::Unavailable
        })
    }

    pub(super) fn counts(&self, route: &str) -> Counts {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.get(route).copied().unwrap_or_default()
    }

    pub(super) fn with_counts(&self, change: impl FnOnce(&mut HashMap<Arc<str>, Counts>)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn set_used(&self, bytes: u64) {
        self.used.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn serve(&self, lanes: Vec<StoreRoute>) {
        *self.lanes.lock().unwrap_or_else(PoisonError::into_inner) = lanes;
    }

    /// Bytes of the files.
    pub(super) fn bytes(&self) -> u64 {
        let mut log = self.file.clone().into_os_string();
        log.push("-wal");
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |file| file.len());
        size(&self.file) + size(log.as_ref())
    }
}
