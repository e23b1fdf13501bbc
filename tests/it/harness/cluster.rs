//! The data folder of a test's own PostgreSQL, and the server's programs.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::programs::{is_root, program, tool};

/// The user that PostgreSQL's package creates. Root runs the server as this user, because
/// PostgreSQL refuses to run as root.
const USER: &str = "postgres";

/// A folder with an empty database. The server's superuser is `hookstile`, without a password.
pub(super) struct Cluster {
    programs: PathBuf,
    folder: TempDir,
}

impl Cluster {
    /// Creates an empty database; returns `None` without PostgreSQL.
    pub(super) fn new() -> Option<Self> {
        let cluster = Self::without_files()?;
        let mut initdb = cluster.unprivileged("initdb");
        initdb.args([
            "-A",
            "trust",
            "-U",
            "hookstile",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        stdout(initdb.arg(cluster.folder()));
        Some(cluster)
    }

    /// Creates an empty folder; returns `None` without PostgreSQL.
    pub(super) fn without_files() -> Option<Self> {
        let server = tool("PostgreSQL", installed(), "what is kept in PostgreSQL")?;
        let programs = server.parent().expect("a program in a folder").to_owned();
        let cluster = Self {
            programs,
            folder: tempfile::tempdir().expect("a folder"),
        };
        give_to_server_user(cluster.folder());
        Some(cluster)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the command for a program of PostgreSQL.
    pub(super) fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// Returns the command for a program of PostgreSQL, in the folder, as a user other than root.
    pub(super) fn unprivileged(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = Command::new(if is_root() {
            Path::new("setpriv")
        } else {
            &program
        });
        if is_root() {
            command
                .args([
                    &format!("--reuid={USER}"),
                    &format!("--regid={USER}"),
                    "--clear-groups",
                ])
                .arg(&program);
        }
        command.current_dir(self.folder());
        command
    }

    /// Runs SQL through psql and returns the rows, one on a line, with columns separated by `|`.
    #[track_caller]
    pub(super) fn sql(&self, url: &str, sql: &str) -> String {
        stdout(
            self.program("psql")
                .args(["-X", "-v", "ON_ERROR_STOP=1", "-Atqc", sql])
                .arg(url),
        )
    }
}

/// Returns the server's path: the one that `HOOKSTILE_POSTGRES` names. Without the variable, the one
/// on the `PATH`, or the newest version that Debian has installed.
fn installed() -> Option<PathBuf> {
    const VARIABLE: &str = "HOOKSTILE_POSTGRES";
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .map(|version| version.path().join("bin/postgres"))
        .filter(|path| path.is_file())
        .max()
        .filter(|_| std::env::var_os(VARIABLE).is_none());
    // The other programs are beside the program itself, not beside a link to it.
    program(VARIABLE, "postgres")
        .or(newest)?
        .canonicalize()
        .ok()
}

/// Gives a file or folder to the server's user.
pub(super) fn give_to_server_user(path: &Path) {
    if is_root() {
        let (user, group) = ids();
        chown(path, Some(user), Some(group)).expect("root may give a file away");
    }
}

/// Returns the user ID and group ID of [`USER`].
fn ids() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let entry = users
        .lines()
        .find_map(|line| line.strip_prefix(USER)?.strip_prefix(':'));
    let mut fields = entry
        .expect("the user postgres, which PostgreSQL's package makes")
        .split(':')
        .skip(1);
    let mut number = || {
        fields
            .next()
            .and_then(|field| field.parse().ok())
            .expect("a number")
    };
    (number(), number())
}

/// Runs a command that must succeed and returns its output without the last line break.
#[track_caller]
pub(super) fn stdout(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .trim_end()
        .to_owned()
}
