//! Tampers with a signed request, so that a correct receiver must reject it.

use http::{HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::request::SignedRequest;
use crate::cli::signer::Signer;
use crate::event::IdSource;
use crate::json::{PointerValue, find, member};
use crate::signature::{Scheme, SignatureLocation, SignedTime, TimestampLocation};

/// A way to tamper with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Tamper {
    /// Change one byte of the body
    Body,
    /// Change one digit of the signature
    Signature,
    /// Change the signed time to a second later
    Timestamp,
    /// Change the event ID
    Id,
    /// Sign with a time one hour ago
    Stale,
    /// Sign with a time one hour ahead
    Future,
    /// Remove the signature
    Missing,
    /// Write the same JSON with different white space
    Reserialise,
    /// Cut off the end of the signature
    Truncate,
}

/// An hour, far beyond every preset's tolerance.
const AN_HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Characters to cut off a signature: whole bytes both in hex and in base64.
const CUT: usize = 8;

impl Tamper {
    /// Checks that this provider's requests have something to tamper with.
    ///
    /// # Errors
    /// The reason why they do not.
    pub(super) fn check(self, signer: &Signer) -> Result<(), String> {
        let Signer { title, scheme, .. } = signer;
        match self {
            Self::Timestamp | Self::Stale | Self::Future if scheme.time.is_none() => Err(format!(
                "{title} does not sign a time: there is none to tamper with"
            )),
            Self::Id => match &signer.envelope.id {
                IdSource::BodyDigest | IdSource::Nothing => {
                    Err(format!("{title}'s events have no ID to tamper with"))
                }
                IdSource::Header(name) if !scheme.signs_header(name) => Err(format!(
                    "{title} does not sign {name}: a request with another ID is still genuine"
                )),
                IdSource::Header(_) | IdSource::Pointer(_) | IdSource::Joined(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Returns the time to sign instead of `at`.
    pub(super) fn shift_time(self, at: Timestamp) -> Timestamp {
        match self {
            Self::Stale => at - AN_HOUR,
            Self::Future => at + AN_HOUR,
            _ => at,
        }
    }

    /// Tampers with `request`, which was signed at `at`.
    ///
    /// # Errors
    /// If its body has nothing to tamper with in this way.
    pub(super) fn apply(
        self,
        request: &mut SignedRequest,
        signer: &Signer,
        at: Timestamp,
    ) -> Result<(), String> {
        let scheme = &signer.scheme;
        match self {
            Self::Stale | Self::Future => {}
            Self::Body => {
                let last = request.unsigned.iter().rposition(u8::is_ascii_alphanumeric);
                let last = last.ok_or("the body has no letter or digit to change")?;
                request.body[last] = other_byte(request.body[last]);
            }
            Self::Reserialise => request.body = reserialised(&request.body)?,
            Self::Missing => match signature_header(scheme, request) {
                Some(name) => drop(request.headers.remove(name)),
                None => request.body.clone_from(&request.unsigned),
            },
            Self::Signature => change_signature(request, scheme, |text| {
                let end = text.len() - CUT;
                change_last(text, end)
            })?,
            Self::Truncate => change_signature(request, scheme, |text| {
                Some(text[..text.len() - CUT].to_owned())
            })?,
            Self::Timestamp => {
                if let Some(time) = &scheme.time {
                    change_time(request, scheme, time, at)?;
                }
            }
            Self::Id => match &signer.envelope.id {
                IdSource::Header(name) => {
                    change_header(request, name, |id| change_last(id, id.len()))?;
                }
                IdSource::Pointer(_) | IdSource::Joined(_) => {
                    let pointer = signer.envelope.pointers().next().ok_or(NO_ID)?;
                    let text = std::str::from_utf8(&request.body).map_err(|_| NO_ID)?;
                    let id = match find(text, [Some(pointer)]) {
                        Ok([PointerValue::Text(id)]) => id.unescaped().ok_or(NO_ID)?,
                        Ok([PointerValue::Number(id)]) => id,
                        _ => return Err(NO_ID.into()),
                    };
                    let start = offset(text, id);
                    let end = id
                        .bytes()
                        .rposition(|byte| byte.is_ascii_alphanumeric())
                        .ok_or(NO_ID)?
                        + start;
                    request.body[end] = other_byte(request.body[end]);
                }
                IdSource::BodyDigest | IdSource::Nothing => {}
            },
        }
        Ok(())
    }
}

const NO_ID: &str = "the body has no event ID to tamper with";

/// Returns the offset of `part` in `text`, of which it is a slice.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// Returns another byte of the same class: digits (also in hex) stay digits, letters stay letters.
fn other_byte(byte: u8) -> u8 {
    match byte {
        b'0' => b'1',
        b'1'..=b'9' => b'0',
        b'a' => b'b',
        b'b'..=b'z' => b'a',
        b'A' => b'B',
        _ => b'A',
    }
}

/// Returns `text` with the last letter or digit before `end` changed.
fn change_last(text: &str, end: usize) -> Option<String> {
    let at = text.as_bytes()[..end]
        .iter()
        .rposition(u8::is_ascii_alphanumeric)?;
    let changed = char::from(other_byte(text.as_bytes()[at]));
    Some(format!("{}{changed}{}", &text[..at], &text[at + 1..]))
}

fn reserialised(body: &[u8]) -> Result<Vec<u8>, String> {
    let not_json = |error: serde_json::Error| {
        format!("the body is not JSON, so it cannot be reserialised: {error}")
    };
    let value: Value = serde_json::from_slice(body).map_err(not_json)?;
    let pretty = serde_json::to_vec_pretty(&value).map_err(not_json)?;
    let reserialised = if pretty == body {
        serde_json::to_vec(&value).map_err(not_json)?
    } else {
        pretty
    };
    if reserialised == body {
        Err("this JSON has no other serialisation".into())
    } else {
        Ok(reserialised)
    }
}

/// Returns the header that holds this request's signature, or `None` if the body holds it.
pub(super) fn signature_header<'s>(
    scheme: &'s Scheme,
    request: &SignedRequest,
) -> Option<&'s HeaderName> {
    let names = scheme
        .locations
        .iter()
        .filter_map(|location| match location {
            SignatureLocation::Header(header) => Some(&header.name),
            SignatureLocation::Fields(fields) => Some(&fields.header.name),
            SignatureLocation::Body(_) => None,
        });
    names
        .into_iter()
        .find(|name| request.headers.contains_key(*name))
}

fn change_signature(
    request: &mut SignedRequest,
    scheme: &Scheme,
    change: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    if let Some(name) = signature_header(scheme, request).cloned() {
        return change_header(request, &name, change);
    }
    let in_body = scheme.locations.iter().find_map(|location| {
        if let SignatureLocation::Body(location) = location {
            Some(location)
        } else {
            None
        }
    });
    let text = std::str::from_utf8(&request.body).ok();
    let found = text
        .zip(in_body)
        .and_then(|(text, location)| Some((text, member(text, &location.pointer).ok()?.value)));
    let (text, value) = found.ok_or("there is no signature to tamper with")?;
    let start = offset(text, value);
    let changed = change(value).ok_or("there is no signature to tamper with")?;
    request.body = format!(
        "{}{changed}{}",
        &text[..start],
        &text[start + value.len()..]
    )
    .into_bytes();
    Ok(())
}

fn change_time(
    request: &mut SignedRequest,
    scheme: &Scheme,
    time: &SignedTime,
    at: Timestamp,
) -> Result<(), String> {
    let [old, new] = [at, at + SignedDuration::from_secs(1)].map(|at| time.unit.write(at));
    match &time.location {
        TimestampLocation::Header(header) => {
            change_header(request, &header.name, |_| Some(new.clone()))
        }
        TimestampLocation::Field(_) => match signature_header(scheme, request).cloned() {
            Some(name) => {
                change_header(request, &name, |value| Some(value.replacen(&old, &new, 1)))
            }
            None => Err("there is no signed time to tamper with".into()),
        },
    }
}

fn change_header(
    request: &mut SignedRequest,
    name: &HeaderName,
    change: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let nothing = || format!("{name} holds nothing to tamper with");
    let value = request
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(nothing)?;
    let changed = change(value)
        .and_then(|changed| HeaderValue::try_from(changed).ok())
        .ok_or_else(nothing)?;
    request.headers.insert(name.clone(), changed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_byte_keeps_the_character_class() {
        for byte in (b'0'..=b'9').chain(b'a'..=b'z').chain(b'A'..=b'Z') {
            let changed = other_byte(byte);
            assert_ne!(changed, byte);
            assert_eq!(changed.is_ascii_digit(), byte.is_ascii_digit());
            assert_eq!(changed.is_ascii_lowercase(), byte.is_ascii_lowercase());
            assert!(!byte.is_ascii_hexdigit() || changed.is_ascii_hexdigit());
        }
    }

    #[test]
    fn change_last_changes_last_alphanumeric_before_end() {
        assert_eq!(change_last("evt_1=", 6).as_deref(), Some("evt_0="));
        assert_eq!(change_last("evt_1=", 4).as_deref(), Some("eva_1="));
        assert_eq!(change_last("==", 2), None);
    }

    #[test]
    fn reserialised_json_differs_or_fails() {
        assert_eq!(
            reserialised(b"{\"a\":1}").as_deref(),
            Ok(&b"{\n  \"a\": 1\n}"[..])
        );
        assert_eq!(
            reserialised(b"{\n  \"a\": 1\n}").as_deref(),
            Ok(&b"{\"a\":1}"[..])
        );
        assert!(reserialised(b"1").is_err());
        assert!(reserialised(b"a=1").is_err());
    }
}
