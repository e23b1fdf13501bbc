//! The last step: counts, writes and logs the response.

use std::borrow::Cow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use jiff::Timestamp;
use pingora_core::server::ShutdownWatch;
use pingora_http::RequestHeader;

use super::exchange::Exchange;
use crate::activity::{CapturedRequest, Rejection, RejectionKind, RouteActivity, SentHeader};
use crate::explain::Request;
use crate::gateway::Gateway;
use crate::gateway::explainer::RejectedRequest;
use crate::gateway::listener::wait::shutdown_wait;
use crate::gateway::response::{Outcome, Response};
use crate::limits::Reservation;
use crate::outcome::Code;
use crate::signature::Unverified;

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
        if let Some(matched) = exchange.matched.filter(|_| code.is_rejection()) {
            self.enter_rejection(exchange, matched.activity, code);
        }
        if let Some(matched) = exchange.matched.filter(|_| code.is_verified())
            && exchange.log_line.unverified.is_some()
        {
            matched.activity.rejections.enter_let_pass();
        }
        // Counted before the response leaves, so that its reader finds it counted.
        requests.count_response(code, status);
        // A request that was let pass may have been rejected for another reason since.
        let let_pass = exchange.let_pass.take().filter(|_| !code.is_rejection());
        if let Some(unverified) = let_pass {
            self.record_let_pass(exchange, &unverified, status);
        } else if code.is_listed() {
            let kind = RejectionKind {
                code,
                reason,
                let_pass: false,
            };
            self.record_rejection(exchange, kind, status);
        }
        let written = match response {
            Ok(response) => {
                let (deadline, holder) = (exchange.response_deadline(), exchange.holder());
                memory.answering(response.body_bytes());
                // A displaced request has one try: its sender may not read the response.
                let written = pin!(response.write(&mut exchange.session, deadline));
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
        let now = Instant::now();
        let duration = now.saturating_duration_since(exchange.first_byte);
        requests.observe_duration(duration);
        let suppressed = if is_sampled {
            self.sample_log_line(exchange, code, reason, now)
        } else {
            Some(0)
        };
        if let Some(suppressed) = suppressed {
            add_target(exchange, code);
            exchange
                .log_line
                .write_line(code, reason, status.as_u16(), duration, suppressed);
        }
        written
    }

    /// Returns whether the log line of a request that is sampled is to be written at `now`: if so,
    /// the number of lines like it that were suppressed before.
    fn sample_log_line(
        &self,
        exchange: &Exchange<'_>,
        code: Code,
        reason: Option<&'static str>,
        now: Instant,
    ) -> Option<u64> {
        let kind = reason.unwrap_or(code.as_str());
        let route = exchange.log_line.route.as_ref();
        self.log_sampler.admit(route, kind, now)
    }

    /// Enters a rejection with its time, so that what is counted is known to have begun then.
    fn enter_rejection(&self, exchange: &Exchange<'_>, activity: &RouteActivity, code: Code) {
        let is_familiar = activity
            .sender
            .as_ref()
            .is_some_and(|sender| sender.clients.knows(exchange.holder()));
        activity
            .rejections
            .enter(code, self.clock.wall(), is_familiar);
    }

    /// Records a request that did not verify and was let pass, as verification would have rejected
    /// it. `status` is what its sender gets.
    fn record_let_pass(
        &self,
        exchange: &mut Exchange<'_>,
        unverified: &Unverified,
        status: StatusCode,
    ) {
        exchange.rejected_body = Some(unverified.body().clone());
        let kind = RejectionKind {
            code: Code::InvalidSignature,
            reason: Some(unverified.failure().label()),
            let_pass: true,
        };
        self.record_rejection(exchange, kind, status);
    }

    /// Records a request that was not delivered in the activity of its route, or of requests
    /// without a route. Captures and explains it, if its whole body is known and its route wants
    /// that.
    fn record_rejection(
        &self,
        exchange: &mut Exchange<'_>,
        kind: RejectionKind,
        status: StatusCode,
    ) {
        let (at, now) = (self.clock.wall(), self.clock.now());
        let Some(matched) = exchange.matched else {
            let describe = || describe(exchange, kind, status, at);
            self.activity
                .unmatched()
                .rejections
                .record(kind, at, now, false, describe);
            return;
        };
        let activity = matched.activity;
        let body = exchange.rejected_body.take();
        let capture_id = body
            .as_ref()
            .filter(|_| matched.route.capture.is_some())
            .and_then(|body| capture(exchange, activity, body, (kind, status), now));
        let body = body.filter(|_| kind.code == Code::InvalidSignature);
        let turn = body
            .as_ref()
            .and_then(|body| self.explainer.begin(activity, body.len(), now));
        let is_kept = turn.is_some() || capture_id.is_some();
        let id = activity
            .rejections
            .record(kind, at, now, is_kept, || Rejection {
                capture_id,
                ..describe(exchange, kind, status, at)
            });
        if let (Some(turn), Some(body)) = (turn, body) {
            let head = exchange.session.req_header();
            let rejected = RejectedRequest {
                route: Arc::clone(matched.route),
                activity: Arc::clone(activity),
                id,
                received_at: exchange.received_at,
                let_pass: kind.let_pass,
                request: Request {
                    target: Some(target(head).into_owned()),
                    headers: head.headers.clone(),
                    // A copy, because the body may be a small part of a large buffer.
                    body: Bytes::copy_from_slice(&body),
                },
            };
            turn.explain(rejected, self.clock.clone());
        }
    }
}

/// Describes a rejected request for the list.
fn describe(
    exchange: &Exchange<'_>,
    kind: RejectionKind,
    status: StatusCode,
    at: Timestamp,
) -> Rejection {
    let log_line = &exchange.log_line;
    let rejection = Rejection {
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
        capture_id: None,
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
}

/// Captures a rejected request, whole. Returns its ID if there was room.
fn capture(
    exchange: &Exchange<'_>,
    activity: &RouteActivity,
    body: &Bytes,
    (kind, status): (RejectionKind, StatusCode),
    now: Instant,
) -> Option<Arc<str>> {
    let head = exchange.session.req_header();
    let id = CapturedRequest::new_id();
    let captured = CapturedRequest {
        id: Arc::clone(&id),
        received_at: exchange.received_at,
        kind,
        status: status.as_u16(),
        method: head.method.as_str().into(),
        target: target(head).into(),
        headers: headers_as_sent(head, exchange.head.host.as_deref()),
        // A copy, because the body may be a small part of a large buffer.
        body: Bytes::copy_from_slice(body),
        peer: exchange.log_line.peer,
        trace_id: exchange.log_line.trace_id.clone(),
    };
    activity.captures.keep(captured, now).then_some(id)
}

/// Returns the target as it was sent.
fn target(head: &RequestHeader) -> Cow<'_, str> {
    String::from_utf8_lossy(head.raw_path())
}

/// Returns the headers in their order, with the names in the case in which they were sent. Over
/// HTTP/2, the host is a pseudo-header field (RFC 9113 §8.3.1), and is added.
fn headers_as_sent(head: &RequestHeader, host: Option<&str>) -> Vec<SentHeader> {
    if head.has_case() {
        return head
            .case_header_iter()
            .map(|(name, value)| SentHeader {
                name: name.as_slice().into(),
                value: value.as_bytes().into(),
            })
            .collect();
    }
    let added = host.filter(|_| !head.headers.contains_key(http::header::HOST));
    let added = added.map(|host| (&b"host"[..], host.as_bytes()));
    let sent = head
        .headers
        .iter()
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    added
        .into_iter()
        .chain(sent)
        .map(|(name, value)| SentHeader {
            name: name.into(),
            value: value.into(),
        })
        .collect()
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
