//! Routes that are no longer configured: the events that wait for them, and moving these to another
//! route.

use std::collections::HashSet;

use jiff::Timestamp;

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::state::AdminState;
use crate::problems::RemovedRoute;
use crate::queue::{MoveError, MovedEvents};
use crate::route::DeliveryMode;
use crate::store::{self, DeliveryFilter};

/// Returns a removed route with the time at which its horizon ends, as it is estimated now.
fn estimated(removed: store::RemovedRoute, now: Timestamp) -> RemovedRoute {
    RemovedRoute {
        name: removed.route,
        pending: removed.pending,
        dead: removed.dead,
        oldest_waiting: removed.oldest_waiting,
        horizon_ends: removed
            .horizon_left
            .and_then(|left| now.checked_add(left).ok())
            // An estimate, because the horizon does not advance while no gateway runs.
            .and_then(|end| Timestamp::from_second(end.as_second()).ok()),
    }
}

/// Returns the routes that no gateway has configured and that have stored events: those with the most
/// waiting ones first.
pub(super) async fn removed_routes(
    state: &AdminState,
) -> Result<Vec<RemovedRoute>, OperationError> {
    let removed = state.store.removed_routes().await?;
    if removed.is_empty() {
        return Ok(Vec::new());
    }
    // The store learns of a changed configuration a moment later.
    let active = state.registry.active_routes();
    let configured: HashSet<_> = active.iter().map(|active| &active.route.name).collect();
    let now = Timestamp::now();
    let routes = removed.into_iter();
    Ok(routes
        .filter(|removed| !configured.contains(&removed.route))
        .map(|removed| estimated(removed, now))
        .collect())
}

impl Operations {
    /// Returns the removed routes, as the store says it now.
    pub(crate) async fn removed_routes(&self) -> Result<Vec<RemovedRoute>, OperationError> {
        removed_routes(&self.state).await
    }

    /// Moves the waiting events and dead letters of a removed route to another route.
    pub(crate) async fn move_events(
        &self,
        operator: Operator,
        from: &str,
        to: &str,
    ) -> Result<MovedEvents, OperationError> {
        let result = self.move_to(from, to).await;
        operator.audited("move_events", &format!("{from} to {to}"), result)
    }

    async fn move_to(&self, from: &str, to: &str) -> Result<MovedEvents, OperationError> {
        if from == to {
            return Err(OperationError::SameRoute);
        }
        if self.find(from).is_ok() {
            return Err(OperationError::StillConfigured);
        }
        self.check_known(from).await?;
        let target = self.find(to).map_err(|_| OperationError::UnknownTarget)?;
        if target.route.delivery_mode == DeliveryMode::Proxy {
            return Err(OperationError::NoQueue);
        }
        let moved = self
            .state
            .queue
            .move_events(&from.into(), &target.route.name)
            .await;
        let moved = moved.map_err(|error| match error {
            MoveError::Configured => OperationError::StillConfigured,
            MoveError::InFlight => OperationError::AttemptInFlight,
            MoveError::Store(error) => OperationError::Store(error),
        })?;
        tracing::info!(
            route = from,
            to,
            pending = moved.pending,
            dead = moved.dead,
            left = moved.left,
            "events moved to another route"
        );
        Ok(moved)
    }

    /// Checks that there was a route of this name, as far as records tell.
    async fn check_known(&self, name: &str) -> Result<(), OperationError> {
        let filter = DeliveryFilter {
            route: Some(name.into()),
            ..DeliveryFilter::default()
        };
        match self.state.store.count_deliveries(filter).await? {
            Some(0) => Err(OperationError::NoSuchWebhook),
            _ => Ok(()),
        }
    }
}
