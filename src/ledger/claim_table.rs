//! The claim table: at most one holder for each event, and a few copies that wait for it.
//!
//! A waiter does not learn the holder's outcome from this table. It acquires the claim in its turn
//! and queries the store, where the holder has recorded the outcome by then.

use std::sync::Arc;
use std::time::Instant;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use tokio::sync::watch;
use tokio::time::timeout_at;

use super::InFlightPolicy;
use crate::store::EventKey;

/// The number of copies that may wait for one event. More are rejected at once, so that a flood of
/// one ID holds few connections.
pub(super) const WAITERS_PER_EVENT: usize = 4;

#[derive(Default)]
pub(super) struct ClaimTable {
    held: DashMap<EventKey, ClaimSlot>,
}

#[derive(Default)]
struct ClaimSlot {
    /// Created when the first copy waits: most events never have one.
    released: Option<watch::Sender<()>>,
}

/// The result of one try to claim an event.
pub(super) enum TryClaim {
    Acquired(LocalClaim),
    /// Another copy holds the claim.
    Held(Waiter),
    /// Another copy holds the claim, and [`WAITERS_PER_EVENT`] copies wait already.
    Crowded,
}

/// The claim of this process on one event. Dropping it releases the claim.
pub(super) struct LocalClaim {
    table: Arc<ClaimTable>,
    key: EventKey,
}

/// A copy that waits for the holder to release its claim.
pub(super) struct Waiter(watch::Receiver<()>);

impl ClaimTable {
    pub(super) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Acquires the claim on `key`. Waits for its holder, until `deadline` at most, if `policy`
    /// says so. Returns `None` if the claim is still held then.
    pub(super) async fn claim(
        self: &Arc<Self>,
        key: EventKey,
        policy: InFlightPolicy,
        deadline: Instant,
    ) -> Option<LocalClaim> {
        loop {
            match (self.try_claim(key), policy) {
                (TryClaim::Acquired(claim), _) => return Some(claim),
                (TryClaim::Crowded, _) | (TryClaim::Held(_), InFlightPolicy::Reject) => {
                    return None;
                }
                (TryClaim::Held(waiter), InFlightPolicy::Wait) => {
                    timeout_at(deadline.into(), waiter.released()).await.ok()?;
                }
            }
        }
    }

    /// Acquires the claim if it is free. Otherwise joins its waiters if there is room.
    pub(super) fn try_claim(self: &Arc<Self>, key: EventKey) -> TryClaim {
        match self.held.entry(key) {
            Entry::Vacant(slot) => {
                slot.insert(ClaimSlot::default());
                TryClaim::Acquired(LocalClaim {
                    table: Arc::clone(self),
                    key,
                })
            }
            Entry::Occupied(mut slot) => {
                let released = slot
                    .get_mut()
                    .released
                    .get_or_insert_with(|| watch::Sender::new(()));
                if released.receiver_count() >= WAITERS_PER_EVENT {
                    return TryClaim::Crowded;
                }
                // Subscribes under the entry's lock, so that no release is missed in between.
                TryClaim::Held(Waiter(released.subscribe()))
            }
        }
    }
}

impl Waiter {
    /// Returns when the holder has released the claim.
    pub(super) async fn released(mut self) {
        // The sender sends nothing: it is dropped.
        while self.0.changed().await.is_ok() {}
    }
}

impl Drop for LocalClaim {
    fn drop(&mut self) {
        self.table.held.remove(&self.key);
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
        TryClaim(u128),
        Release(usize),
        StopWaiting(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u128..3).prop_map(Step::TryClaim),
            2 => any::<usize>().prop_map(Step::Release),
            1 => any::<usize>().prop_map(Step::StopWaiting),
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
        /// Compares the table with a model of it over any order of steps: the holders, the waiters
        /// and the waiters that are woken.
        #[test]
        fn table_has_one_holder_and_wakes_all_waiters(
            steps in prop::collection::vec(step(), 0..100)
        ) {
            let table = ClaimTable::new();
            let mut claims: Vec<LocalClaim> = Vec::new();
            let mut waiting: Vec<Waiting> = Vec::new();
            for step in steps {
                match step {
                    Step::TryClaim(key) => {
                        let key = EventKey(key);
                        let held = claims.iter().any(|claim| claim.key == key);
                        let waiters = waiting.iter().filter(|waiting| waiting.key == key).count();
                        match table.try_claim(key) {
                            TryClaim::Acquired(claim) => {
                                prop_assert!(!held);
                                claims.push(claim);
                            }
                            TryClaim::Held(waiter) => {
                                prop_assert!(held && waiters < WAITERS_PER_EVENT);
                                let released = Box::pin(waiter.released());
                                waiting.push(Waiting { key, released });
                            }
                            TryClaim::Crowded => prop_assert!(held && waiters == WAITERS_PER_EVENT),
                        }
                    }
                    Step::Release(which) if !claims.is_empty() => {
                        let key = claims.swap_remove(which % claims.len()).key;
                        for waiting in &mut waiting {
                            prop_assert_eq!(waiting.is_woken(), waiting.key == key);
                        }
                        waiting.retain(|waiting| waiting.key != key);
                    }
                    Step::StopWaiting(which) if !waiting.is_empty() => {
                        drop(waiting.swap_remove(which % waiting.len()));
                    }
                    Step::Release(_) | Step::StopWaiting(_) => {}
                }
            }
            drop(claims);
            prop_assert!(table.held.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn tasks_never_hold_the_same_claim() {
        let table = ClaimTable::new();
        let inside: Arc<DashMap<u128, ()>> = Arc::default();
        let mut tasks = Vec::new();
        for task in 0..64u128 {
            let (table, inside) = (Arc::clone(&table), Arc::clone(&inside));
            tasks.push(tokio::spawn(async move {
                let deadline = Instant::now() + std::time::Duration::from_secs(30);
                let mut claimed = 0;
                for round in 0..200u128 {
                    let key = (task + round) % 7;
                    if let Some(claim) = table
                        .claim(EventKey(key), InFlightPolicy::Wait, deadline)
                        .await
                    {
                        assert!(inside.insert(key, ()).is_none(), "two holders of {key}");
                        tokio::task::yield_now().await;
                        inside.remove(&key);
                        drop(claim);
                        claimed += 1;
                    }
                }
                claimed
            }));
        }
        let mut per_task = HashMap::new();
        for (number, task) in tasks.into_iter().enumerate() {
            per_task.insert(number, task.await.unwrap());
        }
        assert!(per_task.values().any(|&claimed| claimed > 0));
        assert!(table.held.is_empty());
    }

    #[tokio::test]
    async fn waiter_stops_at_its_deadline() {
        let table = ClaimTable::new();
        let claim = table
            .claim(EventKey(1), InFlightPolicy::Wait, Instant::now())
            .await;
        assert!(claim.is_some());
        assert!(
            table
                .claim(EventKey(1), InFlightPolicy::Wait, Instant::now())
                .await
                .is_none()
        );
        let waiting = pin!(async {
            table
                .claim(EventKey(1), InFlightPolicy::Reject, Instant::now())
                .await
        });
        assert!(waiting.await.is_none());
    }
}
