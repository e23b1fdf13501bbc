//! Handshakes: a provider's request that checks whether an endpoint exists and has its secret.
//!
//! Tells a handshake from an event, and makes the response. A signed handshake is read only after
//! verification; an unsigned one proves itself with a token. Knows no HTTP beyond a query string and
//! a response.

use bytes::Bytes;
use http::StatusCode;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::json::{Pointer, PointerValue, Text, find};
use crate::secret::SecretDigest;
use crate::signature::{NamedSecret, Verified, Verifier};

/// The longest body that is checked for a handshake, in bytes, so that no large event is parsed twice.
const BODY_BYTES_MAX: usize = 16 * 1024;

/// The longest challenge that is echoed, in bytes of visible ASCII.
const CHALLENGE_BYTES_MAX: usize = 1024;

/// A route's rule for its provider's handshakes.
pub enum Handshake {
    /// A signed POST, like an event.
    Signed(Challenge, HandshakeResponder),
    /// A GET that proves itself with a token.
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

/// A handshake in a signed body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The pointer to the member that marks a handshake.
    pub pointer: Pointer,
    /// The member's value in a handshake: a string, or a number's digits.
    pub value: &'static str,
    /// The event type of a handshake that the upstream answers.
    pub event_type: &'static str,
    pub reply: ChallengeReply,
}

/// The response that a provider expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChallengeReply {
    /// The member as text: Slack's `challenge`.
    Echo(Pointer),
    /// The member and its HMAC under the secret: Zoom's `plainToken` and `encryptedToken`.
    Proof(Pointer),
    /// 204 without a body: Discord's PING.
    NoContent,
}

/// A response to a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeResponse {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Challenge {
    /// Returns the response, if `verified` is a handshake that the gateway can answer.
    pub fn reply(&self, verified: &Verified, keys: &Verifier) -> Option<HandshakeResponse> {
        let challenge = match &self.reply {
            ChallengeReply::Echo(pointer) | ChallengeReply::Proof(pointer) => Some(pointer),
            ChallengeReply::NoContent => None,
        };
        let found = self.find_challenge(verified.body(), challenge)?;
        match self.reply {
            ChallengeReply::Echo(_) => Some(HandshakeResponse::text(parse_challenge(found)?)),
            ChallengeReply::Proof(_) => {
                // Only a token's alphabet, so that the proof is useless as an event's signature.
                let plain =
                    parse_challenge(found).filter(|plain| plain.bytes().all(is_token_byte))?;
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

    /// Returns whether `verified` is a handshake.
    pub fn is_handshake(&self, verified: &Verified) -> bool {
        self.find_challenge(verified.body(), None).is_some()
    }

    /// Returns the value at `challenge`, if `body` is a handshake.
    fn find_challenge<'b>(
        &self,
        body: &'b [u8],
        challenge: Option<&Pointer>,
    ) -> Option<PointerValue<'b>> {
        let text = simdutf8::basic::from_utf8(body)
            .ok()
            .filter(|text| text.len() <= BODY_BYTES_MAX)?;
        let [marker, challenge] = find(text, [Some(&self.pointer), challenge]).ok()?;
        let is_handshake = match marker {
            PointerValue::Text(text) => text.chars().eq(self.value.chars().map(Some)),
            PointerValue::Number(digits) => digits == self.value,
            PointerValue::Nothing | PointerValue::Ambiguous | PointerValue::Other => false,
        };
        is_handshake.then_some(challenge)
    }
}

fn parse_challenge(value: PointerValue<'_>) -> Option<String> {
    let PointerValue::Text(text) = value else {
        return None;
    };
    let text: String = Text::chars(text)
        .take(CHALLENGE_BYTES_MAX + 1)
        .collect::<Option<_>>()?;
    is_challenge(&text).then_some(text)
}

fn is_token_byte(byte: u8) -> bool {
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

/// The token that proves a GET to come from Meta; the operator enters the same one there.
///
/// Source: developers.facebook.com, "Webhooks, Getting started": `hub.mode`, `hub.verify_token`,
/// `hub.challenge`.
#[derive(Debug)]
pub struct VerifyToken {
    digest: SecretDigest,
    /// The moment from which the token is refused.
    expires: Option<Timestamp>,
}

/// The query of a handshake by GET.
#[derive(Debug, PartialEq, Eq)]
pub struct SubscriptionQuery {
    token: String,
    challenge: String,
}

impl SubscriptionQuery {
    /// Parses a query. `None` if it is no handshake: another mode, or a part missing or repeated.
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

    /// Returns the response, if `query` has the right token.
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
    fn expired_token_gets_no_response() {
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
    fn query_needs_each_part_once() {
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
    fn wrong_token_gets_no_response() {
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
