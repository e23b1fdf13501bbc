//! What a request's head must be like before anything is done with it.
//!
//! Pingora's parser is lenient where a receiver behind us might read the same bytes another way; what is ambiguous is
//! refused here (RFC 9112 §6, §11.2). Webhook senders send none of it.

use http::header::{self, HeaderName};
use http::{HeaderMap, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_http::RequestHeader;

use super::answer::Outcome;
use crate::delivery::named_by_connection;
use crate::route::Route;

/// More fields than any sender and the proxies before us put on a webhook together.
const FIELDS_MAX: usize = 100;

/// A head that was found sound, and what is needed of it.
#[derive(Debug, Clone)]
pub struct Head {
    /// What it takes up.
    pub bytes: usize,
    /// Lower case, without a port.
    pub host: Option<Box<str>>,
    /// The announced size of the body; `None` when it comes in chunks or is absent.
    pub content_length: Option<u64>,
    /// The body comes in chunks.
    pub chunked: bool,
    /// The sender waits for our word before it sends the body.
    pub expects_continue: bool,
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadError {
    Unparsable,
    Target,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    LineEnd,
    FieldName,
}

impl HeadError {
    /// For logs and answers: what is wrong.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Unparsable => "the request could not be parsed",
            Self::Target => {
                "the request target must be a path of visible ASCII, without encoded control characters"
            }
            Self::Host => "there must be exactly one Host, with a valid name",
            Self::ContentLength => "Content-Length must be given at most once, in digits",
            Self::TransferEncoding => {
                "Transfer-Encoding must be `chunked` alone, and without Content-Length"
            }
            Self::Connection => "Connection names a header that must reach the receiver",
            Self::Expect => "the only expectation that is met is 100-continue",
            Self::LineEnd => "lines must end in CR LF, and the first one is the request's",
            Self::FieldName => {
                "a header name differs in `_` only from one that frames or authenticates the request"
            }
        }
    }

    /// For metrics and logs.
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
        }
    }
}

impl Head {
    /// Checks the head that `session` has read.
    ///
    /// # Errors
    /// `malformed_request` or `headers_too_large`.
    pub fn check(session: &ServerSession, header_bytes_max: usize) -> Result<Self, Outcome> {
        let head = session.req_header();
        let raw = session
            .as_http1()
            .map(|http1| http1.get_headers_raw_bytes());
        let size = raw
            .as_ref()
            .map_or_else(|| size_of_fields(&head.headers), |raw| raw.len());
        if size > header_bytes_max || head.headers.len() > FIELDS_MAX {
            return Err(Outcome::HeadersTooLarge);
        }
        match &raw {
            Some(raw) => check_raw(raw, &head.headers)?,
            None if is_sound_target(head.raw_path()) => {}
            None => return refuse(HeadError::Target),
        }
        check_field_names(&head.headers)?;
        check_transfer_encoding(&head.headers)?;
        check_connection(&head.headers)?;
        Ok(Self {
            bytes: size,
            host: host(head)?,
            content_length: content_length(&head.headers)?,
            chunked: head.headers.contains_key(header::TRANSFER_ENCODING),
            expects_continue: expects_continue(head)?,
        })
    }
}

fn refuse<T>(fault: HeadError) -> Result<T, Outcome> {
    Err(Outcome::MalformedRequest(fault))
}

/// Fields as HTTP/2 counts them (RFC 9113 §6.5.2).
fn size_of_fields(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

/// What only the bytes themselves show: Pingora takes bare LF for CR LF, any form of target, and drops a
/// Content-Length that stands beside a Transfer-Encoding. The target's bytes are not the sender's where it could not read
/// those: it percent-encodes them, a bare CR too, which ends a line for some.
fn check_raw(raw: &[u8], headers: &HeaderMap) -> Result<(), Outcome> {
    let mut lines = raw
        .strip_suffix(b"\n")
        .unwrap_or(raw)
        .split(|&byte| byte == b'\n');
    if !lines.clone().all(|line| line.ends_with(b"\r")) {
        return refuse(HeadError::LineEnd);
    }
    let request_line = lines.next().unwrap_or_default();
    if request_line == b"\r" {
        return refuse(HeadError::LineEnd);
    }
    let target = request_line
        .split(|&byte| byte == b' ')
        .nth(1)
        .unwrap_or_default();
    if !is_sound_target(target) {
        return refuse(HeadError::Target);
    }
    if headers.contains_key(header::TRANSFER_ENCODING) && lines.any(is_content_length) {
        return refuse(HeadError::TransferEncoding);
    }
    Ok(())
}

/// The origin form, or the absolute form that a server must take too (RFC 9112 §3.2.2). Pingora has checked that the
/// latter's host is the Host header's.
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
        && !target.windows(3).any(is_encoded_control)
}

fn is_encoded_control(text: &[u8]) -> bool {
    matches!(text, [b'%', b'0' | b'1', _] | [b'%', b'7', b'f' | b'F'])
}

fn is_content_length(line: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    line.get(..NAME.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(NAME))
}

/// A receiver that folds `_` into `-`, as CGI does, would take some for framing. And h2 has names with a quote, which are no
/// tokens (RFC 9110 §5.6.2).
fn check_field_names(headers: &HeaderMap) -> Result<(), Outcome> {
    const FRAMING: [&str; 2] = ["transfer_encoding", "content_length"];
    if headers
        .keys()
        .any(|name| FRAMING.contains(&name.as_str()) || name.as_str().contains('"'))
    {
        return refuse(HeadError::FieldName);
    }
    Ok(())
}

fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Outcome> {
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(value), None)
            if value
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked") =>
        {
            Ok(())
        }
        _ => refuse(HeadError::TransferEncoding),
    }
}

/// Headers that go to the end of the way whatever `Connection` says. Naming one can only be meant to have it dropped.
const END_TO_END: [HeaderName; 10] = [
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

fn check_connection(headers: &HeaderMap) -> Result<(), Outcome> {
    if named_by_connection(headers).any(|name| END_TO_END.contains(&name)) {
        return refuse(HeadError::Connection);
    }
    Ok(())
}

/// Refuses a head in which `Connection` names one of the headers that `route` reads, or another one could be taken for it:
/// they must reach the upstream, which may want to check them again, and may fold `_` into `-`.
///
/// # Errors
/// `malformed_request`.
pub(super) fn check_route_headers(headers: &HeaderMap, route: &Route) -> Result<(), Outcome> {
    if named_by_connection(headers).any(|name| route.reads_header(&name)) {
        return refuse(HeadError::Connection);
    }
    let is_taken_for_another = |name: &HeaderName| {
        let folded = name.as_str().replace('_', "-");
        folded != name.as_str()
            && HeaderName::try_from(folded).is_ok_and(|folded| route.reads_header(&folded))
    };
    if headers
        .keys()
        .filter(|name| !route.reads_header(name))
        .any(is_taken_for_another)
    {
        return refuse(HeadError::FieldName);
    }
    Ok(())
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Outcome> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default();
    // A zero before it is lawful, and octal to some.
    let plain = text.bytes().all(|byte| byte.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    let size = text.parse().ok().filter(|_| plain);
    match (size, values.next()) {
        (Some(size), None) => Ok(Some(size)),
        _ => refuse(HeadError::ContentLength),
    }
}

fn expects_continue(head: &RequestHeader) -> Result<bool, Outcome> {
    let mut values = head.headers.get_all(header::EXPECT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(false),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            // HTTP/1.0 knows no 1xx (RFC 9110 §10.1.1).
            Ok(head.version != Version::HTTP_10)
        }
        _ => refuse(HeadError::Expect),
    }
}

fn host(head: &RequestHeader) -> Result<Option<Box<str>>, Outcome> {
    let mut values = head.headers.get_all(header::HOST).iter();
    let from_header = values.next();
    if values.next().is_some() {
        return refuse(HeadError::Host);
    }
    // HTTP/2 has it in `:authority`; Pingora has checked that a Host beside it says the same.
    let text = match (from_header, head.uri.authority()) {
        (Some(value), _) => value.to_str().ok(),
        (None, Some(authority)) => Some(authority.as_str()),
        (None, None) if head.version == Version::HTTP_11 => return refuse(HeadError::Host),
        (None, None) => return Ok(None),
    };
    match text.and_then(name_without_port) {
        Some(name) => Ok(Some(name.to_ascii_lowercase().into())),
        None => refuse(HeadError::Host),
    }
}

/// The name of `name[:port]` or `[address][:port]`, if that is what the text is (RFC 3986 §3.2).
fn name_without_port(text: &str) -> Option<&str> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            text.split_at(end)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~[]:%".contains(&byte);
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let sound = !name.is_empty() && name.bytes().all(allowed);
    (sound && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))).then_some(name)
}

/// The trace that a `traceparent` names (W3C Trace Context §3.2), which the upstream will see too.
pub(super) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
    let mut parts = headers.get(TRACEPARENT)?.to_str().ok()?.split('-');
    let (version, trace_id) = (parts.next()?, parts.next()?);
    let lower_hex = |text: &str| {
        text.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    (version.len() == 2 && trace_id.len() == 32 && lower_hex(trace_id)).then_some(trace_id)
}

#[cfg(test)]
mod tests {
    mod strict;

    use super::*;

    #[test]
    fn a_strict_reader_reads_alike_what_is_let_in() {
        let mut let_in = 0;
        for (name, sent) in crate::corpus::files("head") {
            let is_in = strict::check(&sent);
            assert_eq!(is_in, name.starts_with("in--"), "{name}");
            let_in += usize::from(is_in);
        }
        assert!(let_in >= 10, "the corpus was found");
        for sent in crate::corpus::files("found/head").values() {
            strict::check(sent);
        }
    }

    #[test]
    fn a_host_is_its_name_without_the_port() {
        for (text, name) in [
            ("hooks.example.com", Some("hooks.example.com")),
            ("hooks.example.com:8080", Some("hooks.example.com")),
            ("[::1]:8080", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("a:", Some("a")),
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
    fn only_a_well_formed_trace_is_named() {
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
