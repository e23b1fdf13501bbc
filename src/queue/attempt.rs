//! One attempt at a stored event, and what follows from it, written down before the event lets go of its place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use tokio::sync::watch;

use crate::backoff::{self, Failed, Next, Reason};
use crate::clock::Clock;
use crate::delivery::Delivery;
use crate::metrics::QueueMetrics;
use crate::route::Route;
use crate::store::{self, Attempted, DeliveryId, Payloads, Queued, Store};
use crate::upstream::{Client, End, Response};

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
        match self.store.load(self.id).await {
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
        let Some(delivery) = Delivery::from_stored(&queued.head, queued.body.clone()) else {
            tracing::error!(delivery = %self.id, "a stored head can't be read; the event becomes a dead letter");
            let attempt = Attempted { at, ms: 0, status: None, error: Some("the stored head can't be read".into()) };
            self.metrics.dead_lettered(Reason::Unreadable);
            return self.write(attempt, store::Next::Dead(Reason::Unreadable)).await;
        };
        let deadline = Instant::now() + self.route.attempt_timeout;
        let possibly = queued.tried.possibly_delivered;
        let (made, underway) = match self.client.connect(&self.route.upstream, deadline).await {
            Err(made) => (made, None),
            Ok(connected) => {
                // The store has said why, if it can't be noted; the lane asks again.
                let Ok(underway) = self.store.begin_stored(self.id) else { return };
                let sent = || {
                    self.stage.send_replace(Stage::Sent);
                };
                (connected.hand_over(&delivery, number, possibly, deadline, sent).await, Some(underway))
            }
        };
        let attempt = made.to_record(at);
        let age = queued.age.saturating_add(made.duration);
        let failed = match &made.end {
            End::Answered(response) if response.status().is_success() => None,
            End::Answered(response) => Some((refused(response, at), false)),
            End::NotReached(_) => Some((Failed::NoAnswer, false)),
            End::Unknown(_) => Some((Failed::NoAnswer, true)),
        };
        let (outcome, next) = match failed {
            None => {
                let keep_payload = self.route.retain.payloads == Payloads::All;
                ("delivered", store::Next::Done { keep_payload })
            }
            Some((failed, unknown)) => match self.route.retry.next(number, failed, age, fastrand::f64()) {
                Next::RetryAfter(after) => ("retry", store::Next::Retry { after, possibly_delivered: unknown }),
                Next::GiveUp(reason) => ("dead_letter", store::Next::Dead(reason)),
            },
        };
        self.metrics.attempted(made.result(), made.duration.as_secs_f64());
        self.log(&queued, number, &attempt, outcome, next);
        self.write(attempt, next).await;
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
    async fn write(&self, attempt: Attempted, next: store::Next) {
        while self.store.attempted(self.id, attempt.clone(), next).await.is_err() {
            tokio::time::sleep(WRITE_AGAIN).await;
        }
    }

    fn log(&self, queued: &Queued, number: u32, attempt: &Attempted, outcome: &str, next: store::Next) {
        let (retry_after, reason) = match next {
            store::Next::Retry { after, .. } => (Some(after.as_secs_f64()), None),
            store::Next::Dead(reason) => (None, Some(backoff::Reason::as_str(reason))),
            store::Next::Done { .. } => (None, None),
        };
        tracing::info!(
            target: "hookgate::queue",
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

fn refused(response: &Response, now: Timestamp) -> Failed {
    let retry_after = response.head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    Failed::Status {
        status: response.status().as_u16(),
        retry_after: retry_after.and_then(|text| parse_retry_after(text, now)),
    }
}

/// Seconds, or a date (RFC 9110 §10.2.3). A date in the past asks for no pause.
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let parse = |text| parse_retry_after(text, now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse(" 0 "), Some(Duration::ZERO));
        assert_eq!(parse("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(37)));
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "1.5", "1 s"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
