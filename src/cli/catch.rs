//! `hookstile catch`: a local receiver that prints each request.

mod show;
mod verifier;

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

use super::admin::CommandError;
use super::input::{self, SecretArgs};
use super::terminal;
use show::{ReceivedRequest, Style};
use verifier::RequestVerifier;

/// Receive requests on this machine and print each one
///
/// With --provider and a secret, verifies each request, shows its event and answers the provider's
/// signed handshakes. Every request is accepted, verified or not. Exits with 0 on SIGINT or
/// SIGTERM, or after --count requests.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hookstile catch --provider stripe --secret-env WEBHOOK_SECRET
  hookstile catch --listen 127.0.0.1:0 --count 1 --json | jq -r .body")]
pub struct Args {
    /// Address to listen on; with port 0, any free port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4000")]
    listen: SocketAddr,
    /// Provider whose signatures to verify
    #[arg(long, value_name = "NAME", value_parser = input::provider_names(), requires = "secret")]
    provider: Option<String>,
    /// Environment variable that holds the secret
    #[arg(long, value_name = "VAR", group = "secret", requires = "provider")]
    secret_env: Option<String>,
    /// File that holds the secret; a trailing newline is ignored
    #[arg(long, value_name = "FILE", group = "secret", requires = "provider")]
    secret_file: Option<PathBuf>,
    /// URL that the provider signs, if its scheme signs one
    #[arg(long, value_name = "URL", requires = "provider")]
    url: Option<String>,
    /// Status to respond with
    #[arg(
        long,
        value_name = "STATUS",
        default_value_t = 200,
        value_parser = clap::value_parser!(u16).range(200..=599)
    )]
    status: u16,
    /// Exit after this many requests
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print one JSON object per request
    #[arg(long)]
    json: bool,
}

/// 32 MiB, more than any preset accepts.
const BODY_MAX: usize = 32 << 20;
/// Bodies in memory at once. Further requests wait.
const BODIES_MAX: usize = 4;
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The time that responses may take to be written after the last request.
const GRACE: Duration = Duration::from_secs(2);

/// The state that all requests share.
struct Receiver {
    verifier: Option<RequestVerifier>,
    status: StatusCode,
    /// The style of text output; `None` for JSON.
    style: Option<Style>,
    count: Option<u64>,
    started: AtomicU64,
    printed: AtomicU64,
    bodies: Semaphore,
    finished: watch::Sender<bool>,
}

pub(super) fn run(args: &Args) -> ExitCode {
    let result = Receiver::new(args).and_then(|receiver| {
        let runtime = tokio::runtime::Runtime::new()
            .map_err(|error| CommandError::Failed(error.to_string()))?;
        let result = runtime.block_on(receive(args.listen, Arc::new(receiver)));
        // Do not wait for connections that are still open.
        runtime.shutdown_background();
        result
    });
    result.map_or_else(|error| error.exit_with(args.json), |()| ExitCode::SUCCESS)
}

async fn receive(address: SocketAddr, receiver: Arc<Receiver>) -> Result<(), CommandError> {
    let failed =
        |error: io::Error| CommandError::Failed(format!("cannot listen on {address}: {error}"));
    let (mut interrupted, mut terminated) = (
        signal(SignalKind::interrupt()).map_err(failed)?,
        signal(SignalKind::terminate()).map_err(failed)?,
    );
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    terminal::print_message(&format!("listening on http://{address}"));
    if !address.ip().is_loopback() {
        terminal::print_message(
            "warning: this address accepts requests from other machines, not only from this one",
        );
    }
    let router = Router::new()
        .fallback(handle)
        .with_state(Arc::clone(&receiver));
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let [mut finished, mut grace_start] =
        [receiver.finished.subscribe(), receiver.finished.subscribe()];
    let serving = axum::serve(listener, service).with_graceful_shutdown(async move {
        let _ = finished.wait_for(|finished| *finished).await;
    });
    let grace_over = async {
        let _ = grace_start.wait_for(|finished| *finished).await;
        sleep(GRACE).await;
    };
    let signalled = async {
        tokio::select! { _ = interrupted.recv() => {} _ = terminated.recv() => {} }
        receiver.finished.send_replace(true);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serving => served.map_err(failed),
        () = grace_over => Ok(()),
        () = signalled => Ok(()),
    }
}

async fn handle(
    State(receiver): State<Arc<Receiver>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let at = Timestamp::now();
    if receiver
        .count
        .is_some_and(|count| receiver.started.fetch_add(1, Ordering::SeqCst) >= count)
    {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let (head, body) = request.into_parts();
    // The semaphore is never closed, so this fails only when the program ends.
    let permit = receiver.bodies.acquire().await;
    let body = match timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    };
    let checkable = receiver.verifier.as_ref().zip(body.as_ref().ok());
    let verification = checkable.map(|(verifier, body)| verifier.verify(&head.headers, body, at));
    let shown = ReceivedRequest {
        at,
        peer,
        method: head.method.to_string(),
        target: head.uri.to_string(),
        headers: head.headers,
        body,
        verification,
    };
    receiver.print(&shown);
    drop(permit);
    if Some(receiver.printed.fetch_add(1, Ordering::SeqCst) + 1) == receiver.count {
        receiver.finished.send_replace(true);
    }
    receiver.respond(&shown)
}

impl Receiver {
    fn new(args: &Args) -> Result<Self, CommandError> {
        let secret = SecretArgs {
            secret_env: args.secret_env.clone(),
            secret_file: args.secret_file.clone(),
        };
        let verifier = match &args.provider {
            Some(provider) => Some(RequestVerifier::new(
                provider,
                &secret,
                args.url.as_deref(),
            )?),
            None => None,
        };
        let status = StatusCode::from_u16(args.status)
            .map_err(|error| CommandError::Usage(error.to_string()))?;
        let style = if terminal::supports_colour(&io::stdout()) {
            Style::Coloured
        } else {
            Style::Plain
        };
        Ok(Self {
            verifier,
            status,
            style: (!args.json).then_some(style),
            count: args.count,
            started: AtomicU64::new(0),
            printed: AtomicU64::new(0),
            bodies: Semaphore::new(BODIES_MAX),
            finished: watch::Sender::new(false),
        })
    }

    /// Prints a request. Stops the receiver if standard output is closed.
    fn print(&self, received: &ReceivedRequest) {
        let text = self.style.map_or_else(
            || received.to_json() + "\n",
            |style| received.to_text(style),
        );
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout
            .write_all(text.as_bytes())
            .and_then(|()| stdout.flush())
        {
            if error.kind() != io::ErrorKind::BrokenPipe {
                terminal::print_message(&format!("cannot write to standard output: {error}"));
            }
            self.finished.send_replace(true);
        }
    }

    fn respond(&self, received: &ReceivedRequest) -> Response {
        let json = [(header::CONTENT_TYPE, "application/json")];
        if let Err(status) = received.body {
            return (status, json, r#"{"received":false}"#).into_response();
        }
        if let Some(reply) = received
            .verification
            .as_ref()
            .and_then(|verdict| verdict.handshake.clone())
        {
            let content_type = [(header::CONTENT_TYPE, reply.content_type)];
            return (reply.status, content_type, Body::from(reply.body)).into_response();
        }
        match self.status {
            StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
                self.status.into_response()
            }
            status => (status, json, r#"{"received":true}"#).into_response(),
        }
    }
}
