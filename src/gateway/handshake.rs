//! A provider's handshake on its way through the gateway: whether it is one, and who answers it.

use http::Method;
use jiff::Timestamp;
use pingora_http::RequestHeader;

use super::answer::Outcome;
use crate::handshake::{Handshake, HandshakeResponder, HandshakeResponse, SubscriptionQuery};
use crate::route::Route;
use crate::signature::{SignatureError, Verified};

/// A handshake that was signed.
pub(super) enum Asked {
    Here(HandshakeResponse),
    /// The upstream answers it; for it, this is its type.
    Upstream(&'static str),
}

/// What becomes of a GET that asks by its query; `None` if it does not. It is not signed: its token speaks for it.
pub(super) fn by_query(
    route: &Route,
    head: &RequestHeader,
    now: Timestamp,
) -> Option<Result<Outcome, Outcome>> {
    let Some(Handshake::Query(token)) = &route.handshake else {
        return None;
    };
    let query = head
        .uri
        .query()
        .filter(|_| head.method == Method::GET)
        .and_then(SubscriptionQuery::parse)?;
    Some(match token.respond(query, now) {
        Some(reply) => Ok(Outcome::Challenge(reply)),
        None => Err(Outcome::InvalidSignature(SignatureError::Mismatch)),
    })
}

/// What becomes of a body that asks; `None` if it does not.
pub(super) fn in_body(route: &Route, verified: &Verified) -> Option<Asked> {
    match &route.handshake {
        Some(Handshake::Signed(question, HandshakeResponder::Gateway)) => {
            question.reply(verified, &route.verifier).map(Asked::Here)
        }
        Some(Handshake::Signed(question, HandshakeResponder::Upstream))
            if question.is_handshake(verified) =>
        {
            Some(Asked::Upstream(question.event_type))
        }
        Some(Handshake::Signed(..) | Handshake::Query(_)) | None => None,
    }
}
