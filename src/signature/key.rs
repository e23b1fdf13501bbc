//! Keys and the algorithms that use them.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD as BASE64};
use hmac::digest::{CtOutput, Output};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

use super::scheme::{Algorithm, Encoding, KeyEncoding, KeyFormat, Scheme, SignatureFormat};
use crate::secret::Secret;

/// Bytes of an Ed25519 public key, and of the seed that is the private key (RFC 8032 §5.1.5).
const ED25519_KEY_BYTES: usize = 32;

/// Bytes of the longest signature of any algorithm.
const SIGNATURE_BYTES_MAX: usize = 64;

/// A verification key. No formatter prints it.
pub struct Key {
    /// An index into the scheme's formats.
    pub(super) format: usize,
    pub(super) material: Material,
}

#[expect(
    clippy::large_enum_variant,
    reason = "a route has a key or two, and each request reads them"
)]
pub(super) enum Material {
    /// A MAC whose key is already hashed in.
    Hmac(Mac),
    Ed25519([u8; ED25519_KEY_BYTES]),
}

/// A signing key. No formatter prints it.
pub struct Signer {
    pub(super) format: usize,
    material: SigningMaterial,
}

enum SigningMaterial {
    Hmac(Box<Mac>),
    Ed25519(Ed25519KeyPair),
}

/// A reason why a secret is no key for a scheme. Reveals nothing of the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("the secret is not base64, which the scheme requires")]
    NotBase64,
    #[error("the secret is not hex, which the scheme requires")]
    NotHex,
    #[error("the secret is empty after decoding")]
    Empty,
    #[error("the secret is not an Ed25519 public key of 32 bytes")]
    NotPublicKey,
    #[error(
        "the secret is a weak Ed25519 public key, under which anyone can sign; it may be a placeholder"
    )]
    WeakPublicKey,
    #[error("the secret is a private key, which only the sender needs; give its public key")]
    PrivateKey,
    #[error("the secret is not an Ed25519 private key of 32 bytes, which signing needs")]
    NotPrivateKey,
}

/// A signature's bytes.
#[derive(Clone, Copy)]
pub(super) struct Tag {
    bytes: [u8; SIGNATURE_BYTES_MAX],
    length: usize,
}

#[derive(Clone)]
pub(super) enum Mac {
    Sha1(Hmac<Sha1>),
    Sha256(Hmac<Sha256>),
    Sha512(Hmac<Sha512>),
}

impl Scheme {
    /// Converts `secret` to a verification key.
    ///
    /// # Errors
    /// [`KeyError`] when the secret does not have the format that the scheme expects.
    pub fn key(&self, secret: &Secret) -> Result<Key, KeyError> {
        let format = self.format_of(secret);
        let form = &self.formats[format];
        if !form.key.private_prefix.is_empty()
            && secret
                .expose()
                .starts_with(form.key.private_prefix.as_bytes())
        {
            return Err(KeyError::PrivateKey);
        }
        let bytes = self.key_bytes(secret)?;
        let material = match Mac::new(form.algorithm, &bytes) {
            Some(mac) => Material::Hmac(mac),
            None => {
                let public: [u8; ED25519_KEY_BYTES] =
                    bytes[..].try_into().map_err(|_| KeyError::NotPublicKey)?;
                if is_of_small_order(&public) {
                    return Err(KeyError::WeakPublicKey);
                }
                Material::Ed25519(public)
            }
        };
        Ok(Key { format, material })
    }

    /// Returns the bytes of the verification key that `secret` stands for.
    pub(crate) fn key_bytes(&self, secret: &Secret) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let form = &self.formats[self.format_of(secret)];
        form.decode(secret, &form.key.prefix)
    }

    /// Converts `secret` to a signing key. For public-key signatures, `secret` is the private key.
    ///
    /// # Errors
    /// [`KeyError`] when the secret does not have the format that the scheme expects.
    pub fn signer(&self, secret: &Secret) -> Result<Signer, KeyError> {
        let format = self.format_of(secret);
        let form = &self.formats[format];
        let KeyFormat {
            prefix,
            private_prefix,
            ..
        } = &form.key;
        let is_public = form.algorithm == Algorithm::Ed25519
            && !prefix.is_empty()
            && secret.expose().starts_with(prefix.as_bytes());
        if is_public {
            return Err(KeyError::NotPrivateKey);
        }
        let bytes = form.decode(
            secret,
            if form.algorithm == Algorithm::Ed25519 {
                private_prefix
            } else {
                prefix
            },
        )?;
        let material = match Mac::new(form.algorithm, &bytes) {
            Some(mac) => SigningMaterial::Hmac(Box::new(mac)),
            None => {
                // Some tools append the public key to the seed.
                let seed = bytes
                    .get(..ED25519_KEY_BYTES)
                    .filter(|_| matches!(bytes.len(), 32 | 64));
                let pair = seed.and_then(|seed| Ed25519KeyPair::from_seed_unchecked(seed).ok());
                SigningMaterial::Ed25519(pair.ok_or(KeyError::NotPrivateKey)?)
            }
        };
        Ok(Signer { format, material })
    }

    /// Returns whether the scheme tells keys apart by prefix and `secret` has none. Such a secret is
    /// taken for a key of the first format.
    pub fn is_prefix_missing(&self, secret: &Secret) -> bool {
        self.formats.len() > 1 && self.format_by_prefix(secret).is_none()
    }

    fn format_of(&self, secret: &Secret) -> usize {
        self.format_by_prefix(secret).unwrap_or(0)
    }

    fn format_by_prefix(&self, secret: &Secret) -> Option<usize> {
        let names = |format: &SignatureFormat| {
            let prefixes = [&format.key.prefix, &format.key.private_prefix];
            prefixes
                .into_iter()
                .any(|prefix| !prefix.is_empty() && secret.expose().starts_with(prefix.as_bytes()))
        };
        self.formats.iter().position(names)
    }
}

impl Algorithm {
    /// Returns whether `tag` is this algorithm's signature of the concatenated `parts` under `key`.
    pub(crate) fn produces(self, tag: &[u8], key: &[u8], parts: &[&[u8]]) -> bool {
        let Some(tag) = Tag::new(tag) else {
            return false;
        };
        match Mac::new(self, key) {
            Some(mut mac) => {
                for part in parts {
                    mac.update(part);
                }
                mac.find_in(std::iter::once(&tag)).is_some()
            }
            None => key
                .try_into()
                .is_ok_and(|public| tag.verifies(public, &parts.concat())),
        }
    }
}

impl Key {
    /// Returns the same key for signing; `None` for a public key.
    pub(super) fn signer(&self) -> Option<Signer> {
        let Material::Hmac(mac) = &self.material else {
            return None;
        };
        Some(Signer {
            format: self.format,
            material: SigningMaterial::Hmac(Box::new(mac.clone())),
        })
    }
}

impl SignatureFormat {
    fn decode(&self, secret: &Secret, prefix: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        /// Providers' dashboards show keys with and without padding.
        const LENIENT: GeneralPurpose = GeneralPurpose::new(
            &alphabet::STANDARD,
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
        );
        let text = secret.expose();
        let text = text.strip_prefix(prefix.as_bytes()).unwrap_or(text);
        let bytes = Zeroizing::new(match self.key.encoding {
            KeyEncoding::Utf8 => text.to_vec(),
            KeyEncoding::Base64 => LENIENT.decode(text).map_err(|_| KeyError::NotBase64)?,
            KeyEncoding::Hex => hex::decode(text).map_err(|_| KeyError::NotHex)?,
        });
        if bytes.is_empty() {
            Err(KeyError::Empty)
        } else {
            Ok(bytes)
        }
    }

    /// Parses a signature whose prefix is stripped. `None` for another alphabet or length.
    pub(super) fn parse(&self, text: &str) -> Option<Tag> {
        let of_length = |tag: &Tag| tag.length == self.algorithm.signature_bytes();
        self.encodings
            .iter()
            .find_map(|encoding| encoding.decode(text).filter(of_length))
    }

    /// Returns whether `text`, its prefix stripped, can be a signature of this format.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        self.parse(text).is_some()
    }

    pub(super) fn write(&self, tag: &Tag) -> String {
        match self.encodings[0] {
            Encoding::Hex => hex::encode(tag.as_slice()),
            Encoding::Base64 => BASE64.encode(tag.as_slice()),
        }
    }
}

impl Encoding {
    fn decode(self, text: &str) -> Option<Tag> {
        let mut bytes = [0; SIGNATURE_BYTES_MAX + 2];
        let length = match self {
            Self::Hex => {
                let length = text.len() / 2;
                hex::decode_to_slice(text, bytes.get_mut(..length)?).ok()?;
                length
            }
            Self::Base64 => BASE64.decode_slice(text, &mut bytes).ok()?,
        };
        Tag::new(&bytes[..length])
    }
}

impl Signer {
    /// Signs the concatenated `parts`.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> Tag {
        match &self.material {
            SigningMaterial::Hmac(mac) => {
                let mut mac = Mac::clone(mac);
                for part in parts {
                    mac.update(part);
                }
                mac.finalize()
            }
            SigningMaterial::Ed25519(pair) => {
                Tag::from_algorithm(pair.sign(&parts.concat()).as_ref())
            }
        }
    }
}

impl Tag {
    fn new(bytes: &[u8]) -> Option<Self> {
        let mut tag = Self {
            bytes: [0; SIGNATURE_BYTES_MAX],
            length: bytes.len(),
        };
        tag.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(tag)
    }

    fn from_algorithm(bytes: &[u8]) -> Self {
        Self::new(bytes).expect("no algorithm makes longer signatures")
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns whether this is a signature of `message` under the public key.
    pub(super) fn verifies(&self, public: &[u8; ED25519_KEY_BYTES], message: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public)
            .verify(message, self.as_slice())
            .is_ok()
    }
}

impl Mac {
    /// Prepares the MAC of a key. `None` for an algorithm that is no MAC.
    pub(super) fn new(algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        const ANY_LENGTH: &str = "HMAC takes a key of any length";
        Some(match algorithm {
            Algorithm::HmacSha1 => Self::Sha1(Hmac::new_from_slice(key).expect(ANY_LENGTH)),
            Algorithm::HmacSha256 => Self::Sha256(Hmac::new_from_slice(key).expect(ANY_LENGTH)),
            Algorithm::HmacSha512 => Self::Sha512(Hmac::new_from_slice(key).expect(ANY_LENGTH)),
            Algorithm::Ed25519 => return None,
        })
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(mac) => mac.update(bytes),
            Self::Sha256(mac) => mac.update(bytes),
            Self::Sha512(mac) => mac.update(bytes),
        }
    }

    pub(super) fn finalize(self) -> Tag {
        match self {
            Self::Sha1(mac) => Tag::from_algorithm(&mac.finalize().into_bytes()),
            Self::Sha256(mac) => Tag::from_algorithm(&mac.finalize().into_bytes()),
            Self::Sha512(mac) => Tag::from_algorithm(&mac.finalize().into_bytes()),
        }
    }

    /// Returns the tag if it is among `candidates`. Compares with each of them at whole length, in
    /// constant time.
    pub(super) fn find_in<'t>(self, candidates: impl Iterator<Item = &'t Tag>) -> Option<Tag> {
        match self {
            Self::Sha1(mac) => find_in(mac, candidates),
            Self::Sha256(mac) => find_in(mac, candidates),
            Self::Sha512(mac) => find_in(mac, candidates),
        }
    }
}

fn find_in<'t, M: hmac::Mac>(mac: M, candidates: impl Iterator<Item = &'t Tag>) -> Option<Tag> {
    let computed = mac.finalize();
    let mut found = false;
    for candidate in candidates {
        let same_length = Output::<M>::try_from(candidate.as_slice());
        found |= same_length.is_ok_and(|candidate| computed == CtOutput::new(candidate));
    }
    found.then(|| Tag::from_algorithm(&computed.into_bytes()))
}

/// Returns whether `public` encodes a point of order 1, 2, 4 or 8, under which signatures can be made
/// without a private key. Covers all such encodings, the sign bit aside.
/// Source: Chalkias, Garillot, Nikolaenko 2020, table 1.
fn is_of_small_order(public: &[u8; ED25519_KEY_BYTES]) -> bool {
    const ORDER_8: [[u8; ED25519_KEY_BYTES]; 2] = [
        *b"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
        *b"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
    ];
    let mut y = *public;
    y[31] &= 0x7f;
    // y is 0 or 1; or p - 1, p or p + 1 with p = 2^255 - 19, little-endian.
    let small = y[0] <= 1 && y[1..].iter().all(|&byte| byte == 0);
    let around_p =
        (0xec..=0xee).contains(&y[0]) && y[1..31].iter().all(|&byte| byte == 0xff) && y[31] == 0x7f;
    small || around_p || ORDER_8.contains(&y)
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(***)")
    }
}
