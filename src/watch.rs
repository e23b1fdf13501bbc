//! What is remembered of a route's senders beside the metrics: whom it turned away.
//!
//! In memory, bounded, and kept over reloads for the routes that stay. Requests write to their route's part alone.

mod rejections;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use rejections::{Kind, Rejected, Rejection, Rejections};

/// All routes that are served, and the requests that match none.
pub struct Watch {
    routes: Mutex<Vec<Arc<Watched>>>,
    unmatched: Arc<Watched>,
}

/// One route's part.
pub struct Watched {
    /// `None` for requests that match none.
    pub route: Option<Arc<str>>,
    pub rejections: Rejections,
}

impl Watch {
    /// `now` is the start.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self { routes: Mutex::default(), unmatched: Arc::new(Watched::new(None, now)) })
    }

    /// The parts of these routes, which are served from now on. Those of others are forgotten.
    pub fn serve<'r>(&self, names: impl IntoIterator<Item = &'r Arc<str>>, now: Instant) -> Vec<Arc<Watched>> {
        let mut routes = self.routes();
        let part = |name: &Arc<str>| {
            let kept = routes.iter().find(|watched| watched.route.as_ref() == Some(name));
            kept.map_or_else(|| Arc::new(Watched::new(Some(Arc::clone(name)), now)), Arc::clone)
        };
        let parts: Vec<_> = names.into_iter().map(part).collect();
        routes.clone_from(&parts);
        parts
    }

    /// The part of requests that match no route.
    pub fn unmatched(&self) -> &Watched {
        &self.unmatched
    }

    /// The part of the route of this name, while it is served.
    pub fn route(&self, name: &str) -> Option<Arc<Watched>> {
        self.routes().iter().find(|watched| watched.route.as_deref() == Some(name)).map(Arc::clone)
    }

    /// All parts, in the order of the routes.
    pub fn all(&self) -> Vec<Arc<Watched>> {
        self.routes().iter().chain([&self.unmatched]).map(Arc::clone).collect()
    }

    fn routes(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn new(route: Option<Arc<str>>, now: Instant) -> Self {
        Self { route, rejections: Rejections::new(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_stays_keeps_its_part_and_one_that_goes_loses_it() {
        let (now, [a, b]) = (Instant::now(), ["a", "b"].map(Arc::from));
        let watch = Watch::new(now);
        let before = watch.serve([&a, &b], now);
        let after = watch.serve([&b], now);
        assert!(Arc::ptr_eq(&before[1], &after[0]) && watch.route("a").is_none());
        let again = watch.serve([&a, &b], now);
        assert!(!Arc::ptr_eq(&before[0], &again[0]) && Arc::ptr_eq(&before[1], &again[1]));
        let names: Vec<_> = watch.all().iter().map(|watched| watched.route.clone()).collect();
        assert_eq!(names, [Some(a), Some(b), None]);
    }
}
