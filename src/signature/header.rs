//! The name of a header that takes part in a signature.

use http::HeaderName;

/// A header's name, for reading and as its provider writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub name: HeaderName,
    pub spelling: Box<str>,
}

impl Header {
    /// # Panics
    /// When `spelling` is no header's name; for names that are written here. `config` makes the others itself.
    pub fn from_static(spelling: &'static str) -> Self {
        let name = HeaderName::from_bytes(spelling.as_bytes()).expect("the name of a header");
        Self {
            name,
            spelling: spelling.into(),
        }
    }
}
