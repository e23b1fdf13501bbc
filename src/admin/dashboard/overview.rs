//! The first page: what is wrong, and all routes at a status.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::chart::{self, Bars};
use super::page::{Page, Shared, shown};
use super::troubles::{self, Severity, Trouble};
use super::words;
use crate::activity::MINUTES;
use crate::admin::error::ApiError;
use crate::admin::operations::gateway::Health;
use crate::admin::operations::status::RouteStatus;

/// Routes that are shown unless all are asked for: those in trouble first, then the busiest.
const ROUTES_SHOWN: usize = 100;
/// So many requests that match no route in an hour are more than chance.
const UNMATCHED_MIN: u64 = 20;
/// Troubles that are told one by one.
const TROUBLES_TOLD: usize = 20;

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    page: Page,
    event_ids: String,
    store_mib: String,
    troubles: Vec<Trouble>,
    troubles_left_out: usize,
    rows: Vec<Row>,
    rows_left_out: usize,
    /// Requests in the last hour that no route was found for.
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
    repeated: String,
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
    shown(
        operations
            .route_statuses()
            .await
            .map_err(ApiError::from)
            .map(|statuses| {
                let health = operations.health();
                let unmatched = operations.unmatched_in_last_hour();
                let mut troubles = of_gateway(&health, unmatched);
                let mut seen = Vec::with_capacity(statuses.len());
                for status in &statuses {
                    let of_route = troubles::of_route(status, page.now);
                    let severity = of_route.iter().map(|trouble| trouble.severity).max();
                    troubles.extend(of_route);
                    seen.push((severity, status));
                }
                troubles.sort_by_key(|trouble| std::cmp::Reverse(trouble.severity));
                let troubles_left_out = troubles.len().saturating_sub(TROUBLES_TOLD);
                troubles.truncate(TROUBLES_TOLD);
                let rows_left_out = if all {
                    0
                } else {
                    seen.len().saturating_sub(ROUTES_SHOWN)
                };
                if rows_left_out > 0 {
                    seen.sort_by_cached_key(|(severity, status)| {
                        std::cmp::Reverse((*severity, status.requests().total()))
                    });
                    seen.truncate(ROUTES_SHOWN);
                }
                let rows = seen
                    .into_iter()
                    .map(|(severity, status)| Row::of(status, severity, &page))
                    .collect();
                let unmatched = words::count(unmatched);
                let event_ids = words::count(health.event_ids as u64);
                let store_mib = words::count(health.store_bytes.div_ceil(1 << 20));
                Overview {
                    page,
                    event_ids,
                    store_mib,
                    troubles,
                    troubles_left_out,
                    rows,
                    rows_left_out,
                    unmatched,
                }
            }),
    )
}

fn of_gateway(health: &Health, unmatched: u64) -> Vec<Trouble> {
    let alarm = |text: &str, mend: &str| Trouble {
        severity: Severity::Alarm,
        route: None,
        text: text.into(),
        mend: mend.into(),
    };
    let mut troubles = Vec::new();
    if let Some(reason) = &health.not_ready {
        troubles.push(alarm(
            &format!("not ready: {reason}"),
            "Senders get 503 and come again. The log tells more.",
        ));
    }
    if health.store_full {
        troubles.push(alarm(
            "the store is full",
            "New events get 503. Raise `store.max_ids` or `store.max_size`, or make room on the disk.",
        ));
    }
    if unmatched >= UNMATCHED_MIN {
        troubles.push(Trouble {
            severity: Severity::Warning,
            route: None,
            text: format!(
                "{} requests matched no route in the last hour",
                words::count(unmatched)
            ),
            mend: words::why("unknown_route", None).mend.into(),
        });
    }
    troubles
}

impl Row {
    fn of(status: &RouteStatus, severity: Option<Severity>, page: &Page) -> Self {
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
            success: success(requests.accepted, requests.failed),
            p95: p95.map_or_else(|| "–".into(), words::milliseconds),
            rejected: words::count(requests.rejected),
            repeated: words::count(requests.duplicate),
            pending: words::count(status.pending),
            oldest: status.oldest_waiting.map(|at| words::ago(at, page.now)),
            dead: words::count(status.dead),
            last_verified: status.last_verified.map(|at| words::ago(at, page.now)),
        }
    }
}

/// The part of genuine, new events that was taken. Rounded down: 100 % is all of them.
pub(super) fn success(taken: u64, failed: u64) -> String {
    match (taken * 1_000).checked_div(taken + failed) {
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
        assert_eq!(success(0, 0), "–");
        assert_eq!(success(5, 0), "100\u{a0}%");
        assert_eq!(success(99_999, 1), "99.9\u{a0}%");
        assert_eq!(success(0, 7), "0.0\u{a0}%");
    }
}
