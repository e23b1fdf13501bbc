//! HTTP/2 by hand (RFC 9113): sends frames with any bytes to the gateway and reads its frames.
//! Header blocks are literals, so that a test can put into them what no library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::wait::within;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 0x20;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub fn frame(frame_type: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([frame_type, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Returns a settings frame with this one setting.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(
        SETTINGS,
        0,
        0,
        &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat(),
    )
}

/// Encodes fields as a header block (RFC 7541 §6.2.2: literals without indexing, no Huffman
/// coding).
pub fn block<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// Writes a string's length (RFC 7541 §5.1, with a prefix of 7 bits).
fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        return block.push(low_byte(length));
    };
    block.push(127);
    while rest >= 128 {
        block.push(low_byte(rest % 128) | 128);
        rest /= 128;
    }
    block.push(low_byte(rest));
}

fn low_byte(number: usize) -> u8 {
    number.to_le_bytes()[0]
}

/// The result of a stream or of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answered(u16),
    /// `RST_STREAM` with this code (RFC 9113 §7).
    Reset(u32),
    GoAway(u32),
    /// The connection was closed without a frame.
    Closed,
}

/// A cleartext connection that has sent its preface and an empty settings frame.
pub struct RawHttp2 {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
}

impl RawHttp2 {
    pub async fn connect(to: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(to))
            .await
            .expect("the gateway accepts");
        stream.set_nodelay(true).expect("a socket option");
        let (read, write) = stream.into_split();
        let mut frames = Self { read, write };
        frames
            .write(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
            .await;
        frames
    }

    /// Writes bytes and reads nothing. Writing to a closed connection does nothing.
    pub async fn write(&mut self, bytes: &[u8]) {
        let _ = within("write", self.write.write_all(bytes)).await;
    }

    /// Returns the first result of any stream or of the connection. Only the first response of a
    /// connection can be decoded.
    pub async fn end(&mut self) -> End {
        within("an end over HTTP/2", next_end(&mut self.read)).await
    }

    /// Returns the gateway's initial settings.
    pub async fn settings(&mut self) -> Vec<(u16, u32)> {
        let (frame_type, payload) = within("settings", read_frame(&mut self.read))
            .await
            .expect("a frame");
        assert_eq!(frame_type, SETTINGS);
        payload
            .chunks_exact(6)
            .map(|bytes: &[u8]| {
                (
                    u16::from_be_bytes([bytes[0], bytes[1]]),
                    number(&bytes[2..]),
                )
            })
            .collect()
    }

    /// Writes the bytes again and again while reading, until the gateway ends the connection or has
    /// read everything. Returns how it ended the connection, if it did.
    pub async fn flood(self, bytes: &[u8], times: usize) -> Option<End> {
        const LAST: [u8; 8] = *b"the last";
        let Self {
            mut read,
            mut write,
        } = self;
        let reading = async {
            loop {
                match read_frame(&mut read).await {
                    None => return Some(End::Closed),
                    Some((GOAWAY, payload)) => return Some(End::GoAway(number(&payload[4..]))),
                    Some((PING, payload)) if payload == LAST => return None,
                    Some(_) => {}
                }
            }
        };
        let writing = async {
            for _ in 0..times {
                let _ = write.write_all(bytes).await;
            }
            let _ = write.write_all(&frame(PING, 0, 0, &LAST)).await;
            std::future::pending().await
        };
        let flooding = async {
            tokio::select! {
                end = reading => end,
                end = writing => end,
            }
        };
        within("a flood", flooding).await
    }

    /// Waits until the gateway closes the connection.
    pub async fn wait_for_close(&mut self) {
        let closing = async { while read_frame(&mut self.read).await.is_some() {} };
        within("the gateway closes the connection", closing).await;
    }
}

async fn next_end(read: &mut OwnedReadHalf) -> End {
    loop {
        match read_frame(read).await {
            None => return End::Closed,
            Some((HEADERS, block)) => return End::Answered(status(&block)),
            Some((RST_STREAM, payload)) => return End::Reset(number(&payload)),
            Some((GOAWAY, payload)) => return End::GoAway(number(&payload[4..])),
            Some(_) => {}
        }
    }
}

/// Reads a frame's type and payload; returns `None` at the end of the connection.
async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head).await.ok()?;
    let [a, b, c, frame_type, ..] = head;
    let length = u32::from_be_bytes([0, a, b, c]);
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    from.read_exact(&mut payload).await.ok()?;
    Some((frame_type, payload))
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// Decodes the status at the start of a connection's first response: from the static table, or as
/// digits, Huffman-coded or plain. Returns 0 for a reference to an earlier response.
fn status(block: &[u8]) -> u16 {
    const KNOWN: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    let start = block
        .iter()
        .position(|byte| byte & 0xe0 != 0x20)
        .expect("more than table sizes");
    let digits = match block[start..] {
        [indexed @ 0x88..=0x8e, ..] => return KNOWN[usize::from(indexed - 0x88)],
        [0x48 | 0x08, 3, ref digits @ ..] => digits[..3].iter().map(|digit| digit - b'0').collect(),
        [0x48 | 0x08, length, ref coded @ ..] if length & 0x80 != 0 => {
            huffman_digits(&coded[..usize::from(length & 0x7f)])
        }
        _ => Vec::new(),
    };
    digits
        .into_iter()
        .take(3)
        .fold(0, |status, digit| status * 10 + u16::from(digit))
}

/// Decodes digits (RFC 7541 appendix B): 0 to 2 have five bits, 3 to 9 six.
fn huffman_digits(coded: &[u8]) -> Vec<u8> {
    let bits: Vec<u8> = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
        .collect();
    let value = |bits: &[u8]| bits.iter().fold(0, |value, bit| value << 1 | bit);
    let mut digits = Vec::new();
    let mut rest = &bits[..];
    while rest.len() >= 6 || (rest.len() == 5 && value(rest) < 3) {
        let (digit, used) = match value(&rest[..5]) {
            digit @ 0..=2 => (digit, 5),
            _ => (value(&rest[..6]).wrapping_sub(0b01_1001).wrapping_add(3), 6),
        };
        digits.push(digit);
        rest = &rest[used..];
    }
    digits
}
