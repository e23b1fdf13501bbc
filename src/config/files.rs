//! The files that a configuration names: what was read from them, and how a change is noticed.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// The bytes of a file that are hashed at most: one more than any file that is accepted.
const HASHED_BYTES_MAX: usize = super::FILE_BYTES_MAX + 1;

/// The SHA-256 of a file's content, by which a change is noticed. The content itself is not kept:
/// some files hold keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileDigest([u8; 32]);

/// The content of the files of secrets, by path. It is wiped on drop.
#[derive(Default, Clone)]
pub struct SecretFiles(HashMap<PathBuf, Zeroizing<Vec<u8>>>);

/// All files that a configuration was read from, besides its own.
#[derive(Default)]
pub struct ReadFiles {
    /// Each with its content, or `None` if it could not be read. Pipes and devices are not among
    /// them: they cannot be read again.
    pub named: BTreeMap<PathBuf, Option<FileDigest>>,
    /// Those of secrets, also those that could not be read and whose last content is used.
    pub secrets: SecretFiles,
    /// The secrets and keys that were not read because the check is without them: variables and
    /// files, by name.
    pub unchecked: Vec<String>,
}

/// The consequence of a secret's file that cannot be read.
#[derive(Clone, Copy)]
pub(super) enum UnreadableSecret<'a> {
    /// The configuration is refused.
    Refuse,
    /// Its last content stays in effect. If there is none, its route is off line.
    Tolerate(&'a SecretFiles),
    /// It is not known: no secret is read, neither a file nor a variable. The result cannot be
    /// served.
    Unchecked,
}

impl FileDigest {
    pub(super) fn of_content(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// Hashes a file. Returns `None` when it is none, or cannot be read.
    pub(crate) fn of_file(path: &Path) -> Option<Self> {
        // Opening a pipe would wait for its writer.
        if !std::fs::metadata(path).ok()?.is_file() {
            return None;
        }
        let content = read_up_to(File::open(path).ok()?, HASHED_BYTES_MAX).ok()?;
        Some(Self::of_content(&content))
    }
}

impl SecretFiles {
    pub(super) fn get(&self, path: &Path) -> Option<&Zeroizing<Vec<u8>>> {
        self.0.get(path)
    }

    pub(super) fn insert(&mut self, path: PathBuf, content: Zeroizing<Vec<u8>>) {
        self.0.insert(path, content);
    }
}

/// Reads up to `bytes_max` bytes, which may be those of a key.
pub(super) fn read_up_to(file: File, bytes_max: usize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut content = Zeroizing::new(Vec::new());
    file.take(bytes_max as u64).read_to_end(&mut content)?;
    Ok(content)
}
