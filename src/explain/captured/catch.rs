//! Parses what `hookstile catch` prints for people. It indents everything that the sender wrote,
//! lays JSON out, and says how many bytes a body has that is not shown as it is.

use bytes::Bytes;

use super::http1::add_header_line;
use super::{Captured, CapturedError};
use crate::explain::Request;
use crate::explain::bodies::layouts;

/// The reason why the body is not known.
const NOT_SHOWN: &str = "`hookstile catch` does not show every byte of this body; save what \
                         `hookstile catch --json` prints";
const INDENT: &[u8] = b"  ";

/// Returns whether the text is the output of `hookstile catch`: its first line is that of a
/// request, or the program's own message before it.
pub(super) fn is_output(text: &[u8]) -> bool {
    let mut lines = text.split(|&byte| byte == b'\n').map(without_colours);
    lines
        .find(|line| !line.is_empty() && !line.starts_with(b"hookstile: "))
        .is_some_and(|line| first_line(&line).is_some())
}

pub(super) fn parse(text: &[u8]) -> Result<Vec<Captured>, CapturedError> {
    let mut captured: Vec<Captured> = Vec::new();
    let mut body: Option<Vec<Vec<u8>>> = None;
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        let line = without_colours(line);
        let error = |problem: &str| CapturedError::new(index + 1, problem);
        if let Some((method, target)) = first_line(&line) {
            finish(&mut captured, body.take());
            captured.push(Captured {
                method,
                ..Captured::new(Request {
                    target: Some(target),
                    ..Request::default()
                })
            });
            continue;
        }
        let Some(current) = captured.last_mut() else {
            continue;
        };
        match (line.strip_prefix(INDENT), &mut body) {
            (Some(line), Some(body)) => body.push(line.to_vec()),
            (Some(line), None) => add_header_line(&unescape(line), &mut current.request.headers)
                .map_err(|problem| error(&problem))?,
            // The blank line before the body, or after the request.
            (None, None) if line.is_empty() => body = Some(Vec::new()),
            (None, _) if line.starts_with(b"the body ") => current.no_body = Some(NOT_SHOWN),
            // Its verdict, and its messages.
            (None, _) => {}
        }
    }
    finish(&mut captured, body);
    Ok(captured)
}

/// Parses `10:30:00.500Z  POST /hooks  from 127.0.0.1:5`.
fn first_line(line: &[u8]) -> Option<(String, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (time, rest) = line.split_once("  ")?;
    let is_time = time.len() == "10:30:00.500Z".len()
        && time.ends_with('Z')
        && time.matches(':').count() == 2
        && time.starts_with(|c: char| c.is_ascii_digit());
    let (what, _) = rest.rsplit_once("  from ")?;
    let (method, target) = what.split_once(' ')?;
    is_time.then(|| (method.to_owned(), target.to_owned()))
}

/// Sets the body of the last request.
fn finish(captured: &mut [Captured], lines: Option<Vec<Vec<u8>>>) {
    let Some(current) = captured.last_mut() else {
        return;
    };
    match restore(&lines.unwrap_or_default()) {
        Some(body) => current.request.body = body.into(),
        None => current.no_body = Some(NOT_SHOWN),
    }
}

/// Returns the body that is shown in these lines; `None` if they do not hold all of it.
fn restore(lines: &[Vec<u8>]) -> Option<Vec<u8>> {
    let shown = |lines: &[Vec<u8>]| lines.join(&b'\n');
    let first = lines.first().map(|line| String::from_utf8_lossy(line));
    let Some((length, form, end)) = first.as_deref().and_then(announced) else {
        let is_cut = lines
            .last()
            .is_some_and(|line| line.starts_with(b"(") && line.ends_with(b" more bytes)"));
        return (!is_cut).then(|| shown(lines));
    };
    let rest = shown(&lines[1..]);
    match form {
        Form::Binary => hex::decode(lines[1..].concat()).ok(),
        Form::Json => {
            let texts = [unescape(&rest), Bytes::from(rest)];
            let bodies = texts.iter().flat_map(|text| layouts(text));
            with_end(bodies, end).find(|body| body.len() == length)
        }
        Form::Text => {
            let plain = unescape(&rest);
            let returns = String::from_utf8_lossy(&plain).replace("\\r", "\r");
            let bodies = [plain.to_vec(), returns.into_bytes(), rest];
            with_end(bodies.into_iter(), end).find(|body| body.len() == length)
        }
    }
    .filter(|body| body.len() == length)
}

/// The form in which a body is shown that is not shown as it is.
enum Form {
    Json,
    Text,
    Binary,
}

/// Parses the line before such a body: `188 bytes of JSON with a newline at the end:`. Returns the
/// length, the form, and the newline, if there is one.
fn announced(line: &str) -> Option<(usize, Form, &'static str)> {
    let (length, form) = line.strip_suffix(':')?.split_once(" bytes of ")?;
    let (form, end) = match form.strip_suffix(" with a newline at the end") {
        Some(form) => (form, "\n"),
        None => (form, ""),
    };
    let form = match form {
        "JSON" => Form::Json,
        "text" => Form::Text,
        "binary data" => Form::Binary,
        _ => return None,
    };
    Some((length.parse().ok()?, form, end))
}

fn with_end(bodies: impl Iterator<Item = Vec<u8>>, end: &str) -> impl Iterator<Item = Vec<u8>> {
    bodies.map(move |body| [&body, end.as_bytes()].concat())
}

/// Replaces `\u{7f}`, as control characters are shown, by the character.
fn unescape(text: &[u8]) -> Bytes {
    let Ok(text) = std::str::from_utf8(text) else {
        return Bytes::copy_from_slice(text);
    };
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\\u{") {
        plain.push_str(&rest[..start]);
        let escape = &rest[start + 3..];
        let shown = escape.find('}').and_then(|end| {
            let character = u32::from_str_radix(escape.get(..end)?, 16).ok()?;
            Some((char::from_u32(character)?, end))
        });
        match shown {
            Some((character, end)) => {
                plain.push(character);
                rest = &escape[end + 1..];
            }
            None => {
                plain.push_str("\\u{");
                rest = escape;
            }
        }
    }
    plain.push_str(rest);
    plain.into_bytes().into()
}

/// Removes the colours that a terminal was given, and a carriage return.
fn without_colours(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(line.len());
    let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
    while let Some((&byte, after)) = rest.split_first() {
        let sequence = rest.strip_prefix(b"\x1b[");
        let end = sequence.and_then(|text| text.iter().position(|&byte| byte == b'm'));
        rest = match (sequence, end) {
            (Some(sequence), Some(end)) => &sequence[end + 1..],
            _ => {
                plain.push(byte);
                after
            }
        };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "10:30:00.500Z  POST /hooks  from 127.0.0.1:5\n";

    fn body(shown: &str) -> Option<Vec<u8>> {
        let text = format!("{FIRST}  a: 1\n\n{shown}\n\n");
        let captured = parse(text.as_bytes()).unwrap();
        assert_eq!(captured.len(), 1);
        let [one] = &captured[..] else { panic!() };
        (one.no_body.is_none()).then(|| one.request.body.to_vec())
    }

    #[test]
    fn body_is_restored_from_its_length() {
        for (shown, restored) in [
            ("  a=1", "a=1"),
            ("  {}", "{}"),
            ("  3 bytes of JSON with a newline at the end:\n  {}", "{}\n"),
            ("  7 bytes of JSON:\n  {\n    \"a\": 1\n  }", "{\"a\":1}"),
            ("  8 bytes of JSON:\n  {\n    \"a\": 1\n  }", "{\"a\": 1}"),
            ("  10 bytes of JSON:\n  {\n    \"a\": 1\n  }", ""),
            (
                "  4 bytes of text with a newline at the end:\n  a\\u{7f}b",
                "a\u{7f}b\n",
            ),
            (
                "  3 bytes of text with a newline at the end:\n  a\\r",
                "a\r\n",
            ),
            ("  4 bytes of binary data:\n  00ff", ""),
        ] {
            if let Some(found) = body(shown) {
                assert_eq!(String::from_utf8_lossy(&found), restored, "{shown}");
            } else {
                assert!(
                    shown.contains("10 bytes") || shown.contains("00ff"),
                    "{shown}"
                );
            }
        }
        assert_eq!(
            body("  2 bytes of binary data:\n  00ff"),
            Some(vec![0, 255])
        );
        assert_eq!(body("  aaa\n  (7 more bytes)"), None);
    }

    #[test]
    fn output_may_hold_several_requests() {
        let text = format!(
            "hookstile: listening on http://127.0.0.1:4000\n{FIRST}NOT VERIFIED, missing: x\n  a: \
             \\u{{7f}}\n\n  x\n\n\u{1b}[2m10:30:01.500Z\u{1b}[0m  \u{1b}[1mPUT /b?c=1\u{1b}[0m  from \
             [::1]:5\n  \u{1b}[2ma:\u{1b}[0m 2\n\n"
        );
        assert!(is_output(text.as_bytes()));
        let error = parse(text.as_bytes()).unwrap_err();
        assert_eq!((error.line, error.problem.contains("control")), (4, true));
        let captured = parse(text.replace("\\u{7f}", "1").as_bytes()).unwrap();
        assert_eq!(captured.len(), 2);
        assert_eq!(captured[0].request.body, "x");
        assert_eq!(captured[1].method, "PUT");
        assert_eq!(captured[1].request.target.as_deref(), Some("/b?c=1"));
        assert_eq!(captured[1].request.headers["a"], "2");
        assert_eq!(captured[1].request.body, "");
    }
}
