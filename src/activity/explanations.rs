//! The pace at which a route's rejected requests are explained, and the last explanation.
//!
//! Anyone can cause rejections, and an explanation is a search. So a route gets at most one a
//! minute.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// The time between two explanations of one route.
const PERIOD: Duration = Duration::from_secs(60);

/// The time for which an explanation that names a cause is not replaced by one that names none.
/// Otherwise anyone could displace the cause that the genuine sender has.
const CAUSE_KEPT: Duration = Duration::from_secs(3600);

/// The result of explaining a rejected request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The time of the request.
    pub at: Timestamp,
    /// One sentence without a secret, a signature or a part of the body.
    pub text: Arc<str>,
    /// What to do about the cause, if a change was found that makes the request genuine. Only who
    /// has a secret can cause that.
    pub advice: Option<Arc<str>>,
}

/// A route's explanations.
#[derive(Default)]
pub struct Explanations(Mutex<State>);

#[derive(Default)]
struct State {
    /// The time of the last start.
    started: Option<Instant>,
    latest: Option<(Explanation, Instant)>,
}

impl Explanations {
    /// Returns whether the route is due for an explanation, and starts its period if so.
    pub fn begin(&self, now: Instant) -> bool {
        let mut state = self.state();
        let is_due = state
            .started
            .is_none_or(|started| now.saturating_duration_since(started) >= PERIOD);
        if is_due {
            state.started = Some(now);
        }
        is_due
    }

    /// Records an explanation.
    pub fn record(&self, explanation: Explanation, now: Instant) {
        let mut state = self.state();
        let keeps = state.latest.as_ref().is_some_and(|(latest, since)| {
            latest.advice.is_some()
                && explanation.advice.is_none()
                && now.saturating_duration_since(*since) < CAUSE_KEPT
        });
        if !keeps {
            state.latest = Some((explanation, now));
        }
    }

    /// Returns the last explanation. One that names a cause takes precedence for an hour.
    pub fn latest(&self) -> Option<Explanation> {
        self.state()
            .latest
            .as_ref()
            .map(|(latest, _)| latest.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explanation(text: &str, advice: Option<&str>) -> Explanation {
        Explanation {
            at: Timestamp::UNIX_EPOCH,
            text: text.into(),
            advice: advice.map(Into::into),
        }
    }

    #[test]
    fn route_is_due_once_a_minute() {
        let (explanations, now) = (Explanations::default(), Instant::now());
        let due: Vec<_> = [0, 1, 59, 60, 61, 119, 120]
            .into_iter()
            .filter(|second| explanations.begin(now + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 60, 120]);
    }

    #[test]
    fn cause_is_kept_for_an_hour() {
        let (explanations, now) = (Explanations::default(), Instant::now());
        let latest = || explanations.latest().map(|latest| latest.text.to_string());
        explanations.record(explanation("nothing", None), now);
        explanations.record(explanation("cause", Some("do")), now);
        explanations.record(
            explanation("nothing", None),
            now + Duration::from_secs(3599),
        );
        assert_eq!(latest().as_deref(), Some("cause"));
        explanations.record(
            explanation("other", Some("do")),
            now + Duration::from_secs(1),
        );
        assert_eq!(latest().as_deref(), Some("other"));
        explanations.record(
            explanation("nothing", None),
            now + Duration::from_secs(3601),
        );
        assert_eq!(latest().as_deref(), Some("nothing"));
    }
}
