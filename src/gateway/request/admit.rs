//! Step 2: decides on the head alone whether a request may proceed.

use super::client_address::Forwarded;
use super::exchange::Exchange;
use super::{handshake, head};
use crate::gateway::Gateway;
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;

impl Gateway {
    /// Checks the method, the state of the route, the headers it reads, the sender's address and
    /// the rate, in this order. Returns the outcome of a handshake that its query completes.
    ///
    /// # Errors
    /// `method_not_allowed`, `inactive`, `malformed_request`, `forbidden_address`, `rate_limited`,
    /// or `invalid_signature` for a handshake with the wrong token.
    pub(super) fn admit(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
    ) -> Result<Option<Outcome>, Rejection> {
        let route = matched.route;
        let request = exchange.session.req_header();
        let handshake = handshake::answer_query(route, request, exchange.received_at);
        if handshake.is_none() && !route.methods.contains(&request.method) {
            return Err(Rejection::MethodNotAllowed(route.methods.clone()));
        }
        if !route.active {
            return Err(Rejection::Inactive);
        }
        head::check_route_headers(&request.headers, route)?;
        exchange.forwarded = Forwarded::from_headers(
            exchange.peer,
            &request.headers,
            &self.limits.trusted_proxies,
        );
        exchange.log_line.peer = Some(exchange.forwarded.client);
        route.admission.admit(exchange.forwarded.client)?;
        handshake.transpose()
    }
}
