//! Read access to a store that no gateway has open.
//!
//! Nothing is created, changed or deleted, and no other process can open the store meanwhile. But what
//! a loss of power left in the commit log is executed first, as the gateway would. (And closing may
//! checkpoint the write-ahead log, as closing always does.)

use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::folder_lock::FolderLock;
use super::ledger_file::{LedgerFile, LedgerReader};
use super::opening::ReadError;
use super::read::Reader;
use super::{
    DeliveryFilter, DeliveryId, DeliveryRecord, Durability, OpenError, commit_log, opening,
    restore, schema,
};
use crate::store::uptime::Uptime;

/// A store that is open for reading only.
pub struct OfflineStore {
    pub(super) file: PathBuf,
    /// Closed before the lock is released.
    pub(super) reader: Reader,
    pub(super) header: schema::StoreHeader,
    /// The time of opening, on the clock that due times are measured with.
    pub(super) now_due: Uptime,
    _lock: FolderLock,
}

impl OfflineStore {
    /// Opens the store in `folder`.
    ///
    /// # Errors
    /// Fails when there is no store, when another process has it open, or when the file cannot be
    /// read or is not a hookstile store.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let file = schema::file(folder);
        restore::refuse_cut_off(folder)?;
        // Checked first, because opening would create missing files.
        if !file
            .try_exists()
            .map_err(|source| OpenError::folder(folder, source))?
        {
            return Err(OpenError::Missing {
                folder: folder.display().to_string(),
            });
        }
        let lock = super::lock_folder(folder)?;
        let database = |source| OpenError::database(&file, source);
        let mut connection = schema::open_to_read(&file).map_err(database)?;
        let mut header = schema::read_header(&connection, &file)?;
        let unapplied = commit_log::read(folder, header.log)
            .map_err(|source| OpenError::folder(folder, source))?;
        if !unapplied.records.is_empty() {
            let mut writer = schema::open(&file, Durability::Strict).map_err(database)?;
            // One that is missing must not be created here: the next start would not miss it.
            LedgerReader::open(folder, &header.hash_key)
                .and_then(|_| LedgerFile::open(folder, &header.hash_key))
                .map_err(ReadError::from)
                .and_then(|ledger| {
                    opening::execute_unapplied(&mut writer, &ledger, folder, &unapplied, &header)
                })
                .map_err(|error| error.into_open_error(&file, folder))?;
            drop(writer);
            connection = schema::open_to_read(&file).map_err(database)?;
            header = schema::read_header(&connection, &file)?;
        }
        let now_due = header
            .uptime
            .after(header.downtime_until(Timestamp::now().as_millisecond()));
        Ok(Self {
            file,
            reader: Reader::new(connection),
            header,
            now_due,
            _lock: lock,
        })
    }

    /// Returns the deliveries that match a filter, newest first.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn deliveries(&self, filter: &DeliveryFilter) -> Result<Vec<DeliveryRecord>, OpenError> {
        self.reader
            .deliveries(filter, self.now_due)
            .map_err(|source| OpenError::database(&self.file, source))
    }

    /// Counts the deliveries that match. Returns `None` when there are more than 10,000.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn count_deliveries(&self, filter: &DeliveryFilter) -> Result<Option<usize>, OpenError> {
        self.reader
            .count_deliveries(filter)
            .map_err(|source| OpenError::database(&self.file, source))
    }

    /// Returns one delivery.
    ///
    /// # Errors
    /// Fails when the file cannot be read.
    pub fn delivery(&self, id: DeliveryId) -> Result<Option<DeliveryRecord>, OpenError> {
        self.reader
            .delivery(id, self.now_due)
            .map_err(|source| OpenError::database(&self.file, source))
    }
}
