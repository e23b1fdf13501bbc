//! `hookgate events redeliver`.

use std::process::ExitCode;

use serde_json::json;

use super::{Admin, Failure, Gateway, PAGE, delivery_id, next};
use crate::admin::shape::OneDelivery;
use crate::cli::{FAILED, terminal};
use crate::store::{Filter, State};

/// Have events delivered again, whose payload is kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookgate events redeliver del_17 del_18
  hookgate events redeliver --dead --route billing")]
pub struct Args {
    /// The deliveries, as `hookgate events list` names them
    #[arg(required_unless_present = "dead", value_name = "ID")]
    ids: Vec<String>,
    /// All dead letters of a route, the oldest first
    #[arg(long, requires = "route", conflicts_with = "ids")]
    dead: bool,
    /// Whose dead letters
    #[arg(long, value_name = "NAME", requires = "dead")]
    route: Option<String>,
    #[command(flatten)]
    gateway: Gateway,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let admin = args.gateway.admin()?;
    let ids = match &args.route {
        Some(route) => dead_letters(&admin, route)?,
        None => args.ids.clone(),
    };
    let (mut accepted, mut refused) = (Vec::new(), Vec::new());
    let mut failure = None;
    for id in &ids {
        match redeliver(&admin, id) {
            Ok(()) => {
                // Whoever reads the output may have gone; what was asked for is done all the same.
                if !args.dead && !args.json {
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
    let success = accepted.len() == ids.len();
    let printed = if args.json {
        terminal::print(&json!({"success": success, "accepted": accepted, "refused": refused}).to_string())
    } else if let Some(route) = &args.route {
        let (of, letters) = (ids.len(), if ids.len() == 1 { "letter" } else { "letters" });
        terminal::print(&format!("{} of {of} dead {letters} of {route} will be delivered again", accepted.len()))
    } else {
        Ok(())
    };
    match failure {
        Some(failure) => Err(failure),
        None => {
            printed?;
            Ok(if success { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
        }
    }
}

fn redeliver(admin: &Admin, id: &str) -> Result<(), Failure> {
    let id = delivery_id(id).map_err(Failure::Refused)?;
    admin.post::<OneDelivery>(&format!("/deliveries/{id}/redeliver")).map(drop)
}

/// All of them are known before the first is tried: one that dies again is not tried for ever.
fn dead_letters(admin: &Admin, route: &str) -> Result<Vec<String>, Failure> {
    let mut filter = Filter { route: Some(route.into()), state: Some(State::Dead), limit: PAGE, ..Filter::default() };
    let mut ids = Vec::new();
    loop {
        let page = admin.page(&filter)?;
        let before = next(&page)?;
        ids.extend(page.deliveries.into_iter().map(|delivery| delivery.id));
        match before {
            Some(before) => filter.before = Some(before),
            None => break,
        }
    }
    ids.reverse();
    Ok(ids)
}
