//! The address of an upstream, and connecting to a Unix socket.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::connectors::l4::Connect;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::{Error as PingoraError, ErrorType};
use tokio::net::UnixStream;

/// The pause before the next try to connect to a socket whose queue is full. The system does not
/// say when there is room.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(20);

/// The address of an upstream. Displayed as an address with its port, or as `unix:` and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Inet(SocketAddr),
    Unix(Arc<Path>),
}

/// Connects to a Unix socket. Pingora's own way compares the path with the one that the server has
/// bound, and those differ where the folder is mounted elsewhere in the server's container.
#[derive(Debug)]
pub(super) struct UnixConnector(pub Arc<Path>);

#[async_trait]
impl Connect for UnixConnector {
    /// Connects, and waits for as long as the socket's queue is full: a deadline ends that.
    async fn connect(&self, _: &PingoraAddr) -> pingora_core::Result<Stream> {
        loop {
            match UnixStream::connect(&*self.0).await {
                Ok(stream) => return Ok(stream.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    tokio::time::sleep(QUEUE_FULL_PAUSE).await;
                }
                Err(error) => return Err(connect_error(error)),
            }
        }
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "Pingora's errors are boxed")]
fn connect_error(error: io::Error) -> Box<PingoraError> {
    let kind = match error.kind() {
        ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        _ => ErrorType::ConnectError,
    };
    PingoraError::because(kind, "connecting to the Unix socket", error)
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
