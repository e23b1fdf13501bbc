//! The last requests that were rejected or verified and not delivered, those that `enforce: false` let
//! pass, and the number of rejections in the last hour.
//!
//! Anyone can cause rejections, at any rate. So a rejection costs a short lock of its own route and
//! a count. Only the first few per second and kind are kept, and one kind does not displace the
//! others.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::outcome::{Code, Disposition, TOO_MANY_COPIES};

/// The code and the reason of a rejection. Both come from closed sets, so there are some dozens of
/// kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionKind {
    pub code: Code,
    /// The detail that the code does not give.
    pub reason: Option<&'static str>,
    /// Set if the request was let pass nevertheless, on a route with `enforce: false`.
    pub let_pass: bool,
}

impl RejectionKind {
    /// Returns whether requests of this kind count as rejected. Duplicates and ignored events are
    /// normal, unless a body came too often, and what was let pass was not rejected.
    fn counts(self) -> bool {
        !self.let_pass && (self.code.is_rejection() || self.reason == Some(TOO_MANY_COPIES))
    }
}

impl fmt::Display for RejectionKind {
    /// Writes the kind as in `invalid_signature/mismatch`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.as_str())?;
        self.reason.map_or(Ok(()), |reason| write!(f, "/{reason}"))
    }
}

/// A request that was not delivered, or that verification would have rejected. Holds no body, no query and only one header, so that it contains
/// no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub at: Timestamp,
    pub kind: RejectionKind,
    pub status: u16,
    pub method: Box<str>,
    /// The path without the query, which may hold a token.
    pub path: Box<str>,
    pub peer: Option<IpAddr>,
    /// The number of body bytes that were read.
    pub body_bytes: Option<usize>,
    pub trace_id: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
    /// The ID and the type of the event, if the request was verified and has them.
    pub event_id: Option<Arc<str>>,
    pub event_type: Option<Arc<str>>,
    /// The ID of the request, if it was captured.
    pub capture_id: Option<Arc<str>>,
}

/// The number of a rejection that was kept. Numbers are not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionId(u64);

/// A rejection that was kept.
#[derive(Debug, Clone)]
pub struct RecentRejection {
    pub rejection: Arc<Rejection>,
    /// The number of rejections of the same kind that followed and were not kept.
    pub suppressed: u64,
    /// The reason of the rejection in words, if this request was explained.
    pub explanation: Option<Arc<str>>,
}

/// The number of rejections of one kind in the last hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionCount {
    pub kind: RejectionKind,
    pub count: u64,
    pub last_at: Timestamp,
}

/// A route's rejections.
pub struct RejectionHistory {
    since: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The oldest first.
    kept: VecDeque<(RejectionId, RecentRejection)>,
    /// The number of rejections that were kept so far.
    last_id: u64,
    counts: Vec<KindCount>,
    unsampled: UnsampledRejections,
}

/// The rejections since the last sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct UnsampledRejections {
    /// The first request that failed a check.
    pub first_rejected: Option<Timestamp>,
    /// The requests that failed a check and came from clients that were verified before.
    pub familiar: u64,
    /// The first request that was refused because its route accepts none.
    pub first_refused: Option<Timestamp>,
    /// The requests that did not verify and were answered as verified ones are, as the route has
    /// `enforce: false`.
    pub let_pass: u64,
}

/// The counts of one kind.
struct KindCount {
    kind: RejectionKind,
    last_at: Timestamp,
    /// The number of each minute, with its count. Minute `n` is at index `n % MINUTES`.
    minutes: [(u64, u64); MINUTES],
    /// The second of the last rejection, and the number of rejections in it.
    second: u64,
    count_in_second: u32,
}

/// The number of rejections that are kept per route: 100, each about 1 KiB.
const KEPT_MAX: usize = 100;
/// The number of rejections that are kept per second and kind. Further ones are counted with the
/// last one that was kept.
const KEPT_PER_SECOND: u32 = 10;
/// The longest path that is kept, in bytes.
pub(super) const PATH_MAX: usize = 256;
/// The longest method that is kept, in bytes.
const METHOD_MAX: usize = 16;
/// The longest user agent that is kept, in bytes.
const USER_AGENT_MAX: usize = 128;

const MINUTES: usize = 60;
const MINUTE_SECONDS: u64 = 60;

impl Rejection {
    /// Sets these texts, each cut to the length that is kept.
    #[must_use]
    pub fn of_request(self, method: &str, path: &str, user_agent: Option<&[u8]>) -> Self {
        let user_agent = user_agent.map(|value| value.get(..USER_AGENT_MAX).unwrap_or(value));
        Self {
            method: truncate(method, METHOD_MAX).into(),
            path: truncate(path, PATH_MAX).into(),
            user_agent: user_agent
                .map(|value| truncate(&String::from_utf8_lossy(value), USER_AGENT_MAX).into()),
            ..self
        }
    }
}

impl RejectionHistory {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            state: Mutex::default(),
        }
    }

    /// Remembers the time of a rejection until the next sample. `is_familiar` says that its client
    /// was verified before. Call this before the rejection is counted.
    pub fn enter(&self, code: Code, at: Timestamp, is_familiar: bool) {
        let mut state = self.state();
        let unsampled = &mut state.unsampled;
        if code.disposition() == Disposition::Rejected {
            unsampled.first_rejected.get_or_insert(at);
            unsampled.familiar += u64::from(is_familiar);
        } else if code == Code::Inactive {
            unsampled.first_refused.get_or_insert(at);
        }
    }

    /// Enters a request that did not verify and is answered as a verified one is, before it is
    /// counted.
    pub fn enter_let_pass(&self) {
        self.state().unsampled.let_pass += 1;
    }

    /// Returns the rejections that were entered since this was called last.
    pub(super) fn take_unsampled(&self) -> UnsampledRejections {
        std::mem::take(&mut self.state().unsampled)
    }

    /// Counts a rejection, and keeps the one that `describe` returns if its kind is below the
    /// limit, or if `is_kept`: then this request will be explained.
    pub fn record(
        &self,
        kind: RejectionKind,
        at: Timestamp,
        now: Instant,
        is_kept: bool,
        describe: impl FnOnce() -> Rejection,
    ) -> Option<RejectionId> {
        let second = self.uptime(now).as_secs();
        let mut state = self.state();
        if !state.count(kind, at, second) && !is_kept {
            let last = state
                .kept
                .iter_mut()
                .rfind(|(_, kept)| kept.rejection.kind == kind);
            if let Some((_, last)) = last {
                last.suppressed += 1;
                return None;
            }
        }
        Some(state.keep(describe()))
    }

    /// Adds the explanation to a rejection, if it is still kept.
    pub fn explain(&self, id: RejectionId, text: Arc<str>) {
        let mut state = self.state();
        let kept = state.kept.iter_mut().rfind(|(kept, _)| *kept == id);
        if let Some((_, kept)) = kept {
            kept.explanation = Some(text);
        }
    }

    /// Returns the rejections that were kept, the newest first.
    pub fn recent(&self) -> Vec<RecentRejection> {
        self.state()
            .kept
            .iter()
            .rev()
            .map(|(_, kept)| kept.clone())
            .collect()
    }

    /// Counts the rejections of the last hour, to the minute, with the most frequent kind first.
    pub fn last_hour(&self, now: Instant) -> Vec<RejectionCount> {
        self.last_minutes(MINUTES, now)
    }

    /// Counts the rejections of the last minutes, the running one included, with the most frequent
    /// kind first. At most an hour is known.
    pub fn last_minutes(&self, minutes: usize, now: Instant) -> Vec<RejectionCount> {
        let minute = self.uptime(now).as_secs() / MINUTE_SECONDS;
        let mut kinds: Vec<_> = self
            .state()
            .counts
            .iter()
            .filter(|count| count.kind.counts())
            .map(|count| count.last_minutes(minutes, minute))
            .filter(|kind| kind.count > 0)
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds
    }

    fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts a rejection. Returns whether its kind is still below the limit of this second.
    fn count(&mut self, kind: RejectionKind, at: Timestamp, second: u64) -> bool {
        let known = self.counts.iter().position(|count| count.kind == kind);
        let index = known.unwrap_or_else(|| {
            self.counts.push(KindCount {
                kind,
                last_at: at,
                minutes: [(0, 0); MINUTES],
                second,
                count_in_second: 0,
            });
            self.counts.len() - 1
        });
        self.counts[index].add(at, second)
    }

    /// Keeps a rejection. If there is no room, the oldest one of the most frequent kind is removed.
    fn keep(&mut self, rejection: Rejection) -> RejectionId {
        if self.kept.len() >= KEPT_MAX {
            let most_frequent = self
                .counts
                .iter()
                .map(|count| count.kind)
                .max_by_key(|kind| self.kept_of_kind(*kind));
            let oldest = self
                .kept
                .iter()
                .position(|(_, kept)| Some(kept.rejection.kind) == most_frequent);
            self.kept.remove(oldest.unwrap_or_default());
        }
        self.last_id += 1;
        let id = RejectionId(self.last_id);
        let kept = RecentRejection {
            rejection: Arc::new(rejection),
            suppressed: 0,
            explanation: None,
        };
        self.kept.push_back((id, kept));
        id
    }

    fn kept_of_kind(&self, kind: RejectionKind) -> usize {
        self.kept
            .iter()
            .filter(|(_, kept)| kept.rejection.kind == kind)
            .count()
    }
}

impl KindCount {
    /// Counts one rejection. Returns whether the kind is still below the limit of this second.
    fn add(&mut self, at: Timestamp, second: u64) -> bool {
        self.last_at = at;
        let minute = second / MINUTE_SECONDS;
        let index = usize::try_from(minute % MINUTES as u64).unwrap_or_default();
        let (number, count) = &mut self.minutes[index];
        if *number != minute {
            (*number, *count) = (minute, 0);
        }
        *count += 1;
        if self.second != second {
            (self.second, self.count_in_second) = (second, 0);
        }
        self.count_in_second = self.count_in_second.saturating_add(1);
        self.count_in_second <= KEPT_PER_SECOND
    }

    /// Returns the count of the hour that ends with `minute`.
    fn last_minutes(&self, minutes: usize, minute: u64) -> RejectionCount {
        RejectionCount {
            kind: self.kind,
            count: self
                .minutes
                .iter()
                .filter(|(number, _)| number + minutes as u64 > minute)
                .map(|(_, count)| count)
                .sum(),
            last_at: self.last_at,
        }
    }
}

/// Returns the first bytes of a text, in whole characters.
fn truncate(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len()))
        .rev()
        .find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const MISMATCH: RejectionKind = RejectionKind {
        code: Code::InvalidSignature,
        reason: Some("mismatch"),
        let_pass: false,
    };
    const STALE: RejectionKind = RejectionKind {
        code: Code::InvalidSignature,
        reason: Some("stale"),
        let_pass: false,
    };

    fn rejection(kind: RejectionKind) -> Rejection {
        Rejection {
            at: Timestamp::UNIX_EPOCH,
            kind,
            status: 401,
            method: Box::default(),
            path: Box::default(),
            peer: None,
            body_bytes: None,
            trace_id: None,
            user_agent: None,
            event_id: None,
            event_type: None,
            capture_id: None,
        }
    }

    fn record(rejections: &RejectionHistory, kind: RejectionKind, at_second: u64) {
        let now = rejections.since + Duration::from_secs(at_second);
        rejections.record(kind, Timestamp::UNIX_EPOCH, now, false, || rejection(kind));
    }

    fn in_last_hour(rejections: &RejectionHistory, at_second: u64) -> Vec<(RejectionKind, u64)> {
        let counts = rejections.last_hour(rejections.since + Duration::from_secs(at_second));
        counts
            .into_iter()
            .map(|rejected| (rejected.kind, rejected.count))
            .collect()
    }

    #[test]
    fn flood_is_fully_counted_and_keeps_a_bounded_number() {
        let rejections = RejectionHistory::new(Instant::now());
        record(&rejections, STALE, 0);
        for number in 0..100_000 {
            record(&rejections, MISMATCH, number / 1000);
        }
        assert_eq!(
            in_last_hour(&rejections, 100),
            [(MISMATCH, 100_000), (STALE, 1)]
        );
        let recent = rejections.recent();
        assert_eq!(recent.len(), KEPT_MAX);
        let newest = &recent[0];
        assert_eq!((newest.rejection.kind, newest.suppressed), (MISMATCH, 990));
        assert_eq!(
            recent[99].rejection.kind, STALE,
            "the flood has not displaced the rare kind"
        );
        // Ten per second are kept, and the last of them counts the others.
        assert!(
            recent[..99]
                .chunks(10)
                .all(|second| second[0].suppressed == 990
                    && second[1..].iter().all(|kept| kept.suppressed == 0))
        );
    }

    #[test]
    fn count_ends_after_an_hour_and_kept_rejections_stay() {
        let rejections = RejectionHistory::new(Instant::now());
        record(&rejections, MISMATCH, 30);
        record(&rejections, MISMATCH, 1830);
        assert_eq!(in_last_hour(&rejections, 3599), [(MISMATCH, 2)]);
        assert_eq!(in_last_hour(&rejections, 3600), [(MISMATCH, 1)]);
        assert_eq!(in_last_hour(&rejections, 5400), []);
        assert_eq!(rejections.recent().len(), 2);
        record(&rejections, MISMATCH, 7200);
        assert_eq!(in_last_hour(&rejections, 7200), [(MISMATCH, 1)]);
    }

    #[test]
    fn let_pass_is_listed_and_not_counted() {
        let rejections = RejectionHistory::new(Instant::now());
        let let_pass = RejectionKind {
            let_pass: true,
            ..MISMATCH
        };
        for _ in 0..1000 {
            record(&rejections, let_pass, 0);
        }
        record(&rejections, MISMATCH, 0);
        assert_eq!(in_last_hour(&rejections, 0), [(MISMATCH, 1)]);
        let recent = rejections.recent();
        assert_eq!((recent.len(), recent[1].suppressed), (11, 990));
        assert!(recent[1].rejection.kind.let_pass);
    }

    #[test]
    fn explained_rejection_is_kept_in_a_flood() {
        let rejections = RejectionHistory::new(Instant::now());
        for _ in 0..50 {
            record(&rejections, MISMATCH, 0);
        }
        let now = rejections.since;
        let id = rejections.record(MISMATCH, Timestamp::UNIX_EPOCH, now, true, || {
            rejection(MISMATCH)
        });
        record(&rejections, MISMATCH, 0);
        rejections.explain(id.unwrap(), "because".into());
        let recent = rejections.recent();
        assert_eq!((recent.len(), recent[0].suppressed), (11, 1));
        assert_eq!(recent[0].explanation.as_deref(), Some("because"));
        assert_eq!(recent[1].explanation, None);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let long = "ü".repeat(500);
        let rejection = rejection(STALE).of_request(&long, &long, Some(long.as_bytes()));
        let lengths = [
            &rejection.method,
            &rejection.path,
            rejection.user_agent.as_ref().unwrap(),
        ]
        .map(|text| text.len());
        assert_eq!(lengths, [METHOD_MAX, PATH_MAX, USER_AGENT_MAX]);
        let broken = self::rejection(STALE).of_request("POST", "/", Some(&[0xff; 200]));
        assert!(
            broken
                .user_agent
                .is_some_and(|text| text.len() <= USER_AGENT_MAX)
        );
    }
}
