//! Names that the request chose, as an explanation may show them.
//!
//! Who has a secret can choose the name of a header or a field, and so write into the log, a
//! notification or a page. So an explanation quotes a name only if a scheme knows it, or if it is
//! short and plain, and describes every other one.

use http::HeaderName;

use super::Case;

/// The longest name that is quoted, in characters.
const QUOTED_MAX: usize = 16;

/// A name of the request, as an explanation shows it.
pub(super) enum Named<'n> {
    /// A name that is shown as it is.
    Quoted(&'n str),
    /// The number of characters of a name that is not shown.
    Long(usize),
}

impl<'n> Named<'n> {
    /// Names a field of a header.
    pub(super) fn field(name: &'n str) -> Self {
        if is_plain(name) {
            Self::Quoted(name)
        } else {
            Self::Long(name.chars().count())
        }
    }

    /// Names a header. Those that the case's scheme or another provider's reads are well known.
    pub(super) fn header(name: &'n HeaderName, case: &Case<'_>) -> Self {
        let others = case.others.iter().map(|(_, scheme)| scheme);
        let is_known = std::iter::once(case.scheme)
            .chain(others)
            .any(|scheme| scheme.reads_header(name));
        if is_known {
            Self::Quoted(name.as_str())
        } else {
            Self::field(name.as_str())
        }
    }

    /// Returns the name for a sentence about a header.
    pub(super) fn of_header(&self) -> String {
        match self {
            Self::Quoted(name) => format!("`{name}`"),
            Self::Long(length) => format!("a header with a name of {length} characters"),
        }
    }

    /// Returns the name for a sentence about a field.
    pub(super) fn of_field(&self) -> String {
        match self {
            Self::Quoted(name) => format!("the field `{name}`"),
            Self::Long(length) => format!("a field with a name of {length} characters"),
        }
    }

    /// Returns the name as a value in the configuration, or a word that stands for it.
    pub(super) fn as_setting(&self) -> &str {
        match self {
            Self::Quoted(name) => name,
            Self::Long(_) => "ITS_NAME",
        }
    }
}

fn is_plain(name: &str) -> bool {
    let is_plain_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=QUOTED_MAX).contains(&name.len()) && name.bytes().all(is_plain_byte)
}
