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

/// The data that every page has.
pub(super) struct Page {
    pub version: &'static str,
    pub now: Timestamp,
    /// The user may make changes.
    pub can_change: bool,
    /// The user has a session.
    pub logged_in: bool,
    /// The text in the search field.
    pub search: String,
    /// The section of the navigation that the page is in.
    pub section: Section,
    /// The page is its section's own page, not one below it.
    pub is_top: bool,
}

/// A section of the navigation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Events,
    Rejections,
}

/// A time as pages show it.
pub(super) struct Moment {
    /// The time for scripts: RFC 3339.
    pub iso: String,
    /// The time in full, in UTC.
    pub utc: String,
    pub ago: String,
}

impl Page {
    fn for_caller(caller: Caller, path: &str) -> Self {
        let can_change = caller.role == Role::Operator;
        let section = match path.strip_prefix("/ui/") {
            Some(below) if below.starts_with("events") => Section::Events,
            Some(below) if below.starts_with("rejections") => Section::Rejections,
            _ => Section::Overview,
        };
        Self {
            can_change,
            logged_in: caller.method == AuthMethod::Login,
            section,
            is_top: ["/", "/ui/events", "/ui/rejections"].contains(&path),
            ..Self::anonymous()
        }
    }

    pub(super) fn anonymous() -> Self {
        let (version, now) = (env!("CARGO_PKG_VERSION"), Timestamp::now());
        Self {
            version,
            now,
            can_change: false,
            logged_in: false,
            search: String::new(),
            section: Section::Overview,
            is_top: false,
        }
    }

    /// Returns `aria-current` for a link of the navigation: the page itself, or its section.
    fn current(&self, section: Section) -> &'static str {
        match (self.section == section, self.is_top) {
            (true, true) => "page",
            (true, false) => "true",
            (false, _) => "false",
        }
    }

    pub(super) fn moment(&self, at: &Timestamp) -> Moment {
        Moment {
            iso: at.to_string(),
            utc: format_exact(at),
            ago: self.ago(at),
        }
    }

    /// Returns the navigation: each link with its key, its name, and `aria-current`.
    pub(super) fn navigation(
        &self,
    ) -> [(&'static str, &'static str, &'static str, &'static str); 3] {
        [
            ("/", "o", "Overview", self.current(Section::Overview)),
            ("/ui/events", "e", "Events", self.current(Section::Events)),
            (
                "/ui/rejections",
                "r",
                "Rejected",
                self.current(Section::Rejections),
            ),
        ]
    }

    pub(super) fn ago(&self, at: &Timestamp) -> String {
        words::ago(*at, self.now)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let caller = Caller::from_request_parts(parts, state).await?;
        Ok(Self::for_caller(caller, parts.uri.path()))
    }
}

/// The page for an error.
#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    page: Page,
    title: &'static str,
    detail: String,
}

pub(super) fn error_page(problem: &ApiError) -> Response {
    let status = problem.status();
    let title = status.canonical_reason().unwrap_or("Error");
    render(
        status,
        &ErrorPage {
            page: Page::anonymous(),
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
            tracing::error!(%error, "rendering a page failed");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "This page could not be rendered; see the log.\n",
            )
                .into_response()
        }
    }
}

/// Responds with a page, or with the page for its error.
pub(super) fn respond<T: Template>(page: Result<T, ApiError>) -> Response {
    match page {
        Ok(page) => render(StatusCode::OK, &page),
        Err(problem) => error_page(&problem),
    }
}

/// Formats a time in full.
pub(super) fn format_exact(at: &Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
