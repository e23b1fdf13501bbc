//! A real PostgreSQL of a test's own, which may be crashed, started again and frozen.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::patience::eventually;
use super::process::{Process, freeze, program, signal, tool};
use super::tls::Issued;
use super::upstream::ClosedPort;

/// PostgreSQL does not run as root; a root runs it as the user that its package makes.
const USER: &str = "postgres";

/// What the server is started with. Without fsync: tests kill the process, never the machine.
const SETTINGS: [&str; 4] = ["listen_addresses=127.0.0.1", "max_connections=100", "shared_buffers=32MB", "fsync=off"];

/// A server on a port that stays its own. Stopped, and its data removed, when the test ends.
pub struct Postgres {
    process: Process,
    programs: PathBuf,
    folder: TempDir,
    port: ClosedPort,
}

impl Postgres {
    /// Starts a server with an empty database; `None` where there is no PostgreSQL.
    pub async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// One that speaks TLS to those who ask for it, and shows this certificate.
    pub async fn start_with_tls(shows: &Issued) -> Option<Self> {
        Self::start_with(Some(shows)).await
    }

    async fn start_with(shows: Option<&Issued>) -> Option<Self> {
        let server = tool("PostgreSQL", installed(), "what is kept in PostgreSQL")?;
        let programs = server.parent().expect("a program in a folder").to_owned();
        let (folder, port) = (tempfile::tempdir().expect("a folder"), ClosedPort::new());
        if is_root() {
            let (user, group) = ids();
            chown(folder.path(), Some(user), Some(group)).expect("root may give a folder away");
        }
        let mut initdb = unprivileged(&programs.join("initdb"), folder.path());
        initdb.args(["-A", "trust", "-U", "hookgate", "--no-sync", "-E", "UTF8", "--locale=C", "-D"]);
        stdout(initdb.arg(folder.path()));
        if let Some(Issued { certificate, key, .. }) = shows {
            own_file(folder.path(), "server.crt", certificate);
            own_file(folder.path(), "server.key", key);
            own_file(folder.path(), "postgresql.auto.conf", "ssl = on\n");
        }
        let process = serve(&server, folder.path(), port.address());
        let postgres = Self { process, programs, folder, port };
        postgres.is_ready().await;
        Some(postgres)
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        Self::url_at(self.address())
    }

    /// By way of another address, or of several.
    pub fn url_at(hosts: impl std::fmt::Display) -> String {
        format!("postgres://hookgate@{hosts}/postgres?sslmode=disable")
    }

    /// Runs SQL through psql: the rows, one a line, their columns between `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        stdout(psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-Atqc", sql]).arg(self.url()))
    }

    /// An immediate shutdown: nothing is written out, every connection breaks, and the next start has to recover.
    pub async fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.exited().await;
    }

    /// Starts it again on the same data and port, and waits until it has recovered.
    pub async fn restart(&mut self) {
        assert!(self.process.exit().is_some(), "the one before has ended");
        self.process = serve(&self.programs.join("postgres"), self.folder.path(), self.address());
        self.is_ready().await;
    }

    /// Stops all its processes where they are: connections stay open, and nothing is answered.
    pub async fn freeze(&self) {
        let postmaster = self.process.id();
        // First, so that it starts no more children, and keeps the IDs of those that end.
        freeze(&[postmaster]).await;
        freeze(&children(postmaster)).await;
    }

    pub fn thaw(&self) {
        let postmaster = self.process.id();
        signal("CONT", &children(postmaster));
        signal("CONT", &[postmaster]);
    }

    #[track_caller]
    fn is_ready(&self) -> impl Future<Output = ()> {
        eventually("PostgreSQL is ready", async || {
            assert!(self.process.exit().is_none(), "PostgreSQL is gone:\n{}", self.process.output());
            let mut ready = Command::new(self.programs.join("pg_isready"));
            ready.args(["-q", "-d"]).arg(self.url()).status().expect("pg_isready runs").success()
        })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if self.process.exit().is_some() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("PostgreSQL's last words:\n{}", self.process.output());
        }
        // Not SIGKILL at once, after which its shared memory would stay. It gives its children 5 seconds.
        self.process.signal("QUIT");
        self.thaw();
        for _ in 0..1000 {
            if self.process.exit().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The server's program: the one on the `PATH`, or the newest of those that Debian keeps beside each other.
fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin/postgres")).filter(|path| path.is_file()).max();
    // The others are beside the program itself, not beside a link to it.
    program("HOOKGATE_POSTGRES", "postgres").or(newest)?.canonicalize().ok()
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("Linux").uid() == 0
}

/// The user's and the group's number of [`USER`].
fn ids() -> (u32, u32) {
    let users = std::fs::read_to_string("/etc/passwd").expect("a list of users");
    let entry = users.lines().find_map(|line| line.strip_prefix(USER)?.strip_prefix(':'));
    let mut fields = entry.expect("the user postgres, which PostgreSQL's package makes").split(':').skip(1);
    let mut number = || fields.next().and_then(|field| field.parse().ok()).expect("a number");
    (number(), number())
}

/// A file that only the server's user may read, as it asks of a key.
fn own_file(folder: &Path, name: &str, content: &str) {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a writable folder");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("our own file");
    if is_root() {
        let (user, group) = ids();
        chown(&path, Some(user), Some(group)).expect("root may give a file away");
    }
}

/// A program in this folder, as a user who is not root.
fn unprivileged(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(if is_root() { Path::new("setpriv") } else { program });
    if is_root() {
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]).arg(program);
    }
    command.current_dir(folder);
    command
}

fn serve(server: &Path, folder: &Path, address: SocketAddr) -> Process {
    let mut command = unprivileged(server, folder);
    command.arg("-D").arg(folder).arg("-k").arg(folder).args(["-p", &address.port().to_string()]);
    Process::spawn(command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])))
}

/// What a command that must succeed has written, without the last line's end.
#[track_caller]
fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
}

fn children(process: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}
