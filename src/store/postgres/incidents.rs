//! Incidents: the problems that the gateways have seen, and what somebody was notified of.
//!
//! A row is an incident that nobody, or not everybody, knows to be over. The gateways enter what
//! they see; what is still to be sent follows from the row. A gateway that sends it leases the row,
//! so that another one sends it again if the first one is killed.
//!
//! All times are uptime: while no gateway could say that it sees a problem, none ends.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::claims::millis;
use super::pool::{PooledConnection, QueryError};
use crate::store::{ClaimedIncident, SeenIncident, Untold, UntoldIncident};

// The rows are locked in one order, so that gateways wait for each other at most.
const CONTINUE: &str = "
WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents WHERE key = ANY($1)
    ORDER BY key FOR UPDATE)
UPDATE hookstile.incidents i SET seen_ms = (SELECT now FROM hookstile.clock),
    ended_ms = CASE WHEN lasting > 0 THEN NULL ELSE i.ended_ms END,
    document = CASE WHEN least(lasting, r.severity) > i.severity
        THEN r.document ELSE i.document END,
    severity = greatest(i.severity, least(lasting, r.severity))
FROM known, unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[])
    AS r (key, document, severity, lasting)
WHERE i.key = known.key AND r.key = known.key";

const BEGIN: &str = "
INSERT INTO hookstile.incidents (key, document, severity, seen_ms)
SELECT key, document, severity, (SELECT now FROM hookstile.clock)
FROM unnest($1::text[], $2::text[], $3::smallint[], $4::smallint[])
    AS r (key, document, severity, lasting)
WHERE lasting > 0 ORDER BY key ON CONFLICT DO NOTHING";

const END: &str = "
WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents
    WHERE ended_ms IS NULL AND seen_ms <= (SELECT now FROM hookstile.clock) - $2
    AND key <> ALL($1) ORDER BY key FOR UPDATE)
UPDATE hookstile.incidents i SET ended_ms = (SELECT now FROM hookstile.clock)
FROM known WHERE i.key = known.key";

const GIVE_UP: &str = "
WITH known AS MATERIALIZED (SELECT key FROM hookstile.incidents
    WHERE ended_ms <= (SELECT now FROM hookstile.clock) - $2 AND key <> ALL($1)
    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM hookstile.clock))
    ORDER BY key FOR UPDATE)
DELETE FROM hookstile.incidents i USING known WHERE i.key = known.key";

/// Enters the problems that this gateway sees. Ends those that no gateway has seen for `unseen_for`.
/// Returns how many were deleted, because the notification was not accepted within `within` of their
/// end.
pub(super) async fn report(
    connection: &PooledConnection,
    seen: &[SeenIncident],
    (unseen_for, within): (Duration, Duration),
) -> Result<u64, QueryError> {
    let keys: Vec<_> = seen.iter().map(|it| &*it.key).collect();
    let documents: Vec<_> = seen.iter().map(|it| &*it.document).collect();
    let severities: Vec<_> = seen.iter().map(|it| it.severity).collect();
    let lasting: Vec<_> = seen.iter().map(|it| it.lasting).collect();
    let (unseen_for, within) = (millis(unseen_for), millis(within));
    let seen: [&(dyn ToSql + Sync); 4] = [&keys, &documents, &severities, &lasting];
    connection.execute_cached(CONTINUE, &seen).await?;
    connection.execute_cached(BEGIN, &seen).await?;
    connection
        .execute_cached(END, &[&keys, &unseen_for])
        .await?;
    connection.execute_cached(GIVE_UP, &[&keys, &within]).await
}

/// Leases the incident of which somebody should be notified, if there is one that no other gateway
/// has leased. Those that were tried last come last.
pub(super) async fn claim(
    connection: &PooledConnection,
    lease: Duration,
) -> Result<Option<ClaimedIncident>, QueryError> {
    let sql = "
WITH clock AS MATERIALIZED (SELECT now FROM hookstile.clock),
due AS (SELECT key FROM hookstile.incidents
    WHERE (told < severity OR ended_ms IS NOT NULL)
    AND (lease_ends_ms IS NULL OR lease_ends_ms <= (SELECT now FROM clock))
    ORDER BY lease_ends_ms NULLS FIRST, key LIMIT 1 FOR UPDATE SKIP LOCKED)
UPDATE hookstile.incidents i SET lease_ends_ms = now + $1 FROM due, clock WHERE i.key = due.key
RETURNING i.id, i.document, i.severity, i.told < i.severity, i.lease_ends_ms";
    let row = connection.query_opt_cached(sql, &[&millis(lease)]).await?;
    let Some(row) = row else {
        return Ok(None);
    };
    let untold = if row.try_get(3)? {
        Untold::Began(row.try_get(2)?)
    } else {
        Untold::Ended
    };
    Ok(Some(ClaimedIncident {
        incident: UntoldIncident {
            id: row.try_get(0)?,
            document: row.try_get(1)?,
            untold,
        },
        lease_ends_ms: row.try_get(4)?,
    }))
}

/// Records that the notification of an incident was accepted. An incident that went on after its
/// end was sent is a new one.
pub(super) async fn mark_told(
    connection: &PooledConnection,
    claimed: &ClaimedIncident,
) -> Result<(), QueryError> {
    let UntoldIncident { id, untold, .. } = &claimed.incident;
    match untold {
        Untold::Began(severity) => {
            let sql = "UPDATE hookstile.incidents
                SET told = greatest(told, $2), lease_ends_ms = NULL WHERE id = $1";
            connection.execute_cached(sql, &[id, severity]).await?;
        }
        Untold::Ended => {
            let over = "DELETE FROM hookstile.incidents WHERE id = $1 AND ended_ms IS NOT NULL";
            connection.execute_cached(over, &[id]).await?;
            // It has begun again meanwhile.
            let again = "UPDATE hookstile.incidents
                SET id = DEFAULT, told = 0, lease_ends_ms = NULL
                WHERE id = $1 AND ended_ms IS NULL";
            connection.execute_cached(again, &[id]).await?;
        }
    }
    Ok(())
}

/// Ends the lease of an incident whose notification was not accepted, so that this gateway or
/// another one sends it again.
pub(super) async fn release(
    connection: &PooledConnection,
    claimed: &ClaimedIncident,
) -> Result<(), QueryError> {
    let sql = "UPDATE hookstile.incidents SET lease_ends_ms = now FROM hookstile.clock
        WHERE id = $1 AND lease_ends_ms = $2";
    let params: [&(dyn ToSql + Sync); 2] = [&claimed.incident.id, &claimed.lease_ends_ms];
    connection.execute_cached(sql, &params).await.map(drop)
}
