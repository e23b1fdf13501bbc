//! A stream together with the bytes that were read from it and not yet used.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::ready;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncRead as _, ReadBuf};

/// The most bytes of one read: room for a head and the body of most webhooks. More would be copied
/// where a larger body is read in place.
const READ_BYTES: usize = 8 << 10;

/// A stream whose next bytes can be looked at before they are used.
///
/// No buffer is held while the stream is idle: what arrives is read onto the stack, and copied.
pub(in crate::gateway) struct ReadAhead {
    pub(in crate::gateway) stream: Stream,
    /// The bytes that were read and not yet used.
    pub(in crate::gateway) unread: Bytes,
    /// The time since which there have been unread bytes, if there are any.
    pub(in crate::gateway) unread_since: Instant,
}

impl ReadAhead {
    pub(in crate::gateway) fn new(stream: Stream) -> Self {
        Self {
            stream,
            unread: Bytes::new(),
            unread_since: Instant::now(),
        }
    }

    /// Waits for bytes and adds them to the unread ones. Returns how many there were: none once the
    /// stream has ended. Cancel-safe: no byte is lost.
    pub(in crate::gateway) async fn read_more(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            let mut room = [MaybeUninit::uninit(); READ_BYTES];
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            let read = read.filled();
            if self.unread.is_empty() {
                self.unread = Bytes::copy_from_slice(read);
                self.unread_since = Instant::now();
            } else {
                let mut unread = BytesMut::with_capacity(self.unread.len() + read.len());
                unread.extend_from_slice(&self.unread);
                unread.extend_from_slice(read);
                self.unread = unread.freeze();
            }
            Ok(read.len()).into()
        })
        .await
    }

    /// Treats the unread bytes as the start of something new, which arrived just now. Copies them:
    /// a few bytes would keep the whole read that they arrived with.
    pub(in crate::gateway) fn restart(&mut self) {
        self.unread = Bytes::copy_from_slice(&self.unread);
        if !self.unread.is_empty() {
            self.unread_since = Instant::now();
        }
    }
}
