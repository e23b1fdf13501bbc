//! Whether the store's files are still those that are open: a file that was deleted, moved or replaced
//! takes what is written to it with it.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{commit_log, folder_lock, ledger_file, schema};

/// The files of the open store, by device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    /// `None` if there is no such file.
    pub database: Option<(u64, u64)>,
    pub write_ahead_log: Option<(u64, u64)>,
    pub commit_log: Option<(u64, u64)>,
    pub ledger: Option<(u64, u64)>,
    pub lock: Option<(u64, u64)>,
}

impl FileIdentity {
    /// Reads which files have the names of the store's.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            database: identity(&schema::file(folder))?,
            write_ahead_log: identity(&schema::wal(&schema::file(folder)))?,
            commit_log: identity(&folder.join(commit_log::FILE))?,
            ledger: identity(&folder.join(ledger_file::FILE))?,
            lock: identity(&folder.join(folder_lock::FILE))?,
        })
    }
}

fn identity(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match std::fs::metadata(path) {
        Ok(file) => Ok(Some((file.dev(), file.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
