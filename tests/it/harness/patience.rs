//! Waiting: always for a condition, never for a time, and never for ever.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take before a test gives up on it. Far above what it takes, because two cores are shared.
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until the condition holds; fails the test, naming it, when it does not within [`PATIENCE`].
#[track_caller]
pub fn eventually<W, F>(what: W, condition: F) -> impl Future<Output = ()>
where
    W: std::fmt::Display,
    F: AsyncFnMut() -> bool,
{
    let at = std::panic::Location::caller();
    let mut condition = condition;
    async move {
        let deadline = Instant::now() + PATIENCE;
        while !condition().await {
            assert!(Instant::now() < deadline, "never happened: {what} ({at})");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Awaits a future; fails the test, naming it, when it does not finish within [`PATIENCE`].
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        timeout(PATIENCE, future)
            .await
            .unwrap_or_else(|_| panic!("took too long: {what} ({at})"))
    }
}
