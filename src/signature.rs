//! Signature verification: turns a request's headers and its body, chunk by chunk, into
//! [`Verified`].
//!
//! A scheme is data ([`Scheme`]); a provider preset and a user's own `signature:` make the same
//! value. Extracts, hashes and compares signatures. Knows no Pingora, no clock (`now` is an
//! argument) and no socket. Parses a body only if the signature is in it, and then only for the
//! signature.

mod content;
mod digest;
mod header;
mod key;
mod payload;
mod presented;
pub mod presets;
mod scheme;
mod sign;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

pub use content::{Content, ContentError};
pub use digest::PayloadDigest;
pub use header::Header;
pub use key::{Key, KeyError, Signer};
pub use scheme::{
    Algorithm, BodySignature, Encoding, HeaderFields, KeyEncoding, KeyFormat, Scheme,
    SignatureFormat, SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};
pub use sign::{SignError, Signed};

use crate::json::{MemberError, compact, member};
use crate::secret::Secret;
use key::{Mac, Material, Tag};
use payload::Payload;
use presented::{Candidate, Candidates, Presented};

/// One of a route's secrets with the name that the operator gave it.
#[derive(Debug)]
pub struct NamedSecret {
    /// The name in metrics and logs, by which an operator sees when a rotation is complete.
    pub name: Arc<str>,
    pub secret: Secret,
    /// The moment from which the secret verifies nothing.
    pub expires: Option<Timestamp>,
}

/// A [`NamedSecret`] converted to a key of the route's scheme.
#[derive(Debug)]
pub struct NamedKey {
    pub name: Arc<str>,
    pub key: Key,
    pub expires: Option<Timestamp>,
}

impl NamedSecret {
    /// Converts the secret to a key of `scheme`.
    ///
    /// # Errors
    /// [`KeyError`] when the secret does not have the format that `scheme` expects.
    pub fn for_scheme(&self, scheme: &Scheme) -> Result<NamedKey, KeyError> {
        Ok(NamedKey {
            name: Arc::clone(&self.name),
            key: scheme.key(&self.secret)?,
            expires: self.expires,
        })
    }
}

/// A scheme with a route's keys. Each HMAC key is prepared once and cloned for a request.
pub struct Verifier {
    scheme: Scheme,
    keys: Vec<PreparedKey>,
    keeps_sha256: bool,
    /// The signed bytes cover the signed time.
    signs_time: bool,
    /// The signature's tag serves as the body's digest, so no other digest is needed.
    tag_is_digest: bool,
}

struct PreparedKey {
    named: NamedKey,
    fingerprint: u32,
}

impl Verifier {
    /// Prepares the keys. `keep_sha256` makes [`Verified::body_sha256`] available, for routes whose
    /// event ID is not in the signed bytes; it costs about as much as the signature itself.
    pub fn new(scheme: Scheme, keys: Vec<NamedKey>, keep_sha256: bool) -> Self {
        let keys = keys
            .into_iter()
            .map(|named| PreparedKey {
                fingerprint: named.key.fingerprint(),
                named,
            })
            .collect();
        let tag_is_digest = scheme.signs_body_only();
        let signs_time = scheme.signed.has_timestamp();
        Self {
            scheme,
            keys,
            keeps_sha256: keep_sha256,
            signs_time,
            tag_is_digest,
        }
    }

    /// Iterates over the names of the route's secrets in the order of the configuration, expired
    /// ones included.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.secrets().map(|(name, _)| name)
    }

    /// Iterates over the names of the route's secrets, each with its expiry.
    pub fn secrets(&self) -> impl Iterator<Item = (&Arc<str>, Option<Timestamp>)> {
        self.keys
            .iter()
            .map(|key| (&key.named.name, key.named.expires))
    }

    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Returns whether this header holds the signature or something that is signed.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.scheme.reads_header(name)
    }

    /// Starts the verification of a request, before its body arrives. `now` decides which secrets
    /// have expired and which signed times are stale.
    pub fn start(&self, headers: &HeaderMap, now: Timestamp) -> Verification<'_> {
        let presented = Presented::read(&self.scheme, headers);
        let macs = match &presented {
            Ok(Presented {
                candidates: Candidates::InHeader(read),
                before,
                ..
            }) => {
                let wanted = |key: &&PreparedKey| {
                    read.iter()
                        .any(|candidate| candidate.format == key.named.key.format)
                };
                self.active(now)
                    .filter(wanted)
                    .filter_map(|key| Some((key, key.mac_after(before)?)))
                    .collect()
            }
            Ok(Presented {
                candidates: Candidates::InBody(_),
                ..
            })
            | Err(_) => Vec::new(),
        };
        // For a signature in the body, the digest is computed at the end, over what it covers.
        let in_header = matches!(
            &presented,
            Ok(Presented {
                candidates: Candidates::InHeader(_),
                ..
            })
        );
        let sha256 = (self.needs_sha256() && in_header).then(Sha256::new);
        Verification {
            verifier: self,
            presented,
            macs,
            sha256,
            payload: Payload::default(),
            now,
        }
    }

    /// Returns the HMAC of `message` in hex, under the secret that verified `verified`: a proof to
    /// the provider that this endpoint has its secret. Returns `None` if secrets are public keys.
    pub fn hmac_of(&self, verified: &Verified, message: &[u8]) -> Option<String> {
        let key = self
            .keys
            .iter()
            .find(|key| key.named.name == verified.secret)?;
        let tag = key.mac_after(message)?.finalize();
        Some(hex::encode(tag.as_slice()))
    }

    /// Signs a test event's `body` as the sender would, with the first secret that has not expired.
    /// Returns the headers to send, and the body. Returns `None` if secrets are public keys, or all
    /// have expired.
    pub fn sign(
        &self,
        body: &str,
        now: Timestamp,
        id: &str,
    ) -> Option<Result<(Signed, String), SignError>> {
        let key = self.active(now).find_map(|key| key.named.key.signer())?;
        Some(
            match self.scheme.sign_with(&key, body.as_bytes(), now, Some(id)) {
                Err(SignError::NotInHeader) => self
                    .scheme
                    .sign_in_body_with(&key, body)
                    .map(|body| (Signed::default(), body)),
                headers => headers.map(|headers| (headers, body.to_owned())),
            },
        )
    }

    /// Returns whether this header's value is part of the signed content.
    pub fn signs_header(&self, name: &HeaderName) -> bool {
        self.scheme.signs_header(name)
    }

    fn needs_sha256(&self) -> bool {
        self.keeps_sha256 || !self.tag_is_digest
    }

    fn active(&self, now: Timestamp) -> impl Iterator<Item = &PreparedKey> {
        self.keys
            .iter()
            .filter(move |key| key.named.expires.is_none_or(|end| now < end))
    }
}

impl PreparedKey {
    /// Returns the key's MAC with `start` already fed; `None` for keys of other algorithms.
    fn mac_after(&self, start: &[u8]) -> Option<Mac> {
        let Material::Hmac(mac) = &self.named.key.material else {
            return None;
        };
        let mut mac = mac.clone();
        mac.update(start);
        Some(mac)
    }
}

impl Key {
    /// Returns a number that tells keys apart and reveals nothing about them.
    fn fingerprint(&self) -> u32 {
        let mut first = [0; 4];
        match &self.material {
            Material::Hmac(mac) => {
                let mut mac = mac.clone();
                mac.update(b"hookstile payload digest");
                first.copy_from_slice(&mac.finalize().as_slice()[..4]);
            }
            Material::Ed25519(public) => first.copy_from_slice(&public[..4]),
        }
        u32::from_be_bytes(first)
    }
}

/// The most signatures of one request that a public key is tried on: each takes a pass over the whole
/// body, which anyone can send. A rotation needs two.
const PUBLIC_KEY_CANDIDATES_MAX: usize = 4;

/// A verification in progress. Takes the body chunk by chunk, hashes and keeps it.
///
/// The body is kept here so that [`Verified`] holds exactly the bytes that were hashed.
pub struct Verification<'a> {
    verifier: &'a Verifier,
    presented: Result<Presented<'a>, SignatureError>,
    macs: Vec<(&'a PreparedKey, Mac)>,
    sha256: Option<Sha256>,
    payload: Payload,
    now: Timestamp,
}

impl Verification<'_> {
    /// Takes the next chunk of the body, exactly as received.
    pub fn update(&mut self, chunk: Bytes) {
        self.hash(&chunk);
        self.payload.push(chunk);
    }

    /// Returns an empty buffer behind the body so far, for some of the `bytes` that are still to
    /// come: what is read into it and given to [`Verification::append`] is not copied.
    pub fn room(&mut self, bytes: usize) -> BytesMut {
        self.payload.room(bytes)
    }

    /// Takes the next chunk of the body, which was read into the last [`Verification::room`].
    pub fn append(&mut self, chunk: BytesMut) {
        self.hash(&chunk);
        self.payload.append(chunk);
    }

    fn hash(&mut self, chunk: &[u8]) {
        for (_, mac) in &mut self.macs {
            mac.update(chunk);
        }
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(chunk);
        }
    }

    /// Returns the reason why this request cannot verify, whatever its body is; `None` if that
    /// depends on the body.
    pub fn failure(&self) -> Option<SignatureError> {
        self.presented.as_ref().err().copied()
    }

    /// Returns the names of the secrets whose signatures are compared with those of the request:
    /// the active ones of a format that it uses. Returns `None` if there are none.
    pub fn secrets_tried(&self) -> Option<Box<str>> {
        let presented = self.presented.as_ref().ok()?;
        let is_tried = |key: &&PreparedKey| match &presented.candidates {
            Candidates::InHeader(read) => read
                .iter()
                .any(|candidate| candidate.format == key.named.key.format),
            Candidates::InBody(_) => true,
        };
        let names: Vec<&str> = self
            .verifier
            .active(self.now)
            .filter(is_tried)
            .map(|key| &*key.named.name)
            .collect();
        (!names.is_empty()).then(|| names.join(", ").into())
    }

    /// Returns the number of bytes that were hashed so far: of the body, once for each hash of it.
    pub fn hashed_bytes(&self) -> usize {
        self.body_bytes() * (self.macs.len() + usize::from(self.sha256.is_some()))
    }

    /// Returns the number of body bytes so far.
    pub fn body_bytes(&self) -> usize {
        self.payload.len()
    }

    /// Compares the request's signatures with those of every active secret: all of them, at whole
    /// length, in constant time.
    ///
    /// # Errors
    /// The reason why the request is not authentic. The response to the sender must not depend on
    /// it.
    pub fn finish(self) -> Result<Verified, SignatureError> {
        self.check().map_err(|unverified| unverified.failure)
    }

    /// Ends the verification like [`Verification::finish`], but returns the body of a request that
    /// is not authentic as well, so that it can be captured or explained.
    ///
    /// # Errors
    /// The reason, with the body. Nothing may be delivered from it.
    pub fn finish_or_body(self) -> Result<Verified, (SignatureError, Bytes)> {
        self.check()
            .map_err(|unverified| (unverified.failure, unverified.body))
    }

    /// Ends the verification like [`Verification::finish`], but returns a body that is not
    /// authentic as well, so that it can be forwarded with a mark.
    ///
    /// # Errors
    /// The unverified body with the reason.
    pub fn finish_unenforced(self, _: &Unenforced) -> Result<Verified, Unverified> {
        self.check()
    }

    fn check(self) -> Result<Verified, Unverified> {
        let Self {
            verifier,
            presented,
            macs,
            sha256,
            payload,
            now,
        } = self;
        let body = payload.into_bytes();
        let mut sha256 = sha256.map(Sha256::finalize);
        let matched = presented.and_then(|presented| {
            let matched = match &presented.candidates {
                Candidates::InHeader(candidates) => {
                    verifier.find_key(&presented, candidates, macs, &body, now)
                }
                Candidates::InBody(in_body) => {
                    let (candidate, signed) = verifier.cut_signature(in_body, &body)?;
                    sha256 = verifier.needs_sha256().then(|| Sha256::digest(&signed));
                    verifier.find_key_in_body(&presented, candidate, &signed, now)
                }
            };
            let matched = matched.ok_or(SignatureError::Mismatch)?;
            match (&verifier.scheme.time, presented.time) {
                (Some(spec), Some(time)) if !spec.is_fresh(time, now) => Err(SignatureError::Stale),
                _ => Ok((matched, presented.time.filter(|_| verifier.signs_time))),
            }
        });
        let ((key, tag), signed_at) = match matched {
            Ok(matched) => matched,
            Err(failure) => return Err(Unverified { body, failure }),
        };
        let sha256: Option<[u8; 32]> = sha256.map(Into::into);
        let digest = match &sha256 {
            Some(sha256) => PayloadDigest::from_body(sha256),
            None => PayloadDigest::from_tag(key.fingerprint, tag.as_slice()),
        };
        let body_sha256 = sha256.filter(|_| verifier.keeps_sha256);
        Ok(Verified {
            body,
            secret: Arc::clone(&key.named.name),
            digest,
            body_sha256,
            signed_at,
        })
    }
}

impl Verifier {
    /// Finds the key that made one of `candidates`. `macs` were fed everything up to the end of the
    /// body.
    fn find_key<'k>(
        &'k self,
        presented: &Presented<'_>,
        candidates: &[Candidate],
        macs: Vec<(&'k PreparedKey, Mac)>,
        body: &[u8],
        now: Timestamp,
    ) -> Option<(&'k PreparedKey, Tag)> {
        let tags_in = |format| {
            candidates
                .iter()
                .filter(move |candidate| candidate.format == format)
                .map(|candidate| &candidate.tag)
        };
        let mut matched = None;
        for (key, mut mac) in macs {
            mac.update(&presented.after);
            let found = mac.find_in(tags_in(key.named.key.format));
            matched = matched.or(found.map(|tag| (key, tag)));
        }
        let mut message = None;
        for key in self.active(now) {
            let Material::Ed25519(public) = &key.named.key.material else {
                continue;
            };
            for tag in tags_in(key.named.key.format).take(PUBLIC_KEY_CANDIDATES_MAX) {
                let message = message
                    .get_or_insert_with(|| [&presented.before, body, &presented.after].concat());
                if matched.is_none() && tag.verifies(public, message) {
                    matched = Some((key, *tag));
                }
            }
        }
        matched
    }

    /// Returns the signature in the body, and the body without it.
    fn cut_signature(
        &self,
        in_body: &BodySignature,
        body: &[u8],
    ) -> Result<(Candidate, String), SignatureError> {
        let text = simdutf8::basic::from_utf8(body).map_err(|_| SignatureError::Malformed)?;
        let member = member(text, &in_body.pointer).map_err(|error| match error {
            MemberError::Missing => SignatureError::Missing,
            MemberError::Malformed => SignatureError::Malformed,
        })?;
        let candidate = self.scheme.parse_one(member.value)?;
        let mut signed = [&text[..member.cut.start], &text[member.cut.end..]].concat();
        if in_body.compact {
            signed = compact(&signed);
        }
        Ok((candidate, signed))
    }

    /// Finds the key like [`Verifier::find_key`], for a signature from the body.
    fn find_key_in_body(
        &self,
        presented: &Presented<'_>,
        candidate: Candidate,
        signed: &str,
        now: Timestamp,
    ) -> Option<(&PreparedKey, Tag)> {
        let start = |key: &PreparedKey| {
            let mut mac = key.mac_after(&presented.before)?;
            mac.update(signed.as_bytes());
            Some(mac)
        };
        let keys = self
            .active(now)
            .filter(|key| key.named.key.format == candidate.format);
        let macs = keys.filter_map(|key| Some((key, start(key)?))).collect();
        self.find_key(presented, &[candidate], macs, signed.as_bytes(), now)
    }
}

/// The permission to forward an unverified body. Only `enforce: false` gives it.
#[derive(Debug, Clone, Copy)]
pub struct Unenforced(());

impl Unenforced {
    /// Makes the permission. The operator has configured it, and was warned.
    pub const fn configured() -> Self {
        Self(())
    }
}

/// A body that did not verify, on a route with `enforce: false`.
#[derive(Debug)]
pub struct Unverified {
    body: Bytes,
    failure: SignatureError,
}

impl Unverified {
    /// Returns the body, byte for byte as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the reason why it did not verify.
    pub fn failure(&self) -> SignatureError {
        self.failure
    }
}

/// A body with a valid signature. Only a [`Verification`] makes one.
#[derive(Debug)]
pub struct Verified {
    body: Bytes,
    secret: Arc<str>,
    digest: PayloadDigest,
    body_sha256: Option<[u8; 32]>,
    signed_at: Option<Timestamp>,
}

impl Verified {
    /// Returns the body, byte for byte as received and hashed.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Returns the name of the secret that matched.
    pub fn secret(&self) -> &Arc<str> {
        &self.secret
    }

    /// Returns the digest that tells two bodies of one event apart.
    pub fn digest(&self) -> PayloadDigest {
        self.digest
    }

    /// Returns the time of the request, if the signature covers it. A replay cannot change it.
    pub fn signed_at(&self) -> Option<Timestamp> {
        self.signed_at
    }

    /// Returns the SHA-256 of the part of the body that the signature covers, if the route's
    /// [`Verifier`] keeps it. A replay cannot change it by editing a signature in the body.
    pub fn body_sha256(&self) -> Option<&[u8; 32]> {
        self.body_sha256.as_ref()
    }
}

/// A reason why a request is not authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureError {
    /// The signature, or another signed header, is missing.
    Missing,
    /// The signature is repeated or has the wrong length or alphabet, or the signed time is
    /// malformed.
    Malformed,
    /// The signature is well formed, but no active secret produces it.
    Mismatch,
    /// The signature is valid, but its signed time is further from now than the scheme allows.
    Stale,
}

impl SignatureError {
    /// Returns the label for metrics and logs, of a closed set.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Mismatch => "mismatch",
            Self::Stale => "stale",
        }
    }
}

#[cfg(test)]
mod tests;
