//! Routes, compiled: everything a request needs once its host and path are known.
//!
//! Owns look-up and the per-route rules. Knows nothing of YAML (that is `config`) nor of what happens to a request
//! (that is `gateway`).

mod admission;
mod filter;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use admission::{Admission, AdmissionError, ConcurrencyPermit, RateLimit};
pub use filter::EventFilter;

use crate::backoff::Backoff;
use crate::event::EnvelopeSpec;
use crate::handshake::Handshake;
use crate::ledger::InFlightPolicy;
use crate::signature::{Unenforced, Verifier};
use crate::store::Retain;
use crate::upstream::Upstream;

/// One path with its provider's scheme, its secrets, its rules and its upstream.
pub struct Route {
    /// Unique; a metric label and part of every ledger key.
    pub name: Arc<str>,
    /// Lower case, without a port; `None` takes any host.
    pub host: Option<Box<str>>,
    /// Compared byte for byte with the request's path. Nothing is decoded or normalised.
    pub path: Box<str>,
    /// The preset that the scheme came from, for people; `None` for one of the user's own.
    pub provider: Option<&'static str>,
    pub methods: Vec<Method>,
    /// Switched off, it takes nothing.
    pub active: bool,
    pub verifier: Verifier,
    /// Lets what did not verify pass, marked.
    pub unenforced: Option<Unenforced>,
    /// What becomes of the provider's handshakes; `None` where it has none.
    pub handshake: Option<Handshake>,
    pub envelope: EnvelopeSpec,
    pub events: EventFilter,
    pub admission: Admission,
    pub budget: Budget,
    /// Largest body in bytes.
    pub max_body: usize,
    pub replay: Replay,
    pub delivery_mode: DeliveryMode,
    /// What an event is answered with that was stored: 202 or 200.
    pub accept_status: StatusCode,
    /// For events that were stored.
    pub retry: Backoff,
    /// How long one attempt at a stored event may take.
    pub attempt_timeout: Duration,
    /// Attempts at stored events at once.
    pub queue_concurrency: usize,
    pub retain: Retain,
    /// How often something is verified at least, while all is well.
    pub expect_every: Option<Duration>,
    pub upstream: Arc<Upstream>,
    /// Whether the sender's query string is appended to the upstream's path.
    pub forward_query: bool,
}

impl Route {
    /// Whether the signature or the envelope stands in this header.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.verifier.reads_header(name) || self.envelope.reads(name)
    }
}

/// The way a verified event gets to the upstream (contract §8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DeliveryMode {
    /// Forwarded at once; the sender gets the upstream's response.
    Proxy,
    /// Stored, answered with `accept_status`, and delivered afterwards.
    Queue,
    /// Forwarded as with `proxy`; stored as with `queue` when the upstream cannot be reached,
    /// responds with 5xx or 429, or the budget is nearly spent.
    Spill,
}

impl DeliveryMode {
    /// As the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Queue => "queue",
            Self::Spill => "spill",
        }
    }
}

/// The time a provider waits for an answer (contract §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Counted from the first byte of the request's head.
    pub total: Duration,
    /// Kept back so that the answer is written, not only decided, in time. Less than `total`.
    pub margin: Duration,
}

impl Budget {
    /// When the answer to a request whose first byte came at `first_byte` must be on its way.
    pub fn deadline(&self, first_byte: Instant) -> Instant {
        first_byte + self.usable()
    }

    /// What there is to use of it.
    pub fn usable(&self) -> Duration {
        self.total.saturating_sub(self.margin)
    }
}

/// What replays meet (contract §6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// How long a completed ID is remembered.
    pub window: Duration,
    pub on_duplicate: OnDuplicate,
    pub in_flight: InFlightPolicy,
}

impl Replay {
    /// Longer than any provider that we know sends an event again.
    pub const USUAL_WINDOW: Duration = Duration::from_secs(96 * 3600);
}

/// The response to a duplicate of a completed event. A duplicate is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnDuplicate {
    /// 409.
    Reject,
    /// 200, for providers that retry for days or disable the endpoint after a 4xx.
    Acknowledge,
}

/// All routes, found by path and then host.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_path: HashMap<Box<str>, Vec<usize>>,
}

impl RouteTable {
    /// Takes routes of which no two have the same path and host; `config` has checked that.
    pub fn new(routes: Vec<Arc<Route>>) -> Self {
        let mut by_path: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            by_path.entry(route.path.clone()).or_default().push(index);
        }
        for same_path in by_path.values_mut() {
            same_path.sort_by_key(|&index| routes[index].host.is_none());
        }
        Self { routes, by_path }
    }

    /// The index of the route for `path` and `host` (lower case, without port). A route that names the host goes
    /// before one that takes any.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let candidates = self.by_path.get(path)?;
        candidates.iter().copied().find(|&index| {
            let wanted = self.routes[index].host.as_deref();
            wanted.is_none() || wanted == host
        })
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}
