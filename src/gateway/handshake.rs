//! A provider's handshake on its way through the gateway: whether it is one, and who answers it.

use http::Method;
use jiff::Timestamp;
use pingora_http::RequestHeader;

use super::answer::Outcome;
use crate::handshake::{AnsweredBy, Handshake, Query, Reply};
use crate::route::Route;
use crate::signature::{Failure, Verified};

/// A handshake that was signed.
pub(super) enum Asked {
    Here(Reply),
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
        .and_then(Query::read)?;
    Some(match token.answer(query, now) {
        Some(reply) => Ok(Outcome::Challenge(reply)),
        None => Err(Outcome::InvalidSignature(Failure::Mismatch)),
    })
}

/// What becomes of a body that asks; `None` if it does not.
pub(super) fn in_body(route: &Route, verified: &Verified) -> Option<Asked> {
    match &route.handshake {
        Some(Handshake::Signed(question, AnsweredBy::Gateway)) => {
            question.answer(verified, &route.verifier).map(Asked::Here)
        }
        Some(Handshake::Signed(question, AnsweredBy::Upstream)) if question.is_asked(verified) => {
            Some(Asked::Upstream(question.kind))
        }
        Some(Handshake::Signed(..) | Handshake::Query(_)) | None => None,
    }
}
