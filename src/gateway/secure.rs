//! The TLS handshake of a connection: bounded, counted, and told of when it fails.

use std::net::IpAddr;
use std::sync::Arc;

use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

use super::Gateway;
use super::connection::first_byte_of;
use crate::metrics::TlsHandshake;
use crate::tls;

impl Gateway {
    /// `None` when it failed, or did not end within the time that a head has from its first byte. Whoever says nothing at
    /// all within such a time, as health checks do, has not failed.
    pub(super) async fn secure(
        &self,
        mut stream: Stream,
        peer: IpAddr,
        tls: &Arc<tls::Listener>,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let within = self.limits.header_timeout;
        first_byte_of(&mut stream, within, shutdown).await?;
        // Begun is as good as a request in flight: a stop waits for it.
        match timeout(within, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.metrics.count_tls_handshake(TlsHandshake::Ok);
                Some(stream)
            }
            Ok(Err(error)) => {
                self.metrics.count_tls_handshake(TlsHandshake::Failed);
                let words = error.to_string();
                // Pingora's words for where it was stand before what rustls says.
                let words = words.rsplit("tls connect error: ").next().unwrap_or(&words);
                self.tell("tls_handshake", peer, words, "no TLS handshake");
                None
            }
            Err(_) => {
                self.metrics.count_tls_handshake(TlsHandshake::Timeout);
                self.tell("tls_handshake", peer, "not in time", "no TLS handshake");
                None
            }
        }
    }
}
