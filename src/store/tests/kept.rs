//! An engine of a test's own, and how its time passes.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::cluster::Cluster;
use crate::clock::{Clock, ManualClock};
use crate::metrics::Metrics;
use crate::store::postgres::Database;
use crate::store::{Durability, EmbeddedSettings, OpenError, Settings, SharedSettings, Store};

pub(in crate::store) struct Kept {
    pub engine: Engine,
    pub metrics: Metrics,
}

pub(in crate::store) enum Engine {
    Embedded(Files),
    Shared(Server),
}

/// A folder for an embedded store, whose time passes by hand.
pub(in crate::store) struct Files {
    pub folder: tempfile::TempDir,
    pub clock: Clock,
    pub hand: Arc<ManualClock>,
}

/// A PostgreSQL that is reached through a socket in its folder. Its time is real, and goes on beside what is let pass.
pub(in crate::store) struct Server(Cluster);

impl Kept {
    pub fn embedded() -> Self {
        Self {
            engine: Engine::Embedded(Files::new()),
            metrics: Metrics::new().unwrap(),
        }
    }

    /// `None` where there is no PostgreSQL.
    pub fn shared() -> Option<Self> {
        Some(Self {
            engine: Engine::Shared(Server::start()?),
            metrics: Metrics::new().unwrap(),
        })
    }

    /// Opens it, anew or again; in PostgreSQL also as one more gateway.
    pub async fn open(&self) -> Store {
        let (settings, clock) = match &self.engine {
            Engine::Embedded(files) => (Settings::Embedded(files.settings()), files.clock.clone()),
            Engine::Shared(server) => (
                Settings::Shared(Box::new(server.settings())),
                Clock::manual().0,
            ),
        };
        Store::open(settings, clock, self.metrics.store().clone())
            .await
            .unwrap()
    }

    /// Closes it and opens it again.
    pub async fn reopen(&self, store: Store) -> Store {
        store.close(true).await;
        drop(store);
        self.open().await
    }

    /// Lets running time pass.
    pub fn pass(&self, store: &Store, time: Duration) {
        match &self.engine {
            Engine::Embedded(files) => {
                // In steps that are believed.
                let mut left = time;
                while !left.is_zero() {
                    let step = left.min(Duration::from_secs(50));
                    files.hand.advance(step);
                    store.tick();
                    left -= step;
                }
            }
            Engine::Shared(server) => {
                let ms = time.as_millis();
                server.sql(&format!(
                    "UPDATE hookstile.store SET running_ms = running_ms + {ms}"
                ));
            }
        }
    }

    /// Lets time pass in which the store, which is closed, is not there.
    pub fn pass_away(&self, time: Duration) {
        match &self.engine {
            Engine::Embedded(files) => files.hand.advance(time),
            Engine::Shared(server) => {
                let ms = time.as_millis();
                server.sql(&format!(
                    "UPDATE hookstile.store SET ticked_at = ticked_at - interval '{ms} ms'"
                ));
            }
        }
    }

    /// Forgets everything, while no store is open.
    pub fn clear(&self) {
        match &self.engine {
            Engine::Embedded(files) => drop(std::fs::remove_dir_all(files.settings().folder)),
            Engine::Shared(server) => drop(server.sql("DROP SCHEMA IF EXISTS hookstile CASCADE")),
        }
    }
}

impl Files {
    pub fn new() -> Self {
        let (clock, hand) = Clock::manual();
        Self {
            folder: tempfile::tempdir().unwrap(),
            clock,
            hand,
        }
    }

    pub fn settings(&self) -> EmbeddedSettings {
        let folder = self.folder.path().join("store");
        EmbeddedSettings {
            folder,
            durability: Durability::Strict,
            max_ids: 1_000,
            max_bytes: None,
        }
    }

    pub fn try_open(&self, settings: EmbeddedSettings) -> Result<Store, OpenError> {
        Store::embedded(
            settings,
            self.clock.clone(),
            Metrics::new().unwrap().store().clone(),
        )
    }

    pub fn open(&self) -> Store {
        self.try_open(self.settings()).unwrap()
    }
}

impl Server {
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

    pub fn url(&self) -> String {
        format!(
            "postgres:///postgres?user=hookstile&host={}",
            self.0.folder().display()
        )
    }

    pub fn settings(&self) -> SharedSettings {
        let database = Database::parse(&self.url()).unwrap();
        SharedSettings {
            database,
            durability: Durability::Strict,
            max_ids: 1_000,
            max_bytes: None,
        }
    }

    /// Runs SQL: the rows, one a line, their columns between `|`.
    #[track_caller]
    pub fn sql(&self, sql: &str) -> String {
        self.0.sql(&self.url(), sql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = self.0.unprivileged("pg_ctl");
        run(stop
            .args(["stop", "--mode=immediate", "--silent", "-D"])
            .arg(self.0.folder()));
    }
}

/// A command whose children may keep its output open.
fn run(command: &mut Command) {
    let status = command
        .stdout(std::process::Stdio::null())
        .status()
        .expect("PostgreSQL's own program");
    assert!(status.success(), "{command:?}");
}
