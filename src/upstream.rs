//! One attempt at handing a delivery to its upstream, inside a deadline.
//!
//! Owns the connections and what is known of an attempt's end: answered, never reached, or unknown. What that means
//! for the ledger and for the sender is decided by `gateway`.

mod allowed;
mod resolve;
mod target;
mod trust;

use std::io;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use pingora_core::Error as PingoraError;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::v1::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer as _};
use pingora_http::ResponseHeader;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout_at;

pub use allowed::{AllowedUpstream, PatternError, check_url};
pub use target::{Target, UrlError};
pub use trust::TrustedCa;

use crate::backoff::AttemptFailure;
use crate::delivery::OutboundRequest;
use crate::metrics::UpstreamResult;
use crate::store::AttemptRecord;
use resolve::Addresses;

/// How long an idle connection is kept. Below the shortest time-out in common use (Node.js closes after 5 s), so that
/// a kept connection is seldom one that the upstream has just closed.
const KEPT_IDLE: Duration = Duration::from_secs(4);

/// The largest answer that is passed on. Webhook answers are short; more than this is read by nobody.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// Informational (1xx) answers that are skipped before the final one.
const INFORMATIONAL_MAX: usize = 16;

/// The pause before a second try to connect to a sole address that refused the first.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// An upstream of a route: where it is, and what is known of its addresses.
pub struct Upstream {
    target: Target,
    /// The route's own, set over what the sender sent.
    headers: Vec<(HeaderName, HeaderValue)>,
    addresses: Addresses,
}

/// The connections to all upstreams.
pub struct Client {
    connector: TransportConnector,
}

/// How an attempt ended.
pub struct AttemptReport {
    pub end: AttemptEnd,
    pub duration: Duration,
}

/// What is known at the end of an attempt.
#[derive(Debug)]
pub enum AttemptEnd {
    /// A whole answer came.
    Answered(Response),
    /// Nothing was sent: the event was certainly not processed.
    NotReached(UpstreamError),
    /// The request was sent, at least in part, and no whole answer came: the event may have been processed.
    Unknown(UpstreamError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// The deadline came first.
    TimedOut,
    /// The name could not be resolved, or no address could be connected to.
    Unreachable,
    /// The connection failed, or what came back is not HTTP.
    Broken,
}

impl AttemptReport {
    /// What is counted of it.
    pub fn metric_result(&self) -> UpstreamResult {
        match &self.end {
            AttemptEnd::Answered(response) => match response.status().as_u16() {
                200..300 => UpstreamResult::Success,
                400..500 => UpstreamResult::ClientError,
                500.. => UpstreamResult::ServerError,
                _ => UpstreamResult::Redirection,
            },
            AttemptEnd::NotReached(UpstreamError::TimedOut)
            | AttemptEnd::Unknown(UpstreamError::TimedOut) => UpstreamResult::Timeout,
            AttemptEnd::NotReached(_) => UpstreamResult::ConnectError,
            AttemptEnd::Unknown(_) => UpstreamResult::Broken,
        }
    }

    /// What is kept of it. It began at `at`.
    pub fn to_record(&self, at: Timestamp) -> AttemptRecord {
        let (status, error) = match &self.end {
            AttemptEnd::Answered(response) => (Some(response.status().as_u16()), None),
            AttemptEnd::NotReached(UpstreamError::TimedOut) => {
                (None, Some("no connection in time"))
            }
            AttemptEnd::NotReached(_) => (None, Some("could not connect")),
            AttemptEnd::Unknown(UpstreamError::TimedOut) => (None, Some("no answer in time")),
            AttemptEnd::Unknown(_) => (
                None,
                Some("the connection broke before the answer was whole"),
            ),
        };
        let ms = u64::try_from(self.duration.as_millis()).unwrap_or(u64::MAX);
        AttemptRecord {
            at,
            ms,
            status,
            error: error.map(Into::into),
        }
    }
}

/// An upstream's answer.
#[derive(Debug)]
pub struct Response {
    pub head: Box<ResponseHeader>,
    pub body: Bytes,
    /// The body was larger than is passed on, and left out.
    pub truncated: bool,
}

impl Upstream {
    /// `headers` are set on every request, over what the sender sent.
    pub fn new(target: Target, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self {
            addresses: Addresses::new(&target),
            target,
            headers,
        }
    }

    /// From now on link-local and clouds' metadata addresses are not connected to, whatever the name stands for.
    pub fn forbid_internal_addresses(&mut self) {
        self.addresses.forbid_internal_addresses();
    }

    /// Where it is, for people.
    pub fn url(&self) -> String {
        self.target.url()
    }
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// What it says to one who would try again, `now` being the time.
    pub fn to_failure(&self, now: Timestamp) -> AttemptFailure {
        let retry_after = self
            .head
            .headers
            .get(header::RETRY_AFTER)
            .and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| parse_retry_after(text, now));
        AttemptFailure::Status {
            status: self.status().as_u16(),
            retry_after,
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self {
            connector: TransportConnector::new(None),
        }
    }
}

/// A connection to an upstream, over which nothing was sent yet.
pub struct Connected<'a> {
    client: &'a Client,
    upstream: &'a Upstream,
    link: Link,
    started: Instant,
}

/// An open connection.
struct Link {
    /// Boxed: it is big, and would be copied into every future on the way.
    peer: Box<HttpPeer>,
    stream: Stream,
    /// It came from the pool.
    reused: bool,
}

/// Whether a connection may come from the pool.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    Use,
    Avoid,
}

/// An exchange that did not bring a whole answer.
enum ExchangeError {
    /// A pooled connection proved dead before a byte of an answer came.
    Stale,
    Other,
}

impl Client {
    /// Connects to the upstream, by `deadline`. Nothing is sent yet, so a failure is an attempt that never reached it.
    ///
    /// # Errors
    /// The attempt, ended.
    pub async fn connect<'a>(
        &'a self,
        upstream: &'a Upstream,
        deadline: Instant,
    ) -> Result<Connected<'a>, AttemptReport> {
        let started = Instant::now();
        let failure = match timeout_at(deadline.into(), pin!(self.link(upstream, Pool::Use))).await
        {
            Ok(Ok(link)) => {
                return Ok(Connected {
                    client: self,
                    upstream,
                    link,
                    started,
                });
            }
            Ok(Err(failure)) => failure,
            Err(_) => UpstreamError::TimedOut,
        };
        Err(AttemptReport {
            end: AttemptEnd::NotReached(failure),
            duration: started.elapsed(),
        })
    }

    /// A connection, pooled or new, to one of the upstream's addresses. A failed connect has sent nothing, so the next
    /// address is tried, and a sole address once more.
    async fn link(&self, upstream: &Upstream, pool: Pool) -> Result<Link, UpstreamError> {
        let addresses = upstream
            .addresses
            .get()
            .await
            .ok_or(UpstreamError::Unreachable)?;
        let sole = addresses.len() == 1;
        let twice = addresses.iter().chain(addresses.iter().filter(|_| sole));
        for (number, address) in twice.enumerate() {
            if sole && number > 0 {
                tokio::time::sleep(RECONNECT_AFTER).await;
            }
            let peer = Box::new(peer(&upstream.target, *address));
            let connected = match pool {
                Pool::Use => self.connector.get_stream(&*peer).await,
                Pool::Avoid => self
                    .connector
                    .new_stream(&*peer)
                    .await
                    .map(|stream| (stream, false)),
            };
            match connected {
                Ok((stream, reused)) => {
                    return Ok(Link {
                        peer,
                        stream,
                        reused,
                    });
                }
                Err(error) => {
                    tracing::debug!(upstream = %upstream.target.authority, %error, "connect failed")
                }
            }
        }
        upstream.addresses.forget();
        Err(UpstreamError::Unreachable)
    }

    /// Sends a request and reads the answer.
    ///
    /// Pingora's session reads only: it would write the head by itself, flushed, before it is given the body, and what
    /// it writes it wants as a map of headers.
    async fn send(
        &self,
        link: Link,
        head: Vec<u8>,
        body: &Bytes,
        sent: impl FnOnce(),
    ) -> Result<Response, ExchangeError> {
        let Link {
            peer,
            mut stream,
            reused,
        } = link;
        let written = write(&mut stream, &head, body).await;
        drop(head);
        sent();
        // An upstream may answer and close without having read the body, so a failed write is no end yet.
        let mut http = HttpSession::new_with_options(stream, &*peer);
        let mut informational = 0;
        match read_head(&mut http, &mut informational).await {
            Ok(()) => {}
            Err(error) if reused && informational == 0 && nothing_came(&error) => {
                return Err(ExchangeError::Stale);
            }
            Err(error) => {
                tracing::debug!(%error, "no answer from the upstream");
                return Err(ExchangeError::Other);
            }
        }
        let response = read_response(&mut http).await?;
        if written.is_ok() && !response.truncated {
            http.respect_keepalive();
            if let Some(stream) = http.reuse().await {
                self.connector
                    .release_stream(stream, peer.reuse_hash(), Some(KEPT_IDLE));
            }
        }
        Ok(response)
    }
}

impl Connected<'_> {
    /// Hands `delivery` over once, ending by `deadline`. `number` is the attempt's, for the upstream to see; `sent` is
    /// called when the request is written, or could not be.
    ///
    /// The event is sent twice in one case only: a pooled connection proved dead before any answer byte, which does
    /// not prove that nothing arrived. The second sending is marked as a possible duplicate.
    pub async fn deliver(
        self,
        delivery: &OutboundRequest,
        number: u32,
        possible_duplicate: bool,
        deadline: Instant,
        sent: impl FnOnce(),
    ) -> AttemptReport {
        let started = self.started;
        let exchange = pin!(self.exchange(delivery, number, possible_duplicate, sent));
        let end = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(response)) => AttemptEnd::Answered(response),
            Ok(Err(failure)) => AttemptEnd::Unknown(failure),
            // The exchange is not gone on with, and its connection goes with it.
            Err(_) => AttemptEnd::Unknown(UpstreamError::TimedOut),
        };
        AttemptReport {
            end,
            duration: started.elapsed(),
        }
    }

    async fn exchange(
        self,
        delivery: &OutboundRequest,
        number: u32,
        possible_duplicate: bool,
        sent: impl FnOnce(),
    ) -> Result<Response, UpstreamError> {
        let Self {
            client,
            upstream,
            link,
            ..
        } = self;
        let Upstream {
            target, headers, ..
        } = upstream;
        let head = |possible_duplicate| {
            delivery.render_head(
                &target.path_and_query,
                &target.authority,
                headers,
                number,
                possible_duplicate,
            )
        };
        match client
            .send(link, head(possible_duplicate), delivery.body(), sent)
            .await
        {
            Ok(response) => return Ok(response),
            Err(ExchangeError::Other) => return Err(UpstreamError::Broken),
            Err(ExchangeError::Stale) => {}
        }
        // New, so it can't be stale.
        let link = client.link(upstream, Pool::Avoid).await?;
        let again = client.send(link, head(true), delivery.body(), || ()).await;
        again.map_err(|_| UpstreamError::Broken)
    }
}

/// Head and body in one piece, where the connection can take them so.
async fn write(stream: &mut Stream, head: &[u8], body: &[u8]) -> io::Result<()> {
    stream.write_all_buf(&mut head.chain(body)).await?;
    stream.flush().await
}

/// Reads heads up to the first that is no informational one.
async fn read_head(
    session: &mut HttpSession,
    informational: &mut usize,
) -> Result<(), Box<PingoraError>> {
    while *informational < INFORMATIONAL_MAX {
        session.read_response().await?;
        let status = session.resp_header().map(|head| head.status);
        // 101 ends a request too: we never ask for another protocol.
        if status.is_none_or(|status| {
            !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
        }) {
            return Ok(());
        }
        *informational += 1;
    }
    PingoraError::e_explain(
        pingora_core::ErrorType::InvalidHTTPHeader,
        "informational answers without end",
    )
}

/// Whether a connection failed before a byte of an answer. Pingora tells how many came in words only.
fn nothing_came(error: &PingoraError) -> bool {
    let words = error.context.as_ref().map(|context| context.as_str());
    words.is_some_and(|words| words.ends_with("already read: 0"))
}

async fn read_response(session: &mut HttpSession) -> Result<Response, ExchangeError> {
    let head = Box::new(session.resp_header().ok_or(ExchangeError::Other)?.clone());
    let mut body = BytesMut::new();
    while let Some(chunk) = session
        .read_body_bytes()
        .await
        .map_err(|_| ExchangeError::Other)?
    {
        if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
            return Ok(Response {
                head,
                body: Bytes::new(),
                truncated: true,
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response {
        head,
        body: body.freeze(),
        truncated: false,
    })
}

fn peer(target: &Target, address: std::net::SocketAddr) -> HttpPeer {
    // Pingora takes an address, not a name: a name would be resolved on this thread, and a failure be a panic.
    let mut peer = HttpPeer::new(address, target.tls, target.host.to_string());
    peer.options.connection_timeout = target.connect_timeout;
    peer.options.total_connection_timeout = target.connect_timeout;
    if let Some(ca) = &target.ca {
        peer.options.ca = Some(ca.certificates());
        peer.group_key = ca.fingerprint();
    }
    peer
}

/// Seconds, or a date (RFC 9110 §10.2.3). A date in the past asks for no pause.
fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let at = rfc2822::parse(text).ok()?.timestamp();
    Some(Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        let parse = |text| parse_retry_after(text, now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse(" 0 "), Some(Duration::ZERO));
        assert_eq!(
            parse("99999999999999999999999"),
            Some(Duration::from_secs(u64::MAX))
        );
        assert_eq!(
            parse("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some(Duration::from_secs(37))
        );
        assert_eq!(parse("Sun, 06 Nov 1994 08:00:00 GMT"), Some(Duration::ZERO));
        for wrong in ["", "soon", "-1", "1.5", "1 s"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
