//! What each gateway looks at again and again: the time, what others have changed, what is due; and what may go.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;

use super::Shared;
use super::claims::millis;
use super::pool::{PooledConnection, QueryError, bounded, on};
use super::query::timestamp;
use crate::store::{RECORD_BYTES, Retain};

/// So that what one gateway is told is seen by all within a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// Rows that one statement deletes.
const ROWS_AT_ONCE: i64 = 500;
/// One gateway sweeps at a time.
const LOCK: i64 = 0x686f_6f6b_7377_6565;

/// What of a route is known without asking.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    pub pending: u64,
    pub dead: u64,
    pub oldest: Option<Timestamp>,
}

/// Looks at what changes, for as long as the store is there. Whether the server counts as there is told by this alone.
pub(super) async fn look(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let shared = &*shared;
        let ticked = shared.with_line(on!(line => tick(line, shared))).await;
        match ticked {
            Ok(()) => shared.lines.answered(),
            Err(QueryError::Refused(_)) => {}
            Err(failed) => {
                shared.lines.note(false, &failed);
                continue;
            }
        }
        let _ = shared.with_line(on!(line => standings(line, shared))).await;
        let _ = shared.with_line(on!(line => wake(line, shared))).await;
    }
}

/// Lets go of what has ended, again and again, and learns how much there is.
pub(super) async fn sweep(shared: Weak<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let shared = &*shared;
        if shared.lines.check_up().is_ok() {
            let _ = shared.with_line(on!(line => sizes(line, shared))).await;
            let _ = shared
                .with_line(on!(line => sweep_alone(line, shared)))
                .await;
        }
    }
}

impl Shared {
    /// Once, on a connection; a failure is told.
    async fn with_line<F>(&self, work: impl FnOnce(PooledConnection) -> F) -> Result<(), QueryError>
    where
        F: Future<Output = Result<(), QueryError>>,
    {
        let done = self.lines.with(work).await;
        if let Err(failed) = &done {
            if self.lines.check_up().is_ok() {
                self.lines.failed("read", failed);
            } else {
                // That it is gone was said.
                self.lines.metrics().count_error("read");
            }
        }
        done
    }
}

/// Counts time, one gateway a second, and learns whether an operator changed something.
pub(super) async fn tick(line: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let tick = "UPDATE hookstile.store SET ticked_at = clock_timestamp(),
        running_ms = running_ms + least(greatest(extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000),
        away_ms = away_ms + greatest(extract(epoch FROM clock_timestamp() - ticked_at) * 1000 - 5000, 0)::bigint
        WHERE ticked_at NOT BETWEEN clock_timestamp() - interval '900 milliseconds' AND clock_timestamp()";
    line.run(tick, &[]).await?;
    let sql = "SELECT revision, due FROM hookstile.store, hookstile.clock";
    let row = line.row(sql, &[]).await?;
    let revision = row.try_get(0)?;
    shared.set_due_now(row.try_get(1)?);
    shared
        .revision
        .send_if_modified(|known| std::mem::replace(known, revision) != revision);
    Ok(())
}

async fn standings(line: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let sql = "SELECT route, pending, dead, CASE WHEN pending > 0 THEN (SELECT received_ms FROM hookstile.deliveries d
            WHERE d.route = w.route AND state = 'pending' AND state <> 'success' ORDER BY id LIMIT 1) END
        FROM (SELECT route, sum(pending)::bigint AS pending, sum(dead)::bigint AS dead FROM hookstile.standings
            GROUP BY route) AS w WHERE pending <> 0 OR dead <> 0";
    let rows = line.rows(sql, &[]).await?;
    let mut all = HashMap::new();
    for row in rows {
        let number = |column| {
            Ok::<_, QueryError>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0))
        };
        let oldest = row.try_get::<_, Option<i64>>(3)?.map(timestamp);
        all.insert(
            row.try_get::<_, &str>(0)?.into(),
            Standing {
                pending: number(1)?,
                dead: number(2)?,
                oldest,
            },
        );
    }
    shared.set_standings(all);
    Ok(())
}

/// Wakes those who deliver for routes of which something is due that nobody tries: one probe of the index a route.
async fn wake(line: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let sql = "WITH clock AS MATERIALIZED (SELECT now, due FROM hookstile.clock)
        SELECT asked.route FROM unnest($1::text[]) AS asked (route) CROSS JOIN LATERAL (SELECT FROM hookstile.deliveries d
            WHERE d.route = asked.route AND state = 'pending' AND due_ms <= (SELECT due FROM clock)
            AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM clock)) ORDER BY due_ms LIMIT 1) AS free";
    let waiting = shared.routes_that_wait();
    if waiting.is_empty() {
        return Ok(());
    }
    let rows = line.rows(sql, &[&waiting]).await?;
    for row in rows {
        shared.wake(row.try_get(0)?);
    }
    Ok(())
}

/// Bytes are what the tables take, pages for which there is no use now included; `max_size` is held to what is in use.
async fn sizes(line: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    let sql = "SELECT (SELECT greatest(n_live_tup, 0)::bigint FROM pg_stat_user_tables
            WHERE schemaname = 'hookstile' AND relname = 'ledger'),
        (SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'hookstile' AND relkind = 'r'),
        (SELECT sum(kept_bytes + waiting_bytes)::bigint FROM hookstile.standings)";
    let row = line.row(sql, &[]).await?;
    let number = |column| {
        Ok::<_, QueryError>(
            row.try_get::<_, Option<i64>>(column)?
                .unwrap_or(0)
                .unsigned_abs(),
        )
    };
    shared.set_sizes(number(0)?, number(1)?, number(2)?);
    Ok(())
}

/// Lets go of what has ended: IDs after their window, records as their route keeps them. One gateway at a time.
async fn sweep_alone(line: &PooledConnection, shared: &Shared) -> Result<(), QueryError> {
    if !line
        .row("SELECT pg_try_advisory_lock($1)", &[&LOCK])
        .await?
        .try_get::<_, bool>(0)?
    {
        return Ok(());
    }
    // A connection that is closed by an error gives the lock back too.
    let ledger = "DELETE FROM hookstile.ledger WHERE key IN (SELECT key FROM hookstile.ledger
        WHERE ends_ms <= (SELECT now FROM hookstile.clock)
        AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
        ORDER BY ends_ms LIMIT $1 FOR UPDATE SKIP LOCKED)";
    // Planned each time: what has ended may be a little or nearly all.
    while bounded(line.execute(ledger, &[&ROWS_AT_ONCE])).await? == ROWS_AT_ONCE.unsigned_abs() {}
    let kept = "SELECT route, sum(kept_bytes)::bigint FROM hookstile.standings GROUP BY route HAVING sum(kept_bytes) > 0";
    for row in line.rows(kept, &[]).await? {
        let (route, kept): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let retain = shared.retain_of(&route).unwrap_or(Retain::USUAL);
        let mut over = retain.max_bytes.map_or(0, |most| {
            kept.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX))
        });
        loop {
            let gone = drop_records(line, &route, retain.keep, over).await?;
            over = over.saturating_sub(gone.bytes);
            if gone.records < ROWS_AT_ONCE {
                break;
            }
        }
    }
    line.run("SELECT pg_advisory_unlock($1)", &[&LOCK])
        .await
        .map(drop)
}

struct Gone {
    records: i64,
    bytes: i64,
}

/// Drops the first of a route's records that may go, those first that ended first. How many is written out: it says which plan
/// is right.
async fn drop_records(
    line: &PooledConnection,
    route: &str,
    keep: Duration,
    over: i64,
) -> Result<Gone, QueryError> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
first AS (SELECT id, ended_ms, sum($4 + payload_bytes) OVER (ORDER BY ended_ms, id) - ($4 + payload_bytes) AS freed
    FROM (SELECT id, ended_ms, payload_bytes FROM hookstile.deliveries WHERE route = $1 AND state IN ('success', 'failed')
        ORDER BY ended_ms LIMIT 500) AS oldest),
gone AS (DELETE FROM hookstile.deliveries d USING first, clock WHERE d.id = first.id AND state IN ('success', 'failed')
    AND (first.ended_ms <= now - $2 OR first.freed < $3::bigint) RETURNING d.id, $4 + d.payload_bytes AS bytes),
dropped AS (DELETE FROM hookstile.payloads p USING gone WHERE p.delivery = gone.id),
told AS (INSERT INTO hookstile.standings AS s SELECT $1, 0, 0, 0, -sum(bytes)::bigint, 0 FROM gone HAVING count(*) > 0
    ON CONFLICT (route, part) DO UPDATE SET kept_bytes = s.kept_bytes + excluded.kept_bytes)
SELECT count(*), coalesce(sum(bytes), 0)::bigint FROM gone";
    let keep = millis(keep);
    let gone = line
        .row(sql, &[&route, &keep, &over, &RECORD_BYTES])
        .await?;
    Ok(Gone {
        records: gone.try_get(0)?,
        bytes: gone.try_get(1)?,
    })
}
