//! One delivery: what happened to the event, step by step, with its headers and its body where they are kept.

use askama::Template;
use axum::extract::{Path, State};
use axum::response::Response;
use jiff::Timestamp;

use super::page::{Page, Shared, exact, shown};
use super::words;
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;
use crate::admin::query::delivery_id;
use crate::admin::shape::deliveries::{Attempt, Delivery};
use crate::admin::shape::headers::Header;
use crate::json;
use crate::store::{DeliveryRecord, DeliveryState as Standing};

/// Of a body that is shown; the API has all of it.
const SHOWN_BYTES: usize = 64 << 10;

#[derive(Template)]
#[template(path = "event.html")]
struct Delivered {
    page: Page,
    id: String,
    route: String,
    event_id: String,
    event_type: String,
    status: &'static str,
    is_test: bool,
    steps: Vec<Step>,
    payload_kept: bool,
    headers: Vec<Header>,
    body: Option<Body>,
}

/// One thing that happened.
struct Step {
    class: &'static str,
    at: String,
    title: String,
    detail: String,
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
    shown(Delivered::of(&operations, page, &id).await)
}

impl Delivered {
    async fn of(operations: &Operations, page: Page, id: &str) -> Result<Self, ApiError> {
        let view = operations.delivery(delivery_id(id)?).await?;
        let (state, received_at) = (view.state, view.received_at);
        let handover = operations
            .served_route(&view.route)
            .map(|route| route.delivery_mode.as_str());
        let (body, route) = (view.body.as_deref().map(Body::of), view.route.clone());
        let delivery = Delivery::whole(DeliveryRecord { body: None, ..view });
        let page = Page {
            search: delivery.event_id.clone(),
            ..page
        };
        Ok(Self {
            page,
            route,
            status: state.as_str(),
            is_test: delivery.test,
            steps: steps(&delivery, state, received_at, handover),
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
    handover: Option<&str>,
) -> Vec<Step> {
    let at = exact(&received_at);
    let step = |class, title: &str, detail: String| Step {
        class,
        at: at.clone(),
        title: title.into(),
        detail,
    };
    let secret = delivery.verified_with.as_ref();
    let mut steps = vec![
        step(
            "good",
            "received",
            handover.map_or_else(String::new, |handover| {
                format!("on a route with delivery: {handover}")
            }),
        ),
        step(
            "good",
            "verified",
            secret.map_or_else(
                || "its signature".into(),
                |secret| format!("with the secret `{secret}`"),
            ),
        ),
        step(
            "good",
            "claimed in the ledger",
            "no event of this ID had been handed over".into(),
        ),
    ];
    steps.extend(delivery.attempts.iter().map(attempt));
    let last = steps
        .last()
        .map_or_else(String::new, |step| step.at.clone());
    steps.push(end(delivery, state, last));
    if delivery.possible_duplicate && state != Standing::Success {
        steps.push(Step {
            class: "note",
            at: String::new(),
            title: "possible duplicate".into(),
            detail: "an attempt may have been processed though its answer was lost; the upstream is told".into(),
        });
    }
    steps
}

fn attempt(attempt: &Attempt) -> Step {
    let good = attempt
        .status
        .is_some_and(|status| (200..300).contains(&status));
    let result = match (attempt.status, &attempt.error) {
        (Some(status), _) => format!("the upstream answered {status}"),
        (None, Some(error)) => error.clone(),
        (None, None) => "no answer".into(),
    };
    Step {
        class: if good { "good" } else { "bad" },
        at: exact(&attempt.at),
        title: format!("attempt {}", attempt.number),
        detail: format!("{result}, after {}", took(attempt.duration_ms)),
    }
}

fn took(milliseconds: u64) -> String {
    match milliseconds {
        0 => "less than 1\u{a0}ms".into(),
        1..10_000 => format!("{milliseconds}\u{a0}ms"),
        more => words::span(more / 1_000),
    }
}

fn end(delivery: &Delivery<Vec<Attempt>>, state: Standing, at: String) -> Step {
    let (class, title, detail) = match state {
        Standing::Success => (
            "good",
            "delivered",
            "completed in the ledger: no copy is forwarded inside the window".into(),
        ),
        Standing::Failed => (
            "bad",
            "released",
            "the sender was told, and its retry passes".into(),
        ),
        Standing::Pending => {
            let next = delivery.next_attempt_in_seconds;
            let next = next.map_or_else(
                || "soon".into(),
                |seconds| format!("in {}", words::span(seconds)),
            );
            (
                "note",
                "waiting",
                format!("stored; the next attempt is due {next}"),
            )
        }
        Standing::Dead => {
            let reason = delivery.reason.as_deref().unwrap_or("given up");
            (
                "bad",
                "dead letter",
                format!("given up: {reason}; kept until it is redelivered"),
            )
        }
    };
    Step {
        class,
        at,
        title: title.into(),
        detail,
    }
}

impl Body {
    fn of(bytes: &[u8]) -> Self {
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
