//! The redelivery of dead letters without an operator, once their route delivers events again.
//!
//! Owns when a route counts as healthy. The store knows which dead letters may be redelivered: each
//! is so once, so that none is tried for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::{Phase, Queue};
use crate::ledger::{Redelivery, RedeliveryResult};
use crate::store::{DeliveryState, StoreError};

/// The pause between two checks of all routes.
const INTERVAL: Duration = Duration::from_secs(5);

/// The number of redeliveries that are written at once, with one flush. Copies of their events wait
/// for that long.
const BATCH: usize = 64;

impl Queue {
    /// Redelivers the dead letters of healthy routes, until the queue stops.
    pub(crate) async fn redeliver_dead_letters(self: Arc<Self>) {
        let mut phase = self.phase.subscribe();
        let mut checks = interval(INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = checks.tick() => {}
                _ = phase.wait_for(|phase| *phase == Phase::Stopping) => return,
            }
            for route in self.delivering_routes() {
                // An error is logged by the store; the next check tries again.
                let Ok(count @ 1..) = self.redeliver_if_healthy(&route).await else {
                    continue;
                };
                tracing::info!(
                    route = &*route,
                    count,
                    "dead letters are redelivered: their route delivers events again"
                );
            }
        }
    }

    /// Returns the routes that are configured and not paused.
    fn delivering_routes(&self) -> Vec<Arc<str>> {
        let routes = self.routes();
        let mut names = Vec::new();
        for (name, queue) in &routes.by_route {
            let current = queue.route.borrow();
            if current.route.is_some() && !current.paused {
                names.push(Arc::clone(name));
            }
        }
        names
    }

    /// Redelivers a route's dead letters if its last delivery that ended was successful. Returns
    /// their number.
    async fn redeliver_if_healthy(&self, route: &Arc<str>) -> Result<usize, StoreError> {
        let (_, dead) = self.store().queue_counts(route);
        if dead == 0 {
            return Ok(0);
        }
        let stats = self.store().route_stats(Arc::clone(route), 0).await?;
        if stats.last_success <= stats.last_failure {
            return Ok(0);
        }
        let mut count = 0;
        loop {
            let ids = self
                .store()
                .automatic_redeliveries(Arc::clone(route), BATCH)
                .await?;
            let due = self.store().now_due();
            let redeliveries: Vec<_> = ids
                .into_iter()
                .map(|id| Redelivery {
                    id,
                    expected_state: Some(DeliveryState::Dead),
                    due,
                    automatic: true,
                })
                .collect();
            let queued = self
                .redeliver(&redeliveries)
                .await?
                .iter()
                .filter(|result| matches!(result, RedeliveryResult::Queued(_)))
                .count();
            count += queued;
            // Those whose copies are in flight are left for the next check.
            if queued == 0 || redeliveries.len() < BATCH {
                return Ok(count);
            }
        }
    }
}
