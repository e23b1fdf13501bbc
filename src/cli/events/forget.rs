//! `hookstile events forget`: removes an event ID from the ledger.

use std::process::ExitCode;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    AdminClient, CommandError, DeliverySource, GatewayArgs, UNKNOWN_DELIVERY, delivery_id, one_line,
};
use crate::admin::shape::{Done, OneDelivery, route_of, webhook_id};
use crate::cli::terminal;

/// Forget an event ID, so that the next event with it is accepted
///
/// The next event with this ID is forwarded or stored like a new one. An event with this ID that is
/// already stored is still delivered. An ID of digits is looked up as text first, then as a number.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events forget evt_123
  hookstile events forget --route billing --json 1024")]
pub struct Args {
    /// Route of the event [default: the one that has a delivery of it]
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// ID of the event, or of its delivery, as listed by `hookstile events list`
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    id: String,
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Document<'a, Id> {
    event_id: &'a Id,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let (route, event_id) = match &args.route {
        Some(route) => (route.clone(), args.id.clone()),
        None => route_and_event(&admin, &args.id)?,
    };
    let done = match forget_any(&admin, &route, &event_id) {
        Err(CommandError::Rejected(problem)) if problem.code == UNKNOWN_EVENT => {
            match delivery_id(&args.id) {
                // It is not an event's ID, so it may be a delivery's.
                Some(_) if args.route.is_some() => {
                    let (_, event_id) = route_and_event(&admin, &args.id)?;
                    forget_any(&admin, &route, &event_id)
                }
                _ => Err(CommandError::Rejected(problem)),
            }
        }
        done => done,
    }?;
    if args.json {
        terminal::print(&one_line(&done)?)?;
    } else {
        let event_id = terminal::visible(&event_id, false);
        terminal::print(&format!(
            "{event_id} is forgotten: the next event with this ID on {route} is accepted"
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

const UNKNOWN_EVENT: &str = "unknown_event";

/// Returns the route and the event ID of the delivery that `id` names.
fn route_and_event(admin: &AdminClient, id: &str) -> Result<(String, String), CommandError> {
    let source = DeliverySource::Admin(admin.clone());
    match source.delivery(id, None) {
        Ok(OneDelivery { delivery, .. }) => {
            let route = route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id);
            Ok((route.to_owned(), delivery.event_id))
        }
        Err(CommandError::Rejected(mut problem)) if problem.code == UNKNOWN_DELIVERY => {
            problem.detail += " The ledger may know the event nevertheless: give its --route.";
            Err(CommandError::Rejected(problem))
        }
        Err(error) => Err(error),
    }
}

/// Forgets an event by its ID as text, or else as a number.
fn forget_any(admin: &AdminClient, route: &str, event_id: &str) -> Result<Done, CommandError> {
    match (forget(admin, route, &event_id), as_number(event_id)) {
        (Err(CommandError::Rejected(problem)), Some(number)) if problem.code == UNKNOWN_EVENT => {
            forget(admin, route, &number)
        }
        (done, _) => done,
    }
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
