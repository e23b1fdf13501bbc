//! Recovery after an outage: bulk redelivery at a pace, and forgetting an event so that it is
//! accepted again.

use std::time::Duration;

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::query::{Pace, RedeliveryQuery};
use crate::admin::state::AdminState;
use crate::event::EventId;
use crate::ledger::{EventIdentity, ForgetResult, Redelivery, RedeliveryResult};
use crate::queue::Queue;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState, Store, StoreError};

/// The outcome of a bulk redelivery.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct RedeliveryReport {
    pub dry_run: bool,
    pub matched: usize,
    /// The number of deliveries that are due again; in a dry run, of those that could be.
    pub accepted: usize,
    /// The reasons why the others are not due again, each with their number.
    pub refused: Vec<(OperationError, usize)>,
}

/// The time within which the last delivery is due. At a slower pace, dead letters would look like
/// waiting events for days.
const LONGEST: Duration = Duration::from_secs(72 * 3_600);

/// The number of IDs that are read from the store at once.
const PAGE: usize = 1_000;

/// The number of redeliveries that are written at once, with one flush. Copies of their events
/// wait for that long.
const BATCH: usize = 64;

impl RedeliveryReport {
    fn count(&mut self, result: &RedeliveryResult) {
        match result {
            RedeliveryResult::Queued(_) => self.accepted += 1,
            RedeliveryResult::InFlight => self.refuse(OperationError::InFlight, 1),
            RedeliveryResult::Unknown => self.refuse(OperationError::NoSuchDelivery, 1),
            RedeliveryResult::NoPayload => self.refuse(OperationError::PayloadNotKept, 1),
        }
    }

    fn refuse(&mut self, error: OperationError, count: usize) {
        match self.refused.iter_mut().find(|(known, _)| *known == error) {
            Some((_, counted)) => *counted += count,
            None if count > 0 => self.refused.push((error, count)),
            None => {}
        }
    }
}

impl Operations {
    /// Redelivers all matching deliveries, the oldest first.
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

    /// Runs a bulk redelivery or a dry run, which changes nothing and is not audited.
    async fn run_redelivery(
        &self,
        operation: &'static str,
        operator: Operator,
        query: RedeliveryQuery,
    ) -> Result<RedeliveryReport, OperationError> {
        if query.dry_run {
            let matches = Matches::find(&self.state.store, &query).await?;
            matches.check_pace(query.pace)?;
            return self.checked(
                &query.filter,
                RedeliveryReport {
                    dry_run: true,
                    accepted: matches.redeliverable.len(),
                    ..matches.report()
                },
            );
        }
        let report = self.redeliver_matches(&query).await;
        operator.audited(
            operation,
            query.filter.route.as_deref().unwrap_or_default(),
            report,
        )
    }

    async fn redeliver_matches(
        &self,
        query: &RedeliveryQuery,
    ) -> Result<RedeliveryReport, OperationError> {
        let RedeliveryQuery { filter, pace, .. } = query;
        let _running = self
            .redelivery
            .try_lock()
            .map_err(|_| OperationError::RedeliveryRunning)?;
        let AdminState { store, queue, .. } = &self.state;
        // All are found before the first is due, so that one which dies again is not found again.
        let matches = Matches::find(store, query).await?;
        matches.check_pace(*pace)?;
        tracing::info!(
            matched = matches.matched,
            route = filter.route,
            per_second = pace.map(Pace::per_second),
            "bulk redelivery started"
        );
        let report = redeliver_all(queue, store, matches, *pace).await;
        match &report {
            Ok(RedeliveryReport {
                matched, accepted, ..
            }) => tracing::info!(matched, accepted, "bulk redelivery stored"),
            Err(error) => {
                tracing::error!(%error, "bulk redelivery aborted; the part already stored stays");
            }
        }
        self.checked(filter, report?)
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

    /// Removes an event ID from the ledger, so that the event is accepted again. Its stored
    /// deliveries are kept.
    pub(crate) async fn forget(
        &self,
        operator: Operator,
        name: &str,
        id: EventId,
    ) -> Result<(), OperationError> {
        let result = self.forget_in_ledger(name, &id).await;
        let subject = format!("{name}/{}", id.as_str());
        operator.audited("forget", &subject, result)
    }

    async fn forget_in_ledger(&self, name: &str, id: &EventId) -> Result<(), OperationError> {
        let route = self.find(name)?.route;
        let ledger = &self.state.ledger;
        let mut keys: Vec<_> = EventIdentity::from_operator(&route.identity, id)
            .map(|identity| ledger.keys(name, identity))
            .collect();
        // The ID alone does not give the keys of an event that its body identifies as well.
        let filter = DeliveryFilter {
            route: Some(name.into()),
            event_id: Some(id.as_str().into()),
            ..DeliveryFilter::default()
        };
        let store = ledger.store();
        for (delivery, _) in store
            .matching_deliveries(filter, DeliveryId(0), PAGE)
            .await?
        {
            keys.extend(ledger.keys_of(delivery).await?);
        }
        let mut result = Err(OperationError::NoSuchEvent);
        for keys in keys {
            match ledger.forget(keys).await? {
                ForgetResult::Forgotten => result = Ok(()),
                ForgetResult::InFlight => return Err(OperationError::InFlight),
                ForgetResult::Unknown => {}
            }
        }
        result
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
    async fn find(store: &Store, query: &RedeliveryQuery) -> Result<Self, StoreError> {
        if query.ids.is_empty() {
            Self::find_all(store, &query.filter).await
        } else {
            Self::find_chosen(store, query).await
        }
    }

    /// Finds those of the chosen deliveries that the filter selects.
    async fn find_chosen(store: &Store, query: &RedeliveryQuery) -> Result<Self, StoreError> {
        let mut matches = Self::default();
        for id in &query.ids {
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

    async fn find_all(store: &Store, filter: &DeliveryFilter) -> Result<Self, StoreError> {
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
            let mut after = DeliveryId(0);
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
            OperationError::PayloadNotKept,
            self.matched - self.redeliverable.len(),
        );
        report
    }
}

/// Makes all matches due, at a pace that counts from now. The due times are stored, so the pace
/// outlives a restart.
async fn redeliver_all(
    queue: &Queue,
    store: &Store,
    matches: Matches,
    pace: Option<Pace>,
) -> Result<RedeliveryReport, StoreError> {
    let mut report = matches.report();
    let now = store.now_due();
    let redeliveries: Vec<_> = (0..)
        .zip(matches.redeliverable)
        .map(|(index, (id, state))| Redelivery {
            id,
            expected_state: state,
            due: now.after(pace.map_or(Duration::ZERO, |pace| pace.offset(index))),
            automatic: false,
        })
        .collect();
    for batch in redeliveries.chunks(BATCH) {
        let results = queue.redeliver(batch).await?;
        for (redelivery, result) in batch.iter().zip(results) {
            match result {
                // Another of this batch may hold the claim: events with the same body share it.
                RedeliveryResult::InFlight => {
                    for result in queue.redeliver(&[*redelivery]).await? {
                        report.count(&result);
                    }
                }
                result => report.count(&result),
            }
        }
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(
            report,
            RedeliveryReport {
                dry_run: false,
                matched: 3,
                accepted: 1,
                refused: vec![
                    (OperationError::PayloadNotKept, 3),
                    (OperationError::InFlight, 1)
                ],
            }
        );
        assert_eq!(Matches::default().report(), RedeliveryReport::default());
    }
}
