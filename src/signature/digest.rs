//! The digest in the ledger that tells two bodies of one event apart.

/// A 96-bit digest of a verified body. Where an HMAC covers the body alone, it is the signature's
/// own tag and costs nothing; otherwise it is the body's SHA-256.
///
/// A tag depends on the secret too, so such digests are comparable under one key only. Two digests
/// under different keys do not contradict each other: a retry that is signed with the new secret
/// during a rotation is not taken for another body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadDigest {
    keyed_by: u32,
    bits: [u8; 12],
}

impl PayloadDigest {
    pub(super) fn from_tag(fingerprint: u32, tag: &[u8]) -> Self {
        Self {
            keyed_by: fingerprint,
            bits: first_12(tag),
        }
    }

    pub(super) fn from_body(sha256: &[u8; 32]) -> Self {
        Self {
            keyed_by: 0,
            bits: first_12(sha256),
        }
    }

    /// Returns the digest of an unknown body. It contradicts no other, save by a chance of one in
    /// four billion.
    pub fn unknown() -> Self {
        Self {
            keyed_by: u32::MAX,
            bits: [0; 12],
        }
    }

    /// Encodes the digest for the store.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.keyed_by.to_be_bytes());
        bytes[4..].copy_from_slice(&self.bits);
        bytes
    }

    /// Decodes the result of [`PayloadDigest::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let (keyed_by, mut bits) = (
            u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            [0; 12],
        );
        bits.copy_from_slice(&bytes[4..]);
        Self { keyed_by, bits }
    }

    /// Returns whether the two are certainly digests of different bodies.
    pub fn contradicts(self, other: Self) -> bool {
        self.keyed_by == other.keyed_by && self.bits != other.bits
    }
}

/// Returns the first 12 bytes. Every MAC and every hash is longer.
fn first_12(bytes: &[u8]) -> [u8; 12] {
    let mut first = [0; 12];
    first.copy_from_slice(&bytes[..12]);
    first
}
