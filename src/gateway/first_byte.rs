//! A connection that knows when a request's first byte came, the moment from which its budget counts, and that gives no more
//! bytes for a head than one may have.
//!
//! Pingora has no hook for either (it takes a head of 1 MiB), so the stream itself is wrapped.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use std::{fmt, io};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::{SslDigest, TlsRef};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    Stream, TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufWriter, ReadBuf};
use tokio::sync::Notify;

/// When the first byte since the last [`FirstByte::rearm`] was read, and how many have been read for the head.
#[derive(Debug, Clone, Default)]
pub(super) struct FirstByte(Arc<Seen>);

#[derive(Debug, Default)]
struct Seen {
    at: Mutex<Option<Instant>>,
    came: Notify,
    /// `usize::MAX` once the head is whole: what comes then is not the head's.
    head_bytes: AtomicUsize,
    too_large: Notify,
}

impl FirstByte {
    pub(super) fn get(&self) -> Option<Instant> {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the first byte.
    pub(super) async fn came(&self) -> Instant {
        loop {
            if let Some(at) = self.get() {
                return at;
            }
            self.0.came.notified().await;
        }
    }

    /// The next byte read is the first of another request.
    pub(super) fn rearm(&self) {
        *self.0.at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.head_bytes.store(0, Ordering::Relaxed);
    }

    /// What is read from now on is not the head's.
    pub(super) fn head_is_whole(&self) {
        self.0.head_bytes.store(usize::MAX, Ordering::Relaxed);
    }

    /// Waits until more was read than a head may have.
    pub(super) async fn head_is_too_large(&self) {
        self.0.too_large.notified().await;
    }

    /// Whether more was read than the `max` bytes of a head that is not whole yet.
    fn is_over(&self, max: usize) -> bool {
        let bytes = self.0.head_bytes.load(Ordering::Relaxed);
        bytes > max && bytes != usize::MAX
    }

    fn note(&self, bytes: usize) {
        if self.0.head_bytes.load(Ordering::Relaxed) != usize::MAX {
            self.0.head_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        let mut at = self.0.at.lock().unwrap_or_else(PoisonError::into_inner);
        if at.is_none() {
            *at = Some(Instant::now());
            self.0.came.notify_one();
        }
    }
}

/// For the head of an answer and a short body to leave together.
const WRITE_BUFFER: usize = 2 << 10;

/// A stream that tells a [`FirstByte`] what it reads, and gathers what is written until it is flushed. Otherwise it is the stream
/// it wraps; but it can be peeked into also where there is TLS on that one.
pub(super) struct Watched {
    stream: BufWriter<Stream>,
    first_byte: FirstByte,
    header_bytes_max: usize,
    /// Read from the stream, and not yet by anybody else.
    ahead: Vec<u8>,
}

impl Watched {
    fn inner(&self) -> &Stream {
        self.stream.get_ref()
    }

    pub(super) fn new(stream: Stream, first_byte: FirstByte, header_bytes_max: usize) -> Self {
        let stream = BufWriter::with_capacity(WRITE_BUFFER, stream);
        Self {
            stream,
            first_byte,
            header_bytes_max,
            ahead: Vec::new(),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let taken = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..taken]);
            self.ahead.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        if self.first_byte.is_over(self.header_bytes_max) {
            // Whoever waits for the head hears of it another way, and reads no more.
            self.first_byte.0.too_large.notify_one();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        if polled.is_ready() && read > 0 {
            self.first_byte.note(read);
        }
        polled
    }
}

impl AsyncWrite for Watched {
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
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Watched {
    async fn shutdown(&mut self) {
        // Who has gone reads nothing more.
        let _ = self.stream.flush().await;
        Shutdown::shutdown(&mut **self.stream.get_mut()).await;
    }
}

#[async_trait]
impl Peek for Watched {
    /// May be given up while it waits: nothing that was read is lost.
    async fn try_peek(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        while self.ahead.len() < buf.len() {
            let missing = buf.len() - self.ahead.len();
            let read = self.stream.read(&mut buf[..missing]).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(&buf[..read]);
            self.first_byte.note(read);
        }
        buf.copy_from_slice(&self.ahead[..buf.len()]);
        Ok(true)
    }
}

// Whatever Pingora asks a connection of is the stream's own.

impl UniqueID for Watched {
    fn id(&self) -> UniqueIDType {
        self.inner().id()
    }
}

impl Ssl for Watched {
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

impl GetTimingDigest for Watched {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.inner().get_timing_digest()
    }
}

impl GetProxyDigest for Watched {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.inner().get_proxy_digest()
    }
}

impl GetSocketDigest for Watched {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.inner().get_socket_digest()
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("id", &self.inner().id())
            .finish_non_exhaustive()
    }
}
