//! The checks of a request's head, made before anything else is done with it.
//!
//! Pingora's parser is lenient where a receiver behind the gateway might read the same bytes
//! another way. Ambiguous heads are rejected here (RFC 9112 §6, §11.2); webhook senders send none
//! of them.

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Version};
use pingora_http::RequestHeader;

use crate::delivery::{folds_to_any, is_spelling_of, named_by_connection};
use crate::gateway::request_line::RequestLine;
use crate::route::Route;

/// The most fields of a head: more than a sender and the proxies behind it add to a webhook.
const FIELDS_MAX: usize = 100;

/// The facts about a request's arrival that its head does not show.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    pub place: Place,
    /// The request line; `None` over HTTP/2, and for a head that could not be read.
    pub request_line: Option<RequestLine>,
}

/// The place of a request on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first of its connection, or one with an HTTP/2 stream of its own.
    First,
    /// A later one, sent after the response to the one before.
    Kept,
    /// A later one that arrived together with the end of the one before.
    Pipelined,
}

impl Arrival {
    /// The arrival of a request with an HTTP/2 stream of its own, or without a readable head.
    pub const ALONE: Self = Self {
        place: Place::First,
        request_line: None,
    };
}

/// The facts of a head that has passed its checks.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The size of the head in bytes.
    pub bytes: usize,
    /// The host in lower case, without the port.
    pub host: Option<Box<str>>,
    /// The announced size of the body in bytes; `None` when it is chunked or absent.
    pub content_length: Option<u64>,
    /// Set when the body is sent in chunks.
    pub chunked: bool,
    /// Set when the sender waits for 100 (Continue) before it sends the body.
    pub expects_continue: bool,
}

/// The reason why a head is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    TooLarge,
    Malformed(MalformedHead),
}

/// The part of a head that is malformed or ambiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MalformedHead {
    Unparsable,
    Target,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    LineEnd,
    FieldName,
    Body,
}

impl MalformedHead {
    /// Returns the text for logs and responses.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Unparsable => "the request could not be parsed",
            Self::Target => {
                "the request target must be a path of visible ASCII, \
                 without encoded control characters"
            }
            Self::Host => "there must be exactly one Host, with a valid name",
            Self::ContentLength => "Content-Length must be given at most once, in digits",
            Self::TransferEncoding => {
                "Transfer-Encoding must be `chunked` alone, and without Content-Length"
            }
            Self::Connection => "Connection names a header that must reach the receiver",
            Self::Expect => "the only supported expectation is 100-continue",
            Self::LineEnd => "lines must end in CR LF, and the first line must be the request line",
            Self::FieldName => {
                "a header name differs only in punctuation from one that frames or authenticates \
                 the request"
            }
            Self::Body => "a request with this method must not have a body here",
        }
    }

    /// Returns the label for metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unparsable => "unparsable",
            Self::Target => "target",
            Self::Host => "host",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Connection => "connection",
            Self::Expect => "expect",
            Self::LineEnd => "line_end",
            Self::FieldName => "field_name",
            Self::Body => "body",
        }
    }
}

impl Head {
    /// Checks a head. `raw` has its bytes as they were read; over HTTP/2 there are none.
    ///
    /// # Errors
    /// When the head is larger than `header_bytes_max`, malformed or ambiguous.
    pub fn check(
        head: &RequestHeader,
        raw: Option<&[u8]>,
        header_bytes_max: usize,
        arrival: Arrival,
    ) -> Result<Self, HeadError> {
        let size = raw.map_or_else(|| size_of_fields(&head.headers), <[u8]>::len);
        if size > header_bytes_max || head.headers.len() > FIELDS_MAX {
            return Err(HeadError::TooLarge);
        }
        let fields = Fields::find(&head.headers);
        match raw {
            Some(raw) => check_raw(without_empty_line(raw, arrival.place), &fields)?,
            None if is_sound_target(head.raw_path()) => {}
            None => return reject(MalformedHead::Target),
        }
        if arrival.request_line.is_some_and(|line| !line.is_plain()) {
            return reject(MalformedHead::Target);
        }
        if fields.has_deceptive_name {
            return reject(MalformedHead::FieldName);
        }
        let chunked = is_chunked(fields.transfer_encoding)?;
        check_connection(&head.headers)?;
        Ok(Self {
            bytes: size,
            host: host(fields.host, head)?,
            content_length: content_length(fields.content_length)?,
            chunked,
            expects_continue: expects_continue(fields.expect, head.version)?,
        })
    }
}

/// The fields of a head that are checked, found in one walk.
#[derive(Default)]
struct Fields<'h> {
    content_length: Field<'h>,
    expect: Field<'h>,
    host: Field<'h>,
    transfer_encoding: Field<'h>,
    /// Set if a name [`is_deceptive`].
    has_deceptive_name: bool,
}

/// A field that a head may have once.
#[derive(Clone, Copy, Default)]
enum Field<'h> {
    #[default]
    Absent,
    Once(&'h HeaderValue),
    Repeated,
}

impl<'h> Fields<'h> {
    fn find(headers: &'h HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            let field = match *name {
                header::CONTENT_LENGTH => &mut fields.content_length,
                header::EXPECT => &mut fields.expect,
                header::HOST => &mut fields.host,
                header::TRANSFER_ENCODING => &mut fields.transfer_encoding,
                _ => {
                    fields.has_deceptive_name |= is_deceptive(name.as_str());
                    continue;
                }
            };
            *field = match field {
                Field::Absent => Field::Once(value),
                Field::Once(_) | Field::Repeated => Field::Repeated,
            };
        }
        fields
    }
}

fn reject<T>(malformed: MalformedHead) -> Result<T, HeadError> {
    Err(HeadError::Malformed(malformed))
}

/// Returns the size of the fields as HTTP/2 counts it (RFC 9113 §6.5.2).
fn size_of_fields(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// Returns a head without the empty line in front of it, which is ignored behind another request
/// (RFC 9112 §2.2). A first request begins with its request line.
fn without_empty_line(raw: &[u8], place: Place) -> &[u8] {
    match place {
        Place::First => raw,
        Place::Kept | Place::Pipelined => raw.strip_prefix(b"\r\n").unwrap_or(raw),
    }
}

/// Checks what only the raw bytes show: Pingora accepts a bare LF as CR LF and any form of target,
/// and drops a Content-Length beside a Transfer-Encoding. It also percent-encodes the bytes of a
/// target that it cannot read, among them a bare CR, which ends a line for some receivers.
fn check_raw(raw: &[u8], fields: &Fields<'_>) -> Result<(), HeadError> {
    if has_bare_lf(raw) || raw.starts_with(b"\r\n") {
        return reject(MalformedHead::LineEnd);
    }
    let mut lines = raw.split(|&byte| byte == b'\n');
    let request_line = lines.next().unwrap_or_default();
    let target = request_line
        .split(|&byte| byte == b' ')
        .nth(1)
        .unwrap_or_default();
    if !is_sound_target(target) {
        return reject(MalformedHead::Target);
    }
    if !matches!(fields.transfer_encoding, Field::Absent) && lines.any(is_content_length) {
        return reject(MalformedHead::TransferEncoding);
    }
    Ok(())
}

/// Returns whether an LF has no CR before it.
#[expect(
    clippy::needless_bitwise_bool,
    reason = "without branches it is vectorised"
)]
fn has_bare_lf(raw: &[u8]) -> bool {
    let pairs = raw.iter().zip(raw.get(1..).unwrap_or_default());
    pairs.fold(raw.starts_with(b"\n"), |bare, (&before, &byte)| {
        bare | (byte == b'\n' && before != b'\r')
    })
}

/// Returns whether a target has the origin form, or the absolute form that a server must accept too
/// (RFC 9112 §3.2.2). Pingora has checked that the latter's host is that of the Host header.
fn is_sound_target(target: &[u8]) -> bool {
    let absolute = [&b"http://"[..], b"https://"]
        .iter()
        .find_map(|scheme| {
            target
                .get(..scheme.len())
                .filter(|start| start.eq_ignore_ascii_case(scheme))
        })
        .map(|scheme| &target[scheme.len()..]);
    let form = match absolute {
        Some(rest) => !rest
            .split(|&byte| byte == b'/')
            .next()
            .unwrap_or_default()
            .contains(&b'@'),
        None => target.starts_with(b"/"),
    };
    form && target
        .iter()
        .all(|&byte| byte.is_ascii_graphic() && byte != b'#')
        && !(target.contains(&b'%') && target.windows(3).any(is_encoded_control))
}

fn is_encoded_control(text: &[u8]) -> bool {
    matches!(text, [b'%', b'0' | b'1', _] | [b'%', b'7', b'f' | b'F'])
}

fn is_content_length(line: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    line.get(..NAME.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(NAME))
}

/// Returns whether a name is one that a receiver which folds names, as CGI does, would take for
/// framing; or has a quote, so that it is no token (RFC 9110 §5.6.2), which h2 accepts.
fn is_deceptive(name: &str) -> bool {
    const FRAMING: [&[u8]; 2] = [b"transfer-encoding", b"content-length"];
    folds_to_any(name.as_bytes(), &FRAMING) || name.contains('"')
}

fn is_chunked(transfer_encoding: Field<'_>) -> Result<bool, HeadError> {
    match transfer_encoding {
        Field::Absent => Ok(false),
        Field::Once(value)
            if value
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(true)
        }
        Field::Once(_) | Field::Repeated => reject(MalformedHead::TransferEncoding),
    }
}

/// The end-to-end headers that `Connection` must not name: a sender could only mean to have a proxy
/// drop them.
static END_TO_END: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::HOST,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
];

fn check_connection(headers: &HeaderMap) -> Result<(), HeadError> {
    if named_by_connection(headers)
        .any(|name| END_TO_END.iter().any(|other| is_spelling_of(&name, other)))
    {
        return reject(MalformedHead::Connection);
    }
    Ok(())
}

/// Rejects a head in which `Connection` names a header that `route` reads, or in which another
/// header could be mistaken for one. Those headers must reach the upstream, which may check them
/// again and may fold names.
///
/// # Errors
/// When the head is malformed for this route.
pub(super) fn check_route_headers(headers: &HeaderMap, route: &Route) -> Result<(), HeadError> {
    if named_by_connection(headers).any(|name| route.reads_spelling_of(&name)) {
        return reject(MalformedHead::Connection);
    }
    if headers
        .keys()
        .any(|name| route.reads_spelling_of(name) && !route.reads_header(name))
    {
        return reject(MalformedHead::FieldName);
    }
    Ok(())
}

fn content_length(field: Field<'_>) -> Result<Option<u64>, HeadError> {
    let value = match field {
        Field::Absent => return Ok(None),
        Field::Once(value) => value,
        Field::Repeated => return reject(MalformedHead::ContentLength),
    };
    let text = value.to_str().unwrap_or_default();
    // A leading zero is lawful, but some receivers read it as octal.
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    match text.parse().ok().filter(|_| is_plain) {
        Some(size) => Ok(Some(size)),
        None => reject(MalformedHead::ContentLength),
    }
}

fn expects_continue(field: Field<'_>, version: Version) -> Result<bool, HeadError> {
    match field {
        Field::Absent => Ok(false),
        Field::Once(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            // HTTP/1.0 has no 1xx responses (RFC 9110 §10.1.1).
            Ok(version != Version::HTTP_10)
        }
        Field::Once(_) | Field::Repeated => reject(MalformedHead::Expect),
    }
}

fn host(field: Field<'_>, head: &RequestHeader) -> Result<Option<Box<str>>, HeadError> {
    // HTTP/2 has the host in `:authority`; Pingora has checked that a Host beside it agrees.
    let text = match (field, head.uri.authority()) {
        (Field::Repeated, _) => return reject(MalformedHead::Host),
        (Field::Once(value), _) => value.to_str().ok(),
        (Field::Absent, Some(authority)) => Some(authority.as_str()),
        (Field::Absent, None) if head.version == Version::HTTP_11 => {
            return reject(MalformedHead::Host);
        }
        (Field::Absent, None) => return Ok(None),
    };
    match text.and_then(name_without_port) {
        Some(name) => Ok(Some(name.to_ascii_lowercase().into())),
        None => reject(MalformedHead::Host),
    }
}

/// Returns the name in `name[:port]` or `[address][:port]`, without the dot that ends an absolute
/// name; `None` for any other text (RFC 3986 §3.2).
fn name_without_port(text: &str) -> Option<&str> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            text.split_at(end)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_name = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte));
    let digits = if port.is_empty() {
        port
    } else {
        port.strip_prefix(':')?
    };
    (is_name && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

/// Returns the trace ID of a well-formed `traceparent` (W3C Trace Context §3.2), which the upstream
/// receives too.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let is_lower_hex = trace_id
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (version.len() == 2 && trace_id.len() == 32 && is_lower_hex).then_some(trace_id)
}

#[cfg(test)]
mod tests {
    mod strict;

    use super::*;

    #[test]
    fn accepted_heads_read_alike_by_a_strict_reader() {
        let mut accepted_heads = 0;
        for (name, sent) in crate::corpus::files("head") {
            let accepted = strict::check(&sent);
            assert_eq!(accepted, name.starts_with("in--"), "{name}");
            accepted_heads += usize::from(accepted);
        }
        assert!(accepted_heads >= 10, "the corpus was found");
        for sent in crate::corpus::files("found/head").values() {
            strict::check(sent);
        }
    }

    #[test]
    fn host_is_the_name_without_port() {
        for (text, name) in [
            ("hooks.example.com", Some("hooks.example.com")),
            ("hooks.example.com:8080", Some("hooks.example.com")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a:", Some("a")),
            ("hooks.example.com.", Some("hooks.example.com")),
            ("hooks.example.com.:8080", Some("hooks.example.com")),
            (".", None),
            (".:80", None),
            ("a:80a", None),
            ("a b", None),
            ("user@a", None),
            (":80", None),
            ("", None),
            ("[::1", None),
            ("[::1]80", None),
        ] {
            assert_eq!(name_without_port(text), name, "{text:?}");
        }
    }

    #[test]
    fn trace_id_requires_well_formed_traceparent() {
        let id = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", http::HeaderValue::from_static(text));
            trace_id(&headers).map(ToOwned::to_owned)
        };
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(
            id("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").as_deref(),
            Some(trace)
        );
        assert_eq!(
            id("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01"),
            None
        );
        assert_eq!(id("00-short-00f067aa0ba902b7-01"), None);
    }
}
