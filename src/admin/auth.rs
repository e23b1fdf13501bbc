//! Who may use the API: the right `Host`, the token, and for a change no page of another origin.
//!
//! `Host` is what protects a listener without a token: a page can lead a browser here by a name of its own that
//! resolves to a loopback address (DNS rebinding), but then the browser says that name.

mod caller;
mod session;

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use tokio::net::TcpStream;

use super::problem::Problem;
use crate::secret::SecretDigest;
use crate::signature::NamedSecret;
use session::Sessions;

pub(super) use caller::{Caller, Means, Operator, Role};
pub(super) use session::LASTS;

/// Who may use the listener, and by what names. Without a token anybody may do anything.
#[derive(Debug, Clone, Copy)]
pub struct Access<'a> {
    pub token: Option<&'a NamedSecret>,
    /// For those who may only look.
    pub read_token: Option<&'a NamedSecret>,
    /// Names besides the machine's own, in lower case.
    pub hosts: &'a [Box<str>],
}

/// What a request has to show.
pub(super) struct Door {
    /// None: it is open.
    keys: Vec<Key>,
    /// The machine's and those of the configuration.
    hosts: Vec<Box<str>>,
    sessions: Sessions,
}

struct Key {
    digest: SecretDigest,
    expires: Option<Timestamp>,
    role: Role,
}

/// The two ends of a connection. Ours is the listener's own address also when it listens on all of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    local: Option<IpAddr>,
    peer: IpAddr,
}

impl Ends {
    /// `None` where the other end has gone.
    pub(super) fn of(stream: &TcpStream) -> Option<Self> {
        let local = stream.local_addr().ok();
        Some(Self {
            local: local.map(|address| address.ip()),
            peer: stream.peer_addr().ok()?.ip(),
        })
    }

    /// Whoever is connected.
    pub(super) fn peer(self) -> IpAddr {
        self.peer
    }
}

/// The cookie of a browser that has logged in.
pub(super) const COOKIE: &str = "hookstile_session";

/// Lets a request pass to the API, or answers it.
pub(super) async fn guard(
    State(door): State<Arc<Door>>,
    ConnectInfo(ends): ConnectInfo<Ends>,
    request: Request,
    next: Next,
) -> Response {
    let admitted = door.admit(
        request.method(),
        request.uri(),
        request.headers(),
        ends,
        Timestamp::now(),
    );
    let response = match admitted {
        Ok(caller) => pass(caller, request, next).await,
        Err(problem) => problem.into_response(),
    };
    private(response)
}

/// Has a request answered that was let in. A change is carried out and written down though who asked hangs up.
pub(super) async fn pass(caller: Caller, mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(caller);
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Events are in the answers.
pub(super) fn private(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

impl Door {
    pub(super) fn new(access: Access<'_>) -> Self {
        let key = |role| {
            move |token: &NamedSecret| Key {
                digest: token.secret.digest(),
                expires: token.expires,
                role,
            }
        };
        let keys = [
            access.token.map(key(Role::Operator)),
            access.read_token.map(key(Role::Reader)),
        ];
        // Linux; elsewhere the machine goes by its addresses.
        let own = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let own = own
            .as_deref()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(Into::into);
        let hosts = ["localhost".into()]
            .into_iter()
            .chain(own)
            .chain(access.hosts.iter().cloned())
            .collect();
        Self {
            keys: keys.into_iter().flatten().collect(),
            hosts,
            sessions: Sessions::default(),
        }
    }

    pub(super) fn admit(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        ends: Ends,
        now: Timestamp,
    ) -> Result<Caller, Problem> {
        let host = self.host(uri, headers, ends)?;
        let caller = self
            .caller(headers, ends, now)
            .ok_or(Problem::Unauthorized)?;
        if !method.is_safe() {
            check_origin(headers, &host)?;
            check_content_type(headers)?;
        }
        Ok(caller)
    }

    /// By what name the listener is asked.
    pub(super) fn host(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        ends: Ends,
    ) -> Result<Authority, Problem> {
        addressed(uri, headers)
            .filter(|host| self.is_ours(host, ends.local))
            .ok_or(Problem::Misdirected)
    }

    fn caller(&self, headers: &HeaderMap, ends: Ends, now: Timestamp) -> Option<Caller> {
        let caller = |role, means| Caller {
            role,
            means,
            peer: Some(ends.peer),
        };
        if self.keys.is_empty() {
            return Some(caller(Role::Operator, Means::Nothing));
        }
        if headers.contains_key(header::AUTHORIZATION) {
            let key = self.key(bearer(headers)?, now)?;
            return Some(caller(key.role, Means::Token));
        }
        let role = self.sessions.role(cookie(headers)?, now)?;
        Some(caller(role, Means::Login))
    }

    /// Begins a session for whoever has this token, and answers its cookie's value; `None` if it is nobody's.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn log_in(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Option<Result<String, getrandom::Error>> {
        let key = self.key(token, now)?;
        let ends = now.saturating_add(LASTS).unwrap_or(now);
        Some(self.sessions.begin(
            key.role,
            key.expires.map_or(ends, |expires| ends.min(expires)),
        ))
    }

    /// Ends the session that these headers are of.
    pub(super) fn log_out(&self, headers: &HeaderMap) {
        if let Some(id) = cookie(headers) {
            self.sessions.end(id);
        }
    }

    /// The key that this token is. All are compared with, whichever it is.
    fn key(&self, token: &str, now: Timestamp) -> Option<&Key> {
        let same = |key: &Key| {
            key.digest.matches(token.as_bytes()) && key.expires.is_none_or(|end| now < end)
        };
        self.keys
            .iter()
            .fold(None, |found, key| if same(key) { Some(key) } else { found })
    }

    /// The port is of no interest: it may be forwarded.
    fn is_ours(&self, host: &Authority, local: Option<IpAddr>) -> bool {
        let name = host.host();
        let literal = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(name);
        match literal.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || local.is_some_and(|local| local.to_canonical() == address)
            }
            Err(_) => self.hosts.iter().any(|own| own.eq_ignore_ascii_case(name)),
        }
    }
}

/// The token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = sole(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

/// The session's cookie, if it is there exactly once.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let mut ours = pairs
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value);
    ours.next().filter(|_| ours.next().is_none())
}

/// Whom the request is for: the target says it when it is an absolute one (RFC 9112 §3.2.2), else `Host`.
fn addressed(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => sole(headers, &header::HOST)?.parse().ok(),
    }
}

/// Browsers name the page's origin with every change; nobody else has to.
pub(super) fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), Problem> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = sole(headers, &header::ORIGIN).unwrap_or_default();
    // A proxy in front may have taken TLS off.
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let same = authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()));
    if same {
        Ok(())
    } else {
        Err(Problem::CrossOrigin)
    }
}

/// A form can't send this type, so a page of another origin can't without being asked first.
fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let kind = sole(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(Problem::UnsupportedMediaType)
    }
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

    const READ_TOKEN: &str = "read-token-4712";

    fn door(expires: Option<&str>) -> Door {
        let expires = expires.map(|end| end.parse().unwrap());
        let token = |secret| NamedSecret {
            name: "token".into(),
            secret: Secret::new(secret).unwrap(),
            expires,
        };
        let (token, read_token) = (token(TOKEN), token(READ_TOKEN));
        Door::new(Access {
            token: Some(&token),
            read_token: Some(&read_token),
            hosts: &[],
        })
    }

    fn open_door() -> Door {
        Door::new(Access {
            token: None,
            read_token: None,
            hosts: &["gate-1".into()],
        })
    }

    fn ask(
        door: &Door,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), Problem> {
        admit(door, method, target, headers).map(drop)
    }

    fn admit(
        door: &Door,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Caller, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let ends = Ends {
            local: Some("192.0.2.7".parse().unwrap()),
            peer: "192.0.2.9".parse().unwrap(),
        };
        door.admit(
            &method.parse().unwrap(),
            &target.parse().unwrap(),
            &map,
            ends,
            now(),
        )
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_host_that_is_not_the_listener_s_own_or_a_loopback_name_is_misdirected() {
        let door = open_door();
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9180",
            "[::1]:9180",
            "192.0.2.7:9180",
            "gate-1:9180",
        ] {
            assert_eq!(
                ask(&door, "GET", "/webhooks", &[("host", host)]),
                Ok(()),
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "192.0.2.8",
            "[::2]",
            "",
            "gate-1.evil.example",
            "a b",
        ] {
            assert_eq!(
                ask(&door, "GET", "/webhooks", &[("host", host)]),
                Err(Problem::Misdirected),
                "{host}"
            );
        }
        assert_eq!(ask(&door, "GET", "/", &[]), Err(Problem::Misdirected));
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(&door, "GET", "/", &twice), Err(Problem::Misdirected));
        let absolute = ask(
            &door,
            "GET",
            "http://evil.example/webhooks",
            &[("host", "localhost")],
        );
        assert_eq!(absolute, Err(Problem::Misdirected));
    }

    #[test]
    fn only_the_token_itself_opens_a_door_that_has_one() {
        let door = door(None);
        let with = |value: &str| {
            ask(
                &door,
                "GET",
                "/",
                &[("host", "localhost"), ("authorization", value)],
            )
        };
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
        assert_eq!(
            ask(&door, "GET", "/", &[("host", "localhost")]),
            Err(Problem::Unauthorized)
        );
        let right = ("authorization", "Bearer admin-token-4711");
        assert_eq!(
            ask(&door, "GET", "/", &[("host", "localhost"), right, right]),
            Err(Problem::Unauthorized)
        );
    }

    #[test]
    fn an_expired_token_lets_nobody_in() {
        let right = [
            ("host", "localhost"),
            ("authorization", "Bearer admin-token-4711"),
        ];
        assert_eq!(
            ask(&door(Some("2026-06-01T00:00:01Z")), "GET", "/", &right),
            Ok(())
        );
        assert_eq!(
            ask(&door(Some("2026-06-01T00:00:00Z")), "GET", "/", &right),
            Err(Problem::Unauthorized)
        );
    }

    #[test]
    fn each_token_gives_its_own_role_and_so_does_the_session_that_it_began() {
        let door = door(None);
        for (token, role) in [(TOKEN, Role::Operator), (READ_TOKEN, Role::Reader)] {
            let caller = admit(
                &door,
                "GET",
                "/",
                &[
                    ("host", "localhost"),
                    ("authorization", &format!("Bearer {token}")),
                ],
            );
            assert_eq!(
                caller.map(|caller| (caller.role, caller.means)),
                Ok((role, Means::Token))
            );
            let session = door.log_in(token, now()).unwrap().unwrap();
            let with = |cookie: &str| {
                admit(
                    &door,
                    "GET",
                    "/",
                    &[("host", "localhost"), ("cookie", cookie)],
                )
            };
            let caller = with(&format!("a=b; hookstile_session={session}; c=d"));
            assert_eq!(
                caller.map(|caller| (caller.role, caller.means)),
                Ok((role, Means::Login))
            );
            for other in ["", "hookstile_session=", "hookstile_session=x"] {
                assert_eq!(with(other), Err(Problem::Unauthorized), "{other}");
            }
            let twice = format!("hookstile_session={session}; hookstile_session={session}");
            assert_eq!(with(&twice), Err(Problem::Unauthorized));
            door.log_out(
                &format!("hookstile_session={session}")
                    .parse()
                    .map(|cookie| HeaderMap::from_iter([(header::COOKIE, cookie)]))
                    .unwrap(),
            );
            assert_eq!(
                with(&format!("hookstile_session={session}")),
                Err(Problem::Unauthorized)
            );
        }
        assert!(door.log_in("other", now()).is_none());
    }

    #[test]
    fn a_change_needs_json_and_no_other_origin() {
        let door = open_door();
        let change = |headers: &[(&str, &str)]| {
            ask(
                &door,
                "POST",
                "/x",
                &[&[("host", "localhost:9180")], headers].concat(),
            )
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(change(&[json]), Ok(()));
        assert_eq!(change(&[]), Err(Problem::UnsupportedMediaType));
        assert_eq!(
            change(&[("content-type", "text/plain")]),
            Err(Problem::UnsupportedMediaType)
        );
        for origin in ["http://localhost:9180", "https://LOCALHOST:9180"] {
            assert_eq!(change(&[json, ("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in [
            "http://localhost:9181",
            "http://localhost",
            "https://evil.example",
            "null",
            "",
        ] {
            assert_eq!(
                change(&[json, ("origin", origin)]),
                Err(Problem::CrossOrigin),
                "{origin}"
            );
        }
        assert_eq!(
            ask(
                &door,
                "GET",
                "/x",
                &[("host", "localhost"), ("origin", "null")]
            ),
            Ok(())
        );
    }
}
