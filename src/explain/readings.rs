//! Hypotheses about the signature's text: where it stands, and how it is to be read.

use http::{HeaderMap, HeaderName};

use super::secrets::base64;
use super::{Case, Change, What};
use crate::json::member;
use crate::signature::{
    Algorithm, Encoding, HeaderFields, InBody, Scheme, SignatureFormat, SignatureLocation,
};

/// A signature that the request may present, and what it takes to read it so.
pub(super) struct Reading {
    pub algorithm: Algorithm,
    pub tag: Vec<u8>,
    pub changes: Vec<Change>,
}

/// What a request presents.
pub(super) struct Readings<'a> {
    pub all: Vec<Reading>,
    /// The signature stands in the body, and is cut out of it before the body is hashed.
    pub cut: Option<&'a InBody>,
}

/// Texts that are looked at, as many as the gateway does. The shortest signature, SHA-1's in base64, has 27 characters.
const TEXTS_MAX: usize = 16;
const TEXT_BYTES: std::ops::RangeInclusive<usize> = 27..=256;

/// What senders write before a signature.
pub(super) const PREFIXES: &[&str] = &[
    "sha256=",
    "sha1=",
    "sha512=",
    "hmac-sha256=",
    "sha256:",
    "v0=",
    "v1=",
    "v1,",
    "hmac ",
    "bearer ",
];

/// A text that may be the signature.
struct Text<'t> {
    written: &'t str,
    kind: usize,
    /// It does not stand where the scheme says.
    moved: Option<Change>,
}

impl<'a> Readings<'a> {
    pub(super) fn of(case: &Case<'_>, scheme: &'a Scheme) -> Self {
        let headers = &case.request.headers;
        let place = place(scheme, headers);
        let mut texts = Vec::new();
        let mut cut = None;
        match place {
            Some(SignatureLocation::Header(header)) => {
                in_header(headers, &header.name, &mut texts);
                // A list of fields where one bare signature was expected.
                for text in texts.iter().map(|text| text.written).collect::<Vec<_>>() {
                    texts.extend(loose_fields(text, &header.name));
                }
            }
            Some(SignatureLocation::Fields(fields)) => {
                in_fields(scheme, headers, fields, &mut texts)
            }
            Some(SignatureLocation::Body(in_body)) => {
                let body = std::str::from_utf8(&case.request.body).ok();
                if let Some(found) = body.and_then(|body| member(body, &in_body.pointer).ok()) {
                    texts.push(Text {
                        written: found.value,
                        kind: 0,
                        moved: None,
                    });
                    cut = Some(in_body);
                }
            }
            None => {}
        }
        if cut.is_none() {
            elsewhere(scheme, headers, &mut texts);
        }
        texts.truncate(TEXTS_MAX);
        let mut all: Vec<Reading> = Vec::new();
        for text in &texts {
            let Some(kind) = scheme.kinds.get(text.kind) else {
                continue;
            };
            for reading in text.readings(kind) {
                let known = |other: &Reading| {
                    other.algorithm == reading.algorithm && other.tag == reading.tag
                };
                match all.iter_mut().find(|other| known(other)) {
                    Some(other) if other.changes.len() > reading.changes.len() => *other = reading,
                    Some(_) => {}
                    None => all.push(reading),
                }
            }
        }
        all.sort_by_key(|reading| reading.changes.len());
        Self { all, cut }
    }
}

/// The place that counts: the first that the request has.
pub(super) fn place<'s>(scheme: &'s Scheme, headers: &HeaderMap) -> Option<&'s SignatureLocation> {
    scheme.places.iter().find(|place| match place {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => {
            headers.contains_key(&header.name)
        }
        SignatureLocation::Body(_) => true,
    })
}

/// All values of a header; `None` for one that is no text, which makes another no less a second one.
pub(super) fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<Option<&'h str>> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().ok())
        .collect()
}

fn in_header<'h>(headers: &'h HeaderMap, name: &HeaderName, texts: &mut Vec<Text<'h>>) {
    let values = values(headers, name);
    let twice = values.len() > 1;
    for (number, text) in values.into_iter().enumerate() {
        let Some(text) = text else { continue };
        let moved = twice.then(|| once(name, number));
        texts.push(Text {
            written: text,
            kind: 0,
            moved,
        });
    }
}

fn once(name: &HeaderName, number: usize) -> Change {
    Change::new(
        What::Signature,
        format!(
            "if `{name}` stood there once, with its value number {}",
            number + 1
        ),
        format!(
            "Something adds a second `{name}`, which is refused: look at the proxies on the way."
        ),
    )
}

fn in_fields<'h>(
    scheme: &Scheme,
    headers: &'h HeaderMap,
    fields: &HeaderFields,
    texts: &mut Vec<Text<'h>>,
) {
    let name = &fields.header.name;
    let values = values(headers, name);
    let twice = values.len() > 1;
    for (number, value) in values.into_iter().enumerate() {
        let Some(value) = value else { continue };
        let again = twice.then(|| once(name, number));
        for (field, text) in fields.parse(value) {
            let kind = scheme.kinds.iter().position(|kind| *kind.field == *field);
            let moved = again
                .clone()
                .or_else(|| kind.is_none().then(|| in_field(field, name)));
            texts.push(Text {
                written: text,
                kind: kind.unwrap_or(0),
                moved,
            });
        }
        let bare = Change::new(
            What::Signature,
            format!("if all of `{name}` were the signature, without fields"),
            "The sender writes no fields: take another provider, or a `signature:` without `fields`.",
        );
        texts.push(Text {
            written: value,
            kind: 0,
            moved: Some(bare),
        });
    }
}

fn in_field(field: &str, header: &HeaderName) -> Change {
    Change::new(
        What::Signature,
        format!("if the signature were taken from the field `{field}` of `{header}`"),
        format!("Say `fields: {{signature: {field}}}` in a `signature:` of your own."),
    )
}

/// Fields by the punctuation that senders use.
fn loose_fields<'h>(value: &'h str, header: &HeaderName) -> Vec<Text<'h>> {
    let fields = value
        .split([',', ';', ' '])
        .filter_map(|field| field.trim().split_once('='));
    let fields =
        fields.filter(|(_, text)| TEXT_BYTES.contains(&text.len()) && value.len() > text.len() + 8);
    fields
        .map(|(field, text)| Text {
            written: text,
            kind: 0,
            moved: Some(in_field(field, header)),
        })
        .collect()
}

/// In headers of which the scheme says nothing.
fn elsewhere<'h>(scheme: &Scheme, headers: &'h HeaderMap, texts: &mut Vec<Text<'h>>) {
    let looks_right = |name: &HeaderName| {
        ["signature", "hmac", "digest", "sign"]
            .iter()
            .any(|word| name.as_str().contains(word))
            && !scheme.reads_header(name)
    };
    for (name, value) in headers.iter().filter(|(name, _)| looks_right(name)) {
        let Ok(text) = value.to_str() else { continue };
        let moved = Change::new(
            What::Signature,
            format!("if the signature were taken from `{name}`"),
            format!(
                "The sender puts it into `{name}`: take the provider that does, or a `signature:` with `header: {name}`."
            ),
        );
        texts.push(Text {
            written: text,
            kind: 0,
            moved: Some(moved),
        });
        texts.extend(loose_fields(text, name));
    }
}

impl Text<'_> {
    fn readings(&self, kind: &SignatureFormat) -> Vec<Reading> {
        let bare = self.written.trim().trim_matches(['"', '\'']).trim();
        let mut changes: Vec<_> = self.moved.iter().cloned().collect();
        if bare.len() != self.written.len() {
            changes.push(Change::new(
                What::Signature,
                "without the quotes or white space around the signature",
                "The sender must write the bare signature.",
            ));
        }
        let own = bare.strip_prefix(&*kind.prefix).unwrap_or(bare);
        let (prefix, text) =
            other_prefix(own).map_or((None, own), |(prefix, text)| (Some(prefix), text));
        if !TEXT_BYTES.contains(&text.len()) {
            return Vec::new();
        }
        let mut readings = Vec::new();
        for (tag, encoding) in decoded(text) {
            for &algorithm in algorithms(tag.len(), kind.algorithm) {
                let mut changes = changes.clone();
                // A prefix that goes with another place, or with another algorithm, is no change of its own.
                if let Some(prefix) =
                    prefix.filter(|_| self.moved.is_none() && algorithm == kind.algorithm)
                {
                    changes.push(Change::new(
                        What::Signature,
                        format!("if `{prefix}` were the signature's prefix"),
                        format!(
                            "Say `prefix: \"{prefix}\"` in a `signature:` of your own, or let the sender leave it out."
                        ),
                    ));
                }
                if !kind.encodings.iter().any(|own| encoding.is(*own)) {
                    changes.push(encoding.change());
                }
                if algorithm != kind.algorithm {
                    changes.push(Change::new(
                        What::Algorithm,
                        format!("if the algorithm were {}", algorithm.as_str()),
                        format!(
                            "Let the sender sign with {}, or say `algorithm: {}` in a `signature:` of your own.",
                            kind.algorithm.as_str(),
                            algorithm.as_str()
                        ),
                    ));
                }
                readings.push(Reading {
                    algorithm,
                    tag: tag.clone(),
                    changes,
                });
            }
        }
        readings
    }
}

/// A prefix of another scheme, in either case, and what is behind it.
pub(super) fn other_prefix(text: &str) -> Option<(&str, &str)> {
    PREFIXES.iter().find_map(|prefix| {
        let (start, rest) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some((start, rest))
    })
}

#[derive(Clone, Copy)]
enum Form {
    Hex,
    Base64,
    /// In the URL-safe alphabet, or without its padding.
    LooseBase64,
    /// Base64 of hex digits.
    Base64OfHex,
}

fn decoded(text: &str) -> Vec<(Vec<u8>, Form)> {
    let mut found = Vec::new();
    if let Ok(tag) = hex::decode(text) {
        found.push((tag, Form::Hex));
    }
    if let Some(bytes) = base64(text.as_bytes()) {
        let strict = text.len().is_multiple_of(4) && !text.contains(['-', '_']);
        if let Ok(tag) = hex::decode(&*bytes) {
            found.push((tag, Form::Base64OfHex));
        }
        found.push((
            bytes.to_vec(),
            if strict {
                Form::Base64
            } else {
                Form::LooseBase64
            },
        ));
    }
    found
}

impl Form {
    fn is(self, encoding: Encoding) -> bool {
        matches!(
            (self, encoding),
            (Self::Hex, Encoding::Hex) | (Self::Base64, Encoding::Base64)
        )
    }

    fn change(self) -> Change {
        let (how, advice) = match self {
            Self::Hex => (
                "if the signature were read as hex",
                "The sender writes hex: say `encoding: hex`.",
            ),
            Self::Base64 => (
                "if the signature were read as base64",
                "The sender writes base64: say `encoding: base64`.",
            ),
            Self::LooseBase64 => (
                "if the signature were read as URL-safe or unpadded base64",
                "The sender must write base64 in the standard alphabet and with its padding.",
            ),
            Self::Base64OfHex => (
                "if the signature were read as base64 of hex digits",
                "The sender encodes twice: it must write the hex digits, or base64 of the bytes themselves.",
            ),
        };
        Change::new(What::Signature, how, advice)
    }
}

/// Those whose signatures have this length. `usual` says which 64 bytes are by: Ed25519 or SHA-512.
fn algorithms(length: usize, usual: Algorithm) -> &'static [Algorithm] {
    match (length, usual) {
        (20, _) => &[Algorithm::HmacSha1],
        (32, _) => &[Algorithm::HmacSha256],
        (64, Algorithm::Ed25519) => &[Algorithm::Ed25519, Algorithm::HmacSha512],
        (64, _) => &[Algorithm::HmacSha512],
        _ => &[],
    }
}
