//! The gateway as a whole: its health, an overview of all routes, and reloads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::Operations;
use super::routes::RouteSummary;
use crate::activity::RejectionCount;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::reload::Reloaded;
use crate::problems::{Problem, RemovedRoute};
use crate::store::StoreError;

/// The time for which an overview waits for the statistics of all routes.
const ROUTES_TIMEOUT: Duration = Duration::from_secs(5);

/// The health of the gateway.
pub(crate) struct Health {
    /// The reason why no requests should be sent here, if there is one.
    pub not_ready: Option<String>,
    /// Set while the store is full and takes no new event.
    pub store_full: bool,
    pub event_ids: usize,
    pub store_bytes: u64,
}

/// The health of the gateway and the state of its routes.
pub(crate) struct Overview {
    pub health: Health,
    /// Empty while the store can't be read.
    pub routes: Vec<RouteSummary>,
    /// Rejections in the last hour by route; under `None` the requests that matched no route.
    pub rejected: Vec<(Option<Arc<str>>, Vec<RejectionCount>)>,
    /// The routes that are no longer configured and have stored events, as the store said it last.
    pub removed: Vec<RemovedRoute>,
    pub problems: Vec<Problem>,
}

impl Operations {
    pub(crate) fn health(&self) -> Health {
        Health {
            not_ready: self.state.check_ready().err(),
            store_full: self.state.store.check_room(None) == Err(StoreError::Full),
            event_ids: self.state.store.remembered_ids(),
            store_bytes: self.state.store.size_bytes(),
        }
    }

    /// Returns an overview even while the store can't be read, when it is needed most.
    pub(crate) async fn overview(&self) -> Overview {
        let (routes, unreadable) = match timeout(ROUTES_TIMEOUT, self.routes()).await {
            Ok(Ok(routes)) => (routes, None),
            Ok(Err(error)) => (Vec::new(), Some(error.to_string())),
            Err(_) => (Vec::new(), Some("the store does not respond".to_owned())),
        };
        let mut health = self.health();
        health.not_ready = health.not_ready.or(unreadable);
        let now = Instant::now();
        let rejected = self
            .state
            .activity
            .all()
            .iter()
            .map(|activity| (activity.route.clone(), activity.rejections.last_hour(now)))
            .collect();
        let report = self.problem_report().await;
        Overview {
            health,
            routes,
            rejected,
            removed: report.removed,
            problems: report.problems,
        }
    }

    /// Reloads the configuration, as SIGHUP does.
    pub(crate) async fn reload(&self, operator: Operator) -> Result<Reloaded, OperationError> {
        let result = self.state.reloads.reload().await;
        operator.audited("reload", "", result.map_err(OperationError::from))
    }
}
