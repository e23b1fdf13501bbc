//! The problems of the gateway and its routes, worst first. Pure: facts and the time are arguments.
//!
//! Owns what counts as a problem, how bad it is, its words, and which signs of one incident are one
//! problem. The dashboard, the API, the command line, the log and the notifications all show this
//! list, so that they never contradict each other. `tracker` remembers when each problem began.

mod delivery;
mod ending;
mod gateway;
mod noise;
mod senders;
mod tracker;
mod window;
mod words;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::activity::{Explanation, MINUTES, MinuteBucket, RefusedRequests, RejectionKind};
use crate::cause::Cause;

pub(crate) use ending::{EndReason, Ending, ending};
pub(crate) use tracker::{Delays, ProblemChange, ProblemTracker, SeriousProblem};

/// The severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// No event is at risk.
    Notice,
    /// Some events wait, are late, fail or are rejected.
    Warning,
    /// Most events fail or are rejected, or are lost unless somebody acts.
    Critical,
}

/// The kind of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum ProblemCode {
    /// The configuration on disk is not valid: the next start fails.
    ConfigurationRefused,
    /// The store cannot be read or written.
    StoreUnavailable,
    StoreFull,
    /// The gateway is stopping.
    Draining,
    /// A secret of the route cannot be read.
    RouteOffLine,
    /// Delivery attempts fail.
    UpstreamFailing,
    /// Events were dead-lettered, and attempts do not fail now.
    DeadLetters,
    /// Stored events wait for long, and attempts do not fail.
    EventsLate,
    /// Events are stored for a route that is no longer configured.
    RouteRemoved,
    /// Requests of a route are rejected.
    RequestsRejected,
    /// Nothing was verified for longer than the route's `expect_every`.
    SenderSilent,
    /// A body came too often as other events.
    TooManyCopies,
    /// A secret in use expires soon.
    SecretExpires,
    RoutePaused,
    RouteInactive,
    /// Requests that no genuine sender makes: scanners, and a few that do not verify.
    Noise,
}

/// A problem: one incident of one route, or of the gateway as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Problem {
    /// `None` for the gateway as a whole.
    pub route: Option<Arc<str>>,
    pub severity: Severity,
    pub code: ProblemCode,
    /// The time at which it began, as far as it is known.
    pub since: Option<Timestamp>,
    /// The cause, the share, what is at risk, in one sentence without the route's name.
    pub summary: String,
    /// The affected share of the last minutes' requests or attempts, from 0 to 1.
    pub share: f64,
    pub at_risk: AtRisk,
    /// The action that an operator should take.
    pub advice: String,
    /// The list of the events or requests that it speaks of.
    pub evidence: Option<Evidence>,
    /// The share times the requests per minute, by which problems of one severity are ordered.
    impact: f64,
}

/// The events that are lost unless somebody acts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AtRisk {
    pub events: u64,
    /// The arrival of the oldest one.
    pub oldest: Option<Timestamp>,
    /// The time from which the gateway, or the provider, tries the first of them no more.
    pub gives_up_at: Option<Timestamp>,
}

/// The list that shows what a problem is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    Failed,
    Pending,
    Dead,
    Rejections,
    /// The rejected requests of all routes and of none.
    AllRejections,
}

/// The state of the gateway as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct GatewayFacts {
    pub refused_configuration: Option<RefusedConfiguration>,
    /// The reason why the store cannot be used.
    pub store_unavailable: Option<String>,
    pub store_full: bool,
    pub draining: bool,
    /// The requests of the last hour that matched no route.
    pub unmatched: u64,
    pub removed: Vec<RemovedRoute>,
}

/// The stored events of a route that is no longer configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemovedRoute {
    pub name: Arc<str>,
    pub pending: u64,
    pub dead: u64,
    pub oldest_waiting: Option<Timestamp>,
    /// The end of the oldest event's retry horizon. The event waits all the same.
    pub horizon_ends: Option<Timestamp>,
}

/// A configuration on disk that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedConfiguration {
    /// The time since when every content of the file was refused.
    pub since: Timestamp,
    /// The time since when it is refused for the present reasons, if there were others before.
    pub changed: Option<Timestamp>,
    /// The first thing that is wrong, with its place.
    pub first: String,
    /// The number of things that are wrong.
    pub count: usize,
}

/// The state of a route.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub(crate) struct RouteFacts {
    pub name: Arc<str>,
    /// Events are stored and delivered afterwards, always or when the upstream fails.
    pub stores_events: bool,
    pub upstream: String,
    pub active: bool,
    pub off_line: Option<Box<str>>,
    pub paused: bool,
    /// The last hour's minutes, the oldest first; the last one is still running.
    pub hour: [MinuteBucket; MINUTES],
    /// The start of the running minute.
    pub minute_began: Timestamp,
    /// The incident of the attempts, if one goes on.
    pub failing: Option<RunningIncident>,
    /// The incident of the rejections, if one goes on.
    pub rejecting: Option<RunningIncident>,
    /// Since when the list shows these two.
    pub listed_since: ListedSince,
    /// Set if an attempt has succeeded since the last one that failed.
    pub attempt_succeeded: bool,
    /// Set if a request was verified since the last one that was rejected.
    pub request_verified: bool,
    /// The last attempt that failed.
    pub last_failure: Option<LastFailure>,
    /// The events of the incident of the attempts that are not stored and were not delivered since.
    pub undelivered: Undelivered,
    /// The requests that were refused since the route accepted any.
    pub refused: RefusedRequests,
    /// The last delivery that was successful, ever.
    pub last_success: Option<Timestamp>,
    pub pending: u64,
    pub dead: u64,
    pub oldest_waiting: Option<Timestamp>,
    /// The time from an event's arrival after which the gateway does not retry it.
    pub retry_horizon: Duration,
    /// The time over which the provider retries a request.
    pub provider_horizon: Duration,
    pub expect_every: Option<Duration>,
    pub silent: bool,
    pub last_verified: Option<Timestamp>,
    /// The rejections of the last minutes, the most frequent kind first.
    pub rejected: Vec<RejectedKind>,
    /// The requests of the last hour whose body came too often as other events.
    pub copies: Option<RejectedKind>,
    /// The last one of these.
    pub last_rejected: Option<Timestamp>,
    /// The explanation of the latest request that did not verify, if that belongs to the incident.
    pub explanation: Option<Explanation>,
    /// The secrets that are in use and expire.
    pub expiring_secrets: Vec<(Arc<str>, Timestamp)>,
}

/// An incident that goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct RunningIncident {
    pub began: Timestamp,
    /// The failures since it began, and those of clients that were successful before.
    pub failed: u64,
    pub familiar: u64,
    /// The failures since anything succeeded, and the time of the first of them.
    pub in_a_row: u64,
    pub in_a_row_since: Timestamp,
    /// The usual rate of the successes before these.
    pub usual_per_second: f64,
}

/// The times from which on the list shows the problems of a route's incidents. An incident that is
/// interrupted for a short time is listed as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ListedSince {
    pub failing: Option<Timestamp>,
    pub rejecting: Option<Timestamp>,
}

/// Events whose senders got an error, and whose retries were not successful so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Undelivered {
    pub events: u64,
    /// The arrival of the oldest one.
    pub oldest: Option<Timestamp>,
}

/// The number of rejections of one kind in the last minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RejectedKind {
    pub kind: RejectionKind,
    pub count: u64,
    /// The action that an operator should take.
    pub advice: &'static str,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastFailure {
    pub cause: Cause,
    /// The status of the upstream's response, if there was one.
    pub status: Option<u16>,
    /// The address that was tried, with its port.
    pub address: Option<String>,
    /// The upstream that was tried, without its query.
    pub upstream: String,
    /// The last attempt that failed with another cause or status.
    pub other_cause_at: Option<Timestamp>,
}

/// The share above which a problem of a route is critical, and the one from which it is a problem.
const CRITICAL_SHARE: f64 = 0.5;
const PROBLEM_SHARE: f64 = 0.1;
/// The fewest failures or rejections that make a problem.
const MIN_COUNT: u64 = 3;
/// The minutes that count as the last ones: the first window with [`WINDOW_MIN`] requests.
pub(crate) const WINDOWS: [usize; 3] = [5, 15, MINUTES];
pub(crate) const WINDOW_MIN: u64 = 5;
/// The time after which a waiting event is late.
const LATE: Duration = Duration::from_secs(15 * 60);
/// The time before its expiry from which a used secret is a problem.
const EXPIRES_SOON: Duration = Duration::from_secs(24 * 3600);

impl Severity {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

impl ProblemCode {
    /// Every code.
    pub(crate) const ALL: [Self; 16] = [
        Self::ConfigurationRefused,
        Self::StoreUnavailable,
        Self::StoreFull,
        Self::Draining,
        Self::RouteOffLine,
        Self::UpstreamFailing,
        Self::DeadLetters,
        Self::EventsLate,
        Self::RouteRemoved,
        Self::RequestsRejected,
        Self::SenderSilent,
        Self::TooManyCopies,
        Self::SecretExpires,
        Self::RoutePaused,
        Self::RouteInactive,
        Self::Noise,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationRefused => "configuration_refused",
            Self::StoreUnavailable => "store_unavailable",
            Self::StoreFull => "store_full",
            Self::Draining => "draining",
            Self::RouteOffLine => "route_off_line",
            Self::UpstreamFailing => "upstream_failing",
            Self::DeadLetters => "dead_letters",
            Self::EventsLate => "events_late",
            Self::RouteRemoved => "route_removed",
            Self::RequestsRejected => "requests_rejected",
            Self::SenderSilent => "sender_silent",
            Self::TooManyCopies => "too_many_copies",
            Self::SecretExpires => "secret_expires",
            Self::RoutePaused => "route_paused",
            Self::RouteInactive => "route_inactive",
            Self::Noise => "noise",
        }
    }
}

impl Problem {
    fn new(code: ProblemCode, severity: Severity, summary: String, advice: &str) -> Self {
        Self {
            route: None,
            severity,
            code,
            since: None,
            summary,
            share: 1.0,
            at_risk: AtRisk::default(),
            advice: advice.into(),
            evidence: None,
            impact: 0.0,
        }
    }

    fn of_route(mut self, route: &RouteFacts) -> Self {
        self.route = Some(Arc::clone(&route.name));
        self
    }

    /// Returns the place in the list, the worst first. Noise is last; problems of the gateway come
    /// before those of its routes.
    fn rank(&self) -> (bool, Reverse<Severity>, bool, Reverse<u64>) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an order of magnitudes"
        )]
        let impact = (self.impact * 1e3) as u64;
        (
            self.code == ProblemCode::Noise,
            Reverse(self.severity),
            self.route.is_some(),
            Reverse(impact),
        )
    }
}

/// Returns all problems, the worst first: by severity, then by the share of the requests that they
/// affect times the rate of these.
pub(crate) fn problems(
    gateway: &GatewayFacts,
    routes: &[RouteFacts],
    now: Timestamp,
) -> Vec<Problem> {
    let mut problems = gateway::gateway_problems(gateway, now);
    let mut noise = noise::Noise::default();
    for route in routes {
        problems.extend(delivery::problem(route, now));
        match senders::problem(route, now) {
            Some(problem) => problems.push(problem),
            None => noise.add(route),
        }
        problems.extend(senders::copies(route));
        problems.extend(delivery::inactive(route, now));
        problems.extend(secret_problem(route, now));
    }
    problems.extend(
        gateway
            .removed
            .iter()
            .map(|removed| gateway::removed_route(removed, now)),
    );
    problems.extend(noise.problem(gateway.unmatched));
    problems.sort_by_key(Problem::rank);
    problems
}

fn secret_problem(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let (name, expires) = route
        .expiring_secrets
        .iter()
        .min_by_key(|(_, expires)| *expires)?;
    let left = Duration::try_from(expires.duration_since(now)).ok()?;
    if left.is_zero() || left >= EXPIRES_SOON {
        return None;
    }
    let problem = Problem {
        at_risk: AtRisk {
            gives_up_at: Some(*expires),
            ..AtRisk::default()
        },
        ..Problem::new(
            ProblemCode::SecretExpires,
            Severity::Warning,
            format!(
                "the secret `{name}` is in use and expires in {}",
                words::span(left)
            ),
            "Finish the rotation at the provider, or move the secret's `expires`.",
        )
    };
    Some(problem.of_route(route))
}

#[cfg(test)]
mod tests;
