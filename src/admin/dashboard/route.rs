//! The page of one route: its problems, where it leads, its deliveries, its last hour, rejections,
//! secrets, and actions.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;

use super::chart::{Bars, Curve, Hour};
use super::events::{self, Entry};
use super::overview::success_rate;
use super::page::{Moment, Page, Shared, respond};
use super::problems::ProblemNotice;
use super::rejections::{RejectedRow, RejectionGroup};
use super::words;
use crate::admin::error::{ApiError, OperationError};
use crate::admin::operations::Operations;
use crate::admin::operations::numbers::HourlyDeliveries;
use crate::admin::operations::routes::RouteSummary;
use crate::admin::operations::status::{RouteStatus, SecretUse};
use crate::admin::webhook_id::webhook_id;
use crate::route::DeliveryMode;
use crate::store::DeliveryFilter;

/// The most rejections and deliveries on the page; pages of their own have more.
const LISTED: usize = 8;

#[derive(Template)]
#[template(path = "route.html")]
struct Route {
    page: Page,
    name: String,
    id: String,
    problems: Vec<ProblemNotice>,
    /// The host and the path at which the route receives.
    path: String,
    upstream: String,
    mode: &'static str,
    /// The delivery mode in a sentence.
    mode_text: &'static str,
    /// What a pause does to senders, in a sentence.
    pause_text: &'static str,
    tiles: Vec<Tile>,
    history: Vec<(&'static str, Option<Moment>)>,
    /// The events that were delivered in the last hour, and in all.
    delivered_lately: String,
    delivered: String,
    /// The time within which nearly all of the last hour's events were delivered.
    delivery_p95: Option<String>,
    facts: Vec<(&'static str, String)>,
    requests: Bars,
    attempts: Bars,
    p95: Option<Curve>,
    secrets: Vec<Secret>,
    rejection_groups: Vec<RejectionGroup>,
    rejected: Vec<RejectedRow>,
    deliveries: Vec<Entry>,
    paused: bool,
    /// `false` for a route with `enforce: false`.
    enforced: bool,
    dead: u64,
    /// What keeps redelivered events from being delivered now.
    obstacle: String,
}

/// A number of the route, and the page that lists what it counts.
struct Tile {
    label: &'static str,
    value: String,
    /// A remark below the number.
    remark: Option<(&'static str, Moment)>,
    link: Option<String>,
    class: &'static str,
}

struct Secret {
    name: String,
    verified: String,
    expires: Option<Moment>,
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
        let report = operations.problem_report().await;
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
        let latest = operations.deliveries(filter).await?.deliveries;
        let last_hour = &summary.last_hour;
        let rejected = operations.rejections(Some(name), None, LISTED)?.requests;
        let hour = Hour {
            minutes: &status.hour,
            known: operations.minutes_known(name),
            page: &page,
        };
        let route = &summary.route;
        let (mode_text, pause_text) = mode_in_words(route.delivery_mode);
        let record = &summary.stats;
        let moment = |at: Option<Timestamp>| at.map(|at| page.moment(&at));
        Ok(Self {
            name: name.into(),
            id: webhook_id(name),
            problems: problems
                .map(|problem| ProblemNotice::new(problem, &page))
                .collect(),
            path: match &route.host {
                Some(host) => format!("{host}{}", route.path),
                None => route.path.to_string(),
            },
            upstream: route.url.clone(),
            mode: route.delivery_mode.as_str(),
            mode_text,
            pause_text,
            tiles: tiles(&status, last_hour, &page),
            history: vec![
                ("last verified", moment(status.last_verified)),
                ("last success", moment(record.last_success)),
                ("last failure", moment(record.last_failure)),
            ],
            delivered_lately: words::count(last_hour.delivered),
            delivered: words::count(record.successful),
            delivery_p95: last_hour.p95_seconds.map(words::milliseconds),
            facts: facts(&summary, &page),
            requests: hour.requests(None),
            attempts: hour.attempts(),
            p95: hour.p95(),
            secrets: secrets(&status, &page),
            rejection_groups: status
                .rejected
                .iter()
                .map(|counted| RejectionGroup::new(counted, true, Some(name), &page))
                .collect(),
            rejected: rejected
                .iter()
                .map(|request| RejectedRow::new(request, &page))
                .collect(),
            deliveries: latest
                .into_iter()
                .map(|view| events::list_entry(view, &page))
                .collect(),
            paused: status.paused,
            enforced: route.enforced,
            dead: status.dead,
            obstacle: events::route_obstacle(operations, name)
                .map_or_else(String::new, |obstacle| obstacle.text),
            page,
        })
    }
}

/// Returns the delivery mode in a sentence, and what a pause then does.
fn mode_in_words(mode: DeliveryMode) -> (&'static str, &'static str) {
    match mode {
        DeliveryMode::Proxy => (
            "Each event is forwarded at once, and the sender gets the upstream's response.",
            "Until it is resumed, senders get 503 with `Retry-After`, and nothing is stored. \
             Providers send such events again later, each as long as it retries.",
        ),
        DeliveryMode::Queue => (
            "Each event is stored, the sender is answered, and the upstream gets it afterwards.",
            "New events are still accepted and stored. They wait until the route is resumed.",
        ),
        DeliveryMode::Spill => (
            "Each event is forwarded at once, and stored if the upstream cannot take it.",
            "New events are stored without an attempt. They wait until the route is resumed.",
        ),
    }
}

/// Returns the route's numbers: six, which fill two, three or six columns.
fn tiles(status: &RouteStatus, last_hour: &HourlyDeliveries, page: &Page) -> Vec<Tile> {
    let (requests, name) = (status.requests(), &status.route.name);
    let tile = |label, value, link: String| Tile {
        label,
        value,
        remark: None,
        link: Some(link),
        class: "",
    };
    let events = |state: &str| format!("/ui/events?webhook_id={name}&status={state}");
    vec![
        Tile {
            link: None,
            ..tile(
                "requests now",
                words::rate(status.requests_per_second),
                String::new(),
            )
        },
        tile(
            "success, last hour",
            success_rate(last_hour.delivered, last_hour.missed),
            format!("/ui/events?webhook_id={name}&within=1h"),
        ),
        tile(
            "rejected, last hour",
            words::count(requests.rejected),
            format!("/ui/rejections?route={name}"),
        ),
        tile(
            "duplicates, last hour",
            words::count(requests.duplicate),
            format!("/ui/rejections?route={name}&outcome=duplicate"),
        ),
        Tile {
            remark: status.oldest_waiting.map(|at| ("oldest", page.moment(&at))),
            class: if status.pending > 0 { "warning" } else { "" },
            ..tile("waiting", words::count(status.pending), events("pending"))
        },
        Tile {
            class: if status.dead > 0 { "critical" } else { "" },
            ..tile("dead letters", words::count(status.dead), events("dead"))
        },
    ]
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
        ("provider", route.provider.unwrap_or("own scheme").into()),
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
            .map(|every| ("expected every", words::exact_span(every))),
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

fn secrets(status: &RouteStatus, page: &Page) -> Vec<Secret> {
    let secret = |secret: &SecretUse| Secret {
        name: secret.name.to_string(),
        verified: words::count(secret.verified),
        expires: secret.expires.map(|end| page.moment(&end)),
        expired: secret.expires.is_some_and(|end| end <= page.now),
    };
    status.secrets.iter().map(secret).collect()
}
