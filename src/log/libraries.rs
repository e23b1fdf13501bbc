//! The lines of libraries, which log what clients did: bounded here for all of them.
//!
//! A line's key is the place in the library's code that writes it. So no line needs to be known
//! here, and a new version of a library needs no change.

use std::sync::LazyLock;
use std::time::Instant;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::sampler::{SampleLimits, Sampler};

/// One line a second from one place: it says what happens, and the count says how often. 64 places
/// are far more than those that warn.
const LIMITS: SampleLimits = SampleLimits {
    lines_per_second: 1,
    keys: 64,
};

/// The lines of the process, as logging is.
static SAMPLER: LazyLock<Sampler<Origin>> = LazyLock::new(|| Sampler::new(LIMITS));

/// The place in a library's code that writes a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Origin {
    pub(super) target: Box<str>,
    line: u64,
}

impl Origin {
    /// Returns the place that wrote `event`; `None` for the gateway's own lines.
    pub(super) fn of_library(event: &Event<'_>) -> Option<Self> {
        let metadata = event.metadata();
        if metadata.target().starts_with("hookstile") {
            return None;
        }
        let mut origin = Self {
            target: metadata.target().into(),
            line: metadata.line().unwrap_or_default().into(),
        };
        event.record(&mut origin);
        Some(origin)
    }
}

/// Reads the place of a line that came through the `log` crate: those share five call sites, and
/// have their place in fields.
impl Visit for Origin {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "log.target" {
            self.target = value.into();
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "log.line" {
            self.line = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

/// The layer that drops the lines of libraries over the limit.
pub(super) struct LibraryLimit;

impl<S: Subscriber> Layer<S> for LibraryLimit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        Origin::of_library(event)
            .is_none_or(|origin| SAMPLER.admit(origin, Instant::now()).is_some())
    }
}

/// Logs how many lines of libraries were suppressed, for each library module.
pub fn write_suppressed_library_counts(now: Instant) {
    let mut counts = Vec::new();
    SAMPLER.report_suppressed(now, |origin, suppressed| {
        counts.push((origin.cloned(), suppressed));
    });
    for (origin, suppressed) in counts {
        let library = origin.as_ref().map(|origin| &*origin.target);
        tracing::info!(library, suppressed, "library log lines suppressed");
    }
}
