//! Samples the log lines of rejections: a flood of them must not fill the disk, and must still be
//! visible.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Lines per second for one route and reason. Further lines are counted, and the next line that is
/// written carries their number.
const LINES_PER_SECOND: u32 = 10;

const WINDOW: Duration = Duration::from_secs(1);

/// The route, if any, and the reason of a rejection.
type SampleKey = (Option<Arc<str>>, &'static str);

/// The number of lines written in the current second, for each route and reason: a bounded set.
#[derive(Debug, Default)]
pub struct LogSampler(Mutex<HashMap<SampleKey, Window>>);

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl LogSampler {
    /// Decides whether to write a line at `now`. If so, returns how many lines before it were
    /// suppressed.
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
            suppressed: 0,
        });
        if now.duration_since(window.since) >= WINDOW {
            *window = Window {
                since: now,
                lines: 0,
                suppressed: window.suppressed,
            };
        }
        if window.lines < LINES_PER_SECOND {
            window.lines += 1;
            return Some(std::mem::take(&mut window.suppressed));
        }
        window.suppressed += 1;
        None
    }

    /// Logs the number of suppressed lines for each route and reason that had no line since, so
    /// that no count is lost.
    pub fn write_suppressed_counts(&self, now: Instant) {
        let mut windows = self.windows();
        windows.retain(|(route, reason), window| {
            if now.duration_since(window.since) < WINDOW {
                return true;
            }
            if window.suppressed > 0 {
                tracing::info!(
                    route = route.as_deref(),
                    reason,
                    suppressed = window.suppressed,
                    "rejection log lines suppressed"
                );
            }
            false
        });
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<SampleKey, Window>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sampler_reports_suppressed_lines_with_the_next_one() {
        let (sampler, now) = (LogSampler::default(), Instant::now());
        let route = Arc::from("billing");
        let written = (0..25)
            .filter(|_| sampler.admit(Some(&route), "mismatch", now).is_some())
            .count();
        assert_eq!(written, 10);
        assert_eq!(
            sampler.admit(Some(&route), "mismatch", now + WINDOW),
            Some(15)
        );
        assert_eq!(
            sampler.admit(Some(&route), "mismatch", now + WINDOW),
            Some(0)
        );
    }

    #[test]
    fn routes_and_reasons_are_sampled_separately() {
        let (sampler, now) = (LogSampler::default(), Instant::now());
        for _ in 0..100 {
            sampler.admit(None, "unknown_route", now);
        }
        assert_eq!(sampler.admit(None, "unparsable", now), Some(0));
        assert_eq!(
            sampler.admit(Some(&Arc::from("billing")), "unknown_route", now),
            Some(0)
        );
    }
}
