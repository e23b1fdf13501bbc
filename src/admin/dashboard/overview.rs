//! The first page: the problems, and a summary of all routes.

use std::sync::Arc;

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::chart::{self, Bars, Hour};
use super::page::{Moment, Page, Shared, respond};
use super::problems::ProblemNotice;
use super::words;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::operations::Operations;
use crate::admin::operations::numbers::HourlyDeliveries;
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
    /// The number at the top of every row's chart.
    spark_top: String,
    rows_omitted: usize,
    /// The requests of the last hour that matched no route, in words.
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
    oldest: Option<Moment>,
    dead: String,
    last_verified: Option<Moment>,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    let all = query.as_deref() == Some("all");
    respond(
        Overview::load(&operations, page, all)
            .await
            .map_err(ApiError::from),
    )
}

impl Overview {
    async fn load(operations: &Operations, page: Page, all: bool) -> Result<Self, OperationError> {
        let report = operations.problem_report().await;
        let problems = report.problems;
        let (health, unmatched) = (operations.health(), operations.unmatched_in_last_hour());
        let severity = |status: &RouteStatus| {
            let of_route = |route: &Arc<str>| *route == status.route.name;
            problems
                .iter()
                .find(|problem| problem.route.as_ref().is_some_and(of_route))
                .map(|problem| problem.severity)
        };
        let mut shown: Vec<_> = report
            .statuses
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
        let highest = shown.iter().map(|(_, status)| chart::highest(&status.hour));
        let top = chart::axis_top(highest.max().unwrap_or(0));
        let mut rows = Vec::with_capacity(shown.len());
        for (severity, status) in shown {
            let deliveries = operations.hourly_deliveries(status).await;
            let hour = Hour {
                minutes: &status.hour,
                known: operations.minutes_known(&status.route.name),
                page: &page,
            };
            let spark = hour.requests(Some(top));
            rows.push(Row::new(status, &deliveries, severity, spark, &page));
        }
        Ok(Self {
            problems_omitted: problems.len().saturating_sub(PROBLEMS_LISTED),
            problems: problems
                .iter()
                .take(PROBLEMS_LISTED)
                .map(|problem| ProblemNotice::new(problem, &page))
                .collect(),
            event_ids: words::counted(health.event_ids as u64, "event ID is", "event IDs are"),
            store_mib: words::count(health.store_bytes.div_ceil(1 << 20)),
            unmatched: words::counted(unmatched, "request", "requests"),
            page,
            rows,
            spark_top: words::count(top),
            rows_omitted,
        })
    }

    /// Returns the route of the worst problem that is a route's.
    fn worst_route(&self) -> Option<&str> {
        self.problems
            .iter()
            .find_map(|problem| problem.route.as_deref())
    }

    /// Returns the most minutes before a route's start.
    fn unknown_minutes(&self) -> usize {
        let unknown = self.rows.iter().map(|row| row.spark.axes.unknown);
        unknown.max().unwrap_or(0)
    }
}

impl Row {
    fn new(
        status: &RouteStatus,
        deliveries: &HourlyDeliveries,
        severity: Option<Severity>,
        spark: Bars,
        page: &Page,
    ) -> Self {
        let requests = status.requests();
        Self {
            name: status.route.name.to_string(),
            provider: status.route.provider.unwrap_or("own scheme"),
            delivery: status.route.delivery_mode.as_str(),
            class: severity.map_or("", Severity::class),
            spark,
            rate: words::rate(status.requests_per_second),
            success: success_rate(deliveries.delivered, deliveries.missed),
            p95: deliveries
                .p95_seconds
                .map_or_else(|| "–".into(), words::milliseconds),
            rejected: words::count(requests.rejected),
            duplicates: words::count(requests.duplicate),
            pending: words::count(status.pending),
            oldest: status.oldest_waiting.map(|at| page.moment(&at)),
            dead: words::count(status.dead),
            last_verified: status.last_verified.map(|at| page.moment(&at)),
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
