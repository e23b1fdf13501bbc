//! A provider's handshake on its way through the gateway: whether a request is one, and whether the
//! gateway or the upstream answers it.

use http::Method;
use jiff::Timestamp;
use pingora_http::RequestHeader;

use crate::gateway::response::{Outcome, Rejection};
use crate::handshake::{Handshake, HandshakeResponder, HandshakeResponse, SubscriptionQuery};
use crate::route::Route;
use crate::signature::{SignatureError, Verified};

/// A signed handshake, by its responder.
pub(super) enum SignedHandshake {
    Gateway(HandshakeResponse),
    /// The upstream answers it and receives it under this event type.
    Upstream(&'static str),
}

/// Answers a handshake that is a GET with its challenge in the query. It is not signed; a token in
/// the query authenticates it. Returns `None` for any other request.
pub(super) fn answer_query(
    route: &Route,
    head: &RequestHeader,
    now: Timestamp,
) -> Option<Result<Outcome, Rejection>> {
    let Some(Handshake::Query(token)) = &route.handshake else {
        return None;
    };
    let query = head
        .uri
        .query()
        .filter(|_| head.method == Method::GET)
        .and_then(SubscriptionQuery::parse)?;
    Some(match token.respond(query, now) {
        Some(response) => Ok(Outcome::Challenge(response)),
        None => Err(SignatureError::Mismatch.into()),
    })
}

/// Finds a handshake in a verified body. Returns `None` for an event.
pub(super) fn find_in_body(route: &Route, verified: &Verified) -> Option<SignedHandshake> {
    match &route.handshake {
        Some(Handshake::Signed(challenge, HandshakeResponder::Gateway)) => challenge
            .reply(verified, &route.verifier)
            .map(SignedHandshake::Gateway),
        Some(Handshake::Signed(challenge, HandshakeResponder::Upstream))
            if challenge.is_handshake(verified) =>
        {
            Some(SignedHandshake::Upstream(challenge.event_type))
        }
        Some(Handshake::Signed(..) | Handshake::Query(_)) | None => None,
    }
}
