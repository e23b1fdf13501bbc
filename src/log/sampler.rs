//! Rejections, thinned out: a flood of them must not fill a disk, and must not go unseen either.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines a second for one route and reason. What is over that is counted and told with the next line.
const LINES_PER_SECOND: u32 = 10;

const WINDOW: Duration = Duration::from_secs(1);

type Kind = (Option<Arc<str>>, &'static str);

/// How many lines of each kind were written in the current second. Kinds are routes times reasons: a bounded set.
#[derive(Debug, Default)]
pub struct LogSampler(Mutex<HashMap<Kind, Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    left_out: u64,
}

impl LogSampler {
    /// Whether a line of this kind is to be written at `now`; if so, how many before it were left out.
    pub fn admit(
        &self,
        route: Option<&Arc<str>>,
        reason: &'static str,
        now: Instant,
    ) -> Option<u64> {
        let mut windows = self.windows();
        let window = windows.entry((route.cloned(), reason)).or_insert(Window {
            since: now,
            lines: 0,
            left_out: 0,
        });
        if now.duration_since(window.since) >= WINDOW {
            *window = Window {
                since: now,
                lines: 0,
                left_out: window.left_out,
            };
        }
        if window.lines < LINES_PER_SECOND {
            window.lines += 1;
            return Some(std::mem::take(&mut window.left_out));
        }
        window.left_out += 1;
        None
    }

    /// Writes how many lines were left out of kinds that have gone quiet, so that no count is kept to ourselves.
    pub fn write_suppressed_counts(&self, now: Instant) {
        let mut windows = self.windows();
        windows.retain(|(route, reason), window| {
            if now.duration_since(window.since) < WINDOW {
                return true;
            }
            if window.left_out > 0 {
                tracing::info!(
                    route = route.as_deref(),
                    reason,
                    suppressed = window.left_out,
                    "rejections left out"
                );
            }
            false
        });
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<Kind, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_the_rate_is_left_out_and_told_with_the_next_line() {
        let (thinning, now) = (LogSampler::default(), Instant::now());
        let route = Arc::from("billing");
        let written = (0..25)
            .filter(|_| thinning.admit(Some(&route), "mismatch", now).is_some())
            .count();
        assert_eq!(written, 10);
        assert_eq!(
            thinning.admit(Some(&route), "mismatch", now + WINDOW),
            Some(15)
        );
        assert_eq!(
            thinning.admit(Some(&route), "mismatch", now + WINDOW),
            Some(0)
        );
    }

    #[test]
    fn one_kind_does_not_silence_another() {
        let (thinning, now) = (LogSampler::default(), Instant::now());
        for _ in 0..100 {
            thinning.admit(None, "unknown_route", now);
        }
        assert_eq!(thinning.admit(None, "unparsable", now), Some(0));
        assert_eq!(
            thinning.admit(Some(&Arc::from("billing")), "unknown_route", now),
            Some(0)
        );
    }
}
