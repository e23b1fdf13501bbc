//! The page of one delivery: its steps, and its headers and body if they are kept.

use std::fmt::Write as _;

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;

use super::page::{Moment, Page, Shared, respond};
use super::{curl, events, words};
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;
use crate::admin::query::delivery_id;
use crate::admin::shape::deliveries::{Attempt, AttemptResponse, Delivery};
use crate::admin::shape::headers::Header;
use crate::json;
use crate::store::{DeliveryRecord, DeliveryState as Standing};

/// The bytes of a body that the page shows; the API returns the whole body.
const SHOWN_BYTES: usize = 64 << 10;

#[derive(Template)]
#[template(path = "event.html")]
struct EventPage {
    page: Page,
    id: String,
    route: String,
    event_id: String,
    event_type: String,
    status: &'static str,
    is_test: bool,
    received: Moment,
    verified_with: Option<String>,
    attempts: String,
    steps: Vec<Step>,
    payload_kept: bool,
    /// What keeps the event from being delivered now.
    obstacle: String,
    /// The command that sends the event to its upstream, if its payload is kept.
    curl: Option<String>,
    headers: Vec<Header>,
    body: Option<Body>,
}

/// A step in the life of a delivery.
struct Step {
    class: &'static str,
    at: Option<Moment>,
    title: String,
    detail: String,
    /// The upstream's response, if it was not 2xx and its body is kept.
    response: Option<KeptResponse>,
}

struct KeptResponse {
    /// The response is shown at once: the last one.
    shown: bool,
    summary: String,
    text: String,
}

struct Body {
    text: String,
    bytes: String,
    cut: bool,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    Path(id): Path<String>,
) -> Response {
    respond(EventPage::load(&operations, page, &id).await)
}

impl EventPage {
    async fn load(operations: &Operations, page: Page, id: &str) -> Result<Self, ApiError> {
        let view = operations.delivery(delivery_id(id)?).await?;
        let (state, received_at) = (view.state, view.received_at);
        let served = operations.served_route(&view.route);
        let mode = served.as_ref().map(|route| route.delivery_mode.as_str());
        let (body, route) = (view.body.as_deref().map(Body::new), view.route.clone());
        let sent = view.body.clone();
        let delivery = Delivery::whole(DeliveryRecord { body: None, ..view });
        let page = Page {
            search: delivery.event_id.clone(),
            ..page
        };
        let curl = match (&served, &delivery.headers, &sent) {
            (Some(served), Some(headers), Some(body)) => {
                Some(curl::command(&served.url, headers, body))
            }
            _ => None,
        };
        Ok(Self {
            obstacle: events::route_obstacle(operations, &route)
                .map_or_else(String::new, |obstacle| obstacle.text),
            curl,
            received: page.moment(&received_at),
            verified_with: delivery.verified_with.clone(),
            attempts: words::counted(delivery.attempt_count.into(), "attempt", "attempts"),
            steps: steps(&delivery, state, received_at, mode, &page),
            page,
            route,
            status: state.as_str(),
            is_test: delivery.test,
            payload_kept: delivery.payload_kept,
            headers: delivery.headers.unwrap_or_default(),
            body,
            id: delivery.id,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
        })
    }
}

fn steps(
    delivery: &Delivery<Vec<Attempt>>,
    state: Standing,
    received_at: Timestamp,
    delivery_mode: Option<&str>,
    page: &Page,
) -> Vec<Step> {
    let step = |class, title: &str, detail: String| Step {
        class,
        at: Some(page.moment(&received_at)),
        title: title.into(),
        detail,
        response: None,
    };
    let secret = delivery.verified_with.as_ref();
    let mut steps = vec![
        step(
            "good",
            "received",
            delivery_mode.map_or_else(String::new, |mode| {
                format!("on a route with `delivery: {mode}`")
            }),
        ),
        step(
            "good",
            "verified",
            secret.map_or_else(
                || "the signature is valid".into(),
                |secret| format!("with the secret `{secret}`"),
            ),
        ),
        step(
            "good",
            "no duplicate",
            "no event with this ID had been delivered".into(),
        ),
    ];
    steps.extend(delivery.attempts.iter().map(|tried| attempt(tried, page)));
    if let Some(last) = steps
        .iter_mut()
        .rev()
        .find_map(|step| step.response.as_mut())
    {
        last.shown = true;
    }
    steps.push(last_step(delivery, state));
    if delivery.possible_duplicate && state != Standing::Success {
        steps.push(Step {
            class: "notice",
            at: None,
            title: "possible duplicate".into(),
            detail: "the upstream may have processed an attempt whose response was lost; the next \
                     attempt is marked"
                .into(),
            response: None,
        });
    }
    steps
}

fn attempt(attempt: &Attempt, page: &Page) -> Step {
    let good = attempt
        .status
        .is_some_and(|status| (200..300).contains(&status));
    let mut result = match (attempt.status, &attempt.error) {
        (Some(status), _) => format!("the upstream answered {status}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "no response".into(),
    };
    if let Some(cause) = attempt.cause.as_deref().filter(|cause| *cause != "status") {
        let _ = write!(result, " (`{cause}`)");
    }
    if let Some(address) = &attempt.address {
        let _ = write!(result, ", at `{address}`");
    }
    Step {
        class: if good { "good" } else { "bad" },
        at: Some(page.moment(&attempt.at)),
        title: format!("attempt {}", attempt.number),
        detail: format!("{result}, after {}", format_duration(attempt.duration_ms)),
        response: attempt.response.as_ref().and_then(KeptResponse::new),
    }
}

fn format_duration(milliseconds: u64) -> String {
    match milliseconds {
        0 => "less than 1\u{a0}ms".into(),
        1..10_000 => format!("{milliseconds}\u{a0}ms"),
        more => words::span(more / 1_000),
    }
}

fn last_step(delivery: &Delivery<Vec<Attempt>>, state: Standing) -> Step {
    let (class, title, detail) = match state {
        Standing::Success => (
            "good",
            "delivered",
            "completed in the ledger: no copy is delivered within the window".into(),
        ),
        Standing::Failed => (
            "bad",
            "released",
            "the sender got the error, and its retry will be accepted".into(),
        ),
        Standing::Pending => {
            let next = delivery.next_attempt_in_seconds;
            let next = next.map_or_else(
                || "soon".into(),
                |seconds| format!("in {}", words::span(seconds)),
            );
            (
                "notice",
                "waiting",
                format!("stored; the next attempt is due {next}"),
            )
        }
        Standing::Dead => {
            let reason = match delivery.reason.as_deref() {
                Some("again") => "dead again after an automatic redelivery",
                Some(reason) => reason,
                None => "unknown reason",
            };
            (
                "bad",
                "dead letter",
                format!("{reason}; kept until it is redelivered"),
            )
        }
    };
    Step {
        class,
        at: None,
        title: title.into(),
        detail,
        response: None,
    }
}

impl KeptResponse {
    /// Returns what is shown of a response; `None` if its body is empty or not kept.
    fn new(response: &AttemptResponse) -> Option<Self> {
        let text = response.body.clone().filter(|body| !body.is_empty())?;
        let content_type = response
            .content_type
            .as_deref()
            .unwrap_or("no content type");
        let bytes = words::count(response.body_bytes);
        Some(Self {
            shown: false,
            summary: format!("Response: {content_type}, {bytes} bytes"),
            text,
        })
    }
}

impl Body {
    fn new(bytes: &[u8]) -> Self {
        let cut = bytes.len() > SHOWN_BYTES;
        let shown = String::from_utf8_lossy(if cut { &bytes[..SHOWN_BYTES] } else { bytes });
        let text = if cut { None } else { json::pretty(&shown) };
        Self {
            text: text.unwrap_or_else(|| shown.into_owned()),
            bytes: words::count(bytes.len() as u64),
            cut,
        }
    }
}
