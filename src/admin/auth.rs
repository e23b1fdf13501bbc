//! Who may use the API: the right `Host`, the token, and for a change no page of another origin.
//!
//! `Host` is what protects a listener without a token: a page can lead a browser here by a name of its own that
//! resolves to a loopback address (DNS rebinding), but then the browser says that name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::serve::IncomingStream;
use jiff::Timestamp;
use tokio::net::TcpListener;

use super::problem::Problem;
use crate::secret::SecretDigest;
use crate::signature::NamedSecret;

/// What a request has to show.
pub(super) struct Door {
    token: Option<Token>,
    /// The machine's.
    host_name: Option<String>,
}

struct Token {
    digest: SecretDigest,
    expires: Option<Timestamp>,
}

/// Where a connection came in: the listener's own address, also when it listens on all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalAddress(Option<SocketAddr>);

impl Connected<IncomingStream<'_, TcpListener>> for LocalAddress {
    fn connect_info(stream: IncomingStream<'_, TcpListener>) -> Self {
        Self(stream.io().local_addr().ok())
    }
}

/// Lets a request pass to the API, or answers it.
pub(super) async fn guard(
    State(door): State<Arc<Door>>,
    ConnectInfo(LocalAddress(local)): ConnectInfo<LocalAddress>,
    request: Request,
    next: Next,
) -> Response {
    let local = local.map(|address| address.ip());
    let mut response = match door.admit(request.method(), request.uri(), request.headers(), local, Timestamp::now()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    // Events are in the answers.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Door {
    pub(super) fn new(token: Option<&NamedSecret>) -> Self {
        let token = token.map(|token| Token { digest: token.secret.digest(), expires: token.expires });
        // Linux; elsewhere the machine goes by its addresses.
        let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        Self { token, host_name: host_name.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()) }
    }

    fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        local: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let host = addressed(uri, headers).filter(|host| self.is_ours(host, local)).ok_or(Problem::Misdirected)?;
        if self.token.as_ref().is_some_and(|token| !token.is_in(headers, now)) {
            return Err(Problem::Unauthorized);
        }
        if !method.is_safe() {
            check_origin(headers, &host)?;
            check_content_type(headers)?;
        }
        Ok(())
    }

    /// The port is of no interest: it may be forwarded.
    fn is_ours(&self, host: &Authority, local: Option<IpAddr>) -> bool {
        let name = host.host();
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        match literal.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address)
            }
            Err(_) => {
                ["localhost"].into_iter().chain(self.host_name.as_deref()).any(|own| own.eq_ignore_ascii_case(name))
            }
        }
    }
}

impl Token {
    fn is_in(&self, headers: &HeaderMap, now: Timestamp) -> bool {
        let Some(value) = sole(headers, &header::AUTHORIZATION) else { return false };
        let Some((scheme, token)) = value.split_once(' ') else { return false };
        let same = self.digest.is_of(token.trim_start_matches(' ').as_bytes());
        same && scheme.eq_ignore_ascii_case("bearer") && self.expires.is_none_or(|end| now < end)
    }
}

/// Whom the request is for: the target says it when it is an absolute one (RFC 9112 §3.2.2), else `Host`.
fn addressed(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => sole(headers, &header::HOST)?.parse().ok(),
    }
}

/// Browsers name the page's origin with every change; nobody else has to.
fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = sole(headers, &header::ORIGIN).unwrap_or_default();
    // A proxy in front may have taken TLS off.
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let same = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()));
    if same { Ok(()) } else { Err(Problem::CrossOrigin) }
}

/// A form can't send this type, so a page of another origin can't without being asked first.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = sole(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") { Ok(()) } else { Err(Problem::UnsupportedMediaType) }
}

/// The header's value, if it is there exactly once and is text.
fn sole<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    const TOKEN: &str = "admin-token-4711";

    fn door(expires: Option<&str>) -> Door {
        let expires = expires.map(|end| end.parse().unwrap());
        let token = NamedSecret { name: "token".into(), secret: Secret::new(TOKEN).unwrap(), expires };
        Door { host_name: Some("gate-1".into()), ..Door::new(Some(&token)) }
    }

    fn open_door() -> Door {
        Door { token: None, host_name: Some("gate-1".into()) }
    }

    fn ask(door: &Door, method: &str, target: &str, headers: &[(&str, &str)]) -> Result<(), Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let local = Some("192.0.2.7".parse().unwrap());
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        door.admit(&method.parse().unwrap(), &target.parse().unwrap(), &map, local, now)
    }

    #[test]
    fn a_host_that_is_not_the_listener_s_own_or_a_loopback_name_is_misdirected() {
        let door = open_door();
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9180", "[::1]:9180", "192.0.2.7:9180", "gate-1:9180"] {
            assert_eq!(ask(&door, "GET", "/webhooks", &[("host", host)]), Ok(()), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "192.0.2.8", "[::2]", "", "gate-1.evil.example", "a b"] {
            assert_eq!(ask(&door, "GET", "/webhooks", &[("host", host)]), Err(Problem::Misdirected), "{host}");
        }
        assert_eq!(ask(&door, "GET", "/", &[]), Err(Problem::Misdirected));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(&door, "GET", "/", &twice), Err(Problem::Misdirected));
        let absolute = ask(&door, "GET", "http://evil.example/webhooks", &[("host", "localhost")]);
        assert_eq!(absolute, Err(Problem::Misdirected));
    }

    #[test]
    fn only_the_token_itself_opens_a_door_that_has_one() {
        let door = door(None);
        let with = |value: &str| ask(&door, "GET", "/", &[("host", "localhost"), ("authorization", value)]);
        for value in ["Bearer admin-token-4711", "bearer admin-token-4711"] {
            assert_eq!(with(value), Ok(()), "{value}");
        }
        for value in [
            "Bearer admin-token-471",
            "Bearer admin-token-47111",
            "Bearer",
            "Bearer ",
            "Basic admin-token-4711",
            "admin-token-4711",
        ] {
            assert_eq!(with(value), Err(Problem::Unauthorized), "{value}");
        }
        assert_eq!(ask(&door, "GET", "/", &[("host", "localhost")]), Err(Problem::Unauthorized));
        let right = ("authorization", "Bearer admin-token-4711");
        assert_eq!(ask(&door, "GET", "/", &[("host", "localhost"), right, right]), Err(Problem::Unauthorized));
    }

    #[test]
    fn an_expired_token_lets_nobody_in() {
        let right = [("host", "localhost"), ("authorization", "Bearer admin-token-4711")];
        assert_eq!(ask(&door(Some("2026-06-01T00:00:01Z")), "GET", "/", &right), Ok(()));
        assert_eq!(ask(&door(Some("2026-06-01T00:00:00Z")), "GET", "/", &right), Err(Problem::Unauthorized));
    }

    #[test]
    fn a_change_needs_json_and_no_other_origin() {
        let door = open_door();
        let change =
            |headers: &[(&str, &str)]| ask(&door, "POST", "/x", &[&[("host", "localhost:9180")], headers].concat());
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(change(&[json]), Ok(()));
        assert_eq!(change(&[]), Err(Problem::UnsupportedMediaType));
        assert_eq!(change(&[("content-type", "text/plain")]), Err(Problem::UnsupportedMediaType));
        for origin in ["http://localhost:9180", "https://LOCALHOST:9180"] {
            assert_eq!(change(&[json, ("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in ["http://localhost:9181", "http://localhost", "https://evil.example", "null", ""] {
            assert_eq!(change(&[json, ("origin", origin)]), Err(Problem::CrossOrigin), "{origin}");
        }
        assert_eq!(ask(&door, "GET", "/x", &[("host", "localhost"), ("origin", "null")]), Ok(()));
    }
}
