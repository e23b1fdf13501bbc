//! `hookstile status`: shows whether a gateway is ready, and the status of its routes.

use std::process::ExitCode;

use serde::Serialize;

use super::admin::{AdminClient, CommandError, GatewayArgs};
use super::{FAILED, terminal};
use crate::admin::shape::removed::RemovedRoute;
use crate::admin::shape::{self, LongStats, Rejected, Webhook};

/// Show whether the gateway is ready, and each route's delivered, pending and rejected events
///
/// Exit status: 0 if the gateway is ready; 1 if it is not, or accepts no new events; 69 if it
/// cannot be reached; 77 if it requires another token.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile status
  hookstile status --admin http://127.0.0.1:9180 --json | jq .ready")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The JSON document that the command prints.
#[derive(Serialize)]
struct StatusDocument<'a> {
    reachable: bool,
    admin: &'a str,
    #[serde(flatten)]
    status: Option<&'a shape::Status>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    match args.gateway.admin() {
        Ok(admin) => show(args, &admin).unwrap_or_else(CommandError::exit),
        Err(error) => error.exit_with(args.json),
    }
}

fn show(args: &Args, admin: &AdminClient) -> Result<ExitCode, CommandError> {
    let result = admin.get::<shape::Status>("/status", &[]);
    if args.json {
        let reachable = !matches!(result, Err(CommandError::Unreachable { .. }));
        let document = StatusDocument {
            reachable,
            admin: admin.url(),
            status: result.as_ref().ok(),
        };
        let text = serde_json::to_string(&document)
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        terminal::print(&terminal::escape_json(&text))?;
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
    let silent: Vec<_> = status
        .webhooks
        .iter()
        .filter(|webhook| webhook.silent)
        .collect();
    if !silent.is_empty()
        || !status.rejected_last_hour.is_empty()
        || !status.removed_routes.is_empty()
    {
        terminal::print("")?;
    }
    for removed in &status.removed_routes {
        terminal::print(&terminal::visible(&removed_route(removed), false))?;
    }
    for webhook in silent {
        let expected = webhook.expect_every_seconds.unwrap_or_default();
        let line = format!(
            "{}: SILENT: no event verified for more than {expected}s (expect_every)",
            webhook.name
        );
        terminal::print(&terminal::visible(&line, false))?;
    }
    if !status.rejected_last_hour.is_empty() {
        print_rejected(&status.rejected_last_hour)?;
    }
    Ok(())
}

/// Describes a route that is no longer configured, and what to do.
fn removed_route(removed: &RemovedRoute) -> String {
    let RemovedRoute {
        name,
        pending,
        dead,
        oldest_pending_at: oldest,
        ..
    } = removed;
    format!(
        "{name}: REMOVED: no longer configured; {pending} waiting since {}, {dead} dead; configure \
         it again, or `hookstile routes move {name} TO`",
        terminal::time(*oldest)
    )
}

fn print_routes(status: &shape::Status) -> Result<(), CommandError> {
    let heading = [
        "ROUTE",
        "DELIVERY",
        "DELIVERED",
        "FAILED",
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

fn row(webhook: &Webhook<LongStats>) -> [String; 8] {
    let (stats, queue) = (&webhook.delivery_stats, &webhook.queue);
    [
        webhook.name.clone(),
        webhook.delivery.clone(),
        stats.successful_deliveries.to_string(),
        stats.failed_deliveries.to_string(),
        queue.pending.to_string(),
        queue.dead.to_string(),
        terminal::time(queue.oldest_pending_at),
        terminal::time(stats.last_successful_delivery),
    ]
}
