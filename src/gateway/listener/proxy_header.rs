//! Reads the PROXY protocol header that a layer-4 load balancer sends first.
//!
//! Accepts it from trusted proxies only, within the header timeout; counts and logs connections
//! without a valid one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::{SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::Listener;
use super::wait::{peek_first_byte, shutdown_wait};
use crate::gateway::address;
use crate::metrics::ProxyHeader;
use crate::proxy_protocol::{BYTES_MAX, Progress, ProxyHeaderError, Source, parse};

/// The reason why no header could be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Invalid(#[from] ProxyHeaderError),
    #[error("the connection ended before the header did")]
    Ended(#[from] io::Error),
}

impl Listener {
    /// Reads the header and returns the client's address, which is the connection's own from here
    /// on. Returns `None` when there is no valid header within the header timeout.
    ///
    /// A connection that sends nothing at all, such as a TCP health check, is not counted.
    pub(super) async fn read_proxy_header(
        &self,
        stream: &mut Stream,
        peer: IpAddr,
        shutdown: &ShutdownWatch,
    ) -> Option<IpAddr> {
        let routes = self.gateway.routes();
        let limits = routes.limits();
        let deadline = Instant::now() + limits.header_timeout;
        peek_first_byte(stream, limits.header_timeout, shutdown).await?;
        if !address::is_in(&limits.trusted_proxies, peer) {
            let reason = "the peer is not a trusted proxy";
            return self.reject_proxy_header(ProxyHeader::Untrusted, peer, reason);
        }
        let read = tokio::select! {
            read = timeout_at(deadline, read_header(stream)) => read,
            () = shutdown_wait(shutdown) => return None,
        };
        let source = match read {
            Ok(Ok(source)) => source,
            Ok(Err(error)) => {
                let reason = error.to_string();
                return self.reject_proxy_header(ProxyHeader::Invalid, peer, &reason);
            }
            Err(_) => return self.reject_proxy_header(ProxyHeader::Timeout, peer, "timed out"),
        };
        self.gateway.metrics.count_proxy_header(ProxyHeader::Ok);
        Some(match source {
            Source::Local => peer,
            Source::Sender(client) => {
                set_peer(stream, client);
                client.ip()
            }
        })
    }

    /// Counts and logs a connection without a valid header. Always returns `None`.
    fn reject_proxy_header(
        &self,
        result: ProxyHeader,
        peer: IpAddr,
        reason: &str,
    ) -> Option<IpAddr> {
        self.gateway.metrics.count_proxy_header(result);
        let message = "no valid PROXY protocol header";
        self.log_failed_connection("proxy_header", peer, reason, message);
        None
    }
}

/// Reads the header and not a byte more.
async fn read_header(stream: &mut Stream) -> Result<Source, ReadError> {
    let mut header = [0; BYTES_MAX];
    let mut read = 0;
    let (source, mut remaining) = loop {
        match parse(&header[..read])? {
            Progress::Wants(more) => {
                stream.read_exact(&mut header[read..read + more]).await?;
                read += more;
            }
            Progress::Read(source, remaining) => break (source, remaining),
        }
    };
    while remaining > 0 {
        let part = remaining.min(BYTES_MAX);
        stream.read_exact(&mut header[..part]).await?;
        remaining -= part;
    }
    Ok(source)
}

/// Makes `client` the peer that the stream reports to TLS and HTTP above it.
fn set_peer(stream: &mut Stream, client: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // A new digest has no peer yet, so this cannot fail.
    let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(client)));
    stream.set_socket_digest(digest);
}
