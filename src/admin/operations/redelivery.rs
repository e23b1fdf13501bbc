//! The redelivery of many deliveries at a pace. Its state is in the store, so it goes on without its
//! caller, and after the gateway that ran it was stopped: here, or at another gateway of the store.
//!
//! Each delivery is redelivered only in the state in which it was selected, unless the caller chose it
//! by its ID in any state. The progress is saved after each batch. So after an interruption, those of one
//! batch may be redelivered again: those that were chosen, and those that died again meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::time::{sleep, timeout};

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::query::{Pace, RedeliveryQuery};
use crate::admin::state::AdminState;
use crate::ledger::{Redelivery, RedeliveryResult};
use crate::queue::Queue;
use crate::store::{
    DeliveryFilter, DeliveryId, DeliveryState, DueAt, Store, StoreError, StoredRedelivery,
};

/// The outcome of a bulk redelivery, or its progress.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RedeliveryReport {
    #[serde(skip)]
    pub is_dry_run: bool,
    #[serde(skip)]
    pub is_running: bool,
    pub matched: usize,
    /// The number of deliveries that are due again; in a dry run, of those that could be.
    pub accepted: usize,
    /// The codes of the errors for which the others are not due again, each with their number.
    pub refused: BTreeMap<String, usize>,
}

/// The bulk redelivery that was requested last.
pub(crate) struct LastRedelivery {
    pub begun_at: Timestamp,
    pub route: Option<String>,
    pub pace: Option<Pace>,
    pub report: RedeliveryReport,
}

/// Runs the bulk redeliveries of this gateway, one at a time.
#[derive(Clone)]
pub(super) struct BulkRedelivery {
    store: Store,
    queue: Arc<Queue>,
    /// Held while one runs here.
    running: Arc<Mutex<()>>,
}

/// A bulk redelivery as it is stored.
#[derive(Serialize, Deserialize)]
struct Job {
    query: RedeliveryQuery,
    begun_at: Timestamp,
    /// The due time of the first delivery.
    first_due: DueAt,
    /// The newest of the selected deliveries. Newer ones that match later are not selected.
    newest: DeliveryId,
    /// The number of deliveries that were selected and have a payload.
    selected: u32,
    /// The last delivery that was redelivered or refused; those before it were, too.
    done: DeliveryId,
    /// The number of deliveries that were redelivered or refused by the store: the place of the next
    /// one in the pace.
    position: u32,
    report: RedeliveryReport,
}

/// The failures of one batch in a store that works.
#[derive(Debug, Default)]
struct Failures {
    count: u32,
    /// The last delivery before the batch.
    after: Option<DeliveryId>,
}

/// The time within which a request is answered. What takes longer goes on in the background.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The time within which the last delivery is due. At a slower pace, dead letters would look like
/// waiting events for days.
const LONGEST: Duration = Duration::from_secs(72 * 3_600);

/// The number of IDs that are read from the store at once.
const PAGE: usize = 1_000;

/// The number of redeliveries that are written at once, with one flush. Copies of their events
/// wait for that long.
const BATCH: usize = 64;

/// The number of times that one batch may fail in a store that works. Some minute, in which nothing else
/// can be redelivered in bulk.
const FAILURES_MAX: u32 = 30;

/// The time after its last save at which another gateway continues a redelivery.
const LEASE: Duration = Duration::from_secs(15);

/// The pause between two searches for a redelivery that no gateway runs, and before one is continued
/// after an error of the store.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

impl RedeliveryReport {
    fn count(&mut self, result: &RedeliveryResult) {
        match result {
            RedeliveryResult::Queued(_) => self.accepted += 1,
            RedeliveryResult::InFlight => self.refuse(&OperationError::InFlight, 1),
            RedeliveryResult::Unknown => self.refuse(&OperationError::NoSuchDelivery, 1),
            RedeliveryResult::NoPayload => self.refuse(&OperationError::PayloadNotKept, 1),
        }
    }

    fn refuse(&mut self, error: &OperationError, count: usize) {
        if count > 0 {
            *self.refused.entry(error.code().to_owned()).or_default() += count;
        }
    }
}

impl Operations {
    /// Redelivers all matching deliveries, the oldest first. Returns the outcome, or the progress
    /// if it takes longer than a caller should wait.
    pub(crate) async fn redeliver_matching(
        &self,
        operator: Operator,
        query: RedeliveryQuery,
    ) -> Result<RedeliveryReport, OperationError> {
        self.run_redelivery("redeliver_matching", operator, query)
            .await
    }

    /// Redelivers a webhook's deliveries after an outage, as
    /// [`redeliver_matching`](Self::redeliver_matching) does.
    pub(crate) async fn recover(
        &self,
        operator: Operator,
        query: RedeliveryQuery,
    ) -> Result<RedeliveryReport, OperationError> {
        self.run_redelivery("recover", operator, query).await
    }

    /// Returns the bulk redelivery that was requested last, at any gateway.
    pub(crate) async fn last_redelivery(&self) -> Result<Option<LastRedelivery>, OperationError> {
        let Some(stored) = self.state.store.redelivery().await? else {
            return Ok(None);
        };
        Ok(Job::parse(&stored.document).map(|job| job.last(stored.is_running)))
    }

    /// Ends the bulk redelivery that is running, at any gateway. Returns it with its progress. One
    /// batch may still be written; what is due again stays so.
    pub(crate) async fn cancel_redelivery(
        &self,
        operator: Operator,
    ) -> Result<LastRedelivery, OperationError> {
        let cancelled = self.cancel_running().await;
        let route = cancelled.as_ref().ok().and_then(|last| last.route.clone());
        operator.audited(
            "cancel_redelivery",
            route.as_deref().unwrap_or_default(),
            cancelled,
        )
    }

    async fn cancel_running(&self) -> Result<LastRedelivery, OperationError> {
        let cancelled = self.state.store.cancel_redelivery().await?;
        let job = cancelled.as_deref().and_then(Job::parse);
        Ok(job.ok_or(OperationError::NoRedeliveryRunning)?.last(false))
    }

    /// Continues bulk redeliveries that no gateway runs, for as long as the process exists.
    pub(crate) async fn continue_redeliveries(&self) {
        loop {
            sleep(RETRY_INTERVAL).await;
            self.redelivery.continue_interrupted().await;
        }
    }

    /// Runs a bulk redelivery or a dry run, which changes nothing and is not audited.
    async fn run_redelivery(
        &self,
        operation: &'static str,
        operator: Operator,
        query: RedeliveryQuery,
    ) -> Result<RedeliveryReport, OperationError> {
        if query.dry_run {
            let matches = Matches::find(&self.state.store, &query, DeliveryId(0)).await?;
            matches.check_pace(query.pace)?;
            return self.checked(
                &query.filter,
                RedeliveryReport {
                    is_dry_run: true,
                    accepted: matches.redeliverable.len(),
                    ..matches.report()
                },
            );
        }
        let filter = query.filter.clone();
        let report = match self.redelivery.begin(query).await {
            Ok(report) => self.checked(&filter, report),
            Err(error) => Err(error),
        };
        operator.audited(
            operation,
            filter.route.as_deref().unwrap_or_default(),
            report,
        )
    }

    /// Returns the report, unless nothing matched because the filter names an unknown route.
    fn checked(
        &self,
        filter: &DeliveryFilter,
        report: RedeliveryReport,
    ) -> Result<RedeliveryReport, OperationError> {
        if report.matched == 0 {
            self.check_route_exists(filter)?;
        }
        Ok(report)
    }
}

impl BulkRedelivery {
    pub(super) fn new(state: &AdminState) -> Self {
        Self {
            store: state.store.clone(),
            queue: Arc::clone(&state.queue),
            running: Arc::default(),
        }
    }

    /// Selects the deliveries and redelivers them in a task of its own. Returns the outcome, or the
    /// progress after [`ANSWER_WITHIN`].
    async fn begin(&self, query: RedeliveryQuery) -> Result<RedeliveryReport, OperationError> {
        let running = Arc::clone(&self.running)
            .try_lock_owned()
            .map_err(|_| OperationError::RedeliveryRunning)?;
        // All are found before the first is due, so that one which dies again is not found again.
        let matches = Matches::find(&self.store, &query, DeliveryId(0)).await?;
        matches.check_pace(query.pace)?;
        tracing::info!(
            matched = matches.matched,
            route = query.filter.route,
            per_second = query.pace.map(Pace::per_second),
            "deliveries selected for a bulk redelivery"
        );
        let Some((newest, _)) = matches.redeliverable.last() else {
            return Ok(matches.report());
        };
        let job = Job {
            query,
            begun_at: Timestamp::now(),
            first_due: self.store.now_due(),
            newest: *newest,
            selected: u32::try_from(matches.redeliverable.len()).unwrap_or(u32::MAX),
            done: DeliveryId(0),
            position: 0,
            report: matches.report(),
        };
        if !self.store.begin_redelivery(job.document(), LEASE).await? {
            return Err(OperationError::RedeliveryRunning);
        }
        let (progress, mut watched) = watch::channel(RedeliveryReport {
            is_running: true,
            ..job.report.clone()
        });
        let run = self.clone().run(job, Some(matches), progress, running);
        tokio::spawn(run);
        let ended = watched.wait_for(|report| !report.is_running);
        if let Ok(Ok(report)) = timeout(ANSWER_WITHIN, ended).await {
            return Ok(report.clone());
        }
        let report = watched.borrow().clone();
        Ok(report)
    }

    /// Continues a bulk redelivery that no gateway runs, to its end.
    async fn continue_interrupted(&self) {
        let Ok(running) = Arc::clone(&self.running).try_lock_owned() else {
            return;
        };
        // The store logs its errors; the next search tries again.
        let Ok(Some(document)) = self.store.claim_redelivery(LEASE).await else {
            return;
        };
        let Some(job) = Job::parse(&document) else {
            tracing::error!(
                "a bulk redelivery that another version of hookstile began cannot be continued; \
                 repeat the request"
            );
            let ended = StoredRedelivery {
                document,
                is_running: false,
            };
            let _ = self.store.save_redelivery(ended, LEASE).await;
            return;
        };
        tracing::info!(
            matched = job.report.matched,
            accepted = job.report.accepted,
            route = job.query.filter.route,
            "bulk redelivery continues"
        );
        let progress = watch::Sender::new(job.report.clone());
        self.clone().run(job, None, progress, running).await;
    }

    /// Runs a redelivery to its end, or until it is cancelled or another gateway continues it. If the
    /// store fails, it is tried again.
    async fn run(
        self,
        mut job: Job,
        mut matches: Option<Matches>,
        progress: watch::Sender<RedeliveryReport>,
        _running: OwnedMutexGuard<()>,
    ) {
        let mut is_interrupted = false;
        let mut failures = Failures::default();
        loop {
            match self.redeliver(&mut job, matches.take(), &progress).await {
                Ok(true) => {
                    let RedeliveryReport {
                        matched, accepted, ..
                    } = job.report;
                    tracing::info!(matched, accepted, "bulk redelivery stored");
                    return;
                }
                Ok(false) => {
                    let accepted = job.report.accepted;
                    let last = self.store.redelivery().await.ok().flatten();
                    let is_running = last.is_some_and(|last| last.is_running);
                    if is_running {
                        tracing::info!("another gateway continues the bulk redelivery");
                    } else {
                        tracing::info!(accepted, "bulk redelivery cancelled");
                    }
                    progress.send_replace(RedeliveryReport {
                        is_running,
                        ..job.report
                    });
                    return;
                }
                Err(error) if !is_interrupted => {
                    is_interrupted = true;
                    tracing::warn!(%error, "bulk redelivery interrupted; it continues with the store");
                }
                Err(error) if self.store.check_open().is_ok() => {
                    // The store works, and refuses what this redelivery asks of it.
                    if failures.add(job.done) && self.save(&job, false).await.is_ok() {
                        let accepted = job.report.accepted;
                        tracing::error!(
                            %error,
                            accepted,
                            after = %job.done,
                            "bulk redelivery given up: the store refuses a delivery; the others \
                            can be redelivered by a filter that leaves it out"
                        );
                        return;
                    }
                }
                Err(_) => {}
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    /// Redelivers what is left, and saves the progress. Returns `false` if it was cancelled, or if
    /// another gateway continues it.
    async fn redeliver(
        &self,
        job: &mut Job,
        matches: Option<Matches>,
        progress: &watch::Sender<RedeliveryReport>,
    ) -> Result<bool, StoreError> {
        let matches = match matches {
            Some(matches) => matches,
            None => {
                if !self.save(job, true).await? {
                    return Ok(false);
                }
                let mut left = Matches::find(&self.store, &job.query, job.done).await?;
                left.redeliverable.retain(|(id, _)| *id <= job.newest);
                job.count_unsaved(left.redeliverable.len());
                // The search may have taken longer than the lease.
                if !self.save(job, true).await? {
                    return Ok(false);
                }
                left
            }
        };
        for batch in matches.redeliverable.chunks(BATCH) {
            let redeliveries = job.redeliveries(batch);
            let Some(last) = redeliveries.last() else {
                break;
            };
            let results = self.queue.redeliver(&redeliveries).await?;
            for (redelivery, result) in redeliveries.iter().zip(results) {
                match result {
                    // Another of this batch may hold the claim: events with the same body share it.
                    RedeliveryResult::InFlight => {
                        for result in self.queue.redeliver(&[*redelivery]).await? {
                            job.report.count(&result);
                        }
                    }
                    result => job.report.count(&result),
                }
            }
            job.done = last.id;
            job.position += u32::try_from(redeliveries.len()).unwrap_or(u32::MAX);
            progress.send_replace(RedeliveryReport {
                is_running: true,
                ..job.report.clone()
            });
            if !self.save(job, true).await? {
                return Ok(false);
            }
        }
        let is_own = self.save(job, false).await?;
        progress.send_replace(job.report.clone());
        Ok(is_own)
    }

    /// Saves the progress. Returns `false` if the redelivery was cancelled, or if another gateway
    /// continues it.
    async fn save(&self, job: &Job, is_running: bool) -> Result<bool, StoreError> {
        let redelivery = StoredRedelivery {
            document: job.document(),
            is_running,
        };
        self.store.save_redelivery(redelivery, LEASE).await
    }
}

impl Failures {
    /// Counts a failure after the last delivery that is done. Returns whether there were too many.
    fn add(&mut self, done: DeliveryId) -> bool {
        if self.after != Some(done) {
            *self = Self {
                count: 0,
                after: Some(done),
            };
        }
        self.count += 1;
        self.count >= FAILURES_MAX
    }
}

impl Job {
    fn parse(document: &str) -> Option<Self> {
        serde_json::from_str(document).ok()
    }

    /// Returns the redelivery as operators see it.
    fn last(self, is_running: bool) -> LastRedelivery {
        LastRedelivery {
            begun_at: self.begun_at,
            route: self.query.filter.route,
            pace: self.query.pace,
            report: RedeliveryReport {
                is_running,
                ..self.report
            },
        }
    }

    fn document(&self) -> String {
        // Its maps have text as keys, so it is always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Counts the deliveries that are done and no longer match, although the progress that was saved
    /// last does not have them: they were redelivered after it. `left` still match.
    fn count_unsaved(&mut self, left: usize) {
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        let unsaved = self
            .selected
            .saturating_sub(self.position)
            .saturating_sub(left);
        self.position += unsaved;
        self.report.accepted += usize::try_from(unsaved).unwrap_or(usize::MAX);
    }

    /// Returns the redeliveries of a batch. The due times are stored, so the pace outlives a restart.
    fn redeliveries(&self, batch: &[(DeliveryId, Option<DeliveryState>)]) -> Vec<Redelivery> {
        (self.position..)
            .zip(batch)
            .map(|(position, (id, state))| Redelivery {
                id: *id,
                expected_state: *state,
                due: self.first_due.after(
                    self.query
                        .pace
                        .map_or(Duration::ZERO, |pace| pace.offset(position)),
                ),
                automatic: false,
            })
            .collect()
    }
}

/// The deliveries that a filter selected.
#[derive(Default)]
struct Matches {
    matched: usize,
    /// Deliveries whose payload is kept, the oldest first, each with the state that it must still
    /// be in.
    redeliverable: Vec<(DeliveryId, Option<DeliveryState>)>,
}

impl Matches {
    /// Finds the matching deliveries that are newer than `after`.
    async fn find(
        store: &Store,
        query: &RedeliveryQuery,
        after: DeliveryId,
    ) -> Result<Self, StoreError> {
        if query.ids.is_empty() {
            Self::find_all(store, &query.filter, after).await
        } else {
            Self::find_chosen(store, query, after).await
        }
    }

    /// Finds those of the chosen deliveries that the filter selects.
    async fn find_chosen(
        store: &Store,
        query: &RedeliveryQuery,
        after: DeliveryId,
    ) -> Result<Self, StoreError> {
        let mut matches = Self::default();
        for id in query.ids.iter().filter(|id| **id > after) {
            let only = DeliveryFilter {
                from: Some(*id),
                before: Some(DeliveryId(id.0.saturating_add(1))),
                limit: 1,
                with_bodies: false,
                ..query.filter.clone()
            };
            for found in store.deliveries(only).await? {
                matches.matched += 1;
                if found.payload_kept {
                    matches.redeliverable.push((*id, query.filter.state));
                }
            }
        }
        Ok(matches)
    }

    async fn find_all(
        store: &Store,
        filter: &DeliveryFilter,
        newer_than: DeliveryId,
    ) -> Result<Self, StoreError> {
        let states = match filter.state {
            Some(state) => vec![state],
            None => vec![DeliveryState::Failed, DeliveryState::Dead],
        };
        let mut matches = Self::default();
        for state in states {
            let filter = DeliveryFilter {
                state: Some(state),
                ..filter.clone()
            };
            let mut after = newer_than;
            loop {
                let page = store
                    .matching_deliveries(filter.clone(), after, PAGE)
                    .await?;
                matches.matched += page.len();
                matches.redeliverable.extend(
                    page.iter()
                        .filter(|(_, payload_kept)| *payload_kept)
                        .map(|(id, _)| (*id, Some(state))),
                );
                match page.last() {
                    Some((last, _)) if page.len() == PAGE => after = *last,
                    _ => break,
                }
            }
        }
        matches.redeliverable.sort_unstable_by_key(|(id, _)| *id);
        Ok(matches)
    }

    /// Checks that all are due within [`LONGEST`].
    fn check_pace(&self, pace: Option<Pace>) -> Result<(), OperationError> {
        let last = u32::try_from(self.redeliverable.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if pace.is_some_and(|pace| pace.offset(last) > LONGEST) {
            Err(OperationError::PaceTooSlow)
        } else {
            Ok(())
        }
    }

    /// Begins a report, which refuses the deliveries without a payload.
    fn report(&self) -> RedeliveryReport {
        let mut report = RedeliveryReport {
            matched: self.matched,
            ..RedeliveryReport::default()
        };
        report.refuse(
            &OperationError::PayloadNotKept,
            self.matched - self.redeliverable.len(),
        );
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redelivery_that_is_refused_gives_up() {
        let mut failures = Failures::default();
        // Each batch that is done begins a new count.
        for done in [0, 64] {
            let ends = (0..FAILURES_MAX).map(|_| failures.add(DeliveryId(done)));
            let ends: Vec<_> = ends.collect();
            let (last, before) = ends.split_last().unwrap();
            assert!(*last && !before.contains(&true), "{ends:?}");
        }
        failures.add(DeliveryId(128));
        assert!(!failures.add(DeliveryId(192)));
    }

    #[test]
    fn report_counts_refusals_by_reason() {
        let matches = Matches {
            matched: 3,
            redeliverable: vec![(DeliveryId(1), Some(DeliveryState::Dead))],
        };
        let mut report = matches.report();
        for result in [
            RedeliveryResult::NoPayload,
            RedeliveryResult::InFlight,
            RedeliveryResult::Queued("a".into()),
        ] {
            report.count(&result);
        }
        let refused = [("in_flight", 1), ("payload_not_kept", 3)];
        assert_eq!(
            report,
            RedeliveryReport {
                matched: 3,
                accepted: 1,
                refused: refused.map(|(code, count)| (code.into(), count)).into(),
                ..RedeliveryReport::default()
            }
        );
        assert_eq!(Matches::default().report(), RedeliveryReport::default());
    }
}
