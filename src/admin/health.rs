//! Liveness, readiness and metrics, for machines.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::state::AdminState;
use crate::metrics::RemovedQueue;
use crate::store::RemovedRoute;

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
        (
            status = 200,
            description = "The gateway takes events. The body names routes that are off line.",
            body = String,
        ),
        (status = 503, description = "It does not; the body says why.", body = String),
    )
)]
async fn readyz(State(state): State<AdminState>) -> (StatusCode, String) {
    match state.check_ready() {
        // The names only: anybody may ask.
        Ok(()) => {
            let mut body = "ready\n".to_owned();
            for route in state.off_line_routes() {
                // Writing to a string does not fail.
                let _ = writeln!(
                    body,
                    "route `{route}` is off line: the file of a secret cannot be read"
                );
            }
            (StatusCode::OK, body)
        }
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
async fn metrics(
    State(state): State<AdminState>,
    Extension(page): Extension<Arc<MetricsPage>>,
) -> Response {
    match page.fresh(state).await {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// The time between two renderings of the metrics under load. One takes milliseconds for many
/// routes, and anybody can ask for it.
const RENDER_INTERVAL: Duration = Duration::from_secs(1);

/// The renderings that may follow each other without that pause, after a time without any: a
/// person, a script and two Prometheus servers together need no more.
const RENDER_BURST: u32 = 10;

/// The metrics as they were last rendered, shared by all that ask at the same time.
#[derive(Default)]
pub(super) struct MetricsPage(Mutex<Option<Rendered>>);

struct Rendered {
    text: Bytes,
    /// The time at which this rendering began.
    at: Instant,
    /// The time up to which renderings are paid for, each with [`RENDER_INTERVAL`].
    paid_until: Instant,
}

/// The time for which a rendering waits for the store.
const STORE_TIMEOUT: Duration = Duration::from_secs(1);

fn removed_queues(routes: &[RemovedRoute]) -> Vec<RemovedQueue> {
    let now = Timestamp::now();
    let age = |at: Timestamp| now.duration_since(at).as_secs_f64().max(0.0);
    let queues = routes.iter().map(|removed| RemovedQueue {
        route: Arc::clone(&removed.route),
        pending: removed.pending,
        dead: removed.dead,
        oldest_seconds: removed.oldest_waiting.map_or(0.0, age),
    });
    queues.collect()
}

impl MetricsPage {
    /// Returns metrics that were rendered after this call. Calls that wait for a rendering share
    /// the next one, so that no response is older than its request.
    async fn fresh(&self, state: AdminState) -> Result<Bytes, prometheus::Error> {
        let called = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(rendered) = last.as_ref().filter(|rendered| called <= rendered.at) {
            return Ok(rendered.text.clone());
        }
        let paid_until = last.as_ref().map(|rendered| rendered.paid_until);
        if let Some(paid_until) = paid_until {
            let due = paid_until.checked_sub(RENDER_INTERVAL * (RENDER_BURST - 1));
            if let Some(due) = due {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        let at = Instant::now();
        // While the store fails or hangs, what is known from before is shown again.
        let removed = timeout(STORE_TIMEOUT, state.store.removed_routes()).await;
        let removed = removed.ok().and_then(Result::ok);
        let rendered = tokio::task::spawn_blocking(move || {
            state.queue.update_gauges();
            if let Some(removed) = removed {
                state.metrics.set_removed_queues(&removed_queues(&removed));
            }
            state.activity.sample(Instant::now());
            state
                .metrics
                .render(state.store.remembered_ids(), state.store.size_bytes())
        });
        let text = rendered
            .await
            .unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string())))?;
        let text = Bytes::from(text);
        *last = Some(Rendered {
            text: text.clone(),
            at,
            paid_until: paid_until.map_or(at, |until| until.max(at)) + RENDER_INTERVAL,
        });
        Ok(text)
    }
}
