//! What is signed: `{body}`, or the body with other things around it, as in `{timestamp}.{body}`.

use std::fmt;

use super::header::Header;

/// The signed content: the body, once, with parts before and behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    pub(super) before: Vec<Part>,
    pub(super) behind: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Literal(Box<str>),
    /// The signed time, as the sender wrote it.
    Timestamp,
    /// The event ID's header, as the sender wrote it.
    Id(Header),
    /// The URL that the sender knows the endpoint by.
    Url,
}

/// Why a text describes no content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    #[error("`{{body}}` must be in it, once: what is not signed anybody can change")]
    NotOneBody,
    #[error("`{0}` is none of `{{body}}`, `{{timestamp}}`, `{{id}}` and `{{url}}`")]
    Unknown(String),
    #[error("a brace is open, or closed, alone")]
    Unbalanced,
    #[error("`{{id}}` needs the event ID to stand in a header (`event.id: {{header: NAME}}`)")]
    IdWithoutHeader,
}

impl Content {
    /// The body and nothing else.
    pub fn body() -> Self {
        Self {
            before: Vec::new(),
            behind: Vec::new(),
        }
    }

    /// Reads a text with `{body}` once, and any number of `{timestamp}`, `{id}` and `{url}`. `id` is the event ID's header.
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
            behind: parts,
        })
    }

    /// The same with `url` in the place of `{url}`.
    pub fn with_url(mut self, url: &str) -> Self {
        for part in self
            .before
            .iter_mut()
            .chain(&mut self.behind)
            .filter(|part| **part == Part::Url)
        {
            *part = Part::Literal(url.into());
        }
        self
    }

    /// What is signed before and behind the body, by what stands for its parts. `None` where one of them is not given.
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
        Some((joined(&self.before)?, joined(&self.behind)?))
    }

    /// Whether the time is part of it.
    pub fn has_timestamp(&self) -> bool {
        self.parts().any(|part| *part == Part::Timestamp)
    }

    /// Whether the endpoint's URL is part of it, and not known yet.
    pub fn needs_url(&self) -> bool {
        self.parts().any(|part| *part == Part::Url)
    }

    /// The event ID's header, if that is part of it.
    pub fn id_header(&self) -> Option<&Header> {
        self.headers().next()
    }

    pub(super) fn headers(&self) -> impl Iterator<Item = &Header> {
        self.parts().filter_map(|part| match part {
            Part::Id(header) => Some(header),
            Part::Literal(_) | Part::Timestamp | Part::Url => None,
        })
    }

    pub(super) fn is_body_alone(&self) -> bool {
        self.before.is_empty() && self.behind.is_empty()
    }

    fn parts(&self) -> impl Iterator<Item = &Part> {
        self.before.iter().chain(&self.behind)
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.before
            .iter()
            .try_for_each(|part| write!(f, "{part}"))?;
        f.write_str("{body}")?;
        self.behind.iter().try_for_each(|part| write!(f, "{part}"))
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
    fn content_reads_back_as_it_was_written() {
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
    fn content_without_exactly_one_body_or_with_what_is_unknown_is_refused() {
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
