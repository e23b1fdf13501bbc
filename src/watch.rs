//! What is remembered of a route's senders beside the metrics: whom it turned away, when one was heard last, and what the
//! last hour was like.
//!
//! In memory, bounded, and kept over reloads for the routes that stay. Requests write to their route's part alone.

mod rejections;
mod silence;
mod traffic;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::RouteMetrics;

pub use rejections::{Kind, Rejected, Rejection, Rejections};
pub use silence::Silence;
pub use traffic::{MINUTES, Minute, Requests, Traffic};

/// All routes that are served, and the requests that match none.
pub struct Watch {
    routes: Mutex<Parts>,
    unmatched: Arc<Watched>,
}

#[derive(Default)]
struct Parts {
    in_order: Vec<Arc<Watched>>,
    by_route: HashMap<Arc<str>, Arc<Watched>>,
}

/// A route that is to be watched.
pub struct Sight<'r> {
    pub route: &'r Arc<str>,
    /// How often something is to be heard.
    pub expect_every: Option<Duration>,
    pub metrics: &'r Arc<RouteMetrics>,
}

/// One route's part, or that of the requests that match none.
pub struct Watched {
    /// `None` for requests that match none.
    pub route: Option<Arc<str>>,
    pub rejections: Rejections,
    /// `None` for requests that match none.
    pub heard: Option<Heard>,
}

/// What is remembered of a route, and not of requests that match none.
pub struct Heard {
    pub silence: Silence,
    pub traffic: Traffic,
}

impl Watch {
    /// `now` is the start.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            routes: Mutex::default(),
            unmatched: Arc::new(Watched {
                route: None,
                rejections: Rejections::new(now),
                heard: None,
            }),
        })
    }

    /// The parts of these routes, which are served from now on. Those of others are forgotten.
    pub fn serve<'r>(
        &self,
        sights: impl IntoIterator<Item = Sight<'r>>,
        now: Instant,
    ) -> Vec<Arc<Watched>> {
        let mut routes = self.routes();
        let part = |sight: Sight<'r>| {
            let part = match routes.by_route.get(sight.route) {
                Some(kept) => Arc::clone(kept),
                None => Arc::new(Watched::new(&sight, now)),
            };
            if let Some(heard) = &part.heard {
                heard.silence.expect(sight.expect_every);
                heard.traffic.read_from(Arc::clone(sight.metrics));
            }
            part
        };
        let parts: Vec<_> = sights.into_iter().map(part).collect();
        let named = |part: &Arc<Watched>| Some((part.route.clone()?, Arc::clone(part)));
        *routes = Parts {
            by_route: parts.iter().filter_map(named).collect(),
            in_order: parts.clone(),
        };
        parts
    }

    /// The part of requests that match no route.
    pub fn unmatched(&self) -> &Watched {
        &self.unmatched
    }

    /// The part of the route of this name, while it is served.
    pub fn route(&self, name: &str) -> Option<Arc<Watched>> {
        self.routes().by_route.get(name).map(Arc::clone)
    }

    /// All parts, in the order of the routes.
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.routes()
            .in_order
            .iter()
            .chain([&self.unmatched])
            .map(Arc::clone)
            .collect()
    }

    /// Looks at what the routes' counters have gained, and for those that have fallen silent: sets their gauges, and tells
    /// of those that have or are heard again. To be called some times a minute, and before any of it is read.
    pub fn look(&self, now: Instant) {
        self.routes()
            .in_order
            .iter()
            .for_each(|watched| watched.look(now));
    }

    fn routes(&self) -> MutexGuard<'_, Parts> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    /// As [`Watch::look`], for one route.
    pub fn look(&self, now: Instant) {
        let (Some(route), Some(heard)) = (&self.route, &self.heard) else {
            return;
        };
        heard.traffic.look(now);
        if let Some(change) = heard.silence.look(now) {
            change.tell(route, heard.silence.expected_every());
        }
    }

    fn new(sight: &Sight<'_>, now: Instant) -> Self {
        let silence = Silence::new(now, sight.metrics.silent.clone());
        let heard = Heard {
            silence,
            traffic: Traffic::new(Arc::clone(sight.metrics), now),
        };
        Self {
            route: Some(Arc::clone(sight.route)),
            rejections: Rejections::new(now),
            heard: Some(heard),
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
        let watch = Watch::new(now);
        let all = Metrics::new().unwrap();
        let metrics = Arc::new(all.route(&a, [].iter()));
        let serve = |names: &[&Arc<str>]| {
            let sight = |name: &&'_ Arc<str>| {
                (
                    Arc::clone(name),
                    Some(Duration::from_secs(names.len() as u64)),
                )
            };
            let sights: Vec<_> = names.iter().map(sight).collect();
            let sights = sights.iter().map(|(route, every)| Sight {
                route,
                expect_every: *every,
                metrics: &metrics,
            });
            watch.serve(sights, now)
        };
        let before = serve(&[&a, &b]);
        let after = serve(&[&b]);
        assert!(Arc::ptr_eq(&before[1], &after[0]) && watch.route("a").is_none());
        let expected = after[0]
            .heard
            .as_ref()
            .and_then(|heard| heard.silence.expected_every());
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
