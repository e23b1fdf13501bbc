//! The database file: its tables, how it is opened, and the store's header row.
//!
//! Rows written with every request are only ever appended: deliveries by their arrival. A table keyed
//! by a random ID would be ten times slower, and write sixty times as much. The event IDs are in a file
//! of their own (`ledger_file`).

use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::commit_log::LogPosition;
use super::ledger_file::RowWrites;
use super::{Durability, OpenError, folder_lock};
use crate::store::uptime::Uptime;

/// The name of the database file.
pub(super) const FILE: &str = "hookstile.db";

/// `hook` in ASCII. Tools such as `file` identify the format by it.
const APPLICATION_ID: i32 = 0x686f_6f6b;
/// The version of the tables. Earlier ones are upgraded on opening.
pub(super) const VERSION: i32 = 5;

/// The writer's page cache, in KiB: 8 MiB.
const WRITER_CACHE_KIB: i32 = 8 * 1024;
/// The page cache of each reader, in KiB: 1 MiB.
const READER_CACHE_KIB: i32 = 1024;

const TABLES: &str = "
-- One row: the store's header. `uptime_ms` is the time for which the store was open, over all runs;
-- `downtime_ms` the time between runs; `wall_ms` the Unix time of this write. `clean` states that
-- the last run was shut down cleanly, `boot` is the machine's boot ID during that run. `log_run`,
-- `log_applied` and `log_flushed` are the position in the commit log.
CREATE TABLE store (
    hash_key BLOB NOT NULL, uptime_ms INTEGER NOT NULL, downtime_ms INTEGER NOT NULL,
    wall_ms INTEGER NOT NULL, clean INTEGER NOT NULL, boot TEXT NOT NULL,
    log_run INTEGER NOT NULL DEFAULT 0, log_applied INTEGER NOT NULL DEFAULT 0,
    log_flushed INTEGER NOT NULL DEFAULT 0
);
-- Routes that have any records. `concurrency` is the last active setting.
CREATE TABLE routes (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, created_ms INTEGER NOT NULL,
    concurrency INTEGER NOT NULL, last_success_ms INTEGER, last_failure_ms INTEGER,
    kept_bytes INTEGER NOT NULL DEFAULT 0
);
-- The event IDs of a backup, or of a store before version 5. The next start moves them to the ledger's
-- file. `row_id` is the hour in which the row expires (in uptime), shifted by 32 bits, plus a number.
-- A row with a digest is completed; one without had `attempts` failed attempts. `route` is NULL before
-- version 3, and for an attempt that the end of the process interrupted.
CREATE TABLE ledger (
    row_id INTEGER PRIMARY KEY, key BLOB NOT NULL, ends_ms INTEGER NOT NULL,
    attempts INTEGER NOT NULL, possibly_delivered INTEGER NOT NULL, digest BLOB, delivery INTEGER,
    route INTEGER
);
-- Deliveries: all attempts for one event on one route. `attempts` is a JSON array. `due_ms` and
-- `queued_ms` are set while the delivery is pending, `ended_ms` once it has ended. `keys` is the
-- event's ledger key, until it is delivered; or its key and that of its body. `secret` is the name
-- of the secret that verified the event, NULL before version 2; `test` marks an event that the
-- gateway made itself.
CREATE TABLE deliveries (
    id INTEGER PRIMARY KEY, route INTEGER NOT NULL, event_id TEXT NOT NULL,
    event_type TEXT NOT NULL, received_ms INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT,
    tried INTEGER NOT NULL, possibly_delivered INTEGER NOT NULL, attempts TEXT NOT NULL,
    payload_bytes INTEGER NOT NULL, due_ms INTEGER, queued_ms INTEGER, ended_ms INTEGER, keys BLOB,
    secret TEXT, test INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX deliveries_of_route ON deliveries (route);
CREATE INDEX deliveries_due ON deliveries (route, due_ms) WHERE state = 'pending';
CREATE INDEX deliveries_ended ON deliveries (route, ended_ms) WHERE state IN ('success', 'failed');
CREATE INDEX deliveries_open ON deliveries (route, state) WHERE state <> 'success';
-- The request head as it is sent to the upstream, and the body as it was received.
CREATE TABLE payloads (delivery INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL);
-- Ended deliveries by the day (since 1970, UTC) on which the event arrived.
CREATE TABLE days (
    route INTEGER NOT NULL, day INTEGER NOT NULL, successful INTEGER NOT NULL,
    failed INTEGER NOT NULL, total_ms INTEGER NOT NULL, PRIMARY KEY (route, day)
) WITHOUT ROWID;
";

/// Upgrades version 1 to version 2.
const UPGRADE_TO_VERSION_2: &str = "ALTER TABLE deliveries ADD COLUMN secret TEXT;
    ALTER TABLE deliveries ADD COLUMN test INTEGER NOT NULL DEFAULT 0";

/// Upgrades version 2 to version 3.
const UPGRADE_TO_VERSION_3: &str = "ALTER TABLE ledger ADD COLUMN route INTEGER";

/// Upgrades version 3 to version 4.
const UPGRADE_TO_VERSION_4: &str =
    "ALTER TABLE store ADD COLUMN log_run INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE store ADD COLUMN log_applied INTEGER NOT NULL DEFAULT 0";

/// Upgrades version 4 to version 5. A database without commits has its event IDs in its own table.
const UPGRADE_TO_VERSION_5: &str =
    "ALTER TABLE store ADD COLUMN log_flushed INTEGER NOT NULL DEFAULT 0;
    UPDATE store SET log_run = 0, log_applied = 0";

/// The tables that earlier versions of the file lack. Created on opening if they do not exist.
const ADDED_TABLES: &str = "
-- Webhooks made over the API: the definition as JSON, including the secret.
CREATE TABLE IF NOT EXISTS webhooks (name TEXT PRIMARY KEY, definition TEXT NOT NULL) WITHOUT ROWID;
-- Creations of webhooks under a client's key, each with the digest of its request and the definition
-- as it was created, for 24 hours of uptime.
CREATE TABLE IF NOT EXISTS creations (
    key TEXT PRIMARY KEY, request BLOB NOT NULL, webhook TEXT NOT NULL, definition TEXT NOT NULL,
    ends_ms INTEGER NOT NULL
) WITHOUT ROWID;
-- Rows of the ledger's file that are not flushed, and that no record of the commit log has: with
-- relaxed durability, or of a transaction that was too large for the log.
CREATE TABLE IF NOT EXISTS unflushed_rows (log_number INTEGER PRIMARY KEY, rows BLOB NOT NULL);
-- Paused routes.
CREATE TABLE IF NOT EXISTS paused (route TEXT PRIMARY KEY) WITHOUT ROWID;
-- The bulk redelivery that was requested last, as JSON.
CREATE TABLE IF NOT EXISTS redelivery (
    one INTEGER PRIMARY KEY CHECK (one = 1), document TEXT NOT NULL, running INTEGER NOT NULL
);
-- The last active settings of each route, which apply to its records and events when it is no longer
-- configured. `max_bytes` is NULL for no limit.
CREATE TABLE IF NOT EXISTS route_settings (
    route TEXT PRIMARY KEY, keep_ms INTEGER NOT NULL, max_bytes INTEGER, horizon_ms INTEGER NOT NULL
) WITHOUT ROWID;
";

/// The store's header row.
pub(super) struct StoreHeader {
    pub hash_key: [u8; 16],
    pub uptime: Uptime,
    pub downtime: Duration,
    pub wall_ms: i64,
    /// The last run was shut down cleanly.
    pub clean: bool,
    /// The machine has not been restarted since, so writes without a flush are still there.
    pub same_boot: bool,
    /// What the database has of the commit log.
    pub log: LogPosition,
}

impl StoreHeader {
    /// Returns the total downtime, including the time from the last run until `now_ms`. If the wall
    /// clock went back, that time is unknown and counts as zero.
    pub(super) fn downtime_until(&self, now_ms: i64) -> Duration {
        self.downtime.saturating_add(Duration::from_millis(
            u64::try_from(now_ms - self.wall_ms).unwrap_or(0),
        ))
    }
}

/// Returns the path of the database file in a folder.
pub(super) fn file(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// Creates an empty file if none exists. SQLite gives the files beside it the same permissions.
///
/// Must not be called while a connection is open: closing any descriptor of the file would release
/// the process's locks on it (SQLite, "How To Corrupt An SQLite Database File", 2.2).
pub(super) fn create_private(file: &Path) -> std::io::Result<()> {
    if file.try_exists()? {
        Ok(())
    } else {
        folder_lock::open_private(file).map(drop)
    }
}

/// Makes SQLite keep a prepared plan whatever values are bound. Otherwise a new `LIMIT ?` value
/// would cause a new plan each time.
fn enable_stable_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// Opens the file for writing. The file must exist: one that has disappeared since it was read must
/// not be created again.
pub(super) fn open(file: &Path, durability: Durability) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.set_prepared_statement_cache_capacity(64);
    enable_stable_plans(&connection)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    let journal: String =
        connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if journal != "wal" {
        // This is most likely a network file system.
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some("this file system does not support a write-ahead log".into()),
        ));
    }
    set_flushes(&connection, durability == Durability::Strict)?;
    // The upkeep thread checkpoints the write-ahead log, so that no caller waits for it in a
    // commit.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// Sets whether a commit flushes the write-ahead log, and with it the commits before.
pub(super) fn set_flushes(connection: &Connection, flushes: bool) -> rusqlite::Result<()> {
    let synchronous = if flushes { "full" } else { "normal" };
    connection.pragma_update(None, "synchronous", synchronous)
}

/// Returns the path of a file that SQLite has beside the database, by its suffix.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Deletes the files that SQLite has beside a database. With another database under its name, they
/// would be read as changes of that one.
pub(super) fn remove_beside(file: &Path) -> std::io::Result<()> {
    for suffix in ["-wal", "-shm"] {
        remove_if_exists(&beside(file, suffix))?;
    }
    Ok(())
}

fn remove_if_exists(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Writes a copy of an open database to this path, flushed. A file there is replaced. Only a whole copy
/// gets the name: a part of one would be opened as an empty store, and is removed.
pub(super) fn save(connection: &Connection, to: &Path) -> Result<(), OpenError> {
    let folder = to.parent().unwrap_or(to);
    let failed = |source| OpenError::folder(folder, source);
    super::create_folder(folder).map_err(failed)?;
    let unfinished = beside(to, ".unfinished");
    remove_if_exists(&unfinished).map_err(failed)?;
    let saved = write_copy(connection, &unfinished, to);
    if saved.is_err() {
        // The disk may be full because of it. That it cannot be removed matters less than the error.
        let _ = remove_if_exists(&unfinished);
    }
    saved
}

/// Writes a copy of an open database to a file that does not exist yet, and gives it this path once it
/// is whole.
fn write_copy(connection: &Connection, unfinished: &Path, to: &Path) -> Result<(), OpenError> {
    let folder = to.parent().unwrap_or(to);
    let failed = |source| OpenError::folder(folder, source);
    let file = folder_lock::open_private(unfinished).map_err(failed)?;
    connection
        .execute("VACUUM INTO ?1", [unfinished.as_os_str().to_string_lossy()])
        .map_err(|source| OpenError::database(unfinished, source))?;
    file.sync_all()
        .and_then(|()| remove_beside(to))
        .and_then(|()| std::fs::rename(unfinished, to))
        .and_then(|()| super::flush_folder(folder))
        .map_err(failed)
}

/// Opens the file for reading.
pub(super) fn open_to_read(file: &Path) -> rusqlite::Result<Connection> {
    // Reading in WAL mode needs a shared-memory file beside the database, which must be writable.
    let connection = Connection::open_with_flags(
        file,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    enable_stable_plans(&connection)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

/// Opens a file that no other process has open, such that neither it nor a file beside it is changed
/// or created.
pub(super) fn open_unchanged(file: &Path) -> rusqlite::Result<Connection> {
    let connection = if has_wal(file) {
        // The index of the write-ahead log is then in memory, and the log is left as it is.
        let connection = Connection::open_with_flags(
            file,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        connection
    } else {
        Connection::open_with_flags(
            immutable_uri(file),
            OpenFlags::SQLITE_OPEN_READ_ONLY
                | OpenFlags::SQLITE_OPEN_NO_MUTEX
                | OpenFlags::SQLITE_OPEN_URI,
        )?
    };
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    Ok(connection)
}

/// Returns the path of the write-ahead log of a database file.
pub(super) fn wal(file: &Path) -> PathBuf {
    beside(file, "-wal")
}

/// Returns whether a file has a write-ahead log with content.
pub(super) fn has_wal(file: &Path) -> bool {
    std::fs::metadata(wal(file)).is_ok_and(|wal| wal.len() > 0)
}

/// Returns the URI by which SQLite opens a file without locks and without files beside it.
fn immutable_uri(file: &Path) -> String {
    // Without the empty host, a path that begins with two slashes would name one.
    let mut uri = String::from(if file.is_absolute() {
        "file://"
    } else {
        "file:"
    });
    for byte in file.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => {
                let _ = write!(uri, "%{byte:02X}");
            }
        }
    }
    uri + "?immutable=1"
}

/// Reads the version of a file of this program.
pub(super) fn version(connection: &Connection, file: &Path) -> Result<i32, OpenError> {
    let number = |pragma| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(|source| OpenError::database(file, source))
    };
    let found = number("user_version")?;
    let is_ours = number("application_id")? == APPLICATION_ID;
    let file = file.display().to_string();
    match found {
        1..=VERSION if is_ours => Ok(found),
        _ if is_ours && found > VERSION => Err(OpenError::Later { file, found }),
        _ => Err(OpenError::Foreign { file }),
    }
}

/// Reads the store's header, and creates the tables if the file is empty.
pub(super) fn read_or_create(
    connection: &mut Connection,
    file: &Path,
    wall_ms: i64,
) -> Result<StoreHeader, OpenError> {
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
        create(connection, hash_key, wall_ms).map_err(database)?;
    } else if (1..VERSION).contains(&version) {
        upgrade(connection, version).map_err(database)?;
    }
    let head = read_header(connection, file)?;
    connection.execute_batch(ADDED_TABLES).map_err(database)?;
    Ok(head)
}

/// Reads the store's header. A file of another program is left unchanged.
pub(super) fn read_header(connection: &Connection, file: &Path) -> Result<StoreHeader, OpenError> {
    let foreign = || OpenError::Foreign {
        file: file.display().to_string(),
    };
    if version(connection, file)? != VERSION {
        return Err(foreign());
    }
    select_header(connection)
        .map_err(|source| OpenError::database(file, source))?
        .ok_or_else(foreign)
}

fn create(connection: &mut Connection, hash_key: [u8; 16], wall_ms: i64) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(TABLES)?;
    transaction.execute(
        "INSERT INTO store VALUES (?1, 0, 0, ?2, 1, '', 0, 0, 0)",
        params![hash_key, wall_ms],
    )?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Upgrades the file from an earlier version. Another program's file with that version is left
/// unchanged.
fn upgrade(connection: &mut Connection, version: i32) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if transaction.pragma_query_value(None, "application_id", |row| row.get::<_, i32>(0))?
        == APPLICATION_ID
    {
        if version < 2 {
            transaction.execute_batch(UPGRADE_TO_VERSION_2)?;
        }
        if version < 3 {
            transaction.execute_batch(UPGRADE_TO_VERSION_3)?;
        }
        if version < 4 {
            transaction.execute_batch(UPGRADE_TO_VERSION_4)?;
        }
        transaction.execute_batch(UPGRADE_TO_VERSION_5)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

fn select_header(connection: &Connection) -> rusqlite::Result<Option<StoreHeader>> {
    connection
        .query_row(
            "SELECT hash_key, uptime_ms, downtime_ms, wall_ms, clean, boot, log_run, log_applied,
             log_flushed FROM store",
            [],
            |row| {
                Ok(StoreHeader {
                    hash_key: row.get(0)?,
                    uptime: Uptime(row.get(1)?),
                    downtime: Duration::from_millis(row.get(2)?),
                    wall_ms: row.get(3)?,
                    clean: row.get(4)?,
                    same_boot: boot_id()
                        .is_some_and(|boot| row.get(5).is_ok_and(|before: String| before == boot)),
                    log: LogPosition {
                        run: row.get(6)?,
                        applied: row.get(7)?,
                        flushed: row.get(8)?,
                    },
                })
            },
        )
        .optional()
}

/// Returns the machine's boot ID, if the system has one.
fn boot_id() -> Option<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()
}

/// Writes the machine's current boot ID.
pub(super) fn write_boot(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE store SET boot = ?1",
            [boot_id().unwrap_or_default()],
        )
        .map(drop)
}

/// Writes what the database has of the commit log.
pub(super) fn write_log_position(
    connection: &Connection,
    position: LogPosition,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE store SET log_run = ?1, log_applied = ?2, log_flushed = ?3")?
        .execute(params![position.run, position.applied, position.flushed])
        .map(drop)
}

/// Writes the rows of a commit that no record of the commit log has.
pub(super) fn write_unflushed_rows(
    connection: &Connection,
    commit: i64,
    rows: &RowWrites,
) -> rusqlite::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut insert = connection.prepare_cached("INSERT INTO unflushed_rows VALUES (?1, ?2)")?;
    insert.execute(params![commit, rows.as_bytes()]).map(drop)
}

/// Deletes all rows that [`write_unflushed_rows`] wrote, once the ledger's file is flushed.
pub(super) fn forget_unflushed_rows(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("DELETE FROM unflushed_rows", [])
        .map(drop)
}

/// Reads the rows that [`write_unflushed_rows`] wrote, in order.
pub(super) fn read_unflushed_rows(connection: &Connection) -> rusqlite::Result<Vec<RowWrites>> {
    let mut select = connection.prepare("SELECT rows FROM unflushed_rows ORDER BY log_number")?;
    let rows = select.query_map([], |row| row.get(0).map(RowWrites::from_bytes))?;
    rows.filter_map(|rows: rusqlite::Result<Option<_>>| rows.transpose())
        .collect()
}

/// Returns the length of the write-ahead log and how much of it is checkpointed, in pages.
pub(super) fn wal_pages(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}

/// Checkpoints as much of the write-ahead log as is possible without waiting. Returns the log's
/// length and how much of it is checkpointed, in pages.
pub(super) fn checkpoint_passive(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        Ok((row.get(1)?, row.get(2)?))
    })
}
