//! What has to be done now and then, off the way of every request: counting time, letting go of what has ended, and
//! moving the log into the database.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::shared::NotMoved;
use super::write::Job;
use super::{Inner, Retain, RowId};

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
    swept: Option<RowId>,
    ticked: Instant,
}

/// Runs until the store is dropped.
pub(super) fn run(store: &Weak<Inner>, stopped: &Receiver<()>) {
    let mut upkeep = Upkeep {
        swept: None,
        ticked: Instant::now(),
    };
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let Some(store) = store.upgrade() else { return };
        store.shared.time.tick();
        if store.shared.check_open().is_err() {
            continue;
        }
        upkeep.sweep_ledger(&store);
        sweep_records(&store);
        move_log(&store);
        if let Ok(used) = store.shared.read(|reader| reader.used_bytes()) {
            store.shared.set_used(used);
        }
        if upkeep.ticked.elapsed() >= TICK_EVERY {
            upkeep.ticked = Instant::now();
            let _ = store.send(Job::Tick);
        }
    }
}

impl Upkeep {
    /// Forgets the events whose hour has ended: first in memory, then on disk, a little at a time.
    fn sweep_ledger(&mut self, store: &Inner) {
        let first = RowId::first_of_bucket(store.shared.time.now());
        if self.swept == Some(first) {
            return;
        }
        store.shared.index.forget_before(first);
        loop {
            let (done, rows) = sync_channel(1);
            if store
                .send(Job::Sweep {
                    first,
                    limit: ROWS_AT_ONCE,
                    done,
                })
                .is_err()
            {
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
}

/// Drops records of deliveries that are older, or more, than their route keeps.
fn sweep_records(store: &Inner) {
    let Ok(routes) = store.shared.read(|reader| reader.routes_with_records()) else {
        return;
    };
    let lanes = store
        .shared
        .lanes
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let retains: HashMap<_, _> = lanes
        .iter()
        .map(|lane| (Arc::clone(&lane.route), lane.retain))
        .collect();
    drop(lanes);
    for route in routes {
        // Of a route that is no longer configured, what is usual.
        let retain = retains.get(&*route).copied().unwrap_or(Retain::USUAL);
        // A little at a time, so that those who commit meanwhile don't wait; and until all is done that can be.
        while drop_records(store, &route, retain) {}
    }
}

/// Drops the first of a route's records that may go. Answers whether there were any, and they are gone.
fn drop_records(store: &Inner, route: &str, retain: Retain) -> bool {
    let now = store.shared.time.now();
    let ids = store.shared.read(|reader| {
        let kept = reader.kept_bytes(route)?;
        let over = retain.max_bytes.map_or(0, |most| kept.saturating_sub(most));
        reader.expired(route, now, retain.keep, over, ROWS_AT_ONCE)
    });
    let Some(ids) = ids.ok().filter(|ids| !ids.is_empty()) else {
        return false;
    };
    let (done, rows) = sync_channel(1);
    store.send(Job::Forget { ids, done }).is_ok() && rows.recv().is_ok()
}

/// Moves the log into the database, beside the writer. Only what comes meanwhile is left for the writer, and only if
/// that is what keeps the log from beginning anew.
fn move_log(store: &Inner) {
    match store.shared.move_log(LOG_PAGES_LEAST) {
        Ok(Some((pages, moved))) if pages > LOG_PAGES_MAX && moved < pages => {
            let _ = store.send(Job::Checkpoint);
        }
        Ok(_) => {}
        Err(NotMoved::NotTried(error)) => {
            store.shared.metrics.count_error("checkpoint");
            tracing::warn!(%error, "the store's log could not be looked at");
        }
        Err(NotMoved::Failed(error)) => {
            store.shared.metrics.count_error("checkpoint");
            tracing::error!(%error, "the store's log could not be moved into the database");
            // A flush that failed once may seem to succeed the next time, and be lost.
            let _ = store.send(Job::Distrust);
        }
    }
}
