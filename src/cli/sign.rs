//! `hookstile sign`: prints the signature headers for a body, or the body with its signature.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use jiff::Timestamp;

use super::admin::CommandError;
use super::input;
use super::signer::{Signer, SignerArgs};
use super::terminal;
use crate::config::STANDARD_INPUT;
use crate::signature::{SignError, Signed};

/// Sign a body as a provider would, and print the headers to send
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo '{\"id\":\"evt_1\",\"type\":\"user.created\"}' > event.json
  hookstile sign --provider vpn-enterprise --secret-env WEBHOOK_SECRET --body event.json
  hookstile sign --route billing --body event.json |
    curl -H @- --data-binary @event.json http://127.0.0.1:8080/webhooks/billing")]
pub struct Args {
    #[command(flatten)]
    signer: SignerArgs,
    /// File with the body, or - for standard input
    #[arg(long, value_name = "FILE", default_value = STANDARD_INPUT)]
    body: PathBuf,
    /// Event ID, if the scheme signs it [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Time to sign, if the scheme signs one: RFC 3339 or Unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
    at: Option<Timestamp>,
    /// URL that the request will be sent to, if the scheme signs it
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Print the body with the signature in it instead, if the scheme allows that
    #[arg(long, conflicts_with_all = ["json", "id", "at", "url"])]
    in_body: bool,
    /// Print the headers as one JSON object instead
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match output(args) {
        Ok(output) => terminal::finish(Ok(output)),
        Err(error) => error.exit_with(args.json),
    }
}

fn output(args: &Args) -> Result<String, CommandError> {
    if args.signer.secret.is_standard_input() && args.body == Path::new(STANDARD_INPUT) {
        let problem = "standard input cannot be both the secret and the body: give --body FILE";
        return Err(CommandError::Usage(problem.into()));
    }
    let Signer {
        secret, mut scheme, ..
    } = args.signer.signer()?;
    let body = input::read_body(Some(&args.body)).map_err(CommandError::Failed)?;
    if args.in_body {
        let body = String::from_utf8(body)
            .map_err(|_| CommandError::Failed("the body is not UTF-8, so it is not JSON".into()))?;
        return scheme
            .sign_in_body(&secret, &body)
            .map_err(|error| CommandError::Failed(error.to_string()));
    }
    if let Some(url) = &args.url {
        scheme.signed = scheme.signed.with_url(url);
    }
    let id = args.id.clone().unwrap_or_else(input::new_id);
    let signed = scheme.sign(
        &secret,
        &body,
        args.at.unwrap_or_else(Timestamp::now),
        Some(&id),
    );
    let signed = signed.map_err(|error| {
        CommandError::Failed(match error {
            SignError::NoUrl => format!("{error}: give --url"),
            SignError::NotInHeader => format!("{error}: give --in-body"),
            _ => error.to_string(),
        })
    })?;
    Ok(if args.json {
        to_json(&signed)
    } else {
        to_lines(&signed)
    })
}

fn to_json(signed: &Signed) -> String {
    let object: serde_json::Map<_, _> = signed
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    format!("{}\n", serde_json::Value::Object(object))
}

fn to_lines(signed: &Signed) -> String {
    let lines: Vec<_> = signed
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    lines.join("\n") + "\n"
}
