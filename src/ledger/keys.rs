//! The keys under which the ledger keeps an event.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::EventIdentity;
use crate::event::EventId;
use crate::store::EventKey;

/// The one or two keys of an event on a route. Made by [`Ledger::keys`](super::Ledger::keys).
#[derive(Debug, Clone, Copy)]
pub struct EventKeys {
    pub(super) first: EventKey,
    second: Option<EventKey>,
}

impl EventKeys {
    pub(super) fn new(hash_key: &[u8; 16], route: &str, identity: EventIdentity<'_>) -> Self {
        match identity {
            EventIdentity::Id(id) => Self {
                first: id_key(hash_key, route, id),
                second: None,
            },
            // The body's key always comes first, so that no two events wait for each other.
            EventIdentity::IdOrBody { id, sha256 } => Self {
                first: body_key(hash_key, route, &sha256),
                second: Some(id_key(hash_key, route, id)),
            },
            EventIdentity::Body { sha256 } => Self {
                first: body_key(hash_key, route, &sha256),
                second: None,
            },
        }
    }

    pub(super) fn iter(self) -> impl Iterator<Item = EventKey> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}

fn id_key(hash_key: &[u8; 16], route: &str, id: &EventId) -> EventKey {
    let mut hasher = route_hasher(hash_key, route);
    id.feed(&mut hasher);
    EventKey(hasher.finish128().as_u128())
}

fn body_key(hash_key: &[u8; 16], route: &str, sha256: &[u8; 32]) -> EventKey {
    let mut hasher = route_hasher(hash_key, route);
    hasher.write(b"body");
    hasher.write(sha256);
    EventKey(hasher.finish128().as_u128())
}

/// Starts a key of an event on `route`.
fn route_hasher(hash_key: &[u8; 16], route: &str) -> SipHasher24 {
    let mut hasher = SipHasher24::new_with_key(hash_key);
    // `Hash` may write other bytes in the next version of Rust, and the store keeps these keys.
    hasher.write(&(route.len() as u64).to_le_bytes());
    hasher.write(route.as_bytes());
    hasher
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stored ledger holds these keys: if they change, completed events pass again.
    #[test]
    fn keys_are_the_same_in_every_version() {
        let hash_key = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
        let id = EventId::Text("evt_1".into());
        let keys = EventKeys::new(
            &hash_key,
            "billing",
            EventIdentity::IdOrBody {
                id: &id,
                sha256: [7; 32],
            },
        );
        assert_eq!(
            keys.iter().collect::<Vec<_>>(),
            [
                EventKey(0xffbb_90e5_13fa_0c4c_4edf_58f7_cfd4_9320),
                EventKey(0x7308_1498_2d4c_4443_2ff9_8b37_8b4a_4e36),
            ]
        );
    }
}
