//! Which server of a database may be used. A database that is replicated exists several times, and
//! after a failover an older copy may come back and accept writes: the rules here tell it from the
//! one that goes on.

use std::fmt;

use uuid::Uuid;

/// The time by which a clock that was seen may go back on the same server. A crash of a server that
/// does not wait for its disk loses some seconds, an old copy of its files more.
const CLOCK_SLACK_MS: i64 = 60_000;
/// The time by which it may go back with a promotion. A standby may be behind, but a copy that is older
/// is a restored backup.
const PROMOTION_SLACK_MS: i64 = 15 * 60_000;

/// What a server says about the store that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The key of the ledger's hashes, which no other store has.
    pub store: Uuid,
    /// The random number that changes when the server is promoted.
    pub incarnation: Uuid,
    /// The server's timeline, which is one higher after each promotion. `None` if the server does not
    /// tell it.
    pub timeline: Option<i64>,
    /// The store's time, in milliseconds, as it was last written.
    pub clock_ms: i64,
}

/// The reason why a server may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has no store, or another one.
    OtherStore,
    /// It is behind a promotion.
    Outdated { found: i64, seen: i64 },
    /// It was promoted beside the server that is used.
    Rival,
    /// Its data are older than what it had.
    WentBack { ms: i64 },
}

/// What a server is to a gateway that has used others before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server that was used before, or its first one.
    Same,
    /// The one that was promoted in its place. It lacks the last writes if its clock is behind.
    Promoted {
        behind_ms: i64,
    },
    Refused(Refusal),
}

impl Position {
    /// Judges a server by the last position that this gateway has seen, `self`.
    pub(super) fn judge(&self, found: &Self) -> Verdict {
        let behind_ms = self.clock_ms.saturating_sub(found.clock_ms);
        if found.store != self.store {
            return Verdict::Refused(Refusal::OtherStore);
        }
        if let (Some(seen), Some(found)) = (self.timeline, found.timeline)
            && found < seen
        {
            return Verdict::Refused(Refusal::Outdated { found, seen });
        }
        if found.incarnation == self.incarnation {
            return if behind_ms > CLOCK_SLACK_MS {
                Verdict::Refused(Refusal::WentBack { ms: behind_ms })
            } else {
                Verdict::Same
            };
        }
        if self.timeline < found.timeline {
            if behind_ms > PROMOTION_SLACK_MS {
                return Verdict::Refused(Refusal::WentBack { ms: behind_ms });
            }
            return Verdict::Promoted {
                behind_ms: behind_ms.max(0),
            };
        }
        Verdict::Refused(Refusal::Rival)
    }

    /// Returns whether a server whose timeline has changed may be one that was promoted in the place of
    /// the last one seen, before it has a new incarnation.
    pub(super) fn may_be_promoted_to(&self, found: &Self) -> bool {
        let is_outdated = found.timeline.is_some() && found.timeline < self.timeline;
        let behind_ms = self.clock_ms.saturating_sub(found.clock_ms);
        found.store == self.store && !is_outdated && behind_ms <= PROMOTION_SLACK_MS
    }

    /// Returns the position after another one was seen on the same server.
    #[must_use]
    pub(super) fn advanced_to(self, found: Self) -> Self {
        Self {
            clock_ms: found.clock_ms.max(self.clock_ms),
            timeline: found.timeline.or(self.timeline),
            ..found
        }
    }

    /// The order in which a gateway that has used no server yet chooses one.
    pub(super) fn rank(&self) -> (Option<i64>, i64) {
        (self.timeline, self.clock_ms)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherStore => f.write_str("it has another store than the one in use, or none"),
            Self::Outdated { found, seen } => write!(
                f,
                "another server was promoted in its place (its timeline is {found}, the other one's \
                 {seen})"
            ),
            Self::Rival => f.write_str("it was promoted, too, beside the server that is in use"),
            Self::WentBack { ms } => write!(
                f,
                "its data went back by {} s, as those of an old copy do",
                ms / 1000
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Position = Position {
        store: Uuid::from_u128(1),
        incarnation: Uuid::from_u128(2),
        timeline: Some(2),
        clock_ms: 100_000,
    };

    fn judged(change: impl FnOnce(&mut Position)) -> Verdict {
        let mut found = SEEN;
        change(&mut found);
        SEEN.judge(&found)
    }

    #[test]
    fn server_in_use_stays_in_use() {
        assert_eq!(judged(|_| {}), Verdict::Same);
        assert_eq!(judged(|found| found.clock_ms += 1), Verdict::Same);
        // A crash lost the last ticks.
        assert_eq!(
            judged(|found| found.clock_ms -= CLOCK_SLACK_MS),
            Verdict::Same
        );
        assert_eq!(judged(|found| found.timeline = None), Verdict::Same);
    }

    #[test]
    fn promoted_server_is_used_even_if_behind() {
        for (by, behind_ms) in [(5, 0), (-90_000, 90_000)] {
            let verdict = judged(|found| {
                found.incarnation = Uuid::from_u128(3);
                found.timeline = Some(3);
                found.clock_ms += by;
            });
            assert_eq!(verdict, Verdict::Promoted { behind_ms });
        }
    }

    #[test]
    fn old_copy_is_not_a_promotion() {
        let mut found = Position {
            incarnation: Uuid::from_u128(3),
            timeline: Some(3),
            clock_ms: SEEN.clock_ms - PROMOTION_SLACK_MS,
            ..SEEN
        };
        assert!(SEEN.may_be_promoted_to(&found));
        assert!(matches!(SEEN.judge(&found), Verdict::Promoted { .. }));
        found.clock_ms -= 1;
        let ms = PROMOTION_SLACK_MS + 1;
        let refused = Verdict::Refused(Refusal::WentBack { ms });
        assert!(!SEEN.may_be_promoted_to(&found));
        assert_eq!(SEEN.judge(&found), refused);
        // Before it gets a new incarnation, too.
        found.incarnation = SEEN.incarnation;
        assert_eq!(SEEN.judge(&found), refused);
    }

    #[test]
    fn server_that_went_back_is_refused() {
        let refused = |refusal| Verdict::Refused(refusal);
        assert_eq!(
            judged(|found| found.store = Uuid::from_u128(9)),
            refused(Refusal::OtherStore)
        );
        let outdated = Refusal::Outdated { found: 1, seen: 2 };
        for clock_ms in [0, 200_000] {
            let verdict = judged(|found| {
                found.incarnation = Uuid::from_u128(9);
                found.timeline = Some(1);
                found.clock_ms = clock_ms;
            });
            assert_eq!(verdict, refused(outdated));
        }
        for timeline in [Some(2), None] {
            let verdict = judged(|found| {
                found.incarnation = Uuid::from_u128(9);
                found.timeline = timeline;
            });
            assert_eq!(verdict, refused(Refusal::Rival));
        }
        assert_eq!(
            judged(|found| found.clock_ms -= CLOCK_SLACK_MS + 1),
            refused(Refusal::WentBack { ms: 60_001 })
        );
    }
}
