//! Connections from within the process: the admin listener sends test events through them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::{fmt, io};

use async_trait::async_trait;
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::Listener;
use crate::gateway::Gateway;

/// The peer address of every in-process connection; `allow_from` and the limits apply to it.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A listener without a socket. Its connections take the same way through the gateway as a
/// sender's, from the connection limits to the log line.
#[derive(Clone)]
pub struct InProcessListener {
    listener: Arc<Listener>,
    tls: Arc<AtomicBool>,
    /// Not the caller's, which is that of the admin listener.
    runtime: Handle,
    shutdown: ShutdownWatch,
}

impl InProcessListener {
    /// Creates a listener that serves on the current runtime. `tls` says whether requests count as
    /// received over TLS (`X-Forwarded-Proto: https`).
    pub fn new(gateway: Arc<Gateway>, tls: bool, shutdown: ShutdownWatch) -> Self {
        Self {
            listener: Arc::new(Listener {
                gateway,
                tls: None,
                proxy_protocol: false,
                retired: watch::Sender::new(false),
            }),
            tls: Arc::new(tls.into()),
            runtime: Handle::current(),
            shutdown,
        }
    }

    /// Sets whether requests count as received over TLS.
    pub fn set_tls(&self, tls: bool) {
        self.tls.store(tls, Ordering::Relaxed);
    }

    /// Opens a connection and returns the client's end. Each direction buffers up to
    /// `buffer_bytes`. Returns `None` once the gateway is stopping.
    pub fn connect(&self, buffer_bytes: usize) -> Option<DuplexStream> {
        let (client, server) = duplex(buffer_bytes);
        let stream = InProcessStream::new(server, self.tls.load(Ordering::Relaxed));
        let _runtime = self.runtime.enter();
        let accepted = self
            .listener
            .accept_stream(Box::new(stream), PEER, &self.shutdown);
        // The connection holds its permit by now: a stop that begins after this check waits for it.
        if *self.shutdown.borrow() {
            accepted.abort();
            return None;
        }
        Some(client)
    }
}

/// The gateway's end of an in-process connection, with the addresses and TLS state that Pingora
/// asks a connection for.
struct InProcessStream {
    duplex: DuplexStream,
    socket: Arc<SocketDigest>,
    tls: Option<Arc<SslDigest>>,
}

impl InProcessStream {
    fn new(duplex: DuplexStream, tls: bool) -> Self {
        // There is no descriptor; both addresses are set so that Pingora never asks the system.
        let socket = SocketDigest::from_raw_fd(-1);
        for address in [&socket.peer_addr, &socket.local_addr] {
            let _ = address.set(Some(PingoraAddr::Inet(SocketAddr::new(PEER, 0))));
        }
        let tls = tls.then(|| Arc::new(SslDigest::new("", "", None, None, Vec::new())));
        Self {
            duplex,
            socket: Arc::new(socket),
            tls,
        }
    }
}

impl AsyncRead for InProcessStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_read(cx, buf)
    }
}

impl AsyncWrite for InProcessStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.duplex).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.duplex).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for InProcessStream {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut self.duplex).await;
    }
}

impl UniqueID for InProcessStream {
    fn id(&self) -> UniqueIDType {
        self.duplex.id()
    }
}

impl Ssl for InProcessStream {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.clone()
    }
}

impl GetTimingDigest for InProcessStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.duplex.get_timing_digest()
    }
}

impl GetProxyDigest for InProcessStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for InProcessStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.socket))
    }
}

impl Peek for InProcessStream {}

impl fmt::Debug for InProcessStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcessStream").finish_non_exhaustive()
    }
}
