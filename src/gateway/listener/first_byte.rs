//! A stream that records when a request's first byte arrives, the moment from which its budget
//! counts, what its request line looks like, and that stops reading when a head exceeds its limit.
//! It is below Pingora's sessions: the gateway's own session knows all of this itself.
//!
//! Pingora has no hook for these (it accepts a head of 1 MiB, and encodes what it can't read in a
//! request line), so the stream itself is wrapped. It also gathers writes until they are flushed.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use std::{fmt, io};

use async_trait::async_trait;
use bytes::{Buf as _, BytesMut};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};

use super::read_ahead::ReadAhead;
use crate::gateway::request_line::RequestLine;

/// The time of a request's first byte, the bytes read for its head so far, and how many it may
/// have. Clones share all of it.
///
/// What waits for a change of it must be polled by the task that reads the stream, after the read:
/// a change wakes no task, because it happens while that one runs.
#[derive(Debug, Clone, Default)]
pub(super) struct FirstByte(Arc<State>);

#[derive(Debug, Default)]
struct State {
    start: Mutex<Start>,
    /// The bytes read for the head; [`HEAD_COMPLETE`] once it is complete.
    head_bytes: AtomicUsize,
    /// The most bytes that the head may have.
    head_bytes_max: AtomicUsize,
    /// Set when no more of the head is read, because it has exceeded its limit.
    too_large: AtomicBool,
}

/// The start of a request as it arrived.
#[derive(Debug, Default)]
struct Start {
    /// The time of the first byte.
    at: Option<Instant>,
    line: RequestLine,
}

/// The value of [`State::head_bytes`] while the bytes read do not belong to a head.
const HEAD_COMPLETE: usize = usize::MAX;

impl FirstByte {
    /// Returns when the first byte since the last [`FirstByte::rearm`] was read, if any was.
    pub(super) fn get(&self) -> Option<Instant> {
        self.start().at
    }

    /// Returns the request line as far as it was read.
    pub(super) fn request_line(&self) -> RequestLine {
        self.start().line
    }

    /// Waits for the first byte.
    pub(super) async fn received(&self) -> Instant {
        poll_fn(|_| self.get().map_or(Poll::Pending, Poll::Ready)).await
    }

    /// Treats the next byte as the first of another request.
    pub(super) fn rearm(&self) {
        *self.start() = Start::default();
        self.0.head_bytes.store(0, Ordering::Relaxed);
    }

    /// Sets the most bytes that the head, and each after it, may have.
    pub(super) fn set_head_bytes_max(&self, max: usize) {
        self.0.head_bytes_max.store(max, Ordering::Relaxed);
    }

    /// Stops counting: the bytes read from now on do not belong to the head.
    pub(super) fn head_complete(&self) {
        self.0.head_bytes.store(HEAD_COMPLETE, Ordering::Relaxed);
    }

    /// Waits until the head exceeds its limit.
    pub(super) async fn head_too_large(&self) {
        poll_fn(|_| {
            if self.0.too_large.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Returns whether an incomplete head has exceeded its limit.
    fn is_too_large(&self) -> bool {
        let bytes = self.0.head_bytes.load(Ordering::Relaxed);
        bytes > self.0.head_bytes_max.load(Ordering::Relaxed) && bytes != HEAD_COMPLETE
    }

    /// Records bytes that were read at `now`. An empty line in front of a request line does not begin a
    /// request: some senders end a body with one (RFC 9112 §2.2).
    pub(super) fn record_read(&self, bytes: &[u8], now: Instant) {
        if self.0.head_bytes.load(Ordering::Relaxed) == HEAD_COMPLETE {
            return;
        }
        self.0.head_bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let mut start = self.start();
        if start.at.is_some() {
            return start.line.read(bytes);
        }
        let Some(begin) = bytes.iter().position(|byte| !b"\r\n".contains(byte)) else {
            return;
        };
        start.line.read(&bytes[begin..]);
        start.at = Some(now);
    }

    fn start(&self) -> MutexGuard<'_, Start> {
        self.0.start.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The size of the write buffer in bytes: room for a response head and a short body, so that they
/// leave in one piece.
const WRITE_BUFFER: usize = 2 << 10;

/// The bytes that h2 reads before other tasks that are ready have their turn.
const READ_AT_ONCE: usize = 64 << 10;

/// Whether reading and flushing let other tasks run first.
pub(super) enum Pace {
    /// At once.
    AtOnce,
    /// A flush waits until the tasks that are ready have run, and so does a read of more than
    /// [`READ_AT_ONCE`]. The responses of an HTTP/2 connection come from a task each, and h2 asks for a
    /// flush after each of them. With 32 streams, one write and one TLS record for all that are ready
    /// saves a quarter of a rejection's CPU time.
    AfterReadyTasks {
        /// Whether a flush waits.
        asked: bool,
        /// The bytes that were read since other tasks had their turn.
        read: usize,
    },
}

impl Pace {
    pub(super) const AFTER_READY_TASKS: Self = Self::AfterReadyTasks {
        asked: false,
        read: 0,
    };

    /// Returns whether a read waits, and wakes the task behind the others that are ready if so. h2 reads
    /// all that has arrived before it passes a stream on: without this, the heads of all streams of all
    /// connections could be in memory before the first of them is handled.
    fn read_waits(&mut self, cx: &Context<'_>) -> bool {
        let Self::AfterReadyTasks { read, .. } = self else {
            return false;
        };
        let waits = *read >= READ_AT_ONCE;
        if waits {
            *read = 0;
            cx.waker().wake_by_ref();
        }
        waits
    }

    /// Counts bytes that were read; `None` if the reader waits for more, so that others have their turn.
    fn count_read(&mut self, bytes: Option<usize>) {
        if let Self::AfterReadyTasks { read, .. } = self {
            *read = bytes.map_or(0, |bytes| *read + bytes);
        }
    }

    /// Returns whether a flush waits, and wakes the task behind the others that are ready if so.
    fn flush_waits(&mut self, cx: &Context<'_>) -> bool {
        let Self::AfterReadyTasks { asked, .. } = self else {
            return false;
        };
        *asked = !*asked;
        if *asked {
            cx.waker().wake_by_ref();
        }
        *asked
    }
}

/// A stream that reports its reads to a [`FirstByte`] and buffers its writes until they are
/// flushed.
pub(super) struct FirstByteStream {
    stream: BufWriter<Stream>,
    first_byte: FirstByte,
    pace: Pace,
    /// The bytes that were read ahead, and not yet by a session.
    unread: BytesMut,
    /// The time since which they are there, until the first of them are read. Later ones may begin
    /// another request, whose time starts when they are read.
    unread_since: Option<Instant>,
}

impl FirstByteStream {
    fn inner(&self) -> &Stream {
        self.stream.get_ref()
    }

    /// Wraps a connection, whose unread bytes are the first that are read.
    pub(super) fn new(connection: ReadAhead, first_byte: FirstByte, pace: Pace) -> Self {
        Self {
            stream: BufWriter::with_capacity(WRITE_BUFFER, connection.stream),
            first_byte,
            pace,
            unread: connection.unread.into(),
            unread_since: Some(connection.unread_since),
        }
    }
}

impl AsyncRead for FirstByteStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first_byte.is_too_large() {
            // The reader of the head learns of it from `head_too_large` and reads no more.
            self.first_byte.0.too_large.store(true, Ordering::Relaxed);
            return Poll::Pending;
        }
        if !self.unread.is_empty() {
            let copied = self.unread.len().min(buf.remaining());
            let at = self.unread_since.take().unwrap_or_else(Instant::now);
            // Not before: some of them may be of a later request.
            self.first_byte.record_read(&self.unread[..copied], at);
            buf.put_slice(&self.unread[..copied]);
            self.unread.advance(copied);
            if self.unread.is_empty() {
                self.unread = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        if self.pace.read_waits(cx) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            let read = &buf.filled()[before..];
            self.pace.count_read(Some(read.len()));
            self.first_byte.record_read(read, Instant::now());
        } else {
            self.pace.count_read(None);
        }
        polled
    }
}

impl AsyncWrite for FirstByteStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        // h2 flushes after each payload that it need not copy. Without this it copies those of up to
        // 1 KiB instead of 256 bytes.
        matches!(self.pace, Pace::AtOnce) && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.stream.buffer().is_empty() && self.pace.flush_waits(cx) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for FirstByteStream {
    async fn shutdown(&mut self) {
        // A failed flush means that the sender has gone; the stream is closed either way.
        let _ = self.stream.flush().await;
        Shutdown::shutdown(&mut **self.stream.get_mut()).await;
    }
}

// The gateway peeks only before a session reads the connection.
impl Peek for FirstByteStream {}

// Everything else that Pingora asks of a connection is answered by the wrapped stream.

impl UniqueID for FirstByteStream {
    fn id(&self) -> UniqueIDType {
        self.inner().id()
    }
}

impl Ssl for FirstByteStream {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.inner().get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.inner().get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.inner().selected_alpn_proto()
    }
}

impl GetTimingDigest for FirstByteStream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner().get_timing_digest()
    }
}

impl GetProxyDigest for FirstByteStream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner().get_proxy_digest()
    }
}

impl GetSocketDigest for FirstByteStream {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner().get_socket_digest()
    }
}

impl fmt::Debug for FirstByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirstByteStream")
            .field("id", &self.inner().id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn long_read_leaves_time_for_ready_tasks() {
        let (near, mut far) = duplex(2 * READ_AT_ONCE);
        far.write_all(&vec![b'a'; 2 * READ_AT_ONCE]).await.unwrap();
        let (near, first_byte) = (ReadAhead::new(Box::new(near)), FirstByte::default());
        first_byte.head_complete();
        let mut stream = FirstByteStream::new(near, first_byte, Pace::AFTER_READY_TASKS);
        let mut bytes = vec![0; READ_AT_ONCE];
        for _ in 0..2 {
            assert!(stream.read_exact(&mut bytes).now_or_never().is_some());
            assert!(stream.read(&mut [0]).now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn flush_leaves_time_for_ready_tasks() {
        let (near, mut far) = duplex(64);
        let (near, first_byte) = (ReadAhead::new(Box::new(near)), FirstByte::default());
        let mut stream = FirstByteStream::new(near, first_byte, Pace::AFTER_READY_TASKS);
        stream.write_all(b"one").await.unwrap();
        assert!(stream.flush().now_or_never().is_none());
        stream.write_all(b", two").await.unwrap();
        stream.flush().now_or_never().unwrap().unwrap();
        let mut read = [0; 64];
        assert_eq!(far.read(&mut read).await.unwrap(), 8);
        // The task wakes itself, so a flush ends without another write.
        stream.write_all(b"three").await.unwrap();
        stream.flush().await.unwrap();
        assert_eq!(far.read(&mut read).await.unwrap(), 5);
    }

    /// Returns whether the request line of these reads is plain, once a request has begun.
    fn is_plain(reads: &[&[u8]]) -> Option<bool> {
        let first_byte = FirstByte::default();
        for read in reads {
            first_byte.record_read(read, Instant::now());
        }
        first_byte
            .get()
            .map(|_| first_byte.request_line().is_plain())
    }

    #[test]
    fn request_line_is_plain_however_it_arrives() {
        let head = b"POST /w?x=%20 HTTP/1.1\r\nHost: a b\r\n\r\n{ }";
        for cut in 0..head.len() {
            let (start, rest) = head.split_at(cut);
            assert_eq!(is_plain(&[start, rest]), Some(true), "{cut}");
            assert_eq!(is_plain(&[b"\r", b"\n", start, rest]), Some(true));
        }
    }

    #[test]
    fn empty_line_begins_no_request() {
        for reads in [&[&b"\r\n"[..]][..], &[b"\r", b"\n"], &[b""], &[]] {
            assert_eq!(is_plain(reads), None);
        }
    }
}
