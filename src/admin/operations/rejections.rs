//! Rejected requests.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use super::Operations;
use crate::activity::{Rejection, RejectionCount, RouteActivity};
use crate::admin::error::OperationError;
use crate::outcome::Code;

/// Rejected requests, the newest first.
pub(crate) struct RejectionList {
    pub requests: Vec<RejectedRequest>,
    /// The number of rejected requests that are remembered.
    pub total: usize,
}

/// A rejected request.
pub(crate) struct RejectedRequest {
    /// `None` when the request matched no route.
    pub route: Option<Arc<str>>,
    pub rejection: Arc<Rejection>,
    /// The number of similar requests after it that are not listed.
    pub left_out: u64,
    /// The reason in words, if this request was explained.
    pub explanation: Option<Arc<str>>,
}

impl Operations {
    /// Returns the last rejected requests of one route; or of all routes, and those that matched
    /// none. `outcome` selects those with this outcome.
    pub(crate) fn rejections(
        &self,
        route: Option<&str>,
        outcome: Option<Code>,
        limit: usize,
    ) -> Result<RejectionList, OperationError> {
        let mut requests = Vec::new();
        for source in self.rejection_sources(route)? {
            for recent in source.rejections.recent() {
                if outcome.is_some_and(|outcome| outcome != recent.rejection.kind.code) {
                    continue;
                }
                requests.push(RejectedRequest {
                    route: source.route.clone(),
                    rejection: recent.rejection,
                    left_out: recent.suppressed,
                    explanation: recent.explanation,
                });
            }
        }
        requests.sort_by_key(|request| Reverse(request.rejection.at));
        let total = requests.len();
        requests.truncate(limit);
        Ok(RejectionList { requests, total })
    }

    /// Counts the rejections of the last hour by kind, the most frequent first: those of one route,
    /// or of all routes and none.
    pub(crate) fn rejection_counts(
        &self,
        route: Option<&str>,
    ) -> Result<Vec<RejectionCount>, OperationError> {
        let now = Instant::now();
        let mut counts: Vec<RejectionCount> = Vec::new();
        for source in self.rejection_sources(route)? {
            for counted in source.rejections.last_hour(now) {
                match counts.iter_mut().find(|known| known.kind == counted.kind) {
                    Some(known) => {
                        known.count += counted.count;
                        known.last_at = known.last_at.max(counted.last_at);
                    }
                    None => counts.push(counted),
                }
            }
        }
        counts.sort_by_key(|counted| Reverse(counted.count));
        Ok(counts)
    }

    fn rejection_sources(
        &self,
        route: Option<&str>,
    ) -> Result<Vec<Arc<RouteActivity>>, OperationError> {
        let activity = &self.state.activity;
        match route {
            Some(route) => Ok(vec![
                activity.route(route).ok_or(OperationError::NoSuchWebhook)?,
            ]),
            None => Ok(activity.all()),
        }
    }
}
