//! The body: read within its deadline and its limits, and hashed as it arrives.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use pingora_core::ErrorType;
use pingora_core::protocols::http::ServerSession;
use prometheus::IntGauge;
use tokio::time::timeout_at;

use super::answer::Outcome;
use super::head::{Head, HeadError};
use crate::signature::Verification;

/// A body that was not wanted is read and thrown away up to this size, to keep the connection.
const DRAINED_FOR_REUSE_MAX: usize = 64 * 1024;

/// After an early answer on a connection that will be closed: what is read on, so that the sender sees the answer and
/// not a reset.
const LINGER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The longest either of the above may take.
const DRAIN_TIME_MAX: Duration = Duration::from_millis(500);

/// The body bytes of all requests in flight (and heads over HTTP/2), bounded. Counts what was received, not what was announced.
pub(super) struct BodyBytes {
    in_flight: AtomicUsize,
    limit: usize,
    gauge: IntGauge,
}

/// A request's share of [`BodyBytes`], given back on drop.
pub(super) struct Share<'a> {
    of: &'a BodyBytes,
    bytes: usize,
}

impl BodyBytes {
    pub(super) fn new(limit: usize, gauge: IntGauge) -> Self {
        Self {
            in_flight: AtomicUsize::new(0),
            limit,
            gauge,
        }
    }

    pub(super) fn share(&self) -> Share<'_> {
        Share { of: self, bytes: 0 }
    }
}

impl Share<'_> {
    /// Adds to the share, if the limit allows.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Outcome> {
        let before = self.of.in_flight.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        self.of.gauge.add(signed(bytes));
        if before + bytes > self.of.limit {
            Err(Outcome::Overloaded)
        } else {
            Ok(())
        }
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.of.in_flight.fetch_sub(self.bytes, Ordering::Relaxed);
        self.of.gauge.sub(signed(self.bytes));
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Reads the whole body into `verification`.
///
/// # Errors
/// `body_too_large`, `body_timeout`, `overloaded` or `malformed_request`.
pub(super) async fn receive(
    session: &mut ServerSession,
    head: &Head,
    max: usize,
    deadline: Instant,
    verification: &mut Verification<'_>,
    share: &mut Share<'_>,
) -> Result<(), Outcome> {
    if head
        .content_length
        .is_some_and(|length| length > max as u64)
    {
        return Err(Outcome::BodyTooLarge);
    }
    if head.expects_continue && !session.is_body_done() {
        // A sender that reads nothing would keep us here for ever.
        let written = timeout_at(deadline.into(), session.write_continue_response()).await;
        written
            .map_err(|_| Outcome::BodyTimeout)?
            .map_err(|_| Outcome::MalformedRequest(HeadError::Unparsable))?;
    }
    loop {
        let chunk = match timeout_at(deadline.into(), session.read_request_body()).await {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) if *error.etype() == ErrorType::ReadTimedout => {
                return Err(Outcome::BodyTimeout);
            }
            Ok(Err(_)) => return Err(Outcome::MalformedRequest(HeadError::Unparsable)),
            Err(_) => return Err(Outcome::BodyTimeout),
        };
        if verification.body_bytes() + chunk.len() > max {
            return Err(Outcome::BodyTooLarge);
        }
        share.grow(chunk.len())?;
        verification.update(chunk);
    }
}

/// Reads what a refused request's body still has to come, if that is little, so that the connection can be kept.
/// Answers whether it can.
pub(super) async fn drain_for_reuse(
    session: &mut ServerSession,
    head: &Head,
    refused: bool,
) -> bool {
    if refused && head.chunked {
        // Pingora takes a chunk without a size for the last one. What follows a chunked body that nobody vouched for
        // is not taken for a request.
        return false;
    }
    if refused && gives_a_body_no_meaning(&session.req_header().method) && has_body(head) {
        // Who is before us may take that body for the next request (RFC 9110 §9.3.1).
        return false;
    }
    if session.is_body_done() {
        return true;
    }
    let little = head
        .content_length
        .is_some_and(|length| length <= DRAINED_FOR_REUSE_MAX as u64);
    if !little || head.expects_continue {
        // A sender that waits for 100 may send the body or not; there is no telling what comes next.
        return false;
    }
    tokio::time::timeout(DRAIN_TIME_MAX, drain(session, DRAINED_FOR_REUSE_MAX))
        .await
        .unwrap_or(false)
}

fn gives_a_body_no_meaning(method: &Method) -> bool {
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

fn has_body(head: &Head) -> bool {
    head.chunked || head.content_length.is_some_and(|length| length > 0)
}

/// Reads on for a little before a connection is closed after an early answer.
pub(super) async fn linger(session: &mut ServerSession) {
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, drain(session, LINGER_BYTES_MAX)).await;
}

/// Reads the body on. Answers whether its end came within `max` bytes.
async fn drain(session: &mut ServerSession, max: usize) -> bool {
    let mut bytes = 0;
    loop {
        match session.read_request_body().await {
            Ok(None) => return true,
            Ok(Some(chunk)) if bytes + chunk.len() <= max => bytes += chunk.len(),
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_limit_and_are_given_back() {
        let bytes = BodyBytes::new(10, IntGauge::new("test", "test").unwrap());
        let mut first = bytes.share();
        assert!(first.grow(6).is_ok());
        let mut second = bytes.share();
        assert!(second.grow(6).is_err());
        drop(second);
        assert_eq!(bytes.gauge.get(), 6);
        assert!(first.grow(4).is_ok());
        drop(first);
        assert_eq!(bytes.gauge.get(), 0);
    }
}
