//! `hookstile routes`: lists routes, pauses and resumes their queues, tests them, and moves the events
//! of a route that is no longer configured.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin::{AdminClient, CommandError, GatewayArgs, one_line};
use super::check::plural;
use super::{FAILED, terminal};
use crate::admin::shape::removed::{MovedEvents, RemovedRoute, RemovedRoutes};
use crate::admin::shape::webhooks::{OneWebhook, ShortStats, TestResult, Webhook, Webhooks};
use crate::admin::shape::{Problem, webhook_id};

/// List routes, pause and resume their queues, test them, and move the events of a removed one
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(alias = "ls")]
    List(ListArgs),
    Pause(PauseArgs),
    Resume(ResumeArgs),
    Test(TestArgs),
    #[command(alias = "mv")]
    Move(MoveArgs),
}

/// The arguments that all these commands have.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// List all routes, and those that are no longer configured and have stored events
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile routes list
  hookstile routes list --json | jq '.removed_routes[].name'")]
pub struct ListArgs {
    #[command(flatten)]
    common: CommonArgs,
}

/// Stop delivering the stored events of a route, until it is resumed
///
/// New events are stored. With `delivery: proxy`, senders get 503 and retry.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile routes pause billing")]
pub struct PauseArgs {
    /// Route to pause
    #[arg(value_name = "ROUTE")]
    route: String,
    #[command(flatten)]
    common: CommonArgs,
}

/// Deliver the stored events of a paused route again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile routes resume billing")]
pub struct ResumeArgs {
    /// Route to resume
    #[arg(value_name = "ROUTE")]
    route: String,
    #[command(flatten)]
    common: CommonArgs,
}

/// Send a test event through the gateway, signed with the route's secret
///
/// Exit status: 0 if the event was delivered, or stored for delivery; 1 otherwise.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile routes test billing
  hookstile routes test billing --type invoice.paid --data '{\"amount\": 1}'")]
pub struct TestArgs {
    /// Route to test
    #[arg(value_name = "ROUTE")]
    route: String,
    /// Type of the event
    #[arg(long = "type", value_name = "TYPE", default_value = "webhook.test")]
    event_type: String,
    /// Data of the event, as JSON [default: {\"test\": true}]
    #[arg(long, value_name = "JSON", value_parser = parse_json)]
    data: Option<Value>,
    #[command(flatten)]
    common: CommonArgs,
}

/// Move the waiting events and dead letters of a removed route to another route
///
/// The events keep their IDs, payloads and attempts, and are due at once. Dead letters stay dead
/// letters. Exit status: 1 if some are left, which are being attempted; move again in a moment.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile routes move billing billing-v2")]
pub struct MoveArgs {
    /// Route that is no longer configured
    #[arg(value_name = "FROM")]
    from: String,
    /// Route that delivers the events from now on
    #[arg(value_name = "TO")]
    to: String,
    #[command(flatten)]
    common: CommonArgs,
}

/// One hour: enough to move millions of events on a slow disk.
const MOVE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The most routes that an error names.
const NAMED_MAX: usize = 20;

pub(super) fn run(command: &Command) -> ExitCode {
    let (common, result) = match command {
        Command::List(args) => (&args.common, list(&args.common)),
        Command::Pause(args) => (&args.common, set_paused(&args.common, &args.route, true)),
        Command::Resume(args) => (&args.common, set_paused(&args.common, &args.route, false)),
        Command::Test(args) => (&args.common, test(args)),
        Command::Move(args) => (&args.common, move_events(args)),
    };
    result.unwrap_or_else(|error| error.exit_with(common.json))
}

/// The JSON document that `list` prints.
#[derive(Serialize)]
struct RouteList {
    success: bool,
    webhooks: Vec<Webhook<ShortStats>>,
    removed_routes: Vec<RemovedRoute>,
}

fn list(args: &CommonArgs) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let list = RouteList {
        success: true,
        webhooks: configured(&admin)?,
        removed_routes: removed(&admin)?,
    };
    if args.json {
        print_json(&list)?;
    } else if list.webhooks.is_empty() && list.removed_routes.is_empty() {
        terminal::print_message("no routes");
    } else {
        let heading = [
            "ROUTE", "STATE", "DELIVERY", "WAITING", "DEAD", "PATH", "UPSTREAM",
        ];
        let mut rows = vec![heading.map(str::to_owned)];
        rows.extend(list.webhooks.iter().map(row));
        rows.extend(list.removed_routes.iter().map(removed_row));
        for line in terminal::columns(&rows) {
            terminal::print(&line)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(webhook: &Webhook<ShortStats>) -> [String; 7] {
    let state = if webhook.queue.paused {
        "paused"
    } else {
        &webhook.status
    };
    let host = webhook.host.as_deref().unwrap_or_default();
    [
        webhook.name.clone(),
        state.to_owned(),
        webhook.delivery.clone(),
        webhook.queue.pending.to_string(),
        webhook.queue.dead.to_string(),
        format!("{host}{}", webhook.path),
        webhook.url.clone(),
    ]
}

fn removed_row(removed: &RemovedRoute) -> [String; 7] {
    let none = || "-".to_owned();
    [
        removed.name.clone(),
        "removed".into(),
        none(),
        removed.pending.to_string(),
        removed.dead.to_string(),
        none(),
        none(),
    ]
}

fn set_paused(args: &CommonArgs, route: &str, paused: bool) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let verb = if paused { "pause" } else { "resume" };
    let changed: OneWebhook = post(&admin, route, verb, &json!({}))?;
    if args.json {
        print_json(&changed)?;
    } else {
        let state = if paused { "paused" } else { "resumed" };
        let waiting = events(changed.webhook.queue.pending);
        let line = format!("{route} is {state}; {waiting} waiting");
        terminal::print(&terminal::visible(&line, false))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn test(args: &TestArgs) -> Result<ExitCode, CommandError> {
    let admin = args.common.gateway.admin()?;
    let mut event = json!({ "event_type": args.event_type });
    if let Some(data) = &args.data {
        event["custom_data"] = data.clone();
    }
    let result: TestResult = post(&admin, &args.route, "test", &event)?;
    if args.common.json {
        print_json(&result)?;
    } else {
        let line = format!(
            "{}: {} {}, event {}, after {} ms",
            args.route, result.status, result.outcome, result.event_id, result.duration_ms
        );
        terminal::print(&terminal::visible(&line, false))?;
    }
    Ok(success_if(result.success))
}

fn move_events(args: &MoveArgs) -> Result<ExitCode, CommandError> {
    let admin = args.common.gateway.admin()?;
    let moved = admin.post_within::<MovedEvents>(
        &path(&args.from, "move"),
        &json!({ "to": webhook_id(&args.to) }),
        MOVE_TIMEOUT,
    );
    let moved = moved.map_err(|error| match error {
        CommandError::Rejected(problem) if problem.code == "unknown_webhook" => {
            unknown(&args.from, removed_names(&admin), problem)
        }
        CommandError::Rejected(problem) if problem.code == "unknown_target" => {
            unknown(&args.to, configured_names(&admin), problem)
        }
        error => error,
    })?;
    if args.common.json {
        print_json(&moved)?;
    } else {
        let dead = plural(moved.dead, "dead letter");
        let line = format!(
            "{} and {dead} moved from {} to {}",
            plural(moved.pending, "waiting event"),
            args.from,
            args.to
        );
        terminal::print(&terminal::visible(&line, false))?;
    }
    if moved.left > 0 {
        let left = plural(moved.left, "event");
        terminal::print_message(&format!(
            "{left} still waiting for {}, and may be in the middle of an attempt; move again in a \
             moment",
            args.from
        ));
    }
    Ok(success_if(moved.left == 0))
}

fn success_if(success: bool) -> ExitCode {
    if success {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILED)
    }
}

fn configured(admin: &AdminClient) -> Result<Vec<Webhook<ShortStats>>, CommandError> {
    Ok(admin.get::<Webhooks>("/webhooks", &[])?.webhooks)
}

fn removed(admin: &AdminClient) -> Result<Vec<RemovedRoute>, CommandError> {
    let path = "/webhooks/removed";
    Ok(admin.get::<RemovedRoutes>(path, &[])?.removed_routes)
}

fn configured_names(admin: &AdminClient) -> Result<(&'static str, Vec<String>), CommandError> {
    let names = configured(admin)?.into_iter().map(|webhook| webhook.name);
    Ok(("the routes are", names.collect()))
}

fn removed_names(admin: &AdminClient) -> Result<(&'static str, Vec<String>), CommandError> {
    let names = removed(admin)?.into_iter().map(|removed| removed.name);
    Ok(("removed routes with events are", names.collect()))
}

/// Posts to one of a route's operations. An unknown route is reported with the known ones.
fn post<T: DeserializeOwned>(
    admin: &AdminClient,
    route: &str,
    operation: &str,
    document: &Value,
) -> Result<T, CommandError> {
    let path = path(route, operation);
    admin.post(&path, document).map_err(|error| match error {
        CommandError::Rejected(problem) if problem.code == "unknown_webhook" => {
            unknown(route, configured_names(admin), problem)
        }
        error => error,
    })
}

/// Returns the path of one of a route's operations. What is no route's name is encoded, and so is
/// unknown to the gateway.
fn path(route: &str, operation: &str) -> String {
    let mut path = String::from("/webhooks/");
    for byte in webhook_id(route).bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => path.push(byte.into()),
            other => {
                // Writing to a string does not fail.
                let _ = write!(path, "%{other:02X}");
            }
        }
    }
    path + "/" + operation
}

/// Adds the names of the known routes to the problem that a route is unknown, if they can be had.
fn unknown(
    route: &str,
    known: Result<(&'static str, Vec<String>), CommandError>,
    mut problem: Box<Problem>,
) -> CommandError {
    if let Ok((intro, names)) = known {
        problem.detail = name_known(route, intro, &names);
    }
    CommandError::Rejected(problem)
}

/// Returns the message for an unknown route.
fn name_known(route: &str, intro: &str, names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        _ if names.is_empty() => format!("there is no route `{route}`; {intro}: none"),
        0 => format!("there is no route `{route}`; {intro}: {shown}"),
        more => format!("there is no route `{route}`; {intro}: {shown}, and {more} more"),
    }
}

fn events(count: u64) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), "event")
}

fn print_json(document: &impl Serialize) -> Result<(), CommandError> {
    Ok(terminal::print(&one_line(document)?)?)
}

fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_route_names_the_known_ones() {
        let names: Vec<_> = (1..=22).map(|number| format!("r{number}")).collect();
        let message = |count: usize| name_known("x", "the routes are", &names[..count]);
        assert_eq!(
            [message(0), message(2)],
            [
                "there is no route `x`; the routes are: none",
                "there is no route `x`; the routes are: r1, r2"
            ]
        );
        assert!(
            message(22).ends_with(", r20, and 2 more"),
            "{}",
            message(22)
        );
    }
}
