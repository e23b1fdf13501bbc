//! The last step: counts, writes and logs the response.

use std::time::Instant;

use http::{HeaderValue, StatusCode};
use pingora_core::server::ShutdownWatch;

use super::exchange::Exchange;
use crate::activity::{self, RejectionKind};
use crate::gateway::Gateway;
use crate::gateway::listener::wait::shutdown_wait;
use crate::gateway::response::{Outcome, Response};
use crate::limits::Reservation;
use crate::outcome::Code;

/// The characters of a path or a method that are logged at most.
const LOGGED_CHARACTERS_MAX: usize = 256;

impl Gateway {
    /// Counts, writes and logs the response. Returns whether it was written completely. A sender
    /// that does not read has half a second during a stop, which waits for verified requests.
    pub(super) async fn respond(
        &self,
        exchange: &mut Exchange<'_>,
        memory: &mut Reservation<'_>,
        outcome: Outcome,
        shutdown: &ShutdownWatch,
    ) -> bool {
        let (code, reason) = (outcome.code(), outcome.reason());
        let is_sampled = outcome.is_at_will();
        let is_empty = exchange
            .matched
            .is_some_and(|matched| matched.route.empty_responses);
        let event_id = exchange.log_line.event_id.as_deref();
        let response = Response::new(outcome, event_id, is_empty);
        let status = response
            .as_ref()
            .map_or(StatusCode::BAD_GATEWAY, Response::status);
        let requests = exchange
            .matched
            .map_or(&self.metrics.unmatched, |matched| &matched.metrics.requests);
        // Counted before the response leaves, so that its reader finds it counted.
        requests.count_response(code, status);
        if code.is_listed() {
            self.record_rejection(exchange, RejectionKind { code, reason }, status);
        }
        let written = match response {
            Ok(response) => {
                let (deadline, holder) = (exchange.response_deadline(), exchange.holder());
                memory.answering(response.body_bytes());
                // A displaced request has one try: its sender may not read the response.
                let written = response.write(exchange.session, deadline);
                tokio::select! {
                    biased;
                    written = memory.until_displaced(holder, written) => written == Ok(true),
                    () = shutdown_wait(shutdown) => false,
                }
            }
            Err(error) => {
                tracing::error!(%error, "response could not be built");
                false
            }
        };
        let duration = exchange.first_byte.elapsed();
        requests.observe_duration(duration);
        if let Some(suppressed) = self.sample_log_line(exchange, code, reason, is_sampled) {
            add_target(exchange, code);
            exchange
                .log_line
                .write_line(code, reason, status.as_u16(), duration, suppressed);
        }
        written
    }

    /// Returns whether the request's log line is to be written: if so, the number of lines like it
    /// that were suppressed before.
    fn sample_log_line(
        &self,
        exchange: &Exchange<'_>,
        code: Code,
        reason: Option<&'static str>,
        is_sampled: bool,
    ) -> Option<u64> {
        if !is_sampled {
            return Some(0);
        }
        let kind = reason.unwrap_or(code.as_str());
        let route = exchange.log_line.route.as_ref();
        self.log_sampler.admit(route, kind, Instant::now())
    }

    /// Records a request that was not delivered in the activity of its route, or of requests
    /// without a route.
    fn record_rejection(&self, exchange: &Exchange<'_>, kind: RejectionKind, status: StatusCode) {
        let at = self.clock.wall();
        let activity = exchange
            .matched
            .map_or(self.activity.unmatched(), |matched| matched.activity);
        activity.rejections.record(kind, at, self.clock.now(), || {
            let log_line = &exchange.log_line;
            let rejection = activity::Rejection {
                at,
                kind,
                status: status.as_u16(),
                method: Box::default(),
                path: Box::default(),
                peer: log_line.peer,
                body_bytes: log_line.body_bytes,
                trace_id: log_line.trace_id.clone(),
                user_agent: None,
                event_id: log_line.event_id.clone(),
                event_type: log_line.event_type.clone(),
            };
            if !exchange.has_head {
                return rejection;
            }
            let request = exchange.session.req_header();
            let user_agent = request
                .headers
                .get(http::header::USER_AGENT)
                .map(HeaderValue::as_bytes);
            rejection.of_request(request.method.as_str(), request.uri.path(), user_agent)
        });
    }
}

/// Adds to the log line what the request asked for, where that is what was wrong with it.
fn add_target(exchange: &mut Exchange<'_>, code: Code) {
    if !exchange.has_head {
        return;
    }
    let request = exchange.session.req_header();
    let cut = |text: &str| text.chars().take(LOGGED_CHARACTERS_MAX).collect::<String>();
    match code {
        Code::UnknownRoute => {
            exchange.log_line.path = Some(cut(request.uri.path()).into());
        }
        Code::MethodNotAllowed => {
            exchange.log_line.method = Some(cut(request.method.as_str()).into());
        }
        _ => {}
    }
}
