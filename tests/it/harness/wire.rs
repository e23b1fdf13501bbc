//! HTTP/1.1 messages as bytes: a small, strict reader that the fake upstream and the sender share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Header fields in the order and spelling of the wire (bytes as Latin-1).
#[derive(Clone, Debug, Default)]
pub struct Headers(pub Vec<(String, String)>);

impl Headers {
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.0
            .iter()
            .filter(|(n, _): &&(String, String)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.as_str())
            .collect()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }
}

/// One message: its start line, fields and decoded body, and the raw head.
#[derive(Clone, Debug)]
pub struct Message {
    pub start: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub head: Vec<u8>,
}

/// The end of a body that has neither `Content-Length` nor `Transfer-Encoding`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// A request: it has no body.
    Request,
    /// A response: the body ends with the connection.
    Response,
    /// A response to `HEAD`: it has no body, whatever its head says.
    ResponseToHead,
}

/// Reads messages from one connection and counts every byte.
#[derive(Default)]
pub struct Reader {
    buffer: Vec<u8>,
    counter: Option<Arc<AtomicUsize>>,
}

impl Reader {
    pub fn counting(counter: Arc<AtomicUsize>) -> Self {
        Self {
            buffer: Vec::new(),
            counter: Some(counter),
        }
    }

    /// Reads the next message; returns `None` if the connection ended before one began.
    pub async fn message<R>(&mut self, from: &mut R, kind: Kind) -> io::Result<Option<Message>>
    where
        R: AsyncRead + Unpin,
    {
        let Some(head) = self.read_head(from).await? else {
            return Ok(None);
        };
        let (start, headers) = parse_head(&head)?;
        let body = match body_framing(&start, &headers, kind)? {
            Body::None => Vec::new(),
            Body::Length(length) => self.read_exact(from, length).await?,
            Body::Chunked => self.read_chunks(from).await?,
            Body::UntilClose => self.rest(from).await,
        };
        Ok(Some(Message {
            start,
            headers,
            body,
            head,
        }))
    }

    /// Reads everything up to the end of the connection, however it ends.
    pub async fn rest<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> Vec<u8> {
        while matches!(self.fill(from).await, Ok(n) if n > 0) {}
        std::mem::take(&mut self.buffer)
    }

    async fn read_head<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
    ) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                return Ok(Some(self.buffer.drain(..end + 4).collect()));
            }
            if self.fill(from).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(broken("head cut off"))
                };
            }
        }
    }

    async fn read_exact<R: AsyncRead + Unpin>(
        &mut self,
        from: &mut R,
        length: usize,
    ) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            if self.fill(from).await? == 0 {
                return Err(broken("body cut off"));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn read_chunks<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = self.read_line(from).await?;
            let size = usize::from_str_radix(&size, 16).map_err(|_| broken("chunk size"))?;
            if size == 0 {
                while !self.read_line(from).await?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.read_exact(from, size).await?);
            if self.read_exact(from, 2).await? != b"\r\n" {
                return Err(broken("chunk end"));
            }
        }
    }

    async fn read_line<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self
                    .buffer
                    .drain(..end + 2)
                    .take(end)
                    .map(char::from)
                    .collect();
                return Ok(line);
            }
            if self.fill(from).await? == 0 {
                return Err(broken("line cut off"));
            }
        }
    }

    async fn fill<R: AsyncRead + Unpin>(&mut self, from: &mut R) -> io::Result<usize> {
        let count = from.read_buf(&mut self.buffer).await?;
        if let Some(counter) = &self.counter {
            counter.fetch_add(count, Ordering::SeqCst);
        }
        Ok(count)
    }
}

enum Body {
    None,
    Length(usize),
    Chunked,
    UntilClose,
}

fn body_framing(start: &str, headers: &Headers, kind: Kind) -> io::Result<Body> {
    let code = start.split(' ').nth(1).unwrap_or_default();
    let bodiless =
        kind != Kind::Request && (code.starts_with('1') || code == "204" || code == "304");
    if kind == Kind::ResponseToHead || bodiless {
        return Ok(Body::None);
    }
    if let Some(coding) = headers.get("transfer-encoding") {
        let chunked = coding.eq_ignore_ascii_case("chunked");
        return if chunked {
            Ok(Body::Chunked)
        } else {
            Err(broken("transfer coding"))
        };
    }
    match headers.get("content-length") {
        Some(length) => Ok(Body::Length(
            length.parse().map_err(|_| broken("content length"))?,
        )),
        None if kind == Kind::Request => Ok(Body::None),
        None => Ok(Body::UntilClose),
    }
}

fn parse_head(head: &[u8]) -> io::Result<(String, Headers)> {
    let text: String = head[..head.len() - 4]
        .iter()
        .copied()
        .map(char::from)
        .collect();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let fields = lines
        .map(|line: &str| {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| broken("field without a colon"))?;
            Ok((name.to_owned(), value.trim().to_owned()))
        })
        .collect::<io::Result<_>>()?;
    Ok((start, Headers(fields)))
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
