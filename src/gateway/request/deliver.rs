//! Step 6: delivers the claimed event, and settles its claim before the sender is answered.
//!
//! Depending on the route's mode, the event is stored for the queue, forwarded, or forwarded and
//! stored when that fails (spill).

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::exchange::Exchange;
use super::forward::outcome_of;
use super::verify::VerifiedEvent;
use crate::backoff::{AttemptFailure, RetryDecision};
use crate::clock::Clock;
use crate::delivery::{EventLabel, OutboundRequest};
use crate::gateway::Gateway;
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;
use crate::ledger::{Claim, ClaimOutcome, DeliveryReport, FailedAttempt};
use crate::route::{DeliveryMode, Route};
use crate::store::{
    AttemptRecord, DeliveryState, EventMetadata, PAYLOAD_MAX, Payload, StoreError, StoredCopy,
};
use crate::upstream::AttemptEnd;

/// The last part of a `spill` route's time, reserved for storing the event if the upstream has not
/// answered. It is never more than a quarter of the whole time.
const SPILL_RESERVE: Duration = Duration::from_millis(500);

/// The outcome of a claim whose event is stored without an attempt: due at once.
const STORED_UNATTEMPTED: ClaimOutcome = ClaimOutcome::Stored {
    after: None,
    due_after: Duration::ZERO,
};

/// An event whose claim this request holds. Boxed, because it is passed on several times.
struct ClaimedEvent {
    claim: Claim,
    request: OutboundRequest,
    metadata: Arc<EventMetadata>,
    /// The time until which the request waits for its claim to be settled.
    settle_deadline: Instant,
}

impl Gateway {
    /// Delivers a claimed event in the route's mode.
    ///
    /// # Errors
    /// `rate_limited`, `overloaded`, `upstream_unreachable`, `budget_exceeded` or
    /// `store_unavailable`.
    pub(super) async fn deliver(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        claim: Claim,
        event: VerifiedEvent,
    ) -> Result<Outcome, Rejection> {
        let route = matched.route;
        // Counted for claimed events only: neither a client without a secret nor one that repeats a
        // captured request can use up the route's rate.
        if let Err(limited) = route.admission.count() {
            claim.release_untried();
            return Err(limited.into());
        }
        let claimed = Box::new(ClaimedEvent::new(exchange, route, claim, event));
        let deadline = exchange.deadline(route);
        let deadline = match route.delivery_mode {
            DeliveryMode::Queue => {
                return self.store(route, claimed, STORED_UNATTEMPTED, None).await;
            }
            // A pause means that nothing is sent, so the event waits with the others.
            DeliveryMode::Spill if route.is_paused() => {
                return self.store(route, claimed, STORED_UNATTEMPTED, None).await;
            }
            DeliveryMode::Proxy => deadline,
            DeliveryMode::Spill => spill_deadline(exchange.first_byte, deadline),
        };
        self.forward_claimed(exchange, matched, claimed, deadline)
            .await
    }

    /// Makes an attempt that ends by `deadline`, and settles the claim with its outcome.
    async fn forward_claimed(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        mut claimed: Box<ClaimedEvent>,
        deadline: Instant,
    ) -> Result<Outcome, Rejection> {
        let route = matched.route;
        let ClaimedEvent { claim, request, .. } = &mut *claimed;
        // Acquired for verified events only, so that senders without a secret cannot use up a
        // route's concurrency.
        let _permit = match route.admission.try_acquire() {
            Ok(permit) => permit,
            Err(_) if route.delivery_mode == DeliveryMode::Spill => {
                return self.store(route, claimed, STORED_UNATTEMPTED, None).await;
            }
            Err(error) => {
                claimed.claim.release_untried();
                return Err(error.into());
            }
        };
        exchange.log_line.attempt = Some(claim.attempt());
        let started_at = self.clock.wall();
        let times = (started_at, deadline);
        let attempt = self.forward(exchange, matched, request, Some(claim), times);
        let attempt = match attempt.await {
            Ok(attempt) => attempt,
            Err(error) => {
                claimed.claim.release_untried();
                return Err(error.into());
            }
        };
        let outcome = claim_outcome(route, claim.attempt(), &attempt.end, &self.clock);
        let keeps_body = retains_payload(route, request, outcome);
        let record = Some(attempt.to_record(started_at, request, &route.upstream, keeps_body));
        if let ClaimOutcome::Stored { .. } = outcome {
            return self.store(route, claimed, outcome, record).await;
        }
        let settled = self.settle(route, claimed, outcome, record).await;
        // After a failed attempt the response is the same, whether or not the outcome was written.
        if outcome == ClaimOutcome::Delivered {
            settled?;
        }
        outcome_of(attempt.end)
    }

    /// Stores the event for the queue, after an attempt if there was one.
    async fn store(
        &self,
        route: &Route,
        claimed: Box<ClaimedEvent>,
        outcome: ClaimOutcome,
        attempt: Option<AttemptRecord>,
    ) -> Result<Outcome, Rejection> {
        match self.settle(route, claimed, outcome, attempt).await {
            Ok(()) => Ok(Outcome::Queued(route.accept_status)),
            Err(StoreError::StoredElsewhere(copy)) => {
                let on_duplicate = route.replay.on_duplicate;
                Err(match copy {
                    StoredCopy::SameBody => Rejection::Duplicate(on_duplicate),
                    StoredCopy::OtherBody => Rejection::PayloadMismatch(on_duplicate),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes how the claim ended, with the record and the payload that the route retains.
    ///
    /// # Errors
    /// When it is not certain that the outcome was written. The sender must not see success then;
    /// its retry is handled by what the store holds.
    async fn settle(
        &self,
        route: &Route,
        claimed: Box<ClaimedEvent>,
        outcome: ClaimOutcome,
        attempt: Option<AttemptRecord>,
    ) -> Result<(), StoreError> {
        let ClaimedEvent {
            claim,
            request,
            metadata,
            settle_deadline,
        } = *claimed;
        let report = DeliveryReport {
            event: metadata,
            attempt,
            payload: retains_payload(route, &request, outcome).then(|| payload(&request)),
        };
        let settled = claim.settle(outcome, report, settle_deadline).await;
        if settled.is_err_and(|error| !matches!(error, StoreError::StoredElsewhere(_))) {
            self.metrics.store().count_error("complete");
        }
        settled
    }
}

impl ClaimedEvent {
    fn new(exchange: &Exchange<'_>, route: &Route, claim: Claim, event: VerifiedEvent) -> Self {
        let VerifiedEvent {
            verified,
            mut label,
            ..
        } = event;
        label.possible_replay = claim.possible_replay();
        let inbound = exchange.inbound();
        let request = OutboundRequest::new(&verified, &label, &inbound, route.forward_query);
        let EventLabel {
            route: route_name,
            event_id,
            event_type,
            is_test,
            possible_replay: _,
            is_identified: _,
        } = label;
        let metadata = EventMetadata {
            route: route_name,
            event_id,
            event_type,
            received_at: exchange.received_at,
            secret: Arc::clone(verified.secret()),
            is_test,
        };
        Self {
            claim,
            request,
            metadata: Arc::new(metadata),
            settle_deadline: exchange.settle_deadline(route),
        }
    }
}

/// Returns when a `spill` route gives up on its upstream, so that the event can be stored in time.
fn spill_deadline(first_byte: Instant, deadline: Instant) -> Instant {
    let whole = deadline.saturating_duration_since(first_byte);
    deadline
        .checked_sub(SPILL_RESERVE.min(whole / 4))
        .unwrap_or(deadline)
}

/// Returns how a claim ends after attempt `number` of its event.
fn claim_outcome(route: &Route, number: u32, end: &AttemptEnd, clock: &Clock) -> ClaimOutcome {
    let failed = match end {
        AttemptEnd::Answered(response) if response.status().is_success() => {
            return ClaimOutcome::Delivered;
        }
        AttemptEnd::Answered(_) | AttemptEnd::NotReached(_) => FailedAttempt::Refused,
        AttemptEnd::Unknown(_) => FailedAttempt::Unknown,
    };
    if route.delivery_mode != DeliveryMode::Spill {
        return ClaimOutcome::Released(failed);
    }
    let failure = match end {
        AttemptEnd::Answered(response) if is_temporary(response.status()) => {
            response.to_failure(clock.wall())
        }
        AttemptEnd::Answered(_) => return ClaimOutcome::Released(failed),
        AttemptEnd::NotReached(_) | AttemptEnd::Unknown(_) => AttemptFailure::NoResponse,
    };
    ClaimOutcome::Stored {
        after: Some(failed),
        due_after: retry_pause(route, number, failure),
    }
}

/// Returns whether a status is about the state of the upstream and not about the event.
fn is_temporary(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Returns the pause after which a spilled event is tried again.
fn retry_pause(route: &Route, attempt: u32, failure: AttemptFailure) -> Duration {
    match route
        .retry
        .decide(attempt, failure, Duration::ZERO, fastrand::f64())
    {
        RetryDecision::RetryAfter(pause) => pause,
        // A stored event has at least one more attempt.
        RetryDecision::DeadLetter(_) => Duration::ZERO,
    }
}

/// Returns whether the payload is kept. A stored event always keeps it, and the configuration
/// limits its size; for other outcomes the route decides, up to [`PAYLOAD_MAX`].
fn retains_payload(route: &Route, request: &OutboundRequest, outcome: ClaimOutcome) -> bool {
    let state = match outcome {
        ClaimOutcome::Stored { .. } => return true,
        ClaimOutcome::Delivered => DeliveryState::Success,
        ClaimOutcome::Released(_) => DeliveryState::Failed,
    };
    route.retain.keeps_payload(state) && request.body().len() <= PAYLOAD_MAX
}

fn payload(request: &OutboundRequest) -> Payload {
    Payload {
        head: request.to_stored(),
        body: request.body().clone(),
    }
}
