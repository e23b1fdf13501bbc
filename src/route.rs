//! Compiled routes: everything that a request needs once its host and path are known.
//!
//! Owns the look-up and the rules of each route. Does not read YAML (`config` does) and does not
//! handle requests (`gateway` does).

mod admission;
mod filter;
mod probe;
mod unverified_limit;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderName, Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use admission::{Admission, AdmissionError, RateLimit};
pub(crate) use filter::EventFilter;
pub(crate) use probe::Probe;

use crate::activity::CaptureLimits;
use crate::backoff::Backoff;
use crate::delivery::is_spelling_of;
use crate::event::{EnvelopeSpec, Event};
use crate::explain::Explainer;
use crate::handshake::Handshake;
use crate::ledger::{IdentityRule, InFlightPolicy};
use crate::outcome::Code;
use crate::signature::{Unenforced, Verifier};
use crate::store::Retain;
use crate::upstream::Upstream;

/// One path with its provider's signature scheme, its secrets, its rules and its upstream.
pub struct Route {
    /// The unique name: a metric label, and part of every ledger key.
    pub name: Arc<str>,
    /// The host in lower case, without a port. `None` matches any host.
    pub host: Option<Box<str>>,
    /// The path, compared byte for byte with the request's. Nothing is decoded or normalised.
    pub path: Box<str>,
    /// The preset that the scheme comes from, for people. `None` for a custom scheme.
    pub provider: Option<&'static str>,
    pub methods: Vec<Method>,
    /// The responses to probes, by methods that are not among `methods`.
    pub probes: Vec<Arc<Probe>>,
    /// `false` if the route is switched off, or off line, and accepts no requests.
    pub active: bool,
    /// The reason why the route is off line: a secret that cannot be read.
    pub off_line: Option<Box<str>>,
    /// Set while an operator has paused the route.
    pub paused: AtomicBool,
    pub verifier: Verifier,
    /// What its rejected requests are explained with.
    pub explainer: Explainer,
    /// If set (`enforce: false`), requests that do not verify are forwarded, marked as unverified.
    pub unenforced: Option<Unenforced>,
    /// The handling of the provider's handshakes. `None` if the provider has none.
    pub handshake: Option<Handshake>,
    pub envelope: EnvelopeSpec,
    /// The parts that identify an event, by what the signature proves.
    pub identity: IdentityRule,
    /// The headers that a part of the signature or the envelope is read from.
    pub read_headers: Box<[HeaderName]>,
    pub events: EventFilter,
    pub admission: Admission,
    pub budget: Budget,
    /// The largest accepted body, in bytes.
    pub max_body: usize,
    pub replay: Replay,
    pub delivery_mode: DeliveryMode,
    /// `true` if the gateway's own responses have no body.
    pub empty_responses: bool,
    /// The status of the response to an event that was stored: 202 or 200.
    pub accept_status: StatusCode,
    /// The retry policy for stored events.
    pub retry: Backoff,
    /// The longest time that one attempt at a stored event may take.
    pub attempt_timeout: Duration,
    /// The number of attempts at stored events that may be in flight at once.
    pub queue_concurrency: usize,
    pub retain: Retain,
    /// The longest time between two verified events before the sender counts as idle.
    pub expect_every: Option<Duration>,
    /// The bounds of the rejected requests that are captured. `None` if none are.
    pub capture: Option<CaptureLimits>,
    pub upstream: Arc<Upstream>,
    /// `true` if the sender's query string is appended to the upstream's path.
    pub forward_query: bool,
}

impl Route {
    /// Returns whether an operator has paused the route. Its stored events wait then; a `proxy`
    /// route accepts no requests, and a `spill` route stores every event.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Pauses or resumes the route, for requests that arrive from now on.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Returns whether a request of this route can have this outcome.
    pub fn can_have(&self, outcome: Code) -> bool {
        match outcome {
            // Only requests that match no route.
            Code::UnknownRoute | Code::HeadersTooLarge => false,
            Code::Queued => self.delivery_mode.stores(),
            Code::Delivered
            | Code::UpstreamRejected
            | Code::UpstreamUnreachable
            | Code::BudgetExceeded => self.delivery_mode.forwards_at_once(),
            Code::Ignored => self.events.patterns().next().is_some(),
            Code::Challenge => self.handshake.is_some() || !self.probes.is_empty(),
            Code::ForbiddenAddress => self.admission.has_allow_list(),
            // A pause makes a route that only forwards inactive.
            Code::Inactive => !self.active || !self.delivery_mode.stores(),
            _ => true,
        }
    }

    /// Returns the response to a provider's probe by this method, if the route answers it.
    pub fn probe(&self, method: &Method) -> Option<&Arc<Probe>> {
        self.probes.iter().find(|probe| probe.method == *method)
    }

    /// Returns the methods that the route answers.
    pub fn allowed_methods(&self) -> Vec<Method> {
        let probes = self.probes.iter().map(|probe| &probe.method);
        self.methods.iter().chain(probes).cloned().collect()
    }

    /// Returns whether events of this type are delivered. A batch may hold events of every type,
    /// and is delivered whole.
    pub fn accepts(&self, event: &Event) -> bool {
        event.is_batch || self.events.accepts(&event.event_type)
    }

    /// Returns whether a part of the signature or the envelope is read from this header.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.read_headers.contains(name)
    }

    /// Returns whether a receiver could take this header for one that a part of the signature or
    /// the envelope is read from, or it is one.
    pub fn reads_spelling_of(&self, name: &HeaderName) -> bool {
        self.read_headers
            .iter()
            .any(|read| is_spelling_of(name, read))
    }
}

/// The way a verified event gets to the upstream (docs/semantics.md, Delivery).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DeliveryMode {
    /// Forwarded at once; the sender gets the upstream's response.
    Proxy,
    /// Stored, answered with `accept_status`, and delivered afterwards.
    Queue,
    /// Forwarded as with `proxy`; stored as with `queue` when the upstream cannot be reached,
    /// responds with 5xx or 429, has not responded when the budget is nearly spent, or is at the
    /// limit of `concurrency`.
    Spill,
}

impl DeliveryMode {
    /// Returns whether events are forwarded while their sender waits.
    pub fn forwards_at_once(self) -> bool {
        self != Self::Queue
    }

    /// Returns whether events are stored: all of them, or those that cannot be delivered.
    pub fn stores(self) -> bool {
        self != Self::Proxy
    }

    /// Returns the mode as the configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Queue => "queue",
            Self::Spill => "spill",
        }
    }
}

/// The time for which a provider waits for a response (docs/semantics.md, Budget).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// The whole time, counted from the first byte of the request's head.
    pub total: Duration,
    /// The part that is reserved for writing the response. Less than `total`.
    pub margin: Duration,
}

impl Budget {
    /// Returns the time by which the gateway must start to write the response to a request whose
    /// first byte arrived at `first_byte`.
    pub fn deadline(&self, first_byte: Instant) -> Instant {
        first_byte + self.usable()
    }

    /// Returns the budget without its margin.
    pub fn usable(&self) -> Duration {
        self.total.saturating_sub(self.margin)
    }
}

/// Replay protection: how long event IDs are remembered, and how duplicates are answered
/// (docs/semantics.md, Ledger).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// The time for which a completed ID is remembered.
    pub window: Duration,
    pub on_duplicate: OnDuplicate,
    pub in_flight: InFlightPolicy,
}

impl Replay {
    /// The default window: longer than any known provider retries an event.
    pub const USUAL_WINDOW: Duration = Duration::from_secs(96 * 3600);
}

/// The response to a duplicate of a completed event. A duplicate is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OnDuplicate {
    /// Responds with 409.
    Reject,
    /// Responds with 200, for providers that retry for days or disable the endpoint after a 4xx.
    Acknowledge,
}

/// All routes, indexed by path and then by host.
#[derive(Default)]
pub struct RouteTable {
    routes: Vec<Arc<Route>>,
    by_path: HashMap<Box<str>, Vec<usize>>,
}

impl RouteTable {
    /// Indexes `routes`. No two may have the same path and host; `config` has checked that.
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

    /// Returns the index of the route for `path` and `host` (lower case, without a port). A route
    /// that names the host takes precedence over one that matches any host.
    pub fn find(&self, host: Option<&str>, path: &str) -> Option<usize> {
        let candidates = self.by_path.get(path)?;
        candidates.iter().copied().find(|&index| {
            let route_host = self.routes[index].host.as_deref();
            route_host.is_none() || route_host == host
        })
    }

    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }
}
