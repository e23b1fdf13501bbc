//! The events of the load: their content, their signatures, and the requests that carry them.

use std::fmt::Write;

use clap::ValueEnum;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The secret with which all peers verify.
pub const SECRET: &str = "whsec_4f1c8a70d2b94f0e8b6a53c7d91e2f60";
/// The path on which all peers accept events.
pub const PATH: &str = "/webhooks/vpn-enterprise";

/// A path on which no peer accepts anything.
const UNKNOWN_PATH: &str = "/webhooks/unknown";

pub type Tag = [u8; 32];

/// What is right or wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    Genuine,
    BadSignature,
    NoSignature,
    UnknownPath,
}

const OPENING: &str = r#"{"id":"evt_"#;
const ITEM: &str =
    r#"{"user":"usr_8f14e45fceea","plan":"premium","bytes":1073741824,"active":true,"region":"eu-west-1"},"#;
const CLOSING: &str = r#"{}],"note":""#;

/// Events of one size. They differ in their ID, which is at the front; the rest is shared, so that
/// a million of them take no more memory than their signatures.
pub struct Events {
    size: usize,
    rest: Vec<u8>,
}

impl Events {
    /// Creates events of `size` bytes, at least 256.
    pub fn new(size: usize) -> Self {
        assert!(size >= 256, "an event takes 256 bytes");
        let mut rest =
            String::from(r#"","type":"user.created","timestamp":"2026-11-23T00:00:00Z","data":{"sessions":["#);
        let room = size - begin(0).len() - CLOSING.len() - r#""}}"#.len();
        while rest.len() + ITEM.len() <= room {
            rest.push_str(ITEM);
        }
        let padding = room - rest.len();
        let _ = write!(rest, r#"{CLOSING}{:x<padding$}"}}}}"#, "");
        Self { size, rest: rest.into_bytes() }
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn sign(&self, number: usize) -> Tag {
        let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).expect("any length is a key");
        mac.update(begin(number).as_bytes());
        mac.update(&self.rest);
        mac.finalize().into_bytes().into()
    }

    /// Writes the head of the request and the beginning of its body; [`rest`](Self::rest) is the
    /// remainder.
    pub fn begin(&self, number: usize, tag: &Tag, kind: Kind, request: &mut Vec<u8>) {
        let mut tag = *tag;
        tag[0] ^= u8::from(kind == Kind::BadSignature);
        let mut signature = [0; 64];
        hex::encode_to_slice(tag, &mut signature).expect("twice as long");
        request.clear();
        request.extend_from_slice(b"POST ");
        request.extend_from_slice(if kind == Kind::UnknownPath { UNKNOWN_PATH } else { PATH }.as_bytes());
        request.extend_from_slice(b" HTTP/1.1\r\nHost: hooks.example.com\r\nUser-Agent: VPN-Enterprise/1.0\r\n");
        request.extend_from_slice(b"Content-Type: application/json\r\n");
        if kind != Kind::NoSignature {
            request.extend_from_slice(b"X-VPN-Signature: sha256=");
            request.extend_from_slice(&signature);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.size).as_bytes());
        request.extend_from_slice(begin(number).as_bytes());
    }

    pub fn rest(&self) -> &[u8] {
        &self.rest
    }
}

fn begin(number: usize) -> String {
    format!("{OPENING}{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_json_of_exactly_its_size() {
        for size in [256, 1 << 10, 1 << 20] {
            let body = [begin(7).as_bytes(), Events::new(size).rest()].concat();
            assert_eq!(body.len(), size);
            let event: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
            assert_eq!(event["id"], "evt_0000000000000007");
        }
    }
}
