//! `hookstile events list`: lists deliveries.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::selection::Selection;
use super::{CommandError, DeliverySourceArgs, PAGE_SIZE, next_cursor, one_line};
use crate::admin::shape::{Deliveries, Delivery, route_of};
use crate::cli::terminal;
use crate::store::DeliveryFilter;

/// List deliveries, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events list --dead --route billing
  hookstile events list --status failed --since 2h
  hookstile events list --event-id evt_123 --json | jq '.deliveries[].status'
  hookstile events list --offline -c /etc/hookstile/hookstile.yaml")]
pub struct Args {
    #[command(flatten)]
    source: DeliverySourceArgs,
    #[command(flatten)]
    selection: Selection,
    /// Maximum number of deliveries
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    limit: u64,
    /// Print one JSON document, with each event that is kept and at most 64 KiB long
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let source = args.source.connect()?;
    let mut remaining = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut filter = DeliveryFilter {
        limit: remaining.min(PAGE_SIZE),
        with_bodies: args.json,
        ..args.selection.filter()
    };
    let mut first = true;
    loop {
        let page = match source.page(&filter) {
            // The document has begun, and is ended.
            Err(error) if !first => {
                if args.json {
                    end_json(&error.to_json())?;
                }
                return Ok(error.exit());
            }
            page => page?,
        };
        remaining = remaining.saturating_sub(page.deliveries.len());
        if args.json {
            print_json(&page.deliveries, first)?;
        } else {
            print_table(&page.deliveries, first)?;
        }
        match next_cursor(&page)? {
            Some(before) if remaining > 0 => {
                (filter.before, filter.limit) = (Some(before), remaining.min(PAGE_SIZE));
            }
            _ if args.json => break end_json(&end_of(&page))?,
            _ if first && page.deliveries.is_empty() => {
                break terminal::print_message("no deliveries");
            }
            _ => break,
        }
        first = false;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a page of the API's JSON document, one delivery per line. Pages are printed as they
/// arrive, so memory does not grow with the limit.
fn print_json(deliveries: &[Delivery<u32>], first: bool) -> Result<(), CommandError> {
    if first {
        terminal::print(r#"{"deliveries":["#)?;
    }
    for (number, delivery) in deliveries.iter().enumerate() {
        let comma = if first && number == 0 { "" } else { "," };
        terminal::print(&format!("{comma}{}", one_line(delivery)?))?;
    }
    Ok(())
}

/// Returns the other members of the document, if all pages were read.
fn end_of(last: &Deliveries) -> Value {
    json!({
        "success": true,
        "total": last.total,
        "has_more": last.has_more,
        "next_cursor": last.next_cursor,
    })
}

/// Ends the document with the members of an object.
fn end_json(rest: &Value) -> Result<(), CommandError> {
    let rest = terminal::json_line(rest);
    Ok(terminal::print(&format!(
        "],{}",
        rest.trim_start_matches('{')
    ))?)
}

fn print_table(deliveries: &[Delivery<u32>], with_heading: bool) -> Result<(), CommandError> {
    if deliveries.is_empty() {
        return Ok(());
    }
    let heading = [
        "ID", "STATUS", "ROUTE", "TYPE", "EVENT", "RECEIVED", "ATTEMPTS", "LAST", "",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(deliveries.iter().map(row));
    let lines = terminal::table(&rows);
    for line in lines.iter().skip(usize::from(!with_heading)) {
        terminal::print(line)?;
    }
    Ok(())
}

fn row(delivery: &Delivery<u32>) -> [String; 9] {
    let note = match (delivery.next_attempt_in_seconds, &delivery.reason) {
        (Some(seconds), _) => format!("next in {seconds}s"),
        (None, Some(reason)) => reason.clone(),
        (None, None) => String::new(),
    };
    [
        delivery.id.clone(),
        delivery.status.clone(),
        route_of(&delivery.webhook_id)
            .unwrap_or(&delivery.webhook_id)
            .to_owned(),
        delivery.event_type.clone(),
        delivery.event_id.clone(),
        terminal::time(Some(delivery.received_at)),
        delivery.attempt_count.to_string(),
        super::show::last_result(delivery),
        note,
    ]
}
