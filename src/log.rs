//! The log: one line for each request, and one for each event of the gateway itself.
//!
//! This module owns the two formats and the sampling of lines that anybody can cause. No line holds
//! a body, a signature, a secret, an unescaped control character, or a path of the machine that
//! built the gateway.

mod format;
mod libraries;
mod sampler;

use std::io::{self, BufWriter, IsTerminal as _, Stderr, Write};
use std::net::IpAddr;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

pub(crate) use format::{is_unsafe, write_json_escape};
pub use libraries::write_suppressed_library_counts;
pub use sampler::{LogSampler, SampleLimits, Sampler};

use crate::cause::Cause;
use crate::outcome::Code;

/// The `log` section of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The format; `None` for [`Format::Pretty`] on a terminal, and else [`Format::Json`].
    pub format: Option<Format>,
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

/// The target of lines about changes that operators made. They are logged at every level.
pub const AUDIT: &str = "hookstile::audit";

/// Lines buffered while standard error is slow. Further lines are dropped, so that a request never
/// waits for the log.
const BUFFERED_LINES_MAX: usize = 65_536;

/// Starts logging to standard error. Keep the guard until the program ends: dropping it flushes the
/// buffered lines.
///
/// # Errors
/// If logging was started before.
pub fn start(settings: Settings) -> Result<WorkerGuard, TryInitError> {
    let standard_error = BatchedWriter(BufWriter::with_capacity(64 * 1024, io::stderr()));
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(BUFFERED_LINES_MAX)
        .lossy(true)
        .finish(standard_error);
    let (filter, filter_handle) = reload::Layer::new(level_filter(settings.level));
    let format = CurrentFormat::new(shown_format(settings.format));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .event_format(format.clone());
    tracing_subscriber::registry()
        .with(filter)
        .with(libraries::LibraryLimit)
        .with(layer)
        .try_init()?;
    // Set once: logging has started once.
    let _ = CONTROL.set(Control {
        filter: filter_handle,
        format,
    });
    std::panic::set_hook(Box::new(log_panic));
    Ok(guard)
}

/// Applies other settings to the lines from now on.
pub fn apply(settings: Settings) {
    let Some(control) = CONTROL.get() else {
        return;
    };
    control.format.set(shown_format(settings.format));
    // An error would mean that there is no subscriber any more, and so no log.
    let _ = control.filter.reload(level_filter(settings.level));
}

/// Returns the format to use: by default, text on a terminal.
fn shown_format(format: Option<Format>) -> Format {
    format.unwrap_or_else(|| {
        if io::stderr().is_terminal() {
            Format::Pretty
        } else {
            Format::Json
        }
    })
}

/// Returns whether the log has details of requests: at `debug` and below.
pub fn has_request_details() -> bool {
    tracing::enabled!(target: "hookstile::request", tracing::Level::DEBUG)
}

/// The parts of logging that a reload changes. They belong to the process, as logging does.
struct Control {
    filter: reload::Handle<Targets, Registry>,
    format: CurrentFormat,
}

static CONTROL: OnceLock<Control> = OnceLock::new();

/// The format of the lines from now on.
#[derive(Clone)]
struct CurrentFormat {
    is_pretty: Arc<AtomicBool>,
}

impl CurrentFormat {
    fn new(format: Format) -> Self {
        Self {
            is_pretty: Arc::new(AtomicBool::new(format == Format::Pretty)),
        }
    }

    fn set(&self, format: Format) {
        self.is_pretty
            .store(format == Format::Pretty, Ordering::Relaxed);
    }

    fn get(&self) -> Format {
        if self.is_pretty.load(Ordering::Relaxed) {
            Format::Pretty
        } else {
            Format::Json
        }
    }
}

/// Logs where a panic happened. The standard hook would break the log's format, and would write
/// paths of the machine that built the gateway. The message is left out, because it may quote what
/// was being processed.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(|location| {
        let file = format::without_build_folders(location.file());
        format!("{file}:{}", location.line())
    });
    tracing::error!(
        location,
        "the gateway panicked; this is a bug in the gateway"
    );
}

/// Standard error, with a pause of [`FLUSH_PAUSE`] after each flush: the first line is written at
/// once, lines that follow within the pause are written together. Without it every line wakes the
/// appender's thread, which spins for a while, writes that one line and sleeps again.
struct BatchedWriter(BufWriter<Stderr>);

/// 10 ms: not noticeable to a reader of the log.
const FLUSH_PAUSE: Duration = Duration::from_millis(10);

impl Write for BatchedWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write(line)
    }

    /// Flushes, then pauses. The appender calls this in its own thread when no line is waiting, so
    /// the pause delays only the log.
    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.0.flush();
        std::thread::sleep(FLUSH_PAUSE);
        flushed
    }
}

fn level_filter(level: LevelFilter) -> Targets {
    // These two warn about every client that closes a connection without a TLS `close_notify`.
    let errors = LevelFilter::ERROR.min(level);
    Targets::new()
        // Libraries log what clients sent: Pingora prints whole heads at debug. They are limited to
        // warnings.
        .with_default(LevelFilter::WARN.min(level))
        .with_targets([("pingora_core::protocols::tls", errors), ("rustls", errors)])
        .with_target("hookstile", level)
        // The audit trail does not depend on the level.
        .with_target(AUDIT, LevelFilter::INFO)
}

/// The fields of a request's log line, filled in while the request is handled.
#[derive(Debug, Default)]
pub struct RequestLine {
    pub route: Option<Arc<str>>,
    pub event_id: Option<Arc<str>>,
    pub event_type: Option<Arc<str>>,
    pub secret: Option<Arc<str>>,
    /// The names of the secrets that were tried in vain. Only with [`has_request_details`].
    pub secrets_tried: Option<Box<str>>,
    /// The reason why verification failed, if the route forwards unverified requests.
    pub unverified: Option<&'static str>,
    pub upstream_status: Option<u16>,
    pub attempt: Option<u32>,
    /// The cause for which the attempt did not succeed.
    pub cause: Option<Cause>,
    /// The address that the attempt tried, if it did not succeed.
    pub address: Option<Box<str>>,
    pub body_bytes: Option<usize>,
    pub peer: Option<IpAddr>,
    pub trace_id: Option<Box<str>>,
    /// The method, if the route does not take it.
    pub method: Option<Box<str>>,
    /// The path without the query, if the request has no route.
    pub path: Option<Box<str>>,
}

impl RequestLine {
    /// Writes the line. `suppressed` is the number of similar lines that sampling left out before.
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
            method = self.method.as_deref(),
            path = self.path.as_deref(),
            event_id = self.event_id.as_deref(),
            event_type = self.event_type.as_deref(),
            secret = self.secret.as_deref(),
            secrets_tried = self.secrets_tried.as_deref(),
            unverified = self.unverified,
            status,
            upstream_status = self.upstream_status,
            attempt = self.attempt,
            cause = self.cause.map(Cause::as_str),
            address = self.address.as_deref(),
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
    fn audit_lines_pass_every_level_and_libraries_only_warn() {
        let quiet = level_filter(LevelFilter::ERROR);
        assert!(
            quiet.would_enable(AUDIT, &Level::INFO)
                && !quiet.would_enable("hookstile::request", &Level::INFO)
        );
        let loud = level_filter(LevelFilter::TRACE);
        assert!(
            loud.would_enable("hookstile::request", &Level::TRACE)
                && !loud.would_enable("pingora_core", &Level::INFO)
        );
    }
}
