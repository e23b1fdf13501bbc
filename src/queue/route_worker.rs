//! The worker of one route: starts attempts at the events that are due, oldest first, up to the
//! route's `concurrency`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::{AttemptStage, DeliveryAttempt};
use super::{Gate, Phase, WorkerRoute};
use crate::clock::Clock;
use crate::route::Route;
use crate::store::{DeliveryId, Store, StoreError};
use crate::upstream::Client;

/// The limit of payload bytes that a worker holds in memory at once. A single larger event is
/// attempted alone.
const BYTES_IN_FLIGHT: usize = 16 << 20;

/// The longest time that an event waits for the request of the previous one to be sent. After that,
/// it may overtake.
const SENT_WITHIN: Duration = Duration::from_millis(100);
/// The longest time that an event waits for the response to the previous one, while fewer events
/// are due than may be attempted at once.
const ANSWERED_WITHIN: Duration = Duration::from_millis(10);

/// The pause before the store is queried again after an error.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The worker of one route.
pub(super) struct RouteWorker {
    pub name: Arc<str>,
    pub store: Store,
    pub client: Arc<Client>,
    pub clock: Clock,
    pub route: watch::Receiver<WorkerRoute>,
    /// Notified when an event is queued for this route, by this gateway or another, and after the
    /// store is reopened.
    pub woken: Arc<Notify>,
    pub delivering: Arc<AtomicU64>,
    pub gate: Gate,
    pub phase: watch::Receiver<Phase>,
}

/// The attempts in flight.
#[derive(Default)]
struct InFlight {
    /// The payload bytes of each delivery.
    bytes: HashMap<DeliveryId, usize>,
    attempts: JoinSet<DeliveryId>,
    /// The progress of the attempt that began last.
    latest: Option<watch::Receiver<AttemptStage>>,
}

impl InFlight {
    /// Waits until the next event may be sent without overtaking the previous one. The previous
    /// event must have been sent and, as long as the worker keeps up with the events that are due,
    /// also answered. Both waits are short, so that a slow upstream delays nothing.
    async fn wait_for_latest(&mut self, keeps_up: bool) {
        let Some(mut latest) = self.latest.take() else {
            return;
        };
        // Both end as well when the attempt is over.
        if keeps_up {
            let answered = latest.wait_for(|stage| *stage == AttemptStage::Answered);
            if timeout(ANSWERED_WITHIN, answered).await.is_ok() {
                return;
            }
        }
        let sent = latest.wait_for(|stage| *stage != AttemptStage::Begun);
        let _ = timeout(SENT_WITHIN, sent).await;
    }
}

impl RouteWorker {
    pub(super) async fn run(mut self) {
        let mut in_flight = InFlight::default();
        // Fails only if the queue is gone.
        let _ = self.phase.wait_for(|phase| *phase != Phase::Waiting).await;
        while *self.phase.borrow_and_update() == Phase::Running {
            let current = self.route.borrow_and_update().clone();
            let active = current.route.as_ref().filter(|_| !current.paused);
            let wake_at = match active {
                Some(route) => self
                    .start_attempts(&mut in_flight, route, &current)
                    .await
                    .unwrap_or_else(|_| {
                        // The store has logged the reason.
                        Some(Instant::now() + STORE_RETRY)
                    }),
                None => {
                    // Another gateway may have the route.
                    self.store.release_route(&self.name).await;
                    None
                }
            };
            tokio::select! {
                () = self.woken.notified() => {}
                Some(ended) = in_flight.attempts.join_next() => {
                    self.remove_ended(&mut in_flight, ended);
                    // Those that shared its commit.
                    while let Some(ended) = in_flight.attempts.try_join_next() {
                        self.remove_ended(&mut in_flight, ended);
                    }
                }
                () = sleep_until(wake_at.unwrap_or_else(Instant::now)), if wake_at.is_some() => {}
                // Both senders live as long as the queue.
                changed = self.route.changed() => if changed.is_err() { break },
                changed = self.phase.changed() => if changed.is_err() { break },
            }
        }
        self.store.release_route(&self.name).await;
        while let Some(ended) = in_flight.attempts.join_next().await {
            self.remove_ended(&mut in_flight, ended);
        }
    }

    /// Starts as many attempts as the route allows. Returns the time at which the next event is
    /// due, or `None` if the worker only needs to wait for another signal.
    async fn start_attempts(
        &self,
        in_flight: &mut InFlight,
        route: &Arc<Route>,
        current: &WorkerRoute,
    ) -> Result<Option<Instant>, StoreError> {
        let concurrency = route.queue_concurrency;
        if in_flight.bytes.len() >= concurrency {
            return Ok(None);
        }
        let (queried_at, free) = (Instant::now(), concurrency - in_flight.bytes.len());
        let attempting: Vec<_> = in_flight.bytes.keys().copied().collect();
        let due = self
            .store
            .due_events(Arc::clone(&self.name), &attempting, free)
            .await?;
        let mut bytes: usize = in_flight.bytes.values().sum();
        let mut events = due.events.into_iter();
        while let Some(next) = events.next() {
            let is_outdated = self.phase.has_changed().unwrap_or(true)
                || self.route.has_changed().unwrap_or(true);
            if is_outdated || bytes > 0 && bytes + next.payload_bytes > BYTES_IN_FLIGHT {
                let remaining: Vec<_> = std::iter::once(next)
                    .chain(events)
                    .map(|event| event.id)
                    .collect();
                self.store.release_events(&remaining).await;
                return Ok(None);
            }
            in_flight.wait_for_latest(due.is_complete).await;
            bytes += next.payload_bytes;
            in_flight.bytes.insert(next.id, next.payload_bytes);
            let (stage, latest) = watch::channel(AttemptStage::Begun);
            in_flight.latest = Some(latest);
            let attempt = DeliveryAttempt {
                id: next.id,
                store: self.store.clone(),
                client: Arc::clone(&self.client),
                clock: self.clock.clone(),
                route: Arc::clone(route),
                metrics: Arc::clone(&current.metrics),
                activity: Arc::clone(&current.activity),
                gate: Arc::clone(&self.gate),
                stage,
            };
            in_flight.attempts.spawn(attempt.run());
            self.delivering.fetch_add(1, Ordering::Relaxed);
        }
        if !due.is_complete {
            // More events are due: the next one starts when an attempt ends.
            return Ok(None);
        }
        Ok(due.next_in.map(|pause| queried_at + pause))
    }

    fn remove_ended(
        &self,
        in_flight: &mut InFlight,
        ended: Result<DeliveryId, tokio::task::JoinError>,
    ) {
        match ended {
            Ok(id) => drop(in_flight.bytes.remove(&id)),
            Err(error) => {
                // The attempt panicked, so its delivery is not known. The bytes are cleared once no
                // attempt is in flight.
                tracing::error!(route = &*self.name, %error, "delivery attempt panicked");
            }
        }
        if in_flight.attempts.is_empty() {
            in_flight.bytes.clear();
        }
        self.delivering
            .store(in_flight.attempts.len() as u64, Ordering::Relaxed);
    }
}
