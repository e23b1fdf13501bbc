//! The places for connections: their number, the share of each client, and who loses a place.
//!
//! Pure bookkeeping. It refuses no newcomer: where places run out, the connection loses its place
//! that has shown no token for the longest time.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::client_network::ClientNetwork;

/// The places for all requests: more than operators, their pages and Prometheus open.
const PLACES: usize = 256;

/// The places of one address, so that one client cannot displace all others.
const PLACES_PER_ADDRESS: usize = PLACES / 2;

/// Further places, for one health check each.
const HEALTH_PLACES: usize = 16;

/// The age at which a connection without a token ends, and the time after its last token at which
/// another one does. Such a connection cannot be displaced meanwhile.
const LIFETIME: Duration = Duration::from_secs(60);

/// The age at which a connection in a health place ends.
const HEALTH_LIFETIME: Duration = Duration::from_secs(10);

/// The places of a listener.
#[derive(Default)]
pub(super) struct Places(Mutex<Table>);

#[derive(Default)]
struct Table {
    taken: HashMap<u64, Taken>,
    last_number: u64,
}

struct Taken {
    client: ClientNetwork,
    kind: PlaceKind,
    since: Instant,
    /// The time of the last request with a token or a session.
    verified: Option<Instant>,
    displaced: Arc<Notify>,
}

/// The requests that a connection may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceKind {
    Any,
    /// One request, for `/healthz` or `/readyz`.
    Health,
}

/// The place of one connection, free again on drop.
pub(in crate::admin) struct Place {
    places: Arc<Places>,
    number: u64,
    kind: PlaceKind,
    displaced: Arc<Notify>,
}

impl Places {
    /// Gives a place to a new connection from `peer`.
    pub(super) fn assign(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Place {
        let client = ClientNetwork::of_address(peer);
        let displaced = Arc::new(Notify::new());
        let mut table = self.table();
        let kind = table.make_room(client, now);
        table.last_number += 1;
        let number = table.last_number;
        table.taken.insert(
            number,
            Taken {
                client,
                kind,
                since: now,
                verified: None,
                displaced: Arc::clone(&displaced),
            },
        );
        Place {
            places: Arc::clone(self),
            number,
            kind,
            displaced,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Returns the kind of place that is free for `client`, after displacing a connection if need
    /// be.
    fn make_room(&mut self, client: ClientNetwork, now: Instant) -> PlaceKind {
        let (mut total, mut by_client) = (0, HashMap::new());
        for taken in self.of_kind(PlaceKind::Any).map(|(_, taken)| taken) {
            total += 1;
            *by_client.entry(taken.client).or_insert(0) += 1;
        }
        let own = by_client.get(&client).copied().unwrap_or(0);
        if total < PLACES && own < PLACES_PER_ADDRESS {
            return PlaceKind::Any;
        }
        let loser = self
            .of_kind(PlaceKind::Any)
            .filter(|(_, taken)| own < PLACES_PER_ADDRESS || taken.client == client)
            .filter(|(_, taken)| !taken.is_verified(now))
            .max_by_key(|(number, taken)| (by_client.get(&taken.client), Reverse(**number)))
            .map(|(number, _)| *number);
        if let Some(loser) = loser {
            self.displace(loser);
            return PlaceKind::Any;
        }
        if self.of_kind(PlaceKind::Health).count() >= HEALTH_PLACES {
            let oldest = self.of_kind(PlaceKind::Health).map(|(number, _)| *number);
            if let Some(oldest) = oldest.min() {
                self.displace(oldest);
            }
        }
        PlaceKind::Health
    }

    fn of_kind(&self, kind: PlaceKind) -> impl Iterator<Item = (&u64, &Taken)> {
        let taken = self.taken.iter();
        taken.filter(move |(_, taken)| taken.kind == kind)
    }

    fn displace(&mut self, number: u64) {
        if let Some(taken) = self.taken.remove(&number) {
            taken.displaced.notify_one();
        }
    }
}

impl Taken {
    fn is_verified(&self, now: Instant) -> bool {
        self.verified
            .is_some_and(|at| now.saturating_duration_since(at) < LIFETIME)
    }
}

impl Place {
    pub(super) fn kind(&self) -> PlaceKind {
        self.kind
    }

    /// Keeps the place for a connection that has shown a token or a session.
    pub(in crate::admin) fn keep(&self, now: Instant) {
        if let Some(taken) = self.places.table().taken.get_mut(&self.number) {
            taken.verified = Some(now);
        }
    }

    /// Waits until another connection has taken the place.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }

    /// Returns the time at which the connection ends, unless it shows a token before. `None` if it
    /// has lost its place.
    pub(super) fn end(&self) -> Option<Instant> {
        let table = self.places.table();
        let taken = table.taken.get(&self.number)?;
        Some(match taken.kind {
            PlaceKind::Any => taken.verified.unwrap_or(taken.since) + LIFETIME,
            PlaceKind::Health => taken.since + HEALTH_LIFETIME,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        format!("192.0.2.{number}").parse().unwrap()
    }

    fn is_displaced(place: &Place) -> bool {
        place.end().is_none()
    }

    #[test]
    fn full_address_displaces_its_own_oldest() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let other = places.assign(address(2), now);
        let own: Vec<_> = (0..PLACES_PER_ADDRESS)
            .map(|_| places.assign(address(1), now))
            .collect();
        own[0].keep(now);
        let newcomer = places.assign(address(1), now);
        assert_eq!(newcomer.kind(), PlaceKind::Any);
        let displaced = own.iter().position(is_displaced);
        assert_eq!((displaced, is_displaced(&other)), (Some(1), false));
    }

    #[test]
    fn full_listener_displaces_the_largest_holders_oldest() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let few: Vec<_> = (0..PLACES - PLACES_PER_ADDRESS)
            .map(|number| places.assign(address(number + 100), now))
            .collect();
        let many: Vec<_> = (0..PLACES_PER_ADDRESS)
            .map(|_| places.assign(address(1), now))
            .collect();
        let newcomer = places.assign(address(2), now);
        assert_eq!(newcomer.kind(), PlaceKind::Any);
        assert!(is_displaced(&many[0]) && !few.iter().any(is_displaced));
    }

    #[test]
    fn health_checks_have_places_when_all_others_are_kept() {
        let (places, now) = (Arc::new(Places::default()), Instant::now());
        let kept: Vec<_> = (0..PLACES)
            .map(|number| places.assign(address(number % 2), now))
            .collect();
        for place in &kept {
            place.keep(now);
        }
        let health: Vec<_> = (0..=HEALTH_PLACES)
            .map(|_| places.assign(address(9), now))
            .collect();
        assert!(health.iter().all(|place| place.kind() == PlaceKind::Health));
        assert!(is_displaced(&health[0]) && !is_displaced(&health[1]));
        assert!(!kept.iter().any(is_displaced));
        let later = places.assign(address(9), now + LIFETIME);
        assert_eq!(later.kind(), PlaceKind::Any, "tokens count for a time");
        drop(health);
        drop(kept);
        assert_eq!(places.table().taken.len(), 1);
    }
}
