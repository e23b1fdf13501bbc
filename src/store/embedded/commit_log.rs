//! The commit log: makes a small transaction durable with one write.
//!
//! SQLite makes a transaction durable by flushing its write-ahead log: a file that grows, with a
//! whole page for every row that changed. The commit log takes the statements of the transaction,
//! with their values, in one write to blocks that exist already. SQLite itself does not flush then.
//!
//! # Order
//!
//! 1. The statements are executed in an open transaction. One that fails is never logged.
//! 2. They are appended here. The write returns once they are on the disk.
//! 3. The transaction commits, without a flush, and with it the number of the record in the store's
//!    header row ([`LogPosition`]).
//!
//! A transaction that is too large for the log, or that comes when the log is full, is flushed by
//! SQLite, and with it all before it. Then the log starts again at its first block. So the file never
//! grows.
//!
//! # Layout
//!
//! Numbers are little-endian. A record begins at a block, and ends with zeros up to the next:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | [`MAGIC`], whose last byte is the version of the format |
//! | 8..12 | the length of the statements |
//! | 12..16 | the CRC-32C of the record without these four bytes |
//! | 16..24 | the run: a random number of each opening of the store |
//! | 24..32 | the record's number in this run, from 1 |
//! | 32.. | the [`Statements`] |
//!
//! # Recovery
//!
//! After a loss of power the database is consistent, and may lack its last transactions. The records
//! of its run with a number above that of its header row are executed again, in order. After any other
//! end of the process there is at most one: of a transaction that was logged and not committed. Its
//! sender has no answer yet, so that it may be either.
//!
//! | what is found | meaning |
//! | --- | --- |
//! | a record that is not valid, and none after it | the write that the loss of power cut short: its callers have no reply |
//! | a record that is not valid, and later ones of this run | damage: the later ones are executed, and the error is logged |
//! | records of another run | a database that was restored, or a log that was: none is executed |
//! | numbers that do not follow the database's | the same, or a disk that lost what it had flushed: none is executed, and the error is logged |
//! | no file | as an empty one |

mod record;
mod statements;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

use record::{BLOCK, Record};
pub(super) use statements::Statements;

use super::folder_lock;

pub(super) const FILE: &str = "hookstile.commits";

/// The size of the file, in bytes. SQLite flushes what came since the log started at its front, so a
/// larger file would make fewer flushes, each of which takes longer.
const FILE_BYTES: usize = 512 << 10;

/// The last record that a database has executed. Part of the store's header row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogPosition {
    /// 0 if the run had no log.
    pub run: i64,
    pub applied: i64,
}

/// The open log of a run.
pub(super) struct CommitLog {
    file: File,
    run: i64,
    /// The number of the last record.
    last: i64,
    /// The first block of the last record, and the one after it.
    last_block: u64,
    next_block: u64,
    blocks: u64,
    buffer: AlignedBuffer,
}

/// The records to execute after an unclean end.
#[derive(Debug, Default)]
pub(super) struct Unapplied {
    pub records: Vec<Record>,
    /// The number of transactions that are lost, because their records are damaged or gone.
    pub missing: i64,
}

impl CommitLog {
    /// Opens the log for a new run, and creates it if it does not exist. Earlier records are void,
    /// because the database has the new run.
    pub(super) fn start(folder: &Path, run: i64) -> io::Result<Self> {
        let path = folder.join(FILE);
        let mut file = folder_lock::open_private(&path)?;
        let length = file.metadata()?.len();
        if length == 0 || length % BLOCK as u64 != 0 {
            // Blocks that were never written would cost a change of the file's map each.
            file.set_len(0)?;
            file.write_all(&vec![0; FILE_BYTES])?;
            file.sync_all()?;
            super::flush_folder(folder)?;
        }
        let blocks = file.metadata()?.len() / BLOCK as u64;
        Ok(Self {
            file: open_synchronous(&path)?,
            run,
            last: 0,
            last_block: 0,
            next_block: 0,
            blocks,
            buffer: AlignedBuffer::new(),
        })
    }

    /// Returns the position of a database that has the record that comes next.
    pub(super) fn next_position(&self) -> LogPosition {
        LogPosition {
            run: self.run,
            applied: self.last + 1,
        }
    }

    /// Returns whether there is room for the largest record.
    pub(super) fn has_room(&self) -> bool {
        let blocks = record::BYTES_MAX.div_ceil(BLOCK) as u64;
        self.blocks.saturating_sub(self.next_block) >= blocks
    }

    /// Appends a record. `Ok` means that it is on the disk. After an error it may be or not.
    pub(super) fn append(&mut self, statements: &Statements) -> io::Result<()> {
        self.last += 1;
        let record = record::encode(self.run, self.last, statements);
        self.last_block = self.next_block;
        self.next_block += record.len().div_ceil(BLOCK) as u64;
        self.write_at_last_block(&record)
    }

    /// Makes the last record void, because its transaction could not be committed.
    pub(super) fn retract(&mut self) -> io::Result<()> {
        self.last -= 1;
        self.next_block = self.last_block;
        self.write_at_last_block(&[0])
    }

    fn write_at_last_block(&mut self, bytes: &[u8]) -> io::Result<()> {
        let offset = self.last_block * BLOCK as u64;
        self.file.write_all_at(self.buffer.padded(bytes), offset)
    }

    /// Starts again at the first block. All records must be flushed with the database.
    pub(super) fn restart(&mut self) {
        self.next_block = 0;
    }
}

/// Reads the records that a database with this position has not executed.
pub(super) fn read(folder: &Path, position: LogPosition) -> io::Result<Unapplied> {
    Ok(unapplied(&content(folder)?, position))
}

/// Reads the whole log, which is empty if there is no file.
pub(super) fn content(folder: &Path) -> io::Result<Vec<u8>> {
    match std::fs::read(folder.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        content => content,
    }
}

/// Finds the records that a database with this position has not executed. Pure.
pub(super) fn unapplied(content: &[u8], position: LogPosition) -> Unapplied {
    let mut found = Unapplied::default();
    let (blocks, _) = content.as_chunks::<BLOCK>();
    let mut block = 0;
    let mut last = None;
    while block < blocks.len() {
        let record = Record::decode(&content[block * BLOCK..])
            .filter(|record| record.run == position.run)
            // Numbers that are not above the last one are of an earlier round through the file.
            .filter(|record| last.is_none_or(|last| record.number > last));
        let Some(record) = record else {
            block += 1;
            continue;
        };
        let expected = last.map_or(record.number, |last| last + 1);
        // Before the first record of this round there may be a damaged one.
        let first_missing = match last {
            None if block > 0 => position.applied + 1,
            None if record.number > position.applied + 1 => {
                found.missing = record.number - position.applied - 1;
                return found;
            }
            _ => expected.max(position.applied + 1),
        };
        found.missing += (record.number - first_missing).max(0);
        last = Some(record.number);
        block += record.blocks();
        if record.number > position.applied {
            found.records.push(record);
        }
    }
    found
}

/// Opens the file such that a write returns once its bytes are on the disk. The page cache is left
/// out where the file system allows that.
fn open_synchronous(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        OpenOptions::new()
            .write(true)
            .custom_flags(flags)
            .open(path)
    };
    open(OFlags::DSYNC | OFlags::DIRECT).or_else(|_| open(OFlags::DSYNC))
}

/// A buffer for the largest record, at a block's boundary, as direct writes need it.
struct AlignedBuffer {
    bytes: Box<[u8]>,
    start: usize,
}

impl AlignedBuffer {
    fn new() -> Self {
        let bytes = vec![0; record::BYTES_MAX + BLOCK].into_boxed_slice();
        let start = bytes.as_ptr().align_offset(BLOCK);
        Self { bytes, start }
    }

    /// Returns these bytes at a block's boundary, with zeros up to the next.
    fn padded(&mut self, record: &[u8]) -> &[u8] {
        let padded = &mut self.bytes[self.start..][..record.len().next_multiple_of(BLOCK)];
        let (content, zeros) = padded.split_at_mut(record.len());
        content.copy_from_slice(record);
        zeros.fill(0);
        padded
    }
}

#[cfg(test)]
mod tests;
