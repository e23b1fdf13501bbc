//! Waiting for conditions. No test waits for a fixed time, and none waits for ever.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// The longest wait before a test fails: far above the usual time, because two cores are shared.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Polls until the condition holds. Fails the test with the condition's name after [`TIMEOUT`].
#[track_caller]
pub fn eventually<W, F>(what: W, condition: F) -> impl Future<Output = ()>
where
    W: std::fmt::Display,
    F: AsyncFnMut() -> bool,
{
    eventually_in(TIMEOUT, what, condition)
}

/// Does the same as [`eventually`] for what takes long: fails the test after `limit`.
#[track_caller]
pub fn eventually_in<W, F>(limit: Duration, what: W, condition: F) -> impl Future<Output = ()>
where
    W: std::fmt::Display,
    F: AsyncFnMut() -> bool,
{
    let at = std::panic::Location::caller();
    let mut condition = condition;
    async move {
        let deadline = Instant::now() + limit;
        while !condition().await {
            assert!(Instant::now() < deadline, "never happened: {what} ({at})");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Awaits a future. Fails the test with its name after [`TIMEOUT`].
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let at = std::panic::Location::caller();
    async move {
        timeout(TIMEOUT, future)
            .await
            .unwrap_or_else(|_| panic!("took too long: {what} ({at})"))
    }
}
