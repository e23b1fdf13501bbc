//! An in-memory index of the remembered events and their ledger rows: 12 bytes for each event, in
//! many small tables.
//!
//! An entry is a fingerprint and a row ID. A fingerprint that matches proves nothing, so the row is
//! read to be sure. One that does not match proves that the event is new, as nearly every event is.
//! A table grows or is swept under its own lock, a few thousand entries at a time, so that no
//! caller waits long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::{EventKey, RowId};
use crate::store::uptime::Uptime;

/// The number of tables, a power of two. At 20 million events each holds some 5,000 entries.
const SHARDS: usize = 4096;

/// The width of a bucket, in milliseconds: one hour. Rows are ordered by the hour in which they
/// expire, so that expiry deletes whole ranges of the table.
const BUCKET_MS: u64 = 3_600_000;

impl RowId {
    /// Returns the first row ID of the bucket for entries that expire at `ends`.
    #[expect(
        clippy::cast_possible_wrap,
        reason = "hours since a store was made, shifted by 32, are far from 63 bits"
    )]
    pub(super) fn first_of_bucket(ends: Uptime) -> Self {
        Self(
            (ends.0 / BUCKET_MS)
                .min(u64::from(u32::MAX >> 1))
                .wrapping_shl(32) as i64,
        )
    }

    pub(super) fn bucket(self) -> i64 {
        self.0 >> 32
    }
}

struct Entry {
    fingerprint: u32,
    /// The row ID in two halves, so that an entry takes 12 bytes instead of 16.
    row_id: [u32; 2],
}

impl Entry {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "split into halves and joined again"
    )]
    fn new(fingerprint: u32, row_id: RowId) -> Self {
        let bits = row_id.0 as u64;
        Self {
            fingerprint,
            row_id: [(bits >> 32) as u32, bits as u32],
        }
    }

    #[expect(clippy::cast_possible_wrap, reason = "as above")]
    fn row_id(&self) -> RowId {
        RowId((u64::from(self.row_id[0]) << 32 | u64::from(self.row_id[1])) as i64)
    }

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

    /// Returns the rows that may be the event's. There are no others, and there is seldom more than
    /// one.
    pub(super) fn find(&self, key: EventKey) -> Vec<RowId> {
        let fingerprint = fingerprint(key);
        let shard = lock_shard(self.shard(key));
        let same = shard
            .iter_hash(hash_fingerprint(fingerprint))
            .filter(|entry| entry.fingerprint == fingerprint);
        same.map(Entry::row_id).collect()
    }

    pub(super) fn insert(&self, key: EventKey, row_id: RowId) {
        let fingerprint = fingerprint(key);
        lock_shard(self.shard(key)).insert_unique(
            hash_fingerprint(fingerprint),
            Entry::new(fingerprint, row_id),
            Entry::hash,
        );
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: EventKey, row_id: RowId) {
        let fingerprint = fingerprint(key);
        let mut shard = lock_shard(self.shard(key));
        let is_it = |entry: &Entry| entry.fingerprint == fingerprint && entry.row_id() == row_id;
        if let Ok(entry) = shard.find_entry(hash_fingerprint(fingerprint), is_it) {
            entry.remove();
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Removes all rows before `first`, locking one shard at a time.
    pub(super) fn forget_before(&self, first: RowId) {
        for shard in &self.shards {
            let mut shard = lock_shard(shard);
            let before = shard.len();
            shard.retain(|entry| entry.row_id() >= first);
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
    fn entry_takes_twelve_bytes() {
        assert_eq!(size_of::<Entry>(), 12);
    }

    #[test]
    fn keys_that_share_shard_and_fingerprint_are_both_found() {
        let index = Index::new();
        let (one, other) = (EventKey(7), EventKey(7 | 1 << 64));
        index.insert(one, RowId(1));
        index.insert(other, RowId(2));
        let mut found = index.find(one);
        found.sort();
        assert_eq!(found, [RowId(1), RowId(2)]);
        index.remove(one, RowId(1));
        assert_eq!(index.find(other), [RowId(2)]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u128, u64),
        Remove(u128),
        ForgetBefore(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Few keys and few shards, so that they collide.
        let key = || (0u128..4, 0u128..3).prop_map(|(shard, low)| shard << 116 | low);
        prop_oneof![
            6 => (key(), 0u64..10).prop_map(|(key, hour)| Step::Insert(key, hour)),
            2 => key().prop_map(Step::Remove),
            1 => (0u64..12).prop_map(Step::ForgetBefore),
        ]
    }

    proptest! {
        #[test]
        fn index_agrees_with_a_map(steps in prop::collection::vec(step(), 0..300)) {
            let index = Index::new();
            let mut model: HashMap<u128, RowId> = HashMap::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(key, hour) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                        let bucket = RowId::first_of_bucket(Uptime(hour * BUCKET_MS));
                        let row_id = RowId(bucket.0 + number);
                        index.insert(EventKey(key), row_id);
                        model.insert(key, row_id);
                    }
                    Step::Remove(key) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                    }
                    Step::ForgetBefore(hour) => {
                        let first = RowId::first_of_bucket(Uptime(hour * BUCKET_MS));
                        index.forget_before(first);
                        model.retain(|_, row_id| *row_id >= first);
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
