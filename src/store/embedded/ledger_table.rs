//! The event IDs as a table of the database: a backup is one file, so it has them there.
//!
//! The next start with a backup moves them to the ledger's file. So does the first start after an
//! upgrade from a version that had no such file.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, Row, params};

use super::ledger_file::{
    Hour, LedgerFile, LedgerReader, LedgerRow, RowWrites, SlotContent, StoreFileError,
};
use super::schema::StoreHeader;
use super::{AttemptHistory, DeliveryId, EventKey, LedgerEntry, OpenError, commit_log, schema};
use crate::signature::PayloadDigest;
use crate::store::uptime::Uptime;

/// The number of rows that are written to the ledger's file at once.
const ROWS_PER_WRITE: usize = 1 << 14;

/// Selects the rows after one (`?1`) that are still remembered at an uptime (`?2`).
const SELECT: &str =
    "SELECT row_id, key, ends_ms, attempts, possibly_delivered, digest, delivery, route
    FROM ledger WHERE row_id > ?1 AND ends_ms > ?2 ORDER BY row_id LIMIT ?3";

/// Reads rows of the table, each with its number.
pub(super) fn read(
    connection: &Connection,
    after: i64,
    uptime: Uptime,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, LedgerRow)>> {
    let mut select = connection.prepare_cached(SELECT)?;
    let rows = select.query_map(params![after, uptime.0, limit], parse)?;
    rows.collect()
}

fn parse(row: &Row<'_>) -> rusqlite::Result<(i64, LedgerRow)> {
    let digest: Option<[u8; 16]> = row.get(5)?;
    let entry = match digest {
        Some(digest) => LedgerEntry::Completed {
            digest: PayloadDigest::from_bytes(digest),
        },
        None => LedgerEntry::Attempted(AttemptHistory {
            attempts: row.get(3)?,
            possibly_delivered: row.get(4)?,
        }),
    };
    let moved = LedgerRow {
        key: EventKey(u128::from_be_bytes(row.get(1)?)),
        entry,
        ends: LedgerRow::bounded(Uptime(row.get(2)?)),
        delivery: row.get::<_, Option<i64>>(6)?.map(DeliveryId),
        route: row.get(7)?,
        written: 0,
        deleted: None,
    };
    Ok((row.get(0)?, moved))
}

/// Writes the rows of the table to the ledger's file. Returns their number.
pub(super) fn move_to_file(
    connection: &Connection,
    ledger: &LedgerFile,
    uptime: Uptime,
) -> Result<usize, StoreFileError> {
    let (mut after, mut count) = (i64::MIN, 0);
    loop {
        let rows = read(connection, after, uptime, ROWS_PER_WRITE)?;
        let Some((last, _)) = rows.last() else {
            return Ok(count);
        };
        (after, count) = (*last, count + rows.len());
        let mut writes = RowWrites::default();
        for (_, row) in &rows {
            writes.push(ledger.allocate(Hour::containing(row.ends))?, row);
        }
        ledger.write(&writes)?;
    }
}

/// The time for which an event is remembered of which only the delivery is known: as long as providers
/// send it again.
const WAITING_REMEMBERED: Duration = Duration::from_secs(72 * 3_600);

/// Writes the IDs of the events that wait or are dead letters to the ledger's file, after it was lost. A
/// copy of such an event would be delivered twice. Returns their number.
pub(super) fn remember_waiting(
    connection: &Connection,
    ledger: &LedgerFile,
    uptime: Uptime,
) -> Result<usize, StoreFileError> {
    let ends = LedgerRow::bounded(uptime.after(WAITING_REMEMBERED));
    let mut select = connection.prepare(
        "SELECT keys, id, route FROM deliveries
         WHERE state IN ('pending', 'dead') AND state <> 'success' AND length(keys) >= 16",
    )?;
    let mut selected = select.query([])?;
    let mut count = 0;
    while let Some(row) = selected.next()? {
        let keys: Vec<u8> = row.get(0)?;
        // The first one is the event's own.
        let Some(key) = keys.first_chunk() else {
            continue;
        };
        let row = LedgerRow {
            key: EventKey(u128::from_be_bytes(*key)),
            entry: LedgerEntry::Completed {
                digest: PayloadDigest::unknown(),
            },
            ends,
            delivery: Some(DeliveryId(row.get(1)?)),
            route: row.get(2)?,
            written: 0,
            deleted: None,
        };
        let mut writes = RowWrites::default();
        writes.push(ledger.allocate(Hour::containing(ends))?, &row);
        ledger.write(&writes)?;
        count += 1;
    }
    Ok(count)
}

/// Writes the event IDs to the table of a copy of the database, so that it is whole without the ledger's
/// file. Returns the number of rows that are damaged and were left out.
pub(super) fn complete_copy(
    path: &Path,
    open_ledger: impl FnOnce(&StoreHeader) -> io::Result<LedgerReader>,
) -> Result<usize, StoreFileError> {
    let mut copy = Connection::open(path)?;
    // Nothing of the copy is worth a journal until it is whole.
    copy.pragma_update_and_check(None, "journal_mode", "off", |_| Ok(()))?;
    copy.pragma_update(None, "synchronous", "off")?;
    match schema::read_header(&copy, path) {
        Ok(header) if header.log.applied > 0 => {
            fill_copy(&mut copy, &mut open_ledger(&header)?, &header)
        }
        // A backup that no gateway has opened yet has them there, and a file of an earlier version.
        Ok(_) | Err(OpenError::Foreign { .. }) => Ok(0),
        Err(error) => Err(io::Error::other(error).into()),
    }
}

/// Writes the rows of the ledger's file to the table of a copy of the database, as they were at the
/// commit that the copy has. The copy is then as one that no gateway has opened yet.
fn fill_copy(
    copy: &mut Connection,
    ledger: &mut LedgerReader,
    header: &StoreHeader,
) -> Result<usize, StoreFileError> {
    let was_live = |row: &LedgerRow| row.ends > header.uptime && row.existed_at(header.log.applied);
    let transaction = copy.transaction()?;
    let mut unflushed: HashMap<u32, LedgerRow> = HashMap::new();
    let written = schema::read_unflushed_rows(&transaction)?;
    for (slot, row) in written.iter().flat_map(RowWrites::iter) {
        if let SlotContent::Row(row) = LedgerRow::decode(slot, row) {
            unflushed.insert(slot, row);
        }
    }
    let mut insert = Insert {
        connection: &transaction,
        next_of_hour: HashMap::new(),
    };
    let (mut damaged, mut failed) = (0, None);
    ledger.read(0, |slot, content| {
        let unflushed = unflushed.remove(&slot);
        let found = match content {
            SlotContent::Row(row) => Some(row),
            SlotContent::Damaged if unflushed.is_none() => {
                damaged += 1;
                None
            }
            _ => None,
        };
        let latest = found.into_iter().chain(unflushed);
        let latest = latest.max_by_key(LedgerRow::last_commit);
        match latest.filter(was_live).map(|row| insert.row(&row)) {
            Some(Err(error)) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        }
    })?;
    failed.map_or(Ok(()), Err)?;
    for row in unflushed.values().filter(|row| was_live(row)) {
        insert.row(row)?;
    }
    schema::forget_unflushed_rows(&transaction)?;
    schema::write_log_position(&transaction, commit_log::LogPosition::default())?;
    transaction.commit()?;
    Ok(damaged)
}

/// Inserts rows into the table.
struct Insert<'c> {
    connection: &'c Connection,
    next_of_hour: HashMap<Hour, i64>,
}

impl Insert<'_> {
    fn row(&mut self, row: &LedgerRow) -> rusqlite::Result<()> {
        let hour = Hour::containing(row.ends);
        let next = self.next_of_hour.entry(hour).or_insert(0);
        let row_id = hour.first_row_id() + *next;
        *next += 1;
        let (digest, tried) = row.columns();
        let mut insert = self
            .connection
            .prepare_cached("INSERT INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
        insert
            .execute(params![
                row_id,
                row.key.0.to_be_bytes(),
                row.ends.0,
                tried.attempts,
                tried.possibly_delivered,
                digest,
                row.delivery.map(|id| id.0),
                row.route,
            ])
            .map(drop)
    }
}
