//! The types of the store's interface, independent of the engine.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::records::{AttemptLog, AttemptRecord};
use super::uptime::Uptime;
use crate::backoff::DeadLetterReason;
use crate::signature::PayloadDigest;

/// The point at which a write counts as done. As a key of the configuration it is `durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Durability {
    /// A response waits until the event is flushed to disk; it survives a power loss.
    Strict,
    /// A response waits until the operating system has the event; it survives a crash of the
    /// process. A power loss may undo the last moment's writes: acknowledged events are lost, or
    /// completed ones delivered twice.
    Relaxed,
}

/// The retention of records of ended deliveries, which operators read. Delivering does not need
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    pub payloads: Payloads,
    /// The time for which a record and its payload are kept.
    pub keep: Duration,
    /// The limit of a route's records and payloads, in bytes, above which the oldest are deleted;
    /// `None` is no limit.
    pub max_bytes: Option<u64>,
}

/// The payloads that are kept beside the records of ended deliveries. Those of queued events and of
/// dead letters are always kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Payloads {
    /// No payload.
    None,
    /// The payloads of deliveries that failed.
    Failed,
    /// Every payload.
    All,
}

/// The largest body that can be stored, in bytes. A body is one database row, and is held in memory
/// as a whole during every attempt.
pub const PAYLOAD_MAX: usize = 256 << 20;

impl Retain {
    /// The default: payloads of failed deliveries, for a week, up to 1 GiB for each route.
    pub const DEFAULT: Self = Self {
        payloads: Payloads::Failed,
        keep: Duration::from_secs(7 * 86_400),
        max_bytes: Some(1 << 30),
    };

    pub(super) fn limits(self) -> RecordLimits {
        RecordLimits {
            keep: self.keep,
            max_bytes: self.max_bytes,
        }
    }

    /// Returns whether the payload of a delivery in this state is kept.
    pub fn keeps_payload(self, state: DeliveryState) -> bool {
        match state {
            DeliveryState::Pending | DeliveryState::Dead => true,
            DeliveryState::Failed => self.payloads != Payloads::None,
            DeliveryState::Success => self.payloads == Payloads::All,
        }
    }
}

/// The key of one event on one route: a keyed 128-bit hash, so that nobody outside can construct a
/// collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub u128);

/// The identifier of an event's ledger row, assigned by the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(super) i64);

/// The identifier of a delivery. Later deliveries have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryId(pub i64);

/// The random identity of a delivery. A database that loses its last deliveries in a failover gives
/// their numbers to others, so a number alone does not tell which delivery an attempt was made for.
/// The embedded store, which gives no number twice, has none: it is 0 there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeliveryIdentity(pub(super) u128);

/// An attempt at a queued event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttemptId {
    pub delivery: DeliveryId,
    /// The identity of the delivery, as it was loaded for the attempt.
    pub identity: DeliveryIdentity,
    pub number: u32,
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "del_{}", self.0)
    }
}

impl std::str::FromStr for DeliveryId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("del_").unwrap_or(text).parse().map(Self)
    }
}

/// The ledger's knowledge of an event that arrived before and is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEvent {
    pub entry: LedgerEntry,
    pub delivery: Option<DeliveryId>,
}

/// The parameters of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimTerms {
    /// The time after which the claim lapses if its holder dies.
    pub lease: Duration,
    /// The time for which the outcome will be remembered.
    pub window: Duration,
    pub purpose: ClaimPurpose,
}

/// The purpose of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimPurpose {
    /// The event is sent while it is claimed. If the lease lapses, the outcome is then unknown.
    Forward,
    /// The event is queued by the settlement, and not sent before. So an event of which nothing is
    /// known may stay free: a settlement fails if another gateway has queued the event before it.
    Queue,
    /// The event's row is changed, and nothing is sent.
    Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerEntry {
    /// The event was delivered, and is never forwarded again while this entry exists.
    Completed { digest: PayloadDigest },
    /// All attempts failed so far. The next copy of the event is forwarded.
    Attempted(AttemptHistory),
}

/// The failed attempts at an event so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptHistory {
    pub attempts: u32,
    /// An attempt may have been processed although its response was lost.
    pub possibly_delivered: bool,
}

impl AttemptHistory {
    /// Combines two entries of one event.
    pub fn merge(self, other: Self) -> Self {
        Self {
            attempts: self.attempts.max(other.attempts),
            possibly_delivered: self.possibly_delivered || other.possibly_delivered,
        }
    }
}

/// The end of a claim. It is written as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// The event's key. It is kept beside its delivery, for a redelivery. `None` if nothing
    /// identifies the event.
    pub key: Option<EventKey>,
    /// The event's row.
    pub event: Option<SettledRow>,
    /// The row of the event's body, if the ledger counts the copies of the body. The key is then
    /// kept as long as the delivery.
    pub copies: Option<SettledRow>,
    /// The change to the delivery record; `None` keeps no record.
    pub delivery: Option<DeliveryChange>,
}

/// A ledger row to write.
#[derive(Debug, Clone, Copy)]
pub struct SettledRow {
    pub row: EventRow,
    pub entry: LedgerEntry,
    /// The time for which `entry` is remembered.
    pub window: Duration,
    /// The history that applies if the settlement cannot be written.
    pub if_lost: AttemptHistory,
}

impl Settlement {
    /// Iterates over the ledger rows to write.
    pub(super) fn rows(&self) -> impl Iterator<Item = &SettledRow> {
        self.event.iter().chain(&self.copies)
    }

    /// Returns the event's keys as they are stored beside its delivery: the event's own first. They
    /// are dropped when the event is delivered, unless there are two.
    pub(super) fn keys_blob(&self) -> Option<Vec<u8>> {
        let is_delivered = self
            .delivery
            .as_ref()
            .is_some_and(|change| change.state == DeliveryState::Success);
        let copies = self.copies.map(|copies| copies.row.key);
        if is_delivered && copies.is_none() {
            return None;
        }
        let keys = self.key.into_iter().chain(copies);
        Some(keys.flat_map(|key| key.0.to_be_bytes()).collect())
    }
}

/// A key of an event, with the row that it has from earlier attempts.
#[derive(Debug, Clone, Copy)]
pub struct EventRow {
    pub key: EventKey,
    pub earlier: Option<RowId>,
}

/// A change to a delivery record.
#[derive(Debug, Clone)]
pub struct DeliveryChange {
    /// The record from earlier attempts.
    pub earlier: Option<DeliveryId>,
    pub event: Arc<EventMetadata>,
    pub state: DeliveryState,
    /// The attempts so far, including this one.
    pub history: AttemptHistory,
    pub attempt: Option<AttemptRecord>,
    /// The payload to store. Required for [`DeliveryState::Pending`].
    pub payload: Option<Payload>,
    /// The delay until a pending delivery is due.
    pub due_after: Duration,
}

impl DeliveryChange {
    /// Returns the attempts after this change; `before` are those that have a record.
    pub(super) fn attempts_after(&self, before: &AttemptLog) -> AttemptLog {
        let mut attempts = before.clone();
        if let Some(attempt) = &self.attempt {
            attempts.push(attempt.clone());
        }
        if self.payload.is_none() {
            attempts.drop_bodies();
        }
        attempts
    }
}

/// The event that a delivery belongs to.
#[derive(Debug, Clone)]
pub struct EventMetadata {
    pub route: Arc<str>,
    pub event_id: Arc<str>,
    pub event_type: Arc<str>,
    pub received_at: Timestamp,
    /// The name of the secret that verified the event.
    pub secret: Arc<str>,
    /// A test event that the gateway made at an operator's request.
    pub is_test: bool,
}

/// The request head and body that a later delivery needs.
#[derive(Debug, Clone)]
pub struct Payload {
    pub head: Bytes,
    pub body: Bytes,
}

/// The state of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// The event was delivered.
    Success,
    /// The attempt failed while the sender waited. The sender's retry passes.
    Failed,
    /// The event is queued for an attempt.
    Pending,
    /// The event is stored as a dead letter.
    Dead,
}

impl DeliveryState {
    pub const ALL: [Self; 4] = [Self::Success, Self::Failed, Self::Pending, Self::Dead];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Pending => "pending",
            Self::Dead => "dead",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }
}

/// The outcome of an attempt at a queued event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The upstream accepted the event.
    Delivered {
        keep_payload: bool,
    },
    Retry {
        after: Duration,
        possibly_delivered: bool,
    },
    Dead(DeadLetterReason),
}

/// The settings of a route that the store needs.
#[derive(Debug, Clone)]
pub struct StoreRoute {
    pub route: Arc<str>,
    pub retain: Retain,
    /// The time from an event's arrival after which it is no longer retried.
    pub horizon: Duration,
    /// The number of concurrent attempts at the route's queued events. After a crash, that many may
    /// have an unknown outcome.
    pub concurrency: usize,
    /// The longest time that an attempt at a queued event takes.
    pub attempt_timeout: Duration,
}

/// The limits of a route's records. The store keeps the last ones of each route, so that the
/// records of a route that is no longer configured are kept for as long as was promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordLimits {
    /// The time for which a record and its payload are kept.
    pub keep: Duration,
    /// The limit of the records and payloads, in bytes; `None` is no limit.
    pub max_bytes: Option<u64>,
}

/// A route that no gateway has configured, and that has stored events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedRoute {
    pub route: Arc<str>,
    /// The number of events that wait for the route.
    pub pending: u64,
    pub dead: u64,
    /// The arrival of the oldest event that waits.
    pub oldest_waiting: Option<Timestamp>,
    /// The time until the retry horizon of that event ends; negative if it has ended. `None` if no
    /// event waits, or if the route was removed by an earlier version.
    pub horizon_left: Option<SignedDuration>,
}

/// A stored delivery, with the ledger keys of its event: its own, then that of its body if the ledger
/// counts copies of it. Without such a body there is none once the event is delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryKeys {
    pub route: String,
    pub identity: DeliveryIdentity,
    pub keys: Vec<EventKey>,
}

/// A request to deliver an event again.
#[derive(Debug, Clone)]
pub struct Requeue {
    pub id: DeliveryId,
    /// The state that the delivery must still have; `None` accepts any.
    pub expected_state: Option<DeliveryState>,
    /// The identity that the delivery must still have; `None` accepts any.
    pub expected_identity: Option<DeliveryIdentity>,
    pub due: DueAt,
    /// The gateway does this itself, which it does once: a delivery that becomes a dead letter again
    /// is not redelivered automatically any more.
    pub automatic: bool,
    /// The event's keys that the ledger must mark as completed, because the event is queued again.
    pub completing: Vec<EventRow>,
    /// The time for which the ledger remembers those keys.
    pub window: Duration,
}

/// The time at which an event is due. Due times advance while no gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DueAt(pub(super) Uptime);

impl DueAt {
    /// Returns the whole minutes of the store's time.
    pub(crate) fn minutes(self) -> u64 {
        self.0.0 / 60_000
    }

    pub fn after(self, pause: Duration) -> Self {
        Self(self.0.after(pause))
    }
}

/// The result of a [`Requeue`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeueResult {
    /// The delivery is pending on this route.
    Queued(Arc<str>),
    /// There is no such delivery, or its state is not the expected one.
    Unknown,
    /// The payload is not kept.
    NoPayload,
    /// Another gateway is delivering a copy of the event.
    InFlight,
}

/// The time of uptime for which the creation of a webhook is remembered under its key.
pub(super) const CREATION_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// The limit of creations that are remembered. Beyond it, the oldest are forgotten early. There are
/// as many as webhooks by default.
pub(super) const CREATIONS_MAX: i64 = 10_000;

/// The key under which a client creates a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreationKey {
    /// The client's own name for the creation.
    pub key: Box<str>,
    /// The digest of the request, by which a repetition is told from another request.
    pub request: [u8; 32],
}

/// A creation that is remembered. It must not be printed, because the definition has the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Creation {
    pub request: [u8; 32],
    /// The name of the webhook.
    pub webhook: String,
    /// The definition that was stored.
    pub definition: Zeroizing<String>,
}

/// A counter of operator changes, among gateways that share a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revision(pub(super) i64);
