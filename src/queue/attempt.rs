//! One attempt at a stored event, and what follows from it, written down before the event lets go of its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::backoff::{self, Failed, Next, Reason};
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::metrics::QueueMetrics;
use crate::route::Route;
use crate::store::{self, Attempted, DeliveryId, Queued, State, Store};
use crate::upstream::{Client, End};

/// Pauses between attempts to write down what happened, while the store is not available.
const WRITE_AGAIN: Duration = Duration::from_millis(500);

/// All that one attempt needs.
pub(super) struct Trial {
    pub id: DeliveryId,
    pub store: Store,
    pub client: Arc<Client>,
    pub clock: Clock,
    pub route: Arc<Route>,
    pub metrics: QueueMetrics,
    /// How far it is. Gone when it is over.
    pub stage: watch::Sender<Stage>,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Begun,
    /// The request is written, or could not be.
    Sent,
}

impl Trial {
    /// Answers its own ID, for the lane to know whose place is free.
    pub(super) async fn run(self) -> DeliveryId {
        let _place = self.route.admission.wait().await;
        match self.store.load(self.id, self.route.attempt_timeout).await {
            Ok(Some(queued)) => self.attempt(queued).await,
            // Ended otherwise meanwhile.
            Ok(None) => {}
            // The store has said why. Not before it may be well again: the lane would ask at once.
            Err(_) => tokio::time::sleep(WRITE_AGAIN).await,
        }
        self.id
    }

    async fn attempt(&self, queued: Queued) {
        let number = queued.tried.attempts.saturating_add(1);
        let at = self.clock.wall();
        let stored = queued.payload.as_ref();
        let Some(delivery) =
            stored.and_then(|stored| Delivery::from_stored(&stored.head, stored.body.clone()))
        else {
            tracing::error!(delivery = %self.id, "what was stored can't be read; the event becomes a dead letter");
            let attempt = Attempted {
                at,
                ms: 0,
                status: None,
                error: Some("what was stored can't be read".into()),
            };
            self.metrics.dead_lettered(Reason::Unreadable);
            return self
                .write(number, attempt, store::Next::Dead(Reason::Unreadable))
                .await;
        };
        let deadline = Instant::now() + self.route.attempt_timeout;
        let possibly = queued.tried.possibly_delivered;
        let (made, underway) = match self.client.connect(&self.route.upstream, deadline).await {
            Err(made) => (made, None),
            Ok(connected) => {
                let Ok(underway) = self.store.begin_stored(self.id, queued.until) else {
                    // The store has said why. Not at once: the lane asks again when this returns.
                    return tokio::time::sleep(WRITE_AGAIN).await;
                };
                let sent = || {
                    self.stage.send_replace(Stage::Sent);
                };
                (
                    connected
                        .hand_over(&delivery, number, possibly, deadline, sent)
                        .await,
                    Some(underway),
                )
            }
        };
        let attempt = made.to_record(at);
        let age = queued.age.saturating_add(made.duration);
        let failed = match &made.end {
            End::Answered(response) if response.status().is_success() => None,
            End::Answered(response) => Some((response.refusal(self.clock.wall()), false)),
            End::NotReached(_) => Some((Failed::NoAnswer, false)),
            End::Unknown(_) => Some((Failed::NoAnswer, true)),
        };
        let (outcome, next) = match failed {
            None => {
                let keep_payload = self.route.retain.keeps_payload(State::Success);
                ("delivered", store::Next::Done { keep_payload })
            }
            Some((failed, unknown)) => {
                match self.route.retry.next(number, failed, age, fastrand::f64()) {
                    Next::RetryAfter(after) => (
                        "retry",
                        store::Next::Retry {
                            after,
                            possibly_delivered: unknown,
                        },
                    ),
                    Next::GiveUp(reason) => ("dead_letter", store::Next::Dead(reason)),
                }
            }
        };
        self.metrics
            .attempted(made.result(), made.duration.as_secs_f64());
        self.log(&queued, number, &attempt, outcome, next);
        self.write(number, attempt, next).await;
        if let Some(underway) = underway {
            underway.clear();
        }
        match next {
            store::Next::Done { .. } => self.metrics.delivered_after(age.as_secs_f64()),
            store::Next::Dead(reason) => self.metrics.dead_lettered(reason),
            store::Next::Retry { .. } => {}
        }
    }

    /// Tells the store, until it has it: what happened is known here only.
    async fn write(&self, number: u32, attempt: Attempted, next: store::Next) {
        while self
            .store
            .attempted(self.id, number, attempt.clone(), next)
            .await
            .is_err()
        {
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    fn log(
        &self,
        queued: &Queued,
        number: u32,
        attempt: &Attempted,
        outcome: &str,
        next: store::Next,
    ) {
        let (retry_after, reason) = match next {
            store::Next::Retry { after, .. } => (Some(after.as_secs_f64()), None),
            store::Next::Dead(reason) => (None, Some(backoff::Reason::as_str(reason))),
            store::Next::Done { .. } => (None, None),
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
