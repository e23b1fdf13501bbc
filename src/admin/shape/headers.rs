//! An event's headers as shown to operators. Values that may authenticate a request are masked.

use async_graphql::SimpleObject;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::delivery::{MASK, OutboundRequest, is_private_header};

/// A delivered header.
#[derive(Debug, Serialize, Deserialize, SimpleObject, ToSchema)]
pub(crate) struct Header {
    /// The name as the sender wrote it.
    pub name: String,
    /// The value; `***` if it may authenticate a request: a signature, a token, a cookie.
    pub value: String,
}

/// Returns the headers of a stored head.
pub(super) fn masked(head: &[u8]) -> Vec<Header> {
    OutboundRequest::stored_headers(head)
        .map(|(name, value)| Header {
            value: if is_private_header(&name) {
                MASK.into()
            } else {
                value
            },
            name,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authenticating_headers_are_masked() {
        let head = b"POST / HTTP/1.1\r\nX-VPN-Signature: sha256=ab\r\n\
            Authorization: Basic eDp5\r\nX-Gitlab-Token: t\r\nX-Shopify-Hmac-Sha256: h\r\n\
            Idempotency-Key: evt_1\r\nUser-Agent: a: b\r\n";
        let headers = masked(head);
        let shown: Vec<_> = headers
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
