//! What may be sent to an upstream: a verified body under the headers that belong to it.
//!
//! Owns which of a sender's headers pass and which of ours are set (contract §8, RFC 9110 §7.6.1), the form in which that is
//! stored, and the head of an attempt as HTTP/1.1 writes it. Where it is sent and what comes back is `upstream`'s.

mod test_mark;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use jiff::{Timestamp, Unit};
use pingora_http::{HeaderNameVariant, RequestHeader};

use crate::signature::{Unverified, Verified};

pub use test_mark::{HEADER as TEST_MARK, TestMarks};

/// An event ready to be handed over, as often as it takes. Only a [`Verified`] body makes one, or what was stored of
/// such a one; or an [`Unverified`] one, which is marked.
pub struct OutboundRequest {
    method: Method,
    query: Option<Box<str>>,
    lines: HeaderLines,
    body: Bytes,
}

/// Headers as HTTP/1.1 writes them (RFC 9112 §5), one a line. They are never more than that: what they were when they
/// came in was looked at then; on its way out nobody looks for one, but for those that a route sets over them.
#[derive(Clone)]
struct HeaderLines(Bytes);

/// Lines that are being written.
struct HeaderWriter(Vec<u8>);

/// About what a head takes.
const HEAD_BYTES: usize = 1024;

/// What a delivery says of its event.
#[derive(Debug, Clone)]
pub struct EventLabel {
    pub route: Arc<str>,
    /// At most 255 bytes, no control characters.
    pub event_id: Arc<str>,
    /// As `event_id`.
    pub event_type: Arc<str>,
    /// Made by the gateway itself, as an operator asked.
    pub is_test: bool,
}

/// How the event came in.
pub struct InboundRequest<'a> {
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
const SET_ANEW: [HeaderName; 3] = [
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

const ATTEMPT: &str = "Hookstile-Attempt";
const POSSIBLE_DUPLICATE: &str = "Hookstile-Possible-Duplicate";
const SET_WHEN_SENT: [&str; 2] = [ATTEMPT, POSSIBLE_DUPLICATE];

/// Shown in place of a header's value that is nobody's business.
pub const MASK: &str = "***";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl OutboundRequest {
    /// `forward_query` appends the sender's query string.
    pub fn new(
        verified: &Verified,
        label: &EventLabel,
        arrival: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let (mut lines, has_key) = HeaderWriter::begin(verified.body(), &label.route, arrival);
        lines.set("Hookstile-Event-Id", &label.event_id);
        lines.set("Hookstile-Event-Type", &label.event_type);
        if label.is_test {
            lines.set("Hookstile-Test", "true");
        }
        if !has_key {
            lines.set("Idempotency-Key", &label.event_id);
        }
        Self::new_request(verified.body(), lines, arrival, forward_query)
    }

    /// A provider's handshake, which is no event and has no ID.
    pub fn handshake(
        verified: &Verified,
        route: &str,
        kind: &'static str,
        arrival: &InboundRequest<'_>,
    ) -> Self {
        let (mut lines, _) = HeaderWriter::begin(verified.body(), route, arrival);
        lines.set("Hookstile-Event-Type", kind);
        Self::new_request(verified.body(), lines, arrival, false)
    }

    /// What did not verify, on a route that passes such on, marked. Nobody vouches for an ID in it, so it gets none: a
    /// receiver that goes by IDs must not take the genuine event for its copy.
    pub fn unverified(
        unverified: &Unverified,
        route: &str,
        arrival: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let (mut lines, _) = HeaderWriter::begin(unverified.body(), route, arrival);
        lines.set("Hookstile-Verified", "false");
        Self::new_request(unverified.body(), lines, arrival, forward_query)
    }

    fn new_request(
        body: &Bytes,
        lines: HeaderWriter,
        arrival: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let query = arrival
            .head
            .uri
            .query()
            .filter(|_| forward_query)
            .map(Into::into);
        Self {
            method: arrival.head.method.clone(),
            query,
            lines: HeaderLines(lines.0.into()),
            body: body.clone(),
        }
    }

    /// The head as it is stored: written like that of an HTTP/1.1 request, names in the sender's spelling.
    pub fn to_stored(&self) -> Bytes {
        let mut stored = Vec::with_capacity(self.lines.0.len() + 64);
        stored.extend_from_slice(self.method.as_str().as_bytes());
        stored.extend_from_slice(b" /");
        if let Some(query) = &self.query {
            stored.extend_from_slice(b"?");
            stored.extend_from_slice(query.as_bytes());
        }
        stored.extend_from_slice(b" HTTP/1.1\r\n");
        stored.extend_from_slice(&self.lines.0);
        stored.into()
    }

    /// What [`Delivery::to_stored`] made, with the body it belongs to; `None` for anything else.
    pub fn from_stored(stored: &Bytes, body: Bytes) -> Option<Self> {
        let first_line = stored.iter().position(|&byte| byte == b'\n')? + 1;
        let start = std::str::from_utf8(stored[..first_line].strip_suffix(b"\r\n")?).ok()?;
        let (method, target) = start.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let query = target.strip_prefix('/')?.strip_prefix('?');
        let lines = HeaderLines(stored.slice(first_line..));
        if !target.bytes().all(|byte| byte > b' ') || !lines.are_of(&body) {
            return None;
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            query: query.map(Into::into),
            lines,
            body,
        })
    }

    /// The headers of what [`Delivery::to_stored`] made, in their order, names in the sender's spelling.
    pub fn stored_headers(stored: &[u8]) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let header = move |line: &[u8]| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((text(&line[..colon]), text(&line[colon + 1..])))
        };
        stored
            .split(|&byte| byte == b'\n')
            .skip(1)
            .filter_map(header)
    }

    /// The same head with [`MASK`] in place of the values of these headers.
    pub fn masked(stored: &[u8], is_private: impl Fn(&HeaderName) -> bool) -> Bytes {
        let mut masked = HeaderWriter(Vec::with_capacity(stored.len()));
        for line in stored.split_inclusive(|&byte| byte == b'\n') {
            let name = name_of(line);
            if HeaderName::from_bytes(name).is_ok_and(|name| is_private(&name)) {
                masked.line(name, MASK.as_bytes());
            } else {
                masked.0.extend_from_slice(line);
            }
        }
        masked.0.into()
    }

    /// The body, byte for byte as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The head of an attempt, whole. `path` is the upstream's path and query, `host` what it is called, and `over` are
    /// headers of the route's own, set over what the sender sent.
    pub(crate) fn render_head(
        &self,
        path: &str,
        host: &str,
        over: &[(HeaderName, HeaderValue)],
        attempt: u32,
        possible_duplicate: bool,
    ) -> Vec<u8> {
        let mut head = HeaderWriter(Vec::with_capacity(self.lines.0.len() + HEAD_BYTES));
        let joint = if path.contains('?') { "&" } else { "?" };
        let query = self.query.as_deref();
        for part in [
            self.method.as_str(),
            " ",
            path,
            query.map_or("", |_| joint),
            query.unwrap_or(""),
        ] {
            head.0.extend_from_slice(part.as_bytes());
        }
        head.0.extend_from_slice(b" HTTP/1.1\r\n");
        head.set("Host", host);
        if over.is_empty() {
            head.0.extend_from_slice(&self.lines.0);
        } else {
            let is_over = |line| over.iter().any(|(name, _)| is_named(line, name.as_str()));
            self.lines
                .each()
                .filter(|line| !is_over(line))
                .for_each(|line| head.0.extend_from_slice(line));
        }
        for (name, value) in over {
            head.line(name.as_str().as_bytes(), value.as_bytes());
        }
        head.set(ATTEMPT, &attempt.to_string());
        if possible_duplicate {
            head.set(POSSIBLE_DUPLICATE, "true");
        }
        head.0.extend_from_slice(b"\r\n");
        head.0
    }
}

impl HeaderLines {
    /// Whether they are headers that may stand before `body`: with its length, once, and nothing else that is set when it is
    /// sent. Nobody looks at them again.
    fn are_of(&self, body: &Bytes) -> bool {
        let (length, mut lengths) = (body.len().to_string(), 0);
        let mut may_stand = |(name, value): (HeaderName, &[u8])| {
            if name == header::CONTENT_LENGTH {
                lengths += 1;
                return value == length.as_bytes();
            }
            !is_framing(&name)
                && !SET_WHEN_SENT
                    .iter()
                    .any(|set| set.eq_ignore_ascii_case(name.as_str()))
        };
        self.each()
            .map(header_of)
            .all(|header| header.is_some_and(&mut may_stand))
            && lengths == 1
    }

    /// Each with its end.
    fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split_inclusive(|&byte| byte == b'\n')
    }
}

impl HeaderWriter {
    /// What every delivery says, and whether an idempotency key of the sender's is in it.
    fn begin(body: &Bytes, route: &str, arrival: &InboundRequest<'_>) -> (Self, bool) {
        let mut lines = Self(Vec::with_capacity(HEAD_BYTES));
        let of_connection: Vec<_> = named_by_connection(&arrival.head.headers).collect();
        let mut has_key = false;
        // In the order of `headers`, which knows no spelling.
        let mut names = arrival.head.headers.iter().map(|(name, _)| name);
        let copied = arrival.head.map(|spelled, value| {
            if let Some(name) = names
                .next()
                .filter(|name| passes(name) && !of_connection.contains(name))
            {
                has_key |= *name == IDEMPOTENCY_KEY;
                match spelled {
                    HeaderNameVariant::Case(spelled) => {
                        lines.line(spelled.as_slice(), value.as_bytes())
                    }
                    HeaderNameVariant::Titled(spelled) => {
                        lines.line(spelled.as_bytes(), value.as_bytes())
                    }
                }
            }
            Ok(())
        });
        debug_assert!(copied.is_ok(), "nothing in it fails");
        lines.set("Content-Length", &body.len().to_string());
        lines.set("Hookstile-Route", route);
        lines.set(
            "Hookstile-Received-At",
            &to_milliseconds(arrival.at).to_string(),
        );
        let peer = arrival.peer.to_canonical();
        let hops = arrival
            .forwarded_for
            .map_or_else(|| peer.to_string(), |hops| format!("{hops}, {peer}"));
        lines.set("X-Forwarded-For", &hops);
        lines.set("X-Forwarded-Proto", arrival.scheme);
        if let Some(host) = arrival.host {
            lines.set("X-Forwarded-Host", host);
        }
        (lines, has_key)
    }

    /// A header of ours.
    fn set(&mut self, name: &'static str, value: &str) {
        // Nothing that could end the line, whatever is in it.
        let fits = is_value(value.as_bytes());
        debug_assert!(fits, "{name} has a value that no header can hold");
        if fits {
            self.line(name.as_bytes(), value.as_bytes());
        }
    }

    fn line(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

fn passes(name: &HeaderName) -> bool {
    !(is_framing(name) || SET_ANEW.contains(name) || is_hookstile_header(name))
}

/// The name and the value that make a line, its end included.
fn header_of(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let value = value_of(line).filter(|value| is_value(value))?;
    Some((HeaderName::from_bytes(name_of(line)).ok()?, value))
}

/// What a field's value may be made of (RFC 9110 §5.5).
fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
}

/// The name that a header's line begins with.
fn name_of(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or(line)
}

fn value_of(line: &[u8]) -> Option<&[u8]> {
    line.get(name_of(line).len()..)?
        .strip_prefix(b": ")?
        .strip_suffix(b"\r\n")
}

fn is_named(line: &[u8], name: &str) -> bool {
    name_of(line).eq_ignore_ascii_case(name.as_bytes())
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
pub fn is_hookstile_header(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.get(..9).is_some_and(|start| start == b"hookstile")
        && matches!(name.get(9), Some(b'-' | b'_'))
}

fn to_milliseconds(at: Timestamp) -> Timestamp {
    at.round(Unit::Millisecond).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;
    use crate::signature::{NamedSecret, Verifier, presets};

    fn verified(body: &'static [u8]) -> Verified {
        let signed = presets::vpn_enterprise()
            .sign(
                &Secret::new("key").unwrap(),
                body,
                Timestamp::UNIX_EPOCH,
                None,
            )
            .unwrap();
        let secret = NamedSecret {
            name: "key".into(),
            secret: Secret::new("key").unwrap(),
            expires: None,
        };
        let verifier = Verifier::new(
            presets::vpn_enterprise(),
            vec![secret.for_scheme(&presets::vpn_enterprise()).unwrap()],
            false,
        );
        let mut verification = verifier.start(&signed.to_headers(), Timestamp::UNIX_EPOCH);
        verification.update(Bytes::from_static(body));
        verification.finish().unwrap()
    }

    /// The headers that an upstream gets, as they are spelled.
    fn delivered(sent: &[(&'static str, &str)]) -> Vec<(String, String)> {
        delivered_over(sent, &[])
    }

    fn delivered_over(
        sent: &[(&'static str, &str)],
        over: &[(HeaderName, HeaderValue)],
    ) -> Vec<(String, String)> {
        let mut head = RequestHeader::build("POST", b"/in?a=b", None).unwrap();
        for (name, value) in sent {
            head.append_header(*name, *value).unwrap();
        }
        let label = EventLabel {
            route: "billing".into(),
            event_id: "evt_1".into(),
            event_type: "user.created".into(),
            is_test: false,
        };
        let arrival = InboundRequest {
            head: &head,
            peer: "203.0.113.9".parse().unwrap(),
            forwarded_for: None,
            scheme: "http",
            host: Some("hooks.example.com"),
            at: Timestamp::UNIX_EPOCH,
        };
        let delivery = OutboundRequest::new(&verified(b"{}"), &label, &arrival, true);
        let stored =
            OutboundRequest::from_stored(&delivery.to_stored(), Bytes::from_static(b"{}")).unwrap();
        let head = |delivery: &OutboundRequest| {
            delivery.render_head("/app?key=1", "app.internal", over, 2, true)
        };
        assert_eq!(head(&stored), head(&delivery), "storing changes nothing");
        let head = String::from_utf8(head(&delivery)).unwrap();
        let lines = head
            .strip_prefix("POST /app?key=1&a=b HTTP/1.1\r\n")
            .and_then(|head| head.strip_suffix("\r\n\r\n"));
        lines
            .unwrap()
            .split("\r\n")
            .map(|line| line.split_once(": ").unwrap())
            .map(|(a, b)| (a.into(), b.into()))
            .collect()
    }

    fn values<'a>(head: &'a [(String, String)], name: &str) -> Vec<&'a str> {
        head.iter()
            .filter(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    #[test]
    fn end_to_end_headers_pass_with_their_order_and_spelling() {
        let head = delivered(&[
            ("X-VPN-Signature", "sha256=ab"),
            ("x-Multi", "1"),
            ("x-Multi", "2"),
        ]);
        let sent = [
            ("X-VPN-Signature", "sha256=ab"),
            ("x-Multi", "1"),
            ("x-Multi", "2"),
        ];
        let sent = sent.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(head[0], ("Host".to_owned(), "app.internal".to_owned()));
        assert_eq!(head[1..4], sent);
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
        for name in [
            "x-hop",
            "connection",
            "keep-alive",
            "transfer-encoding",
            "expect",
            "upgrade",
            "te",
        ] {
            assert!(values(&head, name).is_empty(), "{name}");
        }
        assert_eq!(values(&head, "host"), ["app.internal"]);
        assert_eq!(values(&head, "content-length"), ["2"]);
    }

    #[test]
    fn what_a_sender_says_in_our_name_is_dropped_in_any_spelling() {
        let head = delivered(&[
            ("Hookstile-Event-Id", "spoofed"),
            ("hookstile_event_id", "spoofed"),
            ("HOOKSTILE-Verified", "true"),
            ("Hookstilekeeper", "is somebody else"),
        ]);
        assert_eq!(values(&head, "hookstile-event-id"), ["evt_1"]);
        assert!(values(&head, "hookstile_event_id").is_empty());
        assert!(values(&head, "hookstile-verified").is_empty());
        assert_eq!(values(&head, "hookstilekeeper"), ["is somebody else"]);
    }

    #[test]
    fn what_a_sender_says_of_its_way_is_said_anew() {
        let head = delivered(&[
            ("X-Forwarded-For", "198.51.100.1"),
            ("X-Forwarded-Host", "evil.example.com"),
            ("x-forwarded-proto", "https"),
            ("Content-Length", "9"),
        ]);
        assert_eq!(values(&head, "x-forwarded-for"), ["203.0.113.9"]);
        assert_eq!(values(&head, "x-forwarded-host"), ["hooks.example.com"]);
        assert_eq!(values(&head, "x-forwarded-proto"), ["http"]);
        assert_eq!(values(&head, "content-length"), ["2"]);
    }

    #[test]
    fn a_route_s_own_headers_stand_in_the_place_of_the_sender_s() {
        let over = [(
            HeaderName::from_static("authorization"),
            HeaderValue::from_static("Bearer ours"),
        )];
        let sent = [
            ("Authorization", "theirs"),
            ("AUTHORIZATION", "theirs too"),
            ("X-App", "kept"),
        ];
        let head = delivered_over(&sent, &over);
        assert_eq!(values(&head, "authorization"), ["Bearer ours"]);
        assert_eq!(values(&head, "x-app"), ["kept"]);
    }

    #[test]
    fn the_upstream_is_told_what_it_gets() {
        let head = delivered(&[]);
        for (name, value) in [
            ("hookstile-event-type", "user.created"),
            ("hookstile-route", "billing"),
            ("hookstile-attempt", "2"),
            ("hookstile-possible-duplicate", "true"),
            ("hookstile-received-at", "1970-01-01T00:00:00Z"),
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
        let body = Bytes::from_static(b"{}");
        let is_one = |stored: &[u8]| {
            OutboundRequest::from_stored(&Bytes::copy_from_slice(stored), body.clone()).is_some()
        };
        let good = b"POST /?a=b\x7f\xc3\xa9 HTTP/1.1\r\nA: b\r\nContent-Length: 2\r\n";
        assert!(is_one(good));
        for cut in 0..good.len() {
            assert!(!is_one(&good[..cut]), "{cut}");
        }
        let with = |line: &str| {
            is_one(format!("POST / HTTP/1.1\r\nContent-Length: 2\r\n{line}").as_bytes())
        };
        assert!(with("") && with("A:  b\tc\r\n") && with("A: \r\n"));
        for wrong in [
            "no colon\r\n",
            "A: b\r\n\r\n",
            "A: b\nB: c\r\n",
            "A: b\0\r\n",
            "Content-Length: 2\r\n",
            "content-length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Host: a\r\n",
            "Hookstile-Attempt: 1\r\n",
        ] {
            assert!(!with(wrong), "{wrong:?}");
        }
        assert!(!is_one(b"POST /?a b HTTP/1.1\r\nContent-Length: 2\r\n"));
        assert!(!is_one(b"PO(ST / HTTP/1.1\r\nContent-Length: 2\r\n"));
        assert!(!is_one(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n"));
    }

    #[test]
    fn only_the_values_of_private_headers_are_masked() {
        let stored = b"POST / HTTP/1.1\r\nX-Check: secret\r\nAccept: a: b\r\n";
        let masked = OutboundRequest::masked(stored, |name| name == "x-check");
        assert_eq!(
            masked,
            &b"POST / HTTP/1.1\r\nX-Check: ***\r\nAccept: a: b\r\n"[..]
        );
    }

    #[test]
    fn a_provider_s_own_idempotency_key_is_kept() {
        assert_eq!(
            values(
                &delivered(&[("Idempotency-Key", "theirs")]),
                "idempotency-key"
            ),
            ["theirs"]
        );
    }
}
