//! A request on its way to the upstream, which may answer before it has read all of it.
//!
//! Owns the order of writing and reading on one connection. Knows nothing of HTTP.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, Cursor, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::buf::Chain;
use bytes::{Buf, Bytes};
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
    TimingDigest, UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of an early response that are read before the request is wrapped.
const EARLY_BYTES: usize = 4096;

/// A connection, and the request that is written to it. Reading from it writes on.
pub(super) struct Upload {
    stream: Stream,
    /// The rest of the request: its head and its body.
    unsent: Chain<Cursor<Vec<u8>>, Bytes>,
    progress: Progress,
    /// The first bytes of an early response, which are still to be read.
    early: Cursor<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Writing,
    /// All is written, but may still be in a buffer of the connection.
    Flushing,
    Sent,
    /// The upstream takes no more. It may have answered nevertheless.
    Failed,
}

impl Upload {
    pub(super) fn new(stream: Stream, head: Vec<u8>, body: Bytes) -> Self {
        Self {
            stream,
            unsent: Cursor::new(head).chain(body),
            progress: Progress::Writing,
            early: Cursor::default(),
        }
    }

    /// Writes the request until it is sent, writing fails, or the upstream answers or closes.
    /// Returns the connection for reading the response, and whether the request was sent. If it was
    /// not, reading from the connection writes the rest of it, and so does flushing.
    pub(super) async fn run(mut self) -> (Stream, bool) {
        poll_fn(|cx| self.poll_sent_or_answered(cx)).await;
        match self.progress {
            Progress::Sent => (self.stream, true),
            Progress::Failed => (self.stream, false),
            Progress::Writing | Progress::Flushing => (Box::new(self), false),
        }
    }

    fn poll_sent_or_answered(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.poll_send(cx).is_ready() {
            return Poll::Ready(());
        }
        // Only a request that the connection does not take at once gets here.
        let early = self.early.get_mut();
        early.resize(EARLY_BYTES, 0);
        let mut buffer = ReadBuf::new(early);
        let polled = Pin::new(&mut self.stream).poll_read(cx, &mut buffer);
        let read = buffer.filled().len();
        early.truncate(read);
        // The end of the stream and an error are found again by the reader of the response.
        polled.map(|_| ())
    }

    /// Writes what the connection takes, head and body with one call if it supports that. Ready
    /// when all is sent, or writing failed.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.progress == Progress::Writing {
            let mut slices = [IoSlice::new(&[]); 2];
            let count = self.unsent.chunks_vectored(&mut slices);
            if count == 0 {
                self.progress = Progress::Flushing;
                break;
            }
            let stream = Pin::new(&mut self.stream);
            match ready!(stream.poll_write_vectored(cx, &slices[..count])) {
                Ok(written) if written > 0 => self.unsent.advance(written),
                Ok(_) | Err(_) => self.progress = Progress::Failed,
            }
        }
        if self.progress == Progress::Flushing {
            self.progress = match ready!(Pin::new(&mut self.stream).poll_flush(cx)) {
                Ok(()) => Progress::Sent,
                Err(_) => Progress::Failed,
            };
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Upload {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let _ = self.poll_send(cx);
        if self.early.has_remaining() {
            let early = self.early.chunk();
            let read = early.len().min(buf.remaining());
            buf.put_slice(&early[..read]);
            self.early.advance(read);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Upload {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(cx));
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    /// Writes the rest of the request.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx));
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// Everything else that Pingora asks of a connection is answered by the wrapped stream.

#[async_trait]
impl Shutdown for Upload {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

impl Peek for Upload {}

impl UniqueID for Upload {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Upload {}

impl GetTimingDigest for Upload {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }
}

impl GetProxyDigest for Upload {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }
}

impl GetSocketDigest for Upload {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upload")
            .field("id", &self.stream.id())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Returns an upload of 100 bytes over a connection that takes 16 of them at once, and the
    /// upstream's end of it.
    fn upload() -> (Upload, DuplexStream) {
        let (stream, upstream) = duplex(16);
        let upload = Upload::new(Box::new(stream), vec![b'h'; 40], vec![b'b'; 60].into());
        (upload, upstream)
    }

    async fn read_request(upstream: &mut DuplexStream) -> Vec<u8> {
        let mut request = vec![0; 100];
        upstream.read_exact(&mut request).await.unwrap();
        request
    }

    #[tokio::test]
    async fn request_is_sent_as_the_upstream_reads_it() {
        let (upload, mut upstream) = upload();
        let ((_stream, is_sent), request) = tokio::join!(upload.run(), read_request(&mut upstream));
        assert!(is_sent);
        assert_eq!(request, [vec![b'h'; 40], vec![b'b'; 60]].concat());
    }

    #[tokio::test]
    async fn early_response_is_read_whole() {
        let (upload, mut upstream) = upload();
        upstream.write_all(b"413").await.unwrap();
        let (mut stream, is_sent) = upload.run().await;
        assert!(!is_sent);
        let answer = async {
            upstream
                .write_all(b" and a long explanation")
                .await
                .unwrap();
            drop(upstream);
        };
        let mut response = Vec::new();
        let (read, ()) = tokio::join!(stream.read_to_end(&mut response), answer);
        assert_eq!(read.unwrap(), response.len());
        assert_eq!(response, b"413 and a long explanation");
    }

    #[tokio::test]
    async fn flushing_writes_the_rest_after_early_response() {
        let (upload, mut upstream) = upload();
        upstream.write_all(b"200").await.unwrap();
        let (mut stream, is_sent) = upload.run().await;
        assert!(!is_sent);
        let mut response = [0; 3];
        stream.read_exact(&mut response).await.unwrap();
        let (flushed, request) = tokio::join!(stream.flush(), read_request(&mut upstream));
        assert!(flushed.is_ok());
        assert_eq!((&response, request.len()), (b"200", 100));
    }

    #[tokio::test]
    async fn closed_connection_ends_the_upload() {
        let (upload, upstream) = upload();
        drop(upstream);
        let (mut stream, is_sent) = upload.run().await;
        assert!(!is_sent);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    }
}
