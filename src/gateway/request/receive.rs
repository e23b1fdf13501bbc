//! Step 3: reads the body within its deadline and its limits, and hashes it as it arrives.

use std::pin::pin;
use std::time::Instant;

use pingora_core::ErrorType;
use tokio::time::timeout_at;

use super::exchange::Exchange;
use super::head::{Head, MalformedHead};
use crate::client_network::ClientNetwork;
use crate::gateway::response::Rejection;
use crate::gateway::route_snapshot::MatchedRoute;
use crate::gateway::session::{Chunk, Session};
use crate::limits::{self, Reservation};
use crate::signature::Verification;

/// The bytes that are hashed of a body that has arrived, before other connections of the core get
/// their turn.
const HASHED_AT_ONCE: usize = 1 << 20;

/// Reads the whole body into a verification of the route.
///
/// # Errors
/// `body_too_large`, `body_timeout`, `overloaded` or `malformed_request`; or `rate_limited` for a
/// request that cannot verify.
pub(super) async fn receive<'r>(
    exchange: &mut Exchange<'_>,
    matched: MatchedRoute<'r>,
    memory: &mut Reservation<'_>,
) -> Result<Verification<'r>, Rejection> {
    let route = matched.route;
    let deadline = exchange.deadline(route);
    let holder = exchange.holder();
    if exchange.session.is_http2() {
        // An HTTP/1.1 connection has one head at a time, an HTTP/2 connection up to a hundred.
        let headers = &exchange.session.req_header().headers;
        memory.grow(limits::head_bytes(exchange.head.bytes, headers), holder)?;
    }
    let headers = &exchange.session.req_header().headers;
    let mut verification = route.verifier.start(headers, exchange.received_at);
    if let Some(failure) = verification.failure() {
        // Counted before the body is read, so that excess requests cost no more than their head.
        exchange.count_unverified(matched, failure)?;
    }
    let read = read_body(
        &mut exchange.session,
        &exchange.head,
        route.max_body,
        deadline,
        &mut verification,
        (memory, holder),
    )
    .await;
    exchange.log_line.body_bytes = Some(verification.body_bytes());
    read?;
    matched.metrics.observe_body(verification.body_bytes());
    Ok(verification)
}

async fn read_body(
    session: &mut Session<'_>,
    head: &Head,
    max: usize,
    deadline: Instant,
    verification: &mut Verification<'_>,
    (memory, holder): (&mut Reservation<'_>, ClientNetwork),
) -> Result<(), Rejection> {
    if head
        .content_length
        .is_some_and(|length| length > max as u64)
    {
        return Err(Rejection::BodyTooLarge);
    }
    if head.expects_continue && !session.is_body_done() {
        // Bounded too: a sender that reads nothing would block the write for ever.
        let written = pin!(timeout_at(
            deadline.into(),
            session.write_continue_response()
        ));
        let written = memory.until_displaced(holder, written).await?;
        written
            .map_err(|_| Rejection::BodyTimeout)?
            .map_err(|_| Rejection::MalformedRequest(MalformedHead::Unparsable))?;
    }
    loop {
        let room = verification.room(session.room_wanted());
        let read = pin!(timeout_at(deadline.into(), session.read_request_body(room)));
        let chunk = match memory.until_displaced(holder, read).await? {
            Ok(Ok(Some(chunk))) => chunk,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) if *error.etype() == ErrorType::ReadTimedout => {
                return Err(Rejection::BodyTimeout);
            }
            Ok(Err(_)) => return Err(Rejection::MalformedRequest(MalformedHead::Unparsable)),
            Err(_) => return Err(Rejection::BodyTimeout),
        };
        if verification.body_bytes() + chunk.len() > max {
            return Err(Rejection::BodyTooLarge);
        }
        memory.grow(chunk.len(), holder)?;
        let hashed = verification.hashed_bytes();
        match chunk {
            Chunk::Whole(chunk) => verification.update(chunk),
            Chunk::InRoom(chunk) => verification.append(chunk),
        }
        if verification.hashed_bytes() / HASHED_AT_ONCE > hashed / HASHED_AT_ONCE {
            tokio::task::yield_now().await;
        }
    }
}
