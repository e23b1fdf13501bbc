//! The commit log: makes a small transaction durable with one write.
//!
//! SQLite makes a transaction durable by flushing its write-ahead log: a file that grows, with a
//! whole page for every row that changed. The commit log takes the statements of the transaction with
//! their values, and the rows of the ledger, in one write to blocks that exist already. Neither SQLite
//! nor the ledger's file is flushed then.
//!
//! # Order
//!
//! 1. The statements are executed in an open transaction. One that fails there is never logged.
//! 2. They are appended here, with the rows. The write returns once they are on the disk: from here on
//!    the transaction is committed, whatever happens.
//! 3. The rows are written to the ledger's file, without a flush.
//! 4. SQLite commits, without a flush, and with it the number of the record in the store's header row
//!    ([`LogPosition`]).
//!
//! Where the statements only add rows, the first and the last step come after the reply, for many
//! transactions at once ([`Statements::execute`]).
//!
//! A transaction that is too large for the log, or that comes when the log is full, is flushed by
//! SQLite, and with it all before it; the ledger's file is flushed before that. Then the log starts
//! again at its first block. So the file never grows.
//!
//! With `durability: relaxed` there is no log, because nothing is flushed.
//!
//! # Layout
//!
//! Numbers are little-endian. A record begins at a block, and ends with zeros up to the next:
//!
//! | bytes | content |
//! | --- | --- |
//! | 0..8 | [`MAGIC`], whose last byte is the version of the format |
//! | 8..12 | the length of the rows and the statements |
//! | 12..16 | the CRC-32C of the record without these four bytes |
//! | 16..20 | the length of the rows |
//! | 20..24 | 1 if the statements are executed after the reply, or else 0 |
//! | 24..32 | the run: a random number of each opening of the store |
//! | 32..40 | the commit's number, which goes on from run to run |
//! | 40.. | the [`RowWrites`], then the [`Statements`] |
//!
//! # Recovery
//!
//! After a loss of power the database is consistent, and may lack its last transactions; so may the
//! ledger's file. The records of the database's run with a number above `applied` in its header row are
//! executed, in order. The rows of all records above `flushed` are written again. The same is done after
//! any other end of the process: then it is what was left to the log, and at most one record more. The
//! sender of that one has no answer yet, so that it may be either.
//!
//! | what is found | meaning |
//! | --- | --- |
//! | a record that is not valid, and none after it | the write that the loss of power cut short: its callers have no reply |
//! | a record that is not valid, and later ones of this run | damage: the later ones are executed, and the error is logged |
//! | records of another run | a database that was restored, or a log that was: none is executed |
//! | numbers that do not follow the database's | the same, or a disk that lost what it had flushed: none is executed, and the error is logged |
//! | statements that the database rejects | a bug: the record is left out, and the error is logged |
//! | no file | as an empty one |

mod record;
mod statements;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

pub(super) use record::Execution;
use record::{BLOCK, BYTES_MAX, Record};
pub(super) use statements::{Statement, Statements};

use super::folder_lock;
use super::ledger_file::{ROW_BYTES, RowWrites};

pub(super) const FILE: &str = "hookstile.commits";

/// The size of the file, in bytes. SQLite flushes what came since the log started at its front, so a
/// larger file would make fewer flushes, each of which takes longer.
const FILE_BYTES: usize = 2 << 20;

/// What a database has of a log, or, in a [`Record`]'s transaction, what it will have. Part of the
/// store's header row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LogPosition {
    /// 0 if the run had no log.
    pub run: i64,
    /// The last commit that the database has.
    pub applied: i64,
    /// The last commit whose rows are flushed to the ledger's file, or are in the database.
    pub flushed: i64,
}

impl LogPosition {
    /// Returns the position after one more commit, which the log has.
    pub(super) fn after_logged(self) -> Self {
        Self {
            applied: self.applied + 1,
            ..self
        }
    }

    /// Returns the position after one more commit, which is flushed with all before it.
    pub(super) fn after_flushed(self) -> Self {
        Self {
            applied: self.applied + 1,
            flushed: self.applied + 1,
            ..self
        }
    }
}

/// The open log of a run.
pub(super) struct CommitLog {
    file: File,
    next_block: u64,
    buffer: AlignedBuffer,
}

/// The records to execute after an unclean end.
#[derive(Debug, Default)]
pub(super) struct Unapplied {
    /// The records whose rows may not be flushed. The statements of those with a number above
    /// [`LogPosition::applied`] are not executed either.
    pub records: Vec<Record>,
    /// The number of transactions that are lost, because their records are damaged or gone.
    pub missing: i64,
    /// The number of transactions that the database has, and whose rows a loss of power may have taken,
    /// because their records are damaged or gone.
    pub without_rows: i64,
}

/// The rows of a log by their slots, each as its last record has it, with the number of that record.
pub(super) type LastRows<'r> = BTreeMap<u32, (i64, &'r [u8; ROW_BYTES])>;

/// The transaction is too large for the log.
#[derive(Debug, thiserror::Error)]
#[error("the transaction is too large for the commit log")]
pub(super) struct TooLarge;

/// Encodes the record of the commit after which the database has this position.
pub(super) fn encode(
    position: LogPosition,
    execution: Execution,
    rows: &RowWrites,
    statements: &Statements,
) -> Result<Vec<u8>, TooLarge> {
    let LogPosition { run, applied, .. } = position;
    record::encode(run, applied, execution, rows, statements).ok_or(TooLarge)
}

impl CommitLog {
    /// Opens the log for a new run, and creates it if it does not exist. Earlier records are void, because
    /// the database has the new run.
    pub(super) fn start(folder: &Path) -> io::Result<Self> {
        let path = folder.join(FILE);
        let mut file = folder_lock::open_private(&path)?;
        if file.metadata()?.len() != FILE_BYTES as u64 {
            // Blocks that were never written would cost a change of the file's map each.
            file.set_len(0)?;
            file.write_all(&vec![0; FILE_BYTES])?;
            file.sync_all()?;
            super::flush_folder(folder)?;
        }
        Ok(Self {
            file: open_synchronous(&path)?,
            next_block: 0,
            buffer: AlignedBuffer::new(),
        })
    }

    /// Returns whether there is room for the largest record.
    pub(super) fn has_room(&self) -> bool {
        let (blocks, largest) = (FILE_BYTES / BLOCK, BYTES_MAX.div_ceil(BLOCK));
        self.next_block <= (blocks - largest) as u64
    }

    /// Appends the record that comes next. `Ok` means that it is on the disk. After an error it may be
    /// or not.
    pub(super) fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let offset = self.next_block * BLOCK as u64;
        self.next_block += record.len().div_ceil(BLOCK) as u64;
        self.file.write_all_at(self.buffer.padded(record), offset)
    }

    /// Starts again at the first block, after a commit that is flushed with all before it.
    pub(super) fn restart(&mut self) {
        self.next_block = 0;
    }
}

/// Reads the records that a database with this position has not executed, or whose rows may not be
/// flushed.
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

/// Finds the records that a database with this position has not executed, or whose rows may not be
/// flushed. Pure.
pub(super) fn unapplied(content: &[u8], position: LogPosition) -> Unapplied {
    let mut found = Unapplied::default();
    let (blocks, _) = content.as_chunks::<BLOCK>();
    let LogPosition { applied, .. } = position;
    let (mut block, mut expected) = (0, position.flushed + 1);
    while block < blocks.len() {
        let record = Record::decode(&content[block * BLOCK..])
            .filter(|record| record.run == position.run)
            // Lower numbers are of an earlier round through the file.
            .filter(|record| record.number >= expected);
        let Some(record) = record else {
            block += 1;
            continue;
        };
        found.miss(expected..record.number, applied);
        // A record at the front that does not follow is of a later round, which the database lacks.
        if block == 0 && found.missing > 0 {
            return found;
        }
        expected = record.number + 1;
        block += record.blocks();
        found.records.push(record);
    }
    found.miss(expected..applied + 1, applied);
    found
}

impl Unapplied {
    /// Counts commits whose records are damaged or gone.
    fn miss(&mut self, numbers: Range<i64>, applied: i64) {
        let without_rows = numbers.end.min(applied + 1) - numbers.start;
        self.without_rows += without_rows.max(0);
        self.missing += (numbers.end - numbers.start.max(applied + 1)).max(0);
    }

    pub(super) fn last_rows(&self) -> LastRows<'_> {
        let rows = self.records.iter().flat_map(|record| {
            let rows = record.rows.iter();
            rows.map(|(slot, row)| (slot, (record.number, row)))
        });
        rows.collect()
    }

    /// Returns the records that a database with this position has not executed.
    pub(super) fn to_execute(&self, position: LogPosition) -> impl Iterator<Item = &Record> {
        let records = self.records.iter();
        records.filter(move |record| record.number > position.applied)
    }
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
        let bytes = vec![0; BYTES_MAX + BLOCK].into_boxed_slice();
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
