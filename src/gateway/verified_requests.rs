//! The requests that a stop waits for: those that have been verified, and unverified ones that an
//! unenforced route forwards. It owns their number, and the moment from which a stop admits no more
//! of them.
//!
//! Connections and unverified requests do not count. Anyone can hold one of those open.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// The bit of [`VerifiedRequests::state`] that is set once no more requests are admitted.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// The number of verified requests in flight, of the gateway or of one HTTP/2 connection.
#[derive(Debug, Default)]
pub(super) struct VerifiedRequests {
    /// The number of requests in flight, and [`CLOSED`].
    state: AtomicUsize,
    none_left: Notify,
}

/// One request that counts as in flight once it is verified, until this is dropped.
#[derive(Debug)]
pub(super) struct CountedRequest<'c> {
    gateway: &'c VerifiedRequests,
    connection: Option<&'c VerifiedRequests>,
    is_counted: AtomicBool,
}

/// The error of a request that is verified after the stop has ceased to wait for new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopping;

impl VerifiedRequests {
    /// Returns a request that is not counted yet. `connection` counts it as well.
    pub(super) fn request<'c>(
        &'c self,
        connection: Option<&'c VerifiedRequests>,
    ) -> CountedRequest<'c> {
        CountedRequest {
            gateway: self,
            connection,
            is_counted: AtomicBool::new(false),
        }
    }

    /// Admits no more requests.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::SeqCst);
    }

    /// Waits until no request is in flight.
    pub(super) async fn none_left(&self) {
        loop {
            let ended = self.none_left.notified();
            if self.state.load(Ordering::SeqCst) & !CLOSED == 0 {
                return;
            }
            ended.await;
        }
    }

    /// Counts a request in. Returns `false`, and counts nothing, once closed.
    fn enter(&self) -> bool {
        if self.state.fetch_add(1, Ordering::SeqCst) & CLOSED == 0 {
            return true;
        }
        self.leave();
        false
    }

    fn leave(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) & !CLOSED == 1 {
            self.none_left.notify_waiters();
        }
    }
}

impl CountedRequest<'_> {
    /// Counts the request as verified.
    ///
    /// # Errors
    /// When the stop waits for no more requests. Nothing may be forwarded or recorded then.
    pub(super) fn count(&self) -> Result<(), Stopping> {
        if !self.gateway.enter() {
            return Err(Stopping);
        }
        if let Some(connection) = self.connection {
            connection.enter();
        }
        self.is_counted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Returns whether the request counts as verified.
    pub(super) fn is_counted(&self) -> bool {
        self.is_counted.load(Ordering::Relaxed)
    }
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        if !*self.is_counted.get_mut() {
            return;
        }
        if let Some(connection) = self.connection {
            connection.leave();
        }
        self.gateway.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn ends(requests: &VerifiedRequests) -> bool {
        timeout(Duration::from_millis(20), requests.none_left())
            .await
            .is_ok()
    }

    #[tokio::test]
    async fn only_counted_requests_are_waited_for() {
        let (gateway, connection) = (VerifiedRequests::default(), VerifiedRequests::default());
        let unverified = gateway.request(Some(&connection));
        assert!(ends(&gateway).await && ends(&connection).await);
        let verified = gateway.request(Some(&connection));
        verified.count().unwrap();
        assert!(!ends(&gateway).await && !ends(&connection).await);
        drop(unverified);
        assert!(!ends(&gateway).await);
        drop(verified);
        assert!(ends(&gateway).await && ends(&connection).await);
    }

    #[tokio::test]
    async fn closed_count_admits_no_request() {
        let requests = VerifiedRequests::default();
        let early = requests.request(None);
        early.count().unwrap();
        requests.close();
        let late = requests.request(None);
        assert_eq!(late.count(), Err(Stopping));
        drop(late);
        assert!(!ends(&requests).await, "the early one is still in flight");
        drop(early);
        assert!(ends(&requests).await);
    }

    #[tokio::test]
    async fn last_request_wakes_the_waiting_stop() {
        let requests = VerifiedRequests::default();
        let (first, second) = (requests.request(None), requests.request(None));
        first.count().unwrap();
        second.count().unwrap();
        requests.close();
        let ((), ()) = tokio::join!(requests.none_left(), async {
            drop(first);
            tokio::task::yield_now().await;
            drop(second);
        });
    }
}
