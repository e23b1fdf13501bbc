//! What senders, receiver and test did, and the rules that every such history must keep: pure, and blind to how the
//! gateway does it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// One copy of an event that a sender sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: String,
    pub body: Bytes,
    pub began: Instant,
    pub ended: Instant,
    /// Status and outcome, if there was an answer.
    pub answer: Option<(u16, String)>,
}

/// One attempt at handing an event over, as the receiver saw it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: String,
    pub body: Vec<u8>,
    pub began: Instant,
    /// `None` while it is open.
    pub ended: Option<Instant>,
    /// What was answered, when all of it was written.
    pub status: Option<u16>,
    /// Whether the receiver was told that it may have it already.
    pub marked: bool,
}

/// A time in which the gateway was killed, or its disk failed: the outcome of what it was doing is unknown.
#[derive(Clone, Copy, Debug)]
pub struct Disturbance {
    pub from: Instant,
    pub to: Instant,
}

impl Disturbance {
    /// One that is over.
    pub fn since(from: Instant) -> Self {
        Self {
            from,
            to: Instant::now(),
        }
    }
}

/// What `duplicate` tells a sender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duplicate {
    /// The event was handed over: the route has no queue.
    IsDelivered,
    /// The event was handed over, or will be.
    IsAccepted,
}

/// Everything that happened to some events on one route.
#[derive(Clone, Debug)]
pub struct History {
    pub duplicate: Duplicate,
    pub sent: Vec<Sent>,
    pub attempts: Vec<Attempt>,
    pub disturbances: Vec<Disturbance>,
    /// The IDs that were dead letters at the end.
    pub dead: BTreeSet<String>,
}

/// A promise that was broken for one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// Acknowledged, and neither taken by the receiver nor among the dead letters.
    Lost,
    /// Forwarded after a sender had been told that it was delivered.
    ForwardedAgain,
    /// Forwarded after the receiver had taken it, and nothing had happened that could make this uncertain.
    Repeated,
    /// Forwarded after the receiver had taken it, and the receiver was not told so.
    Unmarked,
    /// Two attempts at one time.
    Overlapping,
    /// Forwarded with another body than it was sent with.
    Altered,
    /// Forwarded, and never sent.
    Invented,
}

impl Attempt {
    fn was_taken(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

impl Sent {
    pub fn outcome(&self) -> Option<&str> {
        self.answer.as_ref().map(|(_, outcome)| outcome.as_str())
    }
}

impl History {
    /// Every broken promise, by event ID.
    pub fn violations(&self) -> BTreeSet<(String, Violation)> {
        let mut sent: HashMap<&str, Vec<&Sent>> = HashMap::new();
        for copy in &self.sent {
            sent.entry(&copy.id).or_default().push(copy);
        }
        let mut attempts: HashMap<&str, Vec<&Attempt>> = HashMap::new();
        for attempt in &self.attempts {
            attempts.entry(&attempt.id).or_default().push(attempt);
        }
        let mut found = BTreeSet::new();
        for (id, copies) in &sent {
            let mut attempts = attempts.remove(id).unwrap_or_default();
            attempts.sort_by_key(|attempt| attempt.began);
            let broken = self.of_event(id, copies, &attempts);
            found.extend(
                broken
                    .into_iter()
                    .map(|violation| ((*id).to_owned(), violation)),
            );
        }
        found.extend(
            attempts
                .keys()
                .map(|id| ((*id).to_owned(), Violation::Invented)),
        );
        found
    }

    #[track_caller]
    pub fn assert_sound(&self) {
        let violations = self.violations();
        if let Some((id, _)) = violations.first() {
            let some: Vec<_> = violations.iter().take(10).collect();
            panic!(
                "{} broken promises, such as {some:?}; one of the stories:\n{}",
                violations.len(),
                self.story(id)
            );
        }
    }

    /// How many events were acknowledged.
    pub fn acknowledged(&self) -> usize {
        let acknowledged = self.sent.iter().filter(|copy| self.acknowledges(copy));
        acknowledged
            .map(|copy| &copy.id)
            .collect::<BTreeSet<_>>()
            .len()
    }

    fn of_event(&self, id: &str, copies: &[&Sent], attempts: &[&Attempt]) -> Vec<Violation> {
        let mut broken = Vec::new();
        let acknowledged = copies.iter().any(|copy| self.acknowledges(copy));
        if acknowledged
            && !attempts.iter().any(|attempt| attempt.was_taken())
            && !self.dead.contains(id)
        {
            broken.push(Violation::Lost);
        }
        let told = copies
            .iter()
            .filter(|copy| self.tells_of_delivery(copy))
            .map(|copy| copy.ended)
            .min();
        if attempts
            .iter()
            .any(|attempt| told.is_some_and(|told| attempt.began > told))
        {
            broken.push(Violation::ForwardedAgain);
        }
        let after_taken = attempts
            .iter()
            .skip_while(|attempt| !attempt.was_taken())
            .skip(1);
        if after_taken.into_iter().any(|attempt| !attempt.marked) {
            broken.push(Violation::Unmarked);
        }
        for pair in attempts.windows(2) {
            if pair[0].was_taken() && !self.disturbed_between(pair[0].began, pair[1].began) {
                broken.push(Violation::Repeated);
            }
            if pair[0].ended.is_none_or(|ended| ended > pair[1].began) {
                broken.push(Violation::Overlapping);
            }
        }
        if attempts
            .iter()
            .any(|attempt| copies.iter().all(|copy| copy.body != attempt.body))
        {
            broken.push(Violation::Altered);
        }
        broken
    }

    fn acknowledges(&self, copy: &Sent) -> bool {
        matches!(copy.outcome(), Some("queued"))
            || self.tells_of_delivery(copy)
            || copy.outcome() == Some("duplicate")
    }

    fn tells_of_delivery(&self, copy: &Sent) -> bool {
        match copy.outcome() {
            Some("delivered") => true,
            Some("duplicate") => self.duplicate == Duplicate::IsDelivered,
            _ => false,
        }
    }

    fn disturbed_between(&self, earlier: Instant, later: Instant) -> bool {
        self.disturbances
            .iter()
            .any(|disturbance| disturbance.from <= later && disturbance.to >= earlier)
    }

    /// What happened to one event, in order.
    fn story(&self, id: &str) -> String {
        let mut lines: Vec<(Instant, String)> = Vec::new();
        for copy in self.sent.iter().filter(|copy| copy.id == id) {
            lines.push((copy.began, "sent".into()));
            lines.push((copy.ended, format!("answered {:?}", copy.answer)));
        }
        for attempt in self.attempts.iter().filter(|attempt| attempt.id == id) {
            let mark = if attempt.marked { ", marked" } else { "" };
            lines.push((attempt.began, format!("attempt begins{mark}")));
            let end = attempt.ended.unwrap_or(attempt.began);
            lines.push((
                end,
                format!(
                    "attempt ends: {:?}{}",
                    attempt.status,
                    if attempt.ended.is_none() {
                        ", open"
                    } else {
                        ""
                    }
                ),
            ));
        }
        let (first, last) = (
            lines.iter().map(|line| line.0).min(),
            lines.iter().map(|line| line.0).max(),
        );
        for disturbance in &self.disturbances {
            if first.is_some_and(|first| disturbance.to >= first)
                && last.is_some_and(|last| disturbance.from <= last)
            {
                lines.push((disturbance.from, "disturbance begins".into()));
                lines.push((disturbance.to, "disturbance ends".into()));
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        let start = lines.first().map(|(at, _)| *at);
        let line = |(at, what): &(Instant, String)| {
            format!(
                "  {:>10.3} ms  {what}\n",
                start
                    .map_or(Duration::ZERO, |start| *at - start)
                    .as_secs_f64()
                    * 1e3
            )
        };
        format!("{id}\n{}", lines.iter().map(line).collect::<String>())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of one event, told in milliseconds.
    struct Told {
        start: Instant,
        history: History,
    }

    impl Told {
        fn new(duplicate: Duplicate) -> Self {
            let history = History {
                duplicate,
                sent: Vec::new(),
                attempts: Vec::new(),
                disturbances: Vec::new(),
                dead: BTreeSet::new(),
            };
            Self {
                start: Instant::now(),
                history,
            }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn sent(mut self, from: u64, to: u64, outcome: Option<&str>) -> Self {
            let answer = outcome.map(|outcome| (200, outcome.to_owned()));
            let (began, ended) = (self.at(from), self.at(to));
            self.history.sent.push(Sent {
                id: "evt".into(),
                body: "body".into(),
                began,
                ended,
                answer,
            });
            self
        }

        fn attempt(mut self, from: u64, to: Option<u64>, status: Option<u16>) -> Self {
            let (began, ended) = (self.at(from), to.map(|to| self.at(to)));
            let (id, body, marked) = (
                "evt".into(),
                b"body".into(),
                !self.history.attempts.is_empty(),
            );
            self.history.attempts.push(Attempt {
                id,
                body,
                began,
                ended,
                status,
                marked,
            });
            self
        }

        fn disturbed(mut self, from: u64, to: u64) -> Self {
            self.history.disturbances.push(Disturbance {
                from: self.at(from),
                to: self.at(to),
            });
            self
        }

        fn found(&self) -> Vec<Violation> {
            self.history
                .violations()
                .into_iter()
                .map(|(_, violation)| violation)
                .collect()
        }
    }

    const TAKEN: Option<u16> = Some(200);

    fn proxied() -> Told {
        Told::new(Duplicate::IsDelivered)
    }

    fn queued() -> Told {
        Told::new(Duplicate::IsAccepted)
    }

    #[test]
    fn what_should_happen_breaks_no_promise() {
        let plain = proxied()
            .sent(0, 9, Some("delivered"))
            .attempt(2, Some(5), TAKEN)
            .sent(20, 21, Some("duplicate"));
        assert_eq!(plain.found(), []);
        let refused =
            proxied()
                .sent(0, 9, Some("upstream_rejected"))
                .attempt(2, Some(5), Some(500));
        assert_eq!(refused.found(), []);
        let second = refused
            .sent(10, 19, Some("delivered"))
            .attempt(12, Some(15), TAKEN);
        assert_eq!(second.found(), []);
        let later = queued()
            .sent(0, 5, Some("queued"))
            .attempt(9, Some(10), Some(503))
            .attempt(20, Some(21), TAKEN);
        assert_eq!(later.found(), []);
        let unanswered = proxied().sent(0, 5, None);
        assert_eq!(unanswered.found(), [], "nobody was promised anything");
    }

    #[test]
    fn an_acknowledged_event_that_nobody_took_is_lost() {
        assert_eq!(
            queued().sent(0, 5, Some("queued")).found(),
            [Violation::Lost]
        );
        let refused = queued()
            .sent(0, 5, Some("queued"))
            .attempt(6, Some(7), Some(500))
            .attempt(8, Some(9), None);
        assert_eq!(refused.found(), [Violation::Lost]);
        assert_eq!(
            proxied().sent(0, 5, Some("delivered")).found(),
            [Violation::Lost]
        );
        // The 202 itself was lost with the gateway; the copy's answer is an acknowledgement too.
        assert_eq!(
            queued()
                .sent(0, 5, None)
                .sent(6, 7, Some("duplicate"))
                .found(),
            [Violation::Lost]
        );
        assert_eq!(
            proxied().sent(6, 7, Some("duplicate")).found(),
            [Violation::Lost]
        );
    }

    #[test]
    fn a_dead_letter_is_not_lost() {
        let mut dead = queued()
            .sent(0, 5, Some("queued"))
            .attempt(6, Some(7), Some(410));
        dead.history.dead.insert("evt".into());
        assert_eq!(dead.found(), []);
    }

    #[test]
    fn an_attempt_after_the_sender_was_told_of_delivery_is_found_even_when_the_gateway_was_killed()
    {
        let again = proxied()
            .sent(0, 9, Some("delivered"))
            .attempt(2, Some(5), TAKEN)
            .attempt(20, Some(21), TAKEN);
        let again = again.disturbed(10, 11);
        assert_eq!(again.found(), [Violation::ForwardedAgain]);
        let told_by_a_copy =
            proxied()
                .sent(0, 9, None)
                .attempt(2, Some(5), TAKEN)
                .sent(10, 12, Some("duplicate"));
        let told_by_a_copy = told_by_a_copy
            .attempt(20, Some(21), Some(500))
            .disturbed(13, 14);
        assert_eq!(told_by_a_copy.found(), [Violation::ForwardedAgain]);
    }

    #[test]
    fn behind_a_queue_a_duplicate_may_still_wait_for_its_delivery() {
        let waiting = queued()
            .sent(0, 5, Some("queued"))
            .sent(6, 7, Some("duplicate"))
            .attempt(9, Some(10), TAKEN);
        assert_eq!(waiting.found(), []);
        // Spilled or passed on at once: `delivered` means the same everywhere.
        let delivered = queued()
            .sent(0, 5, Some("delivered"))
            .attempt(1, Some(2), TAKEN)
            .attempt(9, Some(10), TAKEN);
        assert_eq!(
            delivered.found(),
            [Violation::ForwardedAgain, Violation::Repeated]
        );
    }

    #[test]
    fn an_attempt_after_one_that_was_taken_needs_a_disturbance_between() {
        let repeated = || {
            queued()
                .sent(0, 5, Some("queued"))
                .attempt(6, Some(7), TAKEN)
                .attempt(20, Some(21), TAKEN)
        };
        assert_eq!(repeated().found(), [Violation::Repeated]);
        assert_eq!(
            repeated().disturbed(0, 4).found(),
            [Violation::Repeated],
            "it was over before"
        );
        assert_eq!(
            repeated().disturbed(25, 30).found(),
            [Violation::Repeated],
            "it came later"
        );
        assert_eq!(repeated().disturbed(8, 9).found(), []);
        assert_eq!(
            repeated().disturbed(0, 6).found(),
            [],
            "it ended while the attempt was open"
        );
    }

    #[test]
    fn an_attempt_after_one_that_was_taken_is_marked_whatever_happened_between() {
        let marks = |marks: [bool; 3]| {
            let mut told = queued()
                .sent(0, 5, Some("queued"))
                .attempt(6, Some(7), Some(500))
                .attempt(8, Some(9), TAKEN);
            told = told.disturbed(10, 11).attempt(20, Some(21), TAKEN);
            told.history
                .attempts
                .iter_mut()
                .zip(marks)
                .for_each(|(attempt, marked)| attempt.marked = marked);
            told.found()
        };
        assert_eq!(marks([false, false, true]), []);
        assert_eq!(marks([false, true, false]), [Violation::Unmarked]);
    }

    #[test]
    fn two_attempts_at_one_time_are_found() {
        let sent = || queued().sent(0, 5, Some("queued"));
        let overlapping = sent()
            .attempt(6, Some(20), Some(500))
            .attempt(10, Some(30), TAKEN);
        assert_eq!(overlapping.found(), [Violation::Overlapping]);
        assert_eq!(
            sent()
                .attempt(6, None, None)
                .attempt(10, Some(30), TAKEN)
                .found(),
            [Violation::Overlapping]
        );
        let out_of_order = sent()
            .attempt(10, Some(30), TAKEN)
            .attempt(6, Some(20), Some(500));
        assert_eq!(out_of_order.found(), [Violation::Overlapping]);
        assert_eq!(
            sent()
                .attempt(6, Some(10), Some(500))
                .attempt(10, Some(30), TAKEN)
                .found(),
            []
        );
    }

    #[test]
    fn another_body_and_an_event_nobody_sent_are_found() {
        let mut altered = queued()
            .sent(0, 5, Some("queued"))
            .attempt(6, Some(7), TAKEN);
        altered.history.attempts[0].body.push(b' ');
        assert_eq!(altered.found(), [Violation::Altered]);
        assert_eq!(
            queued().attempt(6, Some(7), TAKEN).found(),
            [Violation::Invented]
        );
    }

    #[test]
    fn every_event_is_judged_by_itself() {
        let mut two = queued()
            .sent(0, 5, Some("queued"))
            .attempt(6, Some(20), TAKEN)
            .sent(0, 5, Some("queued"));
        two.history.sent[1].id = "other".into();
        assert_eq!(
            two.history.violations().into_iter().collect::<Vec<_>>(),
            [("other".into(), Violation::Lost)]
        );
        assert_eq!(two.history.acknowledged(), 2);
    }
}
