//! What each gateway looks at again and again: the time, what others have changed, what is due; and what may go.

use std::collections::HashMap;
use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;

use super::Shared;
use super::line::{Failed, Line, bounded};
use super::look::timestamp;
use crate::store::{RECORD_BYTES, Retain};

/// So that what one gateway is told is seen by all within a second.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// Rounds between two sweeps.
const SWEEP_EVERY: u32 = 5;
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

pub(super) async fn run(shared: Weak<Shared>) {
    for round in 0_u32.. {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(shared) = shared.upgrade() else { return };
        match look(&shared, round).await {
            Ok(()) => shared.lines.answered(),
            Err(failed @ Failed::Gone(_)) => {
                shared.lines.metrics().failed("read");
                shared.lines.note(false, &failed);
            }
            // Events do not suffer from it: the server is there.
            Err(failed @ Failed::Refused(_)) => drop(shared.lines.failed("read", &failed)),
        }
    }
}

async fn look(shared: &Shared, round: u32) -> Result<(), Failed> {
    let line = shared.lines.lend().await?;
    let done = async {
        tick(&line, shared).await?;
        standings(&line, shared).await?;
        wake(&line, shared).await?;
        if round.is_multiple_of(SWEEP_EVERY) {
            sizes(&line, shared).await?;
            sweep(&line, shared).await?;
        }
        Ok(())
    }
    .await;
    line.judge(done)
}

/// Counts time, one gateway a second, and learns whether an operator changed something.
pub(super) async fn tick(line: &Line, shared: &Shared) -> Result<(), Failed> {
    let tick = "UPDATE hookgate.store SET running_ms = running_ms + least(hookgate.step_ms(ticked_at), 60000),
        away_ms = away_ms + greatest(hookgate.step_ms(ticked_at) - 60000, 0), ticked_at = clock_timestamp()
        WHERE ticked_at NOT BETWEEN clock_timestamp() - interval '900 milliseconds' AND clock_timestamp()";
    bounded(line.execute(tick, &[])).await?;
    let sql = "SELECT revision, hookgate.due_ms() FROM hookgate.store";
    let row = bounded(line.query_one(sql, &[])).await?;
    let revision = row.try_get(0)?;
    shared.set_due_now(row.try_get(1)?);
    shared.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
    Ok(())
}

async fn standings(line: &Line, shared: &Shared) -> Result<(), Failed> {
    let sql = "SELECT route, pending, dead, CASE WHEN pending > 0 THEN (SELECT received_ms FROM hookgate.deliveries d
            WHERE d.route = w.route AND state = 'pending' AND state <> 'success' ORDER BY id LIMIT 1) END
        FROM (SELECT route, sum(pending)::bigint AS pending, sum(dead)::bigint AS dead FROM hookgate.standings
            GROUP BY route) AS w WHERE pending <> 0 OR dead <> 0";
    let rows = bounded(async {
        let statement = line.prepare_cached(sql).await?;
        line.query(&statement, &[]).await
    });
    let mut all = HashMap::new();
    for row in rows.await? {
        let number = |column| Ok::<_, Failed>(u64::try_from(row.try_get::<_, i64>(column)?).unwrap_or(0));
        let oldest = row.try_get::<_, Option<i64>>(3)?.map(timestamp);
        all.insert(row.try_get::<_, &str>(0)?.into(), Standing { pending: number(1)?, dead: number(2)?, oldest });
    }
    shared.set_standings(all);
    Ok(())
}

/// Wakes those who deliver for routes of which something is due that nobody tries: one probe of the index a route.
async fn wake(line: &Line, shared: &Shared) -> Result<(), Failed> {
    let sql = "WITH clock AS MATERIALIZED (SELECT hookgate.now_ms() AS now, hookgate.due_ms() AS due)
        SELECT route FROM unnest($1::text[]) AS asked (route), clock WHERE EXISTS (SELECT FROM hookgate.deliveries d
            WHERE d.route = asked.route AND state = 'pending' AND due_ms <= clock.due
            AND (lease_ends_ms IS NULL OR lease_ends_ms <= clock.now))";
    let waiting = shared.routes_that_wait();
    if waiting.is_empty() {
        return Ok(());
    }
    let rows = bounded(async {
        let statement = line.prepare_cached(sql).await?;
        line.query(&statement, &[&waiting]).await
    });
    for row in rows.await? {
        shared.wake(row.try_get(0)?);
    }
    Ok(())
}

async fn sizes(line: &Line, shared: &Shared) -> Result<(), Failed> {
    let sql = "SELECT (SELECT greatest(n_live_tup, 0)::bigint FROM pg_stat_user_tables
            WHERE schemaname = 'hookgate' AND relname = 'ledger'),
        (SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE nspname = 'hookgate' AND relkind = 'r')";
    let row = bounded(line.query_one(sql, &[])).await?;
    let number = |column| Ok::<_, Failed>(row.try_get::<_, Option<i64>>(column)?.unwrap_or(0).unsigned_abs());
    shared.set_sizes(number(0)?, number(1)?);
    Ok(())
}

/// Lets go of what has ended: IDs after their window, records as their route keeps them.
async fn sweep(line: &Line, shared: &Shared) -> Result<(), Failed> {
    if !bounded(line.query_one("SELECT pg_try_advisory_lock($1)", &[&LOCK])).await?.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let done = sweep_alone(line, shared).await;
    // A connection that is closed gives it back too.
    bounded(line.execute("SELECT pg_advisory_unlock($1)", &[&LOCK])).await?;
    done
}

async fn sweep_alone(line: &Line, shared: &Shared) -> Result<(), Failed> {
    let ledger = "DELETE FROM hookgate.ledger WHERE key IN (SELECT key FROM hookgate.ledger
        WHERE ends_ms <= hookgate.now_ms() AND (lease_ends_ms IS NULL OR lease_ends_ms <= hookgate.now_ms())
        LIMIT $1 FOR UPDATE SKIP LOCKED)";
    while bounded(line.execute(ledger, &[&ROWS_AT_ONCE])).await? == ROWS_AT_ONCE.unsigned_abs() {}
    let kept =
        "SELECT route, sum(kept_bytes)::bigint FROM hookgate.standings GROUP BY route HAVING sum(kept_bytes) > 0";
    for row in bounded(line.query(kept, &[])).await? {
        let (route, kept): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
        let retain = shared.retain_of(&route).unwrap_or(Retain::USUAL);
        let over = retain.max_bytes.map_or(0, |most| kept.saturating_sub(i64::try_from(most).unwrap_or(i64::MAX)));
        while drop_records(line, &route, retain.keep, over).await? {
            if over > 0 {
                // How much is left over is counted anew.
                break;
            }
        }
    }
    Ok(())
}

/// Drops the first of a route's records that may go, those first that ended first. Answers whether there may be more.
async fn drop_records(line: &Line, route: &str, keep: Duration, over: i64) -> Result<bool, Failed> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT hookgate.now_ms() AS now),
first AS (SELECT id, ended_ms, sum($4 + payload_bytes) OVER (ORDER BY ended_ms, id) - ($4 + payload_bytes) AS freed
    FROM (SELECT id, ended_ms, payload_bytes FROM hookgate.deliveries WHERE route = $1 AND state IN ('success', 'failed')
        ORDER BY ended_ms LIMIT $5) AS oldest),
gone AS (DELETE FROM hookgate.deliveries d USING first, clock WHERE d.id = first.id AND state IN ('success', 'failed')
    AND (first.ended_ms <= now - $2 OR first.freed < $3::bigint) RETURNING d.id, $4 + d.payload_bytes AS bytes),
dropped AS (DELETE FROM hookgate.payloads p USING gone WHERE p.delivery = gone.id),
told AS (INSERT INTO hookgate.standings AS s SELECT $1, 0, 0, 0, -sum(bytes)::bigint FROM gone HAVING count(*) > 0
    ON CONFLICT (route, part) DO UPDATE SET kept_bytes = s.kept_bytes + excluded.kept_bytes)
SELECT count(*) FROM gone";
    let keep = super::claims::millis(keep);
    let gone = bounded(async {
        let statement = line.prepare_cached(sql).await?;
        line.query_one(&statement, &[&route, &keep, &over, &RECORD_BYTES, &ROWS_AT_ONCE]).await
    });
    Ok(gone.await?.try_get::<_, i64>(0)? == ROWS_AT_ONCE)
}
