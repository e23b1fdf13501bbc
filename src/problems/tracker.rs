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
    /// The first and the last time at which it was more than a notice.
    serious: Option<(Instant, Instant)>,
    is_logged: bool,
    has_begun: bool,
    /// Why it is not there any more, or only a notice.
    ending: Option<Ending>,
}

/// A change of the list that is worth telling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProblemChange {
    /// A problem that is more than a notice was seen for the first time.
    Appeared(Problem),
    /// It is not there any more, or only a notice.
    Disappeared(Problem, Ending),
    /// It has been there for long enough to notify somebody.
    Began(Problem),
    /// One that began has been gone for long enough.
    Ended(Problem, Ending),
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
                is_logged: false,
                has_begun: false,
                ending: None,
            });
            known.last_seen = now;
            problem.since = Some(known.since);
            if problem.severity > Severity::Notice {
                let first = known.serious.map_or(now, |(first, _)| first);
                known.serious = Some((first, now));
                known.problem = problem.clone();
            }
        }
        let delays = self.delays;
        let ending = |problem: &Problem| ending(problem, problems);
        self.known
            .retain(|_, known| known.advance(now, delays, &ending, &mut changes));
        changes
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
        let problem = || self.problem.clone();
        let Some((first, last)) = self.serious else {
            return now.saturating_duration_since(self.last_seen) < delays.end_after;
        };
        let is_there = last == now;
        if is_there != self.is_logged {
            changes.push(if is_there {
                self.ending = None;
                ProblemChange::Appeared(problem())
            } else {
                let ending = *self.ending.insert(ending(&self.problem));
                ProblemChange::Disappeared(problem(), ending)
            });
            self.is_logged = is_there;
        }
        if is_there && !self.has_begun && now.saturating_duration_since(first) >= delays.begin_after
        {
            changes.push(ProblemChange::Began(problem()));
            self.has_begun = true;
        }
        if now.saturating_duration_since(last) < delays.end_after {
            return true;
        }
        if self.has_begun {
            // What it recovered by stays true; otherwise more may be known by now.
            let ending = match self.ending {
                Some(recovered) if recovered.reason == EndReason::Recovered => recovered,
                _ => ending(&self.problem),
            };
            changes.push(ProblemChange::Ended(problem(), ending));
        }
        (self.serious, self.has_begun) = (None, false);
        now.saturating_duration_since(self.last_seen) < delays.end_after
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
        ended: Vec<EndReason>,
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
                ended: Vec::new(),
            }
        }

        /// Observes at this second, and returns the kinds of the changes.
        fn at(&mut self, second: u64, severity: Option<Severity>) -> Vec<&'static str> {
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
            changes
                .iter()
                .map(|change| match change {
                    ProblemChange::Appeared(_) => "appeared",
                    ProblemChange::Disappeared(..) => "disappeared",
                    ProblemChange::Began(_) => "began",
                    ProblemChange::Ended(_, ending) => {
                        self.ended.push(ending.reason);
                        "ended"
                    }
                })
                .collect()
        }
    }

    #[test]
    fn problem_begins_and_ends_after_their_delays() {
        let critical = Some(Severity::Critical);
        let mut test = Test::new();
        assert_eq!(test.at(0, critical), ["appeared"]);
        assert_eq!(test.at(29, critical), [""; 0]);
        assert_eq!(test.at(30, critical), ["began"]);
        assert_eq!(test.at(90, critical), [""; 0]);
        assert_eq!(test.at(91, None), ["disappeared"]);
        assert_eq!(test.at(200, None), [""; 0]);
        assert_eq!(test.at(210, None), ["ended"]);
        assert_eq!(test.at(211, None), [""; 0]);
        assert_eq!(test.at(212, critical), ["appeared"]);
    }

    #[test]
    fn interrupted_problem_is_one_problem() {
        let critical = Some(Severity::Critical);
        let mut test = Test::new();
        test.at(0, critical);
        assert_eq!(test.at(20, None), ["disappeared"]);
        assert_eq!(test.at(100, critical), ["appeared", "began"]);
        let mut again = [problem(Severity::Critical)];
        let (now, wall) = (test.start + Duration::from_secs(101), test.wall);
        test.tracker
            .observe(&mut again, now, wall, |_, _| test.ending);
        assert_eq!(again[0].since, Some(test.wall), "since its first sight");
    }

    #[test]
    fn notice_is_no_change() {
        let mut test = Test::new();
        assert_eq!(test.at(0, Some(Severity::Notice)), [""; 0]);
        assert_eq!(test.at(300, Some(Severity::Notice)), [""; 0]);
        assert_eq!(test.at(301, Some(Severity::Warning)), ["appeared"]);
        assert_eq!(test.at(302, Some(Severity::Notice)), ["disappeared"]);
        assert_eq!(test.at(340, Some(Severity::Warning)), ["appeared", "began"]);
        assert_eq!(test.at(341, Some(Severity::Notice)), ["disappeared"]);
        assert_eq!(test.at(460, Some(Severity::Notice)), ["ended"]);
    }

    #[test]
    fn short_problem_is_not_announced() {
        let mut test = Test::new();
        test.at(0, Some(Severity::Warning));
        assert_eq!(test.at(10, None), ["disappeared"]);
        assert_eq!(test.at(500, None), [""; 0]);
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
            test.at(0, Some(Severity::Critical));
            test.at(40, Some(Severity::Critical));
            test.ending = ending(first);
            assert_eq!(test.at(41, None), ["disappeared"]);
            test.ending = ending(then);
            assert_eq!(test.at(200, None), ["ended"]);
            assert_eq!(test.ended, [told]);
        }
    }
}
