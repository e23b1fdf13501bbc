//! The routes of one configuration, each with its metrics and its activity, and its limits.

use std::sync::Arc;

use super::Limits;
use crate::activity::RouteActivity;
use crate::limits::RouteShare;
use crate::metrics::RouteMetrics;
use crate::route::{Route, RouteTable};

/// The routes that requests are matched against, and the limits that they have, immutable: a reload
/// swaps the whole snapshot.
pub struct RouteSnapshot {
    limits: Arc<Limits>,
    table: RouteTable,
    /// The metrics of each route, in the order of the table.
    metrics: Vec<Arc<RouteMetrics>>,
    /// The activity of each route, in the order of the table.
    activity: Vec<Arc<RouteActivity>>,
    /// The memory that verified requests of each route hold, in the order of the table.
    shares: Vec<RouteShare>,
}

/// The route that a request was matched to, with what is recorded for it.
#[derive(Clone, Copy)]
pub(super) struct MatchedRoute<'s> {
    pub route: &'s Arc<Route>,
    pub metrics: &'s RouteMetrics,
    pub activity: &'s Arc<RouteActivity>,
    pub share: &'s RouteShare,
}

impl RouteSnapshot {
    /// Creates a snapshot. `metrics` and `activity` have one element for each route of `table`, in
    /// its order.
    pub fn new(
        limits: Arc<Limits>,
        table: RouteTable,
        metrics: Vec<Arc<RouteMetrics>>,
        activity: Vec<Arc<RouteActivity>>,
    ) -> Self {
        let shares = metrics.iter().map(|_| RouteShare::default()).collect();
        Self {
            limits,
            table,
            metrics,
            activity,
            shares,
        }
    }

    /// Creates a snapshot without routes.
    pub(super) fn without_routes(limits: Arc<Limits>) -> Self {
        Self::new(limits, RouteTable::default(), Vec::new(), Vec::new())
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns each route with its metrics.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Route>, &Arc<RouteMetrics>)> {
        self.table.routes().iter().zip(&self.metrics)
    }

    /// Returns the route for `host` (lower case, without port) and `path`.
    pub(super) fn find(&self, host: Option<&str>, path: &str) -> Option<MatchedRoute<'_>> {
        let index = self.table.find(host, path)?;
        Some(MatchedRoute {
            route: &self.table.routes()[index],
            metrics: &self.metrics[index],
            activity: &self.activity[index],
            share: &self.shares[index],
        })
    }
}
