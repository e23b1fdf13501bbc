//! Problems in front of the gateway: requests that are rejected, and senders that send nothing.
//! Where all requests are rejected, that nothing was verified is the same problem.

use jiff::{SignedDuration, Timestamp};

use super::delivery::later;
use super::window::{Window, began};
use super::{
    AtRisk, CRITICAL_SHARE, Evidence, MIN_COUNT, PROBLEM_SHARE, Problem, ProblemCode, RejectedKind,
    RouteFacts, RunningIncident, Severity, WINDOW_MIN, words,
};
use crate::activity::MinuteBucket;
use crate::outcome::Code;

/// Returns the problem of a route's senders, if there is one.
pub(super) fn problem(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let problem = rejected(route, now).or_else(|| silent(route, now))?;
    Some(problem.of_route(route))
}

/// Returns the problem of a body that came too often.
pub(super) fn copies(route: &RouteFacts) -> Option<Problem> {
    let copies = route.copies?;
    let problem = Problem {
        share: 0.0,
        evidence: Some(Evidence::Rejections),
        ..Problem::new(
            ProblemCode::TooManyCopies,
            Severity::Warning,
            format!(
                "{} of a delivered body {} rejected in the last hour",
                words::counted(copies.count, "copy", "copies"),
                words::was_were(copies.count)
            ),
            copies.advice,
        )
    };
    Some(problem.of_route(route))
}

fn requests(minute: &MinuteBucket) -> (u64, u64) {
    let requests = minute.requests;
    let passed = requests.total() - requests.rejected;
    (passed.saturating_sub(minute.refused), requests.rejected)
}

/// The senders of rejected requests, as far as it can be told without a signature that verifies.
/// Anybody can send requests that do not verify, and nobody but the provider can make its own
/// events stay away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// The provider: its events are missing meanwhile, or the requests are its own.
    Provider,
    /// Unknown, because nothing was ever verified.
    NewRoute,
    /// Unknown, and many for long.
    Persistent,
    /// Anybody.
    Strangers,
}

/// The rejections in a row that show that a sender is the provider, who was verified before.
const PROVIDERS_MIN: u64 = 10;
/// The events that would have come at the usual rate, and did not, from which they are missing. At
/// half of that rate, none comes by chance in one of 150 times.
const MISSING_MIN: f64 = 10.0;
/// The rejections, and the time that they go on, from which strangers are worth a warning.
const PERSISTENT_MIN: u64 = 30;
const PERSISTENT_FOR: SignedDuration = SignedDuration::from_mins(10);

impl Origin {
    fn new(route: &RouteFacts, incident: RunningIncident, top: &RejectedKind) -> Self {
        let last = route.last_rejected.unwrap_or(incident.began);
        let missing =
            incident.usual_per_second * last.duration_since(incident.in_a_row_since).as_secs_f64();
        let is_proven = match (top.kind.code, top.kind.reason) {
            // Who captured a request can send it again, late.
            (_, Some("stale")) => false,
            // Only a verified body is read.
            (Code::InvalidEvent, _) => true,
            (Code::InvalidSignature, _) => cause_advice(route).is_some(),
            _ => false,
        };
        let is_familiar =
            incident.familiar >= PROVIDERS_MIN && incident.familiar * 2 >= incident.failed;
        // A restart, perhaps with another secret, and nothing was verified since.
        let is_restarted = route.last_verified.is_none() && route.last_success.is_some();
        if is_proven
            || is_familiar
            || is_restarted && incident.in_a_row >= PROVIDERS_MIN
            || route.silent && incident.in_a_row >= WINDOW_MIN
            || incident.in_a_row >= WINDOW_MIN && missing >= MISSING_MIN
        {
            Self::Provider
        } else if route.last_verified.is_none() && route.last_success.is_none() {
            Self::NewRoute
        } else if is_persistent(route, incident, last) {
            Self::Persistent
        } else {
            Self::Strangers
        }
    }
}

/// Returns whether many requests with a wrong signature come for long: then somebody means this
/// route.
fn is_persistent(route: &RouteFacts, incident: RunningIncident, last: Timestamp) -> bool {
    let signed = route.rejected.iter().filter(|kind| !is_strange(kind));
    let signed: u64 = signed.map(|kind| kind.count).sum();
    signed >= PERSISTENT_MIN && last.duration_since(incident.began) >= PERSISTENT_FOR
}

fn rejected(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let incident = route.rejecting?;
    let window = Window::count(&route.hour, requests);
    let top = route.rejected.first()?;
    let origin = Origin::new(route, incident, top);
    // Strangers may come in a row, between the requests of a provider.
    let share = window.share((origin == Origin::Provider).then_some(incident));
    if window.bad < MIN_COUNT || share < PROBLEM_SHARE {
        return None;
    }
    let severity = match origin {
        Origin::Provider if share > CRITICAL_SHARE => Severity::Critical,
        Origin::Provider | Origin::NewRoute | Origin::Persistent => Severity::Warning,
        Origin::Strangers => Severity::Notice,
    };
    let is_total = share >= 1.0;
    let since = route
        .listed_since
        .rejecting
        .unwrap_or_else(|| began(route, Some(incident), requests).unwrap_or(incident.began));
    let as_kind = match route.rejected.len() {
        1 => format!("as {}", top.kind),
        _ => format!("most as {}", top.kind),
    };
    let mut parts = vec![if is_total && incident.in_a_row >= WINDOW_MIN {
        format!(
            "all {} requests since {} were rejected, {as_kind}",
            incident.in_a_row,
            words::time(incident.in_a_row_since, now)
        )
    } else {
        format!(
            "{} requests {} rejected in the last {} min, since {}, {as_kind}",
            words::part(window.bad, window.total()),
            words::was_were(window.bad),
            window.minutes,
            words::time(since, now)
        )
    }];
    if is_total {
        parts.push(match (route.last_verified, route.last_success) {
            (Some(at), _) => format!("last verified {}", words::time(at, now)),
            (None, Some(at)) => format!(
                "nothing was verified since the start; last delivered {}",
                words::time(at, now)
            ),
            (None, None) => "nothing was ever verified".into(),
        });
    } else if window.good > 0 {
        parts.push("the others verify".into());
    }
    if origin == Origin::Strangers {
        parts.push("no event of the provider is known to be missing".into());
    }
    if top.kind.code == Code::InvalidSignature {
        let explanation = route.explanation.iter();
        parts.extend(explanation.map(|explanation| explanation.text.to_string()));
    }
    let at_risk = if severity == Severity::Notice {
        AtRisk::default()
    } else {
        AtRisk {
            events: window.bad,
            oldest: Some(since),
            gives_up_at: later(since, route.provider_horizon),
        }
    };
    if let Some(at) = at_risk
        .gives_up_at
        .filter(|_| severity == Severity::Critical)
    {
        parts.push(format!("the provider gives up at {}", words::time(at, now)));
    }
    let advice = match origin {
        Origin::Strangers if is_total => {
            "Anybody can send such requests. If the provider's secret was changed lately, compare \
             it with the one here: this becomes critical once its events are missing."
        }
        _ => advice(route, top, window.good > 0 && !is_total),
    };
    Some(Problem {
        since: Some(since),
        share,
        at_risk,
        evidence: Some(Evidence::Rejections),
        impact: share * window.per_minute(),
        ..Problem::new(
            ProblemCode::RequestsRejected,
            severity,
            parts.join("; "),
            advice,
        )
    })
}

/// Returns whether scanners cause such rejections, who mean no route: they need neither a signature
/// nor the right path.
fn is_strange(kind: &RejectedKind) -> bool {
    match kind.kind.code {
        Code::InvalidSignature => kind.kind.reason == Some("missing"),
        Code::MalformedRequest
        | Code::MethodNotAllowed
        | Code::HeadersTooLarge
        | Code::BodyTimeout
        | Code::ForbiddenAddress
        | Code::RateLimited => true,
        _ => false,
    }
}

/// Returns the action against the cause that an explanation found. It shows that the sender has a
/// secret.
fn cause_advice(route: &RouteFacts) -> Option<&str> {
    route.explanation.as_ref()?.advice.as_deref()
}

/// Returns the action against rejections of this kind. It depends on the cause, if that was found,
/// and on whether other requests verify meanwhile.
fn advice<'a>(route: &'a RouteFacts, top: &RejectedKind, others_verify: bool) -> &'a str {
    if let Some(advice) = cause_advice(route)
        && top.kind.code == Code::InvalidSignature
        && top.kind.reason != Some("stale")
    {
        return advice;
    }
    match (top.kind.code, top.kind.reason) {
        (Code::InvalidSignature, Some("mismatch")) if others_verify => {
            "The secrets here are right for the requests that verify. A second endpoint or account \
             at the provider signs with another secret: add it to `secrets`. Or strangers send."
        }
        (Code::InvalidSignature, Some("stale")) if others_verify => {
            "Other requests are in time, so the clock here is right: these were delayed, or \
             somebody replays them."
        }
        (Code::InvalidSignature, Some("missing")) if others_verify => {
            "The provider signs its requests, so these are not the provider's."
        }
        _ => top.advice,
    }
}

fn silent(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    if !route.silent {
        return None;
    }
    let every = route.expect_every?;
    let mut parts = vec![format!(
        "no event was verified for more than {}",
        words::span(every)
    )];
    let rejected: u64 = route.rejected.iter().map(|kind| kind.count).sum();
    if let Some(at) = route.last_verified {
        parts.push(format!("last verified {}", words::time(at, now)));
    }
    if rejected > 0 {
        parts.push(format!(
            "{} {} rejected meanwhile",
            words::requests(rejected),
            words::was_were(rejected)
        ));
    }
    Some(Problem {
        since: route.last_verified.and_then(|at| later(at, every)),
        evidence: Some(Evidence::Rejections),
        ..Problem::new(
            ProblemCode::SenderSilent,
            Severity::Warning,
            parts.join("; "),
            "Check at the provider whether it still sends to this endpoint.",
        )
    })
}
