//! Admission: the client addresses that a route allows, checked on the head before a body byte is
//! read; the rates of requests that verify and of those that do not; and the number of events that
//! may be in flight at once.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::unverified_limit::UnverifiedLimit;
use crate::client_network::NO_ADDRESS;

/// A route's allow-list, rate limits and concurrency limit.
pub struct Admission {
    allow_from: Vec<IpNet>,
    /// The rate of requests to the upstream or the queue.
    rate: Option<DefaultDirectRateLimiter>,
    /// The rate of requests that do not verify, for each client address.
    unverified: Option<UnverifiedLimit>,
    in_flight: Arc<Semaphore>,
}

/// A steady rate with a burst on top. Both are at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// A permit for one event in flight on the route. Dropping it releases the permit.
#[derive(Debug)]
pub struct ConcurrencyPermit(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// The reason why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionError {
    /// The client's address is outside `allow_from`.
    ForbiddenAddress,
    /// The rate limit is exceeded. A retry may succeed after `retry_after`.
    RateLimited { retry_after: Duration },
    /// The limit on requests that do not verify is exceeded for the client's address.
    UnverifiedRateLimited { retry_after: Duration },
    /// `concurrency` events are in flight already.
    TooManyAtOnce,
}

impl Admission {
    /// Returns whether some addresses are refused.
    pub(super) fn has_allow_list(&self) -> bool {
        !self.allow_from.is_empty()
    }

    /// Creates the limits of a route. An empty `allow_from` admits every address.
    pub fn new(
        allow_from: Vec<IpNet>,
        rate: Option<RateLimit>,
        unverified: Option<RateLimit>,
        concurrency: usize,
    ) -> Self {
        Self {
            allow_from,
            rate: rate.map(|limit| {
                DefaultDirectRateLimiter::direct(
                    Quota::per_second(limit.per_second).allow_burst(limit.burst),
                )
            }),
            unverified: unverified.map(UnverifiedLimit::new),
            in_flight: Arc::new(Semaphore::new(concurrency)),
        }
    }

    /// Admits a request from `client`, by its address. One that is not known is in no network.
    ///
    /// # Errors
    /// [`AdmissionError::ForbiddenAddress`].
    pub fn admit(&self, client: IpAddr) -> Result<(), AdmissionError> {
        let is_allowed = |client: IpAddr| {
            client != NO_ADDRESS && self.allow_from.iter().any(|net| net.contains(&client))
        };
        if !self.allow_from.is_empty() && !is_allowed(client.to_canonical()) {
            return Err(AdmissionError::ForbiddenAddress);
        }
        Ok(())
    }

    /// Counts a request that is about to be delivered or stored. Others are not counted: a client
    /// without a secret, or with a copy of a delivered event, must not use up the senders' rate.
    ///
    /// # Errors
    /// [`AdmissionError::RateLimited`].
    pub fn count(&self) -> Result<(), AdmissionError> {
        if let Some(rate) = &self.rate
            && let Err(not_until) = rate.check()
        {
            let retry_after = not_until.wait_time_from(DefaultClock::default().now());
            return Err(AdmissionError::RateLimited { retry_after });
        }
        Ok(())
    }

    /// Counts a request from `client` that does not verify.
    ///
    /// # Errors
    /// [`AdmissionError::UnverifiedRateLimited`].
    pub fn count_unverified(&self, client: IpAddr) -> Result<(), AdmissionError> {
        match &self.unverified {
            None => Ok(()),
            Some(limit) => limit
                .count(client, Instant::now())
                .map_err(|retry_after| AdmissionError::UnverifiedRateLimited { retry_after }),
        }
    }

    /// Waits for a permit for one more attempt in flight.
    pub async fn acquire(&self) -> Option<ConcurrencyPermit> {
        // The semaphore is never closed.
        Arc::clone(&self.in_flight)
            .acquire_owned()
            .await
            .ok()
            .map(ConcurrencyPermit)
    }

    /// Acquires a permit for one more attempt in flight.
    ///
    /// # Errors
    /// [`AdmissionError::TooManyAtOnce`].
    pub fn try_acquire(&self) -> Result<ConcurrencyPermit, AdmissionError> {
        match Arc::clone(&self.in_flight).try_acquire_owned() {
            Ok(permit) => Ok(ConcurrencyPermit(permit)),
            Err(_) => Err(AdmissionError::TooManyAtOnce),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn open(concurrency: usize) -> Admission {
        Admission::new(Vec::new(), None, None, concurrency)
    }

    #[test]
    fn allow_list_rejects_other_addresses_and_maps_ipv4() {
        let admission = Admission::new(vec!["203.0.113.0/24".parse().unwrap()], None, None, 10);
        assert!(admission.admit(CLIENT).is_ok());
        assert!(
            admission
                .admit("::ffff:203.0.113.9".parse().unwrap())
                .is_ok()
        );
        assert_eq!(
            admission
                .admit("198.51.100.1".parse().unwrap())
                .unwrap_err(),
            AdmissionError::ForbiddenAddress
        );
    }

    #[test]
    fn rate_limit_admits_the_burst_and_then_says_when_to_retry() {
        let one = NonZeroU32::MIN;
        let rate = RateLimit {
            per_second: one,
            burst: one.saturating_add(1),
        };
        let admission = Admission::new(Vec::new(), Some(rate), None, 10);
        assert!(admission.count().is_ok());
        assert!(admission.count().is_ok());
        match admission.count().unwrap_err() {
            AdmissionError::RateLimited { retry_after } => {
                assert!(retry_after <= Duration::from_secs(1));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dropping_a_permit_releases_it() {
        let admission = open(1);
        let permit = admission.try_acquire().unwrap();
        assert_eq!(
            admission.try_acquire().unwrap_err(),
            AdmissionError::TooManyAtOnce
        );
        drop(permit);
        assert!(admission.try_acquire().is_ok());
    }
}
