//! One route's lane: takes what is due, oldest first, and keeps as many attempts going as the route allows.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::{AttemptStage, DeliveryAttempt};
use super::{Phase, WorkerRoute};
use crate::clock::Clock;
use crate::route::Route;
use crate::store::{DeliveryId, Store, StoreError};
use crate::upstream::Client;

/// Payload bytes that a lane holds in memory at once, unless a single event is bigger.
const BYTES_IN_FLIGHT: usize = 16 << 20;

/// How long an event waits for the one before it to be sent, before it overtakes.
const SENT_WITHIN: Duration = Duration::from_millis(100);
/// How long an event waits for the one before it to be answered, while there are fewer than may be tried at once.
const ANSWERED_WITHIN: Duration = Duration::from_millis(10);

/// The pause before the store is asked again that could not tell.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A lane at work.
pub(super) struct RouteWorker {
    pub name: Arc<str>,
    pub store: Store,
    pub client: Arc<Client>,
    pub clock: Clock,
    pub serving: watch::Receiver<WorkerRoute>,
    /// Told by the store: an event was stored.
    pub woken: Arc<Notify>,
    pub delivering: Arc<AtomicU64>,
    pub phase: watch::Receiver<Phase>,
}

/// The attempts under way.
#[derive(Default)]
struct InFlight {
    bytes: HashMap<DeliveryId, usize>,
    trials: JoinSet<DeliveryId>,
    /// The attempt that was begun last.
    latest: Option<watch::Receiver<AttemptStage>>,
}

impl InFlight {
    /// Waits until the next event may be sent without overtaking the one before it: that has to be sent; and answered too,
    /// as long as the lane keeps up with what comes. An upstream that is slow is not waited for.
    async fn after_latest(&mut self, keeps_up: bool) {
        let Some(mut latest) = self.latest.take() else {
            return;
        };
        if keeps_up && timeout(ANSWERED_WITHIN, over(&mut latest)).await.is_ok() {
            return;
        }
        let _ = timeout(
            SENT_WITHIN,
            latest.wait_for(|stage| *stage == AttemptStage::Sent),
        )
        .await;
    }
}

/// Ends when the attempt is over.
async fn over(stage: &mut watch::Receiver<AttemptStage>) {
    while stage.changed().await.is_ok() {}
}

impl RouteWorker {
    pub(super) async fn run(mut self) {
        let mut in_flight = InFlight::default();
        // Whoever could begin it lives as long as we do.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Waiting).await;
        while *self.phase.borrow_and_update() == Phase::Running {
            let serving = self.serving.borrow_and_update().clone();
            let wake_at = match &serving.route {
                Some(_) if serving.paused => None,
                Some(route) => self
                    .fill(&mut in_flight, route, &serving)
                    .await
                    .unwrap_or_else(|_| {
                        // The store has said why.
                        Some(Instant::now() + ASK_AGAIN)
                    }),
                None => None,
            };
            tokio::select! {
                () = self.woken.notified() => {}
                Some(ended) = in_flight.trials.join_next() => self.note_ended(&mut in_flight, ended),
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                // Either side goes only with the queue.
                changed = self.serving.changed() => if changed.is_err() { break },
                changed = self.phase.changed() => if changed.is_err() { break },
            }
        }
        while let Some(ended) = in_flight.trials.join_next().await {
            self.note_ended(&mut in_flight, ended);
        }
    }

    /// Begins as many attempts as may be. Answers when there is more to do, if nothing else happens; `None` is never.
    async fn fill(
        &self,
        in_flight: &mut InFlight,
        route: &Arc<Route>,
        serving: &WorkerRoute,
    ) -> Result<Option<Instant>, StoreError> {
        let at_once = route.queue_concurrency;
        if in_flight.bytes.len() >= at_once {
            return Ok(None);
        }
        let (asked_at, free) = (Instant::now(), at_once - in_flight.bytes.len());
        let holding: Vec<_> = in_flight.bytes.keys().copied().collect();
        let due = self
            .store
            .due_events(Arc::clone(&self.name), &holding, free)
            .await?;
        let mut bytes: usize = in_flight.bytes.values().sum();
        let mut events = due.events.into_iter();
        while let Some(next) = events.next() {
            let is_told = self.phase.has_changed().unwrap_or(true)
                || self.serving.has_changed().unwrap_or(true);
            if is_told || bytes > 0 && bytes + next.payload_bytes > BYTES_IN_FLIGHT {
                let left: Vec<_> = std::iter::once(next)
                    .chain(events)
                    .map(|event| event.id)
                    .collect();
                self.store.release_events(&left).await;
                return Ok(None);
            }
            in_flight.after_latest(due.is_complete).await;
            bytes += next.payload_bytes;
            in_flight.bytes.insert(next.id, next.payload_bytes);
            let (stage, latest) = watch::channel(AttemptStage::Begun);
            in_flight.latest = Some(latest);
            let trial = DeliveryAttempt {
                id: next.id,
                store: self.store.clone(),
                client: Arc::clone(&self.client),
                clock: self.clock.clone(),
                route: Arc::clone(route),
                metrics: serving.metrics.clone(),
                stage,
            };
            in_flight.trials.spawn(trial.run());
            self.delivering.fetch_add(1, Ordering::Relaxed);
        }
        if !due.is_complete {
            // The place that becomes free next is for one of those.
            return Ok(None);
        }
        Ok(due.next_in.map(|pause| asked_at + pause))
    }

    fn note_ended(
        &self,
        in_flight: &mut InFlight,
        ended: Result<DeliveryId, tokio::task::JoinError>,
    ) {
        match ended {
            Ok(id) => drop(in_flight.bytes.remove(&id)),
            Err(error) => {
                // A panic of ours: whose place it had is not known any more. None is under way when all are counted anew.
                tracing::error!(route = &*self.name, %error, "an attempt ended in a defect of the gateway");
                if in_flight.trials.is_empty() {
                    in_flight.bytes.clear();
                }
            }
        }
        self.delivering
            .store(in_flight.trials.len() as u64, Ordering::Relaxed);
    }
}
