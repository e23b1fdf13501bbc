//! The problems of the gateway: collects the facts, and follows what begins and ends.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::Operations;
use super::status::RouteStatus;
use crate::activity::{Incident, RejectionCount};
use crate::admin::dashboard::words::explain_rejection;
use crate::admin::error::OperationError;
use crate::outcome::{Disposition, TOO_MANY_COPIES};
use crate::problems::{
    self, EndReason, Ending, GatewayFacts, LastFailure, ListedSince, Problem, ProblemChange,
    ProblemCode, RejectedKind, RemovedRoute, RouteFacts, RunningIncident, Undelivered,
};
use crate::providers;
use crate::route::DeliveryMode;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState, StoreError};

/// The time between two looks at the problems when nobody asks.
const INTERVAL: Duration = Duration::from_secs(2);

/// The time within which the store says when the last deliveries of failing routes succeeded.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// The time over which a provider retries if that is not known.
const USUAL_PROVIDER_HORIZON: Duration = Duration::from_secs(72 * 3600);

/// The highest number of deliveries that the store counts.
const COUNTED_MAX: u64 = 10_000;

/// The problems, the worst first, with the statuses of the routes that they were found in.
pub(in crate::admin) struct ProblemReport {
    pub problems: Vec<Problem>,
    /// In the order of the routes.
    pub statuses: Vec<RouteStatus>,
    /// The routes that are no longer configured and have stored events; none while the store can't
    /// say it in time.
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
            // Fails only while the process ends.
            let _ = self.problem_report().await;
        }
    }

    /// Returns the current problems, the worst first.
    pub(in crate::admin) async fn problems(&self) -> Result<Vec<Problem>, OperationError> {
        Ok(self.problem_report().await?.problems)
    }

    /// Returns the current problems and the statuses of all routes.
    pub(in crate::admin) async fn problem_report(&self) -> Result<ProblemReport, OperationError> {
        let statuses = self.route_statuses().await?;
        let (now, wall) = (Instant::now(), Timestamp::now());
        let mut routes = Vec::with_capacity(statuses.len());
        let deadline = tokio::time::Instant::now() + STORE_TIMEOUT;
        for status in &statuses {
            routes.push(RouteFacts {
                last_success: self.last_success(status, deadline).await,
                undelivered: self.undelivered(status, deadline).await,
                listed_since: self.listed_since(&status.route.name),
                ..facts(status)
            });
        }
        let gateway = self.gateway_facts(deadline).await;
        let mut problems = problems::problems(&gateway, &routes, wall);
        let changes = self
            .tracker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(&mut problems, now, wall, |problem, present| {
                problems::ending(problem, present, &routes)
            });
        for change in &changes {
            log(change);
        }
        if let Some(announcer) = &self.announcer {
            let (announcer, store) = (Arc::clone(announcer), self.state.store.clone());
            let present = problems.clone();
            // A task of its own: the changes are told once, also if nobody waits for this report.
            let announcing = tokio::spawn(async move {
                announcer.announce(&store, &changes, &present, now).await;
            });
            let _ = announcing.await;
        }
        Ok(ProblemReport {
            problems,
            statuses,
            removed: gateway.removed,
        })
    }

    async fn gateway_facts(&self, deadline: tokio::time::Instant) -> GatewayFacts {
        let state = &self.state;
        let removed = self.removed_in_time(deadline).await;
        GatewayFacts {
            refused_configuration: state.configuration.refused(),
            store_unavailable: state
                .store
                .check_open()
                .err()
                .map(|error| error.to_string()),
            store_full: state.store.check_room(None) == Err(StoreError::Full),
            draining: *state.draining.borrow(),
            unmatched: self.unmatched_in_last_hour(),
            removed,
        }
    }

    /// Returns the routes that are no longer configured; none while the store can't say it by
    /// `deadline`.
    async fn removed_in_time(&self, deadline: tokio::time::Instant) -> Vec<RemovedRoute> {
        let removed = timeout_at(deadline, self.removed_routes()).await;
        removed.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Returns when a route's last delivery succeeded, if its attempts fail, or requests are rejected
    /// and none was verified since the start; and if the store says it by `deadline`.
    async fn last_success(
        &self,
        status: &RouteStatus,
        deadline: tokio::time::Instant,
    ) -> Option<Timestamp> {
        if status.failing.is_none()
            && (status.rejecting.is_none() || status.last_verified.is_some())
        {
            return None;
        }
        let totals = self
            .state
            .store
            .route_stats(status.route.name.clone(), i64::MAX);
        timeout_at(deadline, totals).await.ok()?.ok()?.last_success
    }

    /// Returns the events of a route's incident that only their provider has, as far as the store
    /// says it by `deadline`.
    async fn undelivered(
        &self,
        status: &RouteStatus,
        deadline: tokio::time::Instant,
    ) -> Undelivered {
        let Some(incident) = status.failing else {
            return Undelivered::default();
        };
        let found = timeout_at(deadline, self.undelivered_since(status, incident.began)).await;
        found.ok().and_then(Result::ok).unwrap_or_default()
    }

    async fn undelivered_since(
        &self,
        status: &RouteStatus,
        began: Timestamp,
    ) -> Result<Undelivered, StoreError> {
        let store = &self.state.store;
        let filter = DeliveryFilter {
            route: Some(status.route.name.to_string()),
            state: Some(DeliveryState::Failed),
            // The first one arrived before its attempt began.
            since: began.checked_sub(status.budget).ok(),
            ..DeliveryFilter::default()
        };
        let oldest = store
            .matching_deliveries(filter.clone(), DeliveryId(0), 1)
            .await?;
        let Some((oldest, _)) = oldest.first() else {
            return Ok(Undelivered::default());
        };
        let oldest = store.delivery(*oldest).await?;
        let count = store.count_deliveries(filter).await?;
        Ok(Undelivered {
            events: count.map_or(COUNTED_MAX, |count| count as u64),
            oldest: oldest.map(|delivery| delivery.received_at),
        })
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
        stores_events: route.delivery_mode != DeliveryMode::Proxy,
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
        explanation: status.explanation.as_deref().map(Into::into),
        cause_found: status.cause_found_at.is_some_and(|at| {
            let began = status.rejecting.map(|incident| incident.began);
            // The request arrived before it was rejected.
            began.is_some_and(|began| at + status.budget >= began)
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
        ProblemChange::Began(_) | ProblemChange::Ended(..) => {}
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
