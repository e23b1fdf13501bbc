//! Samples the log lines that anybody can cause: a flood of them must not fill the disk, and must
//! still be visible.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dashmap::DashMap;

const WINDOW: Duration = Duration::from_secs(1);

/// The limits of a [`Sampler`].
#[derive(Debug, Clone, Copy)]
pub struct SampleLimits {
    /// Lines per second for one key. Further lines are counted, and the next line that is written
    /// carries their number.
    pub lines_per_second: u32,
    /// The most keys at once. All further ones share one more window.
    pub keys: usize,
}

/// The number of lines written in the current second, for each key: a bounded set.
#[derive(Debug)]
pub struct Sampler<K> {
    limits: SampleLimits,
    windows: Mutex<HashMap<Option<K>, Window>>,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    lines: u32,
    suppressed: u64,
}

impl<K: Eq + Hash> Sampler<K> {
    pub fn new(limits: SampleLimits) -> Self {
        Self {
            limits,
            windows: Mutex::default(),
        }
    }

    /// Decides whether to write a line at `now`. If so, returns how many lines before it were
    /// suppressed.
    pub fn admit(&self, key: K, now: Instant) -> Option<u64> {
        let mut windows = self.windows();
        let mut key = Some(key);
        if windows.len() >= self.limits.keys && !windows.contains_key(&key) {
            windows.retain(|_, window| window.suppressed > 0 || !window.is_over(now));
            if windows.len() >= self.limits.keys {
                key = None;
            }
        }
        let window = windows.entry(key).or_insert_with(|| Window::new(now));
        window.admit(self.limits.lines_per_second, now)
    }

    /// Passes the number of suppressed lines to `write`, for each key that had no line since, so
    /// that no count is lost. The key is `None` for those that share a window.
    pub fn report_suppressed(&self, now: Instant, mut write: impl FnMut(Option<&K>, u64)) {
        self.windows()
            .retain(|key, window| window.stays(now, |suppressed| write(key.as_ref(), suppressed)));
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<Option<K>, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            lines: 0,
            suppressed: 0,
        }
    }

    /// Decides whether to write a line at `now`. If so, returns how many lines before it were
    /// suppressed.
    fn admit(&mut self, lines_per_second: u32, now: Instant) -> Option<u64> {
        if self.is_over(now) {
            (self.since, self.lines) = (now, 0);
        }
        if self.lines < lines_per_second {
            self.lines += 1;
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }

    /// Returns whether the window is not over at `now`. If it is over, passes the number of lines
    /// that are still suppressed to `write`.
    fn stays(&self, now: Instant, write: impl FnOnce(u64)) -> bool {
        if !self.is_over(now) {
            return true;
        }
        if self.suppressed > 0 {
            write(self.suppressed);
        }
        false
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= WINDOW
    }
}

/// The lines per second for one route and reason.
const REJECTION_LINES: u32 = 10;

/// The sampling of rejections, by route, if any, and reason. These are a bounded set already, so
/// nothing is shared: requests of different kinds seldom wait for each other.
#[derive(Debug, Default)]
pub struct LogSampler(DashMap<(Option<Arc<str>>, &'static str), Window>);

impl LogSampler {
    /// Decides whether to write a line at `now`. If so, returns how many lines before it were
    /// suppressed.
    pub fn admit(
        &self,
        route: Option<&Arc<str>>,
        reason: &'static str,
        now: Instant,
    ) -> Option<u64> {
        let window = self.0.entry((route.cloned(), reason));
        let mut window = window.or_insert_with(|| Window::new(now));
        window.admit(REJECTION_LINES, now)
    }

    /// Logs the number of suppressed lines for each route and reason that had no line since.
    pub fn write_suppressed_counts(&self, now: Instant) {
        self.0.retain(|(route, reason), window| {
            window.stays(now, |suppressed| {
                let (route, reason) = (route.as_deref(), *reason);
                tracing::info!(route, reason, suppressed, "rejection log lines suppressed");
            })
        });
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

    #[test]
    fn keys_over_the_limit_share_a_window() {
        let limits = SampleLimits {
            lines_per_second: 1,
            keys: 2,
        };
        let (sampler, now) = (Sampler::new(limits), Instant::now());
        let written = (0..100).filter(|key| sampler.admit(*key, now).is_some());
        assert_eq!(written.count(), 3);
        let mut counts = Vec::new();
        sampler.report_suppressed(now + WINDOW, |key, count| {
            counts.push((key.copied(), count));
        });
        assert_eq!(counts, [(None, 97)]);
        assert_eq!(sampler.admit(100, now + WINDOW), Some(0));
    }
}
