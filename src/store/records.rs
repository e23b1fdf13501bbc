//! Delivery records and the filters that select them, independent of the engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::cause::Cause;

use super::{AttemptHistory, DeliveryId, DeliveryIdentity, DeliveryState, LeaseDeadline, Payload};

/// The record of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub at: Timestamp,
    /// The duration of the attempt, in milliseconds.
    pub ms: u64,
    /// The status code of the upstream's response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The reason why there was no response, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The cause for which it did not succeed. `None` after a success, in records of earlier
    /// versions, and for a cause that only a later version knows.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "known_cause"
    )]
    pub cause: Option<Cause>,
    /// The address that was tried, with its port, if the attempt did not succeed and came to one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The response, unless it was 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseRecord>,
}

/// The record of a response other than 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResponseRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The size of the body in bytes, as far as it was read.
    #[serde(default)]
    pub body_bytes: u64,
    /// The first [`RESPONSE_BODY_MAX`] bytes of the body, if it is text and kept. What may be a
    /// credential is masked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// The bytes of a response's body that are kept with an attempt.
pub const RESPONSE_BODY_MAX: usize = 4096;

/// The attempts of a delivery as its row keeps them: the first [`FIRST_ATTEMPTS`] and the latest
/// ones, [`ATTEMPTS_MAX`] in all. The first attempt and the latest [`LATEST_BODIES`] keep the bodies
/// of their responses, so that a delivery has at most 16 KiB of them however often it is attempted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AttemptLog(Vec<AttemptRecord>);

const FIRST_ATTEMPTS: usize = 10;
const ATTEMPTS_MAX: usize = 100;
const LATEST_BODIES: usize = 3;

/// The due events of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEvents {
    pub events: Vec<DueEvent>,
    /// No other event is due, apart from those that are being attempted.
    pub is_complete: bool,
    /// The time until the next event becomes due; `None` when no other event is pending.
    pub next_in: Option<Duration>,
}

/// A queued event that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEvent {
    pub id: DeliveryId,
    /// The size of the head and the body.
    pub payload_bytes: usize,
}

/// A queued event, with everything that an attempt needs.
#[derive(Debug, Clone)]
pub struct QueuedEvent {
    pub identity: DeliveryIdentity,
    pub event_id: Arc<str>,
    pub event_type: Arc<str>,
    /// The attempts so far.
    pub history: AttemptHistory,
    pub received_at: Timestamp,
    /// The time for which the event has waited, not counting the store's downtime.
    pub age: Duration,
    /// The payload; `None` when it can no longer be read.
    pub payload: Option<Payload>,
    /// The end of this gateway's lease on the event.
    pub deadline: LeaseDeadline,
}

/// A delivery as operators and the API see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub route: String,
    pub event_id: String,
    pub event_type: String,
    pub received_at: Timestamp,
    pub state: DeliveryState,
    /// The reason why the delivery is a dead letter; `automatic` while the gateway redelivers a
    /// dead letter by itself.
    pub reason: Option<String>,
    pub attempts: Vec<AttemptRecord>,
    /// The number of all attempts. `attempts` lacks those that were made before a record was kept.
    pub attempt_count: u32,
    pub possibly_delivered: bool,
    /// The time until a pending delivery is attempted next.
    pub due_in: Option<Duration>,
    /// The payload is kept, so the delivery can be requeued.
    pub payload_kept: bool,
    /// The name of the secret that verified the event; `None` for events that an earlier version
    /// accepted.
    pub secret: Option<String>,
    /// A test event that the gateway made at an operator's request.
    pub is_test: bool,
    /// The head as it is sent to the upstream, if it is kept and was requested.
    pub head: Option<Bytes>,
    /// The body as it was received, if it is kept and was requested.
    pub body: Option<Bytes>,
}

/// The largest payload, in bytes, whose body is included in a list. Larger bodies are only returned
/// with their own delivery, so that a long list stays small.
pub const LISTED_BODY_MAX: usize = 64 << 10;

/// [`LISTED_BODY_MAX`], and the bodies of responses that a row counts with its payload.
pub(super) const LISTED_BYTES_MAX: usize =
    LISTED_BODY_MAX + (1 + LATEST_BODIES) * RESPONSE_BODY_MAX;

/// A selection of deliveries. A field that is `None` matches all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeliveryFilter {
    pub route: Option<String>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    /// Selects events whose ID begins with this text. No index helps, so the caller bounds the
    /// search with `from`.
    pub event_id_prefix: Option<String>,
    /// Selects events received at this time or later.
    pub since: Option<Timestamp>,
    /// Selects events received before this time.
    pub until: Option<Timestamp>,
    /// Selects deliveries with this ID or a larger one.
    pub from: Option<DeliveryId>,
    /// Selects deliveries with a smaller ID.
    pub before: Option<DeliveryId>,
    pub limit: usize,
    /// Includes bodies of payloads up to [`LISTED_BODY_MAX`].
    pub with_bodies: bool,
}

/// The totals of a route's deliveries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteDeliveryStats {
    pub created_at: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
    pub successful: u64,
    /// The number of failed deliveries and dead letters.
    pub failed: u64,
    /// The number of ended deliveries whose event arrived in the last days.
    pub recent: u64,
    /// The total duration of the successful attempts, in milliseconds.
    pub total_ms: u64,
    pub pending: u64,
    pub dead: u64,
}

/// The highest count that is reported for a list. Beyond it, counting would cost more than listing.
pub(super) const COUNT_LIMIT: usize = 10_000;

impl DeliveryFilter {
    /// Returns `since` and `until` in milliseconds, rounded up, because arrival times are stored
    /// and shown to the millisecond.
    pub(super) fn time_bounds(&self) -> [Option<i64>; 2] {
        let round_up =
            |at: Timestamp| at.as_millisecond() + i64::from(at.subsec_nanosecond() % 1_000_000 > 0);
        [self.since.map(round_up), self.until.map(round_up)]
    }
}

impl AttemptLog {
    /// Parses the JSON array of a row. A record that cannot be read is left out.
    pub(super) fn parse(json: &str) -> Self {
        if json == "[]" {
            return Self::default();
        }
        let records = serde_json::from_str(json).or_else(|_| {
            let values: Vec<serde_json::Value> = serde_json::from_str(json)?;
            let records = values.into_iter().map(serde_json::from_value);
            Ok::<_, serde_json::Error>(records.filter_map(Result::ok).collect())
        });
        Self(records.unwrap_or_default())
    }

    pub(super) fn into_records(self) -> Vec<AttemptRecord> {
        self.0
    }

    pub(super) fn to_json(&self) -> String {
        // Serialising numbers and strings cannot fail.
        serde_json::to_string(&self.0).unwrap_or_else(|_| "[]".into())
    }

    /// Appends an attempt.
    pub(super) fn push(&mut self, attempt: AttemptRecord) {
        if self.0.len() >= ATTEMPTS_MAX {
            self.0.remove(FIRST_ATTEMPTS);
        }
        self.0.push(attempt);
        let older = self.0.len().saturating_sub(LATEST_BODIES);
        self.0
            .iter_mut()
            .take(older)
            .skip(1)
            .for_each(AttemptRecord::drop_body);
    }

    /// Removes the bodies of the responses: they are kept as long as the payload.
    pub(super) fn drop_bodies(&mut self) {
        self.0.iter_mut().for_each(AttemptRecord::drop_body);
    }

    /// Returns the size of the bodies of the responses, in bytes.
    pub(super) fn body_bytes(&self) -> i64 {
        let bodies = self
            .0
            .iter()
            .filter_map(|attempt| attempt.response.as_ref()?.body.as_ref());
        i64::try_from(bodies.map(String::len).sum::<usize>()).unwrap_or(i64::MAX)
    }

    /// Returns the duration of the last attempt, in milliseconds.
    pub(super) fn last_ms(&self) -> u64 {
        self.0.last().map_or(0, |attempt| attempt.ms)
    }
}

impl AttemptRecord {
    fn drop_body(&mut self) {
        if let Some(response) = &mut self.response {
            response.body = None;
        }
    }
}

/// Reads a cause, or nothing if this version does not know it.
fn known_cause<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cause>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text.as_deref().and_then(Cause::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(body: &str) -> AttemptRecord {
        AttemptRecord {
            at: Timestamp::UNIX_EPOCH,
            ms: 1,
            status: Some(500),
            error: None,
            cause: Some(Cause::Status),
            address: Some("127.0.0.1:80".into()),
            response: Some(ResponseRecord {
                content_type: None,
                body_bytes: body.len() as u64,
                body: Some(body.into()),
            }),
        }
    }

    #[test]
    fn bodies_of_a_delivery_are_bounded() {
        let mut log = AttemptLog::default();
        for number in 0..250 {
            log.push(answered(&format!("{number:>RESPONSE_BODY_MAX$}")));
        }
        let kept: Vec<&str> = log
            .0
            .iter()
            .filter_map(|attempt| Some(attempt.response.as_ref()?.body.as_ref()?.trim()))
            .collect();
        assert_eq!(kept, ["0", "247", "248", "249"]);
        assert_eq!(log.body_bytes(), 4 * 4096);
        assert_eq!(log.0.len(), ATTEMPTS_MAX);
        assert!(log.to_json().len() < 40_000);
        assert_eq!(AttemptLog::parse(&log.to_json()), log);
        log.drop_bodies();
        assert_eq!(log.body_bytes(), 0);
    }

    #[test]
    fn records_of_other_versions_are_read() {
        let log = AttemptLog::parse(
            r#"[{"at":0,"ms":7,"error":"could not connect"},
                {"when":"never"},
                {"at":0,"ms":8,"cause":"melted","address":"unix:/run/a","heat":3}]"#,
        );
        assert_eq!((log.0.len(), log.last_ms()), (2, 8));
        assert_eq!(log.0[1].cause, None);
        assert_eq!(log.0[1].address.as_deref(), Some("unix:/run/a"));
    }
}
