//! The fan-out of new routes to the components that hold them: metrics, queue, activity, gateway.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::activity::{Activity, RouteActivity, TrackedRoute};
use crate::clock::Clock;
use crate::gateway::{Gateway, Limits, RouteSnapshot};
use crate::metrics::{Metrics, RouteCounts, RouteMetrics};
use crate::queue::Queue;
use crate::route::{Route, RouteTable};
use crate::webhooks::RoutePublisher;

/// The components that hold routes.
pub(super) struct RouteUpdater {
    /// The limits of the data plane, which go with the routes.
    pub limits: Arc<ArcSwap<Limits>>,
    pub gateway: Arc<Gateway>,
    pub queue: Arc<Queue>,
    pub metrics: Arc<Metrics>,
    pub activity: Arc<Activity>,
    pub clock: Clock,
}

impl RoutePublisher for RouteUpdater {
    /// Updates the gateway last, so that a request finds its route in every other component.
    fn publish(&self, routes: Vec<Arc<Route>>) {
        let table = RouteTable::new(routes);
        let names: HashSet<Arc<str>> = table
            .routes()
            .iter()
            .map(|route| Arc::clone(&route.name))
            .collect();
        let metrics = self.register_metrics(table.routes());
        let activity = self.update_activity(table.routes(), &metrics);
        self.update_queue(table.routes(), &metrics, &activity);
        let snapshot = RouteSnapshot::new(self.limits.load_full(), table, metrics, activity);
        let previous = self.gateway.update_routes(Arc::new(snapshot));
        for (route, metrics) in previous.iter() {
            if !names.contains(&route.name) {
                self.metrics.forget_route(metrics);
            }
        }
    }
}

impl RouteUpdater {
    fn register_metrics(&self, routes: &[Arc<Route>]) -> Vec<Arc<RouteMetrics>> {
        routes
            .iter()
            .map(|route| {
                let secrets = route.verifier.secret_names();
                let counts = RouteCounts {
                    outcomes: |code| route.can_have(code),
                    is_proxied: route.delivery_mode.forwards_at_once(),
                    is_stored: route.delivery_mode.stores(),
                };
                let metrics = &self.metrics;
                Arc::new(metrics.register_route(&route.name, secrets, &counts))
            })
            .collect()
    }

    fn update_queue(
        &self,
        routes: &[Arc<Route>],
        metrics: &[Arc<RouteMetrics>],
        activity: &[Arc<RouteActivity>],
    ) {
        let routes = routes.iter().zip(metrics).zip(activity);
        self.queue.update_routes(
            routes.map(|((route, metrics), activity)| (route, &metrics.queue, activity)),
        );
    }

    fn update_activity(
        &self,
        routes: &[Arc<Route>],
        metrics: &[Arc<RouteMetrics>],
    ) -> Vec<Arc<RouteActivity>> {
        let tracked = routes
            .iter()
            .zip(metrics)
            .map(|(route, metrics)| TrackedRoute {
                route: &route.name,
                expect_every: route.expect_every,
                capture: route.capture,
                metrics,
            });
        self.activity
            .update_routes(tracked, self.clock.now(), self.clock.wall())
    }
}
