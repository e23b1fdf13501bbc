//! The front of each route's queue in memory: the order of the events that are due first, and
//! events that were stored just now or are read ahead. A route worker that keeps up reads nothing
//! from the file.
//!
//! Everything here is in the file as well, so it may be dropped at any time. It changes with each
//! commit, before the callers of the commit get their replies. So it never shows what the file no
//! longer has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;

use super::{AttemptHistory, DeliveryId, DueEvent, DueEvents, LeaseDeadline, Payload, QueuedEvent};
use crate::store::uptime::Uptime;
use crate::store::{DeliveryIdentity, EventMetadata};

/// The limit of payloads in memory, over all routes, in bytes. A route may hold as much as is free:
/// one alone gets half of it, some 4,000 events of 1 KiB, and leaves as much to the next. A worker
/// that is further behind reads the rest from the file.
const HELD_BYTES_MAX: usize = 16 << 20;

/// The approximate memory that an event takes besides its payload, in bytes.
const EVENT_BYTES: usize = 512;

/// The largest body that is copied, in bytes. A body of one chunk, which has at most this size, may
/// be a part of a larger buffer. One of several chunks is in a buffer of at most twice its size.
const COPIED_MAX: usize = 64 << 10;

/// The limits of events that are read ahead in one query.
const AHEAD_MAX: usize = 32;
const AHEAD_BYTES_MAX: usize = 1 << 20;

/// The limit of events that a route has in its order, unless its worker asks for more at once. The
/// next ones are read from the file in one query.
const ORDER_MIN: usize = 512;

/// The place of an event in its route's queue: the time at which it is due, then its number.
pub(super) type Place = (Uptime, DeliveryId);

/// The place before all others.
const FIRST: Place = (Uptime(0), DeliveryId(i64::MIN));

/// The fronts of all queues, which the writer changes and the route workers read.
#[derive(Default)]
pub(super) struct QueueFronts(Mutex<Fronts>);

#[derive(Default)]
struct Fronts {
    /// The routes whose workers asked for events.
    routes: HashMap<Arc<str>, Front>,
    held: HashMap<DeliveryId, HeldEvent>,
    held_bytes: usize,
    /// The events that are being read ahead and have not changed meanwhile, each with the number of
    /// the read.
    reading: HashMap<DeliveryId, u64>,
    reads: u64,
}

/// The front of one queue.
#[derive(Default)]
struct Front {
    order: Order,
    /// The memory of the route's held events, in bytes.
    held_bytes: usize,
}

/// The pending events of a route that come first.
struct Order {
    /// All pending events before `end`, each with the size of its payload.
    events: BTreeMap<Place, usize>,
    /// The first place whose event may be missing; `None` if no event is.
    end: Option<Place>,
    /// The limit of events.
    max: usize,
}

/// An event as the file has it.
#[derive(Debug, Clone)]
pub(super) struct HeldEvent {
    pub route: Arc<str>,
    /// The time from which the event's age counts.
    pub queued: Uptime,
    /// The event, with an age of 0.
    pub event: QueuedEvent,
}

/// A change of the pending events that a transaction made.
#[derive(Debug)]
pub(super) enum FrontChange {
    /// An event was stored, attempted or queued again. It had and has these places while pending.
    Placed {
        route: Arc<str>,
        before: Option<Place>,
        after: Option<(Place, usize)>,
    },
    /// An event was stored with its payload.
    Stored(DeliveryId, HeldEvent),
    /// The first pending events were read.
    Read { route: Arc<str>, read: FirstEvents },
    /// Nothing is known of the route's queue any more.
    Forgotten(Arc<str>),
}

/// The first pending events of a route, as the file has them.
#[derive(Debug)]
pub(super) struct FirstEvents {
    pub events: Vec<(Place, usize)>,
    /// The place of the next one.
    pub end: Option<Place>,
    /// The limit of events that was read with.
    pub max: usize,
}

/// Returns the last place of an event that is due.
fn last_due(now: Uptime) -> Place {
    (now, DeliveryId(i64::MAX))
}

/// Returns the number of events to read for a worker that asks for `rows` at once.
pub(super) fn events_to_read(rows: usize) -> usize {
    rows.saturating_mul(2).max(ORDER_MIN)
}

impl QueueFronts {
    /// Applies the changes of a committed transaction, in their order.
    pub(super) fn apply(&self, changes: Vec<FrontChange>) {
        if changes.is_empty() {
            return;
        }
        let mut fronts = self.lock();
        for change in changes {
            fronts.apply(change);
        }
    }

    /// Returns the first `rows` due events of a route. Returns `None` if the file must be read for
    /// them.
    pub(super) fn due_events(&self, route: &str, now: Uptime, rows: usize) -> Option<DueEvents> {
        self.lock().routes.get(route)?.order.due_events(now, rows)
    }

    /// Returns an event, which is in memory no longer. Returns `None` if the file must be read for
    /// it.
    pub(super) fn load(&self, route: &str, id: DeliveryId) -> Option<HeldEvent> {
        self.lock().load(route, id)
    }

    /// Reads the due events ahead that come after `id` in its route's queue.
    pub(super) fn read_ahead(
        &self,
        route: &str,
        id: DeliveryId,
        now: Uptime,
        read: impl Fn(DeliveryId) -> Option<HeldEvent>,
    ) {
        let (number, ids) = self.lock().begin_reading(route, id, now);
        if ids.is_empty() {
            return;
        }
        let events: Vec<_> = ids.into_iter().map(|id| (id, read(id))).collect();
        self.lock().end_reading(number, events);
    }

    /// Forgets the routes that are not active.
    pub(super) fn keep_routes(&self, active: &HashSet<&str>) {
        let mut fronts = self.lock();
        let removed: Vec<_> = fronts
            .routes
            .keys()
            .filter(|route| !active.contains(&***route))
            .cloned()
            .collect();
        for route in removed {
            fronts.forget(&route);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Fronts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fronts {
    fn apply(&mut self, change: FrontChange) {
        match change {
            FrontChange::Placed {
                route,
                before,
                after,
            } => {
                if let Some((_, id)) = before {
                    self.reading.remove(&id);
                    self.release(id);
                }
                if let Some(front) = self.routes.get_mut(&route) {
                    front.order.change(before, after);
                }
            }
            FrontChange::Stored(id, mut event) => {
                if self.may_hold(&event.route, event.bytes()) {
                    event.copy_body();
                    self.hold(id, event);
                }
            }
            FrontChange::Read { route, read } => {
                self.routes.entry(route).or_default().order = Order::from(read);
            }
            FrontChange::Forgotten(route) => self.forget(&route),
        }
    }

    /// Returns whether a route may hold so many bytes more. A route that no worker asks for holds
    /// nothing.
    fn may_hold(&self, route: &str, bytes: usize) -> bool {
        let free = HELD_BYTES_MAX.saturating_sub(self.held_bytes);
        let front = self.routes.get(route);
        front.is_some_and(|front| front.held_bytes + bytes <= free)
    }

    fn hold(&mut self, id: DeliveryId, event: HeldEvent) {
        self.release(id);
        let Some(front) = self.routes.get_mut(&event.route) else {
            return;
        };
        let bytes = event.bytes();
        front.held_bytes += bytes;
        self.held_bytes += bytes;
        self.held.insert(id, event);
    }

    /// Returns the number of a read and the events to read ahead.
    fn begin_reading(
        &mut self,
        route: &str,
        id: DeliveryId,
        now: Uptime,
    ) -> (u64, Vec<DeliveryId>) {
        self.reads += 1;
        let (mut ids, mut bytes) = (Vec::new(), 0);
        if let Some(front) = self.routes.get(route) {
            let due = front.order.events.range(..=last_due(now));
            let next = due.skip_while(|((_, first), _)| *first != id).skip(1);
            for (&(_, next), payload_bytes) in next {
                bytes += payload_bytes;
                if ids.len() >= AHEAD_MAX || bytes > AHEAD_BYTES_MAX {
                    break;
                }
                if !self.held.contains_key(&next) && !self.reading.contains_key(&next) {
                    ids.push(next);
                }
            }
        }
        self.reading.extend(ids.iter().map(|id| (*id, self.reads)));
        (self.reads, ids)
    }

    /// Holds the events that were read ahead and have not changed meanwhile.
    fn end_reading(&mut self, number: u64, read: Vec<(DeliveryId, Option<HeldEvent>)>) {
        for (id, event) in read {
            if self.reading.get(&id) != Some(&number) {
                continue;
            }
            self.reading.remove(&id);
            let Some(event) = event.filter(|event| event.event.payload.is_some()) else {
                continue;
            };
            if self.may_hold(&event.route, event.bytes()) {
                self.hold(id, event);
            }
        }
    }

    fn load(&mut self, route: &str, id: DeliveryId) -> Option<HeldEvent> {
        let is_of_route = |event: &HeldEvent| &*event.route == route;
        if !self.held.get(&id).is_some_and(is_of_route) {
            return None;
        }
        self.release(id)
    }

    fn release(&mut self, id: DeliveryId) -> Option<HeldEvent> {
        let event = self.held.remove(&id)?;
        let bytes = event.bytes();
        self.held_bytes -= bytes;
        if let Some(front) = self.routes.get_mut(&event.route) {
            front.held_bytes -= bytes;
        }
        Some(event)
    }

    fn clear(&mut self) {
        *self = Self {
            reads: self.reads,
            ..Self::default()
        };
    }

    fn forget(&mut self, route: &str) {
        // Of which route they are is not known.
        self.reading.clear();
        let Some(front) = self.routes.remove(route) else {
            return;
        };
        self.held_bytes -= front.held_bytes;
        if front.held_bytes > 0 {
            self.held.retain(|_, event| &*event.route != route);
        }
    }
}

impl Default for Order {
    /// Returns an order that knows no event.
    fn default() -> Self {
        Self {
            events: BTreeMap::new(),
            end: Some(FIRST),
            max: ORDER_MIN,
        }
    }
}

impl From<FirstEvents> for Order {
    fn from(read: FirstEvents) -> Self {
        Self {
            events: read.events.into_iter().collect(),
            end: read.end,
            max: read.max,
        }
    }
}

impl Order {
    fn change(&mut self, before: Option<Place>, after: Option<(Place, usize)>) {
        if let Some(before) = before {
            self.events.remove(&before);
        }
        let Some((place, payload_bytes)) = after else {
            return;
        };
        if self.end.is_some_and(|end| place >= end) {
            return;
        }
        self.events.insert(place, payload_bytes);
        if self.events.len() > self.max
            && let Some((last, _)) = self.events.pop_last()
        {
            self.end = Some(last);
        }
    }

    /// Returns the first `rows` due events, or `None` if one of them may be missing.
    fn due_events(&self, now: Uptime, rows: usize) -> Option<DueEvents> {
        let last_due = last_due(now);
        let due = self.events.range(..=last_due).take(rows);
        let events: Vec<_> = due
            .map(|(&(_, id), &payload_bytes)| DueEvent { id, payload_bytes })
            .collect();
        let is_complete = events.len() < rows;
        if is_complete && self.end.is_some_and(|end| end <= last_due) {
            return None;
        }
        let next = self.events.range(last_due..).next();
        let next = next.map(|(place, _)| *place).or(self.end);
        Some(DueEvents {
            events,
            is_complete,
            next_in: next.map(|(due, _)| due.since(now)),
        })
    }
}

impl HeldEvent {
    /// Returns an event that is being stored.
    pub(super) fn stored(
        metadata: &EventMetadata,
        history: AttemptHistory,
        queued: Uptime,
        payload: Payload,
    ) -> Self {
        let received_at = metadata.received_at;
        let event = QueuedEvent {
            identity: DeliveryIdentity::default(),
            event_id: Arc::clone(&metadata.event_id),
            event_type: Arc::clone(&metadata.event_type),
            history,
            // As precise as the file has it.
            received_at: Timestamp::from_millisecond(received_at.as_millisecond())
                .unwrap_or(received_at),
            age: Duration::ZERO,
            payload: Some(payload),
            deadline: LeaseDeadline::UNLIMITED,
        };
        Self {
            route: Arc::clone(&metadata.route),
            queued,
            event,
        }
    }

    /// Returns the event for an attempt.
    pub(super) fn into_queued(self, now: Uptime) -> QueuedEvent {
        QueuedEvent {
            age: now.since(self.queued),
            ..self.event
        }
    }

    /// Returns the memory that the event takes, in bytes.
    fn bytes(&self) -> usize {
        let payload = self.event.payload.as_ref();
        EVENT_BYTES
            + payload.map_or(0, |payload| {
                let body = payload.body.len();
                payload.head.len() + if body > COPIED_MAX { 2 * body } else { body }
            })
    }

    /// Gives the event a body that is no part of a larger buffer.
    fn copy_body(&mut self) {
        if let Some(payload) = &mut self.event.payload
            && payload.body.len() <= COPIED_MAX
        {
            payload.body = Bytes::copy_from_slice(&payload.body);
        }
    }
}

#[cfg(test)]
mod tests;
