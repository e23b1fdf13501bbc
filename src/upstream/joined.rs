//! A connection on which the head of a request waits for the body, so that both leave in one piece.
//!
//! Pingora flushes a head before it is given the body: that is one more system call here, and one more wake-up of the upstream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::{Peek, Shutdown, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::wrapped::speaks_for_its_stream;

/// A stream that keeps the first bytes written since it was read from until there are more, or until it is read from again.
/// Flushing does not hurry them; what comes after them is not kept.
pub(super) struct Joined {
    stream: Stream,
    kept: Vec<u8>,
    /// Something was written since the last reading.
    writing: bool,
}

impl Joined {
    fn inner(&self) -> &Stream {
        &self.stream
    }

    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, kept: Vec::new(), writing: false }
    }

    fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.kept));
            self.is_written(written)?;
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// So many bytes of what was kept have left; or it is given up, for the upstream may have answered all the same.
    fn is_written(&mut self, written: io::Result<usize>) -> io::Result<()> {
        match written {
            Ok(bytes) if bytes > 0 => {
                self.kept.drain(..bytes);
                Ok(())
            }
            none => {
                self.kept.clear();
                none.and(Err(io::ErrorKind::WriteZero.into()))
            }
        }
    }
}

impl AsyncRead for Joined {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() {
            // There was nothing to wait for: the request has no body.
            ready!(self.poll_kept(cx))?;
        }
        self.writing = false;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Joined {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.writing {
            self.writing = true;
            self.kept.extend_from_slice(bytes);
            return Poll::Ready(Ok(bytes.len()));
        }
        while !self.kept.is_empty() {
            let this = &mut *self;
            let both = [IoSlice::new(&this.kept), IoSlice::new(bytes)];
            let written = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, &both));
            if let Ok(bytes) = written
                && bytes > this.kept.len()
            {
                let of_the_body = bytes - this.kept.len();
                this.kept.clear();
                return Poll::Ready(Ok(of_the_body));
            }
            this.is_written(written)?;
        }
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_kept(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Joined {
    async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.stream).await;
    }
}

impl Peek for Joined {}

speaks_for_its_stream!(Joined);
