//! `hookstile deliveries tail`.

use std::convert::Infallible;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::follow::{Followed, Look};
use crate::admin::shape::{Delivery, route_of};
use crate::cli::admin::{Admin, Failure, Gateway};
use crate::cli::events::{PAGE, next, one_line, show};
use crate::cli::terminal;
use crate::store::{DeliveryFilter, DeliveryId, DeliveryState};

/// Print deliveries as they come, until Ctrl-C
///
/// Each is printed once, the oldest first, as it stands when it is first seen. With --status, it is when it first stands so; of the newest 500 that do, in case an older event has come to that. A gateway that is gone for a moment is waited for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile deliveries tail
  hookstile deliveries tail --route billing --status dead
  hookstile deliveries tail --since del_17 --json | jq -r .event_id")]
pub struct Args {
    #[command(flatten)]
    gateway: Gateway,
    /// Only those of this route
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Only those that stand so
    #[arg(long, value_name = "STATUS", value_parser = PossibleValuesParser::new(DeliveryState::ALL.map(DeliveryState::as_str)))]
    status: Option<String>,
    /// Begin after this delivery (`del_17`, or 17; 0 for all that are kept), not with what comes from now on
    #[arg(long, value_name = "N")]
    since: Option<DeliveryId>,
    /// Print one JSON object a delivery, without the event
    #[arg(long)]
    json: bool,
}

const POLL_EVERY: Duration = Duration::from_secs(1);

/// How many of those that stand so are looked at each time: an event may come to that long after it came.
const WATCHED: usize = 500;

/// A list that is followed.
struct Tail {
    admin: Admin,
    filter: DeliveryFilter,
    followed: Followed,
    /// Whether what is there at the first look is told as well.
    tells_first: bool,
    json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let failed = |error: std::io::Error| Failure::Failed(error.to_string());
    let tail = Tail::of(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    runtime.block_on(async {
        let (mut interrupted, mut terminated) = (
            signal(SignalKind::interrupt()).map_err(failed)?,
            signal(SignalKind::terminate()).map_err(failed)?,
        );
        let (end, ended) = oneshot::channel();
        // It may wait long for the gateway or the output. A signal waits for neither: it ends the process, and the
        // thread with it.
        thread::spawn(move || end.send(tail.follow()));
        tokio::select! {
            ended = ended => match ended {
                Ok(Err(failure)) => Err(failure),
                Err(_) => Err(Failure::Failed("the deliveries can't be followed any more".into())),
            },
            _ = interrupted.recv() => Ok(ExitCode::SUCCESS),
            _ = terminated.recv() => Ok(ExitCode::SUCCESS),
        }
    })
}

impl Tail {
    fn of(args: &Args) -> Result<Self, Failure> {
        let state = args.status.as_deref().and_then(DeliveryState::parse);
        let watched = if state.is_some() { WATCHED } else { 0 };
        let followed = match args.since {
            Some(DeliveryId(number)) => Followed::since(number, watched),
            None => Followed::from_now(watched),
        };
        let filter = DeliveryFilter {
            route: args.route.clone(),
            state,
            limit: PAGE,
            ..DeliveryFilter::default()
        };
        Ok(Self {
            admin: args.gateway.admin()?,
            filter,
            followed,
            tells_first: args.since.is_some(),
            json: args.json,
        })
    }

    /// Goes on until the output is closed, or the gateway refuses.
    fn follow(mut self) -> Result<Infallible, Failure> {
        let first = self.look()?;
        terminal::tell(&format!("following the deliveries of {}", self.admin.url()));
        if self.tells_first {
            print(&first)?;
        }
        let mut gone = false;
        loop {
            thread::sleep(POLL_EVERY);
            match self.look() {
                Ok(new) => {
                    gone = false;
                    print(&new)?;
                }
                Err(failure @ (Failure::Unreachable { .. } | Failure::Failed(_))) => {
                    if !gone {
                        terminal::tell(&format!("{failure}; waiting for it"));
                    }
                    gone = true;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    /// A line for each new delivery, the oldest first. All pages up to what is known are read before any is told, so
    /// that one that can't be read leaves nothing half told.
    fn look(&mut self) -> Result<Vec<String>, Failure> {
        let (mut look, mut lines) = (Look::default(), Vec::new());
        let mut before = None;
        'pages: loop {
            let page = self.admin.page(&DeliveryFilter {
                before,
                ..self.filter.clone()
            })?;
            before = next(&page)?;
            for delivery in page.deliveries {
                let DeliveryId(number) = delivery.id.parse().map_err(|_| not_ours())?;
                match self.followed.sees(&mut look, number) {
                    Some(true) => lines.push(if self.json {
                        one_line(&delivery)?
                    } else {
                        line(&delivery)
                    }),
                    Some(false) => {}
                    None => break 'pages,
                }
            }
            if before.is_none() {
                break;
            }
        }
        self.followed.looked(look);
        lines.reverse();
        Ok(lines)
    }
}

fn not_ours() -> Failure {
    Failure::Failed("the answer's deliveries are not those of a gateway".into())
}

fn print(lines: &[String]) -> Result<(), Failure> {
    lines
        .iter()
        .try_for_each(|line| terminal::print(line))
        .map_err(Failure::from)
}

/// Widths that most fit into: the lines to come are not known.
fn line(delivery: &Delivery<u32>) -> String {
    let line = format!(
        "{}  {:<8}  {:<7}  {}  {}  {}  {}",
        terminal::time(Some(delivery.received_at)),
        delivery.id,
        delivery.status,
        route_of(&delivery.webhook_id).unwrap_or(&delivery.webhook_id),
        delivery.event_type,
        delivery.event_id,
        show::result(delivery.response_status, delivery.error.as_deref()),
    );
    terminal::visible(&line, false).into_owned()
}
