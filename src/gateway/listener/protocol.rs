//! Detection of a connection's protocol from its first bytes: HTTP/1.1 or HTTP/2.

use std::io;

use pingora_core::protocols::ALPN;
use pingora_core::server::ShutdownWatch;
use tokio::time::timeout;

use super::read_ahead::ReadAhead;
use super::wait::shutdown_wait;
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
    connection: &mut ReadAhead,
    limits: HeadLimits,
    shutdown: &ShutdownWatch,
) -> Option<Protocol> {
    // `None` without TLS, and where the sender has no preference.
    let agreed = connection.stream.selected_alpn_proto();
    let read = tokio::select! {
        read = timeout(limits.idle_timeout, connection.read_more()) => read,
        () = shutdown_wait(shutdown) => return None,
    };
    if !matches!(read, Ok(Ok(1..))) {
        return None;
    }
    let decided = match is_http2(&connection.unread) {
        Some(is_http2) => Ok(Ok(is_http2)),
        None => timeout(limits.timeout, read_preface(connection)).await,
    };
    let is_http2 = matches!(decided, Ok(Ok(true)));
    match agreed {
        None if is_http2 => Some(Protocol::Http2),
        Some(ALPN::H2) => is_http2.then_some(Protocol::Http2),
        // A slow or broken start is left to HTTP/1.1, whose header timeout is running already.
        _ => Some(Protocol::Http1),
    }
}

/// Reads until the first bytes decide whether they are the preface, and returns whether they are.
async fn read_preface(connection: &mut ReadAhead) -> io::Result<bool> {
    loop {
        if connection.read_more().await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(is_http2) = is_http2(&connection.unread) {
            return Ok(is_http2);
        }
    }
}

/// Returns whether a connection begins with the preface; `None` while that is open.
fn is_http2(start: &[u8]) -> Option<bool> {
    let compared = start.len().min(HTTP2_PREFACE.len());
    if start[..compared] != HTTP2_PREFACE[..compared] {
        return Some(false);
    }
    (compared == HTTP2_PREFACE.len()).then_some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocol_is_decided_by_the_first_bytes() {
        for (start, expected) in [
            (&b"P"[..], None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(true)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Some(true)),
            (b"PO", Some(false)),
            (b"POST / HTTP/1.1\r\n\r\n", Some(false)),
            (b"PRI / HTTP/1.1\r\n", Some(false)),
            (b"\r", Some(false)),
        ] {
            assert_eq!(is_http2(start), expected, "{}", start.escape_ascii());
        }
    }
}
