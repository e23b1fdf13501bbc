//! The dashboard: pages for a browser over the same operations as the API. Each page can be read
//! without JavaScript; with it, pages refresh themselves and have actions.
//!
//! All outside data gets into a page through a template, which escapes it. Pages load nothing from
//! other hosts, and the content security policy forbids inline scripts and styles.

mod chart;
mod event;
mod events;
mod login;
mod overview;
mod problems;
mod rejections;
mod route;
mod words;

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;

use super::auth::{self, Caller, Door, Ends, Means, Role};
use super::operations::Operations;
use super::problem::Problem;

type Shared = State<Arc<Operations>>;

/// The headers of every page: no inline scripts, and no requests to other hosts.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    // `no-referrer` would make browsers omit the origin of a form too, which the login checks.
    (
        header::REFERRER_POLICY,
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

pub(super) fn router(operations: Arc<Operations>, door: Arc<Door>) -> Router {
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/ui/routes/{name}", get(route::page))
        .route("/ui/events", get(events::page))
        .route("/ui/events/{id}", get(event::page))
        .route("/ui/rejections", get(rejections::page))
        .with_state(operations)
        .layer(from_fn_with_state(Arc::clone(&door), guard));
    let open = Router::new()
        .route(
            "/ui/style.css",
            get(asset(
                "text/css",
                include_str!("dashboard/assets/style.css"),
            )),
        )
        .route(
            "/ui/script.js",
            get(asset(
                "text/javascript",
                include_str!("dashboard/assets/script.js"),
            )),
        )
        .route(
            "/ui/icon.svg",
            get(asset(
                "image/svg+xml",
                include_str!("dashboard/assets/icon.svg"),
            )),
        );
    pages
        .merge(login::router(door))
        .merge(open)
        .method_not_allowed_fallback(|| async { Problem::MethodNotAllowed })
        .layer(from_fn(add_headers))
}

/// Like [`auth::guard`], but a browser gets an error page, or the login form.
async fn guard(
    State(door): State<Arc<Door>>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    request: Request,
    next: Next,
) -> Response {
    let takes_pages = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|kinds| kinds.contains("text/html"))
    };
    let is_browser = request
        .headers()
        .get_all(header::ACCEPT)
        .iter()
        .any(takes_pages);
    match door.admit(
        request.method(),
        request.uri(),
        request.headers(),
        ends,
        Timestamp::now(),
    ) {
        Ok(caller) => auth::pass(caller, request, next).await,
        Err(problem) if !is_browser => problem.into_response(),
        Err(Problem::Unauthorized) => login::redirect_form(&request),
        Err(problem) => error_page(&problem),
    }
}

async fn add_headers(request: Request, next: Next) -> Response {
    let mut response = auth::private(next.run(request).await);
    response.headers_mut().extend(HEADERS);
    response
}

/// Serves a static file. The login page needs these, so they are public.
fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse + Clone {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// The data that every page has.
struct Page {
    version: &'static str,
    now: Timestamp,
    /// The user may make changes.
    can_change: bool,
    /// The user has a session.
    logged_in: bool,
    /// The text in the search field.
    search: String,
}

impl Page {
    fn for_caller(caller: Caller) -> Self {
        let can_change = caller.role == Role::Operator;
        Self {
            can_change,
            logged_in: caller.means == Means::Login,
            ..Self::anonymous()
        }
    }

    fn anonymous() -> Self {
        let (version, now) = (env!("CARGO_PKG_VERSION"), Timestamp::now());
        Self {
            version,
            now,
            can_change: false,
            logged_in: false,
            search: String::new(),
        }
    }

    fn ago(&self, at: &Timestamp) -> String {
        words::ago(*at, self.now)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Page {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Ok(Self::for_caller(
            Caller::from_request_parts(parts, state).await?,
        ))
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

fn error_page(problem: &Problem) -> Response {
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

fn render(status: StatusCode, template: &impl Template) -> Response {
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
fn respond<T: Template>(page: Result<T, Problem>) -> Response {
    match page {
        Ok(page) => render(StatusCode::OK, &page),
        Err(problem) => error_page(&problem),
    }
}

/// Formats a time in full.
fn format_exact(at: &Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
