//! The front of each route's queue in memory: events that this gateway has leased, with their
//! payloads. A route worker that keeps up with what its own gateway stores asks the database for
//! nothing, and one that is behind asks for many events at once.
//!
//! Owns which events are held, and how many may be. Everything here is in the database as well, as
//! leased by this gateway and perhaps begun; so a crash leaves the events to the other gateways, as
//! possible duplicates, when their leases lapse.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lease_batches::{LeaseBatch, LeaseBatches};
use super::query::timestamp;
use crate::store::delivery_state::StoredDelivery;
use crate::store::{
    AttemptHistory, DeliveryId, DeliveryIdentity, DueEvent, DueEvents, LeaseDeadline, Payload,
    QueuedEvent,
};

/// The limit of payloads that wait in memory, over all routes, in bytes.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// The limit of events that a route holds beyond those that it can attempt at once.
const AHEAD_MAX: usize = 256;
/// The time in which attempts have ended that are counted: a route holds as many events beyond its
/// free places as it is about to attempt. So no event waits in one gateway that another could attempt.
const AHEAD_WINDOW: Duration = Duration::from_millis(50);
/// The limit of events that are leased at once.
const LEASED_AT_ONCE_MAX: usize = 256;
/// The limit of payloads that are leased at once, in bytes. A part of the whole, so that the fronts can
/// lease at the same time.
const LEASED_AT_ONCE_BYTES_MAX: usize = 4 << 20;
/// The pause before the events of a lost batch are searched for again, which may be committed late.
const ADOPT_INTERVAL: Duration = Duration::from_secs(1);
/// The age from which on a lease is renewed.
const RENEWED_AFTER: Duration = Duration::from_secs(2);

/// The place of an event in its route's queue: the time at which it is due, in milliseconds, then its
/// number.
pub(super) type Place = (i64, DeliveryId);

/// A lease of this gateway on an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// The time at which the statement that made it was sent.
    pub from: Instant,
    pub lasts: Duration,
}

/// An event that this gateway has leased.
#[derive(Debug, Clone)]
pub(super) struct LeasedEvent {
    pub place: Place,
    pub identity: DeliveryIdentity,
    /// The row.
    pub stored: StoredDelivery,
    pub event_type: Arc<str>,
    /// The age of the event when the lease began.
    pub age: Duration,
    /// `None` if the payload is read before the attempt, because it is large.
    pub payload: Option<Payload>,
    pub payload_bytes: usize,
    pub lease: Lease,
}

/// An attempt in progress.
#[derive(Debug)]
struct Attempting {
    route: Arc<str>,
    /// The row as it is since this gateway has leased it, if it was kept.
    known: Option<(DeliveryIdentity, StoredDelivery)>,
}

/// The fronts of all routes whose workers ask for events.
#[derive(Default)]
pub(super) struct QueueFronts(Mutex<Fronts>);

#[derive(Default)]
struct Fronts {
    routes: HashMap<Arc<str>, Front>,
    /// The events that workers were given and have not loaded.
    handed_out: HashMap<DeliveryId, LeasedEvent>,
    attempting: HashMap<DeliveryId, Attempting>,
    /// The routes for which events are being leased.
    leasing: HashSet<Arc<str>>,
    batches: LeaseBatches,
    /// The payloads that wait or are about to, in bytes.
    waiting_bytes: usize,
    /// The number of fronts that were opened.
    opened: u64,
}

/// The front of one queue.
struct Front {
    /// Tells the front from an earlier one of its route, whose events were released.
    generation: u64,
    /// The number of attempts that the worker makes at once, and of those in progress.
    concurrency: usize,
    busy: usize,
    waiting: BTreeMap<Place, LeasedEvent>,
    /// The number of events that are being stored for the front.
    reserved: usize,
    /// The database may have due events that are not held: what is stored now must not overtake them.
    may_have_more: bool,
    /// The number of times that such events were stored.
    stored_elsewhere: u64,
    /// The time at which an event becomes due that the database has.
    next_due: Option<Instant>,
    ended: RecentEnds,
}

/// The number of attempts that have ended lately.
#[derive(Debug)]
struct RecentEnds {
    window_from: Instant,
    current: usize,
    previous: usize,
}

/// Due events for a worker, and whether it has to lease some.
pub(super) struct HandedOut {
    pub due: DueEvents,
    /// The database may have more, and nothing is leasing them.
    pub to_lease: Option<Leasing>,
}

/// The right to lease events for a front.
pub(super) struct Leasing {
    fronts: Arc<QueueFronts>,
    route: Arc<str>,
    generation: u64,
    /// The number of events to lease.
    pub limit: usize,
    /// The limit of the payloads to read with them, in bytes.
    pub bytes: usize,
    stored_elsewhere: u64,
}

/// Leased events for a front.
pub(super) struct LeasedEvents {
    /// The number of their batch.
    pub batch: i64,
    /// The time at which the statement was sent.
    pub from: Instant,
    pub events: Vec<LeasedEvent>,
    /// The time until the next one is due, if that was looked up.
    pub next_in: Option<Duration>,
}

/// Room for an event that is being stored.
pub(super) struct Reservation {
    fronts: Arc<QueueFronts>,
    route: Arc<str>,
    generation: u64,
    bytes: usize,
}

impl QueueFronts {
    /// Hands out the first due events of a route, up to `limit`. `in_flight` are the events that its
    /// worker has.
    pub(super) fn hand_out(
        self: &Arc<Self>,
        route: &Arc<str>,
        in_flight: &[DeliveryId],
        limit: usize,
    ) -> HandedOut {
        let now = Instant::now();
        let mut fronts = self.lock();
        fronts.forget_ended(route, in_flight);
        let fronts = &mut *fronts;
        let front = fronts.routes.entry(Arc::clone(route)).or_insert_with(|| {
            fronts.opened += 1;
            Front::new(fronts.opened, now)
        });
        (front.concurrency, front.busy) = (in_flight.len() + limit, in_flight.len());
        if front.next_due.is_some_and(|due| due <= now) {
            front.next_due = None;
            front.may_have_more = true;
        }
        let mut events = Vec::new();
        while events.len() < limit
            && let Some((_, event)) = front.waiting.pop_first()
        {
            fronts.waiting_bytes -= event.held_bytes();
            // If it could not be renewed, another gateway may have the event.
            if event.lease.has_lapsed(now) {
                front.may_have_more = true;
                continue;
            }
            let (_, id) = event.place;
            events.push(DueEvent {
                id,
                payload_bytes: event.payload_bytes,
            });
            fronts.handed_out.insert(id, event);
        }
        front.busy += events.len();
        let due = DueEvents {
            is_complete: events.len() < limit && !front.may_have_more,
            events,
            next_in: front.next_due.map(|due| due.saturating_duration_since(now)),
        };
        let free_bytes = WAITING_BYTES_MAX.saturating_sub(fronts.waiting_bytes);
        let to_lease = front
            .leases_now(now, free_bytes)
            .filter(|_| fronts.leasing.insert(Arc::clone(route)))
            .map(|limit| Leasing {
                fronts: Arc::clone(self),
                route: Arc::clone(route),
                generation: front.generation,
                limit,
                bytes: free_bytes.min(LEASED_AT_ONCE_BYTES_MAX),
                stored_elsewhere: front.stored_elsewhere,
            });
        fronts.waiting_bytes += to_lease.as_ref().map_or(0, |leasing| leasing.bytes);
        HandedOut { due, to_lease }
    }

    /// Reserves room for an event that is being stored, if its route's worker is about to attempt it.
    pub(super) fn reserve(self: &Arc<Self>, route: &Arc<str>, bytes: usize) -> Option<Reservation> {
        let now = Instant::now();
        let mut fronts = self.lock();
        let is_room = fronts.waiting_bytes + bytes <= WAITING_BYTES_MAX;
        let front = fronts.routes.get_mut(route).filter(|_| is_room)?;
        let is_next = !front.may_have_more && front.next_due.is_none_or(|due| due > now);
        if !is_next || front.room(now) == 0 {
            front.may_have_more = true;
            return None;
        }
        front.reserved += 1;
        let generation = front.generation;
        fronts.waiting_bytes += bytes;
        Some(Reservation {
            fronts: Arc::clone(self),
            route: Arc::clone(route),
            generation,
            bytes,
        })
    }

    /// Takes note that the database has due events of a route that are not held.
    pub(super) fn mark_stored_elsewhere(&self, route: &str) {
        if let Some(front) = self.lock().routes.get_mut(route) {
            front.mark_stored_elsewhere();
        }
    }

    /// Takes note that the database may have due events of any route.
    pub(super) fn mark_all_stored_elsewhere(&self) {
        for front in self.lock().routes.values_mut() {
            front.mark_stored_elsewhere();
        }
    }

    /// Returns an event that was handed out, for an attempt that needs a lease for so long. Returns
    /// `None` if it has to be loaded from the database.
    pub(super) fn load(
        &self,
        route: &Arc<str>,
        id: DeliveryId,
        needed: Duration,
    ) -> Option<QueuedEvent> {
        let mut fronts = self.lock();
        let event = fronts.handed_out.remove(&id)?;
        if event.stored.route != *route || event.lease.left() < needed {
            return None;
        }
        let (queued, identity, stored) = event.into_queued()?;
        let known = Some((identity, stored));
        let route = Arc::clone(route);
        fronts.attempting.insert(id, Attempting { route, known });
        Some(queued)
    }

    /// Takes note that an event was loaded from the database for an attempt.
    pub(super) fn begin(&self, route: &Arc<str>, id: DeliveryId) {
        let route = Arc::clone(route);
        let attempting = Attempting { route, known: None };
        self.lock().attempting.insert(id, attempting);
    }

    /// Returns the row of an event that is being attempted, if it is known.
    pub(super) fn row(&self, id: DeliveryId, identity: DeliveryIdentity) -> Option<StoredDelivery> {
        let fronts = self.lock();
        let (known, stored) = fronts.attempting.get(&id)?.known.as_ref()?;
        (*known == identity).then(|| stored.clone())
    }

    /// Takes note that the outcome of an attempt was recorded. If there is another attempt, it is due
    /// `after` this time.
    pub(super) fn end(&self, id: DeliveryId, after: Option<Duration>) {
        let now = Instant::now();
        let mut fronts = self.lock();
        let Some(ended) = fronts.attempting.remove(&id) else {
            return;
        };
        let Some(front) = fronts.routes.get_mut(&ended.route) else {
            return;
        };
        front.busy = front.busy.saturating_sub(1);
        front.ended.add(now);
        if let Some(due) = after.and_then(|after| now.checked_add(after)) {
            front.next_due = Some(front.next_due.map_or(due, |next| next.min(due)));
        }
    }

    /// Ends the front of a route, until its worker asks for events again. Returns the places of the
    /// events that wait in it, whose leases the caller releases.
    pub(super) fn close(&self, route: &str) -> Vec<Place> {
        let mut fronts = self.lock();
        let Some(front) = fronts.routes.remove(route) else {
            return Vec::new();
        };
        let waiting = front.waiting.values().map(LeasedEvent::held_bytes);
        fronts.waiting_bytes -= waiting.sum::<usize>();
        front.waiting.into_keys().collect()
    }

    /// Forgets events that were handed out, and that are not attempted. Returns those of them that were
    /// held, each with its route.
    pub(super) fn forget(&self, ids: &[DeliveryId]) -> Vec<(Arc<str>, Place)> {
        let mut fronts = self.lock();
        let mut held = Vec::new();
        for id in ids {
            let Some(event) = fronts.handed_out.remove(id) else {
                continue;
            };
            if let Some(front) = fronts.routes.get_mut(&event.stored.route) {
                front.busy = front.busy.saturating_sub(1);
                front.may_have_more = true;
            }
            held.push((event.stored.route, event.place));
        }
        held
    }

    /// Returns the events whose leases have to be renewed.
    pub(super) fn to_renew(&self) -> Vec<(DeliveryId, Lease)> {
        let fronts = self.lock();
        let waiting = fronts
            .routes
            .values()
            .flat_map(|front| front.waiting.values());
        waiting
            .chain(fronts.handed_out.values())
            .filter(|event| event.lease.from.elapsed() >= RENEWED_AFTER)
            .map(|event| (event.place.1, event.lease))
            .collect()
    }

    /// Takes note of a renewal that began at `from`. Forgets those of the events that this gateway has
    /// lost, but not one that it has leased again meanwhile.
    pub(super) fn renew(
        &self,
        asked: &[(DeliveryId, Lease)],
        renewed: &HashSet<DeliveryId>,
        from: Instant,
    ) {
        let mut fronts = self.lock();
        let fronts = &mut *fronts;
        let asked: HashMap<_, _> = asked.iter().map(|(id, lease)| (*id, lease.from)).collect();
        let keep = |id: DeliveryId, event: &mut LeasedEvent| {
            if asked.get(&id) != Some(&event.lease.from) {
                return true;
            }
            let is_renewed = renewed.contains(&id);
            if is_renewed {
                event.age += from.saturating_duration_since(event.lease.from);
                event.lease.from = from;
            }
            is_renewed
        };
        fronts.handed_out.retain(|id, event| keep(*id, event));
        for front in fronts.routes.values_mut() {
            front.waiting.retain(|(_, id), event| {
                let is_kept = keep(*id, event);
                if !is_kept {
                    fronts.waiting_bytes -= event.held_bytes();
                }
                is_kept
            });
        }
    }

    /// Returns the number of the batch of events that are leased as they are stored.
    pub(super) fn next_batch(&self) -> i64 {
        self.lock().batches.next()
    }

    /// Takes note that events of a route were perhaps stored and leased with this batch, from a floor
    /// on, and that the reply was lost.
    pub(super) fn lose(&self, route: &Arc<str>, batch: i64, floor: i64) {
        self.lock()
            .batches
            .lose(route, batch, floor, Instant::now());
    }

    fn lock(&self) -> MutexGuard<'_, Fronts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fronts {
    /// Forgets the attempts that have ended without an outcome. Their leases lapse.
    fn forget_ended(&mut self, route: &str, in_flight: &[DeliveryId]) {
        let is_over = |of: &str, id: &DeliveryId| of == route && !in_flight.contains(id);
        self.handed_out
            .retain(|id, event| !is_over(&event.stored.route, id));
        self.attempting
            .retain(|id, attempting| !is_over(&attempting.route, id));
    }

    /// Returns the front of a route, if it was not closed since.
    fn front(&mut self, route: &str, generation: u64) -> Option<&mut Front> {
        let front = self.routes.get_mut(route);
        front.filter(|front| front.generation == generation)
    }

    /// Adds leased events to a front. Returns the places of those that it does not take, because it was
    /// closed: a later front of the route could attempt others before them.
    fn add(&mut self, route: &str, generation: u64, events: Vec<LeasedEvent>) -> Vec<Place> {
        let held: usize = events.iter().map(LeasedEvent::held_bytes).sum();
        let Some(front) = self.front(route, generation) else {
            return events.into_iter().map(|event| event.place).collect();
        };
        let places = events.into_iter().map(|event| (event.place, event));
        // One whose lease lapsed while it waited may be leased again.
        let earlier = places.filter_map(|(place, event)| front.waiting.insert(place, event));
        let replaced: usize = earlier.map(|event| event.held_bytes()).sum();
        self.waiting_bytes = (self.waiting_bytes + held).saturating_sub(replaced);
        Vec::new()
    }
}

impl Front {
    fn new(generation: u64, now: Instant) -> Self {
        Self {
            generation,
            concurrency: 0,
            busy: 0,
            waiting: BTreeMap::new(),
            reserved: 0,
            may_have_more: true,
            stored_elsewhere: 0,
            next_due: None,
            ended: RecentEnds {
                window_from: now,
                current: 0,
                previous: 0,
            },
        }
    }

    fn mark_stored_elsewhere(&mut self) {
        self.may_have_more = true;
        self.stored_elsewhere += 1;
    }

    /// Returns the number of events that the front may hold beside those that it has.
    fn room(&mut self, now: Instant) -> usize {
        let free = self.concurrency.saturating_sub(self.busy);
        let ahead = self.ended.count(now).min(AHEAD_MAX);
        (free + ahead).saturating_sub(self.waiting.len() + self.reserved)
    }

    /// Returns how many events are to be leased now, if any, while so many bytes of payloads may be
    /// held.
    fn leases_now(&mut self, now: Instant, free_bytes: usize) -> Option<usize> {
        let room = self.room(now);
        // A few at a time would cost a statement each. But a worker without any waits for the first.
        let is_worth_it = self.waiting.is_empty() || room >= self.waiting.len() && free_bytes > 0;
        let limit = room.min(LEASED_AT_ONCE_MAX);
        (self.may_have_more && is_worth_it && limit > 0).then_some(limit)
    }
}

impl RecentEnds {
    fn add(&mut self, now: Instant) {
        self.advance(now);
        self.current += 1;
    }

    /// Returns the number of attempts that ended in this window and the one before.
    fn count(&mut self, now: Instant) -> usize {
        self.advance(now);
        self.current + self.previous
    }

    fn advance(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.window_from);
        if passed < AHEAD_WINDOW {
            return;
        }
        self.previous = if passed < AHEAD_WINDOW * 2 {
            self.current
        } else {
            0
        };
        self.current = 0;
        self.window_from = now;
    }
}

impl Leasing {
    /// Begins a statement that leases events from a floor on.
    pub(super) fn send(&self, floor: i64, now: Instant) -> LeaseBatch {
        let mut fronts = self.fronts.lock();
        fronts.batches.send(&self.route, floor, now)
    }

    /// Takes note that the server has cancelled the statement of this number.
    pub(super) fn cancelled(&self, number: i64, recent: i64) {
        let mut fronts = self.fronts.lock();
        fronts.batches.cancelled(&self.route, number, recent);
    }

    /// Takes over the leased events. Returns the places of those whose leases are to be released,
    /// because the front was closed meanwhile.
    pub(super) fn add(&mut self, leased: LeasedEvents) -> Vec<Place> {
        let now = Instant::now();
        let is_complete = leased.events.len() < self.limit;
        let mut fronts = self.fronts.lock();
        let some_are_lost =
            fronts
                .batches
                .answered(&self.route, leased.batch, leased.from, is_complete);
        fronts.waiting_bytes -= std::mem::take(&mut self.bytes);
        let refused = fronts.add(&self.route, self.generation, leased.events);
        if let Some(front) = fronts.front(&self.route, self.generation)
            && is_complete
        {
            front.may_have_more = front.stored_elsewhere != self.stored_elsewhere;
            let next = leased.next_in.and_then(|next_in| now.checked_add(next_in));
            let adopts_again = some_are_lost.then_some(now + ADOPT_INTERVAL);
            // An attempt may have ended since, whose event is due earlier.
            let known = [next, adopts_again, front.next_due];
            front.next_due = known.into_iter().flatten().min();
        }
        refused
    }
}

impl Drop for Leasing {
    fn drop(&mut self) {
        let mut fronts = self.fronts.lock();
        fronts.waiting_bytes -= self.bytes;
        fronts.leasing.remove(&self.route);
    }
}

impl Reservation {
    /// Holds the event, which is stored now. Returns its place if it has to be released instead,
    /// because the front was closed meanwhile.
    pub(super) fn fill(self, event: LeasedEvent) -> Option<Place> {
        let mut fronts = self.fronts.lock();
        fronts.add(&self.route, self.generation, vec![event]).pop()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut fronts = self.fronts.lock();
        fronts.waiting_bytes -= self.bytes;
        if let Some(front) = fronts.front(&self.route, self.generation) {
            front.reserved -= 1;
        }
    }
}

impl Lease {
    fn left(&self) -> Duration {
        self.lasts.saturating_sub(self.from.elapsed())
    }

    fn has_lapsed(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.from) >= self.lasts
    }
}

impl LeasedEvent {
    /// Returns the size of the payload if it is held in memory, in bytes.
    fn held_bytes(&self) -> usize {
        let payload = self.payload.as_ref();
        payload.map_or(0, |payload| payload.head.len() + payload.body.len())
    }

    /// Returns the event for an attempt, with its row. Returns `None` if its payload is not here.
    fn into_queued(self) -> Option<(QueuedEvent, DeliveryIdentity, StoredDelivery)> {
        let progress = &self.stored.progress;
        let queued = QueuedEvent {
            identity: self.identity,
            event_id: (&*self.stored.event_id).into(),
            event_type: self.event_type,
            history: AttemptHistory {
                attempts: progress.tried,
                possibly_delivered: progress.possibly_delivered,
            },
            received_at: timestamp(self.stored.received_ms),
            age: self.age.saturating_add(self.lease.from.elapsed()),
            payload: Some(self.payload?),
            deadline: LeaseDeadline(self.lease.from.checked_add(self.lease.lasts)),
        };
        Some((queued, self.identity, self.stored))
    }
}

#[cfg(test)]
mod tests;
