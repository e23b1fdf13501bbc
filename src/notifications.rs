//! Notifications of problems: requests to an endpoint of the operator's, signed by the Standard
//! Webhooks scheme.
//!
//! Owns the request, and the pauses between attempts. Which problem has lasted is decided in
//! `problems`; what is still to be sent is remembered where the store is known.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
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
    /// A problem has begun, or has become worse.
    Began,
    Ended,
}

/// The time for one attempt, connecting included.
pub(crate) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);

/// The pause after the first failed attempt, and the longest one. It doubles each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

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

/// The names and values of the headers that sign a request.
type SignatureHeaders = Vec<(String, String)>;

/// The endpoint, with the client that sends to it.
pub(crate) struct Endpoint {
    client: Arc<Client>,
    /// The pause after the next failure.
    pause: Duration,
}

struct Client {
    url: String,
    secret: Secret,
    agent: Agent,
}

impl Endpoint {
    pub(crate) fn new(settings: Settings) -> Self {
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
            client: Arc::new(Client {
                url: settings.url,
                secret: settings.secret,
                agent: config.into(),
            }),
            pause: FIRST_PAUSE,
        }
    }

    /// Makes one attempt to send a notification. Returns the pause before the next one if it is not
    /// accepted.
    pub(crate) async fn send(&mut self, notification: Notification) -> Result<(), Duration> {
        let (client, event_type) = (Arc::clone(&self.client), notification.kind.as_str());
        let attempt = tokio::task::spawn_blocking(move || client.attempt(&notification));
        // A task that cannot be joined ends with the process.
        let attempted = attempt.await.unwrap_or_else(|error| Err(error.to_string()));
        let Err(error) = attempted else {
            self.pause = FIRST_PAUSE;
            return Ok(());
        };
        if self.pause == FIRST_PAUSE {
            tracing::warn!(
                event_type,
                error,
                "notification not accepted; it is sent again"
            );
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Err(pause)
    }
}

impl Client {
    /// Makes one attempt. Blocks.
    fn attempt(&self, notification: &Notification) -> Result<(), String> {
        let (body, headers) = self.sign(notification, Timestamp::now())?;
        let mut request = self
            .agent
            .post(&self.url)
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
            .sign(&self.secret, &body, now, Some(&notification.id))
            .map_err(|error| error.to_string())?;
        let headers = signed
            .iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok((body, headers))
    }
}
