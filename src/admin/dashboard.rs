//! The dashboard: pages for a browser, over the same operations as the API. Each can be read without JavaScript; with it,
//! a page keeps itself current and its buttons work.
//!
//! Whatever comes from outside gets into a page through a template, which escapes it. Nothing is loaded from elsewhere,
//! and the policy that goes with every page lets nothing in that stands in the page itself.

mod chart;
mod event;
mod events;
mod login;
mod overview;
mod rejections;
mod route;
mod troubles;
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

/// With each page. What stands in a page runs nothing, and nothing is asked of others.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
             form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ),
    (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
    // Not less: without a referrer a browser says no origin with a form either.
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
        .layer(from_fn(dress))
}

/// As [`auth::guard`], but a browser is answered with pages, and whoever has not logged in gets the form to do so.
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
        Err(Problem::Unauthorized) => login::asked_for(&request),
        Err(problem) => refusal(&problem),
    }
}

async fn dress(request: Request, next: Next) -> Response {
    let mut response = auth::private(next.run(request).await);
    response.headers_mut().extend(HEADERS);
    response
}

/// Nothing secret is in them; they are fetched before the login.
fn asset(kind: &'static str, content: &'static str) -> impl IntoResponse + Clone {
    ([(header::CONTENT_TYPE, kind)], content)
}

/// What each page has around it.
struct Page {
    version: &'static str,
    now: Timestamp,
    /// Whether the buttons may be pressed.
    changes: bool,
    /// Whether there is anything to log out of.
    logged_in: bool,
    /// What is looked for.
    search: String,
}

impl Page {
    fn of(caller: Caller) -> Self {
        let changes = caller.role == Role::Operator;
        Self {
            changes,
            logged_in: caller.means == Means::Login,
            ..Self::nobodys()
        }
    }

    fn nobodys() -> Self {
        let (version, now) = (env!("CARGO_PKG_VERSION"), Timestamp::now());
        Self {
            version,
            now,
            changes: false,
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

fn refusal(problem: &Problem) -> Response {
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

fn render(status: StatusCode, template: &impl Template) -> Response {
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
fn shown<T: Template>(page: Result<T, Problem>) -> Response {
    match page {
        Ok(page) => render(StatusCode::OK, &page),
        Err(problem) => refusal(&problem),
    }
}

/// A time as pages show it in full.
fn exact(at: &Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
