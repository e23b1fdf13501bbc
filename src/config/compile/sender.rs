//! Who sends to a route: the signature's scheme, and where the event's envelope stands.

use super::Compiler;
use super::route::Layered;
use crate::config::de::{Field, Located, nearest};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw;
use crate::config::tree::Span;
use crate::event::{EnvelopeSpec, IdSource, Source, TimestampSpec};
use crate::json::Pointer;
use crate::providers::{self, PRESETS, PresetHandshake, SenderDefaults};
use crate::signature::{Scheme, SignatureLocation};

/// What a route gets when it says nothing about who sends.
const DEFAULT_PROVIDER: &str = "vpn-enterprise";

pub(super) struct Sender {
    pub scheme: Scheme,
    pub habits: &'static SenderDefaults,
    pub asks: PresetHandshake,
    /// A known provider's name and title.
    pub provider: Option<&'static str>,
    pub title: Option<&'static str>,
}

impl Compiler<'_> {
    /// A route's own `provider` or `signature`, else that of `defaults`. `None` when it is wrong.
    pub(super) fn sender(&self, route: &Layered<'_>) -> Option<Sender> {
        let (mut sender, place) = self.who_sends(route)?;
        let public_url = route.get(|route| &route.public_url);
        let url = public_url.given().and_then(|url| self.public_url(url));
        if sender.scheme.signed.needs_url() {
            match url {
                Some(url) => sender.scheme.signed = sender.scheme.signed.with_url(url),
                None if public_url.is_absent() => {
                    let error = Diagnostic::error(
                        place,
                        "the sender signs the URL that it sends to, which is not given",
                    );
                    self.report(error.help(
                        "add `public_url:` with the URL that was entered there, letter for letter",
                    ));
                    return None;
                }
                None => return None,
            }
        } else if let (Some(own), Some(_)) = (route.own.public_url.given(), url) {
            self.report(Diagnostic::warning(
                own.span,
                "this sender does not sign the URL, so it makes no difference",
            ));
        }
        Some(sender)
    }

    /// And where that is said.
    fn who_sends(&self, route: &Layered<'_>) -> Option<(Sender, Span)> {
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
                            .also(provider.span, "given here")
                            .help("leave one of them out"),
                    );
                    return None;
                }
                (Field::Wrong, _) | (_, Field::Wrong) => return None,
            }
        }
        Some((known(providers::find(DEFAULT_PROVIDER)?), route.place))
    }

    fn preset(&self, name: &Located<String>) -> Option<Sender> {
        if let Some(preset) = providers::find(&name.value) {
            return Some(known(preset));
        }
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let error = Diagnostic::error(name.span, "unknown provider");
        let error = match nearest(&name.value, &names) {
            Some(near) => error.label(format!("did you mean `{near}`?")),
            None => error,
        };
        self.report(error.help(format!(
            "known: {}; or describe the scheme with `signature:`",
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
        let error = Diagnostic::error(url.span, "this is not a URL that a sender can send to");
        self.report(
            error.label(
                "expected the whole of it, as in `https://hooks.example.com/webhooks/square`",
            ),
        );
        None
    }

    /// Where the event's ID, type and time stand: what `event:` says, for the rest what the sender usually does.
    pub(super) fn envelope(
        &self,
        field: &Field<raw::Event>,
        habits: &SenderDefaults,
        scheme: Option<&Scheme>,
    ) -> EnvelopeSpec {
        // A time that nobody asked for is no reason to refuse an event.
        let usual = (habits.envelope)();
        let Some(event) = field.given() else {
            return EnvelopeSpec {
                timestamp: None,
                ..usual
            };
        };
        let source = |field: &Field<raw::EventSource>| {
            field.given().and_then(|source| self.event_source(source))
        };
        if let Some(header) = event
            .value
            .kind
            .value()
            .and_then(|kind| kind.header.given())
            && !header
                .value
                .parse()
                .is_ok_and(|name| scheme.is_some_and(|scheme| scheme.signs_header(&name)))
        {
            let warning =
                Diagnostic::warning(header.span, "the event type in a header is not signed");
            self.report(warning.help(
                "a replay can bring another type; take one from the body where there is one",
            ));
        }
        let id = event
            .value
            .id
            .given()
            .and_then(|id| self.event_id(id, scheme));
        let timestamp = source(&event.value.timestamp);
        if let (Some(Source::Header(_)), Some(given)) = (&timestamp, event.value.timestamp.given())
        {
            let warning = Diagnostic::warning(given.span, "the time in a header is not signed");
            self.report(
                warning
                    .help("a replay can bring any time; take one from the body where there is one"),
            );
        }
        let max_age = self.positive(&event.value.max_age);
        let timestamp = match timestamp {
            Some(source) => Some(TimestampSpec { source, max_age }),
            None => max_age.and_then(|_| {
                usual
                    .timestamp
                    .map(|usual| TimestampSpec { max_age, ..usual })
            }),
        };
        if let (None, true, Some(given)) = (
            &timestamp,
            event.value.timestamp.is_absent(),
            event.value.max_age.given(),
        ) {
            self.report(
                Diagnostic::error(given.span, "`max_age` needs a `timestamp`")
                    .help("say where the event's time stands"),
            );
        }
        EnvelopeSpec {
            id: id.unwrap_or(usual.id),
            event_type: source(&event.value.kind).unwrap_or(usual.event_type),
            timestamp,
        }
    }

    fn event_id(&self, id: &Located<raw::EventId>, scheme: Option<&Scheme>) -> Option<IdSource> {
        let raw::EventId {
            pointer,
            header,
            body_digest,
        } = &id.value;
        match (pointer, header, body_digest) {
            (Field::Given(text), Field::Absent, Field::Absent) => {
                self.pointer(text).map(IdSource::Pointer)
            }
            (Field::Absent, Field::Given(name), Field::Absent) => {
                let header = self.header_name(&name.value, name.span)?;
                if !scheme.is_some_and(|scheme| scheme.signs_header(&header)) {
                    let warning =
                        Diagnostic::warning(name.span, "the event ID in a header is not signed");
                    self.report(
                        warning.help("a replay can bring another ID, so the ledger also goes by the body's digest"),
                    );
                }
                Some(IdSource::Header(header))
            }
            (Field::Absent, Field::Absent, Field::Given(digest)) => {
                if !digest.value {
                    let error =
                        Diagnostic::error(digest.span, "`body_digest` is `true` or not there");
                    self.report(error.help("leave it out and say where the ID stands"));
                }
                digest.value.then_some(IdSource::BodyDigest)
            }
            (Field::Wrong, ..) | (_, Field::Wrong, _) | (.., Field::Wrong) => None,
            _ => {
                let error = Diagnostic::error(id.span, "this does not say where the event ID is");
                self.report(
                    error.help("give exactly one of `pointer`, `header` and `body_digest`"),
                );
                None
            }
        }
    }

    fn event_source(&self, source: &Located<raw::EventSource>) -> Option<Source> {
        let raw::EventSource { pointer, header } = &source.value;
        match (pointer, header) {
            (Field::Given(text), Field::Absent) => self.pointer(text).map(Source::Pointer),
            (Field::Absent, Field::Given(name)) => {
                self.header_name(&name.value, name.span).map(Source::Header)
            }
            (Field::Wrong, _) | (_, Field::Wrong) => None,
            _ => {
                let error = Diagnostic::error(source.span, "this does not say where to look");
                self.report(error.help("give either `pointer` or `header`"));
                None
            }
        }
    }

    /// Nothing of the event may be read from its signature: there are several ways to write that.
    pub(super) fn compare_with_signature(
        &self,
        envelope: &EnvelopeSpec,
        scheme: &Scheme,
        place: Span,
    ) {
        let signatures = scheme.locations.iter().filter_map(|found| match found {
            SignatureLocation::Body(in_body) => Some(&in_body.pointer),
            SignatureLocation::Header(_) | SignatureLocation::Fields(_) => None,
        });
        for signature in signatures {
            if envelope
                .pointers()
                .any(|pointer| pointer.is_at_or_below(signature))
            {
                let error = Diagnostic::error(
                    place,
                    format!("`event` reads `{signature}`, which is the signature"),
                );
                self.report(error.help("it is not signed itself; take another member"));
            }
        }
    }

    pub(super) fn pointer(&self, text: &Located<String>) -> Option<Pointer> {
        let refuse = |error| {
            self.report(
                Diagnostic::error(text.span, "this is not a JSON pointer")
                    .label(format!("{error}")),
            )
        };
        text.value.parse().map_err(refuse).ok()
    }
}

fn known(preset: &'static providers::Preset) -> Sender {
    Sender {
        scheme: (preset.scheme)(),
        habits: &preset.defaults,
        asks: preset.handshake,
        provider: Some(preset.name),
        title: Some(preset.title),
    }
}

/// Without an ID in the signed bytes the ledger goes by the body's digest, too.
pub(super) fn needs_body_digest(envelope: &EnvelopeSpec, scheme: Option<&Scheme>) -> bool {
    match &envelope.id {
        IdSource::Pointer(_) => false,
        IdSource::Header(header) => !scheme.is_some_and(|scheme| scheme.signs_header(header)),
        IdSource::BodyDigest => true,
    }
}
