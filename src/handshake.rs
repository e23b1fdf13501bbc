//! Handshakes: how a provider asks whether an endpoint is there and has its secret, and what it wants to hear.
//!
//! Owns how such a request is told from an event, and its answer. Signed ones are looked at only once they have been
//! verified; one that is not signed proves itself with a token. Knows no HTTP beyond a query string and a reply.

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::json::{Pointer, PointerValue, Text, find};
use crate::secret::SecretDigest;
use crate::signature::{NamedSecret, Verified, Verifier};

/// Handshakes are short. What is longer is not looked at, so that no event is read twice for nothing.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The longest challenge that is given back, in bytes of visible ASCII.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// What a route does about its provider's handshakes.
pub enum Handshake {
    /// They are signed, as events are.
    Signed(Challenge, HandshakeResponder),
    /// They are a GET, and prove themselves with a token.
    Query(VerifyToken),
}

/// The side that answers a signed handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum HandshakeResponder {
    /// The gateway answers it.
    #[serde(rename = "answer")]
    Gateway,
    /// The upstream answers it, like an event. Only signed handshakes can be forwarded.
    #[serde(rename = "forward")]
    Upstream,
}

/// How a provider asks with a signed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Where the body says that it is a handshake.
    pub pointer: Pointer,
    /// What stands there: a string, or a number's digits.
    pub value: &'static str,
    /// The event type that it has when the upstream answers it.
    pub event_type: &'static str,
    pub reply: ChallengeReply,
}

/// The answer that a provider wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChallengeReply {
    /// The member as text. Slack's `challenge`.
    Echo(Pointer),
    /// The member and its HMAC under the secret, as Zoom has it: `plainToken` and `encryptedToken`.
    Proof(Pointer),
    /// 204 and nothing in it. Discord's PING.
    NoContent,
}

/// An answer to a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Challenge {
    /// The answer, if `verified` is a handshake that can be answered.
    pub fn reply(&self, verified: &Verified, keys: &Verifier) -> Option<HandshakeResponse> {
        let challenge = match &self.reply {
            ChallengeReply::Echo(pointer) | ChallengeReply::Proof(pointer) => Some(pointer),
            ChallengeReply::NoContent => None,
        };
        let found = self.find_challenge(verified.body(), challenge)?;
        match self.reply {
            ChallengeReply::Echo(_) => Some(HandshakeResponse::text(challenge_of(found)?)),
            ChallengeReply::Proof(_) => {
                // No more than tokens look like: the proof must be of no use as an event's signature.
                let plain = challenge_of(found).filter(|plain| plain.bytes().all(is_of_token))?;
                let proof = keys.hmac_of(verified, plain.as_bytes())?;
                let body = json!({ "plainToken": plain, "encryptedToken": proof })
                    .to_string()
                    .into();
                Some(HandshakeResponse {
                    status: StatusCode::OK,
                    content_type: "application/json",
                    body,
                })
            }
            ChallengeReply::NoContent => Some(HandshakeResponse {
                status: StatusCode::NO_CONTENT,
                content_type: "text/plain",
                body: Bytes::new(),
            }),
        }
    }

    /// Whether `verified` is a handshake.
    pub fn is_handshake(&self, verified: &Verified) -> bool {
        self.find_challenge(verified.body(), None).is_some()
    }

    /// What stands at `challenge` in a body that is a handshake.
    fn find_challenge<'b>(
        &self,
        body: &'b [u8],
        challenge: Option<&Pointer>,
    ) -> Option<PointerValue<'b>> {
        let text = simdutf8::basic::from_utf8(body)
            .ok()
            .filter(|text| text.len() <= BODY_BYTES_MAX)?;
        let [word, challenge] = find(text, [Some(&self.pointer), challenge]).ok()?;
        let says = match word {
            PointerValue::Text(text) => text.chars().eq(self.value.chars()),
            PointerValue::Number(digits) => digits == self.value,
            PointerValue::Nothing | PointerValue::Ambiguous | PointerValue::Other => false,
        };
        says.then_some(challenge)
    }
}

fn challenge_of(found: PointerValue<'_>) -> Option<String> {
    let PointerValue::Text(text) = found else {
        return None;
    };
    let text: String = Text::chars(text).take(CHALLENGE_BYTES_MAX + 1).collect();
    is_challenge(&text).then_some(text)
}

fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte)
}

fn is_challenge(text: &str) -> bool {
    (1..=CHALLENGE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

impl HandshakeResponse {
    fn text(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain",
            body: body.into(),
        }
    }
}

/// The token that proves Meta's GET to be Meta's: an operator enters the same one there.
///
/// Source: developers.facebook.com, "Webhooks, Getting started": `hub.mode`, `hub.verify_token`, `hub.challenge`.
#[derive(Debug)]
pub struct VerifyToken {
    digest: SecretDigest,
    /// From this moment on it is no longer accepted.
    expires: Option<Timestamp>,
}

/// The query of a GET that asks.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscriptionQuery {
    token: String,
    challenge: String,
}

impl SubscriptionQuery {
    /// `None` for a query that is no handshake: another mode, or a part missing or there twice.
    pub fn parse(query: &str) -> Option<Self> {
        let one = |wanted: &str| {
            let mut values =
                form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == wanted);
            let (_, value) = values.next()?;
            values.next().is_none().then(|| value.into_owned())
        };
        if one("hub.mode")? != "subscribe" {
            return None;
        }
        let challenge = one("hub.challenge").filter(|challenge| is_challenge(challenge))?;
        Some(Self {
            token: one("hub.verify_token")?,
            challenge,
        })
    }
}

impl VerifyToken {
    pub fn new(token: &NamedSecret) -> Self {
        Self {
            digest: token.secret.digest(),
            expires: token.expires,
        }
    }

    /// The answer to `query`, if it knows the token.
    pub fn respond(&self, query: SubscriptionQuery, now: Timestamp) -> Option<HandshakeResponse> {
        let valid = self.expires.is_none_or(|end| now < end);
        (self.digest.matches(query.token.as_bytes()) && valid)
            .then(|| HandshakeResponse::text(query.challenge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn token(text: &str) -> VerifyToken {
        VerifyToken::new(&NamedSecret {
            name: "token".into(),
            secret: Secret::new(text).unwrap(),
            expires: None,
        })
    }

    #[test]
    fn a_token_that_has_expired_gets_no_answer() {
        let end = Timestamp::from_second(1_000).unwrap();
        let token = VerifyToken {
            expires: Some(end),
            ..token("meatyham")
        };
        let ask = || {
            SubscriptionQuery::parse("hub.mode=subscribe&hub.challenge=1&hub.verify_token=meatyham")
                .unwrap()
        };
        assert!(
            token
                .respond(ask(), Timestamp::from_second(999).unwrap())
                .is_some()
        );
        assert_eq!(token.respond(ask(), end), None);
    }

    #[test]
    fn a_query_is_a_handshake_when_each_part_is_there_once() {
        let asked = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meaty%20ham";
        let reply = token("meaty ham")
            .respond(
                SubscriptionQuery::parse(asked).unwrap(),
                Timestamp::UNIX_EPOCH,
            )
            .unwrap();
        assert_eq!(
            (reply.status, &reply.body[..]),
            (StatusCode::OK, &b"1158201444"[..])
        );
        for query in [
            "",
            "hub.mode=subscribe",
            "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=meaty",
            "hub.mode=subscribe&hub.challenge=1&hub.challenge=2&hub.verify_token=meaty",
            "hub.mode=subscribe&hub.challenge=1&hub.verify_token=a&hub.verify_token=meaty",
            "hub.mode=subscribe&hub.challenge=%3Cb%3E%0A&hub.verify_token=meaty",
            "hub.mode=subscribe&hub.challenge=&hub.verify_token=meaty",
        ] {
            assert_eq!(SubscriptionQuery::parse(query), None, "{query}");
        }
    }

    #[test]
    fn a_query_with_another_token_gets_no_answer() {
        let token = token("meatyham");
        for wrong in ["", "meatyha", "meatyhamx", "MEATYHAM"] {
            let query = SubscriptionQuery::parse(&format!(
                "hub.mode=subscribe&hub.challenge=1&hub.verify_token={wrong}"
            ))
            .unwrap();
            assert_eq!(token.respond(query, Timestamp::UNIX_EPOCH), None, "{wrong}");
        }
    }
}
