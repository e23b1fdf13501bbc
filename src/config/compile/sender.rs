//! Who sends to a route: the signature's scheme, and where the event's envelope stands.

use super::Compiler;
use super::route::Layered;
use crate::config::de::{Field, Located, nearest};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw;
use crate::event::{EnvelopeSpec, IdSource, Pointer, Source, TimestampSpec};
use crate::providers::{self, Habits, PRESETS, UNKNOWN_SENDER};
use crate::signature::{Encoding, Scheme};

/// What a route gets when it says nothing about who sends.
const DEFAULT_PROVIDER: &str = "vpn-enterprise";

/// Presets of the contract that this version does not have.
const PLANNED: [&str; 7] = ["orbvpn", "github", "stripe", "standard-webhooks", "svix", "slack", "shopify"];

pub(super) struct Sender {
    pub scheme: Scheme,
    pub habits: &'static Habits,
    /// A known provider's name and title.
    pub provider: Option<&'static str>,
    pub title: Option<&'static str>,
}

impl Compiler<'_> {
    /// A route's own `provider` or `signature`, else that of `defaults`. `None` when it is wrong.
    pub(super) fn sender(&self, route: &Layered<'_>) -> Option<Sender> {
        for layer in [route.own, route.defaults] {
            match (&layer.provider, &layer.signature) {
                (Field::Absent, Field::Absent) => {}
                (Field::Given(name), Field::Absent) => return self.preset(name),
                (Field::Absent, Field::Given(signature)) => return self.custom(signature),
                (Field::Given(provider), Field::Given(signature)) => {
                    let error =
                        Diagnostic::error(signature.span, "a route has a `provider` or a `signature`, not both");
                    self.report(error.also(provider.span, "given here").help("leave one of them out"));
                    return None;
                }
                (Field::Wrong, _) | (_, Field::Wrong) => return None,
            }
        }
        providers::find(DEFAULT_PROVIDER).map(known)
    }

    fn preset(&self, name: &Located<String>) -> Option<Sender> {
        if let Some(preset) = providers::find(&name.value) {
            return Some(known(preset));
        }
        let names: Vec<_> = PRESETS.iter().map(|preset| preset.name).collect();
        let error = match nearest(&name.value, &[&names[..], &PLANNED].concat()) {
            Some(planned) if PLANNED.contains(&planned) => {
                Diagnostic::error(name.span, format!("the preset `{planned}` comes in a later version"))
            }
            Some(near) => Diagnostic::error(name.span, "unknown provider").label(format!("did you mean `{near}`?")),
            None => Diagnostic::error(name.span, "unknown provider"),
        };
        self.report(error.help(format!("known: {}; or describe the scheme with `signature:`", names.join(", "))));
        None
    }

    fn custom(&self, signature: &Located<raw::Signature>) -> Option<Sender> {
        let raw = &signature.value;
        self.later(&raw.fields, "structured signature headers come");
        self.later(&raw.timestamp, "signed timestamps come");
        self.later(&raw.field, "signatures in the body come");
        self.later(&raw.canonical, "signatures in the body come");
        self.later(&raw.strip_prefix, "encoded secrets come");
        if let Some(algorithm) = raw.algorithm.given().filter(|given| given.value != raw::Algorithm::HmacSha256) {
            self.not_yet(algorithm.span, "algorithms other than `hmac-sha256` come");
        }
        if let Some(signed) = raw.signed.given().filter(|given| given.value != "{body}") {
            self.not_yet(signed.span, "signed content other than `{body}` comes");
        }
        if let Some(encoding) = raw.secret_encoding.given().filter(|given| given.value != raw::SecretEncoding::Utf8) {
            self.not_yet(encoding.span, "secrets in encodings other than `utf8` come");
        }
        if !raw.field.is_absent() {
            return None;
        }
        let header = self.required(&raw.header, signature.span, "signature", "header")?;
        let header = self.header_name(&header.value, header.span)?;
        let encoding = match raw.encoding.value() {
            None | Some(raw::Encoding::Hex) => Encoding::Hex,
            Some(raw::Encoding::Base64) => Encoding::Base64,
        };
        let prefix = raw.prefix.value().map_or("", String::as_str);
        let scheme = Scheme { header, encoding, prefix: prefix.into() };
        Some(Sender { scheme, habits: &UNKNOWN_SENDER, provider: None, title: None })
    }

    /// Where the event's ID, type and time stand: what `event:` says, for the rest what the sender usually does.
    pub(super) fn envelope(&self, field: &Field<raw::Event>, habits: &Habits) -> EnvelopeSpec {
        let usual = (habits.envelope)();
        let Some(event) = field.given() else { return usual };
        let source = |field: &Field<raw::EventSource>| field.given().and_then(|source| self.event_source(source));
        let id = event.value.id.given().and_then(|id| self.event_id(id));
        let timestamp = source(&event.value.timestamp);
        if let (Some(Source::Header(_)), Some(given)) = (&timestamp, event.value.timestamp.given()) {
            let warning = Diagnostic::warning(given.span, "the time in a header is not signed");
            self.report(warning.help("a replay can bring any time; take one from the body where there is one"));
        }
        let max_age = self.positive(&event.value.max_age);
        let timestamp = match timestamp {
            Some(source) => Some(TimestampSpec { source, max_age }),
            None => usual.timestamp.map(|usual| TimestampSpec { max_age: max_age.or(usual.max_age), ..usual }),
        };
        if let (None, true, Some(given)) = (&timestamp, event.value.timestamp.is_absent(), event.value.max_age.given())
        {
            self.report(
                Diagnostic::error(given.span, "`max_age` needs a `timestamp`")
                    .help("say where the event's time stands"),
            );
        }
        EnvelopeSpec { id: id.unwrap_or(usual.id), kind: source(&event.value.kind).unwrap_or(usual.kind), timestamp }
    }

    fn event_id(&self, id: &Located<raw::EventId>) -> Option<IdSource> {
        let raw::EventId { pointer, header, body_digest } = &id.value;
        match (pointer, header, body_digest) {
            (Field::Given(text), Field::Absent, Field::Absent) => self.pointer(text).map(IdSource::Pointer),
            (Field::Absent, Field::Given(name), Field::Absent) => {
                let warning = Diagnostic::warning(name.span, "the event ID in a header is not signed");
                self.report(
                    warning.help("a replay can bring another ID, so the ledger also goes by the body's digest"),
                );
                self.header_name(&name.value, name.span).map(IdSource::Header)
            }
            (Field::Absent, Field::Absent, Field::Given(digest)) => {
                if !digest.value {
                    let error = Diagnostic::error(digest.span, "`body_digest` is `true` or not there");
                    self.report(error.help("leave it out and say where the ID stands"));
                }
                digest.value.then_some(IdSource::BodyDigest)
            }
            (Field::Wrong, ..) | (_, Field::Wrong, _) | (.., Field::Wrong) => None,
            _ => {
                let error = Diagnostic::error(id.span, "this does not say where the event ID is");
                self.report(error.help("give exactly one of `pointer`, `header` and `body_digest`"));
                None
            }
        }
    }

    fn event_source(&self, source: &Located<raw::EventSource>) -> Option<Source> {
        let raw::EventSource { pointer, header } = &source.value;
        match (pointer, header) {
            (Field::Given(text), Field::Absent) => self.pointer(text).map(Source::Pointer),
            (Field::Absent, Field::Given(name)) => self.header_name(&name.value, name.span).map(Source::Header),
            (Field::Wrong, _) | (_, Field::Wrong) => None,
            _ => {
                let error = Diagnostic::error(source.span, "this does not say where to look");
                self.report(error.help("give either `pointer` or `header`"));
                None
            }
        }
    }

    fn pointer(&self, text: &Located<String>) -> Option<Pointer> {
        let refuse =
            |error| self.report(Diagnostic::error(text.span, "this is not a JSON pointer").label(format!("{error}")));
        text.value.parse().map_err(refuse).ok()
    }
}

fn known(preset: &'static providers::Preset) -> Sender {
    Sender { scheme: (preset.scheme)(), habits: &preset.habits, provider: Some(preset.name), title: Some(preset.title) }
}

/// Whether the ledger must go by the body too, since the ID is not among the signed bytes.
pub(super) fn needs_body_digest(envelope: &EnvelopeSpec) -> bool {
    matches!(envelope.id, IdSource::Header(_) | IdSource::BodyDigest)
}
