//! The part of an upstream's response that is kept with an attempt. Pure.

use http::header::{self, HeaderMap, HeaderValue};

use super::Response;
use crate::delivery::mask_text;
use crate::store::{RESPONSE_BODY_MAX, ResponseRecord};

/// The bytes of a body that are read for its excerpt: more than are kept, so that a value that is
/// masked is whole.
pub(super) const EXCERPT_READ: usize = 2 * RESPONSE_BODY_MAX;

/// The most bytes of a content type that are kept.
const CONTENT_TYPE_MAX: usize = 128;

/// Returns the record of a response that is not 2xx. `private_values` are masked in its body.
pub(super) fn record(response: &Response, private_values: &[String]) -> ResponseRecord {
    let bytes = if response.truncated {
        &response.beginning
    } else {
        &response.body
    };
    let is_cut = bytes.len() > EXCERPT_READ || response.truncated;
    let window = &bytes[..bytes.len().min(EXCERPT_READ)];
    let headers = &response.head.headers;
    let body = text(window, is_cut, is_text(headers));
    ResponseRecord {
        content_type: content_type(headers),
        body_bytes: response.body_bytes,
        body: body.map(|text| shortened(mask_text(&text, private_values))),
    }
}

fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.chars().take(CONTENT_TYPE_MAX).collect())
}

/// Returns whether a body is text by its headers.
fn is_text(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    let content_type = String::from_utf8_lossy(content_type.unwrap_or_default()).to_lowercase();
    !headers.contains_key(header::CONTENT_ENCODING)
        && (content_type.starts_with("text/")
            || ["json", "xml", "javascript", "urlencoded"]
                .iter()
                .any(|format| content_type.contains(format)))
}

/// Returns a body as text: any that is UTF-8, and whatever calls itself text. `is_cut` means that
/// the last character may be incomplete.
fn text(bytes: &[u8], is_cut: bool, is_text: bool) -> Option<String> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(error) if is_cut && error.error_len().is_none() => {
            String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned()
        }
        Err(_) if is_text => String::from_utf8_lossy(bytes).into_owned(),
        Err(_) => return None,
    };
    // PostgreSQL stores no NUL, and the others would multiply in JSON.
    let is_odd = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    if !text.contains(is_odd) {
        Some(text)
    } else if is_text {
        Some(text.replace(is_odd, "\u{fffd}"))
    } else {
        None
    }
}

/// Cuts a text at [`RESPONSE_BODY_MAX`] bytes.
fn shortened(mut text: String) -> String {
    if text.len() > RESPONSE_BODY_MAX {
        let end = (0..=RESPONSE_BODY_MAX)
            .rev()
            .find(|&at| text.is_char_boundary(at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use pingora_http::ResponseHeader;

    use super::*;

    fn response(content_type: &str, body: impl Into<Bytes>) -> Response {
        let mut head = ResponseHeader::build(500, None).unwrap();
        head.insert_header("Content-Type", content_type).unwrap();
        let body = body.into();
        Response {
            head: Box::new(head),
            body_bytes: body.len() as u64,
            body,
            truncated: false,
            beginning: Bytes::new(),
        }
    }

    fn body(content_type: &str, body: impl Into<Bytes>) -> Option<String> {
        record(&response(content_type, body), &[]).body
    }

    #[test]
    fn text_is_kept_and_binary_data_is_not() {
        for (content_type, bytes, shown) in [
            ("application/json", &b"{\"a\":1}"[..], Some("{\"a\":1}")),
            ("", "größe".as_bytes(), Some("größe")),
            ("text/plain", b"gr\xf6\xdfe", Some("gr\u{fffd}\u{fffd}e")),
            ("text/plain", b"a\0b\x1b", Some("a\u{fffd}b\u{fffd}")),
            ("image/png", b"\x89PNG", None),
            ("application/octet-stream", b"a\0b", None),
            ("text/plain", b"", Some("")),
        ] {
            assert_eq!(
                body(content_type, bytes).as_deref(),
                shown,
                "{content_type}"
            );
        }
    }

    #[test]
    fn long_body_is_cut_between_characters() {
        let long = "€".repeat(EXCERPT_READ);
        let kept = record(&response("text/plain", long.clone()), &[]);
        let text = kept.body.unwrap();
        assert!(long.starts_with(&text) && text.len() > RESPONSE_BODY_MAX - 3);
        assert_eq!(kept.body_bytes, long.len() as u64);
    }

    #[test]
    fn value_across_the_cut_is_masked() {
        let value = "v".repeat(40);
        let text = format!("{}{value}", " ".repeat(RESPONSE_BODY_MAX - 20));
        let kept = record(&response("text/plain", text), &[value]);
        assert!(!kept.body.unwrap().contains('v'));
    }
}
