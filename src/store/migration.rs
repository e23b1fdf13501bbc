//! An embedded store moved into a shared one: everything, as it stands, while no gateway serves either.

use std::path::{Path, PathBuf};

use super::embedded::OfflineStore;
use super::postgres::Import;
use super::{EmbeddedSettings, OpenError, SharedSettings, Store};
use crate::clock::Clock;
use crate::metrics::StoreMetrics;

/// Rows that are in memory at once.
const ROWS_AT_ONCE: usize = 2_000;

/// What was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    pub ids: usize,
    pub deliveries: usize,
    pub webhooks: usize,
    /// Where the embedded store's folder is now, for nobody to serve it again.
    pub folder: PathBuf,
}

/// Why a store was not moved. Both are as they were.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0} is there already; an embedded store was moved from here before")]
    MovedBefore(PathBuf),
    #[error("cannot write to the database: {0}")]
    Write(String),
    #[error("the database holds events already; an embedded store is moved into an empty one")]
    NotEmpty,
    #[error("a gateway serves from the database; stop it first")]
    Served,
    #[error(
        "everything was moved, but {folder} cannot be renamed: {source}; see to it that no gateway serves from it again"
    )]
    Rename {
        folder: PathBuf,
        source: std::io::Error,
    },
}

/// A remembered ID.
pub(super) struct IdRow {
    pub place: i64,
    pub key: [u8; 16],
    pub ends_ms: i64,
    pub attempts: i32,
    pub possibly_delivered: bool,
    pub digest: Option<[u8; 16]>,
    pub delivery: Option<i64>,
    pub other: Option<[u8; 16]>,
}

/// A delivery with what is kept of its payload.
pub(super) struct DeliveryRow {
    pub id: i64,
    pub route: String,
    pub event_id: String,
    pub event_type: String,
    pub received_ms: i64,
    pub state: String,
    pub reason: Option<String>,
    pub tried: i32,
    pub possibly_delivered: bool,
    /// JSON.
    pub attempts: String,
    pub payload_bytes: i64,
    pub due_ms: Option<i64>,
    pub queued_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    pub keys: Option<Vec<u8>>,
    pub secret: Option<String>,
    pub test: bool,
    pub payload: Option<(Vec<u8>, Vec<u8>)>,
}

pub(super) struct RouteRow {
    pub name: String,
    pub created_ms: i64,
    pub last_success_ms: Option<i64>,
    pub last_failure_ms: Option<i64>,
}

pub(super) struct DayRow {
    pub route: String,
    pub day: i64,
    pub successful: i64,
    pub failed: i64,
    pub total_ms: i64,
}

/// Moves the embedded store in `folder` into the database, which must be empty, and renames the folder.
///
/// # Errors
/// Either store can't be used, or a gateway serves from it.
pub async fn move_into_shared(
    folder: &Path,
    to: SharedSettings,
    metrics: StoreMetrics,
) -> Result<Moved, MoveError> {
    let aside = moved_folder(folder);
    if aside.exists() {
        return Err(MoveError::MovedBefore(aside));
    }
    settle_attempts(folder, metrics.clone()).await?;
    let from = OfflineStore::open(folder)?;
    let mut import = Import::begin(&to, metrics).await?;
    let mut moved = Moved {
        ids: 0,
        deliveries: 0,
        webhooks: 0,
        folder: aside,
    };
    import.time(from.hash_key(), from.times()).await?;
    let mut after = i64::MIN;
    loop {
        let rows = from.ids(after, ROWS_AT_ONCE)?;
        let Some(last) = rows.last() else { break };
        (after, moved.ids) = (last.place, moved.ids + rows.len());
        import.ids(&rows).await?;
    }
    after = i64::MIN;
    loop {
        let rows = from.delivery_rows(after, ROWS_AT_ONCE)?;
        let Some(last) = rows.last() else { break };
        (after, moved.deliveries) = (last.id, moved.deliveries + rows.len());
        import.deliveries(&rows).await?;
    }
    let webhooks = from.webhooks()?;
    moved.webhooks = webhooks.len();
    import.operators(&webhooks, &from.paused()?).await?;
    import.counts(&from.routes()?, &from.days()?).await?;
    import.commit().await?;
    drop(from);
    std::fs::rename(folder, &moved.folder).map_err(|source| MoveError::Rename {
        folder: folder.to_owned(),
        source,
    })?;
    Ok(moved)
}

/// Has the embedded store note what a gateway that was killed may have had under way.
async fn settle_attempts(folder: &Path, metrics: StoreMetrics) -> Result<(), MoveError> {
    // It must be there; opening it to serve would make it.
    drop(OfflineStore::open(folder)?);
    let settings = EmbeddedSettings::at(folder);
    Store::embedded(settings, Clock::System, metrics)?
        .close(true)
        .await;
    Ok(())
}

fn moved_folder(folder: &Path) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_owned();
    name.push(".moved");
    folder.with_file_name(name)
}
