//! Describes what the gateway finds wrong: the header, its length, its time.

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use super::bodies::content_length;
use super::readings::{header_values, other_prefix, signature_location};
use super::{Case, Change, ChangeKind};
use crate::json::{MemberError, member};
use crate::signature::{
    BodySignature, Encoding, Header, HeaderFields, Scheme, SignatureError, SignatureFormat,
    SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};

/// Describes a failure, with its location.
pub(super) fn describe(case: &Case<'_>, failure: SignatureError) -> String {
    let said = match failure {
        SignatureError::Mismatch => describe_mismatch(case),
        SignatureError::Stale => case.scheme.time.as_ref().and_then(|time| {
            let at = time.unit.parse(time_text(case, case.scheme, time)?)?;
            let tolerance = time.tolerance.as_secs();
            Some(format!(
                "the signature is correct, but its time is {}; {tolerance} s are allowed",
                describe_distance(at, case)
            ))
        }),
        SignatureError::Missing | SignatureError::Malformed => describe_signature(case)
            .or_else(|| describe_time(case))
            .or_else(|| describe_signed_id(case)),
    };
    said.unwrap_or_else(|| format!("the signature is {}", failure.label()))
}

/// Returns whether the request has no signature where the scheme has one: none, or an empty one.
pub(super) fn has_no_signature(case: &Case<'_>) -> bool {
    let headers = &case.request.headers;
    match signature_location(case.scheme, headers) {
        None => true,
        Some(
            SignatureLocation::Header(header)
            | SignatureLocation::Fields(HeaderFields { header, .. }),
        ) => {
            let mut values = headers.get_all(&header.name).iter();
            values.all(|value| value.is_empty())
        }
        Some(SignatureLocation::Body(in_body)) => {
            let text = std::str::from_utf8(&case.request.body).ok();
            text.is_some_and(|text| member(text, &in_body.pointer) == Err(MemberError::Missing))
        }
    }
}

/// Returns other observations about the request.
pub(super) fn notes(case: &Case<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    let body = case.request.body.len();
    if let Some(length) = content_length(&case.request.headers).filter(|length| *length != body) {
        notes.push(format!(
            "`Content-Length` is {length}, but the captured body has {body} bytes"
        ));
    }
    if case.scheme.signed.needs_url() {
        notes.push("the scheme signs the URL of the endpoint, which is not given (--url)".into());
    }
    notes
}

/// Returns the change that the signed time needs, if it is there and wrong.
pub(super) fn clock_change(case: &Case<'_>, scheme: &Scheme) -> Option<Change> {
    let time = scheme.time.as_ref()?;
    let text = time_text(case, scheme, time)?;
    let Some(at) = time.unit.parse(text) else {
        let unit = [TimeUnit::Milliseconds, TimeUnit::Seconds, TimeUnit::Rfc3339].into_iter();
        let Some(unit) = unit
            .filter(|unit| *unit != time.unit)
            .find(|unit| unit.parse(text).is_some())
        else {
            return Some(Change::new(
                ChangeKind::Clock,
                format!("if its time could be read as {}", unit_name(time.unit)),
                format!(
                    "Configure the sender to write its time as {}.",
                    unit_name(time.unit)
                ),
            ));
        };
        return Some(Change::new(
            ChangeKind::Clock,
            format!("if its time were read as {}", unit_name(unit)),
            format!(
                "The sender writes {}: set `timestamp.unit`, or configure it to write {}.",
                unit_name(unit),
                unit_name(time.unit)
            ),
        ));
    };
    if time.is_fresh(at, case.now) {
        return None;
    }
    let advice = if at > case.now {
        "The sender's clock is ahead, or this machine's is behind: synchronise both with NTP."
    } else {
        "The request was delayed or resent, or a clock is wrong. For an old capture, give the time \
         at which it was received with --at."
    };
    let distance = describe_distance(at, case);
    Some(
        Change::new(
            ChangeKind::Clock,
            format!("if its time were not {distance}"),
            advice,
        )
        .with_fact(format!("its time is {distance}")),
    )
}

fn describe_distance(at: Timestamp, case: &Case<'_>) -> String {
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

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Seconds => "Unix seconds",
        TimeUnit::Milliseconds => "Unix milliseconds",
        TimeUnit::Rfc3339 => "RFC 3339",
    }
}

fn time_text<'r>(case: &Case<'r>, scheme: &Scheme, time: &SignedTime) -> Option<&'r str> {
    let headers = &case.request.headers;
    match (&time.location, signature_location(scheme, headers)) {
        (TimestampLocation::Header(header), _) => first_value(headers, &header.name),
        (TimestampLocation::Field(field), Some(SignatureLocation::Fields(fields))) => {
            let value = first_value(headers, &fields.header.name)?;
            fields
                .parse(value)
                .find(|(name, _)| **name == **field)
                .map(|(_, text)| text)
        }
        (TimestampLocation::Field(_), _) => None,
    }
}

fn describe_mismatch(case: &Case<'_>) -> Option<String> {
    let at = match signature_location(case.scheme, &case.request.headers)? {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => header.spelling.to_string(),
        SignatureLocation::Body(in_body) => format!("the body's {}", in_body.pointer),
    };
    Some(format!(
        "the signature in {at} is well formed, but no active secret produces it"
    ))
}

/// Describes what is wrong with the signature itself.
fn describe_signature(case: &Case<'_>) -> Option<String> {
    let headers = &case.request.headers;
    let Some(location) = signature_location(case.scheme, headers) else {
        let names: Vec<_> = case
            .scheme
            .locations
            .iter()
            .filter_map(location_header)
            .map(|header| &*header.spelling)
            .collect();
        return Some(format!("the header {} is missing", names.join(" or ")));
    };
    match location {
        SignatureLocation::Header(header) => describe_header(case, header).or_else(|| {
            let value = first_value(headers, &header.name)?;
            describe_unreadable(case.scheme, value, &header.spelling)
        }),
        SignatureLocation::Fields(fields) => {
            describe_header(case, &fields.header).or_else(|| describe_field(case, fields))
        }
        SignatureLocation::Body(in_body) => describe_body_signature(case, in_body),
    }
}

/// Describes what is wrong with a signature in a field of a header.
fn describe_field(case: &Case<'_>, fields: &HeaderFields) -> Option<String> {
    let name = &fields.header.spelling;
    let value = first_value(&case.request.headers, &fields.header.name)?;
    let formats = &case.scheme.formats;
    let found = fields.parse(value).find_map(|(field, text)| {
        formats
            .iter()
            .find(|format| *format.field == *field)
            .map(|format| (field, text, format))
    });
    match found {
        None => {
            let wanted: Vec<_> = formats.iter().map(|format| &*format.field).collect();
            Some(format!("{name} has no field `{}`", wanted.join("` or `")))
        }
        Some((field, text, format)) => {
            describe_format(format, text, &format!("the field `{field}` of {name}"))
        }
    }
}

/// Describes what is wrong with a signature in the body.
fn describe_body_signature(case: &Case<'_>, in_body: &BodySignature) -> Option<String> {
    let pointer = &in_body.pointer;
    let has_headers = case
        .scheme
        .locations
        .iter()
        .any(|location| location_header(location).is_some());
    let others = if has_headers {
        "; the scheme's headers are missing, too"
    } else {
        ""
    };
    let Ok(text) = std::str::from_utf8(&case.request.body) else {
        return Some(format!(
            "the body is not UTF-8, so {pointer} cannot be read{others}"
        ));
    };
    match member(text, pointer) {
        Ok(found) => {
            describe_unreadable(case.scheme, found.value, &format!("the body's {pointer}"))
        }
        Err(MemberError::Missing) => Some(format!("the body's {pointer} is missing{others}")),
        Err(MemberError::Malformed) => Some(format!(
            "the body is not JSON, or its {pointer} is repeated or not a plain string{others}"
        )),
    }
}

fn first_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    header_values(headers, name).first().copied().flatten()
}

pub(super) fn location_header(location: &SignatureLocation) -> Option<&Header> {
    match location {
        SignatureLocation::Header(header)
        | SignatureLocation::Fields(HeaderFields { header, .. }) => Some(header),
        SignatureLocation::Body(_) => None,
    }
}

/// Describes the format of a signature that matches none of the scheme's formats.
fn describe_unreadable(scheme: &Scheme, text: &str, location: &str) -> Option<String> {
    let first = scheme.formats.first()?;
    scheme
        .formats
        .iter()
        .all(|format| describe_format(format, text, location).is_some())
        .then(|| describe_format(first, text, location))?
}

fn describe_format(format: &SignatureFormat, text: &str, location: &str) -> Option<String> {
    let bare = text.strip_prefix(&*format.prefix).unwrap_or(text);
    if bare.is_empty() {
        return Some(format!("{location} holds no signature"));
    }
    if format.accepts(bare) {
        return None;
    }
    if let Some((prefix, _)) = other_prefix(bare) {
        let wanted = if format.prefix.is_empty() {
            "none".into()
        } else {
            format!("`{}`", format.prefix)
        };
        return Some(format!(
            "{location} begins with the prefix `{prefix}`, but the scheme has {wanted}"
        ));
    }
    let wanted = format.algorithm.signature_bytes();
    let (algorithm, length) = (format.algorithm.as_str(), bare.len());
    let is_hex = bare.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some(match format.encodings.first() {
        Some(Encoding::Hex) if is_hex => {
            format!(
                "{location} holds {length} hex digits, but {algorithm} has {}",
                wanted * 2
            )
        }
        Some(Encoding::Hex) => {
            format!("{location} is not hex ({length} characters)")
        }
        _ => format!(
            "{location} is not base64 of {wanted} bytes, the length of {algorithm} ({length} \
             characters)"
        ),
    })
}

fn describe_header(case: &Case<'_>, header: &Header) -> Option<String> {
    let mut values = case.request.headers.get_all(&header.name).iter();
    let name = &header.spelling;
    let Some(value) = values.next() else {
        return Some(format!("the header {name} is missing"));
    };
    let more = values.count();
    if more > 0 {
        return Some(format!(
            "the header {name} is there {} times, but must be there once",
            more + 1
        ));
    }
    match value.to_str() {
        Ok("") => Some(format!("the header {name} is empty")),
        Ok(_) => None,
        Err(_) => Some(format!("the header {name} is not visible ASCII")),
    }
}

/// Describes what is wrong with the signed time.
fn describe_time(case: &Case<'_>) -> Option<String> {
    let time = case.scheme.time.as_ref()?;
    if let TimestampLocation::Header(header) = &time.location
        && let Some(wrong) = describe_header(case, header)
    {
        return Some(wrong);
    }
    let location = match &time.location {
        TimestampLocation::Header(header) => header.spelling.to_string(),
        TimestampLocation::Field(field) => format!("the field `{field}`"),
    };
    match time_text(case, case.scheme, time) {
        None => Some(format!("the time is missing: {location}")),
        Some(text) if time.unit.parse(text).is_none() => Some(format!(
            "the time in {location} cannot be read as {}",
            unit_name(time.unit)
        )),
        Some(_) => match &time.location {
            TimestampLocation::Field(_) => Some(format!("the time is repeated: {location}")),
            TimestampLocation::Header(_) => None,
        },
    }
}

/// Describes what is wrong with the signed event ID.
fn describe_signed_id(case: &Case<'_>) -> Option<String> {
    case.scheme
        .signed
        .id_header()
        .and_then(|header| describe_header(case, header))
}
