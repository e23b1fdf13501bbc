//! `hookstile schema`: prints the JSON Schema of the configuration.

use std::process::ExitCode;

use super::terminal;
use crate::config::schema::json_schema;

/// Prints the schema to standard output.
pub(super) fn run() -> ExitCode {
    terminal::finish(Ok(json_schema()))
}
