//! `hookstile catch`: a receiver on this machine that shows each request.

mod judge;
mod show;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::admin::Failure;
use super::input::{self, SecretArgs};
use super::terminal;
use judge::Judge;
use show::{Caught, Style};

/// Receive requests on this machine, and print each
///
/// With a provider and its secret it says of each whether it is genuine and which event it is, and answers the
/// provider's signed handshakes. Whatever comes is accepted. Ends with 0 on SIGINT, SIGTERM, or after --count requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile catch --provider stripe --secret-env WEBHOOK_SECRET
  hookstile catch --listen 127.0.0.1:0 --count 1 --json | jq -r .body")]
pub struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Whose signatures are checked
    #[arg(long, value_name = "NAME", value_parser = input::provider(), requires = "secret")]
    provider: Option<String>,
    /// The environment variable that holds the secret
    #[arg(long, value_name = "VAR", group = "secret", requires = "provider")]
    secret_env: Option<String>,
    /// The file that holds the secret. A newline at its end is dropped
    #[arg(long, value_name = "FILE", group = "secret", requires = "provider")]
    secret_file: Option<PathBuf>,
    /// The URL that the provider signs, where its scheme has that
    #[arg(long, value_name = "URL", requires = "provider")]
    url: Option<String>,
    /// What to answer with
    #[arg(long, value_name = "STATUS", default_value_t = 200, value_parser = clap::value_parser!(u16).range(200..=599))]
    status: u16,
    /// End after so many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object a request
    #[arg(long)]
    json: bool,
}

/// As much as the biggest preset takes, and more.
const BODY_MAX: usize = 32 << 20;
/// Bodies in memory at once: others wait their turn.
const BODIES_MAX: usize = 4;
const BODY_WITHIN: Duration = Duration::from_secs(30);
/// How long answers may take to be written once it is over.
const GRACE: Duration = Duration::from_secs(2);

/// What every request needs.
struct Desk {
    judge: Option<Judge>,
    status: StatusCode,
    /// `None` for JSON.
    style: Option<Style>,
    count: Option<u64>,
    taken: AtomicU64,
    printed: AtomicU64,
    bodies: Semaphore,
    over: watch::Sender<bool>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let caught = Desk::of(args).and_then(|desk| {
        let runtime =
            tokio::runtime::Runtime::new().map_err(|error| Failure::Failed(error.to_string()))?;
        let received = runtime.block_on(receive(args.listen, Arc::new(desk)));
        // Nothing is worth waiting for any more.
        runtime.shutdown_background();
        received
    });
    caught.map_or_else(Failure::exit, |()| ExitCode::SUCCESS)
}

async fn receive(address: SocketAddr, desk: Arc<Desk>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("cannot listen on {address}: {error}"));
    let (mut interrupted, mut terminated) = (
        signal(SignalKind::interrupt()).map_err(failed)?,
        signal(SignalKind::terminate()).map_err(failed)?,
    );
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    terminal::tell(&format!("listening on http://{address}"));
    if !address.ip().is_loopback() {
        terminal::tell("this is not this machine alone: whoever reaches the address is answered");
    }
    let router = Router::new().fallback(take).with_state(Arc::clone(&desk));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let [mut over, mut over_since] = [desk.over.subscribe(), desk.over.subscribe()];
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
        let _ = over.wait_for(|over| *over).await;
    });
    let giving_up = async {
        let _ = over_since.wait_for(|over| *over).await;
        sleep(GRACE).await;
    };
    let signalled = async {
        tokio::select! { _ = interrupted.recv() => {} _ = terminated.recv() => {} }
        desk.over.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => served.map_err(failed),
        () = giving_up => Ok(()),
        () = signalled => Ok(()),
    }
}

async fn take(
    State(desk): State<Arc<Desk>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let at = Timestamp::now();
    if desk
        .count
        .is_some_and(|count| desk.taken.fetch_add(1, Ordering::SeqCst) >= count)
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (head, body) = request.into_parts();
    // Never closed, so that only the end of the program keeps a request from its turn.
    let turn = desk.bodies.acquire().await;
    let body = match timeout(BODY_WITHIN, to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    };
    let verdict = desk.judge.as_ref().zip(body.as_ref().ok());
    let verdict = verdict.map(|(judge, body)| judge.verdict(&head.headers, body, at));
    let caught = Caught {
        at,
        peer,
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body,
        verdict,
    };
    desk.print(&caught);
    drop(turn);
    if Some(desk.printed.fetch_add(1, Ordering::SeqCst) + 1) == desk.count {
        desk.over.send_replace(true);
    }
    desk.answer(&caught)
}

impl Desk {
    fn of(args: &Args) -> Result<Self, Failure> {
        let secret = SecretArgs {
            secret_env: args.secret_env.clone(),
            secret_file: args.secret_file.clone(),
        };
        let judge = match &args.provider {
            Some(provider) => Some(Judge::of(provider, &secret, args.url.as_deref())?),
            None => None,
        };
        let status =
            StatusCode::from_u16(args.status).map_err(|error| Failure::Usage(error.to_string()))?;
        let style = if terminal::takes_colour(&io::stdout()) {
            Style::Coloured
        } else {
            Style::Plain
        };
        Ok(Self {
            judge,
            status,
            style: (!args.json).then_some(style),
            count: args.count,
            taken: AtomicU64::new(0),
            printed: AtomicU64::new(0),
            bodies: Semaphore::new(BODIES_MAX),
            over: watch::Sender::new(false),
        })
    }

    /// It is over when nobody reads any more.
    fn print(&self, caught: &Caught) {
        let text = self
            .style
            .map_or_else(|| caught.to_json() + "\n", |style| caught.to_text(style));
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            if error.kind() != io::ErrorKind::BrokenPipe {
                terminal::tell(&format!("cannot write: {error}"));
            }
            self.over.send_replace(true);
        }
    }

    fn answer(&self, caught: &Caught) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        if let Err(status) = caught.body {
            return (status, json, r#"{"received":false}"#).into_response();
        }
        if let Some(reply) = caught
            .verdict
            .as_ref()
            .and_then(|verdict| verdict.handshake.clone())
        {
            let kind = [(header::CONTENT_TYPE, reply.content_type)];
            return (reply.status, kind, Body::from(reply.body)).into_response();
        }
        match self.status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
                self.status.into_response()
            }
            status => (status, json, r#"{"received":true}"#).into_response(),
        }
    }
}
