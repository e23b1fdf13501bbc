//! Routes with their definition and the history of their deliveries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::Operations;
use super::numbers::HourlyDeliveries;
use crate::activity::IdleSender;
use crate::admin::error::OperationError;
use crate::admin::query::WebhookQuery;
use crate::route::DeliveryMode;
use crate::store::{RouteDeliveryStats, StoreError};
use crate::webhooks::{ActiveRoute, Definition, Version};

/// The definition of an active route.
#[derive(Clone)]
pub(crate) struct ServedRoute {
    pub name: Arc<str>,
    pub host: Option<Box<str>>,
    pub path: Box<str>,
    pub provider: Option<&'static str>,
    /// The upstream's URL.
    pub url: String,
    /// Patterns of event types; an empty list accepts all.
    pub events: Vec<Box<str>>,
    pub delivery_mode: DeliveryMode,
    pub active: bool,
    /// `false` if requests that do not verify are forwarded.
    pub enforced: bool,
    /// The reason why the route is off line.
    pub off_line: Option<Box<str>>,
    /// The definition of a route that was made over the API; `None` for one in the file.
    pub definition: Option<Arc<Definition>>,
    /// The last change of the definition, or the time at which the file was loaded.
    pub updated_at: Timestamp,
    /// The version of the definition.
    pub version: Option<Version>,
}

/// A page of routes, sorted by name.
pub(crate) struct RoutePage {
    pub routes: Vec<RouteSummary>,
    /// The number of routes on all pages.
    pub total: usize,
    /// Set if there is a next page.
    pub has_more: bool,
}

/// A route with the statistics of its deliveries.
pub(crate) struct RouteSummary {
    pub route: ServedRoute,
    pub stats: RouteDeliveryStats,
    /// The arrival of the oldest event that waits in the queue.
    pub oldest_waiting: Option<Timestamp>,
    /// Set while an operator has paused the queue.
    pub paused: bool,
    /// The longest time between two verified requests that the route expects.
    pub expect_every: Option<Duration>,
    /// Set when the sender has been idle for longer than that.
    pub silent: bool,
    pub last_hour: HourlyDeliveries,
}

/// The days that the statistics of the last days cover, today included.
const RECENT_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;

impl From<&ActiveRoute> for ServedRoute {
    fn from(active: &ActiveRoute) -> Self {
        let ActiveRoute {
            route,
            made_from,
            updated_at,
            version,
        } = active;
        Self {
            name: Arc::clone(&route.name),
            host: route.host.clone(),
            path: route.path.clone(),
            provider: route.provider,
            url: route.upstream.url(),
            events: route.events.patterns().map(Into::into).collect(),
            delivery_mode: route.delivery_mode,
            active: route.active,
            enforced: route.unenforced.is_none(),
            off_line: route.off_line.clone(),
            definition: made_from.clone(),
            updated_at: *updated_at,
            version: *version,
        }
    }
}

impl RouteSummary {
    /// Summarizes a route that was just created, so that nothing was delivered.
    pub(super) fn of_new(active: &ActiveRoute) -> Self {
        Self {
            route: active.into(),
            stats: RouteDeliveryStats::default(),
            oldest_waiting: None,
            paused: false,
            expect_every: active.route.expect_every,
            silent: false,
            last_hour: HourlyDeliveries::default(),
        }
    }
}

impl Operations {
    pub(crate) async fn routes(&self) -> Result<Vec<RouteSummary>, OperationError> {
        self.state.registry.refresh().await?;
        let mut summaries = Vec::new();
        for active in self.state.registry.active_routes().iter() {
            summaries.push(self.summarize(active.into()).await?);
        }
        Ok(summaries)
    }

    /// Returns a page of routes. A page begins behind a name, so a route that is there throughout is
    /// on one page, whatever is created and removed meanwhile.
    pub(crate) async fn route_page(
        &self,
        query: &WebhookQuery,
    ) -> Result<RoutePage, OperationError> {
        self.state.registry.refresh().await?;
        let active = self.state.registry.active_routes();
        let mut behind: Vec<_> = active
            .iter()
            .filter(|active| {
                let after = query.after.as_deref();
                after.is_none_or(|after| *active.route.name > *after)
            })
            .collect();
        behind.sort_unstable_by(|one, other| one.route.name.cmp(&other.route.name));
        let mut routes = Vec::new();
        for active in behind.iter().take(query.limit) {
            routes.push(self.summarize((*active).into()).await?);
        }
        Ok(RoutePage {
            total: active.len(),
            has_more: behind.len() > routes.len(),
            routes,
        })
    }

    pub(crate) async fn route(&self, name: &str) -> Result<RouteSummary, OperationError> {
        self.state.registry.refresh().await?;
        self.summarize((&self.find(name)?).into()).await
    }

    /// Returns an active route without its statistics.
    pub(crate) fn served_route(&self, name: &str) -> Option<ServedRoute> {
        self.find(name).ok().map(|active| (&active).into())
    }

    /// Returns the names of all active routes, in their order.
    pub(crate) fn route_names(&self) -> Vec<String> {
        let active = self.state.registry.active_routes();
        let names = active.iter().map(|active| active.route.name.to_string());
        names.collect()
    }

    /// Reads a route's statistics from the store.
    pub(super) async fn summarize(
        &self,
        route: ServedRoute,
    ) -> Result<RouteSummary, OperationError> {
        let today = Timestamp::now().as_second().div_euclid(DAY_SECONDS);
        let store = &self.state.store;
        let stats = store
            .route_stats(Arc::clone(&route.name), today - RECENT_DAYS + 1)
            .await?;
        let oldest_waiting = if stats.pending > 0 {
            let (store, name) = (store.clone(), Arc::clone(&route.name));
            let oldest = tokio::task::spawn_blocking(move || store.oldest_waiting(&name));
            oldest.await.map_err(|_| StoreError::Unavailable)?
        } else {
            None
        };
        let paused = self.state.queue.is_paused(&route.name);
        let activity = self.state.activity.route(&route.name);
        let idle = activity
            .as_ref()
            .and_then(|activity| Some(&activity.sender.as_ref()?.idle));
        let late = self.count_late(&route.name, oldest_waiting).await;
        let last_hour = activity.as_ref().and_then(|activity| {
            let now = Instant::now();
            activity.sample(now);
            let hour = activity.sender.as_ref()?.history.last_hour(now);
            Some(HourlyDeliveries::new(route.delivery_mode, &hour, late))
        });
        Ok(RouteSummary {
            last_hour: last_hour.unwrap_or_default(),
            route,
            stats,
            oldest_waiting,
            paused,
            expect_every: idle.and_then(IdleSender::expected_every),
            silent: idle.is_some_and(|idle| idle.is_idle(Instant::now())),
        })
    }
}
