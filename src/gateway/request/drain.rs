//! Reads what is left of a request's body after its outcome is known: to keep the connection, or to
//! let the sender read the response before it is closed.

use std::time::Duration;

use bytes::BytesMut;
use http::Method;
use tokio::time::timeout;

use super::exchange::Exchange;
use super::head::{Head, Place};
use crate::gateway::response::Outcome;
use crate::gateway::session::Session;

/// The most bytes of an unwanted body that are read and discarded to keep the connection.
const REUSE_BYTES_MAX: usize = 64 * 1024;

/// The most bytes that are read on before a connection is closed after an early response, so that
/// the sender sees the response and not a reset.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest that either may take.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads the rest of the body, if that is little, so that the connection can be kept. Returns
/// whether it can.
pub(super) async fn for_reuse(exchange: &mut Exchange<'_>, outcome: &Outcome) -> bool {
    if outcome.closes_connection() {
        return false;
    }
    let Exchange {
        session,
        head,
        arrival,
        ..
    } = exchange;
    if outcome.code().is_rejection() && !is_safe_after_rejection(session, head, arrival.place) {
        return false;
    }
    if session.is_body_done() {
        return true;
    }
    let is_little = head
        .content_length
        .is_some_and(|length| length <= REUSE_BYTES_MAX as u64);
    if !is_little || head.expects_continue {
        // A sender that waits for 100 (Continue) may send the body or not, so the next bytes could
        // be either the body or another request.
        return false;
    }
    timeout(DRAIN_TIMEOUT, drain(session, REUSE_BYTES_MAX))
        .await
        .unwrap_or(false)
}

/// Reads on for a little before a connection is closed after an early response.
pub(super) async fn linger(session: &mut Session<'_>) {
    let _ = timeout(DRAIN_TIMEOUT, drain(session, LINGER_BYTES_MAX)).await;
}

/// Returns whether the end of an unverified body is beyond doubt, so that no part of it can be
/// taken for another request.
fn is_safe_after_rejection(session: &Session<'_>, head: &Head, place: Place) -> bool {
    // What arrived together with the end of another request may be a part of that one for a proxy
    // in front. Only a signature proves that it is not.
    if place == Place::Pipelined {
        return false;
    }
    // Pingora takes a chunk without a size for the last one.
    if head.chunked {
        return false;
    }
    // A proxy in front may take a body for the next request where the method gives it no meaning
    // (RFC 9110 §9.3.1).
    let has_body = head.content_length.is_some_and(|length| length > 0);
    !(has_body && gives_body_no_meaning(&session.req_header().method))
}

fn gives_body_no_meaning(method: &Method) -> bool {
    [
        Method::GET,
        Method::HEAD,
        Method::DELETE,
        Method::OPTIONS,
        Method::TRACE,
        Method::CONNECT,
    ]
    .contains(method)
}

/// Reads and discards the body. Returns whether it ended within `max` bytes.
async fn drain(session: &mut Session<'_>, max: usize) -> bool {
    let mut bytes = 0;
    loop {
        match session.read_request_body(BytesMut::new()).await {
            Ok(None) => return true,
            Ok(Some(chunk)) if bytes + chunk.len() <= max => bytes += chunk.len(),
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}
