//! `hookstile events forget`: removes an event ID from the ledger.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{AdminClient, CommandError, GatewayArgs, one_line};
use crate::admin::shape::{Done, webhook_id};
use crate::cli::terminal;

/// Forget an event ID, so that the next event with it is accepted
///
/// The next event with this ID is forwarded or stored like a new one. An event with this ID that is
/// already stored is still delivered. An ID of digits is looked up as text first, then as a number.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events forget --route billing evt_123
  hookstile events forget --route billing --json 1024")]
pub struct Args {
    /// Route of the event
    #[arg(long, value_name = "NAME")]
    route: String,
    /// Event ID, as shown by `hookstile events list`
    #[arg(value_name = "EVENT_ID", allow_hyphen_values = true)]
    event_id: String,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a, Id> {
    event_id: &'a Id,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let Args {
        route, event_id, ..
    } = args;
    let done = match (forget(&admin, route, event_id), as_number(event_id)) {
        (Err(CommandError::Rejected(problem)), Some(number)) if problem.code == "unknown_event" => {
            forget(&admin, route, &number)
        }
        (done, _) => done,
    }?;
    if args.json {
        terminal::print(&one_line(&done)?)?;
    } else {
        let event_id = terminal::visible(event_id, false);
        terminal::print(&format!(
            "{event_id} is forgotten: the next event with this ID on {route} is accepted"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Parses the ID as an integer, with all its digits.
fn as_number(event_id: &str) -> Option<Box<RawValue>> {
    RawValue::from_string(event_id.into())
        .ok()
        .filter(|_| event_id.parse::<i128>().is_ok())
}

fn forget(
    admin: &AdminClient,
    route: &str,
    event_id: &impl Serialize,
) -> Result<Done, CommandError> {
    let id: String = form_urlencoded::byte_serialize(webhook_id(route).as_bytes()).collect();
    admin.post(&format!("/webhooks/{id}/forget"), &Document { event_id })
}
