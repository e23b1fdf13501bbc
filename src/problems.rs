//! The problems of the gateway and its routes, worst first. Pure: facts and the time are arguments.
//!
//! Owns what counts as a problem, how bad it is, its words, and which signs of one incident are one
//! problem. The dashboard, the API, the command line, the log and the notifications all show this
//! list, so that they never contradict each other. `tracker` remembers when each problem began.

mod delivery;
mod senders;
mod tracker;
mod words;

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::activity::{MINUTES, MinuteBucket, RejectionKind};
use crate::cause::Cause;

pub(crate) use tracker::{Delays, ProblemChange, ProblemTracker};

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
    pub removed: Vec<RemovedFacts>,
}

/// The stored events of a route that is no longer configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RemovedFacts {
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
    pub since: Timestamp,
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
    /// The last attempt that failed.
    pub last_failure: Option<LastFailure>,
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
    /// The explanation of the latest request that did not verify.
    pub explanation: Option<String>,
    /// The secrets that are in use and expire.
    pub expiring_secrets: Vec<(Arc<str>, Timestamp)>,
}

/// An incident that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunningIncident {
    pub began: Timestamp,
    /// The failures since anything succeeded, and the time of the first of them.
    pub in_a_row: u64,
    pub in_a_row_since: Timestamp,
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
/// The requests of an hour that make noise worth a line.
const NOISE_MIN: u64 = 20;

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
    let mut problems = gateway_problems(gateway);
    let mut noise = Noise::default();
    for route in routes {
        problems.extend(delivery::problem(route, now));
        match senders::problem(route, now) {
            Some(problem) => problems.push(problem),
            None => noise.add(route),
        }
        problems.extend(senders::copies(route));
        problems.extend(delivery::idle_queue(route, now));
        problems.extend(secret_problem(route, now));
    }
    problems.extend(
        gateway
            .removed
            .iter()
            .map(|removed| removed_route(removed, now)),
    );
    problems.extend(noise.problem(gateway.unmatched));
    problems.sort_by_key(Problem::rank);
    problems
}

fn gateway_problems(gateway: &GatewayFacts) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(refused) = &gateway.refused_configuration {
        let more = match refused.count {
            0 | 1 => String::new(),
            count => format!(", and {} more", count - 1),
        };
        problems.push(Problem {
            since: Some(refused.since),
            ..Problem::new(
                ProblemCode::ConfigurationRefused,
                Severity::Critical,
                format!(
                    "the configuration on disk is refused: {}{more}; the next start will fail",
                    refused.first
                ),
                "The previous configuration stays in effect. Run `hookstile check`, and correct \
                 the file.",
            )
        });
    }
    if let Some(reason) = &gateway.store_unavailable {
        problems.push(Problem::new(
            ProblemCode::StoreUnavailable,
            Severity::Critical,
            reason.clone(),
            "Senders get 503 and retry. Check the disk or the database; the log has the cause.",
        ));
    }
    if gateway.store_full {
        problems.push(Problem::new(
            ProblemCode::StoreFull,
            Severity::Critical,
            "the store is full: new events get 503".into(),
            "Raise `store.max_ids` or `store.max_size`, or make room on the disk.",
        ));
    }
    if gateway.draining {
        problems.push(Problem::new(
            ProblemCode::Draining,
            Severity::Notice,
            "the gateway is stopping".into(),
            "No action is needed if somebody stopped or upgrades it.",
        ));
    }
    problems
}

/// Returns the problem of a route that is no longer configured. Its events wait for ever, so nothing
/// gives them up; the end of the horizon says how long they are worth delivering.
fn removed_route(removed: &RemovedFacts, now: Timestamp) -> Problem {
    let RemovedFacts {
        name,
        pending,
        dead,
        ..
    } = removed;
    let dead_letters = words::counted(*dead, "dead letter", "dead letters");
    let (severity, summary) = if *pending == 0 {
        let are = if *dead == 1 { "is" } else { "are" };
        (
            Severity::Warning,
            format!("no longer configured; {dead_letters} {are} left"),
        )
    } else {
        let wait = if *pending == 1 { "waits" } else { "wait" };
        let oldest = removed.oldest_waiting.map_or_else(String::new, |at| {
            format!("; the oldest arrived {} ago", words::age(at, now))
        });
        let and_dead = if *dead == 0 {
            String::new()
        } else {
            format!(", with {dead_letters}")
        };
        (
            Severity::Critical,
            format!(
                "no longer configured; {} {wait} for it{and_dead}{oldest}",
                words::events(*pending)
            ),
        )
    };
    let horizon = removed
        .horizon_ends
        .filter(|_| *pending > 0)
        .map_or_else(String::new, |end| {
            let verb = if end > now { "ends" } else { "ended" };
            let at = words::time(end, now);
            format!(" `retry.horizon` {verb} at {at}; they wait all the same.")
        });
    Problem {
        route: Some(Arc::clone(name)),
        at_risk: AtRisk {
            events: pending + dead,
            oldest: removed.oldest_waiting,
            gives_up_at: None,
        },
        ..Problem::new(
            ProblemCode::RouteRemoved,
            severity,
            summary,
            &format!(
                "Configure the route again, or move its events: `hookstile routes move {name} TO`.{horizon}"
            ),
        )
    }
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

/// The requests that no genuine sender makes, as they are collected into one line.
#[derive(Default)]
struct Noise {
    rejected: u64,
    routes: Vec<Arc<str>>,
}

/// The routes that a line of noise names.
const NOISY_ROUTES_NAMED: usize = 3;

impl Noise {
    /// Adds the rejections of a route whose senders have no problem.
    fn add(&mut self, route: &RouteFacts) {
        let rejected: u64 = route
            .hour
            .iter()
            .map(|minute| minute.requests.rejected)
            .sum();
        if rejected > 0 {
            self.rejected += rejected;
            self.routes.push(Arc::clone(&route.name));
        }
    }

    fn problem(self, unmatched: u64) -> Option<Problem> {
        if unmatched + self.rejected < NOISE_MIN {
            return None;
        }
        let mut parts = Vec::new();
        if unmatched > 0 {
            parts.push(format!("{} matched no route", words::requests(unmatched)));
        }
        if self.rejected > 0 {
            let shown = self.routes.iter().take(NOISY_ROUTES_NAMED);
            let shown: Vec<_> = shown.map(|name| &**name).collect();
            let omitted = match self.routes.len().saturating_sub(NOISY_ROUTES_NAMED) {
                0 => String::new(),
                omitted => format!(" and {omitted} more"),
            };
            let names = format!("{}{omitted}", shown.join(", "));
            parts.push(format!(
                "{} {} rejected on routes that work ({names})",
                words::requests(self.rejected),
                words::was_were(self.rejected),
            ));
        }
        Some(Problem {
            share: 0.0,
            evidence: Some(Evidence::AllRejections),
            ..Problem::new(
                ProblemCode::Noise,
                Severity::Notice,
                format!("{} in the last hour", parts.join("; ")),
                "Scanners do this. If a provider's URL is wrong, its requests are among them.",
            )
        })
    }
}

/// The requests or attempts of the last minutes.
#[derive(Debug, Clone, Copy)]
struct Window {
    minutes: usize,
    good: u64,
    bad: u64,
}

impl Window {
    /// Counts the last minutes: as few as have enough requests.
    fn count(hour: &[MinuteBucket; MINUTES], counts: impl Fn(&MinuteBucket) -> (u64, u64)) -> Self {
        let of = |minutes: usize| {
            let mut window = Self {
                minutes,
                good: 0,
                bad: 0,
            };
            for minute in &hour[MINUTES - minutes..] {
                let (good, bad) = counts(minute);
                window.good += good;
                window.bad += bad;
            }
            window
        };
        let [shorter @ .., longest] = WINDOWS;
        shorter
            .map(of)
            .into_iter()
            .find(|window| window.total() >= WINDOW_MIN)
            .unwrap_or_else(|| of(longest))
    }

    fn total(self) -> u64 {
        self.good + self.bad
    }

    /// Returns the share of the bad ones. With enough failures in a row and no success since, that
    /// is all of them, however much went well before.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    fn share(self, incident: Option<RunningIncident>) -> f64 {
        if incident.is_some_and(|incident| incident.in_a_row >= WINDOW_MIN) {
            return 1.0;
        }
        self.bad as f64 / self.total().max(1) as f64
    }

    /// Returns the rate of all of them, per minute.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn per_minute(self) -> f64 {
        self.total() as f64 / self.minutes as f64
    }
}

/// Returns when an incident of this share began: all that failed in a row, or else the first of the
/// minutes that had such a share without a break.
fn began(
    route: &RouteFacts,
    incident: Option<RunningIncident>,
    counts: impl Fn(&MinuteBucket) -> (u64, u64),
) -> Option<Timestamp> {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let is_bad = |(good, bad): (u64, u64)| bad as f64 >= PROBLEM_SHARE * (good + bad) as f64;
    let mut first = None;
    for (ago, minute) in route.hour.iter().rev().enumerate() {
        let counted = counts(minute);
        if counted == (0, 0) {
            continue;
        }
        if !is_bad(counted) {
            break;
        }
        let back = jiff::SignedDuration::from_mins(i64::try_from(ago).unwrap_or_default());
        first = Some(route.minute_began - back);
    }
    // Each of the two may have begun with failures that were none of this incident.
    first.max(incident.map(|incident| incident.began))
}

#[cfg(test)]
mod tests;
