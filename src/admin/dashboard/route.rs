//! The page of one route: its last hour, rejections, deliveries, secrets, and actions.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;

use super::chart::{self, Bars, Curve};
use super::events::{self, Entry};
use super::overview::success_rate;
use super::page::{Page, Shared, format_exact, respond};
use super::problems::ProblemNotice;
use super::rejections::{self, RejectedRow, RejectionGroup};
use super::words;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::operations::Operations;
use crate::admin::operations::routes::RouteSummary;
use crate::admin::operations::status::{RouteStatus, SecretUse};
use crate::admin::webhook_id::webhook_id;
use crate::store::DeliveryFilter;

/// The most rejections and deliveries on the page; pages of their own have more.
const LISTED: usize = 8;

#[derive(Template)]
#[template(path = "route.html")]
struct Route {
    page: Page,
    name: String,
    id: String,
    facts: Vec<(&'static str, String)>,
    problems: Vec<ProblemNotice>,
    requests: Bars,
    attempts: Bars,
    p95: Option<Curve>,
    figures: Vec<(&'static str, String)>,
    secrets: Vec<Secret>,
    rejection_groups: Vec<RejectionGroup>,
    rejected: Vec<RejectedRow>,
    deliveries: Vec<Entry>,
    paused: bool,
    dead: u64,
}

struct Secret {
    name: String,
    verified: String,
    expires: Option<String>,
    expired: bool,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    Path(name): Path<String>,
) -> Response {
    respond(
        Route::load(&operations, page, &name)
            .await
            .map_err(ApiError::from),
    )
}

impl Route {
    async fn load(operations: &Operations, page: Page, name: &str) -> Result<Self, OperationError> {
        let summary = operations.route(name).await?;
        let report = operations.problem_report().await?;
        let of_route = |status: &RouteStatus| *status.route.name == *name;
        let status = report.statuses.into_iter().find(of_route);
        let status = status.ok_or(OperationError::NoSuchWebhook)?;
        let problems = report.problems.iter();
        let problems = problems.filter(|problem| problem.route.as_deref() == Some(name));
        let filter = DeliveryFilter {
            route: Some(name.into()),
            limit: LISTED,
            ..DeliveryFilter::default()
        };
        let deliveries = operations.deliveries(filter).await?.deliveries;
        let rejected = operations.rejections(Some(name), None, LISTED)?.requests;
        Ok(Self {
            name: name.into(),
            id: webhook_id(name),
            facts: facts(&summary, &page),
            problems: problems
                .map(|problem| ProblemNotice::new(problem, page.now))
                .collect(),
            requests: chart::requests(&status.hour, page.now),
            attempts: chart::attempts(&status.hour, page.now),
            p95: chart::p95(&status.hour),
            figures: figures(&status, &summary, &page),
            secrets: secrets(&status, page.now),
            rejection_groups: rejections::group_rejections(&status.rejected, &page),
            rejected: rejected
                .iter()
                .map(|request| RejectedRow::new(request, &page))
                .collect(),
            deliveries: deliveries
                .into_iter()
                .map(|view| events::list_entry(view, &page))
                .collect(),
            paused: status.paused,
            dead: status.dead,
            page,
        })
    }
}

fn facts(summary: &RouteSummary, page: &Page) -> Vec<(&'static str, String)> {
    let route = &summary.route;
    let events = if route.events.is_empty() {
        "all".into()
    } else {
        route.events.join(", ")
    };
    let since = route
        .definition
        .as_ref()
        .map(|definition| definition.created_at)
        .or(summary.stats.created_at);
    let mut facts = vec![
        (
            "path",
            route.host.as_ref().map_or_else(
                || route.path.to_string(),
                |host| format!("{host}{}", route.path),
            ),
        ),
        ("provider", route.provider.unwrap_or("own scheme").into()),
        ("upstream", route.url.clone()),
        ("delivery", route.delivery_mode.as_str().into()),
        ("event types", events),
        (
            "defined",
            if route.definition.is_some() {
                "over the API".into()
            } else {
                "in the file".into()
            },
        ),
    ];
    facts.extend(since.map(|at| ("known since", page.ago(&at))));
    facts.extend(
        summary
            .expect_every
            .map(|every| ("expected every", words::span(every.as_secs()))),
    );
    let description = route
        .definition
        .as_ref()
        .map(|definition| definition.description.clone());
    facts.extend(
        description
            .filter(|text| !text.is_empty())
            .map(|text| ("description", text)),
    );
    facts
}

fn figures(
    status: &RouteStatus,
    summary: &RouteSummary,
    page: &Page,
) -> Vec<(&'static str, String)> {
    let (requests, record) = (status.requests(), &summary.stats);
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "never".into(), |at| page.ago(&at));
    let mut figures = vec![
        ("requests now", words::rate(status.requests_per_second)),
        ("accepted, last hour", words::count(requests.accepted)),
        (
            "success, last hour",
            success_rate(status.deliveries.delivered, status.deliveries.missed),
        ),
        (
            "delivered, last hour",
            words::count(status.deliveries.delivered),
        ),
        (
            "time to delivery, p95",
            status
                .deliveries
                .p95_seconds
                .map_or_else(|| "–".into(), words::milliseconds),
        ),
        ("duplicates, last hour", words::count(requests.duplicate)),
        ("rejected, last hour", words::count(requests.rejected)),
        ("waiting", words::count(status.pending)),
        ("dead letters", words::count(status.dead)),
        ("last verified", ago(status.last_verified)),
        ("last success", ago(record.last_success)),
        ("last failure", ago(record.last_failure)),
        ("delivered in all", words::count(record.successful)),
    ];
    figures.extend(
        status
            .oldest_waiting
            .map(|at| ("oldest waiting", page.ago(&at))),
    );
    figures
}

fn secrets(status: &RouteStatus, now: Timestamp) -> Vec<Secret> {
    let secret = |secret: &SecretUse| Secret {
        name: secret.name.to_string(),
        verified: words::count(secret.verified),
        expires: secret.expires.as_ref().map(format_exact),
        expired: secret.expires.is_some_and(|end| end <= now),
    };
    status.secrets.iter().map(secret).collect()
}
