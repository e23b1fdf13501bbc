//! The connection pool. A connection is released to the pool only while nothing is wrong with it.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError, TimeoutType};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connect::ACQUIRE_TIMEOUT;
use crate::metrics::StoreMetrics;
use crate::store::StoreError;

/// The timeout for a statement, including the way to the server.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(4);
/// The time after which the server ends a statement, in milliseconds: before the gateway stops waiting
/// for it.
pub(super) const SERVER_STATEMENT_TIMEOUT_MS: u128 = 3_500;

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
    pool: Pool,
    /// The server responded to the last request.
    is_available: AtomicBool,
    metrics: StoreMetrics,
}

/// A connection of the pool. If it is dropped without [`PooledConnection::release`], it is closed,
/// because the state of its session is unknown.
pub(super) struct PooledConnection {
    object: Option<Object>,
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
    /// The server rejected the statement, which is a bug in the gateway.
    #[error("{}", error_chain(.0))]
    Refused(#[from] tokio_postgres::Error),
}

impl ConnectionPool {
    pub(super) fn new(pool: Pool, metrics: StoreMetrics) -> Self {
        Self {
            pool,
            is_available: AtomicBool::new(true),
            metrics,
        }
    }

    pub(super) fn check_available(&self) -> Result<(), StoreError> {
        if self.is_available.load(Ordering::Acquire) {
            Ok(())
        } else {
            Err(StoreError::Unavailable)
        }
    }

    pub(super) async fn acquire(&self) -> Result<PooledConnection, QueryError> {
        match self.pool.get().await {
            Ok(object) => Ok(PooledConnection {
                object: Some(object),
            }),
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(QueryError::TimedOut(format!(
                "no free connection within {} s",
                ACQUIRE_TIMEOUT.as_secs()
            ))),
            Err(error) => Err(QueryError::Unavailable(error_chain(&error))),
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
        work(self.acquire().await?).await
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
                error @ Err(QueryError::TimedOut(_)) if on_timeout == OnTimeout::Fail => {
                    return error;
                }
                Err(QueryError::Unavailable(_) | QueryError::TimedOut(_))
                    if tries < TRIES && self.check_available().is_ok() =>
                {
                    tokio::time::sleep(RETRY_PAUSE * tries).await;
                }
                Ok(done) => {
                    self.mark_available();
                    return Ok(done);
                }
                error => return error,
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
        }
        done
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
        self.object
            .as_mut()
            .expect("a pooled connection keeps its object until it is released")
    }
}

impl Deref for PooledConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object
            .as_ref()
            .expect("a pooled connection keeps its object until it is released")
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
        Err(_) => Err(QueryError::TimedOut(format!(
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
