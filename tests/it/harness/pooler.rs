//! PgBouncer in front of a test's PostgreSQL.

use std::net::SocketAddr;
use std::process::Command;

use tempfile::TempDir;
use tokio::net::TcpStream;

use super::cluster::give_to_server_user;
use super::postgres::Postgres;
use super::process::Process;
use super::programs::{is_root, program, tool};
use super::upstream::ClosedPort;
use super::wait::eventually;

/// A running pooler, which stops when the test ends.
pub struct Pooler {
    _process: Process,
    _folder: TempDir,
    port: ClosedPort,
}

impl Pooler {
    /// Starts a pooler in a mode (`session`, `transaction`); returns `None` without PgBouncer.
    pub async fn start(postgres: &Postgres, mode: &str) -> Option<Self> {
        let found = program("HOOKSTILE_PGBOUNCER", "pgbouncer");
        let path = tool("PgBouncer", found, "a connection pooler before PostgreSQL")?;
        let (folder, port) = (tempfile::tempdir().expect("a folder"), ClosedPort::new());
        let settings = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n\
             postgres = host={} port={} user=hookstile\n\
             [pgbouncer]\n\
             listen_addr = {}\nlisten_port = {}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\n",
            postgres.address().ip(),
            postgres.address().port(),
            port.address().ip(),
            port.address().port(),
        );
        std::fs::write(&settings, text).expect("a writable folder");
        give_to_server_user(folder.path());
        give_to_server_user(&settings);
        let mut command = Command::new(path);
        if is_root() {
            command.args(["-u", "postgres"]);
        }
        let process = Process::spawn(command.arg(&settings));
        let address = port.address();
        eventually("PgBouncer listens", async || {
            assert!(process.exit().is_none(), "{}", process.output());
            TcpStream::connect(address).await.is_ok()
        })
        .await;
        Some(Self {
            _process: process,
            _folder: folder,
            port,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }
}
