//! One sender's connection: a request, its answer, and so on over the same socket.

use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::event::{Events, Tag};

const MOST_HEADERS: usize = 64;

/// A connection that is made when it is needed, and kept while the peer keeps it.
pub struct Connection {
    to: SocketAddr,
    stream: Option<TcpStream>,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub fn new(to: SocketAddr) -> Self {
        Self { to, stream: None, request: Vec::new(), answer: Vec::with_capacity(4096) }
    }

    /// Sends an event and reads the whole answer, whose status it returns.
    pub async fn exchange(&mut self, events: &Events, number: usize, tag: &Tag) -> Result<u16> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => connect(self.to).await?,
        };
        events.begin(number, tag, &mut self.request);
        stream.write_all_buf(&mut Buf::chain(self.request.as_slice(), events.rest())).await?;
        self.answer.clear();
        let head = loop {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "closed before the answer"));
            }
            if let Some(head) = Head::parse(&self.answer)? {
                break head;
            }
        };
        while self.answer.len() < head.end + head.length {
            if stream.read_buf(&mut self.answer).await? == 0 {
                return Err(Error::new(ErrorKind::UnexpectedEof, "closed within the answer"));
            }
        }
        self.stream = head.keeps_alive.then_some(stream);
        Ok(head.status)
    }
}

async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

struct Head {
    status: u16,
    /// Bytes up to the body, and of the body.
    end: usize,
    length: usize,
    keeps_alive: bool,
}

impl Head {
    /// `None` while it is not all there.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let invalid = |reason: String| Error::new(ErrorKind::InvalidData, reason);
        let httparse::Status::Complete(end) = answer.parse(bytes).map_err(|error| invalid(error.to_string()))? else {
            return Ok(None);
        };
        let status = answer.code.unwrap_or_default();
        let header = |name: &str| answer.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        let length = match content_length(answer.headers) {
            Some(length) => length,
            None if status == 204 => 0,
            None => return Err(invalid(format!("an answer with {status} and without Content-Length"))),
        };
        let closes = header("connection").is_some_and(|header| header.value.eq_ignore_ascii_case(b"close"));
        Ok(Some(Self { status, end, length, keeps_alive: !closes }))
    }
}

/// `None` where it is missing or no number.
pub fn content_length(headers: &[httparse::Header]) -> Option<usize> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"))?;
    std::str::from_utf8(header.value).ok()?.trim().parse().ok()
}
