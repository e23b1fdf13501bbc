//! Accepting a connection, and moving it to the core that serves it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::protocols::{GetSocketDigest as _, SocketDigest};
use tokio::net::unix::SocketAddr as UnixAddr;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;

use super::sockets::ListeningSocket;

/// A listening socket, registered with the runtime that waits for its connections.
pub(super) enum AcceptingSocket {
    Inet(TcpListener),
    Unix(UnixListener),
}

/// A connection, registered with the runtime that has accepted it.
pub(super) enum Accepted {
    Inet(TcpStream, SocketAddr),
    Unix(UnixStream, UnixAddr),
}

impl AcceptingSocket {
    /// Registers the socket, which must not block, with the current runtime.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn new(socket: ListeningSocket) -> io::Result<Self> {
        Ok(match socket {
            ListeningSocket::Inet(socket) => Self::Inet(TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket) => Self::Unix(UnixListener::from_std(socket)?),
        })
    }

    /// Accepts a connection. Cancel-safe.
    ///
    /// # Errors
    /// Those of the system.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Self::Inet(socket) => {
                let (stream, peer) = socket.accept().await?;
                Accepted::Inet(stream, peer)
            }
            Self::Unix(socket) => {
                let (stream, peer) = socket.accept().await?;
                Accepted::Unix(stream, peer)
            }
        })
    }
}

impl Accepted {
    /// Moves the connection to `core`.
    ///
    /// # Errors
    /// When the system refuses it.
    pub(super) fn into_stream_on(self, core: &Handle) -> io::Result<Stream> {
        let _core = core.enter();
        let (mut stream, peer): (Stream, Option<PingoraAddr>) = match self {
            Self::Inet(stream, peer) => {
                let stream = TcpStream::from_std(stream.into_std()?)?;
                (stream.into(), Some(peer.into()))
            }
            Self::Unix(stream, peer) => {
                let stream = UnixStream::from_std(stream.into_std()?)?;
                (stream.into(), peer.try_into().ok())
            }
        };
        let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
        // Known already: to ask the system takes longer.
        let _ = digest.peer_addr.set(peer);
        stream.set_socket_digest(digest);
        Ok(stream)
    }
}
