//! One route: who may send, what is taken, and how it is answered.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::sender::{Sender, needs_body_digest};
use super::{Compiler, HOUR, SECOND, networks};
use crate::config::de::{Field, Located, nearest};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::values;
use crate::config::{Authentication, Listen, raw};
use crate::gateway::Limits;
use crate::handshake::{Handshake, HandshakeResponder, VerifyToken};
use crate::ledger::InFlightPolicy;
use crate::providers::{PresetHandshake, SenderDefaults, UNKNOWN_SENDER};
use crate::route::{Admission, Budget, EventFilter, OnDuplicate, RateLimit, Replay, Route};
use crate::signature::{Unenforced, Verifier};
use crate::upstream::Upstream;

/// A route as written, over the keys of `defaults`.
pub(super) struct Layered<'a> {
    pub own: &'a raw::Route,
    pub defaults: &'a raw::Route,
    pub place: Span,
}

/// What tells a route from the others. `None` where it is wrong or not known yet.
pub(super) struct Identity {
    pub name: Option<Located<String>>,
    pub host: Option<String>,
    pub path: Option<Located<String>>,
}

/// Also the shortest window that is right for a sender of whom nothing is known.
const USUAL_RETRY_HORIZON: Duration = HOUR.saturating_mul(72);
const DEFAULT_MARGIN: Duration = Duration::from_millis(500);
const DEFAULT_CONCURRENCY: usize = 1024;
/// Attempts have no sender that waits, and a receiver that comes back should not get its whole backlog at once.
const DEFAULT_QUEUE_CONCURRENCY: usize = 32;
const NAME_MAX: usize = 64;

impl<'a> Layered<'a> {
    /// The route's own key, or else that of `defaults`.
    pub(super) fn get<T>(&self, key: impl Fn(&'a raw::Route) -> &'a Field<T>) -> &'a Field<T> {
        key(self.own).or(key(self.defaults))
    }
}

impl Compiler<'_> {
    pub(super) fn identity(&self, raw: &Layered<'_>) -> Identity {
        let path = self.required(raw.get(|route| &route.path), raw.place, "route", "path");
        let host = raw.get(|route| &route.host).given();
        Identity {
            name: self.name(raw.get(|route| &route.name)),
            host: host.and_then(|host| self.host(host)),
            path: path.filter(|path| self.is_path(path)).cloned(),
        }
    }

    /// A label-safe name that the user gave.
    pub(super) fn name(&self, field: &Field<String>) -> Option<Located<String>> {
        let given = field.given()?;
        let fit = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if (1..=NAME_MAX).contains(&given.value.len()) && given.value.chars().all(fit) {
            return Some(given.clone());
        }
        let error = Diagnostic::error(given.span, "this cannot be a name");
        self.report(error.label("expected 1 to 64 of `A-Z a-z 0-9 . _ -`"));
        None
    }

    pub(super) fn host(&self, host: &Located<String>) -> Option<String> {
        let text = &host.value;
        let fit = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if !text.is_empty()
            && text.chars().all(fit)
            && !text.starts_with('.')
            && !text.ends_with('.')
        {
            return Some(text.to_ascii_lowercase());
        }
        let label = match text {
            text if text.contains('*') => {
                "wildcards are not supported; a route without `host` takes any"
            }
            text if text.contains(':') => "expected a name without scheme and port",
            text if !text.is_ascii() => "expected the ASCII form of the name (`xn--…`)",
            _ => "expected a name, as in `hooks.example.com`",
        };
        self.report(Diagnostic::error(host.span, "this is not a host").label(label));
        None
    }

    /// Paths are compared byte for byte, so one that no request can have is an error.
    fn is_path(&self, path: &Located<String>) -> bool {
        let text = path.value.as_str();
        let label = if !text.starts_with('/') {
            "a path begins with `/`"
        } else if text.contains(['?', '#']) {
            "a path has no query (`?…`) and no fragment (`#…`)"
        } else if text.contains("//") {
            "a path has no empty segments (`//`)"
        } else if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            "a path has no dot segments (`.`, `..`)"
        } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            "a path has visible ASCII characters only; others are percent-encoded (`%20`)"
        } else {
            return true;
        };
        self.report(Diagnostic::error(path.span, "no request has this path").label(label));
        false
    }

    /// Names a route by its path where it has no name; by its host too where the path alone is taken.
    pub(super) fn name_by_path(
        &self,
        identity: &mut Identity,
        taken: &mut std::collections::HashMap<String, Span>,
    ) {
        let (None, Some(path)) = (&identity.name, &identity.path) else {
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
                "the name that follows from this path is another route's already",
            );
            self.report(error.help("give this route a `name`"));
            return;
        };
        taken.insert(name.clone(), path.span);
        identity.name = Some(Located {
            value: name,
            span: path.span,
        });
    }

    /// `None` when something that a route cannot do without is wrong.
    pub(super) fn route(
        &self,
        index: usize,
        raw: &Layered<'_>,
        identity: Identity,
        listen: &[Listen],
        limits: &Limits,
    ) -> Option<Route> {
        let sender = self.sender(raw);
        let habits = sender
            .as_ref()
            .map_or(&UNKNOWN_SENDER, |sender| sender.habits);
        let scheme = sender.as_ref().map(|sender| &sender.scheme);
        let secrets = self.secrets(raw.get(|route| &route.secrets), raw.place, index, scheme);
        let envelope = self.envelope(raw.get(|route| &route.event), habits, scheme);
        if let Some(scheme) = scheme {
            let event = raw.get(|route| &route.event).given();
            self.compare_with_signature(
                &envelope,
                scheme,
                event.map_or(raw.place, |event| event.span),
            );
        }
        let target = self.target(raw.get(|route| &route.upstream), raw.place, listen);
        let headers = self.headers(raw.get(|route| &route.headers), scheme);
        let methods = self.methods(raw.get(|route| &route.methods));
        let events = self.events(raw.get(|route| &route.events), sender.as_ref());
        let concurrency = self.within(
            raw.get(|route| &route.concurrency),
            1..=1_000_000,
            "1 to 1000000",
        );
        let admission = self.admission(raw, concurrency.unwrap_or(DEFAULT_CONCURRENCY));
        let budget = self.budget(raw, habits);
        let max_body = self.max_body(raw.get(|route| &route.max_body), habits, limits);
        let replay = self.replay(raw.get(|route| &route.replay), sender.as_ref());
        let handover = self.handover(raw);
        let accept_status = self.accept_status(raw.get(|route| &route.accept_status));
        let retry = self.retry(raw.get(|route| &route.retry));
        self.compare_with_window(raw, handover, &retry, replay);
        let attempt_timeout = self
            .duration(raw.get(|route| &route.attempt_timeout))
            .unwrap_or(budget.total);
        let retain = self.retain(raw.get(|route| &route.retain));
        self.check_storable(raw, handover, retain);
        let shadow = self.shadow(raw.get(|route| &route.enforce));
        let handshake = sender
            .as_ref()
            .map_or(Err(()), |sender| self.handshake(raw, sender));
        let tell_sha256 = needs_body_digest(&envelope, scheme);
        Some(Route {
            name: identity.name?.value.into(),
            host: identity.host.map(Into::into),
            path: identity.path?.value.into(),
            provider: sender.as_ref()?.provider,
            methods,
            active: true,
            verifier: Verifier::new(sender?.scheme, secrets?, tell_sha256),
            unenforced: shadow,
            handshake: handshake.ok()?,
            envelope,
            events,
            admission,
            budget,
            max_body,
            replay,
            delivery_mode: handover,
            accept_status,
            retry,
            attempt_timeout,
            queue_concurrency: concurrency.unwrap_or(DEFAULT_QUEUE_CONCURRENCY),
            retain,
            expect_every: self.positive(raw.get(|route| &route.expect_every)),
            upstream: Arc::new(Upstream::new(target?, headers)),
            forward_query: raw
                .get(|route| &route.forward_query)
                .value()
                .copied()
                .unwrap_or(false),
        })
    }

    /// How the route tells genuine requests, without the rest of it.
    pub(super) fn authentication(&self, raw: &Layered<'_>) -> Option<Authentication> {
        let sender = self.sender(raw)?;
        let secrets = self.named_secrets(raw.get(|route| &route.secrets), raw.place);
        let envelope = self.envelope(
            raw.get(|route| &route.event),
            sender.habits,
            Some(&sender.scheme),
        );
        Some(Authentication {
            scheme: sender.scheme,
            secrets: secrets?,
            envelope,
            asks: sender.asks.challenge(),
        })
    }

    /// The permission to pass on what did not verify, where an operator gives it.
    fn shadow(&self, field: &Field<bool>) -> Option<Unenforced> {
        let enforce = field.given().filter(|enforce| !enforce.value)?;
        let warning = Diagnostic::warning(
            enforce.span,
            "this route is open to anybody: what does not verify is forwarded",
        );
        self.report(warning.label("marked with `Hookstile-Verified: false`").help(
            "for trying the gateway out in front of an application that checks signatures itself; leave it out as soon \
             as nothing fails any more",
        ));
        Some(Unenforced::new())
    }

    /// What becomes of the provider's handshakes. `Err` when it is wrong.
    fn handshake(&self, raw: &Layered<'_>, sender: &Sender) -> Result<Option<Handshake>, ()> {
        let field = raw.get(|route| &route.challenge);
        let absent = raw::Challenge::default();
        let challenge = field.value().unwrap_or(&absent);
        let forwards = challenge
            .mode
            .given()
            .filter(|mode| mode.value == raw::ChallengeMode::Forward);
        match sender.asks {
            PresetHandshake::Never => {
                let own = raw.own.challenge.given();
                if let Some(own) =
                    own.filter(|_| forwards.is_some() || !challenge.verify_token.is_absent())
                {
                    self.report(Diagnostic::warning(
                        own.span,
                        "this sender has no handshake that is known here",
                    ));
                }
                Ok(None)
            }
            PresetHandshake::Signed(question) => {
                if let Some(token) = challenge.verify_token.given() {
                    let warning = Diagnostic::warning(
                        token.span,
                        "this sender signs its handshake, and has no such token",
                    );
                    self.report(warning.help("leave it out"));
                }
                let by = if forwards.is_some() {
                    HandshakeResponder::Upstream
                } else {
                    HandshakeResponder::Gateway
                };
                Ok(Some(Handshake::Signed(question(), by)))
            }
            PresetHandshake::Query => {
                if let Some(forward) = forwards {
                    let error =
                        Diagnostic::error(forward.span, "this provider's handshake is not signed");
                    self.report(error.help(
                        "nothing unverified reaches the upstream; give `challenge: {verify_token: …}`, and the gateway \
                         answers it",
                    ));
                    return Err(());
                }
                match &challenge.verify_token {
                    Field::Given(token) => {
                        let token = self.token(token).ok_or(())?;
                        Ok(Some(Handshake::Query(VerifyToken::new(&token))))
                    }
                    Field::Absent => {
                        let span = field.given().map_or(raw.place, |given| given.span);
                        let warning =
                            Diagnostic::warning(span, "the provider's handshake will be refused");
                        self.report(
                            warning.help("give the token entered there: `challenge: {verify_token: {env: NAME}}`"),
                        );
                        Ok(None)
                    }
                    Field::Wrong => Err(()),
                }
            }
        }
    }

    fn methods(&self, field: &Field<Vec<Field<raw::Method>>>) -> Vec<Method> {
        let Some(list) = field.given() else {
            return vec![Method::POST];
        };
        if list.value.is_empty() {
            self.report(
                Diagnostic::error(list.span, "a route without methods takes nothing")
                    .help("leave it out for POST"),
            );
        }
        let mut methods = Vec::new();
        for method in list.value.iter().filter_map(Field::value) {
            let method = match method {
                raw::Method::Post => Method::POST,
                raw::Method::Put => Method::PUT,
                raw::Method::Patch => Method::PATCH,
                raw::Method::Get => Method::GET,
                raw::Method::Delete => Method::DELETE,
            };
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
                "a route without event types would drop everything",
            );
            self.report(error.help("leave `events` out to take all"));
        }
        let patterns: Vec<_> = list.value.iter().filter_map(Field::given).collect();
        for pattern in &patterns {
            if pattern.value.is_empty() || pattern.value.chars().any(char::is_control) {
                self.report(Diagnostic::error(
                    pattern.span,
                    "this cannot be an event type",
                ));
            } else if let Some(sender) = sender {
                self.look_up(pattern, sender);
            }
        }
        EventFilter::new(
            patterns
                .into_iter()
                .map(|pattern| pattern.value.as_str().into()),
        )
    }

    /// Warns about a pattern that takes none of the event types that the provider has.
    fn look_up(&self, pattern: &Located<String>, sender: &Sender) {
        let (known, Some(title)) = (sender.habits.event_types, sender.title) else {
            return;
        };
        let filter = EventFilter::new([pattern.value.as_str().into()]);
        if known.is_empty() || known.iter().any(|kind| filter.accepts(kind)) {
            return;
        }
        let warning = Diagnostic::warning(pattern.span, format!("{title} has no such event type"));
        let word = pattern.value.trim_end_matches(['*', '.']);
        self.report(match nearest_type(word, known) {
            Some(near) => warning.label(format!("did you mean `{near}`?")),
            None => warning.help("the list is in `docs/providers.md`"),
        });
    }

    fn admission(&self, raw: &Layered<'_>, concurrency: usize) -> Admission {
        let allow_from = raw.get(|route| &route.allow_from);
        if let Some(empty) = allow_from.given().filter(|list| list.value.is_empty()) {
            let error = Diagnostic::error(empty.span, "an empty list would let every address in");
            self.report(error.help("leave `allow_from` out if that is meant"));
        }
        Admission::new(
            networks(allow_from),
            self.rate_limit(raw.get(|route| &route.rate_limit)),
            concurrency,
        )
    }

    fn rate_limit(&self, field: &Field<raw::RateLimit>) -> Option<RateLimit> {
        let limit = field.given()?;
        let rate = |field| {
            self.within(field, 1..=1_000_000, "1 to 1000000")
                .and_then(NonZeroU32::new)
        };
        let burst = rate(&limit.value.burst);
        self.required(
            &limit.value.per_second,
            limit.span,
            "rate limit",
            "per_second",
        )?;
        let per_second = rate(&limit.value.per_second)?;
        Some(RateLimit {
            per_second,
            burst: burst.unwrap_or(per_second),
        })
    }

    fn budget(&self, raw: &Layered<'_>, habits: &SenderDefaults) -> Budget {
        let (total, margin) = (
            raw.get(|route| &route.budget),
            raw.get(|route| &route.budget_margin),
        );
        let budget = Budget {
            total: self.duration(total).unwrap_or(habits.budget),
            margin: self.duration(margin).unwrap_or(DEFAULT_MARGIN),
        };
        let place = margin
            .given()
            .map(|margin| margin.span)
            .or(total.given().map(|total| total.span));
        if let Some(span) = place.filter(|_| budget.margin >= budget.total) {
            let Budget { total, margin } = budget;
            let error = Diagnostic::error(
                span,
                format!("the margin, {margin:?}, leaves nothing of the budget, {total:?}"),
            );
            self.report(error.help("`budget_margin` must be less than `budget`"));
        }
        budget
    }

    fn max_body(
        &self,
        field: &Field<values::ByteSize>,
        habits: &SenderDefaults,
        limits: &Limits,
    ) -> usize {
        let size = match field {
            Field::Absent => habits.max_body,
            given => match self.size(given, 1..=1 << 30, "1 byte to 1GiB") {
                Some(size) => size,
                None => return habits.max_body,
            },
        };
        if size > limits.body_bytes_in_flight {
            let span = field.given().map(|given| given.span);
            let error = Diagnostic::error(
                span,
                "a route's `max_body` is bigger than `limits.body_bytes_in_flight`",
            );
            self.report(
                error.help("such a body could never be taken; lower the one, or raise the other"),
            );
        }
        size
    }

    fn replay(&self, field: &Field<raw::Replay>, sender: Option<&Sender>) -> Replay {
        let absent = raw::Replay::default();
        let replay = field.value().unwrap_or(&absent);
        let habits = sender.map_or(&UNKNOWN_SENDER, |sender| sender.habits);
        if let (Some(window), Some(sender)) = (replay.window.given(), sender) {
            self.check_window(window, sender);
        }
        Replay {
            window: self
                .positive(&replay.window)
                .unwrap_or(Replay::USUAL_WINDOW),
            on_duplicate: match replay.on_duplicate.value() {
                None => habits.on_duplicate,
                Some(raw::OnDuplicate::Reject) => OnDuplicate::Reject,
                Some(raw::OnDuplicate::Acknowledge) => OnDuplicate::Acknowledge,
            },
            in_flight: match replay.in_flight.value() {
                None | Some(raw::InFlight::Wait) => InFlightPolicy::Wait,
                Some(raw::InFlight::Reject) => InFlightPolicy::Reject,
            },
        }
    }

    /// An ID that is forgotten while the provider may still send the event again lets that one through. So does one
    /// that is forgotten while a signed time is still fresh.
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
                format!("a signed request may stay fresh for {shown}"),
            );
            self.report(
                error
                    .label("it could be replayed after this")
                    .help("lower the `tolerance`, or leave this out"),
            );
            return;
        }
        let horizon = sender.habits.retry_horizon.unwrap_or(USUAL_RETRY_HORIZON) + tolerance;
        if window.value.0 >= horizon {
            return;
        }
        let shown = values::Duration(horizon);
        self.report(
            match sender
                .title
                .filter(|_| sender.habits.retry_horizon.is_some())
            {
                Some(title) => Diagnostic::error(
                    window.span,
                    format!("{title} may send an event again for up to {shown}"),
                )
                .label("an ID would be forgotten before that")
                .help(format!("at least `{shown}`, or leave it out for `96h`")),
                None => Diagnostic::warning(
                    window.span,
                    format!("many senders send events again for up to {shown}"),
                )
                .label("an ID is forgotten before that")
                .help("fine if this sender gives up earlier"),
            },
        );
    }

    /// More than nothing.
    pub(super) fn positive(&self, field: &Field<values::Duration>) -> Option<Duration> {
        let range = values::Duration(SECOND / 1000)..=values::Duration(Duration::MAX);
        self.within(field, range, "more than 0s")
            .map(|duration| duration.0)
    }
}

/// The known event type nearest to `word`, whole or by its first segments.
fn nearest_type(word: &str, known: &[&'static str]) -> Option<&'static str> {
    nearest(word, known).or_else(|| {
        let segments = word.split('.').count();
        let heads: Vec<_> = known
            .iter()
            .map(|kind| kind.splitn(segments + 1, '.').take(segments))
            .collect();
        let heads: Vec<_> = heads
            .into_iter()
            .map(|head| head.collect::<Vec<_>>().join("."))
            .collect();
        let words: Vec<_> = heads.iter().map(String::as_str).collect();
        let near = nearest(word, &words)?;
        known.iter().copied().find(|kind| kind.starts_with(near))
    })
}

/// `/webhooks/vpn-enterprise` → `webhooks-vpn-enterprise`.
fn slug(path: &str) -> String {
    let fit = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let slug: String = path.chars().map(fit).collect();
    let slug = slug.trim_matches('-');
    if slug.is_empty() {
        "root".into()
    } else {
        slug.chars().take(NAME_MAX).collect()
    }
}
