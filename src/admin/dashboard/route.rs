//! The page of one route: its last hour, rejections, deliveries, secrets, and actions.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;

use super::chart::{self, Bars, Curve};
use super::events::{self, Entry};
use super::overview::success_rate;
use super::problems::{self, ProblemNotice};
use super::rejections::{self, RejectedRequest, RejectionGroup};
use super::{Page, Shared, format_exact, respond, words};
use crate::admin::glance::Glance;
use crate::admin::operations::{Operations, Refused, Standing};
use crate::admin::problem::Problem;
use crate::admin::shape::webhook_id;
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
    rejected: Vec<RejectedRequest>,
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
            .map_err(Problem::from),
    )
}

impl Route {
    async fn load(operations: &Operations, page: Page, name: &str) -> Result<Self, Refused> {
        let standing = operations.route(name).await?;
        let glance = operations.glance(name).await?;
        let filter = DeliveryFilter {
            route: Some(name.into()),
            limit: LISTED,
            ..DeliveryFilter::default()
        };
        let deliveries = operations.deliveries(filter).await?.deliveries;
        let rejected = operations.turned_away(Some(name), LISTED)?.away;
        Ok(Self {
            name: name.into(),
            id: webhook_id(name),
            facts: facts(&standing, &page),
            problems: problems::route_problems(&glance, page.now),
            requests: chart::requests(&glance.hour, page.now),
            attempts: chart::attempts(&glance.hour, page.now),
            p95: chart::p95(&glance.hour),
            figures: figures(&glance, &standing, &page),
            secrets: secrets(&glance, page.now),
            rejection_groups: rejections::group_rejections(&glance.rejected, &page),
            rejected: rejected
                .iter()
                .map(|request| RejectedRequest::new(request, &page))
                .collect(),
            deliveries: deliveries
                .into_iter()
                .map(|view| events::list_entry(view, &page))
                .collect(),
            paused: glance.paused,
            dead: glance.dead,
            page,
        })
    }
}

fn facts(standing: &Standing, page: &Page) -> Vec<(&'static str, String)> {
    let route = &standing.route;
    let events = if route.events.is_empty() {
        "all".into()
    } else {
        route.events.join(", ")
    };
    let since = route
        .made_from
        .as_ref()
        .map(|made| made.created_at)
        .or(standing.record.created_at);
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
        ("delivery", route.handover.as_str().into()),
        ("event types", events),
        (
            "defined",
            if route.made_from.is_some() {
                "over the API".into()
            } else {
                "in the file".into()
            },
        ),
    ];
    facts.extend(since.map(|at| ("known since", page.ago(&at))));
    facts.extend(
        standing
            .expect_every
            .map(|every| ("expected every", words::span(every.as_secs()))),
    );
    let description = route
        .made_from
        .as_ref()
        .map(|made| made.description.clone());
    facts.extend(
        description
            .filter(|text| !text.is_empty())
            .map(|text| ("description", text)),
    );
    facts
}

fn figures(glance: &Glance, standing: &Standing, page: &Page) -> Vec<(&'static str, String)> {
    let (requests, record) = (glance.requests(), &standing.record);
    let ago = |at: Option<Timestamp>| at.map_or_else(|| "never".into(), |at| page.ago(&at));
    let mut figures = vec![
        ("requests now", words::rate(glance.requests_per_second)),
        ("accepted, last hour", words::count(requests.accepted)),
        (
            "success, last hour",
            success_rate(requests.accepted, requests.failed),
        ),
        ("duplicates, last hour", words::count(requests.duplicate)),
        ("rejected, last hour", words::count(requests.rejected)),
        ("waiting", words::count(glance.pending)),
        ("dead letters", words::count(glance.dead)),
        ("last verified", ago(glance.last_verified)),
        ("last success", ago(record.last_success)),
        ("last failure", ago(record.last_failure)),
        ("delivered in all", words::count(record.successful)),
    ];
    figures.extend(
        glance
            .oldest_waiting
            .map(|at| ("oldest waiting", page.ago(&at))),
    );
    figures
}

fn secrets(glance: &Glance, now: Timestamp) -> Vec<Secret> {
    let secret = |secret: &crate::admin::glance::SecretUse| Secret {
        name: secret.name.to_string(),
        verified: words::count(secret.verified),
        expires: secret.expires.as_ref().map(format_exact),
        expired: secret.expires.is_some_and(|end| end <= now),
    };
    glance.secrets.iter().map(secret).collect()
}
