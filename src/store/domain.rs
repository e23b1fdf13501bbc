//! What the store is told and what it answers: the domain's words, with no engine in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::records::AttemptRecord;
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

/// What is kept of deliveries that have ended, for an operator to look at. Nothing of it is needed to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retain {
    pub payloads: Payloads,
    /// How long a record is kept, its payload with it.
    pub keep: Duration,
    /// Bytes of a route's records and payloads above which the oldest go; `None` is no bound.
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

/// The biggest body that is kept, in bytes: it is one row of a database, and in memory as a whole whenever it is tried.
pub const PAYLOAD_MAX: usize = 256 << 20;

impl Retain {
    /// Where nothing else is said: payloads of what failed, for a week, up to a gibibyte a route.
    pub const USUAL: Self = Self {
        payloads: Payloads::Failed,
        keep: Duration::from_secs(7 * 86_400),
        max_bytes: Some(1 << 30),
    };

    /// Whether the payload of a delivery is kept that is now `state`.
    pub fn keeps_payload(self, state: DeliveryState) -> bool {
        match state {
            DeliveryState::Pending | DeliveryState::Dead => true,
            DeliveryState::Failed => self.payloads != Payloads::None,
            DeliveryState::Success => self.payloads == Payloads::All,
        }
    }
}

/// Names one event on one route: a keyed 128-bit hash, so that nobody outside can aim a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub u128);

/// Names an event's row to the engine that keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(super) i64);

/// Names one delivery. Later ones have greater numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

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

/// What is known of an event that was seen before and is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownEvent {
    pub record: LedgerEntry,
    pub delivery: Option<DeliveryId>,
}

/// How an event is claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimTerms {
    /// How long the claim lasts if its holder dies.
    pub lease: Duration,
    /// How long the outcome will be remembered.
    pub window: Duration,
    /// Whether the event is sent while it is claimed: what became of it is then unknown after a lease that lapsed.
    pub forwards: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerEntry {
    /// Handed over. Never to be forwarded again while this record lives.
    Completed { digest: PayloadDigest },
    /// Tried without success; the next copy is forwarded.
    Attempted(AttemptHistory),
}

/// The failed attempts at an event so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttemptHistory {
    pub attempts: u32,
    /// Whether any of them may have been processed all the same, its answer being lost.
    pub possibly_delivered: bool,
}

impl AttemptHistory {
    /// What two records of one event tell together.
    pub fn merge(self, other: Self) -> Self {
        Self {
            attempts: self.attempts.max(other.attempts),
            possibly_delivered: self.possibly_delivered || other.possibly_delivered,
        }
    }
}

/// How a claim on an event ends: all of it is written together, or nothing.
#[derive(Debug, Clone)]
pub struct Settlement {
    pub names: [Option<EventRow>; 2],
    pub becomes: LedgerEntry,
    /// How long `becomes` is remembered.
    pub window: Duration,
    /// What holds if this can't be written.
    pub if_lost: AttemptHistory,
    /// `None` keeps no record.
    pub delivery: Option<DeliveryChange>,
}

/// A name of an event, with the row that it has from earlier attempts.
#[derive(Debug, Clone, Copy)]
pub struct EventRow {
    pub key: EventKey,
    pub earlier: Option<RowId>,
}

/// What becomes of a delivery's record.
#[derive(Debug, Clone)]
pub struct DeliveryChange {
    /// Its record from earlier attempts.
    pub earlier: Option<DeliveryId>,
    pub event: Arc<EventMetadata>,
    pub state: DeliveryState,
    /// Attempts so far, this one included.
    pub history: AttemptHistory,
    pub attempt: Option<AttemptRecord>,
    /// To be kept. Needed for `State::Pending`.
    pub payload: Option<Payload>,
    /// When a pending delivery is due.
    pub due_after: Duration,
}

/// What a delivery is of.
#[derive(Debug, Clone)]
pub struct EventMetadata {
    pub route: Arc<str>,
    pub event_id: Arc<str>,
    pub event_type: Arc<str>,
    pub received_at: Timestamp,
    /// The name of the secret that verified it.
    pub secret: Arc<str>,
    /// Made by the gateway itself, as an operator asked.
    pub is_test: bool,
}

/// What is needed to deliver later.
#[derive(Debug, Clone)]
pub struct Payload {
    pub head: Bytes,
    pub body: Bytes,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeliveryState {
    /// Handed over.
    Success,
    /// Tried without success while the sender waited; the sender's retry passes.
    Failed,
    /// Stored, and to be tried.
    Pending,
    /// Stored, and given up.
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

/// What follows on an attempt at a stored event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// Handed over.
    Done {
        keep_payload: bool,
    },
    Retry {
        after: Duration,
        possibly_delivered: bool,
    },
    Dead(DeadLetterReason),
}

/// A route as the store has to know it.
#[derive(Debug, Clone)]
pub struct StoreRoute {
    pub route: Arc<str>,
    pub retain: Retain,
    /// Attempts at its stored events at once: that many may be of unknown outcome after a crash.
    pub concurrency: usize,
}

/// The wish to deliver again.
#[derive(Debug, Clone)]
pub struct Requeue {
    pub id: DeliveryId,
    /// Only if it still stands so.
    pub expected_state: Option<DeliveryState>,
    pub due: DueAt,
    /// Names of its event where the ledger has to learn that it is stored.
    pub completing: Vec<EventRow>,
    /// How long the ledger remembers those.
    pub window: Duration,
}

/// When an event is due. Its time goes on while no gateway runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueAt(pub(super) Uptime);

impl DueAt {
    pub fn after(self, pause: Duration) -> Self {
        Self(self.0.after(pause))
    }
}

/// What became of the wish to deliver again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequeueResult {
    /// It waits, on this route.
    Queued(Arc<str>),
    /// There is no such delivery, or it stands otherwise than was asked for.
    Unknown,
    /// Its payload is not kept.
    NoPayload,
    /// A copy of its event is being handed over by another gateway.
    InFlight,
}

/// A count of what operators changed, among gateways that share a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Revision(pub(super) i64);
