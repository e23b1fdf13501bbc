//! The TLS handshake of a connection: bounded in time, counted, and logged when it fails.

use std::net::IpAddr;

use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

use super::Listener;
use super::wait::peek_first_byte;
use crate::metrics::TlsHandshake;
use crate::tls;

impl Listener {
    /// Accepts a TLS handshake within the header timeout, counted from its first byte. Returns
    /// `None` when it fails.
    ///
    /// A connection that sends nothing at all, such as a TCP health check, is not counted.
    pub(super) async fn accept_tls(
        &self,
        mut stream: Stream,
        peer: IpAddr,
        tls: &tls::Settings,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        let within = self.gateway.head_limits().timeout;
        peek_first_byte(&mut stream, within, shutdown).await?;
        // Once begun, a handshake is treated as a request in flight: a stop waits for it.
        match timeout(within, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                self.gateway.metrics.count_tls_handshake(TlsHandshake::Ok);
                Some(stream)
            }
            Ok(Err(error)) => {
                let text = error.to_string();
                // Pingora puts its own context before the text of rustls.
                let reason = text.rsplit("tls connect error: ").next().unwrap_or(&text);
                self.reject_tls(TlsHandshake::Failed, peer, reason)
            }
            Err(_) => self.reject_tls(TlsHandshake::Timeout, peer, "timed out"),
        }
    }

    /// Counts and logs a failed handshake. Always returns `None`.
    fn reject_tls(&self, result: TlsHandshake, peer: IpAddr, reason: &str) -> Option<Stream> {
        self.gateway.metrics.count_tls_handshake(result);
        self.log_failed_connection("tls_handshake", peer, reason, "TLS handshake failed");
        None
    }
}
