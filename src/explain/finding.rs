//! What the gateway finds wrong, in words: which header, how long, how late.

use jiff::Timestamp;

use super::bodies::content_length;
use super::readings::{other_prefix, place, values};
use super::{Case, Change, What};
use crate::json::{MemberError, member};
use crate::signature::{
    Encoding, Header, HeaderFields, Scheme, SignatureError, SignatureFormat, SignatureLocation,
    SignedTime, TimeUnit, TimestampLocation,
};

/// The failure, with where it is.
pub(super) fn in_words(case: &Case<'_>, failure: SignatureError) -> String {
    let said = match failure {
        SignatureError::Mismatch => well_formed(case),
        SignatureError::Stale => case.scheme.time.as_ref().and_then(|time| {
            let at = time.unit.parse(time_text(case, case.scheme, time)?)?;
            let tolerance = time.tolerance.as_secs();
            Some(format!(
                "the signature is genuine, but its time is {}; {tolerance} s are allowed",
                how_far(at, case)
            ))
        }),
        SignatureError::Missing | SignatureError::Malformed => signature(case)
            .or_else(|| time(case))
            .or_else(|| signed_headers(case)),
    };
    said.unwrap_or_else(|| format!("the signature is {}", failure.label()))
}

/// What stands out besides.
pub(super) fn notes(case: &Case<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let body = case.request.body.len();
    if let Some(length) = content_length(&case.request.headers).filter(|length| *length != body) {
        notes.push(format!(
            "`Content-Length` says {length}, and the body at hand has {body} bytes"
        ));
    }
    if case.scheme.signed.needs_url() {
        notes.push("the scheme signs the URL that the sender sends to, which is not given".into());
    }
    notes
}

/// What is wrong with the signed time, if it is there.
pub(super) fn clock(case: &Case<'_>, scheme: &Scheme) -> Option<Change> {
    let time = scheme.time.as_ref()?;
    let text = time_text(case, scheme, time)?;
    let Some(at) = time.unit.parse(text) else {
        let unit = [TimeUnit::Milliseconds, TimeUnit::Seconds, TimeUnit::Rfc3339].into_iter();
        let Some(unit) = unit
            .filter(|unit| *unit != time.unit)
            .find(|unit| unit.parse(text).is_some())
        else {
            return Some(Change::new(
                What::Clock,
                format!("if its time could be read as {}", in_unit(time.unit)),
                format!("Let the sender write its time as {}.", in_unit(time.unit)),
            ));
        };
        return Some(Change::new(
            What::Clock,
            format!("if its time were read as {}", in_unit(unit)),
            format!(
                "The sender writes {}: say so with `timestamp.unit`, or let it write {}.",
                in_unit(unit),
                in_unit(time.unit)
            ),
        ));
    };
    if time.is_fresh(at, case.now) {
        return None;
    }
    let advice = if at > case.now {
        "The sender's clock is ahead, or this machine's is behind: compare both with NTP."
    } else {
        "The request was held up or sent again late, or a clock is off. For an old capture, say with --at when it was \
         received."
    };
    Some(Change::new(
        What::Clock,
        format!("if its time were not {}", how_far(at, case)),
        advice,
    ))
}

fn how_far(at: Timestamp, case: &Case<'_>) -> String {
    let distance = at.duration_since(case.now);
    let side = if distance.is_negative() {
        "in the past"
    } else {
        "in the future"
    };
    format!(
        "{} s ({:#}) {side}",
        distance.unsigned_abs().as_secs(),
        distance.abs()
    )
}

fn in_unit(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Seconds => "Unix seconds",
        TimeUnit::Milliseconds => "Unix milliseconds",
        TimeUnit::Rfc3339 => "RFC 3339",
    }
}

fn time_text<'r>(case: &Case<'r>, scheme: &Scheme, time: &SignedTime) -> Option<&'r str> {
    let headers = &case.request.headers;
    match (&time.place, place(scheme, headers)) {
        (TimestampLocation::Header(header), _) => {
            values(headers, &header.name).first().copied().flatten()
        }
        (TimestampLocation::Field(field), Some(SignatureLocation::Fields(fields))) => {
            let value = values(headers, &fields.header.name)
                .first()
                .copied()
                .flatten()?;
            fields
                .parse(value)
                .find(|(name, _)| **name == **field)
                .map(|(_, text)| text)
        }
        (TimestampLocation::Field(_), _) => None,
    }
}

fn well_formed(case: &Case<'_>) -> Option<String> {
    let at = match place(case.scheme, &case.request.headers)? {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => header.spelling.to_string(),
        SignatureLocation::Body(in_body) => format!("the body's {}", in_body.pointer),
    };
    Some(format!(
        "the signature in {at} is well formed, and no secret in use makes it"
    ))
}

/// What is wrong with the signature itself.
fn signature(case: &Case<'_>) -> Option<String> {
    let headers = &case.request.headers;
    let Some(place) = place(case.scheme, headers) else {
        let names: Vec<_> = case
            .scheme
            .places
            .iter()
            .filter_map(header_of)
            .map(|header| &*header.spelling)
            .collect();
        return Some(format!("the header {} is not there", names.join(" or ")));
    };
    match place {
        SignatureLocation::Header(header) => not_once(case, header).or_else(|| {
            let value = values(headers, &header.name).first().copied().flatten()?;
            unreadable(case.scheme, value, &header.spelling)
        }),
        SignatureLocation::Fields(fields) => not_once(case, &fields.header).or_else(|| {
            let name = &fields.header.spelling;
            let value = values(headers, &fields.header.name)
                .first()
                .copied()
                .flatten()?;
            let wanted: Vec<_> = case.scheme.kinds.iter().map(|kind| &*kind.field).collect();
            let own = fields.parse(value).find_map(|(field, text)| {
                case.scheme
                    .kinds
                    .iter()
                    .find(|kind| *kind.field == *field)
                    .map(|kind| (field, text, kind))
            });
            match own {
                None => Some(format!("{name} has no field `{}`", wanted.join("` or `"))),
                Some((field, text, kind)) => {
                    wrong_form(kind, text, &format!("the field `{field}` of {name}"))
                }
            }
        }),
        SignatureLocation::Body(in_body) => {
            let headers: Vec<_> = case.scheme.places.iter().filter_map(header_of).collect();
            let instead = if headers.is_empty() {
                ""
            } else {
                ", nor is one of the scheme's headers"
            };
            let Ok(text) = std::str::from_utf8(&case.request.body) else {
                return Some(format!(
                    "the body is not UTF-8, so {} can't be read{instead}",
                    in_body.pointer
                ));
            };
            match member(text, &in_body.pointer) {
                Ok(found) => unreadable(
                    case.scheme,
                    found.value,
                    &format!("the body's {}", in_body.pointer),
                ),
                Err(MemberError::Missing) => Some(format!(
                    "the body's {} is not there{instead}",
                    in_body.pointer
                )),
                Err(MemberError::Malformed) => Some(format!(
                    "the body is not JSON, or its {} is there twice or no plain string{instead}",
                    in_body.pointer
                )),
            }
        }
    }
}

fn header_of(place: &SignatureLocation) -> Option<&Header> {
    match place {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => Some(header),
        SignatureLocation::Body(_) => None,
    }
}

/// The signature fits none of the scheme's kinds.
fn unreadable(scheme: &Scheme, text: &str, place: &str) -> Option<String> {
    let first = scheme.kinds.first()?;
    scheme
        .kinds
        .iter()
        .all(|kind| wrong_form(kind, text, place).is_some())
        .then(|| wrong_form(first, text, place))?
}

fn wrong_form(kind: &SignatureFormat, text: &str, place: &str) -> Option<String> {
    let bare = text.strip_prefix(&*kind.prefix).unwrap_or(text);
    if bare.is_empty() {
        return Some(format!("{place} holds no signature"));
    }
    if kind.accepts(bare) {
        return None;
    }
    if let Some((prefix, _)) = other_prefix(bare) {
        let wanted = if kind.prefix.is_empty() {
            "none".into()
        } else {
            format!("`{}`", kind.prefix)
        };
        return Some(format!(
            "{place} begins with the prefix `{prefix}`, and the scheme has {wanted}"
        ));
    }
    let wanted = kind.algorithm.signature_bytes();
    let (algorithm, length) = (kind.algorithm.as_str(), bare.len());
    let of_hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some(match kind.encodings.first() {
        Some(Encoding::Hex) if of_hex => {
            format!(
                "{place} holds {length} hex digits, and {algorithm} has {}",
                wanted * 2
            )
        }
        Some(Encoding::Hex) => {
            format!("{place} holds something that is not hex ({length} characters)")
        }
        _ => format!(
            "{place} holds something that is not base64 of {wanted} bytes, as {algorithm} has ({length} characters)"
        ),
    })
}

fn not_once(case: &Case<'_>, header: &Header) -> Option<String> {
    let mut values = case.request.headers.get_all(&header.name).iter();
    let name = &header.spelling;
    let Some(value) = values.next() else {
        return Some(format!("the header {name} is not there"));
    };
    let more = values.count();
    if more > 0 {
        return Some(format!(
            "the header {name} is there {} times, and may be there once",
            more + 1
        ));
    }
    match value.to_str() {
        Ok("") => Some(format!("the header {name} is empty")),
        Ok(_) => None,
        Err(_) => Some(format!("the header {name} is not visible ASCII")),
    }
}

/// What is wrong with the signed time.
fn time(case: &Case<'_>) -> Option<String> {
    let time = case.scheme.time.as_ref()?;
    if let TimestampLocation::Header(header) = &time.place
        && let Some(wrong) = not_once(case, header)
    {
        return Some(wrong);
    }
    let place = match &time.place {
        TimestampLocation::Header(header) => header.spelling.to_string(),
        TimestampLocation::Field(field) => format!("the field `{field}`"),
    };
    match time_text(case, case.scheme, time) {
        None => Some(format!("the time is not there: {place}")),
        Some(text) if time.unit.parse(text).is_none() => Some(format!(
            "the time in {place} can't be read as {}",
            in_unit(time.unit)
        )),
        Some(_) => match &time.place {
            TimestampLocation::Field(_) => {
                Some(format!("the time is there more than once: {place}"))
            }
            TimestampLocation::Header(_) => None,
        },
    }
}

/// What is wrong with what else is signed.
fn signed_headers(case: &Case<'_>) -> Option<String> {
    case.scheme
        .signed
        .id_header()
        .and_then(|header| not_once(case, header))
}
