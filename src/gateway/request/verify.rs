//! Step 4: checks the signature, and reads the event from the verified body.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::task::spawn_blocking;

use super::exchange::Exchange;
use super::handshake::{self, SignedHandshake};
use crate::delivery::{EventLabel, OutboundRequest};
use crate::event::{EnvelopeError, Event};
use crate::gateway::Gateway;
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;
use crate::ledger::EventIdentity;
use crate::log;
use crate::metrics::SignatureCheck;
use crate::route::Route;
use crate::signature::{SignatureError, Verification, Verified};

/// The size from which on a body is parsed on a thread of its own, in bytes: some 0.5 ms of work, in which
/// a core could serve ten other requests.
const PARSED_ASIDE: usize = 1 << 20;

/// The result of checking a request.
pub(super) enum Checked {
    Event(VerifiedEvent),
    /// A request that is forwarded at once, without a claim: see [`super::unverified`].
    Unclaimed(OutboundRequest),
    /// A request that is answered at once and not forwarded.
    Answered(Outcome),
}

/// A verified and fresh event of a type that the route accepts.
pub(super) struct VerifiedEvent {
    pub(super) verified: Verified,
    pub(super) event: Event,
    pub(super) label: EventLabel,
}

impl Gateway {
    /// Checks the signature, then whether the body is a handshake or an event for the route.
    ///
    /// # Errors
    /// `invalid_signature`, `rate_limited` or `invalid_event`.
    pub(super) async fn verify(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        verification: Verification<'_>,
    ) -> Result<Checked, Rejection> {
        let MatchedRoute { route, metrics, .. } = matched;
        let now = exchange.received_at;
        exchange.log_line.secrets_tried = log::has_request_details()
            .then(|| verification.secrets_tried())
            .flatten();
        let verified = match &route.unenforced {
            None => verification.finish_or_body(),
            Some(unenforced) => match verification.finish_unenforced(unenforced) {
                Ok(verified) => Ok(verified),
                Err(unverified) => {
                    exchange.count_unverified(matched, unverified.failure())?;
                    metrics.count_signature_check(unverified.failure().into(), now);
                    exchange.counted.count()?;
                    let checked = self.check_unverified(exchange, route, &unverified).await;
                    if matches!(checked, Checked::Unclaimed(_)) {
                        exchange.let_pass = Some(unverified);
                    }
                    return Ok(checked);
                }
            },
        };
        let verified = match verified {
            Ok(verified) => verified,
            Err((failure, body)) => {
                exchange.count_unverified(matched, failure)?;
                exchange.rejected_body = Some(body);
                metrics.count_signature_check(failure.into(), now);
                return Err(failure.into());
            }
        };
        metrics.count_signature_check(SignatureCheck::Ok(verified.secret()), now);
        if let Some(sender) = &matched.activity.sender {
            sender.clients.remember(exchange.holder());
        }
        exchange.log_line.secret = Some(Arc::clone(verified.secret()));
        exchange.log_line.secrets_tried = None;
        exchange.counted.count()?;
        match handshake::find_in_body(route, &verified) {
            Some(SignedHandshake::Gateway(response)) => {
                Ok(Checked::Answered(Outcome::Challenge(response)))
            }
            Some(SignedHandshake::Upstream(event_type)) => {
                let inbound = exchange.inbound();
                let request =
                    OutboundRequest::handshake(&verified, &route.name, event_type, &inbound);
                Ok(Checked::Unclaimed(request))
            }
            None => self.read_event(exchange, matched, verified).await,
        }
    }

    /// Reads the event from a verified body.
    async fn read_event(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        verified: Verified,
    ) -> Result<Checked, Rejection> {
        let MatchedRoute {
            route, activity, ..
        } = matched;
        let headers = &exchange.session.req_header().headers;
        let event = match self.parse(route, verified.body(), headers).await {
            Ok(event) => event,
            Err(error) => {
                exchange.rejected_body = Some(verified.body().clone());
                return Err(error.into());
            }
        };
        let identity = EventIdentity::new(&route.identity, &event, &verified);
        let label = EventLabel {
            route: Arc::clone(&route.name),
            event_id: identity
                .name()
                .unwrap_or_else(|| random_name().into())
                .into(),
            event_type: (*event.event_type).into(),
            is_test: self.test_marks.verify(headers, verified.body()),
            possible_replay: false,
            is_identified: identity != EventIdentity::None,
        };
        exchange.log_line.event_id = Some(Arc::clone(&label.event_id));
        exchange.log_line.event_type = Some(Arc::clone(&label.event_type));
        if let Err(error) = route.envelope.check_fresh(&event, exchange.received_at) {
            exchange.rejected_body = Some(verified.body().clone());
            return Err(error.into());
        }
        // An operator tests the route, whatever the type; a sender cannot make the mark.
        if !label.is_test && !route.accepts(&event) {
            if let Some(sender) = &activity.sender {
                let digest = verified.digest().to_bytes();
                sender.idle.ignored_event_seen(digest, self.clock.now());
            }
            return Ok(Checked::Answered(Outcome::Ignored));
        }
        Ok(Checked::Event(VerifiedEvent {
            verified,
            event,
            label,
        }))
    }

    /// Parses a body: a large one on a thread of its own, so that its core serves others meanwhile.
    pub(super) async fn parse(
        &self,
        route: &Arc<Route>,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Result<Event, EnvelopeError> {
        if body.len() < PARSED_ASIDE {
            return route.envelope.parse(body, headers);
        }
        // The semaphore is never closed.
        let _turn = self.parsing.acquire().await;
        let request = (Arc::clone(route), body.clone(), headers.clone());
        let parsed = spawn_blocking(move || {
            let (route, body, headers) = request;
            route.envelope.parse(&body, &headers)
        });
        // The runtime may be ending, and begins no more of these.
        parsed
            .await
            .unwrap_or_else(|_| route.envelope.parse(body, headers))
    }
}

/// Makes a name for an event that nothing identifies, so that operators can refer to its delivery.
fn random_name() -> String {
    format!("random:{:032x}", fastrand::u128(..))
}

impl From<SignatureError> for SignatureCheck<'_> {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::Missing => Self::Missing,
            SignatureError::Malformed => Self::Malformed,
            SignatureError::Mismatch => Self::Mismatch,
            SignatureError::Stale => Self::Stale,
        }
    }
}
