//! The problems of the gateway: collects the facts, and follows what begins and ends.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval};

use super::Operations;
use super::status::RouteStatus;
use super::stored_facts::StoredFacts;
use crate::activity::{Incident, RejectionCount};
use crate::admin::dashboard::words::explain_rejection;
use crate::outcome::{Disposition, TOO_MANY_COPIES};
use crate::problems::{
    self, EndReason, Ending, GatewayFacts, LastFailure, ListedSince, Problem, ProblemChange,
    ProblemCode, RejectedKind, RemovedRoute, RouteFacts, RunningIncident, Undelivered,
};
use crate::providers;
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
                undelivered: stored.undelivered(&status.route.name),
                listed_since: self.listed_since(&status.route.name),
                ..facts(status)
            })
            .collect();
        let wall = Timestamp::now();
        let gateway = self.gateway_facts(&stored);
        let mut problems = problems::problems(&gateway, &routes, wall);
        self.track(&mut problems, wall, &routes);
        ProblemReport {
            problems,
            statuses,
            removed: gateway.removed,
        }
    }

    /// Sets since when the problems are there, and logs and announces what has changed.
    fn track(&self, problems: &mut [Problem], wall: Timestamp, routes: &[RouteFacts]) {
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let changes = tracker.observe(problems, now, wall, |problem, present| {
            problems::ending(problem, present, routes)
        });
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

    fn listed_since(&self, route: &Arc<str>) -> ListedSince {
        let tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        ListedSince {
            failing: tracker.since(route, ProblemCode::UpstreamFailing),
            rejecting: tracker.since(route, ProblemCode::RequestsRejected),
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
        stores_events: route.delivery_mode.stores(),
        upstream: without_query(&route.url),
        active: route.active,
        off_line: route.off_line.clone(),
        paused: status.paused,
        hour: status.hour,
        minute_began: status.minute_began,
        failing: status.failing.map(running),
        rejecting: status.rejecting.map(running),
        listed_since: ListedSince::default(),
        attempt_succeeded: status.attempt_succeeded,
        request_verified: status.request_verified,
        last_failure: status.last_failure.as_ref().map(|failure| LastFailure {
            cause: failure.attempt.cause,
            status: failure.attempt.status,
            address: failure.attempt.address.clone(),
            upstream: without_query(&failure.attempt.upstream),
            other_cause_at: failure.other_cause_at,
        }),
        last_success: None,
        undelivered: Undelivered::default(),
        refused: status.refused,
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
            .filter(|group| is_rejected(group))
            .map(explained)
            .collect(),
        last_rejected: status
            .rejected_lately
            .iter()
            .filter(|group| is_rejected(group))
            .map(|group| group.last_at)
            .max(),
        copies: status
            .rejected
            .iter()
            .find(|group| is_copies(group))
            .map(explained),
        explanation: status.explanation.clone().filter(|explanation| {
            let began = status.rejecting.map(|incident| incident.began);
            // The request arrived before it was rejected.
            began.is_some_and(|began| explanation.at + status.budget >= began)
        }),
        expiring_secrets: status
            .secrets
            .iter()
            .filter(in_use)
            .filter_map(|secret| Some((secret.name.clone(), secret.expires?)))
            .collect(),
    }
}

/// Returns the URL of an upstream without its query, which may hold a credential: problems are logged
/// and sent.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().into()
}

fn running(incident: Incident) -> RunningIncident {
    RunningIncident {
        began: incident.began,
        failed: incident.failed,
        familiar: incident.familiar,
        in_a_row: incident.in_a_row,
        in_a_row_since: incident.in_a_row_since,
        usual_per_second: incident.usual_per_second,
    }
}

fn is_rejected(group: &RejectionCount) -> bool {
    group.kind.code.disposition() == Disposition::Rejected
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
    match change {
        ProblemChange::Appeared(problem) => log_appeared(problem),
        ProblemChange::Disappeared(problem, ending) => log_disappeared(problem, *ending),
    }
}

fn log_appeared(problem: &Problem) {
    let (route, summary) = (problem.route.as_deref(), &*problem.summary);
    match problem.code {
        ProblemCode::UpstreamFailing => {
            tracing::warn!(route, summary, "the route's upstream fails");
        }
        ProblemCode::RequestsRejected => {
            tracing::warn!(route, summary, "requests of the route are rejected");
        }
        _ => {}
    }
}

fn log_disappeared(problem: &Problem, Ending { reason, summary }: Ending) {
    let route = problem.route.as_deref();
    let lasted = problem
        .since
        .map(|since| Timestamp::now().duration_since(since))
        .filter(|lasted| *lasted > SignedDuration::ZERO);
    let lasted_seconds = lasted.map(|lasted| lasted.as_secs());
    match (problem.code, reason) {
        (ProblemCode::UpstreamFailing, EndReason::Recovered) => tracing::warn!(
            route,
            lasted_seconds,
            "the route's upstream accepts events again"
        ),
        (ProblemCode::RequestsRejected, EndReason::Recovered) => tracing::warn!(
            route,
            lasted_seconds,
            "requests of the route are accepted again"
        ),
        (ProblemCode::UpstreamFailing | ProblemCode::RequestsRejected, _) => tracing::warn!(
            route,
            problem = problem.code.as_str(),
            reason = reason.as_str(),
            summary,
            lasted_seconds,
            "a problem of the route is no longer listed"
        ),
        _ => {}
    }
}
