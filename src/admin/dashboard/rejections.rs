//! The page of rejected requests, each with an explanation.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::page::{Page, Shared, format_exact, respond};
use super::words::{self, Explanation};
use crate::activity::RejectionCount;
use crate::admin::error::ApiError;
use crate::admin::operations::rejections::RejectedRequest;
use crate::admin::parameters;

const LISTED: usize = 200;

#[derive(Template)]
#[template(path = "rejections.html")]
struct Rejections {
    page: Page,
    /// The only route on the page, if any.
    route: Option<String>,
    rejected: Vec<RejectedRow>,
    total: usize,
}

/// The count of one kind of rejection in the last hour, with an explanation.
pub(super) struct RejectionGroup {
    pub name: String,
    pub count: String,
    pub last: String,
    pub explanation: Explanation,
}

/// A rejected request.
pub(super) struct RejectedRow {
    pub ago: String,
    pub at: String,
    pub route: Option<String>,
    pub kind: String,
    pub status: u16,
    /// The method and the path, as far as they could be parsed.
    pub request: String,
    pub peer: String,
    pub bytes: String,
    pub user_agent: String,
    pub event_id: Option<String>,
    /// The number of later requests of the kind that were not kept.
    pub suppressed: u64,
    /// What the explainer found out about this request.
    pub found: Option<String>,
    pub explanation: Explanation,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let parameter = |wanted: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(name, value)| name == wanted && !value.is_empty())
            .map(|(_, value)| value.into_owned())
    };
    let route = parameter("route");
    let outcome = parameter("outcome")
        .map(|text| parameters::outcome(&text))
        .transpose();
    let list = outcome.and_then(|outcome| {
        operations
            .rejections(route.as_deref(), outcome, LISTED)
            .map_err(ApiError::from)
    });
    respond(list.map(|list| {
        let rejected = list
            .requests
            .iter()
            .map(|request| RejectedRow::new(request, &page))
            .collect();
        Rejections {
            page,
            route,
            rejected,
            total: list.total,
        }
    }))
}

pub(super) fn group_rejections(rejected: &[RejectionCount], page: &Page) -> Vec<RejectionGroup> {
    let kind = |rejected: &RejectionCount| RejectionGroup {
        name: rejected.kind.to_string(),
        count: words::count(rejected.count),
        last: page.ago(&rejected.last_at),
        explanation: words::explain_rejection(rejected.kind.code.as_str(), rejected.kind.reason),
    };
    rejected.iter().map(kind).collect()
}

impl RejectedRow {
    pub(super) fn new(request: &RejectedRequest, page: &Page) -> Self {
        let rejection = &request.rejection;
        Self {
            ago: page.ago(&rejection.at),
            at: format_exact(&rejection.at),
            route: request.route.as_deref().map(Into::into),
            kind: rejection.kind.to_string(),
            status: rejection.status,
            request: format!("{} {}", rejection.method, rejection.path)
                .trim()
                .to_owned(),
            peer: rejection
                .peer
                .map_or_else(|| "–".into(), |peer| peer.to_string()),
            bytes: rejection
                .body_bytes
                .map_or_else(|| "–".into(), |bytes| words::count(bytes as u64)),
            user_agent: rejection.user_agent.as_deref().unwrap_or("–").into(),
            event_id: rejection.event_id.as_deref().map(Into::into),
            suppressed: request.left_out,
            found: request.explanation.as_deref().map(Into::into),
            explanation: words::explain_rejection(
                rejection.kind.code.as_str(),
                rejection.kind.reason,
            ),
        }
    }
}
