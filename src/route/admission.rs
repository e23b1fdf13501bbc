//! Admission: the client addresses and the request rate that a route allows, checked on the head
//! before a body byte is read; and the number of events that may be in flight at once.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A route's allow-list, rate limit and concurrency limit.
pub struct Admission {
    allow_from: Vec<IpNet>,
    rate: Option<DefaultDirectRateLimiter>,
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
    /// `concurrency` events are in flight already.
    TooManyAtOnce,
}

impl Admission {
    /// Creates the limits of a route. An empty `allow_from` admits every address.
    pub fn new(allow_from: Vec<IpNet>, rate: Option<RateLimit>, concurrency: usize) -> Self {
        Self {
            allow_from,
            rate: rate.map(|limit| {
                DefaultDirectRateLimiter::direct(
                    Quota::per_second(limit.per_second).allow_burst(limit.burst),
                )
            }),
            in_flight: Arc::new(Semaphore::new(concurrency)),
        }
    }

    /// Admits a request from `client`.
    ///
    /// # Errors
    /// The first [`AdmissionError`] that applies: the address, then the rate.
    pub fn admit(&self, client: IpAddr) -> Result<(), AdmissionError> {
        if !self.allow_from.is_empty()
            && !self
                .allow_from
                .iter()
                .any(|net| net.contains(&client.to_canonical()))
        {
            return Err(AdmissionError::ForbiddenAddress);
        }
        if let Some(rate) = &self.rate
            && let Err(not_until) = rate.check()
        {
            let retry_after = not_until.wait_time_from(DefaultClock::default().now());
            return Err(AdmissionError::RateLimited { retry_after });
        }
        Ok(())
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
        Admission::new(Vec::new(), None, concurrency)
    }

    #[test]
    fn allow_list_rejects_other_addresses_and_maps_ipv4() {
        let admission = Admission::new(vec!["203.0.113.0/24".parse().unwrap()], None, 10);
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
        let admission = Admission::new(Vec::new(), Some(rate), 10);
        assert!(admission.admit(CLIENT).is_ok());
        assert!(admission.admit(CLIENT).is_ok());
        match admission.admit(CLIENT).unwrap_err() {
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
