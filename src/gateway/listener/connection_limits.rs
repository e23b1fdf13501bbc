//! Limits on open connections: a total, and a share for one address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client_network::ClientNetwork;
use crate::gateway::address;

/// The counters of open connections, in total and by address.
pub(in crate::gateway) struct ConnectionLimits {
    total: usize,
    available: Arc<Semaphore>,
    per_address: usize,
    /// Networks without a limit per address: many senders may connect through one of these.
    exempt: Vec<IpNet>,
    open_by_address: OpenByAddress,
}

/// The open connections of each address that has any; so no more entries than connections.
type OpenByAddress = Arc<Mutex<HashMap<ClientNetwork, usize>>>;

/// The right of one connection to be open, released on drop.
pub(super) struct ConnectionPermit {
    _permit: OwnedSemaphorePermit,
    address: AddressPermit,
}

/// One of the connections that an address may have open, released on drop.
struct AddressPermit {
    /// The client it is counted for; `None` for an exempt one, which is not counted.
    client: Option<ClientNetwork>,
    open_by_address: OpenByAddress,
}

impl ConnectionLimits {
    pub(in crate::gateway) fn new(total: usize, per_address: usize, exempt: Vec<IpNet>) -> Self {
        Self {
            total,
            available: Arc::new(Semaphore::new(total)),
            per_address,
            exempt,
            open_by_address: Arc::default(),
        }
    }

    /// Returns a permit for a connection from `peer`, or `None` at the limit.
    pub(super) fn try_acquire(&self, peer: IpAddr) -> Option<ConnectionPermit> {
        let permit = Arc::clone(&self.available).try_acquire_owned().ok()?;
        Some(ConnectionPermit {
            _permit: permit,
            address: self.try_acquire_for(peer)?,
        })
    }

    /// Counts the connection of `permit` for `client` instead of the address it was counted for.
    /// Returns `false`, and changes nothing, when `client` is at its limit.
    #[must_use]
    pub(super) fn reassign(&self, permit: &mut ConnectionPermit, client: IpAddr) -> bool {
        match self.try_acquire_for(client) {
            Some(address) => {
                permit.address = address;
                true
            }
            None => false,
        }
    }

    fn try_acquire_for(&self, address: IpAddr) -> Option<AddressPermit> {
        if address::is_in(&self.exempt, address) {
            return Some(AddressPermit {
                client: None,
                open_by_address: Arc::clone(&self.open_by_address),
            });
        }
        let client = ClientNetwork::of_address(address);
        let mut open_by_address = lock(&self.open_by_address);
        let open = open_by_address.entry(client).or_default();
        // An address without an entry is below the limit, which is at least 1: no entry stays at 0.
        if *open >= self.per_address {
            return None;
        }
        *open += 1;
        Some(AddressPermit {
            client: Some(client),
            open_by_address: Arc::clone(&self.open_by_address),
        })
    }

    /// Waits until every permit has been released.
    pub(in crate::gateway) async fn all_released(&self) {
        let total = u32::try_from(self.total).unwrap_or(u32::MAX);
        // The semaphore is never closed, so there is no error to handle.
        let _ = self.available.acquire_many(total).await;
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(client) = self.client else { return };
        let mut open_by_address = lock(&self.open_by_address);
        if let Some(open) = open_by_address.get_mut(&client) {
            *open -= 1;
            if *open == 0 {
                open_by_address.remove(&client);
            }
        }
    }
}

fn lock(open_by_address: &OpenByAddress) -> MutexGuard<'_, HashMap<ClientNetwork, usize>> {
    open_by_address
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: usize, per_address: usize) -> ConnectionLimits {
        ConnectionLimits::new(total, per_address, vec!["10.0.0.0/8".parse().unwrap()])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_limit_leaves_room_for_other_addresses() {
        let limits = limits(4, 2);
        let held: Vec<_> = (0..2)
            .map(|_| limits.try_acquire(ip("192.0.2.1")).unwrap())
            .collect();
        assert!(limits.try_acquire(ip("192.0.2.1")).is_none());
        assert!(
            limits.try_acquire(ip("::ffff:192.0.2.1")).is_none(),
            "the same address"
        );
        let other = limits.try_acquire(ip("192.0.2.2")).unwrap();
        let last = limits.try_acquire(ip("192.0.2.2")).unwrap();
        assert!(
            limits.try_acquire(ip("192.0.2.3")).is_none(),
            "the total is reached"
        );
        drop((held, other, last));
        assert!(limits.try_acquire(ip("192.0.2.1")).is_some());
        assert!(
            lock(&limits.open_by_address).is_empty(),
            "no entry outlives its connections"
        );
    }

    #[test]
    fn addresses_of_one_ipv6_site_count_as_one() {
        let limits = limits(4, 1);
        let _held = limits.try_acquire(ip("2001:db8::1")).unwrap();
        assert!(limits.try_acquire(ip("2001:db8::ffff:2")).is_none());
        assert!(limits.try_acquire(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn trusted_proxy_is_bound_by_the_total_only() {
        let limits = limits(3, 1);
        let held: Vec<_> = (0..3).map(|_| limits.try_acquire(ip("10.1.2.3"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(limits.try_acquire(ip("10.1.2.3")).is_none());
    }

    #[test]
    fn reassigned_permit_counts_for_the_named_client() {
        let limits = limits(3, 1);
        let mut first = limits.try_acquire(ip("10.1.2.3")).unwrap();
        assert!(limits.reassign(&mut first, ip("192.0.2.1")));
        let mut second = limits.try_acquire(ip("10.1.2.3")).unwrap();
        assert!(
            !limits.reassign(&mut second, ip("192.0.2.1")),
            "that client is at its limit"
        );
        assert!(limits.reassign(&mut second, ip("192.0.2.2")));
        drop(first);
        assert!(limits.try_acquire(ip("192.0.2.1")).is_some());
        drop(second);
        assert!(
            lock(&limits.open_by_address).is_empty(),
            "no entry outlives its connections"
        );
    }
}
