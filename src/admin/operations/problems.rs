//! The problems of the gateway: collects the facts, and follows what begins and ends.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::Operations;
use super::status::RouteStatus;
use crate::activity::RejectionCount;
use crate::admin::dashboard::words::explain_rejection;
use crate::admin::error::OperationError;
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

/// The time within which the store says when the last deliveries of failing routes succeeded.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

/// The time over which a provider retries if that is not known.
const USUAL_PROVIDER_HORIZON: Duration = Duration::from_secs(72 * 3600);

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
                ..facts(status)
            });
        }
        let gateway = self.gateway_facts(deadline).await;
        let mut problems = problems::problems(&gateway, &routes, wall);
        let changes = self
            .tracker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .observe(&mut problems, now, wall);
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

    /// Returns when a route's last delivery succeeded, if its attempts fail and the store says it
    /// by `deadline`.
    async fn last_success(
        &self,
        status: &RouteStatus,
        deadline: tokio::time::Instant,
    ) -> Option<Timestamp> {
        status.failing?;
        let totals = self
            .state
            .store
            .route_stats(status.route.name.clone(), i64::MAX);
        timeout_at(deadline, totals).await.ok()?.ok()?.last_success
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
    let (ProblemChange::Appeared(problem) | ProblemChange::Disappeared(problem)) = change else {
        return;
    };
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
