//! What an operator may have done about events that the ledger knows: stored for another try, or forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::claims::LocalClaim;
use super::{ClaimOptions, InFlightPolicy, LEASE_MARGIN, Ledger, Names};
use crate::store::{
    ClaimLease, DeliveryId, DeliveryState, DueAt, EventKey, EventRow, KnownEvent, LedgerEntry,
    Requeue, RequeueResult, StoreError,
};

/// The wish to deliver again.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery {
    pub id: DeliveryId,
    /// Only if it still stands so.
    pub from: Option<DeliveryState>,
    pub due: DueAt,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedeliveryResult {
    /// It waits, on this route.
    Waits(Arc<str>),
    /// A copy of the event is being handed over now.
    InFlight,
    /// There is no such delivery, or it stands otherwise than was asked for.
    Unknown,
    /// Its payload was not kept.
    NoPayload,
}

/// What became of the wish to forget an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgetResult {
    /// The next copy passes.
    Forgotten,
    /// A copy of the event is being handed over now.
    InFlight,
    /// It is not remembered.
    Unknown,
}

impl From<RequeueResult> for RedeliveryResult {
    fn from(requeued: RequeueResult) -> Self {
        match requeued {
            RequeueResult::Queued(route) => Self::Waits(route),
            RequeueResult::Unknown => Self::Unknown,
            RequeueResult::NoPayload => Self::NoPayload,
            RequeueResult::InFlight => Self::InFlight,
        }
    }
}

impl Ledger {
    /// Stores deliveries for another try, as an operator asked, each while no copy of its event is being handed over. If
    /// the ledger does not have an event as handed over, it has from then on, for the window of its route.
    ///
    /// All are written together; of two that share a name, the later one is in flight.
    ///
    /// # Errors
    /// When it is not certain that they are stored.
    pub async fn redeliver(
        &self,
        wanted: &[Redelivery],
        window_of: impl Fn(&str) -> Duration,
    ) -> Result<Vec<RedeliveryResult>, StoreError> {
        let mut became = Vec::with_capacity(wanted.len());
        let (mut to_store, mut holds) = (Vec::new(), Vec::new());
        for &Redelivery { id, from, due } in wanted {
            let Some((route, keys)) = self.store.event_keys(id).await? else {
                became.push(Some(RedeliveryResult::Unknown));
                continue;
            };
            let window = window_of(&route);
            let Some((completing, held)) = self.completing(keys, window).await? else {
                became.push(Some(RedeliveryResult::InFlight));
                continue;
            };
            became.push(None);
            to_store.push(Requeue {
                id,
                expected_state: from,
                due,
                completing,
                window,
            });
            holds.extend(held);
        }
        let store = self.store.clone();
        // Settled whatever becomes of whoever asked, like any claim.
        let requeued = tokio::spawn(async move {
            let requeued = store.requeue(to_store).await;
            drop(holds);
            requeued
        });
        let mut requeued = requeued
            .await
            .unwrap_or(Err(StoreError::Unavailable))?
            .into_iter();
        let written =
            |known: Option<RedeliveryResult>| known.or_else(|| requeued.next().map(Into::into));
        Ok(became.into_iter().filter_map(written).collect())
    }

    /// Claims the names of a stored event: those that the ledger does not have as handed over, and the claims on all;
    /// `None` when a copy is being handed over.
    async fn completing(
        &self,
        keys: Vec<EventKey>,
        window: Duration,
    ) -> Result<Option<(Vec<EventRow>, Vec<(ClaimLease, LocalClaim)>)>, StoreError> {
        let (mut completing, mut holds) = (Vec::new(), Vec::new());
        for key in keys {
            let Some((ours, hold, found)) = self.claim_for_operator(key, window).await? else {
                return Ok(None);
            };
            if !matches!(
                found,
                Some(KnownEvent {
                    entry: LedgerEntry::Completed { .. },
                    ..
                })
            ) {
                completing.push(EventRow {
                    key,
                    earlier: ours.row(),
                });
            }
            // The store's goes first, so that the next copy here finds it free.
            holds.push((ours, hold));
        }
        Ok(Some((completing, holds)))
    }

    /// Claims a name, here and among gateways; `None` when a copy is being handed over.
    async fn claim_for_operator(
        &self,
        key: EventKey,
        window: Duration,
    ) -> Result<Option<(ClaimLease, LocalClaim, Option<KnownEvent>)>, StoreError> {
        let now = Instant::now();
        let Some(hold) = self
            .claims
            .try_claim(key, InFlightPolicy::Reject, now)
            .await
        else {
            return Ok(None);
        };
        let how = ClaimOptions {
            window,
            in_flight: InFlightPolicy::Reject,
            deadline: now + LEASE_MARGIN,
            forwards: false,
        };
        let claimed = self.claim_among_gateways(key, how).await?;
        Ok(claimed.map(|(ours, found)| (ours, hold, found)))
    }

    /// Forgets an event, as an operator asked, while no copy of it is being handed over: by the names given, and by the
    /// other one that it has. What is stored of it waits on.
    ///
    /// # Errors
    /// When it is not certain to be forgotten.
    pub async fn forget(&self, names: Names) -> Result<ForgetResult, StoreError> {
        let (mut holds, mut claimed) = (Vec::new(), Vec::new());
        let mut wanted: Vec<_> = names.keys().collect();
        let mut rows = Vec::new();
        // Asked after each claim is ours. What is found may have another name, which has to be ours as well.
        while let Some(key) = wanted.pop() {
            let Some((ours, hold, _)) = self.claim_for_operator(key, Duration::ZERO).await? else {
                return Ok(ForgetResult::InFlight);
            };
            holds.push((ours, hold));
            claimed.push(key);
            rows.extend(self.store.find_rows(key).await?);
            wanted.extend(
                rows.iter()
                    .map(|(other, _)| *other)
                    .filter(|other| !claimed.contains(other)),
            );
            wanted.sort_unstable();
            wanted.dedup();
        }
        if rows.is_empty() {
            return Ok(ForgetResult::Unknown);
        }
        rows.sort_unstable();
        rows.dedup();
        let store = self.store.clone();
        // As above: settled whatever becomes of whoever asked.
        let forgotten = tokio::spawn(async move {
            let forgotten = store.forget_event(rows).await;
            drop(holds);
            forgotten
        });
        forgotten.await.unwrap_or(Err(StoreError::Unavailable))?;
        Ok(ForgetResult::Forgotten)
    }
}
