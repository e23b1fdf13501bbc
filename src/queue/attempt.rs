//! One attempt at a stored event, and what follows from it, written down before the event lets go of its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backoff::{self, AttemptFailure, DeadLetterReason, RetryDecision};
use crate::clock::Clock;
use crate::delivery::OutboundRequest;
use crate::metrics::QueueMetrics;
use crate::route::Route;
use crate::store::{self, AttemptRecord, DeliveryId, DeliveryState, QueuedEvent, Store};
use crate::upstream::{AttemptEnd, Client};

/// Pauses between attempts to write down what happened, while the store is not available.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// All that one attempt needs.
pub(super) struct DeliveryAttempt {
    pub id: DeliveryId,
    pub store: Store,
    pub client: Arc<Client>,
    pub clock: Clock,
    pub route: Arc<Route>,
    pub metrics: QueueMetrics,
    /// How far it is. Gone when it is over.
    pub stage: watch::Sender<AttemptStage>,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptStage {
    Begun,
    /// The request is written, or could not be.
    Sent,
}

impl DeliveryAttempt {
    /// Answers its own ID, for the lane to know whose place is free.
    pub(super) async fn run(self) -> DeliveryId {
        let _place = self.route.admission.acquire().await;
        match self
            .store
            .load_event(self.id, self.route.attempt_timeout)
            .await
        {
            Ok(Some(queued)) => self.attempt(queued).await,
            // Ended otherwise meanwhile.
            Ok(None) => {}
            // The store has said why. Not before it may be well again: the lane would ask at once.
            Err(_) => tokio::time::sleep(WRITE_AGAIN).await,
        }
        self.id
    }

    async fn attempt(&self, queued: QueuedEvent) {
        let number = queued.history.attempts.saturating_add(1);
        let at = self.clock.wall();
        let stored = queued.payload.as_ref();
        let Some(delivery) = stored
            .and_then(|stored| OutboundRequest::from_stored(&stored.head, stored.body.clone()))
        else {
            tracing::error!(delivery = %self.id, "what was stored can't be read; the event becomes a dead letter");
            let attempt = AttemptRecord {
                at,
                ms: 0,
                status: None,
                error: Some("what was stored can't be read".into()),
            };
            self.metrics.count_dead_letter(DeadLetterReason::Unreadable);
            return self
                .write(
                    number,
                    attempt,
                    store::AttemptOutcome::Dead(DeadLetterReason::Unreadable),
                )
                .await;
        };
        let deadline = Instant::now() + self.route.attempt_timeout;
        let possibly = queued.history.possibly_delivered;
        let (made, underway) = match self.client.connect(&self.route.upstream, deadline).await {
            Err(made) => (made, None),
            Ok(connected) => {
                let Ok(underway) = self.store.begin_queued_attempt(self.id, queued.deadline) else {
                    // The store has said why. Not at once: the lane asks again when this returns.
                    return tokio::time::sleep(WRITE_AGAIN).await;
                };
                let sent = || {
                    self.stage.send_replace(AttemptStage::Sent);
                };
                (
                    connected
                        .deliver(&delivery, number, possibly, deadline, sent)
                        .await,
                    Some(underway),
                )
            }
        };
        let attempt = made.to_record(at);
        let age = queued.age.saturating_add(made.duration);
        let failed = match &made.end {
            AttemptEnd::Answered(response) if response.status().is_success() => None,
            AttemptEnd::Answered(response) => Some((response.to_failure(self.clock.wall()), false)),
            AttemptEnd::NotReached(_) => Some((AttemptFailure::NoResponse, false)),
            AttemptEnd::Unknown(_) => Some((AttemptFailure::NoResponse, true)),
        };
        let (outcome, next) = match failed {
            None => {
                let keep_payload = self.route.retain.keeps_payload(DeliveryState::Success);
                (
                    "delivered",
                    store::AttemptOutcome::Delivered { keep_payload },
                )
            }
            Some((failed, unknown)) => {
                match self
                    .route
                    .retry
                    .decide(number, failed, age, fastrand::f64())
                {
                    RetryDecision::RetryAfter(after) => (
                        "retry",
                        store::AttemptOutcome::Retry {
                            after,
                            possibly_delivered: unknown,
                        },
                    ),
                    RetryDecision::DeadLetter(reason) => {
                        ("dead_letter", store::AttemptOutcome::Dead(reason))
                    }
                }
            }
        };
        self.metrics
            .record_attempt(made.metric_result(), made.duration.as_secs_f64());
        self.log(&queued, number, &attempt, outcome, next);
        self.write(number, attempt, next).await;
        if let Some(underway) = underway {
            underway.clear();
        }
        match next {
            store::AttemptOutcome::Delivered { .. } => {
                self.metrics.observe_delivery_delay(age.as_secs_f64())
            }
            store::AttemptOutcome::Dead(reason) => self.metrics.count_dead_letter(reason),
            store::AttemptOutcome::Retry { .. } => {}
        }
    }

    /// Tells the store, until it has it: what happened is known here only.
    async fn write(&self, number: u32, attempt: AttemptRecord, next: store::AttemptOutcome) {
        while self
            .store
            .record_attempt(self.id, number, attempt.clone(), next)
            .await
            .is_err()
        {
            tokio::time::sleep(WRITE_AGAIN).await;
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
            store::AttemptOutcome::Dead(reason) => {
                (None, Some(backoff::DeadLetterReason::as_str(reason)))
            }
            store::AttemptOutcome::Delivered { .. } => (None, None),
        };
        tracing::info!(
            target: "hookstile::queue",
            route = &*self.route.name,
            delivery = %self.id,
            event_id = &*queued.event_id,
            event_type = &*queued.event_type,
            attempt = number,
            upstream_status = attempt.status,
            error = attempt.error.as_deref(),
            duration_ms = attempt.ms,
            outcome,
            reason,
            retry_after_seconds = retry_after,
            "attempt"
        );
    }
}
