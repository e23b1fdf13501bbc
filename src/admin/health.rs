//! What machines ask: whether we live, whether to send us requests, and the metrics.

use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AdminState;

/// Open to anybody, under any name: orchestrators and Prometheus ask by addresses of their own.
pub(super) fn routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::default()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

impl AdminState {
    /// Whether to send us requests: not while draining, nor while events can't be recorded. The upstreams don't matter;
    /// a gateway in front of a broken one still has to answer.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        if *self.draining.borrow() {
            return Err("draining".into());
        }
        self.store.check_open().map_err(|error| error.to_string())
    }
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, description = "It does.", body = String)))]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether to send it requests.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "Yes.", body = String),
        (status = 503, description = "No, and why not.", body = String),
    )
)]
async fn readyz(State(subject): State<AdminState>) -> (StatusCode, String) {
    match subject.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// The metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses(
        (status = 200, description = "In the text format.", body = String),
        (status = 500, description = "They can't be written.", body = String),
    )
)]
async fn metrics(State(subject): State<AdminState>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        subject.queue.update_gauges();
        subject.watch.sample(Instant::now());
        subject
            .metrics
            .render(subject.store.remembered_ids(), subject.store.size_bytes())
    });
    match rendered
        .await
        .unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string())))
    {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
