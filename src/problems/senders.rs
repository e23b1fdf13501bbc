//! Problems in front of the gateway: requests that are rejected, and senders that send nothing.
//! Where all requests are rejected, that nothing was verified is the same problem.

use jiff::Timestamp;

use super::delivery::later;
use super::window::{Window, began};
use super::{
    AtRisk, CRITICAL_SHARE, Evidence, MIN_COUNT, PROBLEM_SHARE, Problem, ProblemCode, RejectedKind,
    RouteFacts, Severity, WINDOW_MIN, words,
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
    (requests.total() - requests.rejected, requests.rejected)
}

fn rejected(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let incident = route.rejecting?;
    let window = Window::count(&route.hour, requests);
    let top = route.rejected.first()?;
    let may_be_strangers = route.rejected.iter().all(is_strange);
    // Strangers may come in a row, between the requests of a provider.
    let share = window.share((!may_be_strangers).then_some(incident));
    if window.bad < MIN_COUNT || share < PROBLEM_SHARE {
        return None;
    }
    let severity = if share > CRITICAL_SHARE && (!may_be_strangers || route.last_verified.is_some())
    {
        Severity::Critical
    } else {
        Severity::Warning
    };
    let is_total = share >= 1.0;
    let since = began(route, Some(incident), requests).unwrap_or(incident.began);
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
        parts.push(match route.last_verified {
            Some(at) => format!("last verified {}", words::time(at, now)),
            None => "nothing was verified since the start".into(),
        });
    } else if window.good > 0 {
        parts.push("the others verify".into());
    }
    if top.kind.code == Code::InvalidSignature {
        parts.extend(route.explanation.clone());
    }
    let gives_up_at = later(since, route.provider_horizon);
    if let Some(at) = gives_up_at.filter(|_| severity == Severity::Critical) {
        parts.push(format!("the provider gives up at {}", words::time(at, now)));
    }
    Some(Problem {
        since: Some(since),
        share,
        at_risk: AtRisk {
            events: window.bad,
            oldest: Some(since),
            gives_up_at,
        },
        evidence: Some(Evidence::Rejections),
        impact: share * window.per_minute(),
        ..Problem::new(
            ProblemCode::RequestsRejected,
            severity,
            parts.join("; "),
            advice(top, window.good > 0 && !is_total),
        )
    })
}

/// Returns whether somebody who is no sender of the route causes such rejections: they need
/// neither a signature nor a secret.
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

/// Returns the action against rejections of this kind. It depends on whether other requests verify
/// meanwhile.
fn advice(top: &RejectedKind, others_verify: bool) -> &'static str {
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
