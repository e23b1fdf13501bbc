//! The signature that a request presents: the candidates, the signed time, and the signed content
//! besides the body.

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::SignatureError;
use super::content::Part;
use super::header::Header;
use super::key::Tag;
use super::scheme::{
    BodySignature, HeaderFields, Scheme, SignatureFormat, SignatureLocation, SignedTime, TimeUnit,
    TimestampLocation,
};

/// The most signatures of one header that are checked. A rotation needs two.
const CANDIDATES_MAX: usize = 16;

/// Bytes of the longest signed time.
const TIME_BYTES_MAX: usize = 40;

/// The parts of a signature that a request's head holds.
pub(super) struct Presented<'a> {
    pub candidates: Candidates<'a>,
    pub time: Option<Timestamp>,
    /// The signed bytes before and after the body.
    pub before: Vec<u8>,
    pub after: Vec<u8>,
}

pub(super) enum Candidates<'a> {
    /// The candidates of a header, at least one.
    InHeader(Vec<Candidate>),
    /// The signature is in the body.
    InBody(&'a BodySignature),
}

#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub format: usize,
    pub tag: Tag,
}

impl<'a> Presented<'a> {
    /// Reads the signature from a request's headers.
    ///
    /// # Errors
    /// [`SignatureError`] if the signature, or another signed part, is missing or malformed.
    pub(super) fn read(scheme: &'a Scheme, headers: &HeaderMap) -> Result<Self, SignatureError> {
        let place = scheme
            .locations
            .iter()
            .find(|place| place.is_in(headers))
            .ok_or(SignatureError::Missing)?;
        let (candidates, field_time) = match place {
            SignatureLocation::Header(header) => {
                let value = single_value(headers, header)?;
                (Candidates::InHeader(vec![scheme.parse_one(value)?]), None)
            }
            SignatureLocation::Fields(fields) => {
                let value = single_value(headers, &fields.header)?;
                (
                    Candidates::InHeader(scheme.parse_fields(fields, value)?),
                    Some((fields, value)),
                )
            }
            SignatureLocation::Body(in_body) => (Candidates::InBody(in_body), None),
        };
        let time = match &scheme.time {
            Some(time) => Some(time.read(headers, field_time)?),
            None => None,
        };
        let mut presented = Self {
            candidates,
            time: None,
            before: Vec::new(),
            after: Vec::new(),
        };
        for (parts, bytes) in [
            (&scheme.signed.before, &mut presented.before),
            (&scheme.signed.after, &mut presented.after),
        ] {
            for part in parts {
                match part {
                    Part::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
                    Part::Timestamp => {
                        bytes.extend_from_slice(time.map_or("", |(text, _)| text).as_bytes());
                    }
                    Part::Id(header) => {
                        bytes.extend_from_slice(single_value(headers, header)?.as_bytes());
                    }
                    // No signature can be checked without the URL.
                    Part::Url => return Err(SignatureError::Missing),
                }
            }
        }
        presented.time = time.map(|(_, time)| time);
        Ok(presented)
    }
}

impl SignatureLocation {
    fn is_in(&self, headers: &HeaderMap) -> bool {
        match self {
            Self::Header(header) | Self::Fields(HeaderFields { header, .. }) => {
                headers.contains_key(&header.name)
            }
            Self::Body(_) => true,
        }
    }
}

impl Scheme {
    /// Parses a text that holds one signature and nothing else.
    pub(super) fn parse_one(&self, text: &str) -> Result<Candidate, SignatureError> {
        let mut worst = SignatureError::Missing;
        for (format, form) in self.formats.iter().enumerate() {
            let text = form.strip_prefix(text);
            match form.parse(text) {
                Some(tag) => return Ok(Candidate { format, tag }),
                None if text.is_empty() => {}
                None => worst = SignatureError::Malformed,
            }
        }
        Err(worst)
    }

    /// Parses the candidates in a header with fields. Ignores fields that can be no signature.
    fn parse_fields(
        &self,
        fields: &HeaderFields,
        value: &str,
    ) -> Result<Vec<Candidate>, SignatureError> {
        let (mut candidates, mut worst, mut seen) = (Vec::new(), SignatureError::Missing, 0);
        for (name, text) in fields.parse(value) {
            let Some(format) = self.formats.iter().position(|form| *form.field == *name) else {
                continue;
            };
            seen += 1;
            if seen > CANDIDATES_MAX {
                break;
            }
            let form = &self.formats[format];
            let text = form.strip_prefix(text);
            match form.parse(text) {
                Some(tag) => candidates.push(Candidate { format, tag }),
                None if text.is_empty() => {}
                None => worst = SignatureError::Malformed,
            }
        }
        if candidates.is_empty() {
            Err(worst)
        } else {
            Ok(candidates)
        }
    }
}

impl SignatureFormat {
    fn strip_prefix<'t>(&self, text: &'t str) -> &'t str {
        text.strip_prefix(&*self.prefix).unwrap_or(text)
    }
}

impl HeaderFields {
    /// Iterates over names and values in order. Skips fields without a value.
    pub(crate) fn parse<'v>(&self, value: &'v str) -> impl Iterator<Item = (&'v str, &'v str)> {
        let white = [' ', '\t'];
        let fields = value
            .split(self.separator)
            .map(move |field| field.trim_matches(white));
        fields.filter_map(|field| field.split_once(self.assign))
    }
}

impl SignedTime {
    /// Reads the signed time: its text, and the time.
    fn read<'v>(
        &self,
        headers: &'v HeaderMap,
        fields: Option<(&HeaderFields, &'v str)>,
    ) -> Result<(&'v str, Timestamp), SignatureError> {
        let text = match (&self.location, fields) {
            (TimestampLocation::Header(header), _) => single_value(headers, header)?,
            (TimestampLocation::Field(name), Some((fields, value))) => {
                let mut times = fields.parse(value).filter(|(field, _)| **field == **name);
                let (_, text) = times.next().ok_or(SignatureError::Missing)?;
                if times.next().is_some() {
                    return Err(SignatureError::Malformed);
                }
                text
            }
            (TimestampLocation::Field(_), None) => return Err(SignatureError::Missing),
        };
        let time = self.unit.parse(text).ok_or(SignatureError::Malformed)?;
        Ok((text, time))
    }

    /// Returns whether `time` is within the tolerance of `now`, before or after.
    pub(crate) fn is_fresh(&self, time: Timestamp, now: Timestamp) -> bool {
        time.duration_since(now).unsigned_abs() <= self.tolerance
    }
}

impl TimeUnit {
    pub(crate) fn parse(self, text: &str) -> Option<Timestamp> {
        if text.len() > TIME_BYTES_MAX {
            return None;
        }
        let whole = || {
            text.bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| text.parse().ok())?
        };
        match self {
            Self::Seconds => Timestamp::from_second(whole()?).ok(),
            Self::Milliseconds => Timestamp::from_millisecond(whole()?).ok(),
            Self::Rfc3339 => text.parse().ok(),
        }
    }

    /// Formats `time` as a sender writes it.
    pub fn write(self, time: Timestamp) -> String {
        match self {
            Self::Seconds => time.as_second().to_string(),
            Self::Milliseconds => time.as_millisecond().to_string(),
            Self::Rfc3339 => format!("{time:.0}"),
        }
    }
}

/// Returns the value of a header that must occur once and not be empty.
fn single_value<'h>(headers: &'h HeaderMap, header: &Header) -> Result<&'h str, SignatureError> {
    let mut values = headers.get_all(&header.name).iter();
    let value = values.next().ok_or(SignatureError::Missing)?;
    if values.next().is_some() {
        return Err(SignatureError::Malformed);
    }
    let text = HeaderValue::to_str(value).map_err(|_| SignatureError::Malformed)?;
    if text.is_empty() {
        Err(SignatureError::Missing)
    } else {
        Ok(text)
    }
}
