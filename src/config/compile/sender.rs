//! The sender of a route's events: the signature scheme, and the location of the event's ID, type
//! and time.

use super::Compiler;
use super::route::Layered;
use crate::config::de::{Field, Located, OneOrMore, nearest};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::{facts, raw};
use crate::event::{
    EnvelopeSpec, FallbackType, IdSource, MissingParts, Source, TEXT_BYTES_MAX, TimestampSpec,
};
use crate::json::Pointer;
use crate::providers::{self, PRESETS, PresetHandshake, SenderDefaults};
use crate::signature::{Scheme, SignatureLocation};

pub(super) struct Sender {
    pub scheme: Scheme,
    pub defaults: &'static SenderDefaults,
    pub handshake: PresetHandshake,
    /// The name of the preset; `None` for a custom scheme.
    pub provider: Option<&'static str>,
    /// The provider's name in messages.
    pub title: Option<&'static str>,
}

impl Compiler<'_> {
    /// Returns the sender: from the route's own `provider` or `signature`, or else from that of
    /// `defaults`. `None` if it is wrong.
    pub(super) fn sender(&self, route: &Layered<'_>) -> Option<Sender> {
        let (mut sender, span) = self.declared_sender(route)?;
        let public_url = route.get(|route| &route.public_url);
        let url = public_url.given().and_then(|url| self.public_url(url));
        if sender.scheme.signed.needs_url() {
            match url {
                Some(url) => sender.scheme.signed = sender.scheme.signed.with_url(url),
                None if public_url.is_absent() => {
                    let error = Diagnostic::error(
                        span,
                        "this sender signs the URL that it sends to, and there is no `public_url`",
                    );
                    self.report(error.help(
                        "add `public_url` with the URL exactly as it was entered at the sender",
                    ));
                    return None;
                }
                None => return None,
            }
        } else if let (Some(own), Some(_)) = (route.own.public_url.given(), url) {
            self.report(Diagnostic::warning(
                own.span,
                "this sender does not sign the URL, so `public_url` has no effect",
            ));
        }
        Some(sender)
    }

    /// Returns the sender without `public_url`, and the location of the key that declares it.
    fn declared_sender(&self, route: &Layered<'_>) -> Option<(Sender, Span)> {
        for layer in [route.own, route.defaults] {
            match (&layer.provider, &layer.signature) {
                (Field::Absent, Field::Absent) => {}
                (Field::Given(name), Field::Absent) => {
                    return Some((self.preset(name)?, name.span));
                }
                (Field::Absent, Field::Given(signature)) => {
                    return Some((
                        self.custom(signature, route.get(|route| &route.event))?,
                        signature.span,
                    ));
                }
                (Field::Given(provider), Field::Given(signature)) => {
                    let error = Diagnostic::error(
                        signature.span,
                        "a route has a `provider` or a `signature`, not both",
                    );
                    self.report(
                        error
                            .also(provider.span, "the provider is set here")
                            .help("remove one of the two"),
                    );
                    return None;
                }
                (Field::Wrong, _) | (_, Field::Wrong) => return None,
            }
        }
        let default = providers::find(facts::PROVIDER.default)?;
        Some((preset_sender(default), route.span))
    }

    fn preset(&self, name: &Located<String>) -> Option<Sender> {
        if let Some(preset) = providers::find(&name.value) {
            return Some(preset_sender(preset));
        }
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let error = Diagnostic::error(name.span, "unknown provider");
        let error = match nearest(&name.value, &names) {
            Some(near) => error.label(format!("did you mean `{near}`?")),
            None => error,
        };
        self.report(error.help(format!(
            "the providers are: {}; for any other, describe its scheme with `signature`",
            names.join(", ")
        )));
        None
    }

    fn public_url<'r>(&self, url: &'r Located<String>) -> Option<&'r str> {
        let text = url.value.as_str();
        let whole = ["https://", "http://"]
            .iter()
            .any(|scheme| text.len() > scheme.len() && text.starts_with(scheme));
        if whole && text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Some(text);
        }
        let error = Diagnostic::error(url.span, "this is not a public URL");
        self.report(
            error.label("expected a complete URL: `https://hooks.example.com/webhooks/square`"),
        );
        None
    }

    /// Returns the location of the event's ID, type and time: from `event`, or else the sender's
    /// default.
    pub(super) fn envelope(
        &self,
        field: &Field<raw::Event>,
        defaults: &SenderDefaults,
        scheme: Option<&Scheme>,
    ) -> EnvelopeSpec {
        let default = (defaults.envelope)();
        let Some(event) = field.value() else {
            return EnvelopeSpec {
                // An event must not be rejected for a time that no key asks for.
                timestamp: None,
                ..default
            };
        };
        self.warn_of_unsigned_type(&event.event_type, scheme);
        let id = event.id.given().and_then(|id| self.event_id(id, scheme));
        let id_names = event.id.value().and_then(|id| id.names.value()).copied();
        let event_type = self.event_source(&event.event_type);
        // A preset's rules for control messages belong to its own ID and type.
        let missing = MissingParts {
            id: event.missing_id.value().copied().unwrap_or(match id {
                None => default.missing.id,
                Some(_) => facts::MISSING_ID.default,
            }),
            event_type: match self.default_type(&event.default_type) {
                Some(text) => Some(FallbackType::Text(text)),
                None if event_type.is_none() => default.missing.event_type,
                None => None,
            },
        };
        EnvelopeSpec {
            id_names: id_names.unwrap_or(match id {
                None => default.id_names,
                Some(_) => facts::ID_NAMES.default,
            }),
            id: id.unwrap_or(default.id),
            event_type: event_type.unwrap_or(default.event_type),
            missing,
            timestamp: self.event_time(event, default.timestamp),
        }
    }

    fn default_type(&self, field: &Field<String>) -> Option<Box<str>> {
        let given = field.given()?;
        let text = given.value.as_str();
        if (1..=TEXT_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Some(text.into());
        }
        let error = Diagnostic::error(given.span, "this is not an event type");
        self.report(error.label(format!(
            "expected 1 to {TEXT_BYTES_MAX} bytes without control characters"
        )));
        None
    }

    /// Warns about an event type in a header that is not signed.
    fn warn_of_unsigned_type(&self, field: &Field<raw::EventSource>, scheme: Option<&Scheme>) {
        let Some(header) = field.value().and_then(|source| source.header.given()) else {
            return;
        };
        let is_signed = header
            .value
            .parse()
            .is_ok_and(|name| scheme.is_some_and(|scheme| scheme.signs_header(&name)));
        if !is_signed {
            let warning =
                Diagnostic::warning(header.span, "the event type in a header is not signed");
            self.report(
                warning.help("a replay can change it; use a member of the body if it has one"),
            );
        }
    }

    /// Returns the location of the event's time and its `max_age`.
    fn event_time(
        &self,
        event: &raw::Event,
        default: Option<TimestampSpec>,
    ) -> Option<TimestampSpec> {
        let source = self.event_source(&event.timestamp);
        if let (Some(Source::Header(_)), Some(given)) = (&source, event.timestamp.given()) {
            let warning = Diagnostic::warning(given.span, "the time in a header is not signed");
            self.report(
                warning.help("a replay can change it; use a member of the body if it has one"),
            );
        }
        let max_age = self.duration(&event.max_age, facts::TIME_SPAN);
        let timestamp = match source {
            Some(source) => Some(TimestampSpec { source, max_age }),
            None => max_age
                .and(default)
                .map(|default| TimestampSpec { max_age, ..default }),
        };
        if let (None, true, Some(given)) = (
            &timestamp,
            event.timestamp.is_absent(),
            event.max_age.given(),
        ) {
            self.report(
                Diagnostic::error(given.span, "`max_age` needs a `timestamp`")
                    .help("add `timestamp` with the location of the event's time"),
            );
        }
        timestamp
    }

    fn event_id(&self, id: &Located<raw::EventId>, scheme: Option<&Scheme>) -> Option<IdSource> {
        let raw::EventId {
            pointer,
            header,
            body_digest,
            none,
            names,
        } = &id.value;
        let source = match (pointer, header, body_digest, none) {
            (Field::Given(list), Field::Absent, Field::Absent, Field::Absent) => {
                self.id_pointers(list)
            }
            (Field::Absent, Field::Given(name), Field::Absent, Field::Absent) => {
                let header = self.header_name(&name.value, name.span)?;
                if !scheme.is_some_and(|scheme| scheme.signs_header(&header)) {
                    let warning =
                        Diagnostic::warning(name.span, "the event ID in a header is not signed");
                    self.report(warning.help(
                        "a replay can change it: an event is known by ID, type and body, and a body \
                         that comes again under another ID is delivered with \
                         `Hookstile-Possible-Replay: true`; `replay: {unsigned: reject}` stops it",
                    ));
                }
                Some(IdSource::Header(header))
            }
            (Field::Absent, Field::Absent, Field::Given(digest), Field::Absent) => self
                .only_true("body_digest", digest)
                .then_some(IdSource::BodyDigest),
            (Field::Absent, Field::Absent, Field::Absent, Field::Given(none)) => {
                if self.only_true("none", none) {
                    let warning =
                        Diagnostic::warning(none.span, "this route has no protection from replays");
                    self.report(
                        warning.label(
                            "every event is delivered, with `Hookstile-Possible-Replay: true`",
                        ),
                    );
                }
                none.value.then_some(IdSource::Nothing)
            }
            (Field::Wrong, ..)
            | (_, Field::Wrong, ..)
            | (_, _, Field::Wrong, _)
            | (.., Field::Wrong) => None,
            (Field::Absent, Field::Absent, Field::Absent, Field::Absent) if !names.is_absent() => {
                None
            }
            _ => {
                let error = Diagnostic::error(id.span, "this is not one location of the event ID");
                self.report(
                    error.help("set exactly one of `pointer`, `header`, `body_digest` and `none`"),
                );
                None
            }
        };
        if let (Some(names), Some(IdSource::BodyDigest | IdSource::Nothing)) =
            (names.given(), &source)
        {
            self.report(Diagnostic::warning(
                names.span,
                "`names` has no effect: there is no ID",
            ));
        }
        source
    }

    fn id_pointers(&self, list: &Located<OneOrMore<String>>) -> Option<IdSource> {
        let pointers: Vec<_> = list
            .value
            .0
            .iter()
            .filter_map(Field::given)
            .map(|text| self.pointer(text))
            .collect::<Option<_>>()?;
        match <[Pointer; 1]>::try_from(pointers) {
            Ok([pointer]) => Some(IdSource::Pointer(pointer)),
            Err(pointers) if pointers.is_empty() => {
                self.report(Diagnostic::error(list.span, "the list has no pointer"));
                None
            }
            Err(pointers) => Some(IdSource::Joined(pointers.into())),
        }
    }

    /// Returns the value of a key that can only be `true`, and reports `false`.
    fn only_true(&self, key: &str, given: &Located<bool>) -> bool {
        if !given.value {
            let error = Diagnostic::error(given.span, format!("`{key}` can only be `true`"));
            self.report(error.help("remove it, and set `pointer` or `header` instead"));
        }
        given.value
    }

    fn event_source(&self, field: &Field<raw::EventSource>) -> Option<Source> {
        let source = field.given()?;
        let raw::EventSource { pointer, header } = &source.value;
        match (pointer, header) {
            (Field::Given(text), Field::Absent) => self.pointer(text).map(Source::Pointer),
            (Field::Absent, Field::Given(name)) => {
                self.header_name(&name.value, name.span).map(Source::Header)
            }
            (Field::Wrong, _) | (_, Field::Wrong) => None,
            _ => {
                let error = Diagnostic::error(source.span, "this is not one location");
                self.report(error.help("set either `pointer` or `header`"));
                None
            }
        }
    }

    /// Reports an ID, type or time that is read from the signature: a signature can be written in
    /// several ways.
    pub(super) fn compare_with_signature(
        &self,
        envelope: &EnvelopeSpec,
        scheme: &Scheme,
        span: Span,
    ) {
        let signatures = scheme
            .locations
            .iter()
            .filter_map(|location| match location {
                SignatureLocation::Body(in_body) => Some(&in_body.pointer),
                SignatureLocation::Header(_) | SignatureLocation::Fields(_) => None,
            });
        for signature in signatures {
            if envelope
                .pointers()
                .any(|pointer| pointer.is_at_or_below(signature))
            {
                let error = Diagnostic::error(
                    span,
                    format!("`event` reads `{signature}`, which is the signature"),
                );
                self.report(error.help("the signature is not signed; use another member"));
            }
        }
    }

    pub(super) fn pointer(&self, text: &Located<String>) -> Option<Pointer> {
        match text.value.parse() {
            Ok(pointer) => Some(pointer),
            Err(error) => {
                let problem = Diagnostic::error(text.span, "this is not a JSON pointer");
                self.report(problem.label(format!("{error}")));
                None
            }
        }
    }
}

fn preset_sender(preset: &'static providers::Preset) -> Sender {
    Sender {
        scheme: (preset.scheme)(),
        defaults: &preset.defaults,
        handshake: preset.handshake,
        provider: Some(preset.name),
        title: Some(preset.title),
    }
}
