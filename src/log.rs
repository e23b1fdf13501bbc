//! What the gateway writes about itself: one line a request, and its own events.
//!
//! Owns the two formats and how rejections are thinned out. No line holds a body, a signature, a secret or an
//! unescaped control character.

mod format;
mod sampler;

use std::io::{self, BufWriter, Stderr, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub use sampler::LogSampler;

use crate::outcome::Code;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    pub format: Format,
    pub level: LevelFilter,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// Text for people.
    Pretty,
}

/// The target of the lines that tell of changes which operators asked for. They are written at any level.
pub const AUDIT: &str = "hookstile::audit";

/// Lines that may wait for standard error to take them; what is over that is dropped rather than waited for.
const LINES_WAITING_MAX: usize = 65_536;

/// Starts logging to standard error. Keep the guard until the end: dropping it writes what still waits.
///
/// # Errors
/// When logging was started before.
pub fn start(settings: Settings) -> Result<WorkerGuard, TryInitError> {
    let standard_error = BatchedWriter(BufWriter::with_capacity(64 * 1024, io::stderr()));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LINES_WAITING_MAX)
        .lossy(true)
        .finish(standard_error);
    let filter = filter(settings.level);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .event_format(settings.format);
    tracing_subscriber::registry()
        .with(filter)
        .with(layer)
        .try_init()?;
    Ok(guard)
}

/// Standard error, written to no more often than every [`GATHERED_FOR`]: a line goes out at once, those that come soon
/// after it together. Without the pause each line wakes the appender's thread, which looks for another for a while,
/// writes the one, and sleeps again.
struct BatchedWriter(BufWriter<Stderr>);

const BATCHED_FOR: Duration = Duration::from_millis(10);

impl Write for BatchedWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// The appender flushes when no line is waiting. In its own thread: nobody else waits for this.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        std::thread::sleep(BATCHED_FOR);
        flushed
    }
}

fn filter(level: LevelFilter) -> Targets {
    // Whoever hangs up without a farewell has these two warn, once a connection.
    let errors = LevelFilter::ERROR.min(level);
    Targets::new()
        // Libraries log what peers sent: Pingora prints whole heads at debug. They speak up from `warn` on only.
        .with_default(LevelFilter::WARN.min(level))
        .with_targets([("pingora_core::protocols::tls", errors), ("rustls", errors)])
        .with_target("hookstile", level)
        // Who changed what is no matter of detail.
        .with_target(AUDIT, LevelFilter::INFO)
}

/// What is told of one request. Filled as it becomes known.
#[derive(Debug, Default)]
pub struct RequestLine {
    pub route: Option<Arc<str>>,
    pub event_id: Option<Arc<str>>,
    pub event_type: Option<Arc<str>>,
    pub secret: Option<Arc<str>>,
    /// Passed on though it did not verify, for this reason.
    pub unverified: Option<&'static str>,
    pub upstream_status: Option<u16>,
    pub attempt: Option<u32>,
    pub body_bytes: Option<usize>,
    pub peer: Option<IpAddr>,
    pub trace_id: Option<Box<str>>,
}

impl RequestLine {
    /// Writes the line. `suppressed` lines like it were left out before.
    pub fn write_line(
        &self,
        code: Code,
        reason: Option<&str>,
        status: u16,
        duration: Duration,
        suppressed: u64,
    ) {
        tracing::info!(
            target: "hookstile::request",
            route = self.route.as_deref(),
            outcome = code.as_str(),
            reason,
            event_id = self.event_id.as_deref(),
            event_type = self.event_type.as_deref(),
            secret = self.secret.as_deref(),
            unverified = self.unverified,
            status,
            upstream_status = self.upstream_status,
            attempt = self.attempt,
            duration_ms = (duration.as_secs_f64() * 1e6).round() / 1e3,
            body_bytes = self.body_bytes,
            peer = self.peer.map(tracing::field::display),
            trace_id = self.trace_id.as_deref(),
            suppressed = (suppressed > 0).then_some(suppressed),
            "request"
        );
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn changes_are_written_down_however_little_is_logged_and_libraries_say_no_more_than_warnings() {
        let quiet = filter(LevelFilter::ERROR);
        assert!(
            quiet.would_enable(AUDIT, &Level::INFO)
                && !quiet.would_enable("hookstile::request", &Level::INFO)
        );
        let loud = filter(LevelFilter::TRACE);
        assert!(
            loud.would_enable("hookstile::request", &Level::TRACE)
                && !loud.would_enable("pingora_core", &Level::INFO)
        );
    }
}
