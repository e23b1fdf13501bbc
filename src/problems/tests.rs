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
        listed_since: ListedSince::default(),
        attempt_succeeded: false,
        request_verified: false,
        last_failure: None,
        last_success: None,
        undelivered: Undelivered::default(),
        refused: RefusedRequests::default(),
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
        last_rejected: None,
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
        self.last_rejected = Some(at(NOW));
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
        failed: in_a_row,
        familiar: 0,
        in_a_row,
        in_a_row_since: began,
        usual_per_second: 0.0,
    }
}

/// Creates the incident of rejections that come from the clients of verified requests.
fn familiar(began: Timestamp, count: u64) -> RunningIncident {
    RunningIncident {
        failed: count,
        familiar: count,
        ..incident(began, 0)
    }
}

fn last_failure(cause: Cause, status: Option<u16>, address: Option<&str>) -> LastFailure {
    LastFailure {
        cause,
        status,
        address: address.map(Into::into),
        upstream: "http://127.0.0.1:18199".into(),
        other_cause_at: None,
    }
}

/// Returns why this problem is over, given the present facts of its route.
fn ended_by(problem: &Problem, route: &RouteFacts) -> EndReason {
    let routes = std::slice::from_ref(route);
    ending(problem, &list(routes), routes).reason
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
        last_failure: Some(last_failure(Cause::Status, Some(502), None)),
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
        last_failure: Some(last_failure(Cause::Refused, None, Some("127.0.0.1:18199"))),
        pending: 221,
        dead: 82,
        oldest_waiting: Some(at("2026-06-01T17:37:30Z")),
        ..route("billing", true)
            .accepted(11, 30)
            .attempts(11, 0, 87)
            .minutes(2, dead)
    }
}

#[test]
fn socket_file_is_named_in_the_advice() {
    let facts = RouteFacts {
        last_failure: Some(last_failure(
            Cause::Unreachable,
            None,
            Some("unix:/run/app.sock"),
        )),
        ..billing()
    };
    let problems = problems(&GatewayFacts::default(), &[facts], at(NOW));
    let problem = &problems[0];
    assert!(
        problem.summary.contains("socket file does not exist")
            && problem.summary.contains("(unix:/run/app.sock)"),
        "{}",
        problem.summary
    );
    assert!(
        problem.advice.contains("compare `socket`"),
        "{}",
        problem.advice
    );
}

/// Everything is signed with another secret since 17:41.
fn expired_secret() -> Explanation {
    Explanation {
        at: at("2026-06-01T17:41:00Z"),
        text: "it is signed with the secret `old`, which expired".into(),
        advice: Some("Extend its `expires`.".into()),
    }
}

fn shopify() -> RouteFacts {
    RouteFacts {
        rejecting: Some(RunningIncident {
            usual_per_second: 10.0 / 60.0,
            ..incident(at("2026-06-01T17:41:04Z"), 145)
        }),
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
    let explained = only(RouteFacts {
        explanation: Some(expired_secret()),
        ..shopify()
    });
    let summary = explained.summary;
    assert!(
        summary.contains("; it is signed with the secret `old`, which expired;"),
        "{summary}"
    );
    assert_eq!(explained.advice, "Extend its `expires`.", "of the cause");
}

#[test]
fn severity_follows_the_share() {
    let rejected = |accepted, rejected| {
        let facts = RouteFacts {
            rejecting: Some(familiar(at("2026-06-01T17:40:30Z"), rejected * 5)),
            ..route("r", false).accepted(5, accepted).rejected(
                5,
                rejected,
                Code::InvalidSignature,
                "mismatch",
            )
        };
        list(&[facts]).first().map(|problem| problem.severity)
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
    let routes = [("small", 2), ("large", 50)].into_iter();
    let problems = list(
        &routes
            .map(|(name, rate)| rejecting(name, rate))
            .collect::<Vec<_>>(),
    );
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
fn forged_requests_are_no_alarm() {
    // On a quiet route, whose last event was verified some time ago.
    let forged = |count, in_a_row| RouteFacts {
        rejecting: Some(RunningIncident {
            usual_per_second: 3.0 / 3600.0,
            ..incident(at("2026-06-01T17:44:00Z"), in_a_row)
        }),
        last_verified: Some(at("2026-06-01T17:20:00Z")),
        ..route("r", false).rejected(1, count, Code::InvalidSignature, "mismatch")
    };
    for count in [5, 500] {
        let problem = only(forged(count, count));
        assert_eq!(problem.severity, Severity::Notice);
        assert_eq!(problem.at_risk, AtRisk::default(), "nothing is missing");
        assert!(problem.advice.contains("Anybody"), "{}", problem.advice);
    }
    // For long, and many: somebody should hear of it.
    let persistent = RouteFacts {
        rejecting: Some(incident(at("2026-06-01T17:30:00Z"), 40)),
        ..forged(40, 40)
    };
    assert_eq!(only(persistent).severity, Severity::Warning);
}

#[test]
fn wrong_secret_is_critical() {
    let base = || RouteFacts {
        rejecting: Some(incident(at("2026-06-01T17:43:30Z"), 12)),
        ..route("r", false).rejected(2, 6, Code::InvalidSignature, "mismatch")
    };
    let severity = |route| only(route).severity;
    assert_eq!(severity(base()), Severity::Notice, "nobody knows whose");
    let rejecting = |change: fn(&mut RunningIncident)| {
        let mut facts = base();
        facts.rejecting.iter_mut().for_each(change);
        facts
    };
    let familiar = rejecting(|incident| incident.familiar = 10);
    let missing = rejecting(|incident| incident.usual_per_second = 0.1);
    let silent = RouteFacts {
        silent: true,
        expect_every: Some(Duration::from_secs(90)),
        ..base()
    };
    let explained = RouteFacts {
        explanation: Some(expired_secret()),
        ..base()
    };
    let restarted = RouteFacts {
        last_verified: None,
        last_success: Some(at("2026-06-01T16:00:00Z")),
        ..base()
    };
    for facts in [Box::new(familiar), Box::new(missing), Box::new(silent)] {
        assert_eq!(severity(*facts), Severity::Critical);
    }
    assert_eq!(severity(explained), Severity::Critical);
    assert_eq!(severity(restarted), Severity::Critical);
    let new = RouteFacts {
        last_verified: None,
        ..base()
    };
    assert_eq!(severity(new), Severity::Warning, "it never worked");
    let few = rejecting(|incident| (incident.in_a_row, incident.familiar) = (5, 5));
    assert_eq!(
        severity(few),
        Severity::Notice,
        "a stranger may share an address"
    );
}

#[test]
fn late_copies_are_no_alarm() {
    for code in [Code::InvalidEvent, Code::InvalidSignature] {
        let facts = RouteFacts {
            explanation: Some(expired_secret()),
            ..route("r", false).rejected(5, 10, code, "stale")
        };
        assert_eq!(only(facts).severity, Severity::Notice, "who captured one");
    }
}

#[test]
fn unreadable_event_is_the_providers() {
    let facts = route("r", false).rejected(5, 10, Code::InvalidEvent, "id_missing");
    assert_eq!(only(facts).severity, Severity::Critical);
}

#[test]
fn paused_proxy_route_says_what_it_refuses() {
    let paused = |count, since: &str| {
        only(RouteFacts {
            paused: true,
            refused: RefusedRequests {
                count,
                since: Some(at(since)),
            },
            ..route("r", false)
        })
    };
    let problem = paused(7, "2026-06-01T17:40:00Z");
    assert_eq!(
        problem.summary,
        "an operator paused the route; senders get 503, 7 requests since 17:40 UTC; the provider \
         gives up at 21:40 UTC"
    );
    assert_eq!(problem.severity, Severity::Warning);
    assert_eq!(
        problem.at_risk,
        AtRisk {
            events: 7,
            oldest: Some(at("2026-06-01T17:40:00Z")),
            gives_up_at: Some(at("2026-06-01T21:40:00Z")),
        }
    );
    let failed_before = only(RouteFacts {
        paused: true,
        refused: RefusedRequests {
            count: 7,
            since: Some(at("2026-06-01T17:40:00Z")),
        },
        undelivered: Undelivered {
            events: 2,
            oldest: Some(at("2026-06-01T17:30:00Z")),
        },
        ..route("r", false)
    });
    assert_eq!(failed_before.at_risk.events, 9);
    assert_eq!(
        failed_before.at_risk.gives_up_at,
        Some(at("2026-06-01T21:30:00Z"))
    );
    let late = paused(7, "2026-06-01T15:45:00Z");
    assert_eq!(
        late.severity,
        Severity::Critical,
        "half of the time is over"
    );
    let idle = only(RouteFacts {
        paused: true,
        ..route("r", false)
    });
    assert_eq!(idle.severity, Severity::Notice);
    assert_eq!(
        idle.summary,
        "an operator paused the route; senders get 503"
    );
}

#[test]
fn paused_outage_is_one_line() {
    let problem = only(RouteFacts {
        paused: true,
        dead: 0,
        ..billing()
    });
    assert_eq!(problem.code, ProblemCode::RoutePaused);
    assert_eq!(
        problem.summary,
        "an operator paused the route; 221 events wait, the oldest for 8 min; when it was tried \
         last: http://127.0.0.1:18199 refuses connections"
    );
}

#[test]
fn redelivered_events_are_not_the_providers() {
    let requests = RequestCounts {
        failed: 2,
        ..RequestCounts::default()
    };
    let minute = MinuteBucket {
        requests,
        ..MinuteBucket::default()
    };
    let began = at("2026-06-01T17:42:00Z");
    let facts = RouteFacts {
        failing: Some(incident(began, 20)),
        last_failure: Some(last_failure(Cause::Refused, None, None)),
        pending: 3,
        oldest_waiting: Some(at("2026-06-01T12:00:00Z")),
        undelivered: Undelivered {
            events: 4,
            oldest: Some(began),
        },
        ..route("r", false).attempts(5, 0, 4).minutes(5, minute)
    };
    let problem = only(facts.clone());
    let at_risk = AtRisk {
        events: 4,
        oldest: Some(began),
        gives_up_at: Some(at("2026-06-01T21:42:00Z")),
    };
    assert_eq!(problem.at_risk, at_risk, "not ten requests");
    assert!(
        problem
            .summary
            .contains("3 redelivered events wait; last success never; the provider"),
        "{}",
        problem.summary
    );
    let alone = only(RouteFacts {
        undelivered: Undelivered::default(),
        ..facts
    });
    assert_eq!(
        (alone.at_risk.events, alone.at_risk.gives_up_at),
        (3, None),
        "their horizon began when they were redelivered"
    );
}

#[test]
fn changed_cause_is_said() {
    let mut facts = billing();
    facts.last_failure = Some(LastFailure {
        other_cause_at: Some(at("2026-06-01T17:39:00Z")),
        upstream: "http://127.0.0.1:18198".into(),
        ..last_failure(Cause::Status, Some(500), None)
    });
    let summary = only(facts).summary;
    assert!(
        summary.starts_with(
            "http://127.0.0.1:18198 answers 500 (the upstream is http://127.0.0.1:18199 now): all"
        ) && summary.ends_with("until 17:39 UTC for another cause"),
        "{summary}"
    );
}

#[test]
fn listed_time_is_kept_in_the_words() {
    let since = at("2026-06-01T17:20:00Z");
    let facts = RouteFacts {
        listed_since: ListedSince {
            failing: Some(since),
            rejecting: None,
        },
        ..github()
    };
    let problem = only(facts);
    assert_eq!(problem.since, Some(since));
    assert!(
        problem.summary.contains("since 17:20 UTC"),
        "{}",
        problem.summary
    );
}

#[test]
fn end_needs_a_success_to_be_a_recovery() {
    let failing = only(billing());
    let end = |route: RouteFacts| ended_by(&failing, &route);
    let over = || RouteFacts {
        failing: None,
        ..route("billing", true)
    };
    let cases = vec![
        (
            RouteFacts {
                attempt_succeeded: true,
                ..over()
            },
            EndReason::Recovered,
        ),
        (over(), EndReason::NoEvents),
        (
            RouteFacts {
                paused: true,
                ..billing()
            },
            EndReason::Paused,
        ),
        (
            RouteFacts {
                paused: true,
                attempt_succeeded: true,
                ..billing()
            },
            EndReason::Paused,
        ),
        (
            RouteFacts {
                off_line: Some("no file".into()),
                active: false,
                ..billing()
            },
            EndReason::Inactive,
        ),
        (route("another", true), EndReason::RouteRemoved),
        (github_named("billing"), EndReason::Subsided),
    ];
    for (number, (facts, reason)) in cases.into_iter().enumerate() {
        assert_eq!(end(facts), reason, "case {number}");
    }
    let rejected = only(shopify());
    let end = |route: RouteFacts| ended_by(&rejected, &route);
    let quiet = || route("shopify-orders", false);
    assert_eq!(end(quiet()), EndReason::NoEvents);
    let verified = RouteFacts {
        request_verified: true,
        ..quiet()
    };
    assert_eq!(end(verified), EndReason::Recovered);
    let paused = RouteFacts {
        paused: true,
        ..quiet()
    };
    assert_eq!(
        end(paused),
        EndReason::Paused,
        "refused, and so not accepted"
    );
}

fn github_named(name: &str) -> RouteFacts {
    RouteFacts {
        name: name.into(),
        ..github()
    }
}

#[test]
fn advice_depends_on_what_else_verifies() {
    let advice = |accepted, reason| {
        only(RouteFacts {
            rejecting: Some(familiar(at("2026-06-01T17:40:30Z"), 50)),
            ..route("r", false).accepted(5, accepted).rejected(
                5,
                10,
                Code::InvalidSignature,
                reason,
            )
        })
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
            "the webhook is switched off; senders get 503",
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
            changed: None,
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
