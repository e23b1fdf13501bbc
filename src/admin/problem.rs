//! Why the API does not do what it was asked, and the one mapping from that to status, headers and body (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::operations::Refused;
use super::reload::NotReloaded;
use super::rest::json;
use super::shape;
use crate::webhooks;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// There is a token, and the request does not carry it; or it has expired.
    Unauthorized,
    /// The request was meant for somebody else, or a browser was led here by a name that is not ours.
    Misdirected,
    /// A page of another origin made a browser send this.
    CrossOrigin,
    /// Who asks may look, and asked for a change.
    ReadOnly,
    UnsupportedMediaType,
    UnknownPath,
    MethodNotAllowed,
    InvalidParameter(String),
    /// The body is not the JSON that it should be.
    InvalidBody(String),
    BodyTooLarge,
    /// The body did not arrive in time.
    BodyTimeout,
    Refused(Refused),
}

/// When to ask again for what the store could not tell: by then it may have been opened anew.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

impl Problem {
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossOrigin | Self::ReadOnly => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownPath => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::InvalidParameter(_) | Self::InvalidBody(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Refused(refused) => refused.status(),
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Misdirected => "misdirected",
            Self::CrossOrigin => "cross_origin",
            Self::ReadOnly => "read_only",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnknownPath => "unknown_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::InvalidParameter(_) => "invalid_parameter",
            Self::InvalidBody(_) => "invalid_body",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Refused(refused) => refused.code(),
        }
    }

    pub(super) fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Unauthorized => "This needs `Authorization: Bearer` with the admin token.",
            Self::Misdirected => {
                "The `Host` is not this listener: use its own address or name, or localhost, or add the name to \
                 `admin.hosts`."
            }
            Self::CrossOrigin => "A page of another origin may not ask for this.",
            Self::ReadOnly => "This token is for looking; a change needs the admin token.",
            Self::UnsupportedMediaType => "A change needs `Content-Type: application/json`.",
            Self::UnknownPath => "There is nothing at this path.",
            Self::MethodNotAllowed => "This path does not take this method.",
            Self::InvalidParameter(detail) | Self::InvalidBody(detail) => detail,
            Self::BodyTooLarge => {
                "The body is larger than 64 KiB, which is enough for anything that is asked here."
            }
            Self::BodyTimeout => "The body did not arrive in time.",
            Self::Refused(refused) => return Cow::Owned(refused.to_string()),
        })
    }
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoSuchWebhook
            | Self::NoSuchDelivery
            | Self::NoSuchEvent
            | Self::Webhook(webhooks::WebhookError::Unknown) => StatusCode::NOT_FOUND,
            Self::InFlight
            | Self::PayloadNotKept
            | Self::RedeliveryUnderWay
            | Self::CannotSign
            | Self::CannotMakeEvent
            | Self::Webhook(webhooks::WebhookError::InFile | webhooks::WebhookError::Taken(_)) => {
                StatusCode::CONFLICT
            }
            Self::Webhook(webhooks::WebhookError::Invalid(_))
            | Self::PaceTooSlow
            | Self::NotReloaded(NotReloaded::Invalid(_))
            | Self::NotInHeader => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoAnswer(_) => StatusCode::BAD_GATEWAY,
            Self::Store(_)
            | Self::Webhook(webhooks::WebhookError::Store(_))
            | Self::NotReloaded(NotReloaded::Stopping) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::NoSuchWebhook | Self::Webhook(webhooks::WebhookError::Unknown) => {
                "unknown_webhook"
            }
            Self::Webhook(webhooks::WebhookError::InFile) => "in_file",
            Self::Webhook(webhooks::WebhookError::Taken(_)) => "taken",
            Self::Webhook(webhooks::WebhookError::Invalid(_)) => "invalid_webhook",
            Self::CannotSign => "cannot_sign",
            Self::CannotMakeEvent => "cannot_make_event",
            Self::NotInHeader => "not_in_header",
            Self::NoAnswer(_) => "no_answer",
            Self::NoSuchDelivery => "unknown_delivery",
            Self::InFlight => "in_flight",
            Self::PayloadNotKept => "payload_not_kept",
            Self::RedeliveryUnderWay => "redelivery_under_way",
            Self::PaceTooSlow => "pace_too_slow",
            Self::NoSuchEvent => "unknown_event",
            Self::Store(_) | Self::Webhook(webhooks::WebhookError::Store(_)) => "store_unavailable",
            Self::NotReloaded(NotReloaded::Invalid(_)) => "invalid_configuration",
            Self::NotReloaded(NotReloaded::Stopping) => "draining",
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let document = shape::Problem {
            kind: format!("urn:hookstile:problem:{}", self.code()),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: self.detail().into_owned(),
            code: self.code().into(),
            success: false,
            problems: match &self {
                Self::Refused(Refused::NotReloaded(NotReloaded::Invalid(problems))) => {
                    problems.clone()
                }
                _ => Vec::new(),
            },
        };
        let mut response = json(status, &document);
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match self {
            Self::Unauthorized => {
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Refused(
                Refused::Store(_) | Refused::Webhook(webhooks::WebhookError::Store(_)),
            ) => {
                response
                    .headers_mut()
                    .insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}
