//! What is kept of deliveries, as it is told and looked up: no engine in it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{AttemptHistory, DeliveryId, DeliveryState, LeaseDeadline, Payload};

/// One attempt, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    #[serde(with = "jiff::fmt::serde::timestamp::millisecond::required")]
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub ms: u64,
    /// What the upstream answered with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why there was no answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What of a route's stored events is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueEvents {
    pub events: Vec<DueEvent>,
    /// Whether no more are due than these and those that are being tried.
    pub all_seen: bool,
    /// How long until the first is due that is not yet; `None` when no other waits.
    pub next_in: Option<Duration>,
}

/// A stored event that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueEvent {
    pub id: DeliveryId,
    /// Of its head and body.
    pub payload_bytes: usize,
}

/// A stored event, with all that an attempt needs.
#[derive(Debug, Clone)]
pub struct QueuedEvent {
    pub event_id: Arc<str>,
    pub event_type: Arc<str>,
    /// Attempts so far.
    pub tried: AttemptHistory,
    pub received_at: Timestamp,
    /// How long it has waited, outages of ours left out.
    pub age: Duration,
    /// `None` when it can't be read any more.
    pub payload: Option<Payload>,
    /// Until when it is this gateway's to try.
    pub until: LeaseDeadline,
}

/// A delivery, for people and for the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRecord {
    pub id: DeliveryId,
    pub route: String,
    pub event_id: String,
    pub event_type: String,
    pub received_at: Timestamp,
    pub state: DeliveryState,
    /// Why it is a dead letter.
    pub reason: Option<String>,
    pub attempts: Vec<AttemptRecord>,
    /// Attempts in all; those of before a record was kept are not among `attempts`.
    pub tried: u32,
    pub possibly_delivered: bool,
    /// When a pending one is tried next.
    pub due_in: Option<Duration>,
    /// Whether it can be delivered again.
    pub payload_kept: bool,
    /// The name of the secret that verified it. Unknown of what an earlier version took.
    pub secret: Option<String>,
    /// Made by the gateway itself, as an operator asked.
    pub is_test: bool,
    /// The head as it is handed over, where it is kept and was asked for.
    pub head: Option<Bytes>,
    /// The event as it came, where it is kept and was asked for.
    pub body: Option<Bytes>,
}

/// The biggest payload of which a list holds the body, so that a list of many is not many bodies. A bigger one comes with
/// its delivery alone.
pub const LISTED_BODY_MAX: usize = 64 << 10;

/// Which deliveries are asked for. Each `None` takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    pub route: Option<String>,
    pub state: Option<DeliveryState>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    /// Only those whose event was received then or later.
    pub since: Option<Timestamp>,
    /// Only those whose event was received earlier.
    pub until: Option<Timestamp>,
    /// Only those before this one.
    pub before: Option<DeliveryId>,
    pub limit: usize,
    /// Whether bodies are asked for, those up to [`LISTED_BODY_MAX`].
    pub with_bodies: bool,
}

/// What is known of a route's deliveries as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteDeliveryStats {
    pub created_at: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
    pub successful: u64,
    /// Failed, and dead letters.
    pub failed: u64,
    /// Of those whose event arrived in the last days.
    pub recent: u64,
    /// Of the attempts that succeeded, all together.
    pub total_ms: u64,
    pub pending: u64,
    pub dead: u64,
}

/// Deliveries that are counted for a list. Beyond it the count would cost more than the list.
pub(super) const COUNTED_MAX: usize = 10_000;

impl DeliveryFilter {
    /// `since` and `until` as arrivals are kept and shown: to the millisecond.
    pub(super) fn bounds(&self) -> [Option<i64>; 2] {
        let whole =
            |at: Timestamp| at.as_millisecond() + i64::from(at.subsec_nanosecond() % 1_000_000 > 0);
        [self.since.map(whole), self.until.map(whole)]
    }
}

impl AttemptRecord {
    pub(super) fn to_json(&self) -> String {
        // Numbers and short texts of our own: there is nothing that could fail.
        serde_json::to_string(self).unwrap_or_else(|_| "{}".into())
    }
}
