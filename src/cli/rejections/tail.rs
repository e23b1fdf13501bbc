//! `hookstile rejections tail`: prints rejected requests as they arrive.

use std::collections::HashSet;
use std::process::ExitCode;

use jiff::Timestamp;

use super::one_line;
use super::{CommandError, GatewayArgs, Selection, kind};
use crate::admin::shape::rejections::{Rejection, Rejections};
use crate::cli::follow::Followed;
use crate::cli::terminal;

/// Print rejected, duplicate and ignored requests as they arrive, until Ctrl-C
///
/// Prints each request once, oldest first. Of a flood, the gateway keeps the first few of each
/// second. While the gateway is unreachable, the command waits for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile rejections tail
  hookstile rejections tail --route billing --outcome invalid_signature
  hookstile rejections tail --json | jq -r .path")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(flatten)]
    selection: Selection,
    /// Print one JSON object per request
    #[arg(long)]
    pub(super) json: bool,
    /// Has no effect: the command follows anyway
    #[arg(long, short, hide = true)]
    follow: bool,
}

/// The requests that each poll reads: all that the API returns at once.
const POLLED: u64 = 100;

/// The requests of the last poll. They have no ID; each is known by all that it shows.
#[derive(Default)]
struct Known {
    requests: HashSet<String>,
    /// The time of the oldest in a full list. An older one may move up when others are removed,
    /// and is not new.
    floor: Option<Timestamp>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, CommandError> {
    let admin = args.gateway.admin()?;
    let (selection, json) = (args.selection.clone(), args.json);
    let mut known = Known::default();
    Followed {
        started: format!("following the rejected requests of {}", admin.url()),
        poll: move || {
            let page = selection.rejections(&admin, POLLED)?;
            let new = known.update(page)?;
            Ok(new
                .iter()
                .map(|(request, text)| if json { text.clone() } else { line(request) })
                .collect())
        },
        print_first: false,
    }
    .run()
}

impl Known {
    /// Returns the requests that the last poll did not have, the oldest first, each with its JSON.
    fn update(&mut self, page: Rejections) -> Result<Vec<(Rejection, String)>, CommandError> {
        let floor = self.floor.take();
        if page.has_more {
            self.floor = page.rejections.last().map(|oldest| oldest.at);
        }
        let (mut requests, mut new) = (HashSet::new(), Vec::new());
        for mut request in page.rejections {
            // Changes while similar requests arrive.
            request.left_out = 0;
            // Follows a moment after the request.
            request.explanation = None;
            let text = one_line(&request)?;
            let is_new = !self.requests.contains(&text);
            requests.insert(text.clone());
            if is_new && floor.is_none_or(|floor| request.at >= floor) {
                new.push((request, text));
            }
        }
        self.requests = requests;
        new.reverse();
        Ok(new)
    }
}

fn line(request: &Rejection) -> String {
    let mut parts = vec![
        terminal::time(Some(request.at)),
        request.status.to_string(),
        kind(request),
        request.route.clone().unwrap_or_else(|| "-".into()),
        super::request(request),
    ];
    parts.extend(request.event_type.clone());
    parts.extend(request.event_id.clone());
    parts.extend(request.peer.map(|peer| format!("from {peer}")));
    terminal::visible(&parts.join("  "), false).into_owned()
}
