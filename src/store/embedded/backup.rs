//! Writes a copy of a store as it is at one moment, while a gateway runs or not.
//!
//! The event IDs are copied from the ledger's file into a table: those of the commits that the copied
//! database has.
//!
//! A running gateway goes on: the copy is read in one read transaction of its own, which blocks no
//! writer. Meanwhile the write-ahead log cannot start again, so it grows by what is written. The copy
//! is flushed while it grows, so that the gateway's own flushes never wait for all of it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::fs::OFlags;

use super::ledger_file::{LedgerReader, StoreFileError};
use super::ledger_table;
use super::offline::OfflineStore;
use super::{OpenError, commit_log, ledger_file, read, schema};

/// A backup that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    pub file: PathBuf,
    pub bytes: u64,
    /// The number of event IDs that it remembers.
    pub event_ids: u64,
    pub deliveries: u64,
    /// A gateway had the store open.
    pub was_running: bool,
}

/// The reason why no backup was written. Nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{} exists; a backup replaces no file", .0.display())]
    Exists(PathBuf),
    #[error("another backup is being written to {}", .0.display())]
    InProgress(PathBuf),
    #[error(
        "the disk of {} has {} MiB left, and the backup needs {} MiB", .folder.display(),
        .free_bytes >> 20, .needed_bytes.div_ceil(1 << 20)
    )]
    NoRoom {
        folder: PathBuf,
        free_bytes: u64,
        needed_bytes: u64,
    },
    #[error("the gateway is recovering the store after a loss of power; try again in a moment")]
    Recovering,
    #[error(
        "the store in {} is damaged: stop the gateway, and run `hookstile store check`", .0.display()
    )]
    Damaged(PathBuf),
    #[error("the name of the file is not UTF-8")]
    Name,
    #[error("cannot write {}: {source}", .file.display())]
    Write { file: PathBuf, source: io::Error },
    #[error("cannot copy the store to {}: {source}", .file.display())]
    Copy {
        file: PathBuf,
        source: rusqlite::Error,
    },
}

/// The pause between two flushes of the copy while it grows.
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// The room that a backup leaves on its disk, in bytes: the gateway may write to the same one.
const ROOM_LEFT: u64 = 32 << 20;
/// The time for which a starting gateway may recover the store before the backup fails.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(30);
const RECOVERY_POLL: Duration = Duration::from_millis(50);

/// Copies the store in `folder` to a file that does not exist yet.
///
/// # Errors
/// Fails when there is no store, when the file exists or cannot be written, or when the store cannot
/// be read.
pub fn back_up(folder: &Path, to: &Path) -> Result<Backup, BackupError> {
    let write = |source| BackupError::Write {
        file: to.to_owned(),
        source,
    };
    // SQLite takes a name that begins with `file:` for a URI.
    let to = std::path::absolute(to).map_err(write)?;
    if fs::symlink_metadata(&to).is_ok() {
        return Err(BackupError::Exists(to));
    }
    let was_running = match OfflineStore::open(folder) {
        Ok(_) => false,
        Err(OpenError::InUse { .. }) => {
            wait_for_log(folder)?;
            true
        }
        // A file of an earlier version has nothing to recover; others are refused below.
        Err(OpenError::Foreign { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let file = schema::file(folder);
    let connection = schema::open_to_read(&file)
        .and_then(|connection| {
            // The copy is a write of this connection, too.
            connection.pragma_update(None, "query_only", false)?;
            Ok(connection)
        })
        .map_err(|source| OpenError::database(&file, source))?;
    schema::version(&connection, &file)?;
    let used_bytes =
        read::used_bytes(&connection).map_err(|source| OpenError::database(&file, source))?;
    let ledger_bytes = fs::metadata(folder.join(ledger_file::FILE))
        .map_or(0, |file| ledger_file::disk_bytes(&file));
    check_room(&to, used_bytes + ledger_bytes)?;
    let partial = PartialFile::create(&to)?;
    let copied = partial.flushed_while(|| {
        partial.copy(&connection)?;
        let damaged = ledger_table::complete_copy(&partial.path, |header| {
            LedgerReader::open(folder, &header.hash_key)
        })?;
        let (event_ids, deliveries) = count(&partial.path)?;
        Ok((damaged, event_ids, deliveries))
    });
    let (damaged, event_ids, deliveries) = copied.map_err(|error| match error {
        StoreFileError::Ledger(source) => {
            OpenError::file(&folder.join(ledger_file::FILE), source).into()
        }
        StoreFileError::Database(source) => match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseCorrupt) => BackupError::Damaged(folder.to_owned()),
            _ => BackupError::Copy {
                file: to.clone(),
                source,
            },
        },
    })?;
    if damaged > 0 {
        return Err(BackupError::Damaged(folder.to_owned()));
    }
    let bytes = partial.complete(&to).map_err(write)?;
    Ok(Backup {
        file: to,
        bytes,
        event_ids,
        deliveries,
        was_running,
    })
}

/// Waits until the database has all that the commit log has now. The gateway executes what it left to the
/// log within a second, and after a loss of power at its start.
fn wait_for_log(folder: &Path) -> Result<(), BackupError> {
    let file = schema::file(folder);
    let began = Instant::now();
    // Read before the database, so that the log has no record of an earlier round that is missed.
    let log = commit_log::content(folder).map_err(|source| OpenError::folder(folder, source))?;
    loop {
        let connection =
            schema::open_to_read(&file).map_err(|source| OpenError::database(&file, source))?;
        match schema::read_header(&connection, &file) {
            Ok(header) => {
                let unapplied = commit_log::unapplied(&log, header.log);
                if unapplied.to_execute(header.log).next().is_none() {
                    return Ok(());
                }
            }
            // The tables are being created or upgraded.
            Err(OpenError::Foreign { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if began.elapsed() > RECOVERY_TIMEOUT {
            return Err(BackupError::Recovering);
        }
        thread::sleep(RECOVERY_POLL);
    }
}

fn check_room(to: &Path, used_bytes: u64) -> Result<(), BackupError> {
    let folder = to.parent().unwrap_or(to);
    // A disk that cannot be measured refuses the write itself when it is full.
    let Ok(disk) = rustix::fs::statvfs(folder) else {
        return Ok(());
    };
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    let needed_bytes = used_bytes.saturating_add(ROOM_LEFT);
    if free_bytes < needed_bytes {
        return Err(BackupError::NoRoom {
            folder: folder.to_owned(),
            free_bytes,
            needed_bytes,
        });
    }
    Ok(())
}

/// The file beside a backup while it is written. Dropping it removes the file, so that only a whole
/// backup has the backup's name.
struct PartialFile {
    path: PathBuf,
    /// The path, for SQLite.
    text: String,
    /// Holds a lock for as long as the file is open.
    file: File,
    is_complete: bool,
}

impl PartialFile {
    /// Creates the file, or takes the one that a killed process has left.
    fn create(to: &Path) -> Result<Self, BackupError> {
        let write = |source| BackupError::Write {
            file: to.to_owned(),
            source,
        };
        let text = format!("{}.partial", to.to_str().ok_or(BackupError::Name)?);
        let path = PathBuf::from(&text);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
            .open(&path)
            .map_err(write)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(BackupError::InProgress(to.to_owned())),
            Err(TryLockError::Error(source)) => return Err(write(source)),
        }
        let partial = Self {
            path,
            text,
            file,
            is_complete: false,
        };
        partial.file.set_len(0).map_err(write)?;
        let private = fs::Permissions::from_mode(0o600);
        partial.file.set_permissions(private).map_err(write)?;
        Ok(partial)
    }

    /// Flushes the file every moment until `write` has written it.
    fn flushed_while<T>(&self, write: impl FnOnce() -> T) -> T {
        let (done, written) = channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                while written.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    // An error appears again at the end, when the whole file is flushed.
                    let _ = self.file.sync_data();
                }
            });
            let result = write();
            drop(done);
            result
        })
    }

    /// Copies the database into the file.
    fn copy(&self, connection: &Connection) -> rusqlite::Result<()> {
        connection.execute("VACUUM INTO ?1", [&self.text]).map(drop)
    }

    /// Flushes the file and gives it the backup's name. Returns its size, in bytes.
    fn complete(mut self, to: &Path) -> io::Result<u64> {
        self.file.sync_all()?;
        let bytes = self.file.metadata()?.len();
        // The lock keeps other backups to this file away; nothing else makes a file of this name.
        if fs::symlink_metadata(to).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        fs::rename(&self.path, to)?;
        self.is_complete = true;
        super::flush_folder(to.parent().unwrap_or(to))?;
        Ok(bytes)
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Counts the event IDs and the deliveries of a backup.
fn count(file: &Path) -> rusqlite::Result<(u64, u64)> {
    schema::open_unchanged(file)?.query_row(
        "SELECT (SELECT count(*) FROM ledger WHERE ends_ms > (SELECT uptime_ms FROM store)),
             (SELECT count(*) FROM deliveries)",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}
