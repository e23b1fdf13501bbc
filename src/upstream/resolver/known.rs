//! What is known of one name's addresses: how long it is used, and when the name is asked for
//! again. Pure: the time is an argument.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bounds of a record's lifetime (TTL). The lower one keeps a name from being asked for with
/// every request. With the upper one, a change in the DNS counts within a minute.
const LIFETIME_MIN: Duration = Duration::from_secs(1);
const LIFETIME_MAX: Duration = Duration::from_secs(60);

/// The longest time for which a name counts as absent. Its upstream may just be coming up.
const ABSENT_MAX: Duration = Duration::from_secs(10);

/// The pause after a look-up without an answer, before the next one.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// The time for which the last known addresses are used while no name server answers (RFC 8767
/// proposes one to three days).
pub(super) const LAST_KNOWN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The reason why a name has no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::upstream) enum ResolveError {
    /// The name servers know no address of that name.
    NoSuchHost,
    /// No name server answered, or all reported a failure.
    NoAnswer,
}

/// The end of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LookupEnd {
    /// At least one address.
    Found {
        addresses: Arc<[IpAddr]>,
        lifetime: Duration,
    },
    NoSuchHost {
        lifetime: Duration,
    },
    NoAnswer,
}

/// What a request that needs a name's addresses does now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Uses these. If `refresh`, a look-up runs in the background meanwhile.
    Use {
        addresses: Arc<[IpAddr]>,
        refresh: bool,
    },
    /// Waits for a look-up: for a moment, if there are last known addresses, then uses those.
    Wait {
        last_known: Option<Arc<[IpAddr]>>,
    },
    Fail(ResolveError),
}

/// What is known of a name.
#[derive(Default)]
pub(super) struct Known {
    addresses: Option<KnownAddresses>,
    /// The failure of the last look-up, if it failed.
    failure: Option<Failure>,
}

struct KnownAddresses {
    addresses: Arc<[IpAddr]>,
    resolved: Instant,
    /// Set when three quarters of the lifetime are over. A busy name is then looked up again before
    /// any request has to wait for it.
    refresh: Instant,
    expires: Instant,
}

struct Failure {
    error: ResolveError,
    retry: Instant,
}

impl Known {
    pub(super) fn decide(&self, now: Instant) -> Decision {
        let retry_is_due = self
            .failure
            .as_ref()
            .is_none_or(|failure| now >= failure.retry);
        let usable = self
            .addresses
            .as_ref()
            .filter(|known| now < known.resolved + LAST_KNOWN_MAX);
        match (usable, &self.failure) {
            (Some(known), None) if now >= known.expires => Decision::Wait {
                last_known: Some(Arc::clone(&known.addresses)),
            },
            (Some(known), _) => Decision::Use {
                addresses: Arc::clone(&known.addresses),
                refresh: retry_is_due && now >= known.refresh,
            },
            (None, Some(failure)) if !retry_is_due => Decision::Fail(failure.error),
            (None, _) => Decision::Wait { last_known: None },
        }
    }

    /// Returns the addresses and the time until which they are used without another decision.
    pub(super) fn fresh(&self) -> Option<(Arc<[IpAddr]>, Instant)> {
        let known = self.addresses.as_ref()?;
        self.failure
            .is_none()
            .then(|| (Arc::clone(&known.addresses), known.refresh))
    }

    /// Records the end of a look-up. Addresses outlive look-ups without an answer, but not the
    /// answer that the name has none.
    pub(super) fn record(&mut self, end: LookupEnd, now: Instant) {
        match end {
            LookupEnd::Found {
                addresses,
                lifetime,
            } => {
                let lifetime = lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX);
                self.failure = None;
                self.addresses = Some(KnownAddresses {
                    addresses,
                    resolved: now,
                    refresh: now + lifetime * 3 / 4,
                    expires: now + lifetime,
                });
            }
            LookupEnd::NoSuchHost { lifetime } => {
                self.addresses = None;
                self.failure = Some(Failure {
                    error: ResolveError::NoSuchHost,
                    retry: now + lifetime.clamp(LIFETIME_MIN, ABSENT_MAX),
                });
            }
            LookupEnd::NoAnswer => {
                self.failure = Some(Failure {
                    error: ResolveError::NoAnswer,
                    retry: now + RETRY_AFTER,
                });
            }
        }
    }

    /// Ends the lifetime of the addresses, because none of them could be connected to. Addresses
    /// that have just been resolved stay: an upstream that is down must not cause a look-up with
    /// every request.
    pub(super) fn expire(&mut self, now: Instant) {
        if let Some(known) = &mut self.addresses
            && now >= known.resolved + LIFETIME_MIN
        {
            known.refresh = known.refresh.min(now);
            known.expires = known.expires.min(now);
        }
    }

    /// Returns whether the last look-up failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failure.is_some()
    }

    /// Returns whether the last known addresses may still be of use.
    pub(super) fn is_worth_keeping(&self, now: Instant) -> bool {
        self.addresses
            .as_ref()
            .is_some_and(|known| now < known.resolved + LAST_KNOWN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn found(address: [u8; 4], seconds: u64) -> LookupEnd {
        LookupEnd::Found {
            addresses: Arc::new([IpAddr::from(address)]),
            lifetime: Duration::from_secs(seconds),
        }
    }

    fn addresses(address: [u8; 4]) -> Arc<[IpAddr]> {
        Arc::new([IpAddr::from(address)])
    }

    fn using(address: [u8; 4], refresh: bool) -> Decision {
        Decision::Use {
            addresses: addresses(address),
            refresh,
        }
    }

    #[test]
    fn addresses_are_used_for_their_lifetime() {
        let (start, mut known) = (Instant::now(), Known::default());
        assert_eq!(known.decide(start), Decision::Wait { last_known: None });
        known.record(found([10, 0, 0, 1], 20), start);
        assert_eq!(known.decide(start), using([10, 0, 0, 1], false));
        assert_eq!(
            known.decide(start + SECOND * 14),
            using([10, 0, 0, 1], false)
        );
        assert_eq!(
            known.decide(start + SECOND * 15),
            using([10, 0, 0, 1], true)
        );
        let expired = Decision::Wait {
            last_known: Some(addresses([10, 0, 0, 1])),
        };
        assert_eq!(known.decide(start + SECOND * 20), expired);
    }

    #[test]
    fn lifetimes_are_bounded() {
        let (start, mut known) = (Instant::now(), Known::default());
        known.record(found([10, 0, 0, 1], 0), start);
        assert_eq!(known.decide(start), using([10, 0, 0, 1], false));
        known.record(found([10, 0, 0, 1], 86_400), start);
        assert!(matches!(
            known.decide(start + LIFETIME_MAX),
            Decision::Wait { .. }
        ));
        known.record(
            LookupEnd::NoSuchHost {
                lifetime: Duration::from_secs(3600),
            },
            start,
        );
        assert_eq!(
            known.decide(start + ABSENT_MAX),
            Decision::Wait { last_known: None }
        );
    }

    #[test]
    fn last_known_addresses_outlive_silent_name_servers() {
        let (start, mut known) = (Instant::now(), Known::default());
        known.record(found([10, 0, 0, 1], 5), start);
        let silent = start + SECOND * 16;
        known.record(LookupEnd::NoAnswer, silent);
        assert_eq!(known.decide(silent), using([10, 0, 0, 1], false));
        assert_eq!(
            known.decide(silent + RETRY_AFTER),
            using([10, 0, 0, 1], true)
        );
        let day_after = start + LAST_KNOWN_MAX;
        known.record(LookupEnd::NoAnswer, day_after);
        assert_eq!(
            known.decide(day_after),
            Decision::Fail(ResolveError::NoAnswer)
        );
        known.record(found([10, 0, 0, 2], 5), day_after);
        assert_eq!(known.decide(day_after), using([10, 0, 0, 2], false));
    }

    #[test]
    fn absent_name_loses_its_last_known_addresses() {
        let (start, mut known) = (Instant::now(), Known::default());
        known.record(found([10, 0, 0, 1], 5), start);
        known.record(LookupEnd::NoSuchHost { lifetime: SECOND }, start);
        assert_eq!(
            known.decide(start),
            Decision::Fail(ResolveError::NoSuchHost)
        );
        assert_eq!(
            known.decide(start + SECOND),
            Decision::Wait { last_known: None }
        );
    }

    #[test]
    fn failed_connects_expire_addresses_once_a_second() {
        let (start, mut known) = (Instant::now(), Known::default());
        known.record(found([10, 0, 0, 1], 30), start);
        known.expire(start);
        assert_eq!(known.decide(start), using([10, 0, 0, 1], false));
        known.expire(start + LIFETIME_MIN);
        let expired = Decision::Wait {
            last_known: Some(addresses([10, 0, 0, 1])),
        };
        assert_eq!(known.decide(start + LIFETIME_MIN), expired);
    }
}
