//! Limits on open connections: a total, and a share for one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::client_network::ClientNetwork;
use crate::gateway::{Limits, address};

/// The counters of open connections, in total and by address. The limits are those of the moment:
/// where a reload lowers one, open connections stay open and count.
#[derive(Default)]
pub(in crate::gateway) struct ConnectionLimits {
    open: Arc<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    total: AtomicUsize,
    none_left: Notify,
    /// Those of each address that has any; so no more entries than connections.
    by_address: Mutex<HashMap<ClientNetwork, usize>>,
}

/// The right of one connection to be open, released on drop.
pub(super) struct ConnectionPermit {
    address: AddressPermit,
    _total: TotalPermit,
}

/// One of all connections, released on drop.
struct TotalPermit(Arc<OpenConnections>);

/// One of the connections that an address may have open, released on drop.
struct AddressPermit {
    /// The client it is counted for; `None` for an exempt one, which is not counted.
    client: Option<ClientNetwork>,
    open: Arc<OpenConnections>,
}

impl ConnectionLimits {
    /// Returns a permit for a connection from `peer`, or `None` at the limit.
    pub(super) fn try_acquire(&self, peer: IpAddr, limits: &Limits) -> Option<ConnectionPermit> {
        let max = limits.connections;
        self.open
            .total
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |open| {
                (open < max).then_some(open + 1)
            })
            .ok()?;
        let total = TotalPermit(Arc::clone(&self.open));
        Some(ConnectionPermit {
            address: self.try_acquire_for(peer, limits)?,
            _total: total,
        })
    }

    /// Counts the connection of `permit` for `client` instead of the address it was counted for.
    /// Returns `false`, and changes nothing, when `client` is at its limit.
    #[must_use]
    pub(super) fn reassign(
        &self,
        permit: &mut ConnectionPermit,
        client: IpAddr,
        limits: &Limits,
    ) -> bool {
        match self.try_acquire_for(client, limits) {
            Some(address) => {
                permit.address = address;
                true
            }
            None => false,
        }
    }

    fn try_acquire_for(&self, address: IpAddr, limits: &Limits) -> Option<AddressPermit> {
        // Many senders may connect through a trusted proxy.
        if address::is_in(&limits.trusted_proxies, address) {
            return Some(AddressPermit {
                client: None,
                open: Arc::clone(&self.open),
            });
        }
        let client = ClientNetwork::of_address(address);
        let mut by_address = self.open.by_address();
        let open = by_address.entry(client).or_default();
        // An address without an entry is below the limit, which is at least 1: no entry stays at 0.
        if *open >= limits.connections_per_address {
            return None;
        }
        *open += 1;
        Some(AddressPermit {
            client: Some(client),
            open: Arc::clone(&self.open),
        })
    }

    /// Waits until every permit has been released.
    pub(in crate::gateway) async fn all_released(&self) {
        loop {
            let released = self.open.none_left.notified();
            if self.open.total.load(Ordering::SeqCst) == 0 {
                return;
            }
            released.await;
        }
    }
}

impl OpenConnections {
    fn by_address(&self) -> MutexGuard<'_, HashMap<ClientNetwork, usize>> {
        self.by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TotalPermit {
    fn drop(&mut self) {
        if self.0.total.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut by_address = self.open.by_address();
        if let Some(open) = by_address.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                by_address.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// The counters with limits that a test may change.
    struct Limited {
        limits: Limits,
        counters: ConnectionLimits,
    }

    impl Limited {
        fn try_acquire(&self, peer: &str) -> Option<ConnectionPermit> {
            self.counters.try_acquire(ip(peer), &self.limits)
        }

        fn reassign(&self, permit: &mut ConnectionPermit, client: &str) -> bool {
            self.counters.reassign(permit, ip(client), &self.limits)
        }

        fn by_address_is_empty(&self) -> bool {
            self.counters.open.by_address().is_empty()
        }
    }

    fn limited(connections: usize, connections_per_address: usize) -> Limited {
        Limited {
            limits: Limits {
                connections,
                connections_per_address,
                header_bytes: 1,
                body_bytes_in_flight: 1,
                header_timeout: Duration::ZERO,
                idle_timeout: Duration::ZERO,
                trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()],
            },
            counters: ConnectionLimits::default(),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_limit_leaves_room_for_other_addresses() {
        let limits = limited(4, 2);
        let held: Vec<_> = (0..2)
            .map(|_| limits.try_acquire("192.0.2.1").unwrap())
            .collect();
        assert!(limits.try_acquire("192.0.2.1").is_none());
        assert!(
            limits.try_acquire("::ffff:192.0.2.1").is_none(),
            "the same address"
        );
        let other = limits.try_acquire("192.0.2.2").unwrap();
        let last = limits.try_acquire("192.0.2.2").unwrap();
        assert!(
            limits.try_acquire("192.0.2.3").is_none(),
            "the total is reached"
        );
        drop((held, other, last));
        assert!(limits.try_acquire("192.0.2.1").is_some());
        assert!(
            limits.by_address_is_empty(),
            "no entry outlives its connections"
        );
    }

    #[test]
    fn addresses_of_one_ipv6_site_count_as_one() {
        let limits = limited(4, 1);
        let _held = limits.try_acquire("2001:db8::1").unwrap();
        assert!(limits.try_acquire("2001:db8::ffff:2").is_none());
        assert!(limits.try_acquire("2001:db8:0:1::1").is_some());
    }

    #[test]
    fn trusted_proxy_is_bound_by_the_total_only() {
        let limits = limited(3, 1);
        let held: Vec<_> = (0..3).map(|_| limits.try_acquire("10.1.2.3")).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(limits.try_acquire("10.1.2.3").is_none());
    }

    #[test]
    fn reassigned_permit_counts_for_the_named_client() {
        let limits = limited(3, 1);
        let mut first = limits.try_acquire("10.1.2.3").unwrap();
        assert!(limits.reassign(&mut first, "192.0.2.1"));
        let mut second = limits.try_acquire("10.1.2.3").unwrap();
        assert!(
            !limits.reassign(&mut second, "192.0.2.1"),
            "that client is at its limit"
        );
        assert!(limits.reassign(&mut second, "192.0.2.2"));
        drop(first);
        assert!(limits.try_acquire("192.0.2.1").is_some());
        drop(second);
        assert!(
            limits.by_address_is_empty(),
            "no entry outlives its connections"
        );
    }

    /// A step of a run during which the limits change.
    #[derive(Debug, Clone)]
    enum Step {
        /// A connection from the address with this number.
        Open(u8),
        /// The end of the connection at this place among the open ones.
        Close(usize),
        /// Another total, and another limit for one address.
        Resize(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..3u8).prop_map(Step::Open),
            2 => any::<usize>().prop_map(Step::Close),
            1 => (1..8usize, 1..5usize).prop_map(|(total, each)| Step::Resize(total, each)),
        ]
    }

    proptest! {
        #[test]
        fn resized_limits_bind_newcomers_alone(steps in prop::collection::vec(step(), 1..200)) {
            let mut limits = limited(4, 2);
            let mut open: Vec<(u8, ConnectionPermit)> = Vec::new();
            for step in steps {
                match step {
                    Step::Open(number) => {
                        // The last address is that of a trusted proxy.
                        let is_exempt = number == 2;
                        let address = if is_exempt { "10.0.0.1" } else { &*format!("192.0.2.{number}") };
                        let same = open.iter().filter(|(other, _)| *other == number).count();
                        let fits = open.len() < limits.limits.connections
                            && (is_exempt || same < limits.limits.connections_per_address);
                        let permit = limits.try_acquire(address);
                        prop_assert_eq!(permit.is_some(), fits);
                        open.extend(permit.map(|permit| (number, permit)));
                    }
                    Step::Close(at) if !open.is_empty() => {
                        let at = at % open.len();
                        open.swap_remove(at);
                    }
                    Step::Close(_) => {}
                    Step::Resize(total, each) => {
                        limits.limits.connections = total;
                        limits.limits.connections_per_address = each;
                    }
                }
                prop_assert_eq!(limits.counters.open.total.load(Ordering::SeqCst), open.len());
            }
            open.clear();
            prop_assert!(limits.by_address_is_empty());
            prop_assert_eq!(limits.counters.open.total.load(Ordering::SeqCst), 0);
        }
    }

    #[tokio::test]
    async fn last_release_ends_the_wait() {
        let limits = limited(2, 2);
        let held = limits.try_acquire("192.0.2.1");
        let all_released = limits.counters.all_released();
        tokio::pin!(all_released);
        tokio::select! {
            biased;
            () = &mut all_released => panic!("a connection is open"),
            () = std::future::ready(()) => {}
        }
        drop(held);
        all_released.await;
    }
}
