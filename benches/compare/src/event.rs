//! The events of the load: their content, their signatures, and the requests that carry them.

use std::fmt::Write;

use bytes::Bytes;
use clap::ValueEnum;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request};
use sha2::Sha256;

/// The secret with which all peers verify.
pub const SECRET: &str = "whsec_4f1c8a70d2b94f0e8b6a53c7d91e2f60";
/// The path on which all peers accept events.
pub const PATH: &str = "/webhooks/vpn-enterprise";

/// The host that all events are sent to.
pub const HOST: &str = "hooks.example.com";

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

impl Kind {
    fn path(self) -> &'static str {
        if self == Self::UnknownPath { UNKNOWN_PATH } else { PATH }
    }

    /// Returns the value of the signature's header, if there is one.
    fn signature(self, tag: &Tag) -> Option<[u8; SIGNATURE.len() + 64]> {
        let mut tag = *tag;
        tag[0] ^= u8::from(self == Self::BadSignature);
        let mut signature = [0; SIGNATURE.len() + 64];
        signature[..SIGNATURE.len()].copy_from_slice(SIGNATURE);
        hex::encode_to_slice(tag, &mut signature[SIGNATURE.len()..]).expect("twice as long");
        (self != Self::NoSignature).then_some(signature)
    }
}

const SIGNATURE: &[u8] = b"sha256=";
const USER_AGENT: &str = "VPN-Enterprise/1.0";

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
        request.clear();
        request.extend_from_slice(b"POST ");
        request.extend_from_slice(kind.path().as_bytes());
        request.extend_from_slice(
            format!(" HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: {USER_AGENT}\r\nContent-Type: application/json\r\n")
                .as_bytes(),
        );
        if let Some(signature) = kind.signature(tag) {
            request.extend_from_slice(b"X-VPN-Signature: ");
            request.extend_from_slice(&signature);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", self.size).as_bytes());
        request.extend_from_slice(begin(number).as_bytes());
    }

    /// Returns the same request for HTTP/2, and its whole body.
    pub fn request(&self, number: usize, tag: &Tag, kind: Kind) -> (Request<()>, Bytes) {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("https://{HOST}{}", kind.path()))
            .header("user-agent", USER_AGENT)
            .header("content-type", "application/json")
            .header("content-length", self.size);
        if let Some(signature) = kind.signature(tag) {
            request = request.header("x-vpn-signature", signature.as_slice());
        }
        let body = [begin(number).as_bytes(), &self.rest].concat();
        (request.body(()).expect("all parts are valid"), body.into())
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
