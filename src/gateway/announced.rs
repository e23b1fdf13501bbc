//! Whose connection it is, where a layer-4 balancer passes connections on and says so in a header before all else (PROXY
//! protocol): read within bounds, believed of trusted proxies alone, counted, and told of when there is none.

use std::io;
use std::net::{IpAddr, SocketAddr};

use pingora_core::protocols::l4::socket::SocketAddr as Peer;
use pingora_core::protocols::{SocketDigest, Stream};
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::Gateway;
use super::connection::{first_byte_of, last_wait_over};
use super::peer::is_in;
use crate::metrics::ProxyHeader;
use crate::proxy_protocol::{BYTES_MAX, Progress, ProxyHeaderError, Source, parse};

/// Why no header was read.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("{0}")]
    Invalid(#[from] ProxyHeaderError),
    #[error("the connection ended before it did")]
    Ended(#[from] io::Error),
}

impl Gateway {
    /// The sender's address, which is the connection's own from here on. `None` where there was no header that counts
    /// within the time that a head has. Whoever says nothing at all, as health checks do, has sent no wrong one.
    pub(super) async fn announced(
        &self,
        stream: &mut Stream,
        peer: IpAddr,
        shutdown: &ShutdownWatch,
    ) -> Option<IpAddr> {
        let until = Instant::now() + self.limits.header_timeout;
        first_byte_of(stream, self.limits.header_timeout, shutdown).await?;
        if !is_in(&self.limits.trusted_proxies, peer) {
            self.refuse(
                ProxyHeader::Untrusted,
                peer,
                "the peer is none of the trusted proxies",
            );
            return None;
        }
        let mut shutdown = shutdown.clone();
        let read = tokio::select! {
            read = timeout_at(until, read(stream)) => read,
            () = last_wait_over(&mut shutdown) => return None,
        };
        let source = match read {
            Ok(Ok(source)) => source,
            Ok(Err(error)) => {
                self.refuse(ProxyHeader::Invalid, peer, &error.to_string());
                return None;
            }
            Err(_) => {
                self.refuse(ProxyHeader::Timeout, peer, "not in time");
                return None;
            }
        };
        self.metrics.count_proxy_header(ProxyHeader::Ok);
        Some(match source {
            Source::Local => peer,
            Source::Sender(sender) => {
                come_from(stream, sender);
                sender.ip()
            }
        })
    }

    fn refuse(&self, result: ProxyHeader, peer: IpAddr, error: &str) {
        self.metrics.count_proxy_header(result);
        self.tell("proxy_header", peer, error, "no PROXY protocol header");
    }
}

/// Reads the header and not a byte more.
async fn read(stream: &mut Stream) -> Result<Source, Unread> {
    let mut header = [0; BYTES_MAX];
    let mut begun = 0;
    let (source, mut follow) = loop {
        match parse(&header[..begun])? {
            Progress::Wants(more) => {
                stream.read_exact(&mut header[begun..begun + more]).await?;
                begun += more;
            }
            Progress::Read(source, follow) => break (source, follow),
        }
    };
    while follow > 0 {
        let part = follow.min(BYTES_MAX);
        stream.read_exact(&mut header[..part]).await?;
        follow -= part;
    }
    Ok(source)
}

/// Makes `sender` the peer for all that ask the connection, whatever is put upon it.
fn come_from(stream: &mut Stream, sender: SocketAddr) {
    let digest = SocketDigest::from_raw_fd(stream.id());
    // It is new, and so not set.
    let _ = digest.peer_addr.set(Some(Peer::Inet(sender)));
    stream.set_socket_digest(digest);
}
