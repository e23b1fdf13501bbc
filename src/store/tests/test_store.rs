//! A store for one test, on either engine, with control over its time.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use crate::clock::{Clock, ManualClock};
use crate::metrics::Metrics;
use crate::store::postgres::Database;
use crate::store::{Durability, EmbeddedSettings, OpenError, Settings, SharedSettings, Store};

pub(in crate::store) struct TestStore {
    pub engine: Engine,
    pub metrics: Metrics,
}

pub(in crate::store) enum Engine {
    Embedded(TestFolder),
    Shared(TestServer),
}

/// A folder for an embedded store, with a manual clock.
pub(in crate::store) struct TestFolder {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub manual_clock: Arc<ManualClock>,
}

/// A PostgreSQL server with a socket in its folder. Its clock is real; advanced time is added to
/// it.
pub(in crate::store) struct TestServer(Cluster);

impl TestStore {
    pub(crate) fn embedded() -> Self {
        Self {
            engine: Engine::Embedded(TestFolder::new()),
            metrics: Metrics::new().unwrap(),
        }
    }

    /// Starts a shared store. Returns `None` where PostgreSQL is not installed.
    pub(crate) fn shared() -> Option<Self> {
        Some(Self {
            engine: Engine::Shared(TestServer::start()?),
            metrics: Metrics::new().unwrap(),
        })
    }

    /// Opens the store; in PostgreSQL also as one more gateway.
    pub(crate) async fn open(&self) -> Store {
        self.open_with(None).await
    }

    /// Opens the store with a limit of its size.
    pub(crate) async fn open_with_max_bytes(&self, max_bytes: u64) -> Store {
        self.open_with(Some(max_bytes)).await
    }

    async fn open_with(&self, max_bytes: Option<u64>) -> Store {
        let (settings, clock) = match &self.engine {
            Engine::Embedded(files) => {
                let settings = EmbeddedSettings {
                    max_bytes,
                    ..files.settings()
                };
                (Settings::Embedded(settings), files.clock.clone())
            }
            Engine::Shared(server) => {
                let settings = SharedSettings {
                    max_bytes,
                    ..server.settings()
                };
                (Settings::Shared(Box::new(settings)), Clock::manual().0)
            }
        };
        Store::open(settings, clock, self.metrics.store().clone())
            .await
            .unwrap()
    }

    /// Closes the store and opens it again.
    pub(crate) async fn reopen(&self, store: Store) -> Store {
        store.close(true).await;
        drop(store);
        self.open().await
    }

    /// Advances the store uptime.
    pub(crate) fn advance(&self, store: &Store, time: Duration) {
        match &self.engine {
            Engine::Embedded(files) => {
                // Longer steps would not count in full.
                let mut left = time;
                while !left.is_zero() {
                    let step = left.min(Duration::from_secs(50));
                    files.manual_clock.advance(step);
                    store.tick();
                    left -= step;
                }
            }
            Engine::Shared(server) => {
                let ms = time.as_millis();
                server.sql(&format!(
                    "UPDATE hookstile.store SET uptime_ms = uptime_ms + {ms}"
                ));
                store.tick();
            }
        }
    }

    /// Advances the time while the store is closed.
    pub(crate) fn advance_while_closed(&self, time: Duration) {
        match &self.engine {
            Engine::Embedded(files) => files.manual_clock.advance(time),
            Engine::Shared(server) => {
                let ms = time.as_millis();
                server.sql(&format!(
                    "UPDATE hookstile.store SET ticked_at = ticked_at - interval '{ms} ms'"
                ));
            }
        }
    }

    /// Runs SQL in the store. Returns the rows of a shared one: one a line, their columns between
    /// `|`.
    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> String {
        match &self.engine {
            Engine::Embedded(files) => {
                let file = files.settings().folder.join("hookstile.db");
                let connection = rusqlite::Connection::open(file).unwrap();
                let sql = sql.replace("hookstile.", "");
                connection.execute_batch(&sql).unwrap();
                String::new()
            }
            Engine::Shared(server) => server.sql(sql),
        }
    }

    /// Returns the URL of a shared store's database.
    pub(crate) fn url(&self) -> String {
        match &self.engine {
            Engine::Embedded(_) => String::new(),
            Engine::Shared(server) => server.url(),
        }
    }

    /// Deletes all data, while no store is open.
    pub(crate) fn clear(&self) {
        match &self.engine {
            Engine::Embedded(files) => drop(std::fs::remove_dir_all(files.settings().folder)),
            Engine::Shared(server) => drop(server.sql("DROP SCHEMA IF EXISTS hookstile CASCADE")),
        }
    }
}

impl TestFolder {
    pub(crate) fn new() -> Self {
        let (clock, manual_clock) = Clock::manual();
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock,
            manual_clock,
        }
    }

    pub(crate) fn settings(&self) -> EmbeddedSettings {
        let folder = self.folder.path().join("store");
        EmbeddedSettings {
            folder,
            durability: Durability::Strict,
            max_ids: 1_000,
            max_bytes: None,
            must_exist: false,
        }
    }

    pub(crate) fn try_open(&self, settings: EmbeddedSettings) -> Result<Store, OpenError> {
        Store::embedded(
            settings,
            self.clock.clone(),
            Metrics::new().unwrap().store().clone(),
        )
    }

    pub(crate) fn open(&self) -> Store {
        self.try_open(self.settings()).unwrap()
    }
}

impl TestServer {
    fn start() -> Option<Self> {
        let cluster = Cluster::new()?;
        let folder = cluster.folder().display();
        let options =
            format!("-c listen_addresses= -c fsync=off -c shared_buffers=16MB -k {folder}");
        let mut start = cluster.unprivileged("pg_ctl");
        run(start
            .args(["start", "--wait", "--silent", "-l"])
            .arg(cluster.folder().join("log"))
            .args(["-o", &options])
            .arg("-D")
            .arg(cluster.folder()));
        Some(Self(cluster))
    }

    pub(crate) fn url(&self) -> String {
        format!(
            "postgres:///postgres?user=hookstile&host={}",
            self.0.folder().display()
        )
    }

    pub(crate) fn settings(&self) -> SharedSettings {
        let database = Database::parse(&self.url()).unwrap();
        SharedSettings {
            database,
            durability: Durability::Strict,
            max_ids: 1_000,
            max_bytes: None,
            must_exist: false,
        }
    }

    /// Runs SQL: the rows, one a line, their columns between `|`.
    #[track_caller]
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.0.sql(&self.url(), sql)
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let mut stop = self.0.unprivileged("pg_ctl");
        run(stop
            .args(["stop", "--mode=immediate", "--silent", "-D"])
            .arg(self.0.folder()));
    }
}

/// Runs a command whose children may keep its output open.
fn run(command: &mut Command) {
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .expect("PostgreSQL's pg_ctl");
    assert!(status.success(), "{command:?}");
}
