//! Why a problem has ended. Only what succeeded since shows that something works again.

use super::{Problem, ProblemCode, RouteFacts, Severity};

/// The reason for which a problem ended, with one sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ending {
    pub reason: EndReason,
    pub summary: &'static str,
}

/// The kind of the reason for which a problem ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// It works again: something has succeeded since.
    Recovered,
    /// The reason is gone.
    Resolved,
    /// An operator paused the route.
    Paused,
    /// The route is switched off or off line.
    Inactive,
    /// The route is no longer configured.
    RouteRemoved,
    /// Another problem of the list says it.
    OtherProblem,
    /// It is only a notice now.
    Subsided,
    /// Nothing came since. Whether it works is not known.
    NoEvents,
}

impl EndReason {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Recovered => "recovered",
            Self::Resolved => "resolved",
            Self::Paused => "paused",
            Self::Inactive => "inactive",
            Self::RouteRemoved => "route_removed",
            Self::OtherProblem => "other_problem",
            Self::Subsided => "subsided",
            Self::NoEvents => "no_events",
        }
    }
}

const fn because(reason: EndReason, summary: &'static str) -> Ending {
    Ending { reason, summary }
}

const PAUSED: Ending = because(EndReason::Paused, "an operator paused the route");
const SWITCHED_OFF: Ending = because(EndReason::Inactive, "the webhook is switched off");
const OFF_LINE: Ending = because(EndReason::Inactive, "the route is off line");

/// Returns why a problem is no longer listed, or only as a notice. `present` are the problems that
/// are, and `routes` the facts that they were found in.
pub(crate) fn ending(problem: &Problem, present: &[Problem], routes: &[RouteFacts]) -> Ending {
    let Some(name) = &problem.route else {
        return of_gateway(problem.code);
    };
    let facts = routes.iter().find(|route| route.name == *name);
    let Some(facts) = facts else {
        return if problem.code == ProblemCode::RouteRemoved {
            because(
                EndReason::Resolved,
                "no event is stored for the route any more",
            )
        } else {
            because(EndReason::RouteRemoved, "the route is no longer configured")
        };
    };
    let listed = |code| {
        present
            .iter()
            .find(|other| other.code == code && other.route == problem.route)
    };
    let is_notice = listed(problem.code).is_some_and(|now| now.severity == Severity::Notice);
    match problem.code {
        ProblemCode::UpstreamFailing => attempts(facts, is_notice),
        ProblemCode::RequestsRejected => requests(facts, is_notice),
        ProblemCode::DeadLetters if facts.dead == 0 => {
            because(EndReason::Resolved, "no dead letter is left")
        }
        ProblemCode::DeadLetters | ProblemCode::EventsLate
            if listed(ProblemCode::UpstreamFailing).is_some() =>
        {
            because(
                EndReason::OtherProblem,
                "attempts fail: see upstream_failing",
            )
        }
        ProblemCode::DeadLetters | ProblemCode::EventsLate if facts.off_line.is_some() => OFF_LINE,
        ProblemCode::EventsLate if listed(ProblemCode::DeadLetters).is_some() => because(
            EndReason::OtherProblem,
            "events became dead letters: see dead_letters",
        ),
        ProblemCode::EventsLate if facts.paused => PAUSED,
        ProblemCode::SenderSilent if !facts.silent && facts.expect_every.is_some() => {
            because(EndReason::Recovered, "events are verified again")
        }
        ProblemCode::SenderSilent if facts.silent => because(
            EndReason::OtherProblem,
            "all requests are rejected: see requests_rejected",
        ),
        ProblemCode::RoutePaused | ProblemCode::RouteInactive if is_notice => {
            because(EndReason::Subsided, "few requests are refused")
        }
        ProblemCode::RoutePaused if facts.active => {
            because(EndReason::Resolved, "an operator resumed the route")
        }
        ProblemCode::RoutePaused => SWITCHED_OFF,
        ProblemCode::RouteInactive if facts.off_line.is_some() => OFF_LINE,
        ProblemCode::RouteInactive => because(EndReason::Resolved, "the webhook is active again"),
        ProblemCode::RouteOffLine => because(EndReason::Resolved, "the secret's file is read"),
        ProblemCode::RouteRemoved => because(EndReason::Resolved, "the route is configured again"),
        ProblemCode::TooManyCopies => {
            because(EndReason::NoEvents, "no such copy came in the last hour")
        }
        ProblemCode::SecretExpires => because(
            EndReason::Resolved,
            "the secret expired, was replaced, or expires later",
        ),
        ProblemCode::EventsLate => because(EndReason::Resolved, "no event waits for long any more"),
        _ => because(EndReason::Resolved, "the reason is gone"),
    }
}

fn of_gateway(code: ProblemCode) -> Ending {
    let summary = match code {
        ProblemCode::ConfigurationRefused => "the configuration on disk is valid",
        ProblemCode::StoreUnavailable => "the store is available again",
        ProblemCode::StoreFull => "the store takes new events again",
        _ => "the reason is gone",
    };
    because(EndReason::Resolved, summary)
}

/// Returns why attempts are no longer said to fail.
fn attempts(route: &RouteFacts, is_notice: bool) -> Ending {
    let goes_on = route.failing.is_some();
    if goes_on && route.paused {
        PAUSED
    } else if route.off_line.is_some() {
        OFF_LINE
    } else if route.attempt_succeeded {
        because(
            EndReason::Recovered,
            "the route's upstream accepts events again",
        )
    } else if is_notice {
        because(
            EndReason::Subsided,
            "some attempts fail, and retries deliver what is left",
        )
    } else if route.paused {
        PAUSED
    } else if !route.active {
        SWITCHED_OFF
    } else {
        because(
            EndReason::NoEvents,
            "no attempt was made lately: whether the upstream accepts events is not known",
        )
    }
}

/// Returns why requests are no longer said to be rejected.
fn requests(route: &RouteFacts, is_notice: bool) -> Ending {
    let refuses = !route.active || route.paused && !route.stores_events;
    if route.off_line.is_some() {
        OFF_LINE
    } else if !route.active {
        SWITCHED_OFF
    } else if refuses && !route.request_verified {
        PAUSED
    } else if route.request_verified {
        because(
            EndReason::Recovered,
            "requests of the route are accepted again",
        )
    } else if is_notice {
        because(
            EndReason::Subsided,
            "the requests that are rejected may be those of strangers",
        )
    } else {
        because(
            EndReason::NoEvents,
            "few requests came lately: whether the provider's are accepted is not known",
        )
    }
}
