//! Step 2: decides on the head alone whether a request may proceed.

use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::BytesMut;
use tokio::time::timeout_at;

use super::client_address::{Forwarded, X_FORWARDED_FOR};
use super::exchange::Exchange;
use super::head::MalformedHead;
use super::{handshake, head};
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;
use crate::gateway::{Gateway, RouteSnapshot, address};
use crate::route::DeliveryMode;

impl Gateway {
    /// Checks the state of the route, the method, the headers it reads and the sender's address, in
    /// this order. Returns the outcome of a probe, or of a handshake that its query completes.
    ///
    /// # Errors
    /// `inactive`, `method_not_allowed`, `malformed_request`, `forbidden_address`, `rate_limited`,
    /// or `invalid_signature` for a handshake with the wrong token.
    pub(super) async fn admit(
        &self,
        exchange: &mut Exchange<'_>,
        routes: &RouteSnapshot,
        matched: MatchedRoute<'_>,
    ) -> Result<Option<Outcome>, Rejection> {
        let route = matched.route;
        let request = exchange.session.req_header();
        if !route.active {
            return Err(Rejection::Inactive);
        }
        if route.delivery_mode == DeliveryMode::Proxy && route.is_paused() {
            return Err(Rejection::Paused);
        }
        let mut handshake = handshake::answer_query(route, request, exchange.received_at);
        let accepts_body = route.methods.contains(&request.method);
        if handshake.is_none() && !accepts_body {
            let Some(probe) = route.probe(&request.method) else {
                return Err(Rejection::MethodNotAllowed(route.allowed_methods()));
            };
            handshake = Some(Ok(Outcome::probed(probe, route)));
        }
        if !accepts_body && has_body(exchange, exchange.deadline(route)).await {
            return Err(Rejection::MalformedRequest(MalformedHead::Body));
        }
        let request = exchange.session.req_header();
        head::check_route_headers(&request.headers, route)?;
        exchange.forwarded = Forwarded::from_headers(
            exchange.peer,
            &request.headers,
            &routes.limits().trusted_proxies,
        );
        exchange.log_line.peer = address::known(exchange.forwarded.client);
        if !exchange.forwarded.from_trusted_proxy {
            self.warn_of_untrusted_proxy(exchange);
        }
        route.admission.admit(exchange.forwarded.client)?;
        if let Some(Err(Rejection::InvalidSignature(failure))) = &handshake {
            exchange.count_unverified(matched, *failure)?;
        }
        handshake.transpose()
    }
}

impl Gateway {
    /// Warns once about a proxy that may be missing in `trusted_proxies`.
    fn warn_of_untrusted_proxy(&self, exchange: &Exchange<'_>) {
        let headers = &exchange.session.req_header().headers;
        if self.warned_of_proxy.load(Ordering::Relaxed) || !headers.contains_key(X_FORWARDED_FOR) {
            return;
        }
        if !self.warned_of_proxy.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = address::shown(exchange.peer),
                "X-Forwarded-For is ignored, because its sender is not in `trusted_proxies`: if \
                 this is your proxy, add it; otherwise all its clients count as one, in limits \
                 and for `allow_from`; this is logged once"
            );
        }
    }
}

/// Returns whether the request has a body, or might have one. Some recipients ignore the body of a
/// GET, HEAD or OPTIONS and read it as the next request (RFC 9110 §9.3.1).
async fn has_body(exchange: &mut Exchange<'_>, deadline: Instant) -> bool {
    let Exchange { session, head, .. } = exchange;
    if head.chunked || head.content_length.is_some_and(|length| length > 0) {
        return true;
    }
    if !session.is_http2() || session.is_body_done() {
        return false;
    }
    // Over HTTP/2 the end of the request may follow in an empty frame.
    let read = session.read_request_body(BytesMut::new());
    match timeout_at(deadline.into(), read).await {
        Ok(Ok(chunk)) => chunk.is_some_and(|chunk| !chunk.is_empty()),
        Ok(Err(_)) | Err(_) => true,
    }
}
