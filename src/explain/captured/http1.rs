//! Parses raw HTTP: a request line, headers, a blank line, and the body to the last byte.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::CapturedError;
use crate::explain::Request;

/// The most headers. The gateway itself accepts fewer.
const HEADERS_MAX: usize = 1000;

/// Parses a message. Returns its method, or an empty one, and the request.
pub(super) fn parse(text: &[u8]) -> Result<(String, Request), CapturedError> {
    let (mut request, body) = parse_until_blank_line(text)?;
    let Some(body) = body else {
        let problem = "there is no blank line between the headers and the body";
        return Err(CapturedError::new(
            text.split(|&byte| byte == b'\n').count(),
            problem,
        ));
    };
    request.body = Bytes::copy_from_slice(body);
    Ok((method(text), request))
}

/// Returns the method of a message that starts with a request line; else an empty one.
pub(super) fn method(text: &[u8]) -> String {
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match (
        parse_first_line(line),
        line.split(|&byte| byte == b' ').next(),
    ) {
        (Some(Some(_)), Some(method)) => String::from_utf8_lossy(method).into_owned(),
        _ => String::new(),
    }
}

pub(super) fn parse_head(text: &[u8]) -> Result<Request, CapturedError> {
    match parse_until_blank_line(text)? {
        (request, None) => Ok(request),
        (request, Some(rest)) if rest.trim_ascii().is_empty() => Ok(request),
        (_, Some(rest)) => {
            let line = text[..text.len() - rest.len()]
                .split(|&byte| byte == b'\n')
                .count();
            Err(CapturedError::new(
                line,
                "text follows the headers; give a whole message with --request",
            ))
        }
    }
}

/// Parses the head, and returns it with the bytes after its blank line, if there is one.
fn parse_until_blank_line(text: &[u8]) -> Result<(Request, Option<&[u8]>), CapturedError> {
    let mut request = Request::default();
    let mut rest = text;
    for number in 1.. {
        if rest.is_empty() {
            break;
        }
        let end = rest.iter().position(|&byte| byte == b'\n');
        let line = &rest[..end.unwrap_or(rest.len())];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        rest = end.map_or(&[], |end| &rest[end + 1..]);
        if line.is_empty() {
            return Ok((request, Some(rest)));
        }
        if number == 1
            && let Some(target) = parse_first_line(line)
        {
            request.target = target;
            continue;
        }
        if request.headers.len() >= HEADERS_MAX {
            return Err(CapturedError::new(
                number,
                format!("there are more than {HEADERS_MAX} headers"),
            ));
        }
        parse_field(line, &mut request).map_err(|problem| CapturedError::new(number, problem))?;
    }
    Ok((request, None))
}

/// Returns the target of a request line, `Some(None)` for a status line, or `None` for any other
/// line.
#[expect(
    clippy::option_option,
    reason = "a status line is a first line without a target"
)]
fn parse_first_line(line: &[u8]) -> Option<Option<String>> {
    let text = std::str::from_utf8(line).ok()?;
    if text.starts_with("HTTP/") {
        return Some(None);
    }
    let mut words = text.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next());
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_version = version.is_none_or(|version| version.starts_with("HTTP/"));
    (is_method && is_version).then(|| Some(target.to_owned()))
}

fn parse_field(line: &[u8], request: &mut Request) -> Result<(), String> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(
            "a header on several lines is not supported; the gateway rejects it, too".into(),
        );
    }
    // HTTP/2 has pseudo-header fields instead of a request line (RFC 9113 §8.3.1).
    if let Some(pseudo) = line.strip_prefix(b":") {
        let (name, value) =
            split_field(pseudo).ok_or("there is no colon after the header's name")?;
        match name {
            b"path" => request.target = Some(String::from_utf8_lossy(value).into_owned()),
            b"authority" => add_header(b"host", value, &mut request.headers)?,
            _ => {}
        }
        return Ok(());
    }
    let (name, value) = split_field(line).ok_or("there is no colon after the header's name")?;
    if name.eq_ignore_ascii_case(HOST.as_str().as_bytes()) && request.headers.contains_key(HOST) {
        return Err("a request has only one `Host`".into());
    }
    add_header(name, value, &mut request.headers)
}

fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// Adds a header, beside any of the same name.
pub(super) fn add_header(name: &[u8], value: &[u8], headers: &mut HeaderMap) -> Result<(), String> {
    let parsed = HeaderName::from_bytes(name);
    let name = parsed.map_err(|_| {
        format!(
            "`{}` is not a valid header name",
            String::from_utf8_lossy(name)
        )
    })?;
    let value = HeaderValue::from_bytes(value)
        .map_err(|_| format!("the value of `{name}` holds control characters"))?;
    headers
        .try_append(name, value)
        .map_err(|_| "there are too many headers")?;
    Ok(())
}

/// Parses a line `Name: value` and adds the header.
pub(super) fn add_header_line(line: &[u8], headers: &mut HeaderMap) -> Result<(), String> {
    let (name, value) = split_field(line).ok_or("a header must be written `Name: value`")?;
    add_header(name, value, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_every_byte_after_the_blank_line() {
        let head = "POST /hooks?x=1 HTTP/1.1\nHost: example.com\nX-Signature:  abc \n";
        for head in [head.to_owned(), head.replace('\n', "\r\n")] {
            let blank = if head.contains('\r') { "\r\n" } else { "\n" };
            for body in [&b""[..], b"{}", b"{}\n", b"\r\n\r\n", b"\x00\xff"] {
                let text = [head.as_bytes(), blank.as_bytes(), body].concat();
                let (method, request) = parse(&text).unwrap();
                assert_eq!(method, "POST");
                assert_eq!(request.body, body);
                assert_eq!(request.target.as_deref(), Some("/hooks?x=1"));
                assert_eq!(request.headers["x-signature"], "abc");
            }
        }
    }

    #[test]
    fn head_starts_with_request_status_or_header() {
        for first in [
            "",
            "POST / HTTP/1.1\n",
            "POST /\n",
            "HTTP/1.1 200 OK\n",
            ":method: POST\n:path: /\n",
        ] {
            let request = parse_head(format!("{first}A: 1\nA: 2").as_bytes()).unwrap();
            assert_eq!(request.headers.get_all("a").iter().count(), 2, "{first:?}");
        }
    }

    #[test]
    fn errors_name_their_line() {
        let cases = [
            ("POST / HTTP/1.1\nHost: a\n", 3, "blank line"),
            ("POST / HTTP/1.1\nHost a\n\n", 2, "colon"),
            ("A: 1\n B\n\n", 2, "several lines"),
            ("A: 1\nB C: 1\n\n", 2, "`B C`"),
            ("A: \u{1}\n\n", 1, "control"),
        ];
        for (text, line, problem) in cases {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(
                error.line == line && error.problem.contains(problem),
                "{text:?}: {error}"
            );
        }
        assert_eq!(parse_head(b"A: 1\n\nx").unwrap_err().line, 3);
    }
}
