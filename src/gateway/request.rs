//! The request stage: one request as a straight line, from its checked head to its outcome.
//!
//! Owns the order of the steps and their deadlines. Each step is a file of its own. The steps run
//! in the future of their connection or HTTP/2 stream and are never cancelled: Pingora does not end
//! that future when a sender disconnects, and every deadline wraps a single step. Only the end of
//! the process cuts off a request, and a stop waits for those that have passed verification.

mod admit;
mod claim;
mod client_address;
mod deliver;
mod displaced;
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

use std::pin::pin;

use pingora_core::server::ShutdownWatch;

use super::listener::Ending;
use super::response::{Outcome, Rejection};
use super::{Gateway, RouteSnapshot};
use crate::cores::Delivering;
use crate::limits::Reservation;
use crate::metrics::InFlightGuard;
use exchange::Exchange;
use verify::Checked;

impl Gateway {
    /// Handles one request. Returns whether the connection can be kept.
    pub(super) async fn handle(
        &self,
        exchange: Exchange<'_>,
        mut memory: Reservation<'_>,
        ending: &Ending,
    ) -> bool {
        let _in_flight = InFlightGuard::new(&self.metrics.requests_in_flight);
        let routes = self.routes();
        // Rebound, because the exchange borrows from `routes` from here on.
        let mut exchange = exchange;
        let outcome = match self.process(&mut exchange, &mut memory, &routes).await {
            Ok(outcome) => outcome,
            Err(rejection) => Outcome::Rejected(rejection),
        };
        displaced::delay_response(&exchange, &outcome).await;
        let holder = exchange.holder();
        let drained = {
            let drained = pin!(drain::for_reuse(&mut exchange, &outcome));
            memory.until_displaced(holder, drained).await == Ok(true)
        };
        let reusable = drained && !ending.has_begun();
        if !reusable {
            exchange.session.close_after_response();
        }
        let written = self
            .respond(&mut exchange, &mut memory, outcome, &ending.stop)
            .await;
        if written && !reusable {
            if exchange.session.is_http2() {
                let lingering = pin!(drain::linger(&mut exchange.session));
                let _ = memory.until_displaced(holder, lingering).await;
            } else {
                // The connection limits bound HTTP/1.1 connections until they are closed, so the
                // reservation can be released before the rest of the body is discarded.
                drop(memory);
                drain::linger(&mut exchange.session).await;
            }
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
        let mut memory = self.request_limits.begin();
        let outcome = Outcome::Rejected(rejection);
        self.respond(&mut exchange, &mut memory, outcome, shutdown)
            .await;
    }

    /// Runs the steps in their order. A step that rejects the request returns a [`Rejection`]; one
    /// that answers it early, such as a handshake, returns its outcome.
    async fn process<'s>(
        &self,
        exchange: &mut Exchange<'s>,
        memory: &mut Reservation<'_>,
        routes: &'s RouteSnapshot,
    ) -> Result<Outcome, Rejection> {
        let matched = route::route(exchange, routes)?;
        if let Some(outcome) = self.admit(exchange, routes, matched).await? {
            return Ok(outcome);
        }
        let verification = receive::receive(exchange, matched, memory).await?;
        let checked = self.verify(exchange, matched, verification).await?;
        let _delivering = Delivering::begin();
        if let Checked::Answered(outcome) = checked {
            return Ok(outcome);
        }
        // Held until the outcome is known: a body is in memory until it has been delivered.
        let _verified = memory
            .verified(matched.share)
            .map_err(|_| Rejection::Overloaded)?;
        let event = match checked {
            Checked::Event(event) => event,
            Checked::Unclaimed(request) => {
                // Boxed, as delivering is: a request that was rejected before needs no room for it.
                let forwarded = self.forward_unclaimed(exchange, matched, &request);
                return Box::pin(forwarded).await;
            }
            Checked::Answered(outcome) => return Ok(outcome),
        };
        let claim = self.claim(exchange, matched, &event).await?;
        Box::pin(self.deliver(exchange, matched, claim, event)).await
    }
}
