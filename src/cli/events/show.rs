//! `hookstile events show`: shows one event with its attempts.

use std::process::ExitCode;

use super::{CommandError, DeliverySourceArgs, one_line};
use crate::admin::shape::{Attempt, Delivery, route_of};
use crate::cli::terminal;
use crate::json;

/// Show one event with its attempts, and its payload if that is kept
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events show msg_8e9c15cb136d
  hookstile events show del_17
  hookstile events show del_17 --json | jq '.delivery.attempts'")]
pub struct Args {
    /// ID of the event, or of its delivery, as listed by `hookstile events list`
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    /// Route of the event, if several have it
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    #[command(flatten)]
    source: DeliverySourceArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let found = args
        .source
        .connect()?
        .delivery(&args.id, args.route.as_deref())?;
    if args.json {
        terminal::print(&one_line(&found)?)?;
    } else {
        print(&found.delivery)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats the result of a delivery's last attempt in a word: its status or its cause, or the error
/// that an earlier version recorded.
pub(in crate::cli) fn last_result<Attempts>(delivery: &Delivery<Attempts>) -> String {
    let cause = delivery.cause.as_deref().or(delivery.error.as_deref());
    attempt_result(delivery.response_status, cause)
}

/// Formats the result of an attempt: the status, or the error.
fn attempt_result(status: Option<u16>, error: Option<&str>) -> String {
    match (status, error) {
        (Some(status), _) => status.to_string(),
        (None, Some(error)) => error.to_owned(),
        (None, None) => "-".into(),
    }
}

fn print(delivery: &Delivery<Vec<Attempt>>) -> Result<(), CommandError> {
    for line in terminal::columns(&properties(delivery)) {
        terminal::print(&line)?;
    }
    if !delivery.attempts.is_empty() {
        terminal::print("")?;
        print_attempts(&delivery.attempts)?;
        print_responses(&delivery.attempts)?;
    }
    if let Some(headers) = delivery
        .headers
        .as_deref()
        .filter(|headers| !headers.is_empty())
    {
        terminal::print("")?;
        for header in headers {
            let line = format!("{}: {}", header.name, header.value);
            terminal::print(&terminal::visible(&line, false))?;
        }
    }
    if let Some(event) = &delivery.event_data {
        terminal::print("")?;
        let text = event.get();
        let laid_out = json::pretty(text);
        let text = laid_out.as_deref().unwrap_or(text);
        terminal::print(&terminal::visible(text, true))?;
    }
    Ok(())
}

/// Returns the properties of a delivery, each a name and a value.
fn properties(delivery: &Delivery<Vec<Attempt>>) -> Vec<[String; 2]> {
    let route = route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id);
    let verified_with = delivery.verified_with.as_deref().unwrap_or("-");
    let mut properties = vec![
        ["delivery".into(), delivery.id.clone()],
        ["route".into(), route.into()],
        ["event".into(), delivery.event_id.clone()],
        ["type".into(), delivery.event_type.clone()],
        ["verified with".into(), verified_with.into()],
        [
            "received".into(),
            terminal::time(Some(delivery.received_at)),
        ],
        ["status".into(), delivery.status.clone()],
    ];
    if delivery.test {
        properties.push(["test event".into(), "yes".into()]);
    }
    if let Some(reason) = &delivery.reason {
        properties.push(["reason".into(), reason.clone()]);
    }
    if let Some(seconds) = delivery.next_attempt_in_seconds {
        properties.push(["next attempt".into(), format!("in {seconds}s")]);
    }
    properties.push([
        "possible duplicate".into(),
        yes_or_no(delivery.possible_duplicate),
    ]);
    properties.push(["payload kept".into(), yes_or_no(delivery.payload_kept)]);
    properties
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn print_attempts(attempts: &[Attempt]) -> Result<(), CommandError> {
    let heading = ["ATTEMPT", "AT", "DURATION", "CAUSE", "ADDRESS", "RESULT"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(attempts.iter().map(|attempt| {
        [
            attempt.number.to_string(),
            terminal::time(Some(attempt.at)),
            format!("{}ms", attempt.duration_ms),
            attempt.cause.clone().unwrap_or_else(|| "-".into()),
            attempt.address.clone().unwrap_or_else(|| "-".into()),
            attempt_result(attempt.status, attempt.error.as_deref()),
        ]
    }));
    Ok(terminal::print_table(&rows)?)
}

/// Prints the responses whose bodies are kept.
fn print_responses(attempts: &[Attempt]) -> Result<(), CommandError> {
    for attempt in attempts {
        let Some(response) = &attempt.response else {
            continue;
        };
        let Some(body) = response.body.as_deref().filter(|body| !body.is_empty()) else {
            continue;
        };
        let content_type = response
            .content_type
            .as_deref()
            .unwrap_or("no content type");
        let title = format!(
            "response to attempt {}: {}, {content_type}, {} bytes",
            attempt.number, response.status, response.body_bytes
        );
        terminal::print("")?;
        terminal::print(&terminal::visible(&title, false))?;
        terminal::print(&terminal::visible(body.trim_end(), true))?;
    }
    Ok(())
}
