//! From what became of a request to the answer its sender gets: the one mapping to status, headers and body.

use std::borrow::Cow;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Method, StatusCode, Version};
use pingora_core::Result as PingoraResult;
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use serde_json::json;
use tokio::time::timeout_at;

use super::head::HeadError;
use crate::delivery::named_by_connection;
use crate::event::EnvelopeError;
use crate::handshake::HandshakeResponse;
use crate::outcome::Code;
use crate::route::OnDuplicate;
use crate::signature::SignatureError;
use crate::store::StoreError;
use crate::upstream::Response;

/// What became of a request, with what its answer needs.
#[derive(Debug)]
pub enum Outcome {
    Delivered(Response),
    UpstreamRejected(Response),
    /// Stored, to be delivered afterwards; answered with this status.
    Queued(StatusCode),
    Duplicate(OnDuplicate),
    InFlight,
    PayloadMismatch(OnDuplicate),
    Ignored,
    /// A handshake, answered here.
    Challenge(HandshakeResponse),
    InvalidSignature(SignatureError),
    InvalidEvent(EnvelopeError),
    MalformedRequest(HeadError),
    ForbiddenAddress,
    UnknownRoute,
    /// The route is switched off.
    Inactive,
    MethodNotAllowed(Vec<Method>),
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    RateLimited(Duration),
    UpstreamUnreachable,
    Overloaded,
    StoreUnavailable(StoreError),
    BudgetExceeded,
}

/// When a sender may come again after trouble of ours that passes quickly.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The same for an endpoint that somebody switched off.
const RETRY_AFTER_INACTIVE: Duration = Duration::from_secs(60);

const HOOKSTILE_OUTCOME: &str = "Hookstile-Outcome";
const HOOKSTILE_EVENT_ID: &str = "Hookstile-Event-Id";

/// Headers of an upstream's answer that concern its connection to us only (RFC 9110 §7.6.1), or that are ours to set.
const NOT_PASSED_BACK: [HeaderName; 13] = [
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

impl Outcome {
    pub fn code(&self) -> Code {
        match self {
            Self::Delivered(_) => Code::Delivered,
            Self::UpstreamRejected(_) => Code::UpstreamRejected,
            Self::Queued(_) => Code::Queued,
            Self::Duplicate(_) => Code::Duplicate,
            Self::InFlight => Code::InFlight,
            Self::PayloadMismatch(_) => Code::PayloadMismatch,
            Self::Ignored => Code::Ignored,
            Self::Challenge(_) => Code::Challenge,
            Self::InvalidSignature(_) => Code::InvalidSignature,
            Self::InvalidEvent(_) => Code::InvalidEvent,
            Self::MalformedRequest(_) => Code::MalformedRequest,
            Self::ForbiddenAddress => Code::ForbiddenAddress,
            Self::UnknownRoute => Code::UnknownRoute,
            Self::Inactive => Code::Inactive,
            Self::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Self::BodyTimeout => Code::BodyTimeout,
            Self::BodyTooLarge => Code::BodyTooLarge,
            Self::HeadersTooLarge => Code::HeadersTooLarge,
            Self::RateLimited(_) => Code::RateLimited,
            Self::UpstreamUnreachable => Code::UpstreamUnreachable,
            Self::Overloaded => Code::Overloaded,
            Self::StoreUnavailable(_) => Code::StoreUnavailable,
            Self::BudgetExceeded => Code::BudgetExceeded,
        }
    }

    /// More than the code says, for the log: a label of a closed set.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Self::InvalidSignature(failure) => Some(failure.label()),
            Self::InvalidEvent(error) => Some(error.reason()),
            Self::MalformedRequest(fault) => Some(fault.label()),
            Self::StoreUnavailable(error) => Some(error.label()),
            Self::Delivered(response) | Self::UpstreamRejected(response) if response.truncated => {
                Some("response_too_large")
            }
            _ => None,
        }
    }

    /// Whether the connection is of no more use, the rest of the request being unreadable.
    pub fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::BodyTimeout
                | Self::BodyTooLarge
                | Self::HeadersTooLarge
                | Self::MalformedRequest(_)
        )
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Delivered(response) => response.status(),
            Self::UpstreamRejected(response) => rejected_status(response.status()),
            Self::Queued(status) => *status,
            Self::Duplicate(OnDuplicate::Reject)
            | Self::PayloadMismatch(OnDuplicate::Reject)
            | Self::InFlight => StatusCode::CONFLICT,
            Self::Duplicate(OnDuplicate::Acknowledge)
            | Self::PayloadMismatch(OnDuplicate::Acknowledge)
            | Self::Ignored => StatusCode::OK,
            Self::Challenge(reply) => reply.status,
            Self::InvalidSignature(_) => StatusCode::UNAUTHORIZED,
            Self::InvalidEvent(_) | Self::MalformedRequest(_) => StatusCode::BAD_REQUEST,
            Self::ForbiddenAddress => StatusCode::FORBIDDEN,
            Self::UnknownRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::Inactive | Self::Overloaded | Self::StoreUnavailable(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::BudgetExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// One sentence for whoever reads the answer. Those of a failed authentication are all the same.
    fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Delivered(_) => "The event was handed over.",
            Self::UpstreamRejected(_) => "The receiver refused the event.",
            Self::Queued(_) => "The event is stored and will be delivered.",
            Self::Duplicate(_) => {
                "An event with this ID was handed over before; it was not forwarded again."
            }
            Self::InFlight => "The same event is being handed over now and did not end in time.",
            Self::PayloadMismatch(_) => {
                "An event with this ID was handed over before, with another body; it was not forwarded again."
            }
            Self::Ignored => "The endpoint does not take events of this type.",
            Self::Challenge(_) => "The endpoint is here.",
            Self::InvalidSignature(_) => "The signature is missing, malformed, stale or wrong.",
            Self::InvalidEvent(error) => return Cow::Owned(error.to_string()),
            Self::MalformedRequest(fault) => fault.describe(),
            Self::ForbiddenAddress => "Requests from this address are not let in.",
            Self::UnknownRoute => "There is no endpoint at this host and path.",
            Self::Inactive => "The endpoint is switched off; come again later.",
            Self::MethodNotAllowed(_) => "The endpoint does not take this method.",
            Self::BodyTimeout => "The request did not arrive in time.",
            Self::BodyTooLarge => "The body is larger than the endpoint takes.",
            Self::HeadersTooLarge => "The header section is larger than is taken.",
            Self::RateLimited(_) => "Too many requests; come again later.",
            Self::UpstreamUnreachable => {
                "The receiver could not be reached, or the connection to it failed."
            }
            Self::Overloaded => "The gateway has as much to do as it may; come again later.",
            Self::StoreUnavailable(_) => {
                "The gateway cannot keep record of the event now, so it was not forwarded."
            }
            Self::BudgetExceeded => "The receiver gave no answer in time.",
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InFlight | Self::Overloaded | Self::StoreUnavailable(_) => Some(RETRY_AFTER),
            Self::Inactive => Some(RETRY_AFTER_INACTIVE),
            Self::RateLimited(wait) => Some(*wait),
            _ => None,
        }
    }
}

/// 1xx and 3xx are no answers to a webhook, and 410 makes some providers delete the endpoint.
fn rejected_status(status: StatusCode) -> StatusCode {
    if status.is_informational() || status.is_redirection() || status == StatusCode::GONE {
        return StatusCode::BAD_GATEWAY;
    }
    status
}

/// An answer, ready to be written.
pub(super) struct Answer {
    head: Box<ResponseHeader>,
    body: Bytes,
}

impl Answer {
    /// `event_id` is known from verified requests only.
    pub(super) fn to(outcome: Outcome, event_id: Option<&str>) -> PingoraResult<Self> {
        let (code, status) = (outcome.code(), outcome.status());
        let mut answer = match outcome {
            Outcome::Delivered(response) | Outcome::UpstreamRejected(response) => {
                Self::passed_back(response, status)?
            }
            Outcome::Challenge(reply) => Self::of_handshake(reply)?,
            outcome => Self::own(&outcome)?,
        };
        answer
            .head
            .insert_header(HOOKSTILE_OUTCOME, code.as_str())?;
        if let Some(id) = event_id.and_then(|id| HeaderValue::from_bytes(id.as_bytes()).ok()) {
            answer.head.insert_header(HOOKSTILE_EVENT_ID, id)?;
        }
        Ok(answer)
    }

    pub(super) fn status(&self) -> StatusCode {
        self.head.status
    }

    fn passed_back(response: Response, status: StatusCode) -> PingoraResult<Self> {
        let Response { mut head, body, .. } = response;
        head.set_version(Version::HTTP_11);
        let of_connection: Vec<_> = named_by_connection(&head.headers).collect();
        for name in NOT_PASSED_BACK.iter().chain(&of_connection) {
            head.remove_header(name);
        }
        if head.status != status {
            head.remove_header(&header::LOCATION);
            head.set_status(status)?;
            head.set_reason_phrase(None)?;
        }
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if !bodiless {
            head.insert_header("Content-Length", body.len())?;
        }
        Ok(Self { head, body })
    }

    fn of_handshake(reply: HandshakeResponse) -> PingoraResult<Self> {
        let mut head = ResponseHeader::build(reply.status, Some(8))?;
        head.insert_header("Content-Type", reply.content_type)?;
        // It holds what the sender sent: no browser is to make a page of it.
        head.insert_header("X-Content-Type-Options", "nosniff")?;
        if reply.status != StatusCode::NO_CONTENT {
            head.insert_header("Content-Length", reply.body.len())?;
        }
        Ok(Self {
            head: Box::new(head),
            body: reply.body,
        })
    }

    fn own(outcome: &Outcome) -> PingoraResult<Self> {
        let status = outcome.status();
        let (content_type, document) = if status.is_success() {
            (
                "application/json",
                json!({ "outcome": outcome.code().as_str(), "detail": outcome.detail() }),
            )
        } else {
            ("application/problem+json", problem(outcome, status))
        };
        let body = Bytes::from(document.to_string());
        let mut head = ResponseHeader::build(status, Some(8))?;
        head.insert_header("Content-Type", content_type)?;
        head.insert_header("Content-Length", body.len())?;
        if let Some(wait) = outcome.retry_after() {
            head.insert_header("Retry-After", whole_seconds(wait))?;
        }
        if let Outcome::MethodNotAllowed(methods) = outcome {
            let allowed: Vec<_> = methods.iter().map(Method::as_str).collect();
            head.insert_header("Allow", allowed.join(", "))?;
        }
        Ok(Self {
            head: Box::new(head),
            body,
        })
    }

    /// Writes the answer, whole, by `deadline`. `false` when that failed; the connection is of no use then.
    pub(super) async fn write(self, session: &mut ServerSession, deadline: Instant) -> bool {
        let written = pin!(async {
            session.write_response_header(self.head).await?;
            session.write_response_body(self.body, true).await
        });
        matches!(timeout_at(deadline.into(), written).await, Ok(Ok(())))
    }
}

/// RFC 9457.
fn problem(outcome: &Outcome, status: StatusCode) -> serde_json::Value {
    let code = outcome.code().as_str();
    json!({
        "type": format!("urn:hookstile:problem:{code}"),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": outcome.detail(),
        "code": code,
    })
}

/// Rounded up, and at least 1 (RFC 9110 §10.2.3 knows whole seconds only).
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: Outcome) -> Answer {
        Answer::to(outcome, None).unwrap()
    }

    fn response(status: u16) -> Response {
        let mut head = ResponseHeader::build(status, None).unwrap();
        head.insert_header("X-App", "kept").unwrap();
        head.insert_header("Connection", "close, X-Hop").unwrap();
        head.insert_header("X-Hop", "1").unwrap();
        head.insert_header("Hookstile-Outcome", "spoofed").unwrap();
        Response {
            head: Box::new(head),
            body: Bytes::from_static(b"body"),
            truncated: false,
        }
    }

    #[test]
    fn every_failed_authentication_has_the_same_body() {
        let bodies = [
            SignatureError::Missing,
            SignatureError::Malformed,
            SignatureError::Mismatch,
            SignatureError::Stale,
        ]
        .map(|failure| answer(Outcome::InvalidSignature(failure)).body);
        assert!(bodies.iter().all(|body| *body == bodies[0]));
    }

    #[test]
    fn an_error_is_a_problem_document_that_names_its_code() {
        let answer = answer(Outcome::UnknownRoute);
        let document: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            answer.head.headers["content-type"],
            "application/problem+json"
        );
        assert_eq!(document["code"], "unknown_route");
        assert_eq!(document["status"], 404);
        assert!(
            document["type"].is_string()
                && document["title"].is_string()
                && document["detail"].is_string()
        );
    }

    #[test]
    fn an_upstream_s_answer_passes_but_for_its_connection_and_our_names() {
        let answer = answer(Outcome::Delivered(response(201)));
        assert_eq!(answer.status(), 201);
        assert_eq!(answer.head.headers["x-app"], "kept");
        assert_eq!(answer.head.headers["content-length"], "4");
        assert_eq!(answer.head.headers["hookstile-outcome"], "delivered");
        assert!(!answer.head.headers.contains_key("connection"));
        assert!(!answer.head.headers.contains_key("x-hop"));
    }

    #[test]
    fn statuses_that_would_harm_the_endpoint_become_502() {
        for (upstream, answered) in [
            (101, 502),
            (301, 502),
            (304, 502),
            (410, 502),
            (404, 404),
            (500, 500),
            (429, 429),
        ] {
            assert_eq!(
                answer(Outcome::UpstreamRejected(response(upstream))).status(),
                answered,
                "{upstream}"
            );
        }
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_rounded_up() {
        for (millis, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
