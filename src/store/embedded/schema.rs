//! The file: its tables, how it is opened, and what is known of the store itself.
//!
//! Rows that come with every request are only ever appended: those of the ledger by the hour of their end, deliveries
//! by their arrival. A table keyed by a random ID would be ten times slower, and write sixty times as much.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::{Durability, OpenError, folder_lock};
use crate::store::uptime::Uptime;

/// `hook` in ASCII: lets `file` and others tell what this is.
const APPLICATION_ID: i32 = 0x686f_6f6b;
const VERSION: i32 = 2;

/// Pages that the writer keeps in memory: 8 MiB.
const WRITER_CACHE_KIB: i32 = 8 * 1024;
const READER_CACHE_KIB: i32 = 1024;

const TABLES: &str = "
-- One row: the store itself. `running_ms` is the time the store was open, all runs together; `away_ms` the time between
-- runs; `wall_ms` when this was written, in Unix time. `clean` says that the last run ended in good order, `boot` names
-- the machine's run that it was part of.
CREATE TABLE store (
    hash_key BLOB NOT NULL, running_ms INTEGER NOT NULL, away_ms INTEGER NOT NULL, wall_ms INTEGER NOT NULL,
    clean INTEGER NOT NULL, boot TEXT NOT NULL
);
-- Routes, as long as anything is known of them. `concurrency` is what was last served.
CREATE TABLE routes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL, concurrency INTEGER NOT NULL,
    last_success_ms INTEGER, last_failure_ms INTEGER, kept_bytes INTEGER NOT NULL DEFAULT 0
);
-- Event IDs. `place` is the hour of the row's end (in running time), shifted by 32, plus a number. A row with a digest is
-- completed; one without was tried `attempts` times.
CREATE TABLE ledger (
    place INTEGER PRIMARY KEY, key BLOB NOT NULL, ends_ms INTEGER NOT NULL, attempts INTEGER NOT NULL,
    possibly_delivered INTEGER NOT NULL, digest BLOB, delivery INTEGER
);
-- Deliveries: all attempts for one event on one route. `attempts` is a JSON array. `due_ms` and `queued_ms` while it is
-- pending, `ended_ms` since it is not; `keys` are its event's in the ledger, unless it was handed over. `secret` is the
-- name of the one that verified it, NULL from before version 2; `test` says that the gateway made it itself.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, route INTEGER NOT NULL, event_id TEXT NOT NULL, event_type TEXT NOT NULL,
    received_ms INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT, tried INTEGER NOT NULL,
    possibly_delivered INTEGER NOT NULL, attempts TEXT NOT NULL, payload_bytes INTEGER NOT NULL,
    due_ms INTEGER, queued_ms INTEGER, ended_ms INTEGER, keys BLOB, secret TEXT,
    test INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX deliveries_of_route ON deliveries (route);
CREATE INDEX deliveries_due ON deliveries (route, due_ms) WHERE state = 'pending';
CREATE INDEX deliveries_ended ON deliveries (route, ended_ms) WHERE state IN ('success', 'failed');
CREATE INDEX deliveries_open ON deliveries (route, state) WHERE state <> 'success';
-- What is needed to deliver: the head as it goes to the upstream, and the body as it came.
CREATE TABLE payloads (delivery INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL);
-- Ended deliveries by the day (since 1970, UTC) on which the event arrived.
CREATE TABLE days (
    route INTEGER NOT NULL, day INTEGER NOT NULL, successful INTEGER NOT NULL, failed INTEGER NOT NULL,
    total_ms INTEGER NOT NULL, PRIMARY KEY (route, day)
) WITHOUT ROWID;
";

/// What makes version 2 of version 1.
const SECOND: &str = "ALTER TABLE deliveries ADD COLUMN secret TEXT;
    ALTER TABLE deliveries ADD COLUMN test INTEGER NOT NULL DEFAULT 0";

/// What operators say. Made on opening, where it is missing.
const OPERATORS_TABLES: &str = "
-- Webhooks made over the API: what was given, as JSON, the secret in it.
CREATE TABLE IF NOT EXISTS webhooks (name TEXT PRIMARY KEY, definition TEXT NOT NULL) WITHOUT ROWID;
-- Routes whose stored events wait until somebody says otherwise.
CREATE TABLE IF NOT EXISTS paused (route TEXT PRIMARY KEY) WITHOUT ROWID;
";

/// What the store knows of itself.
pub(super) struct Head {
    pub hash_key: [u8; 16],
    pub running: Uptime,
    pub away: Duration,
    pub wall_ms: i64,
    /// The last run ended in good order.
    pub clean: bool,
    /// The machine was not started anew since, so what was written without a flush is still there.
    pub same_boot: bool,
}

impl Head {
    /// The time between runs, the one until `now_ms` included. A clock that went back tells nothing of how long it was.
    pub(super) fn away_until(&self, now_ms: i64) -> Duration {
        self.away.saturating_add(Duration::from_millis(
            u64::try_from(now_ms - self.wall_ms).unwrap_or(0),
        ))
    }
}

/// The store's file in its folder.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join("hookstile.db")
}

/// Makes an empty file where there is none. SQLite gives the files beside it the rights of this one.
///
/// Not to be called while a connection is open: closing any descriptor of the file would take the process' locks on it
/// away (SQLite, "How To Corrupt An SQLite Database File", 2.2).
pub(super) fn make_private(file: &Path) -> std::io::Result<()> {
    if file.try_exists()? {
        Ok(())
    } else {
        folder_lock::open_private(file).map(drop)
    }
}

/// Has a statement prepared once, whatever is bound to it: a new `LIMIT ?` would have it prepared anew each time.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// Opens the file for writing. It must be there: one that has gone since it was read is not to be made anew.
pub(super) fn open(file: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    keep_plans(&connection)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if journal != "wal" {
        // A network's file system, most likely.
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some("this file system cannot hold a write-ahead log".into()),
        ));
    }
    let synchronous = match durability {
        Durability::Strict => "full",
        Durability::Relaxed => "normal",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // The log is moved into the database by the upkeep, not by a commit that somebody waits for.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// Opens the file for looking at it.
pub(super) fn open_to_read(file: &Path) -> rusqlite::Result<Connection> {
    // Reading a write-ahead log takes a shared file beside it, which has to be written.
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    keep_plans(&connection)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// Reads what the store knows of itself, making its tables where there are none.
pub(super) fn read_or_make(
    connection: &mut Connection,
    file: &Path,
    wall_ms: i64,
) -> Result<Head, OpenError> {
    let database = |source| OpenError::Database {
        file: file.display().to_string(),
        source,
    };
    let version: i32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(database)?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(database)?;
    if version == 0 && tables == 0 {
        let mut hash_key = [0; 16];
        getrandom::fill(&mut hash_key).map_err(OpenError::Random)?;
        make(connection, hash_key, wall_ms).map_err(database)?;
    } else if version == 1 {
        bring_forward(connection).map_err(database)?;
    }
    let head = read_made(connection, file)?;
    connection
        .execute_batch(OPERATORS_TABLES)
        .map_err(database)?;
    Ok(head)
}

/// Reads what the store knows of itself; a file without our tables is left as it is.
pub(super) fn read_made(connection: &Connection, file: &Path) -> Result<Head, OpenError> {
    let foreign = || OpenError::Foreign {
        file: file.display().to_string(),
    };
    let database = |source| OpenError::database(file, source);
    let number = |pragma| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(database)
    };
    if number("user_version")? != VERSION || number("application_id")? != APPLICATION_ID {
        return Err(foreign());
    }
    read(connection).map_err(database)?.ok_or_else(foreign)
}

fn make(connection: &mut Connection, hash_key: [u8; 16], wall_ms: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute(
        "INSERT INTO store VALUES (?1, 0, 0, ?2, 1, '')",
        params![hash_key, wall_ms],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// From version 1. Another program's file of that version is left as it is.
fn bring_forward(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))?
        == APPLICATION_ID
    {
        transaction.execute_batch(SECOND)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

fn read(connection: &Connection) -> rusqlite::Result<Option<Head>> {
    connection
        .query_row(
            "SELECT hash_key, running_ms, away_ms, wall_ms, clean, boot FROM store",
            [],
            |row| {
                Ok(Head {
                    hash_key: row.get(0)?,
                    running: Uptime(row.get(1)?),
                    away: Duration::from_millis(row.get(2)?),
                    wall_ms: row.get(3)?,
                    clean: row.get(4)?,
                    same_boot: boot()
                        .is_some_and(|boot| row.get(5).is_ok_and(|before: String| before == boot)),
                })
            },
        )
        .optional()
}

/// The name of this run of the machine, where the system has one.
fn boot() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// Notes in which run of the machine the store is open.
pub(super) fn write_boot(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("UPDATE store SET boot = ?1", [boot().unwrap_or_default()])
        .map(drop)
}

/// Writes the store's time down. `clean` at the end of a run in good order.
pub(super) fn write_time(
    connection: &Connection,
    running: Uptime,
    away: Duration,
    wall_ms: i64,
    clean: bool,
) -> rusqlite::Result<()> {
    let away = i64::try_from(away.as_millis()).unwrap_or(i64::MAX);
    let mut update = connection.prepare_cached(
        "UPDATE store SET running_ms = ?1, away_ms = ?2, wall_ms = ?3, clean = ?4",
    )?;
    update
        .execute(params![running.0, away, wall_ms, clean])
        .map(drop)
}

/// The log's length, and what of it has been moved into the database, in pages.
pub(super) fn log_pages(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}

/// Moves what can be moved of the log without waiting for anybody. Answers the log's length and what was moved, in pages.
pub(super) fn checkpoint_passively(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}
