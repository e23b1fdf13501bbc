//! One process a store: a lock that the system gives back when its holder ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The right to a store's folder, for as long as this lives.
pub(super) struct Lock {
    /// The lock is the open file's.
    _file: File,
}

/// Why a folder can't be had.
pub(super) enum LockError {
    /// Another process has it: what that one wrote of itself.
    Held(String),
    Io(io::Error),
}

const FILE: &str = "hookstile.lock";

impl Lock {
    /// Takes the folder, which must exist.
    pub(super) fn take(folder: &Path) -> Result<Self, LockError> {
        let mut file = open_private(&folder.join(FILE)).map_err(LockError::Io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // It may be writing this very moment; a process without a name is still one.
                let _ = file.take(200).read_to_string(&mut holder);
                return Err(LockError::Held(holder.trim().to_owned()));
            }
            Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
        }
        file.set_len(0).map_err(LockError::Io)?;
        file.rewind().map_err(LockError::Io)?;
        write!(file, "process {}", std::process::id()).map_err(LockError::Io)?;
        Ok(Self { _file: file })
    }
}

/// Opens a file, making it where there is none: one that nobody but its owner may look into. Payloads are somebody's.
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
    fn a_folder_is_had_by_one_and_the_other_hears_by_whom() {
        let folder = tempfile::tempdir().unwrap();
        let first = Lock::take(folder.path()).ok().unwrap();
        match Lock::take(folder.path()) {
            Err(LockError::Held(holder)) => {
                assert_eq!(holder, format!("process {}", std::process::id()))
            }
            _ => panic!("taken twice"),
        }
        drop(first);
        assert!(Lock::take(folder.path()).is_ok());
    }
}
