//! The problems of the gateway as a whole, and of routes that it no longer has.

use std::sync::Arc;

use jiff::Timestamp;

use super::{AtRisk, GatewayFacts, Problem, ProblemCode, RemovedRoute, Severity, words};

/// Returns the problems of the gateway itself.
pub(super) fn gateway_problems(gateway: &GatewayFacts, now: Timestamp) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(refused) = &gateway.refused_configuration {
        let more = match refused.count {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        let changed = refused.changed.map_or_else(String::new, |at| {
            format!("; until {} for another reason", words::time(at, now))
        });
        problems.push(Problem {
            since: Some(refused.since),
            ..Problem::new(
                ProblemCode::ConfigurationRefused,
                Severity::Critical,
                format!(
                    "the configuration on disk is refused: {}{more}{changed}; the next start will \
                     fail",
                    refused.first
                ),
                "The previous configuration stays in effect. Run `hookstile check`, and correct \
                 the file.",
            )
        });
    }
    if let Some(reason) = &gateway.store_unavailable {
        problems.push(Problem::new(
            ProblemCode::StoreUnavailable,
            Severity::Critical,
            reason.clone(),
            "Senders get 503 and retry. Check the disk or the database; the log has the cause.",
        ));
    }
    if gateway.store_full {
        problems.push(Problem::new(
            ProblemCode::StoreFull,
            Severity::Critical,
            "the store is full: new events get 503".into(),
            "Raise `store.max_ids` or `store.max_size`, or make room on the disk.",
        ));
    }
    if gateway.draining {
        problems.push(Problem::new(
            ProblemCode::Draining,
            Severity::Notice,
            "the gateway is stopping".into(),
            "No action is needed if somebody stopped or upgrades it.",
        ));
    }
    problems
}

/// Returns the problem of a route that is no longer configured. Its events wait for ever, so nothing
/// gives them up; the end of the horizon says how long they are worth delivering.
pub(super) fn removed_route(removed: &RemovedRoute, now: Timestamp) -> Problem {
    let RemovedRoute {
        name,
        pending,
        dead,
        ..
    } = removed;
    let dead_letters = words::counted(*dead, "dead letter", "dead letters");
    let (severity, summary) = if *pending == 0 {
        let are = if *dead == 1 { "is" } else { "are" };
        (
            Severity::Warning,
            format!("no longer configured; {dead_letters} {are} left"),
        )
    } else {
        let wait = if *pending == 1 { "waits" } else { "wait" };
        let oldest = removed.oldest_waiting.map_or_else(String::new, |at| {
            format!("; the oldest arrived {} ago", words::age(at, now))
        });
        let and_dead = if *dead == 0 {
            String::new()
        } else {
            format!(", with {dead_letters}")
        };
        (
            Severity::Critical,
            format!(
                "no longer configured; {} {wait} for it{and_dead}{oldest}",
                words::events(*pending)
            ),
        )
    };
    let horizon = removed
        .horizon_ends
        .filter(|_| *pending > 0)
        .map_or_else(String::new, |end| {
            let verb = if end > now { "ends" } else { "ended" };
            let at = words::time(end, now);
            format!(" `retry.horizon` {verb} at {at}; they wait all the same.")
        });
    Problem {
        route: Some(Arc::clone(name)),
        at_risk: AtRisk {
            events: pending + dead,
            oldest: removed.oldest_waiting,
            gives_up_at: None,
        },
        ..Problem::new(
            ProblemCode::RouteRemoved,
            severity,
            summary,
            &format!(
                "Configure the route again, or move its events: `hookstile routes move {name} TO`.{horizon}"
            ),
        )
    }
}
