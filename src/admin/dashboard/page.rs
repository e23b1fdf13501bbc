//! The frame of every page, and pages as responses.

use std::sync::Arc;

use askama::Template;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;

use super::words;
use crate::admin::audit::{AuthMethod, Caller, Role};
use crate::admin::error::ApiError;
use crate::admin::operations::Operations;

pub(super) type Shared = State<Arc<Operations>>;

/// What each page has around it.
pub(super) struct Page {
    pub version: &'static str,
    pub now: Timestamp,
    /// Whether the buttons may be pressed.
    pub changes: bool,
    /// Whether there is anything to log out of.
    pub logged_in: bool,
    /// What is looked for.
    pub search: String,
}

impl Page {
    fn of(caller: Caller) -> Self {
        let changes = caller.role == Role::Operator;
        Self {
            changes,
            logged_in: caller.method == AuthMethod::Login,
            ..Self::nobodys()
        }
    }

    pub(super) fn nobodys() -> Self {
        let (version, now) = (env!("CARGO_PKG_VERSION"), Timestamp::now());
        Self {
            version,
            now,
            changes: false,
            logged_in: false,
            search: String::new(),
        }
    }

    pub(super) fn ago(&self, at: &Timestamp) -> String {
        words::ago(*at, self.now)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Ok(Self::of(Caller::from_request_parts(parts, state).await?))
    }
}

/// A page that says what can't be had.
#[derive(Template)]
#[template(path = "refusal.html")]
struct Refusal {
    page: Page,
    title: &'static str,
    detail: String,
}

pub(super) fn refusal(problem: &ApiError) -> Response {
    let status = problem.status();
    let title = status.canonical_reason().unwrap_or("Error");
    render(
        status,
        &Refusal {
            page: Page::nobodys(),
            title,
            detail: problem.detail().into_owned(),
        },
    )
}

pub(super) fn render(status: StatusCode, template: &impl Template) -> Response {
    match template.render() {
        Ok(page) => (
            status,
            [(header::CONTENT_TYPE, "text/html; charset=utf-8")],
            page,
        )
            .into_response(),
        Err(error) => {
            tracing::error!(%error, "a page could not be made");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "This page could not be made; the log tells why.\n",
            )
                .into_response()
        }
    }
}

/// What a page is answered with: itself, or why it can't be had.
pub(super) fn shown<T: Template>(page: Result<T, ApiError>) -> Response {
    match page {
        Ok(page) => render(StatusCode::OK, &page),
        Err(problem) => refusal(&problem),
    }
}

/// A time as pages show it in full.
pub(super) fn exact(at: &Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
