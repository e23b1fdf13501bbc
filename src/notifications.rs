//! Notifications of problems: requests to an endpoint of the operator's, signed by the Standard
//! Webhooks scheme.
//!
//! Owns the request, its retries and their bounds. All of it is in memory: the store may be the
//! problem. Which problem begins and ends is decided in `problems`.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig};

use crate::problems::Delays;
use crate::secret::Secret;
use crate::signature::presets;

/// The endpoint to notify, and when.
pub struct Settings {
    pub url: String,
    /// A secret of the Standard Webhooks scheme; `config` has checked it.
    pub secret: Secret,
    /// The time for which a problem must be there.
    pub begin_after: Duration,
    /// The time for which it must be gone.
    pub end_after: Duration,
}

/// A notification.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notification {
    pub kind: NotificationKind,
    /// The same each time the notification is sent, so that the endpoint recognises a copy.
    pub id: String,
    /// The problem, as `GET /problems` shows it.
    pub problem: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotificationKind {
    Began,
    Ended,
}

/// The way to the task that sends notifications.
pub(crate) struct Notifier(mpsc::Sender<Notification>);

/// The notifications that wait while the endpoint fails: about 1 KiB each.
const WAITING_MAX: usize = 256;

/// The time for one attempt, connecting included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the first failed attempt, and the longest one. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The time after which a notification is given up, since the next ones wait for it.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3600);

impl Settings {
    /// Returns the times of the tracker.
    pub(crate) fn delays(&self) -> Delays {
        Delays {
            begin_after: self.begin_after,
            end_after: self.end_after,
        }
    }
}

impl NotificationKind {
    /// Returns the event type.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Began => "hookstile.problem.began",
            Self::Ended => "hookstile.problem.ended",
        }
    }
}

impl Notifier {
    /// Starts the task that sends. It ends when the notifier is dropped.
    pub(crate) fn start(settings: Settings) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(send_all(Arc::new(Endpoint::new(settings)), waiting));
        Self(sender)
    }

    /// Sends a notification after those before it. Never waits.
    pub(crate) fn send(&self, notification: Notification) {
        if let Err(error) = self.0.try_send(notification) {
            let dropped = error.into_inner();
            tracing::warn!(
                event_type = dropped.kind.as_str(),
                "notification dropped: {WAITING_MAX} wait for the endpoint of `notify` already"
            );
        }
    }
}

/// The names and values of the headers that sign a request.
type SignatureHeaders = Vec<(String, String)>;

/// The endpoint, with the client that sends to it.
struct Endpoint {
    settings: Settings,
    agent: Agent,
}

async fn send_all(endpoint: Arc<Endpoint>, mut waiting: mpsc::Receiver<Notification>) {
    while let Some(notification) = waiting.recv().await {
        endpoint.deliver(Arc::new(notification)).await;
    }
}

impl Endpoint {
    fn new(settings: Settings) -> Self {
        let config = Agent::config_builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            // Notifications are rare.
            .max_idle_connections(0)
            .timeout_global(Some(ATTEMPT_TIMEOUT))
            .user_agent(concat!("hookstile/", env!("CARGO_PKG_VERSION")))
            .tls_config(
                TlsConfig::builder()
                    .root_certs(RootCerts::PlatformVerifier)
                    .build(),
            )
            .build();
        Self {
            settings,
            agent: config.into(),
        }
    }

    /// Sends a notification until it is accepted, or given up.
    async fn deliver(self: &Arc<Self>, notification: Arc<Notification>) {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (endpoint, sent) = (Arc::clone(self), Arc::clone(&notification));
            let attempt = tokio::task::spawn_blocking(move || endpoint.attempt(&sent));
            let error = match attempt.await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                // The process ends.
                Err(_) => return,
            };
            let event_type = notification.kind.as_str();
            if began.elapsed() + pause > GIVE_UP_AFTER {
                tracing::error!(event_type, error, "notification given up");
                return;
            }
            if pause == FIRST_PAUSE {
                tracing::warn!(
                    event_type,
                    error,
                    "notification not accepted; it is sent again for an hour"
                );
            }
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Makes one attempt. Blocks.
    fn attempt(&self, notification: &Notification) -> Result<(), String> {
        let (body, headers) = self.sign(notification, Timestamp::now())?;
        let mut request = self
            .agent
            .post(&self.settings.url)
            .header("content-type", "application/json");
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let response = request.send(&body[..]).map_err(|error| error.to_string())?;
        let status = response.status();
        if status.is_success() {
            Ok(())
        } else {
            Err(format!("the endpoint answered {}", status.as_u16()))
        }
    }

    /// Returns the body, and the headers that sign it.
    fn sign(
        &self,
        notification: &Notification,
        now: Timestamp,
    ) -> Result<(Vec<u8>, SignatureHeaders), String> {
        let body = json!({
            "type": notification.kind.as_str(),
            "timestamp": now,
            "data": notification.problem,
        });
        let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
        let signed = presets::standard_webhooks()
            .sign(&self.settings.secret, &body, now, Some(&notification.id))
            .map_err(|error| error.to_string())?;
        let headers = signed
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok((body, headers))
    }
}
