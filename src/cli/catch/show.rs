//! A request that was caught, for people or for scripts. What came from outside is indented, so that no body looks
//! like a line of ours, and holds nothing that a terminal would obey.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::judge::Verdict;
use crate::cli::terminal;
use crate::event::EventId;
use crate::signature::SignatureError;

/// Bytes of a body that people are shown.
const SHOWN_MAX: usize = 64 << 10;
/// Bytes of a body that is no text.
const HEX_MAX: usize = 64;
const HEX_A_LINE: usize = 16;

pub(super) struct Caught {
    pub(super) at: Timestamp,
    pub(super) peer: SocketAddr,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: HeaderMap,
    /// Or what a body is answered with that was not read.
    pub(super) body: Result<Bytes, StatusCode>,
    /// `None` where nobody asked for one.
    pub(super) verdict: Option<Verdict>,
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

impl Caught {
    /// Lines, an empty one last.
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
        lines.extend(self.verdict.as_ref().map(|verdict| verdict.to_line(style)));
        let ours = |name: &HeaderName| name.as_str().starts_with("hookstile-");
        let field = |(name, value): (&HeaderName, &HeaderValue)| {
            let name = style.paint(if ours(name) { CYAN } else { FAINT }, &format!("{name}:"));
            format!(
                "  {name} {}",
                terminal::visible(&String::from_utf8_lossy(value.as_bytes()), false)
            )
        };
        let (by_hookstile, by_sender): (Vec<_>, Vec<_>) =
            self.headers.iter().partition(|(name, _)| ours(name));
        lines.extend(by_hookstile.into_iter().chain(by_sender).map(field));
        match &self.body {
            Ok(body) if body.is_empty() => {}
            Ok(body) => {
                lines.push(String::new());
                lines.extend(shown(body).lines().map(|line| format!("  {line}")));
            }
            Err(StatusCode::REQUEST_TIMEOUT) => {
                lines.push("the body did not arrive in time".into())
            }
            Err(_) => lines.push("the body is over 32 MiB, or broke off".into()),
        }
        lines.join("\n") + "\n\n"
    }

    /// One object.
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
        if let Some(verdict) = &self.verdict {
            document["verification"] = verdict.to_json();
        }
        terminal::json_line(&document)
    }
}

impl Verdict {
    fn to_line(&self, style: Style) -> String {
        let secret = match &self.verified {
            Ok(secret) => terminal::visible(secret, false),
            Err(failure) => {
                return style.paint(
                    RED,
                    &format!("NOT VERIFIED, {}: {}", failure.label(), why(*failure)),
                );
            }
        };
        let what = match &self.event {
            None => "a handshake, answered".to_owned(),
            Some(Err(error)) => {
                return style.paint(
                    RED,
                    &format!("verified with {secret}, but no event: {error}"),
                );
            }
            Some(Ok(event)) => {
                let kind = terminal::visible(&event.event_type, false);
                match event.id.as_ref().map(EventId::as_str) {
                    Some(id) => format!("event {} of type {kind}", terminal::visible(id, false)),
                    None => format!("an event of type {kind}"),
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

fn why(failure: SignatureError) -> &'static str {
    match failure {
        SignatureError::Missing => {
            "there is no signature, or a part of what is signed is not there"
        }
        SignatureError::Malformed => "this can't be a signature, or its time is none",
        SignatureError::Mismatch => {
            "it is signed with another secret, or its bytes are not those that were signed"
        }
        SignatureError::Stale => {
            "it is genuine, but was signed too long ago, or ahead of this machine's clock"
        }
    }
}

fn shown(body: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(body) else {
        return hex_dump(body);
    };
    if text.len() <= SHOWN_MAX {
        let text = crate::json::pretty(text).unwrap_or_else(|| text.to_owned());
        return terminal::visible(&text, true).into_owned();
    }
    let end = (0..=SHOWN_MAX)
        .rev()
        .find(|&end| text.is_char_boundary(end))
        .unwrap_or_default();
    let start = &text[..end];
    format!(
        "{}\n({} bytes more)",
        terminal::visible(start, true),
        text.len() - start.len()
    )
}

fn hex_dump(body: &[u8]) -> String {
    let start = &body[..body.len().min(HEX_MAX)];
    let mut lines = vec![format!("{} bytes that are no text:", body.len())];
    lines.extend(start.chunks(HEX_A_LINE).map(hex::encode));
    if body.len() > HEX_MAX {
        lines.push("…".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caught(body: &'static [u8]) -> Caught {
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
        Caught {
            at: "2026-01-15T10:30:00.5Z".parse().unwrap(),
            peer: ([127, 0, 0, 1], 5).into(),
            method: "POST".into(),
            target: "/hooks".into(),
            headers: headers.into_iter().collect(),
            body: Ok(body.into()),
            verdict: None,
        }
    }

    #[test]
    fn people_see_the_gateway_s_headers_first_and_json_laid_out() {
        let expected = "10:30:00.500Z  POST /hooks  from 127.0.0.1:5\n  hookstile-event-id: evt_1\n  x-test: a\n  \
                        x-test: b\\u{9b}c\n\n  {\n    \"a\": \"\\u{7f}\"\n  }\n\n";
        assert_eq!(caught(b"{\"a\":\"\x7f\"}").to_text(Style::Plain), expected);
        assert!(
            caught(b"")
                .to_text(Style::Coloured)
                .contains("\x1b[36mhookstile-event-id:\x1b[0m evt_1")
        );
    }

    #[test]
    fn what_is_no_json_is_text_or_hex() {
        let text = caught(b"a=1&b=\x1b[2J").to_text(Style::Plain);
        assert!(text.ends_with("\n\n  a=1&b=\\u{1b}[2J\n\n"), "{text}");
        let text = caught(b"\xff\x00abcdefghijklmnop").to_text(Style::Plain);
        assert!(
            text.contains("  18 bytes that are no text:\n  ff006162"),
            "{text}"
        );
        assert_eq!(hex_dump(&[0; 65]).lines().count(), 6);
        assert!(shown(&vec![b'a'; SHOWN_MAX + 7]).ends_with("\n(7 bytes more)"));
    }

    #[test]
    fn a_script_gets_every_byte_of_the_body() {
        let read = |body| -> Value { serde_json::from_str(&caught(body).to_json()).unwrap() };
        assert_eq!(read(b"{\"a\": 1.0}\x7f")["body"], "{\"a\": 1.0}\u{7f}");
        assert_eq!(read(b"")["headers"]["x-test"], json!(["a", "b\u{9b}c"]));
        let binary = read(b"\xff\x00");
        assert_eq!(
            (&binary["body"], &binary["body_base64"]),
            (&Value::Null, &json!("/wA="))
        );
    }
}
