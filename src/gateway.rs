//! The data plane: accepts connections from senders and handles their requests.
//!
//! The folders follow the stages as they run. [`listener`] turns an accepted connection into
//! requests, [`request`] handles one request from its head to its outcome, and [`response`] maps an
//! outcome to status, headers and body. This file holds the state that all connections share.

mod address;
mod explainer;
mod limits;
mod listener;
mod request;
mod request_line;
mod response;
mod route_snapshot;
mod session;
mod verified_requests;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::activity::Activity;
use crate::clock::Clock;
use crate::delivery::TestMarks;
use crate::ledger::Ledger;
use crate::limits::RequestLimits;
use crate::log::LogSampler;
use crate::metrics::Metrics;
use crate::upstream::Client;
use explainer::Explainer;
use limits::HeadLimits;
use listener::connection_limits::ConnectionLimits;
use listener::wait::LAST_REQUEST_WAIT;
use verified_requests::VerifiedRequests;

pub use limits::Limits;
pub use listener::Listener;
pub use listener::in_process::InProcessListener;
pub use request::head::{Arrival, Head, Place};
pub use request_line::RequestLine;
pub use route_snapshot::RouteSnapshot;
pub use session::{Chunk, HeadRead, PlainSession};

/// The most large bodies that are parsed at once. Fewer than the threads of a core, so that the store's
/// reads always find one.
const PARSED_ASIDE_MAX: usize = 8;

/// The state that all connections of the data plane share.
pub struct Gateway {
    /// The routes and the limits for requests that begin now. A request keeps the snapshot it began
    /// with.
    routes: ArcSwap<RouteSnapshot>,
    ledger: Arc<Ledger>,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    activity: Arc<Activity>,
    log_sampler: Arc<LogSampler>,
    clock: Clock,
    test_marks: TestMarks,
    /// Set once it was logged that a peer outside of `trusted_proxies` sent `X-Forwarded-For`.
    warned_of_proxy: AtomicBool,
    connection_limits: ConnectionLimits,
    verified_requests: VerifiedRequests,
    request_limits: RequestLimits,
    explainer: Explainer,
    /// Limits the large bodies that are parsed at once, each on a thread of its own.
    parsing: Semaphore,
}

/// The components that a [`Gateway`] shares with the rest of the process.
pub struct Dependencies {
    pub ledger: Arc<Ledger>,
    /// The upstream connections, which the queue uses too.
    pub client: Arc<Client>,
    pub metrics: Arc<Metrics>,
    pub activity: Arc<Activity>,
    pub log_sampler: Arc<LogSampler>,
    pub clock: Clock,
}

impl Gateway {
    /// Creates a gateway without routes: it answers 404 until [`Gateway::update_routes`] is called.
    pub fn new(limits: Arc<Limits>, dependencies: Dependencies) -> Arc<Self> {
        let Dependencies {
            ledger,
            client,
            metrics,
            activity,
            log_sampler,
            clock,
        } = dependencies;
        let body_bytes = limits.body_bytes_in_flight;
        let snapshot = RouteSnapshot::without_routes(limits);
        Arc::new(Self {
            routes: ArcSwap::from_pointee(snapshot),
            test_marks: TestMarks::new(ledger.store().hash_key()),
            connection_limits: ConnectionLimits::default(),
            request_limits: RequestLimits::new(body_bytes, metrics.body_bytes_in_flight.clone()),
            verified_requests: VerifiedRequests::default(),
            explainer: Explainer::default(),
            parsing: Semaphore::new(PARSED_ASIDE_MAX),
            ledger,
            client,
            metrics,
            activity,
            log_sampler,
            clock,
            warned_of_proxy: AtomicBool::new(false),
        })
    }

    /// Uses `routes` and their limits for the requests that begin from now on, and returns the
    /// snapshot before. Requests in flight finish with the snapshot they began with.
    pub fn update_routes(&self, routes: Arc<RouteSnapshot>) -> Arc<RouteSnapshot> {
        self.request_limits
            .resize(routes.limits().body_bytes_in_flight);
        self.routes.swap(routes)
    }

    /// Returns the routes for requests that begin now.
    pub fn routes(&self) -> Arc<RouteSnapshot> {
        self.routes.load_full()
    }

    /// Returns the limits on a head that is waited for now.
    fn head_limits(&self) -> HeadLimits {
        self.routes.load().limits().head()
    }

    /// Waits for the requests in flight, and returns whether all that count have ended. Call it
    /// once the listeners are closed and the connections have been notified.
    ///
    /// Unverified requests have half a second to be complete and verified. Verified ones, and those
    /// that a route forwards unverified, have `grace`. No other request or connection is waited
    /// for, because anyone could hold it open.
    pub async fn finish_requests(&self, grace: Duration) -> bool {
        let end = Instant::now() + grace;
        let all_closed = self.connection_limits.all_released();
        if timeout(LAST_REQUEST_WAIT.min(grace), all_closed)
            .await
            .is_ok()
        {
            return true;
        }
        self.verified_requests.close();
        timeout_at(end, self.verified_requests.none_left())
            .await
            .is_ok()
    }
}
