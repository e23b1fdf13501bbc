//! `hookstile events tail`: prints deliveries as they arrive.

mod tracker;

use std::process::ExitCode;

use super::{AdminClient, CommandError, GatewayArgs, PAGE_SIZE, next_cursor, one_line, show};
use crate::admin::shape::{Delivery, route_of};
use crate::cli::follow::Followed;
use crate::cli::{input, terminal};
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState};
use tracker::{DeliveryTracker, Poll};

/// Print deliveries as they arrive, until Ctrl-C
///
/// Prints each delivery once, oldest first, with its status at that time. With --status, prints a
/// delivery when it first has that status; this covers the newest 500 deliveries with it. While the
/// gateway is unreachable, the command waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile events tail
  hookstile events tail --route billing --status dead
  hookstile events tail --since del_17 --json | jq -r .event_id")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Only deliveries of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only deliveries with this status
    #[arg(long, alias = "state", value_name = "STATUS", value_parser = input::delivery_status())]
    status: Option<String>,
    /// Same as --status dead
    #[arg(long, conflicts_with = "status")]
    dead: bool,
    /// Start after this delivery, by number or ID; 0 lists all that are kept [default: only new
    /// deliveries]
    #[arg(long, value_name = "N")]
    since: Option<DeliveryId>,
    /// Print one JSON object per delivery, without the event
    #[arg(long)]
    pub(super) json: bool,
    /// Has no effect: the command follows anyway
    #[arg(long, short, hide = true)]
    follow: bool,
}

/// The number of deliveries with the wanted status that each poll reads again: a delivery may reach
/// that status long after it was received.
const RECHECKED: usize = 500;

/// A list of deliveries that is followed.
struct Tail {
    admin: AdminClient,
    filter: DeliveryFilter,
    tracker: DeliveryTracker,
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let mut tail = Tail::new(args)?;
    Followed {
        started: format!("following the deliveries of {}", tail.admin.url()),
        poll: move || tail.poll(),
        print_first: args.since.is_some(),
    }
    .run()
}

impl Tail {
    fn new(args: &Args) -> Result<Self, CommandError> {
        let state = if args.dead {
            Some(DeliveryState::Dead)
        } else {
            args.status.as_deref().and_then(DeliveryState::parse)
        };
        let rechecked = if state.is_some() { RECHECKED } else { 0 };
        let tracker = match args.since {
            Some(DeliveryId(number)) => DeliveryTracker::since(number, rechecked),
            None => DeliveryTracker::from_now(rechecked),
        };
        let filter = DeliveryFilter {
            route: args.route.clone(),
            state,
            limit: PAGE_SIZE,
            ..DeliveryFilter::default()
        };
        Ok(Self {
            admin: args.gateway.admin()?,
            filter,
            tracker,
            json: args.json,
        })
    }

    /// Returns a line for each new delivery, the oldest first. Reads all pages with new deliveries
    /// before any is printed, so that a failed page leaves none half printed.
    fn poll(&mut self) -> Result<Vec<String>, CommandError> {
        let (mut poll, mut lines) = (Poll::default(), Vec::new());
        let mut before = None;
        'pages: loop {
            let page = self.admin.deliveries_page(&DeliveryFilter {
                before,
                ..self.filter.clone()
            })?;
            before = next_cursor(&page)?;
            for delivery in page.deliveries {
                let DeliveryId(number) = delivery.id.parse().map_err(|_| invalid_response())?;
                match self.tracker.observe(&mut poll, number) {
                    Some(true) => lines.push(if self.json {
                        one_line(&delivery)?
                    } else {
                        format_line(&delivery)
                    }),
                    Some(false) => {}
                    None => break 'pages,
                }
            }
            if before.is_none() {
                break;
            }
        }
        self.tracker.finish_poll(poll);
        lines.reverse();
        Ok(lines)
    }
}

fn invalid_response() -> CommandError {
    CommandError::Failed("the response holds an invalid delivery ID".into())
}

/// Formats a delivery as a line. The columns have fixed widths that fit most values, because later
/// lines are not known yet.
fn format_line(delivery: &Delivery<u32>) -> String {
    let line = format!(
        "{}  {:<8}  {:<7}  {}  {}  {}  {}",
        terminal::time(Some(delivery.received_at)),
        delivery.id,
        delivery.status,
        route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id),
        delivery.event_type,
        delivery.event_id,
        show::last_result(delivery),
    );
    terminal::visible(&line, false).into_owned()
}
