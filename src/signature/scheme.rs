//! How a provider signs, as data: a preset and a user's own `signature:` make the same value.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::header::Header;
use crate::json::Pointer;

/// How a provider signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// Where the signature may stand. The first that a request has is the one that counts.
    pub places: Vec<SignatureLocation>,
    /// The signatures that the provider makes: one, but for those that sign with public keys too. A secret says by its
    /// own prefix which it is for ([`KeyForm::prefix`]); if it does not, it is for the first.
    pub kinds: Vec<SignatureFormat>,
    /// Over which bytes.
    pub signed: Content,
    /// The signed time.
    pub time: Option<SignedTime>,
}

/// Where a signature stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureLocation {
    /// It is the header's value, but for [`Kind::prefix`]. The header must be there once.
    Header(Header),
    /// It is one of a header's fields, as in `t=1700000000,v1=5257…`. The header must be there once.
    Fields(HeaderFields),
    /// It is a member of the JSON body, which is cut out, byte for byte, before the body is hashed.
    Body(InBody),
}

/// A header with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFields {
    pub header: Header,
    /// Between fields.
    pub separator: char,
    /// Between a field's name and its value.
    pub assign: char,
}

/// A signature in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InBody {
    /// The member, a string without escapes.
    pub pointer: Pointer,
    /// The sender hashed compact JSON: what is left of the body is hashed without the white space between its tokens.
    pub compact: bool,
}

/// One kind of signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureFormat {
    pub algorithm: Algorithm,
    /// The text forms that are taken; the first is the one to write. Their lengths tell them apart.
    pub encodings: Vec<Encoding>,
    /// Its name in a header with [`Fields`]; of no meaning elsewhere.
    pub field: Box<str>,
    /// Stripped from the signature where it stands there; its absence is no error.
    pub prefix: Box<str>,
    pub key: KeyForm,
}

/// The algorithm of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Algorithm {
    /// HMAC (RFC 2104) with SHA-256.
    #[serde(rename = "hmac-sha256")]
    HmacSha256,
    /// HMAC with SHA-1. Not broken as a MAC; for providers that offer nothing else.
    #[serde(rename = "hmac-sha1")]
    HmacSha1,
    /// HMAC with SHA-512.
    #[serde(rename = "hmac-sha512")]
    HmacSha512,
    /// Ed25519 (RFC 8032) without prehashing. The secrets are public keys of 32 bytes.
    #[serde(rename = "ed25519")]
    Ed25519,
}

impl Algorithm {
    /// Bytes of a signature. A truncated one is never accepted (RFC 2104 §5 would allow it).
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha512 | Self::Ed25519 => 64,
        }
    }

    /// As the configuration writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac-sha1",
            Self::HmacSha256 => "hmac-sha256",
            Self::HmacSha512 => "hmac-sha512",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// The text form of a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Encoding {
    /// Two digits per byte, in upper or lower case.
    Hex,
    /// The standard alphabet with padding (RFC 4648 §4).
    Base64,
}

/// How the text that a provider shows as the secret becomes a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyForm {
    /// Taken off before decoding, where it stands there.
    pub prefix: Box<str>,
    /// The same for the private keys of public-key signatures, which senders have.
    pub private_prefix: Box<str>,
    pub encoding: KeyEncoding,
}

/// The way a secret's text, without its prefix, becomes key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum KeyEncoding {
    /// The text itself is the key.
    Utf8,
    /// Base64 with the standard alphabet, padded or not.
    Base64,
    /// Hex digits in upper or lower case.
    Hex,
}

/// A time that is part of what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTime {
    pub place: TimestampLocation,
    pub unit: TimeUnit,
    /// How far from now it may be, into the past and into the future.
    pub tolerance: Duration,
}

impl SignedTime {
    /// What the providers' own libraries allow.
    pub const USUAL_TOLERANCE: Duration = Duration::from_secs(300);

    /// Clocks do not differ by more, and senders sign each attempt anew.
    pub const TOLERANCE_MAX: Duration = Duration::from_secs(3600);
}

/// Where a signed time stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampLocation {
    /// In a header, which must be there once.
    Header(Header),
    /// In this field beside the signature ([`Place::Fields`]).
    Field(Box<str>),
}

/// The format of a timestamp. The first two are digits only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TimeUnit {
    /// Unix time in seconds.
    #[serde(rename = "s")]
    Seconds,
    /// Unix time in milliseconds.
    #[serde(rename = "ms")]
    Milliseconds,
    /// An RFC 3339 timestamp.
    #[serde(rename = "rfc3339")]
    Rfc3339,
}

impl Scheme {
    /// Whether the signature, its time, or anything else that is signed stands in this header.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.headers().any(|header| header.name == *name)
    }

    /// Whether this header's value is part of what is signed.
    pub fn signs_header(&self, name: &HeaderName) -> bool {
        self.signed.headers().any(|header| header.name == *name)
    }

    /// All headers that take part.
    pub fn headers(&self) -> impl Iterator<Item = &Header> {
        let places = self.places.iter().filter_map(|place| match place {
            SignatureLocation::Header(header)
            | SignatureLocation::Fields(HeaderFields { header, .. }) => Some(header),
            SignatureLocation::Body(_) => None,
        });
        let time = self.time.iter().filter_map(|time| match &time.place {
            TimestampLocation::Header(header) => Some(header),
            TimestampLocation::Field(_) => None,
        });
        places.chain(time).chain(self.signed.headers())
    }

    /// Whether a signature tells bodies apart, and nothing else: then it is a digest of the body.
    pub(super) fn signs_the_body_alone(&self) -> bool {
        self.signed.is_body_alone()
            && self
                .kinds
                .iter()
                .all(|kind| kind.algorithm != Algorithm::Ed25519)
    }
}
