//! `hookstile capture`: fetches rejected requests that the gateway captured.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::admin::{AdminClient, CommandError, GatewayArgs, one_line};
use super::terminal;
use crate::admin::shape::captures::{Capture, Captures, ListedCapture, OneCapture};
use crate::admin::shape::{Problem, webhook_id};

/// Print a rejected request that the gateway captured, whole
///
/// Prints the newest captured request as raw HTTP, with the time at which it was received in
/// Hookstile-Received-At. `hookstile verify` says why it was rejected. Needs `capture` on the route,
/// and the admin token; the gateway audits each fetch. The request holds its signature and body:
/// keep it as secret as the events. Exit status: 1 if there is no such request.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile capture --route billing --outcome invalid_signature | hookstile verify
  hookstile capture --route billing --wait --output captured.http
  hookstile capture --count 100 --json | jq -r .peer")]
pub struct Args {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// ID of the request, as `hookstile rejections list --json` shows it [default: the newest]
    #[arg(value_name = "ID", conflicts_with_all = ["route", "outcome", "count", "wait"])]
    id: Option<String>,
    /// Route of the request [default: all]
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Outcome: `invalid_signature` or `invalid_event` [default: both]
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,
    /// Number of requests; more than one need --json
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..=100)
    )]
    count: u64,
    /// Wait for requests that arrive from now on, until there are --count
    #[arg(long, visible_alias = "follow")]
    wait: bool,
    /// File to write to, readable for its owner only; `-` is standard output [default: -]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print one JSON object per request
    #[arg(long)]
    json: bool,
}

/// The pause between two questions for new requests.
const POLL_EVERY: Duration = Duration::from_secs(1);

const UNKNOWN_CAPTURE: &str = "unknown_capture";

/// The most requests that the gateway lists.
const LISTED_MAX: u64 = 100;

pub(super) fn run(args: &Args) -> ExitCode {
    fetch(args).unwrap_or_else(|error| error.exit_with(args.json))
}

fn fetch(args: &Args) -> Result<ExitCode, CommandError> {
    if args.count > 1 && !args.json {
        let problem = "raw HTTP holds one request: give --json for several";
        return Err(CommandError::Usage(problem.into()));
    }
    let admin = args.gateway.admin()?;
    let mut output = Output::open(args.output.as_deref())?;
    if let Some(id) = &args.id {
        output.write(&admin.capture(id)?, args.json)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut seen: HashSet<String> = HashSet::new();
    let list = args.list(&admin)?;
    let wanted = usize::try_from(args.count).unwrap_or(usize::MAX);
    if args.wait {
        seen.extend(list.captures.into_iter().map(|listed| listed.id));
        terminal::print_message("waiting for a rejected request");
        let mut printed = 0;
        while printed < wanted {
            thread::sleep(POLL_EVERY);
            let listed = args.list(&admin)?.captures;
            let new = listed
                .iter()
                .rev()
                .filter(|listed| !seen.contains(&listed.id));
            for listed in new.take(wanted - printed) {
                printed += usize::from(output.write_listed(&admin, listed, args.json)?);
            }
            seen = listed.into_iter().map(|listed| listed.id).collect();
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut printed = 0;
    for listed in list.captures.iter().take(wanted) {
        printed += usize::from(output.write_listed(&admin, listed, args.json)?);
    }
    if printed == 0 {
        return Err(CommandError::Rejected(Box::new(Problem {
            code: UNKNOWN_CAPTURE.into(),
            detail: "No such request is captured; use --wait to wait for the next one.".into(),
            ..Problem::default()
        })));
    }
    Ok(ExitCode::SUCCESS)
}

impl Args {
    /// Lists the captured requests.
    ///
    /// # Errors
    /// Also if no route captures any: the message has the line to add.
    fn list(&self, admin: &AdminClient) -> Result<Captures, CommandError> {
        let path = self.route.as_ref().map_or_else(
            || "/captures".to_owned(),
            |route| format!("/webhooks/{}/captures", webhook_id(route)),
        );
        let mut query = vec![("limit", LISTED_MAX.to_string())];
        if let Some(outcome) = &self.outcome {
            query.push(("outcome", outcome.clone()));
        }
        let list = admin.get::<Captures>(&path, &query)?;
        if list.webhooks.is_empty() {
            let who = match &self.route {
                Some(route) => format!("the route `{route}` captures nothing: add this line to it"),
                None => "no route captures anything: add this line to one".into(),
            };
            return Err(CommandError::Failed(format!(
                "{who} in the configuration, and reload it:\n  capture: {{requests: 20}}"
            )));
        }
        Ok(list)
    }
}

impl AdminClient {
    fn capture(&self, id: &str) -> Result<Capture, CommandError> {
        let is_id = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if !id.chars().all(is_id) {
            return Err(CommandError::Usage(
                "not the ID of a captured request".into(),
            ));
        }
        Ok(self
            .get::<OneCapture>(&format!("/captures/{id}"), &[])?
            .capture)
    }
}

/// The file or the standard output that requests are written to.
enum Output {
    Stdout,
    File(std::fs::File),
}

impl Output {
    fn open(path: Option<&Path>) -> Result<Self, CommandError> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            return Ok(Self::Stdout);
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path);
        file.map(Self::File).map_err(|error| {
            CommandError::Failed(format!("cannot write {}: {error}", path.display()))
        })
    }

    /// Fetches a listed request and writes it. Returns `false` if it is gone meanwhile.
    fn write_listed(
        &mut self,
        admin: &AdminClient,
        listed: &ListedCapture,
        json: bool,
    ) -> Result<bool, CommandError> {
        match admin.capture(&listed.id) {
            Ok(capture) => self.write(&capture, json).map(|()| true),
            Err(CommandError::Rejected(problem)) if problem.code == UNKNOWN_CAPTURE => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, capture: &Capture, json: bool) -> Result<(), CommandError> {
        let bytes = if json {
            (one_line(capture)? + "\n").into_bytes()
        } else {
            to_http(capture)?
        };
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(&bytes).and_then(|()| stdout.flush())?;
            }
            Self::File(file) => file.write_all(&bytes)?,
        }
        Ok(())
    }
}

/// Formats a request as HTTP/1.1. Its framing is replaced by one `Content-Length`, because the body
/// is known whole, and its time is added.
fn to_http(capture: &Capture) -> Result<Vec<u8>, CommandError> {
    const REPLACED: [&str; 3] = [
        "content-length",
        "transfer-encoding",
        "hookstile-received-at",
    ];
    let body = BASE64
        .decode(&capture.body_base64)
        .map_err(|_| CommandError::Failed("the gateway sent a body that is not base64".into()))?;
    let mut head = format!("{} {} HTTP/1.1\r\n", capture.method, capture.target);
    let _ = write!(head, "Hookstile-Received-At: {}\r\n", capture.received_at);
    for header in &capture.headers {
        if !REPLACED.contains(&&*header.name.to_ascii_lowercase()) {
            let _ = write!(head, "{}: {}\r\n", header.name, header.value);
        }
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n", body.len());
    Ok([head.as_bytes(), &body].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::admin::shape::captures::CapturedHeader;
    use crate::explain::Captured;

    proptest! {
        #[test]
        fn verify_reads_what_capture_prints(
            body: Vec<u8>,
            target in "/[a-z0-9/?=&%]{0,20}",
            values in proptest::collection::vec("[!-~]([ -~é]{0,10}[!-~])?", 3),
        ) {
            let names = ["X-Signature", "transfer-encoding", "Host"];
            let headers = names.iter().zip(&values).map(|(name, value)| CapturedHeader {
                name: (*name).into(),
                value: value.clone(),
            });
            let capture = Capture {
                id: "cap_0".into(),
                webhook_id: "wh_a".into(),
                route: "a".into(),
                received_at: "2026-01-15T10:30:00.123456789Z".parse().unwrap(),
                outcome: "invalid_signature".into(),
                reason: None,
                let_pass: false,
                status: 401,
                peer: None,
                trace_id: None,
                method: "POST".into(),
                target: target.clone(),
                headers: headers.collect(),
                body: None,
                body_base64: BASE64.encode(&body),
            };
            let mut no_files = |_: &str| Err(String::new());
            let json = serde_json::to_vec(&capture).unwrap();
            for text in [to_http(&capture).unwrap(), json] {
                let captured = Captured::parse(&text, &mut no_files).unwrap();
                prop_assert_eq!(captured.len(), 1);
                let captured = &captured[0];
                prop_assert_eq!(&captured.method, "POST");
                prop_assert_eq!(&captured.request.body[..], &body[..]);
                prop_assert_eq!(captured.request.target.as_deref(), Some(&*target));
                let signature = captured.request.headers["x-signature"].as_bytes();
                prop_assert_eq!(signature, values[0].as_bytes());
                prop_assert_eq!(captured.at, Some(capture.received_at));
            }
        }
    }
}
