//! Everything that an operator can see and do, independent of the API that requests it.

pub(super) mod deliveries;
pub(super) mod gateway;
pub(super) mod obstacle;
pub(super) mod problems;
pub(super) mod recovery;
pub(super) mod rejections;
pub(super) mod routes;
pub(super) mod status;
pub(super) mod test_event;
pub(super) mod webhooks;

use std::sync::Mutex as StdMutex;

use tokio::sync::Mutex;

use super::error::OperationError;
use super::state::AdminState;
use crate::problems::{Delays, ProblemTracker};
use crate::store::DeliveryFilter;
use crate::webhooks::ActiveRoute;

/// The operations on a running gateway.
pub(super) struct Operations {
    state: AdminState,
    /// Held while a bulk redelivery runs.
    redelivery: Mutex<()>,
    /// The problems that were there a short time ago.
    tracker: StdMutex<ProblemTracker>,
}

impl Operations {
    pub(super) fn new(state: AdminState) -> Self {
        Self {
            state,
            redelivery: Mutex::default(),
            tracker: StdMutex::new(ProblemTracker::new(Delays::default())),
        }
    }

    /// Finds an active route.
    fn find(&self, name: &str) -> Result<ActiveRoute, OperationError> {
        let active = self.state.registry.active_routes();
        active
            .iter()
            .find(|active| *active.route.name == *name)
            .cloned()
            .ok_or(OperationError::NoSuchWebhook)
    }

    /// Checks that a filter which selected no delivery names no unknown route.
    fn check_route_exists(&self, filter: &DeliveryFilter) -> Result<(), OperationError> {
        match &filter.route {
            Some(name) => self.find(name).map(drop),
            None => Ok(()),
        }
    }
}
