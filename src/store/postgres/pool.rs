//! Connections to the server: lent for a moment, and given back only while nothing is wrong with them.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool, PoolError, TimeoutType};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::connect::WAIT;
use crate::metrics::StoreMetrics;
use crate::store::StoreError;

/// How long a statement may take at the most, the way to the server included.
pub(super) const ANSWERED_WITHIN: Duration = Duration::from_secs(4);

/// How often the server is asked before those who wait hear of trouble.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_millis(100);

/// What of something that took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnTimeout {
    /// It is tried again: much depends on it.
    Retry,
    /// Whoever asked is told, and may ask again.
    Fail,
}

/// All connections of this gateway, and whether the server answers.
pub(super) struct ConnectionPool {
    pool: Pool,
    /// Whether the server answered when it was asked last.
    up: AtomicBool,
    metrics: StoreMetrics,
}

/// A connection, lent. Dropped without [`Line::judge`], it is closed: nobody knows what is under way on it.
pub(super) struct PooledConnection {
    object: Option<Object>,
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum QueryError {
    /// The server is gone or in trouble. Whether it was done is not known.
    #[error("{0}")]
    Gone(String),
    /// It took too long. Whether it was done is not known.
    #[error("{0}")]
    Slow(String),
    /// The server does not want what it was given: a defect of ours.
    #[error("{}", told(.0))]
    Refused(#[from] tokio_postgres::Error),
}

impl ConnectionPool {
    pub(super) fn new(pool: Pool, metrics: StoreMetrics) -> Self {
        Self {
            pool,
            up: AtomicBool::new(true),
            metrics,
        }
    }

    pub(super) fn check_up(&self) -> Result<(), StoreError> {
        if self.up.load(Ordering::Acquire) {
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
            Err(PoolError::Timeout(TimeoutType::Wait)) => Err(QueryError::Slow(format!(
                "all connections are in use for {} s",
                WAIT.as_secs()
            ))),
            Err(error) => Err(QueryError::Gone(told(&error))),
        }
    }

    /// Does something on a connection, once.
    pub(super) async fn with<T, F>(
        &self,
        work: impl FnOnce(PooledConnection) -> F,
    ) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        work(self.acquire().await?).await
    }

    /// Asks the server, again while it is in trouble, each time on another connection.
    pub(super) async fn again<T, F>(
        &self,
        slow: OnTimeout,
        mut work: impl FnMut(PooledConnection) -> F,
    ) -> Result<T, QueryError>
    where
        F: Future<Output = Result<T, QueryError>>,
    {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.with(&mut work).await {
                failed @ Err(QueryError::Slow(_)) if slow == OnTimeout::Fail => return failed,
                Err(QueryError::Gone(_) | QueryError::Slow(_))
                    if tries < TRIES && self.check_up().is_ok() =>
                {
                    tokio::time::sleep(PAUSE * tries).await;
                }
                Ok(done) => {
                    self.answered();
                    return Ok(done);
                }
                failed => return failed,
            }
        }
    }

    /// Notes what became of something; says so once when the server goes, and when it is back.
    pub(super) fn note(&self, up: bool, failed: &dyn std::fmt::Display) {
        if self.up.swap(up, Ordering::AcqRel) == up {
            return;
        }
        if up {
            tracing::info!("the store's server answers again");
        } else {
            self.metrics.count_error("open");
            tracing::error!(error = %failed, "the store's server can't be reached; events get 503 until it can");
        }
    }

    /// Counts and tells a failure that an asker hears of as one of the store.
    pub(super) fn failed(&self, operation: &'static str, failed: &QueryError) -> StoreError {
        self.metrics.count_error(operation);
        tracing::error!(error = %failed, operation, "the store's server did not do what it was asked for");
        StoreError::Unavailable
    }

    /// Notes that the server answered.
    pub(super) fn answered(&self) {
        self.note(true, &"");
    }

    pub(super) fn metrics(&self) -> &StoreMetrics {
        &self.metrics
    }

    pub(super) fn is_closed(&self) -> bool {
        self.pool.is_closed()
    }

    pub(super) fn close(&self) {
        self.up.store(false, Ordering::Release);
        self.pool.close();
    }
}

impl PooledConnection {
    /// Gives the connection back if all went well on it.
    pub(super) fn release<T>(mut self, done: Result<T, QueryError>) -> Result<T, QueryError> {
        if done.is_ok() {
            drop(self.object.take());
        }
        done
    }

    /// The rows of a query, which is prepared once a connection.
    pub(super) async fn rows(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, QueryError> {
        bounded(async { self.query(&self.prepare_cached(sql).await?, params).await }).await
    }

    /// The one row of a query, which is prepared once a connection.
    pub(super) async fn row(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, QueryError> {
        bounded(async {
            self.query_one(&self.prepare_cached(sql).await?, params)
                .await
        })
        .await
    }

    /// Its one row, if there is one.
    pub(super) async fn row_if_any(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, QueryError> {
        bounded(async {
            self.query_opt(&self.prepare_cached(sql).await?, params)
                .await
        })
        .await
    }

    /// Does what a statement says, which is prepared once a connection; answers how many rows it was.
    pub(super) async fn run(
        &self,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, QueryError> {
        bounded(async { self.execute(&self.prepare_cached(sql).await?, params).await }).await
    }

    pub(super) fn client_mut(&mut self) -> &mut tokio_postgres::Client {
        self.object.as_mut().expect("lent until it is judged")
    }
}

impl Deref for PooledConnection {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.object.as_ref().expect("lent until it is judged")
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        drop(self.object.take().map(Object::take));
    }
}

/// Work on a connection that is lent for it, and given back when all went well.
macro_rules! on {
    ($line:ident => $work:expr) => {
        move |$line: $crate::store::postgres::pool::PooledConnection| async move {
            let done = {
                let $line = &$line;
                $work.await
            };
            $line.release(done)
        }
    };
}
pub(super) use on;

/// Waits for the server's answer, for as long as is right.
pub(super) async fn bounded<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, QueryError> {
    match tokio::time::timeout(ANSWERED_WITHIN, work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
            Err(QueryError::Slow(told(&error)))
        }
        Ok(Err(error)) if is_trouble(&error) => Err(QueryError::Gone(told(&error))),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(QueryError::Slow(format!(
            "no answer within {} s",
            ANSWERED_WITHIN.as_secs()
        ))),
    }
}

/// Whether an error tells of the server or the moment, not of what was asked for.
fn is_trouble(error: &tokio_postgres::Error) -> bool {
    let Some(state) = error.code() else {
        return true;
    };
    let of_class = |class: &str| state.code().starts_with(class);
    // Connection, resources, an operator or the system stepping in, what others do at the same time.
    of_class("08")
        || of_class("53")
        || of_class("57")
        || of_class("58")
        || of_class("40")
        || of_class("55")
        || [
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        ]
        .contains(state)
}

/// An error with its causes, of which the first alone says little.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |told, cause| format!("{told}: {cause}"))
}
