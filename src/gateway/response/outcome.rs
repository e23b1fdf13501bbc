//! The closed set of outcomes, each with its code, status and detail.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};

use crate::event::EnvelopeError;
use crate::gateway::request::head::{HeadError, MalformedHead};
use crate::gateway::verified_requests::Stopping;
use crate::handshake::HandshakeResponse;
use crate::limits::Exhausted;
use crate::outcome::{Code, TOO_MANY_COPIES};
use crate::route::{AdmissionError, OnDuplicate, Probe, Route};
use crate::signature::SignatureError;
use crate::store::StoreError;
use crate::upstream::{Response as UpstreamResponse, UpstreamError};

/// The outcome of a request, with what its response needs.
#[derive(Debug)]
pub(in crate::gateway) enum Outcome {
    /// The upstream answered 2xx.
    Delivered(UpstreamResponse),
    /// The upstream answered with another status.
    UpstreamRejected(UpstreamResponse),
    /// The event is stored and will be delivered; answered with this status.
    Queued(StatusCode),
    /// The route does not accept events of this type.
    Ignored,
    /// A handshake that the gateway answers.
    Challenge(HandshakeResponse),
    /// A provider's probe, and the methods that the route answers.
    Probed(Arc<Probe>, Vec<Method>),
    /// The request was rejected, or its delivery failed without a response.
    Rejected(Rejection),
}

/// The reason why a request ended early: it is not delivered, or the delivery failed without a
/// response of the upstream.
///
/// [`Code::is_rejection`] is narrower: it selects the codes that any sender can cause at will,
/// whose log lines are sampled.
#[derive(Debug)]
pub(in crate::gateway) enum Rejection {
    Duplicate(OnDuplicate),
    PayloadMismatch(OnDuplicate),
    /// The body was delivered as other events, as often as it may be in a window. Never
    /// acknowledged: it may be an event that the receiver has not seen.
    TooManyCopies,
    InFlight,
    InvalidSignature(SignatureError),
    InvalidEvent(EnvelopeError),
    MalformedRequest(MalformedHead),
    ForbiddenAddress,
    UnknownRoute,
    /// The route is switched off.
    Inactive,
    /// An operator has paused the route.
    Paused,
    /// The method is not one of these, which the route accepts.
    MethodNotAllowed(Vec<Method>),
    BodyTimeout,
    BodyTooLarge,
    HeadersTooLarge,
    /// The rate is exceeded for this long.
    RateLimited(Duration),
    /// The rate of requests that do not verify is exceeded for this long.
    UnverifiedRateLimited(Duration),
    UpstreamUnreachable,
    /// A limit of the route is reached.
    Overloaded,
    /// The request was displaced by another sender's, or does not fit into the memory.
    NoMemory,
    StoreUnavailable(StoreError),
    BudgetExceeded,
}

/// The `Retry-After` of failures of the gateway, which pass quickly.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The `Retry-After` of a route that an operator has switched off or paused.
const RETRY_AFTER_INACTIVE: Duration = Duration::from_secs(60);

impl Outcome {
    /// Returns the outcome of a probe that `route` answers.
    pub(in crate::gateway) fn probed(probe: &Arc<Probe>, route: &Route) -> Self {
        Self::Probed(Arc::clone(probe), route.allowed_methods())
    }

    /// Returns the code for metrics, logs and responses.
    pub(in crate::gateway) fn code(&self) -> Code {
        match self {
            Self::Delivered(_) => Code::Delivered,
            Self::UpstreamRejected(_) => Code::UpstreamRejected,
            Self::Queued(_) => Code::Queued,
            Self::Ignored => Code::Ignored,
            Self::Challenge(_) | Self::Probed(..) => Code::Challenge,
            Self::Rejected(rejection) => rejection.code(),
        }
    }

    /// Returns the reason for the log, where there is more to say than the code does: a label from
    /// a closed set.
    pub(in crate::gateway) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Delivered(response) | Self::UpstreamRejected(response) if response.truncated => {
                Some("response_too_large")
            }
            Self::Probed(..) => Some("probe"),
            Self::Rejected(rejection) => rejection.reason(),
            _ => None,
        }
    }

    /// Returns whether any sender can cause this outcome at will, so that its log lines are sampled.
    pub(in crate::gateway) fn is_at_will(&self) -> bool {
        matches!(self, Self::Probed(..)) || self.code().is_rejection()
    }

    /// Returns whether the connection must be closed because the rest of the request is unreadable.
    pub(in crate::gateway) fn closes_connection(&self) -> bool {
        matches!(
            self,
            Self::Rejected(
                Rejection::BodyTimeout
                    | Rejection::BodyTooLarge
                    | Rejection::NoMemory
                    | Rejection::HeadersTooLarge
                    | Rejection::MalformedRequest(_)
            )
        )
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Delivered(response) => response.status(),
            Self::UpstreamRejected(response) => rejected_status(response.status()),
            Self::Queued(status) => *status,
            Self::Ignored => StatusCode::OK,
            Self::Challenge(response) => response.status,
            Self::Probed(probe, _) => probe.status,
            Self::Rejected(rejection) => rejection.status(),
        }
    }

    /// Returns one sentence for a person who reads the response.
    pub(super) fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Delivered(_) => "The event was delivered.",
            Self::UpstreamRejected(_) => "The receiver rejected the event.",
            Self::Queued(_) => "The event is stored and will be delivered.",
            Self::Ignored => "The endpoint does not accept events of this type.",
            Self::Challenge(_) | Self::Probed(..) => "The endpoint exists.",
            Self::Rejected(rejection) => return rejection.detail(),
        })
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Rejected(rejection) => rejection.retry_after(),
            _ => None,
        }
    }
}

impl Rejection {
    fn code(&self) -> Code {
        match self {
            Self::Duplicate(_) | Self::TooManyCopies => Code::Duplicate,
            Self::PayloadMismatch(_) => Code::PayloadMismatch,
            Self::InFlight => Code::InFlight,
            Self::InvalidSignature(_) => Code::InvalidSignature,
            Self::InvalidEvent(_) => Code::InvalidEvent,
            Self::MalformedRequest(_) => Code::MalformedRequest,
            Self::ForbiddenAddress => Code::ForbiddenAddress,
            Self::UnknownRoute => Code::UnknownRoute,
            Self::Inactive | Self::Paused => Code::Inactive,
            Self::MethodNotAllowed(_) => Code::MethodNotAllowed,
            Self::BodyTimeout => Code::BodyTimeout,
            Self::BodyTooLarge => Code::BodyTooLarge,
            Self::HeadersTooLarge => Code::HeadersTooLarge,
            Self::RateLimited(_) | Self::UnverifiedRateLimited(_) => Code::RateLimited,
            Self::UpstreamUnreachable => Code::UpstreamUnreachable,
            Self::Overloaded | Self::NoMemory => Code::Overloaded,
            Self::StoreUnavailable(_) => Code::StoreUnavailable,
            Self::BudgetExceeded => Code::BudgetExceeded,
        }
    }

    fn reason(&self) -> Option<&'static str> {
        match self {
            Self::InvalidSignature(error) => Some(error.label()),
            Self::InvalidEvent(error) => Some(error.reason()),
            Self::MalformedRequest(malformed) => Some(malformed.label()),
            Self::StoreUnavailable(error) => Some(error.label()),
            Self::UnverifiedRateLimited(_) => Some("unverified"),
            Self::TooManyCopies => Some(TOO_MANY_COPIES),
            Self::Paused => Some("paused"),
            _ => None,
        }
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Duplicate(OnDuplicate::Reject)
            | Self::PayloadMismatch(OnDuplicate::Reject)
            | Self::TooManyCopies
            | Self::InFlight => StatusCode::CONFLICT,
            Self::Duplicate(OnDuplicate::Acknowledge)
            | Self::PayloadMismatch(OnDuplicate::Acknowledge) => StatusCode::OK,
            Self::InvalidSignature(_) => StatusCode::UNAUTHORIZED,
            Self::InvalidEvent(_) | Self::MalformedRequest(_) => StatusCode::BAD_REQUEST,
            Self::ForbiddenAddress => StatusCode::FORBIDDEN,
            Self::UnknownRoute => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::RateLimited(_) | Self::UnverifiedRateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamUnreachable => StatusCode::BAD_GATEWAY,
            Self::Inactive
            | Self::Paused
            | Self::Overloaded
            | Self::NoMemory
            | Self::StoreUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::BudgetExceeded => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Returns one sentence for a person. All failed authentications have the same one.
    fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Duplicate(_) => {
                "An event with this ID was delivered before; it was not forwarded again."
            }
            Self::PayloadMismatch(_) => {
                "An event with this ID was delivered before, with another body; \
                 it was not forwarded again."
            }
            Self::TooManyCopies => {
                "This body was delivered before, as other events and as often as it may be; \
                 it was not forwarded again."
            }
            Self::InFlight => "The same event is being delivered now and did not end in time.",
            Self::InvalidSignature(_) => "The signature is missing, malformed, stale or wrong.",
            Self::InvalidEvent(error) => return Cow::Owned(error.to_string()),
            Self::MalformedRequest(malformed) => malformed.describe(),
            Self::ForbiddenAddress => "Requests from this address are not allowed.",
            Self::UnknownRoute => "There is no endpoint at this host and path.",
            Self::Inactive => "The endpoint is switched off; try again later.",
            Self::Paused => "The endpoint is paused; try again later.",
            Self::MethodNotAllowed(_) => "The endpoint does not accept this method.",
            Self::BodyTimeout => "The request did not arrive in time.",
            Self::BodyTooLarge => "The body is larger than the endpoint accepts.",
            Self::HeadersTooLarge => "The header section is too large.",
            Self::RateLimited(_) | Self::UnverifiedRateLimited(_) => {
                "Too many requests; try again later."
            }
            Self::UpstreamUnreachable => {
                "The receiver could not be reached, or the connection to it failed."
            }
            Self::Overloaded | Self::NoMemory => "The gateway is at its limit; try again later.",
            Self::StoreUnavailable(_) => {
                "The gateway cannot record the event now, so it was not forwarded."
            }
            Self::BudgetExceeded => "The receiver did not answer in time.",
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::InFlight | Self::Overloaded | Self::NoMemory | Self::StoreUnavailable(_) => {
                Some(RETRY_AFTER)
            }
            Self::Inactive | Self::Paused => Some(RETRY_AFTER_INACTIVE),
            Self::RateLimited(wait) | Self::UnverifiedRateLimited(wait) => Some(*wait),
            _ => None,
        }
    }
}

/// Returns the status for a response of the upstream that is not 2xx. 1xx and 3xx do not answer a
/// webhook, and 410 makes some providers delete the endpoint.
fn rejected_status(status: StatusCode) -> StatusCode {
    if status.is_informational() || status.is_redirection() || status == StatusCode::GONE {
        return StatusCode::BAD_GATEWAY;
    }
    status
}

impl From<HeadError> for Rejection {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLarge => Self::HeadersTooLarge,
            HeadError::Malformed(malformed) => Self::MalformedRequest(malformed),
        }
    }
}

impl From<AdmissionError> for Rejection {
    fn from(error: AdmissionError) -> Self {
        match error {
            AdmissionError::ForbiddenAddress => Self::ForbiddenAddress,
            AdmissionError::RateLimited { retry_after } => Self::RateLimited(retry_after),
            AdmissionError::UnverifiedRateLimited { retry_after } => {
                Self::UnverifiedRateLimited(retry_after)
            }
            AdmissionError::TooManyAtOnce => Self::Overloaded,
        }
    }
}

impl From<Exhausted> for Rejection {
    fn from(_: Exhausted) -> Self {
        Self::NoMemory
    }
}

impl From<Stopping> for Rejection {
    fn from(_: Stopping) -> Self {
        Self::Overloaded
    }
}

impl From<SignatureError> for Rejection {
    fn from(error: SignatureError) -> Self {
        Self::InvalidSignature(error)
    }
}

impl From<EnvelopeError> for Rejection {
    fn from(error: EnvelopeError) -> Self {
        Self::InvalidEvent(error)
    }
}

impl From<StoreError> for Rejection {
    fn from(error: StoreError) -> Self {
        Self::StoreUnavailable(error)
    }
}

impl From<UpstreamError> for Rejection {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::TimedOut => Self::BudgetExceeded,
            UpstreamError::Unreachable | UpstreamError::Broken => Self::UpstreamUnreachable,
        }
    }
}
