//! Step 5: claims the event in the ledger, so that no copy of it is delivered meanwhile.

use super::exchange::Exchange;
use super::verify::VerifiedEvent;
use crate::gateway::Gateway;
use crate::gateway::response::Rejection;
use crate::gateway::route_snapshot::MatchedRoute;
use crate::ledger::{Claim, ClaimDecision, ClaimOptions, EventIdentity};
use crate::metrics::LedgerCheck;
use crate::store::ClaimPurpose;

impl Gateway {
    /// Claims an event.
    ///
    /// # Errors
    /// `duplicate` (also for too many copies of a body), `payload_mismatch` or `in_flight`; or
    /// `store_unavailable`, and then nothing may be forwarded.
    pub(super) async fn claim(
        &self,
        exchange: &Exchange<'_>,
        matched: MatchedRoute<'_>,
        event: &VerifiedEvent,
    ) -> Result<Claim, Rejection> {
        let route = matched.route;
        let on_duplicate = route.replay.on_duplicate;
        let options = ClaimOptions {
            window: route.replay.window,
            in_flight: route.replay.in_flight,
            deadline: exchange.deadline(route),
            purpose: if route.delivery_mode.forwards_at_once() {
                ClaimPurpose::Forward
            } else {
                ClaimPurpose::Queue
            },
        };
        let identity = EventIdentity::new(&route.identity, &event.event, &event.verified);
        let keys = self.ledger.keys(&route.name, identity);
        let digest = event.verified.digest();
        let (check, claim) = match self.ledger.claim(&route.name, keys, digest, options).await {
            Ok(ClaimDecision::Claimed(claim)) if claim.possible_replay() => {
                (LedgerCheck::PossibleReplay, Ok(claim))
            }
            Ok(ClaimDecision::Claimed(claim)) => (LedgerCheck::New, Ok(claim)),
            Ok(ClaimDecision::Duplicate) => (
                LedgerCheck::Duplicate,
                Err(Rejection::Duplicate(on_duplicate)),
            ),
            Ok(ClaimDecision::PayloadMismatch) => (
                LedgerCheck::PayloadMismatch,
                Err(Rejection::PayloadMismatch(on_duplicate)),
            ),
            Ok(ClaimDecision::TooManyCopies) => {
                (LedgerCheck::Duplicate, Err(Rejection::TooManyCopies))
            }
            Ok(ClaimDecision::InFlight) => (LedgerCheck::InFlight, Err(Rejection::InFlight)),
            Err(error) => {
                self.metrics.store().count_error("claim");
                (LedgerCheck::Error, Err(Rejection::StoreUnavailable(error)))
            }
        };
        matched.metrics.count_ledger_check(check);
        // A copy or a retry does not show that the sender is alive: an attacker may have captured
        // the request and replayed it.
        if let (Ok(claim), Some(sender)) = (&claim, &matched.activity.sender)
            && claim.attempt() == 1
            && (identity == EventIdentity::None || !claim.possible_replay())
            && !event.label.is_test
        {
            sender.idle.event_seen(self.clock.now());
        }
        claim
    }
}
