//! Why the API does not do what it was asked, and the one mapping from that to status, headers and body (RFC 9457).

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::operations::Refused;
use super::reload::NotReloaded;
use crate::webhooks;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// There is a token, and the request does not carry it; or it has expired.
    Unauthorized,
    /// The request was meant for somebody else, or a browser was led here by a name that is not ours.
    Misdirected,
    /// A page of another origin made a browser send this.
    CrossOrigin,
    UnsupportedMediaType,
    UnknownPath,
    MethodNotAllowed,
    InvalidParameter(String),
    /// The body is not the JSON that it should be.
    InvalidBody(String),
    BodyTooLarge,
    Refused(Refused),
    /// The configuration was not reloaded: what is wrong with it, each problem in one line.
    InvalidConfiguration(Vec<String>),
    Stopping,
}

/// When to ask again for what the store could not tell: by then it may have been opened anew.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

impl Problem {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossOrigin => StatusCode::FORBIDDEN,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownPath
            | Self::Refused(
                Refused::NoSuchWebhook
                | Refused::NoSuchDelivery
                | Refused::NoSuchEvent
                | Refused::Webhook(webhooks::Refused::Unknown),
            ) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::InvalidParameter(_) | Self::InvalidBody(_) => StatusCode::BAD_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Refused(
                Refused::InFlight
                | Refused::PayloadNotKept
                | Refused::RedeliveryUnderWay
                | Refused::CannotSign
                | Refused::CannotMakeEvent
                | Refused::Webhook(webhooks::Refused::InFile | webhooks::Refused::Taken(_)),
            ) => StatusCode::CONFLICT,
            Self::Refused(Refused::Webhook(webhooks::Refused::Invalid(_))) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::InvalidConfiguration(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Refused(Refused::NoAnswer(_)) => StatusCode::BAD_GATEWAY,
            Self::Refused(Refused::Store(_) | Refused::Webhook(webhooks::Refused::Store(_))) | Self::Stopping => {
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::Misdirected => "misdirected",
            Self::CrossOrigin => "cross_origin",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnknownPath => "unknown_path",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::InvalidParameter(_) => "invalid_parameter",
            Self::InvalidBody(_) => "invalid_body",
            Self::BodyTooLarge => "body_too_large",
            Self::Refused(Refused::NoSuchWebhook | Refused::Webhook(webhooks::Refused::Unknown)) => "unknown_webhook",
            Self::Refused(Refused::Webhook(webhooks::Refused::InFile)) => "in_file",
            Self::Refused(Refused::Webhook(webhooks::Refused::Taken(_))) => "taken",
            Self::Refused(Refused::Webhook(webhooks::Refused::Invalid(_))) => "invalid_webhook",
            Self::Refused(Refused::CannotSign) => "cannot_sign",
            Self::Refused(Refused::CannotMakeEvent) => "cannot_make_event",
            Self::Refused(Refused::NoAnswer(_)) => "no_answer",
            Self::Refused(Refused::NoSuchDelivery) => "unknown_delivery",
            Self::Refused(Refused::InFlight) => "in_flight",
            Self::Refused(Refused::PayloadNotKept) => "payload_not_kept",
            Self::Refused(Refused::RedeliveryUnderWay) => "redelivery_under_way",
            Self::Refused(Refused::NoSuchEvent) => "unknown_event",
            Self::Refused(Refused::Store(_) | Refused::Webhook(webhooks::Refused::Store(_))) => "store_unavailable",
            Self::InvalidConfiguration(_) => "invalid_configuration",
            Self::Stopping => "draining",
        }
    }

    pub(super) fn detail(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self {
            Self::Unauthorized => "This needs `Authorization: Bearer` with the admin token.",
            Self::Misdirected => "The `Host` is not this listener: use its own address or name, or localhost.",
            Self::CrossOrigin => "A page of another origin may not ask for this.",
            Self::UnsupportedMediaType => "A change needs `Content-Type: application/json`.",
            Self::UnknownPath => "There is nothing at this path.",
            Self::MethodNotAllowed => "This path does not take this method.",
            Self::InvalidParameter(detail) | Self::InvalidBody(detail) => detail,
            Self::BodyTooLarge => "The body is larger than a webhook's definition may be.",
            Self::Refused(refused) => return Cow::Owned(refused.to_string()),
            Self::InvalidConfiguration(_) => "The configuration is not valid; the old one stays.",
            Self::Stopping => "The gateway is about to stop.",
        })
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<NotReloaded> for Problem {
    fn from(reason: NotReloaded) -> Self {
        match reason {
            NotReloaded::Invalid(problems) => Self::InvalidConfiguration(problems),
            NotReloaded::Stopping => Self::Stopping,
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut document = json!({
            "type": format!("urn:hookgate:problem:{}", self.code()),
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": self.detail(),
            "code": self.code(),
            "success": false,
        });
        if let Self::InvalidConfiguration(problems) = &self {
            document["problems"] = json!(problems);
        }
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, content_type, document.to_string()).into_response();
        match self {
            Self::Unauthorized => {
                response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Refused(Refused::Store(_) | Refused::Webhook(webhooks::Refused::Store(_))) => {
                response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            _ => {}
        }
        response
    }
}
