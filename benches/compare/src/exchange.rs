//! A sender's connection: requests and responses, one after the other over the same socket.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::event::{Events, Kind, Tag};
use crate::socket::{Socket, Tls, connect};

const MOST_HEADERS: usize = 64;

/// A connection that is opened on demand and kept as long as the peer keeps it.
pub struct Connection {
    to: SocketAddr,
    tls: Option<Tls>,
    /// Whether it is used for more than one request.
    kept: bool,
    stream: Option<Box<dyn Socket>>,
    request: Vec<u8>,
    response: Vec<u8>,
    /// How often the connection was opened.
    opened: usize,
}

impl Connection {
    pub fn new(to: SocketAddr, tls: Option<Tls>, kept: bool) -> Self {
        Self { to, tls, kept, stream: None, request: Vec::new(), response: Vec::with_capacity(4096), opened: 0 }
    }

    pub fn opened(&self) -> usize {
        self.opened
    }

    /// Sends an event, reads the whole response and returns its status.
    pub async fn exchange(&mut self, events: &Events, number: usize, tag: &Tag, kind: Kind) -> Result<u16> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            self.opened += 1;
            connect(self.to, self.tls.as_ref()).await?
        };
        events.begin(number, tag, kind, &mut self.request);
        stream.write_all_buf(&mut Buf::chain(self.request.as_slice(), events.rest())).await?;
        stream.flush().await?;
        self.response.clear();
        let head = loop {
            if stream.read_buf(&mut self.response).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "closed before the response"));
            }
            if let Some(head) = ResponseHead::parse(&self.response)? {
                break head;
            }
        };
        while self.response.len() < head.end + head.length {
            if stream.read_buf(&mut self.response).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "closed within the response"));
            }
        }
        if !self.kept {
            // Says that it closes, as TLS wants it; the peer may have done so before.
            let _ = stream.shutdown().await;
        } else if head.keeps_alive {
            self.stream = Some(stream);
        }
        Ok(head.status)
    }
}

/// The head of a response.
pub struct ResponseHead {
    pub status: u16,
    /// The length of the head, and of the body, in bytes.
    pub end: usize,
    pub length: usize,
    keeps_alive: bool,
}

impl ResponseHead {
    /// Parses a head; returns `None` while it is incomplete.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let invalid = |reason: String| Error::new(ErrorKind::InvalidData, reason);
        let httparse::Status::Complete(end) = response.parse(bytes).map_err(|error| invalid(error.to_string()))? else {
            return Ok(None);
        };
        let status = response.code.unwrap_or_default();
        let header = |name: &str| response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        let length = match content_length(response.headers) {
            Some(length) => length,
            None if status == 204 => 0,
            None => return Err(invalid(format!("a response with {status} and without Content-Length"))),
        };
        let closes = header("connection").is_some_and(|header| header.value.eq_ignore_ascii_case(b"close"));
        Ok(Some(Self { status, end, length, keeps_alive: !closes }))
    }
}

/// Returns the content length, or `None` if it is missing or not a number.
pub fn content_length(headers: &[httparse::Header]) -> Option<usize> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}
