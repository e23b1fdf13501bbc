//! One attempt at delivering a request to its upstream, within a deadline.
//!
//! Owns the connections and the three ends of an attempt: answered, never reached, or unknown.
//! Their consequences for the ledger and the sender are decided by `gateway`.

mod allowed;
mod resolve;
mod target;
mod trust;
mod upload;

use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
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

pub(crate) use allowed::{AllowedUpstream, check_url};
pub(crate) use target::Target;
pub(crate) use trust::TrustedCa;

use crate::backoff::AttemptFailure;
use crate::delivery::OutboundRequest;
use crate::metrics::UpstreamResult;
use crate::store::AttemptRecord;
use resolve::Addresses;
use upload::Upload;

/// The time for which an idle connection is kept in the pool. It is below the shortest time-out in
/// common use (Node.js closes after 5 s), so that a pooled connection is seldom one that the
/// upstream has just closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The largest response body that is forwarded, in bytes. Responses to webhooks are short, and
/// senders do not read more than this.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;

/// The number of informational (1xx) responses that are skipped before the final one.
const INFORMATIONAL_MAX: usize = 16;

/// The pause before a second try to connect to a sole address after the first one failed.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// The upstream of a route: its location, and its addresses as last resolved.
pub struct Upstream {
    target: Target,
    /// The route's own headers, which replace the sender's.
    headers: Vec<(HeaderName, HeaderValue)>,
    addresses: Addresses,
}

/// The connections to all upstreams.
pub struct Client {
    connector: TransportConnector,
}

/// The end of an attempt, with its duration.
pub struct AttemptReport {
    pub end: AttemptEnd,
    pub duration: Duration,
}

/// The end of an attempt, as far as the gateway knows it.
#[derive(Debug)]
pub enum AttemptEnd {
    /// A whole response arrived.
    Answered(Response),
    /// Nothing was sent: the event was certainly not processed.
    NotReached(UpstreamError),
    /// The request was sent, at least in part, and no whole response arrived: the event may have
    /// been processed.
    Unknown(UpstreamError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// The deadline passed.
    TimedOut,
    /// The name could not be resolved, or no address could be connected to.
    Unreachable,
    /// The connection failed, or the response is not HTTP.
    Broken,
}

impl AttemptReport {
    /// Returns the result as the metrics count it.
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

    /// Returns the record of this attempt, which began at `at`.
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

/// An upstream's response.
#[derive(Debug)]
pub struct Response {
    pub head: Box<ResponseHeader>,
    pub body: Bytes,
    /// `true` if the body was larger than 1 MiB and is therefore left empty.
    pub truncated: bool,
}

impl Upstream {
    /// Creates an upstream. `headers` are set on every request and replace the sender's.
    pub fn new(target: Target, headers: Vec<(HeaderName, HeaderValue)>) -> Self {
        Self {
            addresses: Addresses::new(&target),
            target,
            headers,
        }
    }

    /// Forbids connections to link-local addresses and to the metadata addresses of clouds, even if
    /// the name resolves to them.
    pub fn forbid_internal_addresses(&mut self) {
        self.addresses.forbid_internal_addresses();
    }

    /// Returns the upstream's URL, for people.
    pub fn url(&self) -> String {
        self.target.url()
    }
}

impl Response {
    pub fn status(&self) -> StatusCode {
        self.head.status
    }

    /// Returns the failure that this response means, with its `Retry-After` counted from `now`.
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

/// An attempt that is connected to its upstream and has sent nothing yet.
pub struct Connected<'a> {
    client: &'a Client,
    upstream: &'a Upstream,
    connection: Connection,
    started: Instant,
}

/// An open connection.
struct Connection {
    /// Boxed, because it is big and would be copied into every future on the way.
    peer: Box<HttpPeer>,
    stream: Stream,
    /// `true` if it came from the pool.
    reused: bool,
}

/// The use of the pool for a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pool {
    Use,
    Avoid,
}

/// The reason why an exchange brought no whole response.
enum ExchangeError {
    /// A pooled connection turned out to be closed before a byte of the response arrived.
    Stale,
    Other,
}

impl Client {
    /// Connects to the upstream, by `deadline`. Nothing is sent yet, so a failure means that the
    /// attempt never reached it.
    ///
    /// # Errors
    /// The report of the attempt, which is over.
    pub async fn connect<'a>(
        &'a self,
        upstream: &'a Upstream,
        deadline: Instant,
    ) -> Result<Connected<'a>, AttemptReport> {
        let started = Instant::now();
        let failure = match timeout_at(deadline.into(), pin!(self.open(upstream, Pool::Use))).await
        {
            Ok(Ok(connection)) => {
                return Ok(Connected {
                    client: self,
                    upstream,
                    connection,
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

    /// Opens a connection, pooled or new, to one of the upstream's addresses. A failed connect has
    /// sent nothing, so the next address is tried, and a sole address once more.
    async fn open(&self, upstream: &Upstream, pool: Pool) -> Result<Connection, UpstreamError> {
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
                    return Ok(Connection {
                        peer,
                        stream,
                        reused,
                    });
                }
                Err(error) => {
                    tracing::debug!(
                        upstream = %upstream.target.authority,
                        %error,
                        "connect to upstream failed"
                    );
                }
            }
        }
        upstream.addresses.forget();
        Err(UpstreamError::Unreachable)
    }

    /// Sends a request and reads the response.
    ///
    /// Pingora's session only reads. For writing it would need the headers as a map, and it would
    /// flush the head before it takes the body.
    ///
    /// An upstream may answer before it has the whole request. Then the rest is written while the
    /// response is read. A response other than 2xx ends the exchange at once, because that upstream
    /// may never read the rest. After 2xx the rest is written first, because it may still.
    async fn send(
        &self,
        connection: Connection,
        head: Vec<u8>,
        body: &Bytes,
        on_sent: impl FnOnce(),
    ) -> Result<Response, ExchangeError> {
        let Connection {
            peer,
            stream,
            reused,
        } = connection;
        let (stream, is_sent) = Upload::new(stream, head, body.clone()).run().await;
        on_sent();
        // An upstream may respond and close without having read the body, so a failed write does
        // not end the exchange.
        let mut http = HttpSession::new_with_options(stream, &*peer);
        let mut informational = 0;
        match read_head(&mut http, &mut informational).await {
            Ok(()) => {}
            Err(error) if reused && informational == 0 && is_before_first_byte(&error) => {
                return Err(ExchangeError::Stale);
            }
            Err(error) => {
                tracing::debug!(%error, "no response from the upstream");
                return Err(ExchangeError::Other);
            }
        }
        let response = read_response(&mut http).await?;
        if !is_sent {
            if response.status().is_success() {
                let _ = http.into_inner().flush().await;
            }
        } else if http.is_body_done() {
            http.respect_keepalive();
            if let Some(stream) = http.reuse().await {
                self.connector
                    .release_stream(stream, peer.reuse_hash(), Some(IDLE_TIMEOUT));
            }
        }
        Ok(response)
    }
}

impl Connected<'_> {
    /// Delivers `request` in one attempt that ends by `deadline`. `attempt` is its number, which
    /// the upstream sees. `on_sent` is called when the request is written, or writing it failed.
    ///
    /// The request is sent twice in one case only: a pooled connection turned out to be closed
    /// before any byte of the response. That does not prove that nothing arrived, so the second
    /// request is marked as a possible duplicate.
    pub async fn deliver(
        self,
        request: &OutboundRequest,
        attempt: u32,
        possible_duplicate: bool,
        deadline: Instant,
        on_sent: impl FnOnce(),
    ) -> AttemptReport {
        let started = self.started;
        let exchange = pin!(self.exchange(request, attempt, possible_duplicate, on_sent));
        let end = match timeout_at(deadline.into(), exchange).await {
            Ok(Ok(response)) => AttemptEnd::Answered(response),
            Ok(Err(failure)) => AttemptEnd::Unknown(failure),
            // Dropping the exchange closes its connection.
            Err(_) => AttemptEnd::Unknown(UpstreamError::TimedOut),
        };
        AttemptReport {
            end,
            duration: started.elapsed(),
        }
    }

    async fn exchange(
        self,
        request: &OutboundRequest,
        attempt: u32,
        possible_duplicate: bool,
        on_sent: impl FnOnce(),
    ) -> Result<Response, UpstreamError> {
        let Self {
            client,
            upstream,
            connection,
            ..
        } = self;
        let Upstream {
            target, headers, ..
        } = upstream;
        let head = |possible_duplicate| {
            request.render_head(
                &target.path_and_query,
                &target.authority,
                headers,
                attempt,
                possible_duplicate,
            )
        };
        match client
            .send(
                connection,
                head(possible_duplicate),
                request.body(),
                on_sent,
            )
            .await
        {
            Ok(response) => return Ok(response),
            Err(ExchangeError::Other) => return Err(UpstreamError::Broken),
            Err(ExchangeError::Stale) => {}
        }
        // A new connection cannot be stale.
        let connection = client.open(upstream, Pool::Avoid).await?;
        client
            .send(connection, head(true), request.body(), || ())
            .await
            .map_err(|_| UpstreamError::Broken)
    }
}

/// Reads heads up to the first one that is not informational.
async fn read_head(
    session: &mut HttpSession,
    informational: &mut usize,
) -> Result<(), Box<PingoraError>> {
    while *informational < INFORMATIONAL_MAX {
        session.read_response().await?;
        let status = session.resp_header().map(|head| head.status);
        // 101 ends a request too: the gateway never asks for another protocol.
        if status.is_none_or(|status| {
            !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS
        }) {
            return Ok(());
        }
        *informational += 1;
    }
    PingoraError::e_explain(
        pingora_core::ErrorType::InvalidHTTPHeader,
        "too many informational responses",
    )
}

/// Returns whether a connection failed before the first byte of a response. Pingora reports the
/// number of bytes only in the error's text.
fn is_before_first_byte(error: &PingoraError) -> bool {
    error
        .context
        .as_ref()
        .is_some_and(|context| context.as_str().ends_with("already read: 0"))
}

/// Reads the response behind its head. A 2xx counts only if it is whole, so its body is read to the
/// end even if it is too large to be kept; any other status says enough.
async fn read_response(session: &mut HttpSession) -> Result<Response, ExchangeError> {
    let head = Box::new(session.resp_header().ok_or(ExchangeError::Other)?.clone());
    let mut body = BytesMut::new();
    let mut truncated = false;
    // Behind 101 there is no body but another protocol, which the gateway has not asked for.
    while head.status != StatusCode::SWITCHING_PROTOCOLS
        && let Some(chunk) = session
            .read_body_ref()
            .await
            .map_err(|_| ExchangeError::Other)?
    {
        truncated |= body.len() + chunk.len() > RESPONSE_BYTES_MAX;
        if !truncated {
            body.extend_from_slice(chunk);
        } else if head.status.is_success() {
            body = BytesMut::new();
        } else {
            break;
        }
    }
    let body = if truncated {
        Bytes::new()
    } else {
        body.freeze()
    };
    Ok(Response {
        head,
        body,
        truncated,
    })
}

fn peer(target: &Target, address: std::net::SocketAddr) -> HttpPeer {
    // Takes an address: Pingora would resolve a name on this thread, and panic if that fails.
    let mut peer = HttpPeer::new(address, target.tls, target.host.to_string());
    peer.options.connection_timeout = target.connect_timeout;
    peer.options.total_connection_timeout = target.connect_timeout;
    if let Some(ca) = &target.ca {
        peer.options.ca = Some(ca.certificates());
        peer.group_key = ca.fingerprint();
    }
    peer
}

/// Parses `Retry-After`: seconds, or a date (RFC 9110 §10.2.3). A date in the past means no pause.
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
    fn retry_after_is_seconds_or_a_date() {
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
