//! The problems of the gateway: collects the facts, and follows what begins and ends.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use super::Operations;
use super::status::RouteStatus;
use super::stored_facts::StoredFacts;
use crate::activity::RejectionCount;
use crate::admin::dashboard::words::explain_rejection;
use crate::outcome::TOO_MANY_COPIES;
use crate::problems::{
    self, GatewayFacts, LastFailure, Problem, ProblemChange, ProblemCode, RejectedKind,
    RemovedRoute, RouteFacts,
};
use crate::providers;
use crate::route::DeliveryMode;
use crate::store::StoreError;

/// The time between two looks at the problems when nobody asks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The time over which a provider retries if that is not known.
const USUAL_PROVIDER_HORIZON: Duration = Duration::from_secs(72 * 3600);

/// The problems, the worst first, with the statuses of the routes that they were found in.
pub(in crate::admin) struct ProblemReport {
    pub problems: Vec<Problem>,
    /// In the order of the routes.
    pub statuses: Vec<RouteStatus>,
    /// The routes that are no longer configured and have stored events, as the store said it last.
    pub removed: Vec<RemovedRoute>,
}

impl Operations {
    /// Follows the problems until the process ends, so that what begins and ends is logged when
    /// nobody asks.
    pub(in crate::admin) async fn follow_problems(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.problem_report().await;
        }
    }

    /// Returns the current problems, the worst first.
    pub(in crate::admin) async fn problems(&self) -> Vec<Problem> {
        self.problem_report().await.problems
    }

    /// Returns the current problems and the statuses of all routes. Waits for the store, but not
    /// for long.
    pub(in crate::admin) async fn problem_report(&self) -> ProblemReport {
        let mut statuses = self.route_statuses();
        let stored = self.stored.read(&statuses).await;
        for status in &mut statuses {
            let oldest = stored.oldest_waiting.get(&status.route.name);
            status.oldest_waiting = oldest.filter(|_| status.pending > 0).copied();
        }
        let routes: Vec<_> = statuses
            .iter()
            .map(|status| RouteFacts {
                last_success: stored.last_success.get(&status.route.name).copied(),
                ..facts(status)
            })
            .collect();
        let wall = Timestamp::now();
        let gateway = self.gateway_facts(&stored);
        let mut problems = problems::problems(&gateway, &routes, wall);
        self.track(&mut problems, wall);
        ProblemReport {
            problems,
            statuses,
            removed: gateway.removed,
        }
    }

    /// Sets since when the problems are there, and logs and announces what has changed.
    fn track(&self, problems: &mut [Problem], wall: Timestamp) {
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let changes = tracker.observe(problems, now, wall);
        if let Some(announcer) = &self.announcer {
            announcer.publish(now, tracker.serious());
        }
        drop(tracker);
        for change in &changes {
            log(change);
        }
    }

    fn gateway_facts(&self, stored: &StoredFacts) -> GatewayFacts {
        let state = &self.state;
        GatewayFacts {
            refused_configuration: state.configuration.refused(),
            store_unavailable: self.stored.trouble(),
            store_full: state.store.check_room(None) == Err(StoreError::Full),
            draining: *state.draining.borrow(),
            unmatched: self.unmatched_in_last_hour(),
            removed: stored.removed.clone(),
        }
    }
}

/// Returns what a route's status says about its problems.
fn facts(status: &RouteStatus) -> RouteFacts {
    let route = &status.route;
    let provider = route.provider.and_then(providers::find);
    let in_use = |secret: &&super::status::SecretUse| secret.verified > 0;
    RouteFacts {
        name: route.name.clone(),
        stores_events: route.delivery_mode != DeliveryMode::Proxy,
        // The query may hold a credential, and problems are logged and sent.
        upstream: route.url.split('?').next().unwrap_or_default().into(),
        active: route.active,
        off_line: route.off_line.clone(),
        paused: status.paused,
        hour: status.hour,
        minute_began: status.minute_began,
        failing: status.failing,
        rejecting: status.rejecting,
        last_failure: status.last_failure.as_ref().and_then(|attempt| {
            Some(LastFailure {
                cause: attempt.cause?,
                status: attempt.status,
                address: attempt.address.clone(),
            })
        }),
        last_success: None,
        pending: status.pending,
        dead: status.dead,
        oldest_waiting: status.oldest_waiting,
        retry_horizon: status.retry_horizon,
        provider_horizon: provider
            .and_then(|preset| preset.defaults.retry_horizon)
            .unwrap_or(USUAL_PROVIDER_HORIZON),
        expect_every: status.expect_every,
        silent: status.silent,
        last_verified: status.last_verified,
        rejected: status
            .rejected_lately
            .iter()
            .filter(|group| !is_copies(group))
            .map(explained)
            .collect(),
        copies: status
            .rejected
            .iter()
            .find(|group| is_copies(group))
            .map(explained),
        explanation: status.explanation.as_deref().map(Into::into),
        expiring_secrets: status
            .secrets
            .iter()
            .filter(in_use)
            .filter_map(|secret| Some((secret.name.clone(), secret.expires?)))
            .collect(),
    }
}

fn is_copies(group: &RejectionCount) -> bool {
    group.kind.reason == Some(TOO_MANY_COPIES)
}

fn explained(group: &RejectionCount) -> RejectedKind {
    RejectedKind {
        kind: group.kind,
        count: group.count,
        advice: explain_rejection(group.kind.code.as_str(), group.kind.reason).advice,
    }
}

/// Logs an outage of a route when it begins and when it is over. Others have log lines of their
/// own where they happen.
fn log(change: &ProblemChange) {
    let (ProblemChange::Appeared(problem) | ProblemChange::Disappeared(problem)) = change;
    let is_there = matches!(change, ProblemChange::Appeared(_));
    let route = problem.route.as_deref();
    let summary = is_there.then_some(problem.summary.as_str());
    let lasted = problem
        .since
        .map(|since| Timestamp::now().duration_since(since))
        .filter(|lasted| !is_there && *lasted > SignedDuration::ZERO)
        .map(|lasted| lasted.as_secs());
    match (problem.code, is_there) {
        (ProblemCode::UpstreamFailing, true) => {
            tracing::warn!(route, summary, "the route's upstream fails");
        }
        (ProblemCode::UpstreamFailing, false) => tracing::warn!(
            route,
            lasted_seconds = lasted,
            "the route's upstream accepts events again"
        ),
        (ProblemCode::RequestsRejected, true) => {
            tracing::warn!(route, summary, "requests of the route are rejected");
        }
        (ProblemCode::RequestsRejected, false) => tracing::warn!(
            route,
            lasted_seconds = lasted,
            "requests of the route are accepted again"
        ),
        _ => {}
    }
}
