//! Formats a received request, for people or for scripts. Everything that the sender wrote is
//! indented, so that no body can imitate a line of this program, and has its control characters
//! escaped.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::verifier::VerificationResult;
use crate::cli::terminal;
use crate::event::EventId;
use crate::signature::SignatureError;

/// Bytes of a text body that are shown.
const SHOWN_MAX: usize = 64 << 10;
/// Bytes of a binary body that are shown.
const HEX_MAX: usize = 64;
const HEX_BYTES_PER_LINE: usize = 16;

/// A request as it was received.
pub(super) struct ReceivedRequest {
    pub(super) at: Timestamp,
    pub(super) peer: SocketAddr,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    /// The body, or the status to respond with if it could not be read.
    pub(super) body: Result<Bytes, StatusCode>,
    /// `None` if no provider is given.
    pub(super) verification: Option<VerificationResult>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Coloured,
}

/// Colours by their number in an SGR sequence (ECMA-48 §8.3.117).
const BOLD: u8 = 1;
const FAINT: u8 = 2;
const RED: u8 = 31;
const GREEN: u8 = 32;
const CYAN: u8 = 36;

impl Style {
    fn paint(self, colour: u8, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{colour}m{text}\x1b[0m"),
        }
    }
}

impl ReceivedRequest {
    /// Formats the request as lines for people; the last one is empty.
    pub(super) fn to_text(&self, style: Style) -> String {
        let what =
            terminal::visible(&format!("{} {}", self.method, self.target), false).into_owned();
        let at = self.at.strftime("%H:%M:%S%.3fZ").to_string();
        let mut lines = vec![format!(
            "{}  {}  from {}",
            style.paint(FAINT, &at),
            style.paint(BOLD, &what),
            self.peer
        )];
        lines.extend(
            self.verification
                .as_ref()
                .map(|verdict| verdict.to_line(style)),
        );
        let (by_gateway, by_sender): (Vec<_>, Vec<_>) = self
            .headers
            .iter()
            .partition(|(name, _)| is_from_gateway(name));
        lines.extend(
            by_gateway
                .into_iter()
                .chain(by_sender)
                .map(|(name, value)| format_header(name, value, style)),
        );
        match &self.body {
            Ok(body) if body.is_empty() => {}
            Ok(body) => {
                lines.push(String::new());
                lines.extend(
                    format_body(body)
                        .split('\n')
                        .map(|line| format!("  {line}")),
                );
            }
            Err(StatusCode::REQUEST_TIMEOUT) => {
                lines.push("the body did not arrive in time".into());
            }
            Err(_) => lines.push("the body is over 32 MiB, or the connection broke".into()),
        }
        lines.join("\n") + "\n\n"
    }

    /// Formats the request as one JSON object.
    pub(super) fn to_json(&self) -> String {
        let body = self.body.as_ref().ok();
        let text = body.and_then(|body| std::str::from_utf8(body).ok());
        let mut document = json!({
            "received_at": self.at,
            "peer": self.peer,
            "method": self.method,
            "target": self.target,
            "headers": terminal::json_fields(&self.headers),
            "bytes": body.map(Bytes::len),
            "body": text,
        });
        if let Some(body) = body.filter(|_| text.is_none()) {
            document["body_base64"] = BASE64.encode(body).into();
        }
        if let Some(verdict) = &self.verification {
            document["verification"] = verdict.to_json();
        }
        terminal::json_line(&document)
    }
}

impl VerificationResult {
    fn to_line(&self, style: Style) -> String {
        let secret = match &self.verified {
            Ok(secret) => terminal::visible(secret, false),
            Err(failure) => {
                return style.paint(
                    RED,
                    &format!(
                        "NOT VERIFIED, {}: {}",
                        failure.label(),
                        describe_failure(*failure)
                    ),
                );
            }
        };
        let what = match &self.event {
            None => "a handshake, answered".to_owned(),
            Some(Err(error)) => {
                return style.paint(
                    RED,
                    &format!("verified with {secret}, but not a valid event: {error}"),
                );
            }
            Some(Ok(event)) => {
                let event_type = terminal::visible(&event.event_type, false);
                match event.id.as_ref().map(EventId::as_str) {
                    Some(id) => format!(
                        "event {} of type {event_type}",
                        terminal::visible(id, false)
                    ),
                    None => format!("an event of type {event_type}"),
                }
            }
        };
        style.paint(GREEN, &format!("verified with {secret}, {what}"))
    }

    fn to_json(&self) -> Value {
        let event = self.event.as_ref().and_then(|event| event.as_ref().ok());
        json!({
            "verified": self.verified.is_ok(),
            "secret": self.verified.as_deref().ok(),
            "reason": match (&self.verified, &self.event) {
                (Err(failure), _) => Some(failure.label()),
                (Ok(_), Some(Err(error))) => Some(error.reason()),
                (Ok(_), _) => None,
            },
            "event_id": event.and_then(|event| event.id.as_ref()).map(EventId::as_str),
            "event_type": event.map(|event| &event.event_type),
            "handshake": self.handshake.is_some(),
        })
    }
}

fn is_from_gateway(name: &HeaderName) -> bool {
    name.as_str().starts_with("hookstile-")
}

fn format_header(name: &HeaderName, value: &HeaderValue, style: Style) -> String {
    let colour = if is_from_gateway(name) { CYAN } else { FAINT };
    format!(
        "  {} {}",
        style.paint(colour, &format!("{name}:")),
        terminal::visible(&String::from_utf8_lossy(value.as_bytes()), false)
    )
}

fn describe_failure(failure: SignatureError) -> &'static str {
    match failure {
        SignatureError::Missing => "the signature, or a part that it covers, is missing",
        SignatureError::Malformed => "the signature or its timestamp has the wrong format",
        SignatureError::Mismatch => {
            "it is signed with another secret, or its body was changed after signing"
        }
        SignatureError::Stale => {
            "the signature is correct, but its time is too old, or ahead of this machine's clock"
        }
    }
}

fn format_body(body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else {
        return hex_dump(body);
    };
    if text.len() <= SHOWN_MAX {
        let pretty = crate::json::pretty(text);
        let form = if pretty.is_some() { "JSON" } else { "text" };
        let shown = pretty.as_deref().unwrap_or(text);
        let shown = terminal::visible(shown.strip_suffix('\n').unwrap_or(shown), true);
        if shown == text {
            return shown.into_owned();
        }
        // `hookstile verify` restores the body from its length.
        let end = if text.ends_with('\n') {
            " with a newline at the end"
        } else {
            ""
        };
        return format!("{} bytes of {form}{end}:\n{shown}", text.len());
    }
    let end = (0..=SHOWN_MAX)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or_default();
    let start = &text[..end];
    format!(
        "{}\n({} more bytes)",
        terminal::visible(start, true),
        text.len() - start.len()
    )
}

fn hex_dump(body: &[u8]) -> String {
    let start = &body[..body.len().min(HEX_MAX)];
    let mut lines = vec![format!("{} bytes of binary data:", body.len())];
    lines.extend(start.chunks(HEX_BYTES_PER_LINE).map(hex::encode));
    if body.len() > HEX_MAX {
        lines.push("…".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::explain::Captured;

    fn received(body: &'static [u8]) -> ReceivedRequest {
        let headers = [
            ("x-test", "a"),
            ("hookstile-event-id", "evt_1"),
            ("x-test", "b\u{9b}c"),
        ];
        let headers = headers.map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            )
        });
        ReceivedRequest {
            at: "2026-01-15T10:30:00.5Z".parse().unwrap(),
            peer: ([127, 0, 0, 1], 5).into(),
            method: "POST".into(),
            target: "/hooks".into(),
            headers: headers.into_iter().collect(),
            body: Ok(body.into()),
            verification: None,
        }
    }

    #[test]
    fn text_shows_gateway_headers_first_and_indents_json() {
        let expected = [
            "10:30:00.500Z  POST /hooks  from 127.0.0.1:5",
            "  hookstile-event-id: evt_1",
            "  x-test: a",
            "  x-test: b\\u{9b}c",
            "",
            "  9 bytes of JSON:",
            "  {",
            "    \"a\": \"\\u{7f}\"",
            "  }",
            "\n",
        ];
        assert_eq!(
            received(b"{\"a\":\"\x7f\"}").to_text(Style::Plain),
            expected.join("\n")
        );
        assert!(
            received(b"")
                .to_text(Style::Coloured)
                .contains("\x1b[36mhookstile-event-id:\x1b[0m evt_1")
        );
    }

    #[test]
    fn body_other_than_json_is_text_or_hex() {
        let text = received(b"a=1&b=\x1b[2J").to_text(Style::Plain);
        let shown = "\n\n  10 bytes of text:\n  a=1&b=\\u{1b}[2J\n\n";
        assert!(text.ends_with(shown), "{text}");
        let text = received(b"\xff\x00abcdefghijklmnop").to_text(Style::Plain);
        assert!(
            text.contains("  18 bytes of binary data:\n  ff006162"),
            "{text}"
        );
        assert_eq!(hex_dump(&[0; 65]).lines().count(), 6);
        assert!(format_body(&vec![b'a'; SHOWN_MAX + 7]).ends_with("\n(7 more bytes)"));
    }

    proptest! {
        #[test]
        fn parser_reads_what_is_printed(
            bodies in proptest::collection::vec(proptest::prop_oneof![
                "[{}\\[\\]\"a:, \n\r\t\u{7f}\u{202e}\\\\u01.]{0,12}",
                "\\{(\"[a-c\u{7f}]\": ?[0-9](, ?\"[d-f]\": ?\"\\\\\\\\[rnt]\")?)?\\}\n?",
                "\\PC{0,12}",
            ], 1..4),
            binary: Vec<u8>,
        ) {
            let mut all: Vec<Bytes> = bodies.into_iter().map(Into::into).collect();
            all.push(binary.into());
            for style in [Style::Plain, Style::Coloured] {
                let requests = all.iter().map(|body| ReceivedRequest {
                    body: Ok(body.clone()),
                    ..received(b"")
                });
                let text: String = requests.map(|request| request.to_text(style)).collect();
                let mut no_files = |_: &str| Err(String::new());
                let captured = Captured::parse(text.as_bytes(), &mut no_files).unwrap();
                prop_assert_eq!(captured.len(), all.len());
                for (captured, body) in captured.iter().zip(&all) {
                    prop_assert_eq!(captured.request.headers.len(), 3);
                    if captured.no_body.is_none() {
                        prop_assert_eq!(&captured.request.body, body, "{}", text);
                    }
                }
                let json: Vec<_> = all.iter().map(|body| ReceivedRequest {
                    body: Ok(body.clone()),
                    ..received(b"")
                }.to_json()).collect();
                let captured = Captured::parse(json.join("\n").as_bytes(), &mut no_files).unwrap();
                for (captured, body) in captured.iter().zip(&all) {
                    prop_assert_eq!(&captured.request.body, body);
                }
            }
        }
    }

    #[test]
    fn json_holds_every_byte_of_the_body() {
        let read = |body| -> Value { serde_json::from_str(&received(body).to_json()).unwrap() };
        assert_eq!(read(b"{\"a\": 1.0}\x7f")["body"], "{\"a\": 1.0}\u{7f}");
        assert_eq!(read(b"")["headers"]["x-test"], json!(["a", "b\u{9b}c"]));
        let binary = read(b"\xff\x00");
        assert_eq!(
            (&binary["body"], &binary["body_base64"]),
            (&Value::Null, &json!("/wA="))
        );
    }
}
