//! `hookgate sign`: the headers a sender puts beside a body.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::PossibleValuesParser;

use super::FAILED;
use crate::providers;
use crate::secret::Secret;

/// Sign a body as a provider would, and print the headers to send, `Name: value` a line.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"id\":\"evt_1\",\"type\":\"user.created\"}' > event.json
  hookgate sign --provider vpn-enterprise --secret-env WEBHOOK_SECRET --body event.json
  curl -H \"$(hookgate sign --provider vpn-enterprise --secret-file key --body event.json)\" \\
    --data-binary @event.json http://127.0.0.1:8080/webhooks/vpn-enterprise")]
pub struct Args {
    /// Whose scheme signs.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(providers::PRESETS.iter().map(|preset| preset.name)))]
    provider: String,
    /// The environment variable that holds the secret.
    #[arg(long, value_name = "VAR", required_unless_present = "secret_file", conflicts_with = "secret_file")]
    secret_env: Option<String>,
    /// The file that holds the secret. A newline at its end is dropped.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// The body's file; standard input without it.
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Print one JSON object, name to value, instead.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match signed(args) {
        Ok((name, value)) if args.json => {
            println!("{}", serde_json::json!({ name: value }));
            ExitCode::SUCCESS
        }
        Ok((name, value)) => {
            println!("{name}: {value}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("hookgate: {problem}");
            ExitCode::from(FAILED)
        }
    }
}

fn signed(args: &Args) -> Result<(&'static str, String), String> {
    let preset = providers::find(&args.provider).ok_or("no such provider")?;
    let secret = secret(args)?;
    let body = body(args.body.as_deref()).map_err(|error| match &args.body {
        Some(path) => format!("cannot read the body from {}: {error}", path.display()),
        None => format!("cannot read the body from standard input: {error}"),
    })?;
    Ok((preset.signature_header, (preset.scheme)().sign(&secret, &body)))
}

fn secret(args: &Args) -> Result<Secret, String> {
    let (bytes, place) = match (&args.secret_env, &args.secret_file) {
        (Some(name), _) => {
            let value = std::env::var(name).map_err(|_| format!("{name} is not set, or is not UTF-8"))?;
            (value.into_bytes(), name.clone())
        }
        (None, Some(path)) => {
            let content = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            (Secret::without_newline(&content).to_vec(), path.display().to_string())
        }
        (None, None) => return Err("give --secret-env or --secret-file".into()),
    };
    Secret::new(bytes).map_err(|error| format!("{place}: {error}"))
}

fn body(path: Option<&Path>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match path {
        Some(path) => File::open(path)?.read_to_end(&mut body)?,
        None => io::stdin().lock().read_to_end(&mut body)?,
    };
    Ok(body)
}
