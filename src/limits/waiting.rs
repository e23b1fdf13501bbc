//! The requests that wait for their sender: unverified ones, and responses that are not read.
//!
//! Three totals bind them: the number of HTTP/2 requests, and the bytes of small and of large ones.
//! Over a total, the oldest request of the largest holder is displaced until the rest fits.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::IntGauge;
use tokio::sync::{Notify, oneshot};

use super::totals::{Bytes, Exhausted, Size, to_gauge};
use crate::client_network::ClientNetwork;

/// The list of waiting requests, and the slots of HTTP/2 requests.
pub(super) struct WaitingPool {
    /// The free slots; below zero, the number of requests that wait for one.
    free_slots: AtomicIsize,
    state: Mutex<State>,
}

/// The right of one unverified HTTP/2 request to take memory, released on drop.
pub(super) struct Slot<'a> {
    pool: &'a WaitingPool,
    /// Set if the request was displaced, so that its slot is expected back.
    pub was_displaced: bool,
}

/// The memory and the slot that a waiting request holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub bytes: usize,
    pub is_stream: bool,
    /// Set if the request has a slot that a newcomer may wait for.
    pub has_slot: bool,
}

/// A request's place on the list.
#[derive(Debug)]
pub(super) struct Ticket {
    /// The number of the request, in the order of arrival.
    number: u64,
    /// Notified when the request is displaced.
    pub displaced: Arc<Notify>,
}

/// The totals of bytes at this moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub bytes: Bytes,
    /// The bytes that large verified requests hold.
    pub verified_large: usize,
}

struct State {
    streams_max: usize,
    requests: HashMap<u64, Entry>,
    /// The holders that have a request on the list.
    holders: HashMap<ClientNetwork, Shares>,
    used: Shares,
    /// Follows the bytes on the list.
    gauge: IntGauge,
    next_number: u64,
    /// The requests that wait for a slot, in the order of their arrival.
    newcomers: VecDeque<oneshot::Sender<()>>,
    /// The slots released for requests that are about to join `newcomers`.
    passed_on: usize,
    /// The displaced requests that have not released their slot yet.
    releasing: usize,
}

struct Entry {
    holder: ClientNetwork,
    held: Held,
    /// The total that its bytes count in. Where a reload changes the totals, they stay there.
    size: Size,
    displaced: Arc<Notify>,
}

/// The shares of one holder, or of all.
#[derive(Default)]
struct Shares {
    streams: Share,
    small: Share,
    large: Share,
}

#[derive(Default)]
struct Share {
    used: usize,
    /// The requests, in the order of their arrival.
    requests: BTreeSet<u64>,
}

/// A total that can be exceeded.
#[derive(Debug, Clone, Copy)]
enum Total {
    Streams,
    Bytes(Size),
}

impl WaitingPool {
    pub(super) fn new(streams_max: usize, gauge: IntGauge) -> Self {
        Self {
            free_slots: AtomicIsize::new(streams_max.cast_signed()),
            state: Mutex::new(State {
                streams_max,
                requests: HashMap::new(),
                holders: HashMap::new(),
                used: Shares::default(),
                gauge,
                next_number: 0,
                newcomers: VecDeque::new(),
                passed_on: 0,
                releasing: 0,
            }),
        }
    }

    /// Lists a request. If a total is then exceeded, displaces requests, possibly this one.
    pub(super) fn list(&self, holder: ClientNetwork, held: Held, room: Room) -> Ticket {
        let mut state = self.lock();
        let number = state.next_number;
        state.next_number += 1;
        let displaced = Arc::new(Notify::new());
        let entry = Entry {
            holder,
            held,
            size: room.bytes.size_of(held.bytes),
            displaced: Arc::clone(&displaced),
        };
        state.insert(number, entry);
        state.make_room(room);
        state.make_slots();
        Ticket { number, displaced }
    }

    /// Changes the bytes that a listed request holds.
    ///
    /// # Errors
    /// Fails when the request was displaced before, or is displaced by this call.
    pub(super) fn update(
        &self,
        ticket: &Ticket,
        bytes: usize,
        room: Room,
    ) -> Result<(), Exhausted> {
        let mut state = self.lock();
        let mut entry = state.remove(ticket.number).ok_or(Exhausted)?;
        entry.held.bytes = bytes;
        entry.size = room.bytes.size_of(bytes);
        state.insert(ticket.number, entry);
        state.make_room(room);
        if state.requests.contains_key(&ticket.number) {
            Ok(())
        } else {
            Err(Exhausted)
        }
    }

    /// Removes a request that no longer waits. Returns `false` if it was displaced before.
    pub(super) fn remove(&self, ticket: &Ticket) -> bool {
        self.lock().remove(ticket.number).is_some()
    }

    /// Acquires a slot. If there is none, displaces the oldest request of the largest holder and
    /// waits for its slot.
    pub(super) async fn acquire_slot(&self) -> Slot<'_> {
        if self.free_slots.fetch_sub(1, Ordering::AcqRel) <= 0
            && let Some(passed_on) = self.join_newcomers()
        {
            // This cannot fail: the channel's other end stays in `newcomers` until it is used.
            let _ = passed_on.await;
        }
        Slot {
            pool: self,
            was_displaced: false,
        }
    }

    /// Queues for a slot. Returns `None` if one has been released meanwhile.
    fn join_newcomers(&self) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.passed_on > 0 {
            state.passed_on -= 1;
            return None;
        }
        let (pass_on, passed_on) = oneshot::channel();
        state.newcomers.push_back(pass_on);
        state.make_slots();
        Some(passed_on)
    }

    fn release_slot(&self, was_displaced: bool) {
        let somebody_waits = self.free_slots.fetch_add(1, Ordering::AcqRel) < 0;
        if !somebody_waits && !was_displaced {
            return;
        }
        let mut state = self.lock();
        if was_displaced {
            state.releasing = state.releasing.saturating_sub(1);
        }
        if !somebody_waits {
            return;
        }
        while let Some(newcomer) = state.newcomers.pop_front() {
            if newcomer.send(()).is_ok() {
                return;
            }
            // That request has ended while it waited: its slot goes to the next one.
            if self.free_slots.fetch_add(1, Ordering::AcqRel) >= 0 {
                return;
            }
        }
        state.passed_on += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn free_slots(&self) -> usize {
        usize::try_from(self.free_slots.load(Ordering::Relaxed)).unwrap_or(0)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.holders.is_empty() && state.requests.is_empty() && state.used.is_empty()
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.pool.release_slot(self.was_displaced);
    }
}

impl State {
    fn insert(&mut self, number: u64, entry: Entry) {
        self.gauge.add(to_gauge(entry.held.bytes));
        let size = entry.size;
        let shares = self.holders.entry(entry.holder).or_default();
        for shares in [shares, &mut self.used] {
            shares
                .get_mut(Total::Bytes(size))
                .add(number, entry.held.bytes);
            if entry.held.is_stream {
                shares.streams.add(number, 1);
            }
        }
        self.requests.insert(number, entry);
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.requests.remove(&number)?;
        self.gauge.sub(to_gauge(entry.held.bytes));
        let size = entry.size;
        let shares = self.holders.entry(entry.holder).or_default();
        for shares in [&mut *shares, &mut self.used] {
            shares
                .get_mut(Total::Bytes(size))
                .sub(number, entry.held.bytes);
            if entry.held.is_stream {
                shares.streams.sub(number, 1);
            }
        }
        if shares.is_empty() {
            self.holders.remove(&entry.holder);
        }
        Some(entry)
    }

    /// Displaces requests until the rest is within the totals.
    fn make_room(&mut self, room: Room) {
        while self.used.streams.used > self.streams_max && self.displace(Total::Streams) {}
        let small = Total::Bytes(Size::Small);
        while self.used.small.used > room.bytes.small() && self.displace(small) {}
        let large = Total::Bytes(Size::Large);
        while self.used.large.used > self.large_total(room) && self.displace(large) {}
    }

    /// Returns the total of large waiting requests. The only one on the list may use all bytes that
    /// large verified requests do not hold.
    fn large_total(&self, room: Room) -> usize {
        let total = match self.used.large.requests.len() {
            0 | 1 => room.bytes.total,
            _ => room.bytes.large(),
        };
        total.saturating_sub(room.verified_large)
    }

    /// Displaces requests until each waiting newcomer can expect the slot of a displaced one.
    fn make_slots(&mut self) {
        while self.newcomers.len() > self.releasing && self.displace(Total::Streams) {}
    }

    /// Displaces the oldest request of the holder with the largest share. Returns `false` if there
    /// is no request.
    fn displace(&mut self, total: Total) -> bool {
        let oldest = self
            .holders
            .values()
            .filter_map(|shares| {
                let share = shares.get(total);
                Some((share.used, *share.requests.first()?))
            })
            // If several holders have the largest share, the one whose oldest request came first.
            .max_by_key(|&(used, oldest)| (used, u64::MAX - oldest));
        let Some((_, oldest)) = oldest else {
            return false;
        };
        let Some(entry) = self.remove(oldest) else {
            return false;
        };
        self.releasing += usize::from(entry.held.has_slot);
        entry.displaced.notify_one();
        true
    }
}

impl Shares {
    fn get(&self, total: Total) -> &Share {
        match total {
            Total::Streams => &self.streams,
            Total::Bytes(Size::Small) => &self.small,
            Total::Bytes(Size::Large) => &self.large,
        }
    }

    fn get_mut(&mut self, total: Total) -> &mut Share {
        match total {
            Total::Streams => &mut self.streams,
            Total::Bytes(Size::Small) => &mut self.small,
            Total::Bytes(Size::Large) => &mut self.large,
        }
    }

    fn is_empty(&self) -> bool {
        self.small.requests.is_empty() && self.large.requests.is_empty()
    }
}

impl Share {
    fn add(&mut self, number: u64, amount: usize) {
        self.used += amount;
        self.requests.insert(number);
    }

    fn sub(&mut self, number: u64, amount: usize) {
        self.used -= amount;
        self.requests.remove(&number);
    }
}
