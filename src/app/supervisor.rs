//! What systemd, or whoever set `NOTIFY_SOCKET`, is told (`sd_notify(3)`). Without that variable nothing happens.

use std::net::SocketAddr;
use std::time::Duration;

use sd_notify::NotifyState;

/// What ending takes besides the drain and the grace period: the last transaction, and moving the log into the database.
const CLOSING: Duration = Duration::from_secs(10);

/// All listeners accept.
pub(super) fn ready(data: &[SocketAddr], admin: SocketAddr) {
    let data: Vec<String> = data.iter().map(ToString::to_string).collect();
    let status = format!("serving on {}, admin on {admin}", data.join(", "));
    tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // `Type=notify-reload` takes nothing for the answer to its signal that does not say when it was given.
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::warn!(%error, "the time since the start of the machine is not known")
        }
    }
}

/// The next program, of the same number, will say that it is ready.
pub(super) fn upgrading() {
    reloading();
    tell(&[NotifyState::Status("making way for the next program")]);
}

/// The reload is over, and the old configuration stays. There is no message for that but the text.
pub(super) fn reload_refused() {
    let status = "serving with the old configuration: the new one is not valid, see the log";
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Asks for the time that the configuration gives to a stop, whatever the unit's `TimeoutStopSec` is.
pub(super) fn stopping(drain: Duration, grace: Duration) {
    let most = drain + grace;
    let extend = format!("EXTEND_TIMEOUT_USEC={}", (most + CLOSING).as_micros());
    let status = format!(
        "stopping: requests in flight may take up to {} s",
        most.as_secs()
    );
    tell(&[
        NotifyState::Stopping,
        NotifyState::Custom(&extend),
        NotifyState::Status(&status),
    ]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "NOTIFY_SOCKET is set, and cannot be written to");
    }
}
