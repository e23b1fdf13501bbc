//! A real PostgreSQL of a test's own, which may be crashed, started again and frozen.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::cluster::{Cluster, give_away};
use super::patience::eventually;
use super::process::{Process, freeze, signal};
use super::tls::Issued;
use super::upstream::ClosedPort;

/// What the server is started with. Without fsync: tests kill the process, never the machine.
const SETTINGS: [&str; 4] = [
    "listen_addresses=127.0.0.1",
    "max_connections=100",
    "shared_buffers=32MB",
    "fsync=off",
];

/// A server on a port that stays its own. Stopped, and its data removed, when the test ends.
pub struct Postgres {
    process: Process,
    cluster: Cluster,
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
        let (cluster, port) = (Cluster::new()?, ClosedPort::new());
        if let Some(Issued {
            certificate, key, ..
        }) = shows
        {
            own_file(&cluster, "server.crt", certificate);
            own_file(&cluster, "server.key", key);
            own_file(&cluster, "postgresql.auto.conf", "ssl = on\n");
        }
        let postgres = Self {
            process: serve(&cluster, port.address()),
            cluster,
            port,
        };
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
        format!("postgres://hookstile@{hosts}/postgres?sslmode=disable")
    }

    /// Runs SQL through psql: the rows, one a line, their columns between `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.url(), sql)
    }

    /// An immediate shutdown: nothing is written out, every connection breaks, and the next start has to recover.
    pub async fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.exited().await;
    }

    /// Starts it again on the same data and port, and waits until it has recovered.
    pub async fn restart(&mut self) {
        assert!(self.process.exit().is_some(), "the one before has ended");
        self.process = serve(&self.cluster, self.address());
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
            assert!(
                self.process.exit().is_none(),
                "PostgreSQL is gone:\n{}",
                self.process.output()
            );
            let mut ready = self.cluster.program("pg_isready");
            ready
                .args(["-q", "-d"])
                .arg(self.url())
                .status()
                .expect("pg_isready runs")
                .success()
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

/// A file that only the server's user may read, as it asks of a key.
fn own_file(cluster: &Cluster, name: &str, content: &str) {
    let path = cluster.folder().join(name);
    std::fs::write(&path, content).expect("a writable folder");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("our own file");
    give_away(&path);
}

fn serve(cluster: &Cluster, address: SocketAddr) -> Process {
    let mut command = cluster.unprivileged("postgres");
    command
        .arg("-D")
        .arg(cluster.folder())
        .arg("-k")
        .arg(cluster.folder())
        .args(["-p", &address.port().to_string()]);
    Process::spawn(command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting])))
}

fn children(process: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children"))
        .unwrap_or_default();
    children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .collect()
}
