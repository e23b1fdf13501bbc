//! Decides when a failed delivery is retried and when it is dead-lettered. Pure: time and chance
//! are arguments.

use std::time::Duration;

/// The retry policy of a queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The upper bound of the pause before the second attempt.
    pub initial: Duration,
    /// The factor by which the upper bound grows with each attempt; at least 1.
    pub factor: f64,
    /// The longest pause, also for a `Retry-After`; at least `initial`.
    pub max_interval: Duration,
    /// The time from an event's arrival after which it is no longer retried.
    pub horizon: Duration,
    pub permanent: PermanentFailure,
}

/// The rule by which a permanent status makes an event a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PermanentFailure {
    /// The attempts that an event gets at least.
    pub attempts: u32,
    /// The age that an event reaches at least, unless the status is about the event itself.
    pub at_least: Duration,
}

/// The failure of an attempt, as far as the retry depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The upstream responded with a status other than 2xx.
    Status {
        status: u16,
        /// The upstream's `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No complete response arrived: not connected, timed out, or connection lost.
    NoResponse,
}

/// The decision after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Retry after this pause.
    RetryAfter(Duration),
    /// Stop retrying; the delivery becomes a dead letter.
    DeadLetter(DeadLetterReason),
}

/// The reason why a delivery became a dead letter: a closed set, used as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DeadLetterReason {
    /// The upstream rejected the event for good: see [`PermanentFailure`].
    Rejected,
    /// The retry horizon has passed.
    Expired,
    /// The stored event cannot be read: a defect of the disk or of this program.
    Unreadable,
}

impl DeadLetterReason {
    pub const ALL: [Self; 3] = [Self::Rejected, Self::Expired, Self::Unreadable];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
        }
    }
}

impl Backoff {
    /// Decides what follows a failed attempt. `attempt` counts from 1, `age` is the event's age at
    /// that attempt, and `chance` is uniform in 0 ..= 1.
    ///
    /// The pause is drawn from 0 up to its upper bound (full jitter: AWS Architecture Blog,
    /// "Exponential Backoff And Jitter"), so that events which failed together are not retried
    /// together. A `Retry-After` is honoured up to `max_interval`.
    pub fn decide(
        &self,
        attempt: u32,
        failed: AttemptFailure,
        age: Duration,
        chance: f64,
    ) -> RetryDecision {
        if let AttemptFailure::Status { status, .. } = failed
            && self.permanent.ends_retries(status, attempt, age)
        {
            return RetryDecision::DeadLetter(DeadLetterReason::Rejected);
        }
        let drawn = self.longest_pause(attempt).mul_f64(chance.clamp(0.0, 1.0));
        let pause = match failed {
            // `Retry-After` never shortens the pause: `Retry-After: 0` must not cause a tight loop.
            AttemptFailure::Status {
                retry_after: Some(requested),
                ..
            } => requested.min(self.max_interval).max(drawn),
            _ => drawn,
        };
        if age.saturating_add(pause) > self.horizon {
            RetryDecision::DeadLetter(DeadLetterReason::Expired)
        } else {
            RetryDecision::RetryAfter(pause)
        }
    }

    /// Returns the upper bound of the pause after this attempt:
    /// `initial · factor^(attempt − 1)`, at most `max_interval`.
    pub fn longest_pause(&self, attempt: u32) -> Duration {
        let power = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(power);
        // After enough attempts the result overflows a `Duration`.
        Duration::try_from_secs_f64(seconds)
            .map_or(self.max_interval, |limit| limit.min(self.max_interval))
    }
}

impl PermanentFailure {
    /// Returns whether an event of this age gets no attempt after this one, which had `status`.
    fn ends_retries(self, status: u16, attempt: u32, age: Duration) -> bool {
        let is_old_enough = match status {
            // The upstream has read the event and refuses its size, format or content (RFC 9110
            // §15.5.14, §15.5.16, §15.5.21).
            413 | 415 | 422 => true,
            // Temporary (RFC 9110 §15.5.9, §15.5.10, RFC 8470 §5.2, RFC 6585 §4).
            408 | 409 | 425 | 429 => return false,
            // Also the response of an upstream, or of the proxy in front of it, that is being
            // deployed or has the wrong credentials for a while.
            400..=499 => age >= self.at_least,
            _ => return false,
        };
        is_old_enough && attempt >= self.attempts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const POLICY: Backoff = Backoff {
        initial: Duration::from_secs(5),
        factor: 2.0,
        max_interval: HOUR,
        horizon: Duration::from_secs(72 * 3600),
        permanent: PermanentFailure {
            attempts: 3,
            at_least: HOUR,
        },
    };

    const fn status(status: u16) -> AttemptFailure {
        AttemptFailure::Status {
            status,
            retry_after: None,
        }
    }

    #[test]
    fn pause_doubles_up_to_max_interval() {
        let limits: Vec<_> = (1..=12)
            .map(|attempt| POLICY.longest_pause(attempt).as_secs())
            .collect();
        assert_eq!(
            limits,
            [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
        );
        assert_eq!(POLICY.longest_pause(u32::MAX), HOUR);
    }

    #[test]
    fn jitter_covers_the_whole_range() {
        let next = |chance| POLICY.decide(3, status(500), Duration::ZERO, chance);
        assert_eq!(next(0.0), RetryDecision::RetryAfter(Duration::ZERO));
        assert_eq!(
            next(0.5),
            RetryDecision::RetryAfter(Duration::from_secs(10))
        );
        assert_eq!(
            next(1.0),
            RetryDecision::RetryAfter(Duration::from_secs(20))
        );
    }

    #[test]
    fn retry_after_is_honoured_up_to_max_interval() {
        let requested = |seconds| AttemptFailure::Status {
            status: 503,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(
            POLICY.decide(1, requested(42), Duration::ZERO, 0.0),
            RetryDecision::RetryAfter(Duration::from_secs(42))
        );
        assert_eq!(
            POLICY.decide(1, requested(86_400), Duration::ZERO, 0.0),
            RetryDecision::RetryAfter(HOUR)
        );
        assert_eq!(
            POLICY.decide(2, requested(0), Duration::ZERO, 0.5),
            RetryDecision::RetryAfter(Duration::from_secs(5))
        );
    }

    /// Returns whether the event is retried after this attempt.
    fn is_retried(attempt: u32, with: u16, age: Duration) -> bool {
        match POLICY.decide(attempt, status(with), age, 0.5) {
            RetryDecision::RetryAfter(_) => true,
            RetryDecision::DeadLetter(reason) => {
                assert_eq!(reason, DeadLetterReason::Rejected, "{with}");
                false
            }
        }
    }

    #[test]
    fn refused_content_dead_letters_on_third_attempt() {
        for refused in [413, 415, 422] {
            assert!(is_retried(2, refused, HOUR * 2), "{refused}");
            assert!(!is_retried(3, refused, Duration::ZERO), "{refused}");
        }
    }

    #[test]
    fn permanent_status_dead_letters_after_attempts_and_time() {
        let almost = HOUR.saturating_sub(Duration::from_millis(1));
        for permanent in [400, 401, 403, 404, 405, 410, 418, 451, 499] {
            assert!(is_retried(2, permanent, HOUR * 2), "{permanent}");
            assert!(is_retried(30, permanent, almost), "{permanent}");
            assert!(!is_retried(3, permanent, HOUR), "{permanent}");
        }
    }

    #[test]
    fn temporary_failure_is_retried_up_to_the_horizon() {
        for temporary in [301, 408, 409, 425, 429, 500, 503] {
            assert!(is_retried(30, temporary, HOUR * 2), "{temporary}");
        }
        assert!(matches!(
            POLICY.decide(30, AttemptFailure::NoResponse, HOUR * 2, 0.5),
            RetryDecision::RetryAfter(_)
        ));
    }

    proptest! {
        #[test]
        fn retries_stay_within_horizon_and_max_interval(
            attempt in 1u32..200,
            age in 0u64..400_000,
            chance in 0.0..=1.0,
            requested in proptest::option::of(0u64..200_000),
        ) {
            let age = Duration::from_secs(age);
            let failed = AttemptFailure::Status {
                status: 503,
                retry_after: requested.map(Duration::from_secs),
            };
            match POLICY.decide(attempt, failed, age, chance) {
                RetryDecision::RetryAfter(pause) => {
                    prop_assert!(pause <= HOUR && age + pause <= POLICY.horizon);
                }
                RetryDecision::DeadLetter(reason) => {
                    prop_assert_eq!(reason, DeadLetterReason::Expired);
                    prop_assert!(age + HOUR > POLICY.horizon);
                }
            }
        }
    }
}
