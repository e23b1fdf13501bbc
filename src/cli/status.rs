//! `hookstile status`: whether a gateway is there and ready, and how its routes stand.

use std::process::ExitCode;

use serde::Serialize;

use super::admin::{Failure, Gateway};
use super::{FAILED, terminal};
use crate::admin::shape::{self, LongStats, Rejected, Webhook};

/// Show whether the gateway is ready, and for each route what was delivered, what waits, and what was turned away
///
/// Exit status: 0 when it is ready, 1 when it is not or takes no new events, 69 when it can't be reached, 77 when it wants another token.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile status
  hookstile status --admin http://127.0.0.1:9180 --json | jq .ready")]
pub struct Args {
    #[command(flatten)]
    gateway: Gateway,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// What a script gets.
#[derive(Serialize)]
struct Told<'a> {
    reachable: bool,
    admin: &'a str,
    #[serde(flatten)]
    status: Option<&'a shape::Status>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    show(args).unwrap_or_else(Failure::exit)
}

fn show(args: &Args) -> Result<ExitCode, Failure> {
    let admin = args.gateway.admin()?;
    let asked = admin.get::<shape::Status>("/status", &[]);
    if args.json {
        let reachable = !matches!(asked, Err(Failure::Unreachable { .. }));
        let told = Told {
            reachable,
            admin: admin.url(),
            status: asked.as_ref().ok(),
        };
        let text =
            serde_json::to_string(&told).map_err(|error| Failure::Failed(error.to_string()))?;
        terminal::print(&text)?;
    }
    let status = asked?;
    if !args.json {
        print(admin.url(), &status)?;
    }
    Ok(if status.ready && !status.store_full {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn print(url: &str, status: &shape::Status) -> Result<(), Failure> {
    let ready = match &status.reason {
        Some(reason) => format!("NOT READY: {reason}"),
        None if status.store_full => "STORE FULL: new events are answered with 503".into(),
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
    if !silent.is_empty() || !status.rejected_last_hour.is_empty() {
        terminal::print("")?;
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

fn print_routes(status: &shape::Status) -> Result<(), Failure> {
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

/// A line a route: hours of rejections are to be seen at once.
fn print_rejected(rejected: &[Rejected]) -> Result<(), Failure> {
    for of_route in rejected.chunk_by(|one, next| one.route == next.route) {
        let name = of_route[0].route.as_deref().unwrap_or("no route");
        let kinds: Vec<_> = of_route
            .iter()
            .map(|kind| format!("{} {}", kind.count, kind.name()))
            .collect();
        let last = terminal::time(of_route.iter().map(|kind| kind.last_at).max());
        let line = format!(
            "{name}: rejected in the last hour: {}, last at {last}",
            kinds.join(", ")
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
