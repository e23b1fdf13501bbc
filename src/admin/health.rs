//! What machines ask: whether we live, whether to send us requests, and the metrics.

use std::time::Instant;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::Subject;

impl Subject {
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

pub(super) async fn readyz(State(subject): State<Subject>) -> (StatusCode, String) {
    match subject.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".into()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

pub(super) async fn metrics(State(subject): State<Subject>) -> Response {
    let rendered = tokio::task::spawn_blocking(move || {
        subject.queue.tell();
        subject.watch.look(Instant::now());
        subject.metrics.render(subject.store.ids(), subject.store.bytes())
    });
    match rendered.await.unwrap_or_else(|error| Err(prometheus::Error::Msg(error.to_string()))) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
