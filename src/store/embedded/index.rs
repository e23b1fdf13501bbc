//! An in-memory index of the remembered events and the slots of their ledger rows: 8 bytes for each
//! event, in many small tables.
//!
//! An entry is a fingerprint and a slot. A fingerprint that matches proves nothing, so the row is
//! read to be sure. One that does not match proves that the event is new, as nearly every event is.
//! A table grows or is swept under its own lock, a few thousand entries at a time, so that no
//! caller waits long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::EventKey;
use super::ledger_file::EXTENT_SLOTS;

/// The number of tables, a power of two. At 20 million events each holds some 5,000 entries.
const SHARDS: usize = 4096;

struct Entry {
    fingerprint: u32,
    slot: u32,
}

impl Entry {
    fn hash(&self) -> u64 {
        hash_fingerprint(self.fingerprint)
    }
}

pub(super) struct Index {
    shards: Box<[Mutex<HashTable<Entry>>]>,
    len: AtomicUsize,
}

impl Index {
    pub(super) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }

    /// Returns the slots of the rows that may be the event's. There are no others, and there is seldom
    /// more than one.
    pub(super) fn find(&self, key: EventKey) -> Vec<u32> {
        let fingerprint = fingerprint(key);
        let shard = lock_shard(self.shard(key));
        let same = shard
            .iter_hash(hash_fingerprint(fingerprint))
            .filter(|entry| entry.fingerprint == fingerprint);
        same.map(|entry| entry.slot).collect()
    }

    pub(super) fn insert(&self, key: EventKey, slot: u32) {
        let fingerprint = fingerprint(key);
        lock_shard(self.shard(key)).insert_unique(
            hash_fingerprint(fingerprint),
            Entry { fingerprint, slot },
            Entry::hash,
        );
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: EventKey, slot: u32) {
        let fingerprint = fingerprint(key);
        let mut shard = lock_shard(self.shard(key));
        let is_it = |entry: &Entry| entry.fingerprint == fingerprint && entry.slot == slot;
        if let Ok(entry) = shard.find_entry(hash_fingerprint(fingerprint), is_it) {
            entry.remove();
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes all rows of these extents, locking one shard at a time.
    pub(super) fn forget_extents(&self, expired: &[bool]) {
        let is_expired = |slot: u32| {
            let extent = slot / EXTENT_SLOTS;
            expired.get(extent as usize).copied().unwrap_or(false)
        };
        for shard in &self.shards {
            let mut shard = lock_shard(shard);
            let before = shard.len();
            shard.retain(|entry| !is_expired(entry.slot));
            self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            lock_shard(shard).clear();
        }
        self.len.store(0, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    fn shard(&self, key: EventKey) -> &Mutex<HashTable<Entry>> {
        // The top bits choose the shard, the low ones are the fingerprint.
        &self.shards[(key.0 >> 116) as usize % SHARDS]
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "any 32 bits of the hash will do"
)]
fn fingerprint(key: EventKey) -> u32 {
    key.0 as u32
}

/// Spreads a fingerprint over 64 bits, because the hash table uses the top bits as a tag and the
/// low bits as a position.
fn hash_fingerprint(fingerprint: u32) -> u64 {
    u64::from(fingerprint).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn lock_shard(shard: &Mutex<HashTable<Entry>>) -> MutexGuard<'_, HashTable<Entry>> {
    // No operation under the lock panics halfway, so a poisoned lock is safe to use.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entry_takes_eight_bytes() {
        assert_eq!(size_of::<Entry>(), 8);
    }

    #[test]
    fn keys_that_share_shard_and_fingerprint_are_both_found() {
        let index = Index::new();
        let (one, other) = (EventKey(7), EventKey(7 | 1 << 64));
        index.insert(one, 1);
        index.insert(other, 2);
        let mut found = index.find(one);
        found.sort_unstable();
        assert_eq!(found, [1, 2]);
        index.remove(one, 1);
        assert_eq!(index.find(other), [2]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A key, and the extent of its row.
        Insert(u128, u32),
        Remove(u128),
        Forget(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Few keys and few shards, so that they collide.
        let key = || (0u128..4, 0u128..3).prop_map(|(shard, low)| shard << 116 | low);
        prop_oneof![
            6 => (key(), 0u32..10).prop_map(|(key, extent)| Step::Insert(key, extent)),
            2 => key().prop_map(Step::Remove),
            1 => (0u32..12).prop_map(Step::Forget),
        ]
    }

    proptest! {
        #[test]
        fn index_agrees_with_a_map(steps in prop::collection::vec(step(), 0..300)) {
            let index = Index::new();
            let mut model: HashMap<u128, u32> = HashMap::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(key, extent) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                        let slot = extent * EXTENT_SLOTS + number;
                        index.insert(EventKey(key), slot);
                        model.insert(key, slot);
                    }
                    Step::Remove(key) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                    }
                    Step::Forget(extent) => {
                        let mut expired = vec![false; extent as usize + 1];
                        expired[extent as usize] = true;
                        index.forget_extents(&expired);
                        model.retain(|_, slot| *slot / EXTENT_SLOTS != extent);
                    }
                }
                prop_assert_eq!(index.len(), model.len());
                for shard in 0..4 {
                    for low in 0..3 {
                        let key = shard << 116 | low;
                        let found = index.find(EventKey(key));
                        prop_assert_eq!(found.first(), model.get(&key));
                        prop_assert!(found.len() <= 1);
                    }
                }
            }
        }
    }
}
