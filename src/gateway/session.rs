//! The session that one request is read from and answered on, as the request stage sees it.

mod plain;
mod plain_head;

use std::net::IpAddr;
use std::ops::Deref;

use bytes::{Bytes, BytesMut};
use pingora_core::Result as PingoraResult;
use pingora_core::protocols::http::ServerSession;
use pingora_http::{RequestHeader, ResponseHeader};

use super::address;

pub use plain::{HeadRead, PlainSession};

/// The session of one request.
pub(super) enum Session<'c> {
    /// The gateway's own session, for plain requests over HTTP/1.1.
    Plain(&'c mut PlainSession),
    /// Pingora's session, over HTTP/1.1 or HTTP/2.
    Pingora(&'c mut ServerSession),
}

/// A part of a body.
#[derive(Debug)]
pub enum Chunk {
    /// A buffer of its own.
    Whole(Bytes),
    /// The buffer that was given to read into.
    InRoom(BytesMut),
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) => bytes,
            Self::InRoom(bytes) => bytes,
        }
    }
}

impl Session<'_> {
    /// Returns the head of the request. It must have been read.
    pub(super) fn req_header(&self) -> &RequestHeader {
        match self {
            Self::Plain(session) => session.req_header(),
            Self::Pingora(session) => session.req_header(),
        }
    }

    /// Returns the bytes of the head as they were read; `None` over HTTP/2.
    pub(super) fn raw_head(&self) -> Option<Bytes> {
        match self {
            Self::Plain(session) => Some(session.raw_head().clone()),
            Self::Pingora(session) => session
                .as_http1()
                .map(|http1| http1.get_headers_raw_bytes()),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Pingora(session) => session.is_http2(),
        }
    }

    /// Returns the address of the peer, as its connection or its PROXY protocol header has it.
    pub(super) fn peer(&self) -> IpAddr {
        match self {
            Self::Plain(session) => session.peer(),
            Self::Pingora(session) => address::ip_of(session.client_addr()),
        }
    }

    /// Returns whether the whole body was read.
    pub(super) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Plain(session) => session.is_body_done(),
            Self::Pingora(session) => session.is_body_done(),
        }
    }

    /// Returns the bytes for which the next read of the body can use room.
    pub(super) fn room_wanted(&self) -> usize {
        match self {
            Self::Plain(session) => session.room_wanted(),
            // Reads into a buffer of its own.
            Self::Pingora(_) => 0,
        }
    }

    /// Reads the next part of the body, into `room` if the session can use that. Returns `None` at
    /// its end.
    pub(super) async fn read_request_body(
        &mut self,
        room: BytesMut,
    ) -> PingoraResult<Option<Chunk>> {
        match self {
            Self::Plain(session) => session.read_request_body(room).await,
            Self::Pingora(session) => {
                let chunk = session.read_request_body().await?;
                Ok(chunk.map(Chunk::Whole))
            }
        }
    }

    /// Tells a sender that waits for 100 (Continue) to send the body.
    pub(super) async fn write_continue_response(&mut self) -> PingoraResult<()> {
        match self {
            // A request that expects something is not plain.
            Self::Plain(_) => Ok(()),
            Self::Pingora(session) => session.write_continue_response().await,
        }
    }

    /// Writes the whole response. Over HTTP/1.1, the body of a response to HEAD is left out.
    pub(super) async fn write_response(
        &mut self,
        head: Box<ResponseHeader>,
        body: Bytes,
    ) -> PingoraResult<()> {
        match self {
            Self::Plain(session) => session.write_response(head, body).await,
            Self::Pingora(session) => {
                session.write_response_header(head).await?;
                session.write_response_body(body, true).await
            }
        }
    }

    /// Closes the connection behind the response, over HTTP/1.1.
    pub(super) fn close_after_response(&mut self) {
        match self {
            Self::Plain(session) => session.close_after_response(),
            Self::Pingora(session) => session.set_keepalive(None),
        }
    }
}

#[cfg(test)]
mod tests;
