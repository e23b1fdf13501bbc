//! What a request presents as its signature: the candidates, the signed time, and what else is signed beside the body.

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use super::SignatureError;
use super::content::Part;
use super::header::Header;
use super::key::Tag;
use super::scheme::{
    HeaderFields, InBody, Scheme, SignatureFormat, SignatureLocation, SignedTime, TimeUnit,
    TimestampLocation,
};

/// Signatures of one header that are looked at. A rotation needs two.
const CANDIDATES_MAX: usize = 16;

/// Digits of the longest time.
const TIME_BYTES_MAX: usize = 40;

/// What a request's head says of its signature.
pub(super) struct Presented<'a> {
    pub candidates: Candidates<'a>,
    pub time: Option<Timestamp>,
    /// What is signed before and behind the body.
    pub before: Vec<u8>,
    pub behind: Vec<u8>,
}

pub(super) enum Candidates<'a> {
    /// Those in a header, at least one, each with its kind.
    Read(Vec<Candidate>),
    /// They stand in the body.
    InBody(&'a InBody),
}

#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub kind: usize,
    pub tag: Tag,
}

impl<'a> Presented<'a> {
    /// # Errors
    /// What is missing or malformed.
    pub(super) fn read(scheme: &'a Scheme, headers: &HeaderMap) -> Result<Self, SignatureError> {
        let place = scheme
            .places
            .iter()
            .find(|place| place.is_in(headers))
            .ok_or(SignatureError::Missing)?;
        let (candidates, field_time) = match place {
            SignatureLocation::Header(header) => {
                let value = the_one(headers, header)?;
                (Candidates::Read(vec![scheme.whole(value)?]), None)
            }
            SignatureLocation::Fields(fields) => {
                let value = the_one(headers, &fields.header)?;
                (
                    Candidates::Read(scheme.listed(fields, value)?),
                    Some((fields, value)),
                )
            }
            SignatureLocation::Body(in_body) => (Candidates::InBody(in_body), None),
        };
        let time = match &scheme.time {
            Some(time) => Some(time.find(headers, field_time)?),
            None => None,
        };
        let mut presented = Self {
            candidates,
            time: None,
            before: Vec::new(),
            behind: Vec::new(),
        };
        for (parts, bytes) in [
            (&scheme.signed.before, &mut presented.before),
            (&scheme.signed.behind, &mut presented.behind),
        ] {
            for part in parts {
                match part {
                    Part::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
                    Part::Timestamp => {
                        bytes.extend_from_slice(time.map_or("", |(text, _)| text).as_bytes())
                    }
                    Part::Id(header) => {
                        bytes.extend_from_slice(the_one(headers, header)?.as_bytes())
                    }
                    // Without the URL nothing can be checked.
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
    /// The candidate in a text that is nothing but the signature.
    pub(super) fn whole(&self, text: &str) -> Result<Candidate, SignatureError> {
        let mut worst = SignatureError::Missing;
        for (kind, form) in self.kinds.iter().enumerate() {
            let text = form.stripped(text);
            match form.read(text) {
                Some(tag) => return Ok(Candidate { kind, tag }),
                None if text.is_empty() => {}
                None => worst = SignatureError::Malformed,
            }
        }
        Err(worst)
    }

    /// The candidates in a header with fields: those of them that can be signatures. Other fields say nothing.
    fn listed(&self, fields: &HeaderFields, value: &str) -> Result<Vec<Candidate>, SignatureError> {
        let (mut candidates, mut worst, mut seen) = (Vec::new(), SignatureError::Missing, 0);
        for (name, text) in fields.parse(value) {
            let Some(kind) = self.kinds.iter().position(|kind| *kind.field == *name) else {
                continue;
            };
            seen += 1;
            if seen > CANDIDATES_MAX {
                break;
            }
            let form = &self.kinds[kind];
            let text = form.stripped(text);
            match form.read(text) {
                Some(tag) => candidates.push(Candidate { kind, tag }),
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
    fn stripped<'t>(&self, text: &'t str) -> &'t str {
        text.strip_prefix(&*self.prefix).unwrap_or(text)
    }
}

impl HeaderFields {
    /// Names and values, in order. What has no value is left out.
    pub(crate) fn parse<'v>(&self, value: &'v str) -> impl Iterator<Item = (&'v str, &'v str)> {
        let white = [' ', '\t'];
        let fields = value
            .split(self.separator)
            .map(move |field| field.trim_matches(white));
        fields.filter_map(|field| field.split_once(self.assign))
    }
}

impl SignedTime {
    /// The time's text and what it stands for.
    fn find<'v>(
        &self,
        headers: &'v HeaderMap,
        fields: Option<(&HeaderFields, &'v str)>,
    ) -> Result<(&'v str, Timestamp), SignatureError> {
        let text = match (&self.place, fields) {
            (TimestampLocation::Header(header), _) => the_one(headers, header)?,
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

    /// Whether `time` is no further from `now` than the tolerance, before or after.
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

    /// `time` as a sender writes it.
    pub fn write(self, time: Timestamp) -> String {
        match self {
            Self::Seconds => time.as_second().to_string(),
            Self::Milliseconds => time.as_millisecond().to_string(),
            Self::Rfc3339 => format!("{time:.0}"),
        }
    }
}

/// The value of a header that must be there once, and not empty.
fn the_one<'h>(headers: &'h HeaderMap, header: &Header) -> Result<&'h str, SignatureError> {
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
