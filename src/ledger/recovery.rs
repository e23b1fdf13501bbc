//! Operators' actions on events that the ledger knows: storing them for another attempt, and
//! forgetting them.

use std::time::{Duration, Instant};

use super::claimed_names::ClaimedName;
use super::{ClaimOptions, EventKeys, InFlightPolicy, LEASE_MARGIN, Ledger};
use crate::store::{
    DeliveryId, DeliveryState, DueAt, EventKey, EventRow, KnownEvent, LedgerEntry, Requeue,
    StoreError,
};

pub use crate::store::RequeueResult as RedeliveryResult;

/// A request to deliver again.
#[derive(Debug, Clone, Copy)]
pub struct Redelivery {
    pub id: DeliveryId,
    /// The state that the delivery must still be in. `None` accepts any.
    pub expected_state: Option<DeliveryState>,
    pub due: DueAt,
    /// The gateway does this itself, which it does once for an event.
    pub automatic: bool,
}

/// The result of a request to forget an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForgetResult {
    /// The event is forgotten: the next copy is delivered.
    Forgotten,
    /// A copy of the event is being delivered now.
    InFlight,
    /// The ledger does not know the event.
    Unknown,
}

impl Ledger {
    /// Stores deliveries for another attempt, each while no copy of its event is being delivered.
    /// An event that the ledger does not have as completed becomes completed, for the window of its
    /// route.
    ///
    /// All are written together. Of two deliveries that share a name, the later one is in flight.
    ///
    /// # Errors
    /// When they may not be stored.
    pub async fn redeliver(
        &self,
        requested: &[Redelivery],
        window_of: impl Fn(&str) -> Duration,
    ) -> Result<Vec<RedeliveryResult>, StoreError> {
        // `None` for those that are passed to the store, which returns their results in this order.
        let mut results = Vec::with_capacity(requested.len());
        let (mut requeues, mut claimed) = (Vec::new(), Vec::new());
        for &Redelivery {
            id,
            expected_state,
            due,
            automatic,
        } in requested
        {
            let Some((route, keys)) = self.store.event_keys(id).await? else {
                results.push(Some(RedeliveryResult::Unknown));
                continue;
            };
            let window = window_of(&route);
            let Some((completing, names)) = self.claim_for_redelivery(keys, window).await? else {
                results.push(Some(RedeliveryResult::InFlight));
                continue;
            };
            results.push(None);
            requeues.push(Requeue {
                id,
                expected_state,
                due,
                automatic,
                completing,
                window,
            });
            claimed.extend(names);
        }
        let store = self.store.clone();
        // In a task of its own: like any claim, it is settled even if the caller is gone.
        let storing = tokio::spawn(async move {
            let stored = store.requeue(requeues).await;
            drop(claimed);
            stored
        });
        let mut stored = storing
            .await
            .unwrap_or(Err(StoreError::Unavailable))?
            .into_iter();
        Ok(results
            .into_iter()
            .filter_map(|known| known.or_else(|| stored.next()))
            .collect())
    }

    /// Claims all keys of a stored event. Returns the rows that the ledger does not have as
    /// completed, and the claims. Returns `None` if a copy is being delivered.
    async fn claim_for_redelivery(
        &self,
        keys: Vec<EventKey>,
        window: Duration,
    ) -> Result<Option<(Vec<EventRow>, Vec<ClaimedName>)>, StoreError> {
        let (mut completing, mut names) = (Vec::new(), Vec::new());
        for key in keys {
            let Some((name, known)) = self.claim_for_operator(key, window).await? else {
                return Ok(None);
            };
            if !matches!(
                known,
                Some(KnownEvent {
                    entry: LedgerEntry::Completed { .. },
                    ..
                })
            ) {
                completing.push(name.row());
            }
            names.push(name);
        }
        Ok(Some((completing, names)))
    }

    /// Claims a key, on this gateway and in the store. Returns `None` if a copy is being delivered.
    async fn claim_for_operator(
        &self,
        key: EventKey,
        window: Duration,
    ) -> Result<Option<(ClaimedName, Option<KnownEvent>)>, StoreError> {
        let now = Instant::now();
        let Some(local) = self.claims.claim(key, InFlightPolicy::Reject, now).await else {
            return Ok(None);
        };
        let mut name = ClaimedName::new(key, local);
        let options = ClaimOptions {
            window,
            in_flight: InFlightPolicy::Reject,
            deadline: now + LEASE_MARGIN,
            forwards: false,
        };
        let Some((lease, known)) = self.claim_in_store(key, options).await? else {
            return Ok(None);
        };
        name.set_lease(lease);
        Ok(Some((name, known)))
    }

    /// Forgets an event while no copy of it is being delivered, under the given keys and the other
    /// one that it may have. A delivery of it that is stored stays stored.
    ///
    /// # Errors
    /// When the event may not be forgotten.
    pub async fn forget(&self, keys: EventKeys) -> Result<ForgetResult, StoreError> {
        let (mut names, mut claimed) = (Vec::new(), Vec::new());
        let mut unclaimed: Vec<_> = keys.iter().collect();
        let mut rows = Vec::new();
        // Rows are queried after each claim is held. They may name another key, which has to be
        // claimed as well.
        while let Some(key) = unclaimed.pop() {
            let Some((name, _)) = self.claim_for_operator(key, Duration::ZERO).await? else {
                return Ok(ForgetResult::InFlight);
            };
            names.push(name);
            claimed.push(key);
            rows.extend(self.store.find_rows(key).await?);
            unclaimed.extend(
                rows.iter()
                    .map(|(other, _)| *other)
                    .filter(|other| !claimed.contains(other)),
            );
            unclaimed.sort_unstable();
            unclaimed.dedup();
        }
        if rows.is_empty() {
            return Ok(ForgetResult::Unknown);
        }
        rows.sort_unstable();
        rows.dedup();
        let store = self.store.clone();
        // In a task of its own, as above.
        let forgetting = tokio::spawn(async move {
            let forgotten = store.forget_event(rows).await;
            drop(names);
            forgotten
        });
        forgetting.await.unwrap_or(Err(StoreError::Unavailable))?;
        Ok(ForgetResult::Forgotten)
    }
}
