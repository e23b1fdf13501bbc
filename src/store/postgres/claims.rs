//! Claims on events, among gateways: taken, given back, and taken over from those that died.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::pool::{ConnectionPool, OnTimeout, PooledConnection, QueryError, on};
use super::{Backlog, Counted};
use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, ClaimLease, ClaimResult, ClaimTerms, DeliveryId, EventKey, KnownEvent,
    LedgerEntry, RowId, StoreError,
};

/// What is asked for.
pub(super) enum Job {
    Claim(Claim),
    GiveBack(GiveBack),
}

/// A claim that goes back, and the count of what is to be written before the store closes.
pub(super) struct GiveBack {
    key: EventKey,
    token: i64,
    _counted: Counted,
}

/// The wish to claim an event.
pub(super) struct Claim {
    pub key: EventKey,
    pub token: i64,
    pub terms: ClaimTerms,
    /// When it was made.
    pub at: Instant,
    /// How it goes back.
    pub back: Jobs,
    pub done: oneshot::Sender<Result<ClaimReply, StoreError>>,
}

pub(super) enum ClaimReply {
    Is(ClaimResult),
    /// Somebody changed the row while it was looked at. Ask again.
    Unclear,
}

/// A claim that is in the database until it is settled or given back.
pub struct LeaseRow {
    key: EventKey,
    token: i64,
    until: Instant,
    back: Option<Jobs>,
}

/// How claims go back.
#[derive(Clone)]
pub(super) struct Jobs {
    pub jobs: mpsc::UnboundedSender<Job>,
    pub backlog: Arc<Backlog>,
}

impl LeaseRow {
    pub(in crate::store) fn deadline(&self) -> Instant {
        self.until
    }

    pub(in crate::store) fn mark_settled(mut self) {
        self.back = None;
    }
}

impl Drop for LeaseRow {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            back.give_back(self.key, self.token);
        }
    }
}

impl Jobs {
    fn give_back(&self, key: EventKey, token: i64) {
        // Nobody to take it back any more: the lease ends by itself.
        let given = GiveBack {
            key,
            token,
            _counted: Counted::new(&self.backlog, 0),
        };
        let _ = self.jobs.send(Job::GiveBack(given));
    }
}

/// A claim that lapsed was an attempt of unknown outcome, where its holder forwards. A claim that finds its own token was
/// made by an asking whose answer was lost. What is seen to be another's is not inserted: the conflict alone would wait for
/// whoever is changing the row, and write. Rows are looked up one by one, as no plan that was made early can make it otherwise.
const CLAIM: &str = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
asked AS (SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[])
    AS a (key, token, lease_ms, window_ms, forwards)),
claimed AS (
    INSERT INTO hookstile.ledger AS l
        (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered)
    SELECT key, token, now + lease_ms, forwards, now + lease_ms + window_ms, now, 0, false FROM asked, clock
    WHERE (SELECT k.digest IS NOT NULL AND k.ends_ms > now OR k.lease_ends_ms > now AND k.token <> asked.token
        FROM hookstile.ledger k WHERE k.key = asked.key) IS NOT TRUE
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET
        token = excluded.token, lease_ends_ms = excluded.lease_ends_ms, forwards = excluded.forwards,
        ends_ms = greatest(l.ends_ms, excluded.ends_ms), digest = NULL,
        ends_before_ms = CASE WHEN l.lease_ends_ms IS NOT NULL AND l.token = excluded.token
            THEN l.ends_before_ms ELSE l.ends_ms END,
        attempts = CASE WHEN l.ends_ms <= (SELECT now FROM clock) THEN 0 WHEN l.lease_ends_ms IS NOT NULL
            AND l.forwards AND l.token <> excluded.token THEN l.attempts + 1 ELSE l.attempts END,
        possibly_delivered = l.ends_ms > (SELECT now FROM clock) AND (l.possibly_delivered
            OR l.lease_ends_ms IS NOT NULL AND l.forwards AND l.token <> excluded.token),
        delivery = CASE WHEN l.ends_ms > (SELECT now FROM clock) THEN l.delivery END,
        other = CASE WHEN l.ends_ms > (SELECT now FROM clock) THEN l.other END
    WHERE (l.digest IS NULL OR l.ends_ms <= (SELECT now FROM clock))
        AND (l.lease_ends_ms IS NULL OR l.lease_ends_ms <= (SELECT now FROM clock) OR l.token = excluded.token)
    RETURNING key, attempts, possibly_delivered, delivery
)
SELECT a.key, c.key IS NOT NULL, l.key IS NOT NULL, l.digest, l.digest IS NOT NULL AND l.ends_ms > now,
    coalesce(c.attempts, 0), coalesce(c.possibly_delivered, false), coalesce(c.delivery, l.delivery)
FROM asked a CROSS JOIN clock LEFT JOIN claimed c ON c.key = a.key
LEFT JOIN LATERAL (SELECT * FROM hookstile.ledger l WHERE c.key IS NULL AND l.key = a.key LIMIT 1) AS l ON true";

/// A claim of which nothing is to be remembered leaves nothing behind; one that only looked prolongs nothing.
const GIVE_BACK: &str = "
WITH given AS MATERIALIZED (
    SELECT l.key, l.attempts = 0 AND NOT l.possibly_delivered AND l.delivery IS NULL AS is_new
    FROM hookstile.ledger l JOIN unnest($1::uuid[], $2::bigint[]) AS g (key, token) ON l.key = g.key AND l.token = g.token
    WHERE l.key = ANY($1) AND l.lease_ends_ms IS NOT NULL ORDER BY l.key FOR UPDATE OF l),
gone AS (DELETE FROM hookstile.ledger l USING given g WHERE l.key = g.key AND g.is_new)
UPDATE hookstile.ledger l SET lease_ends_ms = NULL, ends_ms = ends_before_ms, token = 0 FROM given g WHERE l.key = g.key AND NOT g.is_new";

/// Does what was asked for.
pub(super) async fn run(lines: Arc<ConnectionPool>, batch: Vec<Job>) {
    let (mut claims, mut back) = (Vec::new(), Vec::new());
    for job in batch {
        match job {
            // Whoever has stopped waiting was answered: nobody would give the claim back.
            Job::Claim(claim) if claim.done.is_closed() => {}
            Job::Claim(claim) => claims.push(claim),
            Job::GiveBack(given) => back.push(given),
        }
    }
    if !back.is_empty()
        && let Err(failed) = {
            let back = &back;
            lines
                .again(OnTimeout::Retry, on!(line => give_back(line, back)))
                .await
        }
    {
        lines.failed("claim", &failed);
    }
    if claims.is_empty() {
        return;
    }
    let asked = {
        let claims = &claims;
        lines
            .again(OnTimeout::Fail, on!(line => claim(line, claims)))
            .await
    };
    match asked {
        Ok(mut answers) => {
            for claim in claims {
                let answer = answers
                    .iter()
                    .position(|found| found.key == claim.key)
                    .map(|at| answers.swap_remove(at));
                let answer = answer.map_or(ClaimReply::Unclear, |found| found.answer(&claim));
                // If nobody takes it, it is dropped here, and so given back.
                let _ = claim.done.send(Ok(answer));
            }
        }
        Err(failed) => {
            let error = lines.failed("claim", &failed);
            for claim in claims {
                // It may have been made all the same.
                claim.back.give_back(claim.key, claim.token);
                let _ = claim.done.send(Err(error));
            }
        }
    }
}

/// A row as it was found.
struct Row {
    key: EventKey,
    mine: bool,
    seen: bool,
    completed: Option<PayloadDigest>,
    tried: AttemptHistory,
    delivery: Option<DeliveryId>,
}

async fn claim(line: &PooledConnection, claims: &[Claim]) -> Result<Vec<Row>, QueryError> {
    let keys: Vec<_> = claims.iter().map(|claim| uuid(claim.key)).collect();
    let tokens: Vec<_> = claims.iter().map(|claim| claim.token).collect();
    let leases: Vec<_> = claims
        .iter()
        .map(|claim| millis(claim.terms.lease))
        .collect();
    let windows: Vec<_> = claims
        .iter()
        .map(|claim| millis(claim.terms.window))
        .collect();
    let forwards: Vec<_> = claims.iter().map(|claim| claim.terms.forwards).collect();
    let rows = line
        .rows(CLAIM, &[&keys, &tokens, &leases, &windows, &forwards])
        .await?;
    let row = |row: &tokio_postgres::Row| -> Result<Row, tokio_postgres::Error> {
        let digest: Option<Uuid> = row.try_get(3)?;
        let attempts: i32 = row.try_get(5)?;
        Ok(Row {
            key: key(row.try_get(0)?),
            mine: row.try_get(1)?,
            seen: row.try_get(2)?,
            completed: digest
                .filter(|_| row.get(4))
                .map(|digest| PayloadDigest::from_bytes(*digest.as_bytes())),
            tried: AttemptHistory {
                attempts: attempts.unsigned_abs(),
                possibly_delivered: row.try_get(6)?,
            },
            delivery: row.try_get::<_, Option<i64>>(7)?.map(DeliveryId),
        })
    };
    Ok(rows.iter().map(row).collect::<Result<_, _>>()?)
}

async fn give_back(line: &PooledConnection, back: &[GiveBack]) -> Result<(), QueryError> {
    let keys: Vec<_> = back.iter().map(|given| uuid(given.key)).collect();
    let tokens: Vec<_> = back.iter().map(|given| given.token).collect();
    line.run(GIVE_BACK, &[&keys, &tokens]).await.map(drop)
}

impl Row {
    fn answer(self, claim: &Claim) -> ClaimReply {
        if let Some(digest) = self.completed {
            let found = KnownEvent {
                record: LedgerEntry::Completed { digest },
                delivery: self.delivery,
            };
            return ClaimReply::Is(ClaimResult::Acquired(ClaimLease::default(), Some(found)));
        }
        if !self.mine {
            return if self.seen {
                ClaimReply::Is(ClaimResult::HeldElsewhere)
            } else {
                ClaimReply::Unclear
            };
        }
        let lease = LeaseRow {
            key: claim.key,
            token: claim.token,
            until: claim.at + claim.terms.lease,
            back: Some(claim.back.clone()),
        };
        let held = ClaimLease {
            place: Some(RowId(claim.token)),
            lease: Some(lease),
        };
        let is_known = self.tried != AttemptHistory::default() || self.delivery.is_some();
        let found = KnownEvent {
            record: LedgerEntry::Attempted(self.tried),
            delivery: self.delivery,
        };
        ClaimReply::Is(ClaimResult::Acquired(held, is_known.then_some(found)))
    }
}

pub(super) fn uuid(key: EventKey) -> Uuid {
    Uuid::from_u128(key.0)
}

pub(super) fn key(uuid: Uuid) -> EventKey {
    EventKey(uuid.as_u128())
}

pub(super) fn millis(duration: Duration) -> i64 {
    // 292 million years leave room to be added to.
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4)
}
