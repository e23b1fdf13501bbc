//! `hookstile send`: sends a signed event to any endpoint and prints the response.

mod client;
mod request;
mod tamper;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri, header};
use jiff::Timestamp;

use super::admin::CommandError;
use super::input;
use super::signer::SignerArgs;
use super::{FAILED, terminal};
use client::Client;
use request::SignedRequest;
use tamper::Tamper;

/// Send a signed event to an endpoint and print the response
///
/// Generates an event in the provider's format, unless --body gives one. Exit status: 0 if every
/// response was 2xx, else 1. With --tamper: 0 if every request was rejected with a 4xx, else 1.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile send --route billing
  hookstile send http://127.0.0.1:8080/webhooks/stripe --provider stripe \\
    --secret-env WEBHOOK_SECRET --times 2
  hookstile send https://example.com/hooks --provider github --secret-file key \\
    --body push.json --tamper signature")]
pub struct Args {
    /// URL to send to, http or https [default: with --route, the route on this machine]
    #[arg(value_name = "URL", value_parser = parse_url)]
    target: Option<String>,
    #[command(flatten)]
    signer: SignerArgs,
    /// File with the body, sent unchanged, or - for standard input [default: a generated event]
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// Event type [default: one of the provider's that the route delivers]
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Event ID [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Time of the event and of its signature: RFC 3339 or Unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::timestamp)]
    at: Option<Timestamp>,
    /// URL to sign, if the scheme signs one [default: the URL to send to]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Put the signature into the body, if the scheme allows that
    #[arg(long)]
    in_body: bool,
    /// Header to add or replace; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Tamper with the signed request in this way
    #[arg(long, value_name = "HOW")]
    tamper: Option<Tamper>,
    /// Send the same request this many times, one after the other
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=10_000)
    )]
    times: u32,
    /// Timeout for each response
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = input::duration)]
    timeout: Duration,
    /// Print one JSON object per request
    #[arg(long)]
    json: bool,
    /// Print the request headers, including the signature
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    send(args).unwrap_or_else(|error| error.exit_with(args.json))
}

fn send(args: &Args) -> Result<ExitCode, CommandError> {
    let request = SignedRequest::new(args)?;
    let target = &request.target;
    if args.verbose && !args.json {
        print_head(&request);
    }
    let client = Client::new(target, args.timeout);
    let mut as_expected = true;
    for _ in 0..args.times {
        let response = client.post(target, &request).map_err(|reason| {
            CommandError::Failed(format!(
                "cannot send to {}: {reason}",
                terminal::visible(target, false)
            ))
        })?;
        let text = if args.json {
            response.to_json(&request, args.verbose)
        } else {
            response.to_text()
        };
        terminal::print(&text)?;
        as_expected &= match args.tamper {
            None => response.status.is_success(),
            Some(_) => response.status.is_client_error(),
        };
    }
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn print_head(request: &SignedRequest) {
    let target = terminal::visible(&request.target, false);
    terminal::print_message(&format!("POST {target}"));
    for (name, value) in &request.headers {
        terminal::print_message(&format!(
            "  {name}: {}",
            terminal::visible(&String::from_utf8_lossy(value.as_bytes()), false)
        ));
    }
    terminal::print_message(&format!("  {} bytes of body", request.body.len()));
}

fn parse_url(text: &str) -> Result<String, String> {
    let uri: Uri = text
        .parse()
        .map_err(|_| "not a URL; write http://host/path")?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
            Ok(text.to_owned())
        }
        (Some("http" | "https"), Some(_)) => {
            Err("a URL with a password is not allowed: other users can see arguments".into())
        }
        _ => Err(
            "not an http or https URL; write http://host/path. A route is named with --route NAME, \
             a type of events with --type TYPE"
                .into(),
        ),
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| "not a valid header name")?;
    let value = HeaderValue::try_from(value.trim())
        .map_err(|_| "a header value must not hold control characters")?;
    if [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ]
    .contains(&name)
    {
        return Err(format!("{name} is set by the HTTP client"));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_must_be_http_without_password() {
        for text in [
            "http://localhost",
            "https://example.com:8443/a?b=c",
            "http://[::1]:1/x",
        ] {
            assert_eq!(parse_url(text).as_deref(), Ok(text));
        }
        for text in [
            "localhost:80",
            "/x",
            "ftp://x",
            "http://user:password@localhost/",
            "",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn header_must_be_valid_and_not_frame_the_body() {
        let parsed = parse_header("X-Test:  a: b ").unwrap();
        assert_eq!(
            (parsed.0.as_str(), parsed.1.to_str().unwrap()),
            ("x-test", "a: b")
        );
        for text in [
            "X-Test",
            "X Test: a",
            ": a",
            "X-Test: a\nb",
            "Content-Length: 3",
            "transfer-encoding: chunked",
        ] {
            assert!(parse_header(text).is_err(), "{text}");
        }
    }
}
