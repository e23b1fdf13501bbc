//! Explains rejected requests, and those that `enforce: false` let pass, off the request path.
//!
//! An explanation is a search over what may have gone wrong, and anyone can cause a rejection. So a
//! route has at most one explanation a minute, the gateway makes one at a time, and it then rests
//! for nine times as long as it took: all explanations take at most a tenth of one core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use jiff::Timestamp;

use crate::activity::{Explanation, RejectionId, RouteActivity};
use crate::clock::Clock;
use crate::explain::Request;
use crate::outcome::Code;
use crate::route::Route;

/// The largest body that is explained, in bytes. It is copied once, and searched within limits.
const BODY_MAX: usize = 256 << 10;

/// The time of rest after an explanation, as a multiple of the time that it took.
const REST: u32 = 9;

/// The one place for an explanation.
#[derive(Default)]
pub(super) struct Explainer {
    is_taken: Arc<AtomicBool>,
}

/// The right to make an explanation. Ends on drop.
pub(super) struct Turn {
    is_taken: Arc<AtomicBool>,
}

/// A request to explain that was rejected, or would have been.
pub(super) struct RejectedRequest {
    pub route: Arc<Route>,
    pub activity: Arc<RouteActivity>,
    /// The number under which it is listed.
    pub id: Option<RejectionId>,
    pub received_at: Timestamp,
    /// Set if it was let pass, on a route with `enforce: false`.
    pub let_pass: bool,
    pub request: Request,
}

impl Explainer {
    /// Returns the right to explain a request with a body of this size, if its route is due and no
    /// other explanation is being made.
    pub(super) fn begin(
        &self,
        activity: &RouteActivity,
        body_bytes: usize,
        now: Instant,
    ) -> Option<Turn> {
        if body_bytes > BODY_MAX || self.is_taken.swap(true, Ordering::Acquire) {
            return None;
        }
        let turn = Turn {
            is_taken: Arc::clone(&self.is_taken),
        };
        activity.explanations.begin(now).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.is_taken.store(false, Ordering::Release);
    }
}

impl Turn {
    /// Explains the request in a thread of its own, and records and logs the result.
    pub(super) fn explain(self, rejected: RejectedRequest, clock: Clock) {
        tokio::spawn(async move {
            let started = Instant::now();
            let explaining = tokio::task::spawn_blocking(move || rejected.explain(&clock));
            // A panic is logged by the process's hook, and ends no request.
            let _ = explaining.await;
            tokio::time::sleep(started.elapsed() * REST).await;
            drop(self);
        });
    }
}

impl RejectedRequest {
    fn explain(self, clock: &Clock) {
        let Self {
            route,
            activity,
            id,
            received_at,
            let_pass,
            request,
        } = self;
        let scheme = route.verifier.scheme();
        let explained = route
            .explainer
            .explain(&request, scheme, &route.envelope, received_at);
        let Some(sentence) = explained else {
            return;
        };
        let text: Arc<str> = sentence.text.into();
        let outcome = Code::InvalidSignature.as_str();
        let what = if let_pass { "unverified" } else { "rejected" };
        if sentence.advice.is_some() {
            tracing::warn!(
                route = %route.name,
                outcome,
                explanation = %text,
                "{what} request explained"
            );
        } else {
            tracing::info!(
                route = %route.name,
                outcome,
                explanation = %text,
                "{what} request explained"
            );
        }
        if let Some(id) = id {
            activity.rejections.explain(id, Arc::clone(&text));
        }
        let explanation = Explanation {
            at: received_at,
            text,
            advice: sentence.advice.map(Into::into),
        };
        activity.explanations.record(explanation, clock.now());
    }
}
