//! Captured requests: listed without what they hold, and fetched whole.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Instant;

use super::Operations;
use crate::activity::{CaptureLimits, CapturedRequest};
use crate::admin::audit::Operator;
use crate::admin::error::OperationError;
use crate::outcome::Code;

/// Captured requests, the newest first, and the routes that capture.
pub(crate) struct CaptureList {
    pub captures: Vec<RouteCapture>,
    /// The number of captured requests that fit the selection.
    pub total: usize,
    pub routes: Vec<CapturingRoute>,
}

/// A request that was captured for a route.
pub(crate) struct RouteCapture {
    pub route: Arc<str>,
    pub request: Arc<CapturedRequest>,
}

/// A route that captures its rejected requests.
pub(crate) struct CapturingRoute {
    pub route: Arc<str>,
    pub limits: CaptureLimits,
    /// The number of requests that were larger than the limit, and so were not captured.
    pub too_large: u64,
}

impl Operations {
    /// Returns the captured requests of one route, or of all. `outcome` selects those with this
    /// outcome.
    pub(crate) fn captures(
        &self,
        route: Option<&str>,
        outcome: Option<Code>,
        limit: usize,
    ) -> Result<CaptureList, OperationError> {
        let activity = &self.state.activity;
        let sources = match route {
            Some(route) => vec![activity.route(route).ok_or(OperationError::NoSuchWebhook)?],
            None => activity.all(),
        };
        let now = Instant::now();
        let (mut captures, mut routes) = (Vec::new(), Vec::new());
        for source in &sources {
            let (Some(route), Some(limits)) = (&source.route, source.captures.limits()) else {
                continue;
            };
            routes.push(CapturingRoute {
                route: Arc::clone(route),
                limits,
                too_large: source.captures.too_large(),
            });
            let fitting = source
                .captures
                .recent(now)
                .into_iter()
                .filter(|request| outcome.is_none_or(|outcome| outcome == request.kind.code));
            captures.extend(fitting.map(|request| RouteCapture {
                route: Arc::clone(route),
                request,
            }));
        }
        captures.sort_by_key(|capture| Reverse(capture.request.received_at));
        let total = captures.len();
        captures.truncate(limit);
        Ok(CaptureList {
            captures,
            total,
            routes,
        })
    }

    /// Returns a captured request, whole. It may hold a valid signature, so it takes an operator,
    /// and is audited.
    pub(crate) fn capture(
        &self,
        operator: Operator,
        id: &str,
    ) -> Result<RouteCapture, OperationError> {
        let found = self.captures(None, None, usize::MAX).and_then(|list| {
            list.captures
                .into_iter()
                .find(|capture| *capture.request.id == *id)
                .ok_or(OperationError::NoSuchCapture)
        });
        let subject = match &found {
            Ok(capture) => format!("{id} of {}", capture.route),
            Err(_) => id.escape_debug().to_string(),
        };
        operator.audited("read_capture", &subject, found)
    }
}
