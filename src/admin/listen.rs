//! Connections to the admin listener: limited in number and in time, and closed when they send or
//! read too slowly.
//!
//! They share the process's file descriptors with senders, and are open before a token is checked.
//! Health checks are answered however many connections are open, because an orchestrator restarts a
//! gateway that does not answer them.

mod places;
mod write_deadline;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tower::ServiceExt as _;

use super::auth::ConnectionAddrs;
use super::error::ApiError;
use super::http::BODY_BYTES_MAX;
use places::{PlaceKind, Places};
use write_deadline::WriteDeadline;

pub(super) use places::Place;

/// The time in which a head, and then a body, must arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The time in which the client must accept some part of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The time for the response in flight when a connection's time is over.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The bytes of a connection that are read before they are parsed, and so the largest head.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;

/// The pause after a failed accept: most likely, the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The least time between two log lines about a failed accept.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until the process ends, on the last of the sockets from `others` once there is
/// one. With `checks_owner`, looks up the user of each.
pub(super) async fn run(
    mut listener: TcpListener,
    mut others: mpsc::Receiver<std::net::TcpListener>,
    router: Router,
    checks_owner: bool,
) -> ! {
    let places = Arc::new(Places::default());
    let mut warned_at: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(other) = others.recv() => {
                match TcpListener::from_std(other) {
                    Ok(other) => listener = other,
                    Err(error) => tracing::error!(%error, "admin listener: not moved"),
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = Arc::new(places.assign(peer.ip(), Instant::now()));
                let router = router.clone();
                tokio::spawn(serve_connection(stream, place, router, checks_owner));
            }
            Err(error) => {
                if warned_at.is_none_or(|at| at.elapsed() >= WARNING_INTERVAL) {
                    tracing::warn!(%error, "admin listener: accept failed");
                    warned_at = Some(Instant::now());
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    place: Arc<Place>,
    router: Router,
    checks_owner: bool,
) {
    let Some(addrs) = ConnectionAddrs::from_stream(&stream, checks_owner).await else {
        return;
    };
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(addrs));
        extensions.insert(Arc::clone(&place));
        let (router, kind) = (router.clone(), place.kind());
        async move {
            if kind == PlaceKind::Health && !matches!(request.uri().path(), "/healthz" | "/readyz")
            {
                return Ok::<Response, Infallible>(ApiError::Busy.into_response());
            }
            let request = match read_body(request).await {
                Ok(request) => request,
                Err(error) => return Ok(error.into_response()),
            };
            router.oneshot(request).await
        }
    });
    let stream = TokioIo::new(WriteDeadline::new(stream, WRITE_TIMEOUT));
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .keep_alive(place.kind() == PlaceKind::Any);
    let mut connection = pin!(connection.serve_connection(stream, service));
    // An error of a connection is the client's: it broke the protocol or hung up.
    while let Some(end) = place.end().filter(|end| Instant::now() < *end) {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = place.displaced() => return,
            () = sleep_until(end.into()) => {}
        }
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        _ = timeout(LAST_RESPONSE_TIMEOUT, connection.as_mut()) => {}
        () = place.displaced() => {}
    }
}

/// Reads a request's body into memory.
async fn read_body(request: Request) -> Result<Request, ApiError> {
    let (parts, body) = request.into_parts();
    match timeout(READ_TIMEOUT, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body.into())),
        Ok(Err(_)) => Err(ApiError::BodyTooLarge),
        Err(_) => Err(ApiError::BodyTimeout),
    }
}
