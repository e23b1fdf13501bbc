//! The requests of an HTTP/2 connection, stream by stream on Pingora's session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::server::ShutdownWatch;

use super::wait::shutdown_wait;
use super::{Connection, Ending};
use crate::gateway::request::exchange::Exchange;
use crate::gateway::request::head::Arrival;
use crate::gateway::session::Session;
use crate::gateway::verified_requests::VerifiedRequests;

/// The most streams that may break the protocol before their connection is closed.
const FAULTY_STREAMS_MAX: usize = 32;

/// The time that a stop leaves the connection to send a response that is complete: h2 writes it in
/// another task and does not report its end.
const FLUSH_WAIT: Duration = Duration::from_millis(100);

/// A connection as Pingora serves it over HTTP/2.
struct Http2 {
    options: HttpServerOptions,
    /// The most bytes of a head when the connection began, which it was told.
    header_bytes: usize,
    /// The most streams that the connection may have open.
    streams_max: usize,
    connection: Connection,
    ending: Ending,
    /// The verified requests of this connection.
    verified_requests: VerifiedRequests,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.connection.gateway.request_limits.http2_closed();
    }
}

/// Lets Pingora accept the streams of a connection, each of which it gives to `process_new_http`.
///
/// When the listener is retired, which it is at a stop, too, Pingora sends GOAWAY and waits for the
/// streams. During a stop, it would wait for a PONG that many clients never send: those that do not read
/// while they are idle, and those that are gone. So the connection is dropped once no verified
/// request of it is in flight. Its other streams fail then.
pub(super) async fn serve_connection(connection: Connection, stream: Stream, ending: Ending) {
    let limits = connection.gateway.head_limits();
    let http2 = Arc::new(Http2 {
        options: server_options(limits.idle_timeout),
        header_bytes: limits.bytes,
        streams_max: connection.gateway.request_limits.http2_opened(),
        connection,
        ending,
        verified_requests: VerifiedRequests::default(),
    });
    tokio::select! {
        _ = ServerApp::process_new(&http2, stream, &http2.ending.retired) => {}
        () = http2.stop_wait() => {}
    }
}

impl Http2 {
    /// Waits until a stop no longer waits for this connection.
    async fn stop_wait(&self) {
        shutdown_wait(&self.ending.stop).await;
        self.verified_requests.none_left().await;
    }
}

#[async_trait]
impl HttpServerApp for Http2 {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        // Pingora passes a stream on once its head is complete.
        let (first_byte, gateway) = (Instant::now(), &self.connection.gateway);
        let digest = session.digest();
        let is_tls = digest.is_some_and(|digest| digest.ssl_digest.is_some());
        let received_at = gateway.clock.wall();
        let memory = gateway.request_limits.begin_stream().await;
        let counted = gateway
            .verified_requests
            .request(Some(&self.verified_requests));
        let exchange = Exchange::new(
            Session::Pingora(&mut session),
            &counted,
            first_byte,
            received_at,
            is_tls,
            Arrival::ALONE,
        );
        // Boxed: a stream that waits for its slot needs no room for the request yet.
        Box::pin(gateway.handle(exchange, memory, &self.ending)).await;
        let _ = session.finish().await;
        if counted.is_counted() && self.ending.has_begun() {
            tokio::time::sleep(FLUSH_WAIT).await;
        }
        None
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let header_bytes = u32::try_from(self.header_bytes).unwrap_or(u32::MAX);
        let mut options = default_h2_options();
        options.max_concurrent_streams(u32::try_from(self.streams_max).unwrap_or(u32::MAX));
        // A head up to twice the limit is rejected and counted by the gateway; a larger one gets
        // the bare 431 of h2.
        options.max_header_list_size(header_bytes.saturating_mul(2));
        options.max_local_error_reset_streams(Some(FAULTY_STREAMS_MAX));
        Some(options)
    }
}

fn server_options(idle_timeout: Duration) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(idle_timeout);
    options
}
