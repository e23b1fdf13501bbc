//! The admin listener: health, readiness and metrics, apart from the data plane.
//!
//! It has a thread and a runtime of its own, so that it answers when the data plane is busy, and the data plane never
//! serves its paths.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::Store;

/// What the admin listener tells about.
#[derive(Clone)]
pub struct Subject {
    pub metrics: Arc<Metrics>,
    pub store: Store,
    pub queue: Arc<Queue>,
    /// `true` from the signal to stop on.
    pub draining: watch::Receiver<bool>,
}

/// Serves on `listener` until the process ends.
///
/// # Errors
/// When the thread or its runtime can't be started.
pub fn start(listener: std::net::TcpListener, subject: Subject) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            let served = match TcpListener::from_std(listener) {
                Ok(listener) => axum::serve(listener, router(subject)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                tracing::error!(%error, "the admin listener ended");
            }
        });
    })?;
    Ok(address)
}

fn router(subject: Subject) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(subject)
}

/// Whether to send us requests: not while draining, nor while events can't be recorded. The upstreams don't matter;
/// a gateway in front of a broken one still has to answer.
async fn readyz(State(subject): State<Subject>) -> (StatusCode, String) {
    if *subject.draining.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into());
    }
    match subject.store.check_open() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn metrics(State(subject): State<Subject>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        subject.queue.tell();
        subject.metrics.render(subject.store.ids(), subject.store.bytes())
    });
    match rendered.await.unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string()))) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
