//! A buffer that joins body chunks.

use bytes::{Bytes, BytesMut};

/// A body as it arrives. Most webhooks arrive in one chunk, which is kept without a copy.
///
/// Grows with the bytes received, never with an announced length.
#[derive(Default)]
pub(super) enum Payload {
    #[default]
    Empty,
    One(Bytes),
    Many(BytesMut),
}

impl Payload {
    pub(super) fn push(&mut self, chunk: Bytes) {
        match self {
            Self::Empty => *self = Self::One(chunk),
            Self::One(first) => {
                let mut whole = BytesMut::with_capacity(2 * (first.len() + chunk.len()));
                whole.extend_from_slice(first);
                whole.extend_from_slice(&chunk);
                *self = Self::Many(whole);
            }
            Self::Many(whole) => whole.extend_from_slice(&chunk),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::One(chunk) => chunk.len(),
            Self::Many(whole) => whole.len(),
        }
    }

    pub(super) fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::One(chunk) => chunk,
            Self::Many(whole) => whole.freeze(),
        }
    }
}
