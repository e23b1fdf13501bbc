//! The data of a PostgreSQL of a test's own, and its programs.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::programs::{program, tool};

/// PostgreSQL does not run as root; a root runs it as the user that its package makes.
const USER: &str = "postgres";

/// A folder with an empty database. The server's superuser is `hookstile`, without a password.
pub struct Cluster {
    programs: PathBuf,
    folder: TempDir,
}

impl Cluster {
    /// `None` where there is no PostgreSQL.
    pub fn new() -> Option<Self> {
        let server = tool("PostgreSQL", installed(), "what is kept in PostgreSQL")?;
        let programs = server.parent().expect("a program in a folder").to_owned();
        let cluster = Self {
            programs,
            folder: tempfile::tempdir().expect("a folder"),
        };
        give_away(cluster.folder());
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

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A program of PostgreSQL's.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.programs.join(name))
    }

    /// A program of PostgreSQL's in the folder, as a user who is not root.
    pub fn unprivileged(&self, name: &str) -> Command {
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

    /// Runs SQL through psql: the rows, one a line, their columns between `|`.
    #[track_caller]
    pub fn sql(&self, url: &str, sql: &str) -> String {
        stdout(
            self.program("psql")
                .args(["-X", "-v", "ON_ERROR_STOP=1", "-Atqc", sql])
                .arg(url),
        )
    }
}

/// The server's program: the one on the `PATH`, or the newest of those that Debian keeps beside each other.
fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions
        .map(|version| version.path().join("bin/postgres"))
        .filter(|path| path.is_file())
        .max();
    // The others are beside the program itself, not beside a link to it.
    program("HOOKSTILE_POSTGRES", "postgres")
        .or(newest)?
        .canonicalize()
        .ok()
}

/// Makes a file or folder the server's user's own.
pub fn give_away(path: &Path) {
    if is_root() {
        let (user, group) = ids();
        chown(path, Some(user), Some(group)).expect("root may give a file away");
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// The user's and the group's number of [`USER`].
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

/// What a command that must succeed has written, without the last line's end.
#[track_caller]
pub fn stdout(command: &mut Command) -> String {
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
