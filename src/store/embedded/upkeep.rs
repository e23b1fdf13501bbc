//! Periodic work outside of requests: counts uptime, deletes what has expired, and checkpoints the
//! write-ahead log.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::ledger_file::Hour;
use super::replies::Done;
use super::shared::CheckpointError;
use super::write::Job;
use super::{Inner, RecordLimits};

/// The pause between two rounds.
const INTERVAL: Duration = Duration::from_secs(1);
/// The interval at which an idle store writes its uptime.
const WRITE_TIME_INTERVAL: Duration = Duration::from_secs(60);
/// The limit of rows that one transaction deletes. It takes some hundred microseconds, for which
/// other commits wait.
const ROWS_PER_DELETE: usize = 500;
/// The number of 4 KiB pages from which on the log is checkpointed: 4 MiB. After a checkpoint the
/// log restarts, which costs the next commit a second flush.
pub(super) const CHECKPOINT_MIN_PAGES: i64 = 1_024;
/// The size of a page of the database, in bytes.
pub(super) const PAGE_BYTES: u64 = 4_096;
/// The length of the log, in pages, from which on the writer helps to checkpoint it where the disk has
/// room: 64 MiB.
const WAL_MAX_PAGES: i64 = 16_384;

struct Upkeep {
    swept_before: Option<Hour>,
    time_written_at: Instant,
}

/// Runs until the store is dropped.
pub(super) fn run(store: &Weak<Inner>, stopped: &Receiver<()>) {
    let mut upkeep = Upkeep {
        swept_before: None,
        time_written_at: Instant::now(),
    };
    while stopped.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
        let Some(store) = store.upgrade() else { return };
        store.shared.uptime.tick();
        if store.shared.check_open().is_err() {
            continue;
        }
        if !store.shared.has_its_files() {
            let _ = store.send(Job::SaveFiles);
            continue;
        }
        if store.shared.has_deferred() {
            let (done, _) = Done::channel();
            let _ = store.send(Job::ApplyDeferred(done));
        }
        upkeep.sweep_ledger(&store);
        sweep_records(&store);
        checkpoint(&store);
        if let Ok(used) = store.shared.read(|reader| reader.used_bytes()) {
            store.shared.set_used_bytes(used);
        }
        if upkeep.time_written_at.elapsed() >= WRITE_TIME_INTERVAL {
            upkeep.time_written_at = Instant::now();
            let _ = store.send(Job::WriteTime);
        }
    }
}

impl Upkeep {
    /// Forgets the events whose hour has passed: first in memory, then their extents are free for
    /// others.
    fn sweep_ledger(&mut self, store: &Inner) {
        let shared = &store.shared;
        let now = Hour::containing(shared.uptime.now());
        if self.swept_before == Some(now) {
            return;
        }
        shared
            .ledger
            .sweep(now, |expired| shared.index.forget_extents(expired));
        shared.usage().forget_before(now);
        if store.send(Job::ForgetCreations).is_ok() {
            self.swept_before = Some(now);
        }
    }
}

/// Deletes the records that exceed their route's retention, by age or by size.
fn sweep_records(store: &Inner) {
    let Ok(names) = store.shared.read(|reader| reader.routes_with_records()) else {
        return;
    };
    let active = store
        .shared
        .routes
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let all_limits: HashMap<_, _> = active
        .iter()
        .map(|route| (Arc::clone(&route.route), route.retain.limits()))
        .collect();
    drop(active);
    for name in names {
        let limits = match all_limits.get(&*name) {
            Some(limits) => *limits,
            // The route is no longer configured, or not yet.
            None => match store.shared.read(|reader| reader.record_limits(&name)) {
                Ok(limits) => limits,
                Err(_) => return,
            },
        };
        // Small transactions, so that other commits do not wait long, until everything expired is
        // deleted.
        while delete_expired_records(store, &name, limits) {}
    }
}

/// Deletes the first of a route's expired records. Returns whether there were any and they were
/// deleted.
fn delete_expired_records(store: &Inner, route: &str, limits: RecordLimits) -> bool {
    let now = store.shared.uptime.now();
    let ids = store.shared.read(|reader| {
        let kept = reader.kept_bytes(route)?;
        let over = limits
            .max_bytes
            .map_or(0, |limit| kept.saturating_sub(limit));
        reader.expired(route, now, limits.keep, over, ROWS_PER_DELETE)
    });
    let Some(ids) = ids.ok().filter(|ids| !ids.is_empty()) else {
        return false;
    };
    let (done, rows) = sync_channel(1);
    store.send(Job::DeleteRecords { ids, done }).is_ok() && rows.recv().is_ok()
}

/// Returns the most pages that the write-ahead log may have before it is restarted: on a disk with
/// little room, a quarter of that. A log that fills the disk cannot be moved into the database.
fn wal_max_pages(store: &Inner) -> i64 {
    let room = i64::try_from(store.shared.disk_free_bytes() / PAGE_BYTES).unwrap_or(i64::MAX);
    (room / 4).clamp(CHECKPOINT_MIN_PAGES, WAL_MAX_PAGES)
}

/// Checkpoints the write-ahead log, beside the writer. The writer only checkpoints what arrives
/// meanwhile, and only if that keeps the log from restarting.
fn checkpoint(store: &Inner) {
    match store.shared.checkpoint(CHECKPOINT_MIN_PAGES) {
        Ok(Some((pages, moved))) if pages > wal_max_pages(store) && moved < pages => {
            let _ = store.send(Job::Checkpoint);
        }
        Ok(_) => {}
        Err(CheckpointError::NotAttempted(error)) => {
            store.shared.metrics.count_error("checkpoint");
            tracing::warn!(%error, "cannot read the state of the store's write-ahead log");
        }
        Err(CheckpointError::Failed(error)) => {
            store.shared.metrics.count_error("checkpoint");
            tracing::error!(
                %error,
                "cannot checkpoint the store's write-ahead log; reopening the database"
            );
            // A flush that failed may appear to succeed the next time, although its data is lost.
            let _ = store.send(Job::Reopen);
        }
    }
}
