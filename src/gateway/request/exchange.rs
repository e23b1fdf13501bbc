//! One request and its response, as the steps share it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::client_address::Forwarded;
use super::head::{Arrival, Head};
use crate::client_network::ClientNetwork;
use crate::delivery::InboundRequest;
use crate::gateway::address;
use crate::gateway::response::Rejection;
use crate::gateway::route_snapshot::MatchedRoute;
use crate::gateway::session::Session;
use crate::gateway::verified_requests::CountedRequest;
use crate::log::RequestLine;
use crate::route::Route;
use crate::signature::{SignatureError, Unverified};

/// The time in which the response to a request without a route must be written, counted from the
/// first byte of its head.
const UNROUTED_BUDGET: Duration = Duration::from_secs(10);

/// A request on its way through the steps, with everything that its response and its log line need
/// however it ends.
pub(in crate::gateway) struct Exchange<'s> {
    pub(super) session: Session<'s>,
    /// The request as a stop counts it: once it is verified, the stop waits for its end.
    pub(super) counted: &'s CountedRequest<'s>,
    /// The time of the head's first byte, from which the budget counts.
    pub(super) first_byte: Instant,
    pub(super) arrival: Arrival,
    /// The address that is connected to the gateway, or that its PROXY protocol header names.
    pub(super) peer: IpAddr,
    /// The scheme: `http` or `https`.
    scheme: &'static str,
    /// Set when the session has a head that can be read.
    pub(super) has_head: bool,
    /// The head once it has passed its checks; until then, one without host and body.
    pub(super) head: Head,
    /// The time at which the head was complete.
    pub(super) received_at: Timestamp,
    pub(super) matched: Option<MatchedRoute<'s>>,
    /// The sender and the earlier hops; before admission, the peer and none.
    pub(super) forwarded: Forwarded,
    /// Set when the request was counted as one that does not verify.
    counted_unverified: bool,
    /// The whole body of a request that was rejected after it was read, until the rejection is
    /// recorded.
    pub(super) rejected_body: Option<Bytes>,
    /// The body that did not verify and was let pass, until that is recorded.
    pub(super) let_pass: Option<Unverified>,
    /// The log line, filled in as its fields become known.
    pub(super) log_line: RequestLine,
}

impl<'s> Exchange<'s> {
    /// Begins the exchange for a head that `session` has read.
    pub(in crate::gateway) fn new(
        session: Session<'s>,
        counted: &'s CountedRequest<'s>,
        first_byte: Instant,
        received_at: Timestamp,
        is_tls: bool,
        arrival: Arrival,
    ) -> Self {
        Self {
            has_head: true,
            arrival,
            ..Self::without_head(session, counted, first_byte, received_at, is_tls)
        }
    }

    /// Begins the exchange for a head that could not be read.
    pub(in crate::gateway) fn without_head(
        session: Session<'s>,
        counted: &'s CountedRequest<'s>,
        first_byte: Instant,
        received_at: Timestamp,
        is_tls: bool,
    ) -> Self {
        let peer = session.peer();
        Self {
            session,
            counted,
            first_byte,
            arrival: Arrival::ALONE,
            peer,
            scheme: if is_tls { "https" } else { "http" },
            has_head: false,
            head: Head::default(),
            received_at,
            matched: None,
            forwarded: Forwarded::direct(peer),
            counted_unverified: false,
            rejected_body: None,
            let_pass: None,
            log_line: RequestLine {
                peer: address::known(peer),
                ..RequestLine::default()
            },
        }
    }

    /// Returns the client that the request counts for.
    pub(super) fn holder(&self) -> ClientNetwork {
        ClientNetwork::of_address(self.forwarded.client)
    }

    /// Records the route that the request was matched to.
    pub(super) fn set_route(&mut self, matched: MatchedRoute<'s>) {
        self.matched = Some(matched);
        self.log_line.route = Some(Arc::clone(&matched.route.name));
    }

    /// Counts the request as one that does not verify, once.
    ///
    /// # Errors
    /// `rate_limited`, if its address has sent too many. The check of its signature is counted too
    /// then.
    pub(super) fn count_unverified(
        &mut self,
        matched: MatchedRoute<'_>,
        failure: SignatureError,
    ) -> Result<(), Rejection> {
        if std::mem::replace(&mut self.counted_unverified, true) {
            return Ok(());
        }
        let counted = matched
            .route
            .admission
            .count_unverified(self.forwarded.client);
        counted.map_err(|limited| {
            matched
                .metrics
                .count_signature_check(failure.into(), self.received_at);
            limited.into()
        })
    }

    /// Returns the request as an outbound request is made from it.
    pub(super) fn inbound(&self) -> InboundRequest<'_> {
        InboundRequest {
            head: self.session.req_header(),
            peer: self.peer,
            from_trusted_proxy: self.forwarded.from_trusted_proxy,
            forwarded_for: self.forwarded.forwarded_for.as_deref(),
            read_headers: self
                .matched
                .map_or(&[], |matched| &matched.route.read_headers),
            scheme: self.scheme,
            host: self.head.host.as_deref(),
            at: self.received_at,
        }
    }

    /// Returns when the outcome must be known, so that the response can still be written in time.
    pub(super) fn deadline(&self, route: &Route) -> Instant {
        route.budget.deadline(self.first_byte)
    }

    /// Returns until when settling the claim is waited for: half of the budget's margin is left for
    /// the response.
    pub(super) fn settle_deadline(&self, route: &Route) -> Instant {
        let deadline = self.deadline(route);
        deadline + self.response_deadline().saturating_duration_since(deadline) / 2
    }

    /// Returns when the response must be written at the latest: at the end of the whole budget.
    pub(super) fn response_deadline(&self) -> Instant {
        let budget = self
            .matched
            .map_or(UNROUTED_BUDGET, |matched| matched.route.budget.total);
        self.first_byte + budget
    }
}
