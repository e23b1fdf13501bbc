//! The keys under which the ledger keeps an event.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

use super::{EventIdentity, EventParts};
use crate::event::EventId;
use crate::store::EventKey;

/// The keys of an event on a route. Made by [`Ledger::keys`](super::Ledger::keys).
#[derive(Debug, Clone, Copy)]
pub struct EventKeys {
    /// The key of the event; `None` if nothing identifies it.
    pub(super) name: Option<EventKey>,
    /// The key under which the copies of its body are counted.
    pub(super) copies: Option<EventKey>,
}

impl EventKeys {
    pub(super) fn new(hash_key: &[u8; 16], route: &str, identity: EventIdentity<'_>) -> Self {
        let (name, copies) = match identity {
            EventIdentity::Id(id) => (Some(id_key(hash_key, route, id)), None),
            EventIdentity::Signed(parts) => (Some(parts_key(hash_key, route, &parts)), None),
            EventIdentity::Copy(parts) => (
                Some(parts_key(hash_key, route, &parts)),
                Some(sha256_key(hash_key, route, COPIES, &parts.sha256)),
            ),
            EventIdentity::Body { sha256, .. } => {
                (Some(sha256_key(hash_key, route, BODY, &sha256)), None)
            }
            EventIdentity::None => (None, None),
        };
        Self { name, copies }
    }

    /// Returns the keys that the store keeps beside a delivery.
    pub(super) fn from_stored(keys: &[EventKey]) -> Self {
        Self {
            name: keys.first().copied(),
            copies: keys.get(1).copied(),
        }
    }
}

/// The first bytes of keys that are not those of an ID, which begin with a 1 or a 2.
const BODY: &[u8] = b"body";
const COPIES: &[u8] = b"copies";
const PARTS: &[u8] = b"parts";

fn id_key(hash_key: &[u8; 16], route: &str, id: &EventId) -> EventKey {
    let mut hasher = route_hasher(hash_key, route);
    id.feed(&mut hasher);
    EventKey(hasher.finish128().as_u128())
}

fn sha256_key(hash_key: &[u8; 16], route: &str, kind: &[u8], sha256: &[u8; 32]) -> EventKey {
    let mut hasher = route_hasher(hash_key, route);
    hasher.write(kind);
    hasher.write(sha256);
    EventKey(hasher.finish128().as_u128())
}

fn parts_key(hash_key: &[u8; 16], route: &str, parts: &EventParts<'_>) -> EventKey {
    let mut hasher = route_hasher(hash_key, route);
    hasher.write(PARTS);
    hasher.write(&[u8::from(parts.id.is_some())]);
    if let Some(id) = parts.id {
        id.feed(&mut hasher);
    }
    hasher.write(&(parts.event_type.len() as u64).to_le_bytes());
    hasher.write(parts.event_type.as_bytes());
    hasher.write(&parts.sha256);
    if let Some(at) = parts.signed_at {
        hasher.write(&at.as_nanosecond().to_le_bytes());
    }
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
        let key = |identity| EventKeys::new(&hash_key, "billing", identity).name;
        let body = EventIdentity::Body {
            id: None,
            sha256: [7; 32],
        };
        assert_eq!(
            [key(body), key(EventIdentity::Id(&id))],
            [
                Some(EventKey(0xffbb_90e5_13fa_0c4c_4edf_58f7_cfd4_9320)),
                Some(EventKey(0x7308_1498_2d4c_4443_2ff9_8b37_8b4a_4e36)),
            ]
        );
    }

    #[test]
    fn every_part_of_an_identity_changes_its_key() {
        let ids = [EventId::Text("1".into()), EventId::Integer("1".into())];
        let at = |seconds| jiff::Timestamp::from_second(seconds).ok();
        let mut keys = std::collections::HashSet::new();
        let mut count = 0;
        for id in [None, Some(&ids[0]), Some(&ids[1])] {
            for event_type in ["a", "b"] {
                for sha256 in [[1; 32], [2; 32]] {
                    for signed_at in [None, at(0), at(1)] {
                        let parts = EventParts {
                            id,
                            event_type,
                            sha256,
                            signed_at,
                        };
                        let identity = EventIdentity::Copy(parts);
                        let made = EventKeys::new(&[0; 16], "billing", identity);
                        keys.extend([made.name, made.copies]);
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(
            keys.len(),
            count + 2,
            "one for each event, one for each body"
        );
    }
}
