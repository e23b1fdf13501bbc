//! `hookstile deliveries tail`.

use std::convert::Infallible;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::tracker::{DeliveryTracker, Poll};
use crate::admin::shape::{Delivery, route_of};
use crate::cli::admin::{AdminClient, CommandError, GatewayArgs};
use crate::cli::events::{PAGE_SIZE, next_cursor, one_line, show};
use crate::cli::{input, terminal};
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState};

/// Print deliveries as they arrive, until Ctrl-C
///
/// Prints each delivery once, oldest first, with its status at that time. With --status, prints a
/// delivery when it first has that status; this covers the newest 500 deliveries with it. While the
/// gateway is unreachable, the command waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile deliveries tail
  hookstile deliveries tail --route billing --status dead
  hookstile deliveries tail --since del_17 --json | jq -r .event_id")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// Only deliveries of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only deliveries with this status
    #[arg(long, value_name = "STATUS", value_parser = input::delivery_status())]
    status: Option<String>,
    /// Start after this delivery, by number or ID; 0 lists all that are kept [default: only new
    /// deliveries]
    #[arg(long, value_name = "N")]
    since: Option<DeliveryId>,
    /// Print one JSON object per delivery, without the event
    #[arg(long)]
    json: bool,
}

const POLL_EVERY: Duration = Duration::from_secs(1);

/// The number of deliveries with the wanted status that each poll reads again: a delivery may reach
/// that status long after it was received.
const RECHECKED: usize = 500;

/// A list of deliveries that is followed.
struct Tail {
    admin: AdminClient,
    filter: DeliveryFilter,
    tracker: DeliveryTracker,
    /// The option to print the deliveries that the first poll finds.
    print_first: bool,
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let failed = |error: std::io::Error| CommandError::Failed(error.to_string());
    let tail = Tail::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let (mut interrupted, mut terminated) = (
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
        );
        let (end, follower) = oneshot::channel();
        // The thread may block on the gateway or on the output. A signal must not wait for it: it
        // ends the process, and the thread with it.
        thread::spawn(move || end.send(tail.follow()));
        tokio::select! {
            result = follower => match result {
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(CommandError::Failed("following stopped unexpectedly".into())),
            },
            _ = interrupted.recv() => Ok(ExitCode::SUCCESS),
            _ = terminated.recv() => Ok(ExitCode::SUCCESS),
        }
    })
}

impl Tail {
    fn new(args: &Args) -> Result<Self, CommandError> {
        let state = args.status.as_deref().and_then(DeliveryState::parse);
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
            print_first: args.since.is_some(),
            json: args.json,
        })
    }

    /// Polls until standard output is closed, or the gateway rejects the request.
    fn follow(mut self) -> Result<Infallible, CommandError> {
        let first = self.poll()?;
        terminal::print_message(&format!("following the deliveries of {}", self.admin.url()));
        if self.print_first {
            print(&first)?;
        }
        let mut waiting = false;
        loop {
            thread::sleep(POLL_EVERY);
            match self.poll() {
                Ok(new) => {
                    waiting = false;
                    print(&new)?;
                }
                Err(failure @ (CommandError::Unreachable { .. } | CommandError::Failed(_))) => {
                    if !waiting {
                        terminal::print_message(&format!("{failure}; waiting for it"));
                    }
                    waiting = true;
                }
                Err(failure) => return Err(failure),
            }
        }
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

fn print(lines: &[String]) -> Result<(), CommandError> {
    lines
        .iter()
        .try_for_each(|line| terminal::print(line))
        .map_err(CommandError::from)
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
