//! Rejected requests, as JSON: without body and signature, and with one header only.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::activity::RejectionCount;
use crate::admin::operations::rejections::{RejectedRequest, RejectionList};
use crate::admin::webhook_id::webhook_id;
use crate::outcome::Code;

/// The last requests that were rejected, verified and not delivered, or let pass unverified.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rejections {
    pub success: bool,
    /// The rejected requests, the newest first.
    pub rejections: Vec<Rejection>,
    /// The number of rejected requests that are remembered.
    pub total: usize,
    pub has_more: bool,
}

/// A request that was rejected, or verified and not delivered: a duplicate, another body with a
/// known ID, or an event of a type that the route ignores. Or one that did not verify and was let
/// pass.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rejection {
    pub at: Timestamp,
    /// `null`, as `route` is, if the request matched no route.
    pub webhook_id: Option<String>,
    pub route: Option<String>,
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
    /// Empty, as `path` is, if the head could not be read.
    pub method: String,
    /// The path without the query.
    pub path: String,
    #[schema(value_type = Option<String>)]
    pub peer: Option<IpAddr>,
    /// The number of bytes of the body that were read.
    pub body_bytes: Option<usize>,
    pub trace_id: Option<String>,
    pub user_agent: Option<String>,
    /// `null`, as `event_type` is, unless the request was verified and has an ID.
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    /// The reason in words: the change that would make the request genuine, if one was found. At
    /// most one request per route and minute is explained.
    pub explanation: Option<String>,
    /// The ID of the request as `GET /captures/{id}` takes it, if the route captures requests.
    pub capture_id: Option<String>,
    /// The number of similar requests after it that are not listed.
    pub left_out: u64,
}

/// The number of requests that were rejected for one reason.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(crate) struct Rejected {
    /// `null`, as `route` is, if the request matched no route.
    pub webhook_id: Option<String>,
    pub route: Option<String>,
    #[schema(value_type = Code)]
    pub outcome: String,
    pub reason: Option<String>,
    pub count: u64,
    pub last_at: Timestamp,
}

impl Rejected {
    /// Returns outcome and reason, as in `invalid_signature/mismatch`.
    pub(crate) fn name(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{}/{reason}", self.outcome),
            None => self.outcome.clone(),
        }
    }
}

impl From<RejectedRequest> for Rejection {
    fn from(rejected: RejectedRequest) -> Self {
        let RejectedRequest {
            route,
            rejection,
            left_out,
            explanation,
        } = rejected;
        Self {
            at: rejection.at,
            webhook_id: route.as_deref().map(webhook_id),
            route: route.as_deref().map(Into::into),
            outcome: rejection.kind.code.as_str().into(),
            reason: rejection.kind.reason.map(Into::into),
            let_pass: rejection.kind.let_pass,
            status: rejection.status,
            method: (*rejection.method).into(),
            path: (*rejection.path).into(),
            peer: rejection.peer,
            body_bytes: rejection.body_bytes,
            trace_id: rejection.trace_id.as_deref().map(Into::into),
            user_agent: rejection.user_agent.as_deref().map(Into::into),
            event_id: rejection.event_id.as_deref().map(Into::into),
            event_type: rejection.event_type.as_deref().map(Into::into),
            explanation: explanation.as_deref().map(Into::into),
            capture_id: rejection.capture_id.as_deref().map(Into::into),
            left_out,
        }
    }
}

impl From<RejectionList> for Rejections {
    fn from(list: RejectionList) -> Self {
        Self {
            success: true,
            has_more: list.total > list.requests.len(),
            rejections: list.requests.into_iter().map(Into::into).collect(),
            total: list.total,
        }
    }
}

/// Flattens counts by route into one list, in the order of the routes.
pub(super) fn by_route(rejected: Vec<(Option<Arc<str>>, Vec<RejectionCount>)>) -> Vec<Rejected> {
    let mut list = Vec::new();
    for (route, counts) in rejected {
        for rejected in counts {
            list.push(Rejected {
                webhook_id: route.as_deref().map(webhook_id),
                route: route.as_deref().map(Into::into),
                outcome: rejected.kind.code.as_str().into(),
                reason: rejected.kind.reason.map(Into::into),
                count: rejected.count,
                last_at: rejected.last_at,
            });
        }
    }
    list
}
