//! What operators say, and the store keeps: webhooks that were made over the API, paused routes, and the
//! bulk redelivery that was requested last. No event waits for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Creation, CreationKey, Revision, StoreError};

/// A bulk redelivery as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRedelivery {
    pub document: String,
    pub is_running: bool,
}

/// The operators' settings in an engine of the store.
#[async_trait]
pub trait OperatorSettings: Send + Sync {
    /// Stores a webhook's definition, as durably as events, and remembers its creation in the same
    /// transaction if `creation` is its key. Returns `None` and stores nothing when another gateway
    /// has changed operator data since revision `expected`.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn put_webhook(
        &self,
        name: Arc<str>,
        definition: String,
        expected: Revision,
        creation: Option<CreationKey>,
    ) -> Result<Option<Revision>, StoreError>;

    /// Deletes a webhook's definition. The records of its events stay. Returns `None` and deletes
    /// nothing when another gateway has changed operator data since revision `expected`.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn remove_webhook(
        &self,
        name: Arc<str>,
        expected: Revision,
    ) -> Result<Option<Revision>, StoreError>;

    /// Returns the creation that is remembered under this key.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn creation(&self, key: &str) -> Result<Option<Creation>, StoreError>;

    /// Returns the names and definitions of all webhooks, and the revision that they belong to.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn webhooks(&self) -> Result<(Revision, Vec<(String, String)>), StoreError>;

    /// Reads the revision of operator data. It is always the same in the embedded store, which no
    /// other gateway changes.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn read_revision(&self) -> Result<Revision, StoreError> {
        Ok(Revision::default())
    }

    /// Pauses or resumes the delivery of a route's queued events. A pause survives restarts.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn set_paused(&self, route: Arc<str>, paused: bool) -> Result<(), StoreError>;

    /// Returns the names of the paused routes.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn paused_routes(&self) -> Result<Vec<String>, StoreError>;

    /// Stores a bulk redelivery that begins, in place of the one before. This gateway alone continues
    /// it until the lease ends, which each save extends. Returns `false`, and stores nothing, while
    /// one is running. The document is the caller's.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn begin_redelivery(&self, document: String, lease: Duration)
    -> Result<bool, StoreError>;

    /// Stores the progress of the running bulk redelivery, or its end. Returns `false`, and stores
    /// nothing, if another gateway continues it, or if it was cancelled.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn save_redelivery(
        &self,
        redelivery: StoredRedelivery,
        lease: Duration,
    ) -> Result<bool, StoreError>;

    /// Returns the document of a running bulk redelivery that no other gateway continues. This one
    /// has it from then on. The caller makes sure that this gateway is not running it.
    ///
    /// # Errors
    /// Fails when the store cannot be read or written.
    async fn claim_redelivery(&self, lease: Duration) -> Result<Option<String>, StoreError>;

    /// Ends the running bulk redelivery, at whichever gateway it runs: that one's next save stores
    /// nothing. Returns its document, or `None` if none is running.
    ///
    /// # Errors
    /// Fails when the write is not certain to have succeeded.
    async fn cancel_redelivery(&self) -> Result<Option<String>, StoreError>;

    /// Returns the bulk redelivery that was requested last.
    ///
    /// # Errors
    /// Fails when the store cannot be read.
    async fn redelivery(&self) -> Result<Option<StoredRedelivery>, StoreError>;

    /// Returns a counter that changes when any gateway changes webhooks or pauses; `None` for the
    /// embedded engine.
    fn revision(&self) -> Option<watch::Receiver<i64>> {
        None
    }
}
