//! The requests of an HTTP/1.1 connection, one after the other: on a session of the gateway's own as
//! long as they are plain.
//!
//! From the first request that is not plain, Pingora's session serves the connection ([`pingora`]).

mod pingora;

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::read_ahead::ReadAhead;
use super::wait::shutdown_wait;
use super::{CLOSE_TIMEOUT, Ending};
use crate::gateway::Gateway;
use crate::gateway::request::exchange::Exchange;
use crate::gateway::request::head::{Arrival, Place};
use crate::gateway::session::{HeadRead, PlainSession, Session};

impl Gateway {
    /// Handles the requests of a connection for as long as it is kept.
    pub(super) async fn serve_http1(&self, connection: ReadAhead, ending: Ending) {
        let mut session = PlainSession::with_read_ahead(connection);
        let mut place = Place::First;
        // Both last for all requests: it takes a lock to start a timer, or to begin to wait.
        let mut idle = pin!(tokio::time::sleep(Duration::ZERO));
        let mut stop = pin!(shutdown_wait(&ending.stop));
        loop {
            let limits = self.head_limits();
            idle.as_mut()
                .reset((Instant::now() + limits.idle_timeout).into());
            let has_begun = tokio::select! {
                biased;
                has_begun = session.wait_for_head() => has_begun,
                () = idle.as_mut() => false,
                () = stop.as_mut() => false,
            };
            if !has_begun {
                return;
            }
            match session.read_head(limits.bytes, limits.timeout).await {
                HeadRead::Plain => {}
                HeadRead::Other => break,
                HeadRead::Ended => return,
            }
            let received_at = self.clock.wall();
            let counted = self.verified_requests.request(None);
            let arrival = Arrival {
                place,
                request_line: Some(session.request_line()),
            };
            let (began, is_tls) = (session.first_byte(), session.is_tls());
            let request = Session::Plain(&mut session);
            // Boxed: most connections are idle most of the time and need no room for a request.
            let exchange = Exchange::new(request, &counted, began, received_at, is_tls, arrival);
            let memory = self.request_limits.begin();
            let is_kept = Box::pin(self.handle(exchange, memory, &ending)).await;
            if !is_kept || !session.finish() {
                return close(session).await;
            }
            place = place_of_next(session.unread());
        }
        let connection = session.into_read_ahead();
        // Boxed: a plain connection needs no room for Pingora's session.
        Box::pin(self.serve_with_pingora(connection, place, &ending)).await;
    }
}

/// Returns the place of the request behind another one, with which `unread` has arrived. An empty
/// line does not begin a request: some senders end a body with one (RFC 9112 §2.2).
fn place_of_next(unread: &[u8]) -> Place {
    if unread.iter().all(|byte| b"\r\n".contains(byte)) {
        Place::Kept
    } else {
        Place::Pipelined
    }
}

/// Closes a connection, without waiting for a sender that does not read what is left to be written.
async fn close(mut session: PlainSession) {
    let _ = timeout(CLOSE_TIMEOUT, session.shutdown()).await;
}
