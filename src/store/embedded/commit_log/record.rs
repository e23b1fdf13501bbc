//! A record of the commit log as bytes. Pure.

use super::super::ledger_file::RowWrites;
use super::statements::{Statement, Statements};

/// The unit of the file, in bytes: that of direct writes on every usual disk.
pub(super) const BLOCK: usize = 4096;

/// The first bytes of a record. The last one is the version of the format.
const MAGIC: [u8; 8] = *b"hookcom\x02";

const HEAD_BYTES: usize = 40;

/// The size of the largest record, in bytes.
pub(super) const BYTES_MAX: usize = 256 << 10;

/// A transaction that was made durable by the log.
#[derive(Debug, PartialEq)]
pub(in super::super) struct Record {
    pub(super) run: i64,
    pub number: i64,
    pub execution: Execution,
    pub rows: RowWrites,
    pub statements: Vec<Statement>,
    /// The size as bytes.
    bytes: usize,
}

/// When the statements of a record are executed, if nothing intervenes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Execution {
    /// In the transaction that is committed next.
    AtOnce,
    /// With those of other records, after the reply.
    Deferred,
}

/// Returns a record as bytes; `None` if it would be too large.
pub(super) fn encode(
    run: i64,
    number: i64,
    execution: Execution,
    rows: &RowWrites,
    statements: &Statements,
) -> Option<Vec<u8>> {
    let content = statements.encode()?;
    let rows = rows.as_bytes();
    let length = HEAD_BYTES + rows.len() + content.len();
    if length > BYTES_MAX {
        return None;
    }
    let mut record = Vec::with_capacity(length);
    record.extend(MAGIC);
    for length in [rows.len() + content.len(), 0, rows.len()] {
        record.extend(u32::try_from(length).ok()?.to_le_bytes());
    }
    record.extend(u32::from(execution == Execution::Deferred).to_le_bytes());
    record.extend(run.to_le_bytes());
    record.extend(number.to_le_bytes());
    record.extend_from_slice(rows);
    record.extend(content);
    let checksum = checksum(&record);
    record[12..16].copy_from_slice(&checksum.to_le_bytes());
    Some(record)
}

/// Returns the checksum of a record, which leaves out the checksum itself.
fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..])
}

impl Record {
    /// Reads the record at the start of these bytes, which others may follow. Returns `None` if there
    /// is none that is whole and unchanged.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, _) = bytes.split_first_chunk::<HEAD_BYTES>()?;
        let number =
            |range: std::ops::Range<usize>| Some(i64::from_le_bytes(head[range].try_into().ok()?));
        let short =
            |range: std::ops::Range<usize>| Some(u32::from_le_bytes(head[range].try_into().ok()?));
        if head[..8] != MAGIC {
            return None;
        }
        let end = HEAD_BYTES.checked_add(usize::try_from(short(8..12)?).ok()?)?;
        let record = bytes.get(..end)?;
        if checksum(record) != short(12..16)? {
            return None;
        }
        let rows = usize::try_from(short(16..20)?).ok()?;
        let (rows, statements) = record[HEAD_BYTES..].split_at_checked(rows)?;
        Some(Self {
            run: number(24..32)?,
            number: number(32..40)?,
            execution: match short(20..24)? {
                0 => Execution::AtOnce,
                _ => Execution::Deferred,
            },
            rows: RowWrites::from_bytes(rows.to_vec())?,
            statements: Statements::decode(statements)?,
            bytes: end,
        })
    }

    /// Returns the number of blocks that the record takes.
    pub(super) fn blocks(&self) -> usize {
        self.bytes.div_ceil(BLOCK)
    }
}
