//! A buffer that joins body chunks.

use std::mem;

use bytes::{Bytes, BytesMut};

/// The least room that is made for the next chunk, unless less is announced.
const ROOM_MIN: usize = 64 << 10;

/// A body as it arrives. Most webhooks arrive in one chunk, which is kept without a copy.
///
/// Grows with the bytes received: an announced length only bounds what is allocated ahead of them.
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

    /// Returns an empty buffer behind the chunks, with room for some of the `announced` bytes that
    /// are still to come: at most for as many as there are, or [`ROOM_MIN`].
    pub(super) fn room(&mut self, announced: usize) -> BytesMut {
        if announced == 0 {
            return BytesMut::new();
        }
        let mut whole = match mem::take(self) {
            Self::Empty => BytesMut::new(),
            Self::One(first) => BytesMut::from(first),
            Self::Many(whole) => whole,
        };
        if whole.len() == whole.capacity() {
            // Not `reserve`, which may double the buffer beyond what is announced.
            let room = announced.min(whole.len().max(ROOM_MIN));
            let mut larger = BytesMut::with_capacity(whole.len() + room);
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        let room = whole.split_off(whole.len());
        *self = Self::Many(whole);
        room
    }

    /// Takes a chunk that was read into the last [`Payload::room`], which is then not copied.
    pub(super) fn append(&mut self, chunk: BytesMut) {
        match self {
            Self::Empty => *self = Self::Many(chunk),
            Self::One(_) => self.push(chunk.freeze()),
            Self::Many(whole) => whole.unsplit(chunk),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `body` as a session does: `first` at once, then at most `step` into each room.
    fn read(body: &[u8], first: usize, step: usize) -> Payload {
        let mut payload = Payload::default();
        if first > 0 {
            payload.push(Bytes::copy_from_slice(&body[..first]));
        }
        while payload.len() < body.len() {
            let left = &body[payload.len()..];
            let mut room = payload.room(left.len());
            let read = left.len().min(step).min(room.capacity());
            assert!(read > 0, "there is room");
            room.extend_from_slice(&left[..read]);
            payload.append(room);
        }
        payload
    }

    #[test]
    fn body_is_read_in_place() {
        let body: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        for (first, step) in [(0, 1 << 20), (1, 1_460), (16_000, 70_000), (0, 299_999)] {
            let payload = read(&body, first, step);
            let Payload::Many(whole) = &payload else {
                panic!("one buffer")
            };
            assert!(whole.capacity() <= body.len(), "no more than announced");
            assert_eq!(payload.into_bytes(), body);
        }
    }

    #[test]
    fn room_follows_what_has_come() {
        let mut payload = Payload::default();
        let room = payload.room(1 << 30);
        assert!(room.capacity() <= ROOM_MIN);
        payload.append(room);
        payload.push(vec![0; 100_000].into());
        let room = payload.room(1 << 30);
        assert!(room.capacity() <= 100_000);
        let Payload::Many(whole) = &payload else {
            panic!("one buffer")
        };
        assert_eq!(room.as_ptr(), whole.as_ptr_range().end, "behind the body");
    }

    #[test]
    fn lost_room_loses_no_chunk() {
        let mut payload = read(b"abc", 1, 1);
        drop(payload.room(10));
        let mut room = payload.room(10);
        room.extend_from_slice(b"d");
        payload.append(room);
        assert_eq!(payload.into_bytes(), "abcd");
    }
}
