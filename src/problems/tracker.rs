//! The memory of the problems: since when each is there, and which begin and end.
//!
//! Owns the times after which a problem counts as begun and as ended for those who are notified.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{EndReason, Ending, Problem, ProblemCode, Severity};

/// The problems that were there a short time ago.
pub(crate) struct ProblemTracker {
    delays: Delays,
    known: HashMap<ProblemKey, KnownProblem>,
}

/// The times for which a problem must be there, and gone, before somebody is notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delays {
    pub begin_after: Duration,
    pub end_after: Duration,
}

/// The identity of a problem: its route and its code.
type ProblemKey = (Option<Arc<str>>, ProblemCode);

struct KnownProblem {
    /// The problem as it was when it was seen last, above a notice if it ever was.
    problem: Problem,
    since: Timestamp,
    last_seen: Instant,
    /// The time in which it was more than a notice.
    serious: Option<Period>,
    /// The part of it in which it was critical.
    critical: Option<Period>,
    is_logged: bool,
    /// The severity that it has had for long enough.
    lasting: Option<Severity>,
    /// Why it is not there any more, or only a notice.
    ending: Option<Ending>,
}

/// The first and the last time of something that is interrupted for short times at most.
#[derive(Debug, Clone, Copy)]
struct Period {
    first: Instant,
    last: Instant,
}

/// A change of the list that is worth logging.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProblemChange {
    /// A problem that is more than a notice was seen for the first time.
    Appeared(Problem),
    /// It is not there any more, or only a notice.
    Disappeared(Problem, Ending),
}

/// A problem that is more than a notice, or was a short time ago.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SeriousProblem {
    /// The problem as it was when it was more than a notice for the last time.
    pub problem: Problem,
    /// The severity that it has had for long enough to notify somebody; `None` if it is too new.
    pub lasting: Option<Severity>,
    /// The last time at which it was more than a notice.
    pub last_seen: Instant,
    /// Why it is not there any more, or only a notice.
    pub ending: Option<Ending>,
}

impl Default for Delays {
    fn default() -> Self {
        Self {
            begin_after: Duration::from_secs(30),
            end_after: Duration::from_secs(120),
        }
    }
}

impl ProblemTracker {
    pub(crate) fn new(delays: Delays) -> Self {
        Self {
            delays,
            known: HashMap::new(),
        }
    }

    /// Returns since when a problem of a route is there, if it was a short time ago.
    pub(crate) fn since(&self, route: &Arc<str>, code: ProblemCode) -> Option<Timestamp> {
        let known = self.known.get(&(Some(Arc::clone(route)), code))?;
        Some(known.since)
    }

    /// Sets since when each problem is there, and returns what has changed. `ending` says why one is
    /// not there any more, given the problem and those that are there.
    pub(crate) fn observe(
        &mut self,
        problems: &mut [Problem],
        now: Instant,
        wall: Timestamp,
        ending: impl Fn(&Problem, &[Problem]) -> Ending,
    ) -> Vec<ProblemChange> {
        let mut changes = Vec::new();
        for problem in &mut *problems {
            let key = (problem.route.clone(), problem.code);
            let began = problem.since.unwrap_or(wall);
            let known = self.known.entry(key).or_insert_with(|| KnownProblem {
                problem: problem.clone(),
                since: began,
                last_seen: now,
                serious: None,
                critical: None,
                is_logged: false,
                lasting: None,
                ending: None,
            });
            known.last_seen = now;
            problem.since = Some(known.since);
            if problem.severity > Severity::Notice {
                known.serious = Some(Period::continued(known.serious, now));
                known.problem = problem.clone();
            }
            if problem.severity == Severity::Critical {
                known.critical = Some(Period::continued(known.critical, now));
            }
        }
        let delays = self.delays;
        let ending = |problem: &Problem| ending(problem, problems);
        self.known
            .retain(|_, known| known.advance(now, delays, ending, &mut changes));
        changes
    }

    /// Returns the problems that are more than a notice, or were a short time ago.
    pub(crate) fn serious(&self) -> Vec<SeriousProblem> {
        let known = self.known.values();
        known
            .filter_map(|known| {
                Some(SeriousProblem {
                    problem: known.problem.clone(),
                    lasting: known.lasting,
                    last_seen: known.serious?.last,
                    ending: known.ending,
                })
            })
            .collect()
    }
}

impl Period {
    fn continued(earlier: Option<Self>, now: Instant) -> Self {
        Self {
            first: earlier.map_or(now, |earlier| earlier.first),
            last: now,
        }
    }

    /// Returns whether it goes on and has lasted for long enough.
    fn has_lasted(self, now: Instant, delays: Delays) -> bool {
        self.last == now && now.saturating_duration_since(self.first) >= delays.begin_after
    }

    /// Returns whether it was over a short time ago at most.
    fn is_recent(self, now: Instant, delays: Delays) -> bool {
        now.saturating_duration_since(self.last) < delays.end_after
    }
}

impl KnownProblem {
    /// Adds what has changed since the last time. Returns whether the problem is still remembered.
    fn advance(
        &mut self,
        now: Instant,
        delays: Delays,
        ending: impl Fn(&Problem) -> Ending,
        changes: &mut Vec<ProblemChange>,
    ) -> bool {
        let was_seen = now.saturating_duration_since(self.last_seen) < delays.end_after;
        self.critical = self.critical.filter(|it| it.is_recent(now, delays));
        let Some(serious) = self.serious else {
            return was_seen;
        };
        let is_there = serious.last == now;
        if is_there != self.is_logged {
            let problem = self.problem.clone();
            changes.push(if is_there {
                ProblemChange::Appeared(problem)
            } else {
                ProblemChange::Disappeared(problem, ending(&self.problem))
            });
            self.is_logged = is_there;
        }
        self.ending = match self.ending {
            _ if is_there => None,
            // What it recovered by stays true; otherwise more may be known by now.
            Some(recovered) if recovered.reason == EndReason::Recovered => self.ending,
            _ => Some(ending(&self.problem)),
        };
        let has_lasted = |it: &Period| it.has_lasted(now, delays);
        if self.critical.as_ref().is_some_and(has_lasted) {
            self.lasting = Some(Severity::Critical);
        } else if has_lasted(&serious) {
            self.lasting = self.lasting.max(Some(Severity::Warning));
        }
        if serious.is_recent(now, delays) {
            return true;
        }
        (self.serious, self.lasting) = (None, None);
        was_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Test {
        tracker: ProblemTracker,
        start: Instant,
        wall: Timestamp,
        /// Why a problem ends now.
        ending: Ending,
        /// Why the problem ended, as it is told.
        told: Option<EndReason>,
    }

    fn ending(reason: EndReason) -> Ending {
        let summary = "";
        Ending { reason, summary }
    }

    fn problem(severity: Severity) -> Problem {
        Problem::new(ProblemCode::StoreFull, severity, "full".into(), "")
    }

    impl Test {
        fn new() -> Self {
            Self {
                tracker: ProblemTracker::new(Delays::default()),
                start: Instant::now(),
                wall: "2026-06-01T12:00:00Z".parse().unwrap(),
                ending: ending(EndReason::NoEvents),
                told: None,
            }
        }

        /// Observes at this second. Returns the kinds of the changes, and the severity that has
        /// lasted.
        fn at(
            &mut self,
            second: u64,
            severity: Option<Severity>,
        ) -> (Vec<&'static str>, Option<Severity>) {
            let by = Duration::from_secs(second);
            let mut problems: Vec<_> = severity.map(problem).into_iter().collect();
            let changes =
                self.tracker
                    .observe(&mut problems, self.start + by, self.wall + by, |_, _| {
                        self.ending
                    });
            if let [problem] = &*problems {
                assert!(problem.since.is_some_and(|since| since <= self.wall + by));
            }
            let changes = changes.iter().map(|change| match change {
                ProblemChange::Appeared(_) => "appeared",
                ProblemChange::Disappeared(..) => "disappeared",
            });
            let serious = self.tracker.serious();
            let known = serious.first();
            self.told = known.and_then(|known| Some(known.ending?.reason));
            let lasting = known.and_then(|known| known.lasting);
            (changes.collect(), lasting)
        }
    }

    const NOTICE: Option<Severity> = Some(Severity::Notice);
    const WARNING: Option<Severity> = Some(Severity::Warning);
    const CRITICAL: Option<Severity> = Some(Severity::Critical);

    #[test]
    fn problem_begins_and_ends_after_their_delays() {
        let mut test = Test::new();
        assert_eq!(test.at(0, CRITICAL), (vec!["appeared"], None));
        assert_eq!(test.at(29, CRITICAL), (vec![], None));
        assert_eq!(test.at(30, CRITICAL), (vec![], CRITICAL));
        assert_eq!(test.at(90, CRITICAL), (vec![], CRITICAL));
        assert_eq!(test.at(91, None), (vec!["disappeared"], CRITICAL));
        assert_eq!(test.at(200, None), (vec![], CRITICAL));
        assert_eq!(test.at(210, None), (vec![], None));
        assert!(test.tracker.serious().is_empty());
        assert_eq!(test.at(212, CRITICAL), (vec!["appeared"], None));
    }

    #[test]
    fn interrupted_problem_is_one_problem() {
        let mut test = Test::new();
        test.at(0, CRITICAL);
        assert_eq!(test.at(20, None), (vec!["disappeared"], None));
        assert_eq!(test.at(100, CRITICAL), (vec!["appeared"], CRITICAL));
        let mut again = [problem(Severity::Critical)];
        let (now, wall) = (test.start + Duration::from_secs(101), test.wall);
        test.tracker
            .observe(&mut again, now, wall, |_, _| test.ending);
        assert_eq!(again[0].since, Some(test.wall), "since its first sight");
    }

    #[test]
    fn warning_becomes_critical_after_the_same_delay() {
        let mut test = Test::new();
        test.at(0, WARNING);
        assert_eq!(test.at(30, WARNING).1, WARNING);
        assert_eq!(test.at(100, CRITICAL).1, WARNING);
        assert_eq!(test.at(129, CRITICAL).1, WARNING);
        assert_eq!(test.at(130, CRITICAL).1, CRITICAL);
        assert_eq!(test.at(131, WARNING).1, CRITICAL, "it was critical");
    }

    #[test]
    fn short_critical_moments_are_no_critical_time() {
        let mut test = Test::new();
        for second in (0..1000).step_by(125) {
            test.at(second, CRITICAL);
            test.at(second + 1, WARNING);
            assert_eq!(test.at(second + 121, WARNING).1, WARNING);
        }
    }

    #[test]
    fn notice_is_no_change() {
        let mut test = Test::new();
        assert_eq!(test.at(0, NOTICE), (vec![], None));
        assert_eq!(test.at(300, NOTICE), (vec![], None));
        assert_eq!(test.at(301, WARNING), (vec!["appeared"], None));
        assert_eq!(test.at(302, NOTICE), (vec!["disappeared"], None));
        assert_eq!(test.at(340, WARNING), (vec!["appeared"], WARNING));
        assert_eq!(test.at(341, NOTICE), (vec!["disappeared"], WARNING));
        assert_eq!(test.at(460, NOTICE), (vec![], None));
    }

    #[test]
    fn short_problem_does_not_last() {
        let mut test = Test::new();
        test.at(0, WARNING);
        assert_eq!(test.at(10, None), (vec!["disappeared"], None));
        assert_eq!(test.at(500, None), (vec![], None));
    }

    #[test]
    fn beginning_does_not_move() {
        let mut test = Test::new();
        let began = test.wall - Duration::from_secs(60);
        for micros in [5, 0, 9] {
            let mut problems = [Problem {
                since: Some(began + Duration::from_micros(micros)),
                ..problem(Severity::Critical)
            }];
            test.tracker
                .observe(&mut problems, test.start, test.wall, |_, _| test.ending);
            let first = began + Duration::from_micros(5);
            assert_eq!(problems[0].since, Some(first), "as it was seen first");
        }
    }

    #[test]
    fn end_says_what_is_known_by_then() {
        for (first, then, told) in [
            (
                EndReason::Paused,
                EndReason::Recovered,
                EndReason::Recovered,
            ),
            (
                EndReason::Recovered,
                EndReason::Paused,
                EndReason::Recovered,
            ),
            (EndReason::NoEvents, EndReason::Paused, EndReason::Paused),
        ] {
            let mut test = Test::new();
            test.at(0, CRITICAL);
            test.at(40, CRITICAL);
            assert_eq!(test.told, None);
            test.ending = ending(first);
            assert_eq!(test.at(41, None), (vec!["disappeared"], CRITICAL));
            test.ending = ending(then);
            test.at(100, None);
            assert_eq!(test.told, Some(told));
        }
    }
}
