//! `hookstile send`: one signed event to any endpoint, and what came back.

mod client;
mod outgoing;
mod tamper;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Uri, header};
use jiff::Timestamp;

use super::admin::Failure;
use super::input::{self, SecretArgs};
use super::{FAILED, terminal};
use client::Client;
use outgoing::Outgoing;
use tamper::Tamper;

/// Send a signed event to an endpoint, and print what came back
///
/// The event is made up as the provider writes its own, unless there is a file with one. Exit status: 0 when every
/// answer was 2xx, 1 when not. With --tamper it is the other way round: 0 when every request was refused with a 4xx.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile send http://127.0.0.1:8080/webhooks/stripe --provider stripe --secret-env WEBHOOK_SECRET --times 2
  hookstile send https://example.com/hooks --provider github --secret-file key --body push.json --tamper signature")]
pub struct Args {
    /// Where to send to, http or https
    #[arg(value_name = "URL", value_parser = url)]
    target: String,
    /// Who is said to send: whose scheme signs, and whose events are made up
    #[arg(long, value_name = "NAME", value_parser = input::provider())]
    provider: String,
    #[command(flatten)]
    secret: SecretArgs,
    /// A file with the body, which is sent as it is [default: a made-up event]
    #[arg(long, value_name = "FILE")]
    body: Option<PathBuf>,
    /// The event's type [default: one of the provider's]
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// The event's ID [default: a new one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The time of the event and of signing: RFC 3339, or Unix seconds [default: now]
    #[arg(long, value_name = "TIME", value_parser = input::moment)]
    at: Option<Timestamp>,
    /// The URL that is signed, where the scheme signs one [default: the one that is sent to]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Put the signature into the body, where the scheme has that
    #[arg(long)]
    in_body: bool,
    /// A header to send besides, or in the place of one; may be given again
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = field)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Spoil the request in this way after it was signed
    #[arg(long, value_name = "HOW")]
    tamper: Option<Tamper>,
    /// Send the same bytes so many times, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    times: u32,
    /// How long to wait for each answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = input::duration)]
    timeout: Duration,
    /// Print one JSON object a request
    #[arg(long)]
    json: bool,
    /// Show what is sent, the signature included
    #[arg(long, short)]
    verbose: bool,
}

pub(super) fn run(args: &Args) -> ExitCode {
    send(args).unwrap_or_else(Failure::exit)
}

fn send(args: &Args) -> Result<ExitCode, Failure> {
    let request = Outgoing::of(args)?;
    if args.verbose && !args.json {
        tell_head(args, &request);
    }
    let client = Client::to(&args.target, args.timeout);
    let mut as_it_should = true;
    for _ in 0..args.times {
        let answer = client.post(&args.target, &request).map_err(|reason| {
            Failure::Failed(format!(
                "cannot send to {}: {reason}",
                terminal::visible(&args.target, false)
            ))
        })?;
        let text = if args.json {
            answer.to_json(&request, args.verbose)
        } else {
            answer.to_text()
        };
        terminal::print(&text)?;
        as_it_should &= match args.tamper {
            None => answer.status.is_success(),
            Some(_) => answer.status.is_client_error(),
        };
    }
    Ok(if as_it_should {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn tell_head(args: &Args, request: &Outgoing) {
    terminal::tell(&format!("POST {}", terminal::visible(&args.target, false)));
    for (name, value) in &request.headers {
        terminal::tell(&format!(
            "  {name}: {}",
            terminal::visible(&String::from_utf8_lossy(value.as_bytes()), false)
        ));
    }
    terminal::tell(&format!("  {} bytes of body", request.body.len()));
}

fn url(text: &str) -> Result<String, String> {
    let uri: Uri = text
        .parse()
        .map_err(|_| "not a URL; write http://host/path")?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
            Ok(text.to_owned())
        }
        (Some("http" | "https"), Some(_)) => {
            Err("a password in an argument is for everybody to see".into())
        }
        _ => Err("not a URL of http or https; write http://host/path".into()),
    }
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let name = HeaderName::try_from(name.trim()).map_err(|_| "this is no header's name")?;
    let value = HeaderValue::try_from(value.trim())
        .map_err(|_| "a header's value has no control characters")?;
    if [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ]
    .contains(&name)
    {
        return Err(format!("{name} follows from the request itself"));
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_of_http_or_https_and_hold_no_password() {
        for text in [
            "http://localhost",
            "https://example.com:8443/a?b=c",
            "http://[::1]:1/x",
        ] {
            assert_eq!(url(text).as_deref(), Ok(text));
        }
        for text in [
            "localhost:80",
            "/x",
            "ftp://x",
            "http://user:password@localhost/",
            "",
        ] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_header_is_a_name_and_a_value_and_none_that_frames_the_body() {
        let given = field("X-Test:  a: b ").unwrap();
        assert_eq!(
            (given.0.as_str(), given.1.to_str().unwrap()),
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
            assert!(field(text).is_err(), "{text}");
        }
    }
}
