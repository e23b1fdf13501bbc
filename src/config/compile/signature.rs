//! A signature scheme of the user's own: from `signature:` to the value that presets make too.

use std::time::Duration;

use super::Compiler;
use super::sender::Sender;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::raw;
use crate::config::tree::Span;
use crate::config::values;
use crate::json::Pointer;
use crate::providers::{PresetHandshake, UNKNOWN_SENDER};
use crate::signature::{
    Algorithm, BodySignature, Content, ContentError, Encoding, Header, HeaderFields, KeyEncoding,
    KeyFormat, Scheme, SignatureFormat, SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};

impl Compiler<'_> {
    /// `event` may hold the header that `{id}` stands for.
    pub(super) fn custom(
        &self,
        signature: &Located<raw::Signature>,
        event: &Field<raw::Event>,
    ) -> Option<Sender> {
        let raw = &signature.value;
        let places = self.places(raw, signature.span);
        let signed = self.content(&raw.signed, event);
        let time = self.signed_time(raw);
        let kind = self.kind(raw);
        let (places, signed, time) = (places?, signed?, time?);
        self.compare_time(raw, &signed, time.as_ref());
        let scheme = Scheme {
            locations: places,
            formats: vec![kind?],
            signed,
            time,
        };
        Some(Sender {
            scheme,
            habits: &UNKNOWN_SENDER,
            asks: PresetHandshake::Never,
            provider: None,
            title: None,
        })
    }

    fn places(&self, raw: &raw::Signature, span: Span) -> Option<Vec<SignatureLocation>> {
        if raw.header.is_absent() && raw.field.is_absent() {
            let error = Diagnostic::error(span, "this does not say where the signature stands");
            self.report(error.help("give the `header`, or the body's `field`, that holds it"));
            return None;
        }
        let mut places = Vec::new();
        if let Some(header) = raw.header.given() {
            let header = self.header(header)?;
            places.push(match raw.fields.given() {
                Some(fields) => SignatureLocation::Fields(self.fields(fields, header)?),
                None => SignatureLocation::Header(header),
            });
        } else if let Some(fields) = raw.fields.given() {
            let error = Diagnostic::error(
                fields.span,
                "`fields` says how a header is read, and there is no `header`",
            );
            self.report(error.help("add `header`, or leave `fields` out"));
        }
        if let Some(field) = raw.field.given() {
            places.push(SignatureLocation::Body(BodySignature {
                pointer: self.member(field)?,
                compact: raw.canonical.value().is_some(),
            }));
        } else if let Some(canonical) = raw.canonical.given() {
            let error =
                Diagnostic::error(canonical.span, "`canonical` is for a signature in the body");
            self.report(error.help(
                "add `field`, or leave `canonical` out: what is in a header is of the raw body",
            ));
        }
        Some(places)
    }

    fn header(&self, name: &Located<String>) -> Option<Header> {
        let spelling = name.value.as_str().into();
        self.header_name(&name.value, name.span)
            .map(|name| Header { name, spelling })
    }

    fn fields(
        &self,
        fields: &Located<raw::SignatureFields>,
        header: Header,
    ) -> Option<HeaderFields> {
        self.required(
            &fields.value.signature,
            fields.span,
            "header with fields",
            "signature",
        )?;
        let separator = self.punctuation(&fields.value.separator, ',')?;
        let assign = self.punctuation(&fields.value.assign, '=')?;
        if separator == assign {
            let error = Diagnostic::error(fields.span, "`separator` and `assign` are the same");
            self.report(
                error.help(
                    "one stands between fields, the other between a field's name and its value",
                ),
            );
            return None;
        }
        Some(HeaderFields {
            header,
            separator,
            assign,
        })
    }

    fn punctuation(&self, field: &Field<String>, usual: char) -> Option<char> {
        let Some(given) = field.given() else {
            return Some(usual);
        };
        let mut chars = given.value.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) if char == ' ' || char.is_ascii_punctuation() => Some(char),
            _ => {
                let error = Diagnostic::error(given.span, "this is not one punctuation character");
                self.report(error.label("expected one such as `,`, `;` or a space"));
                None
            }
        }
    }

    fn member(&self, field: &Located<String>) -> Option<Pointer> {
        let pointer = self.pointer(field)?;
        let escaped = |char: char| char.is_control() || matches!(char, '"' | '\\');
        let problem = match pointer.name() {
            None => "the whole body cannot be its signature",
            Some(name) if name.contains(escaped) => {
                "JSON escapes this name, and a signature's name must not be"
            }
            Some(_) => return Some(pointer),
        };
        let error = Diagnostic::error(field.span, problem);
        self.report(error.label("expected a member of it, as in `/signature`"));
        None
    }

    fn content(&self, field: &Field<String>, event: &Field<raw::Event>) -> Option<Content> {
        let Some(text) = field.given() else {
            return Some(Content::body());
        };
        let id = event
            .value()
            .and_then(|event| event.id.value())
            .and_then(|id| id.header.given());
        let id = id.and_then(|id| self.header(id));
        let refuse = |error: ContentError| {
            let error = Diagnostic::error(text.span, "this does not describe what is signed")
                .label(error.to_string());
            self.report(error.help("for example `{body}`, or `{timestamp}.{body}`"));
        };
        Content::parse(&text.value, id.as_ref())
            .map_err(refuse)
            .ok()
    }

    /// `Some(None)` where there is none.
    #[expect(
        clippy::option_option,
        reason = "wrong and absent are not the same: the one is no configuration"
    )]
    fn signed_time(&self, raw: &raw::Signature) -> Option<Option<SignedTime>> {
        let absent = raw::SignatureTimestamp::default();
        let time = raw.timestamp.value().unwrap_or(&absent);
        let field = raw
            .fields
            .value()
            .and_then(|fields| fields.timestamp.given());
        if let (Some(field), Some(in_body)) = (field, raw.field.given()) {
            let error = Diagnostic::error(
                field.span,
                "a signature in the body has no fields beside it",
            );
            self.report(
                error
                    .also(in_body.span, "in the body")
                    .help("say with `timestamp.header` where the time stands"),
            );
            return None;
        }
        let place = match (field, time.header.given()) {
            (Some(field), Some(header)) => {
                let error = Diagnostic::error(
                    header.span,
                    "the time stands in a field or in a header, not in both",
                );
                self.report(
                    error
                        .also(field.span, "the field")
                        .help("leave one of them out"),
                );
                return None;
            }
            (Some(field), None) => TimestampLocation::Field(field.value.as_str().into()),
            (None, Some(header)) => TimestampLocation::Header(self.header(header)?),
            (None, None) => {
                if let Some(given) = raw.timestamp.given() {
                    let error =
                        Diagnostic::error(given.span, "this does not say where the time stands");
                    self.report(error.help("give its `header`, or `fields.timestamp`"));
                    return None;
                }
                return Some(None);
            }
        };
        let unit = match time.unit.value() {
            None | Some(raw::TimeUnit::Seconds) => TimeUnit::Seconds,
            Some(raw::TimeUnit::Milliseconds) => TimeUnit::Milliseconds,
            Some(raw::TimeUnit::Rfc3339) => TimeUnit::Rfc3339,
        };
        let range = values::Duration(Duration::from_millis(1))
            ..=values::Duration(SignedTime::TOLERANCE_MAX);
        let tolerance = self.within(&time.tolerance, range, "more than 0s, at most 1h");
        let tolerance = tolerance.map_or(SignedTime::USUAL_TOLERANCE, |tolerance| tolerance.0);
        Some(Some(SignedTime {
            location: place,
            unit,
            tolerance,
        }))
    }

    fn compare_time(&self, raw: &raw::Signature, signed: &Content, time: Option<&SignedTime>) {
        let of_time = raw.timestamp.given().map(|time| time.span);
        let of_field = raw
            .fields
            .value()
            .and_then(|fields| fields.timestamp.given())
            .map(|field| field.span);
        let span = raw
            .signed
            .given()
            .map(|signed| signed.span)
            .or(of_field)
            .or(of_time);
        match (signed.has_timestamp(), time) {
            (true, None) => {
                let error = Diagnostic::error(
                    span,
                    "`{timestamp}` is signed, and nothing says where it stands",
                );
                self.report(error.help("add `timestamp: {header: NAME}`, or `fields.timestamp`"));
            }
            (false, Some(_)) => {
                let warning =
                    Diagnostic::warning(span, "the time is not signed, so it proves nothing");
                self.report(
                    warning.help("where the sender signs it, put `{timestamp}` into `signed`"),
                );
            }
            _ => {}
        }
    }

    fn kind(&self, raw: &raw::Signature) -> Option<SignatureFormat> {
        let field = raw
            .fields
            .value()
            .and_then(|fields| fields.signature.given());
        if let Some(empty) = field.filter(|field| field.value.is_empty()) {
            self.report(Diagnostic::error(empty.span, "a field has a name"));
            return None;
        }
        let text = |field: &Field<String>| field.value().map_or("", String::as_str).into();
        let algorithm = match raw.algorithm.value() {
            None | Some(raw::Algorithm::HmacSha256) => Algorithm::HmacSha256,
            Some(raw::Algorithm::HmacSha1) => Algorithm::HmacSha1,
            Some(raw::Algorithm::HmacSha512) => Algorithm::HmacSha512,
            Some(raw::Algorithm::Ed25519) => Algorithm::Ed25519,
        };
        let encoding = match raw.encoding.value() {
            None | Some(raw::Encoding::Hex) => Encoding::Hex,
            Some(raw::Encoding::Base64) => Encoding::Base64,
        };
        let key_encoding = match raw.secret_encoding.value() {
            None | Some(raw::SecretEncoding::Utf8) => KeyEncoding::Utf8,
            Some(raw::SecretEncoding::Base64) => KeyEncoding::Base64,
            Some(raw::SecretEncoding::Hex) => KeyEncoding::Hex,
        };
        Some(SignatureFormat {
            algorithm,
            encodings: vec![encoding],
            field: field.map_or("", |field| &field.value).into(),
            prefix: text(&raw.prefix),
            key: KeyFormat {
                prefix: text(&raw.strip_prefix),
                private_prefix: "".into(),
                encoding: key_encoding,
            },
        })
    }
}
