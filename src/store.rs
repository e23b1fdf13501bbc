//! What is remembered of events, in the domain's own verbs.
//!
//! The ledger above asks and tells; it does not know which engine keeps the answers. One engine exists today, in
//! memory; the durable ones become further variants of [`Store`] and pass the same tests.

mod memory;

use std::path::PathBuf;
use std::time::Duration;

use crate::clock::Clock;
use crate::signature::PayloadDigest;
use memory::Memory;

/// Where and how the store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The store's own folder. Made when it is missing.
    pub folder: PathBuf,
    pub durability: Durability,
    /// Event IDs that are remembered at the most; above it, new events get 503.
    pub max_ids: usize,
    /// Bytes on disk from which on new events get 503; `None` leaves it to the disk.
    pub max_bytes: Option<u64>,
}

/// What an answer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Until the disk has it: survives the loss of power.
    Strict,
    /// Until the system has it: survives the end of the process, not the loss of power.
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

/// Which payloads are kept after the end. Those of queued events and of dead letters are kept in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payloads {
    None,
    Failed,
    All,
}

/// Names one event on one route: a keyed 128-bit hash, so that nobody outside can aim a collision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventKey(pub u128);

/// What is known of an event that was seen before and is not in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// Handed over. Never to be forwarded again while this record lives.
    Completed { digest: PayloadDigest },
    /// Tried without success; the next copy is forwarded.
    Tried(Tried),
}

impl Record {
    fn is_completed(self) -> bool {
        matches!(self, Self::Completed { .. })
    }
}

/// The failed attempts at an event so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    pub attempts: u32,
    /// Whether any of them may have been processed all the same, its answer being lost.
    pub possibly_delivered: bool,
}

/// The store can't do what it must. Nothing is forwarded without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the ledger is full: as many event IDs are remembered as may be, and none is forgotten before its time")]
    Full,
}

/// The memory of events.
pub enum Store {
    Memory(Memory),
}

impl Store {
    /// A store that forgets on exit and holds at most `capacity` records.
    pub fn in_memory(clock: Clock, capacity: usize) -> Self {
        Self::Memory(Memory::new(clock, capacity))
    }

    /// Makes sure that one more record can be kept, before anything is forwarded on the strength of it.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub fn check_room(&self) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.check_room(),
        }
    }

    /// What is known of the event.
    ///
    /// # Errors
    /// When the store can't tell.
    #[expect(clippy::unused_async, reason = "a durable store answers from disk or over a network")]
    pub async fn recall(&self, key: EventKey) -> Result<Option<Record>, StoreError> {
        match self {
            Self::Memory(memory) => Ok(memory.recall(key)),
        }
    }

    /// Remembers, for `window` from now, that the event was handed over. When this returns, it is as durable as the
    /// engine promises.
    ///
    /// # Errors
    /// When that is not certain.
    #[expect(clippy::unused_async, reason = "a durable store waits for the disk")]
    pub async fn complete(&self, key: EventKey, digest: PayloadDigest, window: Duration) -> Result<(), StoreError> {
        match self {
            Self::Memory(memory) => memory.put(key, Record::Completed { digest }, window),
        }
        Ok(())
    }

    /// Remembers, for `window` from now, failed attempts. No answer hangs on it, so it neither waits nor fails.
    pub fn note_tried(&self, key: EventKey, tried: Tried, window: Duration) {
        match self {
            Self::Memory(memory) => memory.put(key, Record::Tried(tried), window),
        }
    }

    /// Completed events that are remembered now.
    pub fn completed(&self) -> usize {
        match self {
            Self::Memory(memory) => memory.completed(),
        }
    }
}
