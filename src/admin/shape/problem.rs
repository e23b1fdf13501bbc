//! Errors as problem documents (RFC 9457).

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::diagnostic::LocatedDiagnostic;

/// An error response (RFC 9457).
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
pub(crate) struct Problem {
    #[serde(rename = "type")]
    pub type_uri: String,
    /// The status in words.
    pub title: String,
    pub status: u16,
    /// The explanation, for people.
    pub detail: String,
    /// The name of the error, for programs.
    pub code: String,
    /// Always `false`.
    pub success: bool,
    /// The errors and warnings of a configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<LocatedDiagnostic>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.code)
    }
}
