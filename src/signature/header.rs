//! The name of a header that is part of a signature scheme.

use http::HeaderName;

/// A header's name for lookup, and its spelling by the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: HeaderName,
    pub spelling: Box<str>,
}

impl Header {
    /// Makes a header from a name in the source code. `config` parses all other names itself.
    ///
    /// # Panics
    /// If `spelling` is not a header's name.
    pub fn from_static(spelling: &'static str) -> Self {
        let name = HeaderName::from_bytes(spelling.as_bytes()).expect("the name of a header");
        Self {
            name,
            spelling: spelling.into(),
        }
    }
}
