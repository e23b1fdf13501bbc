//! What is passed on at once, past the ledger and the store: what did not verify, on a route with `enforce: false`, and
//! handshakes that the upstream answers itself.
//!
//! Nobody vouches for an ID in the one, and the other has none: nothing is remembered of them, so that a forged event
//! can't stop the genuine one, and a handshake may be repeated.

use std::time::Instant;

use super::answer::Outcome;
use super::{Gateway, Visit};
use crate::delivery::{InboundRequest, OutboundRequest};
use crate::metrics::RouteMetrics;
use crate::route::Route;
use crate::signature::Unverified;
use crate::upstream::AttemptEnd;

impl Gateway {
    /// What did not verify, unless it is an event that the route does not take.
    pub(super) async fn pass_on(
        &self,
        route: &Route,
        metrics: &RouteMetrics,
        unverified: &Unverified,
        arrival: &InboundRequest<'_>,
        deadline: Instant,
        visit: &mut Visit<'_>,
    ) -> Outcome {
        visit.line.unverified = Some(unverified.failure().label());
        let event = route
            .envelope
            .parse(unverified.body(), &arrival.head.headers);
        if event.is_ok_and(|event| !route.events.accepts(&event.event_type)) {
            return Outcome::Ignored;
        }
        let delivery =
            OutboundRequest::unverified(unverified, &route.name, arrival, route.forward_query);
        self.forward_once(route, metrics, &delivery, deadline, visit)
            .await
    }

    /// Makes the one attempt, ending by `deadline`.
    pub(super) async fn forward_once(
        &self,
        route: &Route,
        metrics: &RouteMetrics,
        delivery: &OutboundRequest,
        deadline: Instant,
        visit: &mut Visit<'_>,
    ) -> Outcome {
        let _permit = match route.admission.try_acquire() {
            Ok(permit) => permit,
            Err(refusal) => return refusal.into(),
        };
        let attempt = match self.client.connect(&route.upstream, deadline).await {
            Err(attempt) => attempt,
            Ok(connected) => connected.deliver(delivery, 1, false, deadline, || ()).await,
        };
        metrics.record_attempt(attempt.metric_result(), attempt.duration.as_secs_f64());
        match attempt.end {
            AttemptEnd::Answered(response) => {
                visit.line.upstream_status = Some(response.status().as_u16());
                if response.status().is_success() {
                    Outcome::Delivered(response)
                } else {
                    Outcome::UpstreamRejected(response)
                }
            }
            AttemptEnd::NotReached(failure) | AttemptEnd::Unknown(failure) => failure.into(),
        }
    }
}
