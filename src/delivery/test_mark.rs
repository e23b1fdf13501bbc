//! What tells a test event of the gateway's own from events of a provider: a header that nobody else can make.
//!
//! Test events come in at the front door like any other, so they have to say what they are, and prove it: a sender that
//! has a route's secret could otherwise pass genuine events off as tests.

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName};
use sha2::Sha256;

/// Comes with a test event, and goes no further.
pub const HEADER: HeaderName = HeaderName::from_static("hookstile-test-mark");

/// Makes and knows the marks of one store's gateway.
pub struct TestMarks(Hmac<Sha256>);

impl TestMarks {
    /// `key` is the store's own.
    pub fn new(key: [u8; 16]) -> Self {
        let mut mac = Hmac::new_from_slice(&key)
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(b"test event:");
        Self(mac)
    }

    /// The header's value for a test event with this body.
    pub fn mark(&self, body: &[u8]) -> String {
        let mac = self.0.clone().chain_update(body);
        hex::encode(mac.finalize().into_bytes())
    }

    /// Whether these headers came with a test event that has this body.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8]) -> bool {
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
    fn a_mark_is_of_one_event_and_one_store() {
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
