//! What is remembered of a route's senders beside the metrics: whom it turned away, and when one was heard last.
//!
//! In memory, bounded, and kept over reloads for the routes that stay. Requests write to their route's part alone.

mod rejections;
mod silence;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus::IntGauge;

pub use rejections::{Kind, Rejected, Rejection, Rejections};
pub use silence::Silence;

/// All routes that are served, and the requests that match none.
pub struct Watch {
    routes: Mutex<Vec<Arc<Watched>>>,
    unmatched: Arc<Watched>,
}

/// A route that is to be watched.
pub struct Sight<'r> {
    pub route: &'r Arc<str>,
    /// How often something is to be heard.
    pub expect_every: Option<Duration>,
    /// Says whether it was.
    pub silent: &'r IntGauge,
}

/// One route's part.
pub struct Watched {
    /// `None` for requests that match none.
    pub route: Option<Arc<str>>,
    pub rejections: Rejections,
    /// `None` for requests that match none.
    pub silence: Option<Silence>,
}

impl Watch {
    /// `now` is the start.
    pub fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            routes: Mutex::default(),
            unmatched: Arc::new(Watched { route: None, rejections: Rejections::new(now), silence: None }),
        })
    }

    /// The parts of these routes, which are served from now on. Those of others are forgotten.
    pub fn serve<'r>(&self, sights: impl IntoIterator<Item = Sight<'r>>, now: Instant) -> Vec<Arc<Watched>> {
        let mut routes = self.routes();
        let known: HashMap<_, _> = routes.iter().map(|watched| (watched.route.clone(), watched)).collect();
        let part = |sight: Sight<'r>| {
            let kept = known.get(&Some(Arc::clone(sight.route))).copied();
            let part = kept.map_or_else(|| Arc::new(Watched::new(&sight, now)), Arc::clone);
            if let Some(silence) = &part.silence {
                silence.expect(sight.expect_every);
            }
            part
        };
        let parts: Vec<_> = sights.into_iter().map(part).collect();
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

    /// Sets the gauges of the routes that have fallen silent, and tells of those that have or are heard again. To be
    /// called now and then, and before the gauges are read.
    pub fn look_for_silence(&self, now: Instant) {
        for watched in self.routes().iter() {
            let (Some(route), Some(silence)) = (&watched.route, &watched.silence) else { continue };
            if let Some(change) = silence.look(now) {
                change.tell(route, silence.expected_every());
            }
        }
    }

    fn routes(&self) -> MutexGuard<'_, Vec<Arc<Watched>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn new(sight: &Sight<'_>, now: Instant) -> Self {
        let silence = Some(Silence::new(now, sight.silent.clone()));
        Self { route: Some(Arc::clone(sight.route)), rejections: Rejections::new(now), silence }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_that_stays_keeps_its_part_and_one_that_goes_loses_it() {
        let (now, [a, b]) = (Instant::now(), ["a", "b"].map(Arc::from));
        let watch = Watch::new(now);
        let gauge = IntGauge::new("silent", "silent").unwrap();
        let serve = |names: &[&Arc<str>]| {
            let sight = |name: &&'_ Arc<str>| (Arc::clone(name), Some(Duration::from_secs(names.len() as u64)));
            let sights: Vec<_> = names.iter().map(sight).collect();
            let sights = sights.iter().map(|(route, every)| Sight { route, expect_every: *every, silent: &gauge });
            watch.serve(sights, now)
        };
        let before = serve(&[&a, &b]);
        let after = serve(&[&b]);
        assert!(Arc::ptr_eq(&before[1], &after[0]) && watch.route("a").is_none());
        let expected = after[0].silence.as_ref().and_then(Silence::expected_every);
        assert_eq!(expected, Some(Duration::from_secs(1)), "as the new configuration has it");
        let again = serve(&[&a, &b]);
        assert!(!Arc::ptr_eq(&before[0], &again[0]) && Arc::ptr_eq(&before[1], &again[1]));
        let names: Vec<_> = watch.all().iter().map(|watched| watched.route.clone()).collect();
        assert_eq!(names, [Some(a), Some(b), None]);
    }
}
