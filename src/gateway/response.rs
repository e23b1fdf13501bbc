//! The response to a request: the one mapping from its outcome to status, headers and body.

mod outcome;

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora_core::Result as PingoraResult;
use pingora_http::ResponseHeader;
use tokio::time::timeout_at;

use super::session::Session;
use crate::delivery::named_by_connection;
use crate::handshake::HandshakeResponse;
use crate::route::Probe;
use crate::upstream::Response as UpstreamResponse;

pub(super) use outcome::{Outcome, Rejection};

const HOOKSTILE_OUTCOME: &str = "Hookstile-Outcome";
const HOOKSTILE_EVENT_ID: &str = "Hookstile-Event-Id";

/// The headers of an upstream's response that are not passed on: those that concern its connection
/// to the gateway (RFC 9110 §7.6.1), and those that the gateway sets itself.
static NOT_PASSED_ON: [HeaderName; 13] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::DATE,
    header::PROXY_AUTHENTICATE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("hookstile-event-id"),
    HeaderName::from_static("hookstile-outcome"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A response, ready to be written.
pub(super) struct Response {
    head: Box<ResponseHeader>,
    body: Bytes,
}

impl Response {
    /// Builds the response to a request. `event_id` is known for verified events only. With
    /// `is_empty`, a response of the gateway itself has no body.
    ///
    /// # Errors
    /// When a header of the upstream's response cannot be set.
    pub(super) fn new(
        outcome: Outcome,
        event_id: Option<&str>,
        is_empty: bool,
    ) -> PingoraResult<Self> {
        let (code, status) = (outcome.code(), outcome.status());
        let mut response = match outcome {
            Outcome::Delivered(upstream) | Outcome::UpstreamRejected(upstream) => {
                Self::from_upstream(upstream, status)?
            }
            Outcome::Challenge(reply) => Self::from_handshake(reply)?,
            Outcome::Probed(probe, allowed) => Self::to_probe(&probe, &allowed)?,
            outcome => Self::from_gateway(&outcome, is_empty)?,
        };
        let code = HeaderValue::from_static(code.as_str());
        response.head.insert_header(HOOKSTILE_OUTCOME, code)?;
        if let Some(id) = event_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            response.head.insert_header(HOOKSTILE_EVENT_ID, id)?;
        }
        Ok(response)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Passes an upstream's response on under `status`.
    fn from_upstream(upstream: UpstreamResponse, status: StatusCode) -> PingoraResult<Self> {
        let UpstreamResponse { mut head, body, .. } = upstream;
        head.set_version(Version::HTTP_11);
        let hop_by_hop: Vec<_> = named_by_connection(&head.headers).collect();
        for name in NOT_PASSED_ON.iter().chain(&hop_by_hop) {
            head.remove_header(name);
        }
        if head.status != status {
            head.remove_header(&header::LOCATION);
            head.set_status(status)?;
            head.set_reason_phrase(None)?;
        }
        let has_no_body = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !has_no_body {
            head.insert_header("Content-Length", body.len())?;
        }
        Ok(Self { head, body })
    }

    fn from_handshake(reply: HandshakeResponse) -> PingoraResult<Self> {
        let mut head = ResponseHeader::build(reply.status, Some(8))?;
        head.insert_header("Content-Type", reply.content_type)?;
        // The body echoes what the sender sent, so no browser may render it as a page.
        head.insert_header("X-Content-Type-Options", "nosniff")?;
        if reply.status != StatusCode::NO_CONTENT {
            head.insert_header("Content-Length", reply.body.len())?;
        }
        Ok(Self {
            head: Box::new(head),
            body: reply.body,
        })
    }

    /// Builds the response to a probe, which has no body.
    fn to_probe(probe: &Probe, allowed: &[Method]) -> PingoraResult<Self> {
        let mut head = ResponseHeader::build(probe.status, Some(8))?;
        if probe.method == Method::OPTIONS {
            head.insert_header("Allow", list(allowed))?;
        }
        for (name, value) in &probe.headers {
            head.insert_header(name.clone(), value.clone())?;
        }
        if probe.status != StatusCode::NO_CONTENT {
            head.insert_header("Content-Length", 0)?;
        }
        Ok(Self {
            head: Box::new(head),
            body: Bytes::new(),
        })
    }

    /// Builds a response of the gateway itself: JSON, or a problem document for an error.
    fn from_gateway(outcome: &Outcome, is_empty: bool) -> PingoraResult<Self> {
        let status = outcome.status();
        let mut head = ResponseHeader::build(status, Some(8))?;
        let mut body = Bytes::new();
        if !is_empty {
            let content_type = if status.is_success() {
                "application/json"
            } else {
                "application/problem+json"
            };
            head.insert_header("Content-Type", HeaderValue::from_static(content_type))?;
            body = document(outcome, status).into();
        }
        head.insert_header("Content-Length", body.len())?;
        if let Some(wait) = outcome.retry_after() {
            head.insert_header("Retry-After", whole_seconds(wait))?;
        }
        if let Outcome::Rejected(Rejection::MethodNotAllowed(methods)) = outcome {
            head.insert_header("Allow", list(methods))?;
        }
        Ok(Self {
            head: Box::new(head),
            body,
        })
    }

    /// Writes the whole response by `deadline`. Returns `false` when that failed; the connection
    /// must be closed then.
    pub(super) async fn write(self, session: &mut Session<'_>, deadline: Instant) -> bool {
        // Over HTTP/1.1, the session leaves out the body of a response to HEAD itself.
        let is_http2_head = session.is_http2() && session.req_header().method == Method::HEAD;
        let body = if is_http2_head {
            Bytes::new()
        } else {
            self.body
        };
        let written = pin!(session.write_response(self.head, body));
        matches!(timeout_at(deadline.into(), written).await, Ok(Ok(())))
    }
}

/// Returns methods as `Allow` lists them.
fn list(methods: &[Method]) -> String {
    let names: Vec<_> = methods.iter().map(Method::as_str).collect();
    names.join(", ")
}

/// Returns the JSON of a response of the gateway itself: a problem document (RFC 9457) unless the
/// status is 2xx. Of its texts, only the detail may need escapes.
fn document(outcome: &Outcome, status: StatusCode) -> String {
    let code = outcome.code().as_str();
    let detail = serde_json::to_string(&outcome.detail()).unwrap_or_default();
    if status.is_success() {
        return [r#"{"outcome":""#, code, r#"","detail":"#, &detail, "}"].concat();
    }
    [
        r#"{"type":"urn:hookstile:problem:"#,
        code,
        r#"","title":""#,
        status.canonical_reason().unwrap_or("Error"),
        r#"","status":"#,
        status.as_str(),
        r#","detail":"#,
        &detail,
        r#","code":""#,
        code,
        r#""}"#,
    ]
    .concat()
}

/// Returns a wait in seconds, rounded up and at least 1: RFC 9110 §10.2.3 has whole seconds only.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::event::EnvelopeError;

    #[test]
    fn wait_is_rounded_up_to_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }

    #[test]
    fn document_is_json() {
        for outcome in [
            Outcome::Ignored,
            Outcome::Rejected(Rejection::UnknownRoute),
            Outcome::Rejected(EnvelopeError::IdMalformed.into()),
        ] {
            let (code, status) = (outcome.code().as_str(), outcome.status());
            let expected = if status.is_success() {
                json!({ "outcome": code, "detail": outcome.detail() })
            } else {
                json!({
                    "type": format!("urn:hookstile:problem:{code}"),
                    "title": status.canonical_reason().unwrap_or("Error"),
                    "status": status.as_u16(),
                    "detail": outcome.detail(),
                    "code": code,
                })
            };
            assert_eq!(document(&outcome, status), expected.to_string());
        }
    }
}
