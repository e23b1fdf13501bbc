//! The mark of the gateway's own test events: a header that only the gateway can make.
//!
//! Test events arrive at the public listener like any other event, so they must prove what they
//! are: otherwise a sender with a route's secret could pass genuine events off as tests.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;

/// The header that a test event carries to the gateway. It is not forwarded.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("hookstile-test-mark");

/// The key of one store, for making and verifying marks.
pub(crate) struct TestMarks(Hmac<Sha256>);

impl TestMarks {
    /// Derives the key for marks from the store's own `key`.
    pub(crate) fn new(key: [u8; 16]) -> Self {
        let mut mac = Hmac::new_from_slice(&key)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(b"test event:");
        Self(mac)
    }

    /// Returns the header's value for a test event with this body.
    pub(crate) fn mark(&self, body: &[u8]) -> String {
        let mac = self.0.clone().chain_update(body);
        hex::encode(mac.finalize().into_bytes())
    }

    /// Returns whether these headers hold the mark of a test event with this body.
    pub(crate) fn verify(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let Some(mark) = headers
            .get(HEADER)
            .and_then(|value| hex::decode(value).ok())
        else {
            return false;
        };
        self.0
            .clone()
            .chain_update(body)
            .verify_slice(&mark)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mark_is_valid_for_one_event_and_one_store() {
        let marks = TestMarks::new([1; 16]);
        let with = |mark: &str| HeaderMap::from_iter([(HEADER, mark.parse().unwrap())]);
        assert!(marks.verify(&with(&marks.mark(b"{}")), b"{}"));
        assert!(!marks.verify(&with(&marks.mark(b"{}")), b"{ }"));
        assert!(!marks.verify(&with(&TestMarks::new([2; 16]).mark(b"{}")), b"{}"));
        for wrong in ["", "true", "00"] {
            assert!(!marks.verify(&with(wrong), b"{}"), "{wrong}");
        }
        assert!(!marks.verify(&HeaderMap::new(), b"{}"));
    }
}
