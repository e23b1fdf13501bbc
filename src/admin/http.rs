//! HTTP that REST, GraphQL and the dashboard share: JSON bodies, and errors as problem documents.

use std::fmt::Display;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{ApiError, OperationError};
use super::shape::problem::Problem;
use crate::webhooks::WebhookError;

/// A request's body, or the reason why it could not be read.
pub(super) type Body = Result<Bytes, BytesRejection>;

/// The largest body: room for a webhook's definition or a test event's data.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// The `Retry-After` of an unavailable store; it may have been reopened by then.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("2");

/// The header that lists the types of a `PATCH` (RFC 5789 §3.1).
pub(super) const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// The media type of a JSON Merge Patch.
pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";

/// The types that a `PATCH` takes.
const PATCH_TYPES: &str = "application/merge-patch+json, application/json";

/// Parses a body, which must be a JSON object.
pub(super) fn parse<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let body = body.map_err(|_| ApiError::BodyTooLarge)?;
    let parsed = serde_json::from_slice(&body).map_err(|error| invalid_body(&error))?;
    // serde would accept an array of the members' values, too.
    if body.trim_ascii_start().starts_with(b"{") {
        Ok(parsed)
    } else {
        Err(invalid_body(&"it must be an object"))
    }
}

/// Parses a body as [`parse`] does, or returns the default if it is empty.
pub(super) fn parse_or_default<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    match body {
        Ok(body) if body.is_empty() => Ok(T::default()),
        body => parse(body),
    }
}

fn invalid_body(reason: &dyn Display) -> ApiError {
    ApiError::InvalidBody(format!("The body is not valid: {reason}."))
}

/// Builds a JSON response.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Response {
    match serde_json::to_vec(document) {
        Ok(body) => (status, [(header::CONTENT_TYPE, "application/json")], body).into_response(),
        // Only a map with keys that are no strings fails, and no document has one.
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status();
        let document = Problem {
            type_uri: format!("urn:hookstile:problem:{}", self.code()),
            title: status.canonical_reason().unwrap_or("Error").into(),
            status: status.as_u16(),
            detail: self.detail().into_owned(),
            code: self.code().into(),
            success: false,
            problems: self.problems().to_vec(),
        };
        let mut response = json(status, &document);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::Operation(
                OperationError::Store(_) | OperationError::Webhook(WebhookError::Store(_)),
            ) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            Self::UnsupportedPatch => {
                headers.insert(ACCEPT_PATCH, HeaderValue::from_static(PATCH_TYPES));
            }
            _ => {}
        }
        response
    }
}
