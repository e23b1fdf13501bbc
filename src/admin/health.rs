//! Liveness, readiness and metrics, for machines.

use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::AdminState;

/// Returns the routes, which need no token and accept any `Host`: orchestrators and Prometheus use
/// addresses of their own.
pub(super) fn routes() -> OpenApiRouter<AdminState> {
    OpenApiRouter::default()
        .routes(routes!(healthz))
        .routes(routes!(readyz))
        .routes(routes!(metrics))
}

/// Reports that the process is alive.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "health",
    responses((status = 200, description = "The process is alive.", body = String))
)]
async fn healthz() -> &'static str {
    "ok\n"
}

/// Reports whether requests should be sent to this gateway.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    responses(
        (status = 200, description = "The gateway takes events.", body = String),
        (status = 503, description = "It does not; the body says why.", body = String),
    )
)]
async fn readyz(State(state): State<AdminState>) -> (StatusCode, String) {
    match state.check_ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

/// Returns the metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    responses(
        (status = 200, description = "The metrics in the text format.", body = String),
        (status = 500, description = "The metrics cannot be rendered.", body = String),
    )
)]
async fn metrics(State(state): State<AdminState>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        state.queue.update_gauges();
        state.activity.sample(Instant::now());
        state
            .metrics
            .render(state.store.remembered_ids(), state.store.size_bytes())
    });
    match rendered
        .await
        .unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string())))
    {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
