//! One attempt at sending a request to its upstream, with or without a claim.

use std::time::Instant;

use jiff::Timestamp;

use super::exchange::Exchange;
use crate::delivery::OutboundRequest;
use crate::gateway::Gateway;
use crate::gateway::response::{Outcome, Rejection};
use crate::gateway::route_snapshot::MatchedRoute;
use crate::ledger::Claim;
use crate::store::StoreError;
use crate::upstream::{AttemptEnd, AttemptReport};

impl Gateway {
    /// Sends `request` to the route's upstream and reads the response, from now and ending by the
    /// deadline. The caller holds the permit of the route's concurrency, and settles `claim`.
    ///
    /// # Errors
    /// When the start of a claimed attempt could not be recorded. Nothing has been sent then.
    pub(super) async fn forward(
        &self,
        exchange: &mut Exchange<'_>,
        matched: MatchedRoute<'_>,
        request: &OutboundRequest,
        claim: Option<&mut Claim>,
        (started_at, deadline): (Timestamp, Instant),
    ) -> Result<AttemptReport, StoreError> {
        let upstream = &matched.route.upstream;
        let report = match self.client.connect(upstream, deadline).await {
            Err(report) => report,
            Ok(connected) => {
                let (number, possible_duplicate) = match claim {
                    Some(claim) => {
                        claim.begin_attempt()?;
                        (claim.attempt(), claim.possible_duplicate())
                    }
                    None => (1, false),
                };
                connected
                    .deliver(request, number, possible_duplicate, deadline, || ())
                    .await
            }
        };
        if let (Some(cause), Some(sender)) = (report.cause, &matched.activity.sender) {
            sender
                .history
                .failed_attempts
                .record(report.to_failed_attempt(cause, started_at, upstream));
        }
        matched.metrics.record_attempt(
            report.metric_result(),
            report.cause,
            report.duration.as_secs_f64(),
        );
        exchange.log_line.cause = report.cause;
        exchange.log_line.address = report.address.as_ref().map(|it| it.to_string().into());
        if let AttemptEnd::Answered(response) = &report.end {
            exchange.log_line.upstream_status = Some(response.status().as_u16());
        }
        Ok(report)
    }
}

/// Returns the outcome of a request that ends with its attempt.
///
/// # Errors
/// `upstream_unreachable` or `budget_exceeded`, when the upstream did not answer.
pub(super) fn outcome_of(end: AttemptEnd) -> Result<Outcome, Rejection> {
    match end {
        AttemptEnd::Answered(response) if response.status().is_success() => {
            Ok(Outcome::Delivered(response))
        }
        AttemptEnd::Answered(response) => Ok(Outcome::UpstreamRejected(response)),
        AttemptEnd::NotReached(error) | AttemptEnd::Unknown(error) => Err(error.into()),
    }
}
