//! The problems of the gateway and its routes, worst first.

use jiff::Timestamp;

use super::words;
use crate::activity::RejectionCount;
use crate::admin::operations::removed::RemovedRoute;
use crate::admin::operations::status::RouteStatus;
use crate::outcome::TOO_MANY_COPIES;

/// The severity of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// No event is at risk.
    Notice,
    /// Events wait, are late or are rejected.
    Warning,
    /// Deliveries fail, or events are dead-lettered.
    Critical,
}

impl Severity {
    pub(super) const fn class(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A problem and what to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProblemNotice {
    pub severity: Severity,
    /// `None` for the gateway as a whole.
    pub route: Option<String>,
    pub text: String,
    /// The action that an operator should take.
    pub advice: String,
}

/// The time in seconds after which a waiting event is late.
const LATE_SECONDS: i64 = 15 * 60;
/// The time in seconds before its expiry from which a used secret is a problem.
const EXPIRES_SOON_SECONDS: i64 = 24 * 60 * 60;
/// Rejections in the last hour that make a problem, if they are also one in [`REJECTED_PART`] requests.
const REJECTED_MIN: u64 = 5;
const REJECTED_PART: u64 = 20;
/// Failed attempts in five minutes that make a problem, if they are also one in [`FAILED_PART`].
const FAILED_MIN: u64 = 3;
const FAILED_PART: u64 = 10;

/// Returns a route's problems.
pub(super) fn route_problems(status: &RouteStatus, now: Timestamp) -> Vec<ProblemNotice> {
    let mut problems = Problems {
        route: &status.route.name,
        list: Vec::new(),
    };
    problems.add_delivery(status);
    problems.add_senders(status);
    problems.add_queue(status, now);
    problems.add_secrets(status, now);
    problems.list
}

/// Returns the problem of a route that is no longer configured (`route_removed`).
pub(super) fn removed_route(removed: &RemovedRoute, now: Timestamp) -> ProblemNotice {
    let name = &removed.name;
    if removed.pending == 0 {
        let left = plural(removed.dead, "dead letter is", "dead letters are");
        return ProblemNotice {
            severity: Severity::Warning,
            route: None,
            text: format!(
                "`{name}` is no longer configured, and {} {left} left",
                words::count(removed.dead)
            ),
            advice: format!(
                "Configure the route again, or move them: `hookstile routes move {name} TO`."
            ),
        };
    }
    let oldest = removed.oldest_waiting.map_or_else(String::new, |at| {
        format!("; the oldest arrived {}", words::ago(at, now))
    });
    let text = format!(
        "`{name}` is no longer configured, and {} {} for it{oldest}",
        words::count(removed.pending),
        plural(removed.pending, "event waits", "events wait"),
    );
    let horizon = removed.horizon_ends.map_or_else(String::new, |end| {
        let seconds = end.as_second() - now.as_second();
        let span = words::span(seconds.unsigned_abs());
        if seconds > 0 {
            format!(" `retry.horizon` ends in {span}; they wait all the same.")
        } else {
            format!(" `retry.horizon` ended {span} ago; they wait all the same.")
        }
    });
    ProblemNotice {
        severity: Severity::Critical,
        route: None,
        text,
        advice: format!(
            "Configure the route again, or move them: `hookstile routes move {name} TO`.{horizon}"
        ),
    }
}

/// The problems of one route as they are collected.
struct Problems<'r> {
    route: &'r str,
    list: Vec<ProblemNotice>,
}

impl Problems<'_> {
    fn add(&mut self, severity: Severity, text: String, advice: &str) {
        self.list.push(ProblemNotice {
            severity,
            route: Some(self.route.to_owned()),
            text,
            advice: advice.into(),
        });
    }

    /// Adds dead letters and failed attempts.
    fn add_delivery(&mut self, status: &RouteStatus) {
        if status.dead > 0 {
            let text = format!(
                "{} {} dead-lettered",
                words::count(status.dead),
                plural(status.dead, "event was", "events were")
            );
            self.add(
                Severity::Critical,
                text,
                "Check the upstream's responses, fix the cause, and redeliver the dead letters.",
            );
        }
        let (_, succeeded, failed) = status.recent();
        if failed >= FAILED_MIN && failed * FAILED_PART >= succeeded + failed {
            let text = format!(
                "{} of {} attempts failed in the last 5\u{a0}minutes",
                words::count(failed),
                words::count(succeeded + failed)
            );
            self.add(
                Severity::Critical,
                text,
                "Check whether the upstream is running. Failed deliveries show its responses.",
            );
        }
    }

    /// Adds rejections, and a sender that sends nothing.
    fn add_senders(&mut self, status: &RouteStatus) {
        if let Some(group) = status.rejected.first() {
            let (rejected, all) = (total(&status.rejected), status.requests().total());
            if rejected >= REJECTED_MIN && rejected * REJECTED_PART >= all {
                let kind = &group.kind;
                let explanation = words::explain_rejection(kind.code.as_str(), kind.reason);
                let text = format!(
                    "{} {} rejected in the last hour, most as {kind}",
                    words::count(rejected),
                    plural(rejected, "request was", "requests were"),
                );
                self.add(Severity::Warning, text, explanation.advice);
            }
        }
        let copies = status
            .rejected
            .iter()
            .find(|group| group.kind.reason == Some(TOO_MANY_COPIES));
        if let Some(copies) = copies {
            let explanation =
                words::explain_rejection(copies.kind.code.as_str(), copies.kind.reason);
            let text = format!(
                "{} {} of a delivered body rejected in the last hour",
                words::count(copies.count),
                plural(copies.count, "copy was", "copies were"),
            );
            self.add(Severity::Warning, text, explanation.advice);
        }
        if status.silent {
            let every = status
                .expect_every
                .map_or_else(String::new, |every| words::span(every.as_secs()));
            self.add(
                Severity::Warning,
                format!("no event was verified for more than {every}"),
                "Check at the provider whether it still sends to this endpoint.",
            );
        }
    }

    /// Adds late events, a paused queue and an inactive webhook.
    fn add_queue(&mut self, status: &RouteStatus, now: Timestamp) {
        let late_since = now.as_second().saturating_sub(LATE_SECONDS);
        if let Some(oldest) = status.oldest_waiting
            && oldest.as_second() < late_since
        {
            self.add(
                Severity::Warning,
                format!(
                    "the oldest waiting event arrived {}",
                    words::ago(oldest, now)
                ),
                "Check whether the upstream is running. The deliveries show its responses.",
            );
        }
        if status.paused {
            self.add(
                Severity::Notice,
                format!("paused, {} waiting", words::count(status.pending)),
                "Resume the queue when the upstream is ready.",
            );
        }
        if let Some(reason) = &status.route.off_line {
            self.add(
                Severity::Critical,
                format!("off line: {reason}"),
                "Senders get 503 until the file is there; it is then read without a reload.",
            );
        } else if !status.route.active {
            self.add(
                Severity::Notice,
                "switched off".into(),
                "Senders get 503 until the webhook is active again.",
            );
        }
    }

    /// Adds secrets that are in use and about to expire.
    fn add_secrets(&mut self, status: &RouteStatus, now: Timestamp) {
        for secret in status.secrets.iter().filter(|secret| secret.verified > 0) {
            let Some(end) = secret.expires else { continue };
            let seconds_left = end.as_second() - now.as_second();
            if end > now && seconds_left < EXPIRES_SOON_SECONDS {
                let text = format!(
                    "the secret `{}` is in use and expires in {}",
                    secret.name,
                    words::span(seconds_left.unsigned_abs())
                );
                self.add(
                    Severity::Warning,
                    text,
                    "Finish the rotation at the provider, or move the secret's `expires`.",
                );
            }
        }
    }
}

fn total(rejected: &[RejectionCount]) -> u64 {
    rejected.iter().map(|kind| kind.count).sum()
}

fn plural(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activity::{MINUTES, MinuteBucket, RejectionKind};
    use crate::admin::operations::routes::ServedRoute;
    use crate::admin::operations::status::SecretUse;
    use crate::outcome::Code;
    use crate::route::DeliveryMode;

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().unwrap()
    }

    fn status() -> RouteStatus {
        RouteStatus {
            route: ServedRoute {
                name: "billing".into(),
                host: None,
                path: "/b".into(),
                provider: None,
                url: String::new(),
                events: Vec::new(),
                delivery_mode: DeliveryMode::Queue,
                active: true,
                off_line: None,
                definition: None,
                updated_at: now(),
            },
            hour: [MinuteBucket::default(); MINUTES],
            requests_per_second: 0.0,
            pending: 0,
            dead: 0,
            oldest_waiting: None,
            paused: false,
            expect_every: None,
            silent: false,
            last_verified: None,
            rejected: Vec::new(),
            secrets: Vec::new(),
        }
    }

    fn texts(status: &RouteStatus) -> Vec<String> {
        route_problems(status, now())
            .into_iter()
            .map(|problem| problem.text)
            .collect()
    }

    #[test]
    fn working_route_has_no_problem() {
        let mut status = status();
        status.hour[MINUTES - 1].requests.accepted = 1_000;
        status.hour[MINUTES - 1].attempts_succeeded = 1_000;
        status.hour[MINUTES - 1].attempts_failed = 5;
        status.pending = 3;
        status.oldest_waiting = Some("2026-06-01T11:50:00Z".parse().unwrap());
        assert_eq!(texts(&status), [""; 0]);
    }

    #[test]
    fn each_problem_is_listed() {
        let mut status = status();
        status.dead = 1;
        status.hour[MINUTES - 1].attempts_failed = 3;
        let kind = RejectionKind {
            code: Code::InvalidSignature,
            reason: Some("mismatch"),
        };
        status.rejected = vec![RejectionCount {
            kind,
            count: 1_204,
            last_at: now(),
        }];
        (status.silent, status.expect_every) = (true, Some(std::time::Duration::from_secs(3_600)));
        status.oldest_waiting = Some("2026-06-01T10:00:00Z".parse().unwrap());
        (status.paused, status.pending, status.route.active) = (true, 7, false);
        let expires = Some("2026-06-01T17:00:00Z".parse().unwrap());
        status.secrets = vec![SecretUse {
            name: "old".into(),
            expires,
            verified: 1,
        }];
        let expected = [
            "1 event was dead-lettered",
            "3 of 3 attempts failed in the last 5\u{a0}minutes",
            "1\u{202f}204 requests were rejected in the last hour, most as invalid_signature/mismatch",
            "no event was verified for more than 1\u{a0}h",
            "the oldest waiting event arrived 2\u{a0}h ago",
            "paused, 7 waiting",
            "switched off",
            "the secret `old` is in use and expires in 5\u{a0}h",
        ];
        assert_eq!(texts(&status), expected);
    }

    #[test]
    fn removed_route_is_critical_while_events_wait() {
        let at = |text: &str| Some(text.parse().unwrap());
        let mut removed = RemovedRoute {
            name: "old".into(),
            pending: 3,
            dead: 1,
            oldest_waiting: at("2026-06-01T10:00:00Z"),
            horizon_ends: at("2026-06-04T10:00:00Z"),
        };
        let problem = removed_route(&removed, now());
        assert_eq!(problem.severity, Severity::Critical);
        assert_eq!(
            problem.text,
            "`old` is no longer configured, and 3 events wait for it; the oldest arrived 2\u{a0}h ago"
        );
        assert_eq!(
            problem.advice,
            "Configure the route again, or move them: `hookstile routes move old TO`. \
             `retry.horizon` ends in 2\u{a0}d; they wait all the same."
        );
        (removed.pending, removed.oldest_waiting) = (0, None);
        let problem = removed_route(&removed, now());
        assert_eq!(problem.severity, Severity::Warning);
        assert_eq!(
            problem.text,
            "`old` is no longer configured, and 1 dead letter is left"
        );
    }

    #[test]
    fn few_rejections_are_no_problem() {
        let mut status = status();
        let kind = RejectionKind {
            code: Code::InvalidEvent,
            reason: Some("not_json"),
        };
        status.rejected = vec![RejectionCount {
            kind,
            count: 6,
            last_at: now(),
        }];
        status.hour[3].requests.accepted = 200;
        assert_eq!(texts(&status), [""; 0]);
        status.hour[3].requests.accepted = 100;
        assert_eq!(texts(&status).len(), 1);
    }
}
