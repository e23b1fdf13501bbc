//! The session that one request is read from and answered on, as the request stage sees it.

use std::net::IpAddr;

use bytes::Bytes;
use pingora_core::Result as PingoraResult;
use pingora_core::protocols::http::ServerSession;
use pingora_http::{RequestHeader, ResponseHeader};

use super::address;

/// The session of one request.
pub(super) enum Session<'c> {
    /// Pingora's session, over HTTP/1.1 or HTTP/2.
    Pingora(&'c mut ServerSession),
}

impl Session<'_> {
    /// Returns the head of the request. It must have been read.
    pub(super) fn req_header(&self) -> &RequestHeader {
        match self {
            Self::Pingora(session) => session.req_header(),
        }
    }

    /// Returns the bytes of the head as they were read; `None` over HTTP/2.
    pub(super) fn raw_head(&self) -> Option<Bytes> {
        match self {
            Self::Pingora(session) => session
                .as_http1()
                .map(|http1| http1.get_headers_raw_bytes()),
        }
    }

    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Pingora(session) => session.is_http2(),
        }
    }

    /// Returns the address of the peer, as its connection or its PROXY protocol header has it.
    pub(super) fn peer(&self) -> IpAddr {
        match self {
            Self::Pingora(session) => address::ip_of(session.client_addr()),
        }
    }

    /// Returns whether the whole body was read.
    pub(super) fn is_body_done(&mut self) -> bool {
        match self {
            Self::Pingora(session) => session.is_body_done(),
        }
    }

    /// Reads the next part of the body. Returns `None` at its end.
    pub(super) async fn read_request_body(&mut self) -> PingoraResult<Option<Bytes>> {
        match self {
            Self::Pingora(session) => session.read_request_body().await,
        }
    }

    /// Tells a sender that waits for 100 (Continue) to send the body.
    pub(super) async fn write_continue_response(&mut self) -> PingoraResult<()> {
        match self {
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
            Self::Pingora(session) => {
                session.write_response_header(head).await?;
                session.write_response_body(body, true).await
            }
        }
    }

    /// Closes the connection behind the response, over HTTP/1.1.
    pub(super) fn close_after_response(&mut self) {
        match self {
            Self::Pingora(session) => session.set_keepalive(None),
        }
    }
}
