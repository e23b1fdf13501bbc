//! The requests of an HTTP/1.1 connection from the first that is not plain: one after the other on
//! Pingora's session.

use std::pin::{Pin, pin};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pingora_core::ErrorType;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use tokio::time::{Sleep, timeout};

use super::super::first_byte::{FirstByte, FirstByteStream, Pace};
use super::super::read_ahead::ReadAhead;
use super::super::wait::shutdown_wait;
use super::super::{CLOSE_TIMEOUT, Ending};
use crate::gateway::Gateway;
use crate::gateway::request::exchange::Exchange;
use crate::gateway::request::head::{Arrival, MalformedHead, Place};
use crate::gateway::response::Rejection;
use crate::gateway::session::Session;

impl Gateway {
    /// Handles the requests of a connection for as long as it is kept. `place` is that of the next
    /// one, of which some bytes may have been read.
    pub(super) async fn serve_with_pingora(
        &self,
        connection: ReadAhead,
        mut place: Place,
        ending: &Ending,
    ) {
        let is_tls = connection.stream.get_ssl_digest().is_some();
        let first_byte = FirstByte::default();
        let mut stream: Stream = Box::new(FirstByteStream::new(
            connection,
            first_byte.clone(),
            Pace::AtOnce,
        ));
        let mut read_ahead = None;
        // Both last for all requests: it takes a lock to start a timer, or to begin to wait.
        let mut idle = pin!(tokio::time::sleep(Duration::ZERO));
        let mut stop = pin!(shutdown_wait(&ending.stop));
        loop {
            let mut session = new_session(stream, read_ahead);
            let limits = self.head_limits();
            first_byte.set_head_bytes_max(limits.bytes);
            idle.as_mut()
                .reset((Instant::now() + limits.idle_timeout).into());
            let idle_end = (idle.as_mut(), stop.as_mut());
            let read = read_head(&mut session, &first_byte, limits.timeout, idle_end).await;
            let Some(began) = first_byte.get() else {
                return;
            };
            let received_at = self.clock.wall();
            let counted = self.verified_requests.request(None);
            match read {
                ReadHead::Complete => first_byte.head_complete(),
                ReadHead::Nothing => return,
                ReadHead::Rejected(rejection) => {
                    session.set_keepalive(None);
                    let failed = Session::Pingora(&mut session);
                    let exchange =
                        Exchange::without_head(failed, &counted, began, received_at, is_tls);
                    self.reject(exchange, rejection, &ending.stop).await;
                    return close(session).await;
                }
            }
            let request_line = Some(first_byte.request_line());
            let arrival = Arrival {
                place,
                request_line,
            };
            // Boxed: most connections are idle most of the time and need no room for a request.
            let request = Session::Pingora(&mut session);
            let exchange = Exchange::new(request, &counted, began, received_at, is_tls, arrival);
            let memory = self.request_limits.begin();
            if !Box::pin(self.handle(exchange, memory, ending)).await {
                return close(session).await;
            }
            let Ok(Some(reusable)) = session.finish().await else {
                return;
            };
            let behind;
            (stream, behind) = reusable.into_parts();
            // Copied: a few bytes would keep a whole read buffer while the connection is idle.
            read_ahead = behind.map(|bytes| BytesMut::from(&bytes[..]));
            first_byte.rearm();
            if let Some(read_ahead) = &read_ahead {
                first_byte.record_read(read_ahead, Instant::now());
            }
            place = match first_byte.get() {
                Some(_) => Place::Pipelined,
                None => Place::Kept,
            };
        }
    }
}

/// Begins a session for the next request, of which some bytes may have been read with the one
/// before.
fn new_session(stream: Stream, read_ahead: Option<BytesMut>) -> ServerSession {
    let mut session = ServerSession::new_http1(stream);
    // Without this, Pingora would close the connection behind a response that says it is kept.
    session.set_pipelining_enabled(true);
    if let Some(read_ahead) = read_ahead {
        session.set_pipelined_prefix(read_ahead);
    }
    // The gateway decides whether a connection is kept; Pingora would give it up at the first
    // 100 (Continue).
    session.set_close_on_response_before_downstream_finish(false);
    // The gateway puts a deadline of its own around every read.
    session.set_read_timeout(None);
    session
}

/// What ends the wait for a first byte: its timeout, and the shutdown.
type IdleEnd<'w, Stop> = (Pin<&'w mut Sleep>, Pin<&'w mut Stop>);

/// The result of reading a head.
enum ReadHead {
    Complete,
    /// There is no request to answer.
    Nothing,
    Rejected(Rejection),
}

/// Reads a head: until `idle_end` until its first byte, within the header timeout from then on.
async fn read_head(
    session: &mut ServerSession,
    first_byte: &FirstByte,
    timeout: Duration,
    idle_end: IdleEnd<'_, impl Future<Output = ()>>,
) -> ReadHead {
    tokio::select! {
        biased;
        read = session.read_request() => match read {
            Ok(true) => ReadHead::Complete,
            Err(error) if *error.etype() == ErrorType::InvalidHTTPHeader => {
                ReadHead::Rejected(rejection_of(&error))
            }
            Ok(false) | Err(_) => ReadHead::Nothing,
        },
        () = first_byte.head_too_large() => ReadHead::Rejected(Rejection::HeadersTooLarge),
        timed_out = head_timeout(first_byte, timeout, idle_end) => timed_out,
    }
}

/// Waits until the idle wait ends without a first byte, or the head takes longer than `timeout`.
async fn head_timeout(
    first_byte: &FirstByte,
    timeout: Duration,
    (idle, stop): IdleEnd<'_, impl Future<Output = ()>>,
) -> ReadHead {
    let received: Instant = tokio::select! {
        biased;
        received = first_byte.received() => received,
        () = idle => return ReadHead::Nothing,
        () = stop => return ReadHead::Nothing,
    };
    tokio::time::sleep_until((received + timeout).into()).await;
    ReadHead::Rejected(Rejection::BodyTimeout)
}

/// Closes a connection, without waiting for a sender that does not read what is left to be written.
async fn close(mut session: ServerSession) {
    let _ = timeout(CLOSE_TIMEOUT, session.shutdown()).await;
}

/// Returns the rejection for a head that Pingora could not read. Only the text of the error differs
/// between a head that is too large and a malformed one.
fn rejection_of(error: &pingora_core::Error) -> Rejection {
    let text = error.to_string();
    if text.contains("larger than") || text.contains("too many headers") {
        return Rejection::HeadersTooLarge;
    }
    Rejection::MalformedRequest(MalformedHead::Unparsable)
}
