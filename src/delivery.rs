//! The request that is sent to an upstream: a verified body with its headers.
//!
//! Chooses the sender's headers that are forwarded and the gateway's that are set
//! (docs/semantics.md, To the upstream; RFC 9110 §7.6.1). Knows the stored form of a request, and
//! writes the head of an attempt for HTTP/1.1. `upstream` sends it and reads the response.

mod header_names;
mod private;
mod test_mark;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method};
use jiff::{Timestamp, Unit};
use pingora_http::{HeaderNameVariant, RequestHeader};

use crate::signature::{Unverified, Verified};

use header_names::{Restriction, restriction};

use header_names::folds_to;
pub(crate) use header_names::{folds_to_any, folds_to_framing, is_framing, is_hookstile_header};
pub(crate) use private::{is_private_header, last_word, mask_text};
pub(crate) use test_mark::{HEADER as TEST_MARK, TestMarks};

/// A request that is ready to be sent to an upstream, as often as necessary. It is made from a
/// [`Verified`] body, from the stored form of such a request, or from an [`Unverified`] body, which
/// is marked.
pub struct OutboundRequest {
    method: Method,
    query: Option<Box<str>>,
    lines: HeaderLines,
    body: Bytes,
}

/// Headers as HTTP/1.1 writes them (RFC 9112 §5), one per line. They were checked when the request
/// arrived. Afterwards they are only copied, except for those that a route replaces.
#[derive(Clone)]
struct HeaderLines(Bytes);

/// Header lines that are being written.
struct HeaderWriter(Vec<u8>);

/// The usual size of a head, in bytes.
const HEAD_BYTES: usize = 1024;

/// The event's metadata that its headers carry.
#[derive(Debug, Clone)]
pub struct EventLabel {
    pub route: Arc<str>,
    /// At most 255 bytes, no control characters.
    pub event_id: Arc<str>,
    /// At most 255 bytes, no control characters.
    pub event_type: Arc<str>,
    /// `true` if the gateway itself made the event, at an operator's request.
    pub is_test: bool,
    /// `true` if the event may be a replay of a captured request.
    pub possible_replay: bool,
    /// `false` if the ID is made up: it tells requests apart, not events.
    pub is_identified: bool,
}

/// The request in which an event arrived.
pub struct InboundRequest<'a> {
    pub head: &'a RequestHeader,
    /// The address of the connected peer; unspecified for that of a Unix socket.
    pub peer: IpAddr,
    /// Set when the peer is a trusted proxy.
    pub from_trusted_proxy: bool,
    /// The addresses before it, from the `X-Forwarded-For` of a trusted proxy.
    pub forwarded_for: Option<&'a str>,
    /// The headers that the route reads. They are forwarded, unless the gateway sets them.
    pub read_headers: &'a [HeaderName],
    /// `http` or `https`.
    pub scheme: &'a str,
    pub host: Option<&'a str>,
    /// The time of arrival.
    pub at: Timestamp,
}

const ATTEMPT: &str = "Hookstile-Attempt";
const POSSIBLE_DUPLICATE: &str = "Hookstile-Possible-Duplicate";
/// Headers that are set for each attempt, so a stored request does not have them.
const PER_ATTEMPT: [&str; 2] = [ATTEMPT, POSSIBLE_DUPLICATE];

/// The text that replaces the value of a private header.
pub(crate) const MASK: &str = "***";

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

impl OutboundRequest {
    /// Creates the request of an event. `forward_query` keeps the sender's query string.
    pub fn new(
        verified: &Verified,
        label: &EventLabel,
        inbound: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let (mut lines, has_key) = HeaderWriter::begin(verified.body(), &label.route, inbound);
        lines.set("Hookstile-Event-Id", &label.event_id);
        lines.set("Hookstile-Event-Type", &label.event_type);
        if label.is_test {
            lines.set("Hookstile-Test", "true");
        }
        if label.possible_replay {
            lines.set("Hookstile-Possible-Replay", "true");
        }
        if !has_key && label.is_identified {
            lines.set("Idempotency-Key", &label.event_id);
        }
        Self::from_lines(verified.body(), lines, inbound, forward_query)
    }

    /// Creates the request of a provider's handshake, which is not an event and has no ID.
    pub fn handshake(
        verified: &Verified,
        route: &str,
        event_type: &'static str,
        inbound: &InboundRequest<'_>,
    ) -> Self {
        let (mut lines, _) = HeaderWriter::begin(verified.body(), route, inbound);
        lines.set("Hookstile-Event-Type", event_type);
        Self::from_lines(verified.body(), lines, inbound, false)
    }

    /// Creates the request of a body that did not verify, marked, on a route that forwards such
    /// bodies. It gets no event ID, because an unverified ID may be forged: a receiver that
    /// deduplicates by ID must not mistake the genuine event for a copy of this one.
    pub fn unverified(
        unverified: &Unverified,
        route: &str,
        inbound: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let (mut lines, _) = HeaderWriter::begin(unverified.body(), route, inbound);
        lines.set("Hookstile-Verified", "false");
        Self::from_lines(unverified.body(), lines, inbound, forward_query)
    }

    fn from_lines(
        body: &Bytes,
        lines: HeaderWriter,
        inbound: &InboundRequest<'_>,
        forward_query: bool,
    ) -> Self {
        let query = inbound
            .head
            .uri
            .query()
            .filter(|_| forward_query)
            .map(Into::into);
        Self {
            method: inbound.head.method.clone(),
            query,
            lines: HeaderLines(lines.0.into()),
            body: body.clone(),
        }
    }

    /// Returns the head as it is stored: written like the head of an HTTP/1.1 request, with header
    /// names in the sender's spelling.
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

    /// Parses a head that [`to_stored`](Self::to_stored) made, with the body that it belongs to.
    /// Returns `None` for anything else.
    pub fn from_stored(stored: &Bytes, body: Bytes) -> Option<Self> {
        let first_line = stored.iter().position(|&byte| byte == b'\n')? + 1;
        let start = std::str::from_utf8(stored[..first_line].strip_suffix(b"\r\n")?).ok()?;
        let (method, target) = start.strip_suffix(" HTTP/1.1")?.split_once(' ')?;
        let query = target.strip_prefix('/')?.strip_prefix('?');
        let lines = HeaderLines(stored.slice(first_line..));
        if !target.bytes().all(|byte| byte > b' ') || !lines.may_precede(&body) {
            return None;
        }
        Some(Self {
            method: Method::from_bytes(method.as_bytes()).ok()?,
            query: query.map(Into::into),
            lines,
            body,
        })
    }

    /// Returns the headers of a stored head, in their order, with names in the sender's spelling.
    pub fn stored_headers(stored: &[u8]) -> impl Iterator<Item = (String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        stored
            .split(|&byte| byte == b'\n')
            .skip(1)
            .filter_map(move |line| {
                let colon = line.iter().position(|&byte| byte == b':')?;
                Some((text(&line[..colon]), text(&line[colon + 1..])))
            })
    }

    /// Returns a stored head with [`MASK`] in place of the values of private headers.
    pub fn masked(stored: &[u8], is_private: impl Fn(&HeaderName) -> bool) -> Bytes {
        let mut masked = HeaderWriter(Vec::with_capacity(stored.len()));
        for line in stored.split_inclusive(|&byte| byte == b'\n') {
            let name = line_name(line);
            if HeaderName::from_bytes(name).is_ok_and(|name| is_private(&name)) {
                masked.push_line(name, MASK.as_bytes());
            } else {
                masked.0.extend_from_slice(line);
            }
        }
        masked.0.into()
    }

    /// Returns the values of the headers of an attempt that may authenticate it. `route_headers` are
    /// the route's own.
    pub(crate) fn private_values(
        &self,
        route_headers: &[(HeaderName, HeaderValue)],
    ) -> Vec<String> {
        // The value of a secret is private under any name.
        let own = route_headers
            .iter()
            .filter(|(name, value)| value.is_sensitive() || is_private_header(name.as_str()))
            .map(|(_, value)| value.as_bytes());
        self.lines
            .iter()
            .filter_map(|line| Some((line_name(line), line_value(line)?)))
            .filter(|(name, _)| is_private_header(&String::from_utf8_lossy(name)))
            .map(|(_, value)| value)
            .chain(own)
            .map(|value| String::from_utf8_lossy(value).trim().to_owned())
            .collect()
    }

    /// Returns the body, byte for byte as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Renders the whole head of an attempt. `path` is the upstream's path and query, `host` its
    /// name, and `route_headers` are the route's own headers, which replace the sender's.
    pub(crate) fn render_head(
        &self,
        path: &str,
        host: &str,
        route_headers: &[(HeaderName, HeaderValue)],
        attempt: u32,
        possible_duplicate: bool,
    ) -> Vec<u8> {
        let mut head = HeaderWriter(Vec::with_capacity(self.lines.0.len() + HEAD_BYTES));
        let separator = if path.contains('?') { "&" } else { "?" };
        let query = self.query.as_deref();
        for part in [
            self.method.as_str(),
            " ",
            path,
            query.map_or("", |_| separator),
            query.unwrap_or(""),
        ] {
            head.0.extend_from_slice(part.as_bytes());
        }
        head.0.extend_from_slice(b" HTTP/1.1\r\n");
        head.set("Host", host);
        if route_headers.is_empty() {
            head.0.extend_from_slice(&self.lines.0);
        } else {
            for line in self.lines.iter() {
                if !route_headers
                    .iter()
                    .any(|(name, _)| folds_to(line_name(line), name.as_str().as_bytes()))
                {
                    head.0.extend_from_slice(line);
                }
            }
        }
        for (name, value) in route_headers {
            head.push_line(name.as_str().as_bytes(), value.as_bytes());
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
    /// Returns whether these headers may be sent before `body`: they hold its length, exactly once,
    /// and no other header that is set when the request is sent. They are not checked again.
    fn may_precede(&self, body: &Bytes) -> bool {
        let (length, mut lengths) = (body.len().to_string(), 0);
        for line in self.iter() {
            let Some((name, value)) = parse_line(line) else {
                return false;
            };
            if name == header::CONTENT_LENGTH {
                lengths += 1;
                if value != length.as_bytes() {
                    return false;
                }
            } else if is_framing(&name)
                || PER_ATTEMPT
                    .iter()
                    .any(|set| set.eq_ignore_ascii_case(name.as_str()))
            {
                return false;
            }
        }
        lengths == 1
    }

    /// Returns the lines, each with its line end.
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split_inclusive(|&byte| byte == b'\n')
    }
}

impl HeaderWriter {
    /// Writes the headers that every request has. Returns them, and whether the sender's
    /// idempotency key is among them.
    fn begin(body: &Bytes, route: &str, inbound: &InboundRequest<'_>) -> (Self, bool) {
        let mut lines = Self(Vec::with_capacity(HEAD_BYTES));
        let hop_by_hop: Vec<_> = named_by_connection(&inbound.head.headers).collect();
        let mut has_key = false;
        // Both iterate in the same order; only `RequestHeader::map` knows the spelling.
        let mut names = inbound.head.headers.iter().map(|(name, _)| name);
        let copied = inbound.head.map(|spelled, value| {
            if let Some(name) = names
                .next()
                .filter(|name| inbound.forwards(name) && !is_any(name, &hop_by_hop))
            {
                has_key |= *name == IDEMPOTENCY_KEY;
                match spelled {
                    HeaderNameVariant::Case(spelled) => {
                        lines.push_line(spelled.as_slice(), value.as_bytes());
                    }
                    HeaderNameVariant::Titled(spelled) => {
                        lines.push_line(spelled.as_bytes(), value.as_bytes());
                    }
                }
            }
            Ok(())
        });
        debug_assert!(copied.is_ok(), "the closure does not fail");
        lines.set("Content-Length", &body.len().to_string());
        lines.set("Hookstile-Route", route);
        lines.set(
            "Hookstile-Received-At",
            &to_milliseconds(inbound.at).to_string(),
        );
        let peer = inbound.peer.to_canonical();
        // The peer of a Unix socket has no address.
        match (inbound.forwarded_for, peer.is_unspecified()) {
            (None, false) => lines.set("X-Forwarded-For", &peer.to_string()),
            (Some(earlier), false) => {
                lines.set("X-Forwarded-For", &format!("{earlier}, {peer}"));
            }
            (Some(earlier), true) => lines.set("X-Forwarded-For", earlier),
            (None, true) => {}
        }
        lines.set("X-Forwarded-Proto", inbound.scheme);
        if let Some(host) = inbound.host {
            lines.set("X-Forwarded-Host", host);
        }
        (lines, has_key)
    }

    /// Writes one of the gateway's own headers.
    fn set(&mut self, name: &'static str, value: &str) {
        // A value must not end the line, whatever it holds.
        let fits = is_value(value.as_bytes());
        debug_assert!(fits, "{name} has a value that no header can hold");
        if fits {
            self.push_line(name.as_bytes(), value.as_bytes());
        }
    }

    fn push_line(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

impl InboundRequest<'_> {
    /// Returns whether a sender's header is forwarded, if `Connection` does not name it.
    fn forwards(&self, name: &HeaderName) -> bool {
        match restriction(name) {
            None => true,
            Some(Restriction::Gateway) => false,
            Some(Restriction::TrustedProxy) => {
                self.from_trusted_proxy || self.read_headers.contains(name)
            }
            Some(Restriction::Lookalike) => self.read_headers.contains(name),
        }
    }
}

/// Returns whether a receiver could read a name as one of `names`.
fn is_any(name: &HeaderName, names: &[HeaderName]) -> bool {
    names.iter().any(|other| is_spelling_of(name, other))
}

/// Returns whether a receiver could read a name as the other one, or they are the same.
pub(crate) fn is_spelling_of(name: &HeaderName, other: &HeaderName) -> bool {
    folds_to(name.as_str().as_bytes(), other.as_str().as_bytes())
}

/// Parses a line, which includes its line end, into the header's name and value.
fn parse_line(line: &[u8]) -> Option<(HeaderName, &[u8])> {
    let value = line_value(line).filter(|value| is_value(value))?;
    Some((HeaderName::from_bytes(line_name(line)).ok()?, value))
}

/// Returns whether these bytes may form a field value (RFC 9110 §5.5).
fn is_value(value: &[u8]) -> bool {
    value
        .iter()
        .all(|&byte| byte == b'\t' || byte >= b' ' && byte != 0x7f)
}

/// Returns the name at the start of a header's line.
fn line_name(line: &[u8]) -> &[u8] {
    line.split(|&byte| byte == b':').next().unwrap_or(line)
}

fn line_value(line: &[u8]) -> Option<&[u8]> {
    line.get(line_name(line).len()..)?
        .strip_prefix(b": ")?
        .strip_suffix(b"\r\n")
}

/// Returns the headers that `Connection` limits to this connection (RFC 9110 §7.6.1).
pub(crate) fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> + '_ {
    let values = headers.get_all(header::CONNECTION).iter();
    let tokens = values.flat_map(|value| value.as_bytes().split(|&byte| byte == b','));
    tokens.filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
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

    /// Returns the headers that an upstream receives, as they are spelled.
    fn delivered(sent: &[(&'static str, &str)]) -> Vec<(String, String)> {
        delivered_with(sent, &[])
    }

    fn delivered_with(
        sent: &[(&'static str, &str)],
        route_headers: &[(HeaderName, HeaderValue)],
    ) -> Vec<(String, String)> {
        delivered_from(false, sent, route_headers)
    }

    fn delivered_from(
        from_trusted_proxy: bool,
        sent: &[(&'static str, &str)],
        route_headers: &[(HeaderName, HeaderValue)],
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
            possible_replay: false,
            is_identified: true,
        };
        let inbound = InboundRequest {
            head: &head,
            peer: "203.0.113.9".parse().unwrap(),
            from_trusted_proxy,
            forwarded_for: None,
            read_headers: &[HeaderName::from_static("x-forwarded-event")],
            scheme: "http",
            host: Some("hooks.example.com"),
            at: Timestamp::UNIX_EPOCH,
        };
        let delivery = OutboundRequest::new(&verified(b"{}"), &label, &inbound, true);
        let stored =
            OutboundRequest::from_stored(&delivery.to_stored(), Bytes::from_static(b"{}")).unwrap();
        let head = |delivery: &OutboundRequest| {
            delivery.render_head("/app?key=1", "app.internal", route_headers, 2, true)
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
    fn end_to_end_headers_keep_their_order_and_spelling() {
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
    fn hop_by_hop_headers_are_not_forwarded() {
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
    fn senders_hookstile_headers_are_dropped_in_any_spelling() {
        let head = delivered(&[
            ("Hookstile-Event-Id", "spoofed"),
            ("hookstile_event_id", "spoofed"),
            ("HOOKSTILE-Verified", "true"),
            ("Hookstile.Event.Id", "spoofed"),
            ("Hookstile~Verified", "true"),
            ("Hookstilekeeper", "is somebody else"),
        ]);
        assert_eq!(values(&head, "hookstile-event-id"), ["evt_1"]);
        assert!(values(&head, "hookstile_event_id").is_empty());
        assert!(values(&head, "hookstile-verified").is_empty());
        assert_eq!(values(&head, "hookstilekeeper"), ["is somebody else"]);
    }

    #[test]
    fn forwarded_headers_are_replaced() {
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
    fn only_a_trusted_proxy_describes_the_original_request() {
        let sent = [
            ("Forwarded", "for=198.51.100.1"),
            ("X-Real-IP", "198.51.100.1"),
            ("X-Forwarded-Port", "443"),
            ("Proxy", "http://198.51.100.1"),
            ("X_Real_IP", "198.51.100.2"),
            ("X.Forwarded.Port", "444"),
            ("X_Forwarded_For", "198.51.100.2"),
            ("Idempotency_Key", "spoofed"),
        ];
        let exact = &sent[..4];
        for (name, _) in sent {
            assert!(values(&delivered(&sent), name).is_empty(), "{name}");
        }
        let trusted = delivered_from(true, &sent, &[]);
        for (name, value) in sent {
            let passes = exact.contains(&(name, value));
            assert_eq!(
                values(&trusted, name),
                &[value][..usize::from(passes)],
                "{name}"
            );
        }
    }

    #[test]
    fn header_that_the_route_reads_is_forwarded() {
        let head = delivered(&[("X-Forwarded-Event", "user.created")]);
        assert_eq!(values(&head, "x-forwarded-event"), ["user.created"]);
    }

    #[test]
    fn connection_removes_every_spelling() {
        let head = delivered(&[("Connection", "X-Hop"), ("X_Hop", "1"), ("X.Hop", "2")]);
        assert!(values(&head, "x_hop").is_empty() && values(&head, "x.hop").is_empty());
    }

    #[test]
    fn route_headers_replace_the_senders() {
        let route_headers =
            [("authorization", "Bearer ours"), ("x-tenant", "ours")].map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            });
        let sent = [
            ("Authorization", "theirs"),
            ("AUTHORIZATION", "theirs too"),
            ("X-App", "kept"),
            ("X_Tenant", "theirs"),
            ("x.tenant", "theirs"),
        ];
        let head = delivered_with(&sent, &route_headers);
        let tenants = head
            .iter()
            .filter(|(name, _)| folds_to(name.as_bytes(), b"x-tenant"));
        assert_eq!(
            tenants.map(|(_, value)| value).collect::<Vec<_>>(),
            ["ours"]
        );
        assert_eq!(values(&head, "authorization"), ["Bearer ours"]);
        assert_eq!(values(&head, "x-app"), ["kept"]);
    }

    #[test]
    fn upstream_receives_the_events_metadata() {
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
    fn malformed_stored_head_is_rejected() {
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
    fn masking_hides_the_values_of_private_headers() {
        let stored = b"POST / HTTP/1.1\r\nX-Check: secret\r\nAccept: a: b\r\n";
        let masked = OutboundRequest::masked(stored, |name| name == "x-check");
        assert_eq!(
            masked,
            &b"POST / HTTP/1.1\r\nX-Check: ***\r\nAccept: a: b\r\n"[..]
        );
    }

    #[test]
    fn senders_idempotency_key_is_kept() {
        assert_eq!(
            values(
                &delivered(&[("Idempotency-Key", "theirs")]),
                "idempotency-key"
            ),
            ["theirs"]
        );
    }
}
