//! Login and logout: a form for the token, and a session cookie in its place.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;

use super::page::{Page, error_page, render};
use crate::admin::audit::{AuthMethod, Caller, Role};
use crate::admin::auth::{Authenticator, COOKIE, ConnectionAddrs, SESSION_DURATION, check_origin};
use crate::admin::error::ApiError;

/// The most bytes of a form: a token and a path.
const FORM_BYTES_MAX: usize = 8 << 10;

#[derive(Template)]
#[template(path = "login.html")]
struct Login<'a> {
    page: Page,
    /// The path to open after the login.
    next: &'a str,
    wrong: bool,
}

pub(super) fn router(authenticator: Arc<Authenticator>) -> Router {
    Router::new()
        .route("/ui/login", post(log_in))
        .route("/ui/logout", post(log_out))
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .with_state(authenticator)
}

/// Responds with the login form, which leads back to the requested page.
pub(super) fn redirect_form(request: &Request) -> Response {
    let wanted = request
        .uri()
        .path_and_query()
        .map_or("/", |wanted| wanted.as_str());
    form(
        StatusCode::UNAUTHORIZED,
        if request.method().is_safe() {
            wanted
        } else {
            "/"
        },
        false,
    )
}

fn form(status: StatusCode, next: &str, wrong: bool) -> Response {
    let mut response = render(
        status,
        &Login {
            page: Page::anonymous(),
            next,
            wrong,
        },
    );
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    response
}

async fn log_in(
    State(authenticator): State<Arc<Authenticator>>,
    ConnectInfo(addrs): ConnectInfo<ConnectionAddrs>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Err(problem) = check_form_origin(&authenticator, addrs, &uri, &headers) {
        return error_page(&problem);
    }
    let (mut token, mut next) = (String::new(), String::new());
    for (name, value) in form_urlencoded::parse(&body) {
        match &*name {
            "token" => value.trim().clone_into(&mut token),
            "next" => next = value.into_owned(),
            _ => {}
        }
    }
    let next = if is_local_path(&next) { &next } else { "/" };
    let caller = visitor(addrs);
    match authenticator.log_in(&token, Timestamp::now()) {
        Some(Ok(session)) => {
            caller.audit("log_in", "", "done");
            // `Secure` if the browser uses TLS, even if a proxy in front terminates it.
            let secure = headers
                .get(header::ORIGIN)
                .is_some_and(|origin| origin.as_bytes().starts_with(b"https:"));
            let secure = if secure { "; Secure" } else { "" };
            let seconds = SESSION_DURATION.as_secs();
            let cookie = format!(
                "{COOKIE}={session}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}"
            );
            (
                StatusCode::SEE_OTHER,
                [
                    (header::SET_COOKIE, cookie),
                    (header::LOCATION, next.to_owned()),
                ],
            )
                .into_response()
        }
        Some(Err(error)) => {
            tracing::error!(%error, "login failed: the system has no random bytes");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        None => {
            authenticator.log_in_failed(caller).await;
            form(StatusCode::UNAUTHORIZED, next, true)
        }
    }
}

async fn log_out(
    State(authenticator): State<Arc<Authenticator>>,
    ConnectInfo(addrs): ConnectInfo<ConnectionAddrs>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if let Err(problem) = check_form_origin(&authenticator, addrs, &uri, &headers) {
        return error_page(&problem);
    }
    authenticator.log_out(&headers);
    visitor(addrs).audit("log_out", "", "done");
    let gone = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    (
        StatusCode::SEE_OTHER,
        [
            (header::SET_COOKIE, gone),
            (header::LOCATION, "/".to_owned()),
        ],
    )
        .into_response()
}

/// Returns an anonymous caller for the audit log, known by address only.
fn visitor(addrs: ConnectionAddrs) -> Caller {
    Caller {
        role: Role::Reader,
        method: AuthMethod::Login,
        peer: Some(addrs.peer()),
    }
}

fn check_form_origin(
    authenticator: &Authenticator,
    addrs: ConnectionAddrs,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    check_origin(headers, &authenticator.host(uri, headers, addrs)?)
}

/// Returns whether a redirect to `next` stays on this host; `//other` and `/\other` do not.
fn is_local_path(next: &str) -> bool {
    let rest = next.strip_prefix('/');
    rest.is_some_and(|rest| !rest.starts_with(['/', '\\']))
        && next.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_redirects_to_local_pages_only() {
        for local in ["/", "/ui/events?event_id=a%20b", "/ui/routes/a"] {
            assert!(is_local_path(local), "{local}");
        }
        for other in [
            "",
            "ui",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nb",
            "/\t/evil",
        ] {
            assert!(!is_local_path(other), "{other}");
        }
    }
}
