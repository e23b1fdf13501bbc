//! The ledger's file: a row of 64 bytes for each event that is remembered.
//!
//! # Constraints
//!
//! * A row is written once, with the event's commit, and read only when a copy of its event arrives: by
//!   one `pread`, whose offset the index knows.
//! * A row that has expired costs nothing. No row is deleted because of its age: its whole extent becomes
//!   free with its hour ([`extents`]).
//! * A row says which slot it is for, and has a checksum, so that a damaged or misplaced one is never
//!   believed ([`row`]).
//!
//! # Layout
//!
//! The file is an array of slots of 64 bytes. The first one is the header: [`MAGIC`], whose last byte is
//! the version of the format, the mark of the database that the rows belong to (16), zeros, and the
//! checksum of a row. The others form extents of 1024 slots; the first extent has the header in place of
//! a row. Behind the last written row, the file may end.
//!
//! # Durability and recovery
//!
//! Rows are written to the page cache once their commit is in the commit log, which has them too. Before
//! the log starts again, this file is flushed. So after any end of the process or the machine, the rows
//! of all records of the log are written again, and the others are on the disk. Rows that the log does not
//! have are kept in the database until this file is flushed (`unflushed_rows`): those of a transaction that
//! is too large for the log, and all with `durability: relaxed`.
//!
//! The hour of an extent is that of its latest commit; rows of another hour are left from its earlier
//! use. When the hour of an extent has passed, its room is given back: it becomes a hole, and the file is
//! cut off behind the last extent with rows. Neither is flushed, and the log may write such rows again: a
//! start finds zeros or rows whose hour has passed, and both mean a free extent. Any number of rows may
//! be damaged without harm to the others.
//!
//! | what is found | meaning |
//! | --- | --- |
//! | a slot of zeros, or the end of the file | no row was written there |
//! | a row whose checksum is wrong | damage: its event is not remembered, and the error is logged |
//! | a header of another database | a database that was replaced: the file is moved aside, and the error is logged |
//! | a row of a commit that the database does not have | an older copy of the database: the row is undone |
//! | no file, or an empty one | as one without rows; an error is logged if the database has commits |

mod extents;
mod row;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use sha2::{Digest as _, Sha256};

use super::{EventKey, KnownEvent, LedgerEntry, RowId, folder_lock};
use crate::store::uptime::Uptime;
use extents::{Extents, SLOTS};
pub(super) use extents::{Hour, SLOTS as EXTENT_SLOTS};
pub(super) use row::{LedgerRow, ROW_BYTES, SlotContent, take_array};

pub(super) const FILE: &str = "hookstile.ledger";
/// A file that belongs to another database is renamed to this.
const MOVED_FILE: &str = "hookstile.ledger.moved";
/// What a file had that another one has replaced.
const SAVED_FILE: &str = "hookstile.ledger.saved";
/// A copy of the open file while it is written.
const UNFINISHED_FILE: &str = "hookstile.ledger.saving";

/// The first bytes of the file. The last one is the version of the format.
const MAGIC: [u8; 8] = *b"hookled\x01";

/// The size of an extent, in bytes.
const EXTENT_BYTES: usize = SLOTS as usize * ROW_BYTES;

/// The unit of the blocks that a file takes, in bytes.
const DISK_BLOCK_BYTES: u64 = 512;

/// The number of times that a row is read which seems damaged.
const READS_MAX: usize = 3;

/// The ledger's file while the store is open.
pub(super) struct LedgerFile {
    folder: PathBuf,
    mark: [u8; 16],
    file: RwLock<File>,
    extents: Mutex<Extents>,
    /// Held while rows expire, and while the file is read: an extent must not be found free in between.
    sweeping: Mutex<()>,
}

impl RowId {
    fn of_slot(slot: u32) -> Self {
        Self(slot.into())
    }

    /// Returns the slot of the row; `None` if it is not one of the embedded store.
    pub(super) fn slot(self) -> Option<u32> {
        u32::try_from(self.0).ok()
    }
}

/// Returns the row that says what is known of an event, among those that it has: a completed one takes
/// precedence over any other.
pub(super) fn known_event(rows: &[(u32, LedgerRow)]) -> Option<(RowId, KnownEvent)> {
    let completed = rows
        .iter()
        .find(|(_, row)| matches!(row.entry, LedgerEntry::Completed { .. }));
    let (slot, row) = completed.or(rows.first())?;
    let known = KnownEvent {
        entry: row.entry,
        delivery: row.delivery,
    };
    Some((RowId::of_slot(*slot), known))
}

/// Returns the keys and the IDs of rows.
pub(super) fn event_rows(rows: &[(u32, LedgerRow)]) -> Vec<(EventKey, RowId)> {
    let rows = rows.iter();
    rows.map(|(slot, row)| (row.key, RowId::of_slot(*slot)))
        .collect()
}

/// The reason why the database or the ledger's file could not be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreFileError {
    #[error("{0}")]
    Database(#[from] rusqlite::Error),
    #[error("the ledger's file cannot be used: {0}")]
    Ledger(#[from] io::Error),
}

/// The rows that were found damaged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct DamagedRows {
    pub count: usize,
    pub first_slot: Option<u32>,
}

/// Rows to write, each with its slot before it (4 bytes), as they are in the commit log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RowWrites(Vec<u8>);

impl RowWrites {
    const ENTRY_BYTES: usize = 4 + ROW_BYTES;

    pub(super) fn push(&mut self, slot: u32, row: &LedgerRow) {
        self.0.extend(slot.to_le_bytes());
        self.0.extend(row.encode(slot));
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns what [`RowWrites::as_bytes`] was; `None` if it ends within a row.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        bytes
            .len()
            .is_multiple_of(Self::ENTRY_BYTES)
            .then_some(Self(bytes))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the bytes of a row, unless they are not those of a row of this slot.
    pub(super) fn push_bytes(&mut self, slot: u32, row: &[u8; ROW_BYTES]) {
        if slot != 0 && matches!(LedgerRow::decode(slot, row), SlotContent::Row(_)) {
            self.0.extend(slot.to_le_bytes());
            self.0.extend(row);
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u8; ROW_BYTES])> {
        let (entries, _) = self.0.as_chunks::<{ Self::ENTRY_BYTES }>();
        entries.iter().filter_map(|entry| {
            let (slot, row) = entry.split_first_chunk()?;
            Some((u32::from_le_bytes(*slot), row.first_chunk()?))
        })
    }
}

impl LedgerFile {
    /// Opens the file of the database with this hash key, and creates it if it does not exist.
    pub(super) fn open(folder: &Path, hash_key: &[u8; 16]) -> io::Result<Self> {
        let mark = mark(hash_key);
        Ok(Self {
            folder: folder.to_owned(),
            mark,
            file: RwLock::new(open_marked(folder, mark)?),
            extents: Mutex::default(),
            sweeping: Mutex::default(),
        })
    }

    /// Opens the file again, after a failure.
    pub(super) fn reopen(&self) -> io::Result<()> {
        let file = open_marked(&self.folder, self.mark)?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    /// Begins an empty file. One that has rows is moved aside.
    pub(super) fn begin_empty(&self) -> io::Result<()> {
        if self.file_bytes() > ROW_BYTES as u64 {
            std::fs::rename(self.folder.join(FILE), self.folder.join(MOVED_FILE))?;
        }
        *self.extents() = Extents::default();
        self.reopen()
    }

    /// Reads the whole file, calls `each` with every row of an hour that has not passed, and learns
    /// which slots are free. What was written or deleted after the commit `last` is undone: the database
    /// does not have it, for example because an older copy has taken its place.
    pub(super) fn load(
        &self,
        now: Uptime,
        last: i64,
        mut each: impl FnMut(u32, &LedgerRow),
    ) -> io::Result<DamagedRows> {
        let _sweeping = self.lock_sweeping();
        let mut found = Vec::new();
        let mut damaged = DamagedRows::default();
        let mut undone = RowWrites::default();
        let mut file = self.with_file(File::try_clone)?;
        read_extents(&mut file, 0, |extent, slots| {
            let numbered = || (extent * SLOTS..).zip(slots);
            let hour = hour_of(slots);
            let is_over = hour.is_some_and(|hour| hour < Hour::containing(now));
            for (slot, _) in numbered().filter(|(_, content)| **content == SlotContent::Damaged) {
                // A row of an hour that has passed has expired anyway.
                if !is_over {
                    damaged.count += 1;
                    damaged.first_slot.get_or_insert(slot);
                }
            }
            let Some(hour) = hour.filter(|_| !is_over) else {
                found.push((None, 0));
                return ControlFlow::Continue(());
            };
            let mut used = 0;
            for ((slot, content), position) in numbered().zip(1..) {
                match content {
                    SlotContent::Row(row) if Hour::containing(row.ends) == hour => {
                        let mut row = *row;
                        if row.last_commit() > last {
                            row = row.undone_to(last);
                            undone.push(slot, &row);
                        }
                        each(slot, &row);
                        used = position;
                    }
                    // Its hour is unknown, so it must not be reused before the extent.
                    SlotContent::Damaged => used = position,
                    _ => {}
                }
            }
            found.push((Some(hour), used));
            ControlFlow::Continue(())
        })?;
        *self.extents() = Extents::new(&found);
        self.write(&undone)?;
        Ok(damaged)
    }

    /// Reads a slot.
    pub(super) fn read(&self, slot: u32) -> io::Result<SlotContent> {
        self.with_file(|file| read_slot(file, slot))
    }

    /// Returns whether a slot has these bytes.
    pub(super) fn has(&self, slot: u32, row: &[u8; ROW_BYTES]) -> io::Result<bool> {
        let mut bytes = [0; ROW_BYTES];
        match self.with_file(|file| file.read_exact_at(&mut bytes, offset(slot))) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            read => read.map(|()| bytes == *row),
        }
    }

    /// Gives out a slot for a row that expires in this hour. The disk has room for it, if the file system
    /// can promise that.
    pub(super) fn allocate(&self, hour: Hour) -> io::Result<u32> {
        let allocated = self.extents().allocate(hour);
        let allocated = allocated.ok_or(io::ErrorKind::FileTooLarge)?;
        if let Some(extent) = allocated.new_extent {
            self.with_file(|file| reserve(file, extent))?;
        }
        Ok(allocated.slot)
    }

    /// Writes rows to the page cache.
    pub(super) fn write(&self, rows: &RowWrites) -> io::Result<()> {
        // Rows of one commit mostly expire in one hour, so their slots follow each other.
        let mut run: Vec<u8> = Vec::new();
        let mut first = 0;
        let write =
            |first, run: &[u8]| self.with_file(|file| file.write_all_at(run, offset(first)));
        let mut next = 0;
        for (slot, row) in rows.iter() {
            if slot != next && !run.is_empty() {
                write(first, &run)?;
                run.clear();
            }
            if run.is_empty() {
                first = slot;
            }
            run.extend_from_slice(row);
            next = slot.wrapping_add(1);
        }
        if run.is_empty() {
            return Ok(());
        }
        write(first, &run)
    }

    /// Flushes all rows to the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.with_file(File::sync_data)
    }

    /// Writes a copy of the open file under its name, after the file was deleted. Returns its path. Only a
    /// whole copy gets the name.
    pub(super) fn save(&self) -> io::Result<PathBuf> {
        super::create_folder(&self.folder)?;
        self.save_as(FILE)
    }

    /// Writes a copy of the open file beside the one that has its name now. Returns its path.
    pub(super) fn save_beside(&self) -> io::Result<PathBuf> {
        self.save_as(SAVED_FILE)
    }

    fn save_as(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(UNFINISHED_FILE);
        let saved = self.copy_to(&path);
        if saved.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        saved?;
        let to = self.folder.join(name);
        std::fs::rename(&path, &to)?;
        super::flush_folder(&self.folder)?;
        Ok(to)
    }

    fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut copy = folder_lock::open_private(path)?;
        copy.set_len(0)?;
        let mut file = self.with_file(File::try_clone)?;
        file.rewind()?;
        io::copy(&mut file, &mut copy)?;
        copy.sync_all()
    }

    /// Returns a reader of the open file, even if it was deleted.
    pub(super) fn reader(&self) -> io::Result<LedgerReader> {
        self.with_file(File::try_clone).map(LedgerReader)
    }

    /// Frees the extents whose rows expired before this hour, and gives their room back to the disk.
    /// Before that, `forget` gets them, as one flag for each extent, and must make the index forget their
    /// rows.
    pub(super) fn sweep(&self, before: Hour, forget: impl FnOnce(&[bool])) {
        let _sweeping = self.lock_sweeping();
        let expired = self.extents().expired(before);
        if let Some(expired) = expired {
            forget(&expired);
            if let Err(error) = self.give_back(&expired) {
                tracing::warn!(%error, "cannot give the room of expired event IDs back to the disk");
            }
        }
    }

    /// Frees extents, and gives their room back to the disk.
    fn give_back(&self, expired: &[bool]) -> io::Result<()> {
        // Before they are free: a row that is written there meanwhile would be lost.
        let punched = self.with_file(|file| punch(file, expired));
        // The lock is held until the end is cut off: a new extent would be cut off with it.
        let mut extents = self.extents();
        let bytes = extents.free(expired) as u64 * EXTENT_BYTES as u64;
        // The header stays.
        let bytes = bytes.max(ROW_BYTES as u64);
        let cut = self.with_file(|file| match file.metadata()?.len() {
            len if len > bytes => file.set_len(bytes),
            _ => Ok(()),
        });
        drop(extents);
        punched.and(cut)
    }

    /// Returns the size of the extents that have rows, in bytes.
    pub(super) fn used_bytes(&self) -> u64 {
        self.extents().taken() as u64 * EXTENT_BYTES as u64
    }

    /// Returns the size of the file without its holes, in bytes.
    pub(super) fn disk_bytes(&self) -> u64 {
        let file = self.with_file(File::metadata);
        file.map_or(0, |file| disk_bytes(&file))
    }

    /// Returns the size of the file, in bytes.
    fn file_bytes(&self) -> u64 {
        self.with_file(File::metadata).map_or(0, |file| file.len())
    }

    fn with_file<T>(&self, use_it: impl FnOnce(&File) -> io::Result<T>) -> io::Result<T> {
        use_it(&self.file.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock_sweeping(&self) -> MutexGuard<'_, ()> {
        self.sweeping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extents(&self) -> MutexGuard<'_, Extents> {
        self.extents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of a ledger's file, also of one that a gateway is writing to.
pub(super) struct LedgerReader(File);

impl LedgerReader {
    /// Opens the file of the database with this hash key.
    ///
    /// # Errors
    /// Fails with [`io::ErrorKind::NotFound`] if there is none, or only one of another database.
    pub(super) fn open(folder: &Path, hash_key: &[u8; 16]) -> io::Result<Self> {
        let file = File::open(folder.join(FILE))?;
        match FoundHeader::read(&file, mark(hash_key))? {
            FoundHeader::Own | FoundHeader::Damaged => Ok(Self(file)),
            FoundHeader::Missing | FoundHeader::Other => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{FILE} is empty, or belongs to another database"),
            )),
        }
    }

    /// Calls `each` with the slots from this one on, until it breaks off.
    pub(super) fn read(
        &mut self,
        first: u32,
        mut each: impl FnMut(u32, SlotContent) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let again = self.0.try_clone()?;
        read_extents(&mut self.0, first / SLOTS, |extent, slots| {
            let slots = (extent * SLOTS..).zip(slots);
            for (slot, content) in slots.filter(|(slot, _)| *slot >= first) {
                let content = match content {
                    // It may have been written at the same moment.
                    SlotContent::Damaged => read_slot(&again, slot).unwrap_or(SlotContent::Damaged),
                    content => *content,
                };
                each(slot, content)?;
            }
            ControlFlow::Continue(())
        })
    }
}

/// Returns the size of a file without its holes, in bytes.
pub(super) fn disk_bytes(file: &std::fs::Metadata) -> u64 {
    file.len().min(file.blocks() * DISK_BLOCK_BYTES)
}

/// Returns whether a folder has the ledger's file of the database with this hash key.
pub(super) fn exists(folder: &Path, hash_key: &[u8; 16]) -> io::Result<bool> {
    match LedgerReader::open(folder, hash_key) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        opened => opened.map(|_| true),
    }
}

/// Reads a slot; several times if it seems damaged, because it may be written at the same moment.
fn read_slot(file: &File, slot: u32) -> io::Result<SlotContent> {
    let mut content = SlotContent::Damaged;
    for _ in 0..READS_MAX {
        let mut bytes = [0; ROW_BYTES];
        match file.read_exact_at(&mut bytes, offset(slot)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(SlotContent::Empty);
            }
            read => read?,
        }
        content = LedgerRow::decode(slot, &bytes);
        if content != SlotContent::Damaged {
            break;
        }
    }
    Ok(content)
}

/// Calls `each` with the slots of each extent of a file, from this one on, until it breaks off.
fn read_extents(
    file: &mut File,
    first: u32,
    mut each: impl FnMut(u32, &[SlotContent]) -> ControlFlow<()>,
) -> io::Result<()> {
    file.seek(SeekFrom::Start(offset(first * SLOTS)))?;
    let mut bytes = Vec::with_capacity(EXTENT_BYTES);
    let mut slots = Vec::with_capacity(SLOTS as usize);
    for extent in first.. {
        bytes.clear();
        slots.clear();
        file.take(EXTENT_BYTES as u64).read_to_end(&mut bytes)?;
        if bytes.is_empty() {
            break;
        }
        let (rows, _) = bytes.as_chunks::<ROW_BYTES>();
        slots.extend((extent * SLOTS..).zip(rows).map(|(slot, row)| match slot {
            // The header.
            0 => SlotContent::Empty,
            _ => LedgerRow::decode(slot, row),
        }));
        if each(extent, &slots).is_break() {
            break;
        }
    }
    Ok(())
}

/// Returns the hour of an extent's rows.
fn hour_of(slots: &[SlotContent]) -> Option<Hour> {
    let rows = slots.iter().filter_map(|content| match content {
        SlotContent::Row(row) => Some(row),
        _ => None,
    });
    let latest = rows.max_by_key(|row| row.last_commit());
    latest.map(|row| Hour::containing(row.ends))
}

fn offset(slot: u32) -> u64 {
    u64::from(slot) * ROW_BYTES as u64
}

/// Returns what marks the files of one database, without telling its hash key.
fn mark(hash_key: &[u8; 16]) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(b"hookstile ledger file")
        .chain_update(hash_key)
        .finalize();
    let mut mark = [0; 16];
    mark.copy_from_slice(&digest[..16]);
    mark
}

fn header(mark: [u8; 16]) -> [u8; ROW_BYTES] {
    let mut bytes = [0; ROW_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..24].copy_from_slice(&mark);
    let checksum = row::checksum(0, &bytes);
    bytes[60..].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The header that a file has.
#[derive(PartialEq, Eq)]
enum FoundHeader {
    /// The file is too short for a header.
    Missing,
    /// The header is the database's.
    Own,
    /// The header is damaged, so the file may be the database's.
    Damaged,
    /// The header is another database's.
    Other,
}

impl FoundHeader {
    fn read(file: &File, mark: [u8; 16]) -> io::Result<Self> {
        let mut found = [0; ROW_BYTES];
        match file.read_exact_at(&mut found, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Self::Missing),
            read => read?,
        }
        let is_whole = found[60..] == row::checksum(0, &found).to_le_bytes();
        Ok(match is_whole {
            _ if found == header(mark) => Self::Own,
            true => Self::Other,
            false => Self::Damaged,
        })
    }
}

fn open_marked(folder: &Path, mark: [u8; 16]) -> io::Result<File> {
    let path = folder.join(FILE);
    let mut file = folder_lock::open_private(&path)?;
    let found = FoundHeader::read(&file, mark)?;
    if found == FoundHeader::Other {
        let moved = folder.join(MOVED_FILE);
        tracing::error!(
            file = %path.display(),
            moved_to = %moved.display(),
            "the ledger's file belongs to another database, so none of its events is known; it was moved"
        );
        std::fs::rename(&path, moved)?;
        file = folder_lock::open_private(&path)?;
    }
    if found != FoundHeader::Own {
        file.write_all_at(&header(mark), 0)?;
        file.sync_all()?;
        super::flush_folder(folder)?;
    }
    Ok(file)
}

/// Reserves the disk's room for an extent, so that a full disk is noticed before anything is promised.
fn reserve(file: &File, extent: u32) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;

        let start = u64::from(extent) * EXTENT_BYTES as u64;
        match fallocate(file, FallocateFlags::empty(), start, EXTENT_BYTES as u64) {
            // An interrupted one reserves less, which is noticed when the rows are written.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INTR) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, extent);
        Ok(())
    }
}

/// Gives the room of these extents back to the disk; they have zeros then. The first one stays, because
/// of the header.
fn punch(file: &File, extents: &[bool]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{FallocateFlags, fallocate};
        use rustix::io::Errno;

        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let mut extent = 1;
        while let Some(rest) = extents.get(extent..).filter(|rest| !rest.is_empty()) {
            // One call for all that follow each other.
            let count = rest.iter().take_while(|is| **is).count();
            if count > 0 {
                let [start, length] = [extent, count].map(|n| n as u64 * EXTENT_BYTES as u64);
                match fallocate(file, flags, start, length) {
                    // What an interrupted one leaves is given back after the extent's next use.
                    Err(Errno::INTR) | Ok(()) => {}
                    Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
            extent += count + 1;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (file, extents);
    Ok(())
}

#[cfg(test)]
mod tests;
