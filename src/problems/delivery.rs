//! Problems behind the gateway: attempts that fail, events that wait, and dead letters. Those of
//! one route and one cause are one problem.

use std::time::Duration;

use jiff::Timestamp;

use super::window::{Window, began};
use super::{
    AtRisk, CRITICAL_SHARE, Evidence, LATE, LastFailure, MIN_COUNT, PROBLEM_SHARE, Problem,
    ProblemCode, RouteFacts, Severity, Undelivered, WINDOW_MIN, words,
};
use crate::activity::MinuteBucket;
use crate::cause::Cause;

/// Returns the problem of a route's deliveries, if there is one.
pub(super) fn problem(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let problem = off_line(route, now)
        .or_else(|| failing(route, now))
        .or_else(|| dead_letters(route))
        .or_else(|| late(route, now))?;
    Some(problem.of_route(route))
}

/// Returns the problem of a route that an operator switched off or paused.
pub(super) fn inactive(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    if route.off_line.is_some() || route.active && !route.paused {
        return None;
    }
    let refuses = !route.active || !route.stores_events;
    let (code, state) = if route.active {
        (ProblemCode::RoutePaused, "an operator paused the route")
    } else {
        (ProblemCode::RouteInactive, "the webhook is switched off")
    };
    let mut parts = vec![state.to_owned()];
    if refuses {
        parts.push(refused(route, now));
    }
    parts.extend(waiting(route, now));
    if parts.len() == 1 {
        parts.push("nothing waits".into());
    }
    if let (Some(failure), Some(_)) = (&route.last_failure, route.failing) {
        let phrase = failure.phrase(&route.upstream);
        parts.push(format!("when it was tried last: {phrase}"));
    }
    let advice = match (route.active, refuses) {
        (true, true) => {
            "Resume it when the upstream is ready; until then, the provider retries. With \
             `delivery: spill` or `queue`, the events of a paused route are stored."
        }
        (true, false) => "Resume it when the upstream is ready.",
        (false, _) => "Senders get 503 until it is active again.",
    };
    let problem = Problem {
        at_risk: if refuses && refused_requests(route).events > 0 {
            refused_requests(route)
        } else {
            waiting_events(route, now)
        },
        evidence: Some(if refuses {
            Evidence::Rejections
        } else {
            Evidence::Pending
        }),
        impact: weight(route.refused.count + route.pending),
        ..Problem::new(
            code,
            if refuses {
                refusal_severity(route, now)
            } else {
                Severity::Notice
            },
            parts.join("; "),
            advice,
        )
    };
    Some(problem.of_route(route))
}

/// Returns how bad it is that senders are refused: it gets worse while their provider retries less
/// and less.
fn refusal_severity(route: &RouteFacts, now: Timestamp) -> Severity {
    let at_risk = refused_requests(route);
    let half = at_risk
        .oldest
        .and_then(|oldest| later(oldest, route.provider_horizon / 2));
    if at_risk.events < MIN_COUNT {
        Severity::Notice
    } else if half.is_some_and(|half| half <= now) {
        Severity::Critical
    } else {
        Severity::Warning
    }
}

/// Says what senders get, and until when their provider retries it.
fn refused(route: &RouteFacts, now: Timestamp) -> String {
    let requests = || words::requests(route.refused.count);
    let mut parts = vec![match route.refused.since {
        Some(since) => format!(
            "senders get 503, {} since {}",
            requests(),
            words::time(since, now)
        ),
        None => "senders get 503".into(),
    }];
    if route.undelivered.events > 0 {
        let events = words::events(route.undelivered.events);
        parts.push(format!("{events} failed before"));
    }
    if let Some(at) = refused_requests(route).gives_up_at {
        let at = words::time(at, now);
        parts.push(format!("the provider gives up at {at}"));
    }
    parts.join("; ")
}

/// Returns what is at risk while senders are refused, with the events that failed before.
fn refused_requests(route: &RouteFacts) -> AtRisk {
    let Undelivered { events, oldest } = route.undelivered;
    let oldest = oldest.into_iter().chain(route.refused.since).min();
    AtRisk {
        events: route.refused.count + events,
        oldest,
        gives_up_at: oldest.and_then(|at| later(at, route.provider_horizon)),
    }
}

fn off_line(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let reason = route.off_line.as_ref()?;
    let mut parts = vec![format!("off line: {reason}")];
    if refused_requests(route).events > 0 {
        parts.push(refused(route, now));
    }
    parts.extend(waiting(route, now));
    Some(Problem {
        at_risk: if refused_requests(route).events > 0 {
            refused_requests(route)
        } else {
            waiting_events(route, now)
        },
        ..Problem::new(
            ProblemCode::RouteOffLine,
            Severity::Critical,
            parts.join("; "),
            "Senders get 503 until the file is there; it is then read without a reload.",
        )
    })
}

fn attempts(minute: &MinuteBucket) -> (u64, u64) {
    (minute.attempts_succeeded, minute.attempts_failed)
}

/// Returns the problem of an upstream that fails, with the events that wait for it or died of it.
fn failing(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    let incident = route.failing.filter(|_| !route.paused)?;
    let window = Window::count(&route.hour, attempts);
    let share = window.share(Some(incident));
    if window.bad < MIN_COUNT || share < PROBLEM_SHARE {
        return None;
    }
    let since = route
        .listed_since
        .failing
        .unwrap_or_else(|| began(route, Some(incident), attempts).unwrap_or(incident.began));
    let recent = Window::count(&route.hour, |minute| {
        let failed = minute.requests.failed.saturating_sub(minute.refused);
        (minute.requests.accepted, failed)
    });
    let has_new_dead = route.dead > 0 && dead_in_hour(route) > 0;
    let severity = if share > CRITICAL_SHARE || has_new_dead {
        Severity::Critical
    } else if recent.bad > 0 || is_late(route, now) {
        Severity::Warning
    } else {
        Severity::Notice
    };
    let (at_risk, who) = endangered(route, since, recent.bad, now);
    let mut parts = vec![if incident.in_a_row >= WINDOW_MIN {
        format!(
            "all {} attempts since {} failed",
            incident.in_a_row,
            words::time(incident.in_a_row_since, now)
        )
    } else {
        format!(
            "{} attempts failed in the last {} min, since {}",
            words::part(window.bad, window.total()),
            window.minutes,
            words::time(since, now)
        )
    }];
    parts.extend(waiting(route, now));
    if route.dead > 0 {
        parts.push(dead(route));
    }
    if severity == Severity::Notice {
        parts.push("retries delivered the rest".into());
    } else {
        let last = route
            .last_success
            .map_or_else(|| "never".into(), |at| words::time(at, now));
        parts.push(format!("last success {last}"));
    }
    if let Some(at) = at_risk.gives_up_at.filter(|_| severity > Severity::Notice) {
        parts.push(format!("{who} at {}", words::time(at, now)));
    }
    let failure = route.last_failure.as_ref();
    let cause = match failure {
        Some(failure) => failure.phrase(&route.upstream),
        None => format!("{} fails", route.upstream),
    };
    let other = failure.and_then(|failure| failure.other_cause_at);
    if let Some(at) = other.filter(|at| *at >= incident.began) {
        parts.push(format!("until {} for another cause", words::time(at, now)));
    }
    let mut advice = failure.map_or(
        "Check whether the upstream runs. The deliveries show its responses.",
        LastFailure::advice,
    );
    if severity == Severity::Notice {
        advice = "Nothing is lost. The deliveries show the upstream's responses.";
    }
    Some(Problem {
        since: Some(since),
        share,
        at_risk,
        evidence: Some(if route.stores_events && route.pending > 0 {
            Evidence::Pending
        } else if route.dead > 0 {
            Evidence::Dead
        } else {
            Evidence::Failed
        }),
        impact: share * recent.per_minute() + weight(route.pending + route.dead),
        ..Problem::new(
            ProblemCode::UpstreamFailing,
            severity,
            format!("{cause}: {}", parts.join("; ")),
            &with_redelivery(advice, route),
        )
    })
}

/// Returns the events that an upstream's failure endangers, and who gives them up. Stored ones are
/// the gateway's; others are in the hands of their provider, and so not counted with those that an
/// operator redelivers.
fn endangered(
    route: &RouteFacts,
    since: Timestamp,
    failed: u64,
    now: Timestamp,
) -> (AtRisk, &'static str) {
    let provider = "the provider gives up";
    if route.stores_events && route.pending > 0 {
        return (waiting_events(route, now), "the horizon of the oldest ends");
    }
    let Undelivered { events, oldest } = route.undelivered;
    if events > 0 {
        let at_risk = AtRisk {
            events,
            oldest,
            gives_up_at: oldest.and_then(|at| later(at, route.provider_horizon)),
        };
        return (at_risk, provider);
    }
    if failed > 0 && route.pending == 0 {
        let at_risk = AtRisk {
            events: failed,
            oldest: Some(since),
            gives_up_at: later(since, route.provider_horizon),
        };
        return (at_risk, provider);
    }
    (waiting_events(route, now), "the horizon of the oldest ends")
}

/// Returns the problem of dead letters whose upstream does not fail now.
fn dead_letters(route: &RouteFacts) -> Option<Problem> {
    if route.dead == 0 {
        return None;
    }
    let new = dead_in_hour(route);
    let delivered: u64 = route
        .hour
        .iter()
        .map(|minute| minute.delivered + minute.requests.accepted.saturating_sub(minute.stored))
        .sum();
    let (severity, share) = if new > 0 {
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = new as f64 / (new + delivered) as f64;
        (Severity::Critical, share)
    } else {
        (Severity::Warning, 0.0)
    };
    let when = if new > 0 {
        format!(", {new} in the last hour")
    } else {
        String::new()
    };
    Some(Problem {
        share,
        at_risk: AtRisk {
            events: route.dead,
            ..AtRisk::default()
        },
        evidence: Some(Evidence::Dead),
        impact: share + weight(route.dead),
        ..Problem::new(
            ProblemCode::DeadLetters,
            severity,
            format!("{}{when}; attempts do not fail now", dead(route)),
            &with_redelivery("Check the upstream's responses, and fix the cause.", route),
        )
    })
}

/// Returns the problem of events that wait although attempts do not fail.
fn late(route: &RouteFacts, now: Timestamp) -> Option<Problem> {
    if route.paused || !is_late(route, now) {
        return None;
    }
    Some(Problem {
        since: route.oldest_waiting.and_then(|at| later(at, LATE)),
        at_risk: waiting_events(route, now),
        evidence: Some(Evidence::Pending),
        impact: weight(route.pending),
        ..Problem::new(
            ProblemCode::EventsLate,
            Severity::Warning,
            waiting(route, now)?,
            "If attempts succeed, raise the route's `concurrency`. The deliveries show the \
             responses so far.",
        )
    })
}

fn is_late(route: &RouteFacts, now: Timestamp) -> bool {
    route
        .oldest_waiting
        .and_then(|at| later(at, LATE))
        .is_some_and(|late_from| late_from < now)
}

fn dead_in_hour(route: &RouteFacts) -> u64 {
    route.hour.iter().map(|minute| minute.dead_lettered).sum()
}

fn dead(route: &RouteFacts) -> String {
    format!(
        "{} {} dead-lettered",
        words::events(route.dead),
        words::was_were(route.dead)
    )
}

fn waiting(route: &RouteFacts, now: Timestamp) -> Option<String> {
    if route.pending == 0 {
        return None;
    }
    let wait = if route.pending == 1 { "waits" } else { "wait" };
    if !route.stores_events {
        let events = words::counted(route.pending, "redelivered event", "redelivered events");
        return Some(format!("{events} {wait}"));
    }
    let oldest = route.oldest_waiting.map_or_else(String::new, |oldest| {
        format!(", the oldest for {}", words::age(oldest, now))
    });
    Some(format!("{} {wait}{oldest}", words::events(route.pending)))
}

/// Returns the events that wait. The horizon of a redelivered one begins again, and none advances
/// while no gateway runs. So an end that is over is none.
fn waiting_events(route: &RouteFacts, now: Timestamp) -> AtRisk {
    AtRisk {
        events: route.pending,
        oldest: route.oldest_waiting,
        gives_up_at: route
            .oldest_waiting
            .filter(|_| route.stores_events)
            .and_then(|at| later(at, route.retry_horizon))
            .filter(|end| *end > now),
    }
}

/// Orders problems of equal rate by their events.
#[expect(clippy::cast_precision_loss, reason = "an order of magnitudes")]
fn weight(events: u64) -> f64 {
    events as f64 / 1e3
}

fn with_redelivery(advice: &str, route: &RouteFacts) -> String {
    if route.dead == 0 {
        return advice.into();
    }
    format!(
        "{advice} Then redeliver: `hookstile events redeliver --dead --route {}`.",
        route.name
    )
}

pub(super) fn later(at: Timestamp, by: Duration) -> Option<Timestamp> {
    at.checked_add(by).ok()
}

impl LastFailure {
    /// Says what the upstream at this URL does.
    fn phrase(&self, upstream: &str) -> String {
        let phrase = self.phrase_of_tried();
        if self.upstream == upstream {
            phrase
        } else {
            format!("{phrase} (the upstream is {upstream} now)")
        }
    }

    fn phrase_of_tried(&self) -> String {
        let upstream = &*self.upstream;
        if let Some(status) = self.status {
            return format!("{upstream} answers {status}");
        }
        let sentence = self.cause.sentence_for(self.is_unix());
        let phrase = sentence.replacen("the upstream", upstream, 1);
        match &self.address {
            Some(address) if !upstream.contains(&**address) => format!("{phrase} ({address})"),
            _ => phrase,
        }
    }

    /// Returns whether the upstream is on a Unix socket.
    fn is_unix(&self) -> bool {
        let address = self.address.as_deref();
        address.is_some_and(|address| address.starts_with("unix:"))
    }

    fn advice(&self) -> &'static str {
        match self.cause {
            Cause::Refused if self.is_unix() => {
                "Start the application: the socket file is there, but no process listens on it."
            }
            Cause::Unreachable if self.is_unix() => {
                "Start the application, and compare `socket` with the path that it listens on. The \
                 gateway's user must be allowed to enter the folder and to write to the file."
            }
            Cause::ConnectTimeout if self.is_unix() => {
                "The application accepts no connections: look at its log."
            }
            Cause::Status => self.status.map_or("", status_advice),
            Cause::Refused => "Start the application, or correct the port in `upstream`.",
            Cause::Unreachable | Cause::ConnectTimeout => {
                "Check the address in `upstream`, the network and its firewalls on the way."
            }
            Cause::NoSuchHost => {
                "Correct the name in `upstream`, or its record at the name server."
            }
            Cause::DnsTimeout => "Check this machine's name servers (`/etc/resolv.conf`).",
            Cause::AddressNotAllowed => {
                "Upstreams made over the API may not use this address: give another URL."
            }
            Cause::TlsExpired => {
                "Renew the upstream's certificate; if it is new, check the clocks."
            }
            Cause::TlsWrongName => {
                "Use the name that the certificate has in `upstream`, or renew the certificate for \
                 this one."
            }
            Cause::TlsUntrusted => {
                "Name the CA that signed its certificate: `upstream: {url, ca}`."
            }
            Cause::TlsHandshake => "Check whether the upstream speaks TLS 1.2 or 1.3 on this port.",
            Cause::AuthFailed => "Check the credentials for the upstream.",
            Cause::Reset => "The application ends its connections: look at its log.",
            Cause::BrokenResponse => "Check whether an HTTP/1.1 server listens on this port.",
            Cause::ResponseTimeout => {
                "Make the application answer before it works, or use `delivery: queue` with a longer \
                 `attempt_timeout`."
            }
            Cause::ResponseTooLarge => "Make the application answer with a smaller head.",
        }
    }
}

/// Returns the action against responses of this status.
fn status_advice(status: u16) -> &'static str {
    match status {
        300..400 => "Redirects are not followed: enter the final URL as `upstream`.",
        401 | 403 | 407 => "The application wants credentials: set them in the route's `headers`.",
        404 | 405 | 410 => {
            "The application knows no such path or method: compare the path in `upstream`."
        }
        429 | 503 => {
            "The application is overloaded or stopping: look at its log, or lower the route's \
             `concurrency`."
        }
        400..500 => "The application refuses these events: its responses are with the deliveries.",
        _ => "The application fails: its responses are with the deliveries, more is in its log.",
    }
}
