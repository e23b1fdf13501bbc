//! The store while no gateway serves it, for looking at.
//!
//! Nothing is made, changed or let go of, and nobody else can open it meanwhile. (Closing it may move the log into the
//! database, as closing it always does.)

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::folder_lock::Lock;
use super::read::Reader;
use super::{DeliveryFilter, DeliveryId, DeliveryRecord, OpenError, schema};
use crate::store::uptime::Uptime;

/// A store that is looked at.
pub struct OfflineStore {
    pub(super) file: PathBuf,
    /// Closed before the lock is given back.
    pub(super) reader: Reader,
    pub(super) head: schema::Head,
    /// When this was opened, in the time of what is due.
    pub(super) due_now: Uptime,
    _lock: Lock,
}

impl OfflineStore {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// There is none, a process has it, it can't be read, or it is not ours.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let file = schema::file(folder);
        // Asked before anything is opened, because opening makes what is missing.
        if !file
            .try_exists()
            .map_err(|source| OpenError::folder(folder, source))?
        {
            return Err(OpenError::Missing {
                folder: folder.display().to_string(),
            });
        }
        let lock = super::lock(folder)?;
        let connection =
            schema::open_to_read(&file).map_err(|source| OpenError::database(&file, source))?;
        let head = schema::read_made(&connection, &file)?;
        let due_now = head
            .running
            .after(head.away_until(Timestamp::now().as_millisecond()));
        Ok(Self {
            file,
            reader: Reader::on(connection),
            head,
            due_now,
            _lock: lock,
        })
    }

    /// Deliveries, the newest first.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRecord>, OpenError> {
        self.reader
            .deliveries(filter, self.due_now)
            .map_err(|source| OpenError::database(&self.file, source))
    }

    /// How many there are of these; `None` when there are more than are counted.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn count_deliveries(&self, filter: &DeliveryFilter) -> Result<Option<usize>, OpenError> {
        self.reader
            .count_deliveries(filter)
            .map_err(|source| OpenError::database(&self.file, source))
    }

    /// One delivery.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, OpenError> {
        self.reader
            .delivery(id, self.due_now)
            .map_err(|source| OpenError::database(&self.file, source))
    }
}
