//! Test events: built for a route, signed with its secret, and sent to the gateway over an
//! in-process connection as a sender would send them.

use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use jiff::Timestamp;
use pingora_core::protocols::http::v1::client::HttpSession;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::Operations;
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::admin::query::TestEvent;
use crate::delivery::{TEST_MARK, TestMarks};
use crate::gateway::InProcessListener;
use crate::providers::sample_for_envelope;
use crate::route::Route;
use crate::store::{DeliveryFilter, DeliveryRecord};

/// The time to wait for a response beyond the route's budget.
const GRACE: Duration = Duration::from_secs(2);

/// The bytes of a response's body that are shown.
const BODY_SHOWN_MAX: usize = 4096;

/// The `Host` of a test event for a route that accepts any.
const HOST: &str = "127.0.0.1";

/// The gateway's response to a test event.
pub(crate) struct TestOutcome {
    pub status: u16,
    pub outcome: String,
    pub event_id: String,
    pub event_type: String,
    pub duration: Duration,
    /// The start of the response's body, up to [`BODY_SHOWN_MAX`].
    pub body: Vec<u8>,
    /// The record of the delivery, if the event was tried or stored.
    pub delivery: Option<DeliveryRecord>,
}

/// The gateway's answer to a test event.
struct Answer {
    status: u16,
    outcome: String,
    /// The name by which the ledger knows the event; `None` if the gateway did not read it.
    ledger_name: Option<String>,
    /// The start of the body.
    body: Vec<u8>,
}

/// A signed test event as an HTTP/1.1 request.
struct TestRequest {
    bytes: Vec<u8>,
    event_id: String,
}

impl Operations {
    /// Sends a test event to a route and returns the gateway's response.
    pub(crate) async fn send_test_event(
        &self,
        operator: Operator,
        name: &str,
        event: TestEvent,
    ) -> Result<TestOutcome, OperationError> {
        let result = self.build_and_send(name, event).await;
        operator.audited("test", name, result)
    }

    async fn build_and_send(
        &self,
        name: &str,
        event: TestEvent,
    ) -> Result<TestOutcome, OperationError> {
        let route = self.find_current(name).await?.route;
        let event_type = event.event_type.clone();
        let marks = TestMarks::new(self.state.store.hash_key());
        let request = TestRequest::build(&route, &marks, event)?;
        let start = Instant::now();
        let sent = send(&self.state.in_process, &request.bytes);
        let Answer {
            status,
            outcome,
            ledger_name,
            body,
        } = timeout(route.budget.total + GRACE, sent)
            .await
            .unwrap_or_else(|_| Err("no response within the route's budget".into()))
            .map_err(OperationError::NoAnswer)?;
        let duration = start.elapsed();
        let of_this_event = DeliveryFilter {
            route: Some(route.name.to_string()),
            event_id: Some(ledger_name.unwrap_or_else(|| request.event_id.clone())),
            limit: 1,
            ..DeliveryFilter::default()
        };
        let delivery = self.state.store.deliveries(of_this_event).await?.pop();
        Ok(TestOutcome {
            status,
            outcome,
            event_id: request.event_id,
            event_type,
            duration,
            body,
            delivery,
        })
    }
}

impl TestRequest {
    fn build(route: &Route, marks: &TestMarks, event: TestEvent) -> Result<Self, OperationError> {
        let now = Timestamp::now();
        let event_id = format!("evt_test_{:016x}", fastrand::u64(..));
        let sample = sample_for_envelope(
            &route.envelope,
            &|header| route.verifier.signs_header(header),
            &event.event_type,
            &event_id,
            now,
            event.custom_data,
        )
        .ok_or(OperationError::CannotBuildEvent)?;
        let body = String::from_utf8(sample.body).map_err(|_| OperationError::CannotBuildEvent)?;
        let (signature, body) = route
            .verifier
            .sign(&body, now, &event_id)
            .ok_or(OperationError::CannotSign)?
            .map_err(|_| OperationError::CannotBuildEvent)?;
        for (_, value) in &sample.headers {
            HeaderValue::from_str(value).map_err(|_| OperationError::NotInHeader)?;
        }

        let mark = marks.mark(body.as_bytes());
        let (mark_name, length) = (TEST_MARK, body.len().to_string());
        let common = [
            ("Host", route.host.as_deref().unwrap_or(HOST)),
            (
                "User-Agent",
                concat!("hookstile/", env!("CARGO_PKG_VERSION")),
            ),
            ("Accept", "*/*"),
            ("Content-Type", "application/json"),
            ("Content-Length", &length),
            (mark_name.as_str(), &mark),
        ];
        let fields = sample
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        let mut text = format!("POST {} HTTP/1.1\r\n", route.path);
        for (name, value) in common.into_iter().chain(signature.iter()).chain(fields) {
            for part in [name, ": ", value, "\r\n"] {
                text.push_str(part);
            }
        }
        text.push_str("\r\n");
        text.push_str(&body);
        Ok(Self {
            bytes: text.into_bytes(),
            event_id,
        })
    }
}

/// Sends a request and returns the response.
async fn send(listener: &InProcessListener, request: &[u8]) -> Result<Answer, String> {
    // The buffer holds the whole request, so that writing it never waits for the gateway.
    let mut stream = listener
        .connect(request.len())
        .ok_or("the gateway is stopping")?;
    // The gateway may respond without reading the request to its end, so a failed write is no end.
    let _ = stream.write_all(request).await;
    let mut session = HttpSession::new(Box::new(stream));
    session
        .read_response()
        .await
        .map_err(|error| error.to_string())?;
    let head = session.resp_header().ok_or("no response")?;
    let text = |name| {
        let value = head.headers.get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let outcome = text("hookstile-outcome").ok_or("the response has no outcome")?;
    let ledger_name = text("hookstile-event-id");
    let status = head.status.as_u16();
    // Read to the end: the gateway logs a response that it can't write as a whole.
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = session.read_body_bytes().await {
        let shown = BODY_SHOWN_MAX.saturating_sub(body.len()).min(chunk.len());
        body.extend_from_slice(&chunk[..shown]);
    }
    Ok(Answer {
        status,
        outcome,
        ledger_name,
        body,
    })
}
