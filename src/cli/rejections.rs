//! `hookstile rejections`: lists and follows requests that were not delivered.

mod tail;

use std::process::ExitCode;

use super::admin::{AdminClient, CommandError, GatewayArgs, one_line};
use super::terminal;
use crate::admin::shape::rejections::{Rejection, Rejections};
use crate::admin::shape::webhook_id;

/// Inspect requests that were rejected, or verified and not delivered
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    #[command(alias = "ls")]
    List(ListArgs),
    #[command(aliases = ["follow", "watch"])]
    Tail(tail::Args),
}

/// The requests to list.
#[derive(Debug, Clone, clap::Args)]
struct Selection {
    /// Route of the requests [default: all, and requests without a route]
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Outcome, such as duplicate or ignored [default: all]
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
}

/// List rejected, duplicate and ignored requests, newest first
///
/// The last 100 requests of each route are kept in memory. "Let pass" marks those that a route with
/// enforce: false forwarded although they do not verify.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile rejections list --outcome duplicate --route billing
  hookstile rejections list --json | jq '.rejections[].reason'")]
pub struct ListArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    selection: Selection,
    /// Maximum number of requests
    #[arg(
        long,
        value_name = "N",
        default_value_t = 20,
        value_parser = clap::value_parser!(u64).range(1..=100)
    )]
    limit: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command) -> ExitCode {
    let (result, json) = match command {
        Command::List(args) => (list(args), args.json),
        Command::Tail(args) => (tail::run(args), args.json),
    };
    result.unwrap_or_else(|error| error.exit_with(json))
}

impl Selection {
    /// Returns the newest rejections, the newest first.
    fn rejections(&self, admin: &AdminClient, limit: u64) -> Result<Rejections, CommandError> {
        let path = match &self.route {
            None => "/rejections".to_owned(),
            Some(route) => {
                let id = webhook_id(route);
                let id: String = form_urlencoded::byte_serialize(id.as_bytes()).collect();
                format!("/webhooks/{id}/rejections")
            }
        };
        let mut query = vec![("limit", limit.to_string())];
        if let Some(outcome) = &self.outcome {
            query.push(("outcome", outcome.clone()));
        }
        admin.get(&path, &query)
    }
}

fn list(args: &ListArgs) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let page = args.selection.rejections(&admin, args.limit)?;
    if args.json {
        terminal::print(&one_line(&page)?)?;
    } else if page.rejections.is_empty() {
        terminal::print_message("no rejections");
    } else {
        let heading = [
            "AT", "ROUTE", "STATUS", "OUTCOME", "REQUEST", "TYPE", "EVENT", "PEER", "MORE",
        ];
        let mut rows = vec![heading.map(str::to_owned)];
        rows.extend(page.rejections.iter().map(row));
        let mut lines = terminal::table(&rows).into_iter();
        if let Some(line) = lines.next() {
            terminal::print(&line)?;
        }
        for (line, rejection) in lines.zip(&page.rejections) {
            terminal::print(&line)?;
            if let Some(explanation) = &rejection.explanation {
                terminal::print(&format!("  why: {}", terminal::visible(explanation, false)))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns outcome and reason, as in `invalid_signature/mismatch`.
fn kind(rejection: &Rejection) -> String {
    let kind = match &rejection.reason {
        Some(reason) => format!("{}/{reason}", rejection.outcome),
        None => rejection.outcome.clone(),
    };
    if rejection.let_pass {
        kind + " (let pass)"
    } else {
        kind
    }
}

/// Returns method and path, as in `POST /webhooks/billing`.
fn request(rejection: &Rejection) -> String {
    format!("{} {}", rejection.method, rejection.path)
}

fn row(rejection: &Rejection) -> [String; 9] {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let more = match rejection.left_out {
        0 => String::new(),
        count => format!("+{count}"),
    };
    [
        terminal::time(Some(rejection.at)),
        text(&rejection.route),
        rejection.status.to_string(),
        kind(rejection),
        request(rejection),
        text(&rejection.event_type),
        text(&rejection.event_id),
        rejection
            .peer
            .map_or_else(|| "-".into(), |peer| peer.to_string()),
        more,
    ]
}
