//! The engine that keeps records in memory and forgets them on exit.
//!
//! Expiry needs no scan: each shard keeps its records' ends in a heap and takes the few that are due off its top
//! whenever it is written to. Time is monotonic, so a wall clock that jumps expires nothing early.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{EventKey, Record, StoreError};
use crate::clock::Clock;

/// Enough that a shard's growth stalls nobody for long, and that two cores seldom meet at one lock.
const SHARDS: usize = 256;

/// How many due records one write takes away at the most: bounded work, and still faster than records come.
const EXPIRIES_PER_WRITE: usize = 16;

pub struct Memory {
    clock: Clock,
    capacity: usize,
    len: AtomicUsize,
    completed: AtomicUsize,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Default)]
struct Shard {
    records: HashMap<EventKey, Kept, BuildHasherDefault<KeyBits>>,
    ends: BinaryHeap<Reverse<(Instant, EventKey)>>,
}

struct Kept {
    record: Record,
    ends: Instant,
}

impl Memory {
    pub(super) fn new(clock: Clock, capacity: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { clock, capacity, len: AtomicUsize::new(0), completed: AtomicUsize::new(0), shards }
    }

    pub(super) fn check_room(&self) -> Result<(), StoreError> {
        if self.len.load(Ordering::Relaxed) < self.capacity {
            return Ok(());
        }
        let now = self.clock.now();
        for shard in &self.shards {
            let expired = lock(shard).expire(now, usize::MAX);
            self.forgot(&expired);
        }
        if self.len.load(Ordering::Relaxed) < self.capacity { Ok(()) } else { Err(StoreError::Full) }
    }

    pub(super) fn recall(&self, key: EventKey) -> Option<Record> {
        let shard = lock(self.shard(key));
        let kept = shard.records.get(&key)?;
        (self.clock.now() < kept.ends).then_some(kept.record)
    }

    pub(super) fn put(&self, key: EventKey, record: Record, window: Duration) {
        let now = self.clock.now();
        let ends = now + window;
        let mut shard = lock(self.shard(key));
        let mut gone = shard.expire(now, EXPIRIES_PER_WRITE);
        self.len.fetch_add(1, Ordering::Relaxed);
        self.completed.fetch_add(usize::from(record.is_completed()), Ordering::Relaxed);
        match shard.records.insert(key, Kept { record, ends }) {
            Some(replaced) => gone.add(replaced.record),
            // One end a record: that of an older writing is put off when it comes.
            None => shard.ends.push(Reverse((ends, key))),
        }
        drop(shard);
        self.forgot(&gone);
    }

    pub(super) fn completed(&self) -> usize {
        self.completed.load(Ordering::Relaxed)
    }

    fn forgot(&self, gone: &Gone) {
        self.len.fetch_sub(gone.records, Ordering::Relaxed);
        self.completed.fetch_sub(gone.completed, Ordering::Relaxed);
    }

    fn shard(&self, key: EventKey) -> &Mutex<Shard> {
        // The top bits choose the shard, the low ones the place in it.
        let number = (key.0 >> 96) as usize % SHARDS;
        &self.shards[number]
    }
}

/// Records that are no longer held.
#[derive(Default)]
struct Gone {
    records: usize,
    completed: usize,
}

impl Gone {
    fn add(&mut self, record: Record) {
        self.records += 1;
        self.completed += usize::from(record.is_completed());
    }
}

impl Shard {
    /// Takes at most `limit` due ends off the heap, and the records that went with them. A record that was written
    /// again since has a later end, and waits for that one.
    fn expire(&mut self, now: Instant, limit: usize) -> Gone {
        let mut expired = Gone::default();
        for _ in 0..limit {
            let Some(&Reverse((due, key))) = self.ends.peek() else { break };
            if due > now {
                break;
            }
            self.ends.pop();
            let Some(kept) = self.records.get(&key) else { continue };
            if kept.ends > now {
                self.ends.push(Reverse((kept.ends, key)));
                continue;
            }
            expired.add(kept.record);
            self.records.remove(&key);
        }
        expired
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // A panic can't leave a shard half written: every change to it is one call that does not panic.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keys are the output of a keyed hash already; hashing them again would add nothing.
#[derive(Default)]
struct KeyBits(u64);

impl Hasher for KeyBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is as good as any")]
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Tried;

    const WINDOW: Duration = Duration::from_secs(100);

    fn tried(attempts: u32) -> Record {
        Record::Tried(Tried { attempts, possibly_delivered: false })
    }

    #[test]
    fn a_record_lives_exactly_as_long_as_its_window() {
        let (clock, hand) = Clock::manual();
        let memory = Memory::new(clock, 10);
        memory.put(EventKey(1), tried(1), WINDOW);
        hand.advance(WINDOW.saturating_sub(Duration::from_nanos(1)));
        assert_eq!(memory.recall(EventKey(1)), Some(tried(1)));
        hand.advance(Duration::from_nanos(1));
        assert_eq!(memory.recall(EventKey(1)), None);
    }

    #[test]
    fn a_record_written_again_lives_on_from_then() {
        let (clock, hand) = Clock::manual();
        let memory = Memory::new(clock, 10);
        memory.put(EventKey(1), tried(1), WINDOW);
        hand.advance(WINDOW / 2);
        memory.put(EventKey(1), tried(2), WINDOW);
        hand.advance(WINDOW / 2);
        memory.put(EventKey(2), tried(1), WINDOW);
        assert_eq!(memory.recall(EventKey(1)), Some(tried(2)));
        assert_eq!(memory.len.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_record_written_over_and_over_takes_the_room_of_one() {
        let memory = Memory::new(Clock::System, 10);
        for attempts in 0..10_000 {
            memory.put(EventKey(1), tried(attempts), WINDOW);
        }
        assert_eq!(lock(memory.shard(EventKey(1))).ends.len(), 1);
    }

    #[test]
    fn a_full_store_says_so_and_has_room_again_when_records_expire() {
        let (clock, hand) = Clock::manual();
        let memory = Memory::new(clock, 2);
        memory.put(EventKey(1), tried(1), WINDOW);
        memory.put(EventKey(2), tried(1), WINDOW);
        assert_eq!(memory.check_room(), Err(StoreError::Full));
        assert!(memory.recall(EventKey(1)).is_some(), "nothing is forgotten before its time");
        hand.advance(WINDOW);
        assert_eq!(memory.check_room(), Ok(()));
        assert_eq!(memory.len.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map_that_scans(
            steps in prop::collection::vec((0u128..8, 0u32..4, 1u64..50, 0u64..30), 0..200),
        ) {
            let (clock, hand) = Clock::manual();
            let memory = Memory::new(clock.clone(), usize::MAX);
            let mut model: HashMap<u128, (u32, Instant)> = HashMap::new();
            for (key, attempts, window, wait) in steps {
                // Shards are chosen by the top bits: one shard for all keys makes them meet.
                memory.put(EventKey(key), tried(attempts), Duration::from_secs(window));
                model.insert(key, (attempts, clock.now() + Duration::from_secs(window)));
                hand.advance(Duration::from_secs(wait));
                for key in 0..8 {
                    let expected = model.get(&key).filter(|(_, ends)| clock.now() < *ends);
                    prop_assert_eq!(memory.recall(EventKey(key)), expected.map(|(attempts, _)| tried(*attempts)));
                }
            }
            hand.advance(Duration::from_secs(1_000));
            memory.check_room().unwrap();
        }
    }
}
