//! Test events: made up for a route, signed with its secret, and sent to the gateway's own listener as a sender would.

use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use jiff::Timestamp;
use serde_json::Value;

use super::front::Front;
use super::operations::{Refused, Tested};
use crate::delivery::{TEST_MARK, TestMarks};
use crate::providers::sample_for_envelope;
use crate::route::Route;

/// Waited for beyond the route's budget.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends one, and waits for the answer.
pub(super) fn send(
    route: &Route,
    marks: &TestMarks,
    front: &Front,
    kind: &str,
    data: Value,
) -> Result<Tested, Refused> {
    let now = Timestamp::now();
    let id = format!("evt_test_{:016x}", fastrand::u64(..));
    let sample = sample_for_envelope(
        &route.envelope,
        &|header| route.verifier.signs_header(header),
        kind,
        &id,
        now,
        data,
    );
    let sample = sample.ok_or(Refused::CannotMakeEvent)?;
    let body = String::from_utf8(sample.body).map_err(|_| Refused::CannotMakeEvent)?;
    let signed = route
        .verifier
        .sign(&body, now, &id)
        .ok_or(Refused::CannotSign)?;
    let (headers, body) = signed.map_err(|_| Refused::CannotMakeEvent)?;

    let agent = front.agent(route.host.as_deref(), route.budget.total + PATIENCE)?;
    let mut request = agent.post(format!("{}{}", front.origin(), route.path));
    request = request.header("Content-Type", "application/json");
    if let Some(host) = &route.host {
        request = request.header("Host", &**host);
    }
    for (name, value) in headers.iter() {
        request = request.header(name, value);
    }
    for (name, value) in &sample.headers {
        request = request.header(
            name,
            HeaderValue::from_str(value).map_err(|_| Refused::NotInHeader)?,
        );
    }
    request = request.header(TEST_MARK, marks.mark(body.as_bytes()));
    let began = Instant::now();
    let response = request
        .send(&body)
        .map_err(|error| Refused::NoAnswer(error.to_string()))?;
    let outcome = response
        .headers()
        .get("hookstile-outcome")
        .and_then(|outcome| outcome.to_str().ok());
    let outcome = outcome.ok_or_else(|| Refused::NoAnswer("what answered is no gateway".into()))?;
    Ok(Tested {
        status: response.status().as_u16(),
        outcome: outcome.to_owned(),
        event_id: id,
        event_type: kind.to_owned(),
        duration: began.elapsed(),
    })
}
