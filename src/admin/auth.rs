//! Authentication for the API and the dashboard: the right `Host`, a token or session, and for a
//! change no page of another origin.
//!
//! `Host` protects a listener without a token. A page can lead a browser here by a name of its own
//! that resolves to a loopback address (DNS rebinding), but the browser then sends that name.

mod failed_logins;
mod session;

use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use axum::extract::{ConnectInfo, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use super::audit::{AuthMethod, Caller, Operator, Role};
use super::error::ApiError;
use super::http::MERGE_PATCH;
use super::listen::Place;
use super::peer_owner;
use crate::signature::NamedSecret;
use failed_logins::FailedLogins;
use session::{LoginToken, Sessions};

/// The duration of a login, unless its token expires earlier.
pub(super) use session::DURATION as SESSION_DURATION;

/// The tokens and names of the listener. Without a token, the gateway's own user and root are
/// operators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access<'a> {
    pub token: Option<&'a NamedSecret>,
    /// The token of callers who may only read.
    pub read_token: Option<&'a NamedSecret>,
    /// Names besides the machine's own, in lower case.
    pub hosts: &'a [Box<str>],
}

impl<'a> Access<'a> {
    /// Returns whether no token is needed.
    pub(super) const fn is_open(&self) -> bool {
        self.token.is_none() && self.read_token.is_none()
    }

    /// Returns the configured tokens with their roles.
    fn tokens(&self) -> impl Iterator<Item = (&'a NamedSecret, Role)> {
        [
            (self.token, Role::Operator),
            (self.read_token, Role::Reader),
        ]
        .into_iter()
        .filter_map(|(token, role)| Some((token?, role)))
    }
}

/// Authenticates requests.
pub(super) struct Authenticator {
    /// The accepted tokens; empty where none is needed. A reload replaces them.
    tokens: RwLock<Vec<Token>>,
    /// The names of the machine and of the configuration.
    hosts: Vec<Box<str>>,
    sessions: Sessions,
    failed_logins: FailedLogins,
}

/// An accepted token, with the rights that it gives.
struct Token {
    login: LoginToken,
    expires: Option<Timestamp>,
}

impl Token {
    fn new(token: &NamedSecret, role: Role) -> Self {
        Self {
            login: LoginToken {
                digest: token.secret.digest(),
                role,
            },
            expires: token.expires,
        }
    }

    fn is_valid(&self, now: Timestamp) -> bool {
        self.expires.is_none_or(|end| now < end)
    }
}

/// Finds the token with this text. Compares with every token, so that the time taken does not
/// depend on which one matches.
fn find_token<'t>(tokens: &'t [Token], text: &str, now: Timestamp) -> Option<&'t Token> {
    tokens.iter().fold(None, |found, token| {
        if token.login.digest.matches(text.as_bytes()) && token.is_valid(now) {
            Some(token)
        } else {
            found
        }
    })
}

/// The addresses of a connection. The local one is specific, even if the listener is bound to all
/// addresses.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionAddrs {
    local: Option<IpAddr>,
    peer: IpAddr,
    /// The connection belongs to a user that a listener without a token does not admit.
    is_other_user: bool,
}

impl ConnectionAddrs {
    /// Reads the addresses of a connection and, if `checks_owner`, looks up who owns its other end.
    /// Returns `None` when the peer has disconnected.
    pub(super) async fn from_stream(stream: &TcpStream, checks_owner: bool) -> Option<Self> {
        let (local, peer) = (stream.local_addr().ok(), stream.peer_addr().ok()?);
        let is_other_user = checks_owner
            && match local {
                Some(local) => !spawn_blocking(move || peer_owner::is_trusted(peer, local))
                    .await
                    .unwrap_or(false),
                None => true,
            };
        Some(Self {
            local: local.map(|address| address.ip()),
            peer: peer.ip(),
            is_other_user,
        })
    }

    pub(super) fn peer(self) -> IpAddr {
        self.peer
    }
}

/// The name of the session cookie.
pub(super) const COOKIE: &str = "hookstile_session";

/// Authenticates a request to the API, and runs or rejects it.
pub(super) async fn guard(
    State(authenticator): State<Arc<Authenticator>>,
    ConnectInfo(addrs): ConnectInfo<ConnectionAddrs>,
    request: Request,
    next: Next,
) -> Response {
    let authenticated = authenticator
        .authenticate_slowly(request.method(), request.uri(), request.headers(), addrs)
        .await;
    private(match authenticated {
        Ok(caller) => run_as(caller, request, next).await,
        Err(error) => error.into_response(),
    })
}

/// Runs an authenticated request. A change runs to its end and is audited even if the client
/// disconnects.
pub(super) async fn run_as(caller: Caller, mut request: Request, next: Next) -> Response {
    if caller.method != AuthMethod::Open
        && let Some(place) = request.extensions().get::<Arc<Place>>()
    {
        place.keep(Instant::now());
    }
    request.extensions_mut().insert(caller);
    if request.method().is_safe() {
        return next.run(request).await;
    }
    match tokio::spawn(next.run(request)).await {
        Ok(response) => response,
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// Forbids caching of a response, which may hold events.
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

impl Authenticator {
    pub(super) fn new(access: Access<'_>) -> Self {
        let tokens = access.tokens();
        let tokens = tokens.map(|(token, role)| Token::new(token, role));
        // Linux only; other systems are addressed by IP address.
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let hostname = hostname
            .as_deref()
            .map(str::trim)
            .filter(|name| !name.is_empty())
            .map(Into::into);
        let hosts = ["localhost".into()]
            .into_iter()
            .chain(hostname)
            .chain(access.hosts.iter().cloned())
            .collect();
        Self {
            tokens: RwLock::new(tokens.collect()),
            hosts,
            sessions: Sessions::default(),
            failed_logins: FailedLogins::default(),
        }
    }

    /// Returns whether a token is needed now exactly if it is with `access`.
    pub(super) fn is_as_open(&self, access: &Access<'_>) -> bool {
        access.is_open() == self.tokens().is_empty()
    }

    /// Replaces the tokens. Ends the logins that were made with one that is gone or has another role
    /// now. Returns `false`, and changes nothing, if a token would be needed from now on, or none any
    /// more.
    pub(super) fn replace_tokens(&self, access: Access<'_>) -> bool {
        let mut tokens = self.tokens.write().unwrap_or_else(PoisonError::into_inner);
        if access.is_open() != tokens.is_empty() {
            return false;
        }
        *tokens = access
            .tokens()
            .map(|(token, role)| Token::new(token, role))
            .collect();
        // Otherwise a token that comes back later would bring its logins back.
        self.sessions
            .end_others(|login| tokens.iter().any(|token| token.login == *login));
        true
    }

    fn tokens(&self) -> RwLockReadGuard<'_, Vec<Token>> {
        self.tokens.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Authenticates a request that arrives now, and delays the answer to a wrong token.
    pub(super) async fn authenticate_slowly(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        addrs: ConnectionAddrs,
    ) -> Result<Caller, ApiError> {
        let authenticated = self.authenticate(method, uri, headers, addrs, Timestamp::now());
        if matches!(authenticated, Err(ApiError::Unauthorized))
            && headers.contains_key(header::AUTHORIZATION)
        {
            self.failed_logins.delay().await;
        }
        authenticated
    }

    /// Authenticates a request and, for a change, checks its origin and content type.
    fn authenticate(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        addrs: ConnectionAddrs,
        now: Timestamp,
    ) -> Result<Caller, ApiError> {
        let host = self.host(uri, headers, addrs)?;
        if addrs.is_other_user {
            return Err(ApiError::OtherUser);
        }
        let caller = self
            .caller(headers, addrs, now)
            .ok_or(ApiError::Unauthorized)?;
        if !method.is_safe() {
            check_origin(headers, &host)?;
            if !is_plain(method, headers) {
                check_content_type(method, headers)?;
            }
        }
        Ok(caller)
    }

    /// Returns the host that a request addresses, if it is one of this listener's names.
    pub(super) fn host(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        addrs: ConnectionAddrs,
    ) -> Result<Authority, ApiError> {
        target_host(uri, headers)
            .filter(|host| self.is_own_host(host, addrs.local))
            .ok_or(ApiError::Misdirected)
    }

    fn caller(
        &self,
        headers: &HeaderMap,
        addrs: ConnectionAddrs,
        now: Timestamp,
    ) -> Option<Caller> {
        let tokens = self.tokens();
        let (role, method) = if tokens.is_empty() {
            (Role::Operator, AuthMethod::Open)
        } else if headers.contains_key(header::AUTHORIZATION) {
            let token = find_token(&tokens, bearer(headers)?, now)?;
            (token.login.role, AuthMethod::Token)
        } else {
            let login = self.sessions.token(cookie(headers)?, now)?;
            // The token as it is now: a login ends with it, whatever a reload has changed.
            tokens
                .iter()
                .find(|token| token.login == login && token.is_valid(now))?;
            (login.role, AuthMethod::Login)
        };
        Some(Caller {
            role,
            method,
            peer: Some(addrs.peer),
        })
    }

    /// Begins a session with a token, and returns the cookie's value; `None` for an unknown token.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub(super) fn log_in(
        &self,
        token: &str,
        now: Timestamp,
    ) -> Option<Result<String, getrandom::Error>> {
        // Held until the session is there, so that a reload either ends it or comes first.
        let tokens = self.tokens();
        let token = find_token(&tokens, token, now)?;
        let end = now.saturating_add(SESSION_DURATION).unwrap_or(now);
        Some(self.sessions.begin(
            token.login.clone(),
            token.expires.map_or(end, |expires| end.min(expires)),
        ))
    }

    /// Records a failed login of `caller` in the audit log, and delays its answer.
    pub(super) async fn log_in_failed(&self, caller: Caller) {
        self.failed_logins.audit(caller, Instant::now());
        self.failed_logins.delay().await;
    }

    /// Logs, for as long as it is polled, how many lines of failed logins were suppressed.
    pub(super) async fn report_failed_logins(&self) -> ! {
        self.failed_logins.report_suppressed().await
    }

    /// Ends the session whose cookie the headers carry.
    pub(super) fn log_out(&self, headers: &HeaderMap) {
        if let Some(id) = cookie(headers) {
            self.sessions.end(id);
        }
    }

    /// Returns whether a host is the listener's own. The port is ignored, since it may be
    /// forwarded.
    fn is_own_host(&self, host: &Authority, local: Option<IpAddr>) -> bool {
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

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        // Inserted by `run_as`; a route outside the guard has no caller.
        parts
            .extensions
            .get()
            .copied()
            .ok_or(ApiError::Unauthorized)
    }
}

impl<S: Sync> FromRequestParts<S> for Operator {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Caller::from_request_parts(parts, state)
            .await?
            .operator(parts.uri.path())
    }
}

/// Returns the token of `Authorization: Bearer`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = sole(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim_start_matches(' '))
}

/// Returns the session cookie's value, if the cookie is there exactly once.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = values
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    let mut sessions = pairs
        .filter(|(name, _)| *name == COOKIE)
        .map(|(_, value)| value);
    sessions.next().filter(|_| sessions.next().is_none())
}

/// Returns the host that a request is for: that of an absolute target (RFC 9112 §3.2.2), or else
/// that of the `Host` header.
fn target_host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    match uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => sole(headers, &header::HOST)?.parse().ok(),
    }
}

/// Checks that a change comes from no page of another origin. Browsers send `Origin` with every
/// change; other clients need not.
pub(super) fn check_origin(headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    if !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let origin = sole(headers, &header::ORIGIN).unwrap_or_default();
    // Both schemes are accepted: a proxy in front may have terminated TLS.
    let authority = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str())) {
        Ok(())
    } else {
        Err(ApiError::CrossOrigin)
    }
}

/// Returns whether a request is a `POST` or `DELETE` without a body, from no browser. It needs no
/// content type. A browser can't be made to send one: it adds `Origin` to every `POST`, a form also
/// has a content type, and a page of another origin can't send a `DELETE` without a CORS preflight.
fn is_plain(method: &Method, headers: &HeaderMap) -> bool {
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get_all(header::CONTENT_LENGTH)
            .iter()
            .any(|length| length != "0");
    let of_browser =
        |name: &HeaderName| *name == header::ORIGIN || name.as_str().starts_with("sec-fetch-");
    [Method::POST, Method::DELETE].contains(method)
        && !has_body
        && !headers.contains_key(header::CONTENT_TYPE)
        && !headers.keys().any(of_browser)
}

/// Checks for JSON. A form can't send its types, so a page of another origin needs a CORS preflight,
/// which is never granted.
fn check_content_type(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = sole(headers, &header::CONTENT_TYPE).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let is_patch = *method == Method::PATCH;
    if essence.eq_ignore_ascii_case("application/json")
        || (is_patch && essence.eq_ignore_ascii_case(MERGE_PATCH))
    {
        Ok(())
    } else if is_patch {
        Err(ApiError::UnsupportedPatch)
    } else {
        Err(ApiError::UnsupportedMediaType)
    }
}

/// Returns a header's value, if the header is there exactly once and is text.
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

    fn with_tokens(expires: Option<&str>) -> Authenticator {
        let expires = expires.map(|end| end.parse().unwrap());
        let token = |secret| NamedSecret {
            name: "token".into(),
            secret: Secret::new(secret).unwrap(),
            expires,
        };
        let (token, read_token) = (token(TOKEN), token(READ_TOKEN));
        Authenticator::new(Access {
            token: Some(&token),
            read_token: Some(&read_token),
            hosts: &[],
        })
    }

    fn open() -> Authenticator {
        Authenticator::new(Access {
            token: None,
            read_token: None,
            hosts: &["gate-1".into()],
        })
    }

    fn check(
        authenticator: &Authenticator,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<(), ApiError> {
        authenticate(authenticator, method, target, headers).map(drop)
    }

    fn authenticate(
        authenticator: &Authenticator,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Caller, ApiError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        let addrs = ConnectionAddrs {
            local: Some("192.0.2.7".parse().unwrap()),
            peer: "192.0.2.9".parse().unwrap(),
            is_other_user: false,
        };
        authenticator.authenticate(
            &method.parse().unwrap(),
            &target.parse().unwrap(),
            &map,
            addrs,
            now(),
        )
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn replaced_token_ends_its_logins() {
        let authenticator = with_tokens(None);
        let log_in = |token| authenticator.log_in(token, now()).unwrap().unwrap();
        let sessions = [log_in(TOKEN), log_in(READ_TOKEN)];
        let is_valid = |header: &str, value: &str| {
            let headers = [("host", "localhost"), (header, value)];
            check(&authenticator, "GET", "/webhooks", &headers).is_ok()
        };
        let new = NamedSecret {
            name: "token".into(),
            secret: Secret::new("admin-token-4713").unwrap(),
            expires: None,
        };
        let old = NamedSecret {
            name: "read".into(),
            secret: Secret::new(READ_TOKEN).unwrap(),
            expires: None,
        };
        assert!(authenticator.replace_tokens(Access {
            token: Some(&new),
            read_token: Some(&old),
            hosts: &[],
        }));
        assert!(!is_valid("authorization", &format!("Bearer {TOKEN}")));
        assert!(is_valid("authorization", "Bearer admin-token-4713"));
        assert!(is_valid("authorization", &format!("Bearer {READ_TOKEN}")));
        let logins = sessions.map(|id| is_valid("cookie", &format!("{COOKIE}={id}")));
        assert_eq!(logins, [false, true]);
        let none = Access {
            token: None,
            read_token: None,
            hosts: &[],
        };
        assert!(!authenticator.replace_tokens(none));
        assert!(!is_valid("accept", "*/*"));
        assert!(!open().replace_tokens(Access {
            token: Some(&new),
            ..none
        }));
    }

    #[test]
    fn login_ends_with_its_token() {
        let token = |secret: &str, expires: Option<&str>| NamedSecret {
            name: "token".into(),
            secret: Secret::new(secret).unwrap(),
            expires: expires.map(|end| end.parse().unwrap()),
        };
        let access = |token, read_token| Access {
            token,
            read_token,
            hosts: &[],
        };
        let (kept, other) = (token(TOKEN, None), token("other", None));
        let later = token(TOKEN, Some("2026-06-01T00:00:01Z"));
        let expired = token(TOKEN, Some("2026-06-01T00:00:00Z"));
        let without_role = access(Some(&other), Some(&kept));
        for (changed, is_logged_in) in [
            (access(Some(&kept), None), true),
            (access(Some(&later), None), true),
            (access(Some(&expired), None), false),
            (access(Some(&other), None), false),
            (access(None, Some(&other)), false),
            (without_role, false),
        ] {
            let authenticator = with_tokens(None);
            let session = authenticator.log_in(TOKEN, now()).unwrap().unwrap();
            let is_valid = || {
                let cookie = format!("{COOKIE}={session}");
                let headers = [("host", "localhost"), ("cookie", &*cookie)];
                check(&authenticator, "GET", "/", &headers).is_ok()
            };
            assert!(is_valid());
            assert!(authenticator.replace_tokens(changed));
            assert_eq!(is_valid(), is_logged_in, "{changed:?}");
        }
    }

    #[test]
    fn token_that_comes_back_revives_no_login() {
        let authenticator = with_tokens(None);
        let session = authenticator.log_in(TOKEN, now()).unwrap().unwrap();
        let [gone, back] = ["other", TOKEN].map(|secret| NamedSecret {
            name: "token".into(),
            secret: Secret::new(secret).unwrap(),
            expires: None,
        });
        for token in [&gone, &back] {
            assert!(authenticator.replace_tokens(Access {
                token: Some(token),
                read_token: None,
                hosts: &[],
            }));
        }
        let cookie = format!("{COOKIE}={session}");
        let headers = [("host", "localhost"), ("cookie", &*cookie)];
        let checked = check(&authenticator, "GET", "/", &headers);
        assert_eq!(checked, Err(ApiError::Unauthorized));
    }

    #[test]
    fn foreign_host_is_misdirected() {
        let authenticator = open();
        for host in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:9180",
            "[::1]:9180",
            "192.0.2.7:9180",
            "gate-1:9180",
        ] {
            assert_eq!(
                check(&authenticator, "GET", "/webhooks", &[("host", host)]),
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
                check(&authenticator, "GET", "/webhooks", &[("host", host)]),
                Err(ApiError::Misdirected),
                "{host}"
            );
        }
        assert_eq!(
            check(&authenticator, "GET", "/", &[]),
            Err(ApiError::Misdirected)
        );
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(
            check(&authenticator, "GET", "/", &twice),
            Err(ApiError::Misdirected)
        );
        let absolute = check(
            &authenticator,
            "GET",
            "http://evil.example/webhooks",
            &[("host", "localhost")],
        );
        assert_eq!(absolute, Err(ApiError::Misdirected));
    }

    #[test]
    fn only_the_exact_token_is_accepted() {
        let authenticator = with_tokens(None);
        let with = |value: &str| {
            check(
                &authenticator,
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
            assert_eq!(with(value), Err(ApiError::Unauthorized), "{value}");
        }
        assert_eq!(
            check(&authenticator, "GET", "/", &[("host", "localhost")]),
            Err(ApiError::Unauthorized)
        );
        let right = ("authorization", "Bearer admin-token-4711");
        assert_eq!(
            check(
                &authenticator,
                "GET",
                "/",
                &[("host", "localhost"), right, right]
            ),
            Err(ApiError::Unauthorized)
        );
    }

    #[test]
    fn expired_token_is_rejected() {
        let right = [
            ("host", "localhost"),
            ("authorization", "Bearer admin-token-4711"),
        ];
        assert_eq!(
            check(
                &with_tokens(Some("2026-06-01T00:00:01Z")),
                "GET",
                "/",
                &right
            ),
            Ok(())
        );
        assert_eq!(
            check(
                &with_tokens(Some("2026-06-01T00:00:00Z")),
                "GET",
                "/",
                &right
            ),
            Err(ApiError::Unauthorized)
        );
    }

    #[test]
    fn token_and_its_session_have_the_same_role() {
        let authenticator = with_tokens(None);
        for (token, role) in [(TOKEN, Role::Operator), (READ_TOKEN, Role::Reader)] {
            let caller = authenticate(
                &authenticator,
                "GET",
                "/",
                &[
                    ("host", "localhost"),
                    ("authorization", &format!("Bearer {token}")),
                ],
            );
            assert_eq!(
                caller.map(|caller| (caller.role, caller.method)),
                Ok((role, AuthMethod::Token))
            );
            let session = authenticator.log_in(token, now()).unwrap().unwrap();
            let with = |cookie: &str| {
                authenticate(
                    &authenticator,
                    "GET",
                    "/",
                    &[("host", "localhost"), ("cookie", cookie)],
                )
            };
            let caller = with(&format!("a=b; hookstile_session={session}; c=d"));
            assert_eq!(
                caller.map(|caller| (caller.role, caller.method)),
                Ok((role, AuthMethod::Login))
            );
            for other in ["", "hookstile_session=", "hookstile_session=x"] {
                assert_eq!(with(other), Err(ApiError::Unauthorized), "{other}");
            }
            let twice = format!("hookstile_session={session}; hookstile_session={session}");
            assert_eq!(with(&twice), Err(ApiError::Unauthorized));
            authenticator.log_out(
                &format!("hookstile_session={session}")
                    .parse()
                    .map(|cookie| HeaderMap::from_iter([(header::COOKIE, cookie)]))
                    .unwrap(),
            );
            assert_eq!(
                with(&format!("hookstile_session={session}")),
                Err(ApiError::Unauthorized)
            );
        }
        assert!(authenticator.log_in("other", now()).is_none());
    }

    #[test]
    fn only_a_plain_request_needs_no_content_type() {
        let authenticator = open();
        let send = |method: &str, headers: &[(&str, &str)]| {
            let headers = [&[("host", "localhost:9180")], headers].concat();
            check(&authenticator, method, "/x", &headers)
        };
        let refused = Err(ApiError::UnsupportedMediaType);
        for method in ["DELETE", "POST"] {
            assert_eq!(send(method, &[]), Ok(()));
            assert_eq!(send(method, &[("content-length", "0")]), Ok(()));
            for header in [
                ("content-length", "2"),
                ("transfer-encoding", "chunked"),
                ("content-type", "text/plain"),
                ("content-type", ""),
                ("content-type", "application/x-www-form-urlencoded"),
                ("content-type", "application/merge-patch+json"),
                ("origin", "http://localhost:9180"),
                ("sec-fetch-site", "same-origin"),
                ("sec-fetch-mode", "no-cors"),
            ] {
                let empty = ("content-length", "0");
                assert_eq!(send(method, &[header]), refused, "{method} {header:?}");
                if header.0 != empty.0 {
                    assert_eq!(send(method, &[empty, header]), refused, "{header:?}");
                }
            }
            let foreign = [("origin", "null"), ("content-length", "0")];
            assert_eq!(send(method, &foreign), Err(ApiError::CrossOrigin));
        }
        assert_eq!(send("PUT", &[]), refused);
        assert_eq!(send("PATCH", &[]), Err(ApiError::UnsupportedPatch));
    }

    #[test]
    fn patch_takes_two_types() {
        let authenticator = open();
        let send = |method: &str, content_type: &str| {
            let headers = [("host", "localhost"), ("content-type", content_type)];
            check(&authenticator, method, "/x", &headers)
        };
        for content_type in [
            "application/json",
            "application/merge-patch+json",
            "Application/Merge-Patch+JSON; charset=utf-8",
        ] {
            assert_eq!(send("PATCH", content_type), Ok(()), "{content_type}");
        }
        for content_type in ["application/json-patch+json", "text/plain", ""] {
            let refused = Err(ApiError::UnsupportedPatch);
            assert_eq!(send("PATCH", content_type), refused, "{content_type}");
        }
        let merge_patch = send("PUT", "application/merge-patch+json");
        assert_eq!(merge_patch, Err(ApiError::UnsupportedMediaType));
    }

    #[test]
    fn change_needs_json_and_the_same_origin() {
        let authenticator = open();
        let change = |headers: &[(&str, &str)]| {
            check(
                &authenticator,
                "POST",
                "/x",
                &[&[("host", "localhost:9180")], headers].concat(),
            )
        };
        let json = ("content-type", "application/json; charset=utf-8");
        assert_eq!(change(&[json]), Ok(()));
        assert_eq!(
            change(&[("content-type", "text/plain")]),
            Err(ApiError::UnsupportedMediaType)
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
                Err(ApiError::CrossOrigin),
                "{origin}"
            );
        }
        assert_eq!(
            check(
                &authenticator,
                "GET",
                "/x",
                &[("host", "localhost"), ("origin", "null")]
            ),
            Ok(())
        );
    }
}
