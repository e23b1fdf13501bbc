//! The listener stage: turns an accepted connection into requests.
//!
//! A connection passes these steps in order: connection limits, PROXY protocol header, TLS
//! handshake, protocol detection, and then its requests, one after the other over HTTP/1.1 or
//! stream by stream over HTTP/2. Only the last step, [`http1`] and [`http2`], knows of requests.

pub(super) mod connection_limits;
mod first_byte;
mod http1;
mod http2;
pub(super) mod in_process;
mod protocol;
mod proxy_header;
pub(super) mod read_ahead;
mod tls_accept;
pub(super) mod wait;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use pingora_core::protocols::l4::stream as l4;
use pingora_core::protocols::{GetSocketDigest as _, Shutdown, Stream};
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Gateway, address};
use crate::outcome::Code;
use crate::tls;
use connection_limits::ConnectionPermit;
use first_byte::{FirstByte, FirstByteStream, Pace};
use protocol::Protocol;
use read_ahead::ReadAhead;

/// The longest time that closing a connection may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that writing [`OVERLOADED`] may take.
const OVERLOADED_TIMEOUT: Duration = Duration::from_secs(1);

/// The response to a connection over the limit, which is closed without reading a request.
const OVERLOADED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nHookstile-Outcome: overloaded\r\nRetry-After: 2\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// A listener of the data plane: how its connections begin, and the gateway that serves them.
pub struct Listener {
    pub gateway: Arc<Gateway>,
    /// The TLS settings; `None` where the listener has no TLS.
    pub tls: Option<tls::Settings>,
    /// `true` if each connection must begin with a PROXY protocol header.
    pub proxy_protocol: bool,
    /// Set once a reload has removed the listener, or turned TLS or the PROXY protocol on or off:
    /// each of its connections then ends after a request.
    pub retired: watch::Sender<bool>,
}

/// What ends a connection.
#[derive(Clone)]
pub(super) struct Ending {
    /// A stop of the process, which does not wait for idle connections and unverified requests.
    pub(super) stop: ShutdownWatch,
    /// The retirement of the listener, which waits for every request.
    pub(super) retired: ShutdownWatch,
}

impl Ending {
    /// Returns whether the connection ends after the request in flight.
    pub(super) fn has_begun(&self) -> bool {
        *self.stop.borrow() || *self.retired.borrow()
    }
}

impl Listener {
    /// Handles a connection that was just accepted, in a task of its own. When this returns, the
    /// connection has its permit or will be rejected.
    pub fn accept(self: &Arc<Self>, mut stream: l4::Stream, shutdown: &ShutdownWatch) {
        // Responses are written in one piece, so delaying a write gains nothing. An error would
        // show again at the first read.
        let _ = stream.set_nodelay();
        let digest = stream.get_socket_digest();
        let peer = address::ip_of(digest.as_ref().and_then(|digest| digest.peer_addr()));
        self.accept_stream(Box::new(stream), peer, shutdown);
    }

    /// Rejects a new connection in a task of its own: closes it, after a 503 if it has no TLS.
    pub fn refuse(self: &Arc<Self>, stream: l4::Stream) {
        let listener = Arc::clone(self);
        tokio::spawn(async move { listener.reject_overloaded(Box::new(stream)).await });
    }

    /// Handles a new connection from `peer` in a task of its own, or rejects it at the limits. A
    /// connection that is not rejected holds its permit when this returns.
    fn accept_stream(
        self: &Arc<Self>,
        stream: Stream,
        peer: IpAddr,
        shutdown: &ShutdownWatch,
    ) -> JoinHandle<()> {
        let connection = Connection::open(&self.gateway, peer);
        let (listener, shutdown) = (Arc::clone(self), shutdown.clone());
        tokio::spawn(async move {
            match connection {
                Some(connection) => listener.handle(stream, peer, connection, shutdown).await,
                None => listener.reject_overloaded(stream).await,
            }
        })
    }

    /// Runs a connection through its steps until it is closed.
    async fn handle(
        &self,
        mut stream: Stream,
        mut peer: IpAddr,
        mut connection: Connection,
        shutdown: ShutdownWatch,
    ) {
        let gateway = &self.gateway;
        if self.proxy_protocol {
            let header = self.read_proxy_header(&mut stream, peer, &shutdown);
            let Some(client) = header.await else { return };
            if !connection.reassign(client) {
                return self.reject_overloaded(stream).await;
            }
            peer = client;
        }
        if let Some(tls) = &self.tls {
            // Boxed: a connection needs no room for the handshake once it is over.
            let accepted = Box::pin(self.accept_tls(stream, peer, tls, &shutdown)).await;
            let Some(accepted) = accepted else { return };
            stream = accepted;
        }
        let mut stream = ReadAhead::new(stream);
        let protocol = protocol::detect(&mut stream, gateway.head_limits(), &shutdown).await;
        let mut retired = self.retired.subscribe();
        if *retired.borrow() {
            // HTTP/2 waits for a change, which was during the handshake.
            retired.mark_changed();
        }
        let ending = Ending {
            stop: shutdown,
            retired,
        };
        match protocol {
            None => {}
            Some(Protocol::Http1) => gateway.serve_http1(stream, ending).await,
            Some(Protocol::Http2) => {
                let first_byte = FirstByte::default();
                // Over HTTP/2 heads are bounded stream by stream.
                first_byte.head_complete();
                let stream = Box::new(FirstByteStream::new(
                    stream,
                    first_byte,
                    Pace::AFTER_READY_TASKS,
                ));
                http2::serve_connection(connection, stream, ending).await;
            }
        }
    }

    /// Answers a connection over the limit and closes it. With TLS it is closed without a response,
    /// which would need a handshake first.
    async fn reject_overloaded(&self, mut stream: Stream) {
        self.gateway
            .metrics
            .unmatched
            .count_response(Code::Overloaded, StatusCode::SERVICE_UNAVAILABLE);
        if self.tls.is_none() {
            let _ = timeout(OVERLOADED_TIMEOUT, stream.write_all(OVERLOADED)).await;
        }
        let _ = timeout(CLOSE_TIMEOUT, Shutdown::shutdown(&mut *stream)).await;
    }

    /// Logs a connection that failed before its first request, sampled by `kind`.
    fn log_failed_connection(&self, kind: &'static str, peer: IpAddr, error: &str, message: &str) {
        let sampler = &self.gateway.log_sampler;
        if let Some(suppressed) = sampler.admit(None, kind, Instant::now()) {
            let suppressed = (suppressed > 0).then_some(suppressed);
            let peer = address::shown(peer);
            tracing::info!(peer, error, suppressed, "{message}");
        }
    }
}

/// An open connection with its permit. Each HTTP/2 stream shares it, so that a stop of the process
/// waits for deliveries that go on after the sender has disconnected.
struct Connection {
    gateway: Arc<Gateway>,
    permit: ConnectionPermit,
}

impl Connection {
    /// Counts a connection from `peer` as open. Returns `None` at the limit.
    fn open(gateway: &Arc<Gateway>, peer: IpAddr) -> Option<Self> {
        let routes = gateway.routes.load();
        let permit = gateway
            .connection_limits
            .try_acquire(peer, routes.limits())?;
        gateway.metrics.connections.inc();
        Some(Self {
            gateway: Arc::clone(gateway),
            permit,
        })
    }

    /// Counts the connection for `client` instead of its peer. Returns `false` when `client` is at
    /// its limit.
    #[must_use]
    fn reassign(&mut self, client: IpAddr) -> bool {
        self.gateway.connection_limits.reassign(
            &mut self.permit,
            client,
            self.gateway.routes.load().limits(),
        )
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gateway.metrics.connections.dec();
    }
}
