//! Everything that an operator can see and do, independent of the API that requests it.

mod announcements;
pub(super) mod captures;
pub(super) mod deliveries;
mod forget;
pub(super) mod gateway;
mod incidents;
pub(super) mod numbers;
pub(super) mod obstacle;
pub(super) mod problems;
pub(super) mod redelivery;
pub(super) mod rejections;
pub(super) mod removed;
pub(super) mod routes;
pub(super) mod status;
mod stored_facts;
pub(super) mod test_event;
pub(super) mod webhooks;

use std::sync::{Arc, Mutex as StdMutex};

use super::error::OperationError;
use super::state::AdminState;
use crate::notifications;
use crate::problems::ProblemTracker;
use crate::store::DeliveryFilter;
use crate::webhooks::ActiveRoute;
use announcements::Announcer;
use redelivery::BulkRedelivery;
use stored_facts::StoreReader;

/// The operations on a running gateway.
pub(super) struct Operations {
    state: AdminState,
    redelivery: BulkRedelivery,
    /// The problems that were there a short time ago.
    tracker: StdMutex<ProblemTracker>,
    /// `None` if nobody is notified of problems.
    announcer: Option<Announcer>,
    stored: Arc<StoreReader>,
}

impl Operations {
    /// Creates the operations. With `notify`, spawns the task that sends notifications.
    pub(super) fn new(state: AdminState, notify: Option<notifications::Settings>) -> Self {
        let delays = notify.as_ref().map(notifications::Settings::delays);
        Self {
            announcer: notify.map(|settings| Announcer::start(settings, state.store.clone())),
            stored: Arc::new(StoreReader::new(state.clone())),
            redelivery: BulkRedelivery::new(&state),
            state,
            tracker: StdMutex::new(ProblemTracker::new(delays.unwrap_or_default())),
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

    /// Finds an active route. Reads the store again if that is needed to know it.
    async fn find_current(&self, name: &str) -> Result<ActiveRoute, OperationError> {
        if let Ok(active) = self.find(name) {
            return Ok(active);
        }
        self.state.registry.refresh().await?;
        self.find(name)
    }

    /// Checks that a filter which selected no delivery names no unknown route.
    fn check_route_exists(&self, filter: &DeliveryFilter) -> Result<(), OperationError> {
        match &filter.route {
            Some(name) => self.find(name).map(drop),
            None => Ok(()),
        }
    }
}
