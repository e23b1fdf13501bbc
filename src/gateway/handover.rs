//! The hand-over of a claimed event: forwarded now, or stored for later, and the ledger settled before anybody hears of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::answer::Outcome;
use super::{Gateway, Visit};
use crate::backoff::{AttemptFailure, RetryDecision};
use crate::delivery::OutboundRequest;
use crate::ledger::{Claim, ClaimOutcome, DeliveryReport, FailedAttempt};
use crate::metrics::RouteMetrics;
use crate::route::{DeliveryMode, Route};
use crate::store::{AttemptRecord, DeliveryState, EventMetadata, PAYLOAD_MAX, Payload, StoreError};
use crate::upstream::{self, AttemptEnd, Response};

/// Kept back of a `spill` route's time, for storing the event when the upstream has not answered: at most this, and at
/// most a quarter of the whole.
const SPILL_RESERVE: Duration = Duration::from_millis(500);

/// An event on its way, with what settling it needs.
pub(super) struct Handing<'a> {
    pub route: &'a Route,
    pub delivery: OutboundRequest,
    pub subject: Arc<EventMetadata>,
    /// The ledger is waited for until then.
    pub settle_by: Instant,
}

/// When a `spill` route gives its upstream up, so that the event can still be stored in time.
pub(super) fn spill_by(first_byte: Instant, deadline: Instant) -> Instant {
    let whole = deadline.saturating_duration_since(first_byte);
    deadline
        .checked_sub(SPILL_RESERVE.min(whole / 4))
        .unwrap_or(deadline)
}

impl Gateway {
    /// Makes an attempt, ending by `deadline`.
    pub(super) async fn forward(
        &self,
        mut claim: Claim,
        handing: &Handing<'_>,
        metrics: &RouteMetrics,
        deadline: Instant,
        visit: &mut Visit<'_>,
    ) -> Outcome {
        let route = handing.route;
        let spills = route.delivery_mode == DeliveryMode::Spill;
        // Taken for verified events only: nobody without a secret can use a route's places up.
        let _permit = match route.admission.try_acquire() {
            Ok(permit) => permit,
            Err(_) if spills => return self.store(claim, handing, None, Duration::ZERO).await,
            Err(refusal) => {
                claim.release_untried();
                return refusal.into();
            }
        };
        visit.line.attempt = Some(claim.attempt());
        let (number, possibly) = (claim.attempt(), claim.possible_duplicate());
        let at = self.clock.wall();
        let attempt = match self.client.connect(&route.upstream, deadline).await {
            Err(attempt) => attempt,
            Ok(connected) => {
                if let Err(error) = claim.begin_attempt() {
                    claim.release_untried();
                    return Outcome::StoreUnavailable(error);
                }
                connected
                    .deliver(&handing.delivery, number, possibly, deadline, || ())
                    .await
            }
        };
        metrics.record_attempt(attempt.metric_result(), attempt.duration.as_secs_f64());
        let record = attempt.to_record(at);
        match attempt.end {
            AttemptEnd::Answered(response) => {
                visit.line.upstream_status = Some(response.status().as_u16());
                if response.status().is_success() {
                    return self.handed_over(claim, handing, record, response).await;
                }
                if spills && is_trouble(response.status()) {
                    let failed = response.to_failure(self.clock.wall());
                    return self
                        .store(
                            claim,
                            handing,
                            Some((FailedAttempt::Refused, record)),
                            pause(route, number, failed),
                        )
                        .await;
                }
                self.release(claim, handing, FailedAttempt::Refused, record)
                    .await;
                Outcome::UpstreamRejected(response)
            }
            AttemptEnd::NotReached(failure) => {
                self.no_answer(
                    claim,
                    handing,
                    (FailedAttempt::Refused, record),
                    failure,
                    spills,
                )
                .await
            }
            AttemptEnd::Unknown(failure) => {
                self.no_answer(
                    claim,
                    handing,
                    (FailedAttempt::Unknown, record),
                    failure,
                    spills,
                )
                .await
            }
        }
    }

    async fn no_answer(
        &self,
        claim: Claim,
        handing: &Handing<'_>,
        attempt: (FailedAttempt, AttemptRecord),
        failure: upstream::UpstreamError,
        spills: bool,
    ) -> Outcome {
        if spills {
            let pause = pause(handing.route, claim.attempt(), AttemptFailure::NoResponse);
            return self.store(claim, handing, Some(attempt), pause).await;
        }
        self.release(claim, handing, attempt.0, attempt.1).await;
        failure.into()
    }

    /// The upstream has taken it: the sender hears of that when the ledger has it.
    async fn handed_over(
        &self,
        claim: Claim,
        handing: &Handing<'_>,
        record: AttemptRecord,
        response: Response,
    ) -> Outcome {
        let report = handing.report(
            Some(record),
            handing.payload_if_kept(DeliveryState::Success),
        );
        match claim
            .settle(ClaimOutcome::Delivered, report, handing.settle_by)
            .await
        {
            Ok(()) => Outcome::Delivered(response),
            Err(error) => self.not_settled(error),
        }
    }

    /// Stores the event, after an attempt if there was one; it is due after `pause`.
    pub(super) async fn store(
        &self,
        claim: Claim,
        handing: &Handing<'_>,
        attempt: Option<(FailedAttempt, AttemptRecord)>,
        pause: Duration,
    ) -> Outcome {
        let ending = ClaimOutcome::Stored {
            after: attempt.as_ref().map(|(attempt, _)| *attempt),
            due_after: pause,
        };
        let report = handing.report(attempt.map(|(_, record)| record), Some(handing.payload()));
        match claim.settle(ending, report, handing.settle_by).await {
            Ok(()) => Outcome::Queued(handing.route.accept_status),
            Err(error) => self.not_settled(error),
        }
    }

    /// The sender must not hear of success. Its retry finds out what holds.
    fn not_settled(&self, error: StoreError) -> Outcome {
        self.metrics.store().count_error("complete");
        Outcome::StoreUnavailable(error)
    }

    /// Lets the provider's retry pass. That this was noted is not what the sender asks: the answer is the same if not.
    async fn release(
        &self,
        claim: Claim,
        handing: &Handing<'_>,
        attempt: FailedAttempt,
        record: AttemptRecord,
    ) {
        let report = handing.report(Some(record), handing.payload_if_kept(DeliveryState::Failed));
        if claim
            .settle(ClaimOutcome::Released(attempt), report, handing.settle_by)
            .await
            .is_err()
        {
            self.metrics.store().count_error("complete");
        }
    }
}

impl Handing<'_> {
    fn report(&self, attempt: Option<AttemptRecord>, payload: Option<Payload>) -> DeliveryReport {
        DeliveryReport {
            event: Arc::clone(&self.subject),
            attempt,
            payload,
        }
    }

    fn payload(&self) -> Payload {
        Payload {
            head: self.delivery.to_stored(),
            body: self.delivery.body().clone(),
        }
    }

    /// For an operator to look at. What is to be delivered later is always kept; the configuration sees to it that such a
    /// body is not too big either.
    fn payload_if_kept(&self, state: DeliveryState) -> Option<Payload> {
        let kept =
            self.route.retain.keeps_payload(state) && self.delivery.body().len() <= PAYLOAD_MAX;
        kept.then(|| self.payload())
    }
}

/// Statuses that tell of the moment, not of the event.
fn is_trouble(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// When a spilled event is tried again.
fn pause(route: &Route, attempt: u32, failed: AttemptFailure) -> Duration {
    match route
        .retry
        .decide(attempt, failed, Duration::ZERO, fastrand::f64())
    {
        RetryDecision::RetryAfter(pause) => pause,
        // Stored for one more attempt at the least.
        RetryDecision::DeadLetter(_) => Duration::ZERO,
    }
}
