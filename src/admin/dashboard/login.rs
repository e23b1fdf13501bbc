//! Logging in and out: a form, and the cookie that stands for the token from then on.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;

use super::page::{Page, refusal, render};
use crate::admin::audit::{AuthMethod, Caller, Role};
use crate::admin::auth::{Authenticator, COOKIE, ConnectionAddrs, SESSION_DURATION, check_origin};
use crate::admin::error::ApiError;

/// A token, and where to go from there.
const FORM_BYTES_MAX: usize = 8 << 10;

#[derive(Template)]
#[template(path = "login.html")]
struct Login<'a> {
    page: Page,
    /// A page of ours.
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

/// What somebody gets who has not logged in: the form, which leads back to where they wanted to go.
pub(super) fn asked_for(request: &Request) -> Response {
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
            page: Page::nobodys(),
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
    if let Err(problem) = sent_from_here(&authenticator, addrs, &uri, &headers) {
        return refusal(&problem);
    }
    let (mut token, mut next) = (String::new(), String::new());
    for (name, value) in form_urlencoded::parse(&body) {
        match &*name {
            "token" => value.trim().clone_into(&mut token),
            "next" => next = value.into_owned(),
            _ => {}
        }
    }
    let next = if is_ours(&next) { &next } else { "/" };
    let caller = visitor(addrs);
    match authenticator.log_in(&token, Timestamp::now()) {
        Some(Ok(session)) => {
            caller.audit("log_in", "", "done");
            // Over TLS it stays there; a proxy in front may have taken that off.
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
            tracing::error!(%error, "a login could not begin: the system has no random bytes");
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        None => {
            caller.audit("log_in", "", "unauthorized");
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
    if let Err(problem) = sent_from_here(&authenticator, addrs, &uri, &headers) {
        return refusal(&problem);
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

/// Somebody at the form, of whom nothing is known but where they are.
fn visitor(addrs: ConnectionAddrs) -> Caller {
    Caller {
        role: Role::Reader,
        method: AuthMethod::Login,
        peer: Some(addrs.peer()),
    }
}

fn sent_from_here(
    authenticator: &Authenticator,
    addrs: ConnectionAddrs,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    check_origin(headers, &authenticator.host(uri, headers, addrs)?)
}

/// Whether a browser that is led there stays with us: `//other` and `/\other` are other hosts.
fn is_ours(next: &str) -> bool {
    let rest = next.strip_prefix('/');
    rest.is_some_and(|rest| !rest.starts_with(['/', '\\']))
        && next.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_pages_of_ours_alone() {
        for ours in ["/", "/ui/events?event_id=a%20b", "/ui/routes/a"] {
            assert!(is_ours(ours), "{ours}");
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
            assert!(!is_ours(other), "{other}");
        }
    }
}
