//! What did not verify, on a route with `enforce: false`: passed on, marked, past the ledger and the store.
//!
//! Nobody vouches for its event ID, so nothing is remembered of it: a forged one must not stop the genuine event.

use std::sync::Arc;
use std::time::Instant;

use super::answer::Outcome;
use super::{Gateway, Visit};
use crate::delivery::{Arrival, Delivery, Label};
use crate::metrics::RouteMetrics;
use crate::route::Route;
use crate::signature::Unverified;
use crate::upstream::{End, Failure};

impl Gateway {
    /// Makes the one attempt, ending by `deadline`.
    pub(super) async fn pass_on(
        &self,
        route: &Route,
        metrics: &RouteMetrics,
        unverified: &Unverified,
        arrival: &Arrival<'_>,
        deadline: Instant,
        visit: &mut Visit<'_>,
    ) -> Outcome {
        visit.line.unverified = Some(unverified.failure().label());
        let event = route.envelope.parse(unverified.body(), &arrival.head.headers).ok();
        if event.as_ref().is_some_and(|event| !route.events.takes(&event.kind)) {
            return Outcome::Ignored;
        }
        let label = event.and_then(|event| {
            let event_id = event.id.as_str()?.into();
            Some(Label { route: Arc::clone(&route.name), event_id, event_type: (*event.kind).into() })
        });
        let delivery = Delivery::unverified(unverified, &route.name, label.as_ref(), arrival, route.forward_query);
        let _permit = match route.admission.enter() {
            Ok(permit) => permit,
            Err(refusal) => return refusal.into(),
        };
        let attempt = match self.client.connect(&route.upstream, deadline).await {
            Err(attempt) => attempt,
            Ok(connected) => connected.hand_over(&delivery, 1, false, deadline, || ()).await,
        };
        metrics.attempted(attempt.result(), attempt.duration.as_secs_f64());
        match attempt.end {
            End::Answered(response) => {
                visit.line.upstream_status = Some(response.status().as_u16());
                if response.status().is_success() {
                    Outcome::Delivered(response)
                } else {
                    Outcome::UpstreamRejected(response)
                }
            }
            End::NotReached(Failure::TimedOut) | End::Unknown(Failure::TimedOut) => Outcome::BudgetExceeded,
            End::NotReached(_) | End::Unknown(_) => Outcome::UpstreamUnreachable,
        }
    }
}
