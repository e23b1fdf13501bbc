//! Delivery records and the filters that select them, independent of the engine.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AttemptHistory, DeliveryId, DeliveryState, LeaseDeadline, Payload};

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
    /// The reason why there was no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

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

/// A selection of deliveries. A field that is `None` matches all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub route: Option<String>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    /// Selects events received at this time or later.
    pub since: Option<Timestamp>,
    /// Selects events received before this time.
    pub until: Option<Timestamp>,
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

impl AttemptRecord {
    pub(super) fn to_json(&self) -> String {
        // Serialising numbers and short strings cannot fail.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into())
    }
}
