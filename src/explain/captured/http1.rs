//! Raw HTTP: a request line, headers, a blank line, and the body to the last byte.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::CapturedError;
use crate::explain::Request;

/// More is no webhook; the gateway takes fewer.
const HEADERS_MAX: usize = 1000;

pub(super) fn parse(text: &[u8]) -> Result<Request, CapturedError> {
    let (mut request, body) = head(text)?;
    let Some(body) = body else {
        let problem = "there is no blank line between the headers and the body";
        return Err(CapturedError::new(
            text.split(|&byte| byte == b'\n').count(),
            problem,
        ));
    };
    request.body = Bytes::copy_from_slice(body);
    Ok(request)
}

pub(super) fn parse_head(text: &[u8]) -> Result<Request, CapturedError> {
    match head(text)? {
        (request, None) => Ok(request),
        (request, Some(rest)) if rest.trim_ascii().is_empty() => Ok(request),
        (_, Some(rest)) => {
            let line = text[..text.len() - rest.len()]
                .split(|&byte| byte == b'\n')
                .count();
            Err(CapturedError::new(
                line,
                "there is more behind the headers; a whole message is for --request",
            ))
        }
    }
}

/// The head, and what is behind its blank line, if there is one.
fn head(text: &[u8]) -> Result<(Request, Option<&[u8]>), CapturedError> {
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
            && let Some(target) = first_line(line)
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
        field(line, &mut request).map_err(|problem| CapturedError::new(number, problem))?;
    }
    Ok((request, None))
}

/// The target of a request line, or `Some(None)` for a status line; `None` for what is neither.
#[expect(
    clippy::option_option,
    reason = "a status line has no target, and is a first line all the same"
)]
fn first_line(line: &[u8]) -> Option<Option<String>> {
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

fn field(line: &[u8], request: &mut Request) -> Result<(), String> {
    if line.starts_with(b" ") || line.starts_with(b"\t") {
        return Err(
            "a header that goes on over several lines is refused by the gateway too".into(),
        );
    }
    // HTTP/2 writes what the first line says as headers (RFC 9113 §8.3.1).
    if let Some(pseudo) = line.strip_prefix(b":") {
        let (name, value) = split(pseudo).ok_or("there is no colon behind the header's name")?;
        match name {
            b"path" => request.target = Some(String::from_utf8_lossy(value).into_owned()),
            b"authority" => add(b"host", value, &mut request.headers)?,
            _ => {}
        }
        return Ok(());
    }
    let (name, value) = split(line).ok_or("there is no colon behind the header's name")?;
    if name.eq_ignore_ascii_case(HOST.as_str().as_bytes()) && request.headers.contains_key(HOST) {
        return Err("a request has one `Host`".into());
    }
    add(name, value, &mut request.headers)
}

fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|&byte| byte == b':')?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

/// Adds one header to those that are there.
pub(super) fn add(name: &[u8], value: &[u8], headers: &mut HeaderMap) -> Result<(), String> {
    let parsed = HeaderName::from_bytes(name);
    let name =
        parsed.map_err(|_| format!("`{}` is no header's name", String::from_utf8_lossy(name)))?;
    let value = HeaderValue::from_bytes(value)
        .map_err(|_| format!("the value of `{name}` holds control characters"))?;
    headers
        .try_append(name, value)
        .map_err(|_| "there are too many headers")?;
    Ok(())
}

/// Adds the header of a line `Name: value`.
pub(super) fn add_line(line: &[u8], headers: &mut HeaderMap) -> Result<(), String> {
    let (name, value) = split(line).ok_or("a header is written `Name: value`")?;
    add(name, value, headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_every_byte_behind_the_blank_line() {
        let head = "POST /hooks?x=1 HTTP/1.1\nHost: example.com\nX-Signature:  abc \n";
        for head in [head.to_owned(), head.replace('\n', "\r\n")] {
            let blank = if head.contains('\r') { "\r\n" } else { "\n" };
            for body in [&b""[..], b"{}", b"{}\n", b"\r\n\r\n", b"\x00\xff"] {
                let request = parse(&[head.as_bytes(), blank.as_bytes(), body].concat()).unwrap();
                assert_eq!(request.body, body);
                assert_eq!(request.target.as_deref(), Some("/hooks?x=1"));
                assert_eq!(request.headers["x-signature"], "abc");
            }
        }
    }

    #[test]
    fn a_head_may_begin_with_a_request_a_status_or_a_header() {
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
    fn what_is_wrong_is_told_with_its_line() {
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
