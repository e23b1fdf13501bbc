//! A strict reader of requests (RFC 9112), written a second time, plainly and without Pingora. A
//! proxy in front of the gateway or a receiver behind it may be as strict, so both readers must
//! agree on every request that is accepted.
//!
//! Shared by the replay of the corpus and the fuzz target, and so uses the public interface only.

use std::io::Cursor;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;

use super::{Arrival, Head, Place, RequestLine};

const HEADER_BYTES_MAX: usize = 64 * 1024;

/// Returns whether the head is accepted. Panics if the strict reader rejects or reads otherwise
/// what is accepted, head or body.
pub(super) fn check(sent: &[u8]) -> bool {
    let mut session = ServerSession::new_http1(Box::new(Cursor::new(sent.to_vec())));
    session.set_read_timeout(None);
    if !matches!(at_once(session.read_request()), Ok(true)) {
        return false;
    }
    let mut request_line = RequestLine::default();
    request_line.read(sent);
    let arrival = Arrival {
        place: Place::First,
        request_line: Some(request_line),
    };
    let raw = session
        .as_http1()
        .map(|http1| http1.get_headers_raw_bytes());
    let lenient = session.req_header();
    let Ok(head) = Head::check(lenient, raw.as_deref(), HEADER_BYTES_MAX, arrival) else {
        return false;
    };
    let strict = Request::read(sent).expect("a strict reader accepts the head");
    assert_eq!(lenient.method.as_str().as_bytes(), strict.method);
    assert_eq!(lenient.headers, strict.headers);
    let target = lenient
        .uri
        .path_and_query()
        .map_or("", |target| target.as_str());
    assert_eq!(encoded(target.as_bytes()), encoded(&strict.origin_form()));
    assert_eq!(head.host.as_deref(), strict.host().as_deref());
    let body = match (
        strict.only("content-length"),
        strict.only("transfer-encoding"),
    ) {
        (Some(length), None) => {
            let length = length.parse().expect("a number");
            assert_eq!((head.content_length, head.chunked), (Some(length), false));
            usize::try_from(length)
                .ok()
                .and_then(|length| strict.rest.get(..length))
                .map(Vec::from)
        }
        (None, Some(coding)) => {
            assert!(
                coding.eq_ignore_ascii_case("chunked")
                    && head.chunked
                    && head.content_length.is_none()
            );
            unchunked(strict.rest)
        }
        (None, None) => {
            assert!(!head.chunked && head.content_length.is_none());
            Some(Vec::new())
        }
        (Some(_), Some(_)) => panic!("a length beside a coding was accepted"),
    };
    if let (Some(read), Some(body)) = (body_of(&mut session), body) {
        assert_eq!(read, body, "a strict reader reads another body");
    }
    true
}

/// Returns the body that Pingora reads, if it finds its end.
fn body_of(session: &mut ServerSession) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = at_once(session.read_request_body()).ok()? {
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// Returns the output of a future that has nothing to wait for: all bytes are there.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("waits, though all bytes are there"),
    }
}

struct Request<'a> {
    method: &'a [u8],
    target: &'a [u8],
    headers: HeaderMap,
    /// The bytes after the head.
    rest: &'a [u8],
}

impl<'a> Request<'a> {
    /// Reads a head. Returns `None` for bytes that are no request by the letter.
    fn read(sent: &'a [u8]) -> Option<Self> {
        let end = sent.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        let mut lines = Lines(&sent[..end + 2]);
        let line = lines.next()??;
        let is_space = |byte: &u8| *byte == b' ';
        let (first, last) = (
            line.iter().position(is_space)?,
            line.iter().rposition(is_space)?,
        );
        let (method, target, version) = (
            &line[..first],
            line.get(first + 1..last)?,
            &line[last + 1..],
        );
        let sound = is_token(method)
            && !target.is_empty()
            && target.iter().all(u8::is_ascii_graphic)
            && [b"HTTP/1.1", b"HTTP/1.0"].contains(&<&[u8; 8]>::try_from(version).ok()?);
        let mut headers = HeaderMap::new();
        for line in lines {
            let line = line?;
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if !is_token(name)
                || value
                    .iter()
                    .any(|&byte| byte == 0x7f || (byte < b' ' && byte != b'\t'))
            {
                return None;
            }
            headers.append(
                HeaderName::from_bytes(name).ok()?,
                HeaderValue::from_bytes(value).ok()?,
            );
        }
        sound.then_some(Self {
            method,
            target,
            headers,
            rest: &sent[end + 4..],
        })
    }

    /// Returns the value of a field that is there at most once.
    fn only(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let value = values.next()?;
        assert!(values.next().is_none(), "a second {name} was accepted");
        Some(value.to_str().expect("text"))
    }

    /// Returns a target in absolute form without its scheme.
    fn absolute(&self) -> Option<&'a [u8]> {
        let end = self
            .target
            .windows(3)
            .position(|bytes| bytes == b"://")
            .filter(|_| self.target[0] != b'/')?;
        Some(&self.target[end + 3..])
    }

    fn origin_form(&self) -> Vec<u8> {
        let Some(absolute) = self.absolute() else {
            return self.target.to_vec();
        };
        let path = absolute
            .iter()
            .position(|byte| b"/?".contains(byte))
            .map_or(&b""[..], |start| &absolute[start..]);
        if path.starts_with(b"/") {
            path.to_vec()
        } else {
            [b"/", path].concat()
        }
    }

    /// Returns the host in lower case, without the port and a dot at its end. Only HTTP/1.0 may have no Host, and then
    /// the absolute form gives none either.
    fn host(&self) -> Option<String> {
        let authority = self.only("host")?;
        let port = authority
            .rfind(':')
            .filter(|colon| !authority[*colon..].contains(']'));
        let name = authority[..port.unwrap_or(authority.len())].to_ascii_lowercase();
        Some(name.strip_suffix('.').map_or(name.clone(), Into::into))
    }
}

/// Percent-encodes the characters that a URL may not have, as Pingora does. That changes neither
/// where the target ends nor what follows, so it is accepted.
fn encoded(target: &[u8]) -> Vec<u8> {
    target
        .iter()
        .flat_map(|&byte| match byte {
            b'"' | b'<' | b'>' => format!("%{byte:02X}").into_bytes(),
            _ => vec![byte],
        })
        .collect()
}

/// The lines that end in CR LF; `None` for a line with a lone CR or LF, or with a NUL.
struct Lines<'a>(&'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let end = self.0.windows(2).position(|bytes| bytes == b"\r\n")?;
        let line = &self.0[..end];
        self.0 = &self.0[end + 2..];
        Some((!line.iter().any(|byte| b"\r\n\0".contains(byte))).then_some(line))
    }
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty()
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Decodes a chunked body (RFC 9112 §7.1). Returns `None` for one that is none by the letter.
/// Trailers are not read.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.iter().any(|byte| b"\r\n\0".contains(byte)) {
            return None;
        }
        let digits = line
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let extension = line[digits..].trim_ascii_start();
        if digits == 0 || !(extension.is_empty() || extension.starts_with(b";")) {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}
