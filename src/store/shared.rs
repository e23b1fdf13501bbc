//! What the store's threads and its askers share.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::index::Index;
use super::read::Reader;
use super::running::RunningTime;
use super::{Lane, Settings, StoreError};
use crate::metrics::StoreMetrics;

pub(super) struct Shared {
    pub settings: Settings,
    pub file: PathBuf,
    pub hash_key: [u8; 16],
    pub index: Index,
    pub time: RunningTime,
    pub metrics: StoreMetrics,
    /// Whether what was written last is known to be written.
    open: AtomicBool,
    /// Bytes of the file that hold something.
    used: AtomicU64,
    /// Idle connections; none while the file is closed.
    readers: RwLock<Option<Mutex<Vec<Reader>>>>,
    waiting: Mutex<HashMap<Arc<str>, Counts>>,
    pub lanes: Mutex<Vec<Lane>>,
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
        time: RunningTime,
        metrics: StoreMetrics,
    ) -> Self {
        Self {
            settings,
            file,
            hash_key,
            index: Index::new(),
            time,
            metrics,
            open: AtomicBool::new(false),
            used: AtomicU64::new(0),
            readers: RwLock::new(None),
            waiting: Mutex::default(),
            lanes: Mutex::default(),
        }
    }

    pub(super) fn check_open(&self) -> Result<(), StoreError> {
        if self.open.load(Ordering::Acquire) { Ok(()) } else { Err(StoreError::Unavailable) }
    }

    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        self.check_open()?;
        let bytes_full = self.settings.max_bytes.is_some_and(|most| self.used.load(Ordering::Relaxed) >= most);
        if bytes_full || self.index.len() >= self.settings.max_ids { Err(StoreError::Full) } else { Ok(()) }
    }

    /// Lets readers in.
    pub(super) fn opened(&self) {
        *self.readers.write().unwrap_or_else(PoisonError::into_inner) = Some(Mutex::default());
        self.open.store(true, Ordering::Release);
    }

    /// Waits for the readers that are at it and lets no more in, so that every connection is closed.
    pub(super) fn closed(&self) {
        self.open.store(false, Ordering::Release);
        *self.readers.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Runs a query on a connection of its own. Blocks.
    pub(super) fn read<T>(&self, query: impl FnOnce(&Reader) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        let Some(idle) = &*readers else { return Err(StoreError::Unavailable) };
        let reader = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let read = reader.map_or_else(|| Reader::open(&self.file), Ok).and_then(|reader| {
            let answer = query(&reader)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            Ok(answer)
        });
        read.map_err(|error| {
            self.metrics.failed("read");
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

    pub(super) fn serve(&self, lanes: Vec<Lane>) {
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
