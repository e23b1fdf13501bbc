//! The part of an upstream's response that is kept with an attempt. Pure.

use http::header::{self, HeaderMap, HeaderValue};

use super::Response;
use crate::delivery::{last_word, mask_text};
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
        content_type: content_type(headers, private_values),
        body_bytes: response.body_bytes,
        body: body.map(|mut text| {
            if is_cut {
                drop_unfinished(&mut text);
            }
            shortened(mask_text(&text, private_values))
        }),
    }
}

fn content_type(headers: &HeaderMap, private_values: &[String]) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let masked = mask_text(value, private_values);
    Some(masked.chars().take(CONTENT_TYPE_MAX).collect())
}

/// Drops the last word of a text that was cut. It may be the beginning of a credential that only
/// its end gives away, such as the password in a URL. A longer word is cut for its length anyway.
fn drop_unfinished(text: &mut String) {
    let start = last_word(text);
    if text.len() - start <= RESPONSE_BODY_MAX {
        text.truncate(start);
    }
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
    use proptest::prelude::*;

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
    fn unfinished_word_is_dropped() {
        let url = "postgres://app:password4711@db/x";
        for end in [1, 15, 22, 27] {
            let text = format!("{} {url}", "a ".repeat(EXCERPT_READ / 2).split_at(end).1);
            assert!(text.len() > EXCERPT_READ);
            let kept = record(&response("text/plain", text), &[]).body.unwrap();
            assert!(!kept.contains("password"), "{end}");
        }
        let masked = format!("token={} ", "t".repeat(EXCERPT_READ - 20));
        let kept = record(&response("text/plain", masked + url), &[]).body;
        assert_eq!(kept.as_deref(), Some("token=*** "));
    }

    #[test]
    fn content_type_is_masked() {
        let value = "v".repeat(40);
        let kept = record(&response(&format!("text/{value}"), ""), &[value]);
        assert_eq!(kept.content_type.as_deref(), Some("text/***"));
    }

    fn filler() -> impl Strategy<Value = String> {
        let unit = r#"(\PC|[ \n"<:=,/a-f0-9]|Bearer |token=|\\/){1,12}"#;
        (unit, 0..EXCERPT_READ + 200).prop_map(|(unit, length)| {
            let times = length.div_ceil(unit.len());
            unit.repeat(times)
        })
    }

    proptest! {
        #[test]
        fn no_piece_of_a_secret_survives(
            before in filler(),
            after in filler(),
            secrets in proptest::collection::vec("[!-)+-~]{6,300}|[a-z]{8}( [!-)+-~]{8,20}){1,4}", 1..4),
            chosen: proptest::sample::Index,
            is_escaped: bool,
            truncated: bool,
        ) {
            let secret = chosen.get(&secrets);
            let sent = if is_escaped { secret.replace('/', "\\/") } else { secret.clone() };
            let whole = Bytes::from(format!("{before}{sent}{after}"));
            let mut response = response("text/plain", whole.clone());
            if truncated {
                response.truncated = true;
                response.beginning = whole.slice(..whole.len().min(EXCERPT_READ));
                response.body = Bytes::new();
            }
            let kept = record(&response, &secrets).body.unwrap_or_default();
            prop_assert!(kept.len() <= RESPONSE_BODY_MAX);
            for piece in secret.as_bytes().windows(8) {
                let piece = std::str::from_utf8(piece).unwrap();
                prop_assert!(!kept.contains(piece), "{piece} in {kept}");
            }
        }
    }

    #[test]
    fn value_across_the_cut_is_masked() {
        let value = "v".repeat(40);
        let text = format!("{}{value}", " ".repeat(RESPONSE_BODY_MAX - 20));
        let kept = record(&response("text/plain", text), &[value]);
        assert!(!kept.body.unwrap().contains('v'));
    }
}
