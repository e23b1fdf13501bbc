//! What is done to a request after it was signed, so that whoever receives it has something to refuse.

use http::{HeaderName, HeaderValue};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::outgoing::Outgoing;
use crate::event::IdSource;
use crate::json::{PointerValue, find, member};
use crate::providers::Preset;
use crate::signature::{Scheme, SignatureLocation, SignedTime, TimestampLocation};

/// One way to spoil a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Tamper {
    /// One byte of the body is another.
    Body,
    /// One digit of the signature is another.
    Signature,
    /// The signed time is another: a second later.
    Timestamp,
    /// The event ID is another.
    Id,
    /// Signed an hour ago.
    Stale,
    /// Signed an hour ahead.
    Future,
    /// There is no signature.
    Missing,
    /// The same JSON, written otherwise.
    Reserialise,
    /// The signature is cut short.
    Truncate,
}

/// Far beyond every tolerance.
const AN_HOUR: SignedDuration = SignedDuration::from_hours(1);

/// Characters that are cut off a signature: whole bytes in hex and in base64.
const CUT: usize = 8;

impl Tamper {
    /// Why there is nothing to tamper with in what this provider sends.
    pub(super) fn check(self, preset: &Preset, scheme: &Scheme) -> Result<(), String> {
        let title = preset.title;
        match self {
            Self::Timestamp | Self::Stale | Self::Future if scheme.time.is_none() => Err(format!(
                "{title} does not sign a time: there is none to tamper with"
            )),
            Self::Id => match (preset.defaults.envelope)().id {
                IdSource::BodyDigest => Err(format!("{title}'s events have no ID to tamper with")),
                IdSource::Header(name) if !scheme.signs_header(&name) => Err(format!(
                    "{title} does not sign {name}: a request with another ID is as genuine"
                )),
                IdSource::Header(_) | IdSource::Pointer(_) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The time that is signed in the place of `at`.
    pub(super) fn time_of(self, at: Timestamp) -> Timestamp {
        match self {
            Self::Stale => at - AN_HOUR,
            Self::Future => at + AN_HOUR,
            _ => at,
        }
    }

    /// Spoils `request`, which was signed at `at`.
    ///
    /// # Errors
    /// When its body has nothing to spoil in this way.
    pub(super) fn spoil(
        self,
        request: &mut Outgoing,
        preset: &Preset,
        scheme: &Scheme,
        at: Timestamp,
    ) -> Result<(), String> {
        match self {
            Self::Stale | Self::Future => {}
            Self::Body => {
                let last = request.unsigned.iter().rposition(u8::is_ascii_alphanumeric);
                let last = last.ok_or("the body has no letter or digit to change")?;
                request.body[last] = another(request.body[last]);
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
            Self::Id => match (preset.defaults.envelope)().id {
                IdSource::Header(name) => {
                    change_header(request, &name, |id| change_last(id, id.len()))?;
                }
                IdSource::Pointer(pointer) => {
                    let text = std::str::from_utf8(&request.body).map_err(|_| NO_ID)?;
                    let id = match find(text, [Some(&pointer)]) {
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
                    request.body[end] = another(request.body[end]);
                }
                IdSource::BodyDigest => {}
            },
        }
        Ok(())
    }
}

const NO_ID: &str = "the body has no event ID to tamper with";

/// Where `part`, which is a part of `text`, begins in it.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr() as usize - text.as_ptr() as usize
}

/// Another of the same kind: digits stay digits (in hex, too), letters stay letters.
fn another(byte: u8) -> u8 {
    match byte {
        b'0' => b'1',
        b'1'..=b'9' => b'0',
        b'a' => b'b',
        b'b'..=b'z' => b'a',
        b'A' => b'B',
        _ => b'A',
    }
}

/// `text` with the last letter or digit before `end` changed.
fn change_last(text: &str, end: usize) -> Option<String> {
    let at = text.as_bytes()[..end]
        .iter()
        .rposition(u8::is_ascii_alphanumeric)?;
    let changed = char::from(another(text.as_bytes()[at]));
    Some(format!("{}{changed}{}", &text[..at], &text[at + 1..]))
}

fn reserialised(body: &[u8]) -> Result<Vec<u8>, String> {
    let no_json = |error: serde_json::Error| {
        format!("the body is not JSON, so it can't be written otherwise: {error}")
    };
    let value: Value = serde_json::from_slice(body).map_err(no_json)?;
    let pretty = serde_json::to_vec_pretty(&value).map_err(no_json)?;
    let otherwise = if pretty == body {
        serde_json::to_vec(&value).map_err(no_json)?
    } else {
        pretty
    };
    if otherwise == body {
        Err("this JSON can't be written otherwise".into())
    } else {
        Ok(otherwise)
    }
}

/// The header in which this request has its signature; `None` where that is in the body.
pub(super) fn signature_header<'s>(
    scheme: &'s Scheme,
    request: &Outgoing,
) -> Option<&'s HeaderName> {
    let names = scheme.places.iter().filter_map(|place| match place {
        SignatureLocation::Header(header) => Some(&header.name),
        SignatureLocation::Fields(fields) => Some(&fields.header.name),
        SignatureLocation::Body(_) => None,
    });
    names
        .into_iter()
        .find(|name| request.headers.contains_key(*name))
}

fn change_signature(
    request: &mut Outgoing,
    scheme: &Scheme,
    change: impl Fn(&str) -> Option<String>,
) -> Result<(), String> {
    if let Some(name) = signature_header(scheme, request).cloned() {
        return change_header(request, &name, change);
    }
    let in_body = scheme.places.iter().find_map(|place| {
        if let SignatureLocation::Body(place) = place {
            Some(place)
        } else {
            None
        }
    });
    let text = std::str::from_utf8(&request.body).ok();
    let found = text
        .zip(in_body)
        .and_then(|(text, place)| Some((text, member(text, &place.pointer).ok()?.value)));
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
    request: &mut Outgoing,
    scheme: &Scheme,
    time: &SignedTime,
    at: Timestamp,
) -> Result<(), String> {
    let [old, new] = [at, at + SignedDuration::from_secs(1)].map(|at| time.unit.write(at));
    match &time.place {
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
    request: &mut Outgoing,
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
    fn another_byte_is_of_the_same_kind_so_that_hex_base64_and_json_stay_what_they_are() {
        for byte in (b'0'..=b'9').chain(b'a'..=b'z').chain(b'A'..=b'Z') {
            let changed = another(byte);
            assert_ne!(changed, byte);
            assert_eq!(changed.is_ascii_digit(), byte.is_ascii_digit());
            assert_eq!(changed.is_ascii_lowercase(), byte.is_ascii_lowercase());
            assert!(!byte.is_ascii_hexdigit() || changed.is_ascii_hexdigit());
        }
    }

    #[test]
    fn the_last_letter_or_digit_before_the_end_changes() {
        assert_eq!(change_last("evt_1=", 6).as_deref(), Some("evt_0="));
        assert_eq!(change_last("evt_1=", 4).as_deref(), Some("eva_1="));
        assert_eq!(change_last("==", 2), None);
    }

    #[test]
    fn json_is_written_otherwise_or_not_at_all() {
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
