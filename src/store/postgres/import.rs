//! Imports an embedded store into empty tables, in one transaction.

use std::fmt::Display;

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Settings;
use super::connect::CurrentDatabase;
use super::pool::{ConnectionPool, PooledConnection, error_chain};
use super::schema;
use crate::metrics::StoreMetrics;
use crate::store::migration::{
    CreationRow, DayRow, DeliveryRow, IdRow, MoveError, RouteRow, RouteSettings,
};
use crate::store::{RECORD_BYTES, StoredRedelivery};

/// An import transaction. It is rolled back unless it is committed.
pub(in crate::store) struct Import {
    connection: PooledConnection,
}

/// Locks the tables. While a transaction holds this lock, no gateway can count uptime.
const BEGIN: &str = "
    BEGIN; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
    LOCK TABLE hookstile.store, hookstile.ledger, hookstile.deliveries, hookstile.webhooks,
        hookstile.paused";

const STATE: &str =
    "SELECT EXISTS (SELECT FROM hookstile.ledger) OR EXISTS (SELECT FROM hookstile.deliveries)
        OR EXISTS (SELECT FROM hookstile.webhooks) OR EXISTS (SELECT FROM hookstile.paused)
        OR EXISTS (SELECT FROM hookstile.creations),
    uptime_ms > 0 AND clock_timestamp() - ticked_at < interval '3 seconds' FROM hookstile.store";

const IDS: &str = "INSERT INTO hookstile.ledger
    (key, token, forwards, ends_ms, ends_before_ms, attempts, possibly_delivered, digest,
        delivery, route)
    SELECT key, 0, false, ends, ends, attempts, possibly, digest, delivery, route
    FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::boolean[], $5::uuid[], $6::bigint[],
        $7::text[])
        AS r (key, ends, attempts, possibly, digest, delivery, route) ON CONFLICT DO NOTHING";

const DELIVERIES: &str = "
    INSERT INTO hookstile.deliveries (id, route, event_id, event_type, received_ms, state, reason,
        tried, possibly_delivered, attempts, payload_bytes, due_ms, queued_ms, ended_ms, keys,
        secret, test)
    SELECT id, route, event_id, event_type, received, state, reason, tried, possibly,
        attempts::jsonb, bytes, due, queued, ended, keys, secret, test
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::text[], $8::integer[], $9::boolean[], $10::text[], $11::bigint[], $12::bigint[],
        $13::bigint[], $14::bigint[], $15::bytea[], $16::text[], $17::boolean[])
        AS r (id, route, event_id, event_type, received, state, reason, tried, possibly, attempts,
            bytes, due, queued, ended, keys, secret, test)";

const COUNTS: &str = "
    INSERT INTO hookstile.route_counts (route, part, pending, dead, kept_bytes, waiting_bytes)
    SELECT route, 0, count(*) FILTER (WHERE state = 'pending'),
        count(*) FILTER (WHERE state = 'dead'),
        coalesce(sum($1 + payload_bytes) FILTER (WHERE state IN ('success', 'failed')), 0)::bigint,
            coalesce(sum($1 + payload_bytes) FILTER (WHERE state IN ('pending', 'dead')), 0)::bigint
    FROM hookstile.deliveries GROUP BY route";

impl Import {
    pub(in crate::store) async fn begin(
        to: &Settings,
        metrics: StoreMetrics,
    ) -> Result<Self, MoveError> {
        let database = CurrentDatabase::new(to.database.clone());
        let mut connection = ConnectionPool::new(database, false, metrics)
            .map_err(connection_error)?
            .acquire()
            .await
            .map_err(connection_error)?;
        schema::read_or_create(connection.client_mut(), false)
            .await
            .map_err(|error| MoveError::Write(error_chain(&error)))?;
        connection.batch_execute(BEGIN).await.map_err(write_error)?;
        let row = connection
            .query_one(STATE, &[])
            .await
            .map_err(write_error)?;
        match (
            row.try_get(1).map_err(write_error)?,
            row.try_get(0).map_err(write_error)?,
        ) {
            (true, _) => Err(MoveError::InUse),
            (false, true) => Err(MoveError::NotEmpty),
            (false, false) => Ok(Self { connection }),
        }
    }

    /// Sets the clock of the store, which continues at `uptime_ms` and `due_ms`, and its hash key.
    pub(in crate::store) async fn set_time(
        &mut self,
        hash_key: [u8; 16],
        (uptime_ms, due_ms): (u64, u64),
    ) -> Result<(), MoveError> {
        let downtime = due_ms.saturating_sub(uptime_ms).cast_signed();
        let sql = "
            UPDATE hookstile.store SET hash_key = $1, uptime_ms = $2, downtime_ms = $3,
                ticked_at = clock_timestamp()";
        self.execute(
            sql,
            &[
                &Uuid::from_bytes(hash_key),
                &uptime_ms.cast_signed(),
                &downtime,
            ],
        )
        .await
    }

    pub(in crate::store) async fn insert_ids(&mut self, rows: &[IdRow]) -> Result<(), MoveError> {
        let keys = column(rows, |row| Uuid::from_bytes(row.key));
        let digests = column(rows, |row| row.digest.map(Uuid::from_bytes));
        let routes = column(rows, |row| row.route.as_deref());
        let (ends, attempts) = (
            column(rows, |row| row.ends_ms),
            column(rows, |row| row.attempts),
        );
        let (possibly, deliveries) = (
            column(rows, |row| row.possibly_delivered),
            column(rows, |row| row.delivery),
        );
        self.execute(
            IDS,
            &[
                &keys,
                &ends,
                &attempts,
                &possibly,
                &digests,
                &deliveries,
                &routes,
            ],
        )
        .await
    }

    pub(in crate::store) async fn insert_deliveries(
        &mut self,
        rows: &[DeliveryRow],
    ) -> Result<(), MoveError> {
        self.execute(
            DELIVERIES,
            &[
                &column(rows, |row| row.id),
                &column(rows, |row| &*row.route),
                &column(rows, |row| &*row.event_id),
                &column(rows, |row| &*row.event_type),
                &column(rows, |row| row.received_ms),
                &column(rows, |row| &*row.state),
                &column(rows, |row| row.reason.as_deref()),
                &column(rows, |row| row.tried),
                &column(rows, |row| row.possibly_delivered),
                &column(rows, |row| &*row.attempts),
                &column(rows, |row| row.payload_bytes),
                &column(rows, |row| row.due_ms),
                &column(rows, |row| row.queued_ms),
                &column(rows, |row| row.ended_ms),
                &column(rows, |row| row.keys.as_deref()),
                &column(rows, |row| row.secret.as_deref()),
                &column(rows, |row| row.test),
            ],
        )
        .await?;
        // Payloads are inserted one by one, because each may be as large as a request.
        for row in rows {
            let Some((head, body)) = &row.payload else {
                continue;
            };
            self.execute(
                "INSERT INTO hookstile.payloads VALUES ($1, $2, $3)",
                &[&row.id, head, body],
            )
            .await?;
        }
        Ok(())
    }

    pub(in crate::store) async fn insert_operator_data(
        &mut self,
        webhooks: &[(String, String)],
        paused: &[String],
    ) -> Result<(), MoveError> {
        for (name, definition) in webhooks {
            self.execute(
                "INSERT INTO hookstile.webhooks VALUES ($1, $2)",
                &[name, definition],
            )
            .await?;
        }
        self.execute(
            "INSERT INTO hookstile.paused SELECT unnest($1::text[])",
            &[&paused],
        )
        .await
    }

    pub(in crate::store) async fn insert_creations(
        &mut self,
        rows: &[CreationRow],
    ) -> Result<(), MoveError> {
        for CreationRow {
            key,
            creation,
            ends_ms,
        } in rows
        {
            self.execute(
                "INSERT INTO hookstile.creations (key, request, webhook, definition, ends_ms)
                 VALUES ($1, $2, $3, $4, $5)",
                &[
                    key,
                    &&creation.request[..],
                    &creation.webhook,
                    &*creation.definition,
                    ends_ms,
                ],
            )
            .await?;
        }
        Ok(())
    }

    /// Inserts the bulk redelivery. The first gateway that starts continues it if it is running.
    pub(in crate::store) async fn insert_redelivery(
        &mut self,
        redelivery: &StoredRedelivery,
    ) -> Result<(), MoveError> {
        self.execute(
            "INSERT INTO hookstile.redelivery (document, running, owner, lease_ends_ms)
             VALUES ($1, $2, 0, 0)",
            &[&redelivery.document, &redelivery.is_running],
        )
        .await
    }

    /// Inserts the counts. Some of them are computed from the rows that were inserted before.
    pub(in crate::store) async fn insert_counts(
        &mut self,
        routes: &[RouteRow],
        days: &[DayRow],
    ) -> Result<(), MoveError> {
        self.execute(COUNTS, &[&RECORD_BYTES]).await?;
        let last_times = "
            INSERT INTO hookstile.route_counts VALUES ($1, 0, 0, 0, 0, 0, $2, $3)
            ON CONFLICT (route, part) DO UPDATE SET last_success_ms = excluded.last_success_ms,
                last_failure_ms = excluded.last_failure_ms";
        for RouteRow {
            name,
            created_ms,
            last_success_ms,
            last_failure_ms,
            settings,
        } in routes
        {
            let route = "INSERT INTO hookstile.routes VALUES ($1, $2) ON CONFLICT (name) DO UPDATE
                SET created_ms = excluded.created_ms";
            self.execute(route, &[name, created_ms]).await?;
            self.execute(last_times, &[name, last_success_ms, last_failure_ms])
                .await?;
            if let Some(settings) = settings {
                self.insert_route_settings(name, settings).await?;
            }
        }
        for DayRow {
            route,
            day,
            successful,
            failed,
            total_ms,
        } in days
        {
            let sql = "INSERT INTO hookstile.days VALUES ($1, $2, 0, $3, $4, $5)";
            self.execute(sql, &[route, day, successful, failed, total_ms])
                .await?;
        }
        // The next ID must exceed all existing ones.
        let numbers = "
            SELECT setval('hookstile.delivery_numbers', max(id))
            FROM hookstile.deliveries HAVING count(*) > 0";
        self.execute(numbers, &[]).await
    }

    async fn insert_route_settings(
        &mut self,
        route: &str,
        settings: &RouteSettings,
    ) -> Result<(), MoveError> {
        let sql = "INSERT INTO hookstile.route_settings VALUES ($1, $2, $3, $4)
            ON CONFLICT (route) DO UPDATE SET keep_ms = excluded.keep_ms,
                max_bytes = excluded.max_bytes, horizon_ms = excluded.horizon_ms";
        let RouteSettings {
            keep_ms,
            max_bytes,
            horizon_ms,
        } = settings;
        self.execute(sql, &[&route, keep_ms, max_bytes, horizon_ms])
            .await
    }

    pub(in crate::store) async fn commit(self) -> Result<(), MoveError> {
        self.connection
            .batch_execute("COMMIT")
            .await
            .map_err(write_error)?;
        // Without statistics, the first plans would assume empty tables.
        self.connection
            .batch_execute("ANALYZE hookstile.ledger, hookstile.deliveries")
            .await
            .map_err(write_error)
    }

    async fn execute(
        &mut self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(), MoveError> {
        let statement = self
            .connection
            .prepare_cached(sql)
            .await
            .map_err(write_error)?;
        self.connection
            .execute(&statement, params)
            .await
            .map_err(write_error)
            .map(drop)
    }
}

fn column<'r, R, T>(rows: &'r [R], field: impl FnMut(&'r R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}

fn connection_error(error: impl Display) -> MoveError {
    MoveError::Write(error.to_string())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn write_error(error: tokio_postgres::Error) -> MoveError {
    MoveError::Write(error_chain(&error))
}
