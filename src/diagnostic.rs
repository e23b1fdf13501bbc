//! A problem of a configuration as it is told: to programs as JSON, and to people on one line.
//!
//! `config` finds the problems. What leaves it has its location in words, and no secret.

use std::fmt;

use async_graphql::{Enum, SimpleObject};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The severity of a problem of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Enum, ToSchema)]
#[serde(rename_all = "snake_case")]
#[graphql(name = "DiagnosticSeverity", rename_items = "snake_case")]
#[schema(as = DiagnosticSeverity)]
pub enum Severity {
    /// The configuration cannot be used.
    Error,
    /// The configuration can be used, but the operator should know of the problem.
    Warning,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// A problem of a configuration: where it is, what is wrong, and how to fix it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "Diagnostic")]
#[schema(as = Diagnostic)]
pub struct LocatedDiagnostic {
    pub severity: Severity,
    /// The file, as the gateway names it.
    pub file: String,
    /// The line, from 1; `null` for the file as a whole.
    pub line: Option<usize>,
    /// The column in characters, from 1.
    pub column: Option<usize>,
    pub message: String,
    /// A remark about that place.
    pub label: Option<String>,
    /// The advice on how to fix the problem.
    pub help: Option<String>,
    /// A second place that belongs to the problem.
    #[schema(required)]
    pub also: Option<OtherPlace>,
}

/// A second place that belongs to a problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, SimpleObject, ToSchema)]
#[graphql(name = "DiagnosticPlace")]
#[schema(as = DiagnosticPlace)]
pub struct OtherPlace {
    pub file: String,
    pub line: usize,
    pub column: usize,
    pub message: String,
}

/// One line: `file:line:column: message (advice)`. The severity is not in it.
impl fmt::Display for LocatedDiagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        let elsewhere = self.also.as_ref().filter(|also| also.file != self.file);
        let elsewhere = elsewhere.map(ToString::to_string);
        let hints: Vec<_> = self
            .label
            .iter()
            .chain(&elsewhere)
            .chain(&self.help)
            .map(String::as_str)
            .collect();
        match hints[..] {
            [] => Ok(()),
            _ => write!(f, " ({})", hints.join("; ")),
        }
    }
}

impl fmt::Display for OtherPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
        } = self;
        write!(f, "{message}: {file}:{line}:{column}")
    }
}
