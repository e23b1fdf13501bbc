//! The session of plain requests over HTTP/1.1: the gateway's own, beside Pingora's.
//!
//! It reads a head and a body of known length, and writes a response in one piece. It rejects
//! nothing: a request that is not plain, or whose head does not arrive in time, is left to Pingora's
//! session, with every byte of it unread.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use http::{Method, StatusCode, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::protocols::{Shutdown, Stream};
use pingora_core::{Error, ErrorType, OrErr as _, Result as PingoraResult};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout_at;

use super::Chunk;
use super::plain_head::{self, Parsed, PlainHead};
use crate::gateway::address;
use crate::gateway::listener::read_ahead::ReadAhead;
use crate::gateway::request_line::RequestLine;

/// The most reads that a head may take: each begins to parse it again.
const HEAD_READS_MAX: usize = 8;

/// The size of a buffer that a body is read into where its reader has none.
const DISCARD_BYTES: usize = 16 << 10;

/// The most bytes of a body that are read at once: its reader hashes them before it lets other tasks
/// run.
const READ_BYTES_MAX: usize = 256 << 10;

/// The size of a response head that is allocated at once.
const RESPONSE_HEAD_BYTES: usize = 512;

/// The size of a response body up to which it is copied behind the head. A larger one is passed to
/// the system beside it.
const JOINED_BYTES_MAX: usize = 16 << 10;

/// A connection and the plain request on it.
pub struct PlainSession {
    read_ahead: ReadAhead,
    peer: IpAddr,
    is_tls: bool,
    /// The head of the request that was read last.
    head: Option<PlainHead>,
    /// The bytes of its body that were not read yet.
    body_left: u64,
    /// Set if the last read of the body was for no more than the body: what is behind it is not read.
    ended_exactly: bool,
    /// Set if the connection is closed behind the response.
    closes: bool,
}

/// The result of reading a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadRead {
    /// The head of a plain request was read.
    Plain,
    /// The unread bytes are for Pingora's session.
    Other,
    /// The connection has ended.
    Ended,
}

impl PlainSession {
    /// Begins a session on a connection of which nothing was read yet.
    pub fn new(stream: Stream) -> Self {
        Self::with_read_ahead(ReadAhead::new(stream))
    }

    pub(in crate::gateway) fn with_read_ahead(read_ahead: ReadAhead) -> Self {
        let digest = read_ahead.stream.get_socket_digest();
        Self {
            peer: address::ip_of(digest.as_ref().and_then(|digest| digest.peer_addr())),
            is_tls: read_ahead.stream.get_ssl_digest().is_some(),
            read_ahead,
            head: None,
            body_left: 0,
            ended_exactly: false,
            closes: false,
        }
    }

    /// Waits for the first byte of a head. Returns whether it came before the connection ended.
    /// Cancel-safe.
    pub(in crate::gateway) async fn wait_for_head(&mut self) -> bool {
        if !self.read_ahead.unread.is_empty() {
            // Requests that arrived together do not keep the thread from others.
            tokio::task::consume_budget().await;
            return true;
        }
        matches!(self.read_ahead.read_more().await, Ok(1..))
    }

    /// Reads a head of at most about `bytes_max`, within `timeout` of its first byte. A longer or
    /// slower one is left to Pingora's session, which answers it.
    pub async fn read_head(&mut self, bytes_max: usize, timeout: Duration) -> HeadRead {
        for _ in 0..HEAD_READS_MAX {
            match plain_head::parse(&self.read_ahead.unread) {
                Parsed::Plain(head) => {
                    self.begin(head);
                    return HeadRead::Plain;
                }
                Parsed::Partial if self.read_ahead.unread.len() <= bytes_max => {}
                Parsed::Partial | Parsed::Other => return HeadRead::Other,
            }
            let deadline = self.read_ahead.unread_since + timeout;
            match timeout_at(deadline.into(), self.read_ahead.read_more()).await {
                Ok(Ok(1..)) => {}
                Ok(Ok(0) | Err(_)) => return HeadRead::Ended,
                Err(_) => return HeadRead::Other,
            }
        }
        HeadRead::Other
    }

    fn begin(&mut self, head: PlainHead) {
        self.read_ahead.unread.advance(head.raw.len());
        self.body_left = head.framing.content_length.unwrap_or(0);
        self.ended_exactly = false;
        self.closes = head.framing.closes;
        self.head = Some(head);
    }

    fn head(&self) -> &PlainHead {
        self.head.as_ref().expect("a head was read")
    }

    /// Returns the head of the request.
    ///
    /// # Panics
    /// If none was read.
    pub fn req_header(&self) -> &RequestHeader {
        &self.head().header
    }

    /// Returns the bytes of the head as they were read.
    ///
    /// # Panics
    /// If none was read.
    pub fn raw_head(&self) -> &Bytes {
        &self.head().raw
    }

    pub(in crate::gateway) fn request_line(&self) -> RequestLine {
        self.head().request_line
    }

    /// Returns when the first byte of the head arrived, or that of the unread bytes.
    pub(in crate::gateway) fn first_byte(&self) -> Instant {
        self.read_ahead.unread_since
    }

    pub(in crate::gateway) fn peer(&self) -> IpAddr {
        self.peer
    }

    pub(in crate::gateway) fn is_tls(&self) -> bool {
        self.is_tls
    }

    pub(in crate::gateway) fn is_body_done(&self) -> bool {
        self.body_left == 0
    }

    /// Returns the bytes for which the reader of the body should have room: all that are left of it,
    /// or none if they were read with the head.
    pub(in crate::gateway) fn room_wanted(&self) -> usize {
        let left = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        if left <= self.read_ahead.unread.len() {
            return 0;
        }
        left
    }

    /// Reads the next part of the body, into `room` if there is any: what was read with the head,
    /// and then from the stream. Returns `None` at its end. No byte behind the body is read from the
    /// stream.
    ///
    /// # Errors
    /// When the connection ends or fails before the body does.
    pub async fn read_request_body(&mut self, mut room: BytesMut) -> PingoraResult<Option<Chunk>> {
        if self.body_left == 0 {
            return Ok(None);
        }
        let left = usize::try_from(self.body_left).unwrap_or(usize::MAX);
        let unread = &mut self.read_ahead.unread;
        let chunk = if unread.is_empty() {
            if room.capacity() == 0 {
                room.reserve(left.min(DISCARD_BYTES));
            }
            let stream = &mut self.read_ahead.stream;
            let most = left.min(READ_BYTES_MAX);
            let read = stream.read_buf(&mut (&mut room).limit(most)).await;
            if read.or_err(ErrorType::ReadError, "while reading a body")? == 0 {
                return Error::e_explain(ErrorType::ConnectionClosed, "while reading a body");
            }
            self.ended_exactly = true;
            Chunk::InRoom(room)
        } else {
            // Copied: a body that outlives its request would keep the head, too.
            let read = left.min(unread.len());
            let chunk = if room.capacity() < read {
                Chunk::Whole(Bytes::copy_from_slice(&unread[..read]))
            } else {
                room.extend_from_slice(&unread[..read]);
                self.ended_exactly = true;
                Chunk::InRoom(room)
            };
            unread.advance(read);
            chunk
        };
        self.body_left -= chunk.len() as u64;
        Ok(Some(chunk))
    }

    /// Writes the whole response, in one piece if it is not large. The body of a response to HEAD
    /// is left out.
    ///
    /// # Errors
    /// When the connection fails. The response may be written in part.
    pub async fn write_response(
        &mut self,
        mut head: Box<ResponseHeader>,
        body: Bytes,
    ) -> PingoraResult<()> {
        self.look_behind();
        // Written as lines: to insert a field takes longer.
        for name in [header::DATE, header::CONNECTION] {
            if head.headers.contains_key(&name) {
                head.remove_header(&name);
            }
        }
        let date = get_cached_date();
        let connection = if self.closes { "close" } else { "keep-alive" };
        let has_body = self.req_header().method != Method::HEAD
            && !matches!(
                head.status,
                StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
            );
        let body = if has_body { body } else { Bytes::new() };
        let is_joined = body.len() <= JOINED_BYTES_MAX;
        let joined = if is_joined { body.len() } else { 0 };
        let mut response = BytesMut::with_capacity(RESPONSE_HEAD_BYTES + joined);
        response.put_slice(b"HTTP/1.1 ");
        response.put_slice(head.status.as_str().as_bytes());
        response.put_u8(b' ');
        response.put_slice(head.get_reason_phrase().unwrap_or_default().as_bytes());
        response.put_slice(b"\r\n");
        head.header_to_h1_wire(&mut response);
        for (name, value) in [
            ("Date", date.as_bytes()),
            ("Connection", connection.as_bytes()),
        ] {
            response.put_slice(name.as_bytes());
            response.put_slice(b": ");
            response.put_slice(value);
            response.put_slice(b"\r\n");
        }
        response.put_slice(b"\r\n");
        let stream = &mut self.read_ahead.stream;
        let written = if is_joined {
            response.put_slice(&body);
            stream.write_all(&response).await
        } else {
            stream.write_all_buf(&mut response.chain(body)).await
        };
        written.or_err(ErrorType::WriteError, "while writing a response")?;
        let flushed = stream.flush().await;
        flushed.or_err(ErrorType::WriteError, "while writing a response")
    }

    pub(in crate::gateway) fn close_after_response(&mut self) {
        self.closes = true;
    }

    /// Reads what has arrived behind a body that was read exactly to its end, without waiting. What
    /// was sent together with a request is told by that from what came after the response.
    fn look_behind(&mut self) {
        if self.is_body_done() && std::mem::take(&mut self.ended_exactly) {
            // An end or an error comes again with the next read.
            let _ = self.read_ahead.read_more().now_or_never();
        }
    }

    /// Ends a request that was answered. Returns whether another may follow on the connection.
    pub fn finish(&mut self) -> bool {
        debug_assert!(self.is_body_done(), "the rest of a body is no request");
        self.look_behind();
        self.head = None;
        self.read_ahead.restart();
        !self.closes && self.is_body_done()
    }

    /// Returns the bytes that were read and belong to no request yet.
    pub fn unread(&self) -> &[u8] {
        &self.read_ahead.unread
    }

    /// Returns the connection for Pingora's session.
    pub(in crate::gateway) fn into_read_ahead(self) -> ReadAhead {
        self.read_ahead
    }

    /// Closes the connection.
    pub(in crate::gateway) async fn shutdown(&mut self) {
        Shutdown::shutdown(&mut *self.read_ahead.stream).await;
    }
}
