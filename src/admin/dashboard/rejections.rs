//! Requests that were turned away, and why, in words.

use askama::Template;
use axum::extract::{RawQuery, State};
use axum::response::Response;

use super::page::{Page, Shared, exact, shown};
use super::words::{self, Why};
use crate::activity::RejectionCount;
use crate::admin::error::ApiError;
use crate::admin::operations::rejections::RejectedRequest;

const LISTED: usize = 200;

#[derive(Template)]
#[template(path = "rejections.html")]
struct Rejections {
    page: Page,
    /// Of this route alone.
    route: Option<String>,
    turned_away: Vec<Turned>,
    total: usize,
}

/// How many of one kind there were in the last hour, and why.
pub(super) struct Kind {
    pub name: String,
    pub count: String,
    pub last: String,
    pub why: Why,
}

/// A request that was turned away.
pub(super) struct Turned {
    pub ago: String,
    pub at: String,
    pub route: Option<String>,
    pub kind: String,
    pub status: u16,
    /// Method and path, as far as they could be read.
    pub request: String,
    pub peer: String,
    pub bytes: String,
    pub user_agent: String,
    /// How many like it came after it.
    pub left_out: u64,
    pub why: Why,
}

pub(super) async fn page(
    State(operations): Shared,
    page: Page,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let route = form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "route")
        .map(|(_, value)| value);
    let route = route
        .filter(|route| !route.is_empty())
        .map(std::borrow::Cow::into_owned);
    let turned = operations
        .rejections(route.as_deref(), LISTED)
        .map_err(ApiError::from);
    shown(turned.map(|turned| {
        let turned_away = turned
            .requests
            .iter()
            .map(|turned| Turned::of(turned, &page))
            .collect();
        Rejections {
            page,
            route,
            turned_away,
            total: turned.total,
        }
    }))
}

pub(super) fn kinds(rejected: &[RejectionCount], page: &Page) -> Vec<Kind> {
    let kind = |rejected: &RejectionCount| Kind {
        name: rejected.kind.to_string(),
        count: words::count(rejected.count),
        last: page.ago(&rejected.last_at),
        why: words::why(rejected.kind.code.as_str(), rejected.kind.reason),
    };
    rejected.iter().map(kind).collect()
}

impl Turned {
    pub(super) fn of(turned: &RejectedRequest, page: &Page) -> Self {
        let rejection = &turned.rejection;
        Self {
            ago: page.ago(&rejection.at),
            at: exact(&rejection.at),
            route: turned.route.as_deref().map(Into::into),
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
            left_out: turned.left_out,
            why: words::why(rejection.kind.code.as_str(), rejection.kind.reason),
        }
    }
}
