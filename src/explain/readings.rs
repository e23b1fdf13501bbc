//! Hypotheses about the signature: its location in the request, and its format.

use http::{HeaderMap, HeaderName};

use super::quoted::Named;
use super::secrets::decode_base64;
use super::{Case, Change, ChangeKind};
use crate::json::member;
use crate::signature::{
    Algorithm, BodySignature, Encoding, HeaderFields, Scheme, SignatureFormat, SignatureLocation,
};

/// A possible signature of the request, with the changes that this reading implies.
pub(super) struct Reading {
    pub algorithm: Algorithm,
    pub tag: Vec<u8>,
    pub changes: Vec<Change>,
}

/// All possible signatures of a request.
pub(super) struct Readings<'a> {
    pub all: Vec<Reading>,
    /// Set if the signature is in the body, from which it is removed before hashing.
    pub cut: Option<&'a BodySignature>,
}

/// The most texts to try, the same number as in the gateway.
const TEXTS_MAX: usize = 16;
/// The lengths of a signature's text. The shortest, SHA-1 in base64, has 27 characters.
const TEXT_BYTES: std::ops::RangeInclusive<usize> = 27..=256;

/// Prefixes that senders write before a signature.
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
struct CandidateText<'t> {
    text: &'t str,
    format: usize,
    /// The change that the text's location implies, if it differs from the scheme's.
    location_change: Option<Change>,
}

impl<'a> Readings<'a> {
    pub(super) fn new(case: &Case<'_>, scheme: &'a Scheme) -> Self {
        let headers = &case.request.headers;
        let location = signature_location(scheme, headers);
        let mut texts = Vec::new();
        let mut cut = None;
        match location {
            Some(SignatureLocation::Header(header)) => {
                push_header_values(headers, &header.name, &mut texts);
                // The header may be a list of fields where a bare signature was expected.
                for text in texts.iter().map(|text| text.text).collect::<Vec<_>>() {
                    texts.extend(loose_fields(text, &Named::header(&header.name, case)));
                }
            }
            Some(SignatureLocation::Fields(fields)) => {
                push_fields(scheme, headers, fields, &mut texts);
            }
            Some(SignatureLocation::Body(in_body)) => {
                let body = std::str::from_utf8(&case.request.body).ok();
                if let Some(found) = body.and_then(|body| member(body, &in_body.pointer).ok()) {
                    texts.push(CandidateText {
                        text: found.value,
                        format: 0,
                        location_change: None,
                    });
                    cut = Some(in_body);
                }
            }
            None => {}
        }
        if cut.is_none() {
            push_other_headers(case, scheme, &mut texts);
        }
        texts.truncate(TEXTS_MAX);
        let mut all: Vec<Reading> = Vec::new();
        for text in &texts {
            let Some(format) = scheme.formats.get(text.format) else {
                continue;
            };
            for reading in text.readings(format) {
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

/// Returns the location that the gateway reads: the first of the scheme's that the request has.
pub(super) fn signature_location<'s>(
    scheme: &'s Scheme,
    headers: &HeaderMap,
) -> Option<&'s SignatureLocation> {
    scheme.locations.iter().find(|location| match location {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => {
            headers.contains_key(&header.name)
        }
        SignatureLocation::Body(_) => true,
    })
}

/// Returns all values of a header, with `None` for one that is not text: it still counts as a
/// repetition.
pub(super) fn header_values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Vec<Option<&'h str>> {
    headers
        .get_all(name)
        .iter()
        .map(|value| value.to_str().ok())
        .collect()
}

fn push_header_values<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    texts: &mut Vec<CandidateText<'h>>,
) {
    let values = header_values(headers, name);
    let repeated = values.len() > 1;
    for (number, text) in values.into_iter().enumerate() {
        let Some(text) = text else { continue };
        let change = repeated.then(|| repeated_header_change(name, number));
        texts.push(CandidateText {
            text,
            format: 0,
            location_change: change,
        });
    }
}

fn repeated_header_change(name: &HeaderName, number: usize) -> Change {
    Change::new(
        ChangeKind::Signature,
        format!(
            "if `{name}` were there once, with its value number {}",
            number + 1
        ),
        format!(
            "Something adds a second `{name}`, which is rejected: check the proxies in between."
        ),
    )
}

fn push_fields<'h>(
    scheme: &Scheme,
    headers: &'h HeaderMap,
    fields: &HeaderFields,
    texts: &mut Vec<CandidateText<'h>>,
) {
    let name = &fields.header.name;
    let values = header_values(headers, name);
    let repeated = values.len() > 1;
    for (number, value) in values.into_iter().enumerate() {
        let Some(value) = value else { continue };
        let again = repeated.then(|| repeated_header_change(name, number));
        for (field, text) in fields.parse(value) {
            let format = scheme
                .formats
                .iter()
                .position(|format| *format.field == *field);
            let moved = again.clone().or_else(|| {
                format
                    .is_none()
                    .then(|| field_change(field, &Named::Quoted(name.as_str())))
            });
            texts.push(CandidateText {
                text,
                format: format.unwrap_or(0),
                location_change: moved,
            });
        }
        let bare = Change::new(
            ChangeKind::Signature,
            format!("if all of `{name}` were the signature, without fields"),
            "The sender writes no fields: choose another provider, or a `signature:` without \
             `fields`.",
        );
        texts.push(CandidateText {
            text: value,
            format: 0,
            location_change: Some(bare),
        });
    }
}

fn field_change(field: &str, header: &Named<'_>) -> Change {
    let field = Named::field(field);
    Change::new(
        ChangeKind::Signature,
        format!(
            "if the signature were taken from {} of {}",
            field.of_field(),
            header.of_header()
        ),
        format!(
            "Set `fields: {{signature: {}}}` in your own `signature:`.",
            field.as_setting()
        ),
    )
}

/// Splits a value into fields, by all punctuation that senders use.
fn loose_fields<'h>(value: &'h str, header: &Named<'_>) -> Vec<CandidateText<'h>> {
    let fields = value
        .split([',', ';', ' '])
        .filter_map(|field| field.trim().split_once('='));
    let fields =
        fields.filter(|(_, text)| TEXT_BYTES.contains(&text.len()) && value.len() > text.len() + 8);
    fields
        .map(|(field, text)| CandidateText {
            text,
            format: 0,
            location_change: Some(field_change(field, header)),
        })
        .collect()
}

/// Adds texts from headers that the scheme does not name.
fn push_other_headers<'r>(case: &Case<'r>, scheme: &Scheme, texts: &mut Vec<CandidateText<'r>>) {
    let headers = &case.request.headers;
    let may_hold_signature = |name: &HeaderName| {
        ["signature", "hmac", "digest", "sign"]
            .iter()
            .any(|word| name.as_str().contains(word))
            && !scheme.reads_header(name)
    };
    for (name, value) in headers.iter().filter(|(name, _)| may_hold_signature(name)) {
        let Ok(text) = value.to_str() else { continue };
        let named = Named::header(name, case);
        let moved = Change::new(
            ChangeKind::Signature,
            format!("if the signature were taken from {}", named.of_header()),
            format!(
                "The sender puts it into {}: choose the provider that does, or set `header: {}` in \
                 your own `signature:`.",
                named.of_header(),
                named.as_setting()
            ),
        );
        texts.push(CandidateText {
            text,
            format: 0,
            location_change: Some(moved),
        });
        texts.extend(loose_fields(text, &named));
    }
}

impl CandidateText<'_> {
    fn readings(&self, format: &SignatureFormat) -> Vec<Reading> {
        let bare = self.text.trim().trim_matches(['"', '\'']).trim();
        let mut changes: Vec<_> = self.location_change.iter().cloned().collect();
        if bare.len() != self.text.len() {
            changes.push(Change::new(
                ChangeKind::Signature,
                "without the quotes or white space around the signature",
                "The sender must write the bare signature.",
            ));
        }
        let own = bare.strip_prefix(&*format.prefix).unwrap_or(bare);
        let (prefix, text) =
            other_prefix(own).map_or((None, own), |(prefix, text)| (Some(prefix), text));
        if !TEXT_BYTES.contains(&text.len()) {
            return Vec::new();
        }
        let mut readings = Vec::new();
        for (tag, encoding) in decode_tag(text) {
            for &algorithm in algorithms(tag.len(), format.algorithm) {
                let mut changes = changes.clone();
                // A prefix is part of another location or algorithm, not a change of its own.
                if let Some(prefix) = prefix
                    .filter(|_| self.location_change.is_none() && algorithm == format.algorithm)
                {
                    changes.push(Change::new(
                        ChangeKind::Signature,
                        format!("if `{prefix}` were the signature's prefix"),
                        format!(
                            "Set `prefix: \"{prefix}\"` in your own `signature:`, or configure the \
                             sender to omit it."
                        ),
                    ));
                }
                if !format.encodings.iter().any(|own| encoding.matches(*own)) {
                    changes.push(encoding.change());
                }
                if algorithm != format.algorithm {
                    changes.push(Change::new(
                        ChangeKind::Algorithm,
                        format!("if the algorithm were {}", algorithm.as_str()),
                        format!(
                            "Configure the sender to sign with {}, or set `algorithm: {}` in your \
                             own `signature:`.",
                            format.algorithm.as_str(),
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

/// Splits off a prefix of another scheme, in upper or lower case.
pub(super) fn other_prefix(text: &str) -> Option<(&str, &str)> {
    PREFIXES.iter().find_map(|prefix| {
        let (start, rest) = text.split_at_checked(prefix.len())?;
        start.eq_ignore_ascii_case(prefix).then_some((start, rest))
    })
}

#[derive(Clone, Copy)]
enum TagEncoding {
    Hex,
    Base64,
    /// Base64 in the URL-safe alphabet, or without padding.
    LooseBase64,
    /// Base64 of hex digits.
    Base64OfHex,
}

fn decode_tag(text: &str) -> Vec<(Vec<u8>, TagEncoding)> {
    let mut found = Vec::new();
    if let Ok(tag) = hex::decode(text) {
        found.push((tag, TagEncoding::Hex));
    }
    if let Some(bytes) = decode_base64(text.as_bytes()) {
        let strict = text.len().is_multiple_of(4) && !text.contains(['-', '_']);
        if let Ok(tag) = hex::decode(&*bytes) {
            found.push((tag, TagEncoding::Base64OfHex));
        }
        found.push((
            bytes.to_vec(),
            if strict {
                TagEncoding::Base64
            } else {
                TagEncoding::LooseBase64
            },
        ));
    }
    found
}

impl TagEncoding {
    fn matches(self, encoding: Encoding) -> bool {
        matches!(
            (self, encoding),
            (Self::Hex, Encoding::Hex) | (Self::Base64, Encoding::Base64)
        )
    }

    fn change(self) -> Change {
        let (how, advice) = match self {
            Self::Hex => (
                "if the signature were read as hex",
                "The sender writes hex: set `encoding: hex`.",
            ),
            Self::Base64 => (
                "if the signature were read as base64",
                "The sender writes base64: set `encoding: base64`.",
            ),
            Self::LooseBase64 => (
                "if the signature were read as URL-safe or unpadded base64",
                "The sender must write base64 in the standard alphabet, with padding.",
            ),
            Self::Base64OfHex => (
                "if the signature were read as base64 of hex digits",
                "The sender encodes twice: it must write either hex, or base64 of the bytes \
                 themselves.",
            ),
        };
        Change::new(ChangeKind::Signature, how, advice)
    }
}

/// Returns the algorithms whose signatures have this length. `expected` distinguishes Ed25519 and
/// HMAC-SHA-512 apart: both have 64 bytes.
fn algorithms(length: usize, expected: Algorithm) -> &'static [Algorithm] {
    match (length, expected) {
        (20, _) => &[Algorithm::HmacSha1],
        (32, _) => &[Algorithm::HmacSha256],
        (64, Algorithm::Ed25519) => &[Algorithm::Ed25519, Algorithm::HmacSha512],
        (64, _) => &[Algorithm::HmacSha512],
        _ => &[],
    }
}
