//! What has to be done now and then, off the way of every request: counting time, letting go of what has ended, and
//! moving the log into the database.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::index::Place;
use super::write::Job;
use super::{DeliveryId, Inner};

const EVERY: Duration = Duration::from_secs(1);
/// How often an idle store writes its running time down.
const TICK_EVERY: Duration = Duration::from_secs(60);
/// Rows that one transaction deletes: some hundred microseconds' work, which those who commit meanwhile wait for.
const ROWS_AT_ONCE: usize = 500;
/// Pages of 4 KiB that are moved into the database at once: 4 MiB. The log then begins anew, which costs the next commit
/// a second flush.
const LOG_PAGES_LEAST: i64 = 1_024;
/// The log's length, in pages, from which on the writer helps to move it: 64 MiB.
const LOG_PAGES_MAX: i64 = 16_384;

struct Upkeep {
    swept: Option<Place>,
    /// Where the search for records that may go begins, by route.
    from: HashMap<Arc<str>, DeliveryId>,
    ticked: Instant,
}

/// Runs until the store is dropped.
pub(super) fn run(store: &Weak<Inner>, stopped: &Receiver<()>) {
    let mut upkeep = Upkeep { swept: None, from: HashMap::new(), ticked: Instant::now() };
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(store) = store.upgrade() else { return };
        store.shared.time.tick();
        if store.shared.check_open().is_err() {
            continue;
        }
        upkeep.sweep_ledger(&store);
        upkeep.sweep_records(&store);
        move_log(&store);
        if let Ok(used) = store.shared.read(|reader| reader.used_bytes()) {
            store.shared.set_used(used);
        }
        if upkeep.ticked.elapsed() >= TICK_EVERY {
            upkeep.ticked = Instant::now();
            let _ = store.jobs.send(Job::Tick);
        }
    }
}

impl Upkeep {
    /// Forgets the events whose hour has ended: first in memory, then on disk, a little at a time.
    fn sweep_ledger(&mut self, store: &Inner) {
        let first = Place::first_of_bucket(store.shared.time.now());
        if self.swept == Some(first) {
            return;
        }
        store.shared.index.forget_before(first);
        loop {
            let (done, rows) = sync_channel(1);
            if store.jobs.send(Job::Sweep { first, limit: ROWS_AT_ONCE, done }).is_err() {
                return;
            }
            match rows.recv() {
                Ok(ROWS_AT_ONCE..) => {}
                Ok(_) => break,
                // The store failed; the next round tries again.
                Err(_) => return,
            }
        }
        self.swept = Some(first);
    }

    /// Drops records of deliveries that are older, or more, than their route keeps.
    fn sweep_records(&mut self, store: &Inner) {
        let lanes = store.shared.lanes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for lane in lanes {
            let from = self.from.get(&lane.route).copied().unwrap_or(DeliveryId(0));
            let now = store.shared.time.now();
            let read = store.shared.read(|reader| {
                let kept = reader.kept_bytes(&lane.route)?;
                let over = lane.retain.max_bytes.map_or(0, |most| kept.saturating_sub(most));
                reader.expired(&lane.route, from, now, lane.retain.keep, over, ROWS_AT_ONCE)
            });
            let Ok((ids, next)) = read else { return };
            // From the beginning, when all was seen: those that waited may have ended meanwhile.
            self.from.insert(lane.route, next.unwrap_or(DeliveryId(0)));
            if ids.is_empty() {
                continue;
            }
            let (done, rows) = sync_channel(1);
            if store.jobs.send(Job::Forget { ids, done }).is_err() || rows.recv().is_err() {
                return;
            }
        }
    }
}

/// Moves the log into the database, beside the writer. Only what comes meanwhile is left for the writer, and only if
/// that is what keeps the log from beginning anew.
fn move_log(store: &Inner) {
    match store.shared.move_log(LOG_PAGES_LEAST) {
        Ok(Some((pages, moved))) if pages > LOG_PAGES_MAX && moved < pages => {
            let _ = store.jobs.send(Job::Checkpoint);
        }
        Ok(_) => {}
        Err(error) => {
            store.shared.metrics.failed("checkpoint");
            tracing::error!(%error, "the store's log could not be moved into the database");
            // A flush that failed once may seem to succeed the next time, and be lost.
            let _ = store.jobs.send(Job::Distrust);
        }
    }
}
