//! A custom signature scheme: turns `signature` into the same kind of value that a preset makes.

use super::Compiler;
use super::sender::Sender;
use crate::config::de::{Field, Located};
use crate::config::diagnostics::Diagnostic;
use crate::config::tree::Span;
use crate::config::{facts, raw};
use crate::json::Pointer;
use crate::providers::{PresetHandshake, UNKNOWN_SENDER};
use crate::signature::{
    BodySignature, Content, ContentError, Header, HeaderFields, KeyFormat, Scheme, SignatureFormat,
    SignatureLocation, SignedTime, TimestampLocation,
};

impl Compiler<'_> {
    /// Compiles a custom scheme. `event` may name the header that `{id}` stands for.
    pub(super) fn custom(
        &self,
        signature: &Located<raw::Signature>,
        event: &Field<raw::Event>,
    ) -> Option<Sender> {
        let raw = &signature.value;
        let locations = self.signature_locations(raw, signature.span);
        let signed = self.content(&raw.signed, event);
        let time = self.signed_time(raw);
        let format = self.signature_format(raw);
        let (locations, signed, time) = (locations?, signed?, time?);
        self.check_time_is_signed(raw, &signed, time.as_ref());
        let scheme = Scheme {
            locations,
            formats: vec![format?],
            signed,
            time,
        };
        Some(Sender {
            scheme,
            defaults: &UNKNOWN_SENDER,
            handshake: PresetHandshake::Never,
            provider: None,
            title: None,
        })
    }

    fn signature_locations(
        &self,
        raw: &raw::Signature,
        span: Span,
    ) -> Option<Vec<SignatureLocation>> {
        if raw.header.is_absent() && raw.field.is_absent() {
            let error = Diagnostic::error(span, "the location of the signature is missing");
            self.report(error.help("set `header`, or `field` if the body holds the signature"));
            return None;
        }
        let mut locations = Vec::new();
        if let Some(header) = raw.header.given() {
            let header = self.header(header)?;
            locations.push(match raw.fields.given() {
                Some(fields) => SignatureLocation::Fields(self.fields(fields, header)?),
                None => SignatureLocation::Header(header),
            });
        } else if let Some(fields) = raw.fields.given() {
            let error = Diagnostic::error(fields.span, "`fields` needs a `header`");
            self.report(error.help("add `header`, or remove `fields`"));
        }
        if let Some(field) = raw.field.given() {
            locations.push(SignatureLocation::Body(BodySignature {
                pointer: self.member(field)?,
                compact: raw.canonical.value().is_some(),
            }));
        } else if let Some(canonical) = raw.canonical.given() {
            let error = Diagnostic::error(canonical.span, "`canonical` needs a `field`");
            self.report(error.help(
                "add `field`, or remove `canonical`: a signature in a header covers the raw body",
            ));
        }
        Some(locations)
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
            "mapping of `fields`",
            "signature",
        )?;
        let separator = self.punctuation(&fields.value.separator, facts::SEPARATOR.default)?;
        let assign = self.punctuation(&fields.value.assign, facts::ASSIGN.default)?;
        if separator == assign {
            let error = Diagnostic::error(fields.span, "`separator` and `assign` are the same");
            self.report(error.help(
                "`separator` is between two fields, `assign` between a field's name and its value",
            ));
            return None;
        }
        Some(HeaderFields {
            header,
            separator,
            assign,
        })
    }

    fn punctuation(&self, field: &Field<String>, default: char) -> Option<char> {
        let Some(given) = field.given() else {
            return Some(default);
        };
        let mut chars = given.value.chars();
        match (chars.next(), chars.next()) {
            (Some(char), None) if char == ' ' || char.is_ascii_punctuation() => Some(char),
            _ => {
                let error = Diagnostic::error(given.span, "this is not one punctuation character");
                self.report(error.label("expected one character, such as `,`, `;` or a space"));
                None
            }
        }
    }

    fn member(&self, field: &Located<String>) -> Option<Pointer> {
        let pointer = self.pointer(field)?;
        let problem = match pointer.name() {
            None => "the whole body cannot be the signature",
            Some(name) if name.contains(is_escaped_in_json) => {
                "the name of the member that holds the signature cannot need escapes in JSON"
            }
            Some(_) => return Some(pointer),
        };
        let error = Diagnostic::error(field.span, problem);
        self.report(error.label("expected a member of the body: `/signature`"));
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
        Content::parse(&text.value, id.as_ref())
            .map_err(|error: ContentError| {
                let problem = Diagnostic::error(text.span, "this is not a valid template");
                let problem = problem.label(error.to_string());
                self.report(problem.help("for example `{body}`, or `{timestamp}.{body}`"));
            })
            .ok()
    }

    /// Returns the signed time, `Some(None)` if the scheme has none, or `None` if it is wrong.
    #[expect(
        clippy::option_option,
        reason = "a wrong time is not an absent one: there is no configuration with it"
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
                "`fields.timestamp` cannot be combined with a signature in the body",
            );
            self.report(
                error
                    .also(in_body.span, "the signature is in the body")
                    .help("set `timestamp.header` instead"),
            );
            return None;
        }
        let location = match (field, time.header.given()) {
            (Some(field), Some(header)) => {
                let error = Diagnostic::error(
                    header.span,
                    "the timestamp is in a field or in a header, not in both",
                );
                self.report(
                    error
                        .also(field.span, "the field is set here")
                        .help("remove one of the two"),
                );
                return None;
            }
            (Some(field), None) => TimestampLocation::Field(field.value.as_str().into()),
            (None, Some(header)) => TimestampLocation::Header(self.header(header)?),
            (None, None) => {
                if let Some(given) = raw.timestamp.given() {
                    let error =
                        Diagnostic::error(given.span, "the location of the timestamp is missing");
                    self.report(error.help("set `timestamp.header` or `fields.timestamp`"));
                    return None;
                }
                return Some(None);
            }
        };
        Some(Some(SignedTime {
            location,
            unit: facts::TIME_UNIT.value_of(&time.unit),
            tolerance: self.amount(&time.tolerance, facts::TOLERANCE).0,
        }))
    }

    /// Reports a template with a timestamp that has no location, and warns of the reverse.
    fn check_time_is_signed(
        &self,
        raw: &raw::Signature,
        signed: &Content,
        time: Option<&SignedTime>,
    ) {
        let time_span = raw.timestamp.given().map(|time| time.span);
        let field_span = raw
            .fields
            .value()
            .and_then(|fields| fields.timestamp.given())
            .map(|field| field.span);
        let span = raw
            .signed
            .given()
            .map(|signed| signed.span)
            .or(field_span)
            .or(time_span);
        match (signed.has_timestamp(), time) {
            (true, None) => {
                let error =
                    Diagnostic::error(span, "`{timestamp}` is signed, but its location is missing");
                self.report(error.help("add `timestamp: {header: NAME}`, or `fields.timestamp`"));
            }
            (false, Some(_)) => {
                let warning = Diagnostic::warning(
                    span,
                    "the timestamp is not signed, so anyone can change it",
                );
                self.report(warning.help("if the sender signs it, add `{timestamp}` to `signed`"));
            }
            _ => {}
        }
    }

    fn signature_format(&self, raw: &raw::Signature) -> Option<SignatureFormat> {
        let field = raw
            .fields
            .value()
            .and_then(|fields| fields.signature.given());
        if let Some(empty) = field.filter(|field| field.value.is_empty()) {
            self.report(Diagnostic::error(
                empty.span,
                "the name of the field is empty",
            ));
            return None;
        }
        Some(SignatureFormat {
            algorithm: facts::ALGORITHM.value_of(&raw.algorithm),
            encodings: vec![facts::ENCODING.value_of(&raw.encoding)],
            field: field.map_or("", |field| &field.value).into(),
            prefix: text_or(&raw.prefix, facts::NO_PREFIX.default),
            key: KeyFormat {
                prefix: text_or(&raw.strip_prefix, facts::NO_PREFIX.default),
                private_prefix: "".into(),
                encoding: facts::SECRET_ENCODING.value_of(&raw.secret_encoding),
            },
        })
    }
}

fn text_or(field: &Field<String>, default: &str) -> Box<str> {
    field.value().map_or(default, String::as_str).into()
}

fn is_escaped_in_json(char: char) -> bool {
    char.is_control() || matches!(char, '"' | '\\')
}
