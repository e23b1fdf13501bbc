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

/// Formats the result of an attempt: the status, or the error.
pub(super) fn attempt_result(status: Option<u16>, error: Option<&str>) -> String {
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
    let mut rows = vec![["ATTEMPT", "AT", "DURATION", "RESULT"].map(str::to_owned)];
    rows.extend(attempts.iter().map(|attempt| {
        [
            attempt.number.to_string(),
            terminal::time(Some(attempt.at)),
            format!("{}ms", attempt.duration_ms),
            attempt_result(attempt.status, attempt.error.as_deref()),
        ]
    }));
    Ok(terminal::print_table(&rows)?)
}
