//! Claims on events among gateways: acquired, released, and taken over after their lease lapsed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::pool::{ConnectionPool, OnTimeout, PooledConnection, QueryError, on};
use super::{Backlog, BacklogEntry};
use crate::signature::PayloadDigest;
use crate::store::{
    AttemptHistory, ClaimLease, ClaimPurpose, ClaimResult, ClaimTerms, DeliveryId, EventKey,
    KnownEvent, LedgerEntry, RowId, StoreError,
};

/// A job for the claims task.
pub(super) enum Job {
    Claim(Claim),
    Release(Release),
}

/// A claim to release. The backlog entry delays closing the store until the claim is released.
pub(super) struct Release {
    key: EventKey,
    token: i64,
    _backlog_entry: BacklogEntry,
}

/// A request to claim an event.
pub(super) struct Claim {
    pub key: EventKey,
    /// The number that identifies the claim in its row.
    pub token: i64,
    pub terms: ClaimTerms,
    /// The time of the request, at which the lease starts.
    pub started: Instant,
    /// The queue for releasing the claim.
    pub queue: ClaimQueue,
    pub done: oneshot::Sender<Result<ClaimReply, StoreError>>,
}

pub(super) enum ClaimReply {
    Known(ClaimResult),
    /// Another transaction changed the row meanwhile. The caller retries.
    Raced,
}

/// A claim that exists in the database until it is settled or released.
pub(crate) struct LeaseRow {
    key: EventKey,
    token: i64,
    deadline: Instant,
    queue: Option<ClaimQueue>,
}

/// The queue of the claims task.
#[derive(Clone)]
pub(super) struct ClaimQueue {
    pub jobs: mpsc::UnboundedSender<Job>,
    pub backlog: Arc<Backlog>,
}

impl LeaseRow {
    pub(in crate::store) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(in crate::store) fn mark_settled(mut self) {
        self.queue = None;
    }
}

impl Drop for LeaseRow {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.release(self.key, self.token);
        }
    }
}

impl ClaimQueue {
    fn release(&self, key: EventKey, token: i64) {
        // If the claims task has ended, the lease lapses by itself.
        let release = Release {
            key,
            token,
            _backlog_entry: BacklogEntry::new(&self.backlog, 0),
        };
        let _ = self.jobs.send(Job::Release(release));
    }
}

/// Acquires claims. A lapsed claim is taken over; it counts as an attempt of unknown outcome if its
/// holder forwards. A row that already has the request's own token was written by an earlier run of
/// this statement, whose reply was lost. The statement inserts no row that another gateway visibly
/// holds: the conflict alone would wait for the transaction that changes the row, and would write.
/// It looks rows up one by one, so that a plan made while the table was small never becomes a scan.
const CLAIM: &str = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
requested AS (SELECT *
    FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::boolean[])
    AS a (key, token, lease_ms, window_ms, forwards)),
claimed AS (
    INSERT INTO hookstile.ledger AS l
        (key, token, lease_ends_ms, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered)
    SELECT key, token, now + lease_ms, forwards, now + lease_ms + window_ms, now, 0, false
    FROM requested, clock
    WHERE (SELECT k.digest IS NOT NULL AND k.ends_ms > now
            OR k.lease_ends_ms > now AND k.token <> requested.token
        FROM hookstile.ledger k WHERE k.key = requested.key) IS NOT TRUE
    ORDER BY key
    ON CONFLICT (key) DO UPDATE SET
        token = excluded.token, lease_ends_ms = excluded.lease_ends_ms,
        forwards = excluded.forwards, ends_ms = greatest(l.ends_ms, excluded.ends_ms),
        digest = NULL,
        ends_before_ms = CASE WHEN l.lease_ends_ms IS NOT NULL AND l.token = excluded.token
            THEN l.ends_before_ms ELSE l.ends_ms END,
        attempts = CASE WHEN l.ends_ms <= (SELECT now FROM clock) THEN 0
            WHEN l.lease_ends_ms IS NOT NULL AND l.forwards AND l.token <> excluded.token
            THEN l.attempts + 1 ELSE l.attempts END,
        possibly_delivered = l.ends_ms > (SELECT now FROM clock) AND (l.possibly_delivered
            OR l.lease_ends_ms IS NOT NULL AND l.forwards AND l.token <> excluded.token),
        delivery = CASE WHEN l.ends_ms > (SELECT now FROM clock) THEN l.delivery END
    WHERE (l.digest IS NULL OR l.ends_ms <= (SELECT now FROM clock))
        AND (l.lease_ends_ms IS NULL OR l.lease_ends_ms <= (SELECT now FROM clock)
            OR l.token = excluded.token)
    RETURNING key, attempts, possibly_delivered, delivery
)
SELECT a.key, c.key IS NOT NULL, l.key IS NOT NULL,
    l.digest, l.digest IS NOT NULL AND l.ends_ms > now, coalesce(c.attempts, 0),
    coalesce(c.possibly_delivered, false), coalesce(c.delivery, l.delivery)
FROM requested a CROSS JOIN clock LEFT JOIN claimed c ON c.key = a.key
LEFT JOIN LATERAL (SELECT * FROM hookstile.ledger l WHERE c.key IS NULL AND l.key = a.key
    LIMIT 1) AS l ON true";

/// Releases claims. The row gets back the expiry that it had before, so that a claim alone prolongs
/// nothing; that of an event without history has expired, and is deleted by the next sweep.
const RELEASE: &str = "
WITH released AS MATERIALIZED (
    SELECT l.key FROM hookstile.ledger l JOIN unnest($1::uuid[], $2::bigint[]) AS g (key, token)
        ON l.key = g.key AND l.token = g.token
    WHERE l.key = ANY($1) AND l.lease_ends_ms IS NOT NULL ORDER BY l.key FOR UPDATE OF l)
UPDATE hookstile.ledger l SET lease_ends_ms = NULL, ends_ms = ends_before_ms, token = 0
    FROM released g WHERE l.key = g.key";

/// Runs a batch: first the releases, then the claims.
pub(super) async fn run_batch(pool: Arc<ConnectionPool>, batch: Vec<Job>) {
    let (mut claims, mut releases) = (Vec::new(), Vec::new());
    for job in batch {
        match job {
            // A caller that has stopped waiting would never release the claim.
            Job::Claim(claim) if claim.done.is_closed() => {}
            Job::Claim(claim) => claims.push(claim),
            Job::Release(release) => releases.push(release),
        }
    }
    if !releases.is_empty()
        && let Err(error) = {
            let releases = &releases;
            pool.run(
                OnTimeout::Retry,
                on!(connection => release(connection, releases)),
            )
            .await
        }
    {
        pool.log_failure("claim", &error);
    }
    let claims = leave_unknown_free(&pool, claims).await;
    if claims.is_empty() {
        return;
    }
    let acquired = {
        let claims = &claims;
        pool.run(
            OnTimeout::Fail,
            on!(connection => acquire(connection, claims)),
        )
        .await
    };
    match acquired {
        Ok(mut rows) => {
            for claim in claims {
                let row = rows
                    .iter()
                    .position(|row| row.key == claim.key)
                    .map(|index| rows.swap_remove(index));
                let reply = row.map_or(ClaimReply::Raced, |row| row.into_reply(&claim));
                // If the caller is gone, the claim is dropped here, and so released.
                let _ = claim.done.send(Ok(reply));
            }
        }
        Err(error) => {
            let error = pool.log_failure("claim", &error);
            for claim in claims {
                // The claim may have been made nevertheless.
                claim.queue.release(claim.key, claim.token);
                let _ = claim.done.send(Err(error));
            }
        }
    }
}

/// Returns the keys of which something is known.
const KNOWN: &str = "SELECT key FROM hookstile.ledger WHERE key = ANY($1)";

/// Replies to the claims that need no row: of events to queue of which nothing is known. Returns the
/// others, also if that cannot be looked up.
async fn leave_unknown_free(pool: &ConnectionPool, claims: Vec<Claim>) -> Vec<Claim> {
    let (queued, mut others): (Vec<_>, Vec<_>) = claims
        .into_iter()
        .partition(|claim| claim.terms.purpose == ClaimPurpose::Queue);
    if queued.is_empty() {
        return others;
    }
    let keys: Vec<_> = queued.iter().map(|claim| uuid(claim.key)).collect();
    let keys = &keys;
    let rows = pool
        .run(
            OnTimeout::Fail,
            on!(connection => async {
                let rows = connection.query_cached(KNOWN, &[keys]).await?;
                let known = rows.iter().map(|row| Ok(key(row.try_get(0)?)));
                Ok(known.collect::<Result<HashSet<_>, tokio_postgres::Error>>()?)
            }),
        )
        .await;
    let Ok(known) = rows else {
        others.extend(queued);
        return others;
    };
    for claim in queued {
        if known.contains(&claim.key) {
            others.push(claim);
            continue;
        }
        let free = ClaimLease {
            row: Some(RowId(claim.token)),
            lease: None,
        };
        let result = ClaimReply::Known(ClaimResult::Acquired(free, None));
        // The caller may be gone.
        let _ = claim.done.send(Ok(result));
    }
    others
}

/// A row of the result of [`CLAIM`].
struct ClaimedRow {
    key: EventKey,
    acquired: bool,
    exists: bool,
    completed: Option<PayloadDigest>,
    history: AttemptHistory,
    delivery: Option<DeliveryId>,
}

async fn acquire(
    connection: &PooledConnection,
    claims: &[Claim],
) -> Result<Vec<ClaimedRow>, QueryError> {
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
    let forwards: Vec<_> = claims
        .iter()
        .map(|claim| claim.terms.purpose == ClaimPurpose::Forward)
        .collect();
    let rows = connection
        .query_cached(CLAIM, &[&keys, &tokens, &leases, &windows, &forwards])
        .await?;
    let parse_row = |row: &tokio_postgres::Row| -> Result<ClaimedRow, tokio_postgres::Error> {
        let digest: Option<Uuid> = row.try_get(3)?;
        let attempts: i32 = row.try_get(5)?;
        Ok(ClaimedRow {
            key: key(row.try_get(0)?),
            acquired: row.try_get(1)?,
            exists: row.try_get(2)?,
            completed: digest
                .filter(|_| row.get(4))
                .map(|digest| PayloadDigest::from_bytes(*digest.as_bytes())),
            history: AttemptHistory {
                attempts: attempts.unsigned_abs(),
                possibly_delivered: row.try_get(6)?,
            },
            delivery: row.try_get::<_, Option<i64>>(7)?.map(DeliveryId),
        })
    };
    Ok(rows.iter().map(parse_row).collect::<Result<_, _>>()?)
}

async fn release(connection: &PooledConnection, releases: &[Release]) -> Result<(), QueryError> {
    let keys: Vec<_> = releases.iter().map(|release| uuid(release.key)).collect();
    let tokens: Vec<_> = releases.iter().map(|release| release.token).collect();
    connection
        .execute_cached(RELEASE, &[&keys, &tokens])
        .await
        .map(drop)
}

impl ClaimedRow {
    fn into_reply(self, claim: &Claim) -> ClaimReply {
        if let Some(digest) = self.completed {
            let found = KnownEvent {
                entry: LedgerEntry::Completed { digest },
                delivery: self.delivery,
            };
            return ClaimReply::Known(ClaimResult::Acquired(ClaimLease::default(), Some(found)));
        }
        if !self.acquired {
            return if self.exists {
                ClaimReply::Known(ClaimResult::HeldElsewhere)
            } else {
                ClaimReply::Raced
            };
        }
        let lease = LeaseRow {
            key: claim.key,
            token: claim.token,
            deadline: claim.started + claim.terms.lease,
            queue: Some(claim.queue.clone()),
        };
        let lease = ClaimLease {
            row: Some(RowId(claim.token)),
            lease: Some(lease),
        };
        let is_known = self.history != AttemptHistory::default() || self.delivery.is_some();
        let found = KnownEvent {
            entry: LedgerEntry::Attempted(self.history),
            delivery: self.delivery,
        };
        ClaimReply::Known(ClaimResult::Acquired(lease, is_known.then_some(found)))
    }
}

pub(super) fn uuid(key: EventKey) -> Uuid {
    Uuid::from_u128(key.0)
}

pub(super) fn key(uuid: Uuid) -> EventKey {
    EventKey(uuid.as_u128())
}

pub(super) fn millis(duration: Duration) -> i64 {
    // The limit leaves room for additions without overflow.
    i64::try_from(duration.as_millis())
        .unwrap_or(i64::MAX)
        .min(i64::MAX / 4)
}
