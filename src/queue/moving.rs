//! Moves the stored events of a route that is no longer configured to another route.

use std::sync::Arc;
use std::time::Duration;

use super::Queue;
use crate::store::{DeliveryFilter, DeliveryState, StoreError};

/// The number of events that are moved in one transaction. Other commits wait for that long.
const BATCH: usize = 256;

/// The time for which the end of the attempts at the route's events is awaited.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(5);

/// The events that were moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct MovedEvents {
    /// The number of events that waited. They are due at once.
    pub pending: usize,
    /// The number of dead letters, which stay dead letters.
    pub dead: usize,
    /// The number of events that still wait: another gateway is attempting them, or they arrived
    /// meanwhile. Above 10,000 they are not counted on.
    pub left: usize,
}

/// The reason why events were not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MoveError {
    /// A gateway has the route configured.
    Configured,
    /// An attempt at one of the events has not ended.
    InFlight,
    /// The part that was moved before stays.
    Store(StoreError),
}

impl From<StoreError> for MoveError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Queue {
    /// Moves the waiting events and the dead letters of a route that no gateway has configured to
    /// another route, with their IDs, payloads, attempts and records. The other route's worker
    /// delivers them from then on.
    ///
    /// # Errors
    /// When the route is configured, or the events may not be stored.
    pub(crate) async fn move_events(
        &self,
        from: &Arc<str>,
        to: &Arc<str>,
    ) -> Result<MovedEvents, MoveError> {
        self.check_removed(from).await?;
        let gate = Arc::clone(self.routes().gates.entry(Arc::clone(from)).or_default());
        let Ok(_no_attempt) = tokio::time::timeout(ATTEMPTS_WITHIN, gate.write()).await else {
            return Err(MoveError::InFlight);
        };
        let pending = self.move_all(from, to, DeliveryState::Pending).await?;
        let dead = self.move_all(from, to, DeliveryState::Dead).await?;
        let waiting = DeliveryFilter {
            route: Some(from.to_string()),
            state: Some(DeliveryState::Pending),
            ..DeliveryFilter::default()
        };
        let left = self.store().count_deliveries(waiting).await?;
        if left != Some(0) {
            // Another gateway may have configured the route meanwhile: then its events stay.
            self.check_removed(from).await?;
        }
        Ok(MovedEvents {
            pending,
            dead,
            left: left.unwrap_or(10_000),
        })
    }

    async fn move_all(
        &self,
        from: &Arc<str>,
        to: &Arc<str>,
        state: DeliveryState,
    ) -> Result<usize, MoveError> {
        let mut all = 0;
        loop {
            if self.route(from).is_some() {
                return Err(MoveError::Configured);
            }
            let moved = self
                .store()
                .move_events(Arc::clone(from), Arc::clone(to), state, BATCH)
                .await?;
            all += moved;
            if moved < BATCH {
                return Ok(all);
            }
        }
    }

    async fn check_removed(&self, route: &str) -> Result<(), MoveError> {
        if self.route(route).is_some() || self.store().is_served_elsewhere(route).await? {
            return Err(MoveError::Configured);
        }
        Ok(())
    }
}
