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
    /// Those with routes, for each pattern of `routes_from`.
    pub route_files: Vec<RouteFiles>,
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

/// The files that a pattern of `routes_from` matches.
#[derive(Debug, Clone)]
pub struct RouteFiles {
    /// The pattern, with the folder that it starts from.
    pattern: String,
    /// The files, each with the content that was loaded; `None` before.
    files: BTreeMap<PathBuf, Option<FileDigest>>,
}

impl RouteFiles {
    /// Finds the files that `pattern` matches, from `folder`. Names that begin with a dot need one
    /// in the pattern: editors and orchestrators keep their own files under such names.
    ///
    /// # Errors
    /// The problem, for people.
    pub(super) fn find(folder: &Path, pattern: &str, files_max: usize) -> Result<Self, String> {
        let pattern = if Path::new(pattern).is_absolute() || folder.as_os_str().is_empty() {
            pattern.to_owned()
        } else {
            let folder = folder
                .to_str()
                .ok_or("the path of this file is not UTF-8")?;
            format!("{}/{pattern}", glob::Pattern::escape(folder))
        };
        let files: BTreeMap<_, _> = matches(&pattern)
            .map_err(|error| format!("this is not a pattern: {}", error.msg))?
            .take(files_max + 1)
            .map(|path| (path, None))
            .collect();
        if files.len() > files_max {
            return Err(format!("more than {files_max} files match this pattern"));
        }
        Ok(Self { pattern, files })
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.files.keys()
    }

    /// Records what was loaded from one of the files.
    pub(super) fn set_loaded(&mut self, path: &Path, content: FileDigest) {
        if let Some(file) = self.files.get_mut(path) {
            *file = Some(content);
        }
    }

    /// Returns the folder in which all files are: the part of the pattern before its first
    /// wildcard.
    pub(crate) fn folder(&self) -> &Path {
        let fixed = self.pattern.find(['*', '?', '[']);
        let fixed = &self.pattern[..fixed.unwrap_or(self.pattern.len())];
        match fixed.rsplit_once('/') {
            Some(("", _)) => Path::new("/"),
            Some((folder, _)) => Path::new(folder),
            None => Path::new("."),
        }
    }

    /// Returns whether other files match, or have another content than was loaded.
    pub(crate) fn is_changed(&self) -> bool {
        self.current() != self.files
    }

    /// Takes what is there now for loaded, so that only a later change counts.
    pub(crate) fn refresh(&mut self) {
        self.files = self.current();
    }

    fn current(&self) -> BTreeMap<PathBuf, Option<FileDigest>> {
        let paths = matches(&self.pattern).into_iter().flatten();
        paths
            .map(|path| {
                let content = FileDigest::of_file(&path);
                (path, content)
            })
            .collect()
    }
}

/// Returns the files that a pattern matches. Folders are none.
fn matches(pattern: &str) -> Result<impl Iterator<Item = PathBuf>, glob::PatternError> {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        require_literal_leading_dot: true,
        ..glob::MatchOptions::new()
    };
    let paths = glob::glob_with(pattern, options)?;
    Ok(paths.filter_map(Result::ok).filter(|path| path.is_file()))
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
