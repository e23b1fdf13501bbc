//! Connections from senders: accepted up to the limit, told apart by protocol, and served request by request.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::StatusCode;
use pingora_core::ErrorType;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::l4::stream as l4;
use pingora_core::protocols::{ALPN, GetSocketDigest as _, Shutdown, Stream};
use pingora_core::server::ShutdownWatch;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::answer::Outcome;
use super::first_byte::{FirstByte, Watched};
use super::head::HeadError;
use super::places::Place;
use super::{Gateway, Incoming, Visit};
use crate::outcome::Code;
use crate::tls;

/// How an HTTP/2 connection with prior knowledge begins (RFC 9113 §3.4). No method begins with its first four bytes.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// When we stop, a connection is held this much longer for a request that is on its way already.
const LAST_REQUEST_WAIT: Duration = Duration::from_millis(500);

/// How long closing a connection may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);

/// Streams that an HTTP/2 connection may have open (RFC 9113 §5.1.2 recommends no fewer than 100).
const STREAMS_MAX: u32 = 100;

/// Streams of an HTTP/2 connection that may break the protocol before the connection is given up.
const FAULTY_STREAMS_MAX: usize = 32;

/// For a connection over the limit, which gets no more of us than this.
const OVERLOADED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nHookstile-Outcome: overloaded\r\nRetry-After: 2\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// The gateway as a listener serves it, connection by connection.
pub struct Frontend {
    pub gateway: Arc<Gateway>,
    /// `None` where the listener has no TLS.
    pub tls: Option<Arc<tls::Listener>>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

impl Frontend {
    /// Serves a connection that was accepted just now, in a task of its own. It has its place, or is turned away, from here on.
    pub fn accept(self: &Arc<Self>, mut stream: l4::Stream, shutdown: &ShutdownWatch) {
        // What is written is whole, so waiting for more of it helps nobody. An error will come again with the first read.
        let _ = stream.set_nodelay();
        let peer = ip_of(
            stream
                .get_socket_digest()
                .as_ref()
                .and_then(|socket| socket.peer_addr()),
        );
        self.accept_stream(Box::new(stream), peer, shutdown);
    }

    /// Serves a new connection from `peer` in a task of its own, or rejects it at the limits. The
    /// connection holds its permit when this returns.
    pub(super) fn accept_stream(
        self: &Arc<Self>,
        stream: Stream,
        peer: IpAddr,
        shutdown: &ShutdownWatch,
    ) -> JoinHandle<()> {
        let place = self
            .gateway
            .places
            .take(peer)
            .map(|place| Connection::new(Arc::clone(&self.gateway), place));
        let (frontend, shutdown) = (Arc::clone(self), shutdown.clone());
        tokio::spawn(async move {
            match place {
                Some(connection) => frontend.serve(stream, peer, connection, shutdown).await,
                None => frontend.turn_away(stream).await,
            }
        })
    }

    async fn serve(
        &self,
        mut stream: Stream,
        mut peer: IpAddr,
        mut connection: Connection,
        shutdown: ShutdownWatch,
    ) {
        let gateway = &self.gateway;
        if self.proxy_protocol {
            let Some(sender) = gateway.announced(&mut stream, peer, &shutdown).await else {
                return;
            };
            if !gateway.places.pass_on(&mut connection.place, sender) {
                return self.turn_away(stream).await;
            }
            peer = sender;
        }
        if let Some(tls) = &self.tls {
            let Some(secured) = Box::pin(gateway.secure(stream, peer, tls, &shutdown)).await else {
                return;
            };
            stream = secured;
        }
        let first_byte = FirstByte::default();
        stream = Box::new(Watched::new(
            stream,
            first_byte.clone(),
            gateway.limits.header_bytes,
        ));
        match gateway.protocol(&mut stream, &shutdown).await {
            None => {}
            Some(Protocol::Http1) => gateway.serve_http1(stream, first_byte, shutdown).await,
            Some(Protocol::Http2) => {
                // Heads are bounded stream by stream.
                first_byte.head_is_whole();
                // From here on it is Pingora's: it accepts the streams and gives each to `process_new_http`.
                let http2 = Arc::new(Http2 {
                    options: http2_options(gateway),
                    connection,
                });
                ServerApp::process_new(&http2, stream, &shutdown).await;
            }
        }
    }

    /// Tells a connection that there is no place for it, where that can be told without a handshake.
    async fn turn_away(&self, mut stream: Stream) {
        self.gateway
            .metrics
            .unmatched
            .count_response(Code::Overloaded, StatusCode::SERVICE_UNAVAILABLE);
        if self.tls.is_none() {
            let _ = timeout(Duration::from_secs(1), stream.write_all(OVERLOADED)).await;
        }
        let _ = timeout(CLOSE_WITHIN, Shutdown::shutdown(&mut *stream)).await;
    }
}

/// A sender's place among the open connections. Over HTTP/2 each stream holds on to it: a hand-over goes on when the
/// sender has hung up, and a stop waits for it.
struct Connection {
    gateway: Arc<Gateway>,
    place: Place,
}

impl Connection {
    fn new(gateway: Arc<Gateway>, place: Place) -> Self {
        gateway.metrics.connections.inc();
        Self { gateway, place }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gateway.metrics.connections.dec();
    }
}

/// What a connection speaks.
enum Protocol {
    Http1,
    Http2,
}

impl Gateway {
    /// Looks at the first bytes of a connection. `None` when they don't come in time, or never.
    async fn protocol(&self, stream: &mut Stream, shutdown: &ShutdownWatch) -> Option<Protocol> {
        // `None` without TLS, and where the sender has no preference.
        let agreed = stream.selected_alpn_proto();
        let mut start = [0; 24];
        // Byte by byte at first: waiting for all 24 would keep a short request waiting for ever.
        start[0] = first_byte_of(stream, self.limits.idle_timeout, shutdown).await?;
        if start[0] != HTTP2_PREFACE[0] && agreed != Some(ALPN::H2) {
            return Some(Protocol::Http1);
        }
        let preface = async {
            stream.try_peek(&mut start[..4]).await?;
            if start[..4] == HTTP2_PREFACE[..4] {
                stream.try_peek(&mut start).await?;
            }
            std::io::Result::Ok(())
        };
        let whole = matches!(
            timeout(self.limits.header_timeout, preface).await,
            Ok(Ok(()))
        ) && start == *HTTP2_PREFACE;
        match agreed {
            None if whole => Some(Protocol::Http2),
            Some(ALPN::H2) => whole.then_some(Protocol::Http2),
            // A slow or broken start is HTTP/1's to refuse: the clock of its head is running already.
            _ => Some(Protocol::Http1),
        }
    }

    /// Writes a line about a connection that does not get as far as a request, but for those that would flood the log.
    pub(super) fn tell(&self, kind: &'static str, peer: IpAddr, error: &str, what: &str) {
        if let Some(suppressed) = self.thinning.admit(None, kind, Instant::now()) {
            let suppressed = (suppressed > 0).then_some(suppressed);
            tracing::info!(%peer, error, suppressed, "{what}");
        }
    }

    async fn serve_http1(
        &self,
        mut stream: Stream,
        first_byte: FirstByte,
        mut shutdown: ShutdownWatch,
    ) {
        let scheme = if stream.get_ssl_digest().is_some() {
            "https"
        } else {
            "http"
        };
        loop {
            let mut session = ServerSession::new_http1(stream);
            // Whether a connection is kept is for us to say; Pingora would give it up at the first 100 (Continue).
            session.set_close_on_response_before_downstream_finish(false);
            // Our own deadlines stand around every read.
            session.set_read_timeout(None);
            let read = self
                .read_head(&mut session, &first_byte, &mut shutdown)
                .await;
            let Some(at) = first_byte.get() else { return };
            let incoming = Incoming {
                first_byte: at,
                peer: peer_address(&session),
                scheme,
            };
            match read {
                HeadRead::Whole => first_byte.head_is_whole(),
                HeadRead::Nothing => return,
                HeadRead::Refused(outcome) => {
                    session.set_keepalive(None);
                    self.answer(&mut session, outcome, &mut Visit::new(incoming))
                        .await;
                    close(session).await;
                    return;
                }
            }
            // Boxed: most connections are idle most of the time, and need not hold room for a request.
            if !Box::pin(self.serve(&mut session, incoming, &shutdown)).await {
                close(session).await;
                return;
            }
            let Ok(Some(reusable)) = session.finish().await else {
                return;
            };
            (stream, _) = reusable.into_parts();
            first_byte.rearm();
        }
    }

    /// Reads a head: within the idle time-out until its first byte, within the head's own from then on.
    async fn read_head(
        &self,
        session: &mut ServerSession,
        first_byte: &FirstByte,
        shutdown: &mut ShutdownWatch,
    ) -> HeadRead {
        let waiting = async {
            tokio::select! {
                () = tokio::time::sleep(self.limits.idle_timeout) => {}
                () = last_wait_over(shutdown) => {}
            }
        };
        let too_slow = async {
            tokio::select! {
                at = first_byte.came() => {
                    tokio::time::sleep_until((at + self.limits.header_timeout).into()).await;
                    HeadRead::Refused(Outcome::BodyTimeout)
                }
                () = waiting => HeadRead::Nothing,
            }
        };
        tokio::select! {
            biased;
            read = session.read_request() => match read {
                Ok(true) => HeadRead::Whole,
                Err(error) if *error.etype() == ErrorType::InvalidHTTPHeader => HeadRead::Refused(refusal(&error)),
                Ok(false) | Err(_) => HeadRead::Nothing,
            },
            () = first_byte.head_is_too_large() => HeadRead::Refused(Outcome::HeadersTooLarge),
            end = too_slow => end,
        }
    }
}

/// Closes a connection, without waiting for a sender that does not read what is still to be written.
async fn close(mut session: ServerSession) {
    let _ = timeout(CLOSE_WITHIN, session.shutdown()).await;
}

/// How reading a head ended.
enum HeadRead {
    Whole,
    /// There is nobody to answer to.
    Nothing,
    Refused(Outcome),
}

/// Pingora tells a head that is too large from one that is broken in words only.
fn refusal(error: &pingora_core::Error) -> Outcome {
    let words = error.to_string();
    if words.contains("larger than") || words.contains("too many headers") {
        return Outcome::HeadersTooLarge;
    }
    Outcome::MalformedRequest(HeadError::Unparsable)
}

/// The gateway as Pingora serves it over HTTP/2, stream by stream.
struct Http2 {
    options: HttpServerOptions,
    connection: Connection,
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // A stream is given to us when its head is whole.
        let first_byte = Instant::now();
        let tls = session
            .digest()
            .is_some_and(|digest| digest.ssl_digest.is_some());
        let scheme = if tls { "https" } else { "http" };
        let incoming = Incoming {
            first_byte,
            peer: peer_address(&session),
            scheme,
        };
        self.connection
            .gateway
            .serve(&mut session, incoming, shutdown)
            .await;
        let _ = session.finish().await;
        None
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let header_bytes =
            u32::try_from(self.connection.gateway.limits.header_bytes).unwrap_or(u32::MAX);
        let mut options = default_h2_options();
        options.max_concurrent_streams(STREAMS_MAX);
        // A head that is not far over the limit gets an answer of ours, which is counted; another gets h2's bare 431.
        options.max_header_list_size(header_bytes.saturating_mul(2));
        options.max_local_error_reset_streams(Some(FAULTY_STREAMS_MAX));
        Some(options)
    }
}

fn http2_options(gateway: &Gateway) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(gateway.limits.idle_timeout);
    options
}

fn peer_address(session: &ServerSession) -> IpAddr {
    ip_of(session.client_addr())
}

fn ip_of(address: Option<&SocketAddr>) -> IpAddr {
    let address = address.and_then(|address| address.as_inet());
    address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

/// Waits for a connection's first byte, which stays to be read. `None` when none comes within this time, or we stop.
pub(super) async fn first_byte_of(
    stream: &mut Stream,
    within: Duration,
    shutdown: &ShutdownWatch,
) -> Option<u8> {
    let mut shutdown = shutdown.clone();
    let mut first = [0];
    tokio::select! {
        peeked = timeout(within, stream.try_peek(&mut first)) => peeked.ok()?.ok().map(|_| first[0]),
        () = last_wait_over(&mut shutdown) => None,
    }
}

/// Ends when the gateway stops and waits no longer for what may be on its way.
pub(super) async fn last_wait_over(shutdown: &mut ShutdownWatch) {
    // An error means that nobody can stop us any more: the process is ending.
    let _ = shutdown.wait_for(|stopping| *stopping).await;
    tokio::time::sleep(LAST_REQUEST_WAIT).await;
}
