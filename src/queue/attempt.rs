//! One attempt at a stored event. Its outcome is recorded before the worker may start another
//! attempt in its stead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;

use super::Gate;
use crate::activity::RouteActivity;
use crate::backoff::{AttemptFailure, DeadLetterReason, RetryDecision};
use crate::cause::Cause;
use crate::clock::Clock;
use crate::cores::Delivering;
use crate::delivery::OutboundRequest;
use crate::metrics::QueueMetrics;
use crate::route::Route;
use crate::store::{
    self, AttemptId, AttemptRecord, DeliveryId, DeliveryIdentity, DeliveryState, QueuedEvent, Store,
};
use crate::upstream::{AttemptEnd, Client};

/// The pause before another try at the store while it is not available.
const STORE_RETRY: Duration = Duration::from_millis(500);

/// One attempt at a stored event, with everything that it needs.
pub(super) struct DeliveryAttempt {
    pub id: DeliveryId,
    pub store: Store,
    pub client: Arc<Client>,
    pub clock: Clock,
    pub route: Arc<Route>,
    pub metrics: Arc<QueueMetrics>,
    pub activity: Arc<RouteActivity>,
    pub gate: Gate,
    /// The progress of the attempt. Dropped when the attempt is over.
    pub stage: watch::Sender<AttemptStage>,
}

/// The progress of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptStage {
    Begun,
    /// The request is written, or writing it failed.
    Sent,
    /// The response is there, or it is certain that none comes.
    Answered,
}

impl DeliveryAttempt {
    /// Runs the attempt. Returns the ID of the delivery, so that the worker knows which one ended.
    pub(super) async fn run(self) -> DeliveryId {
        let _permit = self.route.admission.acquire().await;
        let _not_moved = self.gate.read().await;
        let route = Arc::clone(&self.route.name);
        match self
            .store
            .load_event(route, self.id, self.route.attempt_timeout)
            .await
        {
            Ok(Some(queued)) => self.deliver(queued).await,
            // The delivery has ended in another way meanwhile, or was moved to another route.
            Ok(None) => {}
            // The store has logged the reason. Waits, because the worker queries the store again at
            // once when this returns.
            Err(_) => tokio::time::sleep(STORE_RETRY).await,
        }
        self.id
    }

    async fn deliver(&self, queued: QueuedEvent) {
        let _delivering = Delivering::begin();
        let number = queued.history.attempts.saturating_add(1);
        let at = self.clock.wall();
        let Some(request) = queued
            .payload
            .as_ref()
            .and_then(|payload| OutboundRequest::from_stored(&payload.head, payload.body.clone()))
        else {
            return self
                .dead_letter_unreadable(queued.identity, number, at)
                .await;
        };
        let deadline = Instant::now() + self.route.attempt_timeout;
        let possible_duplicate = queued.history.possibly_delivered;
        let (report, started) = match self.client.connect(&self.route.upstream, deadline).await {
            Err(report) => (report, None),
            Ok(connected) => {
                let Ok(started) = self.store.begin_queued_attempt(self.id, queued.deadline) else {
                    // The store has logged the reason. Waits, because the worker queries the store
                    // again at once when this returns.
                    return tokio::time::sleep(STORE_RETRY).await;
                };
                let on_sent = || {
                    self.stage.send_replace(AttemptStage::Sent);
                };
                let report = connected
                    .deliver(&request, number, possible_duplicate, deadline, on_sent)
                    .await;
                (report, Some(started))
            }
        };
        self.stage.send_replace(AttemptStage::Answered);
        // The payload of an event that is not delivered is always kept.
        let record = report.to_record(at, &request, &self.route.upstream, true);
        if let (Some(cause), Some(sender)) = (report.cause, &self.activity.sender) {
            let failed = report.to_failed_attempt(cause, at, &self.route.upstream);
            sender.history.failed_attempts.record(failed);
        }
        let age = queued.age.saturating_add(report.duration);
        let (outcome, next) = self.decide(&report.end, number, age);
        self.metrics.record_attempt(
            report.metric_result(),
            report.cause,
            report.duration.as_secs_f64(),
        );
        self.log(&queued, number, &record, outcome, next);
        self.record(queued.identity, number, record, next).await;
        if let Some(started) = started {
            started.clear();
        }
        match next {
            store::AttemptOutcome::Delivered { .. } => {
                self.metrics.observe_delivery_delay(age.as_secs_f64());
            }
            store::AttemptOutcome::Dead(reason) => self.metrics.count_dead_letter(reason),
            store::AttemptOutcome::Retry { .. } => {}
        }
    }

    /// Makes a delivery whose stored request cannot be parsed a dead letter.
    async fn dead_letter_unreadable(&self, identity: DeliveryIdentity, number: u32, at: Timestamp) {
        const ERROR: &str = "the stored request is unreadable";
        tracing::error!(delivery = %self.id, "{ERROR}; the event becomes a dead letter");
        let record = AttemptRecord {
            at,
            ms: 0,
            status: None,
            error: Some(ERROR.into()),
            cause: None,
            address: None,
            response: None,
        };
        let reason = DeadLetterReason::Unreadable;
        self.metrics.count_dead_letter(reason);
        self.record(
            identity,
            number,
            record,
            store::AttemptOutcome::Dead(reason),
        )
        .await;
    }

    /// Decides the next step after an attempt. Returns it with its name in the log.
    fn decide(
        &self,
        end: &AttemptEnd,
        number: u32,
        age: Duration,
    ) -> (&'static str, store::AttemptOutcome) {
        let (failure, possibly_delivered) = match end {
            AttemptEnd::Answered(response) if response.status().is_success() => {
                let keep_payload = self.route.retain.keeps_payload(DeliveryState::Success);
                return (
                    "delivered",
                    store::AttemptOutcome::Delivered { keep_payload },
                );
            }
            AttemptEnd::Answered(response) => (response.to_failure(self.clock.wall()), false),
            AttemptEnd::NotReached(_) => (AttemptFailure::NoResponse, false),
            AttemptEnd::Unknown(_) => (AttemptFailure::NoResponse, true),
        };
        match self
            .route
            .retry
            .decide(number, failure, age, fastrand::f64())
        {
            RetryDecision::RetryAfter(after) => (
                "retry",
                store::AttemptOutcome::Retry {
                    after,
                    possibly_delivered,
                },
            ),
            RetryDecision::DeadLetter(reason) => {
                ("dead_letter", store::AttemptOutcome::Dead(reason))
            }
        }
    }

    /// Records the outcome in the store. Repeats that until it succeeds, because the outcome is
    /// known only here.
    async fn record(
        &self,
        identity: DeliveryIdentity,
        number: u32,
        attempt: AttemptRecord,
        next: store::AttemptOutcome,
    ) {
        let id = AttemptId {
            delivery: self.id,
            identity,
            number,
        };
        while self
            .store
            .record_attempt(id, attempt.clone(), next)
            .await
            .is_err()
        {
            tokio::time::sleep(STORE_RETRY).await;
        }
    }

    fn log(
        &self,
        queued: &QueuedEvent,
        number: u32,
        attempt: &AttemptRecord,
        outcome: &str,
        next: store::AttemptOutcome,
    ) {
        let (retry_after, reason) = match next {
            store::AttemptOutcome::Retry { after, .. } => (Some(after.as_secs_f64()), None),
            store::AttemptOutcome::Dead(reason) => (None, Some(DeadLetterReason::as_str(reason))),
            store::AttemptOutcome::Delivered { .. } => (None, None),
        };
        macro_rules! write {
            ($level:ident) => {
                tracing::$level!(
                    target: "hookstile::queue",
                    route = &*self.route.name,
                    delivery = %self.id,
                    event_id = &*queued.event_id,
                    event_type = &*queued.event_type,
                    attempt = number,
                    upstream_status = attempt.status,
                    cause = attempt.cause.map(Cause::as_str),
                    address = attempt.address.as_deref(),
                    error = attempt.error.as_deref(),
                    duration_ms = attempt.ms,
                    outcome,
                    reason,
                    retry_after_seconds = retry_after,
                    "attempt"
                )
            };
        }
        if let store::AttemptOutcome::Dead(_) = next {
            write!(warn);
        } else {
            write!(info);
        }
    }
}
