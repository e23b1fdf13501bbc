//! Requests that are forwarded without a claim: unverified ones, on a route with `enforce: false`,
//! and handshakes that the upstream answers.
//!
//! Neither is recorded in the ledger or the store. The ID of an unverified event proves nothing, so
//! a forged event must not block the genuine one; and a handshake, which has no ID, may be
//! repeated.

use std::sync::Arc;

use super::exchange::Exchange;
use super::forward::outcome_of;
use super::verify::Checked;
use crate::delivery::OutboundRequest;
use crate::gateway::Gateway;
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;
use crate::route::Route;
use crate::signature::Unverified;

impl Gateway {
    /// Checks an unverified request: it is forwarded, marked as such, unless it is an event of a type
    /// that the route does not accept.
    pub(super) async fn check_unverified(
        &self,
        exchange: &mut Exchange<'_>,
        route: &Arc<Route>,
        unverified: &Unverified,
    ) -> Checked {
        exchange.log_line.unverified = Some(unverified.failure().label());
        let inbound = exchange.inbound();
        let headers = &inbound.head.headers;
        let event = self.parse(route, unverified.body(), headers).await;
        if event.is_ok_and(|event| !route.accepts(&event)) {
            return Checked::Answered(Outcome::Ignored);
        }
        Checked::Unclaimed(OutboundRequest::unverified(
            unverified,
            &route.name,
            &inbound,
            route.forward_query,
        ))
    }

    /// Makes the one attempt at delivering a request without a claim.
    ///
    /// # Errors
    /// `rate_limited`, `overloaded`, `upstream_unreachable` or `budget_exceeded`.
    pub(super) async fn forward_unclaimed(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        request: &OutboundRequest,
    ) -> Result<Outcome, Rejection> {
        matched.route.admission.count()?;
        let _permit = matched.route.admission.try_acquire()?;
        let times = (self.clock.wall(), exchange.deadline(matched.route));
        let attempt = self
            .forward(exchange, matched, request, None, times)
            .await?;
        outcome_of(attempt.end)
    }
}
