//! Parses what curl prints about a request that it sends: `curl -v`, which omits the body, and
//! `curl --trace` and `--trace-ascii`, which have it.

use super::{Captured, CapturedError, http1};
use crate::explain::Request;

const NOT_PRINTED: &str = "`curl -v` does not print the body: give it with --body FILE, or save \
                           what `curl --trace -` prints";
const DOTS: &str = "`curl --trace-ascii` prints a `.` for every byte that is not printable ASCII; \
                    if the body has others, save what `curl --trace -` prints";

/// The bytes of a line of `--trace`.
const HEX_LINE: usize = 16;

/// Returns whether the text is the output of `curl -v` or `curl --trace`.
pub(super) fn is_output(text: &[u8]) -> bool {
    let mut lines = lines(text).map(|(_, line)| line);
    let Some(first) = lines.find(|line| !line.trim_ascii().is_empty()) else {
        return false;
    };
    if section(first).is_some() {
        return true;
    }
    // Its remarks, its progress meter, or its request.
    ["* ", "> ", "Note: ", "  % Total"]
        .iter()
        .any(|start| first.starts_with(start.as_bytes()))
        && self::lines(text).any(|(_, line)| is_request_line(line))
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<Captured>, CapturedError> {
    let is_trace = lines(text).any(|(_, line)| section(line).is_some());
    let captured = if is_trace {
        parse_trace(text)?
    } else {
        parse_verbose(text)?
    };
    if captured.is_empty() {
        return Err(CapturedError::new(1, "curl sent no request here"));
    }
    Ok(captured)
}

/// Returns the lines with their numbers, without carriage returns.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    lines.map(|(index, line)| (index + 1, line.strip_suffix(b"\r").unwrap_or(line)))
}

fn is_request_line(line: &[u8]) -> bool {
    line.strip_prefix(b"> ")
        .is_some_and(|line| !http1::method(line).is_empty())
}

fn parse_verbose(text: &[u8]) -> Result<Vec<Captured>, CapturedError> {
    let mut captured = Vec::new();
    let mut head: Option<(usize, Vec<u8>)> = None;
    for (number, line) in lines(text) {
        if is_request_line(line) {
            head = Some((number, Vec::new()));
        }
        let Some((start, head_text)) = &mut head else {
            continue;
        };
        match line.strip_prefix(b">").map(<[u8]>::trim_ascii) {
            Some(b"") => {
                captured.push(from_head(head_text, *start)?);
                head = None;
            }
            Some(field) => {
                head_text.extend_from_slice(field);
                head_text.push(b'\n');
            }
            // A remark in between.
            None => {}
        }
    }
    if let Some((start, head_text)) = head {
        captured.push(from_head(&head_text, start)?);
    }
    for captured in &mut captured {
        let length = captured.request.headers.get("content-length");
        let is_empty = match length {
            Some(length) => length == "0",
            None => captured.method == "GET" || captured.method == "HEAD",
        };
        captured.no_body = (!is_empty).then_some(NOT_PRINTED);
    }
    Ok(captured)
}

fn from_head(head: &[u8], start: usize) -> Result<Captured, CapturedError> {
    let request = http1::parse_head(head).map_err(|error| CapturedError {
        line: start + error.line - 1,
        ..error
    })?;
    Ok(Captured {
        method: http1::method(head),
        ..Captured::new(request)
    })
}

/// A part of a trace.
#[derive(PartialEq, Eq)]
enum Section {
    Header(usize),
    Data(usize),
    Other,
}

/// Parses `=> Send header, 123 bytes (0x7b)`, with or without a time before it.
fn section(line: &[u8]) -> Option<Section> {
    let line = std::str::from_utf8(line).ok()?;
    let at = line
        .find("=> ")
        .or_else(|| line.find("<= "))
        .or_else(|| line.find("== "))?;
    let (time, line) = line.split_at(at);
    if !time
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, ':' | '.' | ' ' | '-'))
    {
        return None;
    }
    let bytes = |rest: &str| rest.split(' ').next()?.parse().ok();
    if let Some(rest) = line.strip_prefix("=> Send header, ") {
        return bytes(rest).map(Section::Header);
    }
    if let Some(rest) = line.strip_prefix("=> Send data, ") {
        return bytes(rest).map(Section::Data);
    }
    Some(Section::Other)
}

fn parse_trace(text: &[u8]) -> Result<Vec<Captured>, CapturedError> {
    let mut captured: Vec<Captured> = Vec::new();
    let mut body = Vec::new();
    let all: Vec<_> = lines(text).collect();
    let mut rest = &all[..];
    while let Some(((number, line), after)) = rest.split_first() {
        rest = after;
        let Some(section) = section(line) else {
            continue;
        };
        let end = after.iter().take_while(|(_, line)| is_dump(line)).count();
        let (dump, behind) = after.split_at(end);
        rest = behind;
        match section {
            Section::Other => {}
            Section::Header(length) => {
                let (head, _) = bytes(dump, length).ok_or_else(|| damaged(*number))?;
                finish(&mut captured, &mut body);
                let (method, request) = http1::parse(&head)
                    .map_err(|error| CapturedError::new(*number, error.problem))?;
                captured.push(Captured {
                    method,
                    ..Captured::new(Request {
                        body: bytes::Bytes::new(),
                        ..request
                    })
                });
            }
            Section::Data(length) => {
                let (data, is_ascii) = bytes(dump, length).ok_or_else(|| damaged(*number))?;
                body.extend_from_slice(&data);
                if let Some(current) = captured.last_mut()
                    && is_ascii
                    && data.contains(&b'.')
                {
                    current.note = Some(DOTS);
                }
            }
        }
    }
    finish(&mut captured, &mut body);
    Ok(captured)
}

fn finish(captured: &mut [Captured], body: &mut Vec<u8>) {
    if let Some(current) = captured.last_mut() {
        current.request.body = std::mem::take(body).into();
    }
}

fn damaged(line: usize) -> CapturedError {
    CapturedError::new(line, "this part of the trace is not complete")
}

/// Splits a line of a dump: `0040: …`.
fn dump_line(line: &[u8]) -> Option<(usize, &[u8])> {
    let (offset, rest) = line.split_at_checked(line.iter().position(|&byte| byte == b':')?)?;
    let offset = std::str::from_utf8(offset)
        .ok()
        .filter(|text| text.len() >= 4)?;
    let offset = usize::from_str_radix(offset, 16).ok()?;
    let rest = rest.strip_prefix(b":")?;
    Some((offset, rest.strip_prefix(b" ").unwrap_or(rest)))
}

fn is_dump(line: &[u8]) -> bool {
    dump_line(line).is_some()
}

/// Returns the bytes of a dump, and whether they were shown as ASCII.
fn bytes(dump: &[(usize, &[u8])], length: usize) -> Option<(Vec<u8>, bool)> {
    let lines: Vec<_> = dump
        .iter()
        .filter_map(|(_, line)| dump_line(line))
        .collect();
    let mut bytes = Vec::new();
    let is_hex = lines
        .iter()
        .all(|(_, line)| hex_bytes(line, &mut bytes).is_some())
        && bytes.len() == length;
    if is_hex {
        return Some((bytes, false));
    }
    let mut bytes = Vec::new();
    for (index, (offset, line)) in lines.iter().enumerate() {
        let next = lines.get(index + 1).map_or(length, |(next, _)| *next);
        bytes.extend_from_slice(line);
        match next.checked_sub(offset + line.len())? {
            0 => {}
            2 => bytes.extend_from_slice(b"\r\n"),
            _ => return None,
        }
    }
    (bytes.len() == length).then_some((bytes, true))
}

/// Adds the bytes of a line of `--trace`: 16 pairs of hex digits, and then what they mean.
fn hex_bytes(line: &[u8], bytes: &mut Vec<u8>) -> Option<()> {
    let pairs = line.get(..HEX_LINE * 3).unwrap_or(line);
    for pair in pairs.chunks(3) {
        match pair {
            [b' ', ..] => {}
            [high, low, ..] => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let value = digit(high)? * 16 + digit(low)?;
                bytes.push(u8::try_from(value).ok()?);
            }
            _ => return None,
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBOSE: &str = "* Host localhost:8080 was resolved.\n*   Trying 127.0.0.1:8080...\n\
        > POST /hooks?a=1 HTTP/1.1\r\n> Host: localhost:8080\r\n> X-Sig: abc\r\n\
        > Content-Length: 7\r\n> \r\n} [7 bytes data]\n* upload completely sent off: 7 bytes\n\
        < HTTP/1.1 401 Unauthorized\r\n< Content-Type: application/problem+json\r\n< \r\n{ [9 bytes data]\n";

    const ASCII: &str = "== Info:   Trying 127.0.0.1:8080...\n=> Send header, 38 bytes (0x26)\n\
        0000: POST /hooks HTTP/1.1\n0016: X-Sig: a.b.c\n0024: \n=> Send data, 9 bytes (0x9)\n\
        0000: {\"a\":1}\n<= Recv header, 26 bytes (0x1a)\n0000: HTTP/1.1 401 Unauthorized\n";

    const HEX: &str = "=> Send header, 22 bytes (0x16)\n\
        0000: 50 4f 53 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d POST / HTTP/1.1.\n\
        0010: 0a 41 3a 31 0d 0a                               .A:1..\n\
        0016: 0d 0a                                           ..\n\
        10:30:00.123456 => Send data, 3 bytes (0x3)\n0000: 2e 0a ff                                        ...\n";

    #[test]
    fn verbose_output_needs_the_body() {
        assert!(is_output(VERBOSE.as_bytes()));
        let captured = parse(VERBOSE.as_bytes()).unwrap();
        let [one] = &captured[..] else {
            panic!("{captured:?}")
        };
        assert_eq!((&*one.method, one.no_body), ("POST", Some(NOT_PRINTED)));
        assert_eq!(one.request.target.as_deref(), Some("/hooks?a=1"));
        assert_eq!(one.request.headers["x-sig"], "abc");
        let bodiless = VERBOSE.replace("Length: 7", "Length: 0");
        assert_eq!(parse(bodiless.as_bytes()).unwrap()[0].no_body, None);
    }

    #[test]
    fn trace_in_ascii_keeps_line_ends() {
        assert!(is_output(ASCII.as_bytes()));
        let captured = parse(ASCII.as_bytes()).unwrap();
        assert_eq!(captured.len(), 1);
        assert_eq!(captured[0].request.headers["x-sig"], "a.b.c");
        assert_eq!(captured[0].request.body, "{\"a\":1}\r\n");
        assert_eq!((captured[0].note, captured[0].no_body), (None, None));
        let dots = ASCII.replace("{\"a\":1}", "{\"a\":.}");
        assert_eq!(parse(dots.as_bytes()).unwrap()[0].note, Some(DOTS));
    }

    #[test]
    fn trace_in_hex_is_exact() {
        let hex = HEX.replace("22 bytes", "24 bytes");
        assert!(is_output(hex.as_bytes()));
        let captured = parse(hex.as_bytes()).unwrap();
        assert_eq!(captured[0].method, "POST");
        assert_eq!(captured[0].request.headers["a"], "1");
        assert_eq!(&captured[0].request.body[..], b".\n\xff");
        assert_eq!(captured[0].note, None);
        let error = parse(HEX.as_bytes()).unwrap_err();
        assert!(error.problem.contains("not complete"), "{error}");
    }

    #[test]
    fn messages_are_no_output_of_curl() {
        for text in [
            "POST / HTTP/1.1\nA: 1\n\n> POST / HTTP/1.1\n",
            "A: 1\n\nx",
            "",
            "> x\n",
        ] {
            assert!(!is_output(text.as_bytes()), "{text}");
        }
    }
}
