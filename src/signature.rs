//! Signature schemes: from a request's head and the body bytes as they arrive to [`Verified`].
//!
//! A scheme is data ([`Scheme`]); a provider preset and a user's own `signature:` make the same value. Owns
//! extraction, hashing and comparison. Knows no Pingora, no clock (`now` is an argument) and no socket, and never
//! parses the body.

mod payload;
pub mod presets;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::digest::CtOutput;
use hmac::{Hmac, KeyInit, Mac};
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use crate::secret::Secret;
use payload::Payload;

type HmacSha256 = Hmac<Sha256>;

/// Bytes of an HMAC-SHA256 tag. A shorter, truncated tag is never accepted (RFC 2104 §5 would allow it).
const TAG_BYTES: usize = 32;

/// How a provider signs: which header, in which text form, over which bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// The header that carries the signature, exactly once.
    pub header: HeaderName,
    /// The text form of the tag.
    pub encoding: Encoding,
    /// Stripped from the header's value when it stands there; its absence is no error.
    pub prefix: Box<str>,
}

/// The text form of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Two digits a byte, in either case.
    Hex,
    /// Standard alphabet with padding (RFC 4648 §4).
    Base64,
}

impl Scheme {
    /// The header value a sender puts beside `body`.
    pub fn sign(&self, secret: &Secret, body: &[u8]) -> String {
        let tag = keyed(secret).chain_update(body).finalize().into_bytes();
        let text = match self.encoding {
            Encoding::Hex => hex::encode(tag),
            Encoding::Base64 => BASE64.encode(tag),
        };
        format!("{}{text}", self.prefix)
    }

    /// The tag in `headers`, if there is exactly one and it is well formed.
    fn candidate(&self, headers: &HeaderMap) -> Result<[u8; TAG_BYTES], Failure> {
        let mut values = headers.get_all(&self.header).iter();
        let value = values.next().ok_or(Failure::Missing)?;
        if values.next().is_some() {
            return Err(Failure::Malformed);
        }
        let text = value.as_bytes();
        let text = text.strip_prefix(self.prefix.as_bytes()).unwrap_or(text);
        if text.is_empty() {
            return Err(Failure::Missing);
        }
        let mut tag = [0; TAG_BYTES];
        match self.encoding {
            Encoding::Hex => {
                hex::decode_to_slice(text, &mut tag).map_err(|_| Failure::Malformed)?;
            }
            Encoding::Base64 => {
                let bytes = BASE64.decode(text).map_err(|_| Failure::Malformed)?;
                tag = bytes.try_into().map_err(|_| Failure::Malformed)?;
            }
        }
        Ok(tag)
    }
}

/// One of a route's secrets, as an operator names it.
#[derive(Debug)]
pub struct NamedSecret {
    /// Shown in metrics and logs, so that a rotation can be finished.
    pub name: Arc<str>,
    pub secret: Secret,
    /// From this moment on the secret no longer verifies anything.
    pub expires: Option<Timestamp>,
}

/// A scheme with a route's keys, prepared once and cloned per request.
pub struct Verifier {
    scheme: Scheme,
    keys: Vec<Key>,
    hashes_body: bool,
}

struct Key {
    name: Arc<str>,
    expires: Option<Timestamp>,
    mac: HmacSha256,
    fingerprint: u32,
}

impl Verifier {
    /// `hash_body` makes [`Verified::body_sha256`] available, for routes whose event ID is not in the signed bytes;
    /// it costs about as much as the signature itself.
    pub fn new(scheme: Scheme, secrets: Vec<NamedSecret>, hash_body: bool) -> Self {
        let keys = secrets.into_iter().map(Key::prepare).collect();
        Self { scheme, keys, hashes_body: hash_body }
    }

    /// The names of all the route's secrets, in the order of the configuration, expired ones included.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.keys.iter().map(|key| &key.name)
    }

    /// Whether the signature stands in this header.
    pub fn reads(&self, name: &HeaderName) -> bool {
        self.scheme.header == *name
    }

    /// Starts on a request, before its body arrives. `now` decides which secrets have expired.
    pub fn begin(&self, headers: &HeaderMap, now: Timestamp) -> Verification<'_> {
        let candidate = self.scheme.candidate(headers);
        let active = |key: &&Key| key.expires.is_none_or(|end| now < end);
        let macs = match candidate {
            Ok(_) => self.keys.iter().filter(active).map(|key| (key, key.mac.clone())).collect(),
            Err(_) => Vec::new(),
        };
        Verification { candidate, macs, sha256: self.hashes_body.then(Sha256::new), payload: Payload::default() }
    }
}

impl Key {
    fn prepare(named: NamedSecret) -> Self {
        let mac = keyed(&named.secret);
        let label = mac.clone().chain_update(b"hookgate payload digest").finalize().into_bytes();
        Self {
            name: named.name,
            expires: named.expires,
            mac,
            fingerprint: u32::from_be_bytes([label[0], label[1], label[2], label[3]]),
        }
    }
}

fn keyed(secret: &Secret) -> HmacSha256 {
    HmacSha256::new_from_slice(secret.expose()).expect("HMAC takes a key of any length")
}

/// A verification in progress: takes the body chunk by chunk, keeps it, and hashes it on the way.
///
/// The body is kept here so that what [`Verified`] holds is what was hashed.
pub struct Verification<'a> {
    candidate: Result<[u8; TAG_BYTES], Failure>,
    macs: Vec<(&'a Key, HmacSha256)>,
    sha256: Option<Sha256>,
    payload: Payload,
}

impl Verification<'_> {
    /// Takes the next chunk of the body, exactly as received.
    pub fn update(&mut self, chunk: Bytes) {
        for (_, mac) in &mut self.macs {
            mac.update(&chunk);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(&chunk);
        }
        self.payload.push(chunk);
    }

    /// Body bytes taken so far.
    pub fn body_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Compares the signature with every active secret's tag: all of them, whole length, in constant time.
    ///
    /// # Errors
    /// Why the request is not authentic. The answer to the sender must not depend on which.
    pub fn finish(self) -> Result<Verified, Failure> {
        let candidate = CtOutput::<HmacSha256>::new(self.candidate?.into());
        let mut matched = None;
        for (key, mac) in self.macs {
            if mac.finalize() == candidate && matched.is_none() {
                matched = Some(key);
            }
        }
        let key = matched.ok_or(Failure::Mismatch)?;
        let tag: [u8; TAG_BYTES] = candidate.into_bytes().into();
        let body_sha256 = self.sha256.map(|hash| hash.finalize().into());
        let digest = match &body_sha256 {
            Some(sha256) => PayloadDigest::of_body(sha256),
            None => PayloadDigest::of_tag(key.fingerprint, &tag),
        };
        Ok(Verified { body: self.payload.into_bytes(), secret: Arc::clone(&key.name), digest, body_sha256 })
    }
}

/// A body whose signature was checked. Only [`Verification::finish`] makes one.
#[derive(Debug)]
pub struct Verified {
    body: Bytes,
    secret: Arc<str>,
    digest: PayloadDigest,
    body_sha256: Option<[u8; 32]>,
}

impl Verified {
    /// The body, byte for byte as received and hashed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The name of the secret that matched.
    pub fn secret(&self) -> &Arc<str> {
        &self.secret
    }

    /// Tells two bodies of one event apart.
    pub fn digest(&self) -> PayloadDigest {
        self.digest
    }

    /// SHA-256 of the body, when the route's [`Verifier`] was asked for it.
    pub fn body_sha256(&self) -> Option<&[u8; 32]> {
        self.body_sha256.as_ref()
    }
}

/// Why a request is not authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No signature.
    Missing,
    /// A signature that can't be one: given twice, wrong length, not of the alphabet.
    Malformed,
    /// Well formed, and no active secret makes it.
    Mismatch,
}

impl Failure {
    /// The closed set of labels in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Mismatch => "mismatch",
        }
    }
}

/// A 96-bit digest of a verified body that costs nothing: the signature is one already.
///
/// A tag depends on the secret too, so digests are only comparable under one key. Two that are not comparable don't
/// contradict each other: a retry that was signed anew during a rotation is not called another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadDigest {
    keyed_by: u32,
    bits: [u8; 12],
}

impl PayloadDigest {
    fn of_tag(fingerprint: u32, tag: &[u8; TAG_BYTES]) -> Self {
        Self { keyed_by: fingerprint, bits: first_12(tag) }
    }

    fn of_body(sha256: &[u8; 32]) -> Self {
        Self { keyed_by: 0, bits: first_12(sha256) }
    }

    /// The digest of a body that is not known: it contradicts none, but for a chance of one in four billion.
    pub fn unknown() -> Self {
        Self { keyed_by: u32::MAX, bits: [0; 12] }
    }

    /// For keeping it.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.keyed_by.to_be_bytes());
        bytes[4..].copy_from_slice(&self.bits);
        bytes
    }

    /// What [`PayloadDigest::to_bytes`] made.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (keyed_by, mut bits) = (u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), [0; 12]);
        bits.copy_from_slice(&bytes[4..]);
        Self { keyed_by, bits }
    }

    /// Whether the two are certainly digests of different bodies.
    pub fn contradicts(self, other: Self) -> bool {
        self.keyed_by == other.keyed_by && self.bits != other.bits
    }
}

fn first_12(bytes: &[u8; 32]) -> [u8; 12] {
    let mut first = [0; 12];
    first.copy_from_slice(&bytes[..12]);
    first
}

#[cfg(test)]
mod tests;
