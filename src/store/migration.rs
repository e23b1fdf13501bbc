//! Moves an embedded store into a shared one, completely, while no gateway uses either.

use std::path::{Path, PathBuf};

use super::embedded::OfflineStore;
use super::postgres::Import;
use super::{Creation, EmbeddedSettings, OpenError, SharedSettings, Store};
use crate::clock::Clock;
use crate::metrics::StoreMetrics;

/// The number of rows held in memory at once.
const BATCH_ROWS: usize = 2_000;

/// The counts of what was moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveSummary {
    pub ids: usize,
    pub deliveries: usize,
    pub webhooks: usize,
    /// The new path of the embedded store's folder, so that no gateway uses it again.
    pub folder: PathBuf,
}

/// The reason why a store was not moved. Except for `Rename`, both stores are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("{0}")]
    Open(#[from] OpenError),
    #[error("{0} exists; an embedded store was already moved from here")]
    MovedBefore(PathBuf),
    #[error("cannot write to the database: {0}")]
    Write(String),
    #[error("the database holds events already; the target must be empty")]
    NotEmpty,
    #[error("a gateway serves from the database; stop it first")]
    InUse,
    #[error(
        "everything was moved, but {folder} cannot be renamed: {source}; make sure that no gateway \
         uses it again"
    )]
    Rename {
        folder: PathBuf,
        source: std::io::Error,
    },
}

/// A remembered event ID.
pub(super) struct IdRow {
    pub row: i64,
    pub key: [u8; 16],
    pub ends_ms: i64,
    pub attempts: i32,
    pub possibly_delivered: bool,
    pub digest: Option<[u8; 16]>,
    pub delivery: Option<i64>,
    pub route: Option<String>,
}

/// A delivery, with its payload if that is kept.
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
    /// The last settings, if a version that keeps them has served the route.
    pub settings: Option<RouteSettings>,
}

/// The last active settings of a route.
pub(super) struct RouteSettings {
    pub keep_ms: i64,
    pub max_bytes: Option<i64>,
    pub horizon_ms: i64,
}

/// A creation of a webhook that is remembered under a client's key.
pub(super) struct CreationRow {
    pub key: String,
    pub creation: Creation,
    pub ends_ms: i64,
}

pub(super) struct DayRow {
    pub route: String,
    pub day: i64,
    pub successful: i64,
    pub failed: i64,
    pub total_ms: i64,
}

/// Moves the embedded store in `folder` into the database, which must be empty, and renames the
/// folder.
///
/// # Errors
/// Fails when either store cannot be used, or when a gateway uses it.
pub async fn move_into_shared(
    folder: &Path,
    to: SharedSettings,
    metrics: StoreMetrics,
) -> Result<MoveSummary, MoveError> {
    let moved_to = moved_folder(folder);
    if moved_to.exists() {
        return Err(MoveError::MovedBefore(moved_to));
    }
    settle_interrupted_attempts(folder, metrics.clone()).await?;
    let from = OfflineStore::open(folder)?;
    let mut import = Import::begin(&to, metrics).await?;
    let mut moved = MoveSummary {
        ids: 0,
        deliveries: 0,
        webhooks: 0,
        folder: moved_to,
    };
    import.set_time(from.hash_key(), from.times()).await?;
    let mut after = i64::MIN;
    loop {
        let rows = from.ids(after, BATCH_ROWS)?;
        let Some(last) = rows.last() else { break };
        (after, moved.ids) = (last.row, moved.ids + rows.len());
        import.insert_ids(&rows).await?;
    }
    after = i64::MIN;
    loop {
        let rows = from.delivery_rows(after, BATCH_ROWS)?;
        let Some(last) = rows.last() else { break };
        (after, moved.deliveries) = (last.id, moved.deliveries + rows.len());
        import.insert_deliveries(&rows).await?;
    }
    let webhooks = from.webhooks()?;
    moved.webhooks = webhooks.len();
    import
        .insert_operator_data(&webhooks, &from.paused_routes()?)
        .await?;
    import.insert_creations(&from.creations()?).await?;
    if let Some(redelivery) = from.redelivery()? {
        import.insert_redelivery(&redelivery).await?;
    }
    import.insert_counts(&from.routes()?, &from.days()?).await?;
    import.commit().await?;
    drop(from);
    std::fs::rename(folder, &moved.folder).map_err(|source| MoveError::Rename {
        folder: folder.to_owned(),
        source,
    })?;
    Ok(moved)
}

/// Opens and closes the embedded store, which records the interrupted attempts of a gateway that
/// was killed.
async fn settle_interrupted_attempts(
    folder: &Path,
    metrics: StoreMetrics,
) -> Result<(), MoveError> {
    // Opening the store for writing would create a missing one, so this checks first.
    drop(OfflineStore::open(folder)?);
    let settings = EmbeddedSettings::without_limits(folder);
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
