//! The heads that the gateway reads itself: those of plain requests.
//!
//! A plain request is one over HTTP/1.1 for a path, with one Host and a body of known length or
//! none. Nothing is rejected here: whatever is not plain, or looks odd in any way, is left to
//! Pingora. What is plain, Pingora reads the same, since it has the same parser.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{HeaderValue, Method};
use pingora_http::RequestHeader;

use crate::gateway::request_line::RequestLine;

/// The most fields of a plain head.
const FIELDS_MAX: usize = 100;

/// The most digits of a body's length: no such number exceeds 64 bits.
const LENGTH_DIGITS_MAX: usize = 18;

/// The head of a plain request.
pub(super) struct PlainHead {
    pub(super) header: Box<RequestHeader>,
    /// Its bytes, as they were read.
    pub(super) raw: Bytes,
    pub(super) request_line: RequestLine,
    pub(super) framing: Framing,
}

/// What the start of a request is.
pub(super) enum Parsed {
    Plain(PlainHead),
    /// So far it may be a plain head, and more bytes are needed.
    Partial,
    /// It is left to Pingora.
    Other,
}

/// The facts that decide where a plain request ends, and what follows it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framing {
    /// The size of the body in bytes; `None` if it has none.
    pub(super) content_length: Option<u64>,
    /// Set if the sender closes the connection behind the request.
    pub(super) closes: bool,
}

/// Parses the head that `unread` begins with.
pub(super) fn parse(unread: &Bytes) -> Parsed {
    // An empty line in front is ignored by the parser, but does not begin a request.
    if matches!(unread.first(), Some(b'\r' | b'\n')) {
        return Parsed::Other;
    }
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let size = match request.parse_with_uninit_headers(unread, &mut fields) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Parsed::Partial,
        Err(_) => return Parsed::Other,
    };
    plain_head(&request, unread.slice(..size)).map_or(Parsed::Other, Parsed::Plain)
}

/// Returns the head, whose bytes are `raw`, if it is a plain one.
fn plain_head(request: &httparse::Request<'_, '_>, raw: Bytes) -> Option<PlainHead> {
    let (method, target) = (request.method?, request.path?);
    let mut request_line = RequestLine::default();
    request_line.read(&raw);
    let is_plain = request.version == Some(1)
        && request_line.is_plain()
        && target.starts_with('/')
        && !target.contains('#');
    if !is_plain {
        return None;
    }
    let framing = framing(request.headers)?;
    let method = Method::from_bytes(method.as_bytes())
        .ok()
        .filter(|method| *method != Method::CONNECT)?;
    let fields = request.headers.len();
    let mut header = RequestHeader::build(method, target.as_bytes(), Some(fields)).ok()?;
    for field in &*request.headers {
        let name = raw.slice_ref(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(raw.slice_ref(field.value)).ok()?;
        header.append_header(name, value).ok()?;
    }
    Some(PlainHead {
        header: Box::new(header),
        raw,
        request_line,
        framing,
    })
}

/// Returns the framing of a request with these fields; `None` if it is not that of a plain one.
fn framing(fields: &[httparse::Header<'_>]) -> Option<Framing> {
    let mut framing = Framing::default();
    let (mut hosts, mut connections) = (0, 0);
    for field in fields {
        let name = field.name;
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        // Only names of these lengths are compared.
        match name.len() {
            0 => return None,
            4 if is("host") => {
                hosts += 1;
                if field.value.contains(&b'@') {
                    return None;
                }
            }
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            10 if is("connection") => {
                connections += 1;
                framing.closes = field.value.eq_ignore_ascii_case(b"close");
                if !framing.closes && !field.value.eq_ignore_ascii_case(b"keep-alive") {
                    return None;
                }
            }
            14 if is("content-length") => {
                if framing.content_length.is_some() {
                    return None;
                }
                framing.content_length = Some(length(field.value)?);
            }
            17 if is("transfer-encoding") => return None,
            _ => {}
        }
    }
    (hosts == 1 && connections <= 1).then_some(framing)
}

/// Returns a number that has only one reading: digits, and no zero in front.
fn length(value: &[u8]) -> Option<u64> {
    let is_plain = (1..=LENGTH_DIGITS_MAX).contains(&value.len())
        && value.iter().all(u8::is_ascii_digit)
        && (value.len() == 1 || value[0] != b'0');
    if !is_plain {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}
