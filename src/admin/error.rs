//! The errors of the admin API, each with its code, status and detail.

use std::borrow::Cow;

use axum::http::StatusCode;

use super::reload::ReloadError;
use crate::diagnostic::LocatedDiagnostic;
use crate::store::StoreError;
use crate::webhooks::WebhookError;

/// The reason why a request is not answered with what it asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ApiError {
    /// The request has no valid token or session; or the token has expired.
    Unauthorized,
    /// The `Host` is not a name of this listener, as after DNS rebinding.
    Misdirected,
    /// A page of another origin made the browser send the request.
    CrossOrigin,
    /// The caller may only read, and requested a change.
    ReadOnly,
    /// Without a token: the connection is not one of the gateway's own user or of root.
    OtherUser,
    UnsupportedMediaType,
    /// The same for a `PATCH`, which takes one more type.
    UnsupportedPatch,
    UnknownPath,
    MethodNotAllowed,
    InvalidParameter(String),
    InvalidBody(String),
    InvalidHeader(String),
    BodyTooLarge,
    BodyTimeout,
    /// All places for connections are taken by others with a token.
    Busy,
    Operation(OperationError),
}

/// The reason why an operation was not carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OperationError {
    #[error("There is no webhook of this ID, nor any delivery of one.")]
    NoSuchWebhook,
    #[error("There is no such delivery; records are kept as long as the route's `retain` says.")]
    NoSuchDelivery,
    #[error(
        "There is no such captured request; they are kept in memory, as the route's `capture` says."
    )]
    NoSuchCapture,
    #[error("A copy of this event is being delivered now.")]
    InFlight,
    #[error("The payload was not kept, so there is nothing to deliver; see the route's `retain`.")]
    PayloadNotKept,
    #[error("Another bulk redelivery is running; try again when it has finished.")]
    RedeliveryRunning,
    #[error("No bulk redelivery is running; there is nothing to cancel.")]
    NoRedeliveryRunning,
    #[error(
        "At this pace the last event would be due in more than three days; choose a faster pace, \
         or fewer events."
    )]
    PaceTooSlow,
    #[error(
        "The ledger does not hold this event ID for this route. If the route reads IDs from a \
         header, it may hold the body: forget that as `sha256:…`."
    )]
    NoSuchEvent,
    #[error("Events are moved from one route to another: name two routes.")]
    SameRoute,
    #[error("There is no route of this ID to move the events to; it must be configured.")]
    UnknownTarget,
    #[error(
        "The route to move the events to has no queue: it delivers with `delivery: proxy`. Choose \
         a route with `queue` or `spill`."
    )]
    NoQueue,
    #[error(
        "The route is configured, here or on another gateway, and delivers its events itself. Only \
         the events of a route that is no longer configured can be moved."
    )]
    StillConfigured,
    #[error(
        "An attempt at one of the route's events began before it was removed, and has not ended; \
         try again in a moment."
    )]
    AttemptInFlight,
    #[error("{0}")]
    Webhook(#[from] WebhookError),
    #[error(
        "No test event can be signed: the route's secrets are public keys, or have all expired."
    )]
    CannotSign,
    #[error("No test event can be built for this route's `event` and `signature`.")]
    CannotBuildEvent,
    #[error("This route reads the event type from a header, which holds no control characters.")]
    NotInHeader,
    #[error("The gateway did not answer the test event: {0}.")]
    NoAnswer(String),
    #[error("The store cannot be read or written: {0}.")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Reload(#[from] ReloadError),
}

impl ApiError {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossOrigin | Self::ReadOnly | Self::OtherUser => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType | Self::UnsupportedPatch => {
                StatusCode::UNSUPPORTED_MEDIA_TYPE
            }
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::InvalidParameter(_) | Self::InvalidBody(_) | Self::InvalidHeader(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Operation(error) => error.status(),
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Misdirected => "misdirected",
            Self::CrossOrigin => "cross_origin",
            Self::ReadOnly => "read_only",
            Self::OtherUser => "other_user",
            Self::UnsupportedMediaType | Self::UnsupportedPatch => "unsupported_media_type",
            Self::UnknownPath => "unknown_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::InvalidParameter(_) => "invalid_parameter",
            Self::InvalidBody(_) => "invalid_body",
            Self::InvalidHeader(_) => "invalid_header",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Busy => "busy",
            Self::Operation(error) => error.code(),
        }
    }

    pub(super) fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Unauthorized => "This needs `Authorization: Bearer` with the admin token.",
            Self::Misdirected => {
                "The `Host` is not this listener: use its own address or name, or localhost, or \
                 add the name to `admin.hosts`."
            }
            Self::CrossOrigin => "A page of another origin may not request this.",
            Self::ReadOnly => "This token may only read; this needs the admin token.",
            Self::OtherUser => {
                "Without `admin.token`, only the gateway's own user and root may connect; set a token \
                 for others."
            }
            Self::UnsupportedMediaType => "A change needs `Content-Type: application/json`.",
            Self::UnsupportedPatch => {
                "A patch needs `Content-Type: application/merge-patch+json` or `application/json`."
            }
            Self::UnknownPath => "There is nothing at this path.",
            Self::MethodNotAllowed => "This path does not take this method.",
            Self::InvalidParameter(detail)
            | Self::InvalidBody(detail)
            | Self::InvalidHeader(detail) => detail,
            Self::BodyTooLarge => "The body is larger than 64 KiB.",
            Self::BodyTimeout => "The body did not arrive in time.",
            Self::Busy => "Too many connections of clients with a token are open.",
            Self::Operation(error) => return Cow::Owned(error.to_string()),
        })
    }

    /// Returns the problems of a configuration that was refused.
    pub(super) fn problems(&self) -> &[LocatedDiagnostic] {
        match self {
            Self::Operation(OperationError::Reload(ReloadError::Invalid(problems))) => problems,
            _ => &[],
        }
    }

    /// Reports an invalid parameter as part of an invalid body.
    pub(super) fn in_body(self) -> Self {
        match self {
            Self::InvalidParameter(detail) => Self::InvalidBody(detail),
            other => other,
        }
    }
}

impl OperationError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchWebhook
            | Self::NoSuchDelivery
            | Self::NoSuchCapture
            | Self::NoSuchEvent
            | Self::Webhook(WebhookError::Unknown) => StatusCode::NOT_FOUND,
            Self::InFlight
            | Self::StillConfigured
            | Self::AttemptInFlight
            | Self::PayloadNotKept
            | Self::RedeliveryRunning
            | Self::NoRedeliveryRunning
            | Self::CannotSign
            | Self::CannotBuildEvent
            | Self::Webhook(
                WebhookError::InFile
                | WebhookError::Taken(_)
                | WebhookError::TooMany(_)
                | WebhookError::KeyInFlight,
            ) => StatusCode::CONFLICT,
            Self::Webhook(WebhookError::OtherVersion) => StatusCode::PRECONDITION_FAILED,
            Self::Webhook(WebhookError::Invalid(_) | WebhookError::KeyReused)
            | Self::PaceTooSlow
            | Self::SameRoute
            | Self::UnknownTarget
            | Self::NoQueue
            | Self::Reload(ReloadError::Invalid(_))
            | Self::NotInHeader => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::Store(_)
            | Self::Webhook(WebhookError::Store(_))
            | Self::Reload(ReloadError::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoSuchWebhook | Self::Webhook(WebhookError::Unknown) => "unknown_webhook",
            Self::Webhook(WebhookError::InFile) => "in_file",
            Self::Webhook(WebhookError::Taken(_)) => "taken",
            Self::Webhook(WebhookError::TooMany(_)) => "too_many_webhooks",
            Self::Webhook(WebhookError::Invalid(_)) => "invalid_webhook",
            Self::Webhook(WebhookError::OtherVersion) => "precondition_failed",
            Self::Webhook(WebhookError::KeyInFlight) => "idempotency_key_in_flight",
            Self::Webhook(WebhookError::KeyReused) => "idempotency_key_reused",
            Self::CannotSign => "cannot_sign",
            Self::CannotBuildEvent => "cannot_make_event",
            Self::NotInHeader => "not_in_header",
            Self::NoAnswer(_) => "no_answer",
            Self::NoSuchDelivery => "unknown_delivery",
            Self::InFlight | Self::AttemptInFlight => "in_flight",
            Self::SameRoute => "same_route",
            Self::UnknownTarget => "unknown_target",
            Self::NoQueue => "no_queue",
            Self::StillConfigured => "still_configured",
            Self::NoSuchCapture => "unknown_capture",
            Self::PayloadNotKept => "payload_not_kept",
            Self::RedeliveryRunning => "redelivery_under_way",
            Self::NoRedeliveryRunning => "no_redelivery_under_way",
            Self::PaceTooSlow => "pace_too_slow",
            Self::NoSuchEvent => "unknown_event",
            Self::Store(_) | Self::Webhook(WebhookError::Store(_)) => "store_unavailable",
            Self::Reload(ReloadError::Invalid(_)) => "invalid_configuration",
            Self::Reload(ReloadError::Stopping) => "draining",
        }
    }
}

impl From<OperationError> for ApiError {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}
