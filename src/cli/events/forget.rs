//! `hookstile events forget`.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Admin, Failure, Gateway, one_line};
use crate::admin::shape::{Done, webhook_id};
use crate::cli::terminal;

/// Let an event pass again: the ledger forgets its ID
///
/// The next copy of it is forwarded or stored as if it had never come; one that is stored and waits is delivered all the same. An ID of digits is taken for a text, and for a number where no such text is known.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events forget --route billing evt_123
  hookstile events forget --route billing --json 1024")]
pub struct Args {
    /// Whose event
    #[arg(long, value_name = "NAME")]
    route: String,
    /// The event's ID, as `hookstile events list` shows it
    #[arg(value_name = "EVENT_ID", allow_hyphen_values = true)]
    event_id: String,
    #[command(flatten)]
    gateway: Gateway,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a, Id> {
    event_id: &'a Id,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let admin = args.gateway.admin()?;
    let Args {
        route, event_id, ..
    } = args;
    let done = match (forget(&admin, route, event_id), number(event_id)) {
        (Err(Failure::Refused(problem)), Some(number)) if problem.code == "unknown_event" => {
            forget(&admin, route, &number)
        }
        (done, _) => done,
    }?;
    if args.json {
        terminal::print(&one_line(&done)?)?;
    } else {
        let event_id = terminal::visible(event_id, false);
        terminal::print(&format!(
            "{event_id} is forgotten: the next event of this ID on {route} passes"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The ID as a number, with all its digits.
fn number(event_id: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(event_id.into())
        .ok()
        .filter(|_| event_id.parse::<i128>().is_ok())
}

fn forget(admin: &Admin, route: &str, event_id: &impl Serialize) -> Result<Done, Failure> {
    let id: String = form_urlencoded::byte_serialize(webhook_id(route).as_bytes()).collect();
    admin.post(&format!("/webhooks/{id}/forget"), &Document { event_id })
}
