//! The first page: the problems, and a summary of all routes.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::chart::{self, Bars};
use super::page::{Page, Shared, respond};
use super::problems::{self, ProblemNotice, Severity};
use super::words;
use crate::activity::MINUTES;
use crate::admin::error::ApiError;
use crate::admin::operations::gateway::Health;
use crate::admin::operations::status::RouteStatus;

/// The most routes on the page, unless all are requested: those with problems, then the busiest.
const ROUTES_SHOWN: usize = 100;
/// Requests without a route in the last hour that make a problem.
const UNMATCHED_MIN: u64 = 20;
/// The most problems that are listed one by one.
const PROBLEMS_LISTED: usize = 20;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    page: Page,
    event_ids: String,
    store_mib: String,
    problems: Vec<ProblemNotice>,
    problems_omitted: usize,
    rows: Vec<Row>,
    rows_omitted: usize,
    /// Requests without a route in the last hour.
    unmatched: String,
}

struct Row {
    name: String,
    provider: &'static str,
    delivery: &'static str,
    class: &'static str,
    spark: Bars,
    rate: String,
    success: String,
    p95: String,
    rejected: String,
    duplicates: String,
    pending: String,
    oldest: Option<String>,
    dead: String,
    last_verified: Option<String>,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    let all = query.as_deref() == Some("all");
    // While the store can't be read, the statuses say so.
    let removed = operations.removed_routes().await.unwrap_or_default();
    respond(
        operations
            .route_statuses()
            .await
            .map_err(ApiError::from)
            .map(|statuses| {
                let health = operations.health();
                let unmatched = operations.unmatched_in_last_hour();
                let mut problems = gateway_problems(&health, unmatched);
                let removed = removed.iter();
                problems.extend(removed.map(|route| problems::removed_route(route, page.now)));
                let mut seen = Vec::with_capacity(statuses.len());
                for status in &statuses {
                    let of_this_route = problems::route_problems(status, page.now);
                    let severity = of_this_route.iter().map(|problem| problem.severity).max();
                    problems.extend(of_this_route);
                    seen.push((severity, status));
                }
                problems.sort_by_key(|problem| std::cmp::Reverse(problem.severity));
                let problems_omitted = problems.len().saturating_sub(PROBLEMS_LISTED);
                problems.truncate(PROBLEMS_LISTED);
                let rows_omitted = if all {
                    0
                } else {
                    seen.len().saturating_sub(ROUTES_SHOWN)
                };
                if rows_omitted > 0 {
                    seen.sort_by_cached_key(|(severity, status)| {
                        std::cmp::Reverse((*severity, status.requests().total()))
                    });
                    seen.truncate(ROUTES_SHOWN);
                }
                let rows = seen
                    .into_iter()
                    .map(|(severity, status)| Row::new(status, severity, &page))
                    .collect();
                let unmatched = words::count(unmatched);
                let event_ids = words::count(health.event_ids as u64);
                let store_mib = words::count(health.store_bytes.div_ceil(1 << 20));
                Overview {
                    page,
                    event_ids,
                    store_mib,
                    problems,
                    problems_omitted,
                    rows,
                    rows_omitted,
                    unmatched,
                }
            }),
    )
}

fn gateway_problems(health: &Health, unmatched: u64) -> Vec<ProblemNotice> {
    let critical = |text: &str, advice: &str| ProblemNotice {
        severity: Severity::Critical,
        route: None,
        text: text.into(),
        advice: advice.into(),
    };
    let mut problems = Vec::new();
    if let Some(reason) = &health.not_ready {
        problems.push(critical(
            &format!("not ready: {reason}"),
            "Senders get 503 and retry. The log has the details.",
        ));
    }
    if health.store_full {
        problems.push(critical(
            "the store is full",
            "New events get 503. Raise `store.max_ids` or `store.max_size`, or make room on the disk.",
        ));
    }
    if unmatched >= UNMATCHED_MIN {
        problems.push(ProblemNotice {
            severity: Severity::Warning,
            route: None,
            text: format!(
                "{} requests matched no route in the last hour",
                words::count(unmatched)
            ),
            advice: words::explain_rejection("unknown_route", None)
                .advice
                .into(),
        });
    }
    problems
}

impl Row {
    fn new(status: &RouteStatus, severity: Option<Severity>, page: &Page) -> Self {
        let requests = status.requests();
        let p95 = status.hour[MINUTES - 5..]
            .iter()
            .rev()
            .find_map(|minute| minute.p95_seconds);
        Self {
            name: status.route.name.to_string(),
            provider: status.route.provider.unwrap_or("own scheme"),
            delivery: status.route.delivery_mode.as_str(),
            class: severity.map_or("", Severity::class),
            spark: chart::requests(&status.hour, page.now),
            rate: words::rate(status.requests_per_second),
            success: success_rate(requests.accepted, requests.failed),
            p95: p95.map_or_else(|| "–".into(), words::milliseconds),
            rejected: words::count(requests.rejected),
            duplicates: words::count(requests.duplicate),
            pending: words::count(status.pending),
            oldest: status.oldest_waiting.map(|at| words::ago(at, page.now)),
            dead: words::count(status.dead),
            last_verified: status.last_verified.map(|at| words::ago(at, page.now)),
        }
    }
}

/// Formats the share of genuine, new events that were accepted, rounded down: 100 % is all of them.
pub(super) fn success_rate(accepted: u64, failed: u64) -> String {
    match (accepted * 1_000).checked_div(accepted + failed) {
        None => "–".into(),
        Some(1_000) => "100\u{a0}%".into(),
        Some(tenths) => format!("{}.{}\u{a0}%", tenths / 10, tenths % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_is_rounded_down() {
        assert_eq!(success_rate(0, 0), "–");
        assert_eq!(success_rate(5, 0), "100\u{a0}%");
        assert_eq!(success_rate(99_999, 1), "99.9\u{a0}%");
        assert_eq!(success_rate(0, 7), "0.0\u{a0}%");
    }
}
