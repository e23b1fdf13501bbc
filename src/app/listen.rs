//! Accepts connections on a listener of the data plane and passes them to the gateway.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::protocols::l4::listener::Listener as PingoraListener;
use pingora_core::server::ShutdownWatch;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::OpenFiles;
use super::sockets::ListeningSocket;
use crate::gateway::Listener;

/// The pause after a system error, which most likely means that no descriptor is left.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// The least time between two log lines about missing descriptors, which may be missing for long.
const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// A listener of the data plane with its socket.
struct Acceptor {
    socket: PingoraListener,
    listener: Arc<Listener>,
    open_files: OpenFiles,
    /// The time of the last line about missing descriptors.
    warned_at: Option<Instant>,
}

/// Accepts connections on `socket` until `stopping`. When the task has ended, the socket is closed
/// and every accepted connection has its permit.
///
/// # Errors
/// When the system refuses to wait for connections.
pub(super) fn start(
    socket: ListeningSocket,
    listener: Arc<Listener>,
    open_files: OpenFiles,
    stopping: ShutdownWatch,
) -> io::Result<JoinHandle<()>> {
    let acceptor = Acceptor {
        socket: match socket {
            ListeningSocket::Inet(socket) => TcpListener::from_std(socket)?.into(),
            ListeningSocket::Unix(socket) => UnixListener::from_std(socket)?.into(),
        },
        listener,
        open_files,
        warned_at: None,
    };
    Ok(tokio::spawn(acceptor.accept_until(stopping)))
}

impl Acceptor {
    async fn accept_until(mut self, mut stopping: ShutdownWatch) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                // An error means that the sender of the signal is gone: the process is ending.
                _ = stopping.wait_for(|stopping| *stopping) => return,
            };
            match accepted {
                // The last descriptors are for the store, the admin listener and the upstreams of
                // the requests in flight.
                Ok(stream) if self.open_files.is_last(stream.as_raw_fd()) => {
                    self.warn("no descriptor is left for connections; answering 503");
                    self.listener.refuse(stream);
                }
                Ok(stream) => self.listener.accept(stream, &stopping),
                // The sender disconnected before it was accepted.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => {
                    self.warn(&format!("accepting a connection failed: {error}"));
                    tokio::time::sleep(ERROR_PAUSE).await;
                }
            }
        }
    }

    /// Logs that a connection was not accepted, once in [`WARNING_INTERVAL`].
    fn warn(&mut self, message: &str) {
        let now = Instant::now();
        let is_recent = |at| now.duration_since(at) < WARNING_INTERVAL;
        if !self.warned_at.is_some_and(is_recent) {
            self.warned_at = Some(now);
            tracing::warn!("{message}");
        }
    }
}
