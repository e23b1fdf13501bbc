//! The identity of an event, by which the ledger recognises its copies.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use crate::event::{Event, EventId, IdSource};
use crate::signature::Verified;

const DIGEST_PREFIX: &str = "sha256:";

/// The identity of an event on its route: two requests with the same identity are the same event.
/// There is one variant for each rule.
///
/// A further rule is a further variant. The compiler then asks for its keys and for
/// its [`name`](Self::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdentity<'e> {
    /// The ID alone, because the signature covers it.
    Id(&'e EventId),
    /// Either the ID or the SHA-256 of the body, because the signature covers only the body. Anyone
    /// could put a new ID on a captured request.
    IdOrBody { id: &'e EventId, sha256: [u8; 32] },
    /// The SHA-256 of the body, because the sender gives no ID.
    Body { sha256: [u8; 32] },
}

impl<'e> EventIdentity<'e> {
    /// Combines the parsed event with the body that it was parsed from. The verifier provides the
    /// body's SHA-256 exactly where the signature does not cover the ID.
    #[must_use]
    pub fn new(event: &'e Event, verified: &Verified) -> Self {
        match (&event.id, verified.body_sha256()) {
            (Some(id), None) => Self::Id(id),
            (Some(id), Some(sha256)) => Self::IdOrBody {
                id,
                sha256: *sha256,
            },
            (None, Some(sha256)) => Self::Body { sha256: *sha256 },
            (None, None) => Self::Body {
                sha256: Sha256::digest(verified.body()).into(),
            },
        }
    }

    /// Returns the identity that an operator means by `id` on a route that reads IDs from `source`.
    /// A name such as `sha256:…` means a body, wherever the signature does not cover the ID.
    /// Returns `None` if the route's events have no ID and `id` is not such a name.
    #[must_use]
    pub fn from_operator(source: &IdSource, id: &'e EventId) -> Option<Self> {
        match (source, parse_digest_name(id.as_str())) {
            (IdSource::BodyDigest | IdSource::Header(_), Some(sha256)) => {
                Some(Self::Body { sha256 })
            }
            (IdSource::BodyDigest, None) => None,
            (IdSource::Pointer(_) | IdSource::Header(_), _) => Some(Self::Id(id)),
        }
    }

    /// Returns the event's name for people and headers: its ID, or `sha256:` and the hexadecimal
    /// digest of its body if it has no ID.
    #[must_use]
    pub fn name(&self) -> Cow<'e, str> {
        match self {
            Self::Id(id) | Self::IdOrBody { id, .. } => Cow::Borrowed(id.as_str()),
            Self::Body { sha256 } => Cow::Owned(format!("{DIGEST_PREFIX}{}", hex::encode(sha256))),
        }
    }
}

/// Returns the digest in a name that [`EventIdentity::name`] made from a digest.
fn parse_digest_name(name: &str) -> Option<[u8; 32]> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(name.strip_prefix(DIGEST_PREFIX)?, &mut sha256).ok()?;
    Some(sha256)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderName;
    use jiff::Timestamp;

    use super::*;
    use crate::secret::Secret;
    use crate::signature::{NamedSecret, Verifier, presets};

    fn verified(body: &'static str, with_sha256: bool) -> Verified {
        let scheme = presets::vpn_enterprise;
        let secret = || Secret::new("key").unwrap();
        let signed = scheme()
            .sign(&secret(), body.as_bytes(), Timestamp::UNIX_EPOCH, None)
            .unwrap();
        let named = NamedSecret {
            name: "key".into(),
            secret: secret(),
            expires: None,
        };
        let key = named.for_scheme(&scheme()).unwrap();
        let verifier = Verifier::new(scheme(), vec![key], with_sha256);
        let mut verification = verifier.start(&signed.to_headers(), Timestamp::UNIX_EPOCH);
        verification.update(Bytes::from_static(body.as_bytes()));
        verification.finish().unwrap()
    }

    fn event(id: Option<&str>) -> Event {
        Event {
            id: id.map(|id| EventId::Text(id.into())),
            event_type: "ping".into(),
            timestamp: None,
        }
    }

    #[test]
    fn identity_follows_from_the_id_and_the_body_digest() {
        let sha256 = Sha256::digest("{}").into();
        let id = EventId::Text("evt_1".into());
        let with_id = event(Some("evt_1"));
        for (event, with_sha256, expected) in [
            (&with_id, false, EventIdentity::Id(&id)),
            (&with_id, true, EventIdentity::IdOrBody { id: &id, sha256 }),
            (&event(None), true, EventIdentity::Body { sha256 }),
            (&event(None), false, EventIdentity::Body { sha256 }),
        ] {
            let identity = EventIdentity::new(event, &verified("{}", with_sha256));
            assert_eq!(identity, expected);
        }
    }

    #[test]
    fn digest_name_round_trips() {
        let name = EventIdentity::Body { sha256: [0xab; 32] }.name();
        assert!(
            name.starts_with("sha256:abab") && name.len() == 71,
            "{name}"
        );
        assert_eq!(parse_digest_name(&name), Some([0xab; 32]));
        for wrong in [
            "evt_1",
            "sha256:",
            "sha256:ab",
            &name[7..],
            &format!("{name}ab"),
        ] {
            assert_eq!(parse_digest_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn operator_may_name_a_body_where_the_id_is_unsigned() {
        let header = IdSource::Header(HeaderName::from_static("x-id"));
        let pointer = IdSource::Pointer("/id".parse().unwrap());
        let sha256 = [0xab; 32];
        let [id, digest] = ["evt_1".into(), EventIdentity::Body { sha256 }.name()]
            .map(|name| EventId::Text((*name).into()));
        for (source, id, expected) in [
            (&pointer, &id, Some(EventIdentity::Id(&id))),
            (&pointer, &digest, Some(EventIdentity::Id(&digest))),
            (&header, &id, Some(EventIdentity::Id(&id))),
            (&header, &digest, Some(EventIdentity::Body { sha256 })),
            (&IdSource::BodyDigest, &id, None),
            (
                &IdSource::BodyDigest,
                &digest,
                Some(EventIdentity::Body { sha256 }),
            ),
        ] {
            assert_eq!(EventIdentity::from_operator(source, id), expected);
        }
    }
}
