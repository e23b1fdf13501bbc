//! The memory of addresses that could not be connected to. Pure: the time is an argument.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Address;

/// The time for which a failed address is tried after all others. When it is over, one attempt
/// pays for finding out whether the address works again.
const FAILING_FOR: Duration = Duration::from_secs(60);

/// The number of addresses of a name that are remembered.
const FAILING_MAX: usize = 64;

/// The addresses of a name that failed lately, the one that failed first at the front.
#[derive(Default)]
pub(super) struct FailingAddresses(Mutex<Vec<Failing>>);

struct Failing {
    address: Address,
    until: Instant,
}

impl FailingAddresses {
    /// Records that an address refused a connection, or did not answer.
    pub(super) fn record_failure(&self, address: &Address, now: Instant) {
        let mut failing = self.failing();
        failing.retain(|other| other.address != *address && now < other.until);
        if failing.len() == FAILING_MAX {
            failing.remove(0);
        }
        failing.push(Failing {
            address: address.clone(),
            until: now + FAILING_FOR,
        });
    }

    /// Records that an address was connected to.
    pub(super) fn record_success(&self, address: &Address) {
        self.failing().retain(|other| other.address != *address);
    }

    /// Moves the addresses that failed lately to the end, the one that failed first before the
    /// others.
    pub(super) fn sort_last(&self, addresses: &mut [Address], now: Instant) {
        let failing = self.failing();
        addresses.sort_by_key(|address| {
            let place = failing
                .iter()
                .position(|other| other.address == *address && now < other.until);
            place.map_or(0, |place| place + 1)
        });
    }

    fn failing(&self) -> MutexGuard<'_, Vec<Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn failed_address_is_tried_last_for_a_minute() {
        let [a, b, c] =
            [1, 2, 3].map(|last| Address::from(SocketAddr::from(([10, 0, 0, last], 80))));
        let (now, failing) = (Instant::now(), FailingAddresses::default());
        let sorted = |now| {
            let mut addresses = [&a, &b, &c].map(Clone::clone);
            failing.sort_last(&mut addresses, now);
            addresses
        };
        assert_eq!(sorted(now).each_ref(), [&a, &b, &c]);
        failing.record_failure(&a, now);
        assert_eq!(sorted(now).each_ref(), [&b, &c, &a]);
        failing.record_failure(&b, now);
        assert_eq!(sorted(now).each_ref(), [&c, &a, &b]);
        failing.record_success(&a);
        assert_eq!(sorted(now).each_ref(), [&a, &c, &b]);
        assert_eq!(sorted(now + FAILING_FOR).each_ref(), [&a, &b, &c]);
    }
}
