//! The last requests that were turned away, and how many there were in the last hour.
//!
//! Anybody can cause them, at any rate. So a rejection costs a short lock of its own route and a count; only the first few
//! a second of each kind are written down, and those of one kind don't drive out the others.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::outcome::Code;

/// What was turned away, and why: both from closed sets, so there are some dozens of kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionKind {
    pub code: Code,
    /// More than the code says.
    pub reason: Option<&'static str>,
}

impl fmt::Display for RejectionKind {
    /// As in `invalid_signature/mismatch`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.as_str())?;
        self.reason.map_or(Ok(()), |reason| write!(f, "/{reason}"))
    }
}

/// A request that was turned away. Holds no body and of its headers one: nothing that proves anything, nor a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub at: Timestamp,
    pub kind: RejectionKind,
    pub status: u16,
    pub method: Box<str>,
    /// Without the query: a token may stand there.
    pub path: Box<str>,
    pub peer: Option<IpAddr>,
    /// As many as were read.
    pub body_bytes: Option<usize>,
    pub trace_id: Option<Box<str>>,
    pub user_agent: Option<Box<str>>,
}

/// How many of one kind there were in the last hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectionCount {
    pub kind: RejectionKind,
    pub count: u64,
    pub last_at: Timestamp,
}

/// A route's rejections.
pub struct RejectionHistory {
    since: Instant,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// The oldest first.
    kept: VecDeque<Kept>,
    counts: Vec<Count>,
}

struct Kept {
    rejection: Arc<Rejection>,
    /// How many like it came after it and were left out.
    left_out: u64,
}

/// One kind's counts.
struct Count {
    kind: RejectionKind,
    last_at: Timestamp,
    /// By the minute, with the number of the minute that each is of.
    minutes: [(u64, u64); MINUTES],
    /// The second of the last that was kept, and how many of it are.
    second: u64,
    kept_in_second: u32,
}

/// At most 100 × about 1 KiB a route.
const KEPT_MAX: usize = 100;
/// Of one kind. What is over that is counted with the last one that was kept.
const KEPT_A_SECOND: u32 = 10;
/// Bytes of a path, a method or a user agent that are kept.
pub const PATH_MAX: usize = 256;
const METHOD_MAX: usize = 16;
const USER_AGENT_MAX: usize = 128;

const MINUTES: usize = 60;
const MINUTE: u64 = 60;

impl Rejection {
    /// Keeps as much of these texts as has room.
    #[must_use]
    pub fn of_request(self, method: &str, path: &str, user_agent: Option<&[u8]>) -> Self {
        let user_agent = user_agent.map(|value| value.get(..USER_AGENT_MAX).unwrap_or(value));
        Self {
            method: cut(method, METHOD_MAX).into(),
            path: cut(path, PATH_MAX).into(),
            user_agent: user_agent
                .map(|value| cut(&String::from_utf8_lossy(value), USER_AGENT_MAX).into()),
            ..self
        }
    }
}

impl RejectionHistory {
    pub(super) fn new(since: Instant) -> Self {
        Self {
            since,
            book: Mutex::default(),
        }
    }

    /// Counts one, and keeps what `describe` makes of it if there are not too many.
    pub fn record(
        &self,
        kind: RejectionKind,
        at: Timestamp,
        now: Instant,
        describe: impl FnOnce() -> Rejection,
    ) {
        let second = self.running(now).as_secs();
        let mut book = self.book();
        if !book.count(kind, at, second) {
            let last = book
                .kept
                .iter_mut()
                .rfind(|kept| kept.rejection.kind == kind);
            if let Some(last) = last {
                last.left_out += 1;
                return;
            }
        }
        book.keep(describe());
    }

    /// Those that were kept, the newest first, each with how many like it came after it and were left out.
    pub fn recent(&self) -> Vec<(Arc<Rejection>, u64)> {
        self.book()
            .kept
            .iter()
            .rev()
            .map(|kept| (Arc::clone(&kept.rejection), kept.left_out))
            .collect()
    }

    /// How many there were in the last hour, to the minute; the most frequent kind first.
    pub fn last_hour(&self, now: Instant) -> Vec<RejectionCount> {
        let minute = self.running(now).as_secs() / MINUTE;
        let in_hour = |of: u64| of + MINUTES as u64 > minute;
        let rejected = |count: &Count| RejectionCount {
            kind: count.kind,
            count: count
                .minutes
                .iter()
                .filter(|(of, _)| in_hour(*of))
                .map(|(_, count)| count)
                .sum(),
            last_at: count.last_at,
        };
        let mut kinds: Vec<_> = self
            .book()
            .counts
            .iter()
            .map(rejected)
            .filter(|kind| kind.count > 0)
            .collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.count));
        kinds
    }

    fn running(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Whether there is room for another one of this kind in this second.
    fn count(&mut self, kind: RejectionKind, at: Timestamp, second: u64) -> bool {
        let known = self.counts.iter().position(|count| count.kind == kind);
        let index = known.unwrap_or_else(|| {
            self.counts.push(Count {
                kind,
                last_at: at,
                minutes: [(0, 0); MINUTES],
                second,
                kept_in_second: 0,
            });
            self.counts.len() - 1
        });
        let count = &mut self.counts[index];
        count.last_at = at;
        let minute = second / MINUTE;
        let place = usize::try_from(minute % MINUTES as u64).unwrap_or_default();
        let (of, in_minute) = &mut count.minutes[place];
        if *of != minute {
            (*of, *in_minute) = (minute, 0);
        }
        *in_minute += 1;
        if count.second != second {
            (count.second, count.kept_in_second) = (second, 0);
        }
        count.kept_in_second = count.kept_in_second.saturating_add(1);
        count.kept_in_second <= KEPT_A_SECOND
    }

    /// Where there is no room, the oldest of the kind that has most goes.
    fn keep(&mut self, rejection: Rejection) {
        if self.kept.len() >= KEPT_MAX {
            let of_kind = |kind: RejectionKind| {
                self.kept
                    .iter()
                    .filter(|kept| kept.rejection.kind == kind)
                    .count()
            };
            let most = self
                .counts
                .iter()
                .map(|count| count.kind)
                .max_by_key(|kind| of_kind(*kind));
            let oldest = self
                .kept
                .iter()
                .position(|kept| Some(kept.rejection.kind) == most);
            self.kept.remove(oldest.unwrap_or_default());
        }
        self.kept.push_back(Kept {
            rejection: Arc::new(rejection),
            left_out: 0,
        });
    }
}

/// The first bytes of a text, whole characters only.
fn cut(text: &str, bytes: usize) -> &str {
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
    };
    const STALE: RejectionKind = RejectionKind {
        code: Code::InvalidSignature,
        reason: Some("stale"),
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
        }
    }

    fn note(rejections: &RejectionHistory, kind: RejectionKind, at_second: u64) {
        let now = rejections.since + Duration::from_secs(at_second);
        rejections.record(kind, Timestamp::UNIX_EPOCH, now, || rejection(kind));
    }

    fn in_last_hour(rejections: &RejectionHistory, at_second: u64) -> Vec<(RejectionKind, u64)> {
        let counts = rejections.last_hour(rejections.since + Duration::from_secs(at_second));
        counts
            .into_iter()
            .map(|rejected| (rejected.kind, rejected.count))
            .collect()
    }

    #[test]
    fn a_flood_is_counted_to_the_last_one_and_keeps_a_bounded_number() {
        let rejections = RejectionHistory::new(Instant::now());
        note(&rejections, STALE, 0);
        for number in 0..100_000 {
            note(&rejections, MISMATCH, number / 1000);
        }
        assert_eq!(
            in_last_hour(&rejections, 100),
            [(MISMATCH, 100_000), (STALE, 1)]
        );
        let recent = rejections.recent();
        assert_eq!(recent.len(), KEPT_MAX);
        assert_eq!((recent[0].0.kind, recent[0].1), (MISMATCH, 990));
        assert_eq!(
            recent[99].0.kind, STALE,
            "the flood has not driven out what is rare"
        );
        // Ten a second are kept, and the last of them counts those that are not.
        assert!(
            recent[..99]
                .chunks(10)
                .all(|second| second[0].1 == 990 && second[1..].iter().all(|kept| kept.1 == 0))
        );
    }

    #[test]
    fn an_hour_later_nothing_is_left_of_a_count_and_the_last_ones_are_still_known() {
        let rejections = RejectionHistory::new(Instant::now());
        note(&rejections, MISMATCH, 30);
        note(&rejections, MISMATCH, 1830);
        assert_eq!(in_last_hour(&rejections, 3599), [(MISMATCH, 2)]);
        assert_eq!(in_last_hour(&rejections, 3600), [(MISMATCH, 1)]);
        assert_eq!(in_last_hour(&rejections, 5400), []);
        assert_eq!(rejections.recent().len(), 2);
        note(&rejections, MISMATCH, 7200);
        assert_eq!(in_last_hour(&rejections, 7200), [(MISMATCH, 1)]);
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
