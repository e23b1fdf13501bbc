//! The request stage: one request as a straight line, from its checked head to its outcome.
//!
//! Owns the order of the steps and their deadlines. Each step is a file of its own. The steps run
//! in the future of their connection or HTTP/2 stream and are never cancelled: Pingora does not end
//! that future when a sender disconnects, and every deadline wraps a single step. Only the end of
//! the process cuts off a request, and a stop waits for those that have passed verification.

mod admit;
pub(super) mod body_memory;
mod claim;
mod client_address;
mod deliver;
mod drain;
pub(super) mod exchange;
mod forward;
mod handshake;
pub(super) mod head;
mod receive;
mod respond;
mod route;
mod unverified;
mod verify;

use pingora_core::server::ShutdownWatch;

use super::response::{Outcome, Rejection};
use super::{Gateway, RouteSnapshot};
use crate::metrics::InFlightGuard;
use exchange::Exchange;
use verify::Checked;

impl Gateway {
    /// Handles one request. Returns whether the connection can be kept.
    pub(super) async fn handle(&self, exchange: Exchange<'_>, shutdown: &ShutdownWatch) -> bool {
        let _in_flight = InFlightGuard::new(&self.metrics.requests_in_flight);
        let routes = self.routes();
        // Rebound, because the exchange borrows from `routes` from here on.
        let mut exchange = exchange;
        let outcome = match self.process(&mut exchange, &routes).await {
            Ok(outcome) => outcome,
            Err(rejection) => Outcome::Rejected(rejection),
        };
        let reusable = drain::for_reuse(&mut exchange, &outcome).await && !*shutdown.borrow();
        if !reusable {
            exchange.session.set_keepalive(None);
        }
        let written = self.respond(&mut exchange, outcome, shutdown).await;
        if written && !reusable {
            drain::linger(exchange.session).await;
        }
        written && reusable
    }

    /// Answers a request whose head could not be read. The caller then closes the connection.
    pub(super) async fn reject(
        &self,
        mut exchange: Exchange<'_>,
        rejection: Rejection,
        shutdown: &ShutdownWatch,
    ) {
        self.respond(&mut exchange, Outcome::Rejected(rejection), shutdown)
            .await;
    }

    /// Runs the steps in their order. A step that rejects the request returns a [`Rejection`]; one
    /// that answers it early, such as a handshake, returns its outcome.
    async fn process<'s>(
        &self,
        exchange: &mut Exchange<'s>,
        routes: &'s RouteSnapshot,
    ) -> Result<Outcome, Rejection> {
        let matched = self.route(exchange, routes)?;
        if let Some(outcome) = self.admit(exchange, matched).await? {
            return Ok(outcome);
        }
        // Reserved until the outcome is known: a body is in memory until it has been delivered.
        let mut memory = self.body_memory.reservation();
        let verification = receive::receive(exchange, matched, &mut memory).await?;
        let checked = self.verify(exchange, matched, verification)?;
        exchange.counted.count()?;
        let event = match checked {
            Checked::Event(event) => event,
            Checked::Unclaimed(request) => {
                return self.forward_unclaimed(exchange, matched, &request).await;
            }
            Checked::Answered(outcome) => return Ok(outcome),
        };
        let claim = self.claim(exchange, matched, &event).await?;
        self.deliver(exchange, matched, claim, event).await
    }
}
