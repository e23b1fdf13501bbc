//! Step 1: checks the head and finds the route for its host and path.

use super::exchange::Exchange;
use super::head::{self, Head};
use crate::gateway::RouteSnapshot;
use crate::gateway::response::Rejection;
use crate::gateway::route_snapshot::MatchedRoute;

/// Finds the route of a request.
///
/// # Errors
/// `malformed_request`, `headers_too_large` or `unknown_route`.
pub(super) fn route<'s>(
    exchange: &mut Exchange<'s>,
    routes: &'s RouteSnapshot,
) -> Result<MatchedRoute<'s>, Rejection> {
    let request = exchange.session.req_header();
    exchange.log_line.trace_id = head::trace_id(&request.headers).map(Into::into);
    let max = routes.limits().header_bytes;
    let raw = exchange.session.raw_head();
    exchange.head = Head::check(request, raw.as_deref(), max, exchange.arrival)?;
    let path = exchange.session.req_header().uri.path();
    let matched = routes
        .find(exchange.head.host.as_deref(), path)
        .ok_or(Rejection::UnknownRoute)?;
    exchange.set_route(matched);
    Ok(matched)
}
