//! A test's own PostgreSQL server, which the test may crash, restart and freeze.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use super::cluster::{Cluster, give_to_server_user, stdout};
use super::link::Link;
use super::process::{Process, freeze, signal};
use super::tls::Issued;
use super::upstream::ClosedPort;
use super::wait::eventually;

/// The server's settings. Without fsync, because tests kill the process and never the machine.
const SETTINGS: [&str; 4] = [
    "listen_addresses=127.0.0.1",
    "max_connections=100",
    "shared_buffers=32MB",
    "fsync=off",
];

/// A server whose port stays the same. It stops, and its data is removed, when the test ends.
pub struct Postgres {
    process: Process,
    cluster: Cluster,
    port: ClosedPort,
}

impl Postgres {
    /// Starts a server with an empty database; returns `None` without PostgreSQL.
    pub async fn start() -> Option<Self> {
        Self::start_with(None).await
    }

    /// Starts a server that also speaks TLS, with this certificate.
    pub async fn start_with_tls(certificate: &Issued) -> Option<Self> {
        Self::start_with(Some(certificate)).await
    }

    async fn start_with(certificate: Option<&Issued>) -> Option<Self> {
        let (cluster, port) = (Cluster::new()?, ClosedPort::new());
        if let Some(Issued {
            certificate, key, ..
        }) = certificate
        {
            write_private_file(&cluster, "server.crt", certificate);
            write_private_file(&cluster, "server.key", key);
            write_private_file(&cluster, "postgresql.auto.conf", "ssl = on\n");
        }
        Some(Self::start_on(cluster, port).await)
    }

    /// Starts a server with a standby, which follows it by way of the link.
    pub async fn start_with_standby() -> Option<(Self, Link, Self)> {
        let (cluster, port) = (Cluster::new()?, ClosedPort::new());
        let copy = Cluster::without_files()?;
        stdout(
            Command::new("cp")
                .arg("-a")
                .arg(cluster.folder().join("."))
                .arg(copy.folder()),
        );
        let primary = Self::start_on(cluster, port).await;
        let link = Link::open(primary.address()).await;
        let follows = format!(
            "primary_conninfo = 'host={} port={} user=hookstile'\n",
            link.address().ip(),
            link.address().port()
        );
        write_private_file(&copy, "postgresql.auto.conf", &follows);
        write_private_file(&copy, "standby.signal", "");
        let standby = Self::start_on(copy, ClosedPort::new()).await;
        Some((primary, link, standby))
    }

    async fn start_on(cluster: Cluster, port: ClosedPort) -> Self {
        let postgres = Self {
            process: spawn_server(&cluster, port.address()),
            cluster,
            port,
        };
        postgres.wait_until_ready().await;
        postgres
    }

    /// Makes a standby a server that accepts writes.
    pub fn promote(&self) {
        assert_eq!(self.sql("select pg_promote()"), "t");
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub fn url(&self) -> String {
        Self::url_at(self.address())
    }

    /// Returns a URL with another address, or with several.
    pub fn url_at(hosts: impl std::fmt::Display) -> String {
        format!("postgres://hookstile@{hosts}/postgres?sslmode=disable")
    }

    /// Runs SQL through psql and returns the rows, one on a line, with columns separated by `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.cluster.sql(&self.url(), sql)
    }

    /// Begins a transaction that stays open until the process is dropped, as a forgotten `psql` does.
    pub async fn hold_transaction(&self) -> Process {
        self.hold_transaction_with("select pg_current_xact_id()")
            .await
    }

    /// Begins a transaction with this SQL that stays open until the process is dropped.
    pub async fn hold_transaction_with(&self, sql: &str) -> Process {
        let held = Process::spawn(self.cluster.program("psql").arg(self.url()).args([
            "-X",
            "-c",
            &format!("{sql}; select pg_sleep(90)"),
        ]));
        let open = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        eventually("the transaction is open", async || self.sql(open) == "1").await;
        held
    }

    /// Shuts down immediately: nothing is flushed, every connection breaks, and the next start must
    /// recover.
    pub async fn crash(&mut self) {
        self.process.signal("QUIT");
        self.process.wait_for_exit().await;
    }

    /// Starts the server again on the same data and port, and waits until it has recovered.
    pub async fn restart(&mut self) {
        assert!(
            self.process.exit().is_some(),
            "the previous process has ended"
        );
        self.process = spawn_server(&self.cluster, self.address());
        self.wait_until_ready().await;
    }

    /// Stops all its processes where they are: connections stay open, but nothing is answered.
    pub async fn freeze(&self) {
        let postmaster = self.process.id();
        // The postmaster is first, so that it starts no more children and keeps the IDs of those
        // that exit.
        freeze(&[postmaster]).await;
        freeze(&children(postmaster)).await;
    }

    pub fn resume(&self) {
        let postmaster = self.process.id();
        signal("CONT", &children(postmaster));
        signal("CONT", &[postmaster]);
    }

    #[track_caller]
    fn wait_until_ready(&self) -> impl Future<Output = ()> {
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
            eprintln!("PostgreSQL's output:\n{}", self.process.output());
        }
        // SIGKILL would leave its shared memory behind. SIGQUIT gives the children 5 seconds.
        self.process.signal("QUIT");
        self.resume();
        for _ in 0..1000 {
            if self.process.exit().is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Writes a file that only the server's user may read, which PostgreSQL requires of a key.
fn write_private_file(cluster: &Cluster, name: &str, content: &str) {
    let path = cluster.folder().join(name);
    std::fs::write(&path, content).expect("a writable folder");
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("the test owns the file");
    give_to_server_user(&path);
}

fn spawn_server(cluster: &Cluster, address: SocketAddr) -> Process {
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
