//! Accepts connections on a listener of the data plane and passes them to the gateway.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::listener::Listener as PingoraListener;
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::gateway::Listener;

/// The pause after a system error, which most likely means that no descriptor is left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Accepts connections on `socket` until `stopping`. When the task has ended, the socket is closed
/// and every accepted connection has its permit.
///
/// # Errors
/// When the system refuses to wait for connections.
pub(super) fn start(
    socket: std::net::TcpListener,
    listener: Listener,
    stopping: ShutdownWatch,
) -> io::Result<JoinHandle<()>> {
    let socket = PingoraListener::from(TcpListener::from_std(socket)?);
    Ok(tokio::spawn(accept_until(
        socket,
        Arc::new(listener),
        stopping,
    )))
}

async fn accept_until(
    socket: PingoraListener,
    listener: Arc<Listener>,
    mut stopping: ShutdownWatch,
) {
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            // An error means that the sender of the signal is gone: the process is ending.
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok(stream) => listener.accept(stream, &stopping),
            // The sender disconnected before it was accepted.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                ) => {}
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ERROR_PAUSE).await;
            }
        }
    }
}
