//! `hookstile events redeliver`: redelivers stored events.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::{Map, json};

use super::selection::Selection;
use super::{AdminClient, CommandError, DeliverySource, GatewayArgs, one_line};
use crate::admin::Pace;
use crate::admin::shape::{OneDelivery, OneRedelivery, Redelivered, webhook_id};
use crate::cli::check::plural;
use crate::cli::{FAILED, terminal};

/// Redeliver events whose payload is kept
///
/// Selects events by ID, or all deliveries that match, oldest first. Without --status, selects
/// failed and dead ones. What was accepted is in the store, and the gateway continues if the command
/// is interrupted, or the gateway restarted. Deliveries that became due while a route was paused or the gateway was down are due
/// at once, whatever --per-second says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events redeliver msg_8e9c15cb136d
  hookstile events redeliver del_17 del_18
  hookstile events redeliver --dead --route billing
  hookstile events redeliver --route billing --since 2h --dry-run
  hookstile events redeliver --route billing --since 2h --per-second 20
  hookstile events redeliver --cancel")]
pub struct Args {
    /// IDs of events, or of their deliveries, as listed by `hookstile events list`. With --route,
    /// only that route's
    #[arg(
        conflicts_with_all = ["status", "event_id", "event_type", "since", "until", "dead", "dry_run", "per_second"],
        value_name = "ID"
    )]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Only print how many deliveries match, and how many of them can be redelivered
    #[arg(long)]
    dry_run: bool,
    /// Deliveries per second, above 0 and at most 10000 [default: all at once]
    #[arg(long, value_name = "N", value_parser = parse_pace)]
    per_second: Option<f64>,
    /// Cancel the redelivery of many that is running, at any gateway of the store. What it has
    /// accepted by then is delivered again
    #[arg(
        long,
        conflicts_with_all = ["ids", "route", "status", "event_id", "event_type", "since", "until", "dead", "dry_run", "per_second"]
    )]
    cancel: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// The time for an answer: the gateway selects the deliveries first, which takes some seconds for a
/// million.
const REDELIVER_TIMEOUT: Duration = Duration::from_secs(120);
/// The pause between two requests for the progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    if args.cancel {
        return cancel(args);
    }
    if args.ids.is_empty() && args.selection.is_empty() {
        return Err(CommandError::Usage(NOTHING_SELECTED.into()));
    }
    let admin = args.gateway.admin()?;
    if args.ids.is_empty() {
        redeliver_matching(args, &admin)
    } else {
        redeliver_each(args, &admin)
    }
}

/// The advice where nothing is selected: all is too much to be the default.
const NOTHING_SELECTED: &str = "\
say which events: IDs, or any of --dead, --status, --route, --type, --event-id, --since and --until;
for example `hookstile events redeliver --dead`, and first `--dry-run` to count them";

fn parse_pace(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| Pace::new(*number).is_some());
    number.ok_or_else(|| format!("expected a number above 0, at most {}", Pace::MAX))
}

fn cancel(args: &Args) -> Result<ExitCode, CommandError> {
    let cancelled: OneRedelivery = args.gateway.admin()?.delete("/deliveries/redeliver")?;
    if args.json {
        terminal::print(&one_line(&cancelled)?)?;
    } else if let Some(last) = cancelled.redelivery {
        terminal::print(&format!(
            "cancelled after {} of {}",
            last.accepted,
            plural(last.matched, "event")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn redeliver_matching(args: &Args, admin: &AdminClient) -> Result<ExitCode, CommandError> {
    let filter = args.selection.filter();
    let optional = [
        (
            "webhook_id",
            filter
                .route
                .as_deref()
                .map(|route| json!(webhook_id(route))),
        ),
        ("status", filter.state.map(|state| json!(state.as_str()))),
        ("event_type", filter.event_type.map(Into::into)),
        ("event_id", filter.event_id.map(Into::into)),
        ("since", filter.since.map(|at| json!(at))),
        ("until", filter.until.map(|at| json!(at))),
        ("per_second", args.per_second.map(Into::into)),
        ("dry_run", Some(args.dry_run.into())),
    ];
    let document: Map<_, _> = optional
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
    let mut redelivered: Redelivered =
        admin.post_within("/deliveries/redeliver", &document, REDELIVER_TIMEOUT)?;
    if redelivered.running {
        terminal::print_message(
            "the gateway goes on in the background, also if this command is interrupted",
        );
    }
    while redelivered.running {
        terminal::print_message(&format!(
            "{} of {} so far",
            redelivered.accepted,
            plural(redelivered.matched, "event")
        ));
        thread::sleep(PROGRESS_INTERVAL);
        let OneRedelivery { redelivery, .. } = admin.get("/deliveries/redeliver", &[])?;
        let Some(last) = redelivery else { break };
        redelivered = Redelivered {
            running: last.running,
            matched: last.matched,
            accepted: last.accepted,
            refused: last.refused,
            ..redelivered
        };
    }
    let Redelivered {
        matched,
        accepted,
        refused,
        ..
    } = &redelivered;
    for refused in refused {
        terminal::print_message(&format!(
            "{}: {}",
            plural(refused.count, "event"),
            refused.code
        ));
    }
    if args.json {
        terminal::print(&one_line(&redelivered)?)?;
    } else {
        let verb = if args.dry_run { "can" } else { "will" };
        terminal::print(&format!(
            "{accepted} of {} {verb} be delivered again",
            plural(*matched, "event")
        ))?;
    }
    Ok(if args.dry_run || accepted == matched {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn redeliver_each(args: &Args, admin: &AdminClient) -> Result<ExitCode, CommandError> {
    let source = DeliverySource::Admin(admin.clone());
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut failure = None;
    for id in &args.ids {
        match redeliver(admin, &source, id, args.selection.route.as_deref()) {
            Ok(()) => {
                // A closed pipe must not keep the other deliveries from being redelivered.
                if !args.json {
                    let _ = terminal::print(&format!("{id} will be delivered again"));
                }
                accepted.push(id);
            }
            Err(CommandError::Rejected(problem)) => {
                terminal::print_message(&format!("{id}: {problem}"));
                refused.push(json!({"id": id, "code": problem.code, "detail": problem.detail}));
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let success = accepted.len() == args.ids.len();
    let printed = if args.json {
        let mut document = failure
            .as_ref()
            .map_or_else(|| json!({}), CommandError::to_json);
        document["success"] = success.into();
        document["accepted"] = json!(accepted);
        document["refused"] = refused.into();
        terminal::print(&terminal::json_line(&document))
    } else {
        Ok(())
    };
    match failure {
        Some(failure) => Ok(failure.exit()),
        None => {
            printed?;
            Ok(if success {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(FAILED)
            })
        }
    }
}

fn redeliver(
    admin: &AdminClient,
    source: &DeliverySource,
    id: &str,
    route: Option<&str>,
) -> Result<(), CommandError> {
    source.resolve(id, route, |id| {
        let path = format!("/deliveries/{id}/redeliver");
        admin.post::<OneDelivery>(&path, &json!({})).map(drop)
    })
}
