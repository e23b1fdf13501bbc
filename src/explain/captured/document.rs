//! Parses captures in JSON: documents of `hookstile capture` and `hookstile catch`, one or several,
//! and a browser's HAR (HTTP Archive 1.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::HeaderMap;
use http::header::HOST;
use serde::Deserialize;
use serde_json::Value;

use super::http1::add_header;
use super::{Captured, CapturedError};
use crate::explain::Request;

/// The reason why a browser's capture has no body.
const NOT_IN_HAR: &str = "the HAR holds no body for this request";
const NOT_READ: &str = "the receiver could not read the body of this request";

/// A request in a HAR.
#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "startedDateTime")]
    started: Option<String>,
    request: EntryRequest,
}

#[derive(Deserialize)]
struct EntryRequest {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<EntryHeader>,
    #[serde(rename = "postData")]
    body: Option<EntryBody>,
    #[serde(rename = "bodySize", default)]
    body_size: f64,
}

#[derive(Deserialize)]
struct EntryHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct EntryBody {
    text: Option<String>,
    /// Not part of HAR 1.2, but written for bodies that are not text.
    encoding: Option<String>,
}

/// Returns whether the text is JSON and not a message.
pub(super) fn is_json(text: &[u8]) -> bool {
    let text = without_mark(text).trim_ascii_start();
    matches!(text.first(), Some(b'{' | b'['))
}

/// Parses one document, or one after the other.
pub(super) fn parse(text: &[u8]) -> Result<Vec<Captured>, CapturedError> {
    let text = without_mark(text);
    let mut captured = Vec::new();
    let mut documents = serde_json::Deserializer::from_slice(text).into_iter::<Value>();
    loop {
        let at = documents.byte_offset();
        let rest = &text[at.min(text.len())..];
        let blank = rest.len() - rest.trim_ascii_start().len();
        let line = text[..at + blank].split(|&byte| byte == b'\n').count();
        let document = match documents.next() {
            None => break,
            Some(Ok(document)) => document,
            Some(Err(error)) => {
                return Err(CapturedError::new(
                    error.line().max(1).min(lines(text)),
                    "this begins like JSON, but is not JSON",
                ));
            }
        };
        read(document, &mut captured).map_err(|problem| CapturedError::new(line, problem))?;
    }
    if captured.is_empty() {
        return Err(CapturedError::new(1, "the capture holds no request"));
    }
    Ok(captured)
}

fn lines(text: &[u8]) -> usize {
    text.split(|&byte| byte == b'\n').count()
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Adds the requests of a document.
fn read(mut document: Value, captured: &mut Vec<Captured>) -> Result<(), String> {
    if let Some(entries) = document.pointer_mut("/log/entries") {
        let entries: Vec<Entry> = serde_json::from_value(entries.take())
            .map_err(|error| format!("the HAR has a malformed entry: {error}"))?;
        for entry in entries {
            captured.push(entry.into_captured()?);
        }
        return Ok(());
    }
    // The admin API wraps its document.
    if let Some(inner) = document
        .get_mut("capture")
        .filter(|inner| inner.is_object())
    {
        document = inner.take();
    }
    match document {
        Value::Array(documents) => documents
            .into_iter()
            .try_for_each(|document| read(document, captured)),
        document if document.get("headers").is_some() => {
            captured.push(from_document(&document)?);
            Ok(())
        }
        _ => Err(
            "this JSON is neither a HAR nor a document of `hookstile capture` or `catch`; if it \
             is a body alone, give it with --body, and the headers with --headers"
                .into(),
        ),
    }
}

/// Reads a document of `hookstile capture` or `hookstile catch`.
fn from_document(document: &Value) -> Result<Captured, String> {
    let text = |name: &str| document.get(name).and_then(Value::as_str);
    let body = match (text("body_base64"), text("body")) {
        (Some(encoded), _) => Some(
            BASE64
                .decode(encoded)
                .map_err(|_| "`body_base64` is not base64")?,
        ),
        (None, Some(body)) => Some(body.as_bytes().to_vec()),
        (None, None) => None,
    };
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &Value| match value.as_str() {
        Some(value) => add_header(name.as_bytes(), value.as_bytes(), &mut headers),
        None => Err(format!("the value of the header `{name}` is not text")),
    };
    match document.get("headers") {
        Some(Value::Object(fields)) => {
            for (name, value) in fields {
                match value {
                    Value::Array(values) => {
                        values.iter().try_for_each(|value| add(name, value))?;
                    }
                    value => add(name, value)?,
                }
            }
        }
        Some(Value::Array(fields)) => {
            for field in fields {
                let name = field.get("name").and_then(Value::as_str);
                let name = name.ok_or("a header has no `name`")?;
                add(name, field.get("value").unwrap_or(&Value::Null))?;
            }
        }
        _ => return Err("`headers` is neither an object nor a list".into()),
    }
    Ok(Captured {
        method: text("method").unwrap_or_default().into(),
        no_body: body.is_none().then_some(NOT_READ),
        request: Request {
            target: text("target").map(Into::into),
            headers,
            body: body.unwrap_or_default().into(),
        },
        at: text("received_at").and_then(|at| at.parse().ok()),
        note: None,
    })
}

impl Entry {
    fn into_captured(self) -> Result<Captured, String> {
        let EntryRequest {
            method,
            url,
            headers: fields,
            body,
            body_size,
        } = self.request;
        let mut headers = HeaderMap::new();
        // Browsers list the pseudo-header fields of HTTP/2, too.
        for field in fields.iter().filter(|field| !field.name.starts_with(':')) {
            add_header(field.name.as_bytes(), field.value.as_bytes(), &mut headers)?;
        }
        let rest = url.split_once("://").map_or(&*url, |(_, rest)| rest);
        let (host, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let target = target.split('#').next().unwrap_or_default();
        let slash = if target.starts_with('/') { "" } else { "/" };
        if !headers.contains_key(HOST) && !host.is_empty() {
            add_header(b"host", host.as_bytes(), &mut headers)?;
        }
        let (text, encoding) = match body {
            Some(body) => (body.text, body.encoding),
            None => (None, None),
        };
        let body = match (text, encoding.as_deref()) {
            (Some(text), Some("base64")) => {
                let decoded = BASE64.decode(text);
                Some(
                    decoded
                        .map_err(|_| "a body of the HAR is not base64")?
                        .into(),
                )
            }
            (Some(text), _) => Some(Bytes::from(text)),
            (None, _) if body_size <= 0.0 && !headers.contains_key("content-length") => {
                Some(Bytes::new())
            }
            (None, _) => None,
        };
        Ok(Captured {
            method,
            no_body: body.is_none().then_some(NOT_IN_HAR),
            request: Request {
                target: Some(format!("{slash}{target}")),
                headers,
                body: body.unwrap_or_default(),
            },
            at: self.started.and_then(|at| at.parse().ok()),
            note: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAR: &str = r#"{"log": {"version": "1.2", "entries": [
        {"startedDateTime": "2026-01-15T10:30:00.000Z", "request": {"method": "GET",
         "url": "https://example.com/", "headers": [], "bodySize": 0}},
        {"startedDateTime": "2026-01-15T10:30:01.000+01:00", "request": {"method": "POST",
         "url": "https://h:8443/hooks?a=1#x", "httpVersion": "h2", "headers": [
           {"name": ":authority", "value": "h:8443"}, {"name": "X-Sig", "value": "abc"},
           {"name": "content-length", "value": "9"}],
         "postData": {"mimeType": "application/json", "text": "{\"a\": 1}\n"}}}]}}"#;

    fn parsed(text: &str) -> Vec<Captured> {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn har_entries_are_requests() {
        let captured = parsed(HAR);
        assert_eq!(captured.len(), 2);
        let post = &captured[1];
        assert_eq!(post.method, "POST");
        assert_eq!(post.request.target.as_deref(), Some("/hooks?a=1"));
        assert_eq!(post.request.headers["host"], "h:8443");
        assert_eq!(post.request.headers["x-sig"], "abc");
        assert_eq!(post.request.body, "{\"a\": 1}\n");
        assert_eq!(post.at, "2026-01-15T09:30:01Z".parse().ok());
    }

    #[test]
    fn har_without_a_body_says_so() {
        let har = HAR.replace("\"text\"", "\"test\"");
        let captured = parsed(&har);
        assert_eq!(captured[0].no_body, None);
        assert_eq!(captured[1].no_body, Some(NOT_IN_HAR));
    }

    #[test]
    fn documents_may_follow_each_other() {
        let text = r#"{"headers": {"a": ["1", "2"]}, "body": "x"}
{"capture": {"headers": [{"name": "A", "value": "3"}], "body_base64": "/wA="}, "success": true}

[{"headers": {}, "body": null, "target": "/t", "received_at": "2026-01-15T10:30:00Z"}]"#;
        let captured = parsed(text);
        assert_eq!(captured.len(), 3);
        assert_eq!(captured[0].request.headers.get_all("a").iter().count(), 2);
        assert_eq!(captured[1].request.headers["a"], "3");
        assert_eq!(&captured[1].request.body[..], b"\xff\x00");
        assert_eq!(captured[2].no_body, Some(NOT_READ));
        assert_eq!(captured[2].request.target.as_deref(), Some("/t"));
        assert!(captured[2].at.is_some());
    }

    #[test]
    fn other_json_is_an_error_with_its_line() {
        for (text, line, problem) in [
            ("{\"id\": \"evt_1\"}", 1, "a body alone"),
            ("{\"headers\": {}}\n\n[{}]", 3, "a body alone"),
            ("{\n\"headers\": }", 2, "not JSON"),
            ("{\"headers\": {\"a b\": \"\"}}", 1, "`a b`"),
            ("{\"headers\": {\"a\": 1}}", 1, "not text"),
            ("{\"headers\": {}, \"body_base64\": \"?\"}", 1, "base64"),
            ("{\"log\": {\"entries\": []}}", 1, "no request"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(
                error.line == line && error.problem.contains(problem),
                "{text}: {error}"
            );
        }
    }
}
