//! Liveness, readiness and metrics, for machines.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
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
    request: HeaderMap,
) -> Response {
    let headers = [
        (header::CONTENT_TYPE, prometheus::TEXT_FORMAT),
        (header::VARY, "accept-encoding"),
    ];
    let is_compressed = accepts_gzip(&request);
    let compressed = [(header::CONTENT_ENCODING, "gzip")];
    match page.fresh(state).await {
        Ok(page) if is_compressed => (headers, compressed, page.gzip).into_response(),
        Ok(page) => (headers, page.text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// Returns whether a client wants its response compressed, as Prometheus does (RFC 9110 §12.5.3).
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().trim_start_matches("q=");
        name.trim().eq_ignore_ascii_case("gzip")
            && (weight.is_empty() || weight.parse().is_ok_and(|weight: f32| weight > 0.0))
    })
}

/// Compresses a page as fast as possible: it is read on the same machine or network.
fn gzip(text: &str) -> io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes())?;
    Ok(encoder.finish()?.into())
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

/// A rendering of the metrics, in both codings.
#[derive(Clone)]
struct Page {
    text: Bytes,
    gzip: Bytes,
}

struct Rendered {
    page: Page,
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
    async fn fresh(&self, state: AdminState) -> Result<Page, prometheus::Error> {
        let called = Instant::now();
        let mut last = self.0.lock().await;
        if let Some(rendered) = last.as_ref().filter(|rendered| called <= rendered.at) {
            return Ok(rendered.page.clone());
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
            let metrics = &state.metrics;
            let text = metrics.render(state.store.remembered_ids(), state.store.size_bytes())?;
            let gzip = gzip(&text).map_err(|error| prometheus::Error::Msg(error.to_string()))?;
            let text = text.into();
            Ok(Page { text, gzip })
        });
        let page = rendered
            .await
            .unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string())))?;
        *last = Some(Rendered {
            page: page.clone(),
            at,
            paid_until: paid_until.map_or(at, |until| until.max(at)) + RENDER_INTERVAL,
        });
        Ok(page)
    }
}
