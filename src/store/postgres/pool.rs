//! The connection pool. A connection is released to the pool only while nothing is wrong with it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deadpool::Runtime;
use deadpool::managed::{BuildError, Object, Pool, PoolError, TimeoutType};
use deadpool_postgres::ClientWrapper;
use tokio::sync::Notify;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::connect::CurrentDatabase;
use super::session::{Session, SessionError, SessionManager};
use crate::metrics::StoreMetrics;
use crate::store::StoreError;

/// The number of connections in the pool of one gateway.
const POOL_SIZE: usize = 10;
/// The timeout for a free connection of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause before a connection is asked for again while the pool cannot grow.
const RELEASED_PAUSE: Duration = Duration::from_millis(50);

/// The timeout for a statement, including the way to the server.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// The time after which the server ends a statement, in milliseconds: before the gateway stops waiting
/// for it.
pub(super) const SERVER_STATEMENT_TIMEOUT_MS: u128 = 3_500;

/// The time after which the server ends a session that is idle in a transaction, in milliseconds.
pub(super) const IDLE_IN_TRANSACTION_TIMEOUT_MS: u128 = 5_000;

/// The number of tries before the callers get an error.
const TRIES: u32 = 3;
/// The pause before the first retry. It grows with each retry.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The reaction to a timeout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimeout {
    /// Retries, because the write matters more than the delay.
    Retry,
    /// Fails at once. The caller may retry.
    Fail,
}

/// The connections of this gateway, and the last known state of the server.
pub(super) struct ConnectionPool {
    pool: Pool<SessionManager>,
    /// The last statement that writes regularly has succeeded.
    is_available: AtomicBool,
    /// Notified when a connection is released.
    released: Arc<Notify>,
    metrics: StoreMetrics,
}

/// A connection of the pool. If it is dropped without [`PooledConnection::release`], it is closed,
/// because the state of its session is unknown.
pub(super) struct PooledConnection {
    object: Option<Object<SessionManager>>,
    released: Arc<Notify>,
}

/// The reason why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// The server is unavailable. The statement may have been executed.
    #[error("{0}")]
    Unavailable(String),
    /// The statement timed out. It may have been executed.
    #[error("{0}")]
    TimedOut(String),
    /// The server has not answered at all. The statement may have been executed.
    #[error("{0}")]
    Unanswered(String),
    /// The server rejected the statement, which is a bug in the gateway.
    #[error("{}", error_chain(.0))]
    Refused(#[from] tokio_postgres::Error),
}

impl ConnectionPool {
    /// Creates the pool, without connecting yet. With `relaxed`, a commit does not wait for the
    /// database's disk.
    pub(super) fn new(
        database: CurrentDatabase,
        relaxed: bool,
        metrics: StoreMetrics,
    ) -> Result<Self, BuildError> {
        let pool = Pool::builder(SessionManager::new(database, relaxed))
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(ACQUIRE_TIMEOUT))
            .build()?;
        Ok(Self {
            pool,
            is_available: AtomicBool::new(true),
            released: Arc::default(),
            metrics,
        })
    }

    /// Checks that each connection has a session of the server for itself.
    pub(super) async fn check_sessions(&self) -> Result<(), QueryError> {
        let one = self.acquire().await?;
        let Ok(other) = self.acquire().await else {
            // One connection alone cannot be given another's session.
            return one.release(Ok(()));
        };
        for _ in 0..3 {
            for connection in [&one, &other] {
                SessionManager::check_mark(connection.session())
                    .await
                    .map_err(QueryError::Unavailable)?;
            }
        }
        for connection in [one, other] {
            let _ = connection.release(Ok(()));
        }
        Ok(())
    }

    /// Begins to watch which server holds the store, once its tables exist.
    pub(super) async fn read_created(
        &self,
        connection: &PooledConnection,
    ) -> Result<(), QueryError> {
        let manager = self.pool.manager();
        let read = manager.read_created(connection.session()).await;
        read.map_err(QueryError::Unavailable)
    }

    /// Looks whether another server was promoted in the place of the one in use.
    pub(super) async fn look_at_others(&self) {
        self.pool.manager().look_at_others().await;
    }

    /// Checks what a connection has read regularly; see [`SessionManager::check`].
    pub(super) fn check_server(
        &self,
        connection: &PooledConnection,
        mark: Option<&str>,
        incarnation: Uuid,
        clock_ms: i64,
    ) -> Result<(), QueryError> {
        self.pool
            .manager()
            .check(connection.session(), mark, incarnation, clock_ms)
            .map_err(QueryError::Unavailable)
    }

    pub(super) fn check_available(&self) -> Result<(), StoreError> {
        if self.is_available.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Unavailable)
        }
    }

    pub(super) async fn acquire(&self) -> Result<PooledConnection, QueryError> {
        let no_free = || {
            QueryError::TimedOut(format!(
                "no free connection within {} s",
                ACQUIRE_TIMEOUT.as_secs()
            ))
        };
        let until = Instant::now() + ACQUIRE_TIMEOUT;
        loop {
            let error = match self.pool.get().await {
                Ok(object) => {
                    return Ok(PooledConnection {
                        object: Some(object),
                        released: Arc::clone(&self.released),
                    });
                }
                Err(PoolError::Timeout(TimeoutType::Wait)) => return Err(no_free()),
                Err(error) => error,
            };
            let connections = self.pool.status().size;
            if connections == 0 {
                if matches!(error, PoolError::Backend(SessionError::Paused)) {
                    // The pause was made while there were others.
                    self.pool.manager().resume_growth();
                    continue;
                }
                return Err(QueryError::Unavailable(match error {
                    PoolError::Backend(error) => error.to_string(),
                    error => error.to_string(),
                }));
            }
            if let PoolError::Backend(SessionError::Failed(reason)) = &error {
                self.metrics.count_error("connect");
                if self.pool.manager().pause_growth() {
                    tracing::warn!(
                        connections,
                        reason,
                        "no further connection to the store's database can be made; those that \
                         exist are shared, which is slower"
                    );
                }
            }
            if Instant::now() >= until {
                return Err(no_free());
            }
            // A connection that was released in between has notified no waiter.
            let _ = tokio::time::timeout(RELEASED_PAUSE, self.released.notified()).await;
        }
    }

    /// Runs work on a connection, once.
    pub(super) async fn run_once<T, F>(
        &self,
        work: impl FnOnce(PooledConnection) -> F,
    ) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        let connection = self.acquire().await?;
        let epoch = connection.session().epoch();
        let done = work(connection).await;
        if let Err(QueryError::Unanswered(_)) = &done {
            self.pool.manager().distrust(epoch);
        }
        done
    }

    /// Runs work on a connection. Retries on another connection while the server is unavailable.
    pub(super) async fn run<T, F>(
        &self,
        on_timeout: OnTimeout,
        mut work: impl FnMut(PooledConnection) -> F,
    ) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.run_once(&mut work).await {
                error @ Err(QueryError::TimedOut(_) | QueryError::Unanswered(_))
                    if on_timeout == OnTimeout::Fail =>
                {
                    return error;
                }
                Err(
                    QueryError::Unavailable(_)
                    | QueryError::TimedOut(_)
                    | QueryError::Unanswered(_),
                ) if tries < TRIES && self.check_available().is_ok() => {
                    tokio::time::sleep(RETRY_PAUSE * tries).await;
                }
                done => return done,
            }
        }
    }

    /// Sets whether the server is available. Logs once when the state changes.
    pub(super) fn set_available(&self, is_available: bool, error: &dyn std::fmt::Display) {
        if self.is_available.swap(is_available, Ordering::AcqRel) == is_available {
            return;
        }
        if is_available {
            tracing::info!("the store's database is available again");
        } else {
            self.metrics.count_error("open");
            tracing::error!(
                %error,
                "the store's database is unavailable; events get 503 until it is back"
            );
        }
    }

    /// Counts and logs a failure, and returns the error for the caller.
    pub(super) fn log_failure(&self, operation: &'static str, error: &QueryError) -> StoreError {
        self.metrics.count_error(operation);
        tracing::error!(%error, operation, "a database operation of the store failed");
        StoreError::Unavailable
    }

    /// Marks the server as available.
    pub(super) fn mark_available(&self) {
        self.set_available(true, &"");
    }

    pub(super) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    pub(super) fn close(&self) {
        self.is_available.store(false, Ordering::Release);
        self.pool.close();
    }
}

impl PooledConnection {
    /// Releases the connection to the pool if the work succeeded.
    pub(super) fn release<T>(mut self, done: Result<T, QueryError>) -> Result<T, QueryError> {
        if done.is_ok() {
            drop(self.object.take());
            self.released.notify_one();
        }
        done
    }

    fn session(&self) -> &Session {
        self.object
            .as_ref()
            .expect("a pooled connection keeps its object until it is released")
    }

    /// Returns the rows of a query. Statements are prepared once per connection.
    pub(super) async fn query_cached(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, QueryError> {
        with_timeout(async { self.query(&self.prepare_cached(sql).await?, params).await }).await
    }

    /// Returns the only row of a query.
    pub(super) async fn query_one_cached(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, QueryError> {
        with_timeout(async {
            self.query_one(&self.prepare_cached(sql).await?, params)
                .await
        })
        .await
    }

    /// Returns the only row of a query, if there is one.
    pub(super) async fn query_opt_cached(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, QueryError> {
        with_timeout(async {
            self.query_opt(&self.prepare_cached(sql).await?, params)
                .await
        })
        .await
    }

    /// Executes a statement and returns the number of affected rows.
    pub(super) async fn execute_cached(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, QueryError> {
        with_timeout(async { self.execute(&self.prepare_cached(sql).await?, params).await }).await
    }

    pub(super) fn client_mut(&mut self) -> &mut tokio_postgres::Client {
        let session: &mut Session = self
            .object
            .as_mut()
            .expect("a pooled connection keeps its object until it is released");
        &mut session.client
    }
}

impl Deref for PooledConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        &self.session().client
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        drop(self.object.take().map(Object::take));
    }
}

/// Builds a closure that runs work on a connection and releases the connection if it succeeded.
macro_rules! on {
    ($connection:ident => $work:expr) => {
        move |$connection: $crate::store::postgres::pool::PooledConnection| async move {
            let done = {
                let $connection = &$connection;
                $work.await
            };
            $connection.release(done)
        }
    };
}
pub(super) use on;

/// Awaits a response of the server, with the statement timeout.
pub(super) async fn with_timeout<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    within(STATEMENT_TIMEOUT, work).await
}

/// Awaits a response of the server, with a timeout of its own.
pub(super) async fn within<T>(
    time: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    match tokio::time::timeout(time, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            Err(QueryError::TimedOut(error_chain(&error)))
        }
        Ok(Err(error)) if is_server_error(&error) => {
            Err(QueryError::Unavailable(error_chain(&error)))
        }
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(QueryError::Unanswered(format!(
            "no response within {} s",
            time.as_secs()
        ))),
    }
}

/// Returns whether an error comes from the server's state or from concurrency, not from the
/// statement itself.
fn is_server_error(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        return true;
    };
    let has_class = |class: &str| state.code().starts_with(class);
    // Connection failure, insufficient resources, operator intervention, system error, rollback by
    // a conflict, and object not in the required state.
    has_class("08")
        || has_class("53")
        || has_class("57")
        || has_class("58")
        || has_class("40")
        || has_class("55")
        || [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(state)
}

/// Formats an error with its causes, because the outermost one alone says little.
pub(super) fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
