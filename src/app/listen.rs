//! Listeners for senders: connections are accepted and given to the gateway.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::protocols::l4::listener::Listener;
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::gateway::Frontend;

/// After an error of the system: out of descriptors, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts what connects to `socket`, until `stopping`. The task ends when it is closed; all that was accepted has its place
/// by then.
///
/// # Errors
/// When the system refuses to wait for connections.
pub(super) fn start(
    socket: std::net::TcpListener,
    frontend: Frontend,
    mut stopping: ShutdownWatch,
) -> io::Result<JoinHandle<()>> {
    let listener = Listener::from(TcpListener::from_std(socket)?);
    let frontend = Arc::new(frontend);
    Ok(tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // An error means that nobody can stop us any more: the process is ending.
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                Ok(stream) => frontend.accept(stream, &stopping),
                // It had gone before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }))
}
