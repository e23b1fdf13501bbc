//! The first page: the problems, and a summary of all routes.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::chart::{self, Bars};
use super::page::{Page, Shared, respond};
use super::problems::ProblemNotice;
use super::words;
use crate::admin::error::ApiError;
use crate::admin::operations::problems::ProblemReport;
use crate::admin::operations::status::RouteStatus;
use crate::problems::Severity;

/// The most routes on the page, unless all are requested: those with problems, then the busiest.
const ROUTES_SHOWN: usize = 100;
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
    let report = operations.problem_report().await.map_err(ApiError::from);
    respond(report.map(|report| {
        let ProblemReport { problems, statuses } = report;
        let (health, unmatched) = (operations.health(), operations.unmatched_in_last_hour());
        let severity = |status: &RouteStatus| {
            let of_route = |route: &Arc<str>| *route == status.route.name;
            problems
                .iter()
                .find(|problem| problem.route.as_ref().is_some_and(of_route))
                .map(|problem| problem.severity)
        };
        let mut shown: Vec<_> = statuses
            .iter()
            .map(|status| (severity(status), status))
            .collect();
        let rows_omitted = if all {
            0
        } else {
            shown.len().saturating_sub(ROUTES_SHOWN)
        };
        if rows_omitted > 0 {
            shown.sort_by_cached_key(|(severity, status)| {
                std::cmp::Reverse((*severity, status.requests().total()))
            });
            shown.truncate(ROUTES_SHOWN);
        }
        let rows = shown
            .into_iter()
            .map(|(severity, status)| Row::new(status, severity, &page))
            .collect();
        Overview {
            problems_omitted: problems.len().saturating_sub(PROBLEMS_LISTED),
            problems: problems
                .iter()
                .take(PROBLEMS_LISTED)
                .map(|problem| ProblemNotice::new(problem, page.now))
                .collect(),
            event_ids: words::count(health.event_ids as u64),
            store_mib: words::count(health.store_bytes.div_ceil(1 << 20)),
            unmatched: words::count(unmatched),
            page,
            rows,
            rows_omitted,
        }
    }))
}

impl Row {
    fn new(status: &RouteStatus, severity: Option<Severity>, page: &Page) -> Self {
        let requests = status.requests();
        Self {
            name: status.route.name.to_string(),
            provider: status.route.provider.unwrap_or("own scheme"),
            delivery: status.route.delivery_mode.as_str(),
            class: severity.map_or("", Severity::class),
            spark: chart::requests(&status.hour, page.now),
            rate: words::rate(status.requests_per_second),
            success: success_rate(status.deliveries.delivered, status.deliveries.missed),
            p95: status
                .deliveries
                .p95_seconds
                .map_or_else(|| "–".into(), words::milliseconds),
            rejected: words::count(requests.rejected),
            duplicates: words::count(requests.duplicate),
            pending: words::count(status.pending),
            oldest: status.oldest_waiting.map(|at| words::ago(at, page.now)),
            dead: words::count(status.dead),
            last_verified: status.last_verified.map(|at| words::ago(at, page.now)),
        }
    }
}

/// Formats the share of genuine, new events that were delivered, rounded down: 100 % is all of them.
pub(super) fn success_rate(delivered: u64, missed: u64) -> String {
    match (delivered * 1_000).checked_div(delivered + missed) {
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
