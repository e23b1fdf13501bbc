//! Which events are remembered, and where their rows are: 12 bytes an event, in many small tables.
//!
//! An entry is a fingerprint and a place. A fingerprint that fits proves nothing, the row is read to be sure; one that
//! does not fit proves that the event is new, which is what nearly every request is. A table grows or is swept under
//! its own lock, some thousand entries at a time, so that nobody waits long.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::{EventKey, RowId};
use crate::store::uptime::Uptime;

/// A power of two. At 20 million events each holds some 5,000.
const SHARDS: usize = 4096;

/// Rows lie in buckets by the hour in which they end, so that expiry takes whole stretches of the table away.
const BUCKET: u64 = 3_600_000;

impl RowId {
    /// The first place of the bucket for what ends at `ends`.
    #[expect(
        clippy::cast_possible_wrap,
        reason = "hours since a store was made, shifted by 32, are far from 63 bits"
    )]
    pub(super) fn first_of_bucket(ends: Uptime) -> Self {
        Self(
            (ends.0 / BUCKET)
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
    /// In two halves, so that an entry has 12 bytes, not 16.
    place: [u32; 2],
}

impl Entry {
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "taken apart and put together again"
    )]
    fn new(fingerprint: u32, place: RowId) -> Self {
        let bits = place.0 as u64;
        Self {
            fingerprint,
            place: [(bits >> 32) as u32, bits as u32],
        }
    }

    #[expect(clippy::cast_possible_wrap, reason = "as above")]
    fn place(&self) -> RowId {
        RowId((u64::from(self.place[0]) << 32 | u64::from(self.place[1])) as i64)
    }

    fn hash(&self) -> u64 {
        spread(self.fingerprint)
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

    /// Where the event's row may be: nowhere else, and seldom in more than one place.
    pub(super) fn find(&self, key: EventKey) -> Vec<RowId> {
        let fingerprint = fingerprint(key);
        let shard = lock(self.shard(key));
        let same = shard
            .iter_hash(spread(fingerprint))
            .filter(|entry| entry.fingerprint == fingerprint);
        same.map(Entry::place).collect()
    }

    pub(super) fn insert(&self, key: EventKey, place: RowId) {
        let fingerprint = fingerprint(key);
        lock(self.shard(key)).insert_unique(
            spread(fingerprint),
            Entry::new(fingerprint, place),
            Entry::hash,
        );
        self.len.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, key: EventKey, place: RowId) {
        let fingerprint = fingerprint(key);
        let mut shard = lock(self.shard(key));
        let is_it = |entry: &Entry| entry.fingerprint == fingerprint && entry.place() == place;
        if let Ok(entry) = shard.find_entry(spread(fingerprint), is_it) {
            entry.remove();
            self.len.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets all places before `first`, a shard at a time.
    pub(super) fn forget_before(&self, first: RowId) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let before = shard.len();
            shard.retain(|entry| entry.place() >= first);
            self.len.fetch_sub(before - shard.len(), Ordering::Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        for shard in &self.shards {
            lock(shard).clear();
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
    reason = "the low quarter is as good as any"
)]
fn fingerprint(key: EventKey) -> u32 {
    key.0 as u32
}

/// The table takes its tag from the top bits of a hash and its place from the low ones.
fn spread(fingerprint: u32) -> u64 {
    u64::from(fingerprint).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn lock(shard: &Mutex<HashTable<Entry>>) -> MutexGuard<'_, HashTable<Entry>> {
    // No call under the lock panics half way.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_takes_twelve_bytes() {
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
        // Few keys and few shards, so that they meet.
        let key = || (0u128..4, 0u128..3).prop_map(|(shard, low)| shard << 116 | low);
        prop_oneof![
            6 => (key(), 0u64..10).prop_map(|(key, hour)| Step::Insert(key, hour)),
            2 => key().prop_map(Step::Remove),
            1 => (0u64..12).prop_map(Step::ForgetBefore),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_map(steps in prop::collection::vec(step(), 0..300)) {
            let index = Index::new();
            let mut model: HashMap<u128, RowId> = HashMap::new();
            for (number, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(key, hour) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                        let place = RowId(RowId::first_of_bucket(Uptime(hour * BUCKET)).0 + number);
                        index.insert(EventKey(key), place);
                        model.insert(key, place);
                    }
                    Step::Remove(key) => {
                        if let Some(old) = model.remove(&key) {
                            index.remove(EventKey(key), old);
                        }
                    }
                    Step::ForgetBefore(hour) => {
                        let first = RowId::first_of_bucket(Uptime(hour * BUCKET));
                        index.forget_before(first);
                        model.retain(|_, place| *place >= first);
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
