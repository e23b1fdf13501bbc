//! Locks the store's folder for one process. The operating system releases the lock when the
//! process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The exclusive lock on a store's folder. Dropping it releases the lock.
pub(super) struct FolderLock {
    /// The lock belongs to the open file.
    file: File,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        // Closing is not enough: a process that was forked meanwhile has the file open, too, until it
        // runs another program.
        let _ = self.file.unlock();
    }
}

/// The reason why a folder cannot be locked.
pub(super) enum LockError {
    /// Another process holds the lock; the text that it wrote about itself.
    InUse(String),
    Io(io::Error),
}

pub(super) const FILE: &str = "hookstile.lock";

impl FolderLock {
    /// Locks the folder, which must exist.
    pub(super) fn acquire(folder: &Path) -> Result<Self, LockError> {
        Self::lock(open_private(&folder.join(FILE)).map_err(LockError::Io)?)
    }

    /// Locks the folder if it has a file for that. Without one, no process has the store open.
    pub(super) fn acquire_existing(folder: &Path) -> Result<Option<Self>, LockError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(folder.join(FILE));
        match file {
            Ok(file) => Self::lock(file).map(Some),
            Err(error) => match error.kind() {
                // A disk that cannot be written has no gateway on it.
                io::ErrorKind::NotFound | io::ErrorKind::ReadOnlyFilesystem => Ok(None),
                _ => Err(LockError::Io(error)),
            },
        }
    }

    fn lock(mut file: File) -> Result<Self, LockError> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // The holder may be writing at this moment. Without a name it is still the holder.
                let _ = file.take(200).read_to_string(&mut holder);
                return Err(LockError::InUse(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        file.set_len(0).map_err(LockError::Io)?;
        file.rewind().map_err(LockError::Io)?;
        write!(file, "process {}", std::process::id()).map_err(LockError::Io)?;
        Ok(Self { file })
    }
}

/// Opens a file and creates it if it does not exist. Only its owner can read it, because the store
/// holds payloads.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_folder_is_refused_with_its_holder() {
        let folder = tempfile::tempdir().unwrap();
        let first = FolderLock::acquire(folder.path()).ok().unwrap();
        match FolderLock::acquire(folder.path()) {
            Err(LockError::InUse(holder)) => {
                assert_eq!(holder, format!("process {}", std::process::id()));
            }
            _ => panic!("locked twice"),
        }
        drop(first);
        assert!(FolderLock::acquire(folder.path()).is_ok());
    }
}
