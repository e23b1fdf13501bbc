//! The tables, their creation by the first gateway that starts, and warnings about settings of the
//! server that can lose acknowledged writes.
//!
//! The order of an index is written out (`ASC`), although it is PostgreSQL's default: other databases
//! that speak its protocol hash the first column.
//!
//! All times in the tables are the store's own, counted by the server. The gateways' clocks play no
//! part.

use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

/// The version of the tables. One gateway may raise it while others of the previous version still
/// run.
pub(super) const VERSION: i32 = 1;

/// The advisory lock for creating and changing the tables. The number is arbitrary, but all
/// versions must use the same one.
const SCHEMA_LOCK: i64 = 0x686f_6f6b_7374_696c;

const TABLES: &str = "
-- One row: the store's header. `uptime_ms` is the time during which at least one gateway ran, up to
-- `ticked_at`; `downtime_ms` the time during which none did. `revision` counts operator changes.
-- `incarnation` is random, and changes when the server is promoted, that is when its timeline is not
-- `timeline` any more.
CREATE TABLE hookstile.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL,
    hash_key uuid NOT NULL, uptime_ms bigint NOT NULL, downtime_ms bigint NOT NULL,
    ticked_at timestamptz NOT NULL, revision bigint NOT NULL,
    incarnation uuid DEFAULT gen_random_uuid(), timeline bigint
);
-- Gateways tick every second. A step of more than 5 s is downtime or a clock that was set, and
-- counts as 5 s.
CREATE VIEW hookstile.clock AS
    SELECT uptime_ms + step_ms AS now, uptime_ms + step_ms + downtime_ms AS due
    FROM hookstile.store, LATERAL (SELECT least(greatest(
        extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000)) AS s (step_ms);
-- Fails a transaction whose rows another one has claimed meanwhile, so that it is retried.
CREATE FUNCTION hookstile.check_all(written bigint, wanted bigint) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN IF written <> wanted THEN RAISE EXCEPTION 'a row has changed'
        USING ERRCODE = 'serialization_failure'; END IF; END $$;
-- Event IDs. While `lease_ends_ms` is set, the gateway that knows the `token` is delivering the
-- event. A row with a digest is completed; one without had `attempts` failed attempts.
-- `ends_before_ms` is the expiry without the lease. `other` is not used. `route` is
-- NULL until the row is settled.
CREATE TABLE hookstile.ledger (
    key uuid PRIMARY KEY, token bigint NOT NULL, lease_ends_ms bigint, forwards boolean NOT NULL,
    ends_ms bigint NOT NULL, ends_before_ms bigint NOT NULL, attempts integer NOT NULL,
    possibly_delivered boolean NOT NULL, digest uuid, delivery bigint, other uuid,
    route text
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX ledger_ends ON hookstile.ledger (ends_ms ASC);
CREATE SEQUENCE hookstile.delivery_numbers;
-- Deliveries: all attempts for one event on one route. `lease_owner` may attempt a pending one
-- until `lease_ends_ms`; `begun` means that it may have sent something. `lease_batch` is the owner's
-- number of the statement that leased it. `recorded_by` is the
-- gateway that recorded the last attempt. `identity` tells it from another one that had the same
-- number before a failover.
CREATE TABLE hookstile.deliveries (
    id bigint PRIMARY KEY, route text NOT NULL, event_id text NOT NULL, event_type text NOT NULL,
    received_ms bigint NOT NULL, state text NOT NULL, reason text, tried integer NOT NULL,
    possibly_delivered boolean NOT NULL, attempts jsonb NOT NULL, payload_bytes bigint NOT NULL,
    due_ms bigint, queued_ms bigint, ended_ms bigint, keys bytea, secret text,
    test boolean NOT NULL, lease_owner bigint, lease_ends_ms bigint,
    begun boolean NOT NULL DEFAULT false, recorded_by bigint,
    identity uuid DEFAULT gen_random_uuid(), lease_batch bigint
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX deliveries_of_route ON hookstile.deliveries (route ASC, id ASC);
CREATE INDEX deliveries_due ON hookstile.deliveries (route ASC, due_ms ASC, id ASC)
    WHERE state = 'pending';
CREATE INDEX deliveries_ended ON hookstile.deliveries (route ASC, ended_ms ASC)
    WHERE state IN ('success', 'failed');
CREATE INDEX deliveries_open ON hookstile.deliveries (route ASC, state ASC, id ASC)
    WHERE state <> 'success';
CREATE TABLE hookstile.payloads (delivery bigint PRIMARY KEY, head bytea NOT NULL,
    body bytea NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE hookstile.payloads ALTER head SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
CREATE TABLE hookstile.routes (name text PRIMARY KEY, created_ms bigint NOT NULL);
-- Counts, in parts that are added up, so that no writer waits for another's commit. `kept_bytes`
-- counts records that may be deleted, `waiting_bytes` the others.
CREATE TABLE hookstile.route_counts (
    route text, part smallint, pending bigint NOT NULL, dead bigint NOT NULL,
    kept_bytes bigint NOT NULL, waiting_bytes bigint NOT NULL,
    last_success_ms bigint, last_failure_ms bigint, PRIMARY KEY (route, part)
) WITH (fillfactor = 50);
CREATE TABLE hookstile.days (
    route text, day bigint, part smallint, successful bigint NOT NULL, failed bigint NOT NULL,
    total_ms bigint NOT NULL, PRIMARY KEY (route, day, part)
) WITH (fillfactor = 50);
-- Operator data: webhooks made over the API (the definition includes the secret), and paused
-- routes.
CREATE TABLE hookstile.webhooks (name text PRIMARY KEY, definition text NOT NULL);
CREATE TABLE hookstile.paused (route text PRIMARY KEY);
";

/// The tables that earlier versions did not create. Gateways of an earlier version do not write them,
/// so they do not raise the version.
const ADDED_TABLES: &str = "
-- The last active settings of each route, which apply to its records and events when no gateway has
-- it configured any more. `max_bytes` is NULL for no limit.
CREATE TABLE hookstile.route_settings (route text PRIMARY KEY, keep_ms bigint NOT NULL,
    max_bytes bigint, horizon_ms bigint NOT NULL);
-- The gateways, each with the routes that it has configured, and the store's time at which it was
-- last seen.
CREATE TABLE hookstile.gateways (owner bigint PRIMARY KEY, seen_ms bigint NOT NULL,
    routes text[] NOT NULL) WITH (fillfactor = 50);
";

/// The table of incidents, which was added after those.
///
/// An incident is a problem that somebody is notified of. `severity` is that of the document, and
/// `told` the one that the endpoint has accepted: 2 for a warning, 3 for critical, 0 for none.
/// `seen_ms` is when any gateway saw the problem last. A gateway that sends a notification has the
/// row until `lease_ends_ms`.
const INCIDENTS: &str = "
CREATE TABLE hookstile.incidents (
    key text PRIMARY KEY, id text NOT NULL DEFAULT md5(random()::text || clock_timestamp()::text),
    document text NOT NULL, severity smallint NOT NULL, told smallint NOT NULL DEFAULT 0,
    seen_ms bigint NOT NULL, ended_ms bigint, lease_ends_ms bigint) WITH (fillfactor = 50);
";

/// The table of creations, which was added later, too.
const CREATIONS: &str = "
-- Creations of webhooks under a client's key, each with the digest of its request and the definition
-- as it was created, for 24 hours of uptime.
CREATE TABLE hookstile.creations (
    key text PRIMARY KEY, request bytea NOT NULL, webhook text NOT NULL, definition text NOT NULL,
    ends_ms bigint NOT NULL);
CREATE INDEX creations_ends ON hookstile.creations (ends_ms ASC);
";

/// The table of the bulk redelivery that was requested last, which was added later, too. The gateway
/// that runs it has the row until `lease_ends_ms`.
const REDELIVERY: &str = "
CREATE TABLE hookstile.redelivery (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), document text NOT NULL,
    running boolean NOT NULL, owner bigint NOT NULL, lease_ends_ms bigint NOT NULL)
    WITH (fillfactor = 50);
";

/// The reason why the tables cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(
        "the tables are from a later version of hookstile (tables {found}; this one supports \
         tables {VERSION})"
    )]
    Later { found: i32 },
    #[error(
        "the database has no store, and `store.must_exist` is set: an empty one would forget every \
         event ID. Is it the right database? Restore a backup, or remove the key for one start"
    )]
    MustExist,
    #[error("the database has no store of hookstile; is it the right database?")]
    Missing,
    #[error("the database encoding is {0}; hookstile needs UTF8")]
    Encoding(String),
    #[error("{0}")]
    Sql(#[from] tokio_postgres::Error),
    #[error("cannot read random bytes for the ledger's key: {0}")]
    Random(getrandom::Error),
}

/// Returns the version of the tables, and creates none.
pub(super) async fn read_version(client: &Client) -> Result<i32, SchemaError> {
    let exists = "SELECT to_regclass('hookstile.store') IS NOT NULL";
    if !client.query_one(exists, &[]).await?.get::<_, bool>(0) {
        return Err(SchemaError::Missing);
    }
    let version = "SELECT max(version) FROM hookstile.store";
    match client
        .query_one(version, &[])
        .await?
        .get::<_, Option<i32>>(0)
    {
        Some(found) if found > VERSION => Err(SchemaError::Later { found }),
        found => Ok(found.unwrap_or(0)),
    }
}

/// Creates the tables if they do not exist, under a lock: of several gateways that start at once,
/// the others wait and find the tables. If they `must_exist`, none are created. Returns the key of the
/// ledger's hashes.
pub(super) async fn read_or_create(
    client: &mut Client,
    must_exist: bool,
) -> Result<[u8; 16], SchemaError> {
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.get(0);
    if encoding != "UTF8" {
        return Err(SchemaError::Encoding(encoding));
    }
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '60s'")
        .await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&SCHEMA_LOCK])
        .await?;
    let exists: bool = transaction
        .query_one("SELECT to_regclass('hookstile.store') IS NOT NULL", &[])
        .await?
        .get(0);
    if !exists && must_exist {
        return Err(SchemaError::MustExist);
    }
    if !exists {
        tracing::info!("an empty store is created in the database");
        create(&transaction).await?;
    }
    let row = transaction
        .query_one("SELECT version, hash_key FROM hookstile.store", &[])
        .await?;
    let found = row.get(0);
    if found > VERSION {
        return Err(SchemaError::Later { found });
    }
    let key: Uuid = row.get(1);
    add_tables(&transaction).await?;
    transaction.commit().await?;
    add_columns(client).await?;
    Ok(*key.as_bytes())
}

/// The columns that earlier versions did not create: table, name and definition. Gateways of an
/// earlier version do not write them, so they do not raise the version. The lock on a table is held
/// for a moment: no row is rewritten, because the default applies to later rows only.
const ADDED_COLUMNS: [(&str, &str, &str, &str); 5] = [
    ("ledger", "route", "text", ""),
    ("deliveries", "identity", "uuid", "gen_random_uuid()"),
    ("deliveries", "lease_batch", "bigint", ""),
    ("store", "incarnation", "uuid", "gen_random_uuid()"),
    ("store", "timeline", "bigint", ""),
];

/// The time for which adding a column waits for the table's lock. Meanwhile, all others wait behind it.
const COLUMN_LOCK_TIMEOUT: &str = "500ms";
/// The pause before it is tried again, in which the others continue.
const COLUMN_PAUSE: Duration = Duration::from_millis(700);
/// The number of tries: a `pg_dump` may have the table for so long.
const COLUMN_TRIES: u32 = 40;

/// Adds the columns to tables that were created without them, each in a transaction of its own, because
/// other gateways lock the tables in another order. Several gateways may do so at once.
async fn add_columns(client: &Client) -> Result<(), SchemaError> {
    for (table, column, kind, default) in ADDED_COLUMNS {
        let exists = format!(
            "SELECT count(*) > 0 FROM pg_attribute WHERE attname = '{column}'
             AND attrelid = 'hookstile.{table}'::regclass"
        );
        if client.query_one(&exists, &[]).await?.get(0) {
            continue;
        }
        let mut add = format!(
            "BEGIN; SET LOCAL lock_timeout = '{COLUMN_LOCK_TIMEOUT}';
             ALTER TABLE hookstile.{table} ADD COLUMN IF NOT EXISTS {column} {kind}"
        );
        if !default.is_empty() {
            add = format!(
                "{add}; ALTER TABLE hookstile.{table} ALTER COLUMN {column} SET DEFAULT {default}"
            );
        }
        add.push_str("; COMMIT");
        let mut tries = 1;
        while let Err(error) = client.batch_execute(&add).await {
            let is_locked = [
                Some(&SqlState::LOCK_NOT_AVAILABLE),
                Some(&SqlState::T_R_DEADLOCK_DETECTED),
            ]
            .contains(&error.code());
            if !is_locked || tries == COLUMN_TRIES {
                return Err(error.into());
            }
            if tries == 1 {
                tracing::warn!(
                    table,
                    column,
                    "a column is added once the table is not locked"
                );
            }
            tries += 1;
            client.batch_execute("ROLLBACK").await?;
            tokio::time::sleep(COLUMN_PAUSE).await;
        }
    }
    Ok(())
}

/// Creates the tables that earlier versions did not create.
async fn add_tables(transaction: &Transaction<'_>) -> Result<(), SchemaError> {
    for (table, sql) in [
        ("gateways", ADDED_TABLES),
        ("incidents", INCIDENTS),
        ("creations", CREATIONS),
        ("redelivery", REDELIVERY),
    ] {
        let exists = format!("SELECT to_regclass('hookstile.{table}') IS NOT NULL");
        let row = transaction.query_one(&exists, &[]).await?;
        if !row.get::<_, bool>(0) {
            transaction.batch_execute(sql).await?;
        }
    }
    Ok(())
}

async fn create(transaction: &Transaction<'_>) -> Result<(), SchemaError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(SchemaError::Random)?;
    // Its owner need not have the right to create others.
    let has_schema = "SELECT to_regnamespace('hookstile') IS NOT NULL";
    if !transaction
        .query_one(has_schema, &[])
        .await?
        .get::<_, bool>(0)
    {
        transaction.batch_execute("CREATE SCHEMA hookstile").await?;
    }
    transaction.batch_execute(TABLES).await?;
    let insert = "INSERT INTO hookstile.store VALUES (true, $1, $2, 0, 0, clock_timestamp(), 0)";
    transaction
        .execute(insert, &[&VERSION, &Uuid::from_bytes(key)])
        .await?;
    Ok(())
}

/// Returns a warning for each setting with which the server may lose acknowledged writes.
pub(super) async fn durability_warnings(
    client: &Client,
    relaxed: bool,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync'),
             current_setting('full_page_writes'), current_setting('synchronous_standby_names'),
             (SELECT count(*) FROM pg_stat_replication)",
            &[],
        )
        .await?;
    let setting = |column| row.get::<_, &str>(column);
    let mut warnings = Vec::new();
    if setting(0) == "off" && !relaxed {
        warnings.push(
            "`synchronous_commit` is off: a crash of the server can lose the last acknowledged \
             writes"
                .to_owned(),
        );
    }
    for (column, name) in [(1, "fsync"), (2, "full_page_writes")] {
        if setting(column) == "off" {
            warnings.push(format!(
                "`{name}` is off: a crash of the server's machine can corrupt the database"
            ));
        }
    }
    let standbys: i64 = row.get(4);
    if standbys > 0 && (setting(3).is_empty() || setting(0) == "local") {
        warnings.push(
            "the server does not wait for its standbys: a failover can lose the last acknowledged \
             writes; see `synchronous_standby_names`"
                .to_owned(),
        );
    }
    Ok(warnings)
}
