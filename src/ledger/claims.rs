//! The claim table: at most one holder for each event, and a few copies waiting for its end.
//!
//! A waiter is not told how the holder fared. It takes the claim in its turn and looks into the store, where the
//! holder has written it by then.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Place;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::InFlightPolicy;
use crate::store::EventKey;

/// Copies that may wait for one event. More are refused at once, so that a flood of one ID holds few connections.
pub(super) const WAITERS_PER_EVENT: usize = 4;

#[derive(Default)]
pub(super) struct Claims {
    held: DashMap<EventKey, ClaimSlot>,
}

/// Made without a channel: most events never have a copy waiting.
#[derive(Default)]
struct ClaimSlot {
    released: Option<watch::Sender<()>>,
}

/// One step at the table.
pub(super) enum Entry {
    Mine(LocalClaim),
    /// Somebody holds it; this ends when they let go.
    Held(Waiter),
    /// Somebody holds it, and enough wait already.
    Crowded,
}

/// The claim on one event, given back on drop.
pub(super) struct LocalClaim {
    claims: Arc<Claims>,
    key: EventKey,
}

pub(super) struct Waiter(watch::Receiver<()>);

impl Claims {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes the claim on `key`, waiting for its holder if `policy` says so; `None` when it is not to be had by then.
    pub(super) async fn try_claim(
        self: &Arc<Self>,
        key: EventKey,
        policy: InFlightPolicy,
        deadline: Instant,
    ) -> Option<LocalClaim> {
        loop {
            match (self.enter(key), policy) {
                (Entry::Mine(hold), _) => return Some(hold),
                (Entry::Crowded, _) | (Entry::Held(_), InFlightPolicy::Reject) => return None,
                (Entry::Held(waiter), InFlightPolicy::Wait) => {
                    timeout_at(deadline.into(), waiter.released()).await.ok()?;
                }
            }
        }
    }

    /// Takes the claim if it is free, joins those who wait if there is room.
    pub(super) fn enter(self: &Arc<Self>, key: EventKey) -> Entry {
        match self.held.entry(key) {
            Place::Vacant(place) => {
                place.insert(ClaimSlot::default());
                Entry::Mine(LocalClaim {
                    claims: Arc::clone(self),
                    key,
                })
            }
            Place::Occupied(mut place) => {
                let released = place
                    .get_mut()
                    .released
                    .get_or_insert_with(|| watch::Sender::new(()));
                if released.receiver_count() >= WAITERS_PER_EVENT {
                    return Entry::Crowded;
                }
                // Subscribed under the entry's lock: the holder can't let go unnoticed in between.
                Entry::Held(Waiter(released.subscribe()))
            }
        }
    }
}

impl Waiter {
    /// Ends when the holder has let go.
    pub(super) async fn released(mut self) {
        // The sender is never used, only dropped.
        while self.0.changed().await.is_ok() {}
    }
}

impl Drop for LocalClaim {
    fn drop(&mut self) {
        self.claims.held.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Enter(u128),
        LetGo(usize),
        GiveUpWaiting(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u128..3).prop_map(Step::Enter),
            2 => any::<usize>().prop_map(Step::LetGo),
            1 => any::<usize>().prop_map(Step::GiveUpWaiting),
        ]
    }

    struct Waiting {
        key: EventKey,
        released: Pin<Box<dyn Future<Output = ()>>>,
    }

    impl Waiting {
        fn is_woken(&mut self) -> bool {
            self.released
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                == Poll::Ready(())
        }
    }

    proptest! {
        /// The table against a model of it: who holds, who waits, and who is woken, over any order of steps.
        #[test]
        fn one_holds_few_wait_and_all_who_wait_are_woken(steps in prop::collection::vec(step(), 0..100)) {
            let claims = Claims::new();
            let mut holds: Vec<LocalClaim> = Vec::new();
            let mut waiting: Vec<Waiting> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter(key) => {
                        let key = EventKey(key);
                        let held = holds.iter().any(|hold| hold.key == key);
                        let waiters = waiting.iter().filter(|waiting| waiting.key == key).count();
                        match claims.enter(key) {
                            Entry::Mine(hold) => {
                                prop_assert!(!held);
                                holds.push(hold);
                            }
                            Entry::Held(waiter) => {
                                prop_assert!(held && waiters < WAITERS_PER_EVENT);
                                waiting.push(Waiting { key, released: Box::pin(waiter.released()) });
                            }
                            Entry::Crowded => prop_assert!(held && waiters == WAITERS_PER_EVENT),
                        }
                    }
                    Step::LetGo(which) if !holds.is_empty() => {
                        let key = holds.swap_remove(which % holds.len()).key;
                        for waiting in &mut waiting {
                            prop_assert_eq!(waiting.is_woken(), waiting.key == key);
                        }
                        waiting.retain(|waiting| waiting.key != key);
                    }
                    Step::GiveUpWaiting(which) if !waiting.is_empty() => {
                        drop(waiting.swap_remove(which % waiting.len()));
                    }
                    Step::LetGo(_) | Step::GiveUpWaiting(_) => {}
                }
            }
            drop(holds);
            prop_assert!(claims.held.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_two_tasks_ever_hold_the_same_claim() {
        let claims = Claims::new();
        let inside: Arc<DashMap<u128, ()>> = Arc::default();
        let mut tasks = Vec::new();
        for task in 0..64u128 {
            let (claims, inside) = (Arc::clone(&claims), Arc::clone(&inside));
            tasks.push(tokio::spawn(async move {
                let deadline = Instant::now() + std::time::Duration::from_secs(30);
                let mut taken = 0;
                for round in 0..200u128 {
                    let key = (task + round) % 7;
                    if let Some(hold) = claims
                        .try_claim(EventKey(key), InFlightPolicy::Wait, deadline)
                        .await
                    {
                        assert!(inside.insert(key, ()).is_none(), "two holders of {key}");
                        tokio::task::yield_now().await;
                        inside.remove(&key);
                        drop(hold);
                        taken += 1;
                    }
                }
                taken
            }));
        }
        let mut per_task = HashMap::new();
        for (number, task) in tasks.into_iter().enumerate() {
            per_task.insert(number, task.await.unwrap());
        }
        assert!(per_task.values().any(|&taken| taken > 0));
        assert!(claims.held.is_empty());
    }

    #[tokio::test]
    async fn a_waiter_gives_up_at_its_deadline() {
        let claims = Claims::new();
        let hold = claims
            .try_claim(EventKey(1), InFlightPolicy::Wait, Instant::now())
            .await;
        assert!(hold.is_some());
        assert!(
            claims
                .try_claim(EventKey(1), InFlightPolicy::Wait, Instant::now())
                .await
                .is_none()
        );
        let waiting = pin!(async {
            claims
                .try_claim(EventKey(1), InFlightPolicy::Reject, Instant::now())
                .await
        });
        assert!(waiting.await.is_none());
    }
}
