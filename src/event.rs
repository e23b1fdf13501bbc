//! The event envelope: ID, type and time of an event, read from the bytes whose signature was verified.
//!
//! Owns what counts as an ID, a type and a timestamp, and when a body leaves open which one it means. It refuses
//! rather than guesses: an ID that two receivers may read differently is no protection against replays. Owns neither
//! the clock (`now` is an argument), nor whether an event type is wanted, nor what an ID was used for before.

use std::{borrow::Cow, hash::Hasher, time::Duration};

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::json::{MAX_DEPTH, Pointer, PointerValue, Text, find};

#[cfg(test)]
mod tests;

/// The ID, the type and the timestamp.
const PARTS: usize = 3;

/// Longest ID or type, in bytes of UTF-8 after unescaping.
pub const TEXT_BYTES_MAX: usize = 255;

/// Longest integer ID, in bytes with its sign: every signed 128-bit integer fits.
pub const INTEGER_BYTES_MAX: usize = 40;

const DIGEST_NAME: &str = "sha256:";

/// Where the parts of a route's envelope stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSpec {
    pub id: IdSource,
    pub kind: Source,
    /// `None` where events carry no time, or nobody asks for it; given, an event without it is refused.
    pub timestamp: Option<TimestampSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdSource {
    Pointer(Pointer),
    Header(HeaderName),
    /// For senders without IDs: the body is its own ID, and the caller has its digest.
    BodyDigest,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Pointer(Pointer),
    Header(HeaderName),
}

/// Where the event's time stands, and how far from now it may be.
///
/// The time is an RFC 3339 string (at most nanoseconds), or whole Unix seconds or milliseconds as a JSON integer or a
/// string of digits. Numbers below 100,000,000,000 are seconds (up to the year 5138), all others milliseconds (from
/// March 1973).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampSpec {
    pub source: Source,
    /// Both into the past and into the future. `None` leaves it unchecked: providers retry old events for days.
    pub max_age: Option<Duration>,
}

/// What the envelope says about a verified body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    /// 1 to [`TEXT_BYTES_MAX`] bytes without control characters; the event type.
    pub event_type: Box<str>,
    pub timestamp: Option<Timestamp>,
}

/// What makes an event the same event. `"1"` and `1` are two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventId {
    /// 1 to [`TEXT_BYTES_MAX`] bytes without control characters; not normalised, and not always ASCII.
    Text(Box<str>),
    /// The digits as they were sent, at most [`INTEGER_BYTES_MAX`] bytes; receivers may round them, we do not.
    Integer(Box<str>),
    /// The digest of the body, which the caller has.
    BodyDigest,
}

/// Why a verified body is no event. Says nothing of what the body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the body is not valid UTF-8; send JSON encoded as UTF-8")]
    InvalidUtf8,
    #[error(
        "the body is not one strict JSON text; send RFC 8259 JSON without a byte order mark or anything after it, \
         nested at most {} deep, without unpaired surrogate escapes and numbers beyond 1e308",
        MAX_DEPTH
    )]
    NotJson,
    #[error(
        "the event has no ID where the route expects it; send one, or set the route's `event.id`"
    )]
    IdMissing,
    #[error(
        "the event's ID, or a name leading to it, is given more than once; give it once, whatever the case"
    )]
    IdAmbiguous,
    #[error(
        "the event's ID is unusable; send a string of 1 to {TEXT_BYTES_MAX} bytes without control characters \
         (in a header: visible ASCII without commas) or an integer of at most {INTEGER_BYTES_MAX} characters"
    )]
    IdMalformed,
    #[error(
        "the event has no type where the route expects it; send one, or set the route's `event.type`"
    )]
    TypeMissing,
    #[error(
        "the event's type, or a name leading to it, is given more than once; give it once, whatever the case"
    )]
    TypeAmbiguous,
    #[error(
        "the event's type is unusable; send a string of 1 to {TEXT_BYTES_MAX} bytes without control characters \
         (in a header: visible ASCII and spaces, without commas)"
    )]
    TypeMalformed,
    #[error(
        "the event has no timestamp where the route expects it; send one, or set the route's `event.timestamp`"
    )]
    TimestampMissing,
    #[error(
        "the event's timestamp, or a name leading to it, is given more than once; give it once, whatever the case"
    )]
    TimestampAmbiguous,
    #[error(
        "the event's timestamp is unusable; send an RFC 3339 date and time, or Unix seconds or milliseconds"
    )]
    TimestampMalformed,
    #[error(
        "the event's timestamp is too far from now; check the sender's clock, or raise the route's `max_age`"
    )]
    Stale,
}

impl EnvelopeSpec {
    /// Whether a part stands in this header.
    #[must_use]
    pub fn reads(&self, name: &HeaderName) -> bool {
        let time = self.timestamp.as_ref().map(|spec| &spec.source);
        matches!(&self.id, IdSource::Header(header) if header == name)
            || [Some(&self.kind), time]
                .into_iter()
                .flatten()
                .any(|source| matches!(source, Source::Header(header) if header == name))
    }

    /// Where parts stand in the body.
    pub fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        let time = self
            .timestamp
            .as_ref()
            .and_then(|spec| spec.source.pointer());
        [self.id.pointer(), self.kind.pointer(), time]
            .into_iter()
            .flatten()
    }

    /// Reads the parts from where they stand. `body` must be verified; `headers` may be covered by no signature.
    ///
    /// If any part stands in the body, the whole body must be one strict JSON text. If none does, it is not looked at.
    ///
    /// # Errors
    ///
    /// A body that is not JSON is reported before anything else, then the ID, the type and the timestamp in this
    /// order. Never [`EnvelopeError::Stale`]: see [`check_fresh`](Self::check_fresh).
    pub fn parse(&self, body: &[u8], headers: &HeaderMap) -> Result<Event, EnvelopeError> {
        let time = self.timestamp.as_ref().map(|spec| &spec.source);
        let [id, kind, timestamp] = find_in_body(
            body,
            [
                self.id.pointer(),
                self.kind.pointer(),
                time.and_then(Source::pointer),
            ],
        )?;
        Ok(Event {
            id: match &self.id {
                IdSource::Pointer(_) => event_id(id)?,
                IdSource::Header(name) => event_id(find_id_in_headers(headers, name))?,
                IdSource::BodyDigest => EventId::BodyDigest,
            },
            event_type: event_kind(self.kind.or_in_headers(kind, headers))?,
            timestamp: time
                .map(|source| event_time(source.or_in_headers(timestamp, headers)))
                .transpose()?,
        })
    }

    /// Refuses an event whose time is further from `now` than the route's `max_age`.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Stale`] only.
    pub fn check_fresh(&self, event: &Event, now: Timestamp) -> Result<(), EnvelopeError> {
        match (&self.timestamp, event.timestamp) {
            (Some(spec), Some(at)) => spec.check_fresh(at, now),
            _ => Ok(()),
        }
    }
}

impl TimestampSpec {
    /// Refuses `at` if it is more than `max_age` before or after `now`.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Stale`] only.
    pub fn check_fresh(&self, at: Timestamp, now: Timestamp) -> Result<(), EnvelopeError> {
        match self.max_age {
            Some(max_age) if at.duration_since(now).unsigned_abs() > max_age => {
                Err(EnvelopeError::Stale)
            }
            _ => Ok(()),
        }
    }
}

impl IdSource {
    fn pointer(&self) -> Option<&Pointer> {
        match self {
            Self::Pointer(pointer) => Some(pointer),
            Self::Header(_) | Self::BodyDigest => None,
        }
    }
}

impl Source {
    fn pointer(&self) -> Option<&Pointer> {
        match self {
            Self::Pointer(pointer) => Some(pointer),
            Self::Header(_) => None,
        }
    }

    fn or_in_headers<'a>(
        &self,
        in_body: PointerValue<'a>,
        headers: &'a HeaderMap,
    ) -> PointerValue<'a> {
        match self {
            Self::Pointer(_) => in_body,
            Self::Header(name) => find_in_headers(headers, name),
        }
    }
}

/// What an event is called that has no ID but the SHA-256 of its body.
pub fn digest_name(sha256: &[u8; 32]) -> String {
    format!("{DIGEST_NAME}{}", hex::encode(sha256))
}

/// The digest in such a name.
pub fn named_digest(name: &str) -> Option<[u8; 32]> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(name.strip_prefix(DIGEST_NAME)?, &mut sha256).ok()?;
    Some(sha256)
}

impl EventId {
    /// An ID as a body has it: a JSON string or integer, held to the same rules.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::IdMalformed`] only.
    pub fn from_json(value: &RawValue) -> Result<Self, EnvelopeError> {
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => event_id(PointerValue::Text(Text::plain(&text))),
            Err(_) => event_id(PointerValue::Number(value.get())),
        }
    }

    /// The ID as text, for people and headers; `None` where the body's digest is the ID. Both `"1"` and `1` give `1`:
    /// use [`feed`](Self::feed) where they must differ.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Integer(text) => Some(text),
            Self::BodyDigest => None,
        }
    }

    /// Writes the ID into a hasher, so that no two IDs write the same bytes and none is the start of another. Unlike
    /// [`Hash`], the bytes are the same on every machine and in every version: stored keys depend on them.
    pub fn feed(&self, hasher: &mut impl Hasher) {
        let (tag, text): (u8, &str) = match self {
            Self::Text(text) => (1, text),
            Self::Integer(digits) => (2, digits),
            Self::BodyDigest => (3, ""),
        };
        hasher.write(&[tag]);
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
}

impl EnvelopeError {
    /// One word of a closed set, for the log and the metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidUtf8 => "invalid_utf8",
            Self::NotJson => "not_json",
            Self::IdMissing => "id_missing",
            Self::IdAmbiguous => "id_ambiguous",
            Self::IdMalformed => "id_malformed",
            Self::TypeMissing => "type_missing",
            Self::TypeAmbiguous => "type_ambiguous",
            Self::TypeMalformed => "type_malformed",
            Self::TimestampMissing => "timestamp_missing",
            Self::TimestampAmbiguous => "timestamp_ambiguous",
            Self::TimestampMalformed => "timestamp_malformed",
            Self::Stale => "stale",
        }
    }
}

fn find_in_body<'a>(
    body: &'a [u8],
    pointers: [Option<&Pointer>; PARTS],
) -> Result<[PointerValue<'a>; PARTS], EnvelopeError> {
    if pointers.iter().all(Option::is_none) {
        return Ok([PointerValue::Nothing; PARTS]);
    }
    let text = simdutf8::basic::from_utf8(body).map_err(|_| EnvelopeError::InvalidUtf8)?;
    find(text, pointers).map_err(|_| EnvelopeError::NotJson)
}

/// A header counts if it stands there once, as visible ASCII without a comma: nothing a proxy or a receiver would
/// trim, split or join. What is no ID may have spaces between its words: GitLab's types do.
fn find_in_headers<'a>(headers: &'a HeaderMap, name: &HeaderName) -> PointerValue<'a> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return PointerValue::Nothing;
    };
    if values.next().is_some() {
        return PointerValue::Ambiguous;
    }
    match value.to_str() {
        Ok(text) if is_words(text) => PointerValue::Text(Text::plain(text)),
        _ => PointerValue::Other,
    }
}

fn is_words(text: &str) -> bool {
    text.trim_ascii().len() == text.len()
        && text
            .bytes()
            .all(|byte| matches!(byte, b' '..=b'~') && byte != b',')
}

/// The same for an ID, which is one word.
fn find_id_in_headers<'a>(headers: &'a HeaderMap, name: &HeaderName) -> PointerValue<'a> {
    match find_in_headers(headers, name) {
        PointerValue::Text(text) if text.unescaped().is_none_or(|text| text.contains(' ')) => {
            PointerValue::Other
        }
        found => found,
    }
}

fn event_id(found: PointerValue<'_>) -> Result<EventId, EnvelopeError> {
    match found {
        PointerValue::Nothing => Err(EnvelopeError::IdMissing),
        PointerValue::Ambiguous => Err(EnvelopeError::IdAmbiguous),
        PointerValue::Text(text) => Ok(EventId::Text(
            printable(text).ok_or(EnvelopeError::IdMalformed)?.into(),
        )),
        PointerValue::Number(number) if is_integer_id(number) => {
            Ok(EventId::Integer(number.into()))
        }
        PointerValue::Number(_) | PointerValue::Other => Err(EnvelopeError::IdMalformed),
    }
}

fn event_kind(found: PointerValue<'_>) -> Result<Box<str>, EnvelopeError> {
    match found {
        PointerValue::Nothing => Err(EnvelopeError::TypeMissing),
        PointerValue::Ambiguous => Err(EnvelopeError::TypeAmbiguous),
        PointerValue::Text(text) => Ok(printable(text).ok_or(EnvelopeError::TypeMalformed)?.into()),
        PointerValue::Number(_) | PointerValue::Other => Err(EnvelopeError::TypeMalformed),
    }
}

fn event_time(found: PointerValue<'_>) -> Result<Timestamp, EnvelopeError> {
    let time = match found {
        PointerValue::Nothing => return Err(EnvelopeError::TimestampMissing),
        PointerValue::Ambiguous => return Err(EnvelopeError::TimestampAmbiguous),
        PointerValue::Text(text) => {
            printable(text).and_then(|text| unix(&text).or_else(|| rfc3339(&text)))
        }
        PointerValue::Number(number) => unix(number),
        PointerValue::Other => None,
    };
    time.ok_or(EnvelopeError::TimestampMalformed)
}

/// The string with its escapes undone, if it is fit to be an ID or a type.
fn printable(text: Text<'_>) -> Option<Cow<'_, str>> {
    let text = match text.unescaped() {
        Some(plain) => Cow::Borrowed(plain),
        // One character more than can fit, so that a longer string is seen to be one.
        None => Cow::Owned(text.chars().take(TEXT_BYTES_MAX + 1).collect()),
    };
    let fits = (1..=TEXT_BYTES_MAX).contains(&text.len());
    // Unicode's control characters (Cc) are C0, DEL and C1; most texts need no look into Unicode.
    let plain =
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.chars().any(char::is_control);
    if fits && plain { Some(text) } else { None }
}

/// `number` is in JSON's grammar, so that anything but a sign and digits makes it a fraction or gives it an exponent.
fn is_integer_id(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    number.len() <= INTEGER_BYTES_MAX
        && number != "-0"
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Unix seconds or milliseconds; see [`TimestampSpec`].
fn unix(digits: &str) -> Option<Timestamp> {
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match digits.parse().ok()? {
        seconds @ ..MILLISECONDS_FROM => Timestamp::from_second(seconds).ok(),
        milliseconds => Timestamp::from_millisecond(milliseconds).ok(),
    }
}

/// `jiff` reads more than RFC 3339 (time zones in brackets, dates without separators), which receivers may not.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let (date_time, rest) = text.split_at_checked("YYYY-MM-DDThh:mm:ss".len())?;
    let offset = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|char: char| char.is_ascii_digit()),
        None => rest,
    };
    let shaped = has_shape(date_time, "0000-00-00T00:00:00")
        && (["Z", "z"].contains(&offset)
            || has_shape(offset, "+00:00")
            || has_shape(offset, "-00:00"));
    if shaped { text.parse().ok() } else { None }
}

/// Every `0` of `shape` stands for a digit, everything else for itself in either case.
fn has_shape(text: &str, shape: &str) -> bool {
    let fits = |(byte, shape): (u8, u8)| {
        if shape == b'0' {
            byte.is_ascii_digit()
        } else {
            byte.eq_ignore_ascii_case(&shape)
        }
    };
    text.len() == shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}
