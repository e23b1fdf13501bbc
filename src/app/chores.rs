//! Periodic work that no request waits for: log summaries, hints for secret rotations, and samples
//! of the routes' activity.

mod secret_rotation;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::activity::Activity;
use crate::clock::Clock;
use crate::gateway::Gateway;
use crate::log::{self, LogSampler};
use secret_rotation::{SecretRotation, SecretUse};

/// The components that the chores look after.
pub(super) struct Chores {
    gateway: Arc<Gateway>,
    activity: Arc<Activity>,
    log_sampler: Arc<LogSampler>,
    clock: Clock,
    secret_rotation: SecretRotation,
}

impl Chores {
    /// The time between two runs.
    pub(super) const INTERVAL: Duration = Duration::from_secs(5);

    pub(super) fn new(
        gateway: Arc<Gateway>,
        activity: Arc<Activity>,
        log_sampler: Arc<LogSampler>,
        clock: Clock,
    ) -> Self {
        Self {
            gateway,
            activity,
            log_sampler,
            clock,
            secret_rotation: SecretRotation::default(),
        }
    }

    /// Does all chores once.
    pub(super) fn run(&mut self) {
        self.log_sampler.write_suppressed_counts(self.clock.now());
        log::write_suppressed_library_counts(Instant::now());
        self.log_rotation_hints();
        self.activity.sample(self.clock.now());
    }

    /// Logs which secrets no sender uses any more, and which are used although they expire soon.
    fn log_rotation_hints(&mut self) {
        let (routes, now) = (self.gateway.routes(), self.clock.wall());
        let names: HashSet<&str> = routes.iter().map(|(route, _)| &*route.name).collect();
        self.secret_rotation
            .retain_routes(|name| names.contains(name));
        for (route, metrics) in routes.iter() {
            let secrets: Vec<_> = route
                .verifier
                .secrets()
                .map(|(name, expires)| SecretUse {
                    name: Arc::clone(name),
                    expires,
                    verified: metrics.verified_with(name),
                })
                .collect();
            for hint in self.secret_rotation.check_route(&route.name, &secrets, now) {
                hint.log(&route.name);
            }
        }
    }
}
