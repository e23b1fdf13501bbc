//! `hookstile events redeliver`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, json};

use super::selection::{SELECTING, Selection};
use super::{Admin, Failure, Gateway, delivery_id, one_line};
use crate::admin::Pace;
use crate::admin::shape::{OneDelivery, Redelivered, webhook_id};
use crate::cli::check::counted;
use crate::cli::{FAILED, terminal};
use crate::store::DeliveryState;

/// Have events delivered again, whose payload is kept
///
/// By their IDs, or all that match, the oldest first; without --status, those that failed or are dead. What has become due while a route was paused, or the gateway was down, is due at once, whatever the pace.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events redeliver del_17 del_18
  hookstile events redeliver --dead --route billing
  hookstile events redeliver --route billing --since 2h --dry-run
  hookstile events redeliver --route billing --since 2h --per-second 20")]
pub struct Args {
    /// The deliveries, as `hookstile events list` names them
    #[arg(
        required_unless_present_any = SELECTING.into_iter().chain(["dead"]),
        conflicts_with_all = SELECTING.into_iter().chain(["dead", "dry_run", "per_second"]),
        value_name = "ID"
    )]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// As --status dead
    #[arg(long, conflicts_with = "status")]
    dead: bool,
    /// Only say how many there are, and how many of them can be delivered again
    #[arg(long)]
    dry_run: bool,
    /// How many are due each second, above 0 and up to 10000 [default: all at once]
    #[arg(long, value_name = "N", value_parser = pace)]
    per_second: Option<f64>,
    #[command(flatten)]
    gateway: Gateway,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A million are written meanwhile, also on a slow disk.
const REDELIVERED_WITHIN: Duration = Duration::from_secs(3600);

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let admin = args.gateway.admin()?;
    if args.ids.is_empty() {
        matching(args, &admin)
    } else {
        each(args, &admin)
    }
}

fn pace(text: &str) -> Result<f64, String> {
    let number = text
        .parse()
        .ok()
        .filter(|number| Pace::new(*number).is_some());
    number.ok_or_else(|| format!("expected a number above 0, {} at the most", Pace::MAX))
}

fn matching(args: &Args, admin: &Admin) -> Result<ExitCode, Failure> {
    let filter = args.selection.filter();
    let state = if args.dead {
        Some(DeliveryState::Dead)
    } else {
        filter.state
    };
    let optional = [
        (
            "webhook_id",
            filter
                .route
                .as_deref()
                .map(|route| json!(webhook_id(route))),
        ),
        ("status", state.map(|state| json!(state.as_str()))),
        ("event_type", filter.event_type.map(Into::into)),
        ("event_id", filter.event_id.map(Into::into)),
        ("since", filter.since.map(|at| json!(at))),
        ("until", filter.until.map(|at| json!(at))),
        ("per_second", args.per_second.map(Into::into)),
        ("dry_run", Some(args.dry_run.into())),
    ];
    let given = optional
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    let document: Map<_, _> = given.collect();
    let redelivered: Redelivered =
        admin.post_within("/deliveries/redeliver", &document, REDELIVERED_WITHIN)?;
    let Redelivered {
        matched,
        accepted,
        refused,
        ..
    } = &redelivered;
    for refused in refused {
        terminal::tell(&format!(
            "{}: {}",
            counted(refused.count, "event"),
            refused.code
        ));
    }
    if args.json {
        terminal::print(&one_line(&redelivered)?)?;
    } else {
        let (events, does) = (
            counted(*matched, "event"),
            if args.dry_run { "can" } else { "will" },
        );
        terminal::print(&format!("{accepted} of {events} {does} be delivered again"))?;
    }
    Ok(if args.dry_run || accepted == matched {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    })
}

fn each(args: &Args, admin: &Admin) -> Result<ExitCode, Failure> {
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut failure = None;
    for id in &args.ids {
        match redeliver(admin, id) {
            Ok(()) => {
                // Whoever reads the output may have gone; what was asked for is done all the same.
                if !args.json {
                    let _ = terminal::print(&format!("{id} will be delivered again"));
                }
                accepted.push(id);
            }
            Err(Failure::Refused(problem)) => {
                terminal::tell(&format!("{id}: {problem}"));
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
        terminal::print(
            &json!({"success": success, "accepted": accepted, "refused": refused}).to_string(),
        )
    } else {
        Ok(())
    };
    match failure {
        Some(failure) => Err(failure),
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

fn redeliver(admin: &Admin, id: &str) -> Result<(), Failure> {
    let id = delivery_id(id).map_err(Failure::Refused)?;
    admin
        .post::<OneDelivery>(&format!("/deliveries/{id}/redeliver"), &json!({}))
        .map(drop)
}
