//! The floor under a durable gateway: one thread and epoll. It verifies a signature, remembers the
//! event's ID, forwards the request as it is, and writes a record durably before it answers. It has
//! no limits, deadlines, log or recovery, and reads of the JSON only the ID: what a gateway takes
//! beyond this is its own.

use std::collections::HashSet;
use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use hookstile_compare::event::{PATH, SECRET, Tag};
use hookstile_compare::exchange::{ResponseHead, content_length};
use hookstile_compare::segment::Segment;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use sha2::Sha256;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LISTENER: Token = Token(usize::MAX);
const EVENTS_AT_ONCE: usize = 256;
const SEGMENT_BYTES: usize = 16 << 20;
/// The length of a record: a key, an ID, a type, times and a status fit.
const RECORD_BYTES: usize = 150;
const HEAD_MAX: usize = 4096;
const RESPONSE_MAX: usize = 4096;

const UNAUTHORIZED: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const CONFLICT: &[u8] = b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n";

fn main() -> io::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [listen, upstream, folder] = arguments.as_slice() else {
        return Err(Error::new(ErrorKind::InvalidInput, "usage: peer-floor LISTEN UPSTREAM FOLDER"));
    };
    let address = |text: &str| text.parse::<SocketAddr>().map_err(|error| Error::new(ErrorKind::InvalidInput, error));
    let mut listener = TcpListener::bind(address(listen)?)?;
    let poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let floor = Floor {
        poll,
        listener,
        upstream: address(upstream)?,
        key: Hmac::new_from_slice(SECRET.as_bytes()).map_err(Error::other)?,
        connections: Vec::new(),
        known: HashSet::new(),
        segment: Segment::create(&Path::new(folder).join("segment"), SEGMENT_BYTES)?,
        records: Vec::new(),
        unanswered: Vec::new(),
    };
    floor.run()
}

struct Floor {
    poll: Poll,
    listener: TcpListener,
    upstream: SocketAddr,
    key: Hmac<Sha256>,
    /// All connections ever opened; a closed one is `None`. Number `n` has the tokens `2n` (the
    /// sender's side) and `2n + 1` (the upstream's).
    connections: Vec<Option<Connection>>,
    known: HashSet<Vec<u8>>,
    segment: Segment,
    /// The records to be written next, and the connections that get their response then.
    records: Vec<u8>,
    unanswered: Vec<usize>,
}

/// A sender's connection, with a connection to the upstream of its own.
struct Connection {
    sender: TcpStream,
    upstream: TcpStream,
    /// The request: `filled` bytes so far.
    request: Vec<u8>,
    filled: usize,
    head: Option<Head>,
    /// The number of bytes of the request that the upstream has; `None` while it is not forwarded.
    sent: Option<usize>,
    response: Vec<u8>,
}

struct Head {
    /// The lengths of the head, and of head and body.
    end: usize,
    total: usize,
    body: Body,
}

/// What is done with a body.
enum Body {
    /// It is hashed as it arrives, up to byte `hashed` of the request.
    Verify { mac: Hmac<Sha256>, hashed: usize, tag: Tag },
    /// It is read and dropped; the answer is known from the head.
    Drop { answer: &'static [u8] },
}

impl Floor {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        loop {
            // What was forwarded is committed when nothing else can be done.
            let timeout = (!self.unanswered.is_empty()).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            if events.is_empty() {
                self.commit()?;
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    Token(token) => self.advance(token, event.is_readable()),
                }
            }
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let mut sender = match self.listener.accept() {
                Ok((sender, _)) => sender,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let upstream = std::net::TcpStream::connect(self.upstream)?;
            upstream.set_nonblocking(true)?;
            let mut upstream = TcpStream::from_std(upstream);
            for stream in [&sender, &upstream] {
                stream.set_nodelay(true)?;
            }
            let token = 2 * self.connections.len();
            let registry = self.poll.registry();
            registry.register(&mut sender, Token(token), Interest::READABLE)?;
            registry.register(&mut upstream, Token(token + 1), Interest::READABLE | Interest::WRITABLE)?;
            self.connections.push(Some(Connection {
                sender,
                upstream,
                request: vec![0; HEAD_MAX],
                filled: 0,
                head: None,
                sent: None,
                response: Vec::with_capacity(RESPONSE_MAX),
            }));
        }
    }

    /// Goes on with a connection as far as possible. One that fails is closed.
    fn advance(&mut self, token: usize, readable: bool) {
        let number = token / 2;
        let advanced = if token.is_multiple_of(2) { self.receive(number) } else { self.exchange(number, readable) };
        if advanced.is_err() {
            self.connections[number] = None;
        }
    }

    /// Receives a request, and rejects it or forwards it.
    fn receive(&mut self, number: usize) -> io::Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        if !connection.read(&self.key)? {
            return Ok(());
        }
        match connection.verdict(&mut self.known)? {
            Some(answer) => connection.answer(answer),
            None => connection.forward(),
        }
    }

    /// Exchanges with the upstream: the rest of the request, and the response.
    fn exchange(&mut self, number: usize, readable: bool) -> io::Result<()> {
        let Some(connection) = &mut self.connections[number] else { return Ok(()) };
        connection.forward()?;
        if readable && connection.response_arrived()? {
            connection.record(&mut self.records);
            self.unanswered.push(number);
        }
        Ok(())
    }

    /// Writes the records, and sends the responses that waited for them.
    fn commit(&mut self) -> io::Result<()> {
        self.segment.append(&self.records)?;
        self.records.clear();
        for number in self.unanswered.drain(..) {
            let Some(connection) = &mut self.connections[number] else { continue };
            let response = std::mem::take(&mut connection.response);
            if connection.answer(&response).is_err() {
                self.connections[number] = None;
            } else {
                connection.response = response;
                connection.response.clear();
            }
        }
        Ok(())
    }
}

impl Connection {
    /// Reads what there is. Returns whether the request is whole.
    fn read(&mut self, key: &Hmac<Sha256>) -> io::Result<bool> {
        loop {
            let room = &mut self.request[self.filled..];
            if room.is_empty() {
                return Err(ErrorKind::InvalidData.into());
            }
            let (most, read) = match self.sender.read(room) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => (room.len(), read),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            self.filled += read;
            if self.head.is_none() {
                self.head = Head::parse(&self.request[..self.filled], key)?;
            }
            let Some(head) = &mut self.head else { continue };
            // A byte more than the request: a read that does not fill the buffer was the last one.
            if self.request.len() <= head.total {
                self.request.resize(head.total + 1, 0);
            }
            if let Body::Verify { mac, hashed, .. } = &mut head.body {
                mac.update(&self.request[*hashed..self.filled]);
                *hashed = self.filled;
            }
            if self.filled >= head.total {
                return Ok(true);
            }
            if read < most {
                // Epoll reports what comes from here on.
                return Ok(false);
            }
        }
    }

    /// Returns the answer to a whole request, or `None` if it is to be forwarded. A sender that
    /// sends its next request before the response is not heard.
    fn verdict(&mut self, known: &mut HashSet<Vec<u8>>) -> io::Result<Option<&'static [u8]>> {
        let Some(head) = &self.head else { return Err(ErrorKind::InvalidData.into()) };
        if self.filled > head.total {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(match &head.body {
            Body::Drop { answer } => Some(answer),
            Body::Verify { mac, tag, .. } if mac.clone().verify_slice(tag).is_err() => Some(UNAUTHORIZED),
            Body::Verify { .. } => {
                let id = top_level_id(&self.request[head.end..head.total]).unwrap_or_default();
                let is_new = known.insert(id.to_vec());
                if is_new {
                    self.sent = Some(0);
                }
                (!is_new).then_some(CONFLICT)
            }
        })
    }

    /// Sends of the request what the upstream takes now.
    fn forward(&mut self) -> io::Result<()> {
        let (Some(sent), Some(head)) = (&mut self.sent, &self.head) else { return Ok(()) };
        while *sent < head.total {
            match self.upstream.write(&self.request[*sent..head.total]) {
                Ok(written) => *sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads of the response what there is. Returns whether it is whole.
    fn response_arrived(&mut self) -> io::Result<bool> {
        let filled = self.response.len();
        self.response.resize(RESPONSE_MAX, 0);
        let read = self.upstream.read(&mut self.response[filled..]);
        self.response.truncate(filled + read.as_ref().map_or(0, |read| *read));
        match read {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
        let head = ResponseHead::parse(&self.response)?;
        Ok(head.is_some_and(|head| self.response.len() >= head.end + head.length))
    }

    /// Appends the record of the event: its tag, its ID, and as much as the rest of a record takes.
    fn record(&self, records: &mut Vec<u8>) {
        let Some(Head { end, total, body: Body::Verify { tag, .. } }) = &self.head else { return };
        let start = records.len();
        records.extend_from_slice(&[0; size_of::<u32>()]);
        records.extend_from_slice(tag);
        records.extend_from_slice(top_level_id(&self.request[*end..*total]).unwrap_or_default());
        records.resize(start + RECORD_BYTES, 1);
        let checksum = crc32fast::hash(&records[start + size_of::<u32>()..]);
        records[start..][..size_of::<u32>()].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Sends a response, and is ready for the next request.
    fn answer(&mut self, response: &[u8]) -> io::Result<()> {
        self.sender.write_all(response)?;
        (self.filled, self.head, self.sent) = (0, None, None);
        Ok(())
    }
}

impl Head {
    /// Parses the head of a request; returns `None` while it is incomplete.
    fn parse(bytes: &[u8], key: &Hmac<Sha256>) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(bytes).map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        let httparse::Status::Complete(end) = parsed else { return Ok(None) };
        let length = content_length(request.headers).ok_or(ErrorKind::InvalidData)?;
        let body = match tag(request.headers) {
            _ if request.path != Some(PATH) => Body::Drop { answer: NOT_FOUND },
            None => Body::Drop { answer: UNAUTHORIZED },
            Some(tag) => Body::Verify { mac: key.clone(), hashed: end, tag },
        };
        Ok(Some(Self { end, total: end + length, body }))
    }
}

fn tag(headers: &[httparse::Header]) -> Option<Tag> {
    let header = headers.iter().find(|header| header.name.eq_ignore_ascii_case("x-vpn-signature"))?;
    let mut tag = Tag::default();
    hex::decode_to_slice(header.value.strip_prefix(b"sha256=")?, &mut tag).ok()?;
    Some(tag)
}

/// Returns the first member `id` of the outermost object, if it is text. Nothing behind it is read.
fn top_level_id(json: &[u8]) -> Option<&[u8]> {
    let (mut depth, mut position, mut is_name) = (0, 0, false);
    while let Some(byte) = json.get(position) {
        position += 1;
        match byte {
            b'{' | b'[' => (depth, is_name) = (depth + 1, *byte == b'{'),
            b'}' | b']' => depth -= 1,
            b',' => is_name = true,
            b':' => is_name = false,
            b'"' => {
                let text = text(&json[position..])?;
                position += text.len() + 1;
                if depth == 1 && is_name && text == b"id" {
                    let value = json[position..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
                    return self::text(value.strip_prefix(b"\"")?);
                }
            }
            _ => {}
        }
    }
    None
}

/// Returns the text up to the quotation mark that ends it.
fn text(json: &[u8]) -> Option<&[u8]> {
    let mut escaped = false;
    let end = json.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(&json[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_that_of_the_outermost_object() {
        for json in [
            r#"{"id":"evt_1","data":{"id":"evt_2"}}"#,
            r#"{"data":{"id":"evt_2"},"id" : "evt_1"}"#,
            r#"{"data":["id","id"],"note":"\"id\":\"evt_2\"","to":"id","id":"evt_1"}"#,
        ] {
            assert_eq!(top_level_id(json.as_bytes()), Some(&b"evt_1"[..]), "{json}");
        }
        assert_eq!(top_level_id(br#"{"data":{"id":"evt_2"}}"#), None);
    }
}
