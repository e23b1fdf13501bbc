//! Puts a backup into a store's folder, while no gateway has it open.
//!
//! 1. The backup is checked, copied beside the store, and flushed.
//! 2. The copy gets the name [`PENDING`]. From here on nothing opens the store
//!    ([`refuse_cut_off`]), because its files may be those of two stores.
//! 3. The files of the store that was there are moved away. None is deleted.
//! 4. The copy gets the name of the database.
//!
//! A restore that is cut off is made again, from the start.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::Connection;

use super::folder_lock::{self, FolderLock};
use super::{
    OpenError, StoreCheck, attempt_journal, check, commit_log, flush_folder, ledger_file, schema,
};

/// A backup that is in its place.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What the store holds now.
    pub store: StoreCheck,
    pub folder: PathBuf,
    /// The folder with the files of the store that was there before.
    pub replaced: Option<PathBuf>,
}

/// The reason why a backup was not restored. Except for `Move`, the store is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{} is damaged; nothing was restored", .0.file.display())]
    Damaged(Box<StoreCheck>),
    #[error(
        "{} is no backup, but a store's folder or a part of one: put the whole folder in the store's \
         place, or make a backup of it", .0.display()
    )]
    PartOfStore(PathBuf),
    #[error(
        "there is a store in {}; with `--replace` its files are moved aside and the backup takes \
         their place", .0.display()
    )]
    Exists(PathBuf),
    #[error("cannot write to the store's folder {}: {source}", .folder.display())]
    Write { folder: PathBuf, source: io::Error },
    #[error("cannot mark the events of the backup: {0}")]
    Mark(rusqlite::Error),
    #[error(
        "cannot move the files of {}: {source}; run the command again before the gateway starts",
        .folder.display()
    )]
    Move { folder: PathBuf, source: io::Error },
}

/// The copy of the backup while it is written. It may be incomplete.
const COPY: &str = "hookstile.copying";
/// The whole copy, until it is in its place.
const PENDING: &str = "hookstile.restoring";

/// Refuses a folder whose files may be those of two stores.
pub(super) fn refuse_cut_off(folder: &Path) -> Result<(), OpenError> {
    if folder.join(PENDING).exists() {
        return Err(OpenError::CutOffRestore {
            folder: folder.display().to_string(),
        });
    }
    Ok(())
}

/// Puts a backup into a store's folder. With `replace`, moves the files of a store that is there into
/// a folder beside it.
///
/// # Errors
/// Fails when the backup is damaged, when a process has the store open, when there is a store that is
/// not to be replaced, or when the folder cannot be written.
pub fn restore(backup: &Path, folder: &Path, replace: bool) -> Result<Restored, RestoreError> {
    if backup.is_dir() || schema::has_wal(backup) || check::is_part_of_store(backup) {
        return Err(RestoreError::PartOfStore(backup.to_owned()));
    }
    let checked = check::check_file(backup)?;
    if !checked.problems.is_empty() {
        return Err(RestoreError::Damaged(Box::new(checked)));
    }
    let write = |source| RestoreError::Write {
        folder: folder.to_owned(),
        source,
    };
    let owner = match fs::metadata(folder) {
        Ok(owner) => owner,
        Err(_) => {
            super::create_folder(folder).map_err(write)?;
            let owner = folder.canonicalize().and_then(|folder| {
                // A gateway that creates the folder owns the one around it.
                fs::metadata(folder.parent().unwrap_or(&folder))
            });
            let owner = owner.map_err(write)?;
            give_to(&owner, folder).map_err(write)?;
            owner
        }
    };
    let _lock = FolderLock::acquire(folder).map_err(|error| error.into_open_error(folder))?;
    give_to(&owner, &folder.join(folder_lock::FILE)).map_err(write)?;
    let before = files_of_store(folder);
    if !before.is_empty() && !replace {
        return Err(RestoreError::Exists(folder.to_owned()));
    }
    let copy = folder.join(COPY);
    copy_marked(backup, &copy, &owner).inspect_err(|_| {
        let _ = fs::remove_file(&copy);
    })?;
    let moved = |source| RestoreError::Move {
        folder: folder.to_owned(),
        source,
    };
    let replaced = put_in_place(folder, &before, &owner).map_err(moved)?;
    Ok(Restored {
        store: StoreCheck {
            file: schema::file(folder),
            ..checked
        },
        folder: folder.to_owned(),
        replaced,
    })
}

/// Returns the files of a store that are in a folder. Its lock is not one of them.
fn files_of_store(folder: &Path) -> Vec<PathBuf> {
    let database = ["", "-wal", "-shm", "-journal"].map(|end| format!("{}{end}", schema::FILE));
    let others = [ledger_file::FILE, commit_log::FILE, attempt_journal::FILE].map(str::to_owned);
    let all = database.into_iter().chain(others);
    all.map(|name| folder.join(name))
        .filter(|file| fs::symlink_metadata(file).is_ok())
        .collect()
}

/// Copies the backup, marks its events, and flushes the copy.
fn copy_marked(backup: &Path, copy: &Path, owner: &Metadata) -> Result<(), RestoreError> {
    let write = |source| RestoreError::Write {
        folder: copy.to_owned(),
        source,
    };
    let mut from = File::open(backup).map_err(|source| OpenError::file(backup, source))?;
    let to = folder_lock::open_private(copy).map_err(write)?;
    to.set_len(0).map_err(write)?;
    give_to(owner, copy).map_err(write)?;
    io::copy(&mut from, &mut &to).map_err(write)?;
    // SQLite's locks on the file end when any descriptor of it is closed.
    drop(to);
    mark(copy).map_err(RestoreError::Mark)?;
    File::open(copy)
        .and_then(|copy| copy.sync_all())
        .map_err(write)
}

/// Marks the events that wait in a backup: they may have been delivered since it was made.
fn mark(copy: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open(copy)?;
    // A file beside the copy would be left over if this is cut off.
    connection.pragma_update_and_check(None, "journal_mode", "memory", |_| Ok(()))?;
    connection.execute_batch(
        "BEGIN;
         UPDATE deliveries SET possibly_delivered = 1 WHERE state IN ('pending', 'dead');
         UPDATE ledger SET possibly_delivered = 1 WHERE digest IS NULL;
         COMMIT;",
    )
}

/// Moves the files of the store aside, and the copy to their place. Returns the folder with the files.
fn put_in_place(
    folder: &Path,
    before: &[PathBuf],
    owner: &Metadata,
) -> io::Result<Option<PathBuf>> {
    let pending = folder.join(PENDING);
    fs::rename(folder.join(COPY), &pending)?;
    flush_folder(folder)?;
    let mut replaced = None;
    if !before.is_empty() {
        let aside = create_aside(folder)?;
        give_to(owner, &aside)?;
        for file in before {
            fs::rename(file, aside.join(file.file_name().unwrap_or_default()))?;
        }
        flush_folder(&aside)?;
        flush_folder(folder)?;
        replaced = Some(aside);
    }
    fs::rename(pending, schema::file(folder))?;
    flush_folder(folder)?;
    Ok(replaced)
}

/// Creates the folder for the files that are replaced: beside the store's folder, or within it if
/// files cannot be moved out of it, as where it is a disk of its own.
fn create_aside(folder: &Path) -> io::Result<PathBuf> {
    let folder = folder.canonicalize()?;
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%3fZ");
    let within = folder.join(format!("replaced-{time}"));
    DirBuilder::new().mode(0o700).create(&within)?;
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(format!(".replaced-{time}"));
    let beside = folder.with_file_name(name);
    if let Some(parent) = folder.parent()
        && let Ok(parent) = File::open(parent)
        && fs::rename(&within, &beside).is_ok()
    {
        parent.sync_all()?;
        return Ok(beside);
    }
    Ok(within)
}

/// Makes the store's owner, as which the gateway runs, the owner of a file that root has created.
fn give_to(owner: &Metadata, path: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(owner.uid()), Some(owner.gid()))?;
    }
    Ok(())
}
