//! Wrong tokens: a bounded number of audit lines, and answers that take their time.

use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use crate::admin::audit::Caller;
use crate::client_network::ClientNetwork;
use crate::log::{SampleLimits, Sampler};

/// One line a second for an address: more than a person can cause. Beyond 16 addresses at once, all
/// others share one line a second.
const LIMITS: SampleLimits = SampleLimits {
    lines_per_second: 1,
    keys: 16,
};

/// The delay of one wrong token.
const DELAY: Duration = Duration::from_millis(200);

/// The wrong tokens that are delayed at once; so 40 a second are answered. Others wait for their
/// turn, as many as there are connections.
const DELAYED_MAX: usize = 8;

/// The pause between two reports of suppressed lines.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// The failed logins of a listener.
pub(super) struct FailedLogins {
    sampler: Sampler<Option<ClientNetwork>>,
    delayed: Semaphore,
}

impl Default for FailedLogins {
    fn default() -> Self {
        Self {
            sampler: Sampler::new(LIMITS),
            delayed: Semaphore::new(DELAYED_MAX),
        }
    }
}

impl FailedLogins {
    /// Writes a failed login to the audit log, unless its address has had its line this second.
    pub(super) fn audit(&self, caller: Caller, now: Instant) {
        if let Some(suppressed) = self
            .sampler
            .admit(caller.peer.map(ClientNetwork::of_address), now)
        {
            caller.audit_sampled("log_in", "", "unauthorized", suppressed);
        }
    }

    /// Waits before a wrong token is answered. A right token never comes here, so that guessing
    /// disturbs no operator.
    pub(super) async fn delay(&self) {
        // The semaphore is never closed.
        let _permit = self.delayed.acquire().await;
        tokio::time::sleep(DELAY).await;
    }

    /// Logs the number of suppressed lines, for as long as it is polled.
    pub(super) async fn report_suppressed(&self) -> ! {
        loop {
            tokio::time::sleep(REPORT_INTERVAL).await;
            self.sampler
                .report_suppressed(Instant::now(), |peer, suppressed| {
                    let peer = peer.copied().flatten().map(tracing::field::display);
                    tracing::info!(peer, suppressed, "audit lines of failed logins suppressed");
                });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn wrong_tokens_are_answered_at_a_bounded_rate() {
        let failed_logins = Arc::new(FailedLogins::default());
        let start = Instant::now();
        let mut delayed = JoinSet::new();
        for _ in 0..DELAYED_MAX * 2 {
            let failed_logins = Arc::clone(&failed_logins);
            delayed.spawn(async move { failed_logins.delay().await });
        }
        delayed.join_all().await;
        assert!(start.elapsed() >= DELAY * 2, "{:?}", start.elapsed());
    }
}
