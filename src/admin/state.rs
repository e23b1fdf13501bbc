//! The parts of the running gateway that the admin listener reads and changes.

use std::sync::Arc;

use tokio::sync::watch;

use super::reload::{ConfigurationOnDisk, ReloadHandle};
use crate::activity::Activity;
use crate::gateway::InProcessListener;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::Store;
use crate::webhooks::Registry;

/// The handles that the admin listener works with.
#[derive(Clone)]
pub(crate) struct AdminState {
    pub metrics: Arc<Metrics>,
    pub store: Store,
    pub ledger: Arc<Ledger>,
    pub queue: Arc<Queue>,
    /// The active routes, and the way to change them.
    pub registry: Arc<Registry>,
    /// The way into the gateway for test events.
    pub in_process: InProcessListener,
    pub activity: Arc<Activity>,
    /// `true` from the stop signal on.
    pub draining: watch::Receiver<bool>,
    pub reloads: ReloadHandle,
    pub configuration: Arc<ConfigurationOnDisk>,
}

impl AdminState {
    /// Checks whether requests should be sent here: not while draining, nor while the store can't
    /// record events. Upstreams don't count, since a gateway in front of a broken one still has to
    /// answer.
    ///
    /// # Errors
    /// The reason why not.
    pub(super) fn check_ready(&self) -> Result<(), String> {
        if *self.draining.borrow() {
            return Err("draining".into());
        }
        self.store.check_open().map_err(|error| error.to_string())
    }

    /// Returns the names of the routes that are off line.
    pub(super) fn off_line_routes(&self) -> Vec<Arc<str>> {
        let routes = self.registry.active_routes();
        let off_line = routes
            .iter()
            .filter(|active| active.route.off_line.is_some());
        off_line
            .map(|active| Arc::clone(&active.route.name))
            .collect()
    }
}
