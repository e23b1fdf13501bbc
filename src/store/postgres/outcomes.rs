//! Records outcomes of attempts at events whose rows this gateway knows, because nothing changes them
//! while it has leased them. A batch is one round trip beside the other writes: it writes what the
//! attempts make of the known rows, if they are still as known. Otherwise `write` reads them first.

use std::collections::HashSet;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use super::pool::{OnTimeout, PooledConnection, QueryError, on, with_timeout};
use super::rows::{KnownRow, Ownership, RELATIVE_TIME, Rows};
use super::write::{Done, Job};
use super::{BacklogEntry, Shared};
use crate::store::delivery_state::StoredDelivery;
use crate::store::{AttemptId, AttemptOutcome, AttemptRecord};

/// The parts of the counts that outcomes are added to: none that `write` uses, and few, because they
/// are added up by each poll. Gateways that share one wait for each other's commits.
const FIRST_PART: i16 = 33;
const PARTS: i64 = 16;

/// The outcome of an attempt at an event with a known row.
pub(super) struct Outcome {
    pub id: AttemptId,
    pub attempt: AttemptRecord,
    pub next: AttemptOutcome,
    /// The row before the attempt.
    pub known: StoredDelivery,
    pub done: Done<()>,
}

impl Shared {
    /// Records all outcomes, and replies to the attempts.
    pub(super) async fn record_outcomes(self: Arc<Self>, batch: Vec<(Outcome, BacklogEntry)>) {
        let (mut outcomes, _backlog): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        // A repeated one waits for the first.
        let mut seen = HashSet::new();
        let repeated = outcomes.extract_if(.., |outcome| !seen.insert(outcome.id.delivery));
        let mut others: Vec<_> = repeated.collect();
        let (shared, known) = (&*self, &outcomes);
        let recorded = self
            .pool
            .run(
                OnTimeout::Retry,
                on!(connection => shared.record_known(connection, known)),
            )
            .await;
        match recorded {
            Ok(true) => {
                for outcome in outcomes {
                    // The attempt's task may be gone; the outcome stays recorded.
                    let _ = outcome.done.send(Ok(()));
                }
            }
            // The rows have changed, or one of them cannot be written.
            Ok(false) | Err(QueryError::Refused(_)) => others.append(&mut outcomes),
            Err(error) => {
                let error = self.pool.log_failure("commit", &error);
                for outcome in outcomes {
                    let _ = outcome.done.send(Err(error));
                }
            }
        }
        if !others.is_empty() {
            let jobs = others.into_iter().map(Job::from).collect();
            self.write_jobs(jobs).await;
        }
    }

    /// Records outcomes. Returns `false`, and records none, if a row is not as it was known.
    async fn record_known(
        &self,
        connection: &PooledConnection,
        outcomes: &[Outcome],
    ) -> Result<bool, QueryError> {
        let began = std::time::Instant::now();
        let part = i16::try_from(self.owner.rem_euclid(PARTS)).unwrap_or(0);
        let mut rows = Rows::new(RELATIVE_TIME, FIRST_PART + part);
        for outcome in outcomes {
            let before = outcome.known.progress.clone();
            let after = before.attempted(&outcome.attempt, outcome.next, RELATIVE_TIME);
            let ownership = Ownership {
                keeps_lease: false,
                recorded_by: Some(self.owner),
            };
            let id = outcome.id.delivery;
            rows.change(id, &outcome.known, after, ownership);
            rows.expect(&KnownRow {
                identity: outcome.id.identity,
                tried: outcome.known.progress.tried,
                queued: outcome.known.progress.queued,
            });
        }
        let written = with_timeout(async {
            match Box::pin(rows.write_known(connection, self.owner)).await {
                Err(error) if error.code() == Some(&SqlState::T_R_SERIALIZATION_FAILURE) => {
                    connection.batch_execute("ROLLBACK").await.map(|()| false)
                }
                written => written.map(|()| true),
            }
        })
        .await;
        if let Ok(true) = written {
            self.pool.metrics().observe_commit(began.elapsed());
        }
        written
    }
}

impl From<Outcome> for Job {
    fn from(outcome: Outcome) -> Self {
        Self::RecordAttempt {
            id: outcome.id,
            attempt: outcome.attempt,
            next: outcome.next,
            done: outcome.done,
        }
    }
}
