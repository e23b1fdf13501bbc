//! `hookstile schema`: prints the JSON Schema of the configuration.

use std::io::Write as _;
use std::process::ExitCode;

use crate::config::schema::json_schema;

/// Prints the schema to standard output.
pub fn run() -> ExitCode {
    match std::io::stdout().write_all(json_schema().as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
