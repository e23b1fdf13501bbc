//! Notifications to systemd or another supervisor that sets `NOTIFY_SOCKET` (`sd_notify(3)`).
//! Without that variable nothing is sent.

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;

use super::SocketAddress;

/// The time that a stop takes besides the drain and the grace period: for the last transaction, and
/// for moving the write-ahead log into the database.
const CLOSING: Duration = Duration::from_secs(10);

/// Reports that all listeners accept.
pub(super) fn ready(data: &[SocketAddress], admin: SocketAddr) {
    let data: Vec<String> = data.iter().map(ToString::to_string).collect();
    let status = format!("serving on {}, admin on {admin}", data.join(", "));
    notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Reports that a reload has begun.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` ignores a message without the time at which the reload began.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "monotonic time not available"),
    }
}

/// Reports that the new binary is about to start under the same process ID. It reports ready
/// itself.
pub(super) fn upgrading() {
    reloading();
    notify(&[NotifyState::Status("upgrading to the new binary")]);
}

/// Reports that a reload has ended with the old configuration. There is no message for that but the
/// status text.
pub(super) fn reload_refused() {
    let status = "serving with the old configuration: the new one is not valid, see the log";
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports a stop, and requests the time that the configuration gives it, whatever the unit's
/// `TimeoutStopSec` is.
pub(super) fn stopping(drain: Duration, grace: Duration) {
    let longest = drain + grace;
    let extend = format!("EXTEND_TIMEOUT_USEC={}", (longest + CLOSING).as_micros());
    let status = format!(
        "stopping: requests in flight may take up to {} s",
        longest.as_secs()
    );
    notify(&[
        NotifyState::Stopping,
        NotifyState::Custom(&extend),
        NotifyState::Status(&status),
    ]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "NOTIFY_SOCKET is set but cannot be written to");
    }
}
