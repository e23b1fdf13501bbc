//! Persistent state of events: the ledger of event IDs, the delivery queue and delivery records.
//!
//! The modules above use only the types in `domain` and `records`. `engine` says what the store
//! does, and `operator_settings` what it keeps for operators. Two engines do it, and no caller
//! depends on which one runs: `embedded` (SQLite, one gateway) and `postgres` (several gateways).
//! `delivery_state` has the rules that both follow.

mod claim_lease;
mod delivery_state;
mod domain;
mod embedded;
mod engine;
mod migration;
mod operator_settings;
mod postgres;
mod records;
mod share;
mod uptime;

use std::ops::Deref;
use std::sync::Arc;

use crate::clock::Clock;
use crate::metrics::StoreMetrics;
use delivery_state::RECORD_BYTES;
use domain::RecordLimits;
use records::{AttemptLog, COUNT_LIMIT, LISTED_BYTES_MAX};

pub use claim_lease::{ClaimLease, ClaimResult, LeaseDeadline, StartedAttempt};
pub use domain::{
    AttemptHistory, AttemptId, AttemptOutcome, ClaimPurpose, ClaimTerms, Creation, CreationKey,
    DeliveryChange, DeliveryId, DeliveryIdentity, DeliveryKeys, DeliveryState, DueAt, Durability,
    EventKey, EventMetadata, EventRow, KnownEvent, LedgerEntry, PAYLOAD_MAX, Payload, Payloads,
    RemovedRoute, Requeue, RequeueResult, Retain, Revision, RowId, SettledRow, Settlement,
    StoreRoute,
};
pub use embedded::{
    Backup, BackupError, CheckedRoute, OfflineStore, OpenError, RestoreError, Restored,
    Settings as EmbeddedSettings, StoreCheck, StoreFault, StoreProblem, back_up, check, restore,
};
pub use engine::Engine;
pub use migration::{MoveError, MoveSummary, move_into_shared};
pub use operator_settings::{OperatorSettings, StoredRedelivery};
pub use postgres::{
    Database, OpenError as SharedOpenError, Settings as SharedSettings, SharedStoreCheck,
};
pub use records::{
    AttemptRecord, DeliveryFilter, DeliveryRecord, DueEvent, DueEvents, LISTED_BODY_MAX,
    QueuedEvent, RESPONSE_BODY_MAX, ResponseRecord, RouteDeliveryStats,
};

/// The limit of removed routes that are listed.
const REMOVED_ROUTES_MAX: usize = 1_000;

/// The engine to use, with its settings.
#[derive(Debug, Clone)]
pub enum Settings {
    Embedded(EmbeddedSettings),
    Shared(Box<SharedSettings>),
}

/// A problem that this gateway sees, for the memory that several gateways share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenIncident {
    /// The identity of the problem among all gateways.
    pub key: String,
    pub document: String,
    /// The severity in the document.
    pub severity: i16,
    /// The severity that has lasted for long enough to notify somebody; 0 if none has.
    pub lasting: i16,
}

/// An incident that somebody should be notified of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntoldIncident {
    pub id: String,
    pub document: String,
    pub untold: Untold,
}

/// An incident that this gateway alone notifies of, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimedIncident {
    pub incident: UntoldIncident,
    lease_ends_ms: i64,
}

/// What of an incident nobody was notified of yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untold {
    /// That it began, or that it became worse, with its severity.
    Began(i16),
    Ended,
}

/// The store cannot serve a request. The caller must not forward anything without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store is full: `store.max_ids` or `store.max_size` is reached, and nothing is \
         forgotten early"
    )]
    Full,
    #[error(
        "the store is nearly full and the route holds its share of it; a route may hold four times \
         as much as is free"
    )]
    ShareFull,
    #[error(
        "the store is not available; it is being reopened, and an earlier log entry has the cause"
    )]
    Unavailable,
    #[error("another gateway has stored a copy of the event meanwhile")]
    StoredElsewhere(StoredCopy),
}

/// The body of a copy that another gateway has stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredCopy {
    SameBody,
    OtherBody,
}

impl StoreError {
    /// Returns a log label from a closed set. The store itself logs the cause once.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Full => "store_full",
            Self::ShareFull => "store_share_full",
            Self::Unavailable => "store_closed",
            Self::StoredElsewhere(_) => "stored_elsewhere",
        }
    }
}

/// A handle to the store. Clones share one engine.
#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
}

impl Deref for Store {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        &*self.engine
    }
}

impl Store {
    /// Opens the store, and creates it if it does not exist.
    ///
    /// # Errors
    /// Fails when the store cannot be reached or used, or when another process has the embedded
    /// store open.
    pub async fn open(
        settings: Settings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        match settings {
            // Reading many millions of IDs takes seconds and must not block the async runtime.
            Settings::Embedded(settings) => {
                let opened =
                    tokio::task::spawn_blocking(move || Self::embedded(settings, clock, metrics));
                opened
                    .await
                    .map_err(|error| OpenError::Start(std::io::Error::other(error)))?
            }
            Settings::Shared(settings) => {
                let engine = Arc::new(postgres::Store::open(*settings, metrics).await?);
                Ok(Self { engine })
            }
        }
    }

    /// Opens the embedded store in `settings.folder`, creates it if it does not exist, and loads
    /// its index. Blocks.
    ///
    /// # Errors
    /// Fails when another process has the store open, or when the file cannot be read or is not a
    /// hookstile store.
    pub fn embedded(
        settings: EmbeddedSettings,
        clock: Clock,
        metrics: StoreMetrics,
    ) -> Result<Self, OpenError> {
        Ok(Self {
            engine: Arc::new(embedded::Store::open(settings, clock, metrics)?),
        })
    }
}

/// Checks the store in a database, while gateways use it, and changes nothing.
///
/// # Errors
/// Fails when the server cannot be reached, or has no store that this version knows.
pub async fn check_shared(
    settings: &SharedSettings,
    metrics: StoreMetrics,
) -> Result<SharedStoreCheck, SharedOpenError> {
    postgres::check(settings, metrics).await
}

#[cfg(test)]
mod tests;
