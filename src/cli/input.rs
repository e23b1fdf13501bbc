//! Arguments that several commands share: secrets, bodies and times.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

use crate::config::{self, STANDARD_INPUT};
use crate::providers::PRESETS;
use crate::secret::Secret;
use crate::store::DeliveryState;

/// The location of a secret. Never the secret itself: every user of the machine can see arguments.
#[derive(Debug, Clone, clap::Args)]
#[group(multiple = false)]
pub(super) struct SecretArgs {
    /// Environment variable that holds the secret
    #[arg(long, value_name = "VAR")]
    pub secret_env: Option<String>,
    /// File that holds the secret, or - for standard input; a trailing newline is ignored
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

impl SecretArgs {
    pub(super) fn is_given(&self) -> bool {
        self.secret_env.is_some() || self.secret_file.is_some()
    }

    /// Returns whether standard input holds the secret.
    pub(super) fn is_standard_input(&self) -> bool {
        self.secret_file.as_deref() == Some(Path::new(STANDARD_INPUT))
    }

    /// Returns the name of the secret: its variable's, or its file's.
    pub(super) fn source_name(&self) -> String {
        let file = self
            .secret_file
            .as_ref()
            .map(|path| path.display().to_string());
        self.secret_env.clone().or(file).unwrap_or_default()
    }

    /// Reads the secret.
    ///
    /// # Errors
    /// If the secret cannot be read, or is empty. The message never holds its content.
    pub(super) fn read(&self) -> Result<Secret, String> {
        let bytes = match (&self.secret_env, &self.secret_file) {
            (Some(name), _) => {
                let value = std::env::var(name).map_err(|_| unset(name))?;
                value.into_bytes()
            }
            (None, Some(path)) => {
                let content = read_file(Some(path))
                    .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                Secret::without_newline(&content).to_vec()
            }
            (None, None) => return Err("give --secret-env or --secret-file".into()),
        };
        Secret::new(bytes).map_err(|error| format!("{}: {error}", self.source_name()))
    }
}

/// Describes a variable that cannot be read. Its name is shown only if it cannot be the secret.
fn unset(name: &str) -> String {
    if config::is_shown_variable(name) {
        format!("{name} is not set, or is not UTF-8")
    } else {
        "the environment variable that --secret-env names is not set, or is not UTF-8; \
         it takes the variable's name, never the secret"
            .into()
    }
}

/// The locations of any number of secrets; see [`SecretArgs`].
#[derive(Debug, Clone, clap::Args)]
pub(super) struct SecretsArgs {
    /// Environment variable that holds a secret to try; repeatable
    #[arg(long, value_name = "VAR")]
    pub secret_env: Vec<String>,
    /// File that holds a secret to try; a trailing newline is ignored; repeatable
    #[arg(long, value_name = "FILE")]
    pub secret_file: Vec<PathBuf>,
}

impl SecretsArgs {
    /// Reads the secrets, each with the name of its variable or file.
    ///
    /// # Errors
    /// If a secret cannot be read, or is empty; see [`SecretArgs::read`].
    pub(super) fn read(&self) -> Result<Vec<(String, Secret)>, String> {
        let variables = self
            .secret_env
            .iter()
            .map(|name| (name.clone(), Some(name.clone()), None));
        let files = self
            .secret_file
            .iter()
            .map(|path| (path.display().to_string(), None, Some(path.clone())));
        let one = |(name, secret_env, secret_file)| {
            Ok((
                name,
                SecretArgs {
                    secret_env,
                    secret_file,
                }
                .read()?,
            ))
        };
        variables.chain(files).map(one).collect()
    }
}

/// Reads a body from a file, or from standard input.
pub(super) fn read_body(path: Option<&Path>) -> Result<Vec<u8>, String> {
    read_file(path).map_err(|error| match path {
        Some(path) => format!("cannot read the body from {}: {error}", path.display()),
        None => format!("cannot read the body from standard input: {error}"),
    })
}

/// Reads a file; without a path, or with `-`, standard input.
fn read_file(path: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match path.filter(|path| *path != Path::new(STANDARD_INPUT)) {
        Some(path) => File::open(path)?.read_to_end(&mut content)?,
        None => io::stdin().lock().read_to_end(&mut content)?,
    };
    Ok(content)
}

/// Returns the clap parser for the name of a provider with a preset.
pub(super) fn provider_names() -> PossibleValuesParser {
    PossibleValuesParser::new(PRESETS.iter().map(|preset| preset.name))
}

/// Returns the clap parser for the status of a delivery.
pub(super) fn delivery_status() -> PossibleValuesParser {
    PossibleValuesParser::new(DeliveryState::ALL.map(DeliveryState::as_str))
}

/// Parses a duration above 0, such as `30s` or `1m 30s`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = text
        .parse::<SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok());
    duration
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "expected a duration such as `30s`".to_owned())
}

/// Parses a time: RFC 3339, or Unix seconds.
pub(super) fn timestamp(text: &str) -> Result<Timestamp, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok());
    seconds
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "expected RFC 3339 or Unix seconds".to_owned())
}

/// Parses a time: RFC 3339, or an age such as `2h`, `7d` or `1d 12h ago`. A day has 24 hours, a
/// week 7 days.
pub(super) fn timestamp_or_ago(text: &str) -> Result<Timestamp, String> {
    let ago = || {
        let span: Span = text.parse().ok()?;
        let ago = span
            .to_duration(SpanRelativeTo::days_are_24_hours())
            .ok()?
            .unsigned_abs();
        Timestamp::now().checked_sub(ago).ok()
    };
    text.parse()
        .ok()
        .or_else(ago)
        .ok_or_else(|| "expected RFC 3339, or an age such as `2h` or `7d`".to_owned())
}

/// Generates a unique event ID.
pub(super) fn new_id() -> String {
    format!("msg_{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_is_a_date_or_an_age() {
        assert_eq!(
            timestamp_or_ago("2026-06-01T14:00:00+02:00"),
            Ok("2026-06-01T12:00:00Z".parse().unwrap())
        );
        for (text, hours) in [
            ("2h", 2),
            ("2h ago", 2),
            ("7d", 168),
            ("1d 12h", 36),
            ("1w", 168),
        ] {
            let (before, at) = (Timestamp::now(), timestamp_or_ago(text).unwrap());
            let ago = SignedDuration::from_hours(hours);
            assert!(
                (before - ago..=Timestamp::now() - ago).contains(&at),
                "{text}: {at}"
            );
        }
        for wrong in ["", "yesterday", "2", "2026-06-01", "1mo", "12:00"] {
            assert!(timestamp_or_ago(wrong).is_err(), "{wrong}");
        }
    }
}
