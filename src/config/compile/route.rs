//! One route: its name and path, its rules, and what it takes from `defaults` and the provider.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use http::Method;

use super::sender::Sender;
use super::{Compiler, networks, trusts_unix_peers};
use crate::activity::CaptureLimits;
use crate::config::de::{Field, Located, nearest};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::values;
use crate::config::{Authentication, Endpoint, Listen, ListenAddress, RouteAddress, facts, raw};
use crate::explain::{Candidate, Explainer};
use crate::gateway::Limits;
use crate::handshake::{Handshake, HandshakeResponder, VerifyToken};
use crate::ledger::IdentityRule;
use crate::providers::{self, PresetHandshake, SenderDefaults, UNKNOWN_SENDER};
use crate::route::{Admission, Budget, EventFilter, RateLimit, Replay, Route};
use crate::signature::{NamedSecret, Unenforced, Verifier};
use crate::upstream::Upstream;

/// A route as written, over the keys of `defaults`.
pub(super) struct Layered<'a> {
    pub own: &'a raw::Route,
    pub defaults: &'a raw::Route,
    pub span: Span,
}

/// The keys that identify a route. A key is `None` if it is wrong or not known yet.
pub(super) struct Identity {
    pub name: Option<Located<String>>,
    pub host: Option<String>,
    pub path: Option<Located<String>>,
    /// An earlier route has the same path and host, which is reported.
    pub is_copy: bool,
}

impl Identity {
    /// Returns the address that the route is known by, if it has a name and a path.
    pub(super) fn address(&self) -> Option<RouteAddress> {
        Some(RouteAddress {
            name: self.name.as_ref()?.value.clone(),
            host: self.host.clone(),
            path: self.path.as_ref()?.value.clone(),
        })
    }
}

/// The time for which many senders retry: the shortest safe window for a sender that is not known.
const USUAL_RETRY_HORIZON: Duration = Duration::from_secs(72 * 3600);
const HOUR: u64 = 3600;

impl<'a> Layered<'a> {
    /// Returns the route's own key, or else that of `defaults`.
    pub(super) fn get<T>(&self, key: impl Fn(&'a raw::Route) -> &'a Field<T>) -> &'a Field<T> {
        key(self.own).or(key(self.defaults))
    }
}

impl Compiler<'_> {
    pub(super) fn identity(&self, raw: &Layered<'_>) -> Identity {
        let path = self.required(raw.get(|route| &route.path), raw.span, "route", "path");
        let host = raw.get(|route| &route.host).given();
        Identity {
            name: self.name(raw.get(|route| &route.name)),
            host: host.and_then(|host| self.host(host)),
            path: path.filter(|path| self.is_path(path)).cloned(),
            is_copy: false,
        }
    }

    /// Returns a name that the user chose, safe as a metric's label.
    pub(super) fn name(&self, field: &Field<String>) -> Option<Located<String>> {
        let given = field.given()?;
        let text = &given.value;
        if (1..=facts::NAME_MAX).contains(&text.len()) && text.chars().all(is_name_character) {
            return Some(given.clone());
        }
        let error = Diagnostic::error(given.span, "this is not a valid name");
        self.report(error.label(format!("expected {}", facts::NAME.words)));
        None
    }

    pub(super) fn host(&self, host: &Located<String>) -> Option<String> {
        let text = &host.value;
        if !text.is_empty()
            && text.chars().all(is_name_character)
            && !text.starts_with('.')
            && !text.ends_with('.')
        {
            return Some(text.to_ascii_lowercase());
        }
        let label = match text {
            text if text.contains('*') => {
                "wildcards are not supported; a route without `host` accepts any"
            }
            text if text.contains(':') => "expected a name without scheme and port",
            text if !text.is_ascii() => "expected the ASCII form of the name (`xn--…`)",
            _ => "expected a name: `hooks.example.com`",
        };
        self.report(Diagnostic::error(host.span, "this is not a host name").label(label));
        None
    }

    /// Returns whether a request can have this path, and reports one that it cannot: paths are
    /// compared byte for byte.
    fn is_path(&self, path: &Located<String>) -> bool {
        let text = path.value.as_str();
        let label = if text.contains("://") {
            "write the path alone; `host` takes the name"
        } else if !text.starts_with('/') {
            "a path starts with `/`"
        } else if text.contains(['?', '#']) {
            "a path has no query (`?…`) and no fragment (`#…`)"
        } else if text.contains("//") {
            "a path has no empty segments (`//`)"
        } else if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            "a path has no dot segments (`.`, `..`)"
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            "a path has only visible ASCII characters; others are percent-encoded (`%20`)"
        } else {
            self.warn_of_pattern(path);
            return true;
        };
        self.report(Diagnostic::error(path.span, "no request can have this path").label(label));
        false
    }

    /// Warns about a path that other programs would take for a pattern.
    fn warn_of_pattern(&self, path: &Located<String>) {
        let is_pattern = |segment: &str| {
            segment.contains('*')
                || segment.starts_with(':')
                || (segment.contains('{') && segment.contains('}'))
        };
        if path.value.split('/').any(is_pattern) {
            let warning = Diagnostic::warning(
                path.span,
                "a path is no pattern: only a request with exactly these characters matches",
            );
            self.report(warning.help("write each path in full, as a route of its own"));
        }
    }

    /// Derives the name of a route without one from its path, or from its host and path if the name
    /// of the path is taken.
    pub(super) fn derive_name(
        &self,
        identity: &mut Identity,
        taken: &mut std::collections::HashMap<String, Span>,
    ) {
        let (None, Some(path), false) = (&identity.name, &identity.path, identity.is_copy) else {
            return;
        };
        let by_path = slug(&path.value);
        let by_host = identity
            .host
            .as_ref()
            .map(|host| slug(&format!("{host}-{}", path.value)));
        let Some(name) = [Some(by_path), by_host]
            .into_iter()
            .flatten()
            .find(|name| !taken.contains_key(name))
        else {
            let error = Diagnostic::error(
                path.span,
                "the name derived from this path is already another route's",
            );
            self.report(error.help("set the `name` of this route"));
            return;
        };
        taken.insert(name.clone(), path.span);
        identity.name = Some(Located {
            value: name,
            span: path.span,
        });
    }

    /// Compiles a route. `None` if a key without which there is no route is wrong.
    pub(super) fn route(
        &self,
        index: usize,
        raw: &Layered<'_>,
        identity: Identity,
        listen: &[Listen],
        limits: &Limits,
    ) -> Option<Route> {
        let sender = self.sender(raw);
        let defaults = sender
            .as_ref()
            .map_or(&UNKNOWN_SENDER, |sender| sender.defaults);
        let scheme = sender.as_ref().map(|sender| &sender.scheme);
        let mut unreadable = Vec::new();
        let secrets = raw.get(|route| &route.secrets);
        let index = (!identity.is_copy).then_some(index);
        let secrets = self.secrets(secrets, raw.span, index, scheme, &mut unreadable);
        let envelope = self.envelope(raw.get(|route| &route.event), defaults, scheme);
        if let Some(scheme) = scheme {
            let event = raw.get(|route| &route.event).given();
            let span = event.map_or(raw.span, |event| event.span);
            self.compare_with_signature(&envelope, scheme, span);
        }
        let target = self.target(raw.get(|route| &route.upstream), raw.span, listen);
        let headers = raw.get(|route| &route.headers);
        let headers = self.headers(headers, scheme, &mut unreadable);
        let methods = self.methods(raw.get(|route| &route.methods));
        let probes = self.probes(raw.get(|route| &route.probes), &methods);
        let events = self.events(raw.get(|route| &route.events), sender.as_ref());
        let concurrency = self.in_range(
            raw.get(|route| &route.concurrency),
            facts::CONCURRENCY.range,
        );
        let admission = self.admission(
            raw,
            concurrency.unwrap_or(facts::CONCURRENCY.default),
            listen,
            limits,
        );
        let budget = self.budget(raw, defaults);
        let max_body = self.max_body(raw.get(|route| &route.max_body), defaults, limits);
        let replay = self.replay(raw.get(|route| &route.replay), sender.as_ref());
        let delivery_mode = self.delivery_mode(raw);
        let accept_status = self.accept_status(raw.get(|route| &route.accept_status), defaults);
        let retry = self.retry(raw.get(|route| &route.retry));
        self.compare_with_window(raw, delivery_mode, &retry, replay);
        let attempt_timeout = self.duration(
            raw.get(|route| &route.attempt_timeout),
            facts::ATTEMPT_TIMEOUT,
        );
        let retain = self.retain(raw.get(|route| &route.retain));
        self.check_storable(raw, delivery_mode, retain);
        let unenforced = self.unenforced(raw.get(|route| &route.enforce));
        let handshake = sender.as_ref().map_or(Err(()), |sender| {
            self.handshake(raw, sender, &mut unreadable)
        });
        let capture = self.capture(raw.get(|route| &route.capture));
        let expect_every = self.duration(raw.get(|route| &route.expect_every), facts::TIME_SPAN);
        let unsigned = raw
            .get(|route| &route.replay)
            .value()
            .map_or(facts::UNSIGNED.default, |replay| {
                facts::UNSIGNED.value_of(&replay.unsigned)
            });
        let signs_header = |name: &_| scheme.is_some_and(|scheme| scheme.signs_header(name));
        let identity_rule = IdentityRule::new(&envelope, signs_header, unsigned);
        let read_headers = scheme
            .iter()
            .flat_map(|scheme| scheme.headers().map(|header| &header.name))
            .chain(envelope.headers())
            .cloned()
            .collect();
        let (secrets, keys) = secrets?;
        Some(Route {
            name: identity.name?.value.into(),
            host: identity.host.map(Into::into),
            path: identity.path?.value.into(),
            provider: sender.as_ref()?.provider,
            methods,
            probes,
            active: unreadable.is_empty(),
            off_line: unreadable.into_iter().next().map(Into::into),
            paused: AtomicBool::new(false),
            verifier: Verifier::new(sender?.scheme, keys, identity_rule.needs_body()),
            explainer: explainer(secrets),
            unenforced,
            handshake: handshake.ok()?,
            envelope,
            identity: identity_rule,
            read_headers,
            events,
            admission,
            budget,
            max_body,
            replay,
            delivery_mode,
            empty_responses: facts::EMPTY_RESPONSES
                .value_of(raw.get(|route| &route.empty_responses)),
            accept_status,
            retry,
            attempt_timeout: attempt_timeout.unwrap_or(budget.total),
            queue_concurrency: concurrency.unwrap_or(facts::QUEUE_CONCURRENCY),
            retain,
            expect_every,
            capture,
            upstream: Arc::new(Upstream::new(target?, headers)),
            forward_query: facts::FORWARD_QUERY.value_of(raw.get(|route| &route.forward_query)),
        })
    }

    /// Compiles the part of a route that verifies requests.
    pub(super) fn authentication(
        &self,
        raw: &Layered<'_>,
        endpoint: Result<Endpoint, String>,
    ) -> Option<Authentication> {
        let sender = self.sender(raw)?;
        let secrets = self.named_secrets(raw.get(|route| &route.secrets), raw.span);
        let envelope = self.envelope(
            raw.get(|route| &route.event),
            sender.defaults,
            Some(&sender.scheme),
        );
        let events = raw.get(|route| &route.events).value().into_iter().flatten();
        let events = events.filter_map(Field::value);
        Some(Authentication {
            scheme: sender.scheme,
            secrets: secrets?,
            envelope,
            challenge: sender.handshake.challenge(),
            provider: sender.provider,
            events: events.map(|pattern| pattern.as_str().into()).collect(),
            endpoint,
        })
    }

    /// Returns the permission to forward requests that did not verify, if the operator gives it.
    fn unenforced(&self, field: &Field<bool>) -> Option<Unenforced> {
        if facts::ENFORCE.value_of(field) {
            return None;
        }
        if let Some(given) = field.given() {
            let warning = Diagnostic::warning(
                given.span,
                "this route is open to anyone: requests that fail verification are forwarded",
            );
            let warning = warning.label("marked with `Hookstile-Verified: false`");
            self.report(warning.help(
                "use this only to try the gateway in front of an application that checks \
                 signatures itself; remove it as soon as verification no longer fails",
            ));
        }
        Some(Unenforced::configured())
    }

    /// Returns the treatment of the provider's handshake. `Err` if it is wrong. Adds a token that
    /// cannot be read to `unreadable`.
    fn handshake(
        &self,
        raw: &Layered<'_>,
        sender: &Sender,
        unreadable: &mut Vec<String>,
    ) -> Result<Option<Handshake>, ()> {
        let field = raw.get(|route| &route.challenge);
        let absent = raw::Challenge::default();
        let challenge = field.value().unwrap_or(&absent);
        let responder = facts::CHALLENGE_MODE.value_of(&challenge.mode);
        let is_forwarded = responder == HandshakeResponder::Upstream;
        match sender.handshake {
            PresetHandshake::Never => {
                let own = raw.own.challenge.given();
                if let Some(own) =
                    own.filter(|_| is_forwarded || !challenge.verify_token.is_absent())
                {
                    self.report(Diagnostic::warning(
                        own.span,
                        "`challenge` has no effect: this sender has no known handshake",
                    ));
                }
                Ok(None)
            }
            PresetHandshake::Signed(question) => {
                if let Some(token) = challenge.verify_token.given() {
                    let warning = Diagnostic::warning(
                        token.span,
                        "`verify_token` has no effect: this sender signs its handshake",
                    );
                    self.report(warning.help("remove it"));
                }
                Ok(Some(Handshake::Signed(question(), responder)))
            }
            PresetHandshake::Query => {
                if let (true, Some(mode)) = (is_forwarded, challenge.mode.given()) {
                    let error =
                        Diagnostic::error(mode.span, "this provider's handshake is not signed");
                    self.report(error.help(
                        "an unverified request cannot be forwarded; set \
                         `challenge: {verify_token: …}`, and the gateway answers the handshake",
                    ));
                    return Err(());
                }
                let span = field.given().map_or(raw.span, |given| given.span);
                self.query_handshake(&challenge.verify_token, span, unreadable)
            }
        }
    }

    /// Returns the treatment of an unsigned handshake, which a token authenticates.
    fn query_handshake(
        &self,
        verify_token: &Field<raw::Reference>,
        span: Span,
        unreadable: &mut Vec<String>,
    ) -> Result<Option<Handshake>, ()> {
        match verify_token {
            Field::Given(token) => {
                let token = self.verify_token(token, unreadable)?;
                Ok(token.map(|token| Handshake::Query(VerifyToken::new(&token))))
            }
            Field::Absent => {
                let warning =
                    Diagnostic::warning(span, "the provider's handshake will be rejected");
                self.report(warning.help(
                    "set the token that was entered at the provider: \
                     `challenge: {verify_token: {env: NAME}}`",
                ));
                Ok(None)
            }
            Field::Wrong => Err(()),
        }
    }

    /// Returns the bounds of the requests that are captured, if any are.
    fn capture(&self, field: &Field<raw::Capture>) -> Option<CaptureLimits> {
        let capture = field.value()?;
        Some(CaptureLimits {
            requests: self.amount(&capture.requests, facts::CAPTURE_REQUESTS),
            bytes: self.amount(&capture.bytes, facts::CAPTURE_BYTES).0,
            keep: self.amount(&capture.keep, facts::CAPTURE_FOR).0,
        })
    }

    fn methods(&self, field: &Field<Vec<Field<raw::Method>>>) -> Vec<Method> {
        let Some(list) = field.given() else {
            return facts::METHODS.default.map(Method::from).to_vec();
        };
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(list.span, "a route without methods accepts no request")
                    .help("remove `methods` to accept POST"),
            );
        }
        let mut methods = Vec::new();
        for method in list.value.iter().filter_map(Field::value) {
            let method = Method::from(*method);
            if !methods.contains(&method) {
                methods.push(method);
            }
        }
        methods
    }

    fn events(&self, field: &Field<Vec<Field<String>>>, sender: Option<&Sender>) -> EventFilter {
        let Some(list) = field.given() else {
            return EventFilter::default();
        };
        if list.value.is_empty() {
            let error = Diagnostic::error(
                list.span,
                "a route without event types would drop every event",
            );
            self.report(error.help("remove `events` to deliver all"));
        }
        let patterns: Vec<_> = list.value.iter().filter_map(Field::given).collect();
        for pattern in &patterns {
            if pattern.value.is_empty() || pattern.value.chars().any(char::is_control) {
                self.report(Diagnostic::error(pattern.span, "this is not an event type"));
            } else if let Some(sender) = sender {
                self.check_event_type(pattern, sender);
            }
        }
        EventFilter::new(
            patterns
                .into_iter()
                .map(|pattern| pattern.value.as_str().into()),
        )
    }

    /// Warns about a pattern that matches none of the provider's event types.
    fn check_event_type(&self, pattern: &Located<String>, sender: &Sender) {
        let (known, Some(title)) = (sender.defaults.event_types, sender.title) else {
            return;
        };
        let filter = EventFilter::new([pattern.value.as_str().into()]);
        if known.is_empty() || known.iter().any(|known| filter.accepts(known)) {
            return;
        }
        let warning = Diagnostic::warning(pattern.span, format!("{title} has no such event type"));
        let word = pattern.value.trim_end_matches(['*', '.']);
        self.report(match nearest_type(word, known) {
            Some(near) => warning.label(format!("did you mean `{near}`?")),
            None => warning.help("`docs/providers.md` lists the event types"),
        });
    }

    fn admission(
        &self,
        raw: &Layered<'_>,
        concurrency: usize,
        listen: &[Listen],
        limits: &Limits,
    ) -> Admission {
        let allow_from = raw.get(|route| &route.allow_from);
        if let Some(empty) = allow_from.given().filter(|list| list.value.is_empty()) {
            let error = Diagnostic::error(empty.span, "an empty list would allow every address");
            self.report(error.help("remove `allow_from` to allow any"));
        }
        let nameless = listen.iter().find(|listen| {
            matches!(listen.address, ListenAddress::Unix(_))
                && !trusts_unix_peers(&limits.trusted_proxies)
        });
        if let (Some(given), Some(nameless)) = (allow_from.given(), nameless) {
            let warning = Diagnostic::warning(
                given.span,
                format!("`allow_from` admits no request over {}", nameless.address),
            );
            self.report(warning.help(
                "a Unix socket shows no client address; if the proxy in front sends \
                 `X-Forwarded-For`, add `unix` to `trusted_proxies`",
            ));
        }
        Admission::new(
            networks(allow_from),
            self.rate_limit(raw.get(|route| &route.rate_limit)),
            self.rate_limit(raw.get(|route| &route.unverified_rate_limit)),
            concurrency,
        )
    }

    fn rate_limit(&self, field: &Field<raw::RateLimit>) -> Option<RateLimit> {
        let limit = field.given()?;
        let burst = self.in_range(&limit.value.burst, facts::RATE);
        self.required(
            &limit.value.per_second,
            limit.span,
            "rate limit",
            "per_second",
        )?;
        let per_second = self.in_range(&limit.value.per_second, facts::RATE);
        let per_second = per_second.and_then(NonZeroU32::new)?;
        Some(RateLimit {
            per_second,
            burst: burst.and_then(NonZeroU32::new).unwrap_or(per_second),
        })
    }

    fn budget(&self, raw: &Layered<'_>, defaults: &SenderDefaults) -> Budget {
        let (total, margin) = (
            raw.get(|route| &route.budget),
            raw.get(|route| &route.budget_margin),
        );
        let budget = Budget {
            total: self
                .duration(total, facts::BUDGET.range)
                .unwrap_or(defaults.budget),
            margin: self.amount(margin, facts::BUDGET_MARGIN).0,
        };
        let span = margin
            .given()
            .map(|margin| margin.span)
            .or(total.given().map(|total| total.span));
        if let Some(span) = span.filter(|_| budget.margin >= budget.total) {
            let Budget { total, margin } = budget;
            let error = Diagnostic::error(
                span,
                format!("`budget_margin` ({margin:?}) is not less than `budget` ({total:?})"),
            );
            self.report(error.help("lower `budget_margin`, or raise `budget`"));
        }
        budget
    }

    fn max_body(
        &self,
        field: &Field<values::ByteSize>,
        defaults: &SenderDefaults,
        limits: &Limits,
    ) -> usize {
        let size = match field {
            Field::Absent => defaults.max_body,
            given => match self.in_range(given, facts::MAX_BODY.range) {
                Some(size) => size.0,
                None => return defaults.max_body,
            },
        };
        if size > limits.body_bytes_in_flight {
            let span = field.given().map(|given| given.span);
            let error = Diagnostic::error(
                span,
                "a route's `max_body` is larger than `limits.body_bytes_in_flight`",
            );
            self.report(error.help(
                "such a body could never be accepted; lower `max_body`, or raise \
                 `body_bytes_in_flight`",
            ));
        }
        size
    }

    fn replay(&self, field: &Field<raw::Replay>, sender: Option<&Sender>) -> Replay {
        let absent = raw::Replay::default();
        let replay = field.value().unwrap_or(&absent);
        let defaults = sender.map_or(&UNKNOWN_SENDER, |sender| sender.defaults);
        if let (Some(window), Some(sender)) = (replay.window.given(), sender) {
            self.check_window(window, sender);
        }
        Replay {
            window: self.amount(&replay.window, facts::WINDOW).0,
            on_duplicate: replay
                .on_duplicate
                .value()
                .copied()
                .unwrap_or(defaults.on_duplicate),
            in_flight: facts::IN_FLIGHT.value_of(&replay.in_flight),
        }
    }

    /// Checks that an event ID is remembered for long enough. An ID that is forgotten while the
    /// provider may still send the event, or while a signed timestamp is still accepted, lets a
    /// copy through.
    fn check_window(&self, window: &Located<values::Duration>, sender: &Sender) {
        let tolerance = sender
            .scheme
            .time
            .as_ref()
            .map_or(Duration::ZERO, |time| time.tolerance);
        let fresh = tolerance * 2;
        if window.value.0 < fresh {
            let shown = values::Duration(fresh);
            let error = Diagnostic::error(
                window.span,
                format!("a signed request is accepted for up to {shown}"),
            );
            let error = error.label("it could be replayed after this window");
            self.report(error.help(format!(
                "lower `tolerance`, or remove this key to use {}",
                facts::WINDOW.default
            )));
            return;
        }
        let retries = sender.defaults.retry_horizon;
        let horizon = retries.unwrap_or(USUAL_RETRY_HORIZON) + tolerance;
        if window.value.0 >= horizon {
            return;
        }
        let shown = values::Duration(horizon);
        self.report(match sender.title.filter(|_| retries.is_some()) {
            Some(title) => {
                let hours = horizon.as_secs().div_ceil(HOUR);
                let error = Diagnostic::error(
                    window.span,
                    format!("{title} may send an event again for up to {shown}"),
                );
                let error = error.label("an ID would be forgotten before that");
                error.help(format!(
                    "use at least `{hours}h`, or remove this key to use {}",
                    facts::WINDOW.default
                ))
            }
            None => {
                let warning = Diagnostic::warning(
                    window.span,
                    format!("many senders send an event again for up to {shown}"),
                );
                let warning = warning.label("an ID is forgotten before that");
                warning.help("ignore this if the sender stops earlier")
            }
        });
    }
}

impl From<raw::Method> for Method {
    fn from(method: raw::Method) -> Self {
        match method {
            raw::Method::Post => Self::POST,
            raw::Method::Put => Self::PUT,
            raw::Method::Patch => Self::PATCH,
            raw::Method::Get => Self::GET,
            raw::Method::Delete => Self::DELETE,
        }
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

/// Returns the known event type nearest to `word`, as a whole or by its first segments.
fn nearest_type(word: &str, known: &[&'static str]) -> Option<&'static str> {
    nearest(word, known).or_else(|| {
        let segments = word.split('.').count();
        let heads: Vec<String> = known
            .iter()
            .map(|known| {
                let head: Vec<_> = known.split('.').take(segments).collect();
                head.join(".")
            })
            .collect();
        let heads: Vec<_> = heads.iter().map(String::as_str).collect();
        let near = nearest(word, &heads)?;
        known.iter().copied().find(|known| known.starts_with(near))
    })
}

/// Turns a path into a name: `/webhooks/vpn-enterprise` becomes `webhooks-vpn-enterprise`.
fn slug(path: &str) -> String {
    let slug: String = path
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c.to_ascii_lowercase()
            } else {
                '-'
            }
        })
        .collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() {
        "root".into()
    } else {
        slug.chars().take(facts::NAME_MAX).collect()
    }
}

/// Returns the explainer of requests that none of the route's secrets verifies.
fn explainer(secrets: Vec<NamedSecret>) -> Explainer {
    let candidates = secrets.into_iter().map(|named| Candidate {
        named,
        configured: true,
    });
    Explainer {
        candidates: candidates.collect(),
        others: providers::schemes(),
    }
}
