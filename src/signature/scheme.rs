//! A provider's signature scheme as data. A preset and a user's own `signature:` make the same value.

use std::time::Duration;

use http::HeaderName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::content::Content;
use super::header::Header;
use crate::json::Pointer;

/// A provider's signature scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// The possible locations of the signature. The first one that a request has is used.
    pub locations: Vec<SignatureLocation>,
    /// The formats of the signature: one, or several for providers that also sign with private keys.
    /// A secret's prefix ([`KeyFormat::prefix`]) selects its format; without one, the first applies.
    pub formats: Vec<SignatureFormat>,
    /// The signed bytes.
    pub signed: Content,
    /// The signed time.
    pub time: Option<SignedTime>,
}

/// The location of a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureLocation {
    /// A header whose value is the signature after [`SignatureFormat::prefix`]. Must occur once.
    Header(Header),
    /// A field of a header, as in `t=1700000000,v1=5257…`. The header must occur once.
    Fields(HeaderFields),
    /// A member of the JSON body, cut out byte for byte before the body is hashed.
    Body(BodySignature),
}

/// A header with fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderFields {
    pub header: Header,
    /// The character between fields.
    pub separator: char,
    /// The character between a field's name and its value.
    pub assign: char,
}

/// A signature in the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodySignature {
    /// The pointer to the member, a string without escapes.
    pub pointer: Pointer,
    /// The sender signed compact JSON: the rest of the body is hashed without white space between
    /// its tokens.
    pub compact: bool,
}

/// The format of a signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureFormat {
    pub algorithm: Algorithm,
    /// The accepted encodings, told apart by length. Signing uses the first.
    pub encodings: Vec<Encoding>,
    /// The field's name in a header with [`HeaderFields`]; unused elsewhere.
    pub field: Box<str>,
    /// An optional prefix of the signature, stripped if present.
    pub prefix: Box<str>,
    pub key: KeyFormat,
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
    /// Returns the bytes of a signature. A truncated one is never accepted (RFC 2104 §5 would allow
    /// it).
    pub const fn signature_bytes(self) -> usize {
        match self {
            Self::HmacSha1 => 20,
            Self::HmacSha256 => 32,
            Self::HmacSha512 | Self::Ed25519 => 64,
        }
    }

    /// Returns the name in the configuration.
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

/// The rules that turn a provider's secret text into a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFormat {
    /// An optional prefix, stripped before decoding.
    pub prefix: Box<str>,
    /// The optional prefix of private keys for public-key signatures, which only senders have.
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

/// A timestamp in the signed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTime {
    pub location: TimestampLocation,
    pub unit: TimeUnit,
    /// The largest distance from now, into the past and into the future.
    pub tolerance: Duration,
}

impl SignedTime {
    /// The default tolerance, as in the providers' own libraries.
    pub const USUAL_TOLERANCE: Duration = Duration::from_secs(300);

    /// The largest tolerance. Clocks do not differ by more, and senders sign each attempt again.
    pub const TOLERANCE_MAX: Duration = Duration::from_secs(3600);
}

/// The location of a signed time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimestampLocation {
    /// A header, which must occur once.
    Header(Header),
    /// A field of the signature's header ([`SignatureLocation::Fields`]).
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
    /// Returns whether this header holds the signature, its time, or other signed content.
    pub fn reads_header(&self, name: &HeaderName) -> bool {
        self.headers().any(|header| header.name == *name)
    }

    /// Returns whether this header's value is part of the signed content.
    pub fn signs_header(&self, name: &HeaderName) -> bool {
        self.signed.headers().any(|header| header.name == *name)
    }

    /// Iterates over all headers of the scheme.
    pub fn headers(&self) -> impl Iterator<Item = &Header> {
        let places = self.locations.iter().filter_map(|place| match place {
            SignatureLocation::Header(header)
            | SignatureLocation::Fields(HeaderFields { header, .. }) => Some(header),
            SignatureLocation::Body(_) => None,
        });
        let time = self.time.iter().filter_map(|time| match &time.location {
            TimestampLocation::Header(header) => Some(header),
            TimestampLocation::Field(_) => None,
        });
        places.chain(time).chain(self.signed.headers())
    }

    /// Returns whether a signature depends on the body and the key alone, and so is a digest of the
    /// body.
    pub(super) fn signs_body_only(&self) -> bool {
        self.signed.is_body_only()
            && self
                .formats
                .iter()
                .all(|kind| kind.algorithm != Algorithm::Ed25519)
    }
}
