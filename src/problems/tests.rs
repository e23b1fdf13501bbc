//! The order and the words of problems in realistic trouble.

use super::*;
use crate::activity::RequestCounts;
use crate::outcome::{Code, TOO_MANY_COPIES};

const NOW: &str = "2026-06-01T17:45:30Z";

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Creates a route on which nothing has happened.
fn route(name: &str, stores_events: bool) -> RouteFacts {
    RouteFacts {
        name: name.into(),
        stores_events,
        upstream: "http://127.0.0.1:18199".into(),
        active: true,
        off_line: None,
        paused: false,
        hour: [MinuteBucket::default(); MINUTES],
        minute_began: at("2026-06-01T17:45:00Z"),
        failing: None,
        rejecting: None,
        last_failure: None,
        last_success: None,
        pending: 0,
        dead: 0,
        oldest_waiting: None,
        retry_horizon: Duration::from_secs(20 * 60),
        provider_horizon: Duration::from_secs(4 * 3600),
        expect_every: None,
        silent: false,
        last_verified: Some(at("2026-06-01T17:45:20Z")),
        rejected: Vec::new(),
        copies: None,
        explanation: None,
        expiring_secrets: Vec::new(),
    }
}

impl RouteFacts {
    /// Adds this to each of the last minutes.
    fn minutes(mut self, count: usize, add: MinuteBucket) -> Self {
        for minute in &mut self.hour[MINUTES - count..] {
            minute.requests += add.requests;
            minute.attempts_succeeded += add.attempts_succeeded;
            minute.attempts_failed += add.attempts_failed;
            minute.dead_lettered += add.dead_lettered;
        }
        self
    }

    fn accepted(self, count: usize, accepted: u64) -> Self {
        let requests = RequestCounts {
            accepted,
            ..RequestCounts::default()
        };
        self.minutes(
            count,
            MinuteBucket {
                requests,
                ..MinuteBucket::default()
            },
        )
    }

    fn attempts(self, count: usize, succeeded: u64, failed: u64) -> Self {
        self.minutes(
            count,
            MinuteBucket {
                attempts_succeeded: succeeded,
                attempts_failed: failed,
                ..MinuteBucket::default()
            },
        )
    }

    /// Adds rejected requests of this kind, in the last minutes.
    fn rejected(mut self, count: usize, rejected: u64, code: Code, reason: &'static str) -> Self {
        let kind = RejectionKind {
            code,
            reason: Some(reason),
            let_pass: false,
        };
        self.rejected.push(RejectedKind {
            kind,
            count: rejected * count as u64,
            advice: "advice",
        });
        let requests = RequestCounts {
            rejected,
            ..RequestCounts::default()
        };
        let began = at(NOW) - jiff::SignedDuration::from_mins(i64::try_from(count).unwrap());
        self.rejecting.get_or_insert(incident(began, 0));
        self.minutes(
            count,
            MinuteBucket {
                requests,
                ..MinuteBucket::default()
            },
        )
    }
}

fn incident(began: Timestamp, in_a_row: u64) -> RunningIncident {
    RunningIncident {
        began,
        in_a_row,
        in_a_row_since: began,
    }
}

fn list(routes: &[RouteFacts]) -> Vec<Problem> {
    problems(&GatewayFacts::default(), routes, at(NOW))
}

/// Returns the only problem.
fn only(route: RouteFacts) -> Problem {
    let mut problems = list(&[route]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    problems.remove(0)
}

fn no_problem(route: RouteFacts) {
    assert_eq!(list(&[route]), []);
}

/// A quarter of the attempts fail, and everything arrives in the end.
fn github() -> RouteFacts {
    RouteFacts {
        failing: Some(incident(at("2026-06-01T17:33:00Z"), 0)),
        last_failure: Some(LastFailure {
            cause: Cause::Status,
            status: Some(502),
            address: None,
        }),
        ..route("github-ci", true)
            .accepted(12, 30)
            .attempts(12, 30, 10)
    }
}

/// The upstream is dead from the start.
fn billing() -> RouteFacts {
    let dead = MinuteBucket {
        dead_lettered: 41,
        ..MinuteBucket::default()
    };
    RouteFacts {
        failing: Some(incident(at("2026-06-01T17:35:10Z"), 957)),
        last_failure: Some(LastFailure {
            cause: Cause::Refused,
            status: None,
            address: Some("127.0.0.1:18199".into()),
        }),
        pending: 221,
        dead: 82,
        oldest_waiting: Some(at("2026-06-01T17:37:30Z")),
        ..route("billing", true)
            .accepted(11, 30)
            .attempts(11, 0, 87)
            .minutes(2, dead)
    }
}

/// Everything is signed with another secret since 17:41.
fn shopify() -> RouteFacts {
    RouteFacts {
        rejecting: Some(incident(at("2026-06-01T17:41:04Z"), 145)),
        last_verified: Some(at("2026-06-01T17:41:02Z")),
        silent: true,
        expect_every: Some(Duration::from_secs(90)),
        ..route("shopify-orders", false).rejected(5, 29, Code::InvalidSignature, "mismatch")
    }
}

#[test]
fn outages_come_first_and_noise_is_last() {
    let gateway = GatewayFacts {
        unmatched: 21,
        ..GatewayFacts::default()
    };
    let stripe = route("stripe-payments", false).accepted(12, 50).rejected(
        12,
        5,
        Code::InvalidSignature,
        "mismatch",
    );
    let routes = vec![github(), stripe, billing(), shopify()];
    let problems = problems(&gateway, &routes, at(NOW));
    let shown: Vec<_> = problems
        .iter()
        .map(|problem| {
            (
                problem.severity.as_str(),
                problem.route.as_deref(),
                problem.code.as_str(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("critical", Some("billing"), "upstream_failing"),
            ("critical", Some("shopify-orders"), "requests_rejected"),
            ("notice", Some("github-ci"), "upstream_failing"),
            ("notice", None, "noise"),
        ]
    );
    assert_eq!(
        problems[3].summary,
        "21 requests matched no route; 60 requests were rejected on routes that work \
         (stripe-payments) in the last hour"
    );
}

#[test]
fn dead_upstream_is_one_line_with_what_waits() {
    let problem = only(billing());
    assert_eq!(
        problem.summary,
        "http://127.0.0.1:18199 refuses connections: all 957 attempts since 17:35 UTC failed; 221 \
         events wait, the oldest for 8 min; 82 events were dead-lettered; last success never; the \
         horizon of the oldest ends at 17:57 UTC"
    );
    assert_eq!(problem.since, Some(at("2026-06-01T17:35:10Z")));
    assert_eq!(
        problem.at_risk,
        AtRisk {
            events: 221,
            oldest: Some(at("2026-06-01T17:37:30Z")),
            gives_up_at: Some(at("2026-06-01T17:57:30Z")),
        }
    );
    assert!(
        problem
            .advice
            .ends_with("`hookstile events redeliver --dead --route billing`."),
        "{}",
        problem.advice
    );
}

#[test]
fn total_rejection_is_one_line() {
    let problem = only(shopify());
    assert_eq!(
        problem.summary,
        "all 145 requests since 17:41 UTC were rejected, as invalid_signature/mismatch; last \
         verified 17:41 UTC; the provider gives up at 21:41 UTC"
    );
    assert_eq!((problem.share, problem.at_risk.events), (1.0, 145));
    assert_eq!(problem.advice, "advice");
    let explained = RouteFacts {
        explanation: Some("one would verify with the secret `old`".into()),
        ..shopify()
    };
    let summary = only(explained).summary;
    assert!(
        summary.contains("; one would verify with the secret `old`;"),
        "{summary}"
    );
}

#[test]
fn severity_follows_the_share() {
    let rejected = |accepted, rejected| {
        list(&[route("r", false).accepted(5, accepted).rejected(
            5,
            rejected,
            Code::InvalidSignature,
            "mismatch",
        )])
        .first()
        .map(|problem| problem.severity)
    };
    assert_eq!(rejected(49, 51), Some(Severity::Critical));
    assert_eq!(rejected(50, 50), Some(Severity::Warning));
    assert_eq!(rejected(90, 10), Some(Severity::Warning));
    assert_eq!(rejected(91, 9), Some(Severity::Notice), "noise");
    let failed = |route: RouteFacts, succeeded, failed| {
        let facts = RouteFacts {
            failing: Some(incident(at("2026-06-01T17:40:00Z"), 0)),
            ..route.attempts(5, succeeded, failed)
        };
        list(&[facts]).first().map(|problem| problem.severity)
    };
    let proxy = || {
        let requests = RequestCounts {
            failed: 1,
            ..RequestCounts::default()
        };
        let minute = MinuteBucket {
            requests,
            ..MinuteBucket::default()
        };
        route("r", false).minutes(5, minute)
    };
    assert_eq!(failed(proxy(), 49, 51), Some(Severity::Critical));
    assert_eq!(failed(proxy(), 85, 15), Some(Severity::Warning));
    assert_eq!(failed(proxy(), 95, 5), None);
    assert_eq!(failed(route("r", true), 75, 25), Some(Severity::Notice));
    assert_eq!(failed(route("r", true), 5, 95), Some(Severity::Critical));
}

#[test]
fn larger_outage_comes_first() {
    let rejecting =
        |name, rate| route(name, false).rejected(5, rate, Code::InvalidSignature, "mismatch");
    let problems = list(&[rejecting("small", 2), rejecting("large", 50)]);
    let names: Vec<_> = problems
        .iter()
        .filter_map(|problem| problem.route.as_deref())
        .collect();
    assert_eq!(names, ["large", "small"]);
}

#[test]
fn working_route_has_no_problem() {
    no_problem(RouteFacts {
        pending: 3,
        oldest_waiting: Some(at("2026-06-01T17:40:00Z")),
        failing: Some(incident(at("2026-06-01T17:00:00Z"), 0)),
        ..route("r", true).accepted(60, 100).attempts(60, 100, 1)
    });
    no_problem(route("r", false).rejected(1, 2, Code::InvalidSignature, "mismatch"));
}

#[test]
fn recovered_route_has_no_problem() {
    let recovered = RouteFacts {
        failing: None,
        pending: 0,
        dead: 0,
        oldest_waiting: None,
        ..billing()
    };
    no_problem(recovered);
}

#[test]
fn strangers_alone_are_not_critical() {
    let scanned = || route("r", false).rejected(1, 30, Code::InvalidSignature, "missing");
    let never_verified = RouteFacts {
        last_verified: None,
        ..scanned()
    };
    assert_eq!(only(never_verified).severity, Severity::Warning);
    assert_eq!(only(scanned()).severity, Severity::Critical, "it verified");
}

#[test]
fn advice_depends_on_what_else_verifies() {
    let advice = |accepted, reason| {
        only(route("r", false).accepted(5, accepted).rejected(
            5,
            10,
            Code::InvalidSignature,
            reason,
        ))
        .advice
    };
    assert_eq!(advice(0, "mismatch"), "advice");
    assert!(advice(30, "mismatch").contains("right for the requests that verify"));
    assert!(advice(30, "stale").contains("the clock here is right"));
    assert!(advice(30, "missing").contains("not the provider's"));
}

#[test]
fn each_other_problem_has_its_line() {
    let facts = || route("r", true);
    let cases = vec![
        (
            RouteFacts { dead: 1, ..facts() },
            "1 event was dead-lettered; attempts do not fail now",
        ),
        (
            RouteFacts {
                pending: 1,
                oldest_waiting: Some(at("2026-06-01T15:45:00Z")),
                ..facts()
            },
            "1 event waits, the oldest for 2 h",
        ),
        (
            RouteFacts {
                paused: true,
                pending: 7,
                oldest_waiting: Some(at("2026-06-01T17:45:00Z")),
                ..facts()
            },
            "an operator paused the route; 7 events wait, the oldest for 30 s",
        ),
        (
            RouteFacts {
                active: false,
                ..facts()
            },
            "the webhook is switched off",
        ),
        (
            RouteFacts {
                active: false,
                off_line: Some("the secret's file cannot be read".into()),
                ..facts()
            },
            "off line: the secret's file cannot be read",
        ),
        (
            RouteFacts {
                silent: true,
                expect_every: Some(Duration::from_secs(90)),
                ..facts()
            },
            "no event was verified for more than 90 s; last verified 17:45 UTC",
        ),
        (
            RouteFacts {
                copies: Some(RejectedKind {
                    kind: RejectionKind {
                        code: Code::Duplicate,
                        reason: Some(TOO_MANY_COPIES),
                        let_pass: false,
                    },
                    count: 1,
                    advice: "",
                }),
                ..facts()
            },
            "1 copy of a delivered body was rejected in the last hour",
        ),
        (
            RouteFacts {
                expiring_secrets: vec![("old".into(), at("2026-06-01T22:45:30Z"))],
                ..facts()
            },
            "the secret `old` is in use and expires in 5 h",
        ),
    ];
    for (facts, summary) in cases {
        assert_eq!(only(facts).summary, summary);
    }
}

#[test]
fn gateway_comes_before_its_routes() {
    let gateway = GatewayFacts {
        refused_configuration: Some(RefusedConfiguration {
            since: at("2026-06-01T17:44:00Z"),
            first: "hookstile.yaml:6:15: unknown provider".into(),
            count: 3,
        }),
        store_unavailable: Some("the store is not available".into()),
        store_full: true,
        draining: true,
        unmatched: 0,
        removed: Vec::new(),
    };
    let problems = problems(&gateway, &[billing()], at(NOW));
    let codes: Vec<_> = problems
        .iter()
        .map(|problem| problem.code.as_str())
        .collect();
    let expected = [
        "configuration_refused",
        "store_unavailable",
        "store_full",
        "upstream_failing",
        "draining",
    ];
    assert_eq!(codes, expected);
    assert_eq!(
        problems[0].summary,
        "the configuration on disk is refused: hookstile.yaml:6:15: unknown provider, and 2 more; \
         the next start will fail"
    );
    assert_eq!(problems[0].since, Some(at("2026-06-01T17:44:00Z")));
}

#[test]
fn codes_are_listed_and_differ() {
    let mut names: Vec<_> = ProblemCode::ALL
        .into_iter()
        .map(ProblemCode::as_str)
        .collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ProblemCode::Noise as usize + 1);
}

#[test]
fn removed_route_is_critical_while_events_wait() {
    let mut removed = RemovedRoute {
        name: "old".into(),
        pending: 3,
        dead: 1,
        oldest_waiting: Some(at("2026-06-01T15:40:00Z")),
        horizon_ends: Some(at("2026-06-04T15:40:00Z")),
    };
    let listed = |removed: &RemovedRoute| {
        let gateway = GatewayFacts {
            removed: vec![removed.clone()],
            ..GatewayFacts::default()
        };
        problems(&gateway, &[], at(NOW)).remove(0)
    };
    let problem = listed(&removed);
    assert_eq!(problem.severity, Severity::Critical);
    assert_eq!(problem.at_risk.events, 4);
    assert!(
        problem.summary.starts_with(
            "no longer configured; 3 events wait for it, with 1 dead letter; the oldest"
        ),
        "{}",
        problem.summary
    );
    assert!(problem.advice.contains("hookstile routes move old TO"));
    assert!(problem.advice.contains("they wait all the same"));
    (removed.pending, removed.oldest_waiting) = (0, None);
    let problem = listed(&removed);
    assert_eq!(problem.severity, Severity::Warning);
    assert_eq!(
        problem.summary,
        "no longer configured; 1 dead letter is left"
    );
}
