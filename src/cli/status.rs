//! `hookstile status`: shows whether a gateway is ready, and the status of its routes.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::admin::{AdminClient, CommandError, GatewayArgs, one_line};
use super::{FAILED, problems, terminal};
use crate::admin::shape::{self, LongStats, Rejected, Webhook};

/// Show whether the gateway is ready, its problems, and each route's events
///
/// The problems are those of `hookstile problems`, worst first. They do not change the exit status.
///
/// Exit status: 0 if the gateway is ready; 1 if it is not, or accepts no new events; 69 if it
/// cannot be reached; 77 if it requires another token.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile status
  hookstile status --watch
  hookstile status --watch --json | jq --unbuffered .ready
  hookstile status --admin http://127.0.0.1:9180 --json | jq .ready")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document; with --watch, one a line for each status
    #[arg(long)]
    json: bool,
    /// Show the status again every 2 s, until Ctrl-C
    #[arg(long, short, alias = "follow")]
    watch: bool,
}

/// The pause between two statuses with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal, and moves the cursor to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The JSON document that the command prints: with a status, or with an error.
#[derive(Serialize)]
struct StatusDocument<'a> {
    reachable: bool,
    admin: &'a str,
    #[serde(flatten)]
    status: Option<&'a shape::Status>,
    #[serde(flatten)]
    error: Option<Value>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match args.gateway.admin() {
        Ok(admin) => show(args, &admin).unwrap_or_else(CommandError::exit),
        Err(error) => error.exit_with(args.json),
    }
}

fn show(args: &Args, admin: &AdminClient) -> Result<ExitCode, CommandError> {
    if args.watch && args.json {
        return watch_json(admin);
    }
    if args.watch {
        return watch(admin);
    }
    let result = admin.get::<shape::Status>("/status", &[]);
    if args.json {
        print_json(admin, &result)?;
    }
    let status = result?;
    if !args.json {
        print(admin.url(), &status)?;
    }
    Ok(if status.ready && !status.store_full {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn print_json(
    admin: &AdminClient,
    result: &Result<shape::Status, CommandError>,
) -> Result<(), CommandError> {
    let document = StatusDocument {
        reachable: !matches!(result, Err(CommandError::Unreachable { .. })),
        admin: admin.url(),
        status: result.as_ref().ok(),
        error: result.as_ref().err().map(CommandError::to_json),
    };
    Ok(terminal::print(&one_line(&document)?)?)
}

/// Prints the status again and again, as [`watch`] shows it.
fn watch_json(admin: &AdminClient) -> Result<ExitCode, CommandError> {
    loop {
        let result = admin.get::<shape::Status>("/status", &[]);
        print_json(admin, &result)?;
        match result {
            Ok(_) | Err(CommandError::Unreachable { .. }) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

/// Shows the status again and again. A gateway that is gone for a moment is waited for.
fn watch(admin: &AdminClient) -> Result<ExitCode, CommandError> {
    let is_terminal = terminal::supports_colour(&io::stdout());
    loop {
        let result = admin.get::<shape::Status>("/status", &[]);
        if is_terminal {
            terminal::print(CLEAR)?;
        }
        match result {
            Ok(status) => print(admin.url(), &status)?,
            Err(error @ CommandError::Unreachable { .. }) => {
                terminal::print(&terminal::visible(&error.to_string(), false))?;
            }
            Err(error) => return Err(error),
        }
        if !is_terminal {
            terminal::print("")?;
        }
        std::thread::sleep(WATCH_INTERVAL);
    }
}

fn print(url: &str, status: &shape::Status) -> Result<(), CommandError> {
    let ready = match &status.reason {
        Some(reason) => format!("NOT READY: {reason}"),
        None if status.store_full => "STORE FULL: new events get 503".into(),
        None => "ready".into(),
    };
    terminal::print(&terminal::visible(
        &format!("{url}  hookstile {}  {ready}", status.version),
        false,
    ))?;
    let mib = status.store_bytes.div_ceil(1 << 20);
    terminal::print(&format!(
        "{} event IDs remembered, {mib} MiB on disk",
        status.event_ids
    ))?;
    if !status.webhooks.is_empty() {
        terminal::print("")?;
        print_routes(status)?;
    }
    if !status.problems.is_empty() {
        terminal::print("")?;
        problems::print(&status.problems)?;
    }
    if !status.rejected_last_hour.is_empty() {
        terminal::print("")?;
        print_rejected(&status.rejected_last_hour)?;
    }
    Ok(())
}

fn print_routes(status: &shape::Status) -> Result<(), CommandError> {
    let heading = [
        "ROUTE",
        "DELIVERY",
        "DELIVERED",
        "FAILED",
        "SUCCESS",
        "PENDING",
        "DEAD",
        "OLDEST PENDING",
        "LAST SUCCESS",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(status.webhooks.iter().map(row));
    for line in terminal::columns(&rows) {
        terminal::print(&line)?;
    }
    Ok(())
}

/// Prints the rejections of the last hour, one line per route.
fn print_rejected(rejected: &[Rejected]) -> Result<(), CommandError> {
    for rejections in rejected.chunk_by(|one, next| one.route == next.route) {
        let name = rejections[0].route.as_deref().unwrap_or("no route");
        let counts: Vec<_> = rejections
            .iter()
            .map(|rejection| format!("{} {}", rejection.count, rejection.name()))
            .collect();
        let last = terminal::time(rejections.iter().map(|rejection| rejection.last_at).max());
        let line = format!(
            "{name}: rejected in the last hour: {}, last at {last}",
            counts.join(", ")
        );
        terminal::print(&terminal::visible(&line, false))?;
    }
    Ok(())
}

fn row(webhook: &Webhook<LongStats>) -> [String; 9] {
    let (stats, queue) = (&webhook.delivery_stats, &webhook.queue);
    [
        webhook.name.clone(),
        webhook.delivery.clone(),
        stats.successful_deliveries.to_string(),
        stats.failed_deliveries.to_string(),
        success(webhook.last_hour.success),
        queue.pending.to_string(),
        queue.dead.to_string(),
        terminal::time(queue.oldest_pending_at),
        terminal::time(stats.last_successful_delivery),
    ]
}

/// Formats the delivered share of the last hour, rounded down: 100 % is all of them.
fn success(share: Option<f64>) -> String {
    share.map_or_else(
        || "-".into(),
        |share| format!("{}%", (share * 1_000.0).floor() / 10.0),
    )
}
