//! The events of a run as senders, upstream and test saw them, and the rules that every such
//! history must keep. The rules are pure and know nothing of the gateway's implementation.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use bytes::Bytes;

/// A copy of an event that a sender sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub id: String,
    pub body: Bytes,
    pub began: Instant,
    pub ended: Instant,
    /// The status and outcome of the response, if there was one.
    pub response: Option<(u16, String)>,
}

/// An attempt to deliver an event, as the upstream saw it.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub id: String,
    pub body: Vec<u8>,
    pub began: Instant,
    /// The end of the attempt; `None` while it is open.
    pub ended: Option<Instant>,
    /// The status of the response, if all of it was written.
    pub status: Option<u16>,
    /// Set if the request said that the upstream may already have the event.
    pub marked: bool,
}

/// A time in which the gateway was killed or its disk failed: the outcome of work in progress is
/// unknown.
#[derive(Clone, Copy, Debug)]
pub struct Disturbance {
    pub from: Instant,
    pub to: Instant,
    /// Set if the power was lost: what was not flushed is gone.
    pub power_loss: Option<PowerLoss>,
}

/// A loss of power.
#[derive(Clone, Copy, Debug)]
pub struct PowerLoss {
    pub durability: Durability,
    /// Set if the gateway can know of it: the machine has started again.
    pub evident: bool,
}

/// What a response waits for: `store.durability`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Durability {
    /// The flush of what the response says.
    Strict,
    /// Nothing: a loss of power may undo all that was not yet on the disk.
    Relaxed,
}

impl Disturbance {
    /// Creates a disturbance that has just ended.
    pub fn since(from: Instant) -> Self {
        Self {
            from,
            to: Instant::now(),
            power_loss: None,
        }
    }

    /// Creates a loss of power, of which the gateway has just died.
    pub fn power_loss(from: Instant, power_loss: PowerLoss) -> Self {
        Self {
            power_loss: Some(power_loss),
            ..Self::since(from)
        }
    }
}

/// The meaning of `duplicate` for a sender.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duplicate {
    /// The event was delivered: the route has no queue.
    Delivered,
    /// The event was delivered, or will be.
    Accepted,
}

/// Everything that happened to some events on one route.
#[derive(Clone, Debug)]
pub struct History {
    pub duplicate: Duplicate,
    /// Set if each event is stored before its first attempt: the route always queues.
    pub stored_first: bool,
    pub sent: Vec<Sent>,
    pub attempts: Vec<Attempt>,
    pub disturbances: Vec<Disturbance>,
    /// The IDs of the events that were dead letters at the end.
    pub dead: BTreeSet<String>,
}

/// A broken promise for one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Violation {
    /// The event was acknowledged, but neither accepted by the upstream nor among the dead letters.
    Lost,
    /// The event was forwarded after a sender had been told that it was delivered.
    ForwardedAgain,
    /// The event was forwarded after the upstream had accepted it, without a disturbance that could
    /// make this uncertain.
    Repeated,
    /// The event was forwarded after the upstream had accepted it, without the mark for a possible
    /// duplicate.
    Unmarked,
    /// Two attempts overlapped.
    Overlapping,
    /// The event was forwarded with another body than it was sent with.
    Altered,
    /// The event was forwarded, but never sent.
    Invented,
}

impl Attempt {
    fn was_accepted(&self) -> bool {
        self.status
            .is_some_and(|status| (200..300).contains(&status))
    }
}

impl Sent {
    pub fn outcome(&self) -> Option<&str> {
        self.response.as_ref().map(|(_, outcome)| outcome.as_str())
    }
}

impl History {
    /// Returns every broken promise, by event ID.
    pub fn violations(&self) -> BTreeSet<(String, Violation)> {
        let mut sent: HashMap<&str, Vec<&Sent>> = HashMap::new();
        let standing = standing(&self.sent, &self.disturbances);
        for copy in &standing {
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
            let broken = self.violations_of(id, copies, &attempts);
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
                "{} broken promises, such as {some:?}; one of the events:\n{}",
                violations.len(),
                self.describe(id)
            );
        }
    }

    /// Returns the number of acknowledged events.
    pub fn acknowledged(&self) -> usize {
        let acknowledged = self.sent.iter().filter(|copy| self.acknowledges(copy));
        acknowledged
            .map(|copy| &copy.id)
            .collect::<BTreeSet<_>>()
            .len()
    }

    fn violations_of(&self, id: &str, copies: &[&Sent], attempts: &[&Attempt]) -> Vec<Violation> {
        let mut broken = Vec::new();
        let acknowledged = copies.iter().any(|copy| self.acknowledges(copy));
        if acknowledged
            && !attempts.iter().any(|attempt| attempt.was_accepted())
            && !self.dead.contains(id)
        {
            broken.push(Violation::Lost);
        }
        let reported = copies
            .iter()
            .filter(|copy| self.reports_delivery(copy))
            .map(|copy| copy.ended)
            .min();
        if attempts
            .iter()
            .any(|attempt| reported.is_some_and(|reported| attempt.began > reported))
        {
            broken.push(Violation::ForwardedAgain);
        }
        if attempts.iter().enumerate().any(|(number, attempt)| {
            let before = attempts[..number].iter().rev();
            let accepted = before.copied().find(|before| before.was_accepted());
            accepted.is_some_and(|accepted| {
                !attempt.marked && !self.may_be_unmarked(accepted, attempt, copies)
            })
        }) {
            broken.push(Violation::Unmarked);
        }
        for pair in attempts.windows(2) {
            if pair[0].was_accepted() && !self.disturbed_between(pair[0].began, pair[1].began) {
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
            || self.reports_delivery(copy)
            || copy.outcome() == Some("duplicate")
    }

    fn reports_delivery(&self, copy: &Sent) -> bool {
        match copy.outcome() {
            Some("delivered") => true,
            Some("duplicate") => self.duplicate == Duplicate::Delivered,
            _ => false,
        }
    }

    fn disturbed_between(&self, earlier: Instant, later: Instant) -> bool {
        self.disturbances
            .iter()
            .any(|disturbance| disturbance.from <= later && disturbance.to >= earlier)
    }

    /// Returns whether a loss of power between the two attempts may have left no trace of the first
    /// (docs/semantics.md, Ledger; docs/limits.md): it was not the attempt of a stored event,
    /// nothing was flushed, or the gateway could not know of the loss.
    fn may_be_unmarked(&self, accepted: &Attempt, again: &Attempt, copies: &[&Sent]) -> bool {
        let stored_before = self.stored_first
            || copies
                .iter()
                .any(|copy| self.acknowledges(copy) && copy.ended < accepted.began);
        let losses = self.disturbances.iter().filter(|disturbance| {
            disturbance.from <= again.began && disturbance.to >= accepted.began
        });
        losses.filter_map(|disturbance| disturbance.power_loss).any(
            |PowerLoss {
                 durability,
                 evident,
             }| { durability == Durability::Relaxed || !evident || !stored_before },
        )
    }

    /// Describes what happened to one event, in order.
    fn describe(&self, id: &str) -> String {
        let mut lines: Vec<(Instant, String)> = Vec::new();
        for copy in self.sent.iter().filter(|copy| copy.id == id) {
            lines.push((copy.began, "sent".into()));
            lines.push((copy.ended, format!("answered {:?}", copy.response)));
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
                let what = match disturbance.power_loss {
                    Some(_) => "loss of power",
                    None => "disturbance",
                };
                lines.push((disturbance.from, format!("{what} begins")));
                lines.push((disturbance.to, format!("{what} ends")));
            }
        }
        lines.sort_by_key(|(at, _)| *at);
        let Some(start) = lines.first().map(|(at, _)| *at) else {
            return id.to_string();
        };
        let mut text = format!("{id}\n");
        for (at, what) in lines {
            let milliseconds = (at - start).as_secs_f64() * 1e3;
            let _ = writeln!(text, "  {milliseconds:>10.3} ms  {what}");
        }
        text
    }
}

/// Returns the copies without the responses that a loss of power may have undone. With relaxed
/// durability, these are the ones since the loss before. If all copies of an event in that time
/// were duplicates, the event was on the disk before, and stays there.
pub fn standing(sent: &[Sent], disturbances: &[Disturbance]) -> Vec<Sent> {
    let mut standing = sent.to_vec();
    let mut last_loss = None;
    for disturbance in disturbances {
        let Some(loss) = disturbance.power_loss else {
            continue;
        };
        let since = last_loss.replace(disturbance.to);
        if loss.durability == Durability::Strict {
            continue;
        }
        let is_in_doubt = |copy: &Sent| {
            since.is_none_or(|since| copy.began >= since) && copy.began < disturbance.to
        };
        let new: HashSet<&str> = sent
            .iter()
            .filter(|copy| is_in_doubt(copy) && copy.outcome() != Some("duplicate"))
            .map(|copy| copy.id.as_str())
            .collect();
        for copy in &mut standing {
            if is_in_doubt(copy) && new.contains(copy.id.as_str()) {
                copy.response = None;
            }
        }
    }
    standing
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A builder for the history of one event, with times in milliseconds.
    struct HistoryBuilder {
        start: Instant,
        history: History,
    }

    impl HistoryBuilder {
        fn new(duplicate: Duplicate) -> Self {
            let history = History {
                duplicate,
                stored_first: duplicate == Duplicate::Accepted,
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
            let response = outcome.map(|outcome| (200, outcome.to_owned()));
            let (began, ended) = (self.at(from), self.at(to));
            self.history.sent.push(Sent {
                id: "evt".into(),
                body: "body".into(),
                began,
                ended,
                response,
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
                power_loss: None,
            });
            self
        }

        fn power_lost(mut self, from: u64, to: u64, durability: Durability) -> Self {
            self = self.disturbed(from, to);
            let last = self.history.disturbances.last_mut().expect("just added");
            last.power_loss = Some(PowerLoss {
                durability,
                evident: true,
            });
            self
        }

        fn unmarked(mut self) -> Self {
            self.history.attempts.last_mut().expect("one").marked = false;
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

    fn proxied() -> HistoryBuilder {
        HistoryBuilder::new(Duplicate::Delivered)
    }

    fn queued() -> HistoryBuilder {
        HistoryBuilder::new(Duplicate::Accepted)
    }

    #[test]
    fn expected_history_breaks_no_promise() {
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
        assert_eq!(unanswered.found(), [], "no sender was promised anything");
    }

    #[test]
    fn undelivered_acknowledged_event_is_lost() {
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
        // The 202 itself was lost with the gateway, but the copy's response is an acknowledgement
        // too.
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
    fn dead_letter_is_not_lost() {
        let mut dead = queued()
            .sent(0, 5, Some("queued"))
            .attempt(6, Some(7), Some(410));
        dead.history.dead.insert("evt".into());
        assert_eq!(dead.found(), []);
    }

    #[test]
    fn attempt_after_reported_delivery_is_found() {
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
    fn queued_duplicate_may_still_await_delivery() {
        let waiting = queued()
            .sent(0, 5, Some("queued"))
            .sent(6, 7, Some("duplicate"))
            .attempt(9, Some(10), TAKEN);
        assert_eq!(waiting.found(), []);
        // On a spill route, `delivered` has the same meaning whether the event was delivered at
        // once or queued.
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
    fn repeated_delivery_needs_a_disturbance() {
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
    fn repeated_delivery_must_be_marked() {
        let marks = |marks: [bool; 3]| {
            let mut builder = queued()
                .sent(0, 5, Some("queued"))
                .attempt(6, Some(7), Some(500))
                .attempt(8, Some(9), TAKEN);
            builder = builder.disturbed(10, 11).attempt(20, Some(21), TAKEN);
            builder
                .history
                .attempts
                .iter_mut()
                .zip(marks)
                .for_each(|(attempt, marked)| attempt.marked = marked);
            builder.found()
        };
        assert_eq!(marks([false, false, true]), []);
        assert_eq!(marks([false, true, false]), [Violation::Unmarked]);
    }

    #[test]
    fn stored_events_are_marked_after_power_loss() {
        use Durability::{Relaxed, Strict};
        let stored = |durability| {
            queued()
                .sent(0, 5, None)
                .attempt(3, Some(6), TAKEN)
                .power_lost(7, 8, durability)
                .attempt(20, Some(21), TAKEN)
        };
        assert_eq!(stored(Strict).found(), []);
        assert_eq!(stored(Strict).unmarked().found(), [Violation::Unmarked]);
        assert_eq!(stored(Relaxed).unmarked().found(), []);
        let mut unseen = stored(Strict).unmarked();
        for disturbance in &mut unseen.history.disturbances {
            let loss = disturbance.power_loss.as_mut().expect("a loss of power");
            loss.evident = false;
        }
        assert_eq!(unseen.found(), []);
        let proxied = proxied()
            .sent(0, 8, None)
            .attempt(3, Some(6), TAKEN)
            .power_lost(7, 8, Strict)
            .attempt(20, Some(21), TAKEN);
        assert_eq!(proxied.unmarked().found(), []);
        let mut spilled = queued()
            .sent(0, 2, Some("queued"))
            .attempt(3, Some(6), TAKEN)
            .power_lost(7, 8, Strict)
            .attempt(20, Some(21), TAKEN)
            .unmarked();
        spilled.history.stored_first = false;
        assert_eq!(spilled.found(), [Violation::Unmarked]);
    }

    #[test]
    fn only_relaxed_power_loss_undoes_responses() {
        use Durability::{Relaxed, Strict};
        let lost = |durability| {
            queued()
                .sent(0, 5, Some("queued"))
                .sent(6, 7, Some("duplicate"))
                .power_lost(8, 9, durability)
        };
        assert_eq!(lost(Strict).found(), [Violation::Lost]);
        assert_eq!(lost(Relaxed).found(), []);
        let again = |durability| {
            proxied()
                .sent(0, 6, Some("delivered"))
                .attempt(3, Some(5), TAKEN)
                .power_lost(8, 9, durability)
                .sent(10, 20, Some("delivered"))
                .attempt(13, Some(15), TAKEN)
        };
        assert_eq!(again(Strict).found(), [Violation::ForwardedAgain]);
        assert_eq!(again(Relaxed).found(), []);
    }

    #[test]
    fn power_loss_undoes_nothing_older() {
        let known = |outcome| {
            queued()
                .sent(0, 5, Some("queued"))
                .power_lost(8, 9, Durability::Relaxed)
                .sent(10, 20, Some(outcome))
                .power_lost(28, 29, Durability::Relaxed)
        };
        assert_eq!(known("duplicate").found(), [Violation::Lost]);
        assert_eq!(known("queued").found(), []);
        let killed = queued()
            .sent(0, 5, Some("queued"))
            .disturbed(6, 7)
            .power_lost(8, 9, Durability::Relaxed);
        assert_eq!(killed.found(), [], "a kill flushes nothing");
    }

    #[test]
    fn concurrent_attempts_are_found() {
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
    fn foreign_bodies_and_events_are_found() {
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
    fn events_are_judged_separately() {
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
