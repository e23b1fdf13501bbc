//! Who may come in at all, decided on the head before a body byte is read; and how many events may be in flight at once.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use ipnet::IpNet;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A route's allow-list, rate and concurrency.
pub struct Admission {
    allow_from: Vec<IpNet>,
    rate: Option<DefaultDirectRateLimiter>,
    in_flight: Arc<Semaphore>,
}

/// A steady rate with room for a burst. Both at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    pub per_second: NonZeroU32,
    pub burst: NonZeroU32,
}

/// A place among the requests that a route serves at once, given back on drop.
#[derive(Debug)]
pub struct ConcurrencyPermit(
    #[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit,
);

/// Why a request did not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionError {
    /// The peer's address is outside `allow_from`.
    ForbiddenAddress,
    /// Over the rate; worth another try after this time.
    RateLimited { retry_after: Duration },
    /// `concurrency` requests are being served already.
    TooManyAtOnce,
}

impl Admission {
    /// An empty `allow_from` lets every address in.
    pub fn new(allow_from: Vec<IpNet>, rate: Option<RateLimit>, concurrency: usize) -> Self {
        let limiter = |limit: RateLimit| {
            DefaultDirectRateLimiter::direct(
                Quota::per_second(limit.per_second).allow_burst(limit.burst),
            )
        };
        Self {
            allow_from,
            rate: rate.map(limiter),
            in_flight: Arc::new(Semaphore::new(concurrency)),
        }
    }

    /// Lets a request from `peer` in, or says why not.
    ///
    /// # Errors
    /// The first [`Refusal`] that applies: the address, then the rate.
    pub fn admit(&self, peer: IpAddr) -> Result<(), AdmissionError> {
        if !self.allow_from.is_empty()
            && !self
                .allow_from
                .iter()
                .any(|net| net.contains(&peer.to_canonical()))
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

    /// Waits for a place among the attempts in flight.
    pub async fn acquire(&self) -> Option<ConcurrencyPermit> {
        // The semaphore is never closed.
        Arc::clone(&self.in_flight)
            .acquire_owned()
            .await
            .ok()
            .map(ConcurrencyPermit)
    }

    /// Takes a place among the attempts in flight.
    ///
    /// # Errors
    /// [`Refusal::TooManyAtOnce`].
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

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));

    fn open(concurrency: usize) -> Admission {
        Admission::new(Vec::new(), None, concurrency)
    }

    #[test]
    fn an_address_outside_the_list_is_refused_and_a_mapped_one_inside_is_not() {
        let admission = Admission::new(vec!["203.0.113.0/24".parse().unwrap()], None, 10);
        assert!(admission.admit(PEER).is_ok());
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
    fn the_burst_comes_in_and_what_is_over_it_is_told_when_to_come_back() {
        let one = NonZeroU32::MIN;
        let rate = RateLimit {
            per_second: one,
            burst: one.saturating_add(1),
        };
        let admission = Admission::new(Vec::new(), Some(rate), 10);
        assert!(admission.admit(PEER).is_ok());
        assert!(admission.admit(PEER).is_ok());
        match admission.admit(PEER).unwrap_err() {
            AdmissionError::RateLimited { retry_after } => {
                assert!(retry_after <= Duration::from_secs(1))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_place_is_given_back_when_the_permit_is_dropped() {
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
