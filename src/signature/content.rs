//! The signed content: `{body}`, or the body with other parts around it, as in `{timestamp}.{body}`.

use std::fmt;

use super::header::Header;

/// The signed content: the body, once, with parts before and after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub(super) before: Vec<Part>,
    pub(super) after: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Box<str>),
    /// The signed time, as the sender wrote it.
    Timestamp,
    /// The event ID's header, as the sender wrote it.
    Id(Header),
    /// The URL of the endpoint as the sender knows it.
    Url,
}

/// A reason why a text describes no signed content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("`{{body}}` must occur exactly once; an unsigned body could be changed by anyone")]
    NotOneBody,
    #[error("`{0}` is unknown; use `{{body}}`, `{{timestamp}}`, `{{id}}` or `{{url}}`")]
    Unknown(String),
    #[error("a brace has no counterpart")]
    Unbalanced,
    #[error("`{{id}}` needs an event ID from a header (`event.id: {{header: NAME}}`)")]
    IdWithoutHeader,
}

impl Content {
    /// Returns the content that is the body and nothing else.
    pub fn body() -> Self {
        Self {
            before: Vec::new(),
            after: Vec::new(),
        }
    }

    /// Parses a text with `{body}` once, and any number of `{timestamp}`, `{id}` and `{url}`. `id` is
    /// the header of the event ID.
    pub fn parse(text: &str, id: Option<&Header>) -> Result<Self, ContentError> {
        let (mut before, mut parts) = (None, Vec::new());
        let mut rest = text;
        while !rest.is_empty() {
            let (literal, after) = rest.split_at(rest.find(['{', '}']).unwrap_or(rest.len()));
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            if after.is_empty() {
                break;
            }
            let end = after
                .find('}')
                .filter(|_| after.starts_with('{'))
                .ok_or(ContentError::Unbalanced)?;
            match &after[1..end] {
                "body" if before.is_none() => before = Some(std::mem::take(&mut parts)),
                "body" => return Err(ContentError::NotOneBody),
                "timestamp" => parts.push(Part::Timestamp),
                "id" => parts.push(Part::Id(id.cloned().ok_or(ContentError::IdWithoutHeader)?)),
                "url" => parts.push(Part::Url),
                _ => return Err(ContentError::Unknown(after[..=end].into())),
            }
            rest = &after[end + 1..];
        }
        Ok(Self {
            before: before.ok_or(ContentError::NotOneBody)?,
            after: parts,
        })
    }

    /// Replaces `{url}` by `url`.
    pub fn with_url(mut self, url: &str) -> Self {
        for part in self
            .before
            .iter_mut()
            .chain(&mut self.after)
            .filter(|part| **part == Part::Url)
        {
            *part = Part::Literal(url.into());
        }
        self
    }

    /// Returns the signed bytes before and after the body. `None` if a part of the content is missing.
    pub(crate) fn around(
        &self,
        time: Option<&[u8]>,
        id: Option<&[u8]>,
        url: Option<&[u8]>,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let joined = |parts: &[Part]| {
            let bytes = parts.iter().map(|part| match part {
                Part::Literal(text) => Some(text.as_bytes()),
                Part::Timestamp => time,
                Part::Id(_) => id,
                Part::Url => url,
            });
            Some(bytes.collect::<Option<Vec<_>>>()?.concat())
        };
        Some((joined(&self.before)?, joined(&self.after)?))
    }

    /// Returns whether the time is signed.
    pub fn has_timestamp(&self) -> bool {
        self.parts().any(|part| *part == Part::Timestamp)
    }

    /// Returns whether the endpoint's URL is signed, and not yet known.
    pub fn needs_url(&self) -> bool {
        self.parts().any(|part| *part == Part::Url)
    }

    /// Returns the header of the event ID, if that is signed.
    pub fn id_header(&self) -> Option<&Header> {
        self.headers().next()
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = &Header> {
        self.parts().filter_map(|part| match part {
            Part::Id(header) => Some(header),
            Part::Literal(_) | Part::Timestamp | Part::Url => None,
        })
    }

    pub(super) fn is_body_only(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.before.iter().chain(&self.after)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.before
            .iter()
            .try_for_each(|part| write!(f, "{part}"))?;
        f.write_str("{body}")?;
        self.after.iter().try_for_each(|part| write!(f, "{part}"))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Timestamp => f.write_str("{timestamp}"),
            Self::Id(_) => f.write_str("{id}"),
            Self::Url => f.write_str("{url}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_a_round_trip() {
        let id = Header::from_static("webhook-id");
        for text in [
            "{body}",
            "{timestamp}.{body}",
            "v0:{timestamp}:{body}",
            "{id}.{timestamp}.{body}",
            "{url}{body}x",
        ] {
            assert_eq!(Content::parse(text, Some(&id)).unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_content_is_rejected() {
        let cases = [
            ("", ContentError::NotOneBody),
            ("{timestamp}", ContentError::NotOneBody),
            ("{body}{body}", ContentError::NotOneBody),
            ("{Body}", ContentError::Unknown("{Body}".into())),
            ("{}{body}", ContentError::Unknown("{}".into())),
            ("{{body}}", ContentError::Unknown("{{body}".into())),
            ("{body", ContentError::Unbalanced),
            ("body}", ContentError::Unbalanced),
            ("{id}.{body}", ContentError::IdWithoutHeader),
        ];
        for (text, error) in cases {
            assert_eq!(Content::parse(text, None), Err(error), "{text}");
        }
    }
}
