//! The dashboard: pages for a browser over the same operations as the API. Each page can be read
//! without JavaScript; with it, pages refresh themselves and have actions.
//!
//! All outside data gets into a page through a template, which escapes it. Pages load nothing from
//! other hosts, and the content security policy forbids inline scripts and styles.

mod chart;
mod curl;
mod event;
mod events;
mod login;
mod overview;
mod page;
mod problems;
mod rejections;
mod route;
pub(super) mod words;

use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::auth::{self, Authenticator, ConnectionAddrs};
use super::error::ApiError;
use super::operations::Operations;
use page::error_page;

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

pub(super) fn router(operations: Arc<Operations>, authenticator: Arc<Authenticator>) -> Router {
    let pages = Router::new()
        .route("/", get(overview::page))
        .route("/ui/routes/{name}", get(route::page))
        .route("/ui/events", get(events::page))
        .route("/ui/events/{id}", get(event::page))
        .route("/ui/rejections", get(rejections::page))
        .with_state(operations)
        .layer(from_fn_with_state(Arc::clone(&authenticator), guard));
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
        .merge(login::router(authenticator))
        .merge(open)
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(from_fn(add_headers))
}

/// Like [`auth::guard`], but a browser gets an error page, or the login form.
async fn guard(
    State(authenticator): State<Arc<Authenticator>>,
    ConnectInfo(addrs): ConnectInfo<ConnectionAddrs>,
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
    let authenticated = authenticator
        .authenticate_slowly(request.method(), request.uri(), request.headers(), addrs)
        .await;
    match authenticated {
        Ok(caller) => auth::run_as(caller, request, next).await,
        Err(problem) if !is_browser => problem.into_response(),
        Err(ApiError::Unauthorized) => login::redirect_form(&request),
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
