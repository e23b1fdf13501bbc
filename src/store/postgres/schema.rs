//! The tables, how they are made by whichever gateway comes first, and what the server may lose.
//!
//! All time in them is the store's own, counted by the server: no gateway's clock has a part in it.

use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

/// What this program reads and writes. It may be raised by one gateway while others of the version before still serve.
const VERSION: i32 = 1;

/// Whoever holds it may make or change tables: `hookstile` in ASCII.
const LOCK: i64 = 0x686f_6f6b_6761_7465;

const FIRST: &str = "
CREATE SCHEMA IF NOT EXISTS hookstile;
-- One row: the store itself. `running_ms` is the time that at least one gateway was there, up to `ticked_at`; `away_ms` the
-- time that none was. `revision` counts what operators changed.
CREATE TABLE hookstile.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one), version integer NOT NULL, hash_key uuid NOT NULL,
    running_ms bigint NOT NULL, away_ms bigint NOT NULL, ticked_at timestamptz NOT NULL, revision bigint NOT NULL
);
-- A step of more than 5 s is time in which nobody counted, or a clock that was set: gateways count every second.
CREATE VIEW hookstile.clock AS SELECT running_ms + step_ms AS now, running_ms + step_ms + away_ms AS due FROM hookstile.store,
    LATERAL (SELECT least(greatest(extract(epoch FROM clock_timestamp() - ticked_at) * 1000, 0)::bigint, 5000)) AS s (step_ms);
-- For a transaction whose rows another has taken meanwhile: to be tried again.
CREATE FUNCTION hookstile.check_all(written bigint, wanted bigint) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN IF written <> wanted THEN RAISE EXCEPTION 'a row has changed' USING ERRCODE = 'serialization_failure'; END IF; END $$;
-- Event IDs. While `lease_ends_ms` is given, the event is being handed over by whoever knows the `token`. A row with a digest
-- is completed; one without was tried `attempts` times. `ends_before_ms` is when it would end but for the lease. `other` is the
-- event's other name.
CREATE TABLE hookstile.ledger (
    key uuid PRIMARY KEY, token bigint NOT NULL, lease_ends_ms bigint, forwards boolean NOT NULL,
    ends_ms bigint NOT NULL, ends_before_ms bigint NOT NULL, attempts integer NOT NULL, possibly_delivered boolean NOT NULL, digest uuid, delivery bigint, other uuid
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX ledger_ends ON hookstile.ledger (ends_ms);
CREATE SEQUENCE hookstile.delivery_numbers;
-- Deliveries: all attempts for one event on one route. A pending one is tried by `lease_owner` until `lease_ends_ms`;
-- `begun` says that it may have sent something. `told_by` told of the last attempt.
CREATE TABLE hookstile.deliveries (
    id bigint PRIMARY KEY, route text NOT NULL, event_id text NOT NULL, event_type text NOT NULL,
    received_ms bigint NOT NULL, state text NOT NULL, reason text, tried integer NOT NULL,
    possibly_delivered boolean NOT NULL, attempts jsonb NOT NULL, payload_bytes bigint NOT NULL,
    due_ms bigint, queued_ms bigint, ended_ms bigint, keys bytea, secret text, test boolean NOT NULL,
    lease_owner bigint, lease_ends_ms bigint, begun boolean NOT NULL DEFAULT false,
    told_by bigint
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
CREATE INDEX deliveries_of_route ON hookstile.deliveries (route, id);
CREATE INDEX deliveries_due ON hookstile.deliveries (route, due_ms, id) WHERE state = 'pending';
CREATE INDEX deliveries_ended ON hookstile.deliveries (route, ended_ms) WHERE state IN ('success', 'failed');
CREATE INDEX deliveries_open ON hookstile.deliveries (route, state, id) WHERE state <> 'success';
CREATE TABLE hookstile.payloads (delivery bigint PRIMARY KEY, head bytea NOT NULL, body bytea NOT NULL)
    WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE hookstile.payloads ALTER head SET STORAGE EXTERNAL, ALTER body SET STORAGE EXTERNAL;
CREATE TABLE hookstile.routes (name text PRIMARY KEY, created_ms bigint NOT NULL);
-- Counts, in parts, so that no writer waits for another's commit. What counts is the sum. `kept_bytes` are those of records
-- that may go, `waiting_bytes` of the others.
CREATE TABLE hookstile.standings (
    route text, part smallint, pending bigint NOT NULL, dead bigint NOT NULL,
    kept_bytes bigint NOT NULL, waiting_bytes bigint NOT NULL,
    last_success_ms bigint, last_failure_ms bigint, PRIMARY KEY (route, part)
) WITH (fillfactor = 50);
CREATE TABLE hookstile.days (
    route text, day bigint, part smallint, successful bigint NOT NULL, failed bigint NOT NULL, total_ms bigint NOT NULL,
    PRIMARY KEY (route, day, part)
) WITH (fillfactor = 50);
-- What operators said: webhooks made over the API (the secret in their definition), and routes whose events wait.
CREATE TABLE hookstile.webhooks (name text PRIMARY KEY, definition text NOT NULL);
CREATE TABLE hookstile.paused (route text PRIMARY KEY);
";

/// Why the tables can't be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum SchemaError {
    #[error(
        "the database was brought forward by a later version of hookstile (tables {found}, this one knows {VERSION})"
    )]
    Later { found: i32 },
    #[error("the database's encoding is {0}; hookstile needs UTF8")]
    Encoding(String),
    #[error("{0}")]
    Sql(#[from] tokio_postgres::Error),
    #[error("cannot read random bytes for the ledger's key: {0}")]
    Random(getrandom::Error),
}

/// Makes the tables where there are none, alone: of several gateways that start at once, the others wait and find them.
/// Answers the key of the ledger's hashes.
pub(super) async fn make_or_read(client: &mut Client) -> Result<[u8; 16], SchemaError> {
    let encoding: String = client.query_one("SHOW server_encoding", &[]).await?.get(0);
    if encoding != "UTF8" {
        return Err(SchemaError::Encoding(encoding));
    }
    let transaction = client.transaction().await?;
    transaction
        .batch_execute("SET LOCAL lock_timeout = '30s'; SET LOCAL statement_timeout = '60s'")
        .await?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK])
        .await?;
    let made: bool = transaction
        .query_one("SELECT to_regclass('hookstile.store') IS NOT NULL", &[])
        .await?
        .get(0);
    if !made {
        make(&transaction).await?;
    }
    let row = transaction
        .query_one("SELECT version, hash_key FROM hookstile.store", &[])
        .await?;
    let found = row.get(0);
    if found > VERSION {
        return Err(SchemaError::Later { found });
    }
    let key: Uuid = row.get(1);
    transaction.commit().await?;
    Ok(*key.as_bytes())
}

async fn make(transaction: &Transaction<'_>) -> Result<(), SchemaError> {
    let mut key = [0; 16];
    getrandom::fill(&mut key).map_err(SchemaError::Random)?;
    transaction.batch_execute(FIRST).await?;
    let insert = "INSERT INTO hookstile.store VALUES (true, $1, $2, 0, 0, clock_timestamp(), 0)";
    transaction
        .execute(insert, &[&VERSION, &Uuid::from_bytes(key)])
        .await?;
    Ok(())
}

/// What the server may lose that it has acknowledged: a sentence for each reason.
pub(super) async fn may_lose(
    client: &Client,
    relaxed: bool,
) -> Result<Vec<String>, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
             current_setting('synchronous_standby_names'), (SELECT count(*) FROM pg_stat_replication)",
            &[],
        )
        .await?;
    let setting = |column| row.get::<_, &str>(column);
    let mut sentences = Vec::new();
    if setting(0) == "off" && !relaxed {
        sentences.push(
            "`synchronous_commit` is off: a crash of the server may undo the last moment's answers"
                .to_owned(),
        );
    }
    for (column, name) in [(1, "fsync"), (2, "full_page_writes")] {
        if setting(column) == "off" {
            sentences.push(format!(
                "`{name}` is off: a crash of its machine may ruin the database"
            ));
        }
    }
    let standbys: i64 = row.get(4);
    if standbys > 0 && (setting(3).is_empty() || setting(0) == "local") {
        sentences.push(
            "the server does not wait for its standbys: a failover may undo the last moment's answers; see \
             `synchronous_standby_names`"
                .to_owned(),
        );
    }
    Ok(sentences)
}
