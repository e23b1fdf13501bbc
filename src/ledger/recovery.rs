//! Operators' actions on events that the ledger knows: storing them for another attempt, and
//! forgetting them.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::claimed_names::ClaimedName;
use super::copies::{BodyCopies, Minute};
use super::{ClaimOptions, EventKeys, InFlightPolicy, LEASE_MARGIN, Ledger};
use crate::store::{
    ClaimPurpose, DeliveryId, DeliveryState, DueAt, EventKey, EventRow, KnownEvent, LedgerEntry,
    Requeue, StoreError,
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
        let ids = requested.iter().map(|redelivery| redelivery.id).collect();
        let stored = self.store.event_keys(ids).await?;
        // At once, so that the claims share a round trip to a shared store.
        let claims = stored.into_iter().map(|stored| async {
            let Some(stored) = stored else {
                return Ok(None);
            };
            let window = window_of(&stored.route);
            let key = EventKeys::from_stored(&stored.keys).name;
            let claim = self.claim_for_redelivery(key, window).await?;
            Ok::<_, StoreError>(Some((stored.identity, window, claim)))
        });
        let claims = try_join_all(claims).await?;
        for (redelivery, claim) in requested.iter().zip(claims) {
            let &Redelivery {
                id,
                expected_state,
                due,
                automatic,
            } = redelivery;
            let Some((identity, window, claim)) = claim else {
                results.push(Some(RedeliveryResult::Unknown));
                continue;
            };
            let Some((completing, name)) = claim else {
                results.push(Some(RedeliveryResult::InFlight));
                continue;
            };
            results.push(None);
            requeues.push(Requeue {
                id,
                expected_state,
                expected_identity: Some(identity),
                due,
                automatic,
                completing: completing.into_iter().collect(),
                window,
            });
            claimed.extend(name);
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

    /// Claims the key of a stored event. Returns its row unless the ledger has it as completed, and
    /// the claim. Returns `None` if a copy is being delivered.
    async fn claim_for_redelivery(
        &self,
        key: Option<EventKey>,
        window: Duration,
    ) -> Result<Option<(Option<EventRow>, Option<ClaimedName>)>, StoreError> {
        let Some(key) = key else {
            return Ok(Some((None, None)));
        };
        let Some((name, known)) = self.claim_for_operator(key, window).await? else {
            return Ok(None);
        };
        let is_completed = matches!(
            known,
            Some(KnownEvent {
                entry: LedgerEntry::Completed { .. },
                ..
            })
        );
        let row = Some(name.row()).filter(|_| !is_completed);
        Ok(Some((row, Some(name))))
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
            purpose: ClaimPurpose::Change,
        };
        let Some((lease, known)) = self.claim_in_store(key, options).await? else {
            return Ok(None);
        };
        name.set_lease(lease);
        Ok(Some((name, known)))
    }

    /// Returns the keys of a delivery's event, as far as the store keeps them. Returns `None` if
    /// there is no such delivery.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn keys_of(&self, id: DeliveryId) -> Result<Option<EventKeys>, StoreError> {
        let found = self.store.event_keys(vec![id]).await?.pop().flatten();
        Ok(found.map(|stored| EventKeys::from_stored(&stored.keys)))
    }

    /// Forgets an event while no copy of it is being delivered. Its body is forgotten too, unless
    /// other events with the body were delivered. A stored delivery of the event stays stored.
    ///
    /// # Errors
    /// When the event may not be forgotten.
    pub async fn forget(&self, keys: EventKeys) -> Result<ForgetResult, StoreError> {
        let (mut names, mut rows) = (Vec::new(), Vec::new());
        // Rows are queried after their claim is held.
        if let Some(key) = keys.copies {
            let Some((name, known)) = self.claim_for_operator(key, Duration::ZERO).await? else {
                return Ok(ForgetResult::InFlight);
            };
            names.push(name);
            let now = Minute::new(self.store.now_due());
            if BodyCopies::read(known, Duration::MAX, now).delivered() <= 1 {
                rows = self.store.find_rows(key).await?;
            }
        }
        if let Some(key) = keys.name {
            let Some((name, _)) = self.claim_for_operator(key, Duration::ZERO).await? else {
                return Ok(ForgetResult::InFlight);
            };
            names.push(name);
            rows.extend(self.store.find_rows(key).await?);
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
