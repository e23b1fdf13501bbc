//! Connections to the admin listener: so many at once, and none that keeps its place by sending slowly.
//!
//! They share the process's descriptors with senders, and most of what is sent here comes before the token is looked at.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::auth::Ends;
use super::problem::Problem;
use super::rest::BODY_BYTES_MAX;

/// More than operators, their pages and Prometheus have.
const CONNECTIONS: usize = 256;

/// For a head, and then for a body, to arrive.
const ARRIVES_WITHIN: Duration = Duration::from_secs(10);

/// After an error of the system: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until the process ends.
pub(super) async fn serve(listener: TcpListener, router: Router) -> ! {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed. Who comes meanwhile waits in the system's own queue.
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _place = place;
                    answer(stream, router).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener could not take a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let Some(ends) = Ends::of(&stream) else {
        return;
    };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(ends));
        let router = router.clone();
        async move {
            let request = match arrived(request).await {
                Ok(request) => request,
                Err(problem) => return Ok::<Response, Infallible>(problem.into_response()),
            };
            router.oneshot(request).await
        }
    });
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .header_read_timeout(ARRIVES_WITHIN);
    // A sender that breaks off is its own business.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The request with its body, which is small here whatever is asked for.
async fn arrived(request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    match timeout(ARRIVES_WITHIN, to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(body)) => Ok(Request::from_parts(parts, body.into())),
        Ok(Err(_)) => Err(Problem::BodyTooLarge),
        Err(_) => Err(Problem::BodyTimeout),
    }
}
