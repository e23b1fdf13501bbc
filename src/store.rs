//! What is remembered of events, in the domain's own verbs.
//!
//! The ledger above asks and tells; it does not know which engine keeps the answers. One engine exists today, in
//! memory; the durable ones become further variants of [`Store`] and pass the same tests.

mod memory;

use std::time::Duration;

use crate::clock::Clock;
use crate::signature::PayloadDigest;
use memory::Memory;

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
