//! The identity of an event, by which the ledger recognises its copies.
//!
//! Owns the rule that the ledger promises no more than the signature covers. What anyone can change
//! on a captured request never makes two requests one event.

use std::borrow::Cow;

use http::HeaderName;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::{EnvelopeSpec, Event, EventId, IdNames, IdSource, MissingId, Source};
use crate::signature::Verified;

const DIGEST_PREFIX: &str = "sha256:";

/// The treatment of a body that was delivered before and comes again with other unsigned parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum UnsignedPolicy {
    /// It is delivered, marked as a possible replay: at most 16 times in `window`.
    Deliver,
    /// It is a duplicate.
    Reject,
}

/// The parts of an event that a route's signature proves, as far as they identify it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdentityRule {
    id: IdProof,
    type_is_signed: bool,
    unsigned: UnsignedPolicy,
    /// The route's events have IDs. Batches and control messages have none.
    has_ids: bool,
    /// Control messages are accepted, and known by their body.
    accepts_messages_without_id: bool,
}

/// The worth of the ID where an event has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IdProof {
    /// The signature covers the ID, which no other event has.
    SignedEvent,
    /// The signature covers the ID, which other events have as well.
    SignedObject,
    /// Anyone can put another ID on a captured request.
    Unsigned,
    /// The route wants no protection from replays.
    Unwanted,
}

impl IdentityRule {
    /// Returns the rule for events with this envelope. `signs_header` says whether the signature
    /// covers a header; it always covers the body.
    #[must_use]
    pub fn new(
        envelope: &EnvelopeSpec,
        signs_header: impl Fn(&HeaderName) -> bool,
        unsigned: UnsignedPolicy,
    ) -> Self {
        let id_is_signed = match &envelope.id {
            IdSource::Header(header) => signs_header(header),
            IdSource::Pointer(_)
            | IdSource::Joined(_)
            | IdSource::BodyDigest
            | IdSource::Nothing => true,
        };
        let id = match (&envelope.id, id_is_signed, envelope.id_names) {
            (IdSource::Nothing, ..) => IdProof::Unwanted,
            (_, false, _) => IdProof::Unsigned,
            (_, true, IdNames::Event) => IdProof::SignedEvent,
            (_, true, IdNames::Object) => IdProof::SignedObject,
        };
        let type_is_signed = match &envelope.event_type {
            Source::Pointer(_) => true,
            Source::Header(header) => signs_header(header),
        };
        Self {
            id,
            type_is_signed,
            unsigned,
            has_ids: !matches!(envelope.id, IdSource::BodyDigest),
            accepts_messages_without_id: envelope.missing.id == MissingId::BodyDigest,
        }
    }

    /// Returns by what the ledger knows the route's usual events, for people.
    #[must_use]
    pub fn events_are_known_by(&self) -> KnownBy {
        match self.id {
            IdProof::SignedEvent if self.has_ids => KnownBy::Id,
            IdProof::SignedObject => KnownBy::Parts,
            IdProof::Unsigned if self.unsigned == UnsignedPolicy::Deliver => KnownBy::Parts,
            IdProof::SignedEvent | IdProof::Unsigned => KnownBy::Body,
            IdProof::Unwanted => KnownBy::Nothing,
        }
    }

    /// Returns whether events of the route are regularly known by their body, so that its digest is
    /// best made while the body arrives.
    #[must_use]
    pub fn needs_body(&self) -> bool {
        match self.id {
            IdProof::SignedEvent => !self.has_ids || self.accepts_messages_without_id,
            IdProof::SignedObject | IdProof::Unsigned => true,
            IdProof::Unwanted => false,
        }
    }
}

/// The parts by which the ledger knows the usual events of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownBy {
    Id,
    /// ID, type and body together.
    Parts,
    Body,
    Nothing,
}

/// The identity of an event on its route: two requests with the same identity are the same event.
/// There is one variant for each rule.
///
/// A further rule is a further variant. The compiler then asks for its keys and for
/// its [`name`](Self::name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdentity<'e> {
    /// The ID alone, because the signature covers it.
    Id(&'e EventId),
    /// All parts, each of them signed: the ID alone names an object.
    Signed(EventParts<'e>),
    /// All parts, some of them unsigned. The ledger counts the copies of the body.
    Copy(EventParts<'e>),
    /// The SHA-256 of the body. The ID, if there is one, is for people only.
    Body {
        id: Option<&'e EventId>,
        sha256: [u8; 32],
    },
    /// None: every request is an event of its own.
    None,
}

/// The parts that identify an event together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventParts<'e> {
    pub id: Option<&'e EventId>,
    pub event_type: &'e str,
    /// The SHA-256 of the signed part of the body.
    pub sha256: [u8; 32],
    /// The signed time, for events without an ID. With an ID, a request that is signed again is a
    /// retry.
    pub signed_at: Option<Timestamp>,
}

impl<'e> EventIdentity<'e> {
    /// Combines the parsed event with the body that it was parsed from.
    #[must_use]
    pub fn new(rule: &IdentityRule, event: &'e Event, verified: &Verified) -> Self {
        let id = match (&event.id, rule.id) {
            (Some(id), IdProof::SignedEvent) => return Self::Id(id),
            (_, IdProof::Unwanted) => return Self::None,
            (id, _) => id.as_ref(),
        };
        let parts = EventParts {
            id,
            event_type: &event.event_type,
            sha256: verified
                .body_sha256()
                .copied()
                .unwrap_or_else(|| Sha256::digest(verified.body()).into()),
            signed_at: verified.signed_at().filter(|_| id.is_none()),
        };
        let sha256 = parts.sha256;
        match (id, rule.id) {
            (Some(_), IdProof::SignedObject) if rule.type_is_signed => Self::Signed(parts),
            (None, _) if rule.type_is_signed && parts.signed_at.is_none() => {
                Self::Body { id, sha256 }
            }
            _ if rule.unsigned == UnsignedPolicy::Reject => Self::Body { id, sha256 },
            _ => Self::Copy(parts),
        }
    }

    /// Returns the identities that an operator may mean by `id` on a route with this rule. A name
    /// such as `sha256:…` means a body. Other events are found by their deliveries.
    pub fn from_operator(
        rule: &IdentityRule,
        id: &'e EventId,
    ) -> impl Iterator<Item = EventIdentity<'e>> {
        let by_id = (rule.id == IdProof::SignedEvent).then_some(Self::Id(id));
        let by_body = parse_digest_name(id.as_str()).map(|sha256| Self::Body { id: None, sha256 });
        by_id.into_iter().chain(by_body)
    }

    /// Returns the event's name for people and headers: its ID; or `sha256:` and the hexadecimal
    /// digest of its body if it has no ID, followed by `@` and the signed time in Unix seconds if
    /// that tells two events apart. Returns `None` for an event without an identity.
    #[must_use]
    pub fn name(&self) -> Option<Cow<'e, str>> {
        let (id, sha256, signed_at) = match self {
            Self::Id(id) => return Some(Cow::Borrowed(id.as_str())),
            Self::Signed(parts) | Self::Copy(parts) => (parts.id, &parts.sha256, parts.signed_at),
            Self::Body { id, sha256 } => (*id, sha256, None),
            Self::None => return None,
        };
        Some(match (id, signed_at) {
            (Some(id), _) => Cow::Borrowed(id.as_str()),
            (None, None) => Cow::Owned(format!("{DIGEST_PREFIX}{}", hex::encode(sha256))),
            (None, Some(at)) => Cow::Owned(format!(
                "{DIGEST_PREFIX}{}@{}",
                hex::encode(sha256),
                at.as_second()
            )),
        })
    }
}

/// Returns the digest in a name that [`EventIdentity::name`] made from a digest alone.
fn parse_digest_name(name: &str) -> Option<[u8; 32]> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(name.strip_prefix(DIGEST_PREFIX)?, &mut sha256).ok()?;
    Some(sha256)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::MissingParts;
    use crate::secret::Secret;
    use crate::signature::{NamedSecret, Scheme, Verifier, presets};

    const BODY: &str = "{}";

    fn verified(scheme: fn() -> Scheme) -> Verified {
        let secret = || Secret::new("key").unwrap();
        let signed = scheme()
            .sign(&secret(), BODY.as_bytes(), Timestamp::UNIX_EPOCH, None)
            .unwrap();
        let named = NamedSecret {
            name: "key".into(),
            secret: secret(),
            expires: None,
        };
        let key = named.for_scheme(&scheme()).unwrap();
        let verifier = Verifier::new(scheme(), vec![key], true);
        let mut verification = verifier.start(&signed.to_headers(), Timestamp::UNIX_EPOCH);
        verification.update(Bytes::from_static(BODY.as_bytes()));
        verification.finish().unwrap()
    }

    fn event(id: Option<&EventId>) -> Event {
        Event {
            id: id.cloned(),
            event_type: "ping".into(),
            is_batch: false,
            timestamp: None,
        }
    }

    fn header(name: &'static str) -> HeaderName {
        HeaderName::from_static(name)
    }

    fn rule(
        id: IdSource,
        id_names: IdNames,
        event_type: Source,
        unsigned: UnsignedPolicy,
    ) -> IdentityRule {
        let envelope = EnvelopeSpec {
            id,
            id_names,
            event_type,
            missing: MissingParts::default(),
            timestamp: None,
        };
        IdentityRule::new(&envelope, |name| name == "x-signed", unsigned)
    }

    /// Every row of the table in docs/semantics.md, Identity.
    #[test]
    fn identity_holds_no_more_than_the_signature_proves() {
        use IdNames::{Event as AnEvent, Object};
        use UnsignedPolicy::{Deliver, Reject};
        let id = &EventId::Text("evt_1".into());
        let sha256 = Sha256::digest(BODY).into();
        let (pointer, joined) = (
            || IdSource::Pointer("/id".parse().unwrap()),
            || IdSource::Joined(["/a".parse().unwrap(), "/b".parse().unwrap()].into()),
        );
        let in_body = || Source::Pointer("/type".parse().unwrap());
        let in_header = || Source::Header(header("x-type"));
        let (unsigned_id, signed_id) = (
            || IdSource::Header(header("x-id")),
            || IdSource::Header(header("x-signed")),
        );
        let parts = |id, signed_at| EventParts {
            id,
            event_type: "ping",
            sha256,
            signed_at,
        };
        let body = |id| EventIdentity::Body { id, sha256 };
        let copy = |id| EventIdentity::Copy(parts(id, None));
        let timed = EventIdentity::Copy(parts(None, Some(Timestamp::UNIX_EPOCH)));
        let (some, digest) = (Some(id), || IdSource::BodyDigest);
        let check = |rule, scheme, id, expected: EventIdentity<'_>| {
            assert_eq!(
                EventIdentity::new(&rule, &event(id), &verified(scheme)),
                expected
            );
        };
        let untimed = |rule, id, expected| check(rule, presets::vpn_enterprise, id, expected);
        let with_time = |rule, id, expected| check(rule, presets::slack, id, expected);

        let known_by_id = EventIdentity::Id(id);
        untimed(
            rule(pointer(), AnEvent, in_body(), Deliver),
            some,
            known_by_id,
        );
        with_time(
            rule(pointer(), AnEvent, in_header(), Reject),
            some,
            known_by_id,
        );
        untimed(
            rule(joined(), AnEvent, in_body(), Deliver),
            some,
            known_by_id,
        );
        untimed(
            rule(signed_id(), AnEvent, in_header(), Deliver),
            some,
            known_by_id,
        );

        untimed(
            rule(unsigned_id(), AnEvent, in_header(), Deliver),
            some,
            copy(some),
        );
        with_time(
            rule(unsigned_id(), AnEvent, in_body(), Deliver),
            some,
            copy(some),
        );
        untimed(
            rule(unsigned_id(), AnEvent, in_header(), Reject),
            some,
            body(some),
        );

        let all_signed = EventIdentity::Signed(parts(some, None));
        untimed(
            rule(pointer(), Object, in_body(), Deliver),
            some,
            all_signed,
        );
        untimed(
            rule(pointer(), Object, in_header(), Deliver),
            some,
            copy(some),
        );

        untimed(
            rule(digest(), AnEvent, in_body(), Deliver),
            None,
            body(None),
        );
        untimed(
            rule(digest(), AnEvent, in_header(), Deliver),
            None,
            copy(None),
        );
        with_time(rule(digest(), AnEvent, in_body(), Deliver), None, timed);
        with_time(rule(digest(), AnEvent, in_body(), Reject), None, body(None));

        // A control message or a batch on a route whose events have IDs.
        untimed(
            rule(pointer(), AnEvent, in_body(), Deliver),
            None,
            body(None),
        );
        with_time(rule(pointer(), AnEvent, in_body(), Deliver), None, timed);

        let nothing = rule(IdSource::Nothing, AnEvent, in_body(), Deliver);
        untimed(nothing, None, EventIdentity::None);
    }

    #[test]
    fn digest_name_round_trips() {
        let body = EventIdentity::Body {
            id: None,
            sha256: [0xab; 32],
        };
        let name = body.name().unwrap();
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
            &format!("{name}@0"),
        ] {
            assert_eq!(parse_digest_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_differ_by_the_signed_time() {
        let at = |seconds| EventParts {
            id: None,
            event_type: "ping",
            sha256: [0; 32],
            signed_at: Some(Timestamp::from_second(seconds).unwrap()),
        };
        assert_ne!(
            EventIdentity::Copy(at(1)).name(),
            EventIdentity::Copy(at(2)).name()
        );
        assert_eq!(EventIdentity::None.name(), None);
    }
}
