//! What is remembered of a route's senders beside the metrics: whom it turned away, when one was heard last, and what the
//! last hour was like.
//!
//! In memory, bounded, and kept over reloads for the routes that stay. Requests write to their route's part alone.

mod idle_sender;
mod rejections;
mod request_history;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::RouteMetrics;

pub use idle_sender::IdleSender;
pub use rejections::{Rejection, RejectionCount, RejectionHistory, RejectionKind};
pub use request_history::{MINUTES, MinuteBucket, RequestCounts, RequestHistory};

/// All routes that are served, and the requests that match none.
pub struct Activity {
    routes: Mutex<RouteActivities>,
    unmatched: Arc<RouteActivity>,
}

#[derive(Default)]
struct RouteActivities {
    in_order: Vec<Arc<RouteActivity>>,
    by_route: HashMap<Arc<str>, Arc<RouteActivity>>,
}

/// A route that is to be watched.
pub struct TrackedRoute<'r> {
    pub route: &'r Arc<str>,
    /// How often something is to be heard.
    pub expect_every: Option<Duration>,
    pub metrics: &'r Arc<RouteMetrics>,
}

/// One route's part, or that of the requests that match none.
pub struct RouteActivity {
    /// `None` for requests that match none.
    pub route: Option<Arc<str>>,
    pub rejections: RejectionHistory,
    /// `None` for requests that match none.
    pub sender: Option<SenderActivity>,
}

/// What is remembered of a route, and not of requests that match none.
pub struct SenderActivity {
    pub idle: IdleSender,
    pub history: RequestHistory,
}

impl Activity {
    /// `now` is the start.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            routes: Mutex::default(),
            unmatched: Arc::new(RouteActivity {
                route: None,
                rejections: RejectionHistory::new(now),
                sender: None,
            }),
        })
    }

    /// The parts of these routes, which are served from now on. Those of others are forgotten.
    pub fn update_routes<'r>(
        &self,
        sights: impl IntoIterator<Item = TrackedRoute<'r>>,
        now: Instant,
    ) -> Vec<Arc<RouteActivity>> {
        let mut routes = self.routes();
        let part = |sight: TrackedRoute<'r>| {
            let part = match routes.by_route.get(sight.route) {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(RouteActivity::new(&sight, now)),
            };
            if let Some(heard) = &part.sender {
                heard.idle.expect(sight.expect_every);
                heard.history.read_from(Arc::clone(sight.metrics));
            }
            part
        };
        let parts: Vec<_> = sights.into_iter().map(part).collect();
        let named = |part: &Arc<RouteActivity>| Some((part.route.clone()?, Arc::clone(part)));
        *routes = RouteActivities {
            by_route: parts.iter().filter_map(named).collect(),
            in_order: parts.clone(),
        };
        parts
    }

    /// The part of requests that match no route.
    pub fn unmatched(&self) -> &RouteActivity {
        &self.unmatched
    }

    /// The part of the route of this name, while it is served.
    pub fn route(&self, name: &str) -> Option<Arc<RouteActivity>> {
        self.routes().by_route.get(name).map(Arc::clone)
    }

    /// All parts, in the order of the routes.
    pub fn all(&self) -> Vec<Arc<RouteActivity>> {
        self.routes()
            .in_order
            .iter()
            .chain([&self.unmatched])
            .map(Arc::clone)
            .collect()
    }

    /// Looks at what the routes' counters have gained, and for those that have fallen silent: sets their gauges, and tells
    /// of those that have or are heard again. To be called some times a minute, and before any of it is read.
    pub fn sample(&self, now: Instant) {
        self.routes()
            .in_order
            .iter()
            .for_each(|watched| watched.sample(now));
    }

    fn routes(&self) -> MutexGuard<'_, RouteActivities> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RouteActivity {
    /// As [`Watch::look`], for one route.
    pub fn sample(&self, now: Instant) {
        let (Some(route), Some(heard)) = (&self.route, &self.sender) else {
            return;
        };
        heard.history.sample(now);
        if let Some(change) = heard.idle.sample(now) {
            change.log(route, heard.idle.expected_every());
        }
    }

    fn new(sight: &TrackedRoute<'_>, now: Instant) -> Self {
        let silence = IdleSender::new(now, sight.metrics.silent.clone());
        let heard = SenderActivity {
            idle: silence,
            history: RequestHistory::new(Arc::clone(sight.metrics), now),
        };
        Self {
            route: Some(Arc::clone(sight.route)),
            rejections: RejectionHistory::new(now),
            sender: Some(heard),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_route_that_stays_keeps_its_part_and_one_that_goes_loses_it() {
        let (now, [a, b]) = (Instant::now(), ["a", "b"].map(Arc::from));
        let watch = Activity::new(now);
        let all = Metrics::new().unwrap();
        let metrics = Arc::new(all.register_route(&a, [].iter()));
        let serve = |names: &[&Arc<str>]| {
            let sight = |name: &&'_ Arc<str>| {
                (
                    Arc::clone(name),
                    Some(Duration::from_secs(names.len() as u64)),
                )
            };
            let sights: Vec<_> = names.iter().map(sight).collect();
            let sights = sights.iter().map(|(route, every)| TrackedRoute {
                route,
                expect_every: *every,
                metrics: &metrics,
            });
            watch.update_routes(sights, now)
        };
        let before = serve(&[&a, &b]);
        let after = serve(&[&b]);
        assert!(Arc::ptr_eq(&before[1], &after[0]) && watch.route("a").is_none());
        let expected = after[0]
            .sender
            .as_ref()
            .and_then(|heard| heard.idle.expected_every());
        assert_eq!(
            expected,
            Some(Duration::from_secs(1)),
            "as the new configuration has it"
        );
        let again = serve(&[&a, &b]);
        assert!(!Arc::ptr_eq(&before[0], &again[0]) && Arc::ptr_eq(&before[1], &again[1]));
        let names: Vec<_> = watch
            .all()
            .iter()
            .map(|watched| watched.route.clone())
            .collect();
        assert_eq!(names, [Some(a), Some(b), None]);
    }
}
