//! Programs of the machine that tests need.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

/// Returns the path of a tool, or prints what is skipped and returns `None`. With `CI=true` a
/// missing tool fails the test.
pub(crate) fn tool(what: &str, found: Option<PathBuf>, skipped: &str) -> Option<PathBuf> {
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(
            !ci,
            "{what} is missing, and CI=true means that nothing is skipped"
        );
        // Written past the test runner's capture, so that the skip is visible.
        let _ = writeln!(std::io::stderr(), "SKIPPED, {what} is missing: {skipped}");
    }
    found
}

/// Looks a program up in an environment variable, then on the `PATH`.
pub(crate) fn program(variable: &str, name: &str) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// Returns whether the tests run as root, and so may run programs as others.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}
