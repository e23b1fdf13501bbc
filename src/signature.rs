//! Signature schemes: from a request's head and the body bytes as they arrive to [`Verified`].
//!
//! A scheme is data ([`Scheme`]); a provider preset and a user's own `signature:` make the same value. Owns
//! extraction, hashing and comparison. Knows no Pingora, no clock (`now` is an argument) and no socket. A body is parsed
//! only where the signature stands in it, and then for that alone.

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

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

pub use content::{Content, ContentError};
pub use digest::PayloadDigest;
pub use header::Header;
pub use key::{Key, KeyError, Signer};
pub use scheme::{
    Algorithm, Encoding, HeaderFields, InBody, KeyEncoding, KeyForm, Scheme, SignatureFormat,
    SignatureLocation, SignedTime, TimeUnit, TimestampLocation,
};
pub use sign::{SignError, Signed};

use crate::json::{MemberError, compact, member};
use crate::secret::Secret;
use key::{Mac, Material, Tag};
use payload::Payload;
use presented::{Candidate, Candidates, Presented};

/// One of a route's secrets, as an operator names it.
#[derive(Debug)]
pub struct NamedSecret {
    /// Shown in metrics and logs, so that a rotation can be finished.
    pub name: Arc<str>,
    pub secret: Secret,
    /// From this moment on the secret no longer verifies anything.
    pub expires: Option<Timestamp>,
}

/// A [`NamedSecret`] that is a key for its route's scheme.
#[derive(Debug)]
pub struct NamedKey {
    pub name: Arc<str>,
    pub key: Key,
    pub expires: Option<Timestamp>,
}

impl NamedSecret {
    /// # Errors
    /// When the secret is not written as `scheme` says.
    pub fn for_scheme(&self, scheme: &Scheme) -> Result<NamedKey, KeyError> {
        Ok(NamedKey {
            name: Arc::clone(&self.name),
            key: scheme.key(&self.secret)?,
            expires: self.expires,
        })
    }
}

/// A scheme with a route's keys, prepared once and cloned per request.
pub struct Verifier {
    scheme: Scheme,
    keys: Vec<Prepared>,
    tells_sha256: bool,
    /// The signature's tag is a digest of the body, so that no other is needed.
    tag_is_digest: bool,
}

struct Prepared {
    named: NamedKey,
    fingerprint: u32,
}

impl Verifier {
    /// `tell_sha256` makes [`Verified::body_sha256`] available, for routes whose event ID is not in the signed bytes;
    /// it costs about as much as the signature itself.
    pub fn new(scheme: Scheme, keys: Vec<NamedKey>, tell_sha256: bool) -> Self {
        let keys = keys
            .into_iter()
            .map(|named| Prepared {
                fingerprint: named.key.fingerprint(),
                named,
            })
            .collect();
        let tag_is_digest = scheme.signs_the_body_alone();
        Self {
            scheme,
            keys,
            tells_sha256: tell_sha256,
            tag_is_digest,
        }
    }

    /// The names of all the route's secrets, in the order of the configuration, expired ones included.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.secrets().map(|(name, _)| name)
    }

    /// The same with the moment from which each verifies nothing any more.
    pub fn secrets(&self) -> impl Iterator<Item = (&Arc<str>, Option<Timestamp>)> {
        self.keys
            .iter()
            .map(|key| (&key.named.name, key.named.expires))
    }

    /// Whether anything that is signed, or the signature itself, stands in this header.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.scheme.reads_header(name)
    }

    /// Starts on a request, before its body arrives. `now` decides which secrets have expired, and what is stale.
    pub fn start(&self, headers: &HeaderMap, now: Timestamp) -> Verification<'_> {
        let presented = Presented::read(&self.scheme, headers);
        let macs = match &presented {
            Ok(Presented {
                candidates: Candidates::Read(read),
                before,
                ..
            }) => {
                let wanted = |key: &&Prepared| {
                    read.iter()
                        .any(|candidate| candidate.kind == key.named.key.kind)
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
        // Of a signature in the body the digest is taken at the end, of what it covers.
        let in_header = matches!(
            &presented,
            Ok(Presented {
                candidates: Candidates::Read(_),
                ..
            })
        );
        let sha256 = (self.hashes() && in_header).then(Sha256::new);
        Verification {
            verifier: self,
            presented,
            macs,
            sha256,
            payload: Payload::default(),
            now,
        }
    }

    /// What the owner of the secret that `verified` was signed with would make of `message`, in hex: a proof to the
    /// provider that this endpoint has its secret. `None` where secrets are public keys.
    pub fn hmac_of(&self, verified: &Verified, message: &[u8]) -> Option<String> {
        let key = self
            .keys
            .iter()
            .find(|key| key.named.name == verified.secret)?;
        let tag = key.mac_after(message)?.finalize();
        Some(hex::encode(tag.as_slice()))
    }

    /// Signs `body` as the sender would, with the first secret that has not expired: the headers to send, and the body.
    /// For test events. `None` where that can't be done: secrets are public keys, or all have expired.
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

    /// Whether this header's value is part of what is signed.
    pub fn signs_header(&self, name: &HeaderName) -> bool {
        self.scheme.signs_header(name)
    }

    fn hashes(&self) -> bool {
        self.tells_sha256 || !self.tag_is_digest
    }

    fn active(&self, now: Timestamp) -> impl Iterator<Item = &Prepared> {
        self.keys
            .iter()
            .filter(move |key| key.named.expires.is_none_or(|end| now < end))
    }
}

impl Prepared {
    /// The key's MAC of what begins with `start`; `None` for keys of other algorithms.
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
    /// Tells keys apart, and nothing about them.
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

/// A verification in progress: takes the body chunk by chunk, keeps it, and hashes it on the way.
///
/// The body is kept here so that what [`Verified`] holds is what was hashed.
pub struct Verification<'a> {
    verifier: &'a Verifier,
    presented: Result<Presented<'a>, SignatureError>,
    macs: Vec<(&'a Prepared, Mac)>,
    sha256: Option<Sha256>,
    payload: Payload,
    now: Timestamp,
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

    /// Compares the signatures with what every active secret makes: all of them, whole length, in constant time.
    ///
    /// # Errors
    /// Why the request is not authentic. The answer to the sender must not depend on which.
    pub fn finish(self) -> Result<Verified, SignatureError> {
        self.check().map_err(|unverified| unverified.failure)
    }

    /// As [`Verification::finish`], but what is not authentic is given back, to be passed on as such.
    ///
    /// # Errors
    /// What is not authentic, and why.
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
                Candidates::Read(candidates) => {
                    verifier.find_key(&presented, candidates, macs, &body, now)
                }
                Candidates::InBody(in_body) => {
                    let (candidate, signed) = verifier.cut_out(in_body, &body)?;
                    sha256 = verifier.hashes().then(|| Sha256::digest(&signed));
                    verifier.find_key_in_body(&presented, candidate, &signed, now)
                }
            };
            let matched = matched.ok_or(SignatureError::Mismatch)?;
            match (&verifier.scheme.time, presented.time) {
                (Some(spec), Some(time)) if !spec.is_fresh(time, now) => Err(SignatureError::Stale),
                _ => Ok(matched),
            }
        });
        let (key, tag) = match matched {
            Ok(matched) => matched,
            Err(failure) => return Err(Unverified { body, failure }),
        };
        let sha256: Option<[u8; 32]> = sha256.map(Into::into);
        let digest = match &sha256 {
            Some(sha256) => PayloadDigest::of_body(sha256),
            None => PayloadDigest::of_tag(key.fingerprint, tag.as_slice()),
        };
        let body_sha256 = sha256.filter(|_| verifier.tells_sha256);
        Ok(Verified {
            body,
            secret: Arc::clone(&key.named.name),
            digest,
            body_sha256,
        })
    }
}

impl Verifier {
    /// The key that one of `candidates` was made with. `macs` have taken all but what is signed behind the body.
    fn find_key<'k>(
        &'k self,
        presented: &Presented<'_>,
        candidates: &[Candidate],
        macs: Vec<(&'k Prepared, Mac)>,
        body: &[u8],
        now: Timestamp,
    ) -> Option<(&'k Prepared, Tag)> {
        let of_kind = |kind| {
            candidates
                .iter()
                .filter(move |candidate| candidate.kind == kind)
                .map(|found| &found.tag)
        };
        let mut matched = None;
        for (key, mut mac) in macs {
            mac.update(&presented.behind);
            let found = mac.find_in(of_kind(key.named.key.kind));
            matched = matched.or(found.map(|tag| (key, tag)));
        }
        let mut message = None;
        for key in self.active(now) {
            let Material::Ed25519(public) = &key.named.key.material else {
                continue;
            };
            for tag in of_kind(key.named.key.kind) {
                let message = message
                    .get_or_insert_with(|| [&presented.before, body, &presented.behind].concat());
                if matched.is_none() && tag.verifies(public, message) {
                    matched = Some((key, *tag));
                }
            }
        }
        matched
    }

    /// The signature that stands in the body, and what is left of the body without it.
    fn cut_out(
        &self,
        in_body: &InBody,
        body: &[u8],
    ) -> Result<(Candidate, String), SignatureError> {
        let text = simdutf8::basic::from_utf8(body).map_err(|_| SignatureError::Malformed)?;
        let member = member(text, &in_body.pointer).map_err(|error| match error {
            MemberError::Missing => SignatureError::Missing,
            MemberError::Malformed => SignatureError::Malformed,
        })?;
        let candidate = self.scheme.whole(member.value)?;
        let mut signed = [&text[..member.cut.start], &text[member.cut.end..]].concat();
        if in_body.compact {
            signed = compact(&signed);
        }
        Ok((candidate, signed))
    }

    /// As [`Verifier::find_key`], for a signature that stood in the body.
    fn find_key_in_body(
        &self,
        presented: &Presented<'_>,
        candidate: Candidate,
        signed: &str,
        now: Timestamp,
    ) -> Option<(&Prepared, Tag)> {
        let start = |key: &Prepared| {
            let mut mac = key.mac_after(&presented.before)?;
            mac.update(signed.as_bytes());
            Some(mac)
        };
        let keys = self
            .active(now)
            .filter(|key| key.named.key.kind == candidate.kind);
        let macs = keys.filter_map(|key| Some((key, start(key)?))).collect();
        self.find_key(presented, &[candidate], macs, signed.as_bytes(), now)
    }
}

/// The permission to pass on what did not verify. `enforce: false` gives it, and nothing else.
#[derive(Debug, Clone, Copy)]
pub struct Unenforced(());

impl Unenforced {
    /// An operator has said so, and was warned.
    pub const fn new() -> Self {
        Self(())
    }
}

/// A body that did not verify, on a route that passes such on.
#[derive(Debug)]
pub struct Unverified {
    body: Bytes,
    failure: SignatureError,
}

impl Unverified {
    /// The body, byte for byte as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Why it did not verify.
    pub fn failure(&self) -> SignatureError {
        self.failure
    }
}

/// A body whose signature was checked. Only a [`Verification`] makes one.
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

    /// SHA-256 of what the signature covers of the body, when the route's [`Verifier`] was asked for it: whoever replays
    /// a body whose signature stands in it can't make it another one.
    pub fn body_sha256(&self) -> Option<&[u8; 32]> {
        self.body_sha256.as_ref()
    }
}

/// Why a request is not authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureError {
    /// No signature, or nothing where the scheme has something signed.
    Missing,
    /// A signature that can't be one: given twice, wrong length, not of the alphabet. Or a time that is none.
    Malformed,
    /// Well formed, and no active secret makes it.
    Mismatch,
    /// Genuine, and its signed time is further from now than the scheme allows.
    Stale,
}

impl SignatureError {
    /// The closed set of labels in metrics and logs.
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
