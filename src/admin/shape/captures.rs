//! Captured requests, as JSON.

use async_graphql::SimpleObject;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::admin::operations::captures::{CaptureList, CapturingRoute, RouteCapture};
use crate::admin::webhook_id::webhook_id;
use crate::outcome::Code;

/// The captured requests, without their headers and bodies.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Captures {
    pub success: bool,
    /// The captured requests, the newest first.
    pub captures: Vec<ListedCapture>,
    /// The number of captured requests that are kept.
    pub total: usize,
    pub has_more: bool,
    /// The webhooks that capture requests.
    pub webhooks: Vec<CapturingWebhook>,
}

/// A captured request, without its headers and body.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct ListedCapture {
    #[schema(pattern = "^cap_[0-9a-f]{16}$")]
    pub id: String,
    pub webhook_id: String,
    pub route: String,
    pub received_at: Timestamp,
    #[schema(value_type = Code)]
    pub outcome: String,
    /// The reason within the outcome.
    pub reason: Option<String>,
    /// Set if the request was forwarded nevertheless, because the route has `enforce: false`.
    /// `outcome` is the one that it would have had, and `status` is what its sender got.
    #[serde(default)]
    #[schema(required)]
    pub let_pass: bool,
    pub status: u16,
    pub method: String,
    /// The path without the query.
    pub path: String,
    pub peer: Option<String>,
    pub body_bytes: usize,
}

/// The bounds of the requests that a webhook captures: its key `capture`.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct CapturingWebhook {
    pub webhook_id: String,
    pub route: String,
    /// The most requests.
    pub requests: usize,
    /// The most bytes of all requests.
    pub bytes: usize,
    /// The time for which a request is kept.
    pub for_seconds: u64,
    /// The number of requests that were not captured because each was larger than `bytes`.
    pub too_large: u64,
}

/// A captured request, whole.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct OneCapture {
    pub success: bool,
    pub capture: Capture,
}

/// A request as it was received, that was rejected or let pass unverified. Its signature may be valid, so it is as secret as the
/// event.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Capture {
    #[schema(pattern = "^cap_[0-9a-f]{16}$")]
    pub id: String,
    pub webhook_id: String,
    pub route: String,
    pub received_at: Timestamp,
    #[schema(value_type = Code)]
    pub outcome: String,
    /// The reason within the outcome.
    pub reason: Option<String>,
    /// Set if the request was forwarded nevertheless, because the route has `enforce: false`.
    /// `outcome` is the one that it would have had, and `status` is what its sender got.
    #[serde(default)]
    #[schema(required)]
    pub let_pass: bool,
    pub status: u16,
    pub peer: Option<String>,
    pub trace_id: Option<String>,
    pub method: String,
    /// The path with the query, as it was sent.
    pub target: String,
    /// The headers in the order and the case in which they were sent.
    pub headers: Vec<CapturedHeader>,
    /// The body; `null` if it is not UTF-8.
    pub body: Option<String>,
    /// Every byte of the body, in base64.
    pub body_base64: String,
}

/// A header of a captured request.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct CapturedHeader {
    pub name: String,
    /// The value. Bytes that are not UTF-8 are replaced.
    pub value: String,
}

impl From<CaptureList> for Captures {
    fn from(list: CaptureList) -> Self {
        Self {
            success: true,
            has_more: list.total > list.captures.len(),
            captures: list.captures.into_iter().map(Into::into).collect(),
            total: list.total,
            webhooks: list.routes.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<CapturingRoute> for CapturingWebhook {
    fn from(route: CapturingRoute) -> Self {
        Self {
            webhook_id: webhook_id(&route.route),
            route: (*route.route).into(),
            requests: route.limits.requests,
            bytes: route.limits.bytes,
            for_seconds: route.limits.keep.as_secs(),
            too_large: route.too_large,
        }
    }
}

impl From<RouteCapture> for ListedCapture {
    fn from(capture: RouteCapture) -> Self {
        let RouteCapture { route, request } = capture;
        let path = request.target.split('?').next().unwrap_or_default();
        Self {
            id: (*request.id).into(),
            webhook_id: webhook_id(&route),
            route: (*route).into(),
            received_at: request.received_at,
            outcome: request.kind.code.as_str().into(),
            reason: request.kind.reason.map(Into::into),
            let_pass: request.kind.let_pass,
            status: request.status,
            method: (*request.method).into(),
            path: path.into(),
            peer: request.peer.map(|peer| peer.to_string()),
            body_bytes: request.body.len(),
        }
    }
}

impl From<RouteCapture> for OneCapture {
    fn from(capture: RouteCapture) -> Self {
        let RouteCapture { route, request } = capture;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let headers = request.headers.iter().map(|header| CapturedHeader {
            name: text(&header.name),
            value: text(&header.value),
        });
        Self {
            success: true,
            capture: Capture {
                id: (*request.id).into(),
                webhook_id: webhook_id(&route),
                route: (*route).into(),
                received_at: request.received_at,
                outcome: request.kind.code.as_str().into(),
                reason: request.kind.reason.map(Into::into),
                let_pass: request.kind.let_pass,
                status: request.status,
                peer: request.peer.map(|peer| peer.to_string()),
                trace_id: request.trace_id.as_deref().map(Into::into),
                method: (*request.method).into(),
                target: (*request.target).into(),
                headers: headers.collect(),
                body: std::str::from_utf8(&request.body).ok().map(Into::into),
                body_base64: BASE64.encode(&request.body),
            },
        }
    }
}
