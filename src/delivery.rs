//! What may be sent to an upstream: a verified body under the headers that belong to it.
//!
//! Owns which of a sender's headers pass and which of ours are set (contract §8, RFC 9110 §7.6.1), and the form in which
//! that is stored. Where it is sent and what comes back is `upstream`'s.

mod test_mark;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{self, HeaderName, HeaderValue};
use jiff::{Timestamp, Unit};
use pingora_http::RequestHeader;

use crate::signature::{Unverified, Verified};

pub use test_mark::{HEADER as TEST_MARK, TestMarks};

/// An event ready to be handed over, as often as it takes. Only a [`Verified`] body makes one, or what was stored of
/// such a one; or an [`Unverified`] one, which is marked.
pub struct Delivery {
    head: RequestHeader,
    body: Bytes,
    query: Option<Box<str>>,
}

/// What a delivery says of its event.
#[derive(Debug, Clone)]
pub struct Label {
    pub route: Arc<str>,
    /// At most 255 bytes, no control characters.
    pub event_id: Arc<str>,
    /// As `event_id`.
    pub event_type: Arc<str>,
    /// Made by the gateway itself, as an operator asked.
    pub is_test: bool,
}

/// How the event came in.
pub struct Arrival<'a> {
    pub head: &'a RequestHeader,
    /// Who is connected to us.
    pub peer: IpAddr,
    /// Earlier hops, as told by a peer that is trusted.
    pub forwarded_for: Option<&'a str>,
    /// `http` or `https`.
    pub scheme: &'a str,
    pub host: Option<&'a str>,
    pub at: Timestamp,
}

/// Headers about a connection, or about a message's framing on it.
const FRAMING: [HeaderName; 13] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Headers that are set anew for the upstream.
const SET_ANEW: [HeaderName; 2] =
    [HeaderName::from_static("x-forwarded-host"), HeaderName::from_static("x-forwarded-proto")];

/// Shown in place of a header's value that is nobody's business.
pub const MASK: &str = "***";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl Delivery {
    /// `forward_query` appends the sender's query string.
    pub fn new(verified: &Verified, label: &Label, arrival: &Arrival<'_>, forward_query: bool) -> Self {
        let mut delivery = Self::of(verified.body(), &label.route, arrival, forward_query);
        set(&mut delivery.head, "Hookgate-Event-Id", &label.event_id);
        set(&mut delivery.head, "Hookgate-Event-Type", &label.event_type);
        if label.is_test {
            set(&mut delivery.head, "Hookgate-Test", "true");
        }
        if !delivery.head.headers.contains_key(&IDEMPOTENCY_KEY) {
            set(&mut delivery.head, "Idempotency-Key", &label.event_id);
        }
        delivery
    }

    /// A provider's handshake, which is no event and has no ID.
    pub fn handshake(verified: &Verified, route: &str, kind: &'static str, arrival: &Arrival<'_>) -> Self {
        let mut delivery = Self::of(verified.body(), route, arrival, false);
        set(&mut delivery.head, "Hookgate-Event-Type", kind);
        delivery
    }

    /// What did not verify, on a route that passes such on, marked. Nobody vouches for an ID in it, so it gets none: a
    /// receiver that goes by IDs must not take the genuine event for its copy.
    pub fn unverified(unverified: &Unverified, route: &str, arrival: &Arrival<'_>, forward_query: bool) -> Self {
        let mut delivery = Self::of(unverified.body(), route, arrival, forward_query);
        set(&mut delivery.head, "Hookgate-Verified", "false");
        delivery
    }

    fn of(body: &Bytes, route: &str, arrival: &Arrival<'_>, forward_query: bool) -> Self {
        let mut head = arrival.head.clone();
        for name in arrival.head.headers.keys() {
            if is_framing(name) || SET_ANEW.contains(name) || is_ours(name) {
                head.remove_header(name);
            }
        }
        for name in named_by_connection(&arrival.head.headers) {
            head.remove_header(&name);
        }
        set(&mut head, "Content-Length", &body.len().to_string());
        set(&mut head, "Hookgate-Route", route);
        set(&mut head, "Hookgate-Received-At", &to_milliseconds(arrival.at).to_string());
        let peer = arrival.peer.to_canonical();
        let hops = arrival.forwarded_for.map_or_else(|| peer.to_string(), |hops| format!("{hops}, {peer}"));
        set(&mut head, "X-Forwarded-For", &hops);
        set(&mut head, "X-Forwarded-Proto", arrival.scheme);
        if let Some(host) = arrival.host {
            set(&mut head, "X-Forwarded-Host", host);
        }
        let query = arrival.head.uri.query().filter(|_| forward_query).map(Into::into);
        Self { head, body: body.clone(), query }
    }

    /// The head as it is stored: written like that of an HTTP/1.1 request, names in the sender's spelling.
    pub fn to_stored(&self) -> Bytes {
        let mut stored = Vec::with_capacity(512);
        stored.extend_from_slice(self.head.method.as_str().as_bytes());
        stored.extend_from_slice(b" /");
        if let Some(query) = &self.query {
            stored.extend_from_slice(b"?");
            stored.extend_from_slice(query.as_bytes());
        }
        stored.extend_from_slice(b" HTTP/1.1\r\n");
        self.head.header_to_h1_wire(&mut stored);
        stored.into()
    }

    /// What [`Delivery::to_stored`] made, with the body it belongs to; `None` for anything else.
    pub fn from_stored(stored: &[u8], body: Bytes) -> Option<Self> {
        let mut lines = stored.strip_suffix(b"\r\n")?.split(|&byte| byte == b'\n');
        let mut line = || lines.next().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let start = std::str::from_utf8(line()?).ok()?;
        let (method, target) = start.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let query = target.strip_prefix('/')?.strip_prefix('?').map(Into::into);
        let mut head = RequestHeader::build(method, b"/", None).ok()?;
        while let Some(line) = line() {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let name = std::str::from_utf8(&line[..colon]).ok()?.to_owned();
            let value = line[colon + 1..].strip_prefix(b" ")?;
            head.append_header(name, HeaderValue::from_bytes(value).ok()?).ok()?;
        }
        Some(Self { head, body, query })
    }

    /// The headers of what [`Delivery::to_stored`] made, in their order, names in the sender's spelling.
    pub fn stored_headers(stored: &[u8]) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let header = move |line: &[u8]| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((text(&line[..colon]), text(&line[colon + 1..])))
        };
        stored.split(|&byte| byte == b'\n').skip(1).filter_map(header)
    }

    /// The same head with [`MASK`] in place of the values of these headers.
    pub fn masked(stored: &[u8], is_private: impl Fn(&HeaderName) -> bool) -> Bytes {
        let mut lines = Vec::with_capacity(stored.len());
        for line in stored.split_inclusive(|&byte| byte == b'\n') {
            let name = line.iter().position(|&byte| byte == b':').map(|colon| &line[..colon]);
            let is_private = |name: &&[u8]| HeaderName::from_bytes(name).is_ok_and(|name| is_private(&name));
            match name.filter(is_private) {
                Some(name) => lines.extend_from_slice(&[name, b": ", MASK.as_bytes(), b"\r\n"].concat()),
                None => lines.extend_from_slice(line),
            }
        }
        lines.into()
    }

    /// The body, byte for byte as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The head of an attempt, but for where it goes.
    pub(crate) fn head(&self, attempt: u32, possible_duplicate: bool) -> RequestHeader {
        let mut head = self.head.clone();
        set(&mut head, "Hookgate-Attempt", &attempt.to_string());
        if possible_duplicate {
            set(&mut head, "Hookgate-Possible-Duplicate", "true");
        }
        head
    }

    /// The sender's query string, where the route forwards it.
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

/// The headers that `Connection` says are of this connection only (RFC 9110 §7.6.1).
pub fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    let values = headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
}

/// Whether a header is about a connection or a message's framing, and so the gateway's own to set.
pub fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(name)
}

/// Whether a sender's header could be taken for one of ours. `_` counts as `-`: CGI-like receivers fold them.
pub fn is_ours(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.get(..8).is_some_and(|start| start == b"hookgate") && matches!(name.get(8), Some(b'-' | b'_'))
}

fn to_milliseconds(at: Timestamp) -> Timestamp {
    at.round(Unit::Millisecond).unwrap_or(at)
}

fn set(head: &mut RequestHeader, name: &'static str, value: &str) {
    match HeaderValue::from_bytes(value.as_bytes()) {
        Ok(value) => put(head, name, value),
        Err(_) => debug_assert!(false, "{name} has a value that no header can hold"),
    }
}

fn put(head: &mut RequestHeader, name: impl pingora_http::IntoCaseHeaderName, value: HeaderValue) {
    let put = head.insert_header(name, value);
    debug_assert!(put.is_ok(), "a header map holds more than we allow a head to have");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::signature::{NamedSecret, Verifier, presets};

    fn verified(body: &'static [u8]) -> Verified {
        let signed =
            presets::vpn_enterprise().sign(&Secret::new("key").unwrap(), body, Timestamp::UNIX_EPOCH, None).unwrap();
        let secret = NamedSecret { name: "key".into(), secret: Secret::new("key").unwrap(), expires: None };
        let verifier = Verifier::new(
            presets::vpn_enterprise(),
            vec![secret.for_scheme(&presets::vpn_enterprise()).unwrap()],
            false,
        );
        let mut verification = verifier.begin(&signed.to_headers(), Timestamp::UNIX_EPOCH);
        verification.update(Bytes::from_static(body));
        verification.finish().unwrap()
    }

    fn delivered(sent: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", b"/in?a=b", None).unwrap();
        for (name, value) in sent {
            head.append_header(*name, *value).unwrap();
        }
        let label = Label {
            route: "billing".into(),
            event_id: "evt_1".into(),
            event_type: "user.created".into(),
            is_test: false,
        };
        let arrival = Arrival {
            head: &head,
            peer: "203.0.113.9".parse().unwrap(),
            forwarded_for: None,
            scheme: "http",
            host: Some("hooks.example.com"),
            at: Timestamp::UNIX_EPOCH,
        };
        let delivery = Delivery::new(&verified(b"{}"), &label, &arrival, true);
        let stored = Delivery::from_stored(&delivery.to_stored(), Bytes::from_static(b"{}")).unwrap();
        assert_eq!(stored.query(), Some("a=b"));
        assert_eq!(wire(&stored.head(2, true)), wire(&delivery.head(2, true)), "storing changes nothing");
        delivery.head(2, true)
    }

    fn wire(head: &RequestHeader) -> Vec<u8> {
        let mut wire = Vec::new();
        head.header_to_h1_wire(&mut wire);
        wire
    }

    fn values<'a>(head: &'a RequestHeader, name: &str) -> Vec<&'a str> {
        head.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[test]
    fn end_to_end_headers_pass_with_their_order_and_spelling() {
        let head = delivered(&[("X-VPN-Signature", "sha256=ab"), ("x-Multi", "1"), ("x-Multi", "2")]);
        let wire = String::from_utf8(wire(&head)).unwrap();
        assert!(wire.contains("X-VPN-Signature: sha256=ab\r\n"), "{wire}");
        assert_eq!(values(&head, "x-multi"), ["1", "2"]);
    }

    #[test]
    fn headers_of_one_connection_do_not_pass() {
        let head = delivered(&[
            ("Connection", "keep-alive, X-Hop"),
            ("X-Hop", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Transfer-Encoding", "chunked"),
            ("Expect", "100-continue"),
            ("Upgrade", "h2c"),
            ("TE", "trailers"),
            ("Host", "hooks.example.com"),
        ]);
        for name in ["x-hop", "connection", "keep-alive", "transfer-encoding", "expect", "upgrade", "te", "host"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        assert_eq!(values(&head, "content-length"), ["2"]);
    }

    #[test]
    fn what_a_sender_says_in_our_name_is_dropped_in_any_spelling() {
        let head = delivered(&[
            ("Hookgate-Event-Id", "spoofed"),
            ("hookgate_event_id", "spoofed"),
            ("HOOKGATE-Verified", "true"),
            ("Hookgatekeeper", "is somebody else"),
        ]);
        assert_eq!(values(&head, "hookgate-event-id"), ["evt_1"]);
        assert!(!head.headers.contains_key("hookgate_event_id"));
        assert!(!head.headers.contains_key("hookgate-verified"));
        assert!(head.headers.contains_key("hookgatekeeper"));
    }

    #[test]
    fn the_upstream_is_told_what_it_gets() {
        let head = delivered(&[]);
        for (name, value) in [
            ("hookgate-event-type", "user.created"),
            ("hookgate-route", "billing"),
            ("hookgate-attempt", "2"),
            ("hookgate-possible-duplicate", "true"),
            ("hookgate-received-at", "1970-01-01T00:00:00Z"),
            ("idempotency-key", "evt_1"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "hooks.example.com"),
        ] {
            assert_eq!(values(&head, name), [value], "{name}");
        }
    }

    #[test]
    fn what_is_no_stored_head_makes_no_delivery() {
        let good = b"POST / HTTP/1.1\r\nA: b\r\n";
        assert!(Delivery::from_stored(good, Bytes::new()).is_some());
        for cut in 0..good.len() {
            // Shorter by a whole line, it is a head again.
            if &good[..cut] != b"POST / HTTP/1.1\r\n" {
                assert!(Delivery::from_stored(&good[..cut], Bytes::new()).is_none(), "{cut}");
            }
        }
        assert!(Delivery::from_stored(b"POST / HTTP/1.1\r\nno colon\r\n", Bytes::new()).is_none());
    }

    #[test]
    fn only_the_values_of_private_headers_are_masked() {
        let stored = b"POST / HTTP/1.1\r\nX-Check: secret\r\nAccept: a: b\r\n";
        let masked = Delivery::masked(stored, |name| name == "x-check");
        assert_eq!(masked, &b"POST / HTTP/1.1\r\nX-Check: ***\r\nAccept: a: b\r\n"[..]);
    }

    #[test]
    fn a_provider_s_own_idempotency_key_is_kept() {
        assert_eq!(values(&delivered(&[("Idempotency-Key", "theirs")]), "idempotency-key"), ["theirs"]);
    }
}
