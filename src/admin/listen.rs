//! Connections to the admin listener: limited in number, and closed when they send too slowly.
//!
//! They share the process's file descriptors with senders, and most of what arrives here arrives
//! before a token is checked.

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

use super::auth::ConnectionAddrs;
use super::error::ApiError;
use super::http::BODY_BYTES_MAX;

/// The most connections at once: more than operators, their pages and Prometheus open.
const CONNECTIONS_MAX: usize = 256;

/// The time in which a head, and then a body, must arrive.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after a failed accept: most likely, the process is out of descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts connections until the process ends.
pub(super) async fn run(listener: TcpListener, router: Router) -> ! {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed. Further connections wait in the system's accept queue.
        let permit = Arc::clone(&permits).acquire_owned().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    let _permit = permit;
                    serve_connection(stream, router).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin listener: accept failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router) {
    let Some(addrs) = ConnectionAddrs::from_stream(&stream) else {
        return;
    };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(addrs));
        let router = router.clone();
        async move {
            let request = match read_body(request).await {
                Ok(request) => request,
                Err(error) => return Ok::<Response, Infallible>(error.into_response()),
            };
            router.oneshot(request).await
        }
    });
    let mut connection = http1::Builder::new();
    connection
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT);
    // An error is the client's: it broke the protocol or hung up.
    let _ = connection
        .serve_connection(TokioIo::new(stream), service)
        .await;
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
