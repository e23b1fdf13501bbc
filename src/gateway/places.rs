//! Places for connections: so many in all, and so many for one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::peer::is_in;

pub(super) struct Places {
    limit: usize,
    free: Arc<Semaphore>,
    per_address: usize,
    /// Many senders may stand behind one of these.
    exempt: Vec<IpNet>,
    /// Only addresses that have a place: no more entries than places.
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place, given back on drop.
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
    share: Share,
}

/// One of the places of an address; of none that counts where that is exempt.
struct Share {
    address: Option<IpAddr>,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Places {
    pub(super) fn new(limit: usize, per_address: usize, exempt: Vec<IpNet>) -> Self {
        Self {
            limit,
            free: Arc::new(Semaphore::new(limit)),
            per_address,
            exempt,
            taken: Arc::default(),
        }
    }

    /// A place for a connection from `peer`, if there is one.
    pub(super) fn take(&self, peer: IpAddr) -> Option<Place> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(Place {
            _permit: permit,
            share: self.share(peer)?,
        })
    }

    /// Makes a place one of `peer`'s, whoever had it before. `false` when that one has all it may have.
    #[must_use]
    pub(super) fn pass_on(&self, place: &mut Place, peer: IpAddr) -> bool {
        self.share(peer).map(|share| place.share = share).is_some()
    }

    fn share(&self, peer: IpAddr) -> Option<Share> {
        if is_in(&self.exempt, peer) {
            return Some(Share {
                address: None,
                taken: Arc::clone(&self.taken),
            });
        }
        let address = holder(peer.to_canonical());
        let mut taken = lock(&self.taken);
        let count = taken.entry(address).or_default();
        // One that has none yet is within the limit, which is at least 1: no entry stays at 0.
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Share {
            address: Some(address),
            taken: Arc::clone(&self.taken),
        })
    }

    /// Ends when all places are free.
    pub(super) async fn all_free(&self) {
        let all = u32::try_from(self.limit).unwrap_or(u32::MAX);
        // The semaphore is never closed, so an error means nothing.
        let _ = self.free.acquire_many(all).await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&address);
            }
        }
    }
}

fn lock(taken: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whom an address belongs to: with IPv6 one holder has a whole /64 (RFC 6177).
fn holder(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(limit: usize, per_address: usize) -> Places {
        Places::new(limit, per_address, vec!["10.0.0.0/8".parse().unwrap()])
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_places_and_leaves_others_theirs() {
        let places = places(4, 2);
        let held: Vec<_> = (0..2)
            .map(|_| places.take(ip("192.0.2.1")).unwrap())
            .collect();
        assert!(places.take(ip("192.0.2.1")).is_none());
        assert!(
            places.take(ip("::ffff:192.0.2.1")).is_none(),
            "the same address"
        );
        let other = places.take(ip("192.0.2.2")).unwrap();
        let last = places.take(ip("192.0.2.2")).unwrap();
        assert!(places.take(ip("192.0.2.3")).is_none(), "none is left");
        drop((held, other, last));
        assert!(places.take(ip("192.0.2.1")).is_some());
        assert!(
            lock(&places.taken).is_empty(),
            "nobody is remembered who has no place"
        );
    }

    #[test]
    fn one_holder_s_ipv6_addresses_count_as_one() {
        let places = places(4, 1);
        let _held = places.take(ip("2001:db8::1")).unwrap();
        assert!(places.take(ip("2001:db8::ffff:2")).is_none());
        assert!(places.take(ip("2001:db8:0:1::1")).is_some());
    }

    #[test]
    fn a_trusted_proxy_has_as_many_places_as_there_are() {
        let places = places(3, 1);
        let held: Vec<_> = (0..3).map(|_| places.take(ip("10.1.2.3"))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(places.take(ip("10.1.2.3")).is_none());
    }

    #[test]
    fn a_place_that_a_trusted_proxy_passes_on_counts_for_whom_it_names() {
        let places = places(3, 1);
        let mut first = places.take(ip("10.1.2.3")).unwrap();
        assert!(places.pass_on(&mut first, ip("192.0.2.1")));
        let mut second = places.take(ip("10.1.2.3")).unwrap();
        assert!(
            !places.pass_on(&mut second, ip("192.0.2.1")),
            "that one has its place"
        );
        assert!(places.pass_on(&mut second, ip("192.0.2.2")));
        drop(first);
        assert!(places.take(ip("192.0.2.1")).is_some());
        drop(second);
        assert!(
            lock(&places.taken).is_empty(),
            "nobody is remembered who has no place"
        );
    }
}
