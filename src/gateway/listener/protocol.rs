//! Detection of a connection's protocol from its first bytes: HTTP/1.1 or HTTP/2.

use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

use super::wait::peek_first_byte;
use crate::gateway::limits::HeadLimits;

/// The start of an HTTP/2 connection (RFC 9113 §3.4). No HTTP method begins with its first 4 bytes.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol that a sender speaks.
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Detects the protocol of a connection and leaves its bytes to be read. Returns `None` when the
/// first byte does not arrive within the idle timeout, or the connection breaks what ALPN agreed.
pub(super) async fn detect(
    stream: &mut Stream,
    limits: HeadLimits,
    shutdown: &ShutdownWatch,
) -> Option<Protocol> {
    // `None` without TLS, and where the sender has no preference.
    let agreed = stream.selected_alpn_proto();
    let mut start = [0; 24];
    // One byte first: waiting for all 24 would make a short request wait for ever.
    start[0] = peek_first_byte(stream, limits.idle_timeout, shutdown).await?;
    if start[0] != HTTP2_PREFACE[0] && agreed != Some(ALPN::H2) {
        return Some(Protocol::Http1);
    }
    let peeked = timeout(limits.timeout, peek_preface(stream, &mut start)).await;
    let is_http2 = matches!(peeked, Ok(Ok(()))) && start == *HTTP2_PREFACE;
    match agreed {
        None if is_http2 => Some(Protocol::Http2),
        Some(ALPN::H2) => is_http2.then_some(Protocol::Http2),
        // A slow or broken start is left to HTTP/1.1, whose header timeout is running already.
        _ => Some(Protocol::Http1),
    }
}

/// Peeks as much of the preface as the connection's bytes agree with.
async fn peek_preface(stream: &mut Stream, start: &mut [u8; 24]) -> std::io::Result<()> {
    stream.try_peek(&mut start[..4]).await?;
    if start[..4] == HTTP2_PREFACE[..4] {
        stream.try_peek(start).await?;
    }
    Ok(())
}
