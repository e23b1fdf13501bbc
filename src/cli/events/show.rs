//! `hookstile events show`.

use std::process::ExitCode;

use super::{Failure, Place, one_line};
use crate::admin::shape::{Attempt, Delivery, route_of};
use crate::cli::terminal;

/// Show one delivery with its attempts, and the event where it is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events show del_17
  hookstile events show del_17 --json | jq '.delivery.attempts'")]
pub struct Args {
    /// The delivery, as `hookstile events list` names it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    place: Place,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let found = args.place.open()?.delivery(&args.id)?;
    if args.json {
        terminal::print(&one_line(&found)?)?;
    } else {
        print(&found.delivery)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What an attempt came to.
pub(in crate::cli) fn result(status: Option<u16>, error: Option<&str>) -> String {
    match (status, error) {
        (Some(status), _) => status.to_string(),
        (None, Some(error)) => error.to_owned(),
        (None, None) => "-".into(),
    }
}

fn print(delivery: &Delivery<Vec<Attempt>>) -> Result<(), Failure> {
    let yes_or_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let mut facts = vec![
        ["delivery", &delivery.id].map(str::to_owned),
        [
            "route",
            route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id),
        ]
        .map(str::to_owned),
        ["event", &delivery.event_id].map(str::to_owned),
        ["type", &delivery.event_type].map(str::to_owned),
        [
            "verified with",
            delivery.verified_with.as_deref().unwrap_or("-"),
        ]
        .map(str::to_owned),
        ["received", &terminal::time(Some(delivery.received_at))].map(str::to_owned),
        ["status", &delivery.status].map(str::to_owned),
    ];
    facts.extend(
        delivery
            .test
            .then(|| ["test event", "yes"].map(str::to_owned)),
    );
    facts.extend(
        delivery
            .reason
            .as_ref()
            .map(|reason| ["reason", reason].map(str::to_owned)),
    );
    facts.extend(
        delivery
            .next_attempt_in_seconds
            .map(|seconds| ["next attempt".into(), format!("in {seconds}s")]),
    );
    facts.push([
        "possible duplicate".into(),
        yes_or_no(delivery.possible_duplicate),
    ]);
    facts.push(["payload kept".into(), yes_or_no(delivery.payload_kept)]);
    for line in terminal::columns(&facts) {
        terminal::print(&line)?;
    }
    let mut attempts = vec![["ATTEMPT", "AT", "TOOK", "RESULT"].map(str::to_owned)];
    attempts.extend(delivery.attempts.iter().map(|attempt| {
        [
            attempt.number.to_string(),
            terminal::time(Some(attempt.at)),
            format!("{}ms", attempt.duration_ms),
            result(attempt.status, attempt.error.as_deref()),
        ]
    }));
    if attempts.len() > 1 {
        terminal::print("")?;
        for line in terminal::columns(&attempts) {
            terminal::print(&line)?;
        }
    }
    if let Some(headers) = delivery
        .headers
        .as_deref()
        .filter(|headers| !headers.is_empty())
    {
        terminal::print("")?;
        for header in headers {
            terminal::print(&terminal::visible(
                &format!("{}: {}", header.name, header.value),
                false,
            ))?;
        }
    }
    if let Some(event) = &delivery.event_data {
        terminal::print("")?;
        terminal::print(&terminal::visible(event.get(), true))?;
    }
    Ok(())
}
