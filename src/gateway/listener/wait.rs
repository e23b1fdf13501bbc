//! Waiting for bytes on a connection that has sent none yet, or none since its last request.

use std::time::Duration;

use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

/// The time that a stop gives everything that is not verified: a request on its way over an idle
/// connection, an incomplete one, and a response that its sender does not read.
pub(in crate::gateway) const LAST_REQUEST_WAIT: Duration = Duration::from_millis(500);

/// Waits for a connection's first byte and returns it; the byte stays to be read. Returns `None`
/// when none arrives within `within`, or before the shutdown ends the wait.
pub(super) async fn peek_first_byte(
    stream: &mut Stream,
    within: Duration,
    shutdown: &ShutdownWatch,
) -> Option<u8> {
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = timeout(within, stream.try_peek(&mut first)) => peeked,
        () = shutdown_wait(shutdown) => return None,
    };
    matches!(peeked, Ok(Ok(_))).then_some(first[0])
}

/// Waits until the gateway shuts down and no longer waits for requests on their way. Costs nothing
/// until it is polled.
pub(in crate::gateway) async fn shutdown_wait(shutdown: &ShutdownWatch) {
    // An error means that the sender of the signal is gone: the process is ending.
    let _ = shutdown.clone().wait_for(|stopping| *stopping).await;
    tokio::time::sleep(LAST_REQUEST_WAIT).await;
}
