//! The limit on requests that do not verify, for each client address.
//!
//! Counts such requests only, so a genuine sender behind the same address is never refused. Memory
//! is bounded: the addresses that were counted longest ago are forgotten first.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::RateLimit;
use crate::client_network::ClientNetwork;

/// The most addresses that are remembered for one route: 10,000 take about 0.6 MiB. A client with
/// more addresses than that is not limited by any of them.
const ADDRESSES_MAX: usize = 10_000;

/// One token bucket for each client address.
pub(super) struct UnverifiedLimit {
    /// The time in which a bucket regains one token.
    interval: Duration,
    /// The time in which an empty bucket regains all tokens but one.
    tolerance: Duration,
    buckets: Mutex<Buckets>,
}

/// The time at which each bucket is full again, by address. `recent` holds the addresses that were
/// counted last. When it is full, it replaces `older`, whose addresses are forgotten.
#[derive(Default)]
struct Buckets {
    recent: HashMap<ClientNetwork, Instant>,
    older: HashMap<ClientNetwork, Instant>,
}

impl UnverifiedLimit {
    pub(super) fn new(limit: RateLimit) -> Self {
        let interval = Duration::from_secs(1) / limit.per_second.get();
        Self {
            interval,
            tolerance: interval * (limit.burst.get() - 1),
            buckets: Mutex::default(),
        }
    }

    /// Counts a request that does not verify.
    ///
    /// # Errors
    /// The time until the next one is within the limit, if this one is not.
    pub(super) fn count(&self, client: IpAddr, now: Instant) -> Result<(), Duration> {
        let client = ClientNetwork::of_address(client);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = buckets.find(client).unwrap_or(now).max(now);
        let wait = full_at.duration_since(now).saturating_sub(self.tolerance);
        if !wait.is_zero() {
            return Err(wait);
        }
        buckets.insert(client, full_at + self.interval);
        Ok(())
    }
}

impl Buckets {
    fn find(&self, client: ClientNetwork) -> Option<Instant> {
        let bucket = self.recent.get(&client);
        bucket.or_else(|| self.older.get(&client)).copied()
    }

    fn insert(&mut self, client: ClientNetwork, full_at: Instant) {
        if self.recent.len() >= ADDRESSES_MAX / 2 && !self.recent.contains_key(&client) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(client, full_at);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::num::NonZeroU32;

    use super::*;

    fn limit(per_second: u32, burst: u32) -> UnverifiedLimit {
        let [per_second, burst] = [per_second, burst].map(|n| NonZeroU32::new(n).unwrap());
        UnverifiedLimit::new(RateLimit { per_second, burst })
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_address_has_its_own_burst_and_rate() {
        let (limit, start) = (limit(2, 3), Instant::now());
        let one = address("203.0.113.9");
        for _ in 0..3 {
            assert_eq!(limit.count(one, start), Ok(()));
        }
        assert_eq!(limit.count(one, start), Err(Duration::from_millis(500)));
        let mapped = address("::ffff:203.0.113.9");
        assert!(limit.count(mapped, start).is_err());
        assert_eq!(limit.count(address("203.0.113.10"), start), Ok(()));
        let later = start + Duration::from_millis(500);
        assert_eq!(limit.count(one, later), Ok(()));
        assert!(limit.count(one, later).is_err());
    }

    #[test]
    fn ipv6_addresses_of_one_network_share_a_bucket() {
        let (limit, now) = (limit(1, 1), Instant::now());
        assert_eq!(limit.count(address("2001:db8:0:1::1"), now), Ok(()));
        assert!(limit.count(address("2001:db8:0:1:ffff::2"), now).is_err());
        assert_eq!(limit.count(address("2001:db8:0:2::1"), now), Ok(()));
    }

    #[test]
    fn number_of_addresses_is_bounded() {
        let (limit, now) = (limit(1, 1), Instant::now());
        for number in 0..50_000 {
            limit
                .count(Ipv4Addr::from_bits(number).into(), now)
                .unwrap();
        }
        let buckets = limit.buckets.lock().unwrap();
        assert!(buckets.recent.len() + buckets.older.len() <= ADDRESSES_MAX);
        drop(buckets);
        let recent = Ipv4Addr::from_bits(49_999).into();
        assert!(limit.count(recent, now).is_err(), "still remembered");
    }
}
