//! Sessions of the connection pool: the hosts are tried one after the other, the session's settings
//! are made, and the server is checked to be the one that holds the store.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use deadpool_postgres::ClientWrapper;
use tokio::runtime::Handle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

use super::connect::{CurrentDatabase, Database};
use super::lineage::{Position, Refusal, Verdict};
use super::pool::{IDLE_IN_TRANSACTION_TIMEOUT_MS, SERVER_STATEMENT_TIMEOUT_MS, error_chain};
use super::schema::VERSION;

/// The time-out for a connection to one of several hosts, with all that makes it a session.
const HOST_TIMEOUT: Duration = Duration::from_secs(2);
/// The time-out where there is only one host.
const ONLY_HOST_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for which no further connection is tried after one could not be made, while there are
/// others.
const GROWTH_PAUSE: Duration = Duration::from_secs(1);

/// The settings of a session. Times are in milliseconds, the keepalives in seconds. They are made
/// with statements, because a connection pooler drops those that come with the start of a connection.
/// A setting that the server's version does not know is left out.
///
/// A statement ends before the gateway stops waiting for it. The server keeps prepared plans, and
/// those for any parameters: planning a claim costs more than executing it. A plan made while the
/// tables were empty must still use their indexes, so sequential scans are off. What the database or
/// the role has as defaults of its own must not change what the statements do. The server sends
/// keepalives too: otherwise it would keep the sessions of an unreachable gateway, and their locks,
/// for two hours.
const SETTINGS: [(&str, &str); 13] = [
    ("lock_timeout", "2000"),
    ("idle_session_timeout", "0"),
    ("transaction_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("client_min_messages", "warning"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("enable_seqscan", "off"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "4"),
    ("tcp_user_timeout", "30000"),
];

/// The settings that a transaction with large payloads raises, in milliseconds.
const TIMEOUTS: [(&str, u128); 2] = [
    ("statement_timeout", SERVER_STATEMENT_TIMEOUT_MS),
    (
        "idle_in_transaction_session_timeout",
        IDLE_IN_TRANSACTION_TIMEOUT_MS,
    ),
];

/// The setting by which a session knows that its statements reach one session of the server.
const READ_MARK: &str = "SELECT current_setting('hookstile.session', true)";

/// Says that a pooler gives the statements of a connection to several sessions.
pub(super) const SESSIONS_ARE_MIXED: &str = "a connection pooler gives the statements of one \
    connection to several sessions of the server; it must keep sessions apart (PgBouncer: \
    `pool_mode=session`)";

/// Returns whether the server accepts writes, and the name of a file that begins with its timeline.
const READ_SERVER: &str = "SELECT pg_is_in_recovery(),
    CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END";

const READ_STORE: &str = "SELECT version, hash_key, incarnation, timeline, uptime_ms + downtime_ms
    FROM hookstile.store";

/// Makes the sessions of one gateway, and remembers which server they may be on.
pub(super) struct SessionManager {
    database: CurrentDatabase,
    relaxed: bool,
    /// That of the process. A session is driven by the runtime that connects it, and all cores use it: it
    /// must not wait for what one core does.
    runtime: Handle,
    known: Mutex<Known>,
    /// The last connection could not be made, although others exist.
    is_limited: AtomicBool,
}

/// What a gateway knows of the servers.
#[derive(Default)]
struct Known {
    /// The last position of the server in use; `None` before the first.
    position: Option<Position>,
    /// The host of the server in use, by its place in the URL.
    host: usize,
    /// Counts the changes after which earlier sessions are not used any more.
    epoch: u64,
    /// A host whose server has stopped answering, which is tried last.
    suspect: Option<usize>,
    /// The hosts that were refused, so that each is logged once.
    refused: HashMap<usize, Refusal>,
    grows_at: Option<Instant>,
}

/// A session on the server that holds the store.
pub(super) struct Session {
    pub client: ClientWrapper,
    mark: String,
    epoch: u64,
}

/// The reason why no session could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    /// The reason of each host.
    #[error("{0}")]
    Failed(String),
    /// A connection could not be made a moment ago.
    #[error("no further connection can be made at the moment")]
    Paused,
}

/// A session that is not yet admitted.
struct Opened {
    client: ClientWrapper,
    mark: String,
    position: Option<Position>,
}

impl Manager for SessionManager {
    type Type = Session;
    type Error = SessionError;

    async fn create(&self) -> Result<Session, SessionError> {
        if self.known().grows_at.is_some_and(|at| Instant::now() < at) {
            return Err(SessionError::Paused);
        }
        let mut connecting = pin!(self.connect());
        let connected = poll_fn(|context| {
            let _runtime = self.runtime.enter();
            connecting.as_mut().poll(context)
        });
        let session = connected.await.map_err(SessionError::Failed)?;
        if self.is_limited.swap(false, Ordering::AcqRel) {
            tracing::info!("the store can make connections to its database again");
        }
        Ok(session)
    }

    async fn recycle(&self, session: &mut Session, _: &Metrics) -> RecycleResult<SessionError> {
        if session.client.is_closed() {
            Err(RecycleError::message("the connection is closed"))
        } else if session.epoch != self.known().epoch {
            Err(RecycleError::message("another server is in use"))
        } else {
            Ok(())
        }
    }
}

impl SessionManager {
    /// Creates a manager whose sessions the current runtime drives, which is that of the process.
    pub(super) fn new(database: CurrentDatabase, relaxed: bool) -> Self {
        Self {
            database,
            relaxed,
            runtime: Handle::current(),
            known: Mutex::default(),
            is_limited: AtomicBool::new(false),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects to the first host whose server may be used. A gateway that has used none yet asks all
    /// hosts, and chooses the one with the latest promotion.
    async fn connect(&self) -> Result<Session, String> {
        let database = self.database.load();
        let is_first = self.known().position.is_none();
        let mut candidates = Vec::new();
        let mut failures = Vec::new();
        for host in self.order(&database) {
            let opened = match self.open_within_timeout(&database, host).await {
                Ok(opened) => opened,
                Err(reason) => {
                    failures.push(reason);
                    continue;
                }
            };
            if is_first {
                candidates.push((host, opened));
                continue;
            }
            match self.admit(&database, host, opened) {
                Ok(session) => {
                    self.known().host = host;
                    return Ok(session);
                }
                Err(reason) => failures.push(reason),
            }
        }
        // The first of those with the same rank is the last of them in this order.
        candidates.reverse();
        candidates.sort_by_key(|(_, opened)| opened.position.map(|position| position.rank()));
        let mut chosen = None;
        for (host, opened) in candidates.into_iter().rev() {
            match self.admit(&database, host, opened) {
                Ok(session) => chosen = chosen.or(Some((host, session))),
                Err(reason) => failures.push(reason),
            }
        }
        let (host, session) = chosen.ok_or_else(|| failures.join("; "))?;
        self.known().host = host;
        Ok(session)
    }

    /// Returns the hosts in the order in which they are tried.
    fn order(&self, database: &Database) -> Vec<usize> {
        let mut hosts: Vec<_> = (0..database.host_count()).collect();
        if database.has_random_hosts() {
            fastrand::shuffle(&mut hosts);
        }
        let suspect = self.known().suspect;
        hosts.sort_by_key(|host| Some(*host) == suspect);
        hosts
    }

    async fn open_within_timeout(
        &self,
        database: &Database,
        host: usize,
    ) -> Result<Opened, String> {
        let time = if database.host_count() > 1 {
            HOST_TIMEOUT
        } else {
            ONLY_HOST_TIMEOUT
        };
        let failed = |reason: String| match database.host_count() {
            1 => reason,
            _ => format!("{}: {reason}", database.host_name(host)),
        };
        match tokio::time::timeout(time, self.open(database, host)).await {
            Ok(opened) => opened.map_err(failed),
            Err(_) => {
                self.known().suspect = Some(host);
                Err(failed(format!("no session within {} s", time.as_secs())))
            }
        }
    }

    /// Connects to one host, makes the settings and reads the position of the server.
    async fn open(&self, database: &Database, host: usize) -> Result<Opened, String> {
        let (client, task) = database
            .connect_to(host)
            .await
            .map_err(|error| error_chain(&error))?;
        let client = ClientWrapper::new(client, task);
        let mark = format!("{:016x}", fastrand::u64(..));
        client
            .batch_execute(&self.settings(database, &mark))
            .await
            .map_err(|error| error_chain(&error))?;
        let position = self.read_position(&client, &mark).await?;
        Ok(Opened {
            client,
            mark,
            position,
        })
    }

    /// Returns the statements that make the settings. Those of the URL come last, because the last
    /// one wins.
    fn settings(&self, database: &Database, mark: &str) -> String {
        let quoted = |text: &str| {
            let text = text.replace('\\', "\\\\").replace('\'', "''");
            format!("E'{text}'")
        };
        let row = |name: &str, value: &str| format!("({}, {})", quoted(name), quoted(value));
        let timeouts = TIMEOUTS.map(|(name, ms)| row(name, &ms.to_string()));
        let settings = SETTINGS.map(|(name, value)| row(name, value));
        let rows = [&timeouts[..], &settings].concat();
        let mut sql = format!(
            "SELECT set_config(name, value, false) FROM (VALUES {}) AS v (name, value)
             WHERE current_setting(name, true) IS NOT NULL",
            rows.join(", ")
        );
        let relaxed = self
            .relaxed
            .then(|| ("synchronous_commit".to_owned(), "off".to_owned()));
        let mark = ("hookstile.session".to_owned(), mark.to_owned());
        let others = database.settings().iter().cloned().chain([mark]);
        for (name, value) in relaxed.into_iter().chain(others) {
            // Writing to a string does not fail.
            let _ = write!(
                sql,
                "; SELECT set_config({}, {}, false)",
                quoted(&name),
                quoted(&value)
            );
        }
        sql
    }

    /// Reads what a server says about its store; `None` before the tables exist. If the server was
    /// promoted since anybody looked, gives it a new incarnation.
    async fn read_position(&self, client: &Client, mark: &str) -> Result<Option<Position>, String> {
        // Sent without waiting for each other.
        let (found_mark, server, stored) = tokio::join!(
            biased;
            client.simple_query(READ_MARK),
            client.simple_query(READ_SERVER),
            client.simple_query(READ_STORE),
        );
        let found_mark = first_row(found_mark.map_err(|error| error_chain(&error))?);
        if found_mark.first().and_then(Option::as_deref) != Some(mark) {
            return Err(SESSIONS_ARE_MIXED.to_owned());
        }
        let timeline = match server {
            Ok(messages) => timeline(&first_row(messages))?,
            // A service that is compatible with PostgreSQL need not have these functions.
            Err(error) if error.code().is_some_and(has_no_timeline) => None,
            Err(error) => return Err(error_chain(&error)),
        };
        let Some(stored) = read_stored(stored)? else {
            return Ok(None);
        };
        let found = Position {
            timeline,
            ..stored.position
        };
        let Some(promoted) = timeline.filter(|timeline| stored.timeline != Some(*timeline)) else {
            return Ok(Some(found));
        };
        let seen = self.known().position;
        if stored.is_later || seen.is_some_and(|seen| !seen.may_be_promoted_to(&found)) {
            // It will be refused, or opening the store fails.
            return Ok(Some(found));
        }
        // The standbys of a server that was just promoted may not have followed it yet.
        let mark_promotion = format!(
            "BEGIN; SET LOCAL synchronous_commit = local;
             UPDATE hookstile.store SET incarnation = gen_random_uuid(), timeline = {promoted}
                WHERE timeline IS DISTINCT FROM {promoted};
             COMMIT"
        );
        client
            .batch_execute(&mark_promotion)
            .await
            .map_err(|error| error_chain(&error))?;
        let stored = read_stored(client.simple_query(READ_STORE).await)?;
        Ok(stored.map(|stored| Position {
            timeline,
            ..stored.position
        }))
    }

    /// Decides whether a session may be used, by the position of its server.
    fn admit(&self, database: &Database, host: usize, opened: Opened) -> Result<Session, String> {
        let mut known = self.known();
        let name = database.host_name(host);
        if let Err(refusal) = known.see(&name, host, opened.position) {
            let reason = format!("{name}: {refusal}");
            if known.refused.insert(host, refusal) != Some(refusal) {
                tracing::error!(
                    server = name,
                    reason = %refusal,
                    "a server of the store's database is refused; demote it, or take it out of the \
                     URL; to use it nevertheless, restart all gateways"
                );
            }
            return Err(reason);
        }
        Ok(Session {
            client: opened.client,
            mark: opened.mark,
            epoch: known.epoch,
        })
    }

    /// Reads the position of the server again, once the tables exist.
    pub(super) async fn read_created(&self, session: &Session) -> Result<(), String> {
        let position = self.read_position(&session.client, &session.mark).await?;
        let mut known = self.known();
        let host = known.host;
        known
            .see("", host, position)
            .map_err(|refusal| refusal.to_string())
    }

    /// Checks what a session has just read: that it is still the session's own, and that the server
    /// did not go back.
    pub(super) fn check(
        &self,
        session: &Session,
        mark: Option<&str>,
        incarnation: Uuid,
        clock_ms: i64,
    ) -> Result<(), String> {
        if mark != Some(&*session.mark) {
            return Err(SESSIONS_ARE_MIXED.to_owned());
        }
        let mut known = self.known();
        let Some(seen) = known.position else {
            return Ok(());
        };
        let found = Position {
            incarnation,
            clock_ms,
            ..seen
        };
        match seen.judge(&found) {
            Verdict::Same => {
                known.position = Some(seen.advanced_to(found));
                Ok(())
            }
            _ if session.epoch != known.epoch => Err("another server is in use".to_owned()),
            Verdict::Promoted { .. } => Err("the server was promoted".to_owned()),
            Verdict::Refused(refusal) => {
                // The next connection to it is refused, and that is logged.
                known.epoch += 1;
                Err(refusal.to_string())
            }
        }
    }

    /// Checks that a session's statements reach one session of the server.
    pub(super) async fn check_mark(session: &Session) -> Result<(), String> {
        let found = session.client.simple_query(READ_MARK).await;
        let found = first_row(found.map_err(|error| error_chain(&error))?);
        if found.first().and_then(Option::as_deref) == Some(&session.mark) {
            Ok(())
        } else {
            Err(SESSIONS_ARE_MIXED.to_owned())
        }
    }

    /// Looks at the hosts that are not in use. If another server was promoted in the place of the one
    /// in use, which may still answer, the sessions that exist are not used any more.
    pub(super) async fn look_at_others(&self) {
        let database = self.database.load();
        let (host_in_use, is_known) = {
            let known = self.known();
            (known.host, known.position.is_some())
        };
        let others = (0..database.host_count()).filter(|host| is_known && *host != host_in_use);
        for host in others {
            if let Ok(opened) = self.open_within_timeout(&database, host).await {
                // A refusal is logged.
                let _ = self.admit(&database, host, opened);
            }
        }
    }

    /// Stops using the sessions of this epoch, because their server has not answered. Other hosts are
    /// tried before it. An answer that an earlier server owes says nothing of the one in use.
    pub(super) fn distrust(&self, epoch: u64) {
        self.known().distrust(epoch);
    }

    /// Pauses the growth of the pool. Returns whether it could grow before.
    pub(super) fn pause_growth(&self) -> bool {
        self.known().grows_at = Some(Instant::now() + GROWTH_PAUSE);
        !self.is_limited.swap(true, Ordering::AcqRel)
    }

    /// Ends a pause of the pool's growth, because there is no connection left.
    pub(super) fn resume_growth(&self) {
        self.known().grows_at = None;
    }
}

impl Session {
    /// Returns the epoch in which the session was made.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Known {
    fn distrust(&mut self, epoch: u64) {
        if self.epoch == epoch {
            self.epoch += 1;
            self.suspect = Some(self.host);
        }
    }

    /// Takes the position of a server over, if it may be used. One that was promoted is in use at once;
    /// otherwise, the host is the one whose session is chosen.
    fn see(&mut self, name: &str, host: usize, found: Option<Position>) -> Result<(), Refusal> {
        match (self.position, found) {
            (None, found) => self.position = found,
            (Some(_), None) => return Err(Refusal::OtherStore),
            (Some(seen), Some(found)) => match seen.judge(&found) {
                Verdict::Same => self.position = Some(seen.advanced_to(found)),
                Verdict::Promoted { behind_ms } => {
                    tracing::warn!(
                        server = name,
                        timeline = found.timeline,
                        behind_seconds = behind_ms / 1000,
                        "the store's database has failed over to another server; what the earlier \
                         one had not sent to it is lost"
                    );
                    self.position = Some(found);
                    self.epoch += 1;
                    self.host = host;
                }
                Verdict::Refused(refusal) => return Err(refusal),
            },
        }
        self.refused.remove(&host);
        if self.suspect == Some(host) {
            self.suspect = None;
        }
        Ok(())
    }
}

/// Returns the texts of the first row of a reply.
fn first_row(messages: Vec<SimpleQueryMessage>) -> Vec<Option<String>> {
    let row = messages.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.map_or_else(Vec::new, |row| {
        (0..row.len())
            .map(|column| row.get(column).map(str::to_owned))
            .collect()
    })
}

/// Returns whether a server that refuses to tell its timeline with this error has none.
fn has_no_timeline(error: &SqlState) -> bool {
    [
        SqlState::UNDEFINED_FUNCTION,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::FEATURE_NOT_SUPPORTED,
    ]
    .contains(error)
}

/// Returns the timeline of a server that accepts writes.
fn timeline(server: &[Option<String>]) -> Result<Option<i64>, String> {
    match server {
        [Some(standby), _] if standby == "t" => {
            Err("the server is a standby, which accepts no writes".to_owned())
        }
        [_, Some(file)] => Ok(file
            .get(..8)
            .and_then(|timeline| i64::from_str_radix(timeline, 16).ok())),
        _ => Ok(None),
    }
}

/// The row of a store.
struct Stored {
    /// Its position, without the server's own timeline.
    position: Position,
    /// The timeline in the row.
    timeline: Option<i64>,
    /// The tables are of a later version, which opening the store reports.
    is_later: bool,
}

/// Parses the row of the store. Returns `None` if there is none. A store of a later version is the same
/// store.
fn read_stored(
    reply: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>,
) -> Result<Option<Stored>, String> {
    let messages = match reply {
        Ok(messages) => messages,
        Err(error)
            if [
                Some(&SqlState::UNDEFINED_TABLE),
                Some(&SqlState::UNDEFINED_COLUMN),
            ]
            .contains(&error.code()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error_chain(&error)),
    };
    let row = first_row(messages);
    let column = |column: usize| row.get(column).and_then(Option::as_deref);
    let uuid = |text: Option<&str>| text.and_then(|text| Uuid::try_parse(text).ok());
    let Some(store) = uuid(column(1)) else {
        return Ok(None);
    };
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let position = Position {
        store,
        incarnation: uuid(column(2)).unwrap_or_default(),
        timeline: None,
        clock_ms: number(column(4)).unwrap_or(0),
    };
    Ok(Some(Stored {
        position,
        timeline: number(column(3)),
        is_later: number(column(0)).is_some_and(|version| version > i64::from(VERSION)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Position = Position {
        store: Uuid::from_u128(1),
        incarnation: Uuid::from_u128(2),
        timeline: Some(1),
        clock_ms: 100_000,
    };

    #[test]
    fn late_timeout_distrusts_no_new_server() {
        let mut known = Known::default();
        known.see("a", 0, Some(FIRST)).unwrap();
        let epoch = known.epoch;
        let promoted = Position {
            incarnation: Uuid::from_u128(3),
            timeline: Some(2),
            ..FIRST
        };
        known.see("b", 1, Some(promoted)).unwrap();
        assert_eq!(known.host, 1);
        let in_use = known.epoch;
        assert_ne!(in_use, epoch);
        known.distrust(epoch);
        assert_eq!((known.epoch, known.suspect), (in_use, None));
        known.distrust(in_use);
        assert_eq!((known.epoch, known.suspect), (in_use + 1, Some(1)));
        // What else timed out on the same server counts once.
        known.distrust(in_use);
        assert_eq!(known.epoch, in_use + 1);
    }

    #[test]
    fn host_that_is_only_seen_is_not_in_use() {
        let mut known = Known::default();
        known.see("a", 0, Some(FIRST)).unwrap();
        known.see("same", 1, Some(FIRST)).unwrap();
        assert_eq!(known.host, 0);
    }
}
