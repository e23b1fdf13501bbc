//! When a failed attempt is repeated, and when an event is given up: pure, with time and chance as arguments.

use std::time::Duration;

/// How queued events are tried again (contract §8).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The longest pause before the second attempt.
    pub initial: Duration,
    /// What the longest pause grows by with each attempt; at least 1.
    pub factor: f64,
    /// The longest pause of all, `Retry-After` included. Not less than `initial`.
    pub max_interval: Duration,
    /// How long an event is tried, counted from its arrival.
    pub horizon: Duration,
}

/// How an attempt failed, as far as trying again depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptFailure {
    /// The upstream answered with a status that is no 2xx.
    Status {
        status: u16,
        /// What it said in `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// No answer: not reached, timed out, or broken.
    NoAnswer,
}

/// What follows on a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// Another attempt, after this pause.
    RetryAfter(Duration),
    /// No more: a dead letter.
    GiveUp(DeadLetterReason),
}

/// Why an event became a dead letter: a closed set, for labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum DeadLetterReason {
    /// The upstream said that no repetition will help: 410, or another 4xx that is not about the moment.
    Rejected,
    /// The horizon has passed.
    Expired,
    /// What was stored can't be read: a defect, of the disk's or ours.
    Unreadable,
}

/// Attempts that a permanent refusal needs before it is believed: deployments answer 404 for a while.
pub const PERMANENT_ATTEMPTS: u32 = 3;

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
    /// What follows on attempt number `attempt` (from 1), made when the event was `age` old. `chance` is uniform in
    /// 0 ..= 1.
    ///
    /// The pause is drawn from the whole of 0 to its limit (full jitter: AWS Architecture Blog, "Exponential Backoff
    /// And Jitter"), so that events which failed together don't come back together. A `Retry-After` is waited for,
    /// up to `max_interval`.
    pub fn decide(
        &self,
        attempt: u32,
        failed: AttemptFailure,
        age: Duration,
        chance: f64,
    ) -> RetryDecision {
        if let AttemptFailure::Status { status, .. } = failed
            && is_permanent(status)
            && attempt >= PERMANENT_ATTEMPTS
        {
            return RetryDecision::GiveUp(DeadLetterReason::Rejected);
        }
        let drawn = self.longest_pause(attempt).mul_f64(chance.clamp(0.0, 1.0));
        let pause = match failed {
            // Never sooner than without it: an upstream that asks for no pause at all is not to be hammered.
            AttemptFailure::Status {
                retry_after: Some(asked),
                ..
            } => asked.min(self.max_interval).max(drawn),
            _ => drawn,
        };
        if age.saturating_add(pause) > self.horizon {
            RetryDecision::GiveUp(DeadLetterReason::Expired)
        } else {
            RetryDecision::RetryAfter(pause)
        }
    }

    /// The longest pause after attempt number `attempt`: `initial · factor^(attempt − 1)`, at most `max_interval`.
    pub fn longest_pause(&self, attempt: u32) -> Duration {
        let power = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.as_secs_f64() * self.factor.powi(power);
        // Infinite after enough attempts, which is no duration.
        Duration::try_from_secs_f64(seconds)
            .map_or(self.max_interval, |limit| limit.min(self.max_interval))
    }
}

/// Whether the same request can't be expected to fare better. 408, 409, 425 and 429 are about the moment (RFC 9110
/// §15.5, RFC 8470 §5.2, RFC 6585 §4).
const fn is_permanent(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 408 | 409 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const USUAL: Backoff = Backoff {
        initial: Duration::from_secs(5),
        factor: 2.0,
        max_interval: HOUR,
        horizon: Duration::from_secs(72 * 3600),
    };

    const fn status(status: u16) -> AttemptFailure {
        AttemptFailure::Status {
            status,
            retry_after: None,
        }
    }

    #[test]
    fn the_limit_doubles_up_to_the_longest_interval() {
        let limits: Vec<_> = (1..=12)
            .map(|attempt| USUAL.longest_pause(attempt).as_secs())
            .collect();
        assert_eq!(
            limits,
            [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
        );
        assert_eq!(USUAL.longest_pause(u32::MAX), HOUR);
    }

    #[test]
    fn jitter_takes_the_whole_range() {
        let next = |chance| USUAL.decide(3, status(500), Duration::ZERO, chance);
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
    fn a_retry_after_is_kept_to_and_bounded_by_the_longest_interval() {
        let asked = |seconds| AttemptFailure::Status {
            status: 503,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        assert_eq!(
            USUAL.decide(1, asked(42), Duration::ZERO, 0.0),
            RetryDecision::RetryAfter(Duration::from_secs(42))
        );
        assert_eq!(
            USUAL.decide(1, asked(86_400), Duration::ZERO, 0.0),
            RetryDecision::RetryAfter(HOUR)
        );
        assert_eq!(
            USUAL.decide(2, asked(0), Duration::ZERO, 0.5),
            RetryDecision::RetryAfter(Duration::from_secs(5))
        );
    }

    #[test]
    fn a_permanent_refusal_is_believed_the_third_time() {
        for refused in [400, 401, 403, 404, 410, 422] {
            assert!(
                matches!(
                    USUAL.decide(2, status(refused), Duration::ZERO, 0.5),
                    RetryDecision::RetryAfter(_)
                ),
                "{refused}"
            );
            assert_eq!(
                USUAL.decide(3, status(refused), Duration::ZERO, 0.5),
                RetryDecision::GiveUp(DeadLetterReason::Rejected),
                "{refused}"
            );
        }
        for passing in [301, 408, 409, 425, 429, 500, 503] {
            assert!(
                matches!(
                    USUAL.decide(30, status(passing), Duration::ZERO, 0.5),
                    RetryDecision::RetryAfter(_)
                ),
                "{passing}"
            );
        }
        assert!(matches!(
            USUAL.decide(30, AttemptFailure::NoAnswer, Duration::ZERO, 0.5),
            RetryDecision::RetryAfter(_)
        ));
    }

    proptest! {
        #[test]
        fn no_attempt_is_planned_beyond_the_horizon_and_no_pause_beyond_the_longest(
            attempt in 1u32..200, age in 0u64..400_000, chance in 0.0..=1.0, asked in proptest::option::of(0u64..200_000),
        ) {
            let age = Duration::from_secs(age);
            let failed = AttemptFailure::Status { status: 503, retry_after: asked.map(Duration::from_secs) };
            match USUAL.decide(attempt, failed, age, chance) {
                RetryDecision::RetryAfter(pause) => prop_assert!(pause <= HOUR && age + pause <= USUAL.horizon),
                RetryDecision::GiveUp(reason) => {
                    prop_assert_eq!(reason, DeadLetterReason::Expired);
                    prop_assert!(age + HOUR > USUAL.horizon);
                }
            }
        }
    }
}
