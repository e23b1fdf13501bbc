//! Headers of an event, as an operator sees them: those that may prove something are named and not shown.

use async_graphql::SimpleObject;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::delivery::{MASK, OutboundRequest};

/// A header as it is handed over.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub struct Header {
    /// In the sender's spelling.
    pub name: String,
    /// `***` where it may prove something: a signature, a token, a cookie.
    pub value: String,
}

/// What the name of a header has in it whose value is nobody's business.
const PRIVATE: [&str; 16] = [
    "auth", "cookie", "cred", "csrf", "digest", "hash", "hmac", "key", "mac", "pass", "pin",
    "secret", "session", "sig", "token", "verif",
];

/// Named as if they were private, and not.
const PUBLIC: [&str; 1] = ["idempotency-key"];

/// The headers of a stored head.
pub(super) fn shown(head: &[u8]) -> Vec<Header> {
    let show = |(name, value): (String, String)| {
        let value = if is_private(&name) {
            MASK.into()
        } else {
            value
        };
        Header { name, value }
    };
    OutboundRequest::stored_headers(head).map(show).collect()
}

fn is_private(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PRIVATE.iter().any(|word| name.contains(word)) && !PUBLIC.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_prove_something_is_not_shown() {
        let head =
            b"POST / HTTP/1.1\r\nX-VPN-Signature: sha256=ab\r\nAuthorization: Basic eDp5\r\nX-Gitlab-Token: t\r\n\
                     X-Shopify-Hmac-Sha256: h\r\nIdempotency-Key: evt_1\r\nUser-Agent: a: b\r\n";
        let shown = shown(head);
        let shown: Vec<_> = shown
            .iter()
            .map(|header| (&*header.name, &*header.value))
            .collect();
        let expected = [
            ("X-VPN-Signature", MASK),
            ("Authorization", MASK),
            ("X-Gitlab-Token", MASK),
            ("X-Shopify-Hmac-Sha256", MASK),
            ("Idempotency-Key", "evt_1"),
            ("User-Agent", "a: b"),
        ];
        assert_eq!(shown, expected);
    }
}
