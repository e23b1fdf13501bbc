//! Checks the rows of a shared store, while gateways use it, and changes none of them.
//!
//! Each relation between rows is one statement, which reads all of its tables as they were at one moment:
//! no transaction stays open for longer. The server's own structure is not checked; `pg_amcheck` does
//! that.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::connect::CurrentDatabase;
use super::pool::{ConnectionPool, QueryError, within};
use super::query::timestamp;
use super::{OpenError, Settings, schema};
use crate::metrics::StoreMetrics;
use crate::store::{
    AttemptLog, CheckedRoute, DeliveryState, RECORD_BYTES, StoreFault, StoreProblem,
};

/// What a shared store holds, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct SharedStoreCheck {
    /// The hosts and the database, as the log names them.
    pub server: String,
    /// The version of the tables.
    pub version: i32,
    /// The size of the tables and their indexes, in bytes.
    pub bytes: u64,
    /// The number of gateways that were seen lately.
    pub gateways: u64,
    /// The number of event IDs that are remembered.
    pub event_ids: u64,
    pub webhooks: u64,
    pub routes: Vec<CheckedRoute>,
    pub problems: Vec<StoreProblem>,
    /// What could not be checked, with the reason.
    pub unchecked: Vec<String>,
}

/// A relation between rows that the program relies on.
struct Relation {
    fault: StoreFault,
    /// The name of the rows that break it.
    rows: &'static str,
    /// Selects a label of each row that breaks it.
    select: &'static str,
}

/// The rows that a problem names.
const NAMED_ROWS: usize = 5;
/// The time for one statement, which may read a whole table.
const STATEMENT_TIME: Duration = Duration::from_secs(60);
/// The time by which the server ends a statement before the check stops waiting for it.
const STATEMENT_MARGIN: Duration = Duration::from_secs(2);

const RELATIONS: [Relation; 12] = [
    Relation {
        fault: StoreFault::Header,
        rows: "header rows other than one with times",
        select: "SELECT 'rows: ' || count(*) FROM hookstile.store HAVING count(*) <> 1
            UNION ALL SELECT 'the row' FROM hookstile.store WHERE uptime_ms < 0 OR downtime_ms < 0",
    },
    Relation {
        fault: StoreFault::Database,
        rows: "indexes that are not whole",
        select: "SELECT i.indexrelid::regclass::text FROM pg_index i
            JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'hookstile' AND NOT (i.indisvalid AND i.indisready)",
    },
    Relation {
        fault: StoreFault::Numbers,
        rows: "deliveries whose number will be given again",
        select: "SELECT 'del_' || max(id) FROM hookstile.deliveries
            HAVING max(id) > (SELECT last_value FROM hookstile.delivery_numbers)",
    },
    Relation {
        fault: StoreFault::Ledger,
        rows: "ledger rows whose attempts or expiry is none",
        select: "SELECT 'key ' || key FROM hookstile.ledger WHERE attempts < 0 OR ends_ms < 0
            OR lease_ends_ms < 0",
    },
    Relation {
        fault: StoreFault::Delivery,
        rows: "deliveries in an unknown state",
        select: "SELECT 'del_' || id FROM hookstile.deliveries
            WHERE state NOT IN ('success', 'failed', 'pending', 'dead')",
    },
    Relation {
        fault: StoreFault::Delivery,
        rows: "deliveries whose times contradict their state",
        select: "SELECT 'del_' || id FROM hookstile.deliveries WHERE CASE state
            WHEN 'pending' THEN due_ms IS NULL OR queued_ms IS NULL OR ended_ms IS NOT NULL
            ELSE due_ms IS NOT NULL OR ended_ms IS NULL END
            OR due_ms < 0 OR queued_ms < 0 OR ended_ms < 0
            OR received_ms NOT BETWEEN -377705023201000 AND 253402207200999",
    },
    Relation {
        fault: StoreFault::Delivery,
        rows: "deliveries that a gateway has although they do not wait",
        select: "SELECT 'del_' || id FROM hookstile.deliveries
            WHERE (state <> 'pending' AND lease_owner IS NOT NULL)
            OR (lease_owner IS NULL) <> (lease_ends_ms IS NULL)",
    },
    Relation {
        fault: StoreFault::Delivery,
        rows: "deliveries whose attempts are no list",
        select: "SELECT 'del_' || id FROM hookstile.deliveries
            WHERE tried < 0 OR jsonb_typeof(attempts) <> 'array'",
    },
    Relation {
        fault: StoreFault::MissingPayload,
        rows: "deliveries without their payload",
        select: "SELECT 'del_' || id || ' (' || state || ')' FROM hookstile.deliveries d
            WHERE (payload_bytes > 0 OR state IN ('pending', 'dead'))
            AND NOT EXISTS (SELECT FROM hookstile.payloads p WHERE p.delivery = d.id)",
    },
    Relation {
        fault: StoreFault::StrayPayload,
        rows: "payloads without a delivery",
        select: "SELECT 'del_' || delivery FROM hookstile.payloads p
            WHERE NOT EXISTS (SELECT FROM hookstile.deliveries d WHERE d.id = p.delivery)",
    },
    Relation {
        fault: StoreFault::Counts,
        rows: "routes with other counts than their deliveries have",
        // `:record_bytes` is replaced by `RECORD_BYTES`.
        select: "SELECT 'route ' || route FROM (
                SELECT route, count(*) FILTER (WHERE state = 'pending') AS pending,
                    count(*) FILTER (WHERE state = 'dead') AS dead,
                    coalesce(sum(:record_bytes + payload_bytes)
                        FILTER (WHERE state IN ('success', 'failed')), 0) AS kept,
                    coalesce(sum(:record_bytes + payload_bytes)
                        FILTER (WHERE state IN ('pending', 'dead')), 0) AS waiting
                FROM hookstile.deliveries GROUP BY route) AS own
            FULL JOIN (
                SELECT route, sum(pending) AS pending, sum(dead) AS dead, sum(kept_bytes) AS kept,
                    sum(waiting_bytes) AS waiting
                FROM hookstile.route_counts GROUP BY route) AS counted USING (route)
            WHERE (coalesce(own.pending, 0), coalesce(own.dead, 0), coalesce(own.kept, 0),
                coalesce(own.waiting, 0))
            <> (coalesce(counted.pending, 0), coalesce(counted.dead, 0), coalesce(counted.kept, 0),
                coalesce(counted.waiting, 0))",
    },
    Relation {
        fault: StoreFault::Counts,
        rows: "days that count fewer deliveries than there are",
        select: "SELECT 'route ' || own.route || ', ' || (date '1970-01-01' + own.day::integer)
            FROM (SELECT route, floor(received_ms / 86400000.0)::bigint AS day,
                    count(*) FILTER (WHERE state = 'success') AS successful,
                    count(*) FILTER (WHERE state IN ('failed', 'dead')) AS failed
                FROM hookstile.deliveries GROUP BY 1, 2) AS own
            LEFT JOIN (SELECT route, day, sum(successful) AS successful, sum(failed) AS failed
                FROM hookstile.days GROUP BY route, day) AS counted USING (route, day)
            WHERE coalesce(counted.successful, 0) < own.successful
            OR coalesce(counted.failed, 0) < own.failed",
    },
];

/// The payloads of another size than that of their delivery without its responses.
const PAYLOAD_SIZES: &str = "
    SELECT id, payload_bytes - octet_length(head) - octet_length(body), attempts::text
    FROM hookstile.payloads JOIN hookstile.deliveries ON id = delivery
    WHERE payload_bytes <> octet_length(head) + octet_length(body)";

const SUMMARY: &str = "
    SELECT (SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'hookstile' AND c.relkind = 'r'),
        (SELECT count(*) FROM hookstile.gateways, hookstile.clock
            WHERE seen_ms > now - $1 AND seen_ms <= now),
        (SELECT count(*) FROM hookstile.ledger
            WHERE ends_ms > (SELECT now FROM hookstile.clock)),
        (SELECT count(*) FROM hookstile.webhooks)";

const ROUTES: &str = "SELECT route, state, count(*), min(received_ms)
    FROM hookstile.deliveries GROUP BY route, state";

const WEBHOOKS: &str = "SELECT name, definition FROM hookstile.webhooks ORDER BY name";

/// Checks the store in a database.
///
/// # Errors
/// Fails when the server cannot be reached, or has no store of this program that this version knows.
pub(in crate::store) async fn check(
    settings: &Settings,
    metrics: StoreMetrics,
) -> Result<SharedStoreCheck, OpenError> {
    let server = settings.database.log_name();
    let unusable = |reason: String| OpenError::Unusable {
        server: server.clone(),
        reason,
    };
    let database = CurrentDatabase::new(settings.database.clone());
    let pool = ConnectionPool::new(database, false, metrics);
    let pool = pool.map_err(|error| OpenError::Pool {
        server: server.clone(),
        reason: error.to_string(),
    })?;
    let connection = pool
        .acquire()
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let version = schema::read_version(&connection)
        .await
        .map_err(|error| unusable(error.to_string()))?;
    let mut check = Check {
        client: &connection,
        found: SharedStoreCheck {
            server: server.clone(),
            version,
            bytes: 0,
            gateways: 0,
            event_ids: 0,
            webhooks: 0,
            routes: Vec::new(),
            problems: Vec::new(),
            unchecked: Vec::new(),
        },
    };
    check.read_content().await;
    for relation in &RELATIONS {
        check.examine(relation).await;
    }
    check.examine_payload_sizes().await;
    check.examine_webhooks().await;
    Ok(check.found)
}

/// A check that is being made.
struct Check<'c> {
    client: &'c Client,
    found: SharedStoreCheck,
}

impl Check<'_> {
    async fn read_content(&mut self) {
        let seen_for = super::claims::millis(super::removed::SEEN_FOR);
        if let Some(rows) = self.read("the sizes", SUMMARY, &[&seen_for]).await
            && let Some(row) = rows.first()
        {
            let number = |column| row.try_get::<_, i64>(column).unwrap_or(0).unsigned_abs();
            let found = &mut self.found;
            (found.bytes, found.gateways) = (number(0), number(1));
            (found.event_ids, found.webhooks) = (number(2), number(3));
        }
        let Some(rows) = self.read("the routes", ROUTES, &[]).await else {
            return;
        };
        let mut routes: BTreeMap<String, CheckedRoute> = BTreeMap::new();
        for row in &rows {
            let name: String = row.get(0);
            let route = routes.entry(name.clone()).or_insert_with(|| CheckedRoute {
                route: name,
                ..CheckedRoute::default()
            });
            let oldest: Option<Timestamp> = Some(timestamp(row.get(3)));
            route.oldest = route.oldest.into_iter().chain(oldest).min();
            let count = match DeliveryState::parse(row.get(1)) {
                Some(DeliveryState::Pending) => &mut route.pending,
                Some(DeliveryState::Dead) => &mut route.dead,
                Some(DeliveryState::Success) => &mut route.success,
                Some(DeliveryState::Failed) => &mut route.failed,
                None => continue,
            };
            *count = row.get::<_, i64>(2).unsigned_abs();
        }
        self.found.routes = routes.into_values().collect();
    }

    async fn examine(&mut self, relation: &Relation) {
        let select = relation
            .select
            .replace(":record_bytes", &RECORD_BYTES.to_string());
        let sql = format!(
            "SELECT label, count(*) OVER () FROM ({select}) AS broken (label) LIMIT {NAMED_ROWS}"
        );
        let Some(rows) = self.read(relation.rows, &sql, &[]).await else {
            return;
        };
        let labels: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let count = rows.first().map_or(0, |row| row.get::<_, i64>(1));
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        self.add_rows(relation.fault, relation.rows, &labels, count);
    }

    async fn examine_payload_sizes(&mut self) {
        let name = "payloads of another size than their delivery says";
        let Some(rows) = self.read(name, PAYLOAD_SIZES, &[]).await else {
            return;
        };
        let broken: Vec<_> = rows
            .iter()
            .filter(|row| {
                let attempts = AttemptLog::parse(row.get(2));
                row.get::<_, i64>(1) != attempts.body_bytes()
            })
            .map(|row| format!("del_{}", row.get::<_, i64>(0)))
            .collect();
        let named = &broken[..broken.len().min(NAMED_ROWS)];
        self.add_rows(StoreFault::PayloadSize, name, named, broken.len());
    }

    async fn examine_webhooks(&mut self) {
        let name = "webhooks whose definition is not JSON";
        let Some(rows) = self.read(name, WEBHOOKS, &[]).await else {
            return;
        };
        let broken: Vec<String> = rows
            .iter()
            .filter(|row| serde_json::from_str::<serde_json::Value>(row.get(1)).is_err())
            .map(|row| row.get(0))
            .collect();
        let named = &broken[..broken.len().min(NAMED_ROWS)];
        self.add_rows(StoreFault::Webhook, name, named, broken.len());
    }

    /// Reads rows in a transaction that cannot write. Records why nothing could be read.
    async fn read(
        &mut self,
        what: &str,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Option<Vec<Row>> {
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {};
             SET LOCAL max_parallel_workers_per_gather = 0",
            STATEMENT_TIME.as_millis()
        );
        let reading = async {
            self.client.batch_execute(&begin).await?;
            self.client.query(sql, params).await
        };
        let read = within(STATEMENT_TIME + STATEMENT_MARGIN, reading).await;
        let end = if read.is_ok() { "COMMIT" } else { "ROLLBACK" };
        let ended = within(STATEMENT_MARGIN, self.client.batch_execute(end)).await;
        match read.and_then(|rows| ended.map(|()| rows)) {
            Ok(rows) => Some(rows),
            Err(QueryError::Refused(error)) => {
                let error = super::pool::error_chain(&error);
                self.add(
                    StoreFault::Unreadable,
                    format!("cannot check for {what}: {error}"),
                );
                None
            }
            Err(error) => {
                self.found.unchecked.push(format!("{what}: {error}"));
                None
            }
        }
    }

    /// Adds the problem that there are such rows, unless there are none.
    fn add_rows(&mut self, fault: StoreFault, name: &str, labels: &[String], count: usize) {
        if count == 0 {
            return;
        }
        let more = match count - labels.len() {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        self.add(
            fault,
            format!("{name} ({count}): {}{more}", labels.join(", ")),
        );
    }

    fn add(&mut self, fault: StoreFault, detail: String) {
        self.found.problems.push(StoreProblem { fault, detail });
    }
}
