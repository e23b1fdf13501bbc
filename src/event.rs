//! The event envelope: the ID, type and time of an event, read from bytes whose signature was
//! verified.
//!
//! Owns what counts as an ID, a type and a timestamp, and when a body is ambiguous about them. An
//! ambiguous body is refused: an ID that two receivers may read differently does not protect against
//! replays. Everything else in a body may be what receivers disagree about. Does not own the clock
//! (`now` is an argument), the event types that a route accepts, or the IDs that were used before.

use std::{borrow::Cow, hash::Hasher, time::Duration};

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Pointer, PointerValue, Text, find};

#[cfg(test)]
mod tests;

/// The longest ID or type, in bytes of UTF-8 after unescaping.
pub const TEXT_BYTES_MAX: usize = 255;

/// The longest integer ID, in bytes with its sign: every signed 128-bit integer fits.
pub const INTEGER_BYTES_MAX: usize = 40;

/// The places of a route's envelope parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvelopeSpec {
    pub id: IdSource,
    /// The thing that the ID names.
    pub id_names: IdNames,
    pub event_type: Source,
    /// The treatment of a message that has no ID or no type.
    pub missing: MissingParts,
    /// `None` if the route reads no timestamp. If set, an event without a timestamp is refused.
    pub timestamp: Option<TimestampSpec>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdSource {
    Pointer(Pointer),
    Header(HeaderName),
    /// Several pointers into the body. The parts are joined, and all of them must be there.
    Joined(Box<[Pointer]>),
    /// For senders without IDs: the SHA-256 of the body identifies the event.
    BodyDigest,
    /// Nothing identifies an event: every request is a new one.
    Nothing,
}

/// The thing that an ID names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum IdNames {
    /// The event: all copies of it have the ID, and no other event has it.
    Event,
    /// An object, such as a message or an order, that several events are about. Type and body then
    /// belong to the event's identity.
    Object,
}

/// The treatment of a message without an ID where the route expects one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum MissingId {
    /// The message is rejected.
    #[default]
    Reject,
    /// The message is identified by its body, as with `body_digest`.
    BodyDigest,
}

/// The treatment of control messages: what a sender signs besides its events, without their ID or
/// type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingParts {
    pub id: MissingId,
    /// The type of a message that has none where the route expects it. `None` rejects the message.
    pub event_type: Option<FallbackType>,
}

/// The type of a message that has none where the route expects it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FallbackType {
    Text(Box<str>),
    /// The value of another member of the body.
    Pointer(Pointer),
}

/// The type of a JSON array, if the route reads the type from a member of an object.
pub const BATCH_TYPE: &str = "batch";

/// The character between the parts of a joined ID.
const JOINT: char = '|';

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Pointer(Pointer),
    Header(HeaderName),
}

/// The place of the event's time, and its greatest distance from now.
///
/// The time is an RFC 3339 string (at most nanoseconds), or whole Unix seconds or milliseconds as a
/// JSON integer or a string of digits. Numbers below 100,000,000,000 are seconds (up to the year
/// 5138), all others milliseconds (from March 1973).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimestampSpec {
    pub source: Source,
    /// The limit into the past and into the future. `None` leaves the time unchecked: providers
    /// retry old events for days.
    pub max_age: Option<Duration>,
}

/// The parts that the envelope of a verified body holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// `None` for an event without an ID: see [`IdSource::BodyDigest`], [`IdSource::Nothing`] and
    /// [`MissingId::BodyDigest`]. A batch has none either.
    pub id: Option<EventId>,
    /// The event type: 1 to [`TEXT_BYTES_MAX`] bytes without control characters.
    pub event_type: Box<str>,
    /// `true` for a JSON array, if it is not empty, on a route that reads the ID or the type from
    /// members of an object. It is one event, delivered whole.
    pub is_batch: bool,
    pub timestamp: Option<Timestamp>,
}

/// An ID that the sender gave the event. `"1"` and `1` are different IDs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventId {
    /// 1 to [`TEXT_BYTES_MAX`] bytes without control characters; not normalised, not always ASCII.
    Text(Box<str>),
    /// The digits as they were sent, at most [`INTEGER_BYTES_MAX`] bytes. Receivers may round them;
    /// the gateway does not.
    Integer(Box<str>),
}

/// The reason why a verified body is not a valid event. Reveals nothing of the body's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the body is not valid UTF-8; send JSON encoded as UTF-8")]
    InvalidUtf8,
    #[error("the body is not one JSON text; send RFC 8259 JSON with nothing after it")]
    NotJson,
    #[error(
        "the event has no ID where the route expects it; send one, or set the route's `event.id`"
    )]
    IdMissing,
    #[error(
        "the event's ID, or a name on the way to it, occurs more than once; send it once, \
         counting names that differ only in case"
    )]
    IdAmbiguous,
    #[error(
        "the event's ID is invalid; send a string of 1 to {TEXT_BYTES_MAX} bytes without control \
         characters and unpaired surrogates (in a header: visible ASCII without commas) or an \
         integer of at most {INTEGER_BYTES_MAX} characters"
    )]
    IdMalformed,
    #[error(
        "the event has no type where the route expects it; send one, or set the route's \
         `event.type`"
    )]
    TypeMissing,
    #[error(
        "the event's type, or a name on the way to it, occurs more than once; send it once, \
         counting names that differ only in case"
    )]
    TypeAmbiguous,
    #[error(
        "the event's type is invalid; send a string of 1 to {TEXT_BYTES_MAX} bytes without control \
         characters and unpaired surrogates (in a header: visible ASCII and spaces, without commas)"
    )]
    TypeMalformed,
    #[error(
        "the event has no timestamp where the route expects it; send one, or set the route's \
         `event.timestamp`"
    )]
    TimestampMissing,
    #[error(
        "the event's timestamp, or a name on the way to it, occurs more than once; send it once, \
         counting names that differ only in case"
    )]
    TimestampAmbiguous,
    #[error(
        "the event's timestamp is invalid; send an RFC 3339 date and time, or Unix seconds or \
         milliseconds"
    )]
    TimestampMalformed,
    #[error(
        "the event's timestamp is too far from now; check the sender's clock, or raise the route's \
         `max_age`"
    )]
    Stale,
}

impl EnvelopeSpec {
    /// Returns the headers that parts are read from.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        let id = match &self.id {
            IdSource::Header(name) => Some(name),
            IdSource::Pointer(_)
            | IdSource::Joined(_)
            | IdSource::BodyDigest
            | IdSource::Nothing => None,
        };
        let time = self.timestamp.as_ref().map(|spec| &spec.source);
        let sources = [Some(&self.event_type), time].into_iter().flatten();
        id.into_iter()
            .chain(sources.filter_map(|source| match source {
                Source::Header(name) => Some(name),
                Source::Pointer(_) => None,
            }))
    }

    /// Returns the pointers of the parts that are read from the body.
    pub fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        let time = self
            .timestamp
            .as_ref()
            .and_then(|spec| spec.source.pointer());
        let joined = match &self.id {
            IdSource::Joined(pointers) => &pointers[..],
            _ => &[],
        };
        [self.id.pointer(), self.event_type.pointer(), time]
            .into_iter()
            .flatten()
            .chain(joined)
    }

    /// Parses the parts from `body`, which must be verified, and from `headers`, which no signature
    /// may cover.
    ///
    /// If any part is in the body, the whole body must be one JSON text; it may begin with a byte
    /// order mark, and hold what receivers disagree about off the parts. Otherwise the body is not
    /// read.
    ///
    /// # Errors
    ///
    /// Reports a body that is not JSON before anything else, then the ID, the type and the
    /// timestamp, in this order. Never [`EnvelopeError::Stale`]: see
    /// [`check_fresh`](Self::check_fresh).
    pub fn parse(&self, body: &[u8], headers: &HeaderMap) -> Result<Event, EnvelopeError> {
        let time = self.timestamp.as_ref().map(|spec| &spec.source);
        let [id, event_type, timestamp] = find_in_body(
            body,
            [
                self.id.pointer(),
                self.event_type.pointer(),
                time.and_then(Source::pointer),
            ],
        )?;
        let id = match &self.id {
            IdSource::Pointer(_) => parse_id(id).map(Some),
            IdSource::Header(name) => parse_id(find_id_in_headers(headers, name)).map(Some),
            IdSource::Joined(pointers) => parse_joined_id(body, pointers).map(Some),
            IdSource::BodyDigest | IdSource::Nothing => Ok(None),
        };
        let event_type = parse_event_type(self.event_type.select(event_type, headers));
        let timestamp = time
            .map(|source| parse_time(source.select(timestamp, headers)))
            .transpose();
        match (id, event_type) {
            (Ok(id), Ok(event_type)) => Ok(Event {
                id,
                event_type,
                is_batch: false,
                timestamp: timestamp?,
            }),
            (id, event_type) => self.parse_incomplete(body, id, event_type, timestamp),
        }
    }

    /// Completes an event that lacks its ID or its type, if it is a batch or the route accepts
    /// control messages.
    #[cold]
    fn parse_incomplete(
        &self,
        body: &[u8],
        id: Result<Option<EventId>, EnvelopeError>,
        event_type: Result<Box<str>, EnvelopeError>,
        timestamp: Result<Option<Timestamp>, EnvelopeError>,
    ) -> Result<Event, EnvelopeError> {
        let is_batch = is_batch(body);
        let id = match id {
            Err(EnvelopeError::IdMissing)
                if is_batch || self.missing.id == MissingId::BodyDigest =>
            {
                None
            }
            id => id?,
        };
        let event_type = match (event_type, &self.missing.event_type) {
            (Err(EnvelopeError::TypeMissing), _) if is_batch => BATCH_TYPE.into(),
            (Err(EnvelopeError::TypeMissing), Some(FallbackType::Text(text))) => text.clone(),
            (Err(EnvelopeError::TypeMissing), Some(FallbackType::Pointer(pointer))) => {
                let [found] = find_in_body(body, [Some(pointer)])?;
                parse_event_type(found)?
            }
            (event_type, _) => event_type?,
        };
        Ok(Event {
            id,
            event_type,
            is_batch,
            timestamp: timestamp?,
        })
    }

    /// Rejects an event with a time that is further from `now` than the route's `max_age`.
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
    /// Rejects `at` if it is more than `max_age` before or after `now`.
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
            Self::Header(_) | Self::Joined(_) | Self::BodyDigest | Self::Nothing => None,
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

    /// Returns the value at this source: the one found in the body, or the header's.
    fn select<'a>(&self, in_body: PointerValue<'a>, headers: &'a HeaderMap) -> PointerValue<'a> {
        match self {
            Self::Pointer(_) => in_body,
            Self::Header(name) => find_in_headers(headers, name),
        }
    }
}

impl EventId {
    /// Parses an ID from a JSON string or integer, by the same rules as an ID in a body.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::IdMalformed`] only.
    pub fn from_json(value: &RawValue) -> Result<Self, EnvelopeError> {
        match serde_json::from_str::<String>(value.get()) {
            Ok(text) => parse_id(PointerValue::Text(Text::plain(&text))),
            Err(_) => parse_id(PointerValue::Number(value.get())),
        }
    }

    /// Returns the ID as text, for people and headers. Both `"1"` and `1` give `1`: use
    /// [`feed`](Self::feed) where they must differ.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Text(text) | Self::Integer(text) => text,
        }
    }

    /// Writes the ID into a hasher, so that no two IDs write the same bytes and none is a prefix of
    /// another. Unlike [`Hash`], the bytes are the same on every machine and in every version:
    /// stored keys depend on them.
    pub fn feed(&self, hasher: &mut impl Hasher) {
        let (tag, text): (u8, &str) = match self {
            Self::Text(text) => (1, text),
            Self::Integer(digits) => (2, digits),
        };
        hasher.write(&[tag]);
        hasher.write(&(text.len() as u64).to_le_bytes());
        hasher.write(text.as_bytes());
    }
}

impl EnvelopeError {
    /// Returns one word of a closed set, for the log and the metrics.
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

fn find_in_body<'a, const N: usize>(
    body: &'a [u8],
    pointers: [Option<&Pointer>; N],
) -> Result<[PointerValue<'a>; N], EnvelopeError> {
    if pointers.iter().all(Option::is_none) {
        return Ok([PointerValue::Nothing; N]);
    }
    let text = simdutf8::basic::from_utf8(body).map_err(|_| EnvelopeError::InvalidUtf8)?;
    find(text, pointers).map_err(|_| EnvelopeError::NotJson)
}

/// Finds a header that occurs once and holds visible ASCII without a comma: nothing that a proxy or
/// a receiver would trim, split or join. Spaces between words are allowed: GitLab's types have
/// them.
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

/// Finds an ID in a header. Unlike [`find_in_headers`], it must not contain spaces.
fn find_id_in_headers<'a>(headers: &'a HeaderMap, name: &HeaderName) -> PointerValue<'a> {
    match find_in_headers(headers, name) {
        PointerValue::Text(text) if text.unescaped().is_none_or(|text| text.contains(' ')) => {
            PointerValue::Other
        }
        found => found,
    }
}

fn parse_id(found: PointerValue<'_>) -> Result<EventId, EnvelopeError> {
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

/// Parses the parts of a joined ID. A part that contains the joint is escaped, so that no two lists
/// of parts give the same ID.
fn parse_joined_id(body: &[u8], pointers: &[Pointer]) -> Result<EventId, EnvelopeError> {
    let mut joined = String::new();
    for pointer in pointers {
        let [found] = find_in_body(body, [Some(pointer)])?;
        let part = parse_id(found)?;
        if !joined.is_empty() {
            joined.push(JOINT);
        }
        for char in part.as_str().chars() {
            if char == JOINT || char == '\\' {
                joined.push('\\');
            }
            joined.push(char);
        }
    }
    if joined.len() > TEXT_BYTES_MAX {
        return Err(EnvelopeError::IdMalformed);
    }
    Ok(EventId::Text(joined.into()))
}

/// Returns whether a body that is JSON is an array that is not empty.
fn is_batch(body: &[u8]) -> bool {
    let text = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
    text.trim_ascii_start()
        .strip_prefix(b"[")
        .is_some_and(|items| items.trim_ascii_start().first() != Some(&b']'))
}

fn parse_event_type(found: PointerValue<'_>) -> Result<Box<str>, EnvelopeError> {
    match found {
        PointerValue::Nothing => Err(EnvelopeError::TypeMissing),
        PointerValue::Ambiguous => Err(EnvelopeError::TypeAmbiguous),
        PointerValue::Text(text) => Ok(printable(text).ok_or(EnvelopeError::TypeMalformed)?.into()),
        PointerValue::Number(_) | PointerValue::Other => Err(EnvelopeError::TypeMalformed),
    }
}

fn parse_time(found: PointerValue<'_>) -> Result<Timestamp, EnvelopeError> {
    let time = match found {
        PointerValue::Nothing => return Err(EnvelopeError::TimestampMissing),
        PointerValue::Ambiguous => return Err(EnvelopeError::TimestampAmbiguous),
        PointerValue::Text(text) => {
            printable(text).and_then(|text| parse_unix(&text).or_else(|| parse_rfc3339(&text)))
        }
        PointerValue::Number(number) => parse_unix(number),
        PointerValue::Other => None,
    };
    time.ok_or(EnvelopeError::TimestampMalformed)
}

/// Unescapes the text. Returns `None` if it does not qualify as an ID or a type.
fn printable(text: Text<'_>) -> Option<Cow<'_, str>> {
    let text = match text.unescaped() {
        Some(plain) => Cow::Borrowed(plain),
        // One character more than fits, so that a longer text is detected.
        None => Cow::Owned(
            text.chars()
                .take(TEXT_BYTES_MAX + 1)
                .collect::<Option<_>>()?,
        ),
    };
    let fits = (1..=TEXT_BYTES_MAX).contains(&text.len());
    // Unicode's control characters (Cc) are C0, DEL and C1. Most texts are ASCII and pass the first
    // test.
    let plain =
        text.bytes().all(|byte| matches!(byte, b' '..=b'~')) || !text.chars().any(char::is_control);
    if fits && plain { Some(text) } else { None }
}

/// Returns whether `number`, which follows JSON's grammar, is an integer: anything but a sign and
/// digits makes it a fraction or gives it an exponent.
fn is_integer_id(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    number.len() <= INTEGER_BYTES_MAX
        && number != "-0"
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parses Unix seconds or milliseconds. See [`TimestampSpec`].
fn parse_unix(digits: &str) -> Option<Timestamp> {
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    match digits.parse().ok()? {
        seconds @ ..MILLISECONDS_FROM => Timestamp::from_second(seconds).ok(),
        milliseconds => Timestamp::from_millisecond(milliseconds).ok(),
    }
}

/// Parses RFC 3339 strictly. `jiff` alone accepts more (time zones in brackets, dates without
/// separators), which receivers may not read.
fn parse_rfc3339(text: &str) -> Option<Timestamp> {
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

/// Returns whether `text` matches `shape`: every `0` there is any digit, everything else is itself,
/// in either case.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(byte, shape)| match shape {
                b'0' => byte.is_ascii_digit(),
                _ => byte.eq_ignore_ascii_case(&shape),
            })
}
