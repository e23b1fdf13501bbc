//! Checks the files of a store that no process has open, or a backup, and changes none of them.
//!
//! The check reads all of them: SQLite's own structure, then every relation between rows that the
//! program relies on, then the commit log and the ledger's file. SQLite keeps no checksums, so a byte
//! that was changed within a value is found only if the value contradicts another one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::commit_log::{LogPosition, Unapplied};
use super::folder_lock::{self, FolderLock};
use super::ledger_file::{LedgerReader, LedgerRow, RowWrites, SlotContent};
use super::schema::StoreHeader;
use super::{
    AttemptLog, DeliveryState, OpenError, RECORD_BYTES, attempt_journal, commit_log, ledger_file,
    read, restore, schema,
};

/// What a store holds, and what is wrong with it.
#[derive(Debug, Clone)]
pub struct StoreCheck {
    pub file: PathBuf,
    /// The version of the tables.
    pub version: i32,
    /// The size of the database, its write-ahead log and the ledger's file, in bytes.
    pub bytes: u64,
    /// The part of it that is free for new rows, in bytes.
    pub free_bytes: u64,
    /// The time of the last write, as far as the rows tell it.
    pub written_at: Option<Timestamp>,
    /// The number of event IDs that are remembered.
    pub event_ids: u64,
    pub webhooks: u64,
    pub routes: Vec<CheckedRoute>,
    /// The number of transactions in the commit log that the next start executes.
    pub unapplied: usize,
    /// The number of attempts that the end of the last run cut off.
    pub interrupted: usize,
    pub problems: Vec<StoreProblem>,
}

/// The deliveries of a route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckedRoute {
    pub route: String,
    pub pending: u64,
    pub dead: u64,
    pub success: u64,
    pub failed: u64,
    /// The arrival of the oldest event.
    pub oldest: Option<Timestamp>,
}

/// Something that is wrong with a store's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreProblem {
    pub fault: StoreFault,
    /// What is wrong, with the first rows that have it.
    pub detail: String,
}

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreFault {
    Database,
    Unreadable,
    Header,
    Ledger,
    UnknownRoute,
    Delivery,
    MissingPayload,
    StrayPayload,
    PayloadSize,
    Counts,
    Webhook,
    CommitLog,
    /// The numbers of deliveries; of a shared store.
    Numbers,
}

/// A relation between rows that the program relies on.
struct Relation {
    /// The first version of the tables that has it.
    since: i32,
    fault: StoreFault,
    /// The name of the rows that break it.
    rows: &'static str,
    /// Selects a label of each row that breaks it.
    select: &'static str,
}

/// The rows that a problem names.
const NAMED_ROWS: usize = 5;

const RELATIONS: [Relation; 12] = [
    Relation {
        since: 1,
        fault: StoreFault::Header,
        rows: "header rows other than one with a key and times",
        select: "SELECT 'rows: ' || count(*) FROM store HAVING count(*) <> 1
            UNION ALL SELECT 'row ' || rowid FROM store
            WHERE typeof(hash_key) <> 'blob' OR length(hash_key) <> 16 OR uptime_ms < 0
            OR downtime_ms < 0",
    },
    Relation {
        since: 1,
        fault: StoreFault::Ledger,
        rows: "ledger rows whose key, digest, attempts or expiry is none",
        select: "SELECT 'row ' || row_id FROM ledger
            WHERE typeof(key) <> 'blob' OR length(key) <> 16
            OR digest IS NOT NULL AND (typeof(digest) <> 'blob' OR length(digest) <> 16)
            OR attempts NOT BETWEEN 0 AND 4294967295
            OR ends_ms < 0 OR row_id >> 32 <> min(ends_ms / 3600000, 2147483647)",
    },
    Relation {
        since: 3,
        fault: StoreFault::UnknownRoute,
        rows: "ledger rows of a route that does not exist",
        select: "SELECT 'row ' || row_id FROM ledger
            WHERE route IS NOT NULL AND route NOT IN (SELECT id FROM routes)",
    },
    Relation {
        since: 1,
        fault: StoreFault::UnknownRoute,
        rows: "deliveries of a route that does not exist",
        select: "SELECT 'del_' || id FROM deliveries WHERE route NOT IN (SELECT id FROM routes)",
    },
    Relation {
        since: 1,
        fault: StoreFault::Delivery,
        rows: "deliveries in an unknown state",
        select: "SELECT 'del_' || id FROM deliveries
            WHERE state NOT IN ('success', 'failed', 'pending', 'dead')",
    },
    Relation {
        since: 1,
        fault: StoreFault::Delivery,
        rows: "deliveries whose times contradict their state",
        select: "SELECT 'del_' || id FROM deliveries WHERE CASE state
            WHEN 'pending' THEN due_ms IS NULL OR queued_ms IS NULL OR ended_ms IS NOT NULL
            ELSE due_ms IS NOT NULL OR ended_ms IS NULL END
            OR due_ms < 0 OR queued_ms < 0 OR ended_ms < 0
            OR received_ms NOT BETWEEN -377705023201000 AND 253402207200999",
    },
    Relation {
        since: 1,
        fault: StoreFault::Delivery,
        rows: "deliveries whose attempts are no list",
        select: "SELECT 'del_' || id FROM deliveries WHERE tried < 0
            OR CASE WHEN json_valid(attempts) THEN json_type(attempts) <> 'array' ELSE 1 END",
    },
    Relation {
        since: 1,
        fault: StoreFault::MissingPayload,
        rows: "deliveries without their payload",
        select: "SELECT 'del_' || id || ' (' || state || ')' FROM deliveries
            WHERE (payload_bytes > 0 OR state IN ('pending', 'dead'))
            AND id NOT IN (SELECT delivery FROM payloads)",
    },
    Relation {
        since: 1,
        fault: StoreFault::StrayPayload,
        rows: "payloads without a delivery",
        select: "SELECT 'del_' || delivery FROM payloads
            WHERE delivery NOT IN (SELECT id FROM deliveries)",
    },
    Relation {
        since: 1,
        fault: StoreFault::Counts,
        rows: "days that count fewer deliveries than there are",
        select: "SELECT 'route ' || own.route || ', ' || date(own.day * 86400, 'unixepoch')
            FROM (SELECT route, received_ms / 86400000 AS day, sum(state = 'success') AS successful,
                sum(state IN ('failed', 'dead')) AS failed FROM deliveries GROUP BY 1, 2) AS own
            LEFT JOIN days ON days.route = own.route AND days.day = own.day
            WHERE coalesce(days.successful, 0) < own.successful
            OR coalesce(days.failed, 0) < own.failed",
    },
    Relation {
        since: 1,
        fault: StoreFault::Counts,
        rows: "routes with another size of ended deliveries than they have",
        // `:record_bytes` is replaced by `RECORD_BYTES`.
        select: "SELECT name FROM routes WHERE kept_bytes <>
            (SELECT coalesce(sum(:record_bytes + payload_bytes), 0) FROM deliveries
             WHERE route = routes.id AND state IN ('success', 'failed'))",
    },
    Relation {
        since: 4,
        fault: StoreFault::Webhook,
        rows: "webhooks whose definition is not JSON",
        select: "SELECT name FROM webhooks WHERE NOT json_valid(definition)",
    },
];

impl StoreFault {
    /// Returns the name for programs.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Database => "damaged_database",
            Self::Unreadable => "unreadable_rows",
            Self::Header => "damaged_header",
            Self::Ledger => "damaged_ledger_row",
            Self::UnknownRoute => "unknown_route",
            Self::Delivery => "damaged_delivery",
            Self::MissingPayload => "missing_payload",
            Self::StrayPayload => "stray_payload",
            Self::PayloadSize => "payload_size",
            Self::Counts => "wrong_count",
            Self::Webhook => "damaged_webhook",
            Self::CommitLog => "damaged_commit_log",
            Self::Numbers => "wrong_number",
        }
    }

    /// Returns what an operator does about it in a PostgreSQL database.
    pub const fn advice_for_database(self) -> &'static str {
        match self {
            Self::Database => "rebuild them: `REINDEX INDEX CONCURRENTLY NAME`",
            Self::Unreadable | Self::Header | Self::Ledger | Self::CommitLog => {
                "check the database with `pg_amcheck --heapallindexed`; restore a backup if the rows \
                 were not changed by hand"
            }
            Self::UnknownRoute | Self::Delivery => {
                "these rows are not delivered or shown as they should be: restore a backup, or have \
                 their senders send them again"
            }
            Self::MissingPayload => {
                "the gateway makes a dead letter of an event that it cannot read: run \
                 `hookstile events forget ID` and have the sender send the event again"
            }
            Self::StrayPayload => "no event is lost; the rows only take room",
            Self::PayloadSize => {
                "the payload may not be what the sender sent: compare it with the sender's \
                 (`hookstile events show ID`)"
            }
            Self::Counts => {
                "no event is lost; totals that are shown, and `retain.max_size`, may be off"
            }
            Self::Webhook => {
                "the gateway cannot use it: remove its row and create the webhook again over the API"
            }
            Self::Numbers => {
                "the next events cannot be stored: run `SELECT setval('hookstile.delivery_numbers', \
                 max(id)) FROM hookstile.deliveries`"
            }
        }
    }

    /// Returns what an operator does about it.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Database | Self::Unreadable | Self::Header | Self::Ledger => {
                "restore a backup with `hookstile store restore FILE --replace`, which keeps these \
                 files; without one, see docs/storage.md for what a start without them means"
            }
            Self::UnknownRoute | Self::Delivery => {
                "these rows are not delivered or shown as they should be: restore a backup with \
                 `hookstile store restore FILE --replace`, or have their senders send them again"
            }
            Self::MissingPayload => {
                "the gateway makes a dead letter of an event that it cannot read: restore a backup, \
                 or run `hookstile events forget ID` and have the sender send the event again"
            }
            Self::StrayPayload => {
                "no event is lost; the rows take room until the store is replaced by a backup"
            }
            Self::PayloadSize => {
                "the payload may not be what the sender sent: restore a backup, or compare it with \
                 the sender's (`hookstile events show ID --offline`)"
            }
            Self::Counts | Self::Numbers => {
                "no event is lost; totals that are shown, and `retain.max_size`, may be off"
            }
            Self::Webhook => {
                "the gateway cannot use it: restore a backup, or remove its row and create the \
                 webhook again over the API"
            }
            Self::CommitLog => {
                "transactions that were acknowledged are lost, and the next start executes the \
                 others; the senders of lost events do not send them again by themselves"
            }
        }
    }
}

/// Checks the store in a folder, or a file of its own, which is a backup.
///
/// # Errors
/// Fails when there is no store, when a process has it open, or when the file is not one of this
/// program's or cannot be read at all. Nothing is known of the store then.
pub fn check(path: &Path) -> Result<StoreCheck, OpenError> {
    let kind = fs::metadata(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OpenError::Missing {
            folder: path.display().to_string(),
        },
        _ => OpenError::file(path, source),
    })?;
    if kind.is_dir() {
        return check_folder(path);
    }
    // A process may have it open.
    if !is_part_of_store(path) {
        return check_file(path);
    }
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => check_folder(folder),
        _ => check_folder(Path::new(".")),
    }
}

/// Returns whether a file is the database in a store's folder, and so not whole without the others.
pub(super) fn is_part_of_store(file: &Path) -> bool {
    let others = [folder_lock::FILE, ledger_file::FILE, commit_log::FILE];
    file.file_name() == Some(OsStr::new(schema::FILE))
        && others.iter().any(|name| file.with_file_name(name).exists())
}

fn check_folder(folder: &Path) -> Result<StoreCheck, OpenError> {
    let _lock =
        FolderLock::acquire_existing(folder).map_err(|error| error.into_open_error(folder))?;
    restore::refuse_cut_off(folder)?;
    let file = schema::file(folder);
    match file.try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Err(OpenError::Missing {
                folder: folder.display().to_string(),
            });
        }
        Err(source) => return Err(OpenError::folder(folder, source)),
    }
    let folder_error = |source| OpenError::folder(folder, source);
    let mut checked = Examination::begin(&file)?;
    checked.examine_tables();
    if checked.found.version == schema::VERSION {
        let header = schema::read_header(&checked.connection, &file)?;
        let log = commit_log::content(folder).map_err(folder_error)?;
        let unapplied = commit_log::unapplied(&log, header.log);
        checked.examine_log(&unapplied, header.log);
        if header.log.applied > 0 {
            checked
                .examine_ledger(folder, &header, &unapplied)
                .map_err(folder_error)?;
        }
    }
    checked.found.interrupted = attempt_journal::count_interrupted(folder).map_err(folder_error)?;
    Ok(checked.found)
}

/// Checks one file, which is no part of a store's folder.
pub(super) fn check_file(file: &Path) -> Result<StoreCheck, OpenError> {
    let mut checked = Examination::begin(file)?;
    checked.examine_tables();
    Ok(checked.found)
}

/// A check that is being made.
struct Examination {
    connection: Connection,
    found: StoreCheck,
}

impl Examination {
    /// Opens the file and reads what says that it is a store's.
    fn begin(file: &Path) -> Result<Self, OpenError> {
        let length = |path: &Path| fs::metadata(path).map(|file| file.len());
        let bytes = length(file).map_err(|source| OpenError::file(file, source))?;
        if bytes == 0 {
            // SQLite would delete a write-ahead log beside an empty file.
            return Err(OpenError::Foreign {
                file: file.display().to_string(),
            });
        }
        let database = |source| OpenError::database(file, source);
        let connection = schema::open_unchanged(file).map_err(database)?;
        let version = schema::version(&connection, file)?;
        Ok(Self {
            found: StoreCheck {
                file: file.to_owned(),
                version,
                bytes: bytes + length(&schema::wal(file)).unwrap_or(0),
                free_bytes: 0,
                written_at: None,
                event_ids: 0,
                webhooks: 0,
                routes: Vec::new(),
                unapplied: 0,
                interrupted: 0,
                problems: Vec::new(),
            },
            connection,
        })
    }

    fn examine_tables(&mut self) {
        self.examine_structure();
        if let Err(error) = self.read_content() {
            self.add_unreadable("the content", &error);
        }
        for relation in &RELATIONS {
            if relation.since > self.found.version {
                continue;
            }
            let select = relation
                .select
                .replace(":record_bytes", &RECORD_BYTES.to_string());
            match rows(&self.connection, &select, |row| row.get(0)) {
                Ok(broken) => self.add_rows(relation.fault, relation.rows, &broken),
                Err(error) => self.add_unreadable(relation.rows, &error),
            }
        }
        match self.payloads_of_another_size() {
            Ok(broken) => self.add_rows(
                StoreFault::PayloadSize,
                "payloads of another size than their delivery says",
                &broken,
            ),
            Err(error) => self.add_unreadable("the sizes of payloads", &error),
        }
    }

    /// Lets SQLite check its own structure.
    fn examine_structure(&mut self) {
        match rows(&self.connection, "PRAGMA integrity_check", |row| row.get(0)) {
            Ok(lines) if lines.0 == ["ok"] => {}
            Ok(lines) => self.add_rows(StoreFault::Database, "faults that SQLite finds", &lines),
            Err(error) => self.add(
                StoreFault::Database,
                format!("SQLite cannot check the file: {error}"),
            ),
        }
    }

    fn read_content(&mut self) -> rusqlite::Result<()> {
        let (connection, found) = (&self.connection, &mut self.found);
        let pages: u64 = connection.pragma_query_value(None, "page_count", |row| row.get(0))?;
        let size: u64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        found.free_bytes = (pages * size).saturating_sub(read::used_bytes(connection)?);
        // The clock is written once a minute, or with another write.
        let wall_ms = connection.query_row(
            "SELECT max(wall_ms, coalesce(
                 (SELECT received_ms FROM deliveries ORDER BY id DESC LIMIT 1), 0)) FROM store",
            [],
            |row| row.get(0),
        )?;
        found.written_at = Timestamp::from_millisecond(wall_ms).ok();
        found.event_ids = connection.query_row(
            "SELECT count(*) FROM ledger WHERE ends_ms > (SELECT uptime_ms FROM store)",
            [],
            |row| row.get(0),
        )?;
        let has_webhooks: bool = connection.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'webhooks')",
            [],
            |row| row.get(0),
        )?;
        if has_webhooks {
            let count = "SELECT count(*) FROM webhooks";
            found.webhooks = connection.query_row(count, [], |row| row.get(0))?;
        }
        let mut routes: BTreeMap<String, CheckedRoute> = BTreeMap::new();
        let mut select = connection.prepare(
            "SELECT coalesce(name, 'unknown (' || route || ')'), state, count(*), min(received_ms)
             FROM deliveries LEFT JOIN routes ON routes.id = route GROUP BY 1, 2",
        )?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let route = routes.entry(name.clone()).or_insert_with(|| CheckedRoute {
                route: name,
                ..CheckedRoute::default()
            });
            let oldest = Timestamp::from_millisecond(row.get(3)?).ok();
            route.oldest = route.oldest.into_iter().chain(oldest).min();
            let count = match DeliveryState::parse(&row.get::<_, String>(1)?) {
                Some(DeliveryState::Pending) => &mut route.pending,
                Some(DeliveryState::Dead) => &mut route.dead,
                Some(DeliveryState::Success) => &mut route.success,
                Some(DeliveryState::Failed) => &mut route.failed,
                None => continue,
            };
            *count = row.get(2)?;
        }
        found.routes = routes.into_values().collect();
        Ok(())
    }

    /// Returns the deliveries that do not count the bytes of their payload and of the responses.
    fn payloads_of_another_size(&self) -> rusqlite::Result<(Vec<String>, usize)> {
        let mut select = self.connection.prepare(
            "SELECT id, payload_bytes, length(head) + length(body), attempts
             FROM payloads JOIN deliveries ON id = delivery",
        )?;
        let mut rows = select.query([])?;
        let mut broken = (Vec::new(), 0);
        while let Some(row) = rows.next()? {
            let (counted, payload): (i64, i64) = (row.get(1)?, row.get(2)?);
            let attempts = AttemptLog::parse(&row.get::<_, String>(3)?);
            if counted != payload.saturating_add(attempts.body_bytes()) {
                add_label(&mut broken, format!("del_{}", row.get::<_, i64>(0)?));
            }
        }
        Ok(broken)
    }

    /// Compares the commit log with the database.
    fn examine_log(&mut self, unapplied: &Unapplied, position: LogPosition) {
        self.found.unapplied = unapplied.to_execute(position).count();
        if unapplied.missing > 0 {
            self.add(
                StoreFault::CommitLog,
                format!(
                    "neither the database nor the commit log has {} acknowledged transactions",
                    unapplied.missing
                ),
            );
        }
        let mut refused = (Vec::new(), 0);
        for record in unapplied.to_execute(position) {
            let mut statements = record.statements.iter();
            if statements.any(|statement| self.connection.prepare(&statement.text).is_err()) {
                add_label(&mut refused, format!("number {}", record.number));
            }
        }
        let rows = "transactions of the commit log that this database cannot execute";
        self.add_rows(StoreFault::CommitLog, rows, &refused);
    }

    /// Checks the rows of the ledger's file, as the next start finds them.
    fn examine_ledger(
        &mut self,
        folder: &Path,
        header: &StoreHeader,
        unapplied: &Unapplied,
    ) -> io::Result<()> {
        let mut later: HashMap<u32, SlotContent> = HashMap::new();
        let unflushed = schema::read_unflushed_rows(&self.connection).unwrap_or_default();
        let logged = unapplied.records.iter().map(|record| &record.rows);
        for (slot, row) in unflushed.iter().chain(logged).flat_map(RowWrites::iter) {
            later.insert(slot, LedgerRow::decode(slot, row));
        }
        let routes: HashSet<i64> = match rows_of(&self.connection, "SELECT id FROM routes") {
            Ok(routes) => routes,
            Err(error) => {
                self.add_unreadable("routes", &error);
                return Ok(());
            }
        };
        let (mut damaged, mut unknown) = ((Vec::new(), 0), (Vec::new(), 0));
        let mut examine = |slot, content| match content {
            SlotContent::Empty => {}
            SlotContent::Damaged => add_label(&mut damaged, format!("slot {slot}")),
            SlotContent::Row(row) if !row.is_live(header.uptime) => {}
            SlotContent::Row(row) => {
                self.found.event_ids += 1;
                // A route that is new in the log is not yet in the database.
                let is_known = |route| routes.contains(&route) || !unapplied.records.is_empty();
                if !row.route.is_none_or(is_known) {
                    add_label(&mut unknown, format!("slot {slot}"));
                }
            }
        };
        let read = LedgerReader::open(folder, &header.hash_key).and_then(|mut ledger| {
            ledger.read(0, |slot, content| {
                examine(slot, later.remove(&slot).unwrap_or(content));
                ControlFlow::Continue(())
            })
        });
        for (slot, content) in later {
            examine(slot, content);
        }
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = folder.join(ledger_file::FILE);
                let detail = format!(
                    "{} is missing, empty, or of another database: no event before is known",
                    file.display()
                );
                self.add(StoreFault::Ledger, detail);
            }
            read => read?,
        }
        self.found.bytes +=
            fs::metadata(folder.join(ledger_file::FILE)).map_or(0, |file| file.len());
        self.add_rows(StoreFault::Ledger, "damaged rows of the ledger", &damaged);
        let rows = "rows of the ledger of a route that does not exist";
        self.add_rows(StoreFault::UnknownRoute, rows, &unknown);
        Ok(())
    }

    fn add(&mut self, fault: StoreFault, detail: String) {
        self.found.problems.push(StoreProblem { fault, detail });
    }

    /// Adds the problem that there are such rows, unless there are none.
    fn add_rows(&mut self, fault: StoreFault, name: &str, (labels, count): &(Vec<String>, usize)) {
        if *count == 0 {
            return;
        }
        let mut detail = format!("{name} ({count}): {}", labels.join(", "));
        if labels.len() < *count {
            let _ = write!(detail, ", and {} more", count - labels.len());
        }
        self.add(fault, detail);
    }

    /// Adds the problem that rows cannot be read, unless SQLite found the cause.
    fn add_unreadable(&mut self, what: &str, error: &rusqlite::Error) {
        let is_known = |problem: &StoreProblem| problem.fault == StoreFault::Database;
        if !self.found.problems.iter().any(is_known) {
            let detail = format!("cannot check for {what}: {error}");
            self.add(StoreFault::Unreadable, detail);
        }
    }
}

/// Returns the first labels that a query returns, and the number of all.
fn rows(
    connection: &Connection,
    select: &str,
    label: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
) -> rusqlite::Result<(Vec<String>, usize)> {
    let mut found = (Vec::new(), 0);
    let mut select = connection.prepare(select)?;
    let mut rows = select.query(params![])?;
    while let Some(row) = rows.next()? {
        add_label(&mut found, label(row)?);
    }
    Ok(found)
}

/// Returns the numbers that a query returns.
fn rows_of(connection: &Connection, select: &str) -> rusqlite::Result<HashSet<i64>> {
    let mut select = connection.prepare(select)?;
    select.query_map([], |row| row.get(0))?.collect()
}

fn add_label((labels, count): &mut (Vec<String>, usize), label: String) {
    *count += 1;
    if labels.len() < NAMED_ROWS {
        labels.push(label);
    }
}
